"""Memory for any number of workers."""

from __future__ import annotations

from zray.node.processes.memory import Reading
from zray.node.processes.room import StartRoom


def roomy():
    return StartRoom(lambda: [Reading(0, 1 << 40, "a test")], 0.95)
