"""Measuring: rates, latencies and rows.

A row is ``{"group", "row", "value", "unit", "better"}``; ``better`` is "higher" or "lower", and a latency row also has
``p99``.  Rates are the best of several rounds: on a shared machine the best round is the one least disturbed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

ROUNDS = 4
ROUND_S = 0.6
LATENCIES_S = 3.0


def shorten(rounds: int, round_s: float, latencies_s: float) -> None:
    """Measure for less time from now on in this process: for those who repeat the measurement themselves."""
    global ROUNDS, ROUND_S, LATENCIES_S
    ROUNDS, ROUND_S, LATENCIES_S = rounds, round_s, latencies_s


def rate(work: Callable[[], object], amount: float = 1, rounds: int = 0, round_s: float = 0.0) -> float:
    """Best rate in units of ``amount`` a second: ``work()`` is repeated for about ``round_s`` in each round."""
    rounds, round_s = rounds or ROUNDS, round_s or ROUND_S
    clock = time.perf_counter
    work()
    best = 0.0
    for _ in range(rounds):
        done, spent, start = 0, 0.0, clock()
        while spent < round_s:
            work()
            done += 1
            spent = clock() - start
        best = max(best, done * amount / spent)
    return best


def latencies(work: Callable[[], object], count: int = 2000, warm: int = 100, limit_s: float = 0.0) -> list[float]:
    """Sorted seconds of up to ``count`` single calls after ``warm`` unmeasured ones, stopped after ``limit_s``."""
    limit_s = limit_s or LATENCIES_S
    clock = time.perf_counter
    for _ in range(min(warm, count)):
        work()
    times = []
    end = clock() + limit_s
    for _ in range(count):
        start = clock()
        work()
        stop = clock()
        times.append(stop - start)
        if stop > end:
            break
    return sorted(times)


def quantile(ordered: list[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def rate_row(group: str, row: str, value: float, unit: str = "/s") -> Row:
    return {"group": group, "row": row, "value": value, "unit": unit, "better": "higher"}


def cost_row(group: str, row: str, value: float, unit: str = "s") -> Row:
    return {"group": group, "row": row, "value": value, "unit": unit, "better": "lower"}


def latency_row(group: str, row: str, ordered: list[float]) -> Row:
    """p50 and p99 in milliseconds."""
    row_ = cost_row(group, row, 1e3 * quantile(ordered, 0.5), "ms")
    row_["p99"] = 1e3 * quantile(ordered, 0.99)
    return row_


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
