"""Decides when a blocked read warns: once, in one line, when nothing makes progress and time alone will not help.

A wait is examined every half of ``warn_wait_s``.  The warning comes when there was no progress for ``warn_wait_s`` and
the cause is more than a running task.  Waits of one kind (the same root: zray.core.waits.explaining.kind) make one
warning in REPEAT_S, for a driver and all its workers.  A worker's warning goes to its log with a mark, and the driver
merges the warnings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from zray.core.waits.explaining import Asking, Reasons, is_healthy, kind, progress
from zray.core.waits.headlines import headline, joined

logger = logging.getLogger("zray")

REPEAT_S = 60.0
MARK = "\x01zray-waits:"  # MARK kind SEPARATOR text, in one line of a worker's log
SEPARATOR = "\x1f"
LINE = "\x1e"  # replaces a line end in the text
KINDS_MAX = 1000


class Patience:
    """One wait, while it lasts."""

    __slots__ = ("looked", "moved_at", "next_at", "said", "step", "warn_s")

    def __init__(self, warn_s: float, started: float):
        self.warn_s = warn_s
        self.step = warn_s / 2
        self.said = warn_s <= 0  # 0 or less: no warning
        self.moved_at = started
        self.next_at = started + self.step
        self.looked: Any = None

    def until(self, deadline: float | None) -> float | None:
        """The time of the next :meth:`look`, or the deadline."""
        if self.said:
            return deadline
        return self.next_at if deadline is None else min(deadline, self.next_at)

    def look(self, now: float, need: int, reasons: Reasons, asking: Asking) -> bool:
        """Whether to warn now: ``need`` objects are still missing, for these reasons."""
        self.next_at = now + self.step
        asking.follow(reasons.found)
        seen = need, reasons.more, progress(reasons.found)
        if self.looked is not None and seen != self.looked:
            self.moved_at = now
        self.looked = seen
        self.said = now - self.moved_at >= 0.95 * self.warn_s and not is_healthy(reasons.found)
        return self.said


class Warned:
    """The latest warnings, by kind of wait."""

    def __init__(self, is_worker: bool):
        self.is_worker = is_worker
        self._said: dict[str, tuple[float, int]] = {}  # kind -> time of the warning, and repeats since

    def wait(self, waited_s: float, reasons: Reasons, more: str = "") -> None:
        """Warn of a wait."""
        self.say(kind(reasons.found), joined(f"zray.get has waited for {waited_s:.0f} s for {headline(reasons)}", more))

    def say(self, what: str, text: str, log: Callable[[int, str], None] | None = None) -> None:
        """Warn, unless there was a warning of this kind within REPEAT_S."""
        now = time.monotonic()
        at, repeats = self._said.get(what, (-REPEAT_S, 0))
        if now - at < REPEAT_S:
            self._said[what] = at, repeats + 1
            return
        self._said.pop(what, None)
        self._said[what] = now, 0
        while len(self._said) > KINDS_MAX:
            del self._said[next(iter(self._said))]
        if repeats:
            text += f" ({repeats} more waits like this in the last {now - at:.0f} s)"
        if self.is_worker:
            text = f"{MARK}{what}{SEPARATOR}{text}".replace("\n", LINE)
        if log is None:
            logger.warning("%s", text)
        else:
            log(logging.WARNING, text)

    def forget(self) -> None:
        """Allow all warnings again."""
        self._said.clear()

    def take(self, lines: list[Any], log: Callable[[int, str], None] | None = None) -> list[Any]:
        """Lines of worker output without the warnings of waits; new warnings among these go to ``log``."""
        kept = []
        for line in lines:
            name, pid, _, text = line
            _, mark, rest = text.partition(MARK)
            if not mark:
                kept.append(line)
                continue
            what, _, words = rest.partition(SEPARATOR)
            self.say(what, f"({name or 'worker'} pid={pid}) {words.replace(LINE, chr(10))}", log)
        return kept
