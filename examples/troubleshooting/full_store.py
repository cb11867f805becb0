"""A loader reads batches of 8 MB in no time; after the first dozen each takes most of a second."""

from __future__ import annotations

import time

import numpy as np
from staging import run

import zray as ray


@ray.remote
def load(number: int) -> np.ndarray:
    return np.full(1_000_000, number, dtype=np.float64)


def main() -> None:
    ray.init(num_cpus=2, object_store_memory=96 * 2**20)
    batches = []
    for number in range(1000):
        started = time.perf_counter()
        batches.append(ray.get(load.remote(number)))  # kept for the next epoch
        print(f"batch {number} in {time.perf_counter() - started:.2f} s", flush=True)
        time.sleep(0.1)


if __name__ == "__main__":
    run(main, __doc__)
