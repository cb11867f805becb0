"""One driver queues a million tasks: how long until the last result, and what a queued task costs the driver."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import Row, cost_row, seconds
from benchmarks.proc import resident_bytes

GROUP = "queue"
CPUS = 2
TASKS = 1_000_000
TASKS_QUICK = 50_000


def rows(ray: Any, quick: bool = False) -> list[Row]:
    """Ray gets the quick count, scaled up: the full one takes it minutes."""
    count = TASKS_QUICK if quick or ray.__name__ == "ray" else TASKS
    ray.init(num_cpus=CPUS)
    try:
        return _queue(ray, count)
    finally:
        ray.shutdown()


def _queue(ray: Any, count: int) -> list[Row]:
    @ray.remote
    def nothing():
        return None

    ray.get(nothing.remote())
    before = resident_bytes()
    peak = 0

    def run():
        nonlocal peak
        refs = [nothing.remote() for _ in range(count)]
        peak = resident_bytes()
        for start in range(0, count, 10_000):
            ray.get(refs[start:start + 10_000])

    spent = seconds(run)
    return [
        cost_row(GROUP, "1,000,000 queued tasks", spent * TASKS / count),
        cost_row(GROUP, "driver memory of a queued task", (peak - before) / count, "B"),
    ]
