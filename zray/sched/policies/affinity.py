"""affinity: on this node, or (soft) elsewhere when it is gone or could never hold the demand.

A soft affinity waits for a node that is merely busy: whoever names a node has something there.  A node is named by its
id, or by its incarnation, which is the id's first 8 bytes.
"""

from __future__ import annotations

from typing import Any

from zray.ids import INCARNATION_SIZE
from zray.sched.policies import hybrid, labels
from zray.sched.policies.base import INFEASIBLE, allowed
from zray.sched.resources import Demand

NAME = "affinity"


def pick(view: Any, demand: Demand, strategy: dict, here: int) -> int:
    mask = allowed(view, lambda row: is_node(view, row, strategy) and labels.selected(view, row, strategy))
    row = hybrid.pick_among(view, demand, mask, here)
    if row == INFEASIBLE and strategy.get("soft"):
        return hybrid.pick(view, demand, strategy, here)
    return row


def is_node(view: Any, row: int, strategy: dict) -> bool:
    node, wanted = view.nodes[row], strategy["node"]
    return node is not None and node[:INCARNATION_SIZE] == wanted[:INCARNATION_SIZE]


def obstacle(view: Any, strategy: dict) -> str:
    node = strategy.get("node")
    if not isinstance(node, bytes):
        return f"a node affinity names a node by its id, not {node!r}"
    if strategy.get("soft") or any(is_node(view, row, strategy) for row in view.row_of.values()):
        return ""
    return f"it must run on node {node.hex()}, which is not in the cluster"
