"""Source lines that travel with code, so that a traceback, a stack, a debugger and ``inspect`` of a worker show them.

Code goes to workers by value where they cannot import it: from scripts, notebook cells, ``python
-c``, doctests.  Its file may not exist there: a cell never was a file, and another machine does not
have the script.  So the outermost code object of a function carries its own lines.  The process
that loads it puts them into ``linecache`` at their places, unless it finds the file itself.  The
lines between those of two functions stay empty.
"""

from __future__ import annotations

import functools
import linecache
import os
import stat
import sys
import threading
from collections.abc import Iterator
from types import CodeType

_lock = threading.Lock()
_CLOSING = (")", "]", "}", '"""', "'''")


def lines_of(code: CodeType, *, of_files: bool) -> tuple[int, str]:
    """``(number of the first line, text)`` of a function's code with all nested code; no text when unknown.

    ``of_files``: also of a file that exists here, which all processes of this machine can read.
    """
    name = code.co_filename
    if not of_files and not name.startswith("<") and os.path.isfile(name):
        return 0, ""
    lines = _program_lines(code) if name in ("<string>", "<stdin>") else linecache.getlines(name)
    first = code.co_firstlineno
    if not 1 <= first <= len(lines):
        return 0, ""
    last = _end_of_block(lines, first, min(_last_line(code), len(lines)))
    return first, "".join(lines[first - 1:last])


def restore(name: str, first: int, text: str) -> None:
    """Add lines to ``linecache``, beside those of other functions of the same source."""
    known = linecache.cache.get(name)
    if known is not None and (len(known) != 4 or known[1] is not None):
        return  # read from a file, or available from a loader
    if known is None and not name.startswith("<") and os.path.isfile(name):
        return
    brought = text.splitlines(keepends=True)
    end = first - 1 + len(brought)
    with _lock:
        known = linecache.cache.get(name)
        lines = list(known[2]) if known is not None and len(known) == 4 else []
        lines += ["\n"] * (end - len(lines))
        lines[first - 1:end] = brought
        # An entry without a modification time is never outdated.
        linecache.cache[name] = sum(map(len, lines)), None, lines, name


def _last_line(code: CodeType) -> int:
    return max((line for inner in _all_code(code) for _, _, line in inner.co_lines() if line), default=0)


def _all_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from _all_code(constant)


def _end_of_block(lines: list[str], first: int, last: int) -> int:
    """The last line after ``last`` that belongs to the code at ``first``: comments, brackets."""
    indent = _indent(lines[first - 1])
    end = last
    for number in range(last + 1, len(lines) + 1):
        line = lines[number - 1].strip()
        if not line:
            continue
        if _indent(lines[number - 1]) <= indent and not line.startswith(_CLOSING):
            break
        end = number
    return end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


# ---------------------------------------------------------------- programs without a file


def _program_lines(code: CodeType) -> list[str]:
    """The lines of ``python -c``, or of a program on stdin, when the code is of that program.

    Generated code (the methods of dataclasses) has the same file name, and no lines.
    """
    lines, known = _program(code.co_filename)
    return lines if code in known else []


@functools.cache
def _program(name: str) -> tuple[list[str], frozenset[CodeType]]:
    text = _argument() if name == "<string>" else _stdin()
    try:
        compiled = compile(text, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return [], frozenset()
    return text.splitlines(keepends=True), frozenset(_all_code(compiled))


def _argument() -> str:
    """The text after ``-c``.  Options before it are one word each, but -W and -X may have a second word."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word in ("-W", "-X"):
            next(words, "")
        elif not word.startswith("-"):
            break
        elif not word.startswith("--") and word.endswith("c"):
            return next(words, "")
    return ""


def _stdin() -> str:
    """The program that was read from stdin, when that is a file, which can be read again."""
    try:
        status = os.fstat(0)
        if not stat.S_ISREG(status.st_mode):
            return ""
        return os.pread(0, status.st_size, 0).decode(errors="replace")
    except OSError:
        return ""
