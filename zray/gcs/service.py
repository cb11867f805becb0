"""The control store inside a node daemon: replicas, their configuration, snapshots on disk, and a client.

    service = GcsService(ports, session_dir / "gcs", incarnation=me)              # a cluster of one
    service = GcsService(ports, None, incarnation=me, first=False, hints=hints)   # joins one
    handlers.update(service.handlers)              # code -> fn(peer, message), from the mesh
    service.tick(now)                              # at service.next_deadline(); None: nothing to wait for
    service.client.claim_name(...)                 # the daemon's own requests; complete on return in a cluster of one
    service.peer_closed(node, proven=True)         # its endpoint refuses connections
    service.forget(incarnation)                    # a process is gone
    service.flush()                                # once a turn of the loop
    service.has_news                               # set when it has called back, or might have
    service.close()

Messages of this node to itself never leave the process.  A core process has its own node as its only peer, which
passes its requests on.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from zray.base import ids
from zray.base.ports import Ports
from zray.gcs.client.client import RETRY_S, GcsClient
from zray.gcs.client.proxy import Proxy
from zray.gcs.client.requests import STUCK_RETRIES, Call
from zray.gcs.client.sharding import SHARDS
from zray.gcs.configuration.admission import Admission
from zray.gcs.configuration.config import ChainConfig, ClusterConfig, majority
from zray.gcs.configuration.control import ALIVE, DEAD, DRAINING, FENCED, Control, Host, Report
from zray.gcs.configuration.membership import NODE_TIMEOUT_S
from zray.gcs.nodes_table import NodesTable, PlannedLeave
from zray.gcs.replica.chain import ChainReplica, Out, UnsafeConfig
from zray.gcs.replica.coalesce import Coalescer
from zray.gcs.replica.persistence import Replicas
from zray.gcs.replica.state import ReplicatedState
from zray.gcs.replica.tables import LOCATIONS, NODES, OWNERS, Change
from zray.wire.messages import (
    ChainAck,
    ChainFetch,
    ChainSnapshot,
    ChainUpdates,
    ConfigIs,
    GcsEvents,
    GcsRedirect,
    GcsReply,
    GcsRequest,
    GcsUnwatch,
    GcsWatch,
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

# While anything is to be sent again, this often.
TICK_S = 0.05
_OF_CLIENTS: frozenset[Any] = frozenset((GcsRequest, GcsWatch, GcsUnwatch))
_OF_REPLICAS: frozenset[Any] = frozenset((ChainUpdates, ChainAck, ChainSnapshot, ChainFetch))
_TO_CLIENT: frozenset[Any] = frozenset((GcsReply, GcsRedirect, GcsEvents))
_OF_CONTROL: frozenset[Any] = frozenset((
    RegisterPrepare, RegisterPromise, RegisterAccept, RegisterAccepted, RegisterRefused, ConfigIs, LeaseAsk,
    LeasePromise, Heartbeat, NodeStanding))
_BETWEEN_NODES = (*_OF_REPLICAS, *_OF_CONTROL)
_OUTSIDE = ChainConfig(0, (b"\0",), (0,))  # the chain of a replica that has never been in it


class GcsPorts(Ports):
    """Ports of the control store to its daemon."""

    clock: Callable[[], float]
    send: Callable[[bytes, Any], None]  # to another node, or to a process of this node
    fenced: Callable[[str], None]  # this node was declared dead, for that reason; once
    configured: Callable[[ClusterConfig], None]  # another configuration than the one it was made with


class GcsService(Host):
    """This node's part of the control store.  Not thread-safe: call it under the daemon's loop lock."""

    def __init__(self, ports: GcsPorts, persist_dir: str | os.PathLike[str] | None = None, *,
                 incarnation: bytes | None = None, node_id: bytes = b"", first: bool = True, hints: list | None = None,
                 node_timeout_s: float = NODE_TIMEOUT_S, shards: int = SHARDS) -> None:
        """``first``: a cluster of one, with the contents of ``persist_dir``; else ``hints`` leads to the cluster.

        ``shards`` is fixed when a cluster begins; a node that joins takes it from the hints.

        Raises CorruptSnapshot when ``persist_dir`` holds a snapshot that does not read (losing the tables of a cluster
        silently would be worse than not starting), ValueError when the hints make no sense.
        """
        self.incarnation = incarnation or node_id[:ids.INCARNATION_SIZE] or ids.new_incarnation()
        self.node_id = node_id
        self.first = first
        self.fenced_because = ""
        self.has_news = False  # set when its client was answered or the configuration has changed; the daemon clears it
        self.counters: Counter[str] = Counter()
        self._ports = ports
        self._now = ports.clock
        self._send_out = ports.send
        self._composed = False
        config = ClusterConfig.first(self.incarnation, shards) if first else _of_hints(hints)
        many = len(config.chains)
        self.disk = Replicas(persist_dir, many, self._disk_failed) if persist_dir is not None else None
        self._held: Out = []  # to be sent when the updates that they depend on are on disk
        self._local: deque[tuple[bytes, Any]] = deque()  # messages from this process to itself
        self._pumping = False
        self._chained = Coalescer()  # messages of the replicas here to their neighbours in this turn
        self._reported: list[tuple[int, int, bool, bool]] = []  # the state from which _reports were made
        self._reports: list[Report] = []
        # the last states of the replicas here that were reported to the voters
        self._reported_states: dict[int, tuple[bool, bool]] = {}
        self._ticked_at = -math.inf
        self._leave: PlannedLeave | None = None
        start = config if first else config._replace(generation=0)  # the chains of the hints are learned below
        self.control = Control(self.incarnation, start, self, node_timeout_s=node_timeout_s)
        self.replicas: dict[int, ChainReplica] = {}
        if first:
            if self.disk is not None:
                self.disk.demand_all()
            for shard, chain in enumerate(config.chains):
                state = self.disk.load(shard) if self.disk is not None else None
                if state is not None:
                    state.clients.clear()  # of processes that are no more
                self.replicas[shard] = self.make_replica(chain, shard, state)
        self.client = GcsClient(self.incarnation, self.route, shards=many)
        self.nodes = NodesTable(self.client, self._go_on_leaving)
        for shard, chain in enumerate(config.chains):
            self.client.configured(chain, shard)
        self.proxy = Proxy(self.client, self.route)
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            cls.CODE: self.receive for cls in (*_OF_CLIENTS, *_OF_REPLICAS, *_TO_CLIENT, *_OF_CONTROL)}
        if self.disk is not None:
            for replica in self.replicas.values():
                self.disk.keep(replica, fresh=True)
        self._run(lambda: self.control.adopt(config, ports.clock()))
        self.client.watch(NODES, self._on_node_rows)
        if first:
            self._bury_former_cluster()
        self._composed = True

    def _bury_former_cluster(self) -> None:
        """The rows that a persistent directory has of nodes and objects: all of them have ended."""
        for node, row in list(self.control.rows.items()):
            if row.state in (ALIVE, DRAINING):
                self.nodes.set_state(node, DEAD, "the cluster was restarted")
        for table in (LOCATIONS, OWNERS):
            self.client.list_prefix(table, self._delete_all, values=False)

    def _delete_all(self, listed: Call) -> None:
        for key, _ in listed.value or ():
            self.client.delete(key)

    # ------------------------------------------------------------ what the daemon asks

    @property
    def config(self) -> ClusterConfig:
        return self.control.config

    @property
    def alone(self) -> bool:
        """A cluster of one: nothing is sent, and every request of the client is complete when it returns."""
        return self.control.alone

    def hints(self) -> list:
        """Hints by which a node that joins finds the control store."""
        return [self.config.pack()]

    def trouble(self) -> str:
        """The obstacle that keeps the control store from answering, and a remedy; '' when none is known."""
        voters, missing = self.config.voters, self.control.missing_voters(self._now())
        if not majority(voters, set(voters).difference(missing)):
            return (f"the control store has no majority: {self.nodes.named(missing)} did not answer, and of its "
                    f"{len(voters)} voter{'s' if len(voters) > 1 else ''} {self._enough()} must: until then no "
                    "actor is created, no name is claimed, nobody joins. Let those nodes go on, or reach this one "
                    "again; if their processes have ended, stop the others and start the cluster anew")
        waiting = self.client.waiting()
        if not waiting:
            return ""
        members = dict.fromkeys(name for shard in waiting for name in self.config.chains[shard].members)
        return (f"the control store has left requests without an answer for {STUCK_RETRIES * RETRY_S:g} s or more, of "
                f"shard(s) {', '.join(map(str, waiting))}, which are on {self.nodes.named(members)}; its voters are "
                f"{self.nodes.named(voters)}, of whom {self._enough()} must answer")

    def _enough(self) -> str:
        """How many voters are a majority."""
        voters = self.config.voters
        half = len(voters) // 2
        return f"{half + 1}" if len(voters) % 2 else f"{half + 1}, or {half} with {self.nodes.named(voters[:1])},"

    def admit(self, row: dict[str, Any], then: Callable[[str, int], None]) -> None:
        """Take a node into the cluster; ``then(refused, ordinal)``, where refused is '' or the reason.

        ``row``: the contents of its row in the nodes table, with ``node_id`` (28 bytes) and ``name`` ('' for none).
        The first node admits itself and gets ordinal 0.
        """
        own = row.get("node_id", b"")[:ids.INCARNATION_SIZE] == self.incarnation
        Admission(self.client, row, then, first_ordinal=0 if own else 1)

    def drain(self, reason: str) -> None:
        """This node is about to leave: its row says so, and others take over its parts in the control store."""
        self.nodes.set_state(self.incarnation, DRAINING, reason)

    def leave(self, reason: str, then: Callable[[], None]) -> None:
        """Planned leave: hand every part in the control store on, set the row to "left", then call ``then``."""
        self._leave = PlannedLeave(self.nodes, self.incarnation, reason, then)
        self._run(self._leave_step)

    def peer_closed(self, node: bytes, proven: bool) -> None:
        """The link to a node has broken; ``proven``: its process has ended (its endpoint refuses connections)."""
        self.link_answers(ids.node_of(node), False)
        if proven and not self.fenced_because:
            self._run(lambda: self.control.peer_gone(ids.node_of(node), self._now()))

    def link_answers(self, node: bytes, answers: bool) -> None:
        """Our connection to a node exists, and ZMTP's heartbeats on it are answered; or not any more."""
        membership = self.control.membership
        if answers:
            membership.answers(node)
        else:
            membership.answers_no_more(node, self._now())

    def heard(self, node: bytes) -> None:
        """A message of that node arrived, though perhaps not yet the ones before it: the node lives."""
        self.control.membership.heard(node, self._now())

    def forget(self, incarnation: bytes) -> None:
        """A process is gone: drop its watches and the memory of its requests."""
        self.proxy.forget(incarnation)
        for replica in self.replicas.values():
            replica.forget_client(incarnation)
            if replica.is_head and incarnation in replica.state.clients.sessions:
                self.client.forget_client(incarnation, replica.shard)

    def next_deadline(self) -> float | None:
        """When :meth:`tick` is due at the latest, None: not before an event."""
        if self.fenced_because:
            return None
        now = self._now()
        if self._held or self._chained:
            return now
        due: float = self.control.next_deadline(now)
        if not self.alone or self.client.busy:
            for replica in self.replicas.values():
                if replica.restless():
                    pause = TICK_S
                    break
            else:
                pause = RETRY_S if self.client.busy else 1.0
            due = min(due, self._ticked_at + pause, *(replica.acknowledge_at for replica in self.replicas.values()))
        due = max(due, now)
        return due if due < math.inf else None

    def tick(self, now: float) -> None:
        """Do everything that is due: heartbeats, leases, suspicions, retries, the snapshot."""
        if self.fenced_because:
            return
        self._ticked_at = now
        self._run(lambda: self.control.tick(now))
        if any(replica.acknowledge_at <= now for replica in self.replicas.values()):
            for replica in self.replicas.values():  # those of the other shards in the same frame
                if replica.acknowledge_at < math.inf:
                    replica.acknowledge_at = now
        for replica in list(self.replicas.values()):
            self._run(lambda replica=replica: self._replica_out(replica, replica.tick(now)))  # type: ignore[misc]
        if not self.alone or self.client.busy:
            self.client.tick(now)
        self.flush()

    def flush(self) -> None:
        """Put applied updates on disk, then send the messages that waited for that or for the end of the turn.

        Call once a turn, or leave it to ``tick``.
        """
        if self._held:
            self._run(self._synced)
        if self._chained:
            for peer, message in self._chained.take():
                self._send_out(peer, message)

    # ------------------------------------------------------------ messages

    def route(self, peer: bytes, message: Any) -> None:
        """Queue a message, to another process or to this one."""
        if peer != self.incarnation:
            self._send_out(peer, message)
            return
        self._local.append((peer, message))
        if not self._pumping:
            self._run(_nothing)

    def receive(self, peer: bytes, message: Any) -> None:
        """A message of the control store from another process."""
        if self.fenced_because:
            return
        if isinstance(message, _BETWEEN_NODES) and ids.node_of(peer) != peer:
            self.counters["stranger"] += 1  # only nodes may send these
            return
        if peer in self.nodes.ended and not isinstance(message, NodeStanding):
            self._send_out(peer, NodeStanding(peer, FENCED, self.nodes.ended[peer]))
            return
        self.control.membership.heard(peer, self._now())
        self._run(lambda: self._handle(peer, message), group=True)

    def _handle(self, peer: bytes, message: Any) -> Out:
        kind = type(message)
        if kind in _TO_CLIENT:
            self.has_news = True
            if kind is GcsRedirect and peer != self.incarnation and self._is_behind(message):
                self._emit([(peer, ConfigIs(self.config.pack()))])
                self.client.again(peer, message.number, message.shard)
                return []
            if kind is GcsRedirect and self._is_early_redirect(message):
                return []
            self.client.on_message(peer, message)
            return []
        if kind in _OF_CONTROL:
            return self.control.on_message(peer, message, self._now())
        if kind in _OF_CLIENTS and peer != self.incarnation and ids.same_node(peer, self.incarnation):
            self.proxy.on_message(peer, message)
            return []
        replica = self.replicas.get(message.shard)
        if replica is not None:
            return self._replica_out(replica, replica.on_message(peer, message, self._now()))
        if isinstance(message, (GcsRequest, GcsWatch)) and 0 <= message.shard < len(self.config.chains):
            chain = self.config.chains[message.shard]
            number = message.number if isinstance(message, GcsRequest) else 0
            return [(peer, GcsRedirect(number, chain.epoch, list(chain.members), message.shard))]
        return []

    def _is_behind(self, redirect: GcsRedirect) -> bool:
        """The sender of this redirect is on an older configuration than ours."""
        if not 0 <= redirect.shard < len(self.config.chains):
            return False
        return redirect.epoch < self.config.chains[redirect.shard].epoch == self.client.shards[redirect.shard].epoch

    def _is_early_redirect(self, redirect: GcsRedirect) -> bool:
        """Whether a redirect to this node overtook the configuration that makes this node head or tail.

        A request sent here at once would be refused, and retried only after a time-out: wait for the configuration.
        """
        if not redirect.members or not 0 <= redirect.shard < len(self.config.chains):
            return False
        return (redirect.epoch > self.config.chains[redirect.shard].epoch
                and self.incarnation in (redirect.members[0], redirect.members[-1]))

    def make_replica(self, chain: ChainConfig, shard: int, state: ReplicatedState | None) -> ChainReplica:
        """A replica that starts at this node (the simulator's has a longer memory)."""
        return ChainReplica(self.incarnation, chain, state, shard)

    def _replica_out(self, replica: ChainReplica, out: Out) -> Out:
        """A replica's messages; a change of its state, or its need of a lease, goes to the voters at once."""
        self._persist(replica)
        said = (replica.established, replica.joiner_caught_up())
        now = self._now()
        if said != self._reported_states.get(replica.shard) or (replica.wants_lease(now)
                                                     and self.control.lease.due(self.config, now)):
            self._reported_states[replica.shard] = said
            out = out + self.control.step(now)
        return out

    def _run(self, action: Callable[[], Out], group: bool = False) -> None:
        """Perform an event, then deliver this node's messages to itself, in order, one at a time.

        ``group``: messages that wait for the disk may wait for the end of the turn, and share one sync.  Messages to
        neighbours in the chain wait too, and are then sent as one.
        """
        if self._pumping:
            self._emit(action())
            return
        self._pumping = True
        try:
            self._emit(action())
            while self._local or (self._held and not group):
                self._emit(self._handle(*self._local.popleft()) if self._local else self._synced())
        finally:
            self._pumping = False
        if not group and self._chained:
            for peer, message in self._chained.take():
                self._send_out(peer, message)

    def _emit(self, out: Out) -> None:
        if self.disk is not None and self.disk.unsynced:
            self._held += out
            return
        for peer, message in out:
            if peer == self.incarnation:
                self._local.append((peer, message))
            elif type(message) is ChainUpdates or type(message) is ChainAck:
                self._chained.add(peer, message)
            else:
                self._send_out(peer, message)

    # ------------------------------------------------------------ what Control asks of its host

    def adopted(self, config: ClusterConfig) -> None:
        self.has_news = True
        now = self._now()
        for shard, chain in enumerate(config.chains):
            replica = self.replicas.get(shard)
            if not chain.since_of(self.incarnation):
                if replica is not None:  # redirect the watchers here
                    self._emit(replica.reconfigure(chain, now))
                    self._discard(shard)
                continue
            if replica is None:
                replica = self.replicas[shard] = self.make_replica(_OUTSIDE, shard, None)
            try:
                self._emit(replica.reconfigure(chain, now))
            except UnsafeConfig:
                replica.counters["unsafe"] += 1
            replica.grant_lease(chain.epoch, self._reads_until(chain))
            self._persist(replica)
            self._emit(replica.replay(now))
        for shard, chain in enumerate(config.chains):
            self.client.configured(chain, shard)
        if self._composed:
            self._ports.configured(config)
        self._go_on_leaving()

    def _discard(self, shard: int) -> None:
        """This node holds no replica of that shard any more."""
        replica = self.replicas.pop(shard)
        self._reported_states.pop(shard, None)
        if self.disk is not None and replica.journal is not None:
            self.disk.drop(shard)

    def reports(self) -> list[Report]:
        """Reports of the replicas here; the same list as long as nothing has changed."""
        state = [(shard, replica.config.epoch, replica.established, replica.joiner_caught_up())
                 for shard, replica in self.replicas.items()]
        if state != self._reported:
            self._reported = state
            self._reports = [Report(*said) for said in sorted(state)]
        self._reported_states = {shard: (established, caught_up) for shard, _, established, caught_up in state}
        return self._reports

    def read_at(self) -> float:
        return max((replica.read_at for replica in self.replicas.values()), default=-math.inf)

    def reads_until(self, until: float) -> None:
        for replica in self.replicas.values():
            if not replica.config.reads_freely:
                replica.grant_lease(replica.config.epoch, until)
                self._emit(replica.replay(self._now()))

    def _reads_until(self, chain: ChainConfig) -> float:
        return math.inf if chain.reads_freely else self.control.lease.until

    def declare_dead(self, node: bytes, reason: str) -> None:
        self.nodes.set_state(node, DEAD, reason)

    def condemned(self) -> set[bytes]:
        return self.nodes.condemned

    def fenced(self, reason: str) -> None:
        if not self.fenced_because:
            self.fenced_because = reason or "declared dead"
            self._ports.fenced(self.fenced_because)

    # ------------------------------------------------------------ the nodes table

    def _on_node_rows(self, reset: bool, changes: list[Change]) -> None:
        rows = self.nodes.update(reset, changes)
        if self.incarnation in self.nodes.ended:
            self.fenced(self.nodes.ended[self.incarnation])
            return
        self._emit(self.control.on_rows(rows, self._now()))
        self._go_on_leaving()

    def _go_on_leaving(self) -> None:
        """The next step of a planned leave, if one is under way: the row or the configuration has changed."""
        if self._leave is not None:
            self._leave.step(self.control.rows.get(self.incarnation),
                             has_parts=not self.alone and self.incarnation in self.config.involved,
                             is_unknown=self.first and self.alone)

    def _leave_step(self) -> Out:
        self._go_on_leaving()
        return []

    # ------------------------------------------------------------ disk

    def _persist(self, replica: ChainReplica) -> None:
        if self.disk is not None:
            self.disk.keep(replica)

    def _synced(self) -> Out:
        """The held messages, after a sync; when that fails, nothing is acknowledged."""
        assert self.disk is not None
        self.disk.sync()
        held, self._held = self._held, []
        if not self.disk.error:
            return held
        return [(peer, GcsReply(message.number, self.disk.error, None, message.shard)) for peer, message in held
                if isinstance(message, GcsReply) and message.number > 0
                and len(self.config.chains[message.shard].members) == 1]

    def _disk_failed(self, error: str) -> None:
        for replica in self.replicas.values():
            replica.refusing = error
            replica.journal = None
        self.control.step_down()

    def close(self) -> None:
        """Everything applied is on disk when this returns (unless the disk refused)."""
        self.flush()
        if self.disk is not None:
            self.disk.close()

    def check(self) -> None:
        for replica in self.replicas.values():
            replica.check()
        self.client.check()
        self.proxy.check()
        self.control.check()
        assert not self._local or self._pumping


def _nothing() -> Out:
    return []


def _of_hints(hints: list | None) -> ClusterConfig:
    config = ClusterConfig.parse(hints[0]) if hints else None
    if config is None:
        raise ValueError("the hints to the control store make no sense: of another version?")
    return config
