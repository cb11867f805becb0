"""Tables that fit a width: columns shrink, then the least important ones go.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zray.cli.text import cut, padded, prefix, safe, width_of

GAP = 2
LEAST = 4  # to which a column shrinks that may, before lines are cut
WIDE = 100_000  # a width that cuts nothing
Row = Any


@dataclass(frozen=True)
class Column:
    """``of(row)``: its cell.  ``least``: the width to which it may shrink, 0 for never.

    ``rank``: of several columns that do not fit the highest goes first; 0 always stays.
    """

    title: str
    of: Callable[[Row], str]
    rank: int = 0
    least: int = 0
    right: bool = False


def table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[str]:
    """Lines of at most ``width`` columns, with a title; columns without any content are left out."""
    cells = {column: [column.of(row) for row in rows] for column in columns}
    kept = [column for column in columns if any(cells[column])]
    natural = {column: max(map(width_of, (column.title, *cells[column]))) for column in kept}
    while True:
        widths = _shrunk(kept, natural, width)
        if widths is not None:
            break
        kept.remove(max(kept, key=lambda column: column.rank))
    lines = [_line(kept, widths, [column.title for column in kept])]
    lines += [_line(kept, widths, [cells[column][position] for column in kept]) for position in range(len(rows))]
    return [cut(line, width) for line in lines]


def _shrunk(kept: Sequence[Column], natural: dict[Column, int], width: int) -> dict[Column, int] | None:
    """The widths of the columns; None when one of them must go."""
    widths = {column: natural[column] for column in kept}
    over = sum(widths.values()) + GAP * (len(kept) - 1) - width
    least = {column: min(widths[column], column.least) for column in kept if column.least}
    if over > sum(widths[column] - least[column] for column in least):
        if any(column.rank for column in kept):
            return None
        least = {column: min(widths[column], LEAST) for column in least}
    while over > 0 and least:
        widest = max(least, key=lambda column: widths[column] - least[column])
        if widths[widest] <= least[widest]:
            break  # the lines are cut
        others = [widths[column] for column in least if column is not widest]
        step = max(1, min(over, widths[widest] - max([least[widest], *others])))
        widths[widest] -= step
        over -= step
    return widths


def _line(kept: Sequence[Column], widths: dict[Column, int], cells: Sequence[str]) -> str:
    texts = [padded(cut(cell, widths[column]), widths[column], column.right)
             for column, cell in zip(kept, cells, strict=True)]
    return (" " * GAP).join(texts).rstrip()


def columns_of(rows: Sequence[dict[str, Any]], show: Callable[[Any], str]) -> list[Column]:
    """A column for each key of the rows; the last ones go first."""
    keys = list(dict.fromkeys(key for row in rows for key in row))

    def of(key: str) -> Callable[[Row], str]:
        return lambda row: show(row.get(key))

    return [Column(safe(key), of(key), position, 8) for position, key in enumerate(keys)]


def record(pairs: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Lines ``key  value``; values are folded below themselves."""
    longest = min(max((width_of(key) for key, _ in pairs), default=0), max(8, width // 2 - 2))
    lines: list[str] = []
    for key, value in pairs:
        pieces = folded(value, max(8, width - longest - GAP))
        lines.append(cut(f"{padded(cut(key, longest), longest)}{' ' * GAP}{pieces[0]}".rstrip(), width))
        lines += [f"{' ' * (longest + GAP)}{piece}" for piece in pieces[1:]]
    return lines


def folded(text: str, width: int, indent: str = "") -> list[str]:
    """The text in lines of at most ``width``, broken at blanks where there are any; later lines are indented."""
    lines: list[str] = []
    for part in text.split("\n"):
        lead = part[:len(part) - len(part.lstrip(" "))]
        below = lead + indent if len(lead + indent) < width // 2 else ""
        while width_of(part) > width:
            start = len(part) - len(part.lstrip(" "))
            at = prefix(part, width + 1).rfind(" ", start + 1)
            piece = part[:at] if at > 0 else prefix(part, width) or part[:1]
            lines.append(piece.rstrip())
            part = below + part[len(piece):].lstrip(" ")
        lines.append(part)
    return lines
