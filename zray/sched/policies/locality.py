"""locality: on the node that holds most bytes of the arguments, else as default.

Any strategy without another wish becomes this one when it carries ``"locality"``, an incarnation.  Soft: a demand does
not wait for a node that is gone or could never hold it.  With ``"patient"`` it waits for a node that is merely busy.
The caller decides for how long (delay scheduling, Zaharia et al., EuroSys 2010, section 3):
zray.sched.cluster.spillback takes
the time that moving the bytes would take.
"""

from __future__ import annotations

from typing import Any

from zray.base.ids import INCARNATION_SIZE
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
