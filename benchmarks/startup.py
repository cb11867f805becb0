"""Start and end of a session, and what an idle one costs in memory."""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks.measure import Row, cost_row
from benchmarks.proc import session_memory

GROUP = "session"
CPUS = 2
ACTORS = 10


def rows(ray: Any, quick: bool = False) -> list[Row]:
    return _cycle(ray, 1 if quick or ray.__name__ == "ray" else 5) + _memory(ray)


def _cycle(ray: Any, cycles: int) -> list[Row]:
    started, stopped = [], []
    for _ in range(cycles):
        start = time.perf_counter()
        ray.init(num_cpus=CPUS)
        ray.get(ray.remote(_nothing).remote())
        middle = time.perf_counter()
        ray.shutdown()
        started.append(middle - start)
        stopped.append(time.perf_counter() - middle)
    return [
        cost_row(GROUP, "init to first task result", min(started)),
        cost_row(GROUP, "shutdown", min(stopped)),
    ]


def _nothing() -> None:
    return None


def _memory(ray: Any) -> list[Row]:
    ray.init(num_cpus=CPUS)
    try:
        barrier = [ray.remote(_pid).remote() for _ in range(CPUS)]
        ray.get(barrier)
        before, processes = session_memory()

        @ray.remote(num_cpus=0)
        class Idle:
            def nothing(self):
                return None

        actors = [Idle.remote() for _ in range(ACTORS)]
        ray.get([actor.nothing.remote() for actor in actors])
        after, _ = session_memory()
    finally:
        ray.shutdown()
    return [
        cost_row(GROUP, "idle memory (PSS), driver included", before / 1e6, "MB"),
        cost_row(GROUP, "processes of an idle session", processes, ""),
        cost_row(GROUP, "memory of one more worker", (after - before) / ACTORS / 1e6, "MB"),
    ]


def _pid() -> int:
    time.sleep(0.05)  # long enough that both CPUs get a worker
    return os.getpid()
