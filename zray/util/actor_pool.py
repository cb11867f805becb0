"""A fixed set of actors with a queue of work in front of it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from zray.api.calls import get, wait
from zray.base.errors import ActorDiedError, RayError, RayTaskError
from zray.handles.connection import connected
from zray.handles.refs import ObjectRef

__all__ = ["ActorPool"]

V = TypeVar("V")


class ActorPool:
    """Spread calls over actors: ``pool.map(lambda actor, x: actor.f.remote(x), xs)``.

    ``fn(actor, value)`` returns an ObjectRef.  Results come in the order of submission (``get_next``, ``map``) or as
    they get ready (``get_next_unordered``, ``map_unordered``); mixing both kinds skips results taken unordered.

    An actor that has died leaves the pool: its running call raises, and the others take over the
    waiting values. When the last one has died, each value that still waits raises that
    ActorDiedError when its result is taken, until :meth:`push` adds an actor.
    """

    def __init__(self, actors: Iterable[Any]):
        self._idle: deque[Any] = deque(actors)
        self._busy: dict[ObjectRef, tuple[int, Any]] = {}  # running call -> (its number, its actor)
        self._by_number: dict[int, ObjectRef] = {}  # calls whose results were not taken yet
        self._waiting: deque[tuple[Callable[[Any, Any], ObjectRef], Any]] = deque()
        self._submitted = 0
        self._next = 0
        self._died: RayError | None = None  # the end of the actor that left the pool last

    def submit(self, fn: Callable[[Any, V], ObjectRef], value: V) -> None:
        """Call now when an actor is idle, else when one becomes idle."""
        self._waiting.append((fn, value))
        self._start()

    def _start(self) -> None:
        """Give the value that has waited longest to a live, idle actor."""
        while self._idle and self._waiting:
            actor = self._idle.popleft()
            death = connected().death_of(actor._actor)
            if death is None:
                break
            self._died = death
        else:
            return
        fn, value = self._waiting.popleft()
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
            with contextlib.suppress(Exception):
                self.get_next_unordered()
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
        """Whether an actor is idle and no value waits for one."""
        return bool(self._idle) and not self._waiting

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in order of submission; StopIteration when there is none, TimeoutError when time is up.

        With ``ignore_if_timedout`` a result that is late is given up: the next call is for the one after it.
        """
        self._check_next()
        while self._next not in self._by_number:
            if self._next >= self._submitted:
                raise ValueError("get_next() after get_next_unordered() has no next result in order")
            self._next += 1  # taken unordered
        return self._take(self._by_number[self._next], timeout, ignore_if_timedout)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result to get ready; StopIteration when there is none, TimeoutError when time is up.

        With ``ignore_if_timedout`` the oldest result is then given up.
        """
        self._check_next()
        ready, _ = wait(list(self._by_number.values()), num_returns=1, timeout=timeout)
        if not ready:
            raise self._timed_out(next(iter(self._by_number.values())), ignore_if_timedout)
        return self._take(ready[0], None, ignore_if_timedout)

    def _take(self, ref: ObjectRef, timeout: float | None, ignore_if_timedout: bool) -> Any:
        """The result of ``ref``; its actor continues with waiting values, also when the call raised."""
        if timeout is not None and not wait([ref], num_returns=1, timeout=timeout)[0]:
            raise self._timed_out(ref, ignore_if_timedout)
        try:
            value = get(ref)
        except Exception as error:
            self._ended(ref, error)
            raise
        self._ended(ref, None)
        return value

    def _timed_out(self, ref: ObjectRef, give_up: bool) -> TimeoutError:
        if not give_up:
            return TimeoutError("Timed out waiting for result")
        self._ended(ref, None)  # the actor's next call waits behind this one
        return TimeoutError(f"Timed out waiting for result. The task {ref} has been ignored.")

    def _check_next(self) -> None:
        if self._by_number:
            return
        if not self._waiting:
            raise StopIteration("No more results to get")
        if self._died is None:
            raise ValueError("The pool has no actors: push() one.")
        self._waiting.popleft()
        raise self._died

    def _ended(self, ref: ObjectRef, error: Exception | None) -> None:
        """A call has ended; its actor lives or has died."""
        number, actor = self._busy.pop(ref)
        del self._by_number[number]
        if isinstance(error, ActorDiedError) and _is_end_of(error, actor):
            self._died = error
        else:
            self._idle.append(actor)
        self._start()

    def push(self, actor: Any) -> None:
        """Add an actor; ValueError when it is in the pool already."""
        if actor in self._idle or any(actor == busy for _, busy in self._busy.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._idle.append(actor)
        self._start()

    def pop_idle(self) -> Any:
        """Take an idle actor out of the pool; None when all are busy."""
        return self._idle.popleft() if self.has_free() else None


def _is_end_of(error: ActorDiedError, actor: Any) -> bool:
    """Whether an error reports this actor's end, and not that of another actor that it called."""
    return not isinstance(error, RayTaskError) and error.actor_id in (None, actor._actor_id.hex())
