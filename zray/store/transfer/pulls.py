"""Bringing objects in: the puller's half of a transfer.  One pull an object, however many processes ask for it here.

    QUEUED    waits for its turn: small objects first, but every fourth is the oldest       PULLS_MAX at once
    ROOM      waits for room in the store, as all requests do
    FETCHING  asks one node for chunks, PULL_WINDOW ahead
    FINDING   has no node left to ask; asks the control store which nodes have copies
    PAUSED    tries again in a while
    OVER

A pull asks nodes that it was sent to (PullElsewhere) or that the control store names, else the primary's node.  A node
that refuses, stalls, sends wrong chunks or dies is avoided from then on; chunks that are here stay.  A pull ends with
the object, or with a reason: freed, no room, the primary's node dead and no copy found, nothing for GIVE_UP_S.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from enum import Enum
from heapq import heappop, heappush
from math import inf
from typing import Any
from zlib import crc32

from zray.store.node.records import FULL_REASON, SendToClient
from zray.store.transfer.copies import Copies
from zray.store.transfer.exchange import (
    ABSENT,
    AVOID_MAX,
    BAD_MAX,
    BAD_SAME_MAX,
    FIND_RETRY_S,
    FINDS_MAX,
    FREED,
    GIVE_UP_S,
    IN_CHUNKS_MAX,
    PROGRESS_S,
    PULL_WINDOW,
    PULLS_MAX,
    QUEUED_MAX,
    RECORDED_S,
    RESTORE_STALL_S,
    STALE,
    STALL_S,
    Finder,
    ObjectKey,
    SendToNode,
)
from zray.store.transfer.serving import Serving
from zray.wire.messages import (
    Chunk,
    CopyGone,
    CopyMade,
    PullChunk,
    PullElsewhere,
    PullEnd,
    PullObject,
    PullRefused,
    PullWait,
    StorePulling,
    StoreRestored,
)

OLDEST_EVERY = 4
FREED_WHY = "the object was freed"


class PullState(Enum):
    QUEUED = "waits for other objects on their way here"
    ROOM = "waits for room in this node's store"
    FETCHING = "arrives"
    FINDING = "looks for a copy"
    PAUSED = "waits to try again"
    OVER = "over"


class Pull:
    """One object on its way in; see the module's docstring for its states."""

    __slots__ = ("absent", "again", "asked", "avoid", "bad", "began", "candidates", "count", "cursor", "deadline",
                 "finds", "from_source", "full", "give_up_at", "have", "keepers", "key", "nbytes", "number", "offset",
                 "received", "same_bad", "source", "state", "told_at", "unit", "waiters", "wanted", "wants")

    def __init__(self, key: ObjectKey, offset: int, nbytes: int, unit: int):
        self.key = key
        self.offset = offset  # at the primary's node
        self.nbytes = nbytes
        self.unit = unit  # bytes of a chunk
        self.count = max(1, -(-nbytes // unit))
        self.state = PullState.QUEUED
        self.waiters: list[tuple[bytes, int]] = []  # (client, request) of StorePull
        self.keepers: list[bytes] = []  # nodes that asked for it to be kept here
        self.wanted = 0  # copies of a durable object
        self.have = bytearray(self.count)
        self.received = 0
        # Of the present attempt:
        self.source = b""
        self.number = 0
        self.asked: set[int] = set()  # chunks asked for and not here
        self.cursor = 0  # all missing chunks below have been asked for
        self.again: list[int] = []  # arrived with a wrong checksum
        self.same_bad: dict[int, int] = {}
        self.from_source = 0
        self.deadline = inf  # of the next chunk; or when PAUSED ends
        # Of all attempts:
        self.began = 0.0  # when it was asked for first
        self.bad = 0
        self.avoid: dict[bytes, None] = {}
        self.candidates: deque[bytes] = deque()
        self.finds = 0
        self.absent = ""  # why the primary's own node does not have it
        self.full = ""  # why a node that has it on disk cannot read it back
        self.wants = ""  # the reason for which the source waits
        self.give_up_at = inf
        self.told_at = 0.0

    def chunk_bytes(self, index: int) -> int:
        return min(self.unit, self.nbytes - index * self.unit)

    def next_chunk(self) -> int:
        if self.again:
            return self.again.pop()
        index = self.have.find(0, self.cursor)
        self.cursor = self.count if index < 0 else index + 1
        return index

    def where(self) -> str:
        """How far it is, in words."""
        here = min(self.received * self.unit, self.nbytes)
        text = f"{here:,} of {self.nbytes:,} bytes are here"
        if self.state is PullState.FETCHING:
            return f"{text}, from node {self.source.hex()}{': ' + self.wants if self.wants else ''}"
        return f"{text}, node {self.key.node.hex()} made it; it {self.state.value}"


class Pulls:
    """All objects on their way to this node."""

    def __init__(self, me: bytes, copies: Copies, serving: Serving, finder: Finder, ended_nodes: Container[bytes],
                 out: list[Any], orphaned: Callable[[ObjectKey], None], chunk_bytes: int):
        self.chunk_bytes = chunk_bytes
        self.me = me
        self.copies = copies
        self.orphaned = orphaned  # called for a new copy whose primary is lost
        self.serving = serving
        self.finder = finder
        self.ended_nodes = ended_nodes
        self.ended_at: dict[bytes, float] = {}  # nodes that ended within RECORDED_S before the last end
        self.out = out
        self.on_over: Callable[[Pull, float, str], None] = lambda pull, now, failure: None  # for the timeline
        self.pulls: dict[ObjectKey, Pull] = {}
        # Neither QUEUED nor OVER.  Other nodes may pull from those that have room.
        self.active: dict[ObjectKey, Pull] = serving.partial
        self.in_chunks = 0
        self.durable: Callable[[ObjectKey, int, int, float], None]  # a copy is here that other nodes asked for
        self.counts = dict.fromkeys(("done", "failed", "joined", "bad_chunks", "stale_chunks", "resumed"), 0)
        self._by_number: dict[int, Pull] = {}
        self._numbers = 0
        self._small: list[tuple[int, int, Pull]] = []  # heap of the queued, by size
        self._old: deque[Pull] = deque()  # the same, by age; both may hold pulls that have left the queue
        self._admitted = 0
        self._admitting = False

    # ------------------------------------------------------------ who wants what

    def want(self, client: bytes, request: int, key: ObjectKey, offset: int, nbytes: int, now: float) -> None:
        pull = self.pulls.get(key)
        if pull is not None:
            self.counts["joined"] += 1
            pull.waiters.append((client, request))
            return
        if len(self.pulls) >= QUEUED_MAX:
            error = f"{QUEUED_MAX:,} objects are on their way here"
            self.out.append(SendToClient(client, StoreRestored(request, [], error)))
            return
        pull = self._queue(Pull(key, offset, nbytes, self.chunk_bytes))
        pull.waiters.append((client, request))
        self._admit(now)
        if pull.state is PullState.QUEUED:
            self.out.append(SendToClient(client, StorePulling(request, pull.where())))

    def keep(self, node: bytes, key: ObjectKey, offset: int, nbytes: int, wanted: int, now: float) -> None:
        """Bring the object because ``node`` leaves, or wants so many copies; that node gets CopyMade or CopyGone."""
        pull = self.pulls.get(key)
        if pull is None and len(self.pulls) >= QUEUED_MAX:
            self.out.append(SendToNode(node, CopyGone(*key)))
            return
        if pull is None:
            pull = self._queue(Pull(key, offset, nbytes, self.chunk_bytes))
        pull.keepers.append(node)
        pull.wanted = max(pull.wanted, wanted)
        self._admit(now)

    def _queue(self, pull: Pull) -> Pull:
        self.pulls[pull.key] = pull
        self._numbers += 1
        heappush(self._small, (pull.nbytes, self._numbers, pull))
        self._old.append(pull)
        return pull

    def forget_client(self, client: bytes, now: float) -> None:
        """No request is left for a pull: a queued one ends; others go on, as other nodes may pull from them."""
        for pull in list(self.pulls.values()):
            if any(waiter[0] == client for waiter in pull.waiters):
                pull.waiters = [waiter for waiter in pull.waiters if waiter[0] != client]
                if not pull.waiters and not pull.keepers and pull.state is PullState.QUEUED:
                    self._over(pull)

    def drop_job(self, job: bytes, now: float) -> None:
        for pull in [pull for pull in self.pulls.values() if pull.key.oid.startswith(job)]:
            self.fail(pull, FREED, FREED_WHY, now)

    def _admit(self, now: float) -> None:
        if self._admitting:
            return  # a pull that failed at once: the loop below goes on
        self._admitting = True
        while len(self.active) < PULLS_MAX and (pull := self._next()) is not None:
            pull.state = PullState.ROOM
            self.active[pull.key] = pull
            pull.told_at = now
            why = self.copies.receive(pull.key, pull.nbytes, now)
            if why:
                self.fail(pull, ABSENT, why, now)
        self._admitting = False

    def _next(self) -> Pull | None:
        self._admitted += 1
        oldest = self._admitted % OLDEST_EVERY == 0
        while self._small and self._old:
            pull = self._old.popleft() if oldest else heappop(self._small)[2]
            if pull.state is PullState.QUEUED:
                return pull
        self._small.clear()
        self._old.clear()
        return None

    # ------------------------------------------------------------ whom to ask

    def room(self, key: ObjectKey, now: float) -> None:
        """The store has room for it."""
        pull = self.pulls.get(key)
        if pull is not None and pull.state is PullState.ROOM:
            pull.give_up_at = now + GIVE_UP_S
            self._choose(pull, now)

    def _choose(self, pull: Pull, now: float) -> None:
        """Go on with the next node."""
        self._leave(pull)
        if pull.received:
            self.counts["resumed"] += 1
        while pull.candidates:
            node = pull.candidates.popleft()
            if self._usable(pull, node):
                self._open(pull, node, now)
                return
        if self._usable(pull, pull.key.node):
            self._open(pull, pull.key.node, now)
            return
        pull.state = PullState.FINDING
        pull.deadline = now + STALL_S
        self.finder.find(pull.key.oid, lambda nodes, now: self._located(pull, nodes, now))

    def _usable(self, pull: Pull, node: bytes) -> bool:
        return node != self.me and node not in self.ended_nodes and node not in pull.avoid

    def _open(self, pull: Pull, source: bytes, now: float) -> None:
        self._numbers += 1
        pull.state = PullState.FETCHING
        pull.source = source
        pull.number = self._numbers
        self._by_number[pull.number] = pull
        pull.deadline = now + STALL_S
        pull.began = pull.began or now
        have = pull.received if pull.key in self.serving.of else -1
        avoid = list(pull.avoid)[-AVOID_MAX:]
        message = PullObject(pull.number, *pull.key, pull.offset, self._ask(pull), have, avoid)
        self.out.append(SendToNode(source, message))

    def _leave(self, pull: Pull) -> None:
        """End the present attempt."""
        if self._by_number.pop(pull.number, None) is not None and pull.source not in self.ended_nodes:
            self.out.append(SendToNode(pull.source, PullEnd(pull.number)))
        self.in_chunks -= len(pull.asked)
        pull.asked.clear()
        pull.again.clear()
        pull.same_bad.clear()
        pull.source = b""
        pull.cursor = pull.from_source = 0
        pull.wants = ""

    def _located(self, pull: Pull, nodes: list[bytes], now: float) -> None:
        if pull.state is not PullState.FINDING:
            return
        pull.candidates = deque(node for node in nodes if self._usable(pull, node))
        root = pull.key.node
        if pull.candidates:
            self._choose(pull, now)
        elif root not in self.ended_nodes and pull.absent:
            self.fail(pull, ABSENT, pull.absent, now)
        elif root in self.ended_nodes and (
                pull.finds >= FINDS_MAX or now >= self.ended_at.get(root, -inf) + RECORDED_S):
            died = f"the node {root.hex()} that held it died, and no other node has a whole copy"
            self.fail(pull, ABSENT, pull.full or died, now)
        else:  # copies may be on their way into the control store; or all known ones have stalled
            pull.deadline = now + FIND_RETRY_S * 2 ** min(pull.finds, 4)
            pull.finds += 1
            pull.avoid.clear()
            pull.state = PullState.PAUSED

    # ------------------------------------------------------------ answers of the source

    def _attempt(self, peer: bytes, number: int) -> Pull | None:
        pull = self._by_number.get(number)
        return pull if pull is not None and pull.source == peer else None

    def on_chunk(self, peer: bytes, message: Chunk, now: float) -> None:
        pull = self._attempt(peer, message.pull)
        index = message.index
        if pull is None or index not in pull.asked:
            self.counts["stale_chunks"] += 1
            return
        pull.asked.discard(index)
        self.in_chunks -= 1
        pull.from_source += 1
        if len(message.data) != pull.chunk_bytes(index) or crc32(message.data) != message.checksum:
            self._bad(pull, index, now)
            return
        self.copies.write(pull.key, index * self.chunk_bytes, message.data)
        pull.have[index] = 1
        pull.received += 1
        pull.deadline = now + STALL_S
        pull.give_up_at = now + GIVE_UP_S
        pull.wants = ""
        if pull.received < pull.count:
            self.serving.arrived(pull.key, index)
            self._ask_more(pull)
        else:
            self._done(pull, index, now)

    def _bad(self, pull: Pull, index: int, now: float) -> None:
        """A chunk with a wrong checksum: ask again, and after some tries another node."""
        self.counts["bad_chunks"] += 1
        pull.bad += 1
        pull.same_bad[index] = pull.same_bad.get(index, 0) + 1
        if pull.bad >= BAD_MAX:
            self.fail(pull, ABSENT, f"{pull.bad} chunks arrived damaged, the last from node {pull.source.hex()}", now)
        elif pull.same_bad[index] >= BAD_SAME_MAX:
            pull.avoid[pull.source] = None
            self._choose(pull, now)
        else:
            pull.again.append(index)
            self._ask_more(pull)

    def on_elsewhere(self, peer: bytes, message: PullElsewhere, now: float) -> None:
        pull = self._attempt(peer, message.pull)
        if pull is None:
            return
        del self._by_number[pull.number]
        if peer != pull.key.node:
            pull.avoid[peer] = None  # so that every turn of this walk leaves one node behind
        pull.candidates = deque([*(node for node in message.nodes if type(node) is bytes), *pull.candidates])
        self._choose(pull, now)

    def on_refused(self, peer: bytes, message: PullRefused, now: float) -> None:
        pull = self._attempt(peer, message.pull)
        if pull is None:
            return
        del self._by_number[pull.number]
        if message.code == FREED:
            self.fail(pull, FREED, FREED_WHY, now)
            return
        if message.code == ABSENT and peer == pull.key.node:
            pull.absent = message.why
        elif message.code == ABSENT and message.why.startswith(FULL_REASON):
            pull.full = message.why
        if message.code != STALE:
            pull.avoid[peer] = None
        self._choose(pull, now)

    def on_wait(self, peer: bytes, message: PullWait, now: float) -> None:
        pull = self._attempt(peer, message.pull)
        if pull is not None:
            pull.wants = message.why
            pull.deadline = pull.give_up_at = now + RESTORE_STALL_S

    def _ask(self, pull: Pull) -> list[int]:
        """The next chunks to ask for."""
        chunks: list[int] = []
        while len(pull.asked) < PULL_WINDOW and (not pull.asked or self.in_chunks < IN_CHUNKS_MAX):
            index = pull.next_chunk()
            if index < 0:
                break
            pull.asked.add(index)
            self.in_chunks += 1
            chunks.append(index)
        return chunks

    def _ask_more(self, pull: Pull) -> None:
        chunks = self._ask(pull)
        # Without new chunks too: the source counts on acknowledgements.
        self.out.append(SendToNode(pull.source, PullChunk(pull.number, chunks, pull.from_source)))

    # ------------------------------------------------------------ ends

    def _done(self, pull: Pull, index: int, now: float) -> None:
        place = self.copies.seal(pull.key, now)
        key = pull.key
        self.on_over(pull, now, "")
        waiters, keepers = pull.waiters, pull.keepers
        self._over(pull)
        self.serving.arrived(key, index)  # from now on it is served as a whole
        self.counts["done"] += 1
        for client, request in waiters:
            self.out.append(SendToClient(client, StoreRestored(request, place)))
        if key.node not in self.ended_nodes:
            self.out.append(SendToNode(key.node, CopyMade(*key)))
        else:
            self.orphaned(key)
        if keepers:
            self.copies.keep(key)
            self.durable(key, pull.wanted, pull.nbytes, now)
        for node in keepers:
            if node != key.node and node not in self.ended_nodes:
                self.out.append(SendToNode(node, CopyMade(*key)))
        self._admit(now)

    def fail(self, pull: Pull, code: int, why: str, now: float) -> None:
        """The object will not come: report so to all that wait for it, here and on other nodes."""
        if pull.state is PullState.OVER:
            return
        key, waiters, keepers = pull.key, pull.waiters, pull.keepers
        self.on_over(pull, now, why)
        self._over(pull)
        self.copies.abandon(key, why, now)
        self.counts["failed"] += 1
        for client, request in waiters:
            self.out.append(SendToClient(client, StoreRestored(request, [], why)))
        for node in keepers:
            if node not in self.ended_nodes:
                self.out.append(SendToNode(node, CopyGone(*key)))
        self.serving.ended(key, code, why)
        self._admit(now)

    def _over(self, pull: Pull) -> None:
        self._leave(pull)
        pull.state = PullState.OVER
        pull.waiters, pull.keepers = [], []
        del self.pulls[pull.key]
        self.active.pop(pull.key, None)

    def lost(self, key: ObjectKey, why: str, now: float) -> None:
        """The block of a pull has left the table: there was no room, or its job ended."""
        pull = self.pulls.get(key)
        if pull is not None:
            self.fail(pull, ABSENT, why, now)

    def freed(self, key: ObjectKey, now: float) -> None:
        pull = self.pulls.get(key)
        if pull is not None:
            self.fail(pull, FREED, FREED_WHY, now)

    def node_ended(self, node: bytes, now: float) -> None:
        self.ended_at = {other: at for other, at in self.ended_at.items() if at + RECORDED_S > now}
        self.ended_at[node] = now
        for pull in list(self.active.values()):
            if pull.state is PullState.FETCHING and pull.source == node:
                self._choose(pull, now)

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        for pull in list(self.active.values()):
            if pull.state is PullState.ROOM:
                self._tell(pull, now)  # the table gives the copy up, not this machine
            elif now >= pull.give_up_at:
                self.fail(pull, ABSENT, f"nothing arrived for {GIVE_UP_S:g} s; {pull.where()}", now)
            elif now >= pull.deadline:
                if pull.state is PullState.FETCHING:
                    pull.avoid[pull.source] = None
                self._choose(pull, now)
            else:
                self._tell(pull, now)

    def _tell(self, pull: Pull, now: float) -> None:
        if now >= pull.told_at + PROGRESS_S:
            pull.told_at = now
            for client, request in pull.waiters:
                self.out.append(SendToClient(client, StorePulling(request, pull.where())))

    def next_deadline(self) -> float | None:
        return min((min(pull.deadline, pull.give_up_at, pull.told_at + PROGRESS_S) for pull in self.active.values()),
                   default=None)

    def check(self) -> None:
        assert len(self.active) <= PULLS_MAX
        assert self.in_chunks == sum(len(pull.asked) for pull in self.active.values())
        assert self.in_chunks <= IN_CHUNKS_MAX + PULLS_MAX
        for key, pull in self.pulls.items():
            assert pull.key == key and pull.received == sum(pull.have) < max(pull.count, 1)
            assert (key in self.active) == (pull.state is not PullState.QUEUED)
            assert (pull.state is PullState.FETCHING) == (pull.number in self._by_number)
            assert not pull.asked or pull.state is PullState.FETCHING
            assert pull.state is not PullState.FETCHING or pull.asked, "a pull that has asked for nothing"
            assert (pull.state is not PullState.QUEUED) == (key in self.copies.local)
            assert not any(pull.have[index] for index in pull.asked)
        assert len(self._by_number) == sum(pull.state is PullState.FETCHING for pull in self.pulls.values())
        assert len(self.active) == PULLS_MAX or all(pull.state is not PullState.QUEUED for pull in self.pulls.values())
