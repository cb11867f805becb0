"""Actors of local mode: an instance, and for async classes a loop on a thread of its own, where calls interleave."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from zray.environments import spec
from zray.handles.options import ActorOptions

_OUTSIDE: dict[str, Any] = {
    "task": None, "task_name": None, "function": (b"", None), "actor": None, "actor_name": None, "meta": None,
    "attempt": 0, "assigned": {}, "env": {}}
_running: ContextVar[dict[str, Any]] = ContextVar("zray_local_mode", default=_OUTSIDE)


class LocalContext:
    """The context of the running code: the counterpart of the runtime's thread-local context, for
    threads and coroutines."""

    def __getattr__(self, name: str) -> Any:
        try:
            return _running.get()[name]
        except KeyError:
            raise AttributeError(name) from None

    @contextlib.contextmanager
    def inside(self, **fields: Any) -> Iterator[dict[str, str]]:
        """A task: its variables are added to those of the task around it; returns all of them."""
        outer = _running.get()
        fields["env"] = {**outer["env"], **fields["env"]}
        token = _running.set({**_OUTSIDE, **fields})
        try:
            yield fields["env"]
        finally:
            _running.reset(token)


@contextlib.contextmanager
def environment(env: Mapping[str, str]) -> Iterator[None]:
    """Set these variables for a while."""
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def steps_in(env: Mapping[str, str]) -> Callable[[Callable[[Any], Any], Any], Any]:
    """For ``stepping``: a coroutine has these variables only at its steps."""
    def step(resume: Callable[[Any], Any], value: Any) -> Any:
        with environment(env):
            return resume(value)
    return step


class LocalActor:
    """An instance, or the reason why there is none."""

    def __init__(self, meta: bytes, options: ActorOptions, namespace: str, is_async: bool):
        self.instance: Any = None
        self.death = ""
        self.raised: BaseException | None = None  # by its constructor
        self.meta = meta
        self.name = options.name
        self.namespace = options.namespace or namespace
        self.env = spec.variables(options.env)
        self.lock = threading.RLock()  # one call at a time, unless it calls itself
        self.loop: ActorLoop | None = None
        if is_async:
            self.loop = ActorLoop({"": options.concurrency(True), **options.concurrency_groups})

    def end(self, reason: str, raised: BaseException | None = None) -> None:
        """It has ended."""
        if self.death:
            return
        self.death, self.raised = reason, raised
        self.instance = None
        if self.loop is not None:
            self.loop.stop()
        gc.collect()  # its __del__, also in a cycle


class ActorLoop:
    """The event loop of an async actor, on a thread that starts with the first call."""

    def __init__(self, sizes: Mapping[str, int]):
        self._loop = asyncio.new_event_loop()
        self._free_calls = {group: asyncio.Semaphore(size) for group, size in sizes.items()}
        self._thread = threading.Thread(target=self._run, name="zray-local-actor", daemon=True)
        self._stopped = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            pending = asyncio.all_tasks(self._loop)
            for task in pending:
                task.cancel()
            if pending:
                self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def call(self, body: Callable[[], Coroutine[Any, Any, Any]], group: str = "") -> concurrent.futures.Future:
        """Run ``body`` there, when its concurrency group has a free place."""
        async def limited() -> Any:
            async with self._free_calls.get(group) or self._free_calls[""]:
                return await body()

        return self.run(limited())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future:
        if self._thread.ident is None:
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        if self._thread.ident is None:
            self._loop.close()
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()
