"""One Runtime per process: Owner, store client, mesh endpoint and loop, composed; what the API and the executor call.

The lock of the loop guards all state here.  User code, pickling and copying run outside it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zray import codec, errors, ids, messages as m, refs as refs_module, serialization, stacks
from zray.causes import Cause
from zray.config import Config
from zray.futures import Futures
from zray.gcs.client import RETRY_S, GcsClient
from zray.options import DYNAMIC, STREAMING
from zray.owner.calls import ActorCalls, ActorLink
from zray.owner.maps import MapBatch
from zray.owner.records import Borrowed, Entry, Function, Key, Task
from zray.owner.references import References
from zray.owner.streams import Stream
from zray.owner.submitter import Submitter
from zray.refs import MapRefs, ObjectRef, ObjectRefGenerator, RefList, dropped
from zray.serialization import NONE, loads
from zray.store import StoreFull
from zray.store.client import Allocation, StoreClient
from zray.transport.loop import Loop, Waiter
from zray.transport.mesh import Mesh
from zray.values import Values
from zray.waiting import (
    Abandoned, Countdown, StreamRecord, WaitGroup, explain_record, explain_records, explain_stream, sentence,
)

logger = logging.getLogger("zray")

# Nothing is sent at submission: get and wait send what there is, else the service thread does within milliseconds.
# A thread that only submits looks at the sockets once in so many.
TURN_EVERY = 64
REQUEST_TIMEOUT_S = 30.0
WHY_S = 0.05  # other processes are asked so long why something waits, before an error or a warning says so
EXPLAIN_S = 1.0  # and so long when that is what the user asked for
LINGER_MS = 200  # for the last frames of a process that leaves
DROP_EVERY_S = 0.005  # a sleeping process looks at dropped references this often at most


class Context(threading.local):
    """What runs on this thread; ``task`` names the parent of whatever it submits."""

    task = b""
    attempt = 0
    task_name = ""
    actor = b""
    job = 0
    assigned: dict[str, Any] = {}
    receiver = b""  # the owner of the running task
    prefix_of: Any = None
    prefix = b""
    counter = 0
    inside: Any = None  # the borrowed object whose value is being unpickled


class Site:
    """A RemoteFunction with given options, as this Runtime submits it."""

    __slots__ = ("runtime", "options", "fn", "key", "retries", "nret", "plain")

    def __init__(self, runtime: Runtime, options: Any, fn: Function, key: Key):
        self.runtime = runtime
        self.options = options
        self.fn = fn
        self.key = key
        retries = options.max_retries
        self.retries = runtime.config.task_max_retries if retries is None else retries
        self.nret = options.num_returns
        # plain: one return, nothing the worker must know beyond the function
        self.plain = options.num_returns == 1 and not options.max_calls and options.name is None


class Reply(Waiter):
    """Waits for the answer to one request."""

    __slots__ = ("message",)

    def __init__(self) -> None:
        super().__init__()
        self.message: Any = None


class Runtime:
    """Everything a core process has; made by ``for_driver`` and ``for_worker``."""

    def __init__(self, kind: str, incarnation: bytes, node: bytes, node_endpoint: str, endpoint: str, job: int,
                 config: Config):
        self.kind = kind
        self.incarnation = incarnation
        self.node = node
        self.endpoint = endpoint
        self.job = job
        self.job_bytes = ids.JobID.from_int(job).binary()
        self.config = config
        self.pid = os.getpid()
        self.mesh = Mesh(incarnation, job, endpoint, codec.encode, codec.decode, time.monotonic)
        self.loop = Loop(self.mesh, self._dispatch, on_error=_report_error, service_after_s=config.service_after_s)
        self.loop.on_turn = self._turn
        self.mesh.on_closed = self._peer_closed
        self.mesh.on_error = _report_error
        self.refs = References(incarnation, self, self._free_stored)
        self.submitter = Submitter(incarnation, node, job, self, self.refs, config)
        self.calls = ActorCalls(node, self, self.refs, self.submitter)
        self.gcs = GcsClient(incarnation, self.send, [node])
        self.values = Values(self)
        self.submitter.maps.pack_items = self.values.pack_items
        self.submitter.maps.pick = self.values.pick
        self.submitter.retry_matches = _error_matches
        self.futures = Futures(self)
        self.store: Any = None
        self.executor: Any = None
        self.context = Context()
        self.root_task = ids.task_id(self.job_bytes + ids.random_bytes(12), 0)
        self.namespace = ""
        self.node_info: dict[str, Any] = {}
        self.closed = False
        self.lost_node: Callable[[], None] | None = None
        self.driver_log: Callable[[m.LogLines], None] | None = None
        self._threads = 0
        self._unsent = 0
        self._requests: dict[int, Reply] = {}
        self._request_count = 0
        self._creating: dict[bytes, list[Any]] = {}  # actor -> records its creation pins
        self._tick_handle: Any = None
        self._exported: set[bytes] = set()
        self.blocked: dict[bytes, Callable[[float], str]] = {}  # running task -> what it waits for
        self._pinned: set[bytes] = set()  # objects that live as long as this process
        self.marks: Any = None
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
            m.TransitDone.CODE: self.refs.on_transit_done,
            m.CancelObject.CODE: self._on_cancel_object,
            m.Why.CODE: self._on_why,
            m.Because.CODE: self._on_reply,
            m.ActorState.CODE: self._on_actor_state,
            m.CallsDone.CODE: self.calls.on_calls_done,
            m.ActorReply.CODE: self._on_reply,
            m.NodeAnswer.CODE: self._on_reply,
            m.ProcessGone.CODE: self._on_process_gone,
            m.LogLines.CODE: self._on_log_lines,
            m.GcsReply.CODE: self.gcs.on_message,
            m.GcsRedirect.CODE: self.gcs.on_message,
            m.GcsEvents.CODE: self.gcs.on_message,
            m.Hello.CODE: self._on_hello,
            m.Bye.CODE: self._on_bye,
        }
        with self.loop.lock:
            self.connect(node, node_endpoint)
        self.loop.start()

    # ------------------------------------------------------------ transport, as the machines see it (Net)

    def send(self, peer: bytes, message: Any) -> None:
        self.mesh.send(peer, message.CODE, message)

    def connect(self, peer: bytes, endpoint: str) -> None:
        if not self.mesh.connected(peer):
            self.mesh.connect(peer, endpoint)
            self.mesh.send(peer, m.Hello.CODE, m.Hello(
                m.PROTOCOL, self.kind, self.endpoint, self.pid, self.job,
                f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}", list(m.FEATURES)))

    def disconnect(self, peer: bytes) -> None:
        if peer != self.node:
            self.mesh.disconnect(peer)

    def _dispatch(self, peer: bytes, code: int, message: Any) -> None:
        handler = self.handlers.get(code)
        if handler is not None:
            handler(peer, message)

    def _turn(self) -> None:
        """Once a turn, before the flush: what was dropped, what is to be pushed."""
        self._unsent = 0
        wake = refs_module.wake
        if self.loop.served:
            # The service thread is about to sleep: finalisers wake it, but not more often than every few milliseconds.
            if dropped:
                wake.armed = False
                self.loop.call_at(time.monotonic() + DROP_EVERY_S, _arm_wake)
            else:
                wake.armed = True
        else:
            wake.armed = False
        if dropped:
            self._empty_dropped()
        submitter = self.submitter
        submitter.now = time.monotonic()
        if submitter.dirty:
            submitter.pump()
        if self.calls.dirty:
            self.calls.pump()
        self.refs.flush()
        if self.store is not None:
            self.store.flush()
        if self._tick_handle is None:
            self._arm_tick()

    def kick(self) -> None:
        """What was queued goes out now, whoever polls."""
        with self.loop.lock:
            self._turn()
            self.loop.kick()

    def _empty_dropped(self) -> None:
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
        times = [self.submitter.next_deadline(), self.calls.next_deadline(),
                 self.submitter.now + RETRY_S if self.gcs.busy else None]
        deadline = min((at for at in times if at is not None), default=None)
        if deadline is not None:
            self._tick_handle = self.loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._tick_handle = None
        now = time.monotonic()
        self.submitter.tick(now)
        self.calls.tick(now)
        if self.gcs.busy:
            self.gcs.tick(now)

    def _peer_closed(self, peer: bytes) -> None:
        if peer == self.node:
            self._node_lost()
            return
        self.submitter.on_peer_closed(peer)
        self.calls.on_peer_closed(peer)
        self.refs.on_process_gone(peer)

    def _node_lost(self) -> None:
        if self.closed:
            return
        if self.lost_node is not None:
            self.lost_node()
        failure = [m.FAILED, "raylet_died", {"node": self.node.hex()}]
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
        self.send(peer, m.HelloAck(m.PROTOCOL, self.kind, list(m.FEATURES), refused))

    def _on_hello_ack(self, peer: bytes, message: m.HelloAck) -> None:
        if message.refused:
            logger.error("peer %s refuses this process: %s", peer.hex(), message.refused)
            self.mesh.disconnect(peer)

    def _on_bye(self, peer: bytes, message: m.Bye) -> None:
        if peer == self.node:
            reply = self._requests.get(0)
            if reply is not None:
                self.loop.notify(reply)

    def _on_worker_died(self, peer: bytes, message: m.WorkerDied) -> None:
        self.submitter.on_worker_died(peer, message)

    def _on_process_gone(self, peer: bytes, message: m.ProcessGone) -> None:
        self.refs.on_process_gone(message.process, certain=True)
        if self.executor is not None:
            self.executor.queue.forget_owner(message.process)
        if message.process != self.node and not self.mesh.dialled(message.process):
            # What we dialled ends by itself, once it is drained: the notice overtakes replies already sent.
            self.mesh.forget(message.process)

    def _on_cancel_object(self, peer: bytes, message: m.CancelObject) -> None:
        entry = self.refs.owned.get(message.oid)
        if entry is not None:
            self._cancel_entry(entry, message.force, message.recursive)

    def _on_actor_state(self, peer: bytes, message: m.ActorState) -> None:
        self.calls.on_actor_state(peer, message)
        if message.state == "DEAD":
            pins = self._creating.pop(message.actor, None)
            if pins:
                self.refs.unpin_all(pins)

    def _on_log_lines(self, peer: bytes, message: m.LogLines) -> None:
        if self.driver_log is not None:
            self.driver_log(message)

    def _on_reply(self, peer: bytes, message: Any) -> None:
        reply = self._requests.pop(message.request, None)
        if reply is not None:
            reply.message = message
            self.loop.notify(reply)

    def request(self, make: Callable[[int], Any], timeout: float = REQUEST_TIMEOUT_S) -> Any:
        """Send ``make(request number)`` to the node and wait for its answer."""
        reply = Reply()
        with self.loop.lock:
            self._request_count += 1
            number = self._request_count
            self._requests[number] = reply
            self.send(self.node, make(number))
        try:
            arrived = self.loop.wait(reply, time.monotonic() + timeout)
        finally:
            with self.loop.lock:
                self._requests.pop(number, None)
        if reply.message is None:
            if arrived:
                raise errors.LocalRayletDiedError("the node daemon ended before it answered")
            raise errors.GetTimeoutError(f"the node daemon did not answer within {timeout:g} s")
        return reply.message

    def ask_why(self, peer: bytes, what: bytes, deadline: float) -> str:
        """What another process knows about a wait; '' when it says nothing in time."""
        reply = Reply()
        with self.loop.lock:
            self._request_count += 1
            number = self._request_count
            self._requests[number] = reply
            self.send(peer, m.Why(number, what))
        try:
            self.loop.wait(reply, deadline)
        finally:
            with self.loop.lock:
                self._requests.pop(number, None)
        return reply.message.text if reply.message is not None else ""

    def _on_why(self, peer: bytes, message: m.Why) -> None:
        """From a process that waits for an object of ours, or for a task that runs here; or from ``zray stack``."""
        if message.what == stacks.ASK:
            self.send(peer, m.Because(message.request, stacks.text()))
            return
        entry = self.refs.owned.get(message.what)
        blocked = self.blocked.get(message.what)
        if entry is not None and entry.value is None:
            text = sentence(entry.oid, *explain_record(self, entry))
        else:
            text = blocked(0.0) if blocked is not None else ""
        self.send(peer, m.Because(message.request, text))

    def query(self, what: str, **args: Any) -> dict[str, Any]:
        """A view of the node: see messages.NodeQuery."""
        return self.request(lambda n: m.NodeQuery(n, what, args)).answer

    # ------------------------------------------------------------ ids

    def _next_task_id(self, context: Context) -> bytes:
        """The next task id of this thread (under the lock)."""
        if context.prefix_of is not context.task:
            context.prefix_of = context.task
            context.counter = 0
            if context.task:
                context.prefix = ids.task_prefix(self.job_bytes, context.task, context.attempt)
            else:
                self._threads += 1  # a thread of the driver, or one that user code started
                context.prefix = ids.task_prefix(self.job_bytes, self.root_task, self._threads)
        context.counter += 1
        return context.prefix + context.counter.to_bytes(8, "little")

    @property
    def current_task(self) -> bytes:
        return self.context.task or self.root_task

    # ------------------------------------------------------------ functions

    def _site(self, fn: Any, options: Any) -> Site:
        key, blob = fn.definition()
        self.register_function(key, blob)
        function = Function(key, blob, fn.name)
        with self.loop.lock:
            record = self.submitter.key_for(options.key, options.demand, options.env,
                                            _strategy(options), fn.name)
        site = fn.state = Site(self, options, function, record)
        return site

    def register_function(self, key: bytes, blob: bytes) -> None:
        """Store a function or class in the GCS, once; nobody waits for it."""
        if key not in self._exported:
            self._exported.add(key)
            with self.loop.lock:
                self.gcs.register_function(self.job_bytes + key, blob)

    def fetch_function(self, key: bytes) -> bytes:
        """A function from the GCS: workers that were not sent it with the task."""
        reply = Reply()

        def arrived(call: Any) -> None:
            reply.message = call
            self.loop.notify(reply)

        with self.loop.lock:
            self.gcs.get_function(self.job_bytes + key, arrived)
        self.loop.wait(reply, time.monotonic() + REQUEST_TIMEOUT_S)
        call = reply.message
        if call is None or call.error or call.value is None:
            why = "did not answer" if call is None else call.error or "does not have it"
            raise errors.RaySystemError(f"function {key.hex()} could not be read: the control store {why}")
        return call.value

    # ------------------------------------------------------------ tasks

    def submit(self, fn: Any, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        """A task; see zray.handles.RemoteFunction.remote."""
        site = fn.state
        if site is None or site.runtime is not self or site.options is not options:
            site = self._site(fn, options)
        if args or kwargs:
            payload, slots, deps, pins = self._pack_args(args, kwargs, fn.function)
        else:
            payload, slots, deps, pins = serialization.EMPTY_ARGS, None, None, None
        context = self.context
        with self.loop.lock:
            tid = self._next_task_id(context)
            task = Task(tid, site.fn, payload, site.nret, site.key, site.retries)
            task.parent = context.task
            if pins is not None:
                task.deps, task.pins = deps, pins
                if slots:
                    task.extra = {"slots": slots}
            if site.plain:
                oid = tid + ids.RETURN_1
                entry = Entry(oid, task)
                self.refs.owned[oid] = task.entry = entry
                result: Any = ObjectRef(oid, entry)
            else:
                result = self._returns(task, options.num_returns, options.backpressure)
                self._task_extra(task, options)
            if options.retry_exceptions:
                task.retry_errors = options.retry_exceptions
            self.submitter.submit(task)
            unsent = self._unsent = self._unsent + 1
        if unsent >= TURN_EVERY:
            self.loop.turn()
        elif unsent == 1 and self.loop.led:
            self.loop.wake()
        self.loop.raise_pending()
        return result

    def _task_extra(self, task: Task, options: Any) -> None:
        extra = task.extra or {}
        if options.max_calls:
            extra["max_calls"] = options.max_calls
        if options.name is not None:
            extra["name"] = options.name
        if options.num_returns == STREAMING and options.backpressure > 0:
            extra["backpressure"] = options.backpressure
        task.extra = extra or None

    def _returns(self, task: Task, wanted: int, backpressure: int) -> Any:
        """Entries for what the task returns, and the references the caller gets (under the lock)."""
        if wanted == STREAMING or wanted == DYNAMIC:
            stream = self.submitter.streams.open(task, backpressure if wanted == STREAMING else 0)
            return ObjectRefGenerator(stream)
        entries = [self.refs.own(ids.return_id(task.tid, i + 1), task) for i in range(wanted)]
        refs: list[ObjectRef] = [ObjectRef(entry.oid, entry) for entry in entries]
        if wanted == 1:
            task.entry = entries[0]
            return refs[0]
        task.entry = entries
        return refs if wanted else None

    def _pack_args(self, args: tuple, kwargs: dict[str, Any], function: Any) -> tuple[Any, Any, Any, Any]:
        """``(wire value of the arguments, slots, records of top-level references, records to pin)``."""
        payload: Any
        dumped, slots, deps = serialization.dump_args(args, kwargs, function)
        if dumped.nbytes <= self.config.inline_bytes_max:
            payload = dumped.pickle if not dumped.buffers else serialization.to_bytes(dumped)
            if not slots and not dumped.refs:
                return payload, None, None, None
            stored: Entry | None = None
        else:
            with self.loop.lock:
                oid = self._next_task_id(self.context) + ids.PUT_INDEX
            payload = self.values.store(dumped, oid)
            with self.loop.lock:
                stored = self.refs.own(oid)
                stored.refs = 0  # the task's pin is its only one
                stored.escaped = True
                stored.value = payload
        records = [ref._record for ref in deps]
        pins = records + [ref._record for ref in dumped.refs]
        if stored is not None:
            pins.append(stored)
        return payload, list(slots), records, pins

    def map(self, fn: Any, items: Iterable[Any], options: Any, star: bool) -> Any:
        """``f.map``; falls back to one submission an item where items are references or need options of their own."""
        if not isinstance(items, (list, tuple, range)):
            items = list(items)
        site = fn.state
        if site is None or site.runtime is not self or site.options is not options:
            site = self._site(fn, options)
        with_refs = not isinstance(items, range) and (
            any(ObjectRef in set(map(type, item)) for item in items) if star else ObjectRef in set(map(type, items)))
        if with_refs or not site.plain:
            several: Any = items if star else [(item,) for item in items]
            return [self.submit(fn, tuple(item), {}, options) for item in several]
        context = self.context
        with self.loop.lock:
            first = self._next_task_id(context)
            start = context.counter
            context.counter += max(0, len(items) - 1)
            batch = MapBatch(first[:ids.PREFIX_SIZE], start, site.fn, site.key, items, star, site.retries)
            batch.retry_errors = options.retry_exceptions
            self.submitter.maps.submit(batch)
        self.kick()
        return MapRefs(batch)

    def map_item(self, batch: MapBatch, index: int) -> ObjectRef:
        with self.loop.lock:
            entry = self.submitter.maps.entry(batch, index)
        return ObjectRef(entry.oid, entry)

    # ------------------------------------------------------------ get

    def get(self, refs: Sequence[ObjectRef], timeout: float | None = None) -> list[Any]:
        """Values in order; the first error in order is raised."""
        records = [ref._record for ref in refs]
        for record in records:
            if record.value is None:
                self._wait_all(records, timeout)
                break
        load = self.values.load
        out = []
        for record in records:
            value = record.value
            if type(value) is bytes and record.owner is None:
                out.append(None if value == NONE else loads(value))
            else:
                out.append(load(record))
        return out

    def get_map(self, refs: MapRefs, timeout: float | None = None) -> list[Any]:
        """All values of a map, column by column."""
        batch = refs._batch
        with self.loop.lock:
            count = Countdown(self.loop, 1 if batch.remaining else 0)
            if batch.remaining:
                if batch.waiters is None:
                    batch.waiters = []
                batch.waiters.append(count)
        if not count.done:
            self._block(count, timeout, lambda budget: f"{batch.fn.name}.map: {batch.count - batch.remaining} of "
                                                       f"{batch.count} done")
        if batch.failures:
            raise self.values.error(batch.failures[min(batch.failures)])
        out: list[Any] = []
        order = sorted(batch.results, key=lambda column: column[0])
        for first, n, value in order:
            column = loads(self.values.payload(value))
            if first == len(out):
                out += column
            else:
                out[first:first + n] = column  # an item that was retried: its later result counts
        return out

    def _wait_all(self, records: Sequence[Any], timeout: float | None) -> None:
        if timeout is None and self.executor is not None and self.context.task:
            self.executor.inline.run_missing(records)
        with self.loop.lock:
            pending = [record for record in records if record.value is None]
            count = Countdown(self.loop, len(pending))
            for record in pending:
                self.refs.when_ready(record, count)
        if not pending:
            return
        try:
            self._block(count, timeout, lambda budget: explain_records(self, pending, budget))
        except BaseException:
            with self.loop.lock:
                for record in pending:
                    self.refs.forget_waiter(record, count)
            raise

    def _block(self, waiter: Waiter, timeout: float | None, why: Callable[[float], str]) -> None:
        """Wait for ``waiter``; says why after a while, and in the error when the time is over.

        ``why`` takes the seconds that it may spend on asking other processes.
        """
        start = time.monotonic()
        deadline = None if timeout is None else start + timeout
        executor = self.executor
        task = self.context.task
        blocked = executor is not None and task != b""
        if blocked:
            self.blocked[task] = lambda budget: f"it waits in get or wait:\n{why(budget)}"
            executor.on_blocked()
        try:
            if self.loop.wait(waiter, _earlier(deadline, start + self.config.warn_wait_s)):
                return
            if deadline is None or time.monotonic() < deadline:
                logger.warning("zray.get has waited for %.0f s:\n%s", time.monotonic() - start, why(WHY_S))
                if self.loop.wait(waiter, deadline):
                    return
        finally:
            if blocked:
                self.blocked.pop(task, None)
                executor.on_unblocked()
        raise errors.GetTimeoutError(f"Get timed out: some object(s) not ready.\n{why(WHY_S)}")

    # ------------------------------------------------------------ wait

    def wait(self, refs: Sequence[ObjectRef], num_returns: int, timeout: float | None, fetch_local: bool = True
             ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """``(ready, rest)``, each in the order of ``refs``; at most ``num_returns`` are ready."""
        if timeout == 0:
            return self._wait_now(refs, num_returns)
        group = self._wait_group(refs)
        arrivals, pending = group.arrivals, group.pending
        if len(arrivals.ready) < num_returns:
            with self.loop.lock:
                missing = num_returns - len(arrivals.ready)
                count = Countdown(self.loop, missing)
                arrivals.waiter = count if missing > 0 else None
            if missing > 0:
                try:
                    self._block(count, timeout, lambda budget: explain_records(
                        self, [r._record for r in pending.values()], budget))
                except errors.GetTimeoutError:
                    pass
                finally:
                    arrivals.waiter = None
        ready = arrivals.ready
        taken = {ready.popleft() for _ in range(min(num_returns, len(ready)))}
        if len(taken) == 1:
            done = [pending.pop(next(iter(taken)))]
        else:
            done = [ref for oid, ref in pending.items() if oid in taken]
            for oid in taken:
                del pending[oid]
        rest = RefList(pending.values())
        rest.group = group
        self.loop.raise_pending()
        return done, rest

    def _wait_now(self, refs: Sequence[ObjectRef], num_returns: int) -> tuple[list[ObjectRef], list[ObjectRef]]:
        with self.loop.lock:
            for ref in refs:
                if ref._record.value is None:
                    self.refs.ask(ref._record)
        self.loop.turn()
        done: list[ObjectRef] = []
        rest: list[ObjectRef] = []
        for ref in refs:
            (done if ref._record.value is not None and len(done) < num_returns else rest).append(ref)
        return done, rest

    def _wait_group(self, refs: Sequence[ObjectRef]) -> WaitGroup:
        if type(refs) is RefList and len(refs) == len(refs.group.pending):
            return refs.group
        group = WaitGroup(refs)
        if len(group.pending) != len(refs):
            raise ValueError("Wait requires a list of unique object refs.")
        arrivals = group.arrivals
        with self.loop.lock:
            for ref in refs:
                if self.refs.when_ready(ref._record, arrivals):
                    arrivals.ready.append(ref._oid)
        return group

    # ------------------------------------------------------------ put, references

    def put(self, value: Any) -> ObjectRef:
        """Store a value; its owner is this process."""
        dumped = serialization.dumps(value)
        context = self.context
        if dumped.nbytes <= self.config.inline_bytes_max:
            wire: Any = dumped.pickle if not dumped.buffers else serialization.to_bytes(dumped)
            oid = None
        else:
            with self.loop.lock:
                oid = self._next_task_id(context) + ids.PUT_INDEX
            wire = self.values.store(dumped, oid)
        with self.loop.lock:
            if oid is None:
                oid = self._next_task_id(context) + ids.PUT_INDEX
                self.refs.inline_bytes += len(wire)
            entry = self.refs.owned[oid] = Entry(oid)
            entry.value = wire
            if dumped.refs:
                entry.contained = [ref._record for ref in dumped.refs]
                for record in entry.contained:
                    record.refs += 1
            if dropped:
                self._empty_dropped()
        self.loop.raise_pending()
        return ObjectRef(oid, entry)

    def allocate(self, nbytes: int, oid: bytes) -> Allocation:
        """Space in the object store, waiting for it if need be (not under the lock).  ObjectStoreFullError."""
        while True:
            with self.loop.lock:
                if dropped:
                    self._empty_dropped()
                try:
                    found = self.store.allocate(nbytes, oid)
                except StoreFull as full:
                    raise errors.from_failure("store_full", full.report) from None
            if type(found) is Allocation:
                return found
            self._wait_store(found.waiter, Cause.STORE_FULL, f"it waits for {nbytes} bytes")

    def _wait_store(self, waiter: Waiter, cause: Cause, what: str) -> None:
        """Wait for the store, saying so to whoever asks, and to the user after a while."""
        task = self.context.task
        outer = self.blocked.get(task)
        self.blocked[task] = lambda budget: f"{cause.text} ({what})"
        try:
            if not self.loop.wait(waiter, time.monotonic() + self.config.warn_wait_s):
                logger.warning("zray has waited for %.0f s: %s (%s)", self.config.warn_wait_s, cause.text, what)
                self.loop.wait(waiter, None)
        finally:
            if outer is None:
                self.blocked.pop(task, None)
            else:
                self.blocked[task] = outer

    def read_stored(self, value: Any, record: Any) -> Any:
        """The buffer of a stored object, pinned while it is used; restored from disk if it was spilled."""
        while True:
            place, oid = value[:4], value[4]
            with self.loop.lock:
                buffer = self.store.read(place, oid)
                pending = self.store.restore(oid, place) if buffer is None else None
            if pending is None:
                return buffer
            self._wait_store(pending.waiter, Cause.RESTORING, f"ObjectRef({oid.hex()})")
            if pending.value is None:
                raise errors.from_failure("object_lost", {"oid": oid, "reason": pending.error})
            if pending.value[0] == m.FAILED:
                raise errors.from_failure(pending.value[1], pending.value[2])
            value = [*pending.value[:4], oid]
            if record is not None:
                with self.loop.lock:
                    self.refs.replace_value(record, value)

    def _free_stored(self, oid: bytes, value: Any, escaped: bool) -> None:
        if self.store is not None:
            self.store.free(value[4], value[:4], escaped)

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

    def restore_ref(self, oid: bytes, owner: bytes, endpoint: str) -> ObjectRef:
        with self.loop.lock:
            record = self.refs.restore(oid, owner, endpoint, self.context.inside)
            return ObjectRef(oid, record)

    # ------------------------------------------------------------ futures, await, streams

    def future(self, ref: ObjectRef) -> Any:
        return self.futures.future(ref)

    async def awaitable(self, ref: ObjectRef) -> Any:
        record = ref._record
        if record.value is None:
            await self.futures.arrival(record)
        return self.values.load(record)

    def next_of_stream(self, stream: Stream, timeout: float | None) -> ObjectRef | None:
        """The next reference of a generator, waiting for it; None at its end."""
        while True:
            with self.loop.lock:
                entry = self.submitter.streams.take(stream)
                if entry is not None:
                    return ObjectRef(entry.oid, entry)
                if stream.ended:
                    return None
                count = Countdown(self.loop, 1)
                stream.waiters = [*(stream.waiters or ()), count]
            self._block(count, timeout, lambda budget: explain_records(self, [StreamRecord(stream)], budget))

    def get_dynamic(self, generator: ObjectRefGenerator, timeout: float | None) -> ObjectRefGenerator:
        """What a task with ``num_returns="dynamic"`` returned, when it has ended; raises its error."""
        stream = generator._stream
        while True:
            with self.loop.lock:
                if stream.ended:
                    last = stream.ready[-1].value if stream.ready else None
                    break
                count = Countdown(self.loop, 1)
                stream.waiters = [*(stream.waiters or ()), count]
            self._block(count, timeout, lambda budget: explain_records(self, [StreamRecord(stream)], budget))
        if type(last) is list and last[0] == m.FAILED:
            raise self.values.error(last)
        return generator

    async def next_of_stream_async(self, stream: Stream) -> ObjectRef | None:
        while True:
            with self.loop.lock:
                entry = self.submitter.streams.take(stream)
                if entry is not None:
                    return ObjectRef(entry.oid, entry)
                if stream.ended:
                    return None
            await self.futures.stream_arrival(stream)

    # ------------------------------------------------------------ cancel

    def cancel(self, ref: ObjectRef | ObjectRefGenerator, force: bool, recursive: bool) -> None:
        with self.loop.lock:
            if isinstance(ref, ObjectRefGenerator):
                self._cancel_task(ref._stream.task, force, recursive)
            else:
                record = ref._record
                if type(record) is Borrowed:
                    self.send(record.owner, m.CancelObject(record.oid, force, recursive))
                else:
                    self._cancel_entry(record, force, recursive)
        self.kick()

    def _cancel_entry(self, entry: Entry, force: bool, recursive: bool) -> None:
        task = entry.task
        if task is None:
            return
        if type(task) is MapBatch:
            index = int.from_bytes(entry.oid[ids.PREFIX_SIZE:ids.TASK_SIZE], "little") - task.start
            task.cancelled.add(index)
        else:
            self._cancel_task(task, force, recursive)

    def _cancel_task(self, task: Task, force: bool, recursive: bool) -> None:
        if task.key is None:
            if force:
                raise ValueError("force=True is not supported for actor tasks.")
            self.calls.cancel(task, recursive)
        else:
            self.submitter.cancel(task, force, recursive)

    def cancel_children(self, parent: bytes) -> None:
        """Cancel what task ``parent`` submitted from this process (recursive cancellation; under the lock)."""
        for task in self.submitter.children_of(parent):
            self.submitter.cancel(task, False, True)

    # ------------------------------------------------------------ actors

    def create_actor(self, cls: Any, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        """See zray.handles.ActorClass.remote."""
        from zray.handles import ActorHandle

        key, blob = cls.definition()
        self.register_function(key, blob)
        payload, slots, deps, pins = self._pack_args(args, kwargs, cls.cls.__init__)
        meta = cls.meta(options)
        with self.loop.lock:
            tid = self._next_task_id(self.context)
            actor = ids.actor_id(tid[:ids.PREFIX_SIZE], int.from_bytes(tid[ids.PREFIX_SIZE:], "little"))
        spec: dict[str, Any] = {
            "class_key": key, "args": payload, "slots": slots or [], "deps": [], "demand": options.placement,
            "running": options.running, "name": options.name or "", "namespace": options.namespace or self.namespace,
            "detached": options.detached, "max_restarts": options.max_restarts,
            "max_task_retries": options.max_task_retries, "max_concurrency": options.max_concurrency or 0,
            "concurrency_groups": options.concurrency_groups or {}, "is_async": cls.is_async, "env": options.env,
            "class_name": cls.name, "method_names": cls.method_names, "get_if_exists": options.get_if_exists,
            "out_of_order": options.out_of_order, "meta": meta, "job": self.job, "strategy": _strategy(options)}
        if options.name:
            found = self._create_named(actor, spec, deps, options)
            if found is not None:
                return found
        life: ObjectRef | None = None
        with self.loop.lock:
            if options.name:
                link = self.calls.links[actor]
            else:
                link = self.calls.link_for(actor, cls.name, options.out_of_order)
            link.any_order = options.out_of_order
            if not options.detached:
                entry = self.refs.own(ids.return_id(tid, 1))
                link.life_record = entry
                self.refs.finalizers[entry.oid] = lambda: self.send(
                    self.node, m.KillActor(actor, True, True, "all handles to it went out of scope"))
                life = ObjectRef(entry.oid, entry)
            if pins:
                for record in pins:
                    record.refs += 1
                self._creating[actor] = pins
            if not options.name:
                _Creation(self, actor, spec, deps or [])
        self.kick()
        return ActorHandle._restore(actor, meta, life)

    def _create_named(self, actor: bytes, spec: dict[str, Any], deps: Any, options: Any) -> Any:
        """Names are claimed before ``.remote()`` returns: a handle of the existing actor, None when it is ours."""
        from zray.handles import ActorHandle

        if deps:
            self._wait_all(deps, None)
            spec["deps"] = [record.value for record in deps]
        answer = self.request(lambda n: m.CreateActor(actor, spec, n))
        if answer.error == "name_taken":
            raise ValueError(f"The name {options.name} (namespace={spec['namespace']}) is already taken. Please use a "
                             "different name or get the existing actor using ray.get_actor"
                             f"('{options.name}', namespace='{spec['namespace']}')")
        if answer.error:
            raise errors.RaySystemError(answer.detail or answer.error)
        if answer.actor != actor:
            return ActorHandle._restore(answer.actor, answer.meta, None)
        with self.loop.lock:
            self.calls.link_for(actor, spec["class_name"])
        return None

    def call(self, handle: Any, method: str, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        """A call of an actor's method; see zray.handles.ActorMethod.remote."""
        if args or kwargs:
            payload, slots, deps, pins = self._pack_args(args, kwargs, None)
        else:
            payload, slots, deps, pins = serialization.EMPTY_ARGS, None, None, None
        link = self.calls.links.get(handle._actor)
        if link is None or not link.watched or link.max_pending is None:
            link = self._link(handle)
        if link.max_pending and 0 < link.max_pending <= link.unfinished:
            raise errors.PendingCallsLimitExceeded(
                f"The task {link.name}.{method} could not be submitted because actor {handle._actor.hex()} already has "
                f"{link.unfinished} calls pending and max_pending_calls={link.max_pending}.")
        context = self.context
        wanted = options.num_returns
        retries = options.max_task_retries
        with self.loop.lock:
            tid = self._next_task_id(context)
            fn = link.methods.get(method)
            if fn is None:
                fn = link.methods[method] = Function(b"", b"", method)
            task = Task(tid, fn, payload, wanted, None, link.max_task_retries if retries is None else retries)
            task.parent = context.task
            if pins is not None:
                task.deps, task.pins = deps, pins
                if slots:
                    task.extra = {"slots": slots}
            if wanted == 1:
                oid = tid + ids.RETURN_1
                entry = Entry(oid, task)
                self.refs.owned[oid] = task.entry = entry
                result: Any = ObjectRef(oid, entry)
            else:
                result = self._returns(task, wanted, options.backpressure)
                if wanted == STREAMING and options.backpressure > 0:
                    task.extra = {**(task.extra or {}), "backpressure": options.backpressure}
            if options.group:
                task.extra = {**(task.extra or {}), "group": options.group}
            if options.retry_exceptions:
                task.retry_errors = options.retry_exceptions
            self.calls.submit(link, task)
            unsent = self._unsent = self._unsent + 1
        if unsent >= TURN_EVERY:
            self.loop.turn()
        elif unsent == 1 and self.loop.led:
            self.loop.wake()
        self.loop.raise_pending()
        return result

    def _link(self, handle: Any) -> ActorLink:
        about = handle._about
        with self.loop.lock:
            link = self.calls.link_for(handle._actor, about.class_name, about.out_of_order)
            link.max_task_retries = about.max_task_retries
            link.max_pending = about.max_pending_calls
            if link.life_record is None and handle._life_ref is not None:
                link.life_record = handle._life_ref._record
        return link

    def kill(self, actor: bytes, no_restart: bool) -> None:
        with self.loop.lock:
            self.calls.kill(actor)
            self.send(self.node, m.KillActor(actor, no_restart, False, "killed by zray.kill()"))
        self.kick()

    def lookup_actor(self, name: str, namespace: str | None) -> tuple[bytes, bytes]:
        """``(actor, meta)`` of a named actor; ValueError when there is none."""
        space = namespace or self.namespace
        answer = self.request(lambda n: m.LookupActor(name, space, n))
        if answer.error:
            raise ValueError(f"Failed to look up actor with name '{name}'. This could because 1. You are trying to "
                             "look up a named actor you didn't create. 2. The named actor died. 3. You did not use a "
                             f"namespace matching the namespace of the actor (looked in '{space}').")
        return answer.actor, answer.meta

    # ------------------------------------------------------------ for the executor

    def set_job(self, job: int) -> None:
        """Join a job: ids made from now on carry it."""
        self.job = self.submitter.job = self.mesh.job = job
        self.job_bytes = ids.JobID.from_int(job).binary()
        self.root_task = ids.task_id(self.job_bytes + ids.random_bytes(12), 0)

    def resolve(self, values: Sequence[Any], outer: Any = None) -> list[Any]:
        return self.values.load_many(values)

    def encode_result(self, value: Any, task: bytes, index: int, receiver: bytes | None = None) -> Any:
        return self.values.result(value, ids.return_id(task, index), receiver or self.context.receiver)

    def still_held(self, records: Iterable[Any]) -> list[list[Any]]:
        """``[[oid, n], ...]`` of the borrowed ``records`` that user code kept when its task ended (under the lock)."""
        self._empty_dropped()
        return [[r.oid, r.n] for r in records if r.refs > 0]

    def owner_busy(self) -> bool:
        """Whether other processes depend on objects of this one, or it has unfinished tasks."""
        return self.refs.exported() or any(key.queue or key.leases for key in self.submitter.by_number.values())

    def explain(self, ref: Any) -> str:
        """Why this reference (or the next one of a generator, or a map) is not ready, in words."""
        if isinstance(ref, ObjectRefGenerator):
            return explain_stream(self, ref._stream, EXPLAIN_S)
        if isinstance(ref, MapRefs):
            return f"{ref!r}" if ref._batch.remaining else f"{ref!r}: it is ready"
        record = ref._record
        if record.value is not None:
            return f"{ref!r}: it is ready"
        return explain_records(self, [record], EXPLAIN_S)

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
        if goodbye and self.kind == "driver" and self.pid == os.getpid():
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
                    with contextlib.suppress(RuntimeError):  # an asyncio loop that is closed by now
                        waiter(record)
            for task in list(self.submitter.tasks.values()):
                if task.stream is not None:
                    with contextlib.suppress(RuntimeError):
                        self.submitter.streams.failed(task, ended)
            self.submitter.maps.end_all(ended)

    def check(self) -> None:
        """Every machine's invariants."""
        with self.loop.lock:
            self._empty_dropped()
            self.refs.check()
            self.submitter.check()
            self.calls.check()


def current() -> Runtime | None:
    """The Runtime of this process, or None; a forked child of user code has none."""
    runtime = refs_module._hooks["runtime"]
    return runtime if runtime is not None and runtime.pid == os.getpid() else None


def _install(runtime: Runtime) -> None:
    dropped.clear()
    serialization.set_out_of_band_hook(runtime.pin_for_good)
    refs_module._hooks["runtime"] = runtime
    refs_module.wake.call = runtime.loop.wake


def _attach_store(runtime: Runtime, attach: dict[str, Any]) -> None:
    with runtime.loop.lock:
        runtime.store = StoreClient(attach, attach["slot"], runtime.incarnation,
                                    lambda message: runtime.send(runtime.node, message), runtime.config,
                                    make_waiter=Waiter, notify=runtime.loop.notify)
        runtime.handlers.update(runtime.store.handlers)


def for_driver(*, session_dir: str, node: bytes, node_endpoint: str, config: dict[str, Any], overrides: dict[str, Any],
               timeout_s: float = 15.0) -> Runtime:
    """Connect to a running node as a driver.

    ``config`` describes the job (RegisterDriver.config).  ConnectionError when the node does not answer.
    """
    incarnation = ids.new_incarnation()
    endpoint = f"ipc://{session_dir}/d-{incarnation.hex()}.sock"
    runtime = Runtime("driver", incarnation, node, node_endpoint, endpoint, 0, Config.load(overrides))
    accepted = Reply()

    def on_accepted(peer: bytes, message: m.DriverAccepted) -> None:
        accepted.message = message
        runtime.loop.notify(accepted)

    runtime.handlers[m.DriverAccepted.CODE] = on_accepted
    runtime.handlers[m.HelloAck.CODE] = _refusal(runtime, accepted)
    with runtime.loop.lock:
        config = {**config, "namespace": config.get("namespace") or f"anonymous-{incarnation.hex()}"}
        runtime.send(node, m.RegisterDriver(config))
    if not runtime.loop.wait(accepted, time.monotonic() + timeout_s) or type(accepted.message) is not m.DriverAccepted:
        runtime.closed = True
        runtime.loop.stop()
        runtime.mesh.close(0)
        why = accepted.message.refused if accepted.message is not None else f"no answer within {timeout_s:g} s"
        raise ConnectionError(f"the node at {node_endpoint} did not accept this driver: {why}")
    answer = accepted.message
    runtime.set_job(answer.job)
    runtime.node_info = answer.node
    runtime.namespace = config["namespace"]
    runtime.config = Config.load({**answer.settings, **overrides})
    _attach_store(runtime, answer.store)
    _install(runtime)
    runtime.loop.install_sigint()
    return runtime


def _refusal(runtime: Runtime, accepted: Reply) -> Callable[[bytes, m.HelloAck], None]:
    def on_hello_ack(peer: bytes, message: m.HelloAck) -> None:
        if message.refused and peer == runtime.node:
            accepted.message = message
            runtime.loop.notify(accepted)

    return on_hello_ack


def for_worker(spec: dict[str, Any]) -> Runtime:
    """The Runtime of a worker process, from what the zygote passed on (docs/internals.md)."""
    incarnation = spec["worker_id"][:ids.INCARNATION_SIZE]
    endpoint = f"ipc://{spec['session_dir']}/w-{incarnation.hex()}.sock"
    runtime = Runtime("worker", incarnation, spec["node"], spec["node_endpoint"], endpoint, 0,
                      Config.load(spec.get("config")))
    runtime.node_info = spec.get("node_info") or {}
    _attach_store(runtime, {**spec["store"], "slot": spec["slot"]})
    runtime.marks = runtime.store.slot.marks
    _install(runtime)
    return runtime


class _Creation:
    """An actor that is created when its arguments are ready; a waiter like a task's."""

    __slots__ = ("runtime", "actor", "spec", "deps", "missing")

    def __init__(self, runtime: Runtime, actor: bytes, spec: dict[str, Any], deps: list[Any]):
        self.runtime = runtime
        self.actor = actor
        self.spec = spec
        self.deps = deps
        self.missing = 1
        for record in deps:
            if not runtime.refs.when_ready(record, self):
                self.missing += 1
        self(None)

    def __call__(self, record: Any) -> None:
        self.missing -= 1
        if self.missing:
            return
        runtime = self.runtime
        self.spec["deps"] = [dep.value for dep in self.deps]
        failed = next((v for v in self.spec["deps"] if type(v) is list and v[0] == m.FAILED), None)
        if failed is not None:
            runtime.calls.on_actor_state(runtime.node, m.ActorState(
                self.actor, "DEAD", 0, b"", "", {"kind": "creation", "reason": "an argument of its constructor failed",
                                                 "error": failed[2] if type(failed[2]) is bytes else b""}))
        else:
            for dep in self.deps:
                dep.escaped = True
            runtime.send(runtime.node, m.CreateActor(self.actor, self.spec, 0))


def _arm_wake() -> None:
    refs_module.wake.armed = True


def _report_error(error: Exception) -> None:
    logger.error("internal error: %s", error, exc_info=error)


def _strategy(options: Any) -> dict[str, Any]:
    strategy = dict(options.strategy)
    if options.label_selector:
        strategy["labels"] = options.label_selector
    return strategy


def _error_matches(wanted: Any, failure: list[Any]) -> bool:
    """Whether a task_error is one of the exception types in ``wanted``."""
    cause = getattr(errors.from_failure(failure[1], failure[2]), "cause", None)
    return isinstance(cause, tuple(wanted))


def _earlier(deadline: float | None, other: float) -> float:
    return other if deadline is None else min(deadline, other)
