"""A simulated core process: programs around the product's CoreMachine, without threads, pickling and store.

References are explicit: a :class:`Ref` counts until its ``drop()``.  Values are numbers with references inside.  Their
wire form is that of zray.core.values, with msgpack in the place of pickle.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from zray.base import ids
from zray.base.argument_errors import innermost
from zray.core.machine import CoreMachine
from zray.core.process import ProcessRecord
from zray.handles.options import DYNAMIC, STREAMING
from zray.owner.calls import ActorLink
from zray.owner.maps import MapBatch
from zray.owner.records import Function, Task
from zray.sched.resources import UNIT
from zray.sim import map_runs, programs
from zray.sim.columns import SimColumns
from zray.sim.failure import Failure, Lost, ValueLost
from zray.sim.node import SimNode
from zray.sim.process import Process
from zray.sim.stores import CoreStore
from zray.sim.surroundings import SimSurroundings
from zray.wire import messages as m


class Ref:
    """An ObjectRef."""

    __slots__ = ("core", "record")

    def __init__(self, core: Core, record: Any) -> None:
        self.core, self.record = core, record

    @property
    def oid(self) -> bytes:
        return self.record.oid

    @property
    def ready(self) -> bool:
        return self.record.value is not None

    def again(self) -> Ref:
        """Another reference to the same object."""
        self.record.refs += 1
        return Ref(self.core, self.record)

    def drop(self) -> None:
        self.core.dropped.append(self.record)
        self.core.stir()


class Handle:
    """An actor's handle: its id, and the object whose references keep it alive."""

    __slots__ = ("actor", "life")

    def __init__(self, actor: bytes, life: Ref | None) -> None:
        self.actor, self.life = actor, life  # no life: it is detached

    def drop(self) -> None:
        if self.life is not None:
            self.life.drop()


class SimDialling:
    """Connections to other nodes, through the simulated wire."""

    def __init__(self, mesh: Any) -> None:
        self.dial = mesh.connect
        self._serve_tcp = mesh.serve_tcp

    def serve(self, request: m.BindTcp) -> str:
        return self._serve_tcp()


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreSurroundings(SimSurroundings):
    """What a core process asks of its surroundings."""

    serving: Callable[[], list[SimNode]]  # nodes that have joined and live
    crash: Callable[[Core, str], None]  # its process ends now, and why
    leave: Callable[[Core], None]  # its process ends once what it wrote is with the network


class Core(Process):
    """A core process: the machine, its Shell, and the calls of programs."""

    kind = "driver"

    def __init__(self, around: CoreSurroundings, host: SimNode, incarnation: bytes, pid: int) -> None:
        super().__init__(around.wire, incarnation)
        self.around = around
        self.host = host
        self.node = host.incarnation
        self.pid = pid
        self.crashed = False
        self.abandoned = False  # its job is over: no process sees its results any more
        self.node_is_lost = False
        self.dropped: deque[Any] = deque()
        self.mesh.on_closed = self._closed
        self.mesh.on_error = around.error
        self.about = ProcessRecord(self.kind, incarnation, self.node, self.mesh.endpoint, pid, around.python, 0,
                                 around.config)
        self.machine = machine = CoreMachine(
            self.about, self.mesh, SimDialling(self.mesh), CoreStore(around.stores, self), SimColumns(self), self,
            self.dropped)
        self.refs, self.submitter, self.calls = machine.refs, machine.submitter, machine.calls
        self.adoption = machine.adoption
        self.task, self.attempt = b"", 0
        self.counters: dict[tuple[bytes, int], int] = {}
        self.measured: dict[str, Function] = {}
        self.groups: set[bytes] = set()  # placement groups that its tasks made
        self._tick_at: float | None = None
        machine.connect(self.node, host.mesh.endpoint)

    # ------------------------------------------------------------ Shell of the machine

    def clock(self) -> float:
        return self.net.now

    def retry_matches(self, wanted: Any, failure: list[Any]) -> bool:
        return failure[2]["root"] in wanted

    def refused(self, peer: bytes, why: str) -> None:
        raise AssertionError(f"{peer!r} refuses {self.incarnation!r}: {why}")

    def node_lost(self) -> dict[str, Any]:
        """No process sees its results any more."""
        self.node_is_lost = self.abandoned = True
        return {}

    def show_unhandled(self) -> None:
        self.around.oracle.unhandled(self, self.refs.unhandled.take())

    def actor_failed(self, actor: bytes, failure: list[Any]) -> None:
        self.refs.unhandled.actor_failed(actor, failure)
        self.refs.unhandled.actor_due(actor)

    def log_lines(self, message: m.LogLines) -> None:
        """Ignore the output of workers."""

    def stacks(self) -> str:
        return "one thread, which the simulator owns"

    def profile(self, question: bytes, answer: Callable[[str], None]) -> None:
        answer("error: the simulator owns the thread")

    # ------------------------------------------------------------ messages and turns

    @property
    def job(self) -> int:
        return self.about.job

    def send(self, peer: bytes, message: Any) -> None:
        self.machine.send(peer, message)
        self.stir()

    def on_message(self, peer: bytes, code: int, message: Any) -> None:
        self.machine.handle(peer, code, message, self.net.now)

    def _closed(self, peer: bytes) -> None:
        self.machine.closed(peer, self.net.now)
        self.stir()

    def turn(self) -> None:
        self.machine.turn(self.net.now)
        if self._tick_at is None and self.machine.is_timed:
            self._arm_tick()
        self.around.stepped(self)

    def _arm_tick(self) -> None:
        self._tick_at = self.machine.next_deadline()
        if self._tick_at is not None:
            self.at(self._tick_at, self._tick)

    def _tick(self) -> None:
        self._tick_at = None
        self.machine.tick(self.net.now)
        self._arm_tick()
        self.stir()

    # ------------------------------------------------------------ values

    def failure(self, kind: str, root: str) -> Failure:
        return Failure(kind, root)

    def encode(self, number: int, refs: list[Ref]) -> bytes:
        return msgpack.packb([number, [[ref.oid, *self.machine.address_of(ref.record)] for ref in refs]])

    def references_to(self, oids: Sequence[bytes]) -> bytes:
        """The value of an object that is the references to these objects of this process."""
        return self.encode(len(oids), [Ref(self, self.refs.owned[oid]) for oid in oids])

    def fetch(self, value: Any) -> float:
        """Bring a value to this node: 0.0 when it can be read, else seconds until a next call."""
        return self.around.stores.fetch(self, value)

    def load(self, ref: Ref) -> tuple[int, list[Ref]]:
        """The value of a ready object, and references to those inside it; raises its failure."""
        if not ref.ready:
            raise ValueLost
        try:
            self.around.oracle.observe(self, ref.record)
            return self.decode(ref.record.value, ref.record)
        except Lost as lost:
            failure = self.submitter.reconstruction.lost(ref.record, lost.value, "its node died")
        self.stir()
        if failure is None:
            raise ValueLost
        self.around.oracle.observe_value(self, ref.oid, failure)
        raise Failure(failure[1], failure[1])

    def decode(self, value: Any, record: Any = None) -> tuple[int, list[Ref]]:
        if type(value) is bytes:
            number, triples = msgpack.unpackb(value)
            return number, [self.restore(oid, owner, at, inside=record) for oid, owner, at in triples]
        if value[0] == m.CARRYING:
            return self.decode(value[1], record)
        if value[0] == m.STORED:
            stores = self.around.stores
            if record is None and not (stores.has(value) or value[3] in stores.lost):
                # An argument whose owner has died meanwhile.
                raise Failure("object_lost", "object_lost")
            return self.decode(stores.read(self, value), record)
        value = innermost(value)
        raise Failure(value[1], value[2].get("root", value[1]) if type(value[2]) is dict else value[1])

    def read_stored(self, value: list[Any]) -> bytes:
        return self.around.stores.read(self, value)

    def peek(self, value: Any) -> int:
        """The number of a wire value; no references are made."""
        while type(value) is not bytes:
            value = value[1] if value[0] == m.CARRYING else self.around.stores.read(self, value)
        return msgpack.unpackb(value)[0]

    def restore(self, oid: bytes, owner: bytes, endpoint: str, inside: Any = None, *, lent: bool = False) -> Ref:
        return Ref(self, self.refs.restore(oid, owner, endpoint, inside, lent=lent))

    def place(self, wire: bytes, salt: int, oid: bytes, owner: bytes) -> Any:
        """The wire value of what ``owner`` will own: inline, or in the store."""
        plan = self.around.plan
        if not plan.stored or salt % 4 < (1 if plan.loses else 3):
            return wire
        return self.around.stores.put(self, oid, wire, owner)

    def result(self, value: Any, receiver: bytes, oid: bytes) -> Any:
        """The wire value of a return of a task to ``receiver``."""
        if type(value) is not programs.Given:
            return self.place(self.encode(value, []), value, oid, receiver)
        wire = self.place(self.encode(value.number, value.refs), value.number, oid, receiver)
        carrying = self.machine.carrying(wire, [ref.record for ref in value.refs], receiver)
        for ref in value.refs:
            ref.drop()
        return carrying

    # ------------------------------------------------------------ calls of programs

    def next_task_id(self) -> bytes:
        place = self.task or self.incarnation, self.attempt
        self.counters[place] = count = self.counters.get(place, 0) + 1
        return ids.task_id(ids.task_prefix(self.job.to_bytes(4, "big"), *place), count)

    def put(self, number: int, inner: list[Ref] = []) -> Ref:  # noqa: B006  (never changed)
        oid = self.next_task_id() + ids.PUT_INDEX
        entry = self.refs.own(oid)
        wire = self.encode(number, inner)
        if number % 4:
            entry.value = self.around.stores.put(self, oid, wire)
        else:
            entry.value = wire
            self.refs.inline_bytes += len(wire)
        if inner:
            entry.contained = [ref.record for ref in inner]
            for record in entry.contained:
                record.refs += 1
        self.around.oracle.expect(oid, number)
        return Ref(self, entry)

    def submit(self, program: list[Any], deps: list[Ref] = [], nested: list[Ref] = [], *,  # noqa: B006
               retries: int = 3, cpus: int = 1, max_calls: int = 0, backpressure: int = 0,
               strategy: dict[str, Any] = {}, demand: dict[str, int] | None = None,  # noqa: B006
               measured: str = "") -> list[Any]:
        """References to what the program returns; for a generator its Stream.

        ``measured``: tasks with this word have one function with a measured run time, so that they are run ahead.
        """
        oracle = self.around.oracle
        tid = self.next_task_id()
        nret = programs.returns(program)
        needs, env = {"CPU": cpus * UNIT} if demand is None else demand, programs.env_of(program)
        strategy = strategy if retries else {**strategy, "once": True}
        key = self.submitter.key_for((*needs.items(), *env, *strategy.values()), needs, env, strategy, program[0])
        blob = msgpack.packb(program[0])
        function = _function(program[0], blob)
        if measured:
            function = self.measured.setdefault(measured, _function(measured, blob))
        task = Task(tid, function, self._payload(program, nested), nret, key, retries)
        task.parent = self.task
        self._retry(task, program)
        if deps or nested:
            task.deps = [ref.record for ref in deps]
            task.pins = task.deps + [ref.record for ref in nested]
            task.extra = {"slots": list(range(len(deps)))}
        if max_calls:
            task.extra = {**(task.extra or {}), "max_calls": max_calls}
        value = programs.expected(program, [oracle.value(ref.oid) for ref in deps],
                                  [oracle.value(ref.oid) for ref in nested])
        oracle.submitted(tid, program)
        if nret == STREAMING:
            stream = self.submitter.streams.open(task, backpressure)
            if backpressure:
                task.extra = {**(task.extra or {}), "backpressure": backpressure}
            for index in range(program[3][0]):
                oracle.expect(ids.return_id(tid, index + 1), value if value == programs.FAILS else value[index])
            result: list[Any] = [stream]
        else:
            result = self._returns(task, program, value)
        self.submitter.submit(task)
        self.stir()
        return result

    def _returns(self, task: Task, program: list[Any], value: Any) -> list[Ref]:
        count = 1 if task.nret == DYNAMIC else task.nret
        entries = [self.refs.own(ids.return_id(task.tid, i + 1), task) for i in range(count)]
        task.entry = entries[0] if count == 1 else entries
        values = value if type(value) is list else [value] * count
        for entry, number in zip(entries, values, strict=True):
            self.around.oracle.expect(entry.oid, number)
        if task.nret == DYNAMIC and value != programs.FAILS:
            deps = [self.around.oracle.value(record.oid) for record in task.deps or ()]
            for index, number in enumerate(programs.items(program, deps), ids.DYNAMIC_FIRST):
                self.around.oracle.expect(ids.return_id(task.tid, index), number)
        return [Ref(self, entry) for entry in entries]

    def map(self, items: list[int], retries: int, retries_errors: bool) -> MapBatch:
        """``f.map``: a task for each item, see zray.sim.map_runs."""
        needs = {"CPU": UNIT}
        key = self.submitter.key_for(tuple(needs.items()), needs, {}, {}, map_runs.SHOW)
        first = self.next_task_id()
        start = int.from_bytes(first[ids.PREFIX_SIZE:], "little")
        for _ in items[1:]:
            self.next_task_id()
        if retries_errors:
            retries = 3  # not without bound: some items raise in every attempt
        batch = MapBatch(first[:ids.PREFIX_SIZE], start, _function(map_runs.SHOW, b""), key,
                         [(retries_errors, item) for item in items], False, retries)
        batch.retry_errors = ["raised"] if retries_errors else False
        for index, item in enumerate(items):
            tid = batch.task_id(index)
            self.around.oracle.submitted(tid, [map_runs.SHOW, item, 0.0, [retries_errors]])
            self.around.oracle.expect(ids.return_id(tid, 1), map_runs.value_of(item))
        self.submitter.maps.submit(batch)
        self.stir()
        return batch

    def map_item(self, batch: MapBatch, index: int) -> Ref:
        """A reference to one item of a map."""
        return Ref(self, self.submitter.maps.entry(batch, index))

    def see_map(self, batch: MapBatch) -> bool:
        """Test all values of a map that has ended.  False: some were lost, and are made again."""
        values: dict[int, Any] = {}
        for first, count, column, _ in sorted(batch.results, key=lambda each: each.first):
            try:
                found = msgpack.unpackb(column if type(column) is bytes else self.read_stored(column))
            except Lost:
                failed = self.submitter.maps.column_lost(batch, column, "its node died")
                if failed is None:
                    continue
                self.around.oracle.observe_value(self, failed[2]["oid"], failed)
                return True
            values.update(zip(range(first, first + count), found, strict=True))
        if batch.remaining:
            self.stir()
            return False
        for index in range(batch.count):
            value = batch.failures.get(index)
            self.around.oracle.observe_value(self, ids.return_id(batch.task_id(index), 1),
                                              values[index] if value is None else value)
        return True

    @staticmethod
    def _retry(task: Task, program: list[Any]) -> None:
        """Set retry_exceptions and retries: a program that succeeds at last gets enough, one that never does, few."""
        task.retry_errors = programs.retried_errors(program)
        if program[0] in ("flaky", "fixed", "dynamic") and task.retry_errors and task.retries >= 0:
            task.retries = max(task.retries, program[3][-1])
        if programs.always_raises(program) and task.retries < 0 and task.retry_errors:
            task.retries = 2

    def _payload(self, program: list[Any], nested: list[Ref]) -> bytes:
        return msgpack.packb([program, [[ref.oid, *self.machine.address_of(ref.record)] for ref in nested]])

    def cancel(self, ref: Ref, *, force: bool, recursive: bool) -> None:
        self.machine.cancel(ref.record, force, recursive)
        self.stir()

    def keep(self, ref: Ref) -> None:
        """User code keeps the reference for a while, then reads its value and drops it."""
        kept = ref.again()
        self.later(self.net.random.choice((0.0, self.net.random.uniform(0, 0.3))), self._look, kept)

    def _look(self, kept: Ref) -> None:
        def ready(record: Any) -> None:
            if self.alive and (seconds := self.fetch(record.value)):
                self.later(seconds, ready, record)
            elif self.alive and record.value is None:  # it was lost meanwhile
                kept.drop()
            elif self.alive:
                with contextlib.suppress(Lost):
                    self.around.oracle.observe(self, record)
                kept.drop()

        if self.alive and self.refs.when_ready(kept.record, ready):
            ready(kept.record)
        self.stir()

    # ------------------------------------------------------------ actors

    def create_actor(self, restarts: int, retries: int = 0, cpus: int = 1,
                     strategy: dict[str, Any] | None = None, concurrency: dict[str, Any] | None = None) -> Handle:
        tid = self.next_task_id()
        actor = ids.actor_id(tid[:ids.PREFIX_SIZE], int.from_bytes(tid[ids.PREFIX_SIZE:], "little"))
        self.calls.link_for(actor, "Actor").max_task_retries = retries
        spec = self._actor_spec(restarts, cpus, strategy, **(concurrency or {}))
        life = self.machine.creations.create(tid, actor, spec, [], None)
        assert life is not None
        self.around.oracle.created(actor, life.oid)
        self.stir()
        return Handle(actor, Ref(self, life))

    def _actor_spec(self, restarts: int, cpus: int, strategy: dict[str, Any] | None, **named: Any) -> dict[str, Any]:
        return {"class_key": b"actor", "demand": {"CPU": cpus * UNIT}, "running": {}, "max_restarts": restarts,
                "class_name": "Actor", "job": self.job, "strategy": strategy or {}, "name": "", "detached": False,
                "out_of_order": False, **named}

    def create_detached(self, name: str, restarts: int, then: Callable[[Handle], None], **more: Any) -> None:
        """An actor that outlives its driver; calls ``then(handle)``, unless the name is taken."""
        tid = self.next_task_id()
        actor = ids.actor_id(tid[:ids.PREFIX_SIZE], int.from_bytes(tid[ids.PREFIX_SIZE:], "little"))
        self.around.oracle.detached(actor, name)
        spec = self._actor_spec(restarts, 1, None, detached=True, name=name, namespace="sim", **more)

        def created(handle: Handle) -> None:
            if handle.actor == actor:
                self.machine.creations.create(tid, actor, spec, [], None)
            then(handle)

        self._ask_for_actor(created, lambda request: m.CreateActor(actor, spec, request))

    def look_up(self, name: str, then: Callable[[Handle], None]) -> None:
        """Call ``then(handle)`` if an actor has this name."""
        self._ask_for_actor(then, lambda request: m.LookupActor(name, "sim", request))

    def _ask_for_actor(self, then: Callable[[Handle], None], make: Callable[[int], Any]) -> None:
        def answered(reply: m.ActorReply | None) -> None:
            if reply is not None and not reply.error:
                self.calls.link_for(reply.actor, "Actor")
                then(Handle(reply.actor, None))

        self.send(self.node, make(self.machine.ask(answered)))

    def handle_of(self, actor: bytes, life: Ref) -> Handle:
        """The handle of an actor in a task's arguments."""
        return Handle(actor, life.again())

    def link_of(self, handle: Handle) -> ActorLink:
        link = self.calls.link_for(handle.actor, "Actor")
        if link.life_record is None and handle.life is not None:
            link.life_record = handle.life.record
        return link

    def call(self, handle: Handle, x: int, seconds: float = 0.0, program: list[Any] | None = None,
             nested: list[Ref] = []) -> Ref:  # noqa: B006
        return self.call_for(handle, program or ["value", x, seconds, []], nested)[0]

    def call_for(self, handle: Handle, program: list[Any], nested: list[Ref] = []) -> list[Ref]:  # noqa: B006
        """References to what the call returns."""
        link = self.link_of(handle)
        tid = self.next_task_id()
        task = Task(tid, Function(b"", b"", "method"), self._payload(program, nested), programs.returns(program), None,
                    link.max_task_retries)
        task.parent = self.task
        self._retry(task, program)
        if nested:
            task.deps, task.pins = [], [ref.record for ref in nested]
        self.around.oracle.submitted(tid, program)
        result = self._returns(task, program, programs.expected(program, [], []))
        self.calls.submit(link, task)
        self.stir()
        return result

    def call_apply(self, handle: Handle, seconds: float = 0.0) -> Ref:
        """A call that changes the state of an actor with checkpoints."""
        applied = self.around.oracle.applied
        x = applied.fresh()
        ref = self.call(handle, x, program=["apply", x, seconds, []])
        applied.called(handle.actor, ref.oid, x)
        return ref

    def kill_actor(self, handle: Handle, *, no_restart: bool) -> None:
        self.calls.kill(handle.actor)
        self.send(self.node, m.KillActor(handle.actor, no_restart, False, "it was killed by `ray.kill`"))

    # ------------------------------------------------------------ placement groups

    def create_group(self, bundles: int, strategy: str, resource: str = "CPU") -> bytes:
        """A placement group of that many bundles of one CPU, or of another resource."""
        tid = self.next_task_id()
        group = ids.group_id(self.node, tid[:ids.PREFIX_SIZE], int.from_bytes(tid[ids.PREFIX_SIZE:], "little"))
        self.send(self.node, m.CreateGroup(group, {
            "bundles": [{resource: UNIT}] * bundles, "strategy": strategy, "name": "", "namespace": "sim",
            "detached": False}, 0))
        return group

    def group_ready(self, group: bytes) -> Ref:
        """The object that becomes ready when the group has its places."""
        oid, number = self.next_task_id() + ids.PUT_INDEX, group[0]
        self.around.oracle.expect(oid, number)
        entry = self.machine.groups.ready(oid, group, self.encode(number, []))
        self.stir()
        return Ref(self, entry)

    def remove_group(self, group: bytes) -> None:
        """Remove a group: all tasks and actors in it end, running or waiting."""
        self.groups.discard(group)
        self.around.oracle.happened["group"] += 1
        self.send(self.node, m.RemoveGroup(group, "removed by the schedule"))

    def own_group(self, bundles: int, strategy: str, resource: str) -> bytes:
        """A placement group that the running task removes when all its tasks there have ended."""
        group = self.create_group(bundles, strategy, resource)
        self.groups.add(group)
        return group

    def end_group(self, group: bytes) -> None:
        """Those tasks have ended: the removal excuses no error, and may be lost with this process."""
        self.send(self.node, m.RemoveGroup(group, "its task is done with it"))

    # ------------------------------------------------------------ ends

    def owns(self, oid: bytes) -> bool:
        """Whether this process owns the object: it has a value, was not freed, and no claim for it is open."""
        entry = self.refs.owned.get(oid)
        orphan = self.adoption.ownerless.get(oid)
        freed = entry is not None and type(entry.value) is list and entry.value[1] == "freed"
        return entry is not None and not freed and (orphan is None or orphan.entry is not entry)

    def quiet(self) -> bool:
        """Whether nothing is left of all that this process did."""
        refs = self.refs
        return not (self.dropped or refs.owned or refs.borrowed or refs.held_by or refs.transits.sent
                    or refs.transits.received
                    or refs.dropped_holds or refs.finalizers or not refs.unhandled.is_empty()
                    or self.submitter.leases or self.submitter.tasks
                    or self.submitter.lineage.traced or self.submitter.lineage.recipes
                    or self.submitter.reconstruction.running or self.submitter.reconstruction.asked
                    or self.adoption.busy or self.adoption.adopted or refs.kept_bytes
                    or not self.machine.creations.is_empty()
                    or self.calls.draining or any(link.unfinished or link.log is not None and link.log.calls
                                                  for link in self.calls.links.values()))

    def check(self) -> None:
        self.mesh.check()
        self.machine.check()


def _function(kind: str, blob: bytes) -> Function:
    return Function(kind.encode(), blob, kind)


Script = Iterator[Any]
