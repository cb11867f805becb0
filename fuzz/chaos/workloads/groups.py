"""Placement groups that come and go, with tasks and an actor in them."""

from __future__ import annotations

from typing import Any

import zray as ray
from fuzz.chaos.workloads.base import PATIENCE_S, SURE, Stalled, Workload, expect
from zray.util.placement_group import placement_group, remove_placement_group
from zray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
TASKS = 6


@ray.remote(**SURE, num_cpus=0.25)
def square(x: int) -> int:
    return x * x


class Adder:
    def add(self, x: int, y: int) -> int:
        return x + y


class Groups(Workload):
    name = "groups"

    def round(self, number: int) -> None:
        bundles = 1 + self.rng.randrange(3)
        group = placement_group([{"CPU": 0.5}] * bundles, strategy=STRATEGIES[number % len(STRATEGIES)])
        try:
            if not group.wait(PATIENCE_S):
                raise Stalled(f"groups: a group of {bundles} bundles is not ready: {ray.explain(group.ready())}")
            self.step()
            x = self.rng.randrange(1000)
            refs = [square.options(scheduling_strategy=PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=i % bundles)).remote(x + i) for i in range(TASKS)]
            adder: Any = ray.remote(num_cpus=0.25, max_restarts=-1, max_task_retries=-1)(Adder).options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote()
            sums = [adder.add.remote(x, i) for i in range(TASKS)]
            expect("squares", [self.fetch(ref) for ref in refs], [(x + i) ** 2 for i in range(TASKS)])
            expect("sums", [self.fetch(ref) for ref in sums], [x + i for i in range(TASKS)])
        finally:
            remove_placement_group(group)
