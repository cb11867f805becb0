"""group: on the nodes that hold the bundles of a placement group.

The caller resolves the group to ``strategy["nodes"]``, incarnations; until it is placed that is empty and nothing fits.
Assumes that the nodes know their bundles: a demand on a bundle is a demand for resources that only they have.
"""

from __future__ import annotations

from typing import Any

from zray.base.ids import INCARNATION_SIZE
from zray.sched.policies import labels
from zray.sched.policies.base import Choice, allowed, frozen

NAME = "group"


def choices(view: Any, strategy: dict, here: int) -> list[Choice]:
    nodes = {node[:INCARNATION_SIZE] for node in strategy.get("nodes") or ()}

    def member(row: int) -> bool:
        return (view.nodes[row] or b"")[:INCARNATION_SIZE] in nodes and labels.selected(view, row, strategy)

    return [Choice(allowed(view, (NAME, frozen(sorted(nodes)), labels.selector_key(strategy)), member))]


def obstacle(view: Any, strategy: dict) -> str:
    return ""
