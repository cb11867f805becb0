"""Whether there is memory for another worker process.  Pure.

A worker takes some 10 MB before it runs anything.  Work that asks for little or no CPU (waiting tasks, small actors)
can ask for thousands at once.  So starts slow down before the memory monitor has to end anything:

    memory in use, with workers that start     starts
    up to memory_share_max - SLOW_MARGIN       any number
    up to memory_share_max - STOP_MARGIN       one each TRICKLE_S: what runs may come to an end
    more                                       none, unless the node has fewer than its usual workers at work

Waiting work then gets the workers that become free.  The daemons of one machine do not count each other's starts: they
see them in the next reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zray.node.processes.memory import Reading, size

SLOW_MARGIN, STOP_MARGIN = 0.10, 0.05
TRICKLE_S = 0.5
MEMORY_READ_S = 0.1  # between two readings; starts since then are counted with WORKER_BYTES
WORKER_BYTES = 16 << 20


class StartRoom:
    """``read``: how much memory is in use, one reading for each limit; ``share_max``: memory_share_max."""

    def __init__(self, read: Callable[[], Sequence[Reading]], share_max: float):
        self._read, self._slow_above, self._stop_above = read, share_max - SLOW_MARGIN, share_max - STOP_MARGIN
        self._readings: Sequence[Reading] = ()
        self._read_at = 0.0
        self._pending = 0  # workers that may not be in the readings yet
        self._next_at = 0.0
        self._short: Reading | None = None

    def may_start(self, starting: int, is_needed: Callable[[], bool], now: float) -> bool:
        """``starting`` workers are not ready yet.  ``is_needed``: whether the node is to have one more at any rate."""
        if now >= self._read_at:
            self._readings, self._read_at, self._pending = self._read(), now + MEMORY_READ_S, starting
        coming = (self._pending + 1) * WORKER_BYTES
        nearest = max(self._readings, key=lambda reading: (reading.used + coming) / reading.limit)
        share = (nearest.used + coming) / nearest.limit
        self._short = nearest if share >= self._slow_above else None
        return self._short is None or (share < self._stop_above and now >= self._next_at) or is_needed()

    def started(self, now: float) -> None:
        self._pending += 1
        if self._short is not None:
            self._next_at = now + TRICKLE_S

    @property
    def why_short(self) -> str:
        """For users: why starts wait; '' while they do not."""
        if self._short is None:
            return ""
        return f"{size(self._short.used)} of {size(self._short.limit)} are in use ({self._short.source})"

    def next_deadline(self) -> float | None:
        """When to ask again if no worker becomes free before; None while starts do not wait."""
        return None if self._short is None else self._read_at
