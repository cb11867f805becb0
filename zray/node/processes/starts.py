"""How many workers of a node may be starting at once.  Pure.

An unhurried start costs a few milliseconds.  Hundreds at once starve the machine, the daemons and
the starting workers, and none is ready sooner.  So the number follows from the speed of starts, by
TCP's rule for its window (Jacobson, "Congestion avoidance and control", 1988): one more for each
worker that was ready within GOOD_START_S, one less for each that took longer.

Once the window is full, the next workers start when half of it is free, or after REFILL_PAUSE_S: the zygote then forks
several through one intermediate process, whose own fork costs as much as that of a worker.

A worker that hangs while it starts gives up its place after HANGING_S, and the pool starts another one.
"""

from __future__ import annotations

# The first and the smallest window: two idle cores start as many within a tenth of a second.
WINDOW_MIN = 8
# A start that takes longer makes the window smaller: some twenty times a start on an idle machine,
# a tenth of the node time-out.
GOOD_START_S = 0.3
HANGING_S = 10.0
REFILL_PAUSE_S = 0.5  # half of the window takes 0.03 s on two idle cores, 0.3 s beside a load of 20


class Starts:
    """``may_start()``: whether another worker may start."""

    def __init__(self) -> None:
        self.window = WINDOW_MIN
        self._pause_until = 0.0  # the window was full, and less than half of it is free yet; 0: no pause
        self._begun: dict[bytes, float] = {}  # worker -> when its start began, oldest first

    def may_start(self, now: float) -> bool:
        if self._pause_until and (2 * len(self._begun) <= self.window or now >= self._pause_until):
            self._pause_until = 0.0
        return not self._pause_until and len(self._begun) < self.window

    def begun(self, worker: bytes, now: float) -> None:
        self._begun[worker] = now
        if len(self._begun) >= self.window:
            self._pause_until = now + REFILL_PAUSE_S

    def ready(self, worker: bytes, now: float) -> None:
        """The worker is ready: its time opens or closes the window."""
        began = self._begun.pop(worker, None)
        if began is None:
            return
        if now - began > GOOD_START_S:
            self.window = max(WINDOW_MIN, self.window - 1)
        elif self._pause_until or len(self._begun) + 1 >= self.window:  # else nothing shows that more are possible
            self.window += 1

    def over(self, worker: bytes) -> None:
        """The worker has ended, or is not needed any more."""
        self._begun.pop(worker, None)

    def tick(self, now: float) -> list[bytes]:
        """Take the places of workers that hang; returns those workers."""
        hang = []
        if self._pause_until <= now:
            self._pause_until = 0.0
        for worker, began in list(self._begun.items()):
            if now < began + HANGING_S:
                break
            del self._begun[worker]
            hang.append(worker)
        return hang

    def next_deadline(self) -> float | None:
        """When a place is given up, or the pause ends, if none comes free before."""
        oldest = next(iter(self._begun.values()), None)
        if oldest is None:
            return None
        if self._pause_until and len(self._begun) < self.window:
            return min(self._pause_until, oldest + HANGING_S)
        return oldest + HANGING_S
