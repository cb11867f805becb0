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
from zray.sched.policies.base import allowed, dense
from zray.sched.resources import GPU_COLUMN, Demand

NAME = "default"
THRESHOLD_PPM = 500_000  # parts per million; the Ray paper's global scheduler leaves it open, half is Ray's setting


def pick(view: Any, demand: Demand, strategy: dict, here: int) -> int:
    mask = allowed(view, lambda row: labels.selected(view, row, strategy))
    return pick_among(view, demand, mask, here)


def pick_among(view: Any, demand: Demand, mask: Any, here: int, threshold: int = THRESHOLD_PPM) -> int:
    pick_row = view.kernels.pick_hybrid
    return int(pick_row(view.total, view.available, mask, dense(view, demand), threshold, here, GPU_COLUMN))


def obstacle(view: Any, strategy: dict) -> str:
    return ""
