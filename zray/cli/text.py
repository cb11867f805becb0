"""Text for terminals: names of users made safe, human units, cells of a width.  Pure."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len

ELLIPSIS = "…"
NAME_CHARACTERS_MAX = 1000  # of one text before it is cut: a name may have 10 kB
# Control characters, format characters (bidirectional overrides, zero width), surrogates, line and paragraph ends.
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def safe(text: object) -> str:
    """The text on one line, without characters that move the cursor, reorder text or cannot be encoded.

    Such a character is shown as Python escapes it; a longer text than NAME_CHARACTERS_MAX is cut.
    """
    whole = str(text)
    shown = whole[:NAME_CHARACTERS_MAX]
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(_escaped(one) if unicodedata.category(one) in _UNSAFE else one for one in shown)
    return shown + ELLIPSIS if len(whole) > NAME_CHARACTERS_MAX else shown


def safe_lines(text: str) -> str:
    """Output of several lines, such as a log: line ends and tabs stay, other unsafe characters are escaped."""
    return "".join(one if one in "\n\t" or unicodedata.category(one) not in _UNSAFE else _escaped(one)
                   for one in text)


def _escaped(one: str) -> str:
    code = ord(one)
    return _NAMED.get(one) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000
                               else f"\\U{code:08x}")


def width_of(text: str) -> int:
    """Columns that a safe text takes: wide characters take two."""
    return len(text) if text.isascii() else cell_len(text)


def cut(text: str, width: int) -> str:
    """The text, cut with an ellipsis if it is wider than ``width``."""
    if width_of(text) <= width:
        return text
    return prefix(text, width - 1).rstrip() + ELLIPSIS if width > 0 else ""


def prefix(text: str, width: int) -> str:
    """The longest beginning of the text that takes at most ``width`` columns."""
    if text.isascii():
        return text[:max(0, width)]
    used = 0
    for position, one in enumerate(text):
        used += cell_len(one)
        if used > width:
            return text[:position]
    return text


def padded(text: str, width: int, right: bool = False) -> str:
    blank = " " * max(0, width - width_of(text))
    return blank + text if right else text + blank


def of_bytes(count: float | None) -> str:
    """Bytes in binary units, such as "22.9 MiB"."""
    if count is None or count < 0:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 999.95 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def duration(seconds: float | None) -> str:
    """A time span in two units at most, such as "0.3s", "12s", "3m05s", "2h07m", "4d03h"."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = int(seconds + 0.5)
    for size, unit, part, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{smaller}"
    return f"{whole}s"


def amounts(resources: dict[str, float]) -> str:
    """Resources in one text, without the marks of nodes; memory in bytes' units."""
    return ", ".join(f"{safe(name)} {of_bytes(amount) if name.endswith('memory') else f'{amount:g}'}"
                     for name, amount in sorted(resources.items()) if not name.startswith("node:"))


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
