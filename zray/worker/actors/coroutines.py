"""Async actors: an asyncio loop on the main thread, with the mesh inside it.

A call becomes an asyncio task when its concurrency group has room (zray.worker.actors.life).  Until then it is only an
entry, not a coroutine that waits for a semaphore.  The replies of one round of the loop are sent together.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

from zray.base.stepping import stepping
from zray.handles.options import DYNAMIC, STREAMING
from zray.worker.actors.life import ActorLife, CallGroup
from zray.worker.actors.meshloop import new_event_loop
from zray.worker.execution import Execution
from zray.worker.queue import FUNCTION, RETURNS, TASK_ATTEMPT, TASK_ID, Entry
from zray.worker.run import invoke
from zray.worker.run.cancel import NO_INTERRUPTS
from zray.worker.run.generators import is_generator, run_async
from zray.worker.run.results import cancelled, identity, task_name


class Coroutines:
    """The calls of one async actor.

    ``start_soon``, ``cancel`` and ``wake`` are called under the lock, the other methods on the main thread.
    """

    def __init__(self, executor: Execution, life: ActorLife, end_by: Callable[[BaseException, str], None]):
        self.executor = executor
        self.life = life
        self.end_by = end_by
        self.starting: list[tuple[CallGroup, Entry]] = []
        self.running: dict[tuple[bytes, int], asyncio.Task[Any]] = {}
        self.cancelled: set[tuple[bytes, int]] = set()  # calls in ``starting`` that were cancelled
        self.loop = new_event_loop(executor.loop, self._round)
        recorder = executor.recorder
        self._result_of = self._result if recorder is None else recorder.around_coroutine(self._result)
        if executor.tracing is not None:
            self._result_of = executor.tracing.around_coroutine(self._result_of)
        self._done: asyncio.Event | None = None
        self._awake = False
        self._answered = False  # since the last round
        self._ending = False

    # ------------------------------------------------------------ the main thread

    def run(self) -> None:
        """Serve calls until the actor stops."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._serve())
        except SystemExit as error:  # raised by a task that user code made: asyncio passes it on
            self.end_by(error, f"an asyncio task of {self.life.class_name}")
        finally:
            self._ending = True
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            if pending:
                self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            asyncio.set_event_loop(None)

    async def _serve(self) -> None:
        self._done = asyncio.Event()
        self._take()
        await self._done.wait()

    def wake(self) -> None:
        """A call has come, or the actor stops.  Any thread, under the lock."""
        if not self._awake:
            self._awake = True
            if not self.loop.is_closed():
                self.loop.next_round()

    def _round(self) -> bool:
        """Between two rounds of asyncio: send the replies, start new calls.  Returns whether there were calls."""
        if self._answered:
            self._answered = False
            with self.executor.loop.lock:
                self.executor.flush()  # the select around this sends the messages
        if not self._awake:
            return False
        self._take()
        return True

    def _take(self) -> None:
        with self.executor.loop.lock:
            self._awake = False
            starting, self.starting = self.starting, []
        if self.life.leaving is not None:
            starting = []  # no further call starts
        for group, entry in starting:
            if self.cancelled and identity(entry[2]) in self.cancelled:
                self.cancelled.discard(identity(entry[2]))
                self._end(group, entry, cancelled(entry[2], self._name(entry[2])))
            else:
                self._start(group, entry)
        self._maybe_done()

    def _maybe_done(self) -> None:
        if self._done is not None and self.executor.machine.calls_are_over():
            self._done.set()

    def _start(self, group: CallGroup, entry: Entry) -> None:
        task = entry[2]
        call = task[TASK_ID], task[TASK_ATTEMPT]
        self.running[call] = self.loop.create_task(self._call(group, entry, call))

    def _name(self, task: list[Any]) -> str:
        return task_name(task, f"{self.life.class_name}.{task[FUNCTION]}")

    async def _call(self, group: CallGroup, entry: Entry, call: tuple[bytes, int]) -> None:
        lease, _, task = entry
        started = time.perf_counter_ns()
        result = None
        name = self._name(task)
        try:
            result = await self._result_of(lease, task, name)
            self.executor.events.add(task, name, started, result, lease=lease.number)
        finally:
            self.running.pop(call, None)
            self._end(group, entry, result)
        if self.executor.machine.stopping is not None:
            self._maybe_done()

    def _end(self, group: CallGroup, entry: Entry, result: Any) -> None:
        """A call has ended: start the next call of its group."""
        with self.executor.loop.lock:
            following = self.executor.machine.end_call(group, entry, result)
        self._answered = True
        if following is not None:
            self._start(group, following)

    async def _result(self, lease: Any, task: list[Any], name: str) -> Any:
        executor = self.executor
        rt = executor.rt
        borrowed: list[Any] = []
        try:
            value = await stepping(self._body(lease, task, name, borrowed), _Steps(rt.context, task, name, lease.owner))
        except asyncio.CancelledError:
            if self._ending:
                return None  # the end of the actor cancelled it: the caller learns how the actor ended
            value = executor.unfinished(task, cancelled(task, name))
        except BaseException as error:
            value = executor.failed(error, task, name, NO_INTERRUPTS)
        return executor.closing(task, value, borrowed)

    async def _body(self, lease: Any, task: list[Any], name: str, borrowed: list[Any]) -> Any:
        executor = self.executor
        function, _ = executor.table.get(task[FUNCTION]) or executor.load(task[FUNCTION])
        args, kwargs = invoke.arguments(executor.rt, task, borrowed.append)
        value = function(*args, **kwargs)
        del args, kwargs
        if inspect.isawaitable(value):
            value = await value
        if task[RETURNS] == STREAMING:
            return await executor.streams.run_async(task, value, lease)
        if task[RETURNS] == DYNAMIC or (task[RETURNS] and is_generator(value)):
            result = await run_async(executor.rt, value, task, name, executor.made, asyncio.CancelledError)
            del executor.made[task[TASK_ID]]
            return result
        return invoke.returns(executor.rt, value, task, name)

    # ------------------------------------------------------------ under the lock

    def start_soon(self, started: list[tuple[CallGroup, Entry]]) -> None:
        """The machine has let these calls start."""
        self.starting += started
        self.wake()

    def cancel(self, call: tuple[bytes, int]) -> bool:
        """Cancel a call that runs, or that is starting."""
        if call in self.running:
            self.loop.call_soon_threadsafe(self._cancel, call)
            return True
        if any(identity(entry[2]) == call for _, entry in self.starting):
            self.cancelled.add(call)
            return True
        return False

    def _cancel(self, call: tuple[bytes, int]) -> None:
        running = self.running.get(call)
        if running is not None:
            running.cancel()


class _Steps:
    """Sets the context for each step of one call."""

    __slots__ = ("context", "mine")

    def __init__(self, context: Any, task: list[Any], name: str, receiver: bytes):
        self.context = context
        self.mine = [task[TASK_ID], task[TASK_ATTEMPT], name, receiver, None, b"", 0]

    def __call__(self, resume: Callable[[Any], Any], value: Any) -> Any:
        context, mine = self.context, self.mine
        (context.task, context.attempt, context.task_name, context.receiver,
         context.prefix_of, context.prefix, context.counter) = mine
        yielded = resume(value)
        mine[4:] = context.prefix_of, context.prefix, context.counter
        return yielded
