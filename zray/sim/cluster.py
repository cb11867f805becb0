"""A whole node in one thread: production machines of owners, workers and node on a simulated, faulty network.

    cluster = SimCluster(seed, Plan.random(seed))
    cluster.run()               # faults, then healing, then everything dropped; raises Violation
    cluster.net.trace_hash()    # one seed, one schedule

A run has three phases.  While faults last, drivers submit, get, cancel, kill and die, workers are killed, frames are
lost, doubled and late.  Then the network heals and every driver must get everything it waits for within a bounded
time.  Then every reference is dropped, and nothing may be left: no object, hold, lease, worker in use or actor.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.config import Config
from zray.node.machine import PYTHON, Death
from zray.owner.records import Function
from zray.sim.core import Core
from zray.sim.describe import describe
from zray.sim.driver import SimDriver
from zray.sim.mesh import Wire
from zray.sim.network import SimNetwork
from zray.sim.node import NODE, SimNode
from zray.sim.oracle import Oracle, Violation
from zray.sim.plan import FAULTS_S, Plan
from zray.sim.worker import SimWorker

HEAL_S = 60.0  # simulated time in which everything must be resolved once the network is well
MACHINE_CHECK_EVERY = 4  # turns of any process
CHECK_EVERY = 40


class SimCluster:
    """One node, its workers and drivers, under one seed."""

    def __init__(self, seed: int, plan: Plan | None = None) -> None:
        self.seed = seed
        self.plan = plan or Plan.random(seed)
        self.net = SimNetwork(seed, self.plan.faults)
        self.python = PYTHON + ".0"
        self.config = Config(worker_idle_s=1.0)
        self.wire = Wire(self.net)
        self.oracle = Oracle(self)
        self.workers: dict[bytes, SimWorker] = {}
        self.watched: set[bytes] = set()  # drivers whose process the node watches
        self.cores: dict[bytes, Core] = {}
        self.functions: dict[str, Function] = {}
        self._workers_made = 0
        self._turns = 0
        self.node = SimNode(self)
        self.node.start()
        self.drivers = [SimDriver(self, number) for number in range(self.plan.drivers)]
        self.cores.update({driver.incarnation: driver for driver in self.drivers})

    # ------------------------------------------------------------ what processes need

    def new_worker_id(self) -> bytes:
        self._workers_made += 1
        return NODE[:4] + self._workers_made.to_bytes(4, "big") + bytes(20)

    def function(self, kind: str, blob: bytes) -> Function:
        return Function(kind.encode(), blob, kind)

    def error(self, error: Exception) -> None:
        raise error

    def stepped(self, process: Any) -> None:
        self._turns += 1
        if self._turns % MACHINE_CHECK_EVERY == 0:
            process.check()
        if self._turns % CHECK_EVERY == 0:
            self.oracle.check_references()

    # ------------------------------------------------------------ processes come and go

    def spawn(self, worker_id: bytes) -> None:
        incarnation = worker_id[:8]
        if self.net.random.random() < 0.02:
            self.node.machine.worker_spawned(worker_id, 0, "fork failed", self.net.now)
            self.node.stir()
            return
        pid = 10_000 + self._workers_made
        worker = SimWorker(self, incarnation, pid)
        self.workers[incarnation] = self.cores[incarnation] = worker
        self.node.machine.worker_spawned(worker_id, pid, "", self.net.now)
        self.node.stir()

    def kill_worker(self, incarnation: bytes) -> None:
        worker = self.workers.get(incarnation)
        if worker is not None:
            self.crash(worker, "killed")
        elif incarnation in self.node.machine.pool.workers:
            self.net.call_at(self.net.now + 0.001, self.kill_worker, incarnation)  # it has no process yet

    def crash(self, core: Core, why: str) -> None:
        """The process ends now, without a word."""
        if core.alive:
            core.crashed = True
            self.oracle.happened["crash"] += 1
            self._gone(core, 9, 0)

    def planned_exit(self, worker: SimWorker) -> None:
        """It has flushed everything; it goes once that is with the network."""
        worker._turn()
        if not worker.alive:
            return
        # What the network loses from now on nobody sends again: for its tasks that is a crash.
        worker.crashed = worker.mesh.pending() > 0 or worker.mesh.unacknowledged() > 0
        self.oracle.happened["crash"] += worker.crashed
        self._gone(worker, 0, 0)

    def _gone(self, core: Core, signal: int, exit_code: int) -> None:
        core.alive = False
        self.net.trace("gone", core.incarnation, signal)
        self.wire.close(core.incarnation)
        self.cores.pop(core.incarnation, None)
        when = self.net.now + self.net.random.uniform(0.0005, 0.003)
        if isinstance(core, SimWorker):
            del self.workers[core.incarnation]
            lease, started, finished = core.marks
            death = Death(signal, exit_code, lease, started, finished)
            self.net.call_at(when, self._worker_exited, core.incarnation, death)
        else:
            self.net.call_at(when, self._driver_exited, core.incarnation)

    def _worker_exited(self, incarnation: bytes, death: Death) -> None:
        self.node.machine.worker_exited(incarnation, death, self.net.now)
        self.node.stir()

    def _driver_exited(self, incarnation: bytes) -> None:
        if incarnation not in self.watched:  # its Hello has not arrived, and never will
            return
        self.node.machine.process_exited(incarnation, self.net.now)
        self.node.stir()

    # ------------------------------------------------------------ the run

    def run(self) -> None:
        """All three phases."""
        self._schedule_faults()
        self.net.run_until(FAULTS_S)
        self.net.heal()
        self._until("every driver has what it waits for",
                    lambda: all(driver.finished for driver in self.drivers if driver.alive))
        for driver in self.drivers:
            if driver.alive:
                driver.drop_all()
        self._until("nothing is left", self._empty)
        self.oracle.check_references()
        self.node.check()
        for core in self.cores.values():
            core.check()

    def _schedule_faults(self) -> None:
        random = self.net.random
        for _ in range(self.plan.kills):
            self.net.call_at(random.uniform(0.01, FAULTS_S), self._kill_some_worker)
        for number in range(self.plan.driver_deaths):
            self.net.call_at(random.uniform(0.01, FAULTS_S), self._kill_driver, number)

    def _kill_some_worker(self) -> None:
        if self.workers:
            self.crash(self.net.random.choice(list(self.workers.values())), "killed by the schedule")

    def _kill_driver(self, number: int) -> None:
        driver = self.drivers[number]
        if driver.alive and driver.job:
            self.crash(driver, "killed by the schedule")

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = self.net.now + HEAL_S
        while self.net.now < deadline:
            if condition():
                return
            self.net.run_until(min(deadline, self.net.now + 0.05))
        raise Violation(f"seed {self.seed}: after {HEAL_S:g} s without faults it is not true that "
                        f"{what}\n{describe(self)}")

    def _empty(self) -> bool:
        machine = self.node.machine
        return (all(core.quiet() for core in self.cores.values()) and not machine.placements
                and machine.scheduler.available() == machine.scheduler.total()
                and all(actor.state == "DEAD" for actor in machine.actors.actors.values()))
