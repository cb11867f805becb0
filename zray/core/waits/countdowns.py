"""Waiting in get and wait: countdowns over records, and groups that last from one ``wait`` to the next.

A WaitGroup registers once at its objects.  ``wait`` passes it on inside the list of references that are not ready.
So taking n references one by one costs O(1) a completion, not O(n).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from zray.handles.refs import ObjectRef, dropped
from zray.owner.records import Abandoned
from zray.transport.loop import Waiter


class Countdown(Waiter):
    """Done after ``need`` calls; it is itself the waiter at each record."""

    __slots__ = ("loop",)

    def __init__(self, loop: Any, need: int):
        super().__init__(need)
        self.loop = loop

    def __call__(self, record: Any) -> None:
        self.loop.notify_one(self)

    def expect(self, need: int) -> None:
        """Set another number, before it waits at any record."""
        self.need = need
        self.done = need <= 0


class TakenBackOnError:
    """Removes a countdown from the waiters of all ``places`` after an error (a time-out, Ctrl-C).

    Enter it before the countdown is added to the first place: Ctrl-C may come between any two steps.
    """

    __slots__ = ("count", "places", "refs")

    def __init__(self, refs: Any, places: Iterable[Any], count: Countdown):
        self.refs = refs
        self.places = places
        self.count = count

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with self.count.loop.lock:
                for place in self.places:
                    self.refs.forget_waiter(place, self.count)


class Arrivals:
    """The waiter of a WaitGroup at its records: collects those that become ready, and wakes a blocked ``wait``."""

    __slots__ = ("ready", "waiter")

    def __init__(self) -> None:
        self.ready: deque[bytes] = deque()
        self.waiter: Countdown | None = None

    def __call__(self, record: Any) -> None:
        self.ready.append(record.oid)
        if self.waiter is not None:
            self.waiter(record)


class WaitGroup:
    """References that user code takes one by one with ``wait``; ``pending`` keeps their order."""

    __slots__ = ("pending", "arrivals", "__weakref__")

    def __init__(self, refs: Iterable[ObjectRef]):
        self.pending = {ref._oid: ref for ref in refs}
        self.arrivals = Arrivals()

    def __del__(self) -> None:
        if self.pending:
            dropped.append(Abandoned(self.arrivals, [ref._record for ref in self.pending.values()]))
