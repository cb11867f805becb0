"""The workloads by name; each runs in a driver process of its own."""

from __future__ import annotations

from fuzz.chaos.workloads.base import Workload
from fuzz.chaos.workloads.groups import Groups
from fuzz.chaos.workloads.ledger import Ledger
from fuzz.chaos.workloads.nested import Nested
from fuzz.chaos.workloads.owners import Owners
from fuzz.chaos.workloads.parameters import Parameters
from fuzz.chaos.workloads.shuffle import Shuffle
from fuzz.chaos.workloads.streaming import Streaming
from fuzz.chaos.workloads.tree import Tree

WORKLOADS: dict[str, type[Workload]] = {
    each.name: each for each in (Tree, Shuffle, Parameters, Streaming, Nested, Ledger, Owners, Groups)}
