"""The workers of a node as the memory monitor sees them, and the end of those that it chooses.  Pure.

An idle worker is asked to end (it may own what others need), a busy one is killed.  The owner of a lease gets the
reason and the memory that its task should ask for (WorkerDied); an actor restarts as after any other death.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zray.base.config import Config
from zray.base.ports import Ports
from zray.node.actors.foreign import ForeignActors
from zray.node.actors.table import ActorTable
from zray.node.context import NodeContext
from zray.node.jobs.task_events import TaskEventLog
from zray.node.leases.local import Leases
from zray.node.leases.placements import Placement, Placements
from zray.node.processes.memory import Candidate, MemoryMonitor, MemoryPorts, MemoryVerdict, Reading, rounded_up
from zray.node.processes.pool import State, WorkerPool, WorkerRecord
from zray.sched.node.grouped import NodeScheduler
from zray.sched.resources import MEMORY, UNIT, units

RUNS = (State.LEASED, State.ACTOR)


class ReliefPorts(Ports):
    """Ports of the relief of memory."""

    config: Config
    pool: WorkerPool
    placements: Placements
    scheduler: NodeScheduler
    leases: Leases
    actors: ActorTable
    foreign: ForeignActors
    events: TaskEventLog
    read: Callable[[], Sequence[Reading]]
    held: Callable[[int], int]  # bytes that only this process holds


class MemoryRelief:
    """See the module's docstring."""

    def __init__(self, context: NodeContext, ports: ReliefPorts):
        self._context = context
        self._ports = ports
        config = ports.config
        self.monitor = MemoryMonitor(
            config.memory_monitor_s, config.memory_share_max, config.memory_enforced,
            MemoryPorts(ports.read, ports.held, self._candidates, self._charge, self._most, self._end))
        self.next_deadline = self.monitor.next_deadline

    def settle(self, now: float) -> None:
        self.monitor.settle(bool(self._ports.placements), now)

    def tick(self, now: float) -> None:
        self.monitor.tick(now)

    def worker_gone(self, worker: bytes) -> None:
        self.monitor.gone(worker)

    def _most(self) -> int:
        return self._ports.scheduler.total().get(MEMORY, 0) // UNIT

    def _candidates(self) -> list[Candidate]:
        pool, running = self._ports.pool, self._ports.events.running_on()
        return [self._candidate(worker, running) for worker in pool.workers.values()
                if worker.pid and (worker.state in RUNS or worker.state is State.IDLE and pool.may_retire(worker))]

    def _candidate(self, worker: WorkerRecord, running: dict[bytes, str]) -> Candidate:
        placement = self._ports.placements.get(worker.lease) if worker.state in RUNS else None
        if placement is None:
            return Candidate(worker.incarnation, worker.pid, worker.job, "", worker.state is State.IDLE, True,
                             worker.since)
        name, may_run_again = self._work(placement)
        resources = placement.assigned.get("resources") or {}
        return Candidate(worker.incarnation, worker.pid, worker.job, running.get(worker.incarnation) or name, False,
                         may_run_again, worker.since, int(resources.get(MEMORY, 0)))

    def _work(self, placement: Placement) -> tuple[str, bool]:
        """What it runs, and whether that may run again."""
        ports = self._ports
        if not placement.actor:
            declared = ports.leases.declared().get((placement.owner, placement.key))
            return (declared.name, not declared.strategy.get("once")) if declared is not None else ("", True)
        actor = ports.actors.actors.get(placement.actor)
        if actor is not None:
            return actor.spec.get("class_name", ""), actor.restarts_left != 0
        foreign = ports.foreign.actors.get(placement.actor)
        spec = foreign.spec if foreign is not None else {}
        return spec.get("class_name", ""), spec.get("max_restarts", 0) != 0

    def _charge(self, held: dict[bytes, int]) -> None:
        """Let each of these leases use the memory that its worker holds, as far as there is some left to give out.

        Bundles are what they are: leases in them stay as they are.
        """
        scheduler = self._ports.scheduler
        for worker, nbytes in held.items():
            placement = self._ports.placements.get(self._ports.pool.workers[worker].lease)
            if placement is None or "group" in placement.assigned:
                continue
            demand = self._demand(placement)
            asked = demand.get(MEMORY, 0)
            more = min(rounded_up(nbytes) * UNIT - asked - placement.charged,
                       scheduler.available().get(MEMORY, 0))
            if more > 0 and scheduler.resize(placement.lease, {**demand, MEMORY: asked + placement.charged + more}):
                placement.charged += more

    def _demand(self, placement: Placement) -> dict[str, int]:
        """What its lease uses, in units: of an actor, what that needs while it lives."""
        if not placement.actor:
            return {name: units(amount, name) for name, amount in (placement.assigned.get("resources") or {}).items()}
        actor = self._ports.actors.actors.get(placement.actor) or self._ports.foreign.actors.get(placement.actor)
        spec = actor.spec if actor is not None else {}
        running = spec.get("running")
        return dict(spec.get("demand") or {} if running is None else running)

    def _end(self, verdict: MemoryVerdict) -> None:
        worker, pool, now = self._ports.pool.workers[verdict.worker], self._ports.pool, self._context.now
        self._context.counts["memory_ends"] += 1
        if worker.state is State.IDLE:
            pool.retire(worker, verdict.reason, now)
        else:
            worker.ask = {MEMORY: verdict.ask * UNIT} if verdict.ask else {}
            pool.kill(worker, verdict.reason, now)

    def check(self) -> None:
        self.monitor.check()
