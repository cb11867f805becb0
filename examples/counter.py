"""Counters: the smallest actors.  Each keeps its own number; calls of one caller run in the order they were made.

    python examples/counter.py --counters 4 --increments 1000
"""

from __future__ import annotations

import argparse

import zray as ray


@ray.remote
class Counter:
    def __init__(self, start: int = 0):
        self.value = start

    def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    def read(self) -> int:
        return self.value


@ray.remote
def increment_many(counter, times: int) -> None:
    """Tasks may hold actor handles: many callers, one counter, no increment lost."""
    for _ in range(times):
        counter.increment.remote()
    ray.get(counter.read.remote())


def main(counters: int = 4, increments: int = 1000) -> dict[str, list[int]]:
    """Increment ``counters`` counters from the driver, then one shared counter from as many tasks."""
    own = [Counter.remote(start=10 * i) for i in range(counters)]
    seen = [[counter.increment.remote() for _ in range(increments)] for counter in own]
    ordered = [ray.get(refs) == list(range(10 * i + 1, 10 * i + 1 + increments)) for i, refs in enumerate(seen)]
    shared = Counter.remote()
    ray.get([increment_many.remote(shared, increments) for _ in range(counters)])
    return {
        "in_order": ordered,
        "values": ray.get([counter.read.remote() for counter in own]),
        "shared": [ray.get(shared.read.remote())],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counters", type=int, default=4)
    parser.add_argument("--increments", type=int, default=1000)
    for name, numbers in main(**vars(parser.parse_args())).items():
        print(f"{name:10} {numbers}")
