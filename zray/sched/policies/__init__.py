"""Placement policies, one a file, behind one interface.

    NAME: str                                                  the wire name in strategy["kind"]
    choices(view, strategy, here) -> [Choice, ...]             the rows it admits, the better ones first
    obstacle(view, strategy) -> str                            why a lone node never admits it, '' if it may

A strategy travels as a map: ``{}`` or ``{"kind": "default"}``; ``{"kind": "spread"}``;
``{"kind": "affinity", "node": bytes, "soft": bool}``; ``{"kind": "labels", "hard": expressions, "soft":
expressions}``, or with ``"ladder": [expressions, ...]``; ``{"kind": "local"}``; ``{"kind": "group", "nodes": [bytes,
...]}``.  Any of them may carry ``"labels"``, an expression map that must hold as well, and the default ``"locality":
bytes``, the node that holds most bytes of the arguments.
"""

from __future__ import annotations

from typing import Any

from zray.sched.policies import affinity, group, hybrid, labels, local, locality, spread
from zray.sched.policies.base import INFEASIBLE, NOT_NOW, Choice, Policy, pick_hybrid
from zray.sched.resources import Demand

POLICIES: dict[str, Any] = {module.NAME: module for module in
                             (hybrid, spread, affinity, labels, local, locality, group)}

__all__ = ["INFEASIBLE", "NOT_NOW", "POLICIES", "Choice", "Policy", "obstacle", "pick", "policy_of"]


def policy_of(strategy: dict) -> Any:
    """The policy a strategy names; ValueError for a name that is none."""
    kind = strategy.get("kind") or hybrid.NAME
    if kind == hybrid.NAME and strategy.get("locality"):
        return locality
    policy = POLICIES.get(kind)
    if policy is None:
        raise ValueError(f"scheduling strategy {kind!r} is none of {sorted(POLICIES)}")
    return policy


def pick(view: Any, demand: Demand | None, strategy: dict, here: int = -1) -> int:
    """The row for one demand under a strategy; ``here`` is the row of the node that asks."""
    if demand is None:
        return INFEASIBLE
    policy, best = policy_of(strategy), INFEASIBLE
    for mask, otherwise in policy.choices(view, strategy, here):
        if otherwise and best != INFEASIBLE:
            continue
        if policy is spread:
            row = spread.pick(view, demand, strategy, mask)
        else:
            row = pick_hybrid(view, demand, mask, here)
        if row >= 0:
            return row
        best = max(best, row)
    return best


def obstacle(view: Any, strategy: dict) -> str:
    """Why the only node of ``view`` can never run something with this strategy, '' when it can."""
    try:
        policy = policy_of(strategy)
    except ValueError as error:
        return str(error)
    return policy.obstacle(view, strategy) or labels.selector_obstacle(view, strategy)
