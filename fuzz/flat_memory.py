"""Memory stays flat over a million tasks, and over a hundred thousand puts that go out of scope.

Proportional memory of the driver and every process of its session, sampled ten times a phase; the growth over the
second half of a phase is what is reported, because the first half fills pools and caches.  The list of ended attempts
is kept short: with the default of ``events_max`` it fills up to some 20 MB in the first minute.

    python -m fuzz.flat_memory --tasks 1000000 --puts 100000
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import zray as ray
from benchmarks.proc import session_memory
from fuzz.command import with_options

SAMPLES = 10
EVENTS_MAX = 1000
GROWTH_BYTES_MAX = 1_000_000  # over half a phase, and a byte more for each task


@ray.remote
def nothing(x: int) -> int:
    return x


def phase(name: str, count: int, step: Callable[[int], None]) -> int:
    """Run ``step(amount)`` until ``count`` is done; returns the growth in bytes over the second half."""
    samples = []
    for number in range(SAMPLES):
        step(count // SAMPLES)
        samples.append(session_memory()[0])
        print(f"{name}: {(number + 1) * (count // SAMPLES):,} done, {samples[-1] / 1e6:.1f} MB", flush=True)
    return samples[-1] - samples[SAMPLES // 2 - 1]


def run_tasks(amount: int, batch: int = 2000) -> None:
    for start in range(0, amount, batch):
        values = range(start, min(start + batch, amount))
        assert ray.get([nothing.remote(x) for x in values]) == list(values)


def run_puts(amount: int) -> None:
    block = np.zeros(200_000, dtype=np.uint8)
    for number in range(amount):
        ref = ray.put(block)
        if number % 100 == 0:
            assert ray.get(ref).nbytes == block.nbytes


def main(tasks: int = 1_000_000, puts: int = 100_000) -> int:
    """AssertionError when either phase grows by more than a byte a task and ``GROWTH_BYTES_MAX``."""
    ray.init(num_cpus=2, _system_config={"events_max": EVENTS_MAX})
    try:
        grown = {"tasks": phase("tasks", tasks, run_tasks), "puts": phase("puts", puts, run_puts)}
    finally:
        ray.shutdown()
    print(", ".join(f"{name}: grew {value / 1e6:+.1f} MB in the second half" for name, value in grown.items()))
    if max(grown.values()) > GROWTH_BYTES_MAX + tasks // 2:
        raise AssertionError(f"memory grows: {grown}")
    return 0


if __name__ == "__main__":
    raise SystemExit(with_options(main, __doc__))
