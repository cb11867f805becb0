"""Each step of a search asks for eight numbers of a table: it takes longer than the sum, and memory grows."""

from __future__ import annotations

import time

import numpy as np
from staging import run

import zray as ray


def search(table: np.ndarray) -> None:
    for low in range(1_000_000):
        started = time.perf_counter()

        @ray.remote
        def lookup(index: int, low: int = low) -> float:
            return float(table[low + index])

        found = ray.get([lookup.remote(index) for index in range(8)])
        print(f"step {low}: {found[0]:g} in {time.perf_counter() - started:.2f} s", flush=True)
        time.sleep(0.5)


def main() -> None:
    ray.init(num_cpus=2)
    search(np.arange(2_000_000, dtype=np.float64))


if __name__ == "__main__":
    run(main, __doc__)
