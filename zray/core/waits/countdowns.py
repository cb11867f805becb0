"""Waiting in get and wait: countdowns over records, groups that survive from one ``wait`` to the next.

A WaitGroup is registered once at its objects and is handed on inside the list of the not-ready ones, so draining n
references one by one costs O(1) a completion and not O(n).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from zray.owner.records import Abandoned
from zray.handles.refs import ObjectRef, dropped
from zray.transport.loop import Waiter


class Countdown(Waiter):
    """Done when it was called ``need`` times; it is the waiter it leaves at each record."""

    __slots__ = ("loop",)

    def __init__(self, loop: Any, need: int):
        super().__init__(need)
        self.loop = loop

    def __call__(self, record: Any) -> None:
        self.loop.notify_one(self)

    def expect(self, need: int) -> None:
        """Another number, before it was left anywhere."""
        self.need = need
        self.done = need <= 0


class TakenBackOnError:
    """A countdown that is about to be left at ``places``: with an error (a time-out, Ctrl-C) it is taken back from all.

    Enter it before the first is left: Ctrl-C may come between any two steps.
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
    """What a WaitGroup leaves at its records: collects those that became ready, wakes the waiter there is."""

    __slots__ = ("ready", "waiter")

    def __init__(self) -> None:
        self.ready: deque[bytes] = deque()
        self.waiter: Countdown | None = None

    def __call__(self, record: Any) -> None:
        self.ready.append(record.oid)
        if self.waiter is not None:
            self.waiter(record)


class WaitGroup:
    """References that somebody drains with ``wait``; ``pending`` keeps their order."""

    __slots__ = ("pending", "arrivals", "__weakref__")

    def __init__(self, refs: Iterable[ObjectRef]):
        self.pending = {ref._oid: ref for ref in refs}
        self.arrivals = Arrivals()

    def __del__(self) -> None:
        if self.pending:
            dropped.append(Abandoned(self.arrivals, [ref._record for ref in self.pending.values()]))
