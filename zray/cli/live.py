"""What runs and what waits, by worker, actor and function, from rows of the state API.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from zray.state.attempts import ENDED

Row = dict[str, Any]
RUNNING_STATES = {"RUNNING": "", "RUNNING_IN_RAY_GET": "in get", "RUNNING_IN_RAY_WAIT": "in wait"}
ACTOR_QUEUE = ("PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY", "PENDING_ACTOR_TASK_ARGS_FETCH")
# In few words, for a column of a table; `--filter` takes Ray's names.
STATES = {
    **RUNNING_STATES, "RUNNING": "running", "FINISHED": "finished", "FAILED": "failed", "NIL": "",
    "PENDING_ARGS_AVAIL": "waits: args", "PENDING_NODE_ASSIGNMENT": "waits: worker", "SUBMITTED_TO_WORKER": "pushed",
    "PENDING_ARGS_FETCH": "fetches args", "PENDING_ACTOR_TASK_ARGS_FETCH": "fetches args",
    "GETTING_AND_PINNING_ARGS": "fetches args", "PENDING_OBJ_STORE_MEM_AVAIL": "waits: memory",
    "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY": "waits: actor"}
_WHY = {"PENDING_ARGS_AVAIL": "its arguments are not ready", "PENDING_NODE_ASSIGNMENT": "it has no worker yet",
        "SUBMITTED_TO_WORKER": "it is on its way to a worker, or behind others there",
        "PENDING_ARGS_FETCH": "its arguments are being brought to it",
        "PENDING_ACTOR_TASK_ARGS_FETCH": "its arguments are being brought to it",
        "PENDING_OBJ_STORE_MEM_AVAIL": "the object store is full"}


@dataclass
class CallQueue:
    """The calls that wait in or for one actor."""

    count: int = 0
    oldest_ms: int = 0  # when the first of them was called, 0 for unknown
    names: dict[str, int] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.count += row["count"] or 1
        self.names[row["name"]] = self.names.get(row["name"], 0) + (row["count"] or 1)
        created = row["creation_time_ms"]
        if created and (not self.oldest_ms or created < self.oldest_ms):
            self.oldest_ms = created


class Unfinished:
    """The unfinished tasks of a cluster."""

    def __init__(self, tasks: Iterable[Row]):
        self.running: dict[str, list[Row]] = {}  # by worker, the longest first
        self.queues: dict[str, CallQueue] = {}  # by actor
        self.waiting: list[Row] = []
        for row in tasks:
            if row["state"] in RUNNING_STATES:
                self.running.setdefault(row["worker_id"] or "", []).append(row)
            elif row["state"] not in ENDED:
                self.waiting.append(row)
                if row["actor_id"] and row["type"] == "ACTOR_TASK":
                    self.queues.setdefault(row["actor_id"], CallQueue()).add(row)
        self._of_actors: dict[str, list[Row]] = {}
        for found in self.running.values():
            found.sort(key=lambda row: row["start_time_ms"] or 0)
            for row in found:
                self._of_actors.setdefault(row["actor_id"] or "", []).append(row)

    def all_running(self) -> list[Row]:
        return [row for found in self.running.values() for row in found]

    def on(self, worker_id: str | None) -> list[Row]:
        """What runs on a worker, also by the first 16 digits of its id."""
        if not worker_id:
            return []
        found = self.running.get(worker_id)
        if found is None and len(worker_id) == 16:
            found = next((rows for worker, rows in self.running.items() if worker.startswith(worker_id)), None)
        return found or []

    def of_actor(self, actor: Row) -> list[Row]:
        return self._of_actors.get(actor["actor_id"], [])


def seconds_since(ms: float | None, now_s: float) -> float | None:
    return max(0.0, now_s - ms / 1000) if ms else None


def took(row: Row, now_s: float) -> float | None:
    """How long a task ran, runs, or waits."""
    if row["state"] in ENDED:
        start = row["start_time_ms"] or row["creation_time_ms"]
        return (row["end_time_ms"] - start) / 1000 if row["end_time_ms"] and start else None
    return seconds_since(row["start_time_ms"] if row["state"] in RUNNING_STATES else row["creation_time_ms"], now_s)


@dataclass(frozen=True)
class TaskGroup:
    """Tasks of one function in one state, for one reason."""

    name: str
    state: str
    why: str
    count: int
    longest_s: float | None
    example: str  # the id of the one that has taken longest


def grouped(rows: Sequence[Row], now_s: float, why: Any = None) -> list[TaskGroup]:
    """The rows by function, state and ``why(row)``; the largest age first."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["name"], row["state"], why(row) if why else ""), []).append(row)
    groups = []
    for (name, state, reason), members in found.items():
        oldest = max(members, key=lambda row: took(row, now_s) or 0.0)
        groups.append(TaskGroup(name, state, reason, sum(row["count"] or 1 for row in members), took(oldest, now_s),
                            oldest["task_id"]))
    return sorted(groups, key=lambda group: (-(group.longest_s or 0.0), group.name, group.state, group.why))


def reason_of(row: Row, work: Unfinished, actors: dict[str, Row]) -> str:
    """Why a task waits, in words."""
    if row["pending_reason"]:
        return f"{row['pending_reason']}"
    actor = actors.get(row["actor_id"] or "")
    if actor is not None and row["type"] == "ACTOR_TASK":
        called = actor["name"] or actor["class_name"]
        if actor["state"] != "ALIVE":
            return f"its actor {called} is {actor['state']}"
        if row["state"] in ACTOR_QUEUE or row["state"] == "SUBMITTED_TO_WORKER":
            busy = work.of_actor(actor)
            runs = f", which runs {busy[0]['name']}" if busy else ""
            return f"the earlier calls of actor {called}{runs}"
    return _WHY.get(row["state"]) or f"it is {row['state']}"
