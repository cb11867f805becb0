"""Worker processes of this node that have ended, for the state API: a bounded number, the oldest go first.  Pure."""

from __future__ import annotations

from collections import deque
from typing import Any

from zray.base.exits import exit_of
from zray.node.leases.placements import Death
from zray.node.processes.pool import WorkerRecord


def life_of(worker: WorkerRecord) -> dict[str, Any]:
    """When a worker was forked and was ready, by the clock of the node; 0 for not yet."""
    return {"launched_s": worker.launched_s, "ready_s": worker.ready_s}


def exit_of_worker(worker: WorkerRecord, death: Death) -> tuple[str, str]:
    """``(exit type, detail)`` of a worker that has ended."""
    return exit_of(worker.reason or worker.asked, death.signal, death.exit_code, worker.raised)


class EndedWorkers:
    """Rows of ended workers, oldest first."""

    def __init__(self, kept_max: int):
        self.rows: deque[dict[str, Any]] = deque(maxlen=kept_max)

    def add(self, worker: WorkerRecord, death: Death, now: float) -> tuple[str, str]:
        """The process has ended; ``(exit type, detail)``."""
        exit_type, detail = exit_of_worker(worker, death)
        if death.log_tail and death.exit_code and not worker.raised:
            detail += f" The end of its output:\n{death.log_tail}"
        self.rows.append({"worker_id": worker.id, "pid": worker.pid, "job": worker.job, "actor": worker.actor,
                          "exit_type": exit_type, "exit_detail": detail, "ended_s": now, **life_of(worker)})
        return exit_type, detail
