"""spread: one after the other over all nodes that have the demand free.

The first such node after the row used last, in row order and round again.  Counting turns, and not load, spreads
demands that load does not show (0 CPU) just as well.  Assumes that the caller keeps ``strategy["cursor"]``.
"""

from __future__ import annotations

from typing import Any

from zray.sched.policies import hybrid
from zray.sched.policies.base import Choice, dense
from zray.sched.resources import Demand

NAME = "spread"


def choices(view: Any, strategy: dict, here: int) -> list[Choice]:
    return hybrid.choices(view, strategy, here)


def pick(view: Any, demand: Demand, strategy: dict, mask: Any) -> int:
    """One row of the mask."""
    cursor = strategy.get("cursor", 0) % max(1, len(view))
    return int(view.kernels.pick_spread(view.total, view.available, mask, dense(view, demand), cursor))


def obstacle(view: Any, strategy: dict) -> str:
    return ""
