"""The groups of rows, in the order they are shown."""

from __future__ import annotations

import importlib

from benchmarks.measure import Row

GROUPS = {
    "session": "benchmarks.startup",
    "tasks": "benchmarks.tasks",
    "actors": "benchmarks.actors",
    "latency": "benchmarks.latency",
    "objects": "benchmarks.objects",
    "graphs": "benchmarks.graphs",
    "queue": "benchmarks.queue_depth",
    "groups": "benchmarks.placement_groups",
    "kernels": "benchmarks.kernels",
    "transfer": "benchmarks.transfer",
    "cluster": "benchmarks.cluster",
    "gcs": "benchmarks.gcs",
}
ZRAY_ONLY = {"kernels", "transfer", "cluster", "gcs"}


def measure(group: str, module: str, quick: bool = False) -> list[Row]:
    """Rows of ``group``, measured in this process on ``module`` ("zray" or "ray")."""
    rows = importlib.import_module(GROUPS[group]).rows
    if group in ZRAY_ONLY:
        return [{"group": group, "better": "higher", **row} for row in rows()]
    return rows(importlib.import_module(module), quick)
