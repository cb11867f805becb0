"""A seeded network with faults: it drops, duplicates, delays and reorders items.  Pure.

The mesh puts outgoing frames through it; the simulator puts all messages through it.  The choices
depend only on the seed and on the order of the offers.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any


class FrameFaults:
    """Offer items, take them out when they are due.  Probabilities are per item; delays are uniform up to delay_s_max.

    ``partitioned(item)``, when given, decides whether an item is lost because its ends cannot reach each other now.
    """

    def __init__(self, seed: int, *, drop: float = 0.0, duplicate: float = 0.0, delay: float = 0.0,
                 delay_s_max: float = 0.01, partitioned: Callable[[Any], bool] | None = None):
        for name, value in (("drop", drop), ("duplicate", duplicate), ("delay", delay)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is a probability, got {value!r}")
        self._random = Random(seed)
        self.drop = drop
        self.duplicate = duplicate
        self.delay = delay
        self.delay_s_max = delay_s_max
        self.partitioned = partitioned
        self._heap: list[tuple[float, int, Any]] = []
        self._offered = 0
        self.dropped = self.duplicated = self.delayed = 0

    def offer(self, now: float, item: Any) -> None:
        """Put an item in; zero, one or two copies come out of ready(), now or later.  Others overtake delayed ones."""
        copies = 1
        if self._random.random() < self.drop or (self.partitioned is not None and self.partitioned(item)):
            self.dropped += 1
            copies = 0
        elif self._random.random() < self.duplicate:
            self.duplicated += 1
            copies = 2
        for _ in range(copies):
            when = now
            if self._random.random() < self.delay:
                self.delayed += 1
                when += self._random.random() * self.delay_s_max
            self._offered += 1
            heappush(self._heap, (when, self._offered, item))

    def ready(self, now: float) -> list[Any]:
        """Everything due by ``now``, in order of its time."""
        out = []
        while self._heap and self._heap[0][0] <= now:
            out.append(heappop(self._heap)[2])
        return out

    def due(self) -> float | None:
        """When the next item comes out; None when nothing is inside."""
        return self._heap[0][0] if self._heap else None

    def heal(self) -> None:
        """No faults from now on; items inside still come out."""
        self.drop = self.duplicate = self.delay = 0.0
        self.partitioned = None
