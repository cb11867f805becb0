"""The queues of ``multiprocessing`` on actors: they may be passed to tasks, actors and pools."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from zray.api.calls import get, remote
from zray.base.plain_numbers import plain
from zray.util import queue

__all__ = ["JoinableQueue", "SimpleQueue"]


class JoinableQueue(queue.Queue):
    """A queue whose ``join`` waits until every item was taken and reported by ``task_done``.

    It has the methods of ``multiprocessing.JoinableQueue``, and those of :class:`zray.util.queue.Queue`.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize = plain(maxsize)
        items: Any = remote(_JoinableItems)
        options = {"max_concurrency": queue.WAITING_MAX, "num_cpus": 0, **(actor_options or {})}
        self.actor = items.options(**options).remote(maxsize)

    def task_done(self) -> None:
        """One item that ``get`` returned is dealt with; ValueError when called more often than ``put``."""
        if not get(self.actor.task_done.remote()):
            raise ValueError("task_done() called too many times")

    def join(self) -> None:
        """Wait until ``task_done`` was called for every item."""
        get(self.actor.join.remote())

    def close(self) -> None:
        """Nothing is left to do: items are in the actor already.  The queue ends with its last handle."""

    def join_thread(self) -> None:
        """Nothing is left to do, as for :meth:`close`."""

    def cancel_join_thread(self) -> None:
        """Nothing is left to do, as for :meth:`close`."""


class SimpleQueue(queue.Queue):
    """``multiprocessing.SimpleQueue``: put, get, empty, without a bound."""

    def __init__(self) -> None:
        super().__init__()

    def close(self) -> None:
        """Nothing is left to do.  The queue ends with its last handle."""


class _JoinableItems(queue._Items):
    """The actor behind a JoinableQueue: it counts the items that nobody has reported yet."""

    def __init__(self, maxsize: int):
        super().__init__(maxsize)
        self.unfinished = 0
        self.joiners: deque[asyncio.Future[None]] = deque()

    async def put(self, item: Any, patience: float | None) -> bool:
        self.unfinished += 1  # before a getter can take it
        added = False
        try:
            added = await super().put(item, patience)
        finally:
            if not added:
                self._finish(1)
        return added

    async def put_batch(self, items: list[Any]) -> int | None:
        size = await super().put_batch(items)
        if size is None:
            self.unfinished += len(items)
        return size

    async def task_done(self) -> bool:
        if not self.unfinished:
            return False
        self._finish(1)
        return True

    def _finish(self, count: int) -> None:
        self.unfinished -= count
        if not self.unfinished:
            self._wake(self.joiners, len(self.joiners))

    async def join(self) -> None:
        if self.unfinished:
            waiter = asyncio.get_running_loop().create_future()
            self.joiners.append(waiter)
            await waiter
