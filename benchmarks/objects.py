"""Objects: small and large puts, gets without a copy, and ``wait`` draining a thousand references."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.measure import Row, rate, rate_row

GROUP = "objects"
CPUS = 2
LARGE = 100_000_000  # bytes
FRESH = 8  # large objects that are kept while they are put


def rows(ray: Any, quick: bool = False) -> list[Row]:
    ray.init(num_cpus=CPUS, object_store_memory=2 * 1024**3)
    try:
        return _fresh_put(ray) + _put_get(ray) + _wait(ray)
    finally:
        ray.shutdown()


def _fresh_put(ray: Any) -> list[Row]:
    """Of memory that no process of the session has used yet: its pages are made during the put."""
    large = np.zeros(LARGE, dtype=np.uint8)
    kept = []
    ray.put(b"x" * 200_000)  # the first object of a process attaches more than memory
    started = time.perf_counter()
    for _ in range(FRESH):
        kept.append(ray.put(large))
    return [rate_row(GROUP, "put of 100 MB, fresh memory", FRESH * LARGE / 1e9 / (time.perf_counter() - started),
                     "GB/s")]


def _put_get(ray: Any) -> list[Row]:
    small = b"x" * 100
    block = np.zeros(200_000, dtype=np.uint8)
    large = np.zeros(LARGE, dtype=np.uint8)
    ref = ray.put(block)
    return [
        rate_row(GROUP, "put of 100 B", rate(lambda: ray.put(small))),
        rate_row(GROUP, "put of 200 kB", rate(lambda: ray.put(block))),
        rate_row(GROUP, "get of a local 200 kB array", rate(lambda: ray.get(ref))),
        rate_row(GROUP, "put of 100 MB", rate(lambda: ray.put(large), 0.1), "GB/s"),
    ]


def _wait(ray: Any) -> list[Row]:
    @ray.remote
    def nothing():
        return None

    def drain():
        rest = [nothing.remote() for _ in range(1000)]
        while rest:
            _, rest = ray.wait(rest)

    return [rate_row(GROUP, "wait draining 1000 references", rate(drain), "passes/s")]
