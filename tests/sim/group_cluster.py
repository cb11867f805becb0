"""Several NodeMachines, their placement groups, and a network that loses, repeats and reorders what they say about
bundles; nodes die.  One thread, one seed."""

from __future__ import annotations

from random import Random

from tests.oracles.packing_brute import placings
from zray.base.config import Config
from zray.base.ends import Ends
from zray.base.ids import group_id
from zray.base.ports import changed
from zray.node.effects import Kill, Send, Spawn
from zray.node.machine import Death, NodeMachine, NodePorts, NoHost, no_logs
from zray.node.processes.memory import Reading
from zray.sched.node.bundles import BundleState
from zray.sched.node.local import LocalScheduler
from zray.sched.view import ClusterView
from zray.sim.files import MemoryFiles
from zray.sim.network import Faults, SimNetwork
from zray.wire import messages as m

U = 10_000
GOSSIP_S = 0.1
NOTICED_S = 0.5  # a death is known this long after
FAULTY = {m.BundleReserve, m.BundleReserved, m.BundleCommit, m.BundleReturn, m.BundleAck}


class GroupRows:
    """A control store for all nodes that answers at once."""

    def __init__(self) -> None:
        self.names: dict = {}
        self.rows: dict[bytes, dict] = {}

    def claim(self, namespace, name, actor, then): then(actor)  # noqa: E704
    def release(self, namespace, name, actor): pass  # noqa: E704
    def find(self, namespace, name, then): then(b"")  # noqa: E704
    def record_actor(self, actor, row, then=None): pass  # noqa: E704
    def record_job(self, job, row): pass  # noqa: E704
    def job_ended(self, job, then): then(False)  # noqa: E704
    def job_is_used(self, job, but_home, then): then(False)  # noqa: E704

    def claim_group(self, namespace, name, group, then):
        then(self.names.setdefault((namespace, name), group))

    def release_group(self, namespace, name, group):
        if self.names.get((namespace, name)) == group:
            del self.names[namespace, name]

    def record_group(self, group, row):
        if row is None:
            self.rows.pop(group, None)
        else:
            self.rows[group] = row

    def find_group(self, group, then):
        then(self.rows.get(group))

    def fence(self, nodes, then):
        then()

    def list_groups(self, then):
        then(list(self.rows.items()))

    def swap_group(self, group, old, new, then):
        now = self.rows.get(group)
        if now == old:
            self.rows[group] = new
        then(now == old, self.rows.get(group))


class GroupClusterNode:
    """One node with a driver that takes and returns leases, in groups and outside."""

    def __init__(self, cluster: GroupCluster, number: int, total: dict[str, int]) -> None:
        self.cluster, self.net = cluster, cluster.net
        self.me = bytes([number, 1, 1, 1, 0, 0, 0, 0])
        self.driver = self.me[:4] + b"\x80\0\0\1"
        self.total, self.spawned, self.number = total, 0, number
        self.held: list[int] = []  # leases of the driver
        self.keys: dict[bytes | None, int] = {}
        self.granted: dict[int, int] = {}
        self.states: dict[bytes, m.GroupState] = {}  # as the driver hears them
        self.machine = NodeMachine(
            incarnation=self.me, node={"NodeID": self.me.hex()}, names=cluster.names,
            scheduler=LocalScheduler(total, node=self.me), config=Config(), keep=1, ports=NodePorts(
                ends=Ends(), new_worker_id=self.new_worker, attach=lambda peer, pid: {}, environ={},
                store_report=dict, stored_bytes=int, gcs_report=dict, ownerless=lambda has_ended: [],
                free_unheld=lambda objects: None, epoch_s=0.0, logs=no_logs, checkpoints=MemoryFiles(),
                host=NoHost(), send_output=lambda: None, stops=list,
                read_memory=lambda: [Reading(0, 1 << 30, "a test")], memory_of=lambda pid: 0))
        groups = self.machine.groups
        groups.ports = changed(groups.ports, cluster_view=self.view, node_id=bytes.hex)
        self._tick_at: float | None = None
        self.net.register(self.me, self.on_message)
        self.machine.start(0.0)
        self.hear(self.driver, m.Hello(m.PROTOCOL, "driver", "", 1, 0, "", []))
        self.machine.drivers.hellos[self.driver] = m.Hello(m.PROTOCOL, "driver", "", 1, 0, "", [])
        self.hear(self.driver, m.RegisterDriver({}))

    def new_worker(self) -> bytes:
        self.spawned += 1
        return self.me[:4] + self.spawned.to_bytes(4, "big") + bytes(20)

    def view(self) -> ClusterView:
        """Everybody as the last gossip had it; this node exactly."""
        view = ClusterView()
        for node, (total, free) in self.cluster.gossip.items():
            if node == self.me:
                free = self.machine.scheduler.available()
            row = view.add(node, total)
            used = {name: value - max(0, free.get(name, 0)) for name, value in total.items()}
            view.acquire(row, view.index.demand(used) or ())
        return view

    def on_message(self, source: bytes, message) -> None:
        self.hear(source, message)

    def hear(self, peer: bytes, message) -> None:
        self.machine.handle(peer, message.CODE, message, self.net.now)
        self.perform()

    def perform(self) -> None:
        effects = self.machine.effects
        while effects:
            effect = effects.pop(0)
            if isinstance(effect, Spawn):
                self.machine.worker_spawned(effect.worker, self.spawned, "", self.net.now)
                peer = effect.worker[:8]
                self.hear(peer, m.Hello(m.PROTOCOL, "worker", "ipc://w", self.spawned, 0, "3.11.1", []))
                self.hear(peer, m.WorkerReady(self.spawned))
            elif isinstance(effect, Kill):
                self.net.call_at(self.net.now + 0.01, self.worker_ends, effect.incarnation)
            elif isinstance(effect, Send):
                self.sent(effect.peer, effect.message)
        self.machine.check()
        when = self.machine.next_deadline()
        if when is not None and (self._tick_at is None or when < self._tick_at):
            self._tick_at = max(when, self.net.now)
            self.net.call_at(self._tick_at, self.tick, self._tick_at)

    def sent(self, peer: bytes, message) -> None:
        if peer in self.cluster.nodes:
            self.cluster.deliver(self.me, peer, message)
        elif isinstance(message, m.LeaseGrant) and peer == self.driver:
            self.granted[message.key] += 1
            self.held.append(message.lease)
        elif isinstance(message, m.WorkerDied) and message.lease in self.held:
            self.held.remove(message.lease)
        elif isinstance(message, m.GroupState):
            self.states[message.group] = message

    def worker_ends(self, worker: bytes) -> None:
        if self.alive and worker in self.machine.pool.workers:
            self.machine.worker_exited(worker, Death(signal=9), self.net.now)
            self.perform()

    def tick(self, when: float) -> None:
        if self._tick_at == when and self.alive:
            self._tick_at = None
            self.machine.tick(self.net.now)
            self.perform()

    @property
    def alive(self) -> bool:
        return self.net.alive(self.me)

    def want(self, group: bytes | None, want: int) -> None:
        key = self.keys.get(group)
        if key is None:
            key = self.keys[group] = len(self.keys) + 1
            self.granted[key] = 0
            strategy = {} if group is None else {"kind": "group", "group": group, "bundle": -1, "capture": False}
            self.hear(self.driver, m.LeaseKey(key, {"CPU": U}, {}, strategy, "f"))
        self.hear(self.driver, m.LeaseWant(key, want, self.granted[key]))

    def give_lease_back(self, random: Random) -> None:
        if self.held:
            self.hear(self.driver, m.LeaseReturn(self.held.pop(random.randrange(len(self.held)))))


class GroupCluster:
    """``nodes`` of 2 to 4 CPUs."""

    def __init__(self, seed: int, nodes: int, faults: Faults | None = None) -> None:
        self.net = SimNetwork(seed, faults or Faults(drop=0.1, duplicate=0.1, slow=0.1))
        self.random = self.net.random
        self.names = GroupRows()
        self.gossip: dict[bytes, tuple[dict, dict]] = {}
        self.nodes: dict[bytes, GroupClusterNode] = {}
        self.created = 0
        self.groups: dict[bytes, tuple[GroupClusterNode, list, str]] = {}
        for number in range(1, nodes + 1):
            node = GroupClusterNode(self, number, {"CPU": self.random.randint(2, 4) * U})
            self.nodes[node.me] = node
            self.gossip[node.me] = node.total, dict(node.total)
        self.net.call_at(0.0, self.gossips)

    @property
    def live(self) -> list[GroupClusterNode]:
        return [node for node in self.nodes.values() if node.alive]

    def deliver(self, source: bytes, target: bytes, message) -> None:
        if type(message) in FAULTY:
            self.net.send(source, target, message)
        else:  # what the transport's sessions bring for certain
            when = self.net.now + self.random.uniform(0.001, 0.01)
            self.net.call_at(when, self.net._deliver, source, target, message)

    def gossips(self) -> None:
        for node in self.live:
            self.gossip[node.me] = node.total, node.machine.scheduler.available()
        for node in self.live:
            node.machine.groups.table.view_changed()
            node.machine.tick(self.net.now)
            node.perform()
        self.net.call_at(self.net.now + GOSSIP_S, self.gossips)

    def create(self, node: GroupClusterNode, bundles: list[dict], strategy: str, detached: bool = False) -> bytes:
        self.created += 1
        group = group_id(node.me, bytes(16), self.created)
        spec = {"bundles": bundles, "strategy": strategy, "name": "", "namespace": "", "detached": detached}
        node.hear(node.driver, m.CreateGroup(group, spec, 0))
        node.hear(node.driver, m.WatchGroup(group))
        self.groups[group] = node, bundles, strategy
        return group

    def kill(self, node: GroupClusterNode) -> None:
        self.net.crash(node.me)
        self.net.call_at(self.net.now + NOTICED_S, self.noticed, node)

    def noticed(self, dead: GroupClusterNode) -> None:
        self.gossip.pop(dead.me, None)
        for node in self.live:
            node.machine.context.now = self.net.now
            node.machine.context.ends.node_ended(dead.me)
            node.machine.groups.node_ended(dead.me)
            node.machine.tick(self.net.now)
            node.perform()

    # ------------------------------------------------------------ what must hold

    def check_settled(self) -> None:
        """Nothing is on its way: nodes have exactly what the homes believe."""
        here: dict[tuple[bytes, int], bytes] = {}
        for node in self.live:
            node.machine.check()
            for found in node.machine.scheduler.bundles.rounds.values():
                if found.state is not BundleState.COMMITTED:
                    assert self.asks(found.group, found.attempt, node.me), f"{found.state.name} is left on a node"
                if found.state is BundleState.COMMITTED:
                    for bundle in found.bundles:
                        assert (bundle.group, bundle.index) not in here, "a bundle is on two nodes"
                        here[bundle.group, bundle.index] = node.me
        believed = {}
        for home in self.live:
            for group, found in home.machine.groups.table.groups.items():
                for index, place in enumerate(found.nodes):
                    if place:
                        believed[group, index] = place
                assert found.state != "CREATED" or all(found.nodes)
                assert self.names.rows[group]["state"] == found.state, "the control store says something else"
        assert here == believed, "a bundle without a home's knowledge, or the other way round"
        self.check_placed()

    def asks(self, group: bytes, attempt: int, node: bytes) -> bool:
        """Is that round under way at its home?"""
        found = self.home(group).machine.groups.table.groups[group]
        return found.attempt == attempt and found.round is not None and node in found.round.asked

    def home(self, group: bytes) -> GroupClusterNode:
        """Who takes care of a group now."""
        [home] = [node for node in self.live if group in node.machine.groups.table.groups]
        return home

    def check_placed(self) -> None:
        """No group that would fit now is left without a place."""
        free = [node.machine.scheduler.available() for node in self.live]
        for home in self.live:
            for found in home.machine.groups.table.groups.values():
                if found.state == "PENDING":
                    assert not any(True for _ in placings(free, found.bundles, found.strategy)), \
                        f"{found.strategy} of {found.bundles} waits, though {free} is free"
