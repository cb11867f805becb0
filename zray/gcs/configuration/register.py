"""The majority register that holds the cluster's configuration.  Pure.

One Paxos instance a generation (Lamport, "The Part-Time Parliament", 1998): the voters named by generation g decide
generation g + 1, and no node proposes g + 1 without the decided g in hand.  So an instance has one fixed set of voters,
which is Lamport's reconfiguration of a state machine with a window of one ("Reconfiguring a state machine", 2010).
From one generation to the next one voter comes or one goes (ClusterConfig.may_become), as in Ongaro's Raft (4.1 in his
dissertation): a proposer's mistake about which nodes live costs one vote.  A voter accepts nothing else.

    proposer                    voters of g and of the value
    RegisterPrepare(r)  ->      promise to join no lower round, report the accepted value
    the accepted value of the highest round, else its own wish
    RegisterAccept(r)   ->      accept unless a higher round was promised, the value removes a tail with a lease, or is
                                no step from g
    majorities of both have accepted: decided; sent to every node by ConfigIs

Agreement does not need the majority of the *new* voters: it ensures that they can go on by themselves.  A value that a
majority of the old ones has accepted can only be decided or wait for ever.  So a wish is not even offered before a
majority of its voters has answered: one of them may be dead without any node knowing it.

Voters also grant the leases under which a tail reads.  A node has one lease for all shards of which it is the tail.  A
voter with a promise to it accepts no configuration that takes the node out of a chain of which it may still believe to
be the tail, until the promise has run out, unless the configuration lists the node as freed.  Which chains these are
follows from the configurations: a node that has adopted generation g reads as a tail of g or of a later generation.  So
the old tail of a shard that has moved leaves its chain as soon as it has adopted the move, and reads its other shards
on.  Three rules make this hold across changes of the voters:

* a voter grants only to a tail of its own generation.  While it has accepted a next configuration, it grants only if
  that one has the same voters and removes no tail that asks: after a g + 1 with other voters is chosen, no tail gathers
  a majority of the voters of g;
* a voter that learns of another set of voters, or misses a generation, promises a lease to all members unasked, for all
  shards of those that it does not know to have adopted this generation;
* a voter that learns the next generation counts its tails in: they read under the leases that they have.

A request for a lease that overtakes a configuration is answered once that is learned.

State is kept in memory only: a process that dies takes its vote with it, for ever.
"""

from __future__ import annotations

import math
from typing import Any

from zray.gcs.configuration.config import ClusterConfig, majority
from zray.wire.messages import (
    ConfigIs,
    LeaseAsk,
    LeasePromise,
    RegisterAccept,
    RegisterAccepted,
    RegisterPrepare,
    RegisterPromise,
    RegisterRefused,
)

# How long a voter's promise to a tail holds, below the time-out after which a silent tail counts as failed.
PROMISE_S = 0.25
# How long the tail relies on it, from when it asked: the rest is for clocks that run at different speeds (20 %).
LEASE_S = 0.2
# A voter that refused to remove a tail, because of a promise, lets it run out and leaves the proposer this long to ask
# again.
HOLD_S = 0.1
# A member that has not said yet that it is no tail any more does so within a few round trips: ask again after this.
ADOPTION_S = 0.01
# A tail asks again after this long.
LEASE_RENEW_S = 0.08
# A proposer asks again after this long without an answer: some round trips under load.
PROPOSAL_RESEND_S = 0.05
# The voters of a proposer's wish have this long to answer, else the proposer drops the wish.
PREPARE_S = 0.12

Ballot = tuple[int, bytes]
NO_BALLOT: Ballot = (0, b"")
Out = list[tuple[bytes, Any]]


class Acceptor:
    """The vote of one node.  ``config`` is the last decided configuration that it knows."""

    def __init__(self, me: bytes, config: ClusterConfig) -> None:
        self.me = me
        self.config = config
        self.promised = NO_BALLOT
        self.accepted: tuple[Ballot, ClusterConfig] | None = None
        self.accepted_at = 0.0
        self.leases: dict[bytes, float] = {}  # member of a chain -> when this voter's promise to it runs out
        self._may_read: dict[bytes, frozenset[int]] = {}  # the same members -> shards that they may read until then
        self._adopted: dict[bytes, int] = {}  # member -> the last generation that it is known to have adopted
        self._early: dict[bytes, LeaseAsk] = {}  # tail -> its last request, if it is to be answered later
        self._held: dict[bytes, float] = {}  # tail that is to be removed -> no promise to it until then

    def learn(self, config: ClusterConfig, now: float) -> bool:
        """``config`` is decided.  False when this voter knew it.  Then call :meth:`answer_early`."""
        if config.generation <= self.config.generation:
            return False
        follows = config.generation == self.config.generation + 1 and config.voters == self.config.voters
        self.leases = {name: until for name, until in self.leases.items() if until > now}
        if not follows:
            for name in config.members:
                self.leases[name] = now + PROMISE_S
        self._adopted = {name: generation for name, generation in self._adopted.items() if name in config.involved}
        self._adopted[self.me] = config.generation
        shards = frozenset(range(len(config.chains)))
        before, self._may_read = self._may_read, {}
        for name in self.leases:
            tails = config.tails_of(name)
            if self._adopted.get(name, 0) < config.generation:
                tails = tails | before[name] if follows else shards
            self._may_read[name] = tails
        self._held.clear()
        self.config = config
        self.promised = NO_BALLOT
        self.accepted = None
        return True

    def heard_adopted(self, peer: bytes, generation: int) -> None:
        """``peer`` has adopted that generation, so it answers no reads as a tail of an earlier one."""
        if generation < self.config.generation or peer not in self.config.involved:
            return
        self._adopted[peer] = max(generation, self._adopted.get(peer, 0))
        if peer in self.leases:
            self._may_read[peer] = self.config.tails_of(peer)

    def answer_early(self, now: float) -> Out:
        """Answer the requests for leases that had to wait for the configuration that was just learned."""
        early, self._early = self._early, {}
        return [answer for peer, ask in early.items() if ask.generation >= self.config.generation
                for answer in self.on_lease(peer, ask, now)]

    def on_prepare(self, peer: bytes, message: RegisterPrepare, base: ClusterConfig) -> Out:
        """``base`` is ``message.base``, learned before."""
        stale = self._stale(peer, base)
        if stale:
            return stale
        generation = base.generation + 1
        if (message.round, peer) < self.promised:
            return [(peer, RegisterRefused(generation, message.round, self.promised[0], 0.0))]
        self.promised = (message.round, peer)
        if self.accepted is None:
            return [(peer, RegisterPromise(generation, message.round, 0, b"", []))]
        (accepted_round, accepted_by), value = self.accepted
        return [(peer, RegisterPromise(generation, message.round, accepted_round, accepted_by, value.pack()))]

    def on_accept(self, peer: bytes, message: RegisterAccept, base: ClusterConfig, value: ClusterConfig,
                  now: float) -> Out:
        """``base`` and ``value`` are those of the message; ``base`` was learned before."""
        stale = self._stale(peer, base)
        if stale:
            return stale
        if not base.may_become(value):
            return []
        if (message.round, peer) < self.promised:
            return [(peer, RegisterRefused(value.generation, message.round, self.promised[0], 0.0))]
        wait = self._wait(base, value, now)
        if wait > 0:
            return [(peer, RegisterRefused(value.generation, message.round, self.promised[0], wait))]
        self.promised = (message.round, peer)
        self.accepted = (self.promised, value)
        self.accepted_at = now
        return [(peer, RegisterAccepted(value.generation, message.round))]

    def _wait(self, base: ClusterConfig, value: ClusterConfig, now: float) -> float:
        """Seconds until this voter may accept ``value``; from now on it promises nothing to tails that it removes."""
        wait, tails = 0.0, set()
        for shard, name in base.removed_by(value):
            if name in value.freed:
                continue
            rest = self.leases.get(name, now) - now
            if base.chains[shard].tail == name:
                tails.add(name)
            else:
                rest = min(rest, ADOPTION_S)
            if rest > 0 and shard in self._may_read[name]:
                wait = max(wait, rest)
        if wait > 0:
            # Others may have accepted the value too, and an accepted value must be decided: promises renewed for ever
            # would prevent that, also those to different tails in turn.
            self._held.update((name, now + wait + HOLD_S) for name in tails)
        return wait

    def on_lease(self, peer: bytes, message: LeaseAsk, now: float) -> Out:
        """A tail asks whether it may go on."""
        if message.generation < self.config.generation:
            return [(peer, ConfigIs(self.config.pack()))]
        if peer not in self.config.involved:
            return []
        self.heard_adopted(peer, message.generation)
        if message.generation > self.config.generation or not self._agrees_with_accepted(peer):
            self._early[peer] = message
            return []
        if self.me not in self.config.voters or peer not in self.config.members:
            return []
        if self._held.get(peer, now) > now:
            return []
        self.leases[peer] = now + PROMISE_S
        self._may_read[peer] = self.config.tails_of(peer)
        return [(peer, LeasePromise(message.generation, message.number))]

    def _agrees_with_accepted(self, peer: bytes) -> bool:
        """Whether a promise to ``peer`` leaves a value that this voter has accepted as good as it is."""
        if self.accepted is None:
            return True
        value = self.accepted[1]
        return value.voters == self.config.voters and not any(
            name == peer and self.config.chains[shard].tail == name for shard, name in self.config.removed_by(value))

    def _stale(self, peer: bytes, base: ClusterConfig) -> Out:
        return [(peer, ConfigIs(self.config.pack()))] if base.generation < self.config.generation else []

    def check(self) -> None:
        assert self.accepted is None or self.accepted[0] <= self.promised
        assert self.accepted is None or self.accepted[1].generation == self.config.generation + 1
        assert self._may_read.keys() == self.leases.keys()
        assert all(name in self.config.involved or name == self.me for name in (*self._adopted, *self._early))


class Proposer:
    """One attempt at a time to decide the configuration that follows ``base``."""

    IDLE, PREPARE, ACCEPT = range(3)

    def __init__(self, me: bytes) -> None:
        self.me = me
        self.phase = self.IDLE
        self.base: ClusterConfig | None = None
        self.value: ClusterConfig | None = None
        self.round = 0
        self.rest_until = -math.inf  # after a refusal
        self.held: ClusterConfig | None = None  # refused because of a lease, and to be asked for again
        self._answered: set[bytes] = set()
        self._best: Ballot = NO_BALLOT
        self._sent_at = 0.0
        self._began_at = 0.0

    @property
    def active(self) -> bool:
        return self.phase != self.IDLE

    def propose(self, base: ClusterConfig, wish: ClusterConfig, now: float) -> Out:
        """Try to make ``wish`` follow ``base``; the wish of another proposer may win."""
        if not base.may_become(wish):
            raise ValueError(f"no step from generation {base.generation}: {wish}")
        if self.base is None or base.generation != self.base.generation:
            self.round = 0
        self.base, self.value, self.held = base, wish, None
        self.round += 1
        self.phase = self.PREPARE
        self._best = NO_BALLOT
        self._began_at = now
        self._answered.clear()
        return self._send(now)

    def abandon(self) -> None:
        self.phase = self.IDLE

    def drop_wish(self) -> None:
        """Drop the proposal that waits for a lease to expire."""
        self.held = None
        self.rest_until = -math.inf

    def on_promise(self, peer: bytes, message: RegisterPromise, now: float) -> Out:
        if not self._mine(message, self.PREPARE):
            return []
        assert self.base is not None
        ballot = (message.accepted_round, message.accepted_by)
        if message.accepted and ballot > self._best:
            accepted = ClusterConfig.parse(message.accepted)
            if accepted is None or accepted.generation != message.generation:
                return []
            self._best, self.value = ballot, accepted
        self._answered.add(peer)
        assert self.value is not None
        if not majority(self.base.voters, self._answered) or (
                self._best == NO_BALLOT and not majority(self.value.voters, self._answered)):
            return []
        self.phase = self.ACCEPT
        self._answered.clear()
        return self._send(now)

    def on_accepted(self, peer: bytes, message: RegisterAccepted) -> ClusterConfig | None:
        """The configuration, when this answer decides it."""
        if not self._mine(message, self.ACCEPT):
            return None
        assert self.base is not None and self.value is not None
        self._answered.add(peer)
        if not (majority(self.base.voters, self._answered) and majority(self.value.voters, self._answered)):
            return None
        self.phase = self.IDLE
        return self.value

    def on_refused(self, peer: bytes, message: RegisterRefused, now: float) -> None:
        """Give this round up; the owner proposes again after ``rest_until``."""
        if not (self._mine(message, self.PREPARE) or self._mine(message, self.ACCEPT)):
            return
        assert self.base is not None
        self.held = self.value if message.wait_s > 0 else None
        self.round = max(self.round, min(message.promised_round, self.round + 1_000_000))
        place = self.base.voters.index(self.me) if self.me in self.base.voters else 0
        # Two competitors would refuse each other for ever, so the later voter waits longer.
        self.rest_until = now + (max(0.001, min(message.wait_s, PROMISE_S)) if message.wait_s > 0 else 0.01 * place)
        self.phase = self.IDLE

    def tick(self, now: float) -> Out:
        """Ask the voters again that have not answered."""
        if self.phase == self.PREPARE and now - self._began_at >= PREPARE_S:
            assert self.base is not None
            if majority(self.base.voters, self._answered):
                self.phase = self.IDLE  # the voters of the wish do not answer, and none has accepted a value
        return self._send(now) if self.active and now - self._sent_at >= PROPOSAL_RESEND_S else []

    def next_deadline(self) -> float:
        return self._sent_at + PROPOSAL_RESEND_S if self.active else math.inf

    def _send(self, now: float) -> Out:
        assert self.base is not None and self.value is not None
        self._sent_at = now
        base = self.base.pack()
        targets = dict.fromkeys((*self.base.voters, *self.value.voters))
        message = (RegisterPrepare(self.round, base) if self.phase == self.PREPARE else
                   RegisterAccept(self.round, base, self.value.pack()))
        return [(voter, message) for voter in targets if voter not in self._answered]

    def _mine(self, message: Any, phase: int) -> bool:
        return (self.phase == phase and self.base is not None and message.generation == self.base.generation + 1
                and message.round == self.round)


class TailLease:
    """The tail's side: until when it may answer reads."""

    def __init__(self, me: bytes) -> None:
        self.me = me
        self.until = -math.inf
        self._config: ClusterConfig | None = None
        self._number = 0
        self._asked_at = -math.inf
        self._agreed: set[bytes] = set()

    def ask(self, config: ClusterConfig, now: float) -> Out:
        """Ask every voter of ``config``, the last decided configuration that this node knows."""
        self._config = config
        self._number += 1
        self._asked_at = now
        self._agreed.clear()
        return [(voter, LeaseAsk(config.generation, self._number)) for voter in config.voters]

    def on_promise(self, peer: bytes, message: LeasePromise) -> None:
        config = self._config
        if config is None or (message.generation, message.number) != (config.generation, self._number):
            return
        self._agreed.add(peer)
        if majority(config.voters, self._agreed):
            self.until = max(self.until, self._asked_at + LEASE_S)

    def release(self) -> None:
        """Answer no more reads under earlier promises."""
        self.until = -math.inf
        self._config = None

    def due(self, config: ClusterConfig, now: float) -> bool:
        return self._config is not config or now - self._asked_at >= LEASE_RENEW_S

    def next_deadline(self) -> float:
        return self._asked_at + LEASE_RENEW_S
