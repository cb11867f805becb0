"""Runs what owners push: the main thread of a worker process.

The main thread waits in the loop (polling the sockets itself), takes entries from the queue, runs them, and gathers
the replies per lease.  They are sent when the queue is empty, when the last task took over a millisecond, when enough
of them have piled up, when the running task blocks in ``get``, and by the watchdog when the running task is long.

Handlers run under the loop's lock on whichever thread polls.  The main thread starts tasks without it (see
zray.worker.queue), and takes it to send.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from functools import partial
from typing import Any, NoReturn

from zray import serialization
from zray.errors import AsyncioActorExit
from zray.messages import (
    FAILED, ActorInit, Blocked, CallsDone, CancelTask, FunctionDef, HandBack, JobOver, LeaseOpen, PushCalls, PushMap,
    PushTasks, StreamAck, TasksDone, WorkerExit,
)
from zray.transport.loop import Waiter
from zray.worker import invoke
from zray.worker.cancel import Interrupts
from zray.worker.ends import exit_code
from zray.worker.events import TaskEvents
from zray.worker.functions import FunctionCache
from zray.worker.inline import Inline
from zray.worker.maps import MapRunner
from zray.worker.places import Place, place_of, queued
from zray.worker.queue import ATTEMPT, EXTRA, FUNCTION, RETURNS, TASK_ID, Chunk, Lease, TaskQueue
from zray.worker.streams import Streams

# Replies gathered before they are sent while more tasks wait: a quarter of the default run-ahead, so that the owner
# pushes the next batch while this one runs.
FLUSH_ENDS = 64 * 2
# A task this long is followed by a flush: its reply must not wait for the next one.
FLUSH_AFTER_NS = 1_000_000
# A task that has run this long gives away what waits behind it.
HAND_BACK_AFTER_S = 0.005
# A chunk of a map is cut to run for some milliseconds; one that turns out much longer gives its rest away.
CHUNK_TICKS = 5
CANCELS_KEPT = 1024
# What a run changes of the context: put back when another run is nested in it or interleaved with it.
CONTEXT_FIELDS = ("task", "attempt", "task_name", "receiver", "prefix_of", "prefix", "counter")


class Executor:
    """The executing half of a worker's Runtime; ``rt.executor`` once :meth:`install` has run."""

    def __init__(self, rt: Any):
        self.rt = rt
        self.loop = rt.loop
        self.queue = TaskQueue()
        self.functions = FunctionCache(rt.fetch_function)
        self.table: dict[Any, Any] = self.functions.table
        self.interrupts = Interrupts(rt.loop, time.monotonic)
        self.events = TaskEvents(rt)
        self.streams = Streams(self)
        self.maps = MapRunner(self)
        self.actor: Any = None
        self.lease: Lease | None = None  # the lease of the task that runs, or ran last
        self.unsent: dict[int, Lease] = {}  # leases that may have replies to send, by id()
        self.cancels: dict[tuple[bytes, int], bool] = {}  # asked for before their task was seen here
        self.calls: dict[bytes, int] = {}  # starts of functions with max_calls
        self.employed = True  # False: its job is not known yet, and nothing may run before
        self.stopping: str | None = None
        self.release: Waiter | None = None  # an actor that said that it ends: until the node has heard so
        self.exiting = False  # announced to the owner: max_calls is used up
        self._idle: Waiter | None = None  # what the main thread waits on, while it waits
        self._becoming: ActorInit | None = None
        self._blocked = 0
        self.inline = Inline(self)
        self._watch: Any = None
        self._watched: tuple[Any, int] = (None, 0)
        self._ticks = 0
        self.on_lease: Any = None  # main.py: the process takes on the lease's environment
        self.on_actor: Any = None  # the same for an actor
        self.on_system_exit: Any = None  # a task ends the process; does not return
        self.forked = False  # this is a child of the worker, made by user code

    def install(self) -> None:
        """Register the handlers."""
        handlers = self.rt.handlers
        handlers[LeaseOpen.CODE] = self.on_lease_open
        handlers[FunctionDef.CODE] = self.on_function
        handlers[PushTasks.CODE] = self.on_push
        handlers[PushMap.CODE] = self.on_push_map
        handlers[CancelTask.CODE] = self.on_cancel
        handlers[StreamAck.CODE] = self.streams.on_ack
        handlers[ActorInit.CODE] = self.on_actor_init
        handlers[PushCalls.CODE] = self.on_calls
        handlers[WorkerExit.CODE] = self.on_exit
        handlers[JobOver.CODE] = lambda peer, message: self.events.flush(always=True)
        self.rt.employ(self)
        self.interrupts.install()

    # ------------------------------------------------------------ handlers, under the lock

    def on_lease_open(self, peer: bytes, message: LeaseOpen) -> None:
        self.queue.open(peer, message.lease, message.assigned, message.env)

    def on_function(self, peer: bytes, message: FunctionDef) -> None:
        self.functions.define(message.key, message.blob, message.name)

    def on_push(self, peer: bytes, message: PushTasks) -> None:
        self.queue.push(peer, message.lease, message.first, message.tasks)
        self.wake()

    def on_push_map(self, peer: bytes, message: PushMap) -> None:
        chunk = Chunk(message.task, message.attempt, message.function, message.first, message.count, message.items,
                      message.star)
        self.queue.push_chunk(peer, message.lease, chunk)
        self.wake()

    def on_actor_init(self, peer: bytes, message: ActorInit) -> None:
        if self.actor is None and self._becoming is None:
            self._becoming = message
            self.wake()

    def on_calls(self, peer: bytes, message: PushCalls) -> None:
        if self.actor is not None:
            self.actor.on_push(peer, message)

    def on_cancel(self, peer: bytes, message: CancelTask) -> None:
        if message.recursive:
            self.rt.cancel_children(message.task)
        if self.actor is not None and self.actor.cancel(message.task, message.attempt):
            return
        place = self.queue.cancel(message.task, message.attempt)
        if place is not None:
            lease, sequence = place
            lease.ends.extend((sequence, [invoke.FAILED, "cancelled", {"task": message.task}]))
            self.unsent[id(lease)] = lease
            self.flush()
            return
        if self.actor is None and self.interrupts.request(message.task, message.attempt):
            return
        running = self.queue.running
        if running is not None and type(running[2]) is list and running[2][TASK_ID] == message.task:
            # Between its start and its call, or between its call and its end: the executor looks before the call.
            self.cancels[message.task, message.attempt] = True
        elif running is None or type(running[2]) is not Chunk:
            self.cancels[message.task, message.attempt] = True
        while len(self.cancels) > CANCELS_KEPT:
            del self.cancels[next(iter(self.cancels))]

    def on_exit(self, peer: bytes, message: WorkerExit) -> None:
        if self.actor is None and self.rt.owner_busy():
            return  # others hold what this process owns; the node asks again
        if self.release is not None:
            self.loop.notify(self.release)
        self.stop(message.reason or "asked to exit")

    def stop(self, reason: str) -> None:
        """Leave ``run_forever`` when what is queued has run.  Any thread."""
        with self.loop.lock:
            if self.stopping is None:
                self.stopping = reason
            if self.actor is not None:
                self.actor.wake()
            self.wake()

    def wake(self) -> None:
        """There is something in the queue: get the main thread going, and watch that it does not get stuck."""
        idle = self._idle
        if idle is not None:
            self._idle = None
            self.loop.notify(idle)
        if self._watch is None:
            self._watched = (None, 0)
            self._ticks = 0
            self._watch = self.loop.call_at(time.monotonic() + HAND_BACK_AFTER_S, self._tick)

    def _tick(self) -> None:
        """Watchdog, on the thread that polls: one task seen twice in a row has run for HAND_BACK_AFTER_S.

        In a chunk of a map the item counts, and the chunk as a whole after CHUNK_TICKS.
        """
        self._watch = None
        running = self.queue.running
        seen = (running, self.rt.marks[1])
        self._ticks = self._ticks + 1 if running is not None and running is self._watched[0] else 0
        if running is not None and (seen == self._watched or self._ticks >= CHUNK_TICKS):
            self.hand_back()
            if type(running[2]) is list and running[2] is not self.events.long:
                since = time.perf_counter_ns() - int(HAND_BACK_AFTER_S * 1e9)
                self.events.runs_long(running[2], self.name_of(running[2]), since)
        self._watched = seen
        if running is not None or self.queue.entries:
            self._watch = self.loop.call_at(time.monotonic() + HAND_BACK_AFTER_S, self._tick)

    def hand_back(self) -> None:
        """Send what is finished, give back what has not started.  Under the lock."""
        if self.actor is None and (self.queue.entries or self._running_chunk()):
            for lease, sequences in self.queue.hand_back().items():
                self.rt.send(lease.owner, HandBack(lease.number, sequences))
        self.flush()
        self.loop.kick()

    def _running_chunk(self) -> bool:
        running = self.queue.running
        return running is not None and type(running[2]) is Chunk

    # ------------------------------------------------------------ replies

    def flush(self) -> None:
        """Send all replies gathered so far.  Under the lock; the main thread may be adding to the lists."""
        if self.forked:
            os._exit(0)  # a child that user code forked came back from the task: it has no business here
        if not self.unsent:
            return
        for lease in list(self.unsent.values()):
            ends = lease.ends
            count = len(ends)
            if count:
                self.events.arm(count // 2)
                taken = ends[:count]
                del ends[:count]
                spent, lease.spent_ns = lease.spent_ns, 0
                if self.actor is not None:
                    self.actor.keep(lease, taken)
                    self.rt.send(lease.owner, CallsDone(self.actor.id, lease.number, taken))
                else:
                    self.rt.send(lease.owner, TasksDone(lease.number, taken, spent * 2 // count))
            if lease is not self.lease:
                self.unsent.pop(id(lease), None)

    def _flush_now(self) -> None:
        with self.loop.lock:
            self.flush()
            self.loop.kick()

    # ------------------------------------------------------------ the main thread

    def run_forever(self) -> None:
        """Wait, run, reply, until :meth:`stop`; then everything queued has run and every reply is with the loop."""
        while True:
            try:
                if self.employed:
                    if self._becoming is not None:
                        self._become_actor()
                    self.run_queued()
                    if self.actor is not None and self.actor.main_loop is not None:
                        self.actor.main_loop()
                with self.loop.lock:
                    self.flush()
                    if self.employed:
                        if self.queue.entries or (self._becoming is not None and self.actor is None):
                            continue
                        self.cancels.clear()
                    if self.stopping is not None or self.exiting:
                        break
                    idle = self._idle = Waiter()
                self.loop.wait(idle, None)
            except KeyboardInterrupt:
                # An interrupt that was raised as its task ended; it must not take the process with it.
                self.interrupts.current = None
                self.queue.running = None
        if self.actor is not None:
            self.actor.finish()

    def _become_actor(self) -> None:
        from zray.worker.actors import ActorHost

        message, self._becoming = self._becoming, None
        assert message is not None
        host = ActorHost(self, message)
        self.table = {}
        with self.loop.lock:
            self.actor = host
            self.events.queued = partial(queued, self)
            self.queue.forget_leases()
        if self.on_actor is not None:
            self.on_actor(message)
        host.start()

    def run_queued(self) -> None:
        """Run entries until the queue is empty.  The hot path: locals, no lock, one clock read a task."""
        queue = self.queue
        popleft = queue.entries.popleft
        table = self.table
        marks = self.rt.marks
        context = self.rt.context
        interrupts = self.interrupts
        clock = time.perf_counter_ns
        load_args = serialization.load_args
        encode = invoke.encode
        rt = self.rt
        none = invoke.NONE
        events = self.events.pending
        room = self.events.room
        current: Lease | None = None
        ends: list[Any] = []
        args: Any
        kwargs: Any
        borrowed: list[Any] = []  # references that came inside arguments
        register = borrowed.append
        before = clock()
        while True:
            try:
                entry = popleft()
            except IndexError:
                return
            queue.running = entry
            lease, sequence, task = entry
            if lease is not current:
                current = lease
                ends = lease.ends
                self._enter(lease)
            marks[1] = sequence
            if type(task) is not list:
                self.maps.run(lease, task)
                queue.running = None
                before = clock()
                continue
            try:
                task_id, attempt, key, payload, count, extra = task
                entered = table.get(key)
                if extra is None and count == 1 and type(payload) is bytes and entered is not None and not self.cancels:
                    function, name = entered
                    context.task = task_id
                    context.attempt = attempt
                    context.task_name = name
                    try:
                        interrupts.current = task
                        args, kwargs = load_args(payload, (), (), register)
                        value = function(*args, **kwargs) if kwargs else function(*args)
                        interrupts.current = None
                        result = none if value is None else encode(rt, value, task_id, 1)
                    except BaseException as error:
                        interrupts.current = None
                        result = self.failed(error, task, name)
                    value = args = kwargs = None  # user's objects must not live until the next task
                    if borrowed:
                        result = self.closing(task, result, borrowed)
                else:
                    result = self.run_one(task, lease, interrupts)
                if interrupts.deferred:
                    interrupts.forget()
            except KeyboardInterrupt:  # asked for in the user's code, raised just behind it
                interrupts.current = None
                result = invoke.cancelled(task, "")
            marks[2] = sequence
            if result is not None:
                ends.extend((sequence, result))
            queue.running = None
            now = clock()
            took = now - before
            if len(events) < room or (took > FLUSH_AFTER_NS and room):
                failed = type(result) is list and result[0] == FAILED
                events.append((task[0], task[1], context.task_name, before, now, not failed, 1))
            before = now
            lease.spent_ns += took
            if took > FLUSH_AFTER_NS or len(ends) >= FLUSH_ENDS:
                self._flush_now()
                before = clock()

    def _enter(self, lease: Lease) -> None:
        """The next task belongs to another lease than the last."""
        self.rt.context.receiver = lease.owner
        with self.loop.lock:
            self.unsent[id(lease)] = lease
            if lease is self.lease:
                return
            if self.actor is None:
                marks = self.rt.marks
                marks[1] = marks[2] = 0
                marks[0] = lease.number
                self.rt.context.assigned = lease.assigned
            self.lease = lease
        if self.actor is None and self.on_lease is not None:
            self.on_lease(lease)

    # ------------------------------------------------------------ one task, the general way

    def run_one(self, task: list[Any], lease: Lease, interrupts: Any) -> Any:
        """Run one task or actor call; its wire result, or None when there is to be no answer."""
        name = ""
        borrowed: list[Any] = []
        args = kwargs = value = None
        try:
            name = self.name_of(task)
            if self.cancels and self.cancels.pop((task[TASK_ID], task[ATTEMPT]), False):
                return invoke.cancelled(task, name)
            context = self.rt.context
            context.task, context.attempt, context.task_name = task[TASK_ID], task[ATTEMPT], name
            context.receiver = lease.owner
            interrupts.current = task
            function, short = self.table.get(task[FUNCTION]) or self.load(task[FUNCTION])
            name = context.task_name = invoke.task_name(task, short)
            args, kwargs = invoke.arguments(self.rt, task, borrowed.append)
            value = function(*args, **kwargs)
            args = kwargs = None
            count = task[RETURNS]
            if count == invoke.STREAMING:
                result = self.streams.run(task, value, lease)
            elif count == invoke.DYNAMIC:
                result = invoke.dynamic(self.rt, value, task)
            else:
                interrupts.current = None
                result = invoke.returns(self.rt, value, task, name)
            interrupts.current = None
        except BaseException as error:
            interrupts.current = None
            args = kwargs = None
            result = self.failed(error, task, name, interrupts)
        value = None
        return self.closing(task, result, borrowed)

    def load(self, key: Any) -> tuple[Any, str]:
        if self.actor is not None:
            return self.actor.method(key)
        return self.functions.load(key)

    def name_of(self, task: list[Any]) -> str:
        known = self.table.get(task[FUNCTION])
        if known:
            short = known[1]
        elif self.actor is not None:
            short = f"{self.actor.class_name}.{task[FUNCTION]}"
        else:
            short = self.functions.names.get(task[FUNCTION], "")
        return invoke.task_name(task, short)

    def place_of(self, task: bytes) -> Place | None:
        """See zray.worker.places."""
        return place_of(self, task)

    def closing(self, task: list[Any], result: Any, borrowed: list[Any]) -> Any:
        """The result, with the references that this process still holds, and the end of a process with max_calls.

        ``borrowed`` is emptied: it must not count as a holder itself.
        """
        if borrowed:
            records = [ref._record for ref in borrowed if ref._record.owner is not None]
            borrowed.clear()
            with self.loop.lock:
                held = self.rt.still_held(records)
            if held and result is not None:
                result = invoke.with_extra(result, held=held)
        extra = task[EXTRA]
        if extra is not None and extra.get("max_calls") and result is not None:
            key = task[FUNCTION]
            self.calls[key] = started = self.calls.get(key, 0) + 1
            if started >= extra["max_calls"]:
                result = invoke.with_extra(result, exiting=True)
                with self.loop.lock:
                    self.exiting = True
                    self.hand_back()
        return result

    def failed(self, error: BaseException, task: list[Any], name: str, interrupts: Any = None) -> Any:
        """What the caller gets for an exception; None for no answer."""
        if self.forked:
            _exit_child(error)
        if self.actor is not None and isinstance(error, (SystemExit, AsyncioActorExit)):
            self.actor.end_by(error, name)
            return None
        if isinstance(error, SystemExit) and self.on_system_exit is not None:
            with self.loop.lock:
                self.hand_back()
            return self.on_system_exit(exit_code(error))  # what runs counts as lost with the process
        if isinstance(error, KeyboardInterrupt) and (interrupts or self.interrupts).was_hit(task):
            return invoke.cancelled(task, name)
        return invoke.failure(error, name)

    # ------------------------------------------------------------ blocked in get or wait

    def on_blocked(self) -> bool:
        """The runtime is about to wait on behalf of user code: nothing queued here may wait with it, and the node may
        have its CPU.  Whether :meth:`on_unblocked` is to follow."""
        if self.queue.running is None or threading.current_thread() is not threading.main_thread():
            with self.loop.lock:
                self.flush()  # a thread of an actor: the others run on
            return False
        with self.loop.lock:
            self._blocked += 1
            if self._blocked == 1:
                self.hand_back()
                self.rt.send(self.rt.node, Blocked(True))
        return True

    def on_unblocked(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        with self.loop.lock:
            if self._blocked == 0:
                return
            self._blocked -= 1
            if self._blocked == 0:
                self.rt.send(self.rt.node, Blocked(False))
                self.loop.kick()

    # ------------------------------------------------------------ run inline what the task waits for

    def run_inline(self, task: list[Any], frames: int = 0) -> Any:
        """Run a task (wire form) inside the one that waits for it, see zray.worker.inline; returns the wire result.

        ``frames`` of the interpreter's stack are in use already: the inner task gets the full limit for itself.
        """
        context, interrupts = self.rt.context, self.interrupts
        saved = {field: getattr(context, field) for field in CONTEXT_FIELDS}
        interrupts.enter()
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + frames)
        try:
            try:
                result = self.run_one(task, Lease(self.rt.incarnation, 0), interrupts)
            except KeyboardInterrupt:  # asked for in the user's code, raised just behind it
                result = invoke.cancelled(task, "")
            if interrupts.deferred:
                interrupts.forget()
            return result
        finally:
            sys.setrecursionlimit(limit)
            interrupts.leave()
            for field, value in saved.items():
                setattr(context, field, value)


def _exit_child(error: BaseException) -> NoReturn:
    """A forked child of user code must not unwind into the worker's loop."""
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        os._exit(error.code or 0)
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)
