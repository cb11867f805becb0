"""Runs the tasks that owners push: the main thread of a worker process, around the WorkerMachine.

The main thread waits in the loop (it polls the sockets itself), takes entries from the queue, and runs them.  The
machine (zray.worker.machine) handles messages and replies; the thread that polls calls it, under the loop's lock.
The main thread starts tasks without the lock (see zray.worker.queue), and takes the lock to send.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NoReturn

from zray.base import frames
from zray.base.errors import AsyncioActorExit
from zray.base.plain_text import representation
from zray.handles.options import DYNAMIC, STREAMING
from zray.transport.loop import Waiter
from zray.values import serialization
from zray.wire.messages import JobSettings
from zray.worker.actors.ends import exit_code
from zray.worker.actors.life import CallGroup
from zray.worker.debugging import WorkerDebugger
from zray.worker.events import EventRecorder
from zray.worker.execution import Generators, RunsRecorded, RunsTraced
from zray.worker.machine import CALLS_LOOK_S, FLUSH_AFTER_NS, FLUSH_ENDS, HAND_BACK_AFTER_S, STOP, WAIT, WorkerMachine
from zray.worker.places import Place, place_of, queued, rows_of
from zray.worker.ports import CoreProcess, Surroundings
from zray.worker.produced import NOT_PRODUCED, take_arguments
from zray.worker.queue import ARGS, EXTRA, FUNCTION, RETURNS, TASK_ATTEMPT, TASK_ID, Entry, QueuedChunk, ServedLease
from zray.worker.run import generators, invoke, results
from zray.worker.run.cancel import Interrupts
from zray.worker.run.durability import durable_result
from zray.worker.run.functions import FunctionCache
from zray.worker.run.inline import Inline
from zray.worker.run.maps import MapRunner
from zray.worker.run.streams import Streams

if TYPE_CHECKING:
    from zray.worker.actors.calls import ActorHost

NO_FUNCTION = (b"", None)
# Fields of the context that a run changes: restored after another run that is nested in it.
CONTEXT_FIELDS = ("task", "attempt", "task_name", "function", "receiver", "prefix_of", "prefix", "counter")


class TaskExecutor:
    """The part of a worker that runs user code; ``rt.executor`` once :meth:`install` has run."""

    def __init__(self, rt: CoreProcess, surroundings: Surroundings):
        self.rt = rt
        self.loop = rt.loop
        self.surroundings = surroundings
        self.functions = FunctionCache(rt.fetch_function)
        self.table: dict[Any, Any] = self.functions.table
        self.interrupts = Interrupts(rt.loop, time.monotonic)
        self.events = EventRecorder(rt)
        self.events.function_name = self.function_name
        self.actor: ActorHost | None = None
        self.release: Waiter | None = None  # of an actor that ends: done when the node knows it
        self.forked = False  # this is a child of the worker, made by user code
        self.recorder: RunsRecorded | None = None  # of a job that is recorded
        self.tracing: RunsTraced | None = None  # of a job with a tracing startup hook
        self.debugger = WorkerDebugger(self)
        self._idle: Waiter | None = None  # of the main thread, while it waits
        self.machine = WorkerMachine(rt.node, rt.marks, rt.send, self)
        self.queue = self.machine.queue
        self.cancels = self.machine.cancels
        self.streams: Generators = Streams(self)
        self.maps = MapRunner(self)
        self.inline = Inline(self)
        self.made: dict[bytes, generators.Items] = {}  # by running tasks whose generators make their returns

    def install(self) -> None:
        """Register the handlers."""
        self.rt.attach_executor(self)
        self.interrupts.install()

    # ------------------------------------------------------------ the machine's Runner, under the lock

    def wake(self) -> None:
        idle = self._idle
        if idle is not None:
            self._idle = None
            self.loop.notify(idle)
        if self.actor is not None:
            self.actor.wake()

    def start_calls(self, started: list[tuple[CallGroup, Entry]]) -> None:
        assert self.actor is not None
        self.actor.start_calls(started)

    def later(self, seconds: float, action: Callable[[], None]) -> object:
        return self.loop.call_at(time.monotonic() + seconds, action)

    def kick(self) -> None:
        self.loop.kick()

    def interrupt(self, task: bytes, attempt: int) -> bool:
        if self.actor is not None:
            return self.actor.interrupt(task, attempt)
        return self.interrupts.request(task, attempt)

    def define(self, key: bytes, blob: bytes, name: str) -> None:
        self.functions.define(key, blob, name)

    def take_on_job(self, message: JobSettings) -> None:
        self.surroundings.on_job(message)

    def cancel_children(self, task: bytes) -> None:
        self.rt.cancel_children(task)

    def owner_busy(self) -> bool:
        return self.rt.owner_busy()

    def answered(self, count: int) -> None:
        self.events.arm(count)

    def runs_long(self, task: list[Any]) -> None:
        beside = self.queue.running is None
        since = time.perf_counter_ns() - int((CALLS_LOOK_S if beside else HAND_BACK_AFTER_S) * 1e9)
        lease = self.machine.lease
        self.events.runs_long(task, self.name_of(task), since, beside, lease.number if lease is not None else 0)

    def report(self) -> None:
        self.rt.flush_metrics()
        self.events.flush(always=True)

    def released(self) -> None:
        if self.release is not None:
            self.loop.notify(self.release)

    # ------------------------------------------------------------ any thread

    def stop(self, reason: str) -> None:
        """Leave ``run_forever`` when the queued tasks have run."""
        with self.loop.lock:
            self.machine.stop(reason)

    def flush(self) -> None:
        """Send all replies gathered so far.  Under the lock."""
        self._end_child()
        self.machine.flush()

    def _end_child(self) -> None:
        """End a child that user code forked, when it comes back from the task."""
        if self.forked:
            os._exit(0)

    def _flush_now(self) -> None:
        with self.loop.lock:
            self.flush()
            self.loop.kick()

    # ------------------------------------------------------------ the main thread

    def run_forever(self) -> None:
        """Wait, run and reply until :meth:`stop`; at its end the queue is empty and the loop has every reply."""
        machine = self.machine
        while True:
            try:
                if machine.has_job:
                    if machine.actor_to_start is not None:
                        self._become_actor()
                    self.run_queued()
                    if self.actor is not None and self.actor.main_loop is not None:
                        self.actor.main_loop()
                with self.loop.lock:
                    self._end_child()
                    following = machine.pause()
                    if following == STOP:
                        break
                    if following != WAIT:
                        continue
                    idle = self._idle = Waiter()
                self.loop.wait(idle, None)
            except KeyboardInterrupt:
                # An interrupt that was raised as its task ended; it must not end the process.
                self.interrupts.current = None
                self.queue.running = None
        if self.actor is not None:
            self.actor.join()
            with self.loop.lock:
                self.release = Waiter()
                self.machine.announce_end()

    def _become_actor(self) -> None:
        from zray.worker.actors.calls import ActorHost

        message = self.machine.actor_to_start
        assert message is not None
        self.table = {}
        with self.loop.lock:
            life = self.machine.become_actor()
            host = self.actor = ActorHost(self, message, life)
            self.events.queued = partial(queued, self.machine, self.shown_name)
            self.events.scope = life.class_name[:-len(life.class_name.rpartition(".")[2])]
        self.surroundings.on_actor(message)
        host.start()

    def run_queued(self) -> None:
        """Run entries until the queue is empty.  The hot path: local names, no lock, one clock read a task."""
        rt, queue, interrupts, made = self.rt, self.queue, self.interrupts, self.made
        table = self.table if self.recorder is None else {}  # a recorded run goes the general way
        marks, context, popleft = rt.marks, rt.context, queue.entries.popleft
        events, room = self.events.pending, self.events.room
        clock = time.perf_counter_ns
        load_args, encode, none, generator = serialization.load_args, invoke.encode, serialization.NONE, GeneratorType
        current: ServedLease | None = None
        ends: list[Any] = []
        args: Any
        kwargs: Any
        borrowed: list[Any] = []  # references inside arguments
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
                before = self._run_other(lease, task)
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
                        if type(value) is generator:
                            result = generators.run(rt, value, task, name, made)
                            interrupts.current = None
                            del made[task_id]
                        else:
                            interrupts.current = None
                            result = none if value is None else encode(rt, value, task_id, 1)
                    except BaseException as error:
                        interrupts.current = None
                        result = self.failed(error, task, name)
                    value = args = kwargs = None  # the user's objects must not live until the next task
                    if borrowed:
                        result = self.closing(task, result, borrowed)
                elif extra and "behind" in extra and self._lacks_arguments(lease, task, sequence):
                    continue
                elif extra and entered and not self.cancels and (values := invoke.inline_arguments(task)) is not None:
                    result = self._run_with(task, entered, values, borrowed)
                else:
                    result = self.run_one(task, lease, interrupts)
                if interrupts.deferred:
                    interrupts.forget()
            except KeyboardInterrupt:  # requested during the user's code, raised just after it
                interrupts.current = None
                result = self.unfinished(task, results.cancelled(task, ""))
            marks[2] = sequence
            if result is not None:
                ends.extend((sequence, result))
            queue.running = None
            now = clock()
            took = now - before
            if len(events) < room or (took > FLUSH_AFTER_NS and room):
                ok = True if type(result) is not list or results.failure_in(result) is None else result
                events.append((task[0], task[1], context.task_name, before, now, ok, 1, lease.number, task[2]))
            before = now
            lease.spent_ns += took
            if took > FLUSH_AFTER_NS or len(ends) >= FLUSH_ENDS:
                self._flush_now()
                before = clock()

    def _run_other(self, lease: ServedLease, work: Any) -> int:
        """Run a chunk of a map; of an actor with checkpoints, a checkpoint or a call of an earlier life.

        Returns when it ended, in ns.
        """
        if type(work) is QueuedChunk:
            self.maps.run(lease, work)
        else:
            assert self.actor is not None and self.actor.saving is not None
            self.actor.saving.run(lease, work)
        self.queue.running = None
        return time.perf_counter_ns()

    def _run_with(self, task: list[Any], entered: tuple[Any, str], values: list[bytes], borrowed: list[Any]) -> Any:
        """Run a task with one return whose arguments all came with it; some of them (``values``) are references."""
        context, interrupts = self.rt.context, self.interrupts
        function, name = entered
        context.task, context.attempt, context.task_name = task[TASK_ID], task[TASK_ATTEMPT], name
        loads, register = serialization.loads, borrowed.append
        try:
            interrupts.current = task
            args, kwargs = serialization.load_args(
                task[ARGS], task[EXTRA]["slots"], [loads(value, register) for value in values], register)
            value = function(*args, **kwargs)
            if type(value) is GeneratorType:
                result = generators.run(self.rt, value, task, name, self.made)
                interrupts.current = None
                del self.made[task[TASK_ID]]
            else:
                interrupts.current = None
                result = invoke.encode(self.rt, value, task[TASK_ID], 1)
        except BaseException as error:
            interrupts.current = None
            result = self.failed(error, task, name)
        return self.closing(task, result, borrowed) if borrowed else result

    def _lacks_arguments(self, lease: ServedLease, task: list[Any], sequence: int) -> bool:
        """Whether arguments that this worker was to make are not here; then the task is answered, and does not run."""
        if take_arguments(lease, task):
            return False
        with self.loop.lock:
            self.rt.marks[2] = sequence
            lease.ends.extend((sequence, NOT_PRODUCED))
            self.queue.running = None
            self.events.not_run()
        return True

    def _enter(self, lease: ServedLease) -> None:
        """The next task belongs to another lease than the last task."""
        self.rt.context.receiver = lease.owner
        with self.loop.lock:
            other = self.machine.enter(lease)
        if other and self.actor is None:
            self.rt.context.assigned = lease.assigned
            self.events.serves(lease)
            self.surroundings.on_lease(lease)

    # ------------------------------------------------------------ one task, the general way

    def run_one(self, task: list[Any], lease: ServedLease, interrupts: Any) -> Any:
        """Run one task or actor call; returns its wire result, or None for no reply."""
        name = ""
        borrowed: list[Any] = []
        args = kwargs = value = None
        count = task[RETURNS]
        try:
            name = self.name_of(task)
            if self.cancels and self.cancels.pop((task[TASK_ID], task[TASK_ATTEMPT]), False):
                return results.cancelled(task, name)
            context = self.rt.context
            context.task, context.attempt, context.task_name = task[TASK_ID], task[TASK_ATTEMPT], name
            context.receiver = lease.owner
            interrupts.current = task
            function, short = self.table.get(task[FUNCTION]) or self.load(task[FUNCTION])
            context.function = task[TASK_ID], function
            name = context.task_name = results.task_name(task, short)
            args, kwargs = invoke.arguments(self.rt, task, borrowed.append)
            value = function(*args, **kwargs)
            args = kwargs = None
            if count == STREAMING:
                result = self.streams.run(task, value, lease)
            elif count == DYNAMIC or (count and generators.is_generator(value)):
                result = generators.run(self.rt, value, task, name, self.made)
            else:
                interrupts.current = None
                result = invoke.returns(self.rt, value, task, name)
            interrupts.current = None
            if self.made:
                self.made.pop(task[TASK_ID], None)
        except BaseException as error:
            interrupts.current = None
            args = kwargs = None
            result = self.failed(error, task, name, interrupts)
        if (extra := task[EXTRA]) and "durability" in extra and count != STREAMING:
            result = durable_result(self.rt, task, result)
        value = None
        self.rt.context.function = NO_FUNCTION  # it may be bound to the actor's instance
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
            short = f"{self.actor.life.class_name}.{task[FUNCTION]}"
        else:
            short = self.functions.names.get(task[FUNCTION], "").rpartition("<locals>.")[2]
        return results.task_name(task, short)

    def function_of(self, task: bytes) -> Callable[..., Any] | None:
        """The function of a task that runs on this thread; the bound method of an actor's call."""
        known, function = self.rt.context.function
        if known == task and function is not None:
            return function  # type: ignore[no-any-return]
        entry = self.queue.running
        running = [entry[2]] if entry is not None else []
        if self.actor is not None:
            running += self.actor.life.running()
        for each in running:
            key = each.function if type(each) is not list else each[FUNCTION] if each[TASK_ID] == task else None
            found = self.table.get(key)
            if found is not None:
                return found[0]
        return None

    def place_of(self, task: bytes) -> Place | None:
        """See zray.worker.places."""
        return place_of(self.machine, self.name_of, task)

    def rows(self, state_of_running: Callable[[bytes], str], most: int) -> list[dict[str, Any]]:
        """See zray.worker.places."""
        rows = rows_of(self.machine, self.shown_name, state_of_running, most)
        for row in rows:
            if row["task_id"] in self.rt.paused:
                row["paused"] = True
        return rows

    def shown_name(self, task: list[Any]) -> str:
        """The name of a task as the state API shows it: the class of an actor without its scope."""
        return self.name_of(task).removeprefix(self.events.scope)

    def function_name(self, key: Any) -> str:
        """The name of a function or method, whatever the name of the task; '' when it is not known."""
        known = self.table.get(key)
        return known[1].removeprefix(self.events.scope) if known is not None else ""

    def closing(self, task: list[Any], result: Any, borrowed: list[Any]) -> Any:
        """The result, with the list of references that this process still holds; counts runs for max_calls.

        ``borrowed`` is emptied: it must not count as a holder itself.
        """
        if borrowed:
            records = [ref._record for ref in borrowed if ref._record.owner is not None]
            borrowed.clear()
            with self.loop.lock:
                held = self.rt.still_held(records)
            if held and result is not None:
                result = results.with_extra(result, held=held)
        extra = task[EXTRA]
        if extra is not None and extra.get("max_calls") and result is not None:
            self._end_child()
            self.events.max_calls = extra["max_calls"]
            with self.loop.lock:
                result = self.machine.count_run(task, result)
        return result

    def failed(self, error: BaseException, task: list[Any], name: str, interrupts: Any = None) -> Any:
        """The wire result for an exception; None for no reply."""
        if self.forked:
            _exit_child(error)
        if self.actor is not None and isinstance(error, (SystemExit, AsyncioActorExit)):
            self.actor.end_by(error, name)
            return None
        if isinstance(error, SystemExit):
            with self.loop.lock:
                self.machine.hand_back()
            self.surroundings.end(exit_code(error))  # the running task counts as lost with the process
        if self.debugger.post_mortem_s:
            error = self.debugger.after(error, task, name, interrupts or self.interrupts)
        if isinstance(error, KeyboardInterrupt) and (interrupts or self.interrupts).was_hit(task):
            waited = frames.passes(error, "zray.core.waits.")
            return self.unfinished(task, results.cancelled(task, name, waited=waited))
        return self.unfinished(task, invoke.failure(error, name, self.where()))

    def unfinished(self, task: list[Any], failure: list[Any]) -> Any:
        """The wire result of a run that ends with this failure: with the items that its generator has made."""
        items = self.made.pop(task[TASK_ID], None) if self.made else None
        return failure if items is None else items.failed(failure)

    def where(self) -> invoke.CodePlace:
        """For the text of an error: where this process runs user code."""
        ip = self.rt.node_info.get("NodeManagerAddress") or "127.0.0.1"
        if self.actor is None:
            return invoke.CodePlace(os.getpid(), ip)
        return invoke.CodePlace(os.getpid(), ip, self.actor.life.id.hex(), representation(self.actor.instance))

    # ------------------------------------------------------------ blocked in get or wait

    def on_blocked(self) -> bool:
        """User code is about to block: hand back queued tasks, and let the node lend the CPU.

        Returns whether the caller must call :meth:`on_unblocked`.
        """
        if self.queue.running is None or threading.current_thread() is not threading.main_thread():
            with self.loop.lock:
                self.flush()  # a thread of an actor: the other threads continue
            return False
        self._end_child()
        with self.loop.lock:
            self.machine.block()
        return True

    def on_unblocked(self) -> None:
        if threading.current_thread() is threading.main_thread():
            with self.loop.lock:
                self.machine.unblock()

    # ------------------------------------------------------------ inline runs

    def run_inline(self, task: list[Any], frames: int = 0) -> Any:
        """Run a task (wire form) inside the task that waits for it (zray.worker.run.inline); returns the wire result.

        ``frames``: frames of the interpreter's stack in use, so that the inner task gets the full recursion limit.
        """
        context, interrupts = self.rt.context, self.interrupts
        saved = {field: getattr(context, field) for field in CONTEXT_FIELDS}
        interrupts.enter()
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + frames)
        started_ns = time.perf_counter_ns()
        try:
            try:
                result = self.run_one(task, ServedLease(self.rt.incarnation, 0), interrupts)
            except KeyboardInterrupt:  # requested during the user's code, raised just after it
                result = self.unfinished(task, results.cancelled(task, ""))
            if interrupts.deferred:
                interrupts.forget()
            outer = self.machine.lease
            self.events.add(task, context.task_name, started_ns, result, lease=outer.number if outer is not None else 0)
            return result
        finally:
            sys.setrecursionlimit(limit)
            interrupts.leave()
            for field, value in saved.items():
                setattr(context, field, value)


def _exit_child(error: BaseException) -> NoReturn:
    """End a forked child of user code, which must not return into the worker's loop."""
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        os._exit(error.code or 0)
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)
