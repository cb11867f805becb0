"""Worker output on the driver: ``(f pid=123) text``, exact repeats within a batch folded, no line lost.

Output of another node names it: ``(f pid=123, ip=10.0.0.2) text``.

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

BAR_MARK = "__zray_progress__:"  # a line with the state of a bar of zray.api.progress_bars
FOLD = os.environ.get("ZRAY_DEDUP_LOGS", os.environ.get("RAY_DEDUP_LOGS", "1")) not in ("0", "false")
SWITCH_S = 1.0  # ten bars that took turns at every step would be a hundred lines a second

Piece = tuple[bool, str]  # whether it goes to stderr, and the text
Source = tuple[str, int, bool]  # ip, pid, is_stderr: a source has at most one line without an end


class Screen:
    """The end of the driver's output: the unfinished line there, and the lines that wait for the place."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._open: Source | None = None
        self._shown = ""
        self._is_bar = False  # the open line has changed since it was opened: a progress bar
        self._since = 0.0
        self._waiting: dict[Source, str] = {}

    def show(self, message: Any) -> None:
        """Print a LogLines message; a closed or broken stdout is left to the user."""
        bars = [line[3] for line in message.lines if line[3].startswith(BAR_MARK)]
        lines = [line for line in message.lines if not line[3].startswith(BAR_MARK)] if bars else message.lines
        pieces = _joined(self.render(lines, message.dropped, message.unfinished, ip=message.ip))
        progress_bars = sys.modules.get("zray.api.progress_bars")
        manager = progress_bars.instance() if progress_bars is not None and pieces else None
        if manager is not None:
            manager.hide_bars()
        for is_stderr, text in pieces:
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

    def render(self, lines: list[Any], dropped: int = 0, unfinished: list[Any] | None = None, *, fold: bool = FOLD,
               ip: str = "") -> list[Piece]:
        """The pieces to print, in order."""
        pieces: list[Piece] = []
        repeats: dict[tuple[bool, str], int] = {}
        if fold:
            for _, _, is_stderr, text in lines:
                repeats[bool(is_stderr), text] = repeats.get((bool(is_stderr), text), 0) + 1
        for name, pid, is_stderr, text in lines:
            source = ip, pid, bool(is_stderr)
            self._waiting.pop(source, None)
            count = repeats.get((bool(is_stderr), text), 1)
            if count == 0:  # shown already, with its count
                if self._open == source:
                    self._end(pieces)
                continue
            if fold:
                repeats[bool(is_stderr), text] = 0
            note = f" [repeated {count}x across processes]" if count > 1 else ""
            self._line(pieces, source, f"{_label(name, pid, ip)}{text}{note}")
        if dropped:
            self._end(pieces)
            pieces.append((True, f"({dropped} lines of worker output were dropped; they are in the session's logs)\n"))
        for name, pid, is_stderr, text in unfinished or ():
            self._unfinished(pieces, (ip, pid, bool(is_stderr)), f"{_label(name, pid, ip)}{text}")
        if self._waiting and not self._is_taken():
            source = next(iter(self._waiting))
            self._unfinished(pieces, source, self._waiting[source])
        return pieces

    def _line(self, pieces: list[Piece], source: Source, text: str) -> None:
        if self._open == source:
            pieces.append((source[2], self._over(text)))
        else:
            self._end(pieces)
            pieces.append((source[2], text))
        self._open = None
        pieces.append((source[2], "\n"))

    def _unfinished(self, pieces: list[Piece], source: Source, text: str) -> None:
        if self._open == source:
            if text != self._shown:
                pieces.append((source[2], self._over(text)))
                self._is_bar = True
        elif self._is_taken():
            self._waiting[source] = text
            return
        else:
            self._end(pieces)
            pieces.append((source[2], text))
            self._open, self._is_bar, self._since = source, False, self._clock()
            self._waiting.pop(source, None)
        self._shown = text

    def _is_taken(self) -> bool:
        return self._open is not None and self._is_bar and self._clock() < self._since + SWITCH_S

    def _over(self, text: str) -> str:
        """The text that turns the open line into this one."""
        if text.startswith(self._shown):
            return text[len(self._shown):]
        return f"\r{text}{' ' * (len(self._shown) - len(text))}"

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
