"""What a Pool's calls return: AsyncResult, and the iterators of imap and imap_unordered."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import TimeoutError
from typing import Any

from zray.base.plain_numbers import plain
from zray.util.multiprocessing._processes import CallChunk, Pace, PoolProcesses
from zray.util.multiprocessing._worker import CallFailure

__all__ = ["AsyncResult", "IMapIterator", "OrderedIMapIterator", "UnorderedIMapIterator"]

# How many chunks of an iterator are taken ahead of their use, for each process.
DRAWN_AHEAD = 4
SHORT_DRAWN_AHEAD = 128


def countdown(timeout: float | None) -> Callable[[], float | None]:
    """Seconds that are left of ``timeout``; None for ever."""
    timeout = plain(timeout)
    if timeout is None:
        return lambda: None
    end = time.monotonic() + timeout
    return lambda: end - time.monotonic()


class AsyncResult:
    """The result of ``apply_async``, ``map_async`` or ``starmap_async``."""

    def __init__(self, processes: PoolProcesses, pace: Pace, chunks: list[Any], kind: str,
                 callback: Callable[[Any], Any] | None = None,
                 error_callback: Callable[[BaseException], Any] | None = None, single: bool = False):
        for given in (callback, error_callback):
            if given is not None and not callable(given):
                raise TypeError(f"a callback must be callable, not {given!r}")
        self._processes = processes
        self._callback = callback
        self._error_callback = error_callback
        self._single = single
        self._values: list[list[Any]] = [[] for _ in chunks]
        self._failures: dict[tuple[int, int], BaseException] = {}  # (chunk, index in it) -> exception
        self._left = len(chunks)
        self._done = False
        self._chunks = [CallChunk(pace, calls, kind, self._taker(index)) for index, calls in enumerate(chunks)]
        with processes.changed:
            if chunks:
                processes.submit(self._chunks)
            else:
                self._finish()

    def _taker(self, index: int) -> Callable[..., None]:
        def take(results: list[Any], failed: Iterable[int], error: BaseException | None) -> None:
            self._values[index] = results
            if error is not None:
                self._failures[index, 0] = error
            for place in failed:
                self._failures[index, place] = results[place].exception()
            self._left -= 1
            if not self._left:
                self._finish()

        return take

    def _finish(self) -> None:
        self._chunks = []
        called = self._error_callback if self._failures else self._callback
        if called is None:
            self._done = True
        else:
            self._processes.call_back(lambda: self._call_back(called))

    def _call_back(self, called: Callable[[Any], Any]) -> None:
        try:
            called(self._error() if self._failures else self._value())
        except Exception:  # it is the user's, and has no caller
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        self._done = True

    def _error(self) -> BaseException:
        return self._failures[min(self._failures)]

    def _value(self) -> Any:
        if self._single:
            return self._values[0][0]
        return [value for values in self._values for value in values]

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, at most ``timeout`` seconds."""
        self._processes.wait(self.ready, self._awaited, countdown(timeout))

    def _awaited(self) -> list[CallChunk]:
        """One chunk in flight: all of them are needed."""
        return [next((chunk for chunk in self._chunks if chunk.ref is not None), chunk) for chunk in self._chunks[:1]]

    def get(self, timeout: float | None = None) -> Any:
        """The result, or the exception of the first call that failed; TimeoutError after ``timeout`` seconds."""
        self.wait(timeout)
        if not self._done:
            raise TimeoutError
        if self._failures:
            raise self._error()
        return self._value()

    def ready(self) -> bool:
        """Whether the result is there, and its callback has returned."""
        return self._done

    def successful(self) -> bool:
        """Whether no call raised; ValueError before the result is there."""
        if not self._done:
            raise ValueError(f"{self!r} not ready")
        return not self._failures


class IMapIterator:
    """The results of ``imap``.  An exception of a call is an item; the iteration goes on.

    What has a length is submitted at once.  Of an iterator, so many chunks are taken ahead of their use as keep the
    processes busy; the thread that asks for results takes them.
    """

    def __init__(self, processes: PoolProcesses, function: Any, items: Iterable[Any], chunksize: int):
        self._processes = processes
        self._pace = Pace(function)
        self._items: Iterator[Any] = iter(items)
        self._chunksize = chunksize
        self._has_length = hasattr(items, "__len__")
        self._exhausted = False
        self._broken: BaseException | None = None  # raised by the iterator of the items
        self._drawn = 0
        self._unfinished: dict[int, CallChunk] = {}
        self._waiting = 0  # chunks with results that were not taken
        self.draw()

    def draw(self, all_of_them: bool = False) -> None:
        """Submit as many chunks as may be ahead, or all that are left."""
        ahead = (SHORT_DRAWN_AHEAD if self._pace.is_short else DRAWN_AHEAD) * len(self._processes)
        chunks: list[CallChunk] = []
        while not self._exhausted and (all_of_them or self._has_length
                                       or len(self._unfinished) + self._waiting + len(chunks) < ahead):
            try:
                calls = list(islice(self._items, self._chunksize))
            except Exception as error:
                self._broken = error
                calls = []
            if not calls:
                self._exhausted = True
                self._items = iter(())
                break
            chunks.append(CallChunk(self._pace, calls, "map", self._taker(self._drawn)))
            self._drawn += 1
        with self._processes.changed:
            for number, chunk in enumerate(chunks, self._drawn - len(chunks)):
                self._unfinished[number] = chunk
            if chunks:
                self._processes.submit(chunks)

    def _taker(self, number: int) -> Callable[..., None]:
        def take(results: list[Any], failed: Iterable[int], error: BaseException | None) -> None:
            chunk = self._unfinished.pop(number)
            items = [value.exception() if isinstance(value, CallFailure) else value for value in results]
            if error is not None:
                items = [error] * len(chunk.calls)
            self._waiting += 1
            self._arrived(number, items)

        return take

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result; StopIteration after the last, TimeoutError after ``timeout`` seconds."""
        if not self._exhausted and not self._processes.is_terminated:
            self.draw()
        if not self._processes.wait(self._has_next_or_ends, self._awaited, countdown(timeout)):
            raise TimeoutError
        with self._processes.changed:
            if self._has_next():
                return self._pop()
        if self._broken is not None:
            error, self._broken = self._broken, None
            raise error
        raise StopIteration

    def _has_next_or_ends(self) -> bool:
        return self._has_next() or not self._unfinished

    def _arrived(self, number: int, items: list[Any]) -> None:
        raise NotImplementedError

    def _has_next(self) -> bool:
        raise NotImplementedError

    def _awaited(self) -> Iterable[CallChunk]:
        raise NotImplementedError

    def _pop(self) -> Any:
        raise NotImplementedError


class OrderedIMapIterator(IMapIterator):
    """Results in the order of the items."""

    def __init__(self, *args: Any):
        self._results: dict[int, deque[Any]] = {}  # chunk number -> results
        self._number = 0
        super().__init__(*args)

    def _arrived(self, number: int, items: list[Any]) -> None:
        self._results[number] = deque(items)

    def _has_next(self) -> bool:
        return self._number in self._results

    def _awaited(self) -> Iterable[CallChunk]:
        return [self._unfinished[self._number]] if self._number in self._unfinished else []

    def _pop(self) -> Any:
        results = self._results[self._number]
        value = results.popleft()
        if not results:
            del self._results[self._number]
            self._number += 1
            self._waiting -= 1
        return value


class UnorderedIMapIterator(IMapIterator):
    """Results as they get ready."""

    def __init__(self, *args: Any):
        self._results: deque[deque[Any]] = deque()
        super().__init__(*args)

    def _arrived(self, number: int, items: list[Any]) -> None:
        self._results.append(deque(items))

    def _has_next(self) -> bool:
        return bool(self._results)

    def _awaited(self) -> Iterable[CallChunk]:
        return self._unfinished.values()

    def _pop(self) -> Any:
        results = self._results[0]
        value = results.popleft()
        if not results:
            self._results.popleft()
            self._waiting -= 1
        return value
