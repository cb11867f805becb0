"""Ray's name of the debugger of tasks: ``ray.util.pdb.set_trace()`` is ``breakpoint()``."""

from __future__ import annotations

import sys

from zray import debugging

__all__ = ["set_trace"]


def set_trace(breakpoint_uuid: object = None) -> None:
    """Stop at the next line of the caller, and wait for ``zray debug``; in a driver, debug in its own terminal.

    ``breakpoint_uuid``, which Ray's own debugger passes, is not needed.
    """
    frame = sys._getframe(1)
    if debugging.stop_at is not None:
        debugging.stop_at(frame, "pdb")
        return
    import pdb

    pdb.Pdb().set_trace(frame)
