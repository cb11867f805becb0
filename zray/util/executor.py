"""``concurrent.futures.Executor`` on tasks: for asyncio's ``run_in_executor``, and for libraries that take one."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from itertools import chain, islice
from typing import Any

from zray.api.calls import cluster_resources, remote
from zray.base.errors import RayTaskError
from zray.base.named_tuples import NamedTuple
from zray.base.plain_numbers import plain
from zray.core.waits.callbacks import GuardedFuture
from zray.handles.connection import connected, has_ended
from zray.handles.refs import ObjectRef
from zray.util._causes import raised_by_function
from zray.util._executor_maps import ExecutorMap

__all__ = ["Executor"]

# Without max_workers, so many tasks for each CPU are in flight: a CPU that gets free has work at once.
TASKS_A_CPU = 2
# Without max_workers, more are in flight when calls are short: as many as end in about this time, in seconds.
SHORT_AHEAD_S = 0.1
SHORT_AHEAD_MAX = 4096
# A future that waits for others to start looks again after this, in seconds.
START_LOOK_S = 0.05
# Executors whose initializer a process remembers to have run.
REMEMBERED_MAX = 256
EXECUTOR_ENDED = "The session of this executor has ended: zray was shut down since. Make a new Executor after init()."


class _Setup(NamedTuple):
    """The initializer of an executor; each process runs it before the executor's first task there."""

    token: bytes
    initializer: Callable[..., Any]
    initargs: tuple


class _InitializerFailed(Exception):
    """The initializer raised: the executor is broken."""


_initialized: dict[bytes, None] = {}


def _call(setup: _Setup | None, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """What the tasks of an executor run."""
    if setup is not None and setup.token not in _initialized:
        try:
            setup.initializer(*setup.initargs)
        except Exception as error:
            raise _InitializerFailed(f"{type(error).__name__}: {error}") from error
        _initialized[setup.token] = None
        while len(_initialized) > REMEMBERED_MAX:
            del _initialized[next(iter(_initialized))]
    return fn(*args, **kwargs)


def _call_chunk(fn: Callable[..., Any], chunk: list[tuple]) -> list[Any]:
    return [fn(*args) for args in chunk]


class _TaskFuture(GuardedFuture):
    """A future that waits in zray's own ``wait``: a task that waits gives its CPU back."""

    def __init__(self, executor: Executor, call: tuple[Callable[..., Any], tuple, dict[str, Any]]):
        super().__init__()
        self._executor = executor
        self._call: Any = call
        self.object_ref: ObjectRef | None = None  # once the task is submitted

    def result(self, timeout: float | None = None) -> Any:
        return super().result(self._block(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(self._block(timeout))

    def set_result(self, result: Any) -> None:
        """Called when the task has ended; as set_exception, with what ``get`` would raise."""
        self._executor._ended(self)
        super().set_result(result)
        self._executor._shown_end(self)

    def set_exception(self, exception: BaseException | None) -> None:
        self._executor._ended(self)
        super().set_exception(None if exception is None else self._executor._shown(exception))
        self._executor._shown_end(self)

    def fail(self, error: BaseException) -> None:
        """End without a task."""
        super().set_exception(error)

    def _block(self, timeout: float | None) -> float | None:
        """Wait until the task has ended; the seconds that are left for its future to show that."""
        timeout = plain(timeout)
        end = None if timeout is None else time.monotonic() + timeout
        while not self.done():
            left = None if end is None else max(0.0, end - time.monotonic())
            if left == 0.0:
                break
            if self._executor._is_session_over():  # no wait of a new session
                return left
            ref = self.object_ref
            if ref is not None:
                self._executor._wait([ref], left)
                break
            running = self._executor._refs()
            if not running:  # it was cancelled or started just now
                return left
            self._executor._wait(running, START_LOOK_S if left is None else min(left, START_LOOK_S))
        return None if end is None else max(0.0, end - time.monotonic())


class Executor(futures.Executor):
    """Runs calls as tasks of the cluster, with the methods of ``concurrent.futures.ProcessPoolExecutor``.

    max_workers: at most so many calls run at a time; None for as many as the cluster has CPUs for.  Where the CPUs
    are the limit, ``map`` submits its items as batches of tasks, as ``f.map`` does.
    initializer, initargs: each process calls ``initializer(*initargs)`` before the executor's first call there.  When
    it raises, the calls raise ``concurrent.futures.BrokenExecutor``.
    ray_remote_args: options of the tasks, such as ``num_cpus``.

    A ``with`` block that Ctrl-C ends interrupts the calls that run, and waits for no others.
    It ends with the session in which it was made: futures without a result then raise BrokenExecutor.
    A future that has not started can be cancelled.  References among the arguments arrive as their values.  An
    exception is the one that the function raised; its ``__cause__`` has the traceback of the other process.
    """

    def __init__(self, max_workers: int | None = None, initializer: Callable[..., Any] | None = None,
                 initargs: Iterable[Any] = (), *, ray_remote_args: dict[str, Any] | None = None):
        max_workers = plain(max_workers)
        if max_workers is not None:
            if not isinstance(max_workers, int) or isinstance(max_workers, bool):
                raise TypeError(f"max_workers must be an int or None, not {max_workers!r}")
            if max_workers <= 0:
                raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._runtime = connected()
        cpus = max(1, int(cluster_resources().get("CPU", 1)))
        self._max_workers = max_workers
        self._in_flight_max = max_workers or cpus * TASKS_A_CPU
        self._ahead = self._in_flight_max
        self._ended_since = 0  # calls, since that time
        self._since = time.monotonic()
        self._takes_cpus = (ray_remote_args or {}).get("num_cpus", 1) >= 1
        self._setup = _Setup(os.urandom(16), initializer, tuple(initargs)) if initializer is not None else None
        task: Any = remote(_call)
        self._task = task.options(**ray_remote_args) if ray_remote_args else task
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._pending: deque[_TaskFuture] = deque()
        self._running: dict[_TaskFuture, ObjectRef] = {}
        self._ending: set[_TaskFuture] = set()  # their tasks have ended; they are about to show that
        self._maps: set[ExecutorMap] = set()  # those that have not ended
        self._starting = False
        self._is_shut_down = False
        self._broken: str | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future:
        """Run ``fn(*args, **kwargs)`` as a task; RuntimeError after :meth:`shutdown`."""
        if not callable(fn):
            raise TypeError(f"submit() takes a callable, not {fn!r}")
        self._is_session_over()
        with self._lock:
            self._check_open()
            future = _TaskFuture(self, (fn, args, kwargs))
            self._pending.append(future)
            self._start_more()
        return future

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None,
            chunksize: int = 1, buffersize: int | None = None) -> Iterator[Any]:
        """The results of ``fn`` over the iterables, in order; ``chunksize`` items make a task.

        ``timeout``: seconds from this call after which the iterator raises TimeoutError.  ``buffersize`` is accepted:
        the inputs are taken at once.  When the iterator ends early, items that have not started are dropped.
        """
        chunksize, timeout = plain(chunksize), plain(timeout)
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            calls = list(zip(*iterables))
            return self._map_of_tasks(fn, calls, timeout) or super().map(fn, *zip(*calls), timeout=timeout)
        chunks = list(_chunks(zip(*iterables), chunksize))
        results = super().map(_call_chunk, [fn] * len(chunks), chunks, timeout=timeout)
        return chain.from_iterable(results)

    def _map_of_tasks(self, fn: Callable[..., Any], calls: list[tuple], timeout: float | None) -> Iterator[Any] | None:
        """The map as ``f.starmap``; None where ``max_workers`` limits the tasks and not the CPUs of the cluster."""
        if not callable(fn) or not self._takes_cpus or self._is_session_over():
            return None
        if not hasattr(self._runtime, "map_future") or any(ObjectRef in set(map(type, call)) for call in calls):
            return None
        if self._max_workers is not None and self._max_workers < cluster_resources().get("CPU", 1):
            return None
        with self._lock:
            self._check_open()
            made = ExecutorMap(self, [(self._setup, fn, *call) for call in calls])
            self._maps.add(made)
            made.start_more()
            if made.is_done:
                self._map_is_done(made)
        return made.results(timeout)

    def _map_is_done(self, made: ExecutorMap) -> None:
        self._maps.discard(made)
        self._idle.notify_all()

    def _check_open(self) -> None:
        if self._broken is not None:
            raise futures.BrokenExecutor(self._broken)
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _is_session_over(self) -> bool:
        """Whether the session has ended; then nothing starts any more, in no session.  What runs ends by itself."""
        if not has_ended(self._runtime):
            return False
        self._break(EXECUTOR_ENDED)
        return True

    def _wait(self, refs: list[ObjectRef], timeout: float | None = None) -> list[ObjectRef]:
        """The references that are ready, of those: waits for one, in the executor's own session."""
        return self._runtime.wait(refs, 1, timeout)[0]

    def _refs(self) -> list[ObjectRef]:
        with self._lock:
            return list(self._running.values())

    def _start_more(self) -> None:
        """Submit tasks while there is room (under the lock)."""
        if self._starting or self._is_session_over():  # a task that ended while it was submitted
            return
        if self._in_flight_max <= len(self._running) and self._ahead < 2 * len(self._running):
            return  # short calls are submitted many at a time: they travel together
        self._starting = True
        try:
            while self._pending and len(self._running) < self._ahead:
                future = self._pending.popleft()
                if future.set_running_or_notify_cancel():
                    self._start(future)
        finally:
            self._starting = False

    def _start(self, future: _TaskFuture) -> None:
        (fn, args, kwargs), future._call = future._call, None
        try:
            ref = self._task.remote(self._setup, fn, *args, **kwargs)
        except Exception as error:  # the arguments cannot be pickled, or the session is over
            future.fail(error)
            return
        self._running[future] = future.object_ref = ref
        self._runtime.fulfil(future, ref)

    def _ended(self, future: _TaskFuture) -> None:
        """Its task has ended: start others first, so that they run while the callers take this result."""
        with self._lock:
            self._running.pop(future, None)
            self._ending.add(future)
            if self._max_workers is None and self._takes_cpus:
                self._measure()
            self._start_more()

    def _shown_end(self, future: _TaskFuture) -> None:
        self._ending.discard(future)
        if self._is_shut_down:
            with self._lock:
                self._idle.notify_all()

    def _measure(self) -> None:
        """Short calls: have more of them in flight, up to twice as many as a round before."""
        self._ended_since += 1
        if self._ended_since < self._ahead:
            return
        now = time.monotonic()
        fitting = int(self._ended_since * SHORT_AHEAD_S / max(now - self._since, 1e-6))
        self._ahead = max(self._in_flight_max, min(fitting, 2 * self._ahead, SHORT_AHEAD_MAX))
        self._ended_since, self._since = 0, now

    def _shown(self, error: BaseException) -> BaseException:
        """The exception of the caller, for one that ``get`` raised."""
        raised = raised_by_function(error)
        if isinstance(raised, _InitializerFailed):
            return self._break(f"A process of the executor failed in its initializer: {raised}")
        if has_ended(self._runtime) and not isinstance(error, RayTaskError):
            return futures.BrokenExecutor(EXECUTOR_ENDED)
        return raised

    def _break(self, why: str) -> futures.BrokenExecutor:
        with self._lock:
            self._broken = self._broken or why
            pending, self._pending = self._pending, deque()
            self._drop_maps(futures.BrokenExecutor(why))
        for future in pending:
            if future.set_running_or_notify_cancel():
                future.fail(futures.BrokenExecutor(why))
        return futures.BrokenExecutor(why)

    def _drop_maps(self, why: BaseException) -> None:
        for made in list(self._maps):
            made.drop(why)

    def cancel_all(self) -> None:
        """Cancel what waits, and interrupt what runs: its futures raise TaskCancelledError."""
        with self._lock:
            pending, self._pending = self._pending, deque()
            self._drop_maps(futures.CancelledError())
            running = [*self._running.values(), *(ref for made in self._maps for ref in made.refs())]
        for future in pending:
            future.cancel()
            future.set_running_or_notify_cancel()
        for ref in running:
            self._runtime.cancel(ref, False, True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.  ``cancel_futures`` cancels those that have not started; ``wait`` waits for the rest."""
        with self._lock:
            self._is_shut_down = True
            cancelled: deque[_TaskFuture] = deque()
            if cancel_futures:
                cancelled, self._pending = self._pending, cancelled
                self._drop_maps(futures.CancelledError())
        for future in cancelled:
            future.cancel()
            future.set_running_or_notify_cancel()
        if wait:
            self._join()

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> bool | None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.cancel_all()  # Ctrl-C interrupts the processes of a ProcessPoolExecutor, too
        return super().__exit__(kind, error, traceback)

    def _join(self) -> None:
        while True:
            with self._lock:
                mapped = [ref for made in self._maps for ref in made.refs()]
                refs = list(self._running.values())
                if not refs and not self._maps and not self._pending and all(future.done() for future in self._ending):
                    return
            if mapped:
                self._runtime.wait(mapped, len(mapped), None)
            ready = self._wait(refs) if refs else []
            with self._lock:
                if self._starting or not refs or any(ref in self._running.values() for ref in ready):
                    self._idle.wait(START_LOOK_S)


def _chunks(items: Iterable[tuple], size: int) -> Iterator[list[tuple]]:
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk
