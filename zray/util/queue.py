"""A queue that tasks and actors share: first in, first out, between any number of producers and consumers."""

from __future__ import annotations

import asyncio
import queue
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from zray.api.calls import get, kill, remote, wait
from zray.base.errors import RayActorError
from zray.base.plain_numbers import plain

__all__ = ["Empty", "Full", "Queue"]

# Callers that may wait in one queue at a time.
WAITING_MAX = 10_000


class Empty(queue.Empty):
    """Nothing to get (in time)."""


class Full(queue.Full):
    """No room to put (in time)."""


class Queue:
    """A first-in, first-out queue in an actor of its own; it may be passed to tasks and actors.

    ``maxsize`` 0 is unbounded.  ``actor_options`` are options of the actor (``num_cpus``, ``name`` ...).  The methods
    are those of ``queue.Queue``, their async twins, and batches, which succeed or fail as a whole.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize = plain(maxsize)
        options = {"max_concurrency": WAITING_MAX, "num_cpus": 0, **(actor_options or {})}
        self.actor: Any = remote(_Items).options(**options).remote(maxsize)  # type: ignore[typeddict-item]

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """Items in the queue now."""
        return get(self.actor.size.remote())

    def qsize(self) -> int:
        """Items in the queue now."""
        return self.size()

    def empty(self) -> bool:
        """Whether nothing is in it, at the moment."""
        return self.size() == 0

    def full(self) -> bool:
        """Whether it holds ``maxsize`` items, at the moment."""
        return 0 < self.maxsize <= self.size()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item, waiting for room; Full without ``block``, or when the time is up."""
        if not get(self.actor.put.remote(item, _patience(block, timeout))):
            raise Full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item, waiting for one; Empty without ``block``, or when the time is up."""
        return _taken(get(self.actor.get.remote(_patience(block, timeout))))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """:meth:`put` for coroutines."""
        if not await self.actor.put.remote(item, _patience(block, timeout)):
            raise Full

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """:meth:`get` for coroutines."""
        return _taken(await self.actor.get.remote(_patience(block, timeout)))

    def put_nowait(self, item: Any) -> None:
        """Add an item, or raise Full."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """Take the oldest item, or raise Empty."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items, or none and raise Full."""
        if not isinstance(items, Iterable):
            raise TypeError("Argument 'items' must be an Iterable")
        batch = list(items)
        size = get(self.actor.put_batch.remote(batch))
        if size is not None:
            raise Full(f"Cannot add {len(batch)} items to queue of size {size} and maxsize {self.maxsize}.")

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take that many items, or none and raise Empty."""
        num_items = plain(num_items)
        if isinstance(num_items, bool) or not isinstance(num_items, int):
            raise TypeError("Argument 'num_items' must be an int")
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        found = get(self.actor.get_batch.remote(num_items))
        if isinstance(found, int):
            raise Empty(f"Cannot get {num_items} items from queue of size {found}.")
        return found

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """End the queue's actor; unless ``force``, calls under way may finish for ``grace_period_s``."""
        if not force:
            done, _ = wait([self.actor.__ray_terminate__.remote()], timeout=grace_period_s)
            if done:
                try:
                    get(done)
                except RayActorError:
                    return  # that is how it ends
        kill(self.actor, no_restart=True)


def _patience(block: bool, timeout: float | None) -> float | None:
    """Seconds to wait; None for ever."""
    timeout = plain(timeout)
    if not block:
        return 0.0
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout


def _taken(found: list[Any]) -> Any:
    if not found:
        raise Empty
    return found[0]


class _Items:
    """The actor behind a Queue.  Refusals are return values, so that they are not logged as failed tasks.

    ``asyncio.Queue`` with ``wait_for`` would lose an item when a time-out and a put meet (CPython before 3.12).
    """

    def __init__(self, maxsize: int):
        self.maxsize = maxsize
        self.items: deque[Any] = deque()
        self.getters: deque[asyncio.Future[None]] = deque()
        self.putters: deque[asyncio.Future[None]] = deque()

    def _room(self) -> bool:
        return self.maxsize <= 0 or len(self.items) < self.maxsize

    async def size(self) -> int:
        return len(self.items)

    async def put(self, item: Any, patience: float | None) -> bool:
        if not await self._until(self._room, self.putters, patience):
            return False
        self.items.append(item)
        self._wake(self.getters, 1)
        return True

    async def get(self, patience: float | None) -> list[Any]:
        if not await self._until(lambda: bool(self.items), self.getters, patience):
            return []
        item = self.items.popleft()
        self._wake(self.putters, 1)
        return [item]

    async def put_batch(self, items: list[Any]) -> int | None:
        """None when they are in, else the size that left no room."""
        if 0 < self.maxsize < len(self.items) + len(items):
            return len(self.items)
        self.items.extend(items)
        self._wake(self.getters, len(items))
        return None

    async def get_batch(self, count: int) -> list[Any] | int:
        """The items, or the size when it is too small."""
        if len(self.items) < count:
            return len(self.items)
        items = [self.items.popleft() for _ in range(count)]
        self._wake(self.putters, count)
        return items

    async def _until(self, condition: Any, waiters: deque[asyncio.Future[None]], patience: float | None) -> bool:
        """Wait, first come first served, until the condition holds; False after ``patience``."""
        deadline = None if patience is None else time.monotonic() + patience
        first = True
        while not condition() or (first and waiters):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return condition()
            waiter = asyncio.get_running_loop().create_future()
            (waiters.append if first else waiters.appendleft)(waiter)
            first = False
            try:
                await asyncio.wait((waiter,), timeout=left)
            except asyncio.CancelledError:
                if waiter.done() and condition():
                    self._wake(waiters, 1)  # its turn was given to another caller
                raise
            finally:
                if not waiter.done():
                    waiters.remove(waiter)
        return True

    @staticmethod
    def _wake(waiters: deque[asyncio.Future[None]], count: int) -> None:
        while waiters and count > 0:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1
