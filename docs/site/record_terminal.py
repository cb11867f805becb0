"""Run a command in a terminal of its own, and write what it shows as an animated SVG.

    python docs/site/record_terminal.py docs/figures/demo.svg -- zray demo

The picture needs no script and no font of its own: each row of the terminal is drawn once for each
content that it had, and CSS shows it at its time.  It runs at the speed of the recording.  A reader
who asks for less motion sees the last screen.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pyte

FRAME_S = 0.2  # of one picture; faster changes are joined
END_S = 6.0  # how long the last screen stays
CELL, LINE, PAD = 8.4, 18, 14  # pixels
COLOURS = {  # legible on the dark ground, and apart for people who cannot tell red from green
    "black": "#5c6773", "red": "#ff8f6b", "green": "#5fd0a2", "brown": "#e5c07b", "blue": "#6db8f2",
    "magenta": "#e7a3d8", "cyan": "#7fd6e0", "white": "#e4e7eb", "brightblack": "#5c6773", "brightred": "#f3a467",
}
INK, GROUND = "#d7dce2", "#161b22"

Row = tuple[tuple[int, str, str], ...]  # runs of cells that look the same: first column, text, style


class Frame(NamedTuple):
    """What the terminal shows from a time on."""

    at: float
    rows: tuple[Row, ...]


def colour(name: str) -> str:
    """Of a foreground in pyte's words: a name, six hexadecimal digits, or "default"."""
    return f"#{name}" if re.fullmatch("[0-9a-f]{6}", name) else COLOURS.get(name, INK)


def runs(cells: Any, columns: int) -> Row:
    """One row of the screen, without what is blank at its end."""
    found: list[tuple[int, str, str]] = []
    for column in range(columns):
        cell = cells[column]
        style = f"fill:{colour(cell.fg)}" + (";font-weight:700" if cell.bold else "")
        if cell.data == " ":
            style = found[-1][2] if found else style
        if found and found[-1][2] == style:
            found[-1] = (found[-1][0], found[-1][1] + cell.data, style)
        else:
            found.append((column, cell.data, style))
    text = "".join(part for _, part, _ in found).rstrip()
    return tuple((first, part[:len(text) - first], style) for first, part, style in found
                 if part[:max(0, len(text) - first)].strip())


def record(command: list[str], columns: int, lines: int) -> tuple[list[Frame], int]:
    """The frames of a run, and its exit code."""
    screen = pyte.Screen(columns, lines)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(lines)}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
                               start_new_session=True)
    os.close(theirs)

    def look(at: float) -> Frame:
        return Frame(at, tuple(runs(screen.buffer[line], columns) for line in range(lines)))

    began = time.monotonic()
    frames = [look(0.0)]
    while True:
        readable, _, _ = select.select([ours], [], [], FRAME_S)
        at = time.monotonic() - began
        if readable:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other end is closed: the command has ended
                break
            stream.feed(data)
        if at - frames[-1].at >= FRAME_S:
            frame = look(at)
            if frame.rows != frames[-1].rows:
                frames.append(frame)
    os.close(ours)
    code = process.wait()
    return [*frames, look(time.monotonic() - began)], code


def typed(command: str, frames: list[Frame]) -> list[Frame]:
    """The frames with the command above them, which is typed at the start."""
    prompt = (0, "$ ", "fill:#5fd0a2")
    length = len(frames[0].rows) + 1
    key_s = 0.09
    first = [Frame(0.2 + key_s * count, ((prompt, (2, command[:count], f"fill:{INK};font-weight:700")),
                                         *((),) * (length - 1))) for count in range(1, len(command) + 1)]
    line = first[-1].rows[0]
    start = first[-1].at + 0.2
    return [Frame(0.0, ((prompt,), *((),) * (length - 1))), *first,
            *(Frame(start + frame.at, (line, *frame.rows)) for frame in frames)]


def spans(frames: list[Frame]) -> Iterator[tuple[int, Row, float, float | None]]:
    """Each content of each row, with the times at which it comes and goes (None: it stays)."""
    for number in range(len(frames[0].rows)):
        content, since = frames[0].rows[number], frames[0].at
        for frame in frames[1:]:
            if frame.rows[number] != content:
                yield number, content, since, frame.at
                content, since = frame.rows[number], frame.at
        yield number, content, since, None


def svg(frames: list[Frame], columns: int, title: str) -> str:
    used = max(number for frame in frames for number, row in enumerate(frame.rows) if row) + 1
    width, height = round(columns * CELL + 2 * PAD), used * LINE + 2 * PAD
    total = frames[-1].at + END_S
    rules, drawn = [], []
    for count, (number, row, since, until) in enumerate(span for span in spans(frames) if span[1]):
        begin = f"{100 * since / total:.2f}%"
        end = "" if until is None else f"{100 * until / total:.2f}%{{visibility:hidden}}"
        rules.append(f"@keyframes k{count}{{0%{{visibility:hidden}}{begin}{{visibility:visible}}{end}}}")
        texts = "".join(f'<text x="{PAD + first * CELL:.1f}" y="{PAD + number * LINE + 14}" '
                        f'textLength="{len(part) * CELL:.1f}" style="{style}">{escape(part)}</text>'
                        for first, part, style in row)
        stays = ' class="end"' if until is None else ""
        drawn.append(f'<g{stays} style="animation-name:k{count}">{texts}</g>')
    size = f'width="{width}" height="{height}"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>svg>g{{visibility:hidden;animation:{total:.1f}s step-end infinite}}svg>g.end{{visibility:visible}}",
        'text{font:14px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;white-space:pre}',
        "@media (prefers-reduced-motion:reduce){svg>g{animation:none}}", *rules, "</style>",
        f'<rect {size} rx="8" fill="{GROUND}" stroke="#3d4650"/>', *drawn, "</svg>", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--columns", type=int, default=88)
    parser.add_argument("--lines", type=int, default=26)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    frames, code = record(given.command, given.columns, given.lines)
    command = " ".join([Path(given.command[0]).name, *given.command[1:]])
    picture = svg(typed(command, frames), given.columns, f"A terminal that runs {command}")
    given.file.write_text(picture, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
