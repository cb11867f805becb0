"""The workloads by name; each runs in a driver process of its own."""

from __future__ import annotations

from fuzz.chaos.workloads.base import Workload
from fuzz.chaos.workloads.ledger import Ledger
from fuzz.chaos.workloads.tree import Tree

WORKLOADS: dict[str, type[Workload]] = {each.name: each for each in (Tree, Ledger)}
