"""Objects outlive their owner: an actor makes them, hands the references on, and is killed."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

import zray as ray
from fuzz.chaos.verdict import NODE, PROCESS
from fuzz.chaos.workloads.base import SURE, Workload, expect

LARGE, TASKS, SLOW_S = 30_000, 4, 0.3


@ray.remote(**SURE, num_cpus=0.5, scheduling_strategy="SPREAD")
def late(value: int, size: int) -> Any:
    time.sleep(SLOW_S)
    return np.full(size, value)


class Owner:
    def pid(self) -> int:
        return os.getpid()

    def make(self, value: int) -> dict[str, list[Any]]:
        """References to objects of this process: ready ones, and tasks that run."""
        return {"small": [ray.put(value)], "large": [ray.put(np.full(LARGE, value), durability=2)],
                "tasks": [late.remote(value, LARGE if i % 2 else 10) for i in range(TASKS)]}


@ray.remote(**SURE, num_cpus=0.5)
def first(values: list[Any]) -> list[int]:
    return [int(value[0]) for value in ray.get(values)]


class Owners(Workload):
    name = "owners"
    errors = {
        "ActorDiedError": NODE | PROCESS,  # the owner has no restarts: it may die before it has handed on
        # Both copies of a large object may be lost with two nodes in a row, and a holder may have none of its own yet.
        "OwnerDiedError": NODE,
        # The finished task of an owner that died, lost with its node afterwards: only the first owner knew how.
        "ObjectLostError": NODE, "ObjectReconstructionFailedError": NODE,
    }

    def round(self, number: int) -> None:
        value = self.rng.randrange(1_000_000)
        owner = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(Owner).remote()
        self.step(owner=self.fetch(owner.pid.remote()))
        made = self.fetch(owner.make.remote(value))
        reader = first.remote([*made["tasks"], *made["large"]])
        if number % 3 == 0:
            ray.kill(owner)
        expect("small", [self.fetch(ref) for ref in made["small"]], [value])
        expect("tasks", [int(self.fetch(ref)[0]) for ref in made["tasks"]], [value] * TASKS)
        expect("large", [int(self.fetch(ref)[-1]) for ref in made["large"]], [value])
        expect("what a reader has", self.fetch(reader), [value] * (TASKS + 1))
