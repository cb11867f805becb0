"""The control store of a simulated cluster: production services of all nodes, their clients, and the faults.

The rows of the clients are spread over several shards, fewer than in production.  It matters only that there are
several, that nodes hold different ones, and that one decision changes some of them.

Nodes join by ``admit`` and get their parts by the production decider and register.  They crash, stop, are cut off and
leave.  Each node has a clock of its own, with another zero and another speed.  Between nodes the network loses,
repeats and reorders messages; between a client and its node it does not, as on a real node.

After every event of a node these are tested: no two histories have been answered for, a generation has one
configuration, and the invariants of every machine hold.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from zray.base.ids import TAG_SIZE
from zray.gcs.client.client import Call, GcsClient
from zray.gcs.client.sharding import shard_of
from zray.gcs.configuration.config import ChainConfig, ClusterConfig, majority
from zray.gcs.configuration.control import ALIVE
from zray.gcs.configuration.decider import REPLICAS, voters_wanted
from zray.gcs.configuration.membership import BEAT_PART, UNANSWERED_PART
from zray.gcs.replica.chain import ChainReplica, Out
from zray.gcs.replica.state import ReplicatedState, Update
from zray.gcs.replica.tables import Change
from zray.gcs.service import GcsPorts, GcsService
from zray.sim.linearizability import UNANSWERED, Operation
from zray.sim.network import Faults, SimNetwork
from zray.wire.messages import GcsEvents, GcsRedirect, GcsReply

PREFIX = b"kv/"
SIM_SHARDS = 3
LOCAL_DELAY_S = 0.0002
# Time-outs are shorter than in production relative to the faults, so that a short simulation shows them all.
CHAIN_NODE_TIMEOUT_S = 1.0
CLOCK_DRIFT = 0.05
LISTEN_S = 0.02


def register_step(state: Any, action: tuple) -> tuple[Any, Any]:
    """Model of one row of the tables, for zray.sim.linearizability."""
    kind = action[0]
    if kind == "get":
        return state, state
    if kind == "put":
        return action[1], state is not None
    if kind == "delete":
        return None, state is not None
    expected, new = action[1:]
    return (new, (True, new)) if state == expected else (state, (False, state))


class RecordingReplica(ChainReplica):
    """A production replica that remembers a digest of its history after each update."""

    def __init__(self, me: bytes, config: ChainConfig, store: SimStore, shard: int) -> None:
        self.store = store
        self.digests: dict[int, bytes] = {0: b"%d" % shard}
        self._checked: tuple | None = None
        super().__init__(me, config, None, shard)

    def _append(self, update: Update, now: float) -> Out:
        out = super()._append(update, now)
        previous = self.digests[self.applied - 1]
        self.digests[self.applied] = blake2b(previous + repr(update).encode(), digest_size=16).digest()
        log = self.state.changes.changes
        if log and log[-1].version == self.applied:
            self.store.changes[self.digests[self.applied]] = log[-1]
        return out

    def check(self) -> None:
        """Check only replicas that have changed: most events change few replicas of a node."""
        follower = self._follower
        now = (self.config.epoch, self.established, self.applied, self.committed, len(self.publisher.watchers),
               (follower.received, follower.sent) if follower is not None else None)
        if now != self._checked:
            super().check()
            self._checked = now

    def _wipe(self) -> None:
        super()._wipe()
        self.digests = {0: b"%d" % self.shard}

    def _restore(self, raw: bytes, sequence: int) -> Out:
        out = super()._restore(raw, sequence)
        if self.applied == sequence:
            source = self.store.last_replica(self._predecessor, self.shard)
            self.digests = {n: digest for n, digest in source.digests.items() if n <= sequence}
        return out


class RecordingService(GcsService):
    """A production service whose replicas record, and whose configurations are compared."""

    def __init__(self, store: SimStore, *args: Any, **options: Any) -> None:
        self.store = store
        super().__init__(*args, **options)

    def make_replica(self, chain: ChainConfig, shard: int, state: ReplicatedState | None) -> ChainReplica:
        replica = RecordingReplica(self.incarnation, chain, self.store, shard)
        self.store.recorded[self.incarnation, shard] = replica
        return replica

    def adopted(self, config: ClusterConfig) -> None:
        known = self.store.configs.setdefault(config.generation, config)
        assert known == config, "two configurations of one generation"
        before = self.store.configs.get(config.generation - 1)
        assert before is None or before.may_become(config), "more than one voter has come or gone"
        super().adopted(config)


class SimGcsNode:
    """A node daemon: its service, its clock, its timer, its processes."""

    def __init__(self, store: SimStore, number: int, hints: list | None) -> None:
        self.store = store
        self.net = store.net
        self.node_id = node_id(number)
        self.name = self.node_id[:8]
        self.offset = self.net.random.uniform(0, 1e6)
        self.speed = 1 + self.net.random.uniform(-CLOCK_DRIFT, CLOCK_DRIFT)
        self.clients: dict[bytes, SimClient] = {}
        self.paused = False
        self.starved = False  # paused, but its libzmq answers
        self.answered_at: dict[bytes, float] = {}  # other node -> when its libzmq last answered ours
        self.fenced = False
        self.leaving = False
        self.left = False
        self._inbox: deque[tuple[bytes, Any]] = deque()
        self._alarm = 0
        self.service = RecordingService(
            store, GcsPorts(self.clock, self._send, fenced=self._on_fenced, configured=lambda config: None), None,
            incarnation=self.name, node_id=self.node_id, first=hints is None,
            hints=hints, node_timeout_s=CHAIN_NODE_TIMEOUT_S, shards=SIM_SHARDS)
        self.net.register(self.name, self._on_message)
        self.arm()

    def clock(self) -> float:
        return self.offset + self.net.now * self.speed

    @property
    def working(self) -> bool:
        return self.net.alive(self.name) and not self.fenced and not self.left

    def perform(self, action: Callable[[], None]) -> None:
        """Run an action at this node."""
        if not self.net.alive(self.name):
            return
        action()
        self.service.flush()
        self.store.observe(self)
        self.arm()

    def arm(self) -> None:
        """Set the alarm to the next deadline."""
        self._alarm += 1
        due = self.service.next_deadline()
        if due is not None and not self.paused:
            self.net.call_at(max(self.net.now + 1e-6, (due - self.offset) / self.speed), self._ring, self._alarm)

    def _ring(self, alarm: int) -> None:
        if alarm == self._alarm and not self.paused:
            self.perform(lambda: self.service.tick(self.clock()))

    def _send(self, peer: bytes, message: Any) -> None:
        if peer in self.clients:
            self.net.call_at(self.net.now + LOCAL_DELAY_S, self.clients[peer].on_message, message)
        elif peer[:TAG_SIZE] != self.name[:TAG_SIZE]:
            self.net.send(self.name, peer, message)

    def from_process(self, process: bytes, message: Any) -> None:
        """A message of a process on this node arrives."""
        self._on_message(process, message)

    def _on_message(self, source: bytes, message: Any) -> None:
        if self.paused:
            self._inbox.append((source, message))
        else:
            self.perform(lambda: self.service.handlers[message.CODE](source, message))

    def _on_fenced(self, reason: str) -> None:
        self.net.trace("fenced", self.name)
        self.fenced = True

    def listen(self, others: list[SimGcsNode]) -> None:
        """ZMTP's heartbeats, which the libzmq of both ends exchanges, even if the processes take no turns."""
        silence_s = (UNANSWERED_PART + BEAT_PART) * CHAIN_NODE_TIMEOUT_S
        for other in others:
            stands_still = other.paused and not other.starved
            if self.net.alive(other.name) and not stands_still and self.net.joined(self.name, other.name):
                self.answered_at[other.name] = self.net.now
            answers = self.net.now - self.answered_at.get(other.name, -math.inf) < silence_s
            if answers != (other.name in self.service.control.membership.connected):
                self.service.link_answers(other.name, answers)

    def resume(self) -> None:
        """The end of a SIGSTOP: handle the messages that have arrived meanwhile; sometimes the alarm rings first."""
        self.paused = self.starved = False
        self.net.trace("resume", self.name)
        if not self.net.alive(self.name):
            return
        if self.net.random.random() < 0.5:
            self.perform(lambda: self.service.tick(self.clock()))
        while self._inbox:
            self._on_message(*self._inbox.popleft())
        self.arm()


class SimClient:
    """A process on a node that issues random operations one after the other and records the answers."""

    def __init__(self, node: SimGcsNode, number: int, operations: int) -> None:
        self.node = node
        self.net = node.net
        self.name = node.name[:TAG_SIZE] + number.to_bytes(4, "big")
        self.left = operations
        self.history: list[Operation] = []
        self.seen: list[tuple[int, bool, list[Change]]] = []  # (position, reset, changes) of the watch
        self.last: dict[bytes, bytes | None] = {}
        self._open: tuple[bytes, tuple, float] | None = None
        node.clients[self.name] = self
        self.client = GcsClient(self.name, self._send, [node.name])
        self.watch = self.client.subscribe(PREFIX, lambda *seen: self.seen.append(seen))
        self.net.call_at(self.net.now, self.tick)
        self.net.call_at(self.net.now + self.net.random.uniform(0, 0.02), self.next)

    @property
    def alive(self) -> bool:
        return self.node.working

    @property
    def finished(self) -> bool:
        return self.left == 0 and self._open is None

    def _send(self, peer: bytes, message: Any) -> None:
        self.net.call_at(self.net.now + LOCAL_DELAY_S, self.node.from_process, self.name, message)

    def on_message(self, message: Any) -> None:
        assert isinstance(message, (GcsReply, GcsRedirect, GcsEvents))
        if self.alive:
            self.client.on_message(self.node.name, message)

    def next(self) -> None:
        """Issue the next operation."""
        if not self.alive or self._open or not self.left:
            return
        self.left -= 1
        random = self.net.random
        key = PREFIX + b"%d" % random.randrange(self.node.store.keys)
        kind = random.choice(("get", "get", "put", "put", "cas", "delete"))
        value = b"%s-%d" % (self.name.hex().encode(), self.left)
        if kind == "put":
            self.issue(key, ("put", value), lambda done: self.client.put(key, value, done))
        elif kind == "cas":
            expected = self.last.get(key)
            self.issue(key, ("cas", expected, value),
                       lambda done: self.client.compare_and_set(key, expected, value, done))
        elif kind == "delete":
            self.issue(key, ("delete",), lambda done: self.client.delete(key, done))
        else:
            self.issue(key, ("get",), lambda done: self.client.get(key, done))

    def issue(self, key: bytes, action: tuple, start: Any) -> None:
        self._open = (key, action, self.net.now)
        start(self._on_done)

    def _on_done(self, call: Call) -> None:
        assert self._open is not None
        key, action, called = self._open
        self._open = None
        value = call.result()
        self.history.append(Operation(key, action, value, called, self.net.now, self.name))
        if action[0] == "get":
            self.last[key] = value
        self.net.call_at(self.net.now + self.net.random.uniform(0, 0.1), self.next)

    def tick(self) -> None:
        if self.alive:
            self.client.tick(self.net.now)
            self.client.check()
            self.net.call_at(self.net.now + 0.05, self.tick)

    def operations(self) -> list[Operation]:
        """The history; an operation without an answer is in it as UNANSWERED."""
        if self._open is None:
            return self.history
        key, action, called = self._open
        return [*self.history, Operation(key, action, None, called, UNANSWERED, self.name)]


def node_id(number: int) -> bytes:
    return b"%c%03d" % (65 + number // 1000, number % 1000) + bytes(4) + b"%020d" % number


class SimStore:
    """Nodes and clients on one SimNetwork."""

    def __init__(self, seed: int, nodes: int = 4, clients: int = 4, operations: int = 25, keys: int = 6,
                 faults: Faults | None = None, network: SimNetwork | None = None) -> None:
        """``network``: instead of one with ``seed`` and ``faults``."""
        self.net = network or SimNetwork(seed, faults)
        self.keys = keys
        self.nodes: dict[bytes, SimGcsNode] = {}
        self.recorded: dict[tuple[bytes, int], RecordingReplica] = {}
        self.changes: dict[bytes, Change] = {}  # digest -> change of the update that led to it
        self.committed: dict[tuple[int, int], bytes] = {}  # (shard, length) -> digest of a history that a tail answered
        self.configs: dict[int, ClusterConfig] = {}
        self.clients: list[SimClient] = []
        self.starvings = 0
        self._numbers = 0
        self._operations = operations
        first = self._start(None)
        first.perform(lambda: first.service.admit({"node_id": first.node_id, "name": "first"}, self._admitted(first)))
        self._listen()
        for i in range(1, nodes):
            self.net.call_at(0.02 * i, self.join)
        for _ in range(clients):
            self.net.call_at(0.02 * nodes + 0.3, self.add_client)

    # ------------------------------------------------------------ nodes come and go

    def _start(self, hints: list | None) -> SimGcsNode:
        node = SimGcsNode(self, self._numbers, hints)
        self._numbers += 1
        self.nodes[node.name] = node
        return node

    def join(self) -> None:
        """A new node asks a live node, and starts when it has the answer."""
        host = self.net.random.choice(self.up())
        number, self._numbers = self._numbers, self._numbers + 1
        row = {"node_id": node_id(number), "name": f"n{number}"}

        def answered(refused: str, ordinal: int) -> None:
            assert not refused, refused
            hints = host.service.hints()
            self.net.call_at(self.net.now + 0.001, started, hints)

        def started(hints: list) -> None:
            node = SimGcsNode(self, number, hints)
            self.nodes[node.name] = node

        host.perform(lambda: host.service.admit(row, answered))

    @staticmethod
    def _admitted(node: SimGcsNode) -> Callable[[str, int], None]:
        def then(refused: str, ordinal: int) -> None:
            assert not refused, refused

        return then

    def add_client(self) -> None:
        number = len(self.clients) + 1
        self.clients.append(SimClient(self.net.random.choice(self.up()), number, self._operations))

    def crash(self, node: SimGcsNode, proven: bool) -> None:
        """kill -9; ``proven``: the others find its endpoint closed, some sooner than others, else it is only silent."""
        self.net.crash(node.name)
        for other in self.nodes.values():
            if proven and other is not node and self.net.random.random() < 0.7:
                self.net.call_at(self.net.now + self.net.random.uniform(0, 0.01), other.perform,
                                 lambda other=other: other.service.peer_closed(node.name, True))

    def pause(self, node: SimGcsNode, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        node.paused = True
        self.net.trace("pause", node.name, seconds)
        self.net.call_at(self.net.now + seconds, node.resume)

    def starve(self, node: SimGcsNode, seconds: float) -> None:
        """The node gets no turn for a while, but its libzmq answers."""
        node.starved = True
        self.starvings += 1
        self.pause(node, seconds)

    def _listen(self) -> None:
        up = self.up()
        for node in up:
            node.listen([other for other in self.nodes.values() if other is not node])
        self.net.call_at(self.net.now + LISTEN_S, self._listen)

    def leave(self, node: SimGcsNode) -> None:
        def gone() -> None:
            node.left = True
            self.net.call_at(self.net.now + 0.05, self.net.crash, node.name)

        node.leaving = True
        node.perform(lambda: node.service.leave("planned", gone))

    def up(self) -> list[SimGcsNode]:
        return [node for node in self.nodes.values() if node.working and not node.paused]

    def last_replica(self, name: bytes, shard: int) -> RecordingReplica:
        return self.recorded[name, shard]

    @property
    def config(self) -> ClusterConfig:
        """The last configuration that some node knows to be decided."""
        return max((node.service.config for node in self.nodes.values()), key=lambda config: config.generation)

    def survivable(self, victim: SimGcsNode) -> bool:
        """Whether the store must survive if ``victim`` never comes back.

        In every configuration that holds or may come to hold, a majority of voters remains, and a replica with all
        acknowledged writes.
        """
        up = {node.name for node in self.nodes.values() if node.working and node is not victim}
        if any(node.leaving and node.working for node in self.nodes.values()) and any(
                not node.working and self._part_of(node) for node in self.nodes.values()):
            return False  # the parts of the leaving node may move to a node that has ended unnoticed
        possible = [self.config]
        for node in self.nodes.values():  # proposals of dead nodes may still arrive
            control = node.service.control
            accepted = control.acceptor.accepted
            possible += [value for value in (accepted[1] if accepted else None, control.proposer.value)
                         if value is not None and value.generation > self.config.generation]
        return all(majority(config.voters, up) and all(self._held(chain, shard, up)
                   for shard, chain in enumerate(config.chains)) for config in possible)

    def _part_of(self, node: SimGcsNode) -> bool:
        def knows(other: SimGcsNode) -> int:
            return other.service.replicas[0].applied if 0 in other.service.replicas else -1

        rows = max(self.up(), key=knows, default=node).service.control.rows
        return node.name in self.config.involved or node.name not in rows or rows[node.name].state == ALIVE

    def _held(self, chain: ChainConfig, shard: int, up: set[bytes]) -> bool:
        for name in chain.members:
            replica = self.nodes[name].service.replicas.get(shard) if name in up else None
            if replica is not None and replica.established and replica.config.epoch >= chain.since_of(name):
                return True
        return False

    # ------------------------------------------------------------ invariants

    def observe(self, node: SimGcsNode) -> None:
        """Called after every event at a node."""
        node.service.check()
        for replica in node.service.replicas.values():
            assert isinstance(replica, RecordingReplica)
            assert not replica.counters["unsafe"], "a head that may lack acknowledged writes"
            if replica.serving:
                digest = replica.digests[replica.committed]
                known = self.committed.setdefault((replica.shard, replica.committed), digest)
                assert known == digest, "two histories were answered for"

    def check(self) -> None:
        """The two invariants of section 3.2, between neighbours in the same epoch."""
        config = self.config
        for shard, chain in enumerate(config.chains):
            members = [self.nodes[name].service.replicas.get(shard) for name in chain.members if self.net.alive(name)]
            for before, after in zip(members, members[1:], strict=False):
                if before is None or after is None or not after.established:
                    continue
                if not before.config.epoch == after.config.epoch == chain.epoch:
                    continue
                assert isinstance(before, RecordingReplica) and isinstance(after, RecordingReplica)
                assert after.applied <= before.applied, "Update Propagation Invariant"
                assert after.digests[after.applied] == before.digests[after.applied], "Update Propagation Invariant"
                assert before._sent_base <= after.applied, "Inprocess Requests Invariant"

    def settle(self, seconds: float = 20.0) -> None:
        """Heal everything; then the store must become whole, all clients must finish, and watches must agree."""
        self.net.heal()
        for node in self.nodes.values():
            if node.paused:
                node.resume()
        end = self.net.now + seconds
        while self.net.now < end and not self._settled():
            self.net.run_until(self.net.now + 0.05)
        assert self._settled(), self.describe()
        self.check()

    def _settled(self) -> bool:
        up = self.up()
        config = self.config
        if any(node.service.config.generation != config.generation for node in up):
            return False
        names = {node.name for node in up}
        if not set(config.voters) <= names or len(config.voters) != voters_wanted(len(up)):
            return False
        living = {name for name, row in up[0].service.control.rows.items() if row.state == ALIVE}
        return (living == names
                and all(self._whole(shard, chain, names) for shard, chain in enumerate(config.chains))
                and all(client.finished for client in self.clients if client.alive)
                and all(not self.missed(client) for client in self.clients if client.alive))

    def _whole(self, shard: int, chain: ChainConfig, up: set[bytes]) -> bool:
        """Whether all members of a chain live, are as many as wanted, and have the same state."""
        if chain.joining or not set(chain.members) <= up or len(chain.members) != min(REPLICAS, len(up)):
            return False
        members = [self.nodes[name].service.replicas[shard] for name in chain.members]
        return all(r.applied == r.committed == members[0].applied and r.established for r in members)

    def missed(self, client: SimClient) -> str:
        """The fault in the watch of a client; '' for none.

        A watch gets one present state, and then every later change of each shard once, in that shard's order.
        """
        if not client.seen:
            return "nothing arrived"
        positions = [position for position, _, _ in client.seen]
        resets = [reset for _, reset, _ in client.seen]
        if positions != sorted(set(positions)) or resets != [True] + [False] * (len(resets) - 1):
            return f"positions {positions}, resets {resets}"
        for shard in range(SIM_SHARDS):
            start, *later = [[(change.key, change.value) for change in changes
                              if shard_of(change.key, SIM_SHARDS) == shard]
                             for _, _, changes in client.seen]
            received = [change for changes in later for change in changes]
            truth = [(change.key, change.value) for change in self.committed_changes(shard)]
            before = len(truth) - len(received)
            rows: dict[bytes, bytes | None] = dict(truth[:max(0, before)])
            present = {key: value for key, value in rows.items() if value is not None}
            if before < 0 or truth[before:] != received or dict(start) != present:
                return f"shard {shard}: began with {start}, received {received}, of {truth}"
        return ""

    def _tail(self, shard: int) -> RecordingReplica:
        replica = self.nodes[self.config.chains[shard].tail].service.replicas[shard]
        assert isinstance(replica, RecordingReplica)
        return replica

    def committed_changes(self, shard: int) -> list[Change]:
        """Every change of clients' rows in the surviving history, in order."""
        digests = self._tail(shard).digests
        changes = [self.changes[digests[n]] for n in sorted(digests) if digests[n] in self.changes]
        return [change for change in changes if change.key.startswith(PREFIX)]

    def final_state(self) -> dict[bytes, bytes]:
        return {key: row.value for shard in range(SIM_SHARDS)
                for key, row in self._tail(shard).state.tables.rows.items() if key.startswith(PREFIX)}

    def describe(self) -> str:
        lines = [f"seed {self.net.seed} at {self.net.now:.3f} {self.config}"]
        for node in self.nodes.values():
            control = node.service.control
            lines.append(f"{node.name!r} up={self.net.alive(node.name)} paused={node.paused} fenced={node.fenced} "
                         f"left={node.left} generation={control.config.generation} "
                         f"rows={ {n: r.state for n, r in control.rows.items()} } gone={control.membership.gone}")
            if node.working:
                lines.append(f"    proposer={control.is_proposer(node.clock())} phase={control.proposer.phase} "
                             f"accepted={control.acceptor.accepted} released={control.released}")
            for r in node.service.replicas.values():
                lines.append(f"    shard={r.shard} epoch={r.config.epoch} applied={r.applied} committed={r.committed} "
                             f"established={r.established} lease={r.lease_until - node.clock():.3f} {dict(r.counters)}")
        lines += [f"{c.name!r} alive={c.alive} left={c.left} open={c._open} missed={self.missed(c)} "
                  f"{dict(c.client.counters)}" for c in self.clients]
        return "\n".join(lines)
