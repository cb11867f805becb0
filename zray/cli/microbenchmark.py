"""``zray microbenchmark``: the short form of benchmarks/, for a first look at a machine.

Each row is the best of a few short rounds; nothing here asserts a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from zray.base.named_tuples import NamedTuple

ROUND_S = 0.4
ROUNDS = 3


class Row(NamedTuple):
    name: str
    value: float
    unit: str


def main(num_cpus: int | None = None) -> int:
    """Measure and print; returns an exit code."""
    measured = rows(num_cpus)
    width = max(len(row.name) for row in measured)
    for row in measured:
        shown = f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:.3g}"
        print(f"{row.name:{width}}  {shown:>10} {row.unit}")
    return 0


def rows(num_cpus: int | None = None) -> list[Row]:
    """Start a session, measure every row, end the session."""
    import zray as ray

    start = time.perf_counter()
    ray.init(num_cpus=num_cpus)
    try:
        ray.get(ray.remote(_nothing).remote())
        first = Row("init to first task result", time.perf_counter() - start, "s")
        return [first, *_tasks(ray), *_actors(ray), *_objects(ray)]
    finally:
        ray.shutdown()


def best_rate(work: Callable[[], object], amount: float = 1) -> float:
    """Units of ``amount`` a second, the best of ``ROUNDS``."""
    clock = time.perf_counter
    work()
    best = 0.0
    for _ in range(ROUNDS):
        done, spent, start = 0, 0.0, clock()
        while spent < ROUND_S:
            work()
            done += 1
            spent = clock() - start
        best = max(best, done * amount / spent)
    return best


def _nothing() -> None:
    return None


class _Actor:
    def nothing(self) -> None:
        return None


class _AsyncActor:
    async def nothing(self) -> None:
        return None


def _tasks(ray: Any) -> list[Row]:
    nothing = ray.remote(_nothing)
    return [
        Row("task, synchronous", best_rate(lambda: ray.get(nothing.remote())), "/s"),
        Row("tasks, 1000 at a time", best_rate(lambda: ray.get([nothing.remote() for _ in range(1000)]), 1000), "/s"),
    ]


def _actors(ray: Any) -> list[Row]:
    found = []
    for title, cls in (("actor", _Actor), ("async actor", _AsyncActor)):
        actor = ray.remote(cls).remote()

        def one(actor=actor):
            ray.get(actor.nothing.remote())

        def many(actor=actor):
            ray.get([actor.nothing.remote() for _ in range(1000)])

        found += [Row(f"{title} call, synchronous", best_rate(one), "/s"),
                  Row(f"{title} calls, 1000 at a time", best_rate(many, 1000), "/s")]
    return found


def _objects(ray: Any) -> list[Row]:
    import numpy as np

    small, block, large = b"x" * 100, np.zeros(200_000, np.uint8), np.zeros(50_000_000, np.uint8)
    ref = ray.put(block)
    return [
        Row("put of 100 B", best_rate(lambda: ray.put(small)), "/s"),
        Row("put of 200 kB", best_rate(lambda: ray.put(block)), "/s"),
        Row("get of a local 200 kB array", best_rate(lambda: ray.get(ref)), "/s"),
        Row("put of 50 MB", best_rate(lambda: ray.put(large), 0.05), "GB/s"),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
