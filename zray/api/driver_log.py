"""Worker output on the driver: ``(f pid=123) text``, repeats of other processes folded, no line lost.

Output of another node names it: ``(f pid=123, ip=10.0.0.2) text``.

The rule of folding: a line that another process printed within FOLD_S, character for character, is counted and not
shown.  Its count is shown after FOLD_S, or when a test, a cell or the session ends.  A process's own repeats and blank
lines are never folded.  Ray leaves words with digits out of the comparison, which hides lines that differ.

A line without an end (a progress bar, ``print(..., end="", flush=True)``) is shown as far as it
goes, at the end of the output.  There is space for one: another line ends it, and it is shown again
when more of it comes.  Several workers with progress bars take turns of SWITCH_S, and the last
state of each is an ordinary line.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from zray.base.named_tuples import NamedTuple

BAR_MARK = "__zray_progress__:"  # a line with the state of a bar of zray.api.progress_bars
FOLD = os.environ.get("ZRAY_DEDUP_LOGS", os.environ.get("RAY_DEDUP_LOGS", "1")) not in ("0", "false")
FOLD_S = 5.0  # Ray's number
FOLDED_MAX = 1000  # texts that are compared at a time; the oldest gives way
HINT = "; ZRAY_DEDUP_LOGS=0 shows each"  # with the first count
SWITCH_S = 1.0  # ten bars that took turns at every step would be a hundred lines a second

Piece = tuple[bool, str]  # whether it goes to stderr, and the text
Source = tuple[str, int, bool]  # ip, pid, is_stderr: a source has at most one line without an end


class Repeated(NamedTuple):
    """A line that was shown, and its repeats by other processes."""

    source: Source
    since: float
    times: int = 0
    label: str = ""  # of the last one


class Screen:
    """The end of the driver's output: the unfinished line there, and the lines that wait for the place.

    ``later(seconds, action)`` calls the action once, where :meth:`show` is called.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic,
                 later: Callable[[float, Callable[[], None]], Any] | None = None, fold: bool = FOLD):
        self._clock = clock
        self._later = later
        self._fold = fold
        self._open: Source | None = None
        self._shown = ""
        self._is_bar = False  # the open line has changed since it was opened: a progress bar
        self._since = 0.0
        self._waiting: dict[Source, str] = {}
        self._unended: dict[Source, str] = {}  # the line without an end of each source, as it was last
        self._repeated: dict[tuple[bool, str], Repeated] = {}  # oldest first
        self._is_timed = False
        self._hint = HINT

    def show(self, message: Any) -> None:
        """Print a LogLines message; a closed or broken stdout is left to the user."""
        bars = [line[3] for line in message.lines if line[3].startswith(BAR_MARK)]
        lines = [line for line in message.lines if not line[3].startswith(BAR_MARK)] if bars else message.lines
        self._print(self.render(lines, message.dropped, message.unfinished, ip=message.ip), bars)
        if self._repeated and not self._is_timed and self._later is not None:
            self._is_timed = True
            self._later(FOLD_S, self._fold_over)

    def _print(self, pieces: list[Piece], bars: list[str]) -> None:
        progress_bars = sys.modules.get("zray.api.progress_bars")
        manager = progress_bars.instance() if progress_bars is not None and pieces else None
        if manager is not None:
            manager.hide_bars()
        for is_stderr, text in _joined(pieces):
            stream = sys.stderr if is_stderr else sys.stdout
            if stream is not None:
                try:
                    stream.write(text)
                    stream.flush()
                except (OSError, ValueError):
                    continue
        if bars:
            _move(bars)
        if manager is not None:
            manager.unhide_bars()

    def _fold_over(self) -> None:
        self._is_timed = False
        self._print(self.counts(), [])
        if self._repeated and self._later is not None:
            self._is_timed = True
            first = next(iter(self._repeated.values()))
            self._later(max(0.0, first.since + FOLD_S - self._clock()), self._fold_over)

    def end(self) -> None:
        """A test, a cell or the session has ended: show all counts."""
        self._print(self.counts(at_once=True), [])

    def counts(self, at_once: bool = False) -> list[Piece]:
        """The counts of repeats that are due."""
        pieces: list[Piece] = []
        over = self._clock() - FOLD_S
        while self._repeated:
            key = next(iter(self._repeated))
            if not at_once and self._repeated[key].since > over and len(self._repeated) <= FOLDED_MAX:
                break
            self._count(pieces, key)
        return pieces

    def _count(self, pieces: list[Piece], key: tuple[bool, str]) -> None:
        repeated = self._repeated.pop(key)
        if repeated.times:
            self._end(pieces)
            note = f"[repeated {repeated.times}x across processes{self._hint}]"
            pieces.append((key[0], f"{repeated.label}{key[1]} {note}\n"))
            self._hint = ""

    def render(self, lines: list[Any], dropped: int = 0, unfinished: list[Any] | None = None, *, ip: str = ""
               ) -> list[Piece]:
        """The pieces to print, in order."""
        pieces = self.counts()
        for name, pid, is_stderr, text in lines:
            source = ip, pid, bool(is_stderr)
            label = _label(name, pid, ip)
            self._waiting.pop(source, None)
            self._unended.pop(source, None)
            if self._is_repeated(source, text, label):
                if self._open == source:
                    self._end(pieces)
                continue
            self._line(pieces, source, f"{label}{text}")
        if dropped:
            self._end(pieces)
            pieces.append((True, f"({dropped} lines of worker output were dropped; they are in the session's logs)\n"))
        for name, pid, is_stderr, text in unfinished or ():
            self._unfinished(pieces, (ip, pid, bool(is_stderr)), f"{_label(name, pid, ip)}{text}")
        if self._waiting and not self._is_taken():
            source = next(iter(self._waiting))
            self._unfinished(pieces, source, self._waiting[source])
        return pieces

    def _is_repeated(self, source: Source, text: str, label: str) -> bool:
        """Whether the line is counted and not shown."""
        if not self._fold or not text.strip():
            return False
        key = source[2], text
        known = self._repeated.get(key)
        if known is None:
            self._repeated[key] = Repeated(source, self._clock())
            return False
        if known.source == source:
            return False
        self._repeated[key] = known._replace(times=known.times + 1, label=label)
        return True

    def _line(self, pieces: list[Piece], source: Source, text: str) -> None:
        if self._open == source:
            pieces.append((source[2], self._over(text)))
        else:
            self._end(pieces)
            pieces.append((source[2], text))
        self._open = None
        pieces.append((source[2], "\n"))

    def _unfinished(self, pieces: list[Piece], source: Source, text: str) -> None:
        before = self._unended.get(source, text)
        self._unended[source] = text
        if self._open == source:
            if text != self._shown:
                pieces.append((source[2], self._over_open(text)))
                self._is_bar = True
        elif self._is_taken():
            self._waiting[source] = text
            return
        else:
            self._end(pieces)
            pieces.append((source[2], text))
            self._open, self._is_bar, self._since = source, before != text, self._clock()
            self._waiting.pop(source, None)
        self._shown = text

    def _is_taken(self) -> bool:
        return self._open is not None and self._is_bar and self._clock() < self._since + SWITCH_S

    def _over(self, text: str) -> str:
        """The text that turns the open line into this one."""
        if text.startswith(self._shown):
            return text[len(self._shown):]
        return f"\r{text}{' ' * (len(self._shown) - len(text))}"

    def _over_open(self, text: str) -> str:
        """The same for a line that may go on: the next character comes right behind it."""
        if len(text) < len(self._shown):
            return f"\r{' ' * len(self._shown)}\r{text}"
        return self._over(text)

    def _end(self, pieces: list[Piece]) -> None:
        if self._open is not None:
            pieces.append((self._open[2], "\n"))
            self._open = None


def _label(name: str, pid: int, ip: str) -> str:
    label = f"{name} pid={pid}" if name else f"pid={pid}"
    return f"({label}, ip={ip}) " if ip else f"({label}) "


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Join neighbours of the same stream into one piece."""
    joined: list[Piece] = []
    for is_stderr, text in pieces:
        if joined and joined[-1][0] == is_stderr:
            text = joined.pop()[1] + text
        joined.append((is_stderr, text))
    return joined


def _move(bars: list[str]) -> None:
    import json

    from zray.api import progress_bars

    for text in bars:
        try:
            progress_bars.instance().move(json.loads(text.removeprefix(BAR_MARK)))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another program's line, or a closed stderr
