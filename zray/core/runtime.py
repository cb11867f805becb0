"""One Runtime per process: Owner, store client, mesh endpoint and loop, composed; what the API and the executor call.

The lock of the loop guards all state here.  User code, pickling and copying run outside it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zray import codec, errors, ids, messages as m, refs as refs_module, serialization
from zray.core.actors import Actors
from zray.config import Config
from zray.core.context import Context, TaskIds
from zray.core.explaining import Reasons, explain_batch, explain_records, explain_stream
from zray.core.futures import Futures
from zray.core.groups import Groups
from zray.gcs.client import RETRY_S, GcsClient
from zray.owner.adoption import Adoption
from zray.owner.calls import ActorCalls
from zray.owner.holding import Holding
from zray.owner.maps import MapBatch
from zray.owner.records import Borrowed, Entry
from zray.owner.references import References
from zray.owner.streams import Stream
from zray.owner.submitter import Submitter
from zray.owner.telling import Telling
from zray.refs import MapRefs, ObjectRef, ObjectRefGenerator, dropped
from zray.core.patience import Warned
from zray.core.reach import Reach
from zray.core.redial import Redial
from zray.core.replies import REQUEST_TIMEOUT_S, Reply, ask_control_store
from zray.core.witness import Witness
from zray.core.stored import Stored
from zray.core.tasks import Tasks
from zray.transport.loop import Loop
from zray.transport.mesh import Limits, Mesh
from zray.core.unhandled import Reporter
from zray.core.values import Values
from zray.core.waiting import Abandoned
from zray.core.waits import Waits
from zray.core.whys import Whys

logger = logging.getLogger("zray")

EXPLAIN_S = 1.0  # other processes are asked so long why something waits, when that is what the user asked for
LINGER_MS = 200  # for the last frames of a process that leaves
DROP_EVERY_S = 0.005  # a sleeping process looks at dropped references this often at most


class Runtime:
    """Everything a core process has; made by zray.core.joining.

    refs submitter calls        the owner's machines, and ...                          (pure)
    adoption gcs                ... what becomes of other owners' objects; the control store's client
    tasks actors waits values   what user code calls: submission, actors, blocking reads, encoding
    stored futures              the object store with its waits; futures and await
    """

    def __init__(self, kind: str, incarnation: bytes, node: bytes, node_endpoint: str, endpoint: str, job: int,
                 config: Config):
        self.kind = kind
        self.incarnation = incarnation
        self.node = node
        self.endpoint = endpoint
        self.job = job
        self.ids = TaskIds()
        self.ids.set_job(job)
        self.config = config
        self.pid = os.getpid()
        self.context = Context()
        self.namespace = ""
        self.env: dict[str, str] = {}  # variables that tasks and actors submitted here inherit; never changes in use
        self.node_info: dict[str, Any] = {}
        self.closed = False
        self.store: Any = None  # the StoreClient, once attached
        self.marks: Any = None  # of a worker: its progress marks
        self.executor: Any = None  # of a worker
        self._lost_node: Callable[[], None] | None = None
        self.witness: Witness | None = None  # of a driver: what it sees of its node's end
        self.driver_log: Callable[[m.LogLines], None] | None = None
        self.blocked: dict[bytes, Callable[[], Reasons]] = {}  # running task -> what it waits for
        self.warned = Warned(kind == "worker")
        self.unsent = 0  # submissions since the last turn
        self._inline_bytes_next = config.inline_table_bytes_max  # beyond this, inline values move to the store
        self._requests: dict[int, Reply] = {}
        self._request_count = 0
        self._tick_handle: Any = None
        self._rearm: Any = None  # the timer after which finalisers may wake a sleeping process again
        self._pinned: set[bytes] = set()  # objects that live as long as this process
        self._compose(node, endpoint)
        self._register()
        with self.loop.lock:
            self.connect(node, node_endpoint)
        self.loop.start()

    def _compose(self, node: bytes, endpoint: str) -> None:
        self.mesh = Mesh(self.incarnation, self.job, endpoint, codec.encode, codec.decode, time.monotonic,
                         limits=Limits.of(self.config))
        self.loop = Loop(self.mesh, self._dispatch, on_error=_report_error, service_after_s=self.config.service_after_s)
        self.reach = Reach(self.mesh, node, os.path.dirname(endpoint.removeprefix("ipc://")))
        self.redial = Redial(self.mesh, node, self.send, self._hello,
                             lambda seconds, action: self.loop.call_at(time.monotonic() + seconds, action))
        self.loop.on_turn = self._turn
        self.mesh.on_closed = self._peer_closed
        self.mesh.on_error = _report_error
        self.stored = Stored(self)
        self.refs = References(self.incarnation, self, self.stored.free, self.config.kept_bytes_max)
        if self.kind == "worker":
            self.refs.telling = Telling(self.refs, self.incarnation, endpoint, self.config.kept_bytes_max)
        self.submitter = Submitter(self.incarnation, node, self.job, self, self.refs, self.config)
        self.calls = ActorCalls(node, self, self.refs, self.submitter)
        self.gcs = GcsClient(self.incarnation, self.send, [node])
        self.adoption = Adoption(self.refs, self.gcs, endpoint, time.monotonic)
        self.holding = Holding(self.refs, self.adoption, self.send, self._may_hear_the_dead)
        self.values = Values(self)
        self.submitter.maps.pack_items = self.values.pack_items
        self.submitter.maps.pick = self.values.pick
        self.submitter.maps.pick_later = self.values.pick_later
        self.submitter.maps.failure = self.values.failure
        self.submitter.retry_matches = _error_matches
        self.submitter.reconstruction.locate = self.stored.locate
        self.futures = Futures(self)
        self.reporter = Reporter(self)
        self.whys = Whys(self)
        self.ask_why, self.ask_of_actor = self.whys.ask_why, self.whys.ask_of_actor
        self.tasks = Tasks(self)
        self.groups = Groups(self)
        self.actors = Actors(self)
        self.waits = Waits(self)
        # What handles, the API and the executor call, in one place.
        self.submit, self.map, self.map_item = self.tasks.submit, self.tasks.map, self.tasks.map_item
        self.cancel, self.cancel_children = self.tasks.cancel, self.tasks.cancel_children
        self.fetch_function = self.tasks.fetch_function
        self.create_actor, self.call = self.actors.create, self.actors.call
        self.kill, self.lookup_actor, self.death_of = self.actors.kill, self.actors.lookup, self.actors.death_of
        self.get_one, self.get, self.get_map, self.get_dynamic, self.wait = (
            self.waits.get_one, self.waits.get, self.waits.get_map, self.waits.get_dynamic, self.waits.wait)
        self.next_of_stream, self.next_of_stream_async = self.waits.next_of_stream, self.waits.next_of_stream_async
        self.awaitable, self.future = self.waits.awaitable, self.futures.future
        self.put = self.values.put

    def _register(self) -> None:
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.HelloAck.CODE: self._on_hello_ack,
            m.LeaseGrant.CODE: self.submitter.on_lease_grant,
            m.LeaseRecall.CODE: self.submitter.on_lease_recall,
            m.LeaseStatus.CODE: self.submitter.on_lease_status,
            m.WorkerDied.CODE: self._on_worker_died,
            m.TasksDone.CODE: self.submitter.on_tasks_done,
            m.HandBack.CODE: self.submitter.on_hand_back,
            m.MapDone.CODE: self.submitter.maps.on_map_done,
            m.StreamItem.CODE: self.submitter.on_stream_item,
            m.HoldAdd.CODE: self.refs.on_hold_add,
            m.HoldAck.CODE: self.refs.on_hold_ack,
            m.HoldDrop.CODE: self.refs.on_hold_drop,
            m.Locate.CODE: self.refs.on_locate,
            m.Resolved.CODE: self.refs.on_resolved,
            m.ObjectLost.CODE: self.submitter.reconstruction.on_object_lost,
            m.TransitDone.CODE: self.refs.on_transit_done,
            m.CancelObject.CODE: self._on_cancel_object,
            m.Why.CODE: self.whys.on_why,
            m.Because.CODE: self._on_reply,
            m.ActorState.CODE: self._on_actor_state,
            m.CallsDone.CODE: self.calls.on_calls_done,
            m.ActorReply.CODE: self._on_reply,
            m.GroupReply.CODE: self._on_reply,
            m.GroupState.CODE: self.groups.on_state,
            m.NodeAnswer.CODE: self._on_reply,
            m.StoreLocated.CODE: self._on_located,
            m.ProcessGone.CODE: self._on_process_gone,
            m.AskHeld.CODE: self._on_ask_held,
            m.LogLines.CODE: self._on_log_lines,
            m.DialAnswer.CODE: self._on_dial_answer,
            m.BindTcp.CODE: self._on_bind_tcp,
            m.NodeGone.CODE: self._on_node_gone,
            m.GcsReply.CODE: self.gcs.on_message,
            m.GcsRedirect.CODE: self.gcs.on_message,
            m.GcsEvents.CODE: self.gcs.on_message,
            m.Hello.CODE: self._on_hello,
            m.Bye.CODE: self._on_bye,
        }

    # ------------------------------------------------------------ transport, as the machines see it (Net)

    def send(self, peer: bytes, message: Any) -> None:
        self.mesh.send(peer, message.CODE, message)

    def connect(self, peer: bytes, endpoint: str) -> None:
        if self.mesh.connected(peer):
            return
        if ids.same_node(peer, self.incarnation):
            self.mesh.connect(peer, endpoint)
        else:  # what it is sent waits until our node has found out where it can be dialled
            self.redial.dialling(peer)
            self.mesh.hold(peer)
            self.send(self.node, m.Dial(peer))
        self._hello(peer)

    def _hello(self, peer: bytes) -> None:
        self.mesh.send(peer, m.Hello.CODE, m.Hello(
            m.PROTOCOL, self.kind, self.endpoint, self.pid, self.job,
            f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}", list(m.FEATURES)))

    def disconnect(self, peer: bytes) -> None:
        if peer != self.node:
            self.mesh.disconnect(peer)

    def _dispatch(self, peer: bytes, code: int, message: Any) -> None:
        self.submitter.now = self.mesh.now
        handler = self.handlers.get(code)
        if handler is not None:
            handler(peer, message)

    def _turn(self) -> None:
        """Once a turn, before the flush: what was dropped, what is to be pushed."""
        self.unsent = 0
        if self.loop.service_leads:
            # The service thread is about to sleep: finalisers wake it, but not more often than every few milliseconds.
            if self._rearm is None and not refs_module.wake.armed:
                self._rearm = self.loop.call_at(time.monotonic() + DROP_EVERY_S, self._arm_wake)
        else:
            refs_module.wake.armed = False
        if dropped:
            self.empty_dropped()
        submitter = self.submitter
        submitter.now = time.monotonic()
        if submitter.dirty:
            submitter.pump()
        if submitter.reconstruction.questions:
            submitter.reconstruction.ask()
        if self.calls.dirty:
            self.calls.pump()
        if self.adoption.busy:
            self.adoption.pump()
        if self.refs.unhandled.reports:
            self.reporter.pump()
        self.refs.flush()
        if self.store is not None:
            self.store.flush()
            if self.refs.inline_bytes > self._inline_bytes_next:
                self._inline_bytes_next = self.stored.relieve(self.config.inline_table_bytes_max)
        if self._tick_handle is None and (submitter.timed or self.calls.leaving or self.gcs.busy
                                          or self.adoption.busy):
            self._arm_tick()

    def _arm_wake(self) -> None:
        self._rearm = None
        if self.loop.service_leads:
            if dropped:
                self.empty_dropped()
            refs_module.wake.armed = True

    def kick(self) -> None:
        """What was queued goes out now, whoever polls."""
        with self.loop.lock:
            self._turn()
            self.loop.kick()

    def empty_dropped(self) -> None:
        unpin = self.refs.unpin
        while dropped:
            record = dropped.popleft()
            kind = type(record)
            if kind is Entry or kind is Borrowed:
                unpin(record)
            elif kind is MapBatch:
                self.submitter.maps.release(record)
            elif kind is Stream:
                self.submitter.streams.close(record)
            elif kind is Abandoned:
                for waited in record.records:
                    self.refs.forget_waiter(waited, record.arrivals)

    def _arm_tick(self) -> None:
        """One timer for all machines; what becomes due earlier while it runs is late by at most one idle time."""
        submitter = self.submitter
        times = [submitter.next_deadline(), self.calls.next_deadline(), self.adoption.next_deadline(),
                 submitter.now + RETRY_S if self.gcs.busy else None,
                 submitter.now + submitter.lease_idle_s if submitter.timed or self.adoption.busy else None]
        submitter.timed = False
        deadline = min((at for at in times if at is not None), default=None)
        if deadline is not None:
            self._tick_handle = self.loop.call_at(min(deadline, submitter.now + submitter.lease_idle_s), self._tick)

    def _tick(self) -> None:
        self._tick_handle = None
        now = time.monotonic()
        self.submitter.tick(now)
        self.calls.tick(now)
        if self.gcs.busy:
            self.gcs.tick(now)
        if self.adoption.busy:
            self.adoption.pump()
        self._arm_tick()

    def _peer_closed(self, peer: bytes) -> None:
        if peer == self.node:
            self._node_lost()
            return
        if self.redial.closed(peer):
            return
        self.submitter.now = self.mesh.now
        self._silent(peer)
        self.refs.on_process_gone(peer)

    def _silent(self, peer: bytes) -> None:
        """Nothing more comes from that process."""
        self.submitter.on_peer_closed(peer)
        self.calls.on_peer_closed(peer)

    def when_node_lost(self, act: Callable[[], None]) -> None:
        """``act()`` when the node has gone, or could not be dialled; at once when that is known by now."""
        with self.loop.lock:
            self._lost_node = act
            if self.submitter.lost is not None:
                act()

    def _node_lost(self) -> None:
        if self.closed:
            return
        if self._lost_node is not None:
            self._lost_node()
        seen = self.witness.account() if self.witness is not None else {}
        failure = self.submitter.lost = [m.FAILED, "raylet_died", {
            "node": self.node.hex(), "log_file": self.node_log, **seen}]
        if self.store is not None:
            self.store.node_lost(failure)
        for entry in list(self.refs.owned.values()):
            if entry.value is None:
                self.refs.complete(entry, failure)
        for record in list(self.refs.borrowed.values()):
            if record.value is None:
                self.refs.complete(record, failure)
        for reply in self._requests.values():
            self.loop.notify(reply)

    # ------------------------------------------------------------ messages that several parts share

    def _on_hello(self, peer: bytes, message: m.Hello) -> None:
        refused = "" if message.protocol == m.PROTOCOL else f"protocol {message.protocol}, here {m.PROTOCOL}"
        if not refused:
            self.redial.met(peer)
        self.send(peer, m.HelloAck(m.PROTOCOL, self.kind, list(m.FEATURES), refused))

    def _on_hello_ack(self, peer: bytes, message: m.HelloAck) -> None:
        if message.refused:
            logger.error("peer %s refuses this process: %s", peer.hex(), message.refused)
            self.mesh.disconnect(peer)
        else:
            self.redial.met(peer)

    def _on_bye(self, peer: bytes, message: m.Bye) -> None:
        if peer == self.node:
            reply = self._requests.get(0)
            if reply is not None:
                self.loop.notify(reply)

    def _on_worker_died(self, peer: bytes, message: m.WorkerDied) -> None:
        self.submitter.on_worker_died(peer, message)

    def _on_ask_held(self, peer: bytes, message: m.AskHeld) -> None:
        self.empty_dropped()
        self.holding.on_ask(peer, message)

    def _may_hear_the_dead(self) -> bool:
        """Whether a connection of ours to a process that has ended is not drained yet."""
        return any(self.mesh.dialled(peer) and self.refs.is_gone(peer) for peer in self.mesh.peers())

    def _on_process_gone(self, peer: bytes, message: m.ProcessGone) -> None:
        self.refs.on_process_gone(message.process, certain=True)
        if self.executor is not None:
            self.executor.queue.forget_owners(lambda owner: owner == message.process)
        self.redial.forget(message.process)
        if message.process != self.node and not self.mesh.dialled(message.process):
            # What we dialled ends by itself, once it is drained: the notice overtakes replies already sent.
            self.mesh.forget(message.process)
            self._silent(message.process)

    def _on_dial_answer(self, peer: bytes, message: m.DialAnswer) -> None:
        if message.endpoint:
            self.redial.found(message.process)
            self.reach.dial(message.process, message.endpoint)
        else:
            self.redial.forget(message.process)
            self.mesh.give_up(message.process)

    def _on_bind_tcp(self, peer: bytes, message: m.BindTcp) -> None:
        self.send(peer, m.Bound(self.reach.serve(message)))

    def _on_node_gone(self, peer: bytes, message: m.NodeGone) -> None:
        for process in [p for p in self.mesh.peers() if ids.node_of(p) == message.node]:
            self.redial.forget(process)
            self.mesh.forget(process)
            self._peer_closed(process)
        self.refs.on_node_gone(message.node)
        self.holding.node_gone(message.node)
        if self.executor is not None:
            self.executor.queue.forget_owners(lambda owner: ids.node_of(owner) == message.node)

    def _on_cancel_object(self, peer: bytes, message: m.CancelObject) -> None:
        entry = self.refs.owned.get(message.oid)
        if entry is not None:
            self.tasks.cancel_entry(entry, message.force, message.recursive)

    def _on_actor_state(self, peer: bytes, message: m.ActorState) -> None:
        self.calls.on_actor_state(peer, message)
        if message.state == "DEAD":
            pins = self.actors.creating.pop(message.actor, None)
            if pins:
                self.refs.unpin_all(pins)
            link = self.calls.links.get(message.actor)
            if link is not None and link.created and message.cause.get("kind") == "init":
                link.created = False  # once
                death = self.calls.death_of(link)
                assert death is not None
                self.reporter.actor_failed(message.actor, death)

    def _on_log_lines(self, peer: bytes, message: m.LogLines) -> None:
        if self.driver_log is not None:
            lines = self.warned.take(message.lines, self.futures.log)
            if lines or message.dropped or message.unfinished:
                self.driver_log(message._replace(lines=lines))

    def _on_reply(self, peer: bytes, message: Any) -> None:
        reply = self._requests.pop(message.request, None)
        if reply is not None:
            reply.message = message
            self.loop.notify(reply)

    def _on_located(self, peer: bytes, message: m.StoreLocated) -> None:
        if not self.stored.on_located(message):
            self._on_reply(peer, message)

    def next_request(self) -> int:
        """A number for a request whose answer somebody else waits for (under the lock)."""
        self._request_count += 1
        return self._request_count

    def request(self, make: Callable[[int], Any], timeout: float = REQUEST_TIMEOUT_S) -> Any:
        """Send ``make(request number)`` to the node and wait for its answer."""
        answer = self.ask_node(make, timeout)
        if answer is None:
            why = self.store_trouble()
            raise errors.GetTimeoutError(f"no answer within {timeout:g} s: {why}" if why else
                                         f"the node daemon did not answer within {timeout:g} s")
        return answer

    def store_trouble(self, timeout: float = EXPLAIN_S) -> str:
        """What the node says that keeps the control store from answering; '' when it says nothing."""
        try:
            answer = self.ask_node(lambda n: m.NodeQuery(n, "gcs", {}), timeout)
        except errors.LocalRayletDiedError:
            return ""
        return str(answer.answer.get("trouble", "")) if answer is not None else ""

    def ask_node(self, make: Callable[[int], Any], timeout: float) -> Any:
        """The answer of the node, None when there is none in time."""
        if self.submitter.lost is not None:
            raise self._lost_error()
        message, arrived = self.exchange(lambda n: self.send(self.node, make(n)), time.monotonic() + timeout)
        if message is None and arrived:
            raise self._lost_error()
        return message

    def exchange(self, send: Callable[[int], None], deadline: float) -> tuple[Any, bool]:
        """The message that answers what ``send(number)`` sends, under the lock, or None; whether the wait has ended."""
        reply = Reply()
        with self.loop.lock:
            number = self.next_request()
            self._requests[number] = reply
            send(number)
        try:
            arrived = self.loop.wait(reply, deadline)
        finally:
            with self.loop.lock:
                self._requests.pop(number, None)
        return reply.message, arrived

    def _lost_error(self) -> errors.RayError:
        _, name, detail = self.submitter.lost or [m.FAILED, "raylet_died", {"log_file": self.node_log}]
        return errors.from_failure(name, detail)

    @property
    def node_log(self) -> str:
        """The log file of this process's node."""
        return os.path.join(os.path.dirname(self.endpoint.removeprefix("ipc://")), "logs", "node.log")

    def query(self, what: str, **args: Any) -> dict[str, Any]:
        """A view of the node: see messages.NodeQuery."""
        return self.request(lambda n: m.NodeQuery(n, what, args)).answer

    def ask_control_store(self, what: str, call: Callable[[Callable[[Any], None]], Any]) -> Any:
        """See zray.core.replies."""
        return ask_control_store(self, what, call)

    # ------------------------------------------------------------ references

    def address_of(self, record: Any) -> tuple[bytes, str]:
        """``(owner, its endpoint)`` of a record, for a reference that leaves this process."""
        if record.owner is None:
            record.escaped = True
            return self.incarnation, self.endpoint
        return record.owner, record.endpoint

    def pin_for_good(self, ref: ObjectRef) -> None:
        """Somebody pickled it by hand, or a function captured it: nobody will tell when that copy is gone."""
        with self.loop.lock:
            if ref._oid not in self._pinned:
                self._pinned.add(ref._oid)
                ref._record.refs += 1

    def knows(self, oid: bytes) -> bool:
        """Whether this process holds a reference to the object, or owns it."""
        return oid in self.refs.owned or oid in self.refs.borrowed

    def find(self, oid: bytes) -> Entry | Borrowed | None:
        """The record of an object that is known here, with one reference more."""
        with self.loop.lock:
            record = self.refs.owned.get(oid) or self.refs.borrowed.get(oid)
            if record is not None:
                record.refs += 1
            return record

    def restore_ref(self, oid: bytes, owner: bytes, endpoint: str) -> ObjectRef:
        with self.loop.lock:
            record = self.refs.restore(oid, owner, endpoint, self.context.inside, lent=serialization.registering())
            return ObjectRef(oid, record)

    # ------------------------------------------------------------ for the executor

    def set_job(self, job: int) -> None:
        """Join a job: ids made from now on carry it."""
        self.job = self.submitter.job = self.mesh.job = job
        self.ids.set_job(job)

    def resolve(self, values: Sequence[Any], outer: Any = None) -> list[Any]:
        return self.values.load_many(values)

    def encode_result(self, value: Any, task: bytes, index: int, receiver: bytes | None = None) -> Any:
        return self.values.result(value, ids.return_id(task, index), receiver or self.context.receiver)

    def still_held(self, records: Iterable[Any]) -> list[list[Any]]:
        """What the reply of a task that has ended says of the ``records`` it got (under the lock)."""
        self.empty_dropped()
        return self.refs.still_held(records)

    def owner_busy(self) -> bool:
        """Whether other processes depend on objects of this one, or it has unfinished tasks."""
        return self.refs.exported() or any(key.queue or key.leases for key in self.submitter.by_number.values())

    def explain(self, ref: Any) -> str:
        """Why this reference (or the next one of a generator, or a map) is not ready, in words."""
        if isinstance(ref, ObjectRefGenerator):
            return explain_stream(self, ref._stream, EXPLAIN_S)
        if isinstance(ref, MapRefs):
            batch = ref._batch
            if not batch.remaining:
                return f"{ref!r}: it is ready"
            return str(Reasons([[batch.task_id(0) + ids.RETURN_1, *explain_batch(batch)]]))
        record = ref._record
        if record.value is not None:
            return f"{ref!r}: it is ready"
        trouble = self.store_trouble()
        return explain_records(self, [record], EXPLAIN_S) + (f"\n{trouble}" if trouble else "")

    # ------------------------------------------------------------ the end

    def drain(self, seconds: float) -> None:
        """Until everything queued is with ZeroMQ, or the time is up."""
        until = time.monotonic() + seconds
        self.kick()
        while self.mesh.pending() and time.monotonic() < until:
            self.loop.turn()

    def shutdown(self, goodbye: bool = True) -> None:
        """Leave: tell the node, wait until it has flushed what this job printed, close everything."""
        if self.closed:
            return
        self.closed = True
        self.reporter.end()
        if goodbye and self.kind == "driver" and self.pid == os.getpid() and self.submitter.lost is None:
            reply = Reply()
            with self.loop.lock:
                self._requests[0] = reply
                self.send(self.node, m.Goodbye("shutdown"))
            with contextlib.suppress(errors.GetTimeoutError):
                self.loop.wait(reply, time.monotonic() + 5.0)
        self._end_references()
        self.loop.stop()
        self.futures.close()
        self.mesh.close(LINGER_MS)
        if self.witness is not None:
            self.witness.close()
        if self.store is not None:
            self.store.close()
        if refs_module._hooks["runtime"] is self:
            refs_module._hooks["runtime"] = None
            refs_module.wake.armed = False
            serialization.set_out_of_band_hook(None)

    def _end_references(self) -> None:
        """References outlive their session: whoever asks for one, in the next session too, learns what became of it."""
        ended = [m.FAILED, "session_ended", {}]
        with self.loop.lock:
            records: list[Any] = [*self.refs.owned.values(), *self.refs.borrowed.values()]
            for record in records:
                record.value = ended
                waiters, record.waiters = record.waiters, None
                for waiter in waiters or ():
                    waiter(record)
            for task in list(self.submitter.tasks.values()):
                if task.stream is not None:
                    self.submitter.streams.failed(task, ended)
            self.submitter.maps.end_all(ended)

    def check(self) -> None:
        """Every machine's invariants."""
        with self.loop.lock:
            self.empty_dropped()
            self.refs.check()
            self.submitter.check()
            self.calls.check()
            self.adoption.check()


def current() -> Runtime | None:
    """The Runtime of this process, or None; a forked child of user code has none."""
    runtime = refs_module._hooks["runtime"]
    return runtime if runtime is not None and runtime.pid == os.getpid() else None


def _report_error(error: Exception) -> None:
    logger.error("internal error: %s", error, exc_info=error)


def _error_matches(wanted: Any, failure: list[Any]) -> bool:
    """Whether a task_error is one of the exception types in ``wanted``."""
    cause = getattr(errors.from_failure(failure[1], failure[2]), "cause", None)
    return isinstance(cause, tuple(wanted))
