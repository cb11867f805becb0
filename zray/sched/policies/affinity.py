"""affinity: on this node, or (soft) elsewhere when it is gone or could never hold the demand.

A soft affinity waits for a node that is merely busy: a caller that names a node has data or processes there.  A node is
named by its id, or by its incarnation, which is the id's first 8 bytes.
"""

from __future__ import annotations

from typing import Any

from zray.base.ids import INCARNATION_SIZE
from zray.sched.policies import hybrid, labels
from zray.sched.policies.base import Choice, allowed

NAME = "affinity"


def choices(view: Any, strategy: dict, here: int) -> list[Choice]:
    key = (NAME, strategy["node"][:INCARNATION_SIZE], labels.selector_key(strategy))
    there = allowed(view, key, lambda row: is_node(view, row, strategy) and labels.selected(view, row, strategy))
    if not strategy.get("soft"):
        return [Choice(there)]
    return [Choice(there), *(choice._replace(otherwise=True) for choice in hybrid.choices(view, strategy, here))]


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
