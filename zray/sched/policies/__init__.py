"""Placement policies, one a file, behind one interface.

    NAME: str                                                  the wire name in strategy["kind"]
    pick(view, demand, strategy, local) -> int                 a row, NOT_NOW, or INFEASIBLE
    obstacle(view, strategy) -> str                            why a lone node never admits it, '' if it may

A strategy travels as a map: ``{}`` or ``{"kind": "default"}``; ``{"kind": "spread"}``;
``{"kind": "affinity", "node": bytes, "soft": bool}``; ``{"kind": "labels", "hard": expressions, "soft":
expressions}``.  Any of them may carry ``"labels"``, an expression map that must hold as well.
"""

from __future__ import annotations

from typing import Any

from zray.sched.policies import affinity, hybrid, labels, local, spread
from zray.sched.policies.base import INFEASIBLE, NOT_NOW, Policy
from zray.sched.resources import Demand

POLICIES: dict[str, Any] = {module.NAME: module for module in (hybrid, spread, affinity, labels, local)}

__all__ = ["INFEASIBLE", "NOT_NOW", "POLICIES", "Policy", "obstacle", "pick", "policy_of"]


def policy_of(strategy: dict) -> Any:
    """The policy a strategy names; ValueError for a name that is none."""
    kind = strategy.get("kind") or hybrid.NAME
    policy = POLICIES.get(kind)
    if policy is None:
        raise ValueError(f"scheduling strategy {kind!r} is none of {sorted(POLICIES)}")
    return policy


def pick(view: Any, demand: Demand | None, strategy: dict, here: int = -1) -> int:
    """The row for one demand under a strategy; ``here`` is the row of the node that asks."""
    if demand is None:
        return INFEASIBLE
    return policy_of(strategy).pick(view, demand, strategy, here)


def obstacle(view: Any, strategy: dict) -> str:
    """Why the only node of ``view`` can never run something with this strategy, '' when it can."""
    try:
        policy = policy_of(strategy)
    except ValueError as error:
        return str(error)
    return policy.obstacle(view, strategy) or labels.selector_obstacle(view, strategy)
