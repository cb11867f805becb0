"""Tasks for the page: counts by function and state, the stream of what runs, and the story of one task.  Pure but for
what the reader reads.

The counts are of the rows that were read: all unfinished tasks up to reading.READ_TASKS_MAX, and those that ended last.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zray.dashboard.query import Query, cell, number, table, whole
from zray.dashboard.reading import PageReader
from zray.state.attempts import ENDED

TASK_COLUMNS = ("task_id", "name", "state", "type", "attempt_number", "job_id", "actor_id", "node_id", "worker_pid",
           "creation_time_ms", "start_time_ms", "end_time_ms", "count", "error_type", "pending_reason")
COUNTED_FUNCTIONS_MAX = 200  # functions of the table of counts
STREAM_BARS_MAX = 1_500  # of the stream
STREAM_LANES_MAX = 64
SPAN_S = 30
SPAN_S_MAX = 3_600
RELATED_MAX = 100  # children of one task


def phase(state: str) -> str:
    """runs, blocked (in get or wait), waits, finished or failed: the five states of which people think."""
    if state == "RUNNING":
        return "runs"
    if state in ("RUNNING_IN_RAY_GET", "RUNNING_IN_RAY_WAIT"):
        return "blocked"
    return {"FINISHED": "finished", "FAILED": "failed"}.get(state, "waits")


def tasks(reader: PageReader, query: Query) -> dict[str, Any]:
    """The table of tasks, and their counts by function."""
    found = reader.rows("tasks")
    return {"table": table(found.rows, TASK_COLUMNS, query, found.total), "counts": counts(found.rows),
            "states": sorted({row["state"] for row in found.rows})}


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Tasks by function and phase, the functions with unfinished tasks first."""
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = row["func_or_class_name"]
        group = groups.get(name)
        if group is None:
            group = groups[name] = {"name": cell(name, 200), "type": row["type"], "runs": 0, "blocked": 0, "waits": 0,
                                    "finished": 0, "failed": 0, "oldest_ms": 0, "busy_ms": 0, "timed": 0}
        state, items = phase(row["state"]), row.get("count") or 1
        group[state] += items
        start, end = row.get("start_time_ms") or 0, row.get("end_time_ms") or 0
        if state in ("runs", "blocked") and start and (not group["oldest_ms"] or start < group["oldest_ms"]):
            group["oldest_ms"] = start
        if start and end >= start and state in ("finished", "failed"):
            group["busy_ms"] += end - start
            group["timed"] += items
    order = sorted(groups.values(), key=lambda group: (-(group["runs"] + group["blocked"]), -group["waits"],
                                                       -group["failed"], -group["finished"], group["name"]))
    return {"groups": order[:COUNTED_FUNCTIONS_MAX], "functions": len(order)}


def stream(reader: PageReader, query: Query) -> dict[str, Any]:
    """Bars of the last ``span`` seconds, by process: what ran where, and what still runs."""
    span = max(1, number(query.where, "span", SPAN_S, SPAN_S_MAX))
    return bars(reader.rows("tasks").rows, time.time() * 1000, span)


def bars(rows: Iterable[Mapping[str, Any]], now_ms: float, span_s: int) -> dict[str, Any]:
    """At most STREAM_BARS_MAX bars in STREAM_LANES_MAX lanes, the latest first; the rest is counted."""
    since = now_ms - span_s * 1000
    shown = [row for row in rows if row.get("start_time_ms") and row.get("worker_id") and (
        row["state"] not in ENDED or row["end_time_ms"] >= since)]
    shown.sort(key=lambda row: -row["start_time_ms"])
    lanes: dict[str, dict[str, Any]] = {}
    kept: list[Mapping[str, Any]] = []
    for row in shown:
        worker = row["worker_id"]
        if len(kept) >= STREAM_BARS_MAX or worker not in lanes and len(lanes) >= STREAM_LANES_MAX:
            continue
        lanes.setdefault(worker, {"worker_id": worker, "pid": row.get("worker_pid"), "node_id": row.get("node_id"),
                                  "actor_id": row.get("actor_id")})
        kept.append(row)
    order = sorted(lanes.values(), key=lambda lane: (lane["node_id"] or "", lane["pid"] or 0, lane["worker_id"]))
    place = {lane["worker_id"]: number for number, lane in enumerate(order)}
    found = [[place[row["worker_id"]], cell(row["name"], 120), row["start_time_ms"],
              row["end_time_ms"] if row["state"] in ENDED else 0, phase(row["state"]), row["task_id"]] for row in kept]
    return {"lanes": order, "bars": found, "span_s": span_s, "left_out": len(shown) - len(kept)}


def task(reader: PageReader, query: Query) -> dict[str, Any]:
    """The story of one task: its attempts, the task that made it, and the tasks that it made."""
    wanted = query.wanted("id")
    known = reader.rows("tasks").rows
    attempts = [row for row in known if row["task_id"] == wanted]
    if not attempts and len(wanted) % 2 == 0 and all(c in "0123456789abcdef" for c in wanted):
        attempts = list(reader.source.rows("tasks", detail=True, task=bytes.fromhex(wanted)).rows)
    if not attempts:
        return {"found": False, "id": cell(wanted)}
    first = attempts[0]
    parent = next((row for row in known if row["task_id"] == first["parent_task_id"]), None)
    children = [row for row in known if row["parent_task_id"] == wanted]
    return {"found": True, "id": wanted, "attempts": [whole(row) for row in attempts],
            "parent": _brief(parent) if parent else None, "parent_id": first["parent_task_id"],
            "children": [_brief(row) for row in children[:RELATED_MAX]], "children_total": len(children)}


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cell(row[name], 200) for name in ("task_id", "name", "state", "pending_reason", "start_time_ms",
                                                     "end_time_ms")}


def of_actors(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By actor: calls that wait, the time at which the oldest of them was made, and the call that runs longest."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        actor = row.get("actor_id")
        if not actor or row["state"] in ENDED or row["type"] != "ACTOR_TASK":
            continue
        about = found.setdefault(actor, {"queued": 0, "head_ms": 0, "running": "", "running_ms": 0})
        if phase(row["state"]) == "waits":
            about["queued"] += row.get("count") or 1
            at = row["creation_time_ms"]
            if at and (not about["head_ms"] or at < about["head_ms"]):
                about["head_ms"] = at
        elif not about["running_ms"] or row["start_time_ms"] < about["running_ms"]:
            about["running"], about["running_ms"] = cell(row["name"], 200), row["start_time_ms"]
    return found
