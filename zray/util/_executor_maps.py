"""One ``Executor.map`` where the cluster's CPUs are the only limit: parts of it are submitted as ``f.starmap``.

Every item is a task of its own, with its own result, error and retries.  A part has about as many items as run in
PART_S, so that what has not started can still be dropped:

    item:  waiting --> in a part, submitted --> ended --> taken by the iterator
              |
              +--> dropped: the iterator ended, or the executor was shut down (CancelledError) or broke

The executor's lock guards all of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from zray.base.errors import GetTimeoutError
from zray.core.waits.callbacks import when_done
from zray.handles.refs import MapRefs, ObjectRef

if TYPE_CHECKING:
    from zray.util.executor import Executor

__all__ = ["ExecutorMap"]

# A part runs for about this, in seconds.  f.map sends its last items in small messages, so a part of 0.02 s costs three
# times as much an item as one of 0.1 s.  A user that cancels the rest waits for no more than the parts ahead.
PART_S = 0.1
PARTS_AHEAD = 2
PART_ITEMS_MAX = 16_384
# A part has at most so many times the items of the one before.
GROWTH = 4


class _Part:
    """Items that were submitted together."""

    __slots__ = ("ended", "refs", "values")

    def __init__(self, refs: Any):
        self.refs = refs  # MapRefs; a list where a task needs a submission of its own
        self.ended = False
        self.values: list[Any] | None = None  # once it has ended, if no item failed


class ExecutorMap:
    """The items of a map, and the parts of it that the iterator has not taken."""

    def __init__(self, executor: Executor, calls: list[tuple]):
        self._executor = executor
        self._calls = calls
        self._started = 0  # items
        self._size = executor._in_flight_max
        self._parts: deque[_Part] = deque()
        self._in_flight: set[_Part] = set()
        self._last_end = time.monotonic()
        self._why: BaseException | None = None  # for the items that were dropped

    @property
    def is_done(self) -> bool:
        """Whether every item has ended or was dropped."""
        return not self._in_flight and (self._why is not None or self._started == len(self._calls))

    def refs(self) -> list[ObjectRef]:
        """References of what runs."""
        return [ref for part in list(self._in_flight) for ref in part.refs]

    def drop(self, why: BaseException) -> None:
        """Start nothing more: items that have not started raise ``why``."""
        self._why = self._why or why
        if not self._in_flight:
            self._executor._map_is_done(self)

    def start_more(self) -> None:
        """Submit parts while there is room (under the lock)."""
        while self._why is None and self._started < len(self._calls) and len(self._in_flight) < PARTS_AHEAD:
            calls = self._calls[self._started:self._started + self._size]
            try:
                part = _Part(self._executor._task.starmap(calls))
            except Exception as error:  # the session is over
                self.drop(error)
                return
            self._calls[self._started:self._started + len(calls)] = [()] * len(calls)  # the arguments may be large
            self._started += len(calls)
            self._parts.append(part)
            self._in_flight.add(part)
            self._watch(part)

    def _watch(self, part: _Part) -> None:
        if isinstance(part.refs, MapRefs):
            when_done(self._executor._runtime.map_future(part.refs), lambda _: self._ended(part))
            return
        left = [len(part.refs)]

        def one_ended(_: Any) -> None:
            with self._executor._lock:
                left[0] -= 1
            if not left[0]:
                self._ended(part)

        for ref in part.refs:
            when_done(ref.future(), one_ended)

    def _ended(self, part: _Part) -> None:
        executor = self._executor
        with executor._lock:
            now = time.monotonic()
            fitting = len(part.refs) * PART_S / max(now - self._last_end, 1e-6)
            self._last_end = now
            self._size = max(executor._in_flight_max, min(int(fitting), self._size * GROWTH, PART_ITEMS_MAX))
            part.ended = True
            self._in_flight.discard(part)
            executor._is_session_over()
            self.start_more()
            if self.is_done:
                executor._map_is_done(self)
            executor._idle.notify_all()

    # ---------------------------------------------------------------- the iterator

    def results(self, timeout: float | None) -> Iterator[Any]:
        """The results in order; an exception is raised at its place, and ends the iteration."""
        end = None if timeout is None else time.monotonic() + timeout
        return self._results(end)

    def _results(self, end: float | None) -> Iterator[Any]:
        try:
            while (part := self._next_part(end)) is not None:
                for index in range(len(part.refs)):
                    yield self._value(part, index, end)
        finally:
            with self._executor._lock:
                self.drop(CancelledError())

    def _next_part(self, end: float | None) -> _Part | None:
        """Those before it have all been taken: it starts in a moment, if it has not."""
        with self._executor._lock:
            while not self._parts:
                if self._why is not None and self._started < len(self._calls):
                    raise self._why
                if self._started == len(self._calls):
                    return None
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._executor._idle.wait(left)
            return self._parts.popleft()

    def _value(self, part: _Part, index: int, end: float | None) -> Any:
        if part.values is not None:
            return part.values[index]
        runtime = self._executor._runtime
        try:
            if isinstance(part.refs, MapRefs) and part.refs.done() == len(part.refs):
                try:
                    part.values = runtime.get_map(part.refs, None)
                    return part.values[index]
                except Exception:  # one item failed: each shows its own result
                    part.refs = list(part.refs)
            return runtime.get_one(part.refs[index], None if end is None else max(0.0, end - time.monotonic()))
        except GetTimeoutError:
            raise TimeoutError from None
        except Exception as error:
            shown = self._executor._shown(error)
        raise shown from shown.__cause__
