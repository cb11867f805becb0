"""local: on the asking node or not at all.

A daemon uses it for work that is bound to it: bottom-up scheduling asks here first, and forwards the demand when the
answer is INFEASIBLE.  Assumes that ``here`` is the row of a live node.
"""

from __future__ import annotations

from typing import Any

from zray.sched.policies import labels
from zray.sched.policies.base import Choice, allowed

NAME = "local"


def choices(view: Any, strategy: dict, here: int) -> list[Choice]:
    key = (NAME, here, labels.selector_key(strategy))
    return [Choice(allowed(view, key, lambda row: row == here and labels.selected(view, row, strategy)))]


def obstacle(view: Any, strategy: dict) -> str:
    return ""
