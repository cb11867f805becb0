"""locality: on the node that holds most bytes of the arguments, else as default.

What any strategy without another wish becomes when it carries ``"locality"``, an incarnation.  Soft: a node that is
gone or could never hold the demand is no reason to wait.  With ``"patient"`` a node that is merely busy is a reason.
The caller decides how long it waits (delay scheduling, Zaharia et al., EuroSys 2010, section 3): zray.sched.spillback
waits as long as moving the bytes would take.
"""

from __future__ import annotations

from typing import Any

from zray.ids import INCARNATION_SIZE
from zray.sched.policies import hybrid, labels
from zray.sched.policies.base import Choice, allowed

NAME = "locality"


def choices(view: Any, strategy: dict, here: int) -> list[Choice]:
    node = strategy["locality"][:INCARNATION_SIZE]

    def holds(row: int) -> bool:
        return (view.nodes[row] or b"")[:INCARNATION_SIZE] == node and labels.selected(view, row, strategy)

    there = Choice(allowed(view, (NAME, node, labels.selector_key(strategy)), holds))
    patient = bool(strategy.get("patient"))
    return [there, *(choice._replace(otherwise=patient) for choice in hybrid.choices(view, strategy, here))]


def obstacle(view: Any, strategy: dict) -> str:
    return ""
