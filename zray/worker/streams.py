"""Streaming generators: each item is sent as it is made, at most ``backpressure`` ahead of the consumer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from zray.messages import StreamAck, StreamItem
from zray.transport.loop import Waiter
from zray.worker import invoke
from zray.worker.queue import ATTEMPT, EXTRA, TASK_ID, Lease

# Items made faster than this go out together: a kick an item would cost more than the item.
KICK_AFTER_S = 0.001
KICK_ITEMS = 32


class Production:
    """One running generator: what it sent and what the consumer took."""

    __slots__ = ("consumed", "waiter", "future", "limit")

    def __init__(self, limit: int):
        self.limit = limit
        self.consumed = 0
        self.waiter: Any = None
        self.future: Any = None  # asyncio: what the producer awaits while it is too far ahead

    def acknowledge(self, consumed: int, loop: Any) -> None:
        if consumed <= self.consumed:
            return
        self.consumed = consumed
        if self.waiter is not None:
            loop.notify(self.waiter)
            self.waiter = None
        if self.future is not None:
            future, self.future = self.future, None
            future.get_loop().call_soon_threadsafe(_resolve, future)


def _resolve(future: Any) -> None:
    if not future.done():
        future.set_result(None)


class Streams:
    """All generators that run here now."""

    def __init__(self, executor: Any):
        self.executor = executor
        self.running: dict[tuple[bytes, int], Production] = {}

    def on_ack(self, peer: bytes, message: StreamAck) -> None:
        production = self.running.get((message.task, message.attempt))
        if production is not None:
            production.acknowledge(message.consumed, self.executor.loop)

    def run(self, task: list[Any], value: Any, lease: Lease) -> Any:
        """Drive a generator to its end on this thread; the task's result.  Its errors are the caller's to handle."""
        iterator = iterate(value, task)
        production = self._open(task)
        loop, rt = self.executor.loop, self.executor.rt
        index = unkicked = 0
        last = time.monotonic()
        try:
            for item in iterator:
                index += 1
                wire = invoke.encode(rt, item, task[TASK_ID], index)
                now = time.monotonic()
                unkicked += 1
                with loop.lock:
                    rt.send(lease.owner, StreamItem(task[TASK_ID], task[ATTEMPT], index, wire))
                    ahead = production.limit and index - production.consumed >= production.limit
                    if ahead or unkicked >= KICK_ITEMS or now - last >= KICK_AFTER_S or index == 1:
                        loop.kick()
                        unkicked = 0
                        last = now
                if ahead:
                    self._wait(production, index)
            return ended(index)
        finally:
            self._close(task)
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    async def run_async(self, task: list[Any], value: Any, lease: Lease) -> Any:
        """The same on an asyncio loop, for plain and async generators."""
        production = self._open(task)
        executor = self.executor
        index = 0
        try:
            async for item in aiterate(value, task):
                index += 1
                wire = invoke.encode(executor.rt, item, task[TASK_ID], index)
                future = None
                with executor.loop.lock:
                    executor.rt.send(lease.owner, StreamItem(task[TASK_ID], task[ATTEMPT], index, wire))
                    executor.loop.kick()
                    if production.limit and index - production.consumed >= production.limit:
                        import asyncio

                        future = production.future = asyncio.get_running_loop().create_future()
                while future is not None:
                    await future
                    future = None
                    with executor.loop.lock:
                        if index - production.consumed >= production.limit:
                            import asyncio

                            future = production.future = asyncio.get_running_loop().create_future()
            return ended(index)
        finally:
            self._close(task)

    def _open(self, task: list[Any]) -> Production:
        limit = (task[EXTRA] or {}).get("backpressure") or 0
        production = Production(max(0, limit))
        self.running[invoke.identity(task)] = production
        return production

    def _close(self, task: list[Any]) -> None:
        self.running.pop(invoke.identity(task), None)

    def _wait(self, production: Production, index: int) -> None:
        """Until the consumer has caught up.  The worker gives back what waits behind this task."""
        executor = self.executor
        blocked = executor.on_blocked()
        try:
            while True:
                with executor.loop.lock:
                    if index - production.consumed < production.limit:
                        return
                    waiter = production.waiter = Waiter()
                executor.loop.wait(waiter, None)
        finally:
            production.waiter = None
            if blocked:
                executor.on_unblocked()


def ended(count: int) -> list[Any]:
    return [0, [invoke.NONE], {"stream_len": count}]


def iterate(value: Any, task: list[Any]) -> Iterator[Any]:
    if hasattr(value, "__aiter__"):
        raise TypeError("async generators run in async actors; a task or a sync actor needs a plain generator")
    try:
        return iter(value)
    except TypeError:
        raise TypeError(f"num_returns='streaming' needs a generator, not a {type(value).__name__}") from None


async def aiterate(value: Any, task: list[Any]) -> AsyncIterator[Any]:
    """Items of an async or a plain generator."""
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
