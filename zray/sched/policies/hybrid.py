"""default: pack onto nodes until they are half full, then spread.

Packing keeps whole nodes free for large demands and data close together; above the threshold contention costs more
than locality brings, so the least loaded node wins.  Assumes that the busiest resource of a node is what slows it.

Among the allowed nodes where the demand is free:
  1. a demand without GPU prefers nodes without GPUs;
  2. the lower load wins, where load is the share in use of the node's most used resource, and counts as zero below
     the threshold;
  3. at equal load the asking node wins, then the lowest row.
"""

from __future__ import annotations

from typing import Any

from zray.sched.policies import labels
from zray.sched.policies.base import Choice, allowed

NAME = "default"


def choices(view: Any, strategy: dict, here: int) -> list[Choice]:
    return [Choice(allowed(view, labels.selector_key(strategy), lambda row: labels.selected(view, row, strategy)))]


def obstacle(view: Any, strategy: dict) -> str:
    return ""
