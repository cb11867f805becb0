"""Actors and waits for tests of programs, at Ray's module path."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

from zray.api.calls import remote

__all__ = ["Semaphore", "SignalActor", "async_wait_for_condition", "wait_for_condition"]


@remote(num_cpus=0)
class SignalActor:
    """A gate: ``wait.remote()`` is ready after ``send.remote()``."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._waiters = 0

    async def send(self, clear: bool = False) -> None:
        """Let all waiters go on; with ``clear`` only those of now."""
        self._open.set()
        if clear:
            self._open.clear()

    async def wait(self, should_wait: bool = True) -> None:
        if should_wait:
            self._waiters += 1
            await self._open.wait()
            self._waiters -= 1

    async def cur_num_waiters(self) -> int:
        return self._waiters


@remote(num_cpus=0)
class Semaphore:
    """``acquire.remote()`` is ready for ``value`` callers at a time."""

    def __init__(self, value: int = 1) -> None:
        self._semaphore = asyncio.Semaphore(value)

    async def acquire(self) -> None:
        await self._semaphore.acquire()

    async def release(self) -> None:
        self._semaphore.release()

    async def locked(self) -> bool:
        return self._semaphore.locked()


def wait_for_condition(condition_predictor: Callable[..., bool], timeout: float = 10, retry_interval_ms: float = 100,
                       raise_exceptions: bool = False, **kwargs: Any) -> None:
    """Call ``condition_predictor(**kwargs)`` until it is true; RuntimeError after ``timeout`` seconds.

    What it raises counts as not yet, unless ``raise_exceptions``; the last one is in the error.
    """
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while time.monotonic() <= deadline:
        try:
            if condition_predictor(**kwargs):
                return
            last = None
        except Exception as error:
            if raise_exceptions:
                raise
            last = error
        time.sleep(retry_interval_ms / 1000)
    raise _not_met(timeout, last)


async def async_wait_for_condition(condition_predictor: Callable[..., Awaitable[bool]], timeout: float = 10,
                                   retry_interval_ms: float = 100, **kwargs: Any) -> None:
    """The same for coroutine functions, and plain ones, without blocking the loop."""
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while time.monotonic() <= deadline:
        try:
            found = condition_predictor(**kwargs)
            if await found if inspect.isawaitable(found) else found:
                return
            last = None
        except Exception as error:
            last = error
        await asyncio.sleep(retry_interval_ms / 1000)
    raise _not_met(timeout, last)


def _not_met(timeout: float, last: Exception | None) -> RuntimeError:
    error = RuntimeError(f"The condition wasn't met before the timeout expired ({timeout:g} s)."
                         + (f" Last exception: {last!r}" if last else ""))
    error.__cause__ = last
    return error
