"""Tasks: one at a time, a thousand at a time, nested, many arguments, many returns, a whole range by ``map``."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import Row, cost_row, latencies, latency_row, rate, rate_row, seconds

GROUP = "tasks"
CPUS = 2
ITEMS = 1_000_000  # of a map


def rows(ray: Any, quick: bool = False) -> list[Row]:
    """``ray`` is the module to measure (``ray`` or ``zray``), not yet initialised."""
    ray.init(num_cpus=CPUS)
    try:
        found = _small(ray) + _wide(ray)
        return found if not hasattr(ray.remote(_nothing), "map") else found + _map(ray)
    finally:
        ray.shutdown()


def _nothing() -> None:
    return None


def _item(x: int) -> int:
    return x


def _small(ray: Any) -> list[Row]:
    @ray.remote
    def nothing():
        return None

    @ray.remote
    def fan_out(n):
        ray.get([nothing.remote() for _ in range(n)])

    return [
        latency_row(GROUP, "task, synchronous", latencies(lambda: ray.get(nothing.remote()))),
        rate_row(GROUP, "tasks, 1000 at a time", rate(lambda: ray.get([nothing.remote() for _ in range(1000)]), 1000)),
        rate_row(GROUP, "nested tasks, 2 x 500", rate(lambda: ray.get([fan_out.remote(500) for _ in range(2)]), 1000)),
    ]


def _wide(ray: Any) -> list[Row]:
    @ray.remote
    def count(*values):
        return len(values)

    @ray.remote(num_returns=3000)
    def many():
        return range(3000)

    refs = [ray.put(i) for i in range(10_000)]
    stored = [ray.put(i) for i in range(10_000)]
    ray.get(count.remote())
    return [
        cost_row(GROUP, "10,000 references as arguments", seconds(lambda: ray.get(count.remote(*refs)))),
        cost_row(GROUP, "3,000 returns of one task", seconds(lambda: ray.get(many.remote()))),
        cost_row(GROUP, "get of 10,000 objects", seconds(lambda: ray.get(stored))),
    ]


def _map(ray: Any) -> list[Row]:
    item = ray.remote(_item)
    count = ITEMS

    def mapped():
        values = ray.get(item.map(range(count)))
        assert len(values) == count
        assert values[-1] == count - 1

    return [rate_row(GROUP, "f.map of no-op tasks", rate(mapped, count, rounds=3, round_s=0.1))]
