"""A simulated core process: the owner's machines composed as zray.core does it, without threads and store.

References are explicit: a :class:`Ref` counts until its ``drop()``.  Values are numbers with references inside;
their wire form is what zray.core.values makes, with msgpack in the place of pickle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgpack

from zray import ids, messages as m
from zray.core.redial import Redial
from zray.gcs.client import RETRY_S, GcsClient
from zray.owner.adoption import Adoption
from zray.owner.calls import ActorCalls, ActorLink
from zray.owner.holding import Holding
from zray.owner.records import Borrowed, Function, Task
from zray.owner.references import References
from zray.owner.streams import Stream
from zray.owner.submitter import Submitter
from zray.owner.telling import Telling
from zray.sched.resources import UNIT
from zray.sim import programs
from zray.sim.process import Process

if TYPE_CHECKING:
    from zray.sim.cluster import SimCluster
    from zray.sim.node import SimNode



class Failure(Exception):
    """A simulated exception: ``kind`` as in a FAILED value, ``root`` what it all came from."""

    def __init__(self, kind: str, root: str) -> None:
        super().__init__(kind, root)
        self.kind, self.root = kind, root


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


class Core(Process):
    """Owner, references and calls of one process."""

    kind = "driver"

    def __init__(self, cluster: SimCluster, host: SimNode, incarnation: bytes, pid: int) -> None:
        super().__init__(cluster.wire, incarnation)
        self.cluster = cluster
        self.host = host
        self.node = host.incarnation
        self.pid = pid
        self.job = 0
        self.crashed = False
        self.abandoned = False  # its job is over: what it still does nobody sees
        self.node_lost = False
        self.mesh.on_closed = self.on_closed
        self.mesh.on_error = cluster.error
        self.redial = Redial(self.mesh, self.node, self.send, self.hello, self.later)
        self.refs = References(incarnation, self, self._free_stored)
        if self.kind == "worker":
            self.refs.telling = Telling(self.refs, incarnation, self.mesh.endpoint, cluster.config.kept_bytes_max)
        self.gcs = GcsClient(incarnation, self.send, [self.node])
        self.adoption = Adoption(self.refs, self.gcs, self.mesh.endpoint, lambda: self.net.now)
        self.holding = Holding(self.refs, self.adoption, self.send, lambda: any(
            self.mesh.dialled(peer) and self.refs.is_gone(peer) for peer in self.mesh.peers()))
        self.submitter = Submitter(incarnation, self.node, 0, self, self.refs, cluster.config)
        self.calls = ActorCalls(self.node, self, self.refs, self.submitter)
        self.dropped: deque[Any] = deque()
        self.task, self.attempt = b"", 0
        self.counters: dict[tuple[bytes, int], int] = {}
        self.next_request = 0
        self.groups: set[bytes] = set()  # placement groups that tasks of it made
        self.asked: dict[int, Callable[[m.ActorReply], None]] = {}  # what the node is to answer
        self._tick_at: float | None = None
        refs, submitter = self.refs, self.submitter
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.LeaseGrant.CODE: submitter.on_lease_grant, m.LeaseRecall.CODE: submitter.on_lease_recall,
            m.LeaseStatus.CODE: submitter.on_lease_status, m.WorkerDied.CODE: submitter.on_worker_died,
            m.TasksDone.CODE: submitter.on_tasks_done, m.HandBack.CODE: submitter.on_hand_back,
            m.StreamItem.CODE: submitter.on_stream_item, m.HoldAdd.CODE: refs.on_hold_add,
            m.HoldAck.CODE: refs.on_hold_ack, m.HoldDrop.CODE: refs.on_hold_drop, m.Locate.CODE: refs.on_locate,
            m.Resolved.CODE: refs.on_resolved, m.TransitDone.CODE: refs.on_transit_done,
            m.CancelObject.CODE: self.on_cancel_object, m.ActorState.CODE: self.calls.on_actor_state,
            m.CallsDone.CODE: self.calls.on_calls_done, m.ProcessGone.CODE: self.on_process_gone,
            m.AskHeld.CODE: self.on_ask_held,
            m.Hello.CODE: self.on_hello, m.HelloAck.CODE: self.on_hello_ack, m.DialAnswer.CODE: self.on_dial_answer,
            m.BindTcp.CODE: self.on_bind_tcp, m.NodeGone.CODE: self.on_node_gone, m.ActorReply.CODE: self.on_reply,
            **{cls.CODE: self.gcs.on_message for cls in (m.GcsReply, m.GcsRedirect, m.GcsEvents)}}
        self.connect(self.node, host.mesh.endpoint)

    # ------------------------------------------------------------ transport (Net), as in zray.core.runtime

    def send(self, peer: bytes, message: Any) -> None:
        self.mesh.send(peer, message.CODE, message)
        self.stir()

    def connect(self, peer: bytes, endpoint: str) -> None:
        if self.mesh.connected(peer):
            return
        if ids.same_node(peer, self.incarnation):
            self.mesh.connect(peer, endpoint)
        else:
            self.redial.dialling(peer)
            self.mesh.hold(peer)
            self.send(self.node, m.Dial(peer))
        self.hello(peer)

    def hello(self, peer: bytes) -> None:
        self.send(peer, m.Hello(m.PROTOCOL, self.kind, self.mesh.endpoint, self.pid, self.job, self.cluster.python,
                                list(m.FEATURES)))

    def disconnect(self, peer: bytes) -> None:
        if peer != self.node:
            self.mesh.disconnect(peer)

    def on_message(self, peer: bytes, code: int, message: Any) -> None:
        handler = self.handlers.get(code)
        if handler is not None:
            handler(peer, message)

    def on_closed(self, peer: bytes) -> None:
        if peer == self.node:
            self.lost_node()
            return
        if self.redial.closed(peer):
            self.stir()
            return
        self.silent(peer)
        self.refs.on_process_gone(peer)

    def silent(self, peer: bytes) -> None:
        self.submitter.on_peer_closed(peer)
        self.calls.on_peer_closed(peer)

    def on_process_gone(self, peer: bytes, message: m.ProcessGone) -> None:
        self.refs.on_process_gone(message.process, certain=True)
        self.redial.forget(message.process)
        if not self.mesh.dialled(message.process):
            self.mesh.forget(message.process)
            self.silent(message.process)

    def on_ask_held(self, peer: bytes, message: m.AskHeld) -> None:
        self._empty_dropped()
        self.holding.on_ask(peer, message)

    def _free_stored(self, oid: bytes, value: list[Any], escaped: bool) -> None:
        self.send(self.node, m.StoreFree([[oid, value[1], value[3]]], value[5]))

    def lost_node(self) -> None:
        """The daemon is gone: nothing that waits will ever come."""
        self.node_lost = self.abandoned = True
        failure = [m.FAILED, "raylet_died", {"node": self.node.hex()}]
        for entry in list(self.refs.owned.values()):
            if entry.value is None:
                self.refs.complete(entry, failure)
        for record in list(self.refs.borrowed.values()):
            if record.value is None:
                self.refs.complete(record, failure)

    def on_hello_ack(self, peer: bytes, message: m.HelloAck) -> None:
        if message.refused:
            self.mesh.disconnect(peer)
        else:
            self.redial.met(peer)

    def on_hello(self, peer: bytes, message: m.Hello) -> None:
        self.redial.met(peer)
        self.send(peer, m.HelloAck(m.PROTOCOL, self.kind, list(m.FEATURES), ""))

    def on_dial_answer(self, peer: bytes, message: m.DialAnswer) -> None:
        if message.endpoint:
            self.redial.found(message.process)
            self.mesh.connect(message.process, message.endpoint)
        else:
            self.redial.forget(message.process)
            self.mesh.give_up(message.process)

    def on_bind_tcp(self, peer: bytes, message: m.BindTcp) -> None:
        self.send(peer, m.Bound(self.mesh.serve_tcp()))

    def on_node_gone(self, peer: bytes, message: m.NodeGone) -> None:
        for process in [p for p in self.mesh.peers() if ids.node_of(p) == message.node]:
            self.redial.forget(process)
            self.mesh.forget(process)
            self.on_closed(process)
        self.refs.on_node_gone(message.node)
        self.holding.node_gone(message.node)

    def on_reply(self, peer: bytes, message: m.ActorReply) -> None:
        then = self.asked.pop(message.request, None)
        if then is not None:
            then(message)

    def on_cancel_object(self, peer: bytes, message: m.CancelObject) -> None:
        entry = self.refs.owned.get(message.oid)
        if entry is not None:
            self.cancel_entry(entry, message.force, message.recursive)

    # ------------------------------------------------------------ turns

    def _empty_dropped(self) -> None:
        while self.dropped:
            record = self.dropped.popleft()
            if type(record) is Stream:
                self.submitter.streams.close(record)
            else:
                self.refs.unpin(record)

    def turn(self) -> None:
        self._empty_dropped()
        self.submitter.now = self.net.now
        if self.submitter.dirty:
            self.submitter.pump()
        if self.calls.dirty:
            self.calls.pump()
        if self.adoption.busy:
            self.adoption.pump()
        self.refs.flush()
        times = [t for t in (self.submitter.next_deadline(), self.calls.next_deadline(), self.adoption.next_deadline(),
                             self.net.now + RETRY_S if self.gcs.busy else None) if t is not None]
        if times and (self._tick_at is None or min(times) < self._tick_at):
            self._tick_at = min(times)
            self.at(self._tick_at, self._tick, self._tick_at)
        self.cluster.stepped(self)

    def _tick(self, when: float) -> None:
        if self._tick_at == when:
            self._tick_at = None
            self.submitter.tick(self.net.now)
            self.calls.tick(self.net.now)
            self.gcs.tick(self.net.now)
            self.stir()

    # ------------------------------------------------------------ values

    def failure(self, kind: str, root: str) -> Failure:
        return Failure(kind, root)

    def address_of(self, record: Any) -> tuple[bytes, str]:
        if record.owner is None:
            record.escaped = True
            return self.incarnation, self.mesh.endpoint
        return record.owner, record.endpoint

    def encode(self, number: int, refs: list[Ref]) -> bytes:
        return msgpack.packb([number, [[ref.oid, *self.address_of(ref.record)] for ref in refs]])

    def load(self, ref: Ref) -> tuple[int, list[Ref]]:
        """The value of a ready object, and references to those inside it; raises its failure."""
        self.cluster.oracle.observe(self, ref.record)
        return self.decode(ref.record.value, ref.record)

    def decode(self, value: Any, record: Any = None) -> tuple[int, list[Ref]]:
        if type(value) is bytes:
            number, triples = msgpack.unpackb(value)
            return number, [self.restore(oid, owner, at, inside=record) for oid, owner, at in triples]
        if value[0] == m.CARRYING:
            return self.decode(value[1], record)
        if value[0] == m.STORED:
            stores = self.cluster.stores
            if record is None and not stores.has(value):  # an argument of somebody who has died meanwhile
                raise Failure("object_lost", "object_lost")
            return self.decode(stores.read(self, value), record)
        raise Failure(value[1], value[2].get("root", value[1]) if type(value[2]) is dict else value[1])

    def peek(self, value: Any) -> int:
        """The number of a wire value; no references are made."""
        while type(value) is not bytes:
            value = value[1] if value[0] == m.CARRYING else self.cluster.stores.read(self, value)
        return msgpack.unpackb(value)[0]

    def restore(self, oid: bytes, owner: bytes, endpoint: str, inside: Any = None, *, lent: bool = False) -> Ref:
        return Ref(self, self.refs.restore(oid, owner, endpoint, inside, lent=lent))

    def result(self, value: Any, receiver: bytes) -> Any:
        """The wire value of what a task returns to ``receiver``."""
        if type(value) is not programs.Given:
            return self.encode(value, [])
        wire = self.encode(value.number, value.refs)
        records = [ref.record for ref in value.refs]
        token = self.refs.send_carrying(receiver, records)
        triples = [[r.oid, *self.address_of(r)] for r in records]
        if self.refs.telling is not None:
            self.refs.telling.carried(triples, records, receiver)
        for ref in value.refs:
            ref.drop()
        return [m.CARRYING, wire, triples, token]

    # ------------------------------------------------------------ what programs do

    def next_task_id(self) -> bytes:
        place = self.task or self.incarnation, self.attempt
        self.counters[place] = count = self.counters.get(place, 0) + 1
        return ids.task_id(ids.task_prefix(self.job.to_bytes(4, "big"), *place), count)

    def put(self, number: int, inner: list[Ref] = []) -> Ref:  # noqa: B006  (never changed)
        oid = self.next_task_id() + ids.PUT_INDEX
        entry = self.refs.own(oid)
        wire = self.encode(number, inner)
        if number % 4:
            entry.value = self.cluster.stores.put(self, oid, wire)
        else:
            entry.value = wire
            self.refs.inline_bytes += len(wire)
        if inner:
            entry.contained = [ref.record for ref in inner]
            for record in entry.contained:
                record.refs += 1
        self.cluster.oracle.expect(oid, number)
        return Ref(self, entry)

    def submit(self, program: list[Any], deps: list[Ref] = [], nested: list[Ref] = [], *,  # noqa: B006
               retries: int = 3, cpus: int = 1, max_calls: int = 0, backpressure: int = 0,
               strategy: dict[str, Any] = {}, demand: dict[str, int] | None = None) -> list[Any]:  # noqa: B006
        """References to what the program returns; for a generator its Stream."""
        oracle = self.cluster.oracle
        tid = self.next_task_id()
        nret = programs.returns(program)
        needs, env = {"CPU": cpus * UNIT} if demand is None else demand, programs.env_of(program)
        key = self.submitter.key_for((*needs.items(), *env, *strategy.values()), needs, env, strategy, program[0])
        blob = msgpack.packb(program[0])
        task = Task(tid, self.cluster.function(program[0], blob), self._payload(program, nested), nret, key, retries)
        task.parent = self.task
        if deps or nested:
            task.deps = [ref.record for ref in deps]
            task.pins = task.deps + [ref.record for ref in nested]
            task.extra = {"slots": list(range(len(deps)))}
        if max_calls:
            task.extra = {**(task.extra or {}), "max_calls": max_calls}
        value = programs.expected(program, [oracle.value(ref.oid) for ref in deps],
                                  [oracle.value(ref.oid) for ref in nested])
        oracle.submitted(tid, program)
        if nret < 0:
            stream = self.submitter.streams.open(task, backpressure)
            if backpressure:
                task.extra = {**(task.extra or {}), "backpressure": backpressure}
            for index in range(program[3][0]):
                oracle.expect(ids.return_id(tid, index + 1), value if value == programs.FAILS else value[index])
            result: list[Any] = [stream]
        else:
            entries = [self.refs.own(ids.return_id(tid, i + 1), task) for i in range(nret)]
            task.entry = entries[0] if nret == 1 else entries
            values = value if type(value) is list else [value] * nret
            for entry, number in zip(entries, values, strict=True):
                oracle.expect(entry.oid, number)
            result = [Ref(self, entry) for entry in entries]
        self.submitter.submit(task)
        self.stir()
        return result

    def _payload(self, program: list[Any], nested: list[Ref]) -> bytes:
        return msgpack.packb([program, [[ref.oid, *self.address_of(ref.record)] for ref in nested]])

    def cancel(self, ref: Ref, *, force: bool, recursive: bool) -> None:
        record = ref.record
        if type(record) is not Borrowed:
            self.cancel_entry(record, force, recursive)
        elif record.value is None:
            self.send(record.owner, m.CancelObject(record.oid, force, recursive))
        self.stir()

    def cancel_entry(self, entry: Any, force: bool, recursive: bool) -> None:
        task = entry.task
        if task is None:
            return
        if task.key is None:
            self.calls.cancel(task, recursive)
        else:
            self.submitter.cancel(task, force, recursive)

    def keep(self, ref: Ref) -> None:
        """User code remembers the reference for a while, then looks at its value and drops it."""
        kept = ref.again()
        self.later(self.net.random.choice((0.0, self.net.random.uniform(0, 0.3))), self._look, kept)

    def _look(self, kept: Ref) -> None:
        def ready(record: Any) -> None:
            if self.alive:
                self.cluster.oracle.observe(self, record)
                kept.drop()

        if self.alive and self.refs.when_ready(kept.record, ready):
            ready(kept.record)
        self.stir()

    # ------------------------------------------------------------ actors

    def create_actor(self, restarts: int, retries: int = 0, cpus: int = 1,
                     strategy: dict[str, Any] | None = None) -> Handle:
        tid = self.next_task_id()
        actor = ids.actor_id(tid[:ids.PREFIX_SIZE], int.from_bytes(tid[ids.PREFIX_SIZE:], "little"))
        self.calls.link_for(actor, "Actor").max_task_retries = retries
        entry = self.refs.own(ids.return_id(tid, 1))
        self.calls.links[actor].life_record = entry
        self.refs.finalizers[entry.oid] = lambda: self.send(
            self.node, m.KillActor(actor, True, True, "all handles to it went out of scope"))
        self.cluster.oracle.created(actor, entry.oid)
        self.send(self.node, m.CreateActor(actor, {
            "class_key": b"actor", "demand": {"CPU": cpus * UNIT}, "running": {}, "max_restarts": restarts,
            "class_name": "Actor", "job": self.job, "strategy": strategy or {}}, 0))
        return Handle(actor, Ref(self, entry))

    def create_detached(self, name: str, restarts: int, then: Callable[[Handle], None]) -> None:
        """An actor that outlives its driver; ``then`` with its handle, not at all when the name is taken."""
        tid = self.next_task_id()
        actor = ids.actor_id(tid[:ids.PREFIX_SIZE], int.from_bytes(tid[ids.PREFIX_SIZE:], "little"))
        self.cluster.oracle.detached(actor, name)
        self._ask_for_actor(then, lambda request: m.CreateActor(actor, {
            "class_key": b"actor", "demand": {"CPU": UNIT}, "running": {}, "max_restarts": restarts, "detached": True,
            "name": name, "namespace": "sim", "class_name": "Actor", "job": self.job}, request))

    def look_up(self, name: str, then: Callable[[Handle], None]) -> None:
        """``then`` with the handle of the actor that has this name, if there is one."""
        self._ask_for_actor(then, lambda request: m.LookupActor(name, "sim", request))

    def _ask_for_actor(self, then: Callable[[Handle], None], make: Callable[[int], Any]) -> None:
        def answered(reply: m.ActorReply) -> None:
            if not reply.error:
                self.calls.link_for(reply.actor, "Actor")
                then(Handle(reply.actor, None))

        request = self.next_request = self.next_request + 1
        self.asked[request] = answered
        self.send(self.node, make(request))

    def handle_of(self, actor: bytes, life: Ref) -> Handle:
        """A handle that came in a task's arguments."""
        return Handle(actor, life.again())

    def link_of(self, handle: Handle) -> ActorLink:
        link = self.calls.link_for(handle.actor, "Actor")
        if link.life_record is None and handle.life is not None:
            link.life_record = handle.life.record
        return link

    def call(self, handle: Handle, x: int, seconds: float = 0.0, program: list[Any] | None = None) -> Ref:
        link = self.link_of(handle)
        tid = self.next_task_id()
        program = program or ["value", x, seconds, []]
        task = Task(tid, Function(b"", b"", "method"), self._payload(program, []), 1, None, link.max_task_retries)
        task.parent = self.task
        task.entry = self.refs.own(ids.return_id(tid, 1), task)
        self.cluster.oracle.submitted(tid, program)
        self.cluster.oracle.expect(task.entry.oid, programs.expected(program, [], []))
        self.calls.submit(link, task)
        self.stir()
        return Ref(self, task.entry)

    def kill_actor(self, handle: Handle, *, no_restart: bool) -> None:
        self.calls.kill(handle.actor)
        self.send(self.node, m.KillActor(handle.actor, no_restart, False, "killed by zray.kill()"))

    # ------------------------------------------------------------ placement groups

    def create_group(self, bundles: int, strategy: str, resource: str = "CPU") -> bytes:
        """A placement group of that many bundles of one CPU, or of another resource."""
        tid = self.next_task_id()
        group = ids.group_id(self.node, tid[:ids.PREFIX_SIZE], int.from_bytes(tid[ids.PREFIX_SIZE:], "little"))
        self.send(self.node, m.CreateGroup(group, {
            "bundles": [{resource: UNIT}] * bundles, "strategy": strategy, "name": "", "namespace": "sim",
            "detached": False}, 0))
        return group

    def remove_group(self, group: bytes) -> None:
        """Whatever waits for it, or runs in it, ends."""
        self.groups.discard(group)
        self.cluster.oracle.happened["group"] += 1
        self.send(self.node, m.RemoveGroup(group, "removed by the schedule"))

    def own_group(self, bundles: int, strategy: str, resource: str) -> bytes:
        """A placement group that the running task will remove when all it started there has ended."""
        group = self.create_group(bundles, strategy, resource)
        self.groups.add(group)
        return group

    def end_group(self, group: bytes) -> None:
        """That has happened: the removal is no excuse for anything, and may be lost with this process."""
        self.send(self.node, m.RemoveGroup(group, "its task is done with it"))

    # ------------------------------------------------------------ ends

    def owns(self, oid: bytes) -> bool:
        """An object with a value, not one that was freed, nor one that it has claimed and not got yet."""
        entry = self.refs.owned.get(oid)
        orphan = self.adoption.orphans.get(oid)
        freed = entry is not None and type(entry.value) is list and entry.value[1] == "freed"
        return entry is not None and not freed and (orphan is None or orphan.entry is not entry)

    def quiet(self) -> bool:
        """Nothing is left of anything this process did."""
        refs = self.refs
        return not (self.dropped or refs.owned or refs.borrowed or refs.held_by or refs.transits or refs.arrivals
                    or refs.dropped_holds or refs.finalizers or not refs.unhandled.is_empty()
                    or self.submitter.leases or self.submitter.tasks
                    or self.adoption.busy or self.adoption.adopted or refs.kept_bytes
                    or self.calls.leaving or any(link.unfinished for link in self.calls.links.values()))

    def check(self) -> None:
        self.mesh.check()
        self.refs.check()
        self.submitter.check()
        self.calls.check()
        self.adoption.check()


Script = Iterator[Any]
