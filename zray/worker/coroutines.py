"""Async actors: an asyncio loop on the main thread, with the mesh inside it.

A call becomes an asyncio task when its concurrency group has room; until then it is an entry in a deque, not a
coroutine that waits for a semaphore.  Replies of one turn of the loop go out together.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import types
from collections import deque
from collections.abc import Generator
from typing import Any

from zray.errors import AsyncioActorExit
from zray.worker import invoke
from zray.worker.meshloop import new_event_loop
from zray.worker.queue import ATTEMPT, FUNCTION, RETURNS, TASK_ID, Entry


class Group:
    """A concurrency group: how many coroutines run, and what waits for room."""

    __slots__ = ("calls", "size", "running", "waiting")

    def __init__(self, size: int):
        self.size = size
        self.running = 0
        self.calls: dict[tuple[bytes, int], list[Any]] = {}  # that run
        self.waiting: deque[Entry] = deque()


class Coroutines:
    """The calls of one async actor.  ``incoming`` and ``wake`` are used under the lock, the rest on the main thread."""

    def __init__(self, host: Any, sizes: dict[str, int]):
        self.host = host
        self.executor = host.executor
        self.incoming: deque[Entry] = deque()
        self.groups = {name: Group(size) for name, size in sizes.items()}
        self.running: dict[tuple[bytes, int], asyncio.Task[Any]] = {}
        self.cancelled: set[tuple[bytes, int]] = set()
        self.loop = new_event_loop(self.executor.loop, self._round)
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
        except SystemExit as error:  # of a task that user code made: asyncio lets it out
            self.host.end_by(error, f"an asyncio task of {self.host.class_name}")
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
        """Something came in, or the actor stops.  Any thread, under the lock."""
        if not self._awake:
            self._awake = True
            if not self.loop.is_closed():
                self.loop.next_round()

    def _round(self) -> bool:
        """Between two rounds of asyncio: replies go out together, what came in is started.  Was anything?"""
        if self._answered:
            self._answered = False
            with self.executor.loop.lock:
                self.executor.flush()  # the select that this belongs to sends it
        if not self._awake:
            return False
        self._take()
        return True

    def _take(self) -> None:
        with self.executor.loop.lock:
            self._awake = False
            entries = list(self.incoming)
            self.incoming.clear()
        for entry in entries:
            group = self.groups.get(self.host.group_of(entry[2])) or self.groups[""]
            if group.running < group.size:
                self._start(group, entry)
            else:
                group.waiting.append(entry)
        self._maybe_done()

    def _maybe_done(self) -> None:
        if self.executor.stopping is None or self._done is None:
            return
        if self.host.leaving is not None or not (self.running or self.incoming):
            self._done.set()

    def _start(self, group: Group, entry: Entry) -> None:
        identity = invoke.identity(entry[2])
        if self.cancelled and identity in self.cancelled:
            self.cancelled.discard(identity)
            self._end(entry, invoke.cancelled(entry[2], self._name(entry[2])))
            return
        group.running += 1
        group.calls[identity] = entry[2]
        self.running[identity] = self.loop.create_task(self._call(group, entry))

    def _name(self, task: list[Any]) -> str:
        return invoke.task_name(task, f"{self.host.class_name}.{task[FUNCTION]}")

    async def _call(self, group: Group, entry: Entry) -> None:
        lease, _, task = entry
        started = time.perf_counter_ns()
        try:
            result = await self._result(lease, task)
            self.executor.events.add(task, self._name(task), started, result)
        finally:
            identity = invoke.identity(task)
            self.running.pop(identity, None)
            group.calls.pop(identity, None)
            group.running -= 1
        if result is not None:
            self._end(entry, result)
        while group.waiting and group.running < group.size:
            self._start(group, group.waiting.popleft())
        if self.executor.stopping is not None:
            self._maybe_done()

    async def _result(self, lease: Any, task: list[Any]) -> Any:
        executor = self.executor
        rt = executor.rt
        name = self._name(task)
        borrowed: list[Any] = []
        try:
            value = await stepping(rt.context, self._fields(lease, task, name), self._body(lease, task, name, borrowed))
        except asyncio.CancelledError:
            if self._ending:
                return None  # nobody cancelled it: its caller learns how the actor ended
            value = invoke.cancelled(task, name)
        except (SystemExit, AsyncioActorExit) as error:
            self.host.end_by(error, name)
            return None
        except BaseException as error:
            value = invoke.failure(error, name)
        return executor.closing(task, value, borrowed)

    def _fields(self, lease: Any, task: list[Any], name: str) -> dict[str, Any]:
        return {"task": task[TASK_ID], "attempt": task[ATTEMPT], "task_name": name, "receiver": lease.owner}

    async def _body(self, lease: Any, task: list[Any], name: str, borrowed: list[Any]) -> Any:
        executor = self.executor
        function, _ = executor.table.get(task[FUNCTION]) or executor.load(task[FUNCTION])
        args, kwargs = invoke.arguments(executor.rt, task, borrowed.append)
        value = function(*args, **kwargs)
        del args, kwargs
        if inspect.isawaitable(value):
            value = await value
        if task[RETURNS] == invoke.STREAMING:
            return await executor.streams.run_async(task, value, lease)
        if task[RETURNS] == invoke.DYNAMIC:
            return invoke.dynamic(executor.rt, value, task)
        return invoke.returns(executor.rt, value, task, name)

    def _end(self, entry: Entry, result: Any) -> None:
        lease, sequence, _ = entry
        lease.ends.extend((sequence, result))
        self.executor.unsent[id(lease)] = lease
        self._answered = True

    # ------------------------------------------------------------ under the lock

    def drop_queued(self) -> None:
        """What has not started never will."""
        self.incoming.clear()
        for group in self.groups.values():
            group.waiting.clear()

    def cancel(self, task: bytes, attempt: int) -> bool:
        identity = (task, attempt)
        if identity in self.running:
            self.loop.call_soon_threadsafe(self._cancel, identity)
            return True
        waiting = list(self.incoming)
        for group in self.groups.values():
            waiting += group.waiting
        if any(invoke.identity(entry[2]) == identity for entry in waiting):
            self.cancelled.add(identity)
            self.loop.call_soon_threadsafe(self._cancel_waiting)
            return True
        return False

    def _cancel(self, identity: tuple[bytes, int]) -> None:
        running = self.running.get(identity)
        if running is not None:
            running.cancel()

    def _cancel_waiting(self) -> None:
        """Answer cancelled calls that wait for room, in place."""
        for group in self.groups.values():
            for entry in [e for e in group.waiting if invoke.identity(e[2]) in self.cancelled]:
                group.waiting.remove(entry)
                self.cancelled.discard(invoke.identity(entry[2]))
                self._end(entry, invoke.cancelled(entry[2], self._name(entry[2])))


@types.coroutine
def stepping(context: Any, fields: dict[str, Any], coroutine: Any) -> Generator[Any, Any, Any]:
    """Drive a coroutine with ``context`` set at each of its steps: others run in between on the same thread."""
    send, throw = coroutine.send, coroutine.throw
    mine = [fields["task"], fields["attempt"], fields["task_name"], fields["receiver"], None, b"", 0]
    value: Any = None
    error: BaseException | None = None
    while True:
        (context.task, context.attempt, context.task_name, context.receiver,
         context.prefix_of, context.prefix, context.counter) = mine
        try:
            yielded = send(value) if error is None else throw(error)
        except StopIteration as stop:
            return stop.value
        mine[4:] = context.prefix_of, context.prefix, context.counter
        error = None
        try:
            value = yield yielded
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as thrown:
            error = thrown
