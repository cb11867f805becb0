"""The stacks of this process's threads and coroutines as text, for ``zray stack``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from zray.base.frames import format_stack, is_own_file

ASK = b"stack"  # the name in a Why message that asks for stacks
PROFILE = b"profile"  # what the name begins with that asks for a profile: see zray.base.sampling
COROUTINES_MAX = 50  # of one event loop
_POLLS = ("_lead", "_serve_as_leader", "turn")  # functions of zray.transport.loop that begin to handle messages


def text() -> str:
    """Python stacks of all threads, and of the coroutines that their event loops have; that of the answering thread
    without the frames of the answer."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    frames[threading.get_ident()] = _polling(sys._getframe())
    parts = [f"thread {names.get(ident, ident)}:\n{format_stack(frame)}" for ident, frame in frames.items()]
    return "\n".join([*parts, *_coroutines(frames.values())])


def _polling(here: FrameType) -> FrameType:
    frame: FrameType | None = here
    while frame is not None:
        if frame.f_globals.get("__name__") == "zray.transport.loop" and frame.f_code.co_name in _POLLS:
            return frame
        frame = frame.f_back
    return here


def _coroutines(frames: Iterable[FrameType]) -> Iterator[str]:
    """The tasks of asyncio that wait, each as the chain of what it awaits."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return
    for loop in {id(loop): loop for frame in frames for loop in _loops(frame)}.values():
        try:
            tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
        except RuntimeError:  # the loop's thread changes the set, again and again
            continue
        shown = [found for task in tasks if (found := _awaits(task))]
        yield from shown[:COROUTINES_MAX]
        if len(shown) > COROUTINES_MAX:
            yield f"coroutines: {len(shown) - COROUTINES_MAX} more\n"


def _loops(frame: FrameType | None) -> Iterator[Any]:
    while frame is not None:
        if frame.f_code.co_name == "run_forever" and frame.f_code.co_filename.endswith("base_events.py"):
            yield frame.f_locals.get("self")
        frame = frame.f_back


def _awaits(task: Any) -> str:
    """'' for a coroutine of zray itself."""
    import linecache

    lines = []
    at = task.get_coro()
    while at is not None:
        frame = next(filter(None, (getattr(at, name, None) for name in ("cr_frame", "gi_frame", "ag_frame"))), None)
        if frame is not None and not is_own_file(frame.f_code.co_filename):
            path, number = frame.f_code.co_filename, frame.f_lineno
            source = linecache.getline(path, number, frame.f_globals).strip()
            lines.append(f'  File "{path}", line {number}, in {frame.f_code.co_name}\n' + (
                f"    {source}\n" if source else ""))
        below = (getattr(at, name, None) for name in ("cr_await", "gi_yieldfrom", "ag_await"))
        at = next(filter(None, below), None) or _stepped(frame)
    return f"coroutine {task.get_name()}:\n{''.join(lines)}" if lines else ""


def _stepped(frame: FrameType | None) -> Any:
    """The coroutine that zray.base.stepping drives: of a call of an async actor."""
    if frame is not None and frame.f_code.co_name == "stepping" and is_own_file(frame.f_code.co_filename):
        return frame.f_locals.get("coroutine")
    return None
