"""Whole nodes in one thread: production machines of owners, workers and nodes on a simulated, faulty network.

    cluster = SimCluster(seed, Plan.random(seed))
    cluster.run()               # faults, then healing, then everything dropped; raises Violation
    cluster.net.trace_hash()    # one seed, one schedule

During the whole run every want that can be met is met within a bounded time (zray.sim.liveness).  A run has three
phases.  First there are faults: drivers submit, get, cancel, kill and die; workers are killed; nodes are killed,
stopped, cut off, join and leave (zray.sim.disasters); frames are lost, doubled and late.  Then the network heals, and
every driver must get everything that it waits for within a bounded time.  Then every reference is dropped, and nothing
may be left on any live node: no object, hold, lease, worker in use, actor, foreign actor, watch or group.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from zray.base.config import Config
from zray.node.jobs.drivers import PYTHON
from zray.node.machine import Death
from zray.sim import leftovers
from zray.sim.core import Core, CoreSurroundings
from zray.sim.describe import describe
from zray.sim.disasters import Disasters
from zray.sim.driver import Janitor, SimDriver
from zray.sim.failure import Violation
from zray.sim.history import GcsHistory
from zray.sim.liveness import Liveness
from zray.sim.mesh import SHARED_FROM_SEED, FrameNetwork, Wire
from zray.sim.node import NodeSurroundings, SimNode
from zray.sim.oracle import Oracle
from zray.sim.plan import OUTAGE_S, SIM_NODE_TIMEOUT_S, Plan
from zray.sim.stores import SimStores
from zray.sim.surroundings import Checked
from zray.sim.worker import SimWorker

GROUP_LEFT_S = 0.5  # longer than the last messages of a dead creator about its group are under way
BEGIN_AGAIN_S = (0.05, 0.5)  # from the end of a node to the request of its process to join again
EXIT_AGAIN_S, EXIT_TRIES = 0.1, 100
HEAL_S = 60.0  # simulated time in which everything must be resolved after the network has healed
MACHINE_CHECK_EVERY = 97  # turns of any process
CHECK_EVERY = 300


class SimCluster:
    """Nodes, their workers and drivers, under one seed."""

    def __init__(self, seed: int, plan: Plan | None = None) -> None:
        self.seed = seed
        self.plan = plan or Plan.random(seed)
        self.net = FrameNetwork(seed, self.plan.faults)
        self.wire = Wire(self.net)
        self.wire.shared = Random(seed) if seed >= SHARED_FROM_SEED else None
        self.wire.admits = self._admits
        self.history = GcsHistory(lambda: self.net.now)
        self.workers: dict[bytes, SimWorker] = {}
        self.cores: dict[bytes, Core] = {}
        self.nodes: dict[bytes, SimNode] = {}  # whose daemons live
        self.drivers: list[SimDriver] = []
        self.nodes_made = 0
        self.returning: list[bytes] = []  # nodes that were declared dead, and are about to begin again
        self.returned: list[bytes] = []  # the nodes that these have become
        self._pids = 10_000
        self._turns = 0
        self._drivers_due = self.plan.drivers
        self.oracle = Oracle(self.cores, self.serving, lambda node: node in self.disasters.starved)
        self.stores = SimStores(self.net, self.plan, self.oracle, self.cores, self._can_serve)
        self.disasters = Disasters(self, self.add_node, self.end_node)
        self.liveness = Liveness(self, self.disasters.is_well)
        common: dict[str, Any] = {
            "seed": seed, "plan": self.plan, "python": PYTHON + ".0", "wire": self.wire, "oracle": self.oracle,
            "config": Config(worker_idle_s=1.0, node_timeout_s=SIM_NODE_TIMEOUT_S, memory_monitor_s=0.05),
            "stores": self.stores, "stepped": self.stepped, "error": self._error, "serving": self.serving}
        self.around_nodes = NodeSurroundings(
            **common, history=self.history, ready=self._node_ready, end=self.end_node, rejoin=self._rejoin,
            spawn=self._spawn, kill=self._kill_worker)
        self.around_cores = CoreSurroundings(**common, crash=self.crash, leave=self._leave)
        for _ in range(self.plan.nodes):
            self.add_node()

    # ------------------------------------------------------------ what processes need

    @staticmethod
    def _error(error: Exception) -> None:
        raise error

    def stepped(self, process: Checked) -> None:
        self._turns += 1
        if self._turns % MACHINE_CHECK_EVERY == 0:
            process.check()
        if self._turns % CHECK_EVERY == 0:
            self.oracle.check_references()

    def serving(self) -> list[SimNode]:
        """Nodes that have joined and live."""
        return [node for node in self.nodes.values() if node.ready]

    def _admits(self, dialler: bytes, listener: bytes) -> bool:
        """The allow-list of the listener's node, which follows its nodes table."""
        host = self.nodes.get(listener[:4] + bytes(4))
        return host is None or not host.knows_gone(dialler)

    def _can_serve(self, source: bytes, reader: bytes) -> bool:
        node = self.nodes.get(source)
        return node is not None and node.ready and not node.paused and self.wire.audible(source, reader)

    # ------------------------------------------------------------ processes come and go

    def add_node(self, through: bytes = b"") -> SimNode:
        self.nodes_made += 1
        through = through or next(iter(self.nodes), b"")
        node = SimNode(self.around_nodes, self.nodes_made)
        self.nodes[node.incarnation] = node
        node.start(through)
        return node

    def _rejoin(self, before: SimNode, ways: list[bytes]) -> None:
        """The process of that daemon executes another one."""
        self.returning.append(before.incarnation)
        self.net.call_at(self.net.now + self.net.random.uniform(*BEGIN_AGAIN_S), self._begin_again, before, ways)

    def _begin_again(self, before: SimNode, ways: list[bytes]) -> None:
        self.returning.remove(before.incarnation)
        serving = {node.incarnation for node in self.serving()}
        way = next((way for way in ways if way in serving), b"")
        if way:  # else no node that it knew lives: it gives up
            self.returned.append(self.add_node(way).incarnation)

    def _node_ready(self, node: SimNode) -> None:
        """It serves: drivers may come."""
        self.net.trace("ready", node.incarnation)
        share = -(-self.plan.drivers // self.plan.nodes)
        for _ in range(min(share, self._drivers_due)):
            self._drivers_due -= 1
            self.add_driver(node)

    def add_driver(self, node: SimNode, kind: type[SimDriver] | None = None) -> SimDriver:
        driver = (kind or SimDriver)(self.around_cores, node, len(self.drivers))
        self.drivers.append(driver)
        self.cores[driver.incarnation] = driver
        return driver

    def _spawn(self, node: SimNode, worker_id: bytes, started_under: tuple = ()) -> None:
        if not node.alive:
            return
        incarnation = worker_id[:8]
        if self.net.random.random() < (0.02 if node.fork_delay == 1.0 else 0.3):
            node.run(self._spawned, node, worker_id, 0, "fork failed")
            return
        self._pids += 1
        worker = SimWorker(self.around_cores, node, incarnation, self._pids)
        worker.started_under = dict(started_under)
        self.workers[incarnation] = self.cores[incarnation] = worker
        if node.paused and self.disasters.frozen(node):
            worker.pause()
        node.run(self._spawned, node, worker_id, worker.pid, "")

    def _spawned(self, node: SimNode, worker_id: bytes, pid: int, error: str) -> None:
        node.machine.worker_spawned(worker_id, pid, error, self.net.now)
        node.stir()

    def _kill_worker(self, node: SimNode, incarnation: bytes) -> None:
        worker = self.workers.get(incarnation)
        if worker is not None:
            self.crash(worker, "killed")
        elif node.alive and incarnation in node.machine.pool.workers:
            self.net.call_at(self.net.now + 0.001, self._kill_worker, node, incarnation)  # it has no process yet

    def crash(self, core: Core, why: str) -> None:
        """The process ends now, without a message."""
        if core.alive:
            core.crashed = True
            self.oracle.happened["crash"] += 1
            self._gone(core, 9, 0)

    def _leave(self, worker: Core) -> None:
        """It has flushed everything; it goes once that is with the network."""
        worker._turn()
        if not worker.alive:
            return
        # Frames that the network loses from now on are not sent again: for its tasks that is a crash.
        worker.crashed = worker.mesh.pending() > 0 or worker.mesh.unacknowledged() > 0
        self.oracle.happened["crash"] += worker.crashed
        self._gone(worker, 0, 0)

    def _gone(self, core: Core, signal: int, exit_code: int) -> None:
        core.alive = False
        self.net.trace("gone", core.incarnation, signal)
        self.wire.close(core.incarnation)
        self.cores.pop(core.incarnation, None)
        for group in sorted(core.groups):
            self.net.call_at(self.net.now + GROUP_LEFT_S, self._remove_group, group, core.job)
        if isinstance(core, SimWorker):
            del self.workers[core.incarnation]
        else:
            self.oracle.happened["group"] += 1  # its groups end with its job
        seconds = self.net.random.uniform(0.0005, 0.003)
        core.host.later(seconds, self._exited, core, signal, exit_code)

    def _remove_group(self, group: bytes, job: int) -> None:
        """Remove the group of a task that did not reach its end: by the driver of its job, or it ends with the job."""
        driver = next((one for one in self.drivers if one.alive and not one.node_is_lost and one.job == job), None)
        if driver is not None:
            driver.run(driver.remove_group, group)

    def _exited(self, core: Core, signal: int, exit_code: int, tries: int = 0) -> None:
        """The node's kernel reports the end of a process, also to a node that begins to watch it only later."""
        node = core.host
        if isinstance(core, SimWorker):
            lease, started, finished = core.marks
            death = Death(signal, exit_code, lease, started, finished)
            node.machine.worker_exited(core.incarnation, death, self.net.now)
        elif core.incarnation in node.watched:
            node.machine.process_exited(core.incarnation, self.net.now)
        elif tries < EXIT_TRIES:  # its Hello may wait in a node that gets no turn
            self.net.call_at(self.net.now + EXIT_AGAIN_S, self._exited, core, signal, exit_code, tries + 1)
        node.stir()

    def end_node(self, node: SimNode, why: str, *, power: bool = False) -> None:
        """The daemon ends with its workers; ``power``: the whole machine ends."""
        if not node.alive:
            return
        self.net.trace("node ends", node.incarnation, why)
        self.oracle.node_ended(node)
        if power:
            self.wire.power_off(node.incarnation)
        node.alive = False
        self.wire.close(node.incarnation)
        self.nodes.pop(node.incarnation, None)
        self.stores.node_ended(node.incarnation)
        for core in [core for core in self.cores.values() if core.host is node]:
            core.resume()
            if power or isinstance(core, SimWorker):
                self.crash(core, why)

    # ------------------------------------------------------------ the run

    def run(self) -> None:
        """All three phases."""
        self._schedule_faults()
        self.net.run_until(self.plan.faults_s)
        self.disasters.over()
        self.wire.heal()
        self.net.heal()
        self._until("every node agrees who lives, and every driver has what it waits for", self._resolved)
        for driver in self.drivers:
            if driver.alive:
                driver.drop_all()
        self._until("nothing is left", lambda: self._swept() and not leftovers.of(self))
        self.oracle.check_references()
        for driver in self.drivers:
            self.crash(driver, "the end")
        self._until("nothing is left of the jobs", lambda: not (leftovers.of(self) or leftovers.of_jobs(self)))
        self.history.check(leftovers.rows(self))
        processes: list[Checked] = [*self.cores.values(), *self.nodes.values()]
        for process in processes:
            process.check()

    def _swept(self) -> bool:
        """Whether a live driver has asked for the end of the detached actors.

        A node that was cut off may be declared dead after the network has healed; requests to it are lost.
        """
        if self.oracle.names and not any(type(driver) is Janitor and driver.alive and not driver.node_is_lost
                                         for driver in self.drivers):
            self.add_driver(self.serving()[0], Janitor)
            return False
        return True

    def _schedule_faults(self) -> None:
        random = self.net.random
        for _ in range(self.plan.kills):
            self.net.call_at(random.uniform(0.01, self.plan.faults_s), self._kill_some_worker)
        for number in range(self.plan.driver_deaths):
            self.net.call_at(random.uniform(0.01, self.plan.faults_s), self._kill_driver, number)
        for what in self.plan.node_faults:
            self.net.call_at(random.uniform(0.05, self.plan.faults_s), self.disasters.happen, what)
        for _ in range(self.plan.starved):
            self.net.call_at(random.uniform(0.05, self.plan.faults_s), self.disasters.happen, "starve")
        for what, times in (("crowd", self.plan.crowds), ("stall", self.plan.stalls),
                            ("squeeze", self.plan.squeezes)):
            for _ in range(times):
                self.net.call_at(random.uniform(0.05, self.plan.faults_s), self.disasters.happen, what)
        for _ in range(self.plan.outages):
            self.net.call_at(random.uniform(0.05, OUTAGE_S), self.disasters.happen, "outage")

    def _kill_some_worker(self) -> None:
        if self.workers:
            self.crash(self.net.random.choice(list(self.workers.values())), "killed by the schedule")

    def _kill_driver(self, number: int) -> None:
        if number < len(self.drivers):
            driver = self.drivers[number]
            if driver.alive and driver.job:
                self.crash(driver, "killed by the schedule")

    def _resolved(self) -> bool:
        return leftovers.settled(self) and all(
            driver.finished and (driver.node_is_lost or not driver.machine.is_asking)
            for driver in self.drivers if driver.alive)

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = self.net.now + HEAL_S
        while self.net.now < deadline:
            if condition():
                return
            self.net.run_until(min(deadline, self.net.now + 0.05))
        raise Violation(f"seed {self.seed}: after {HEAL_S:g} s without faults it is not true that "
                        f"{what}\n{describe(self)}")
