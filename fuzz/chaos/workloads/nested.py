"""Tasks that start tasks and wait for them, pass references on in values, and die in the middle of it."""

from __future__ import annotations

from typing import Any

import numpy as np

import zray as ray
from fuzz.chaos.verdict import NODE
from fuzz.chaos.workloads.base import SURE, Workload, expect

DEPTH, WIDTH, ROOTS, LARGE = 2, 3, 4, 20_000


@ray.remote(**SURE, scheduling_strategy="SPREAD", num_cpus=0.5)
def count(depth: int, value: int) -> int:
    """The sum of the leaves of a tree of tasks."""
    if not depth:
        return value
    return sum(ray.get([count.remote(depth - 1, value + i) for i in range(WIDTH)]))


def counted(depth: int, value: int) -> int:
    return value if not depth else sum(counted(depth - 1, value + i) for i in range(WIDTH))


@ray.remote(**SURE, num_cpus=0.5)
def make(value: int, size: int) -> Any:
    return np.full(size, value)


@ray.remote(**SURE, num_cpus=0.5)
def hand_on(value: int) -> list[Any]:
    """References to results that this task owns, small and large, finished and not: it ends before its readers ask."""
    return [make.remote(value + i, 10 if i % 2 else LARGE) for i in range(WIDTH)]


@ray.remote(**SURE, num_cpus=0.5)
def read(refs: list[Any]) -> int:
    return sum(int(each[0]) for each in ray.get(refs))


class Nested(Workload):
    name = "nested"
    # A node may die with a task that had handed references on, and with the large results that these refer to.
    errors = {"OwnerDiedError": NODE, "ObjectLostError": NODE, "ObjectReconstructionFailedError": NODE}

    def round(self, number: int) -> None:
        values = [self.rng.randrange(1_000_000) for _ in range(ROOTS)]
        trees = [count.remote(DEPTH, value) for value in values]
        lists = [hand_on.remote(value) for value in values]
        sums = [read.remote(ref) for ref in lists]
        expect("trees", [self.fetch(ref) for ref in trees], [counted(DEPTH, value) for value in values])
        expect("sums", [self.fetch(ref) for ref in sums], [sum(value + i for i in range(WIDTH)) for value in values])
