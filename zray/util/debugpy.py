"""Ray's name of stops for editors: a task waits until one connects by debugpy (extra ``zray[debug]``)."""

from __future__ import annotations

import sys

from zray import debugging

__all__ = ["set_trace"]


def set_trace(breakpoint_uuid: object = None) -> None:
    """Listen for debugpy on a port of loopback, which the driver prints, and stop in the caller.  In tasks only."""
    if debugging.stop_at is None:
        raise RuntimeError("zray.util.debugpy.set_trace() is for tasks and actors; in a driver use breakpoint(), or "
                           "start it from the editor")
    debugging.stop_at(sys._getframe(1), "debugpy")
