"""What the standard library's multiprocessing reaches on the rows that it can show at all."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
from concurrent.futures import ProcessPoolExecutor

from benchmarks.measure import Row, cost_row, latencies, latency_row, rate, rate_row, seconds

CPUS = 2


def rows() -> list[Row]:
    context = multiprocessing.get_context("fork")
    found = [cost_row("session", "init to first task result", seconds(lambda: _first(context)))]
    with context.Pool(CPUS) as pool:
        found += [
            latency_row("tasks", "task, synchronous", latencies(lambda: pool.apply(_nothing))),
            rate_row("tasks", "tasks, 1000 at a time", rate(lambda: _batch(pool), 1000)),
            rate_row("tasks", "f.map of no-op tasks", rate(lambda: pool.map(_item, range(100_000)), 100_000)),
        ]
    return found


def _first(context: multiprocessing.context.BaseContext) -> None:
    with ProcessPoolExecutor(CPUS, mp_context=context) as executor:
        executor.submit(_nothing).result()


def _batch(pool: multiprocessing.pool.Pool) -> None:
    for result in [pool.apply_async(_nothing) for _ in range(1000)]:
        result.get()


def _nothing() -> None:
    return None


def _item(x: int) -> int:
    return x
