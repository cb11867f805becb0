"""A fixed set of actors with a queue of work in front of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from zray.api import get, wait
from zray.errors import GetTimeoutError
from zray.refs import ObjectRef

__all__ = ["ActorPool"]

V = TypeVar("V")


class ActorPool:
    """Spread calls over actors: ``pool.map(lambda actor, x: actor.f.remote(x), xs)``.

    ``fn(actor, value)`` returns an ObjectRef.  Results come in the order of submission (``get_next``, ``map``) or as
    they get ready (``get_next_unordered``, ``map_unordered``); mixing both kinds skips what was taken unordered.
    """

    def __init__(self, actors: Iterable[Any]):
        self._idle: deque[Any] = deque(actors)
        self._busy: dict[ObjectRef, tuple[int, Any]] = {}  # running call -> (its number, its actor)
        self._by_number: dict[int, ObjectRef] = {}  # calls whose results nobody has taken
        self._waiting: deque[tuple[Callable[[Any, Any], ObjectRef], Any]] = deque()
        self._submitted = 0
        self._next = 0

    def submit(self, fn: Callable[[Any, V], ObjectRef], value: V) -> None:
        """Call now when an actor is idle, else when one becomes idle."""
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.popleft()
        ref = fn(actor, value)
        self._busy[ref] = (self._submitted, actor)
        self._by_number[self._submitted] = ref
        self._submitted += 1

    def map(self, fn: Callable[[Any, V], ObjectRef], values: Iterable[V]) -> Iterator[Any]:
        """Results in order.  Submits everything first."""
        return self._map(fn, values, self.get_next)

    def map_unordered(self, fn: Callable[[Any, V], ObjectRef], values: Iterable[V]) -> Iterator[Any]:
        """Results as they get ready.  Submits everything first."""
        return self._map(fn, values, self.get_next_unordered)

    def _map(self, fn: Callable[[Any, V], ObjectRef], values: Iterable[V], take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():  # leftovers of earlier calls are not results of this one
            self.get_next_unordered(ignore_if_timedout=False, _quiet=True)
        for value in values:
            self.submit(fn, value)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield take()

        return results()

    def has_next(self) -> bool:
        """Whether a result is left to take."""
        return bool(self._by_number) or bool(self._waiting)

    def has_free(self) -> bool:
        """Whether an actor is idle and nothing waits for one."""
        return bool(self._idle) and not self._waiting

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in order of submission; StopIteration when there is none, TimeoutError when time is up."""
        if not self.has_next():
            raise StopIteration("No more results to get")
        while self._next not in self._by_number:
            if self._next >= self._submitted:
                raise ValueError("get_next() after get_next_unordered() has no next result in order")
            self._next += 1  # taken unordered
        return self._take(self._by_number[self._next], timeout, ignore_if_timedout)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False,
                           _quiet: bool = False) -> Any:
        """The next result to get ready; StopIteration when there is none, TimeoutError when time is up."""
        if not self.has_next():
            raise StopIteration("No more results to get")
        ready, _ = wait(list(self._by_number.values()), num_returns=1, timeout=timeout)
        if not ready:
            if ignore_if_timedout:
                return None
            raise TimeoutError("Timed out waiting for result")
        if _quiet:
            self._release(ready[0])
            return None
        return self._take(ready[0], None, ignore_if_timedout)

    def _take(self, ref: ObjectRef, timeout: float | None, ignore_if_timedout: bool) -> Any:
        """The result of ``ref``; its actor goes on with what waits, also when the call raised."""
        if timeout is not None and not wait([ref], num_returns=1, timeout=timeout)[0]:
            if ignore_if_timedout:
                return None
            raise TimeoutError("Timed out waiting for result")
        self._release(ref)
        try:
            return get(ref)
        except GetTimeoutError as error:
            raise TimeoutError("Timed out waiting for result") from error

    def _release(self, ref: ObjectRef) -> None:
        number, actor = self._busy.pop(ref)
        del self._by_number[number]
        self._return(actor)

    def _return(self, actor: Any) -> None:
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.popleft())

    def push(self, actor: Any) -> None:
        """Add an actor; ValueError when it is in the pool already."""
        if actor in self._idle or any(actor == busy for _, busy in self._busy.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._return(actor)

    def pop_idle(self) -> Any:
        """Take an idle actor out of the pool; None when all are busy."""
        return self._idle.popleft() if self.has_free() else None
