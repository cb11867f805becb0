"""A simulated driver: a job whose script is drawn from the seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from random import Random
from typing import Any

from zray.base.causes import Cause
from zray.core.waits.explaining import reasons_of, sentence
from zray.handles.options import STREAMING
from zray.owner.records import Task
from zray.sim import chains, programs
from zray.sim.core import Core, CoreSurroundings
from zray.sim.failure import Failure, ValueLost
from zray.sim.map_runs import MAP_ITEMS_MAX
from zray.sim.node import GEAR, SimNode
from zray.wire import messages as m

ASKED_DEPTH = 4  # processes, one after the other
ANSWER_S_MAX = 0.3
SAVED_NAME = "saved"  # of a detached actor with checkpoints
ACTOR_NAMES = ("one", "two")  # of detached actors, which drivers share
# Sync, threaded and async actors.
CONCURRENCY: tuple[dict[str, Any], ...] = (
    {}, {}, {"max_concurrency": 2}, {"concurrency_groups": {"io": 2}},
    {"concurrency_groups": {"io": 1}, "is_async": True, "max_concurrency": 2},
    {"is_async": True, "max_concurrency": 3}, {"is_async": True})


class SimDriver(Core):
    """A driver: a job whose script is drawn from the seed."""

    def __init__(self, around: CoreSurroundings, host: SimNode, number: int) -> None:
        self.random = Random(f"driver {around.seed} {number}")
        self.kinds = Random(f"actors {around.seed} {number}")  # of actors, and how they end
        self.whys = Random(f"whys {around.seed} {number}")
        self.linked = Random(f"chains {around.seed} {number}")
        self.refs_held: list[Any] = []
        self.streams: list[Any] = []
        self.generators: set[bytes] = set()  # the objects of the references to items
        self.maps: list[Any] = []
        self.handles: list[Any] = []
        self.saved: list[Any] = []  # handles of actors with checkpoints
        self.applied: list[Any] = []  # results of calls that change their state: no arguments of tasks
        self.script: Iterator[Any] | None = None
        self.finished = False
        self.whys_asked = 0
        self._draining = False
        super().__init__(around, host, host.incarnation[:4] + b"\xffr%02d" % number, 1000 + number)
        self.machine.take({m.DriverAccepted.CODE: self._accepted})
        self.send(self.node, m.RegisterDriver({}))

    def _accepted(self, peer: bytes, message: m.DriverAccepted) -> None:
        self.machine.set_job(message.job)
        self.script = self._main()
        self._resume()

    def node_lost(self) -> dict[str, Any]:
        """Everything that it waits for fails; it reads the failures, and ends."""
        self.finished = True
        self.later(self.net.random.uniform(0, 0.2), self.around.crash, self, "its node ended")
        return super().node_lost()

    def _resume(self) -> None:
        if self.script is None:
            return
        while (request := next(self.script, None)) is not None:
            if request[0] == "sleep":
                self.later(request[1], self._resume)
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
                self.later(0.0, self._resume)

        for record in pending:
            self.refs.when_ready(record, arrived)
        self.stir()

    # ------------------------------------------------------------ the script

    def _main(self) -> Iterator[Any]:
        plan, random = self.around.plan, self.random
        if plan.burst:
            yield from self._burst(plan.burst)
        for _ in range(plan.steps):
            self._do(random)
            if plan.chains and self.linked.random() < 0.4:
                yield from chains.chain(self, self.linked)
            if plan.whys and self.whys.random() < 0.4:
                self.ask_why(self.refs_held)
            if random.random() < plan.pace:
                yield "sleep", random.uniform(0, 2 * plan.pace * plan.faults_s / plan.steps)
            if random.random() < 0.2 and self.refs_held:
                some = random.sample(self.refs_held, min(3, len(self.refs_held)))
                yield "wait", [ref.record for ref in some]
                for ref in some:
                    yield from self._fetched(ref)
                    self._see(ref, inner_too=plan.opens and random.random() < 0.5)
        if plan.far and self.net.now < plan.faults_s:
            yield "sleep", plan.faults_s - self.net.now
        yield from self._see_all(random.random() < 0.5)
        yield from self._see_all(inner_too=False)  # the inner references
        for stream in self.streams:
            yield from self._drain(stream)
        for batch in self.maps:
            while batch.remaining or not self.see_map(batch):
                batch.waiters = [lambda _: self.later(0.0, self._resume)]
                yield ("pause",)
        self.finished = True

    def _see_all(self, inner_too: bool) -> Iterator[Any]:
        """Wait for all references and read them; read lost values again when they have been made again."""
        left = self.refs_held + self.applied
        while left:
            yield "wait", [ref.record for ref in left]
            for ref in left:
                yield from self._fetched(ref)
            left = [ref for ref in left if not self._see(ref, inner_too=inner_too)]

    def _fetched(self, ref: Any) -> Iterator[Any]:
        """Wait until the value can be read here, or is known to be lost."""
        while seconds := self.fetch(ref.record.value):
            yield "sleep", seconds

    def _burst(self, count: int) -> Iterator[Any]:
        """Many short tasks, read one by one, as with ray.wait; then a pause, sometimes so long that leases go back."""
        for _ in range(2):
            left = {}
            ready: list[bytes] = []
            for _ in range(count):
                program = ["value", self.random.randrange(1 << 20), self.random.choice((0.0, 0.0001)), []]
                ref = self.submit(program, retries=-1)[0]
                left[ref.oid] = ref
                self.refs.when_ready(ref.record, partial(self._arrived, ready))
            while left:
                if not ready:
                    self._draining = True
                    yield ("pause",)
                self._draining = False
                ref = left.pop(ready.pop(0))
                self._see(ref)
                ref.drop()
            yield "sleep", self.random.choice((0.0, 0.01, 0.2, 0.25))

    def _arrived(self, ready: list[bytes], record: Any) -> None:
        ready.append(record.oid)
        if self._draining:
            self._draining = False
            self.later(0.0, self._resume)

    def _drain(self, stream: Any) -> Iterator[Any]:
        while True:
            entry = self.submitter.streams.take(stream)
            if entry is not None:
                self.around.oracle.observe(self, entry)
                self.dropped.append(entry)
                self.stir()
            elif stream.ended:
                return
            else:
                stream.waiters = [lambda _: self.later(0.0, self._resume)]
                yield ("pause",)

    def _see(self, ref: Any, *, inner_too: bool = False) -> bool:
        """Read a value; False when it must be waited for again."""
        try:
            _, inner = self.load(ref)
        except Failure:
            return True
        except ValueLost:
            return False
        for part in inner:
            if inner_too or ref.oid in self.generators:
                self.refs_held.append(part)
            else:
                part.drop()
        return True

    # ------------------------------------------------------------ why something waits

    def ask_why(self, refs: list[Any]) -> None:
        """What ``zray.explain`` does: it must have words for each wait, and change nothing."""
        found = reasons_of(self.machine, nullcontext(), [ref.record for ref in refs])
        assert not found.found or str(found)
        self._follow(found.found, ASKED_DEPTH)

    def _follow(self, found: list[Any], depth: int) -> None:
        """Ask the processes that know more."""
        for oid, cause, about in found if depth else ():
            assert sentence(oid, Cause(cause), about)
            self.whys_asked += 1
            self._follow(about.get("because") or [], depth - 1)
            if "ask" in about:
                peer, what, endpoint = about["ask"]
                self.machine.connect(peer, endpoint)
                number = self.machine.ask(partial(self._explained, depth - 1))
                self.send(peer, m.Why(number, what))
            elif "ask_node" in about:
                number = self.machine.ask(self._actor_explained)
                self.send(self.node, m.NodeQuery(number, "explain", {"actor": about["ask_node"]}))
            else:
                continue
            self.later(ANSWER_S_MAX, self.machine.forget_request, number)

    def _explained(self, depth: int, answer: m.Because | None) -> None:
        if answer is not None:
            self._follow(answer.found, depth)

    @staticmethod
    def _actor_explained(answer: Any) -> None:
        if answer is not None:
            Cause(answer.answer.get("cause", Cause.READY))  # one that everybody knows

    # ------------------------------------------------------------ things that a program does

    def _do(self, random: Random) -> None:
        """One thing that a program may do next."""
        plan = self.around.plan
        if plan.groups and random.random() < 0.15:
            self._use_group(random)
            return
        if plan.checkpoints and random.random() < plan.checkpoints:
            self._use_saved(random)
            return
        if plan.detached and random.random() < 0.15:
            self._use_detached(random)
            return
        if plan.maps and random.random() < 0.2:
            self._use_map(random)
            return
        if plan.generators and random.random() < 0.25:
            self._use_generator(random)
            return
        if plan.storm and random.random() < 0.2:
            self._start_storm(random)
            return
        if plan.far and random.random() < 0.5:
            self._keep_far(random)
            return
        held = self.refs_held
        kind = random.random()
        if kind < 0.5:
            deps = random.sample(held, min(len(held), random.choice((0, 0, 1, 2))))
            nested = random.sample(held, min(len(held), random.choice((0, 0, 1, 2))))
            program = programs.make(random, plan.depth, plan.task_s_max, refs=bool(nested))
            backpressure = random.choice((0, 0, 1, 2))
            made = self.submit(program, deps, nested, retries=random.choice((0, 3, 3, -1)),
                               cpus=random.choice((0, 1, 1, 1)), max_calls=random.choice((0, 0, 0, 0, 1, 3)),
                               backpressure=backpressure, strategy=self._strategy(random))
            if random.random() < 0.4:  # passes references on and drops them
                for ref in dict.fromkeys(deps + nested):
                    held.remove(ref)
                    ref.drop()
            if programs.returns(program) == STREAMING:
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
            self.around.oracle.happened["cancel"] += 1
            ref = random.choice(held)
            task = ref.record.task
            force = random.random() < 0.3 and type(task) is Task and task.key is not None
            self.around.oracle.happened["crash"] += force
            self.cancel(ref, force=force, recursive=random.random() < 0.5)
        else:
            self._use_actor(random) if plan.actors and self.handles else None

    def _use_generator(self, random: Random) -> None:
        """A generator whose items are returns, here, in a call, or in a task that waits for it."""
        plan, held = self.around.plan, self.refs_held
        program = programs.make_generator(random, plan.task_s_max)
        what = random.random()
        if what < 0.2 and self.handles:
            made = self.call_for(random.choice(self.handles), program)
        elif what < 0.4 and program[0] == "dynamic":
            made = self.submit(["nested", program[1], 0.0, [program]])
        else:
            made = self.submit(program, random.sample(held, min(len(held), random.choice((0, 0, 1)))),
                               retries=random.choice((0, 3, 3, -1)), strategy=self._strategy(random))
            if program[0] == "dynamic":
                self.generators.add(made[0].oid)
        if plan.cancels and random.random() < 0.4:
            self.around.oracle.happened["cancel"] += 1
            self.later(random.uniform(0.0, 2 * plan.task_s_max), self._cancel_call, random.choice(made).again())
        held += made

    def _use_map(self, random: Random) -> None:
        """A map; some items are read one by one, some are cancelled, and some maps are dropped at once."""
        items = [random.randrange(1 << 20) for _ in range(random.randint(1, MAP_ITEMS_MAX))]
        batch = self.map(items, random.choice((0, 3, -1)), random.random() < 0.5)
        for _ in range(random.choice((0, 0, 1, 3))):
            self.refs_held.append(self.map_item(batch, random.randrange(batch.count)))
        if self.around.plan.cancels and random.random() < 0.3:
            self.around.oracle.happened["cancel"] += 1
            index = random.randrange(batch.count)
            self.later(random.choice((0.0, 0.002, 0.02)), self.submitter.maps.cancel, batch, index, False)
        if random.random() < 0.2:
            self.dropped.append(batch)
        else:
            self.maps.append(batch)

    def _strategy(self, random: Random) -> dict[str, Any]:
        """Where it is to run: mostly anywhere, else on all nodes in turn, or rather on a certain one."""
        nodes = self.around.serving()
        if self.around.plan.bound and random.random() < 0.5:
            node = random.choice([*sorted(self.around.oracle.condemned), *(node.node_id for node in nodes)])
            return {"kind": "affinity", "node": node, "soft": False}
        if self.around.plan.loses and random.random() < 0.4 and (
                others := [node for node in nodes if node is not self.host]):  # whose death costs it results
            return {"kind": "affinity", "node": random.choice(others).node_id, "soft": True}
        if len(nodes) < 2 or (what := random.random()) < 0.6:
            return {}
        if what < 0.85:
            return {"kind": "spread"}
        return {"kind": "affinity", "node": random.choice(nodes).node_id, "soft": True}

    def _keep_far(self, random: Random) -> None:
        """Results on another node, which need each other; of some only the recipe is kept."""
        others = [node for node in self.around.serving() if node is not self.host]
        if not others:
            return
        strategy = {"kind": "affinity", "node": random.choice(others).node_id, "soft": True}
        made: list[Any] = []
        for _ in range(random.randint(2, 5)):
            deps = random.sample(made, min(len(made), random.choice((0, 1, 1, 2))))
            made += self.submit(["value", random.randrange(1 << 20), random.uniform(0.0, 0.002), []], deps,
                                retries=random.choice((1, 3, 3, -1)), strategy=strategy)
        for ref in made[:-1]:
            if random.random() < 0.3:
                ref.drop()
            else:
                self.refs_held.append(ref)
        self.refs_held.append(made[-1])

    def _use_group(self, random: Random) -> None:
        """A placement group that is removed after a while, even if it has no places by then."""
        group = self.create_group(random.randint(1, 3), random.choice(("PACK", "SPREAD", "STRICT_PACK",
                                                                       "STRICT_SPREAD")))
        self.later(random.uniform(0.05, 0.8), self.remove_group, group)
        if random.random() < 0.5:
            self.refs_held.append(self.group_ready(group))
        for _ in range(random.randint(0, 4)):
            strategy = {"kind": "group", "group": group, "bundle": random.choice((-1, -1, 0))}
            if self.around.plan.actors and random.random() < 0.3:
                self.handles.append(self.create_actor(random.choice((0, 2)), strategy=strategy))
                self.refs_held.append(self.call(self.handles[-1], random.randrange(1 << 20)))
            else:
                program = programs.make(random, 1, self.around.plan.task_s_max)
                if programs.returns(program) >= 0:
                    self.refs_held += self.submit(program, strategy=strategy)

    def _start_storm(self, random: Random) -> None:
        """Tasks on several nodes create groups at the same time; in the end all groups can have places.

        A task has only one group of the scarce resource: groups that wait for each other could do so for ever.
        """
        plan = self.around.plan
        lasts = set(plan.node_faults) <= {"join", "reset"} and (plan.rejoins or not plan.outages)
        lasting = plan.nodes if lasts else 1
        for _ in range(random.randint(1, 3)):
            strategy = random.choice(("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"))
            resource, most = random.choice((("CPU", plan.cpus), ("gear", GEAR), ("space", 5)))
            bundles = random.randint(1, lasting if strategy == "STRICT_SPREAD" else most)
            about = [bundles, strategy, resource]
            program = ["groups", random.randrange(1 << 20), 0.0, [plan.storm, *about]] if resource == "space" else [
                "group", random.randrange(1 << 20), 0.0, about]
            self.refs_held += self.submit(program, strategy=self._strategy(random), cpus=random.choice((0, 1)))

    def _use_detached(self, random: Random) -> None:
        name = random.choice(ACTOR_NAMES)
        if random.random() < 0.5:
            self.create_detached(name, random.choice((0, 1, -1)), self.handles.append)
        else:
            self.look_up(name, self.handles.append)

    def _use_saved(self, random: Random) -> None:
        """An actor with checkpoints: several processes change its state."""
        what = random.random()
        if not self.saved or what < 0.2:
            every = random.choice(({"calls": 1}, {"calls": 3}, {"calls": 10}, {"seconds": 0.05}))
            if self.around.plan.detached and random.random() < 0.4:
                if random.random() < 0.5:
                    self.create_detached(SAVED_NAME, -1, self.saved.append, checkpoints=every)
                else:
                    self.look_up(SAVED_NAME, self.saved.append)
            else:
                self.saved.append(self.create_actor(-1, -1, strategy=self._strategy(random),
                                                    concurrency={"checkpoints": every}))
            return
        handle = random.choice(self.saved)
        if what < 0.8:
            for _ in range(random.randint(1, 8)):
                self.applied.append(self.call_apply(handle, random.choice((0.0, 0.0, 0.002))))
            if self.around.plan.cancels and random.random() < 0.2:
                self.around.oracle.happened["cancel"] += 1
                self.later(random.choice((0.0, 0.001, 0.003)), self._cancel_call, self.applied[-1].again())
        elif what < 0.9 and handle.life is not None:
            program = ["applies", random.randrange(1 << 20), 0.0, [random.randint(1, 4), handle.actor]]
            self.refs_held += self.submit(program, [], [handle.life])
        elif what < 0.93:
            self.saved.remove(handle)
            handle.drop()
        else:
            self.around.oracle.happened["kill"] += 1
            self.kill_actor(handle, no_restart=random.random() < 0.1)

    def _cancel_call(self, ref: Any) -> None:
        self.cancel(ref, force=False, recursive=self.kinds.random() < 0.5)
        ref.drop()

    def _use_actor(self, random: Random) -> None:
        what = random.random()
        if not self.handles or what < 0.3:
            self.handles.append(self.create_actor(random.choice((0, 0, 2)), random.choice((0, 2)),
                                                  strategy=self._strategy(random),
                                                  concurrency=self.kinds.choice(CONCURRENCY)))
            return
        handle = random.choice(self.handles)
        if self.kinds.random() < 0.1:  # its method calls exit_actor or sys.exit
            self.around.oracle.happened["kill"] += 1
            x = self.kinds.randrange(1 << 20)
            self.refs_held.append(self.call(handle, x, program=["exit", x, 0.0, [self.kinds.random() < 0.5]]))
        if what < 0.85:
            if handle.life is None and random.random() < 0.5:  # its tasks belong to its job, whose driver may be gone
                x = random.randrange(1 << 20)
                program = ["nested", x, 0.0, [["value", x, 0.0, []]] * random.randint(1, 3)]
                self.refs_held.append(self.call(handle, x, program=program))
            if random.random() < 0.3 and self.refs_held:
                program = ["flaky", random.randrange(1 << 20), 0.0, [random.randint(1, 2)]]
                self.refs_held.append(self.call(handle, 0, program=program, nested=[random.choice(self.refs_held)]))
            for _ in range(random.randint(1, 5)):
                self.refs_held.append(self.call(handle, random.randrange(1 << 20), random.choice((0.0, 0.002))))
            if self.around.plan.cancels and self.kinds.random() < 0.4:
                self.around.oracle.happened["cancel"] += 1
                self.later(self.kinds.choice((0.0, 0.001, 0.003)), self._cancel_call, self.refs_held[-1].again())
            if random.random() < 0.4 and handle.life is not None:
                program = ["calls", random.randrange(1 << 20), 0.0, [2, handle.actor]]
                self.refs_held += self.submit(program, [], [handle.life])
        elif what < 0.93:
            self.handles.remove(handle)
            handle.drop()
        else:
            self.around.oracle.happened["kill"] += 1
            self.kill_actor(handle, no_restart=random.random() < 0.5)

    def drop_all(self) -> None:
        for ref in self.refs_held + self.applied:
            ref.drop()
        for handle in self.handles + self.saved:
            handle.drop()
        self.dropped += self.streams
        self.dropped += self.maps
        self.refs_held, self.handles, self.saved, self.applied, self.streams, self.maps = [], [], [], [], [], []
        self.stir()


class Janitor(SimDriver):
    """The last driver: it ends the actors that are left."""

    def _main(self) -> Iterator[Any]:
        for actor in self.around.oracle.names:
            self.send(self.node, m.KillActor(actor, True, False, "the run is over"))
        self.finished = True
        yield from ()
