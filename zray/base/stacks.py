"""The stacks of this process's threads as text, for ``zray stack``."""

from __future__ import annotations

import sys
import threading
from types import FrameType

from zray.base.frames import format_stack

ASK = b"stack"  # the name in a Why message that asks for stacks
_POLLS = ("_lead", "_serve_as_leader", "turn")  # functions of zray.transport.loop that begin to handle messages


def text() -> str:
    """Python stacks of all threads; that of the answering one without the frames of the answer."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    frames[threading.get_ident()] = _polling(sys._getframe())
    return "\n".join(f"thread {names.get(ident, ident)}:\n{format_stack(frame)}"
                     for ident, frame in frames.items())


def _polling(here: FrameType) -> FrameType:
    frame: FrameType | None = here
    while frame is not None:
        if frame.f_globals.get("__name__") == "zray.transport.loop" and frame.f_code.co_name in _POLLS:
            return frame
        frame = frame.f_back
    return here
