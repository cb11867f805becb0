"""Shows unhandled failures once: in the driver directly, of a worker through its output.

A failure is shown when it is reported.  Then a window of WINDOW_S begins, in which repeats are only counted.  A
repeat is the same text, or one more text of a place in the user's code than PLACE_TEXTS_MAX.  In a window at most
TEXTS_MAX texts are shown, and the others are counted too.  ``ZRAY_IGNORE_UNHANDLED_ERRORS=1`` switches this off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from zray.base.errors import failure_text
from zray.core.machine import CoreMachine
from zray.core.turns import Turns
from zray.core.waits.futures import Futures, log_guarded
from zray.transport.loop import Loop

WINDOW_S = 5.0
TEXTS_MAX = 20
PLACE_TEXTS_MAX = 3
ACTOR_GRACE_S = 1.0  # the failure of an actor's constructor is shown when no call has raised it for so long
SWITCHES = ("ZRAY_IGNORE_UNHANDLED_ERRORS", "RAY_IGNORE_UNHANDLED_ERRORS")


class Place:
    """The failures of one place in the user's code in this window."""

    __slots__ = ("last", "repeats", "texts")

    def __init__(self) -> None:
        self.texts: set[Any] = set()
        self.repeats = 0
        self.last = ""


class Reporter:
    """The failures that one Runtime shows.  Under the lock, except the logging, which may run the user's handlers."""

    def __init__(self, machine: CoreMachine, loop: Loop, turns: Turns, futures: Futures):
        self._machine = machine
        self._unhandled = machine.refs.unhandled
        self._loop = loop
        self._turns = turns
        self._futures = futures
        self._places: dict[Any, Place] = {}  # of this window
        self._shown = 0
        self._rest = 0

    def pump(self, show: Callable[[str], None] | None = None) -> None:
        """Show the reported failures with ``show``, or on the thread of futures."""
        show = show or self._later
        failures = self._unhandled.take()
        if any(os.environ.get(name, "") not in ("", "0", "false") for name in SWITCHES):
            return
        if failures and not self._places:
            self._turns.later(WINDOW_S, self._window_over)
        for failure in failures:
            where, what, text = failure_text(failure[1], failure[2])
            place = self._places.get(where)
            if place is None and self._shown >= TEXTS_MAX:
                self._rest += 1
                continue
            if place is None:
                place = self._places[where] = Place()
            if what in place.texts or len(place.texts) >= PLACE_TEXTS_MAX or self._shown >= TEXTS_MAX:
                place.repeats += 1
                place.last = text.rstrip().rpartition("\n")[2].strip()
                continue
            place.texts.add(what)
            self._shown += 1
            show(f"Unhandled error (suppress with {SWITCHES[0]}=1): {text}")

    def actor_failed(self, actor: bytes, failure: list[Any]) -> None:
        unhandled = self._unhandled
        unhandled.actor_failed(actor, failure)

        def due() -> None:
            unhandled.actor_due(actor)
            if unhandled.reports:
                self.pump()

        self._turns.later(ACTOR_GRACE_S, due)

    def end(self) -> None:
        """The session ends: show everything that is left.  Not under the lock."""
        texts: list[str] = []
        with self._loop.lock:
            self._machine.empty_dropped()
            self._unhandled.end()
            self.pump(texts.append)
            self._window_over(texts.append)
        for text in texts:
            log_guarded(logging.ERROR, text)

    def _window_over(self, show: Callable[[str], None] | None = None) -> None:
        show = show or self._later
        for place in self._places.values():
            if place.repeats:
                show(f"Unhandled error, {place.repeats} more of its kind, the last: {place.last}")
        if self._rest:
            show(f"{self._rest} more unhandled errors, not shown")
        self._places.clear()
        self._shown = self._rest = 0

    def _later(self, text: str) -> None:
        self._futures.log(logging.ERROR, text)
