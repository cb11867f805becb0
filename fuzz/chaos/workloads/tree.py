"""A tree reduction: leaves with small and large arrays, summed in pairs on any node."""

from __future__ import annotations

from typing import Any

import numpy as np

import zray as ray
from fuzz.chaos.workloads.base import SURE, Workload, expect

LARGE, SMALL = 40_000, 500  # numbers of 8 bytes: above and below what travels in messages


@ray.remote(**SURE, scheduling_strategy="SPREAD", num_cpus=0.5)
def leaf(value: int, size: int) -> Any:
    return np.full(size, value)


@ray.remote(**SURE, num_cpus=0.5)
def add(left: Any, right: Any) -> Any:
    return left + right


class Tree(Workload):
    name = "tree"

    def round(self, number: int) -> None:
        size = LARGE if number % 2 else SMALL
        values = [self.rng.randrange(1_000_000) for _ in range(max(4, int(64 * self.scale)))]
        level = [leaf.remote(value, size) for value in values]
        while len(level) > 1:
            pairs = [add.remote(*level[i:i + 2]) for i in range(0, len(level) - 1, 2)]
            level = pairs + level[2 * len(pairs):]
        found = self.fetch(level[0])
        expect("sum of the leaves", (int(found[0]), int(found[-1]), len(found)), (sum(values), sum(values), size))
