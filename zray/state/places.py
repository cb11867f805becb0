"""Nodes by the processes on them, and times, for the rows of the state API.  Pure."""

from __future__ import annotations

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
