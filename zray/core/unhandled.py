"""Shows failures that nobody has looked at, once: in the driver at once, from a worker through its output.

A failure is shown when it is reported.  Then WINDOW_S begins, in which repeats are counted: the same text, and more
than a few texts of one place in the user's code.  Of all places together TEXTS_MAX are shown in that time, and the rest
is counted too.  Off with ``ZRAY_IGNORE_UNHANDLED_ERRORS=1``.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.core.futures import log_guarded
from zray.errors import failure_text

if TYPE_CHECKING:
    from zray.core.runtime import Runtime

WINDOW_S = 5.0
TEXTS_MAX = 20
PLACE_TEXTS_MAX = 3
ACTOR_GRACE_S = 1.0  # an actor's failed constructor is shown when no call has brought it to somebody for so long
NAMES = ("ZRAY_IGNORE_UNHANDLED_ERRORS", "RAY_IGNORE_UNHANDLED_ERRORS")


class Place:
    """What failures of one place in the user's code have come to in this window."""

    __slots__ = ("last", "repeats", "texts")

    def __init__(self) -> None:
        self.texts: set[Any] = set()
        self.repeats = 0
        self.last = ""


class Reporter:
    """The failures that one Runtime shows.  Under the lock, but for the logging, which may run the user's handlers."""

    def __init__(self, runtime: Runtime):
        self.rt = runtime
        self._places: dict[Any, Place] = {}  # of this window
        self._shown = 0
        self._rest = 0

    def pump(self, show: Callable[[str], None] | None = None) -> None:
        """Show what was reported; on the thread of futures unless the caller shows it."""
        show = show or self._later
        failures = self.rt.refs.unhandled.take()
        if any(os.environ.get(name, "") not in ("", "0", "false") for name in NAMES):
            return
        if failures and not self._places:
            self.rt.loop.call_at(time.monotonic() + WINDOW_S, self._window_over)
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
            show(f"Unhandled error (suppress with {NAMES[0]}=1): {text}")

    def actor_failed(self, actor: bytes, failure: list[Any]) -> None:
        unhandled = self.rt.refs.unhandled
        unhandled.actor_failed(actor, failure)

        def due() -> None:
            unhandled.actor_due(actor)
            if unhandled.reports:
                self.pump()

        self.rt.loop.call_at(time.monotonic() + ACTOR_GRACE_S, due)

    def end(self) -> None:
        """The session ends.  Not under the lock."""
        texts: list[str] = []
        with self.rt.loop.lock:
            self.rt.empty_dropped()
            self.rt.refs.unhandled.end()
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
        self.rt.futures.log(logging.ERROR, text)
