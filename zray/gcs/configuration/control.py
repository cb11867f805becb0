"""One node's part in running the control store: register, leases, heartbeats and decider together.  Pure.

    event                                   what follows
    a voter is silent or gone               the next voter in the configuration proposes
    a member is silent, gone, leaving       the proposer takes it out of its chains; others join
    a node is lost or gone                  the proposer has its row set to "dead"
    a node is late                          nothing more: it is silent, so it holds no lease and is in no chain
    a row appears, changes                  a new node may take a part, a leaving one hands its parts on
    a configuration is decided              sent to every node; replicas and clients adopt it

The choice of the proposer affects speed only: two nodes that both propose cannot decide two configurations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from zray.base.named_tuples import NamedTuple
from zray.gcs.configuration.config import ClusterConfig
from zray.gcs.configuration.decider import ProposerView, next_config
from zray.gcs.configuration.membership import FAST_S, NODE_TIMEOUT_S, Membership
from zray.gcs.configuration.register import Acceptor, Out, Proposer, TailLease
from zray.gcs.replica.chain import LEASE_UNUSED_S
from zray.wire.messages import (
    ConfigIs,
    Heartbeat,
    LeaseAsk,
    LeasePromise,
    NodeStanding,
    RegisterAccept,
    RegisterAccepted,
    RegisterPrepare,
    RegisterPromise,
    RegisterRefused,
)

ALIVE, DRAINING, DEAD, LEFT = "alive", "draining", "dead", "left"
GONE, RELEASED, FENCED = "gone", "released", "fenced"
# A value that a voter accepted is finished by its proposer within some round trips, else by another node.
UNDECIDED_S = 0.1
# Joining replicas that have caught up wait this long for the others, to be promoted with them by one decision: a shard
# of a few megabytes is copied meanwhile.
JOINING_WAIT_S = 0.05


class NodeRow(NamedTuple):
    """The fields of a row of the nodes table that matter here."""

    state: str
    ordinal: int


class Report(NamedTuple):
    """A member's report about its place in one chain."""

    shard: int
    epoch: int
    established: bool
    caught_up: bool  # the replica that joins behind it has everything


class Host:
    """The node around a Control; see GcsService."""

    def adopted(self, config: ClusterConfig) -> None:
        raise NotImplementedError

    def reports(self) -> list[Report]:
        raise NotImplementedError

    def read_at(self) -> float:
        """The time of the last attempt to read from a tail here."""
        raise NotImplementedError

    def reads_until(self, until: float) -> None:
        """The tails here may answer reads until then."""
        raise NotImplementedError

    def declare_dead(self, node: bytes, reason: str) -> None:
        """Set the node's row to "dead", if it has not changed (asked for again until the row says so)."""
        raise NotImplementedError

    def condemned(self) -> set[bytes]:
        """Nodes whose rows are about to say "dead": their messages do not count meanwhile."""
        raise NotImplementedError

    def fenced(self, reason: str) -> None:
        """Other nodes have declared this node dead."""
        raise NotImplementedError


class Control:
    """See the table above.  Methods return messages to send; those to ``me`` come back through on_message."""

    def __init__(self, me: bytes, config: ClusterConfig, host: Host, *,
                 node_timeout_s: float = NODE_TIMEOUT_S) -> None:
        self.me = me
        self.host = host
        self.acceptor = Acceptor(me, config)
        self.proposer = Proposer(me)
        self.lease = TailLease(me)
        self.membership = Membership(me, node_timeout_s)
        self.rows: dict[bytes, NodeRow] = {}
        self.counters: Counter[str] = Counter()
        self.released: set[bytes] = set()
        self.stepping_down = False
        self._involved_since = config.generation  # the last one that gave another node a part
        self._informed_at: dict[bytes, int] = {}  # node -> the last generation of which it knew all nodes with a part
        self._reports: dict[bytes, list[Report]] = {}
        self._beat_at = -math.inf
        self._adopted_at = -math.inf
        self._last_heartbeat: tuple | None = None
        self._found: list[Report] = []  # the reports that _packed was made of
        self._packed: list[list[Any]] = []
        self._last_parsed: tuple[list, ClusterConfig | None] = [], None
        self._ends: tuple[frozenset[bytes], ...] = ()  # nodes that failed, leave, read no more: at the last wish
        # The configuration and the view for which there was nothing to decide.
        self._settled_for: tuple[ClusterConfig | None, ProposerView | None] = None, None
        self._handlers: dict[type, Callable[[bytes, Any, float], Out]] = {
            RegisterPrepare: self._on_prepare, RegisterPromise: self.proposer.on_promise,
            RegisterAccept: self._on_accept, RegisterAccepted: self._on_accepted,
            RegisterRefused: self._on_refused, ConfigIs: self._on_config, LeaseAsk: self.acceptor.on_lease,
            LeasePromise: self._on_lease_promise, Heartbeat: self._on_heartbeat, NodeStanding: self._on_standing,
        }

    # ------------------------------------------------------------ what others may ask

    @property
    def config(self) -> ClusterConfig:
        """The last decided configuration that this node knows."""
        return self.acceptor.config

    @property
    def is_voter(self) -> bool:
        return self.me in self.config.voters

    @property
    def alone(self) -> bool:
        """Whether no other node takes part or could: nothing to send, nothing to wait for."""
        return self.config.involved == {self.me} and not any(
            row.state in (ALIVE, DRAINING) for name, row in self.rows.items() if name != self.me)

    @property
    def leaving(self) -> bool:
        row = self.rows.get(self.me)
        return row is not None and row.state == DRAINING

    def is_proposer(self, now: float) -> bool:
        """Whether this node is the first voter that it believes alive."""
        if not self.is_voter:
            return False
        out = {*self.membership.silent(self.config, now), *self.membership.gone}
        return next(voter for voter in self.config.voters if voter == self.me or voter not in out) == self.me

    def missing_voters(self, now: float) -> list[bytes]:
        """Voters believed dead; if this node votes, also those silent recently."""
        silent = self.membership.silent(self.config, now) if self.is_voter else ()
        return [voter for voter in self.config.voters if voter in self.membership.gone or voter in silent]

    # ------------------------------------------------------------ events

    def on_message(self, peer: bytes, message: Any, now: float) -> Out:
        handler = self._handlers.get(type(message))
        if handler is None:
            return []
        self.membership.ran(now)
        return handler(peer, message, now) + self.step(now)

    def on_rows(self, rows: dict[bytes, NodeRow], now: float) -> Out:
        """The nodes table has changed."""
        self.rows = rows
        ended = {name for name, row in rows.items() if row.state in (DEAD, LEFT)} - self.config.involved
        self.membership.gone -= ended  # the row says so for ever
        for name in ended:
            self.membership.forget(name)
        self.released -= ended
        self._watch_over(now)
        return self.step(now)

    def peer_gone(self, node: bytes, now: float) -> Out:
        """This node has proof that the process of ``node`` has ended."""
        if not self.membership.proven_gone(node):
            return []
        notice = NodeStanding(node, GONE, f"its endpoint refuses connections, says {self.me.hex()}")
        return [(voter, notice) for voter in self.config.voters if voter not in (self.me, node)] + self.step(now)

    def adopt(self, config: ClusterConfig, now: float) -> Out:
        """A configuration that is decided."""
        was_voter, involved = self.is_voter, self.config.involved
        if not self.acceptor.learn(config, now):
            return []
        self.counters["configurations"] += 1
        self._adopted_at = now
        if self.proposer.base is not None and self.proposer.base.generation < config.generation:
            self.proposer.abandon()
        if config.involved - involved:
            self._involved_since = config.generation
        self._watch_over(now, afresh=self.is_voter and not was_voter)
        self.membership.expect(config.involved - involved, now)
        self.membership.dismiss(involved - config.involved, now)
        self.host.adopted(config)
        return self.acceptor.answer_early(now)

    def step_down(self) -> None:
        """This node can hold no replica any more; the next :meth:`step` reports it to the others."""
        self.stepping_down = True

    def tick(self, now: float) -> Out:
        self.membership.ran(now)
        return self.proposer.tick(now) + self.step(now)

    def next_deadline(self, now: float) -> float:
        """When :meth:`tick` is due, if no event comes before."""
        attempt = self.proposer.next_deadline()
        if not self.proposer.active:
            rest = self.proposer.rest_until
            attempt = max(self._stuck_at(), rest) if rest <= now else rest
        if self.alone:
            return attempt
        due = [attempt, self._beat_at]
        if self._reads(now):
            due.append(self.lease.next_deadline())
        if self.is_voter:
            due.append(self.membership.next_deadline(self.config, now))
            if now < self._adopted_at + JOINING_WAIT_S and any(chain.joining for chain in self.config.chains):
                due.append(self._adopted_at + JOINING_WAIT_S)
        return min(due)

    # ------------------------------------------------------------ what is to be done now

    def step(self, now: float) -> Out:
        """Do everything that is due.  Call when a replica's report may have changed."""
        out: Out = []
        if (self.leaving or self.stepping_down) and self.me not in self.released and self._may_release():
            self.lease.release()
            self.host.reads_until(-math.inf)
            self.released.add(self.me)
        if self._reads(now) and self.lease.due(self.config, now):
            out += self.lease.ask(self.config, now)
        out += self._beat(now)
        proposes = self.is_proposer(now)
        if not self.proposer.active:
            rests = now < self.proposer.rest_until
            if now >= self._stuck_at() and not rests:
                same = self.config._replace(generation=self.config.generation + 1, freed=())
                out += self.proposer.propose(self.config, same, now)
            elif proposes and (not rests or self.proposer.held is not None):  # a failed node waits for no lease
                out += self._propose(now)
        if proposes:
            self._bury(now)
        return out

    def _beat(self, now: float) -> Out:
        if self.alone:
            return []
        silent = self.membership.silent(self.config, now) if self.is_voter else []
        lost = self.membership.lost(now) if self.is_voter else []
        found = self.host.reports()
        if found is not self._found:
            self._found, self._packed = found, [list(report) for report in found]
        reports = self._packed
        informed = self.config.involved <= self.rows.keys() | {self.me}
        said = (self.config.generation, reports, silent, lost, informed, self.me in self.released)
        if now < self._beat_at and said == self._last_heartbeat:
            return []
        self._last_heartbeat = said
        involved = self.me in self.config.involved
        self._beat_at = now + (FAST_S if involved else self.membership.node_timeout_s / 4)
        beat = Heartbeat(self.config.generation, reports, silent, lost, informed)
        out: Out = []
        for voter in self.config.voters:
            if voter != self.me:
                out.append((voter, beat))
                if self.me in self.released:
                    out.append((voter, NodeStanding(self.me, RELEASED, "leaves")))
        return out

    def _propose(self, now: float) -> Out:
        if self.alone:
            return []
        view = self.view(now)
        ends, held = (view.failed, view.leaving, view.freed), self.proposer.held
        if held is not None:
            if self.proposer.base is self.config and ends == self._ends:
                # Voters already withhold leases from the tails being removed.  A new proposal, because more replicas
                # have reported meanwhile, would make these and others wait again.
                return self.proposer.propose(self.config, held, now) if now >= self.proposer.rest_until else []
            self.proposer.drop_wish()
        self._ends = ends
        if self._settled_for[0] is self.config and self._settled_for[1] == view:
            return []
        wish = next_config(self.config, view)
        if wish is None:
            self._settled_for = self.config, view
            return []
        return self.proposer.propose(self.config, wish, now)

    def _stuck_at(self) -> float:
        """When to finish a value that this node accepted, if no decision comes: until then it grants tails no lease."""
        if self.acceptor.accepted is None:
            return math.inf
        place = self.config.voters.index(self.me) if self.is_voter else len(self.config.voters)
        return self.acceptor.accepted_at + UNDECIDED_S * (1 + place)

    def _bury(self, now: float) -> None:
        for node in sorted(self.membership.agreed_lost(self.config, now) | self.membership.gone):
            row = self.rows.get(node)
            if row is not None and row.state in (ALIVE, DRAINING):
                self.host.declare_dead(node, self.membership.why_lost(node))

    def view(self, now: float) -> ProposerView:
        """This node's knowledge, for the decider."""
        gone = self.membership.gone
        ended = {name for name, row in self.rows.items() if row.state in (DEAD, LEFT)}
        # The rows come through a tail, which may be the one that leaves and answers no more.
        leaving = {name for name, row in self.rows.items() if row.state == DRAINING} | self.released
        lost = self.membership.agreed_lost(self.config, now) | gone | ended | self.host.condemned()
        failed = self.membership.agreed_silent(self.config, now) | lost
        living = {name: row.ordinal for name, row in self.rows.items()
                  if row.state == ALIVE and name not in failed | leaving}
        usable = {name: ordinal for name, ordinal in living.items()
                  if name == self.me or name in self.membership.answering and self._is_informed(name)}
        reports = {**self._reports, self.me: self.host.reports()}
        chains = self.config.chains
        known = [(name, chains[r.shard], r) for name, said in reports.items() for r in said if r.shard < len(chains)]
        return ProposerView(
            living=len(living), usable=usable, failed=frozenset(failed),
            briefly=frozenset(failed - lost - self.membership.late(now)),
            dead=frozenset(lost | leaving), leaving=frozenset(leaving), freed=frozenset(gone | self.released),
            established=frozenset((r.shard, name) for name, chain, r in known
                                  if r.established and 0 < chain.since_of(name) <= r.epoch),
            caught_up=frozenset((r.shard, r.epoch) for name, chain, r in known if r.caught_up and name == chain.tail),
            waited=now >= self._adopted_at + JOINING_WAIT_S)

    def _is_informed(self, name: bytes) -> bool:
        """Whether others can reach it if this node ends now: a node lets in only those that it knows."""
        return name in self.config.involved or self._informed_at.get(name, -1) >= self._involved_since

    def _reads(self, now: float) -> bool:
        """Whether this node is a tail that needs promises, and clients read from it."""
        return (self.me in self.config.reading and self.me not in self.released
                and now - self.host.read_at() < LEASE_UNUSED_S)

    def _may_release(self) -> bool:
        """Whether this node may stop reading: it is nowhere the only member that another joins."""
        mine = [chain for chain in self.config.chains if self.me in chain.members]
        return any(len(chain.members) > 1 for chain in mine) and not any(
            len(chain.members) == 1 and chain.joining for chain in mine)

    def _watch_over(self, now: float, *, afresh: bool = False) -> None:
        self.membership.watch_over(self._others() if self.is_voter else (), now, afresh=afresh)
        self._reports = {name: said for name, said in self._reports.items() if name in self.membership.heard_at}
        self._informed_at = {name: at for name, at in self._informed_at.items() if name in self.membership.heard_at}

    def _others(self) -> set[bytes]:
        """Nodes that live as far as this node knows."""
        living = {name for name, row in self.rows.items() if row.state in (ALIVE, DRAINING)}
        return living.union(self.config.involved) - {self.me}

    # ------------------------------------------------------------ messages

    def _on_prepare(self, peer: bytes, message: RegisterPrepare, now: float) -> Out:
        base = self._parsed(message.base)
        if base is None:
            return self._malformed()
        return self.adopt(base, now) + self.acceptor.on_prepare(peer, message, base)

    def _on_accept(self, peer: bytes, message: RegisterAccept, now: float) -> Out:
        base, value = self._parsed(message.base), self._parsed(message.value)
        if base is None or value is None:
            return self._malformed()
        return self.adopt(base, now) + self.acceptor.on_accept(peer, message, base, value, now)

    def _on_accepted(self, peer: bytes, message: RegisterAccepted, now: float) -> Out:
        decided = self.proposer.on_accepted(peer, message)
        if decided is None:
            return []
        # Every node, also those just removed: their clients would wait for a dead chain, tails for a lease.
        others = sorted(self._others().union(decided.involved, self.config.involved) - {self.me})
        news = ConfigIs(decided.pack())
        return self.adopt(decided, now) + [(name, news) for name in others if name not in self.membership.gone]

    def _on_refused(self, peer: bytes, message: RegisterRefused, now: float) -> Out:
        self.proposer.on_refused(peer, message, now)
        return []

    def _on_config(self, peer: bytes, message: ConfigIs, now: float) -> Out:
        config = self._parsed(message.config)
        return self.adopt(config, now) if config is not None else self._malformed()

    def _on_lease_promise(self, peer: bytes, message: LeasePromise, now: float) -> Out:
        before = self.lease.until
        self.lease.on_promise(peer, message)
        if self.lease.until > before:
            self.host.reads_until(self.lease.until)
        return []

    def _on_heartbeat(self, peer: bytes, message: Heartbeat, now: float) -> Out:
        if message.informed and peer in self.membership.heard_at:
            self._informed_at[peer] = message.generation
        if message.generation < self.config.generation:
            return [(peer, ConfigIs(self.config.pack()))]
        self.acceptor.heard_adopted(peer, message.generation)
        if message.generation > self.config.generation:
            return [(peer, Heartbeat(self.config.generation, [], [], [], False))]  # answered by ConfigIs
        reports = [Report(*said) for said in message.reports if _is_report(said)]
        if peer in self.membership.heard_at:
            self._reports[peer] = reports
        if peer in self.config.voters:
            self.membership.opinion(peer, message.silent, message.lost)
        return []

    def _on_standing(self, peer: bytes, message: NodeStanding, now: float) -> Out:
        if message.standing == GONE and message.node in self._others():
            self.membership.proven_gone(message.node)
        elif message.standing == RELEASED and message.node == peer:
            self.released.add(peer)
        elif message.standing == FENCED and message.node == self.me:
            self.host.fenced(message.reason)
        return []

    def _parsed(self, packed: list) -> ClusterConfig | None:
        """A configuration of this cluster, whose number of shards never changes."""
        known, config = self._last_parsed
        if packed != known:  # several nodes report one decision
            config = ClusterConfig.parse(packed)
            self._last_parsed = packed, config
        return config if config is not None and len(config.chains) == len(self.config.chains) else None

    def _malformed(self) -> Out:
        self.counters["malformed"] += 1
        return []

    def check(self) -> None:
        self.acceptor.check()
        self.membership.check()


def _is_report(said: Any) -> bool:
    return (type(said) is list and len(said) == 4 and type(said[0]) is int and type(said[1]) is int and said[0] >= 0
            and type(said[2]) is bool and type(said[3]) is bool)
