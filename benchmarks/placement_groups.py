"""Placement groups on one node: created, awaited and removed one by one, and a hundred at a time.  For information."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.measure import Row, rate, rate_row

GROUP = "groups"
AT_ONCE = 100


def rows(ray: Any, quick: bool = False) -> list[Row]:
    module = importlib.import_module(f"{ray.__name__}.util.placement_group")
    ray.init(num_cpus=2)
    try:
        def one() -> None:
            group = module.placement_group([{"CPU": 0.01}])
            group.wait(30)
            module.remove_placement_group(group)

        def many() -> None:
            groups = [module.placement_group([{"CPU": 0.01}]) for _ in range(AT_ONCE)]
            ray.get([group.ready() for group in groups])
            for group in groups:
                module.remove_placement_group(group)

        return [rate_row(GROUP, "placement groups created and removed", rate(one, 1)),
                rate_row(GROUP, f"placement groups, {AT_ONCE} at a time", rate(many, AT_ONCE))]
    finally:
        ray.shutdown()
