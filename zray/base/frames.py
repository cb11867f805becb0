"""Tracebacks and stacks for users: without the frames of zray itself.

``ZRAY_FULL_TRACEBACKS=1`` in the environment of the process (for workers also in ``runtime_env``) shows all frames.
"""

from __future__ import annotations

import os
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_WORKER = os.path.join(_PACKAGE, "worker", "")
_CLOUDPICKLE = os.path.join("cloudpickle", "cloudpickle.py")
# Modules that load, check or pickle what is the user's: their frames say nothing about it.
_CHECKS = tuple(os.path.join(_PACKAGE, *name.split("/")) for name in (
    "worker/run/functions.py", "worker/run/invoke.py", "worker/run/streams.py", "values/serialization.py",
    "values/definitions.py")) + (_CLOUDPICKLE,)
_BEGIN = "Traceback (most recent call last):\n"
_ASYNCIO = os.path.join(os.path.dirname(os.__file__), "asyncio", "")


def show_all() -> bool:
    return os.environ.get("ZRAY_FULL_TRACEBACKS", "") not in ("", "0", "false")


def format_error(error: BaseException, trace: TracebackType | None, header: str = "") -> str:
    """The error with its causes and their tracebacks; an error without frames of the user's keeps all its frames.

    ``header`` stands in the place of each line "Traceback (most recent call last):", and is the first line.
    """
    import traceback  # 4 ms, for a process that has nothing to report yet

    shown = traceback.TracebackException(type(error), error, trace)
    if not show_all():
        _cut(shown)
    if not header:
        return "".join(shown.format())
    parts = [f"{header}\n" if part == _BEGIN else _named(part) for part in shown.format()]
    if not parts or parts[0] != f"{header}\n":
        parts.insert(0, f"{header}\n")
    return "".join(parts)


def _named(part: str) -> str:
    """Programs import zray under the name of ray, and look for "ray.exceptions.X: " in texts."""
    return part.removeprefix("z") if part.startswith("zray.exceptions.") else part


def _cut(shown: Any) -> None:
    work, seen = [shown], set()
    while work:
        one = work.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        kept = [frame for frame in one.stack if not _is_ours(frame)]
        if kept or one.stack and one.stack[-1].filename.endswith(_CHECKS):
            one.stack[:] = kept
        work += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]


def format_stack(frame: FrameType) -> str:
    """A stack, outermost call first; a worker's stack begins where it calls the user's code."""
    import traceback

    stack = traceback.extract_stack(frame)
    if not show_all():
        worker = [place for place, entry in enumerate(stack) if entry.filename.startswith(_WORKER)]
        start, end = (worker[0], worker[-1]) if worker else (0, 0)
        # Between the worker's frames stand those of asyncio, which runs the calls of an async actor.
        kept = [entry for place, entry in enumerate(stack) if place >= start and not _is_ours(entry)
                and not (place < end and entry.filename.startswith(_ASYNCIO))]
        if any(entry.filename != threading.__file__ for entry in kept):
            stack[:] = kept
    return "".join(stack.format())


def levels_to_user() -> int:
    """The ``stacklevel`` with which a warning of the caller names the nearest line of the user."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_own_file(frame.f_code.co_filename):
        frame = frame.f_back
        level += 1
    return level


def of_user(frame: FrameType) -> list[FrameType]:
    """The frames from this one outward to the outermost of the user's code, which the worker called; never empty."""
    found: list[FrameType] = []
    at: FrameType | None = frame
    while at is not None and not at.f_code.co_filename.startswith(_WORKER):
        found.append(at)
        at = at.f_back
    while len(found) > 1 and (is_own_file(name := found[-1].f_code.co_filename) or name.startswith(_ASYNCIO)):
        del found[-1]
    return found


def _is_ours(frame: Any) -> bool:
    return is_own_file(frame.filename)


def is_own_file(filename: str) -> bool:
    """Whether a file is of zray itself, or of what it pickles with."""
    return filename.startswith(_PACKAGE) or filename.endswith(_CLOUDPICKLE)


def passes(error: BaseException, package: str) -> bool:
    """Whether the error came through a module of this package (a name that ends in a dot)."""
    at = error.__traceback__
    while at is not None:
        if str(at.tb_frame.f_globals.get("__name__", "")).startswith(package):
            return True
        at = at.tb_next
    return False
