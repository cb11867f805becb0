"""Counts of rows, in the form of Ray's summaries.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zray.state.common import ActorState, ObjectState, TaskState

MIB = 1 << 20


def summary_of_tasks(rows: Iterable[TaskState]) -> dict[str, Any]:
    """By name; an attempt counts, and a chunk of a map counts as its items."""
    summary: dict[str, Any] = {}
    totals = {"NORMAL_TASK": 0, "ACTOR_TASK": 0, "ACTOR_CREATION_TASK": 0}
    for row in rows:
        count = row.count or 1
        about = summary.setdefault(row.func_or_class_name, {
            "func_or_class_name": row.func_or_class_name, "type": row.type, "state_counts": {}})
        _count(about["state_counts"], row.state, count)
        totals[row.type] = totals.get(row.type, 0) + count
    return {"summary": summary, "total_tasks": totals["NORMAL_TASK"], "total_actor_tasks": totals["ACTOR_TASK"],
            "total_actor_scheduled": totals["ACTOR_CREATION_TASK"], "summary_by": "func_name"}


def summary_of_actors(rows: Iterable[ActorState]) -> dict[str, Any]:
    """By class."""
    summary: dict[str, Any] = {}
    total = 0
    for row in rows:
        total += 1
        about = summary.setdefault(row.class_name, {"class_name": row.class_name, "state_counts": {}})
        _count(about["state_counts"], row.state, 1)
    return {"summary": summary, "total_actors": total, "summary_by": "class"}


def summary_of_objects(rows: Iterable[ObjectState]) -> dict[str, Any]:
    """By call site."""
    groups: dict[str, list[ObjectState]] = {}
    for row in rows:
        groups.setdefault(row.call_site, []).append(row)
    summary = {site: _objects(group) for site, group in groups.items()}
    return {"summary": summary, "total_objects": sum(about["total_objects"] for about in summary.values()),
            "total_size_mb": sum(about["total_size_mb"] for about in summary.values()),
            "callsite_enabled": set(summary) - {"disabled"} != set(), "summary_by": "callsite"}


def _objects(rows: list[ObjectState]) -> dict[str, Any]:
    about: dict[str, Any] = {"total_objects": len(rows), "task_state_counts": {}, "task_attempt_number_counts": {},
                             "ref_type_counts": {}, "total_num_nodes": len({row.ip for row in rows}),
                             "total_size_mb": sum(max(0, row.object_size) for row in rows) / MIB,
                             "total_num_workers": len({(row.ip, row.pid) for row in rows})}
    for row in rows:
        _count(about["task_state_counts"], row.task_status, 1)
        _count(about["task_attempt_number_counts"], str(row.attempt_number), 1)
        _count(about["ref_type_counts"], row.reference_type, 1)
    return about


def _count(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count
