"""Streaming generators: each item is sent as it is made, at most ``backpressure`` ahead of the consumer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

from zray.transport.loop import Waiter
from zray.values import serialization
from zray.wire.messages import StreamItem
from zray.worker.execution import Execution
from zray.worker.queue import EXTRA, TASK_ATTEMPT, TASK_ID, ServedLease
from zray.worker.run import invoke
from zray.worker.run.durability import durable_value
from zray.worker.run.production import Production

# Items that are made faster than this are sent together: a kick for each would cost more than the item.
KICK_AFTER_S = 0.001
KICK_ITEMS = 32


def _resolve(future: Any) -> None:
    if not future.done():
        future.set_result(None)


class Streams:
    """Runs generators."""

    def __init__(self, executor: Execution):
        self.executor = executor

    def run(self, task: list[Any], value: Any, lease: ServedLease) -> Any:
        """Run a generator to its end on this thread; returns the task's result.  The caller handles its errors."""
        iterator = iterate(value, task)
        production = self.executor.machine.open_stream(task)
        loop, rt = self.executor.loop, self.executor.rt
        index = unkicked = 0
        last = time.monotonic()
        durable = "durability" in (task[EXTRA] or ())
        try:
            for item in iterator:
                index += 1
                wire = invoke.encode(rt, item, task[TASK_ID], index)
                if durable:
                    wire = durable_value(rt, task, wire, index)
                item = None  # it must not live until the next one is there
                now = time.monotonic()
                unkicked += 1
                with loop.lock:
                    rt.send(lease.owner, StreamItem(task[TASK_ID], task[TASK_ATTEMPT], index, wire))
                    ahead = production.is_ahead(index)
                    if ahead or unkicked >= KICK_ITEMS or now - last >= KICK_AFTER_S or index == 1:
                        loop.kick()
                        unkicked = 0
                        last = now
                if ahead:
                    self._wait(production, index)
            return ended(index)
        finally:
            self.executor.machine.close_stream(task)
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    async def run_async(self, task: list[Any], value: Any, lease: ServedLease) -> Any:
        """The same on an asyncio loop, for plain and async generators."""
        production = self.executor.machine.open_stream(task)
        executor = self.executor
        index = 0
        try:
            async for item in aiterate(value, task):
                index += 1
                wire = invoke.encode(executor.rt, item, task[TASK_ID], index)
                item = None
                with executor.loop.lock:
                    executor.rt.send(lease.owner, StreamItem(task[TASK_ID], task[TASK_ATTEMPT], index, wire))
                    executor.loop.kick()
                    future = _awaited(production, index)
                while future is not None:
                    await future
                    with executor.loop.lock:
                        future = _awaited(production, index)
            return ended(index)
        finally:
            self.executor.machine.close_stream(task)

    def _wait(self, production: Production, index: int) -> None:
        """Wait for the consumer.  The worker hands back the tasks behind this one."""
        executor = self.executor
        blocked = executor.on_blocked()
        try:
            while True:
                with executor.loop.lock:
                    if not production.is_ahead(index):
                        return
                    waiter = Waiter()
                    production.wake = partial(executor.loop.notify, waiter)
                executor.loop.wait(waiter, None)
        finally:
            production.wake = None
            if blocked:
                executor.on_unblocked()


def _awaited(production: Production, made: int) -> Any:
    """A future to await before the next item; None when no wait is needed.  Under the lock."""
    if not production.is_ahead(made):
        return None
    import asyncio

    loop = asyncio.get_running_loop()
    future = loop.create_future()
    production.wake = partial(loop.call_soon_threadsafe, _resolve, future)
    return future


def ended(count: int) -> list[Any]:
    return [0, [serialization.NONE], {"stream_len": count}]


def iterate(value: Any, task: list[Any]) -> Iterator[Any]:
    if hasattr(value, "__aiter__"):
        raise TypeError("async generators run in async actors; a task or a sync actor needs a plain generator")
    try:
        return iter(value)
    except TypeError:
        raise TypeError(f"num_returns='streaming' needs a generator, not a {type(value).__name__}") from None


async def aiterate(value: Any, task: list[Any]) -> AsyncIterator[Any]:
    """The items of an async or a plain generator."""
    if hasattr(value, "__aiter__"):
        try:
            async for item in value:
                yield item
        finally:
            close = getattr(value, "aclose", None)
            if close is not None:
                await close()
    else:
        for item in iterate(value, task):
            yield item
