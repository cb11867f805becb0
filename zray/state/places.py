"""Nodes by the processes on them, and times, for the rows of the state API.  Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

TAG_DIGITS = 8  # of a process's id: they name its node
WORKER_DIGITS = 56


class Places:
    """Looks up node ids and addresses by ids of processes."""

    def __init__(self, nodes: Iterable[dict[str, Any]], workers: Iterable[dict[str, Any]] = ()):
        self._nodes = {row["NodeID"][:TAG_DIGITS]: row for row in nodes}
        self._workers = {row["worker_id"][:16]: row["worker_id"] for row in workers}

    def node_id_of(self, process: str) -> str | None:
        row = self._nodes.get(process[:TAG_DIGITS])
        return row["NodeID"] if row is not None else None

    def ip_of(self, process: str | None) -> str:
        row = self._nodes.get((process or "")[:TAG_DIGITS])
        return row.get("NodeManagerAddress", "") if row is not None else ""

    def logs_of(self, worker_id: str) -> dict[str, Any] | None:
        """The log files of a worker, as TaskState has them; None where its node is unknown.

        Which part of them a task wrote is not recorded, hence -1.
        """
        row = self._nodes.get(worker_id[:TAG_DIGITS])
        if row is None or not row.get("RayletSocketName"):
            return None
        directory = os.path.dirname(row["RayletSocketName"].removeprefix("ipc://"))
        stem = os.path.join(directory, "logs", f"worker-{worker_id[:16]}")
        return {f"{stream}_{name}": value for stream, suffix in (("stdout", "out"), ("stderr", "err"))
                for name, value in (("file", f"{stem}.{suffix}"), ("start", -1), ("end", -1))}

    def worker_id(self, incarnation: str) -> str:
        """The WorkerID of an incarnation, as far as known; '' of ''."""
        return self._workers.get(incarnation, incarnation.ljust(WORKER_DIGITS, "0")) if incarnation else ""


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def bare(name: str) -> str:
    """The name of a class or function without the scopes around it."""
    return name.rpartition(".")[2]


def job_hex(number: Any) -> str:
    """A job's number as JobID shows it; '' for no job."""
    return int(number).to_bytes(4, "big").hex() if number else ""
