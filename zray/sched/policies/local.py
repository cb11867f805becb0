"""local: on the asking node or not at all.

What a daemon uses for work bound to it (bottom-up scheduling asks here first, and forwards when the answer is
INFEASIBLE).  Assumes that ``here`` is the row of a live node.
"""

from __future__ import annotations

from typing import Any

from zray.sched.policies import hybrid, labels
from zray.sched.policies.base import allowed
from zray.sched.resources import Demand

NAME = "local"


def pick(view: Any, demand: Demand, strategy: dict, here: int) -> int:
    mask = allowed(view, lambda row: row == here and labels.selected(view, row, strategy))
    return hybrid.pick_among(view, demand, mask, here)


def obstacle(view: Any, strategy: dict) -> str:
    return ""
