"""The chain machine: one replica of the control store (van Renesse and Schneider, OSDI 2004).  Pure.

    message, sender                 at the head             in the middle           at the tail
    GcsRequest update, client       apply, send down        redirect                redirect (unless also head)
    GcsRequest read, client         redirect                redirect                answer, under the lease
    GcsWatch, client                redirect                redirect                stream of changes
    ChainUpdates, predecessor       -                       apply, send down        apply, reply, publish
      then after ACK_S, or CHAIN_WINDOW/4 -                       ack                     ack
    ChainAck, successor             commit, forget sent     commit, pass up         progress of the joining replica
    ChainSnapshot, predecessor      -                       a replica that has not caught up: collect, restore
    reconfigure, the decider        another epoch: new neighbours, old messages void

The paper assumes fail-stop servers, reliable FIFO links and a master.  Here messages may be lost, repeated and
reordered, and a server taken for dead may be alive, so:

* every chain message carries the epoch, and all epochs but the current one are void;
* acknowledgements are cumulative and updates are numbered without gaps: repeats are harmless, a gap is not applied;
  ``tick`` sends again what is not acknowledged.  No answer to a client waits for an acknowledgement, so
  acknowledgements may gather;
* ``established`` is true of a replica that is known to hold every acknowledged write.  Only an established tail
  answers clients, and a replica that is not established never feeds its successor;
* a tail reads under a lease (``grant_lease``).  The decider lets it run out before it removes a tail that may live.
  ``read_at`` is the time of the last read or attempt: a lease that no client uses need not be renewed.

Invariants (3.2 in the paper), checked between replicas by the tests:
    Update Propagation    the history of a successor is a prefix of its predecessor's
    Inprocess Requests    history of i = history of its successor, then Sent of i
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from zray.base.named_tuples import NamedTuple
from zray.gcs.configuration.config import ChainConfig
from zray.gcs.replica import dedupe
from zray.gcs.replica.changes import Publisher
from zray.gcs.replica.state import CorruptSnapshot, ReplicatedState, Update
from zray.gcs.replica.tables import BAD_REQUEST, EXPIRED, READS, refusal
from zray.wire.messages import (
    ChainAck,
    ChainFetch,
    ChainSnapshot,
    ChainUpdates,
    GcsRedirect,
    GcsReply,
    GcsRequest,
    GcsUnwatch,
    GcsWatch,
)

# Ask or send again after this long: a few round trips under load, and well under a second for a reconfiguration.
CHAIN_RESEND_S = 0.05
# A tail acknowledges this long after an update, the others a little later: the tail's ack normally replaces theirs.
# One acknowledgement an update would be half of all messages of a write, and of the wake-ups.
ACK_S = 0.04
ACK_PASSED_ON_S = 0.05
# Updates a successor may have unacknowledged before its predecessor pauses.
CHAIN_WINDOW = 1024
# Updates in progress in a chain before the head leaves requests to be retried.
SENT_MAX = 16_384
# Messages that came too early for a replica, at most; those beyond are asked for again after a while.
CHAIN_EARLY_MAX = 1024
# A tail that no client has read from for this long lets its lease run out.  The next read then costs one more round
# trip to the voters.  Else a cluster at rest would pay most of its messages for leases; busy clients read more often.
LEASE_UNUSED_S = 0.3
SNAPSHOT_CHUNK_BYTES = 1024 * 1024
SNAPSHOT_CHUNKS_MAX = 4096

Out = list[tuple[bytes, Any]]
_BETWEEN_REPLICAS = (ChainUpdates, ChainAck, ChainSnapshot, ChainFetch)


class UnsafeConfig(ValueError):
    """A configuration that would make head a replica that may lack acknowledged writes."""


class _Follower:
    """The successor (or joining replica) as this replica knows it in this epoch."""

    __slots__ = ("name", "progress_at", "received", "sent", "snapshot", "snapshot_sequence")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.received: int | None = None  # None: no message from it in this epoch yet
        self.sent = 0
        self.progress_at = 0.0
        self.snapshot: list[bytes] = []
        self.snapshot_sequence = 0


class _Collected(NamedTuple):
    """Parts of a snapshot received so far, in order."""

    sequence: int
    parts: int
    chunks: list[bytes]


class ChainReplica:
    """One member, joining replica or spare of a chain.  Methods return ``[(peer, message), ...]`` to be sent."""

    def __init__(self, me: bytes, config: ChainConfig, state: ReplicatedState | None = None, shard: int = 0) -> None:
        """A replica that starts as a member counts as complete: give all members the same ``state``.

        A replica that comes later starts outside ``config.members`` and catches up.
        """
        self.me = me
        self.shard = shard
        self.config = config
        self.state = state or ReplicatedState()
        self.established = me in config.members
        self.committed = self.state.sequence
        self.lease_until = math.inf
        self.read_at = -math.inf
        self.acknowledge_at = math.inf  # acknowledgement owed to the predecessor
        self._acknowledged = 0
        self.counters: Counter[str] = Counter()
        self.publisher = Publisher(shard)
        self.journal: Callable[[int, Update], None] | None = None  # called with every update that is applied
        self.refusing = ""  # why this replica must take no updates, as head
        self._sent: deque[Update] = deque()  # Sent of the paper: updates (sent_base, applied]
        self._sent_base = self.state.sequence
        self._follower: _Follower | None = None
        self._collected: _Collected | None = None
        self._heard = False  # the predecessor has answered in this epoch
        self._asked_at = -math.inf
        # Messages that overtook a configuration or a lease: kept, for asking again would take 50 ms and more.
        self._early: deque[tuple[bytes, Any]] = deque(maxlen=CHAIN_EARLY_MAX)
        self._take_place()
        self._handlers: dict[type, Callable[[bytes, Any, float], Out]] = {
            GcsRequest: self._on_request, GcsWatch: self._on_watch, GcsUnwatch: self._on_unwatch,
            ChainUpdates: self._on_updates, ChainAck: self._on_ack,
            ChainSnapshot: self._on_snapshot, ChainFetch: self._on_fetch,
        }

    # ------------------------------------------------------------ what others may ask

    @property
    def applied(self) -> int:
        return self.state.sequence

    @property
    def serving(self) -> bool:
        """Whether this is a tail that may answer."""
        return self.is_tail and self.established

    def wants_lease(self, now: float) -> bool:
        """Whether an answer to a client waits only for a lease."""
        return self.serving and now >= self.lease_until and now - self.read_at < LEASE_UNUSED_S

    def joiner_caught_up(self) -> bool:
        """At the tail: the joining replica holds everything, so the decider may promote it."""
        if not self.config.joining:
            return False
        follower = self._follower
        return self.serving and follower is not None and follower.received == self.applied

    def on_message(self, peer: bytes, message: Any, now: float) -> Out:
        """Handle one message of a client or another replica."""
        handler = self._handlers.get(type(message))
        if handler is None:
            self.counters["unknown"] += 1
            return []
        if isinstance(message, _BETWEEN_REPLICAS) and message.epoch > self.config.epoch:
            self._early.append((peer, message))
            return []
        return handler(peer, message, now)

    def tick(self, now: float) -> Out:
        """Call every few tens of milliseconds (or not at all in a chain of one)."""
        out: Out = []
        self.publisher.expire(now)
        if now >= self.acknowledge_at:
            out += self._acknowledge()
        if self._predecessor and (not self._heard or not self._is_current()) and now - self._asked_at >= CHAIN_RESEND_S:
            out += self._ask(now)
        follower = self._follower
        resend_s = CHAIN_RESEND_S + ACK_S
        if follower is not None and follower.received is not None and now - follower.progress_at >= resend_s:
            if follower.received < self.applied or (self.config.joining != follower.name
                                                    and self.committed < self.applied):
                follower.sent = follower.received
                follower.progress_at = now
                out += self._feed(now, even_empty=True)
        return out

    def restless(self) -> bool:
        """Whether :meth:`tick` may have something to send again."""
        if self._predecessor and (not self._heard or not self._is_current()):
            return True
        follower = self._follower
        return follower is not None and follower.received is not None and (
            follower.received < self.applied or (self.config.joining != follower.name
                                                 and self.committed < self.applied))

    def grant_lease(self, epoch: int, until: float) -> None:
        """The decider lets the tail of ``epoch`` answer reads before ``until`` (on this replica's clock)."""
        if epoch == self.config.epoch:
            self.lease_until = until

    def replay(self, now: float) -> Out:
        """Handle the messages that came too early: call when a lease has been granted."""
        early = list(self._early)
        self._early.clear()
        return [answer for peer, message in early for answer in self.on_message(peer, message, now)]

    def reconfigure(self, config: ChainConfig, now: float) -> Out:
        """Adopt a later configuration; earlier ones are ignored.  Raises UnsafeConfig and stays as it is."""
        if config.epoch <= self.config.epoch:
            return []
        since = config.since_of(self.me)
        continues = since > 0 and self.config.since_of(self.me) > 0 and since <= self.config.epoch
        if config.head == self.me and not (continues and self.established):
            raise UnsafeConfig(f"{self.me.hex()} may lack acknowledged writes and cannot be the head")
        was_serving = self.serving
        self.config = config
        if since and not continues:
            self._wipe()  # this replica may hold a branch that was cut off, with other updates under the same numbers
        self._take_place()
        out: Out = []
        if not self.serving:
            out += [redirect for client in self.publisher.clear() for redirect in self._redirect(client, 0)]
        elif not was_serving:
            out += self._commit_all()
        self._trim()
        if self._predecessor:
            out += self._ask(now)
        return out + self.replay(now)

    def forget_client(self, client: bytes) -> None:
        """A client process is gone: drop its watches (its session goes by the FORGET update)."""
        self.publisher.forget(client)

    # ------------------------------------------------------------ clients

    def _on_request(self, peer: bytes, request: GcsRequest, now: float) -> Out:
        error = refusal(request.op)
        if error:
            self.counters["refused"] += 1
            return [(peer, GcsReply(request.number, error, None, self.shard))]
        if request.op[0] in READS:
            return self._on_read(peer, request, now)
        if not self.is_head:
            return self._redirect(peer, request.number)
        if not 1 <= request.acked <= request.number:
            self.counters["refused"] += 1
            return [(peer, GcsReply(request.number, f"{BAD_REQUEST}: wrong request numbers", None, self.shard))]
        return self._on_update_request(peer, request, now)

    def _on_read(self, peer: bytes, request: GcsRequest, now: float) -> Out:
        if not self.is_tail:
            return self._redirect(peer, request.number)
        self.read_at = now
        if not self.established or now >= self.lease_until:
            return self._too_early(peer, request)  # an answer now could be stale
        return [(peer, GcsReply(request.number, "", self.state.tables.read(request.op), self.shard))]

    def _on_update_request(self, peer: bytes, request: GcsRequest, now: float) -> Out:
        verdict = self.state.classify(peer, request.number, request.acked)
        if verdict == dedupe.KNOWN:
            sequence, error, result = self.state.clients.answer(peer, request.number)
            if sequence <= self.committed:
                return [(peer, GcsReply(request.number, error, result, self.shard))]
            return []  # in flight: the tail answers
        if verdict == dedupe.GONE:
            return [(peer, GcsReply(request.number, f"{EXPIRED}: this client was forgotten, its earlier requests "
                                                    "may have been applied", None, self.shard))]
        if self.refusing:
            alone = len(self.config.members) == 1  # else the chain goes on without this replica in a moment
            return [(peer, GcsReply(request.number, self.refusing, None, self.shard))] if alone else []
        if verdict != dedupe.NEW or self.applied - self.committed >= SENT_MAX:
            self.counters[verdict if verdict != dedupe.NEW else "busy"] += 1
            return []
        return self._append(Update(peer, request.number, request.acked, request.op), now) + self._feed(now)

    def _on_watch(self, peer: bytes, message: GcsWatch, now: float) -> Out:
        if not self.is_tail:
            return self._redirect(peer, 0)
        self.read_at = now
        if not self.established or now >= self.lease_until:
            return self._too_early(peer, message)
        if self.publisher.acknowledge(peer, message.watch, message.seen, now):
            return []
        return list(self.publisher.watch(peer, message.watch, message.prefix, message.seen, now,
                                         self.state.tables, self.state.changes, self.applied))

    def _on_unwatch(self, peer: bytes, message: GcsUnwatch, now: float) -> Out:
        self.publisher.unwatch(peer, message.watch)
        return []

    def _too_early(self, peer: bytes, message: Any) -> Out:
        self.counters["unready"] += 1
        self._early.append((peer, message))
        return []

    def _redirect(self, peer: bytes, number: int) -> Out:
        return [(peer, GcsRedirect(number, self.config.epoch, list(self.config.members), self.shard))]

    # ------------------------------------------------------------ updates: down the chain

    def _append(self, update: Update, now: float) -> Out:
        """Apply the next update of the history; at a serving tail that also commits it."""
        change = self.state.apply(update)
        applied = self.state.sequence
        if self.journal is not None:
            self.journal(applied, update)
        if self._follower is not None:
            self._sent.append(update)
        elif self.is_tail and not self.established:  # it will have to answer this update once it may
            self._sent.append(update)
            self._bound_joiner_log()
        else:
            self._sent_base = applied
        if not (self.is_tail and self.established):
            return []
        self.committed = applied
        self._bound_joiner_log()
        out = self._reply(update)
        if change is not None:
            out += self.publisher.publish(change)
        return out

    def _reply(self, update: Update) -> Out:
        answer = self.state.answer(update.client, update.number)
        if answer is None:
            return []
        return [(update.client, GcsReply(update.number, answer[1], answer[2], self.shard))]

    def _on_updates(self, peer: bytes, message: ChainUpdates, now: float) -> Out:
        if not self._from(peer, self._predecessor, message.epoch):
            return []
        self._heard = True
        out: Out = []
        skip = self.applied + 1 - message.first
        if skip < 0:
            self.counters["gap"] += 1  # an update before it was lost or overtaken: acknowledge the ones that are here
            return self._acknowledge()
        was_established = self.established
        for entry in message.entries[skip:]:
            update = _parsed(entry)
            if update is None:
                self.counters["malformed"] += 1
                return out
            out += self._append(update, now)
        if not self.established and self.applied >= message.last and self.me in self.config.members:
            self.established = True
            if self.is_tail:
                out += self._commit_all() + self.replay(now)
        out += self._feed(now)
        if message.entries and not skip and was_established and self.applied - self._acknowledged < CHAIN_WINDOW // 4:
            wait_s = ACK_S if self.is_tail else ACK_PASSED_ON_S
            self.acknowledge_at = min(self.acknowledge_at, now + wait_s)
            return out
        return out + self._acknowledge()

    def _feed(self, now: float, even_empty: bool = False) -> Out:
        """Send the follower the updates that it lacks and the window allows."""
        follower = self._follower
        if follower is None or follower.received is None or not self.established:
            return []
        if follower.received < self._sent_base:
            return self._send_chunk(0)
        applied = self.state.sequence
        first = max(follower.sent, follower.received) + 1
        last = min(applied, follower.received + CHAIN_WINDOW)
        if first > last:
            nothing = ChainUpdates(self.config.epoch, first, [], applied, self.shard)
            return [(follower.name, nothing)] if even_empty else []
        if follower.sent <= follower.received:
            follower.progress_at = now
        follower.sent = last
        start = first - self._sent_base - 1
        entries = [list(self._sent[i]) for i in range(start, last - self._sent_base)]
        return [(follower.name, ChainUpdates(self.config.epoch, first, entries, applied, self.shard))]

    def _commit_all(self) -> Out:
        """This replica is now the serving tail: all its updates are committed, so answer those without an answer."""
        fresh = list(self._sent)[max(0, self.committed - self._sent_base):]
        self.committed = self.applied
        out = [reply for update in fresh for reply in self._reply(update)]
        self._trim()
        return out

    # ------------------------------------------------------------ acknowledgements: up the chain

    def _on_ack(self, peer: bytes, message: ChainAck, now: float) -> Out:
        follower = self._follower
        if follower is None or not self._from(peer, follower.name, message.epoch) or not self.established:
            return []
        if message.received > self.applied:
            self.counters["impossible"] += 1
            return []
        if follower.received is None or message.received > follower.received:
            follower.received = message.received
            follower.sent = max(follower.sent, message.received)
            follower.progress_at = now
            if follower.snapshot and message.received >= follower.snapshot_sequence:
                follower.snapshot = []
        before = self.committed
        if not self.is_tail:
            self.committed = max(self.committed, min(message.committed, self.applied))
        self._trim()
        out = self._feed(now, even_empty=message.sync)
        return out + self._acknowledge() if self.committed > before else out

    def _acknowledge(self, sync: bool = False) -> Out:
        self.acknowledge_at = math.inf
        self._acknowledged = self.applied
        if not self._predecessor:
            return []
        return [(self._predecessor, ChainAck(self.config.epoch, self.applied, self.committed, sync, self.shard))]

    def _ask(self, now: float) -> Out:
        """Make the predecessor answer: with updates, with a snapshot, or with an empty message."""
        self._asked_at = now
        if self._collected is not None:
            return [self._next_fetch()]
        return self._acknowledge(sync=True)

    def _trim(self) -> None:
        """Forget sent updates that the tail has processed and the follower has."""
        keep_above = self.applied
        if self._follower is not None:
            received = self._follower.received
            keep_above = self._sent_base if received is None else min(self.committed, received)
        while self._sent_base < keep_above and self._sent:
            self._sent.popleft()
            self._sent_base += 1

    def _bound_joiner_log(self) -> None:
        """A joining replica that lags must not make the tail grow: it will start again from a snapshot."""
        while len(self._sent) > SENT_MAX:
            self._sent.popleft()
            self._sent_base += 1

    # ------------------------------------------------------------ catching up by snapshot

    def _send_chunk(self, index: int) -> Out:
        follower = self._follower
        assert follower is not None
        if not follower.snapshot or follower.snapshot_sequence < self._sent_base:
            index = 0  # none yet, or the updates after it are forgotten: begin a newer one
            raw = self.state.snapshot()
            follower.snapshot = [raw[i:i + SNAPSHOT_CHUNK_BYTES] for i in range(0, len(raw), SNAPSHOT_CHUNK_BYTES)]
            follower.snapshot_sequence = self.applied
        if not 0 <= index < len(follower.snapshot):
            return []
        return [(follower.name, ChainSnapshot(self.config.epoch, follower.snapshot_sequence, index,
                                              len(follower.snapshot), follower.snapshot[index], self.shard))]

    def _on_fetch(self, peer: bytes, message: ChainFetch, now: float) -> Out:
        follower = self._follower
        if follower is None or not self._from(peer, follower.name, message.epoch) or not self.established:
            return []
        follower.progress_at = now
        return self._send_chunk(message.index if message.sequence == follower.snapshot_sequence else 0)

    def _on_snapshot(self, peer: bytes, message: ChainSnapshot, now: float) -> Out:
        if not self._from(peer, self._predecessor, message.epoch):
            return []
        if message.sequence <= self.applied:
            return self._acknowledge()  # the acknowledgement of it was lost
        if self.established or not 0 < message.count <= SNAPSHOT_CHUNKS_MAX:
            return []
        self._heard = True
        collected = self._collected
        if collected is None or message.sequence > collected.sequence:
            collected = self._collected = _Collected(message.sequence, message.count, [])
        if (message.sequence, message.count, message.index) != (*collected[:2], len(collected.chunks)):
            return []  # a repeat, or of an older snapshot
        collected.chunks.append(message.chunk)
        self._asked_at = now
        if len(collected.chunks) < collected.parts:
            return [self._next_fetch()]
        self._collected = None
        return self._restore(b"".join(collected.chunks), message.sequence)

    def _restore(self, raw: bytes, sequence: int) -> Out:
        state = ReplicatedState()
        try:
            state.restore(raw)
        except CorruptSnapshot:
            self.counters["malformed"] += 1
            return []
        if state.sequence != sequence:
            self.counters["malformed"] += 1
            return []
        self.state = state
        self._sent.clear()
        self._sent_base = sequence
        return self._acknowledge(sync=True)

    def _next_fetch(self) -> tuple[bytes, ChainFetch]:
        assert self._collected is not None
        return self._predecessor, ChainFetch(self.config.epoch, self._collected.sequence, len(self._collected.chunks),
                                              self.shard)

    # ------------------------------------------------------------ place in the chain

    def _take_place(self) -> None:
        """Forget the progress of the neighbours of the last epoch; each reports its own in the new one."""
        self.is_head = self.config.head == self.me  # kept here, for a put asks ten times
        self.is_tail = self.config.tail == self.me
        self._predecessor = self.config.predecessor(self.me)
        name = self.config.successor(self.me)
        self._follower = _Follower(name) if name else None
        self._heard = False
        self._collected = None
        self.acknowledge_at = math.inf
        self._acknowledged = self.applied
        self.lease_until = math.inf if self.config.reads_freely else -math.inf  # the decider grants the others

    def _wipe(self) -> None:
        self.state = ReplicatedState()
        self.established = False
        self.committed = 0
        self._sent.clear()
        self._sent_base = 0

    def _is_current(self) -> bool:
        """Nothing more to ask of the predecessor: it sends updates unasked."""
        return self._collected is None and (self.established or self.me == self.config.joining)

    def _from(self, peer: bytes, expected: bytes, epoch: int) -> bool:
        if epoch == self.config.epoch and expected and peer == expected:
            return True
        self.counters["other_epoch" if epoch != self.config.epoch else "stranger"] += 1
        return False

    # ------------------------------------------------------------ invariants

    def check(self) -> None:
        """Raise AssertionError when this replica's own invariants are broken."""
        self.state.check()
        self.publisher.check()
        assert len(self._sent) == self.applied - self._sent_base, "Sent is the end of the history"
        assert self.committed <= self.applied or not self.established
        assert len(self._sent) <= 2 * SENT_MAX + CHAIN_WINDOW
        if self.serving:
            assert self.committed == self.applied, "what the tail has processed is committed"
        else:
            assert not self.publisher.watchers, "only a tail that serves publishes"
        if self._follower is None and self.established:
            assert not self._sent, "for a tail, Sent is empty (paper, 3.2, Extending a Chain)"
        follower = self._follower
        if follower is not None and follower.received is not None:
            assert follower.received <= self.applied and follower.sent <= self.applied
        if self.me in self.config.members and self.is_head:
            assert self.established, "a head holds every acknowledged write"


def _parsed(entry: Any) -> Update | None:
    """An entry of ChainUpdates as an Update; None for a malformed one (from another version, or a hostile peer)."""
    if type(entry) not in (list, tuple) or len(entry) != 4:
        return None
    client, number, acked, op = entry
    if type(client) is not bytes or type(number) is not int or type(acked) is not int:
        return None
    if refusal(op) or op[0] in READS:
        return None
    return Update(client, number, acked, op)


__all__ = ["ChainConfig", "ChainReplica", "UnsafeConfig"]
