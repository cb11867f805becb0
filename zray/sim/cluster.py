"""A whole node in one thread: production machines of owners, workers and node on a simulated, faulty network.

    cluster = SimCluster(seed, Plan.random(seed))
    cluster.run()               # faults, then healing, then everything dropped; raises Violation
    cluster.net.trace_hash()    # one seed, one schedule

A run has three phases.  While faults last, drivers submit, get, cancel, kill and die, workers are killed, frames are
lost, doubled and late.  Then the network heals and every driver must get everything it waits for within a bounded
time.  Then every reference is dropped, and nothing may be left: no object, hold, lease, worker in use or actor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from zray import messages as m
from zray.config import Config
from zray.gcs.service import GcsService
from zray.node.effects import EndJob, Forget, Kill, Send, Spawn, Watch
from zray.node.machine import PYTHON, Death, NodeMachine
from zray.node.names import GcsNames
from zray.owner.records import Function
from zray.sched.local import LocalScheduler
from zray.sim import programs
from zray.sim.core import UNIT, Core, Failure
from zray.sim.mesh import SimMesh, Wire
from zray.sim.network import Faults, SimNetwork
from zray.sim.oracle import Oracle, Violation
from zray.sim.worker import SimWorker

NODE = b"node0001"
FAULTS_S = 0.6  # how long the first phase lasts
HEAL_S = 60.0  # simulated time in which everything must be resolved once the network is well
MACHINE_CHECK_EVERY = 4  # turns of any process
CHECK_EVERY = 40
SHOWN_MAX = 12  # objects of a process that describe() shows


@dataclass(frozen=True, slots=True)
class Plan:
    """What a schedule may contain; drawn from the seed, so that seeds differ in kind and not only in detail."""

    drivers: int = 2
    cpus: int = 2
    steps: int = 12  # what each driver does
    depth: int = 2
    task_s_max: float = 0.01
    faults: Faults = Faults(0.00005, 0.0005, slow=0.02)
    kills: int = 0  # workers killed
    driver_deaths: int = 0
    cancels: bool = False
    actors: bool = True
    burst: int = 0  # tasks that each driver submits at once, and drains with wait

    @classmethod
    def random(cls, seed: int) -> Plan:
        random = Random(f"plan {seed}")
        faulty = random.random() < 0.6
        return cls(
            drivers=random.randint(1, 3), cpus=random.randint(1, 3), steps=random.randint(3, 12),
            depth=random.randint(0, 2), task_s_max=random.choice((0.0003, 0.01, 0.05)),
            faults=Faults(0.00005, random.choice((0.0003, 0.005)), slow=random.choice((0.03, 0.3)), drop=0.02 * faulty,
                          duplicate=0.05 * faulty),
            kills=random.choice((0, 0, 1, 3, 6)), driver_deaths=random.random() < 0.2, cancels=random.random() < 0.4,
            actors=random.random() < 0.7, burst=random.choice((0, 0, 0, 60, 200)))


class SimNode:
    """The shell around NodeMachine."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.net = cluster.net
        self.incarnation = NODE
        self.mesh = SimMesh(cluster.wire, NODE, 0, self.on_message, self.stir)
        self.mesh.on_error = cluster.error
        self.gcs = GcsService(lambda: self.net.now, self._send, incarnation=NODE)
        self.machine = NodeMachine(
            node={}, scheduler=LocalScheduler({"CPU": cluster.plan.cpus * UNIT}, node=NODE), names=GcsNames(self.gcs.client),
            config=cluster.config, new_worker_id=cluster.new_worker_id, attach=lambda incarnation, pid: {},
            keep=cluster.plan.cpus)
        self.alive = True
        self._turn_due = False
        self._tick_at: float | None = None
        self._mesh_at: float | None = None

    def start(self) -> None:
        self.machine.start(self.net.now)
        self.stir()

    def _send(self, peer: bytes, message: Any) -> None:
        self.mesh.send(peer, message.CODE, message)
        self.stir()

    def on_message(self, peer: bytes, code: int, message: Any) -> None:
        handler = self.gcs.handlers.get(code)
        if handler is not None:
            handler(peer, message)
        else:
            self.machine.handle(peer, code, message, self.net.now)
        self.stir()

    def stir(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self.net.call_at(self.net.now + self.net.random.uniform(0, 0.0003), self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        self.mesh.report_closed()
        effects = self.machine.effects
        while effects:
            batch = effects[:]
            effects.clear()
            for effect in batch:
                self._perform(effect)
        self.mesh.flush()
        when = self.machine.next_deadline()
        if when is not None and (self._tick_at is None or when < self._tick_at):
            self._tick_at = max(when, self.net.now)
            self.net.call_at(self._tick_at, self._tick, self._tick_at)
        due = self.mesh.deadline()
        if due is not None and (self._mesh_at is None or due < self._mesh_at):
            self._mesh_at = due
            self.net.call_at(due, self._tick_mesh, due)
        self.cluster.stepped(self)

    def _tick(self, when: float) -> None:
        if self._tick_at == when:
            self._tick_at = None
            self.machine.tick(self.net.now)
            self.stir()

    def _tick_mesh(self, when: float) -> None:
        if self._mesh_at == when:
            self._mesh_at = None
            self.mesh.tick(self.net.now)
            self.stir()

    def _perform(self, effect: Any) -> None:
        cluster, net = self.cluster, self.net
        if type(effect) is Send:
            self.mesh.send(effect.peer, effect.message.CODE, effect.message)
        elif type(effect) is Spawn:
            net.call_at(net.now + net.random.uniform(0.001, 0.01), cluster.spawn, effect.worker)
        elif type(effect) is Kill:
            net.call_at(net.now + net.random.uniform(0, 0.001), cluster.kill_worker, effect.incarnation)
        elif type(effect) is Watch:
            cluster.watched.add(effect.incarnation)
        elif type(effect) is Forget:
            self.gcs.forget(effect.incarnation)
            self.mesh.forget(effect.incarnation)
        elif type(effect) is EndJob and effect.reply is not None:
            self._send(effect.driver, effect.reply)

    def check(self) -> None:
        self.mesh.check()
        self.machine.check()


class SimDriver(Core):
    """A driver: a job whose script is drawn from the seed."""

    def __init__(self, cluster: SimCluster, number: int) -> None:
        self.random = Random(f"driver {cluster.seed} {number}")
        self.refs_held: list[Any] = []
        self.streams: list[Any] = []
        self.handles: list[Any] = []
        self.script: Iterator[Any] | None = None
        self.finished = False
        self._draining = False
        super().__init__(cluster, b"driver%02d" % number, 1000 + number)
        self.handlers[m.DriverAccepted.CODE] = self._accepted
        self.send(self.node, m.RegisterDriver({}))

    def _accepted(self, peer: bytes, message: m.DriverAccepted) -> None:
        self.job = self.submitter.job = message.job
        self.script = self._main()
        self._resume()

    def _resume(self) -> None:
        if not self.alive or self.script is None:
            return
        while (request := next(self.script, None)) is not None:
            if request[0] == "sleep":
                self.net.call_at(self.net.now + request[1], self._resume)
                return
            if request[0] == "pause":
                return
            pending = [record for record in request[1] if record.value is None]
            if pending:
                self._wait(pending)
                return

    def _wait(self, pending: list[Any]) -> None:
        left = len(pending)

        def arrived(record: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.net.call_at(self.net.now, self._resume)

        for record in pending:
            self.refs.when_ready(record, arrived)

    # ------------------------------------------------------------ the script

    def _main(self) -> Iterator[Any]:
        plan, random = self.cluster.plan, self.random
        if plan.burst:
            yield from self._burst(plan.burst)
        for _ in range(plan.steps):
            self._do(random)
            if random.random() < 0.4:
                yield "sleep", random.uniform(0, FAULTS_S / plan.steps)
            if random.random() < 0.2 and self.refs_held:
                some = random.sample(self.refs_held, min(3, len(self.refs_held)))
                yield "wait", [ref.record for ref in some]
                for ref in some:
                    self._see(ref)
        yield "wait", [ref.record for ref in self.refs_held]
        for ref in list(self.refs_held):
            self._see(ref, inner_too=random.random() < 0.5)
        yield "wait", [ref.record for ref in self.refs_held]  # the inner ones
        for ref in list(self.refs_held):
            self._see(ref)
        for stream in self.streams:
            yield from self._drain(stream)
        self.finished = True

    def _burst(self, count: int) -> Iterator[Any]:
        """Many short tasks, drained one by one, as with ray.wait; then a pause that returns the leases, or not."""
        for _ in range(2):
            left = {}
            ready: list[bytes] = []
            for _ in range(count):
                program = ["value", self.random.randrange(1 << 20), self.random.choice((0.0, 0.0001)), []]
                ref = self.submit(program, retries=-1)[0]
                left[ref.oid] = ref
                self.refs.when_ready(ref.record, lambda record: self._arrived(ready, record.oid))
            while left:
                if not ready:
                    self._draining = True
                    yield ("pause",)
                self._draining = False
                ref = left.pop(ready.pop(0))
                self._see(ref)
                ref.drop()
            yield "sleep", self.random.choice((0.0, 0.01, 0.2, 0.25))

    def _arrived(self, ready: list[bytes], oid: bytes) -> None:
        ready.append(oid)
        if self._draining:
            self._draining = False
            self.net.call_at(self.net.now, self._resume)

    def _drain(self, stream: Any) -> Iterator[Any]:
        while True:
            entry = self.submitter.streams.take(stream)
            if entry is not None:
                self.cluster.oracle.observe(self, entry)
                self.dropped.append(entry)
                self.stir()
            elif stream.ended:
                return
            else:
                stream.waiters = [lambda _: self.net.call_at(self.net.now, self._resume)]
                yield ("pause",)

    def _see(self, ref: Any, *, inner_too: bool = False) -> None:
        try:
            _, inner = self.load(ref)
        except Failure:
            return
        for part in inner:
            if inner_too:
                self.refs_held.append(part)
            else:
                part.drop()

    def _do(self, random: Random) -> None:
        """One thing that a program may do next."""
        plan = self.cluster.plan
        held = self.refs_held
        kind = random.random()
        if kind < 0.5:
            deps = random.sample(held, min(len(held), random.choice((0, 0, 1, 2))))
            nested = random.sample(held, min(len(held), random.choice((0, 0, 1, 2))))
            program = programs.make(random, plan.depth, plan.task_s_max, refs=bool(nested))
            backpressure = random.choice((0, 0, 1, 2))
            made = self.submit(program, deps, nested, retries=random.choice((0, 3, 3, -1)), cpus=random.choice((0, 1, 1, 1)),
                               max_calls=random.choice((0, 0, 0, 0, 1, 3)), backpressure=backpressure)
            if random.random() < 0.4:  # passes references on and lets go of them
                for ref in dict.fromkeys(deps + nested):
                    held.remove(ref)
                    ref.drop()
            if programs.returns(program) < 0:
                if backpressure or random.random() < 0.7:
                    self.streams += made
                else:
                    self.dropped += made
            else:
                held += made
        elif kind < 0.6:
            held.append(self.put(random.randrange(1 << 20), random.sample(held, min(len(held), random.randint(0, 2)))))
        elif kind < 0.75 and held:
            held.pop(random.randrange(len(held))).drop()
        elif kind < 0.85 and plan.actors:
            self._use_actor(random)
        elif kind < 0.92 and plan.cancels and held:
            self.cluster.oracle.happened["cancel"] += 1
            ref = random.choice(held)
            task = ref.record.task
            force = random.random() < 0.3 and task is not None and task.key is not None
            self.cluster.oracle.happened["crash"] += force
            self.cancel(ref, force=force, recursive=random.random() < 0.5)
        else:
            self._use_actor(random) if plan.actors and self.handles else None

    def _use_actor(self, random: Random) -> None:
        what = random.random()
        if not self.handles or what < 0.3:
            self.handles.append(self.create_actor(random.choice((0, 0, 2)), random.choice((0, 2))))
            return
        handle = random.choice(self.handles)
        if what < 0.85:
            for _ in range(random.randint(1, 5)):
                self.refs_held.append(self.call(handle, random.randrange(1 << 20), random.choice((0.0, 0.002))))
            if random.random() < 0.4:
                program = ["calls", random.randrange(1 << 20), 0.0, [2, handle.actor]]
                self.refs_held += self.submit(program, [], [handle.life])
        elif what < 0.93:
            self.handles.remove(handle)
            handle.drop()
        else:
            self.cluster.oracle.happened["kill"] += 1
            self.kill_actor(handle, no_restart=random.random() < 0.5)

    def drop_all(self) -> None:
        for ref in self.refs_held:
            ref.drop()
        for handle in self.handles:
            handle.drop()
        self.dropped += self.streams
        self.refs_held, self.handles, self.streams = [], [], []
        self.stir()


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
        return (b"w%07d" % self._workers_made).ljust(28, b"\0")

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
        raise Violation(f"seed {self.seed}: after {HEAL_S:g} s without faults it is not true that {what}\n{self.describe()}")

    def _empty(self) -> bool:
        machine = self.node.machine
        return (all(core.quiet() for core in self.cores.values()) and not machine.placements
                and machine.scheduler.available() == machine.scheduler.total()
                and all(actor.state == "DEAD" for actor in machine.actors.actors.values()))

    # ------------------------------------------------------------ for whoever reads a failure

    def describe(self) -> str:
        machine = self.node.machine
        lines = [f"{self.plan}", f"at {self.net.now:.4f}: {dict(self.net.counters)} {self.oracle.happened}",
                 f"node: free {machine.scheduler.available()} placements {[p.row() for p in machine.placements.values()]}",
                 f"  workers {list(machine.pool.workers.values())}",
                 f"  waiting {[(e.owner, e.key, e.want, e.seen, e.granted) for e in machine.scheduler.entries.values() if e.outstanding]}",
                 f"  actors {[(a.id.hex(), a.state, a.life) for a in machine.actors.actors.values() if a.state != 'DEAD']}"]
        lines += [line for core in self.cores.values() if not core.quiet() for line in _describe(core)]
        return "\n".join(lines)


def _describe(core: Core) -> Iterator[str]:
    refs = core.refs
    yield f"{core.kind} {core.incarnation!r} job {core.job}"
    running = getattr(core, "running", None)
    if running is not None:
        yield f"  runs {running.task[0].hex()} {core.cluster.oracle.programs.get(running.task[0])} blocked={core.blocked}"  # type: ignore[attr-defined]
    for oid, entry in list(refs.owned.items())[:SHOWN_MAX]:
        yield (f"  owns {oid.hex()} {core.cluster.oracle.programs.get(oid[:24])} ready={entry.value is not None} "
               f"refs={entry.refs} holders={entry.holders}")
        if entry.task is not None and entry.task.state != 3:
            yield f"    {(core.submitter if entry.task.key else core.calls).explain(entry.task)}"
    for record in refs.borrowed.values():
        yield f"  borrows {record.oid.hex()} of {record.owner!r} ready={record.value is not None} refs={record.refs} {record.confirmed}"
    yield f"  transits {refs.transits} arrivals {refs.arrivals} drops {refs.dropped_holds} held_by {refs.held_by}"
    for key in core.submitter.by_number.values():
        if key.queue or key.leases or key.want:
            yield (f"  key {key.number} {key.demand}: {len(key.queue)} queued, want {key.want}, granted {key.granted}, "
                   f"status {key.status}, leases "
                   f"{[(x.number, x.link.peer, len(x.inflight), x.paused, x.recalled, x.notice) for x in key.leases.values()]}")
    for link in core.calls.links.values():
        if link.unfinished:
            yield f"  actor {link.actor.hex()} {link.state} life {link.life}: {len(link.queue)} queued, {len(link.inflight)} in flight"
