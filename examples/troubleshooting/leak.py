"""A service handles one frame after the other and keeps none, yet the object store grows until it is full."""

from __future__ import annotations

import time

import numpy as np
from staging import run

import zray as ray


@ray.remote
def decode(number: int) -> np.ndarray:
    return np.full((512, 512), number % 255, dtype=np.float32)


@ray.remote(num_cpus=0)
class Statistics:
    """The mean brightness of the last frames."""

    def __init__(self) -> None:
        self.seen: dict[int, object] = {}

    def add(self, number: int, frame: list) -> float:
        self.seen[number] = frame[0]
        return float(ray.get(frame[0]).mean())


def main() -> None:
    ray.init(num_cpus=2, object_store_memory=256 * 2**20)
    statistics = Statistics.options(name="statistics").remote()
    for number in range(100_000):
        frame = decode.remote(number)
        brightness = ray.get(statistics.add.remote(number, [frame]))
        if number % 20 == 0:
            print(f"frame {number}: brightness {brightness:g}", flush=True)
        time.sleep(0.02)


if __name__ == "__main__":
    run(main, __doc__)
