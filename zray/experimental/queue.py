"""Queue at its earlier path in Ray."""

from zray.util.queue import Empty, Full, Queue

__all__ = ["Empty", "Full", "Queue"]
