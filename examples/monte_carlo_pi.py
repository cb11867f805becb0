"""Pi by random points, with an actor that knows how far every task is.

Each task draws its own points from its own seed, so a run repeats exactly.  The tasks report to a ``Progress`` actor
while they run and do not wait for it; the driver asks the actor now and then and shows what it says.

    python examples/monte_carlo_pi.py --tasks 8 --samples 1000000
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import numpy as np

import zray as ray

REPORTS = 10  # how often a task says how far it is


class Estimate(NamedTuple):
    """Pi, the points it was counted from, and how many reports the progress actor has received."""

    pi: float
    samples: int
    reports: int


@ray.remote
class Progress:
    """The number of points that each task has drawn so far."""

    def __init__(self, tasks: int):
        self.drawn = [0] * tasks
        self.reports = 0

    def report(self, task: int, drawn: int) -> None:
        self.drawn[task] = drawn
        self.reports += 1

    def total(self) -> tuple[int, int]:
        """Points, reports."""
        return sum(self.drawn), self.reports


@ray.remote
def count_inside(task: int, samples: int, progress) -> int:
    """How many of ``samples`` points of the unit square lie in the quarter circle."""
    rng = np.random.default_rng(task)
    inside = drawn = 0
    for part in range(1, REPORTS + 1):
        points = rng.random((samples * part // REPORTS - drawn, 2))
        inside += int(np.count_nonzero((points ** 2).sum(axis=1) <= 1))
        drawn += len(points)
        progress.report.remote(task, drawn)
    return inside


def main(tasks: int = 8, samples: int = 1_000_000, show: bool = False) -> Estimate:
    """``samples`` points in each of ``tasks`` tasks; ``show`` writes the progress to stderr."""
    progress = Progress.remote(tasks)
    counts = [count_inside.remote(task, samples, progress) for task in range(tasks)]
    waiting = counts
    while waiting:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0.1)
        if show:
            drawn, _ = ray.get(progress.total.remote())
            print(f"{drawn / (tasks * samples):4.0%}", file=sys.stderr)
    # The reports of a task are sent before its result, but travel on their own: count them when all have come.
    drawn = reports = 0
    while drawn < tasks * samples or reports < tasks * REPORTS:
        drawn, reports = ray.get(progress.total.remote())
    return Estimate(4 * sum(ray.get(counts)) / drawn, drawn, reports)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1_000_000)
    result = main(**vars(parser.parse_args()), show=True)
    print(f"pi is about {result.pi:.6f}: {result.samples:,} points, {result.reports} reports")
