"""How many workers of a node may be starting at once.  Pure.

A start that is not hurried costs a few milliseconds; hundreds at once starve the machine, the daemons and the
workers that are to start, and none is ready sooner.  So the number follows from how fast they start, by the rule by
which TCP finds its window (Jacobson, "Congestion avoidance and control", 1988): one more for each worker that was
ready within START_S, one less for each that took longer.

A worker that hangs while it starts gives its place up after HANGING_S, and the pool starts another for what waits.
"""

from __future__ import annotations

# At the beginning, and at the least: two cores that are idle start as many within a tenth of a second.
WINDOW_MIN = 8
# A start that takes longer makes the window smaller: some twenty times what a start takes on an idle machine, a tenth
# of the node time-out.
START_S = 0.3
HANGING_S = 10.0


class Starts:
    """``room()`` says whether another worker may start."""

    def __init__(self) -> None:
        self.window = WINDOW_MIN
        self._begun: dict[bytes, float] = {}  # worker -> when its start began, oldest first

    def room(self) -> bool:
        return len(self._begun) < self.window

    def begun(self, worker: bytes, now: float) -> None:
        self._begun[worker] = now

    def ready(self, worker: bytes, now: float) -> None:
        """It can work: its time opens or closes the window."""
        began = self._begun.pop(worker, None)
        if began is None:
            return
        if now - began > START_S:
            self.window = max(WINDOW_MIN, self.window - 1)
        elif len(self._begun) + 1 >= self.window:  # else nothing is known of more at once
            self.window += 1

    def over(self, worker: bytes) -> None:
        """It has ended, or it is not needed any more."""
        self._begun.pop(worker, None)

    def tick(self, now: float) -> list[bytes]:
        """Give up the places of workers that hang, which are returned."""
        hang = []
        for worker, began in list(self._begun.items()):
            if now < began + HANGING_S:
                break
            del self._begun[worker]
            hang.append(worker)
        return hang

    def next_deadline(self) -> float | None:
        """When a place is given up, if none comes free before."""
        oldest = next(iter(self._begun.values()), None)
        return None if oldest is None else oldest + HANGING_S
