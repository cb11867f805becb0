"""The debugger of tasks: a worker waits at a breakpoint, and a terminal of the same user attaches to it."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType

# In a worker: wait for a debugger of this kind ("pdb", "debugpy", or "" for what the settings say) at this frame.
stop_at: Callable[[FrameType, str], None] | None = None
