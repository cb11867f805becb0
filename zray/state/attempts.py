"""Attempts of tasks, from what three parties say of each: its owner, its worker, and the events of its node.  Pure.

    party     says                                            counts
    owner     its state while it is unfinished, its demand    least: it hears of the start last
    owner     that it has finished, while lineage knows it    where no event does: its node may be dead
    worker    that it runs or waits here, in get or in wait   more
    events    that it runs since ..., or has ended            most, once it has ended

A constructor has no owner's record: its row is made from the row of its actor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from zray.environments.spec import written
from zray.sched.resources import UNIT
from zray.state.places import Places, bare, milliseconds

Key = tuple[str, int]
DRIVER_PARENT = "ff" * 20  # then the job: the task id of a driver, as in Ray
ENDED = ("FINISHED", "FAILED")
# What only the process that runs a task knows: it says more than the event that the task runs.
OF_WORKERS = frozenset(("RUNNING", "RUNNING_IN_RAY_GET", "RUNNING_IN_RAY_WAIT", "PENDING_ARGS_FETCH",
                        "PENDING_ACTOR_TASK_ARGS_FETCH"))
INCARNATION_DIGITS = 16
PREFIX_DIGITS = 32  # of a task id: the same for all tasks of one attempt of a parent


def rows(events: Iterable[dict[str, Any]], live: Iterable[dict[str, Any]], actors: Iterable[dict[str, Any]],
         parents: dict[str, str], reasons: dict[tuple[str, int], str], places: Places,
         stories: Iterable[tuple[str, int, float, str]] = ()) -> list[dict[str, Any]]:
    """Rows of TaskState: unfinished ones first, then the latest; of one task the latest attempt first.

    ``parents``: the tasks that submitted others, by the first digits of the ids of these.  ``reasons``: what the
    scheduling keys of owners wait for, by (owner, key).  ``stories``: what owners say of ended attempts.
    """
    merged = merge(events, live)
    for task, attempt, created, waited in stories:
        known = merged.get((task, attempt))
        if known is not None:
            known["created_s"] = known.get("created_s") or created
            known["waits_for"] = known.get("waits_for") or waited
    for record in merged.values():
        if record["state"] == "PENDING_NODE_ASSIGNMENT" and record.get("key"):
            owner = record["process"]["worker_id"][:INCARNATION_DIGITS]
            record["waits_for"] = reasons.get((owner, record["key"])) or record.get("waits_for", "")
    by_id = {row["actor_id"]: row for row in actors}
    for actor in by_id.values():
        _add_constructor(merged, actor)
    found = [_row(record, by_id.get(record.get("actor", "")), parents, places) for record in merged.values()]
    found.sort(key=_order)
    return found


def merge(events: Iterable[dict[str, Any]], live: Iterable[dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    """What is known of each attempt, by (task id, attempt)."""
    merged: dict[Key, dict[str, Any]] = {}
    here = []
    for row in live:
        if row.get("here"):
            here.append(row)
        else:
            merged[row["task_id"], row["attempt"]] = {**row, "units": True}
    for row in here:
        process = row["process"]
        record = merged.setdefault((row["task_id"], row["attempt"]), {})
        record.update({name: row[name] for name in ("task_id", "attempt", "name", "state")},
                      worker_id=process["worker_id"], pid=process["pid"])
        if row.get("paused"):
            record["paused"] = True
        if process["actor"]:
            record.update(actor=process["actor"], type="ACTOR_TASK")
    for row in events:
        key = row["task_id"], row["attempt"]
        known = merged.get(key)
        if known is None:
            merged[key] = {**row, "units": "start_s" in row and not row["start_s"]}  # an owner's, without a run
        elif row["state"] in ENDED:
            merged[key] = {**known, **_said(row)}
        else:
            state = known.get("state", "")
            known.update(_said(row), state=state if state in OF_WORKERS or state in ENDED else row["state"])
    return merged


def _said(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that an event fills."""
    return {name: value for name, value in row.items() if value not in ("", 0, 0.0, None, {}, [])} | {
        "state": row["state"], "attempt": row["attempt"]} | ({"units": False} if row.get("resources") else {})


def _add_constructor(merged: dict[Key, dict[str, Any]], actor: dict[str, Any]) -> None:
    """The constructor of the present life of an actor, unless an event reports it."""
    key = creation_task(actor["actor_id"]), actor.get("num_restarts", 0)
    known = merged.get(key)
    record = {"task_id": key[0], "attempt": key[1], "actor": actor["actor_id"], "type": "ACTOR_CREATION_TASK",
              "name": f"{bare(actor['class_name'])}.__init__", "created_s": actor.get("created_s", 0.0),
              "resources": actor.get("required_resources") or {},
              "group": actor.get("group", ""), "labels": actor.get("labels") or {}, "env": actor.get("env") or {},
              "start_s": actor.get("placed_s", 0.0), "end_s": actor.get("up_s", 0.0),
              "pid": actor.get("pid", 0), "creator": actor.get("owner", ""), "worker": actor.get("worker", "")}
    cause = actor.get("death_cause") or {}
    state = actor["state"]
    if state in ("PENDING", "RESTARTING"):
        record["state"] = "RUNNING" if record["start_s"] and actor.get("node_id") else "PENDING_NODE_ASSIGNMENT"
        record["pending_reason"] = cause.get("detail", "")
        record["end_s"] = 0.0
    elif state == "DEPENDENCIES_UNREADY":
        record["state"] = "PENDING_ARGS_AVAIL"
    elif cause.get("kind") == "init":
        record |= {"state": "FAILED", "error_type": "TASK_EXECUTION_EXCEPTION",
                   "error_message": cause.get("message", "")}
    elif record["end_s"] or state == "ALIVE":
        record["state"] = "FINISHED"
    else:
        record |= {"state": "FAILED", "error_type": _DEATHS.get(cause.get("kind", ""), "ACTOR_DIED"),
                   "error_message": cause.get("reason", "")}
    merged[key] = {**record, **_said(known)} if known is not None else record


_DEATHS = {"creation": "DEPENDENCY_RESOLUTION_FAILED", "unschedulable": "ACTOR_UNSCHEDULABLE_ERROR",
           "pg_removed": "ACTOR_PLACEMENT_GROUP_REMOVED"}


def creation_task(actor_id: str) -> str:
    """The id of the task that runs the constructor of an actor."""
    return actor_id.ljust(48, "0")


def _row(record: dict[str, Any], actor: dict[str, Any] | None, parents: dict[str, str], places: Places
         ) -> dict[str, Any]:
    task = record["task_id"]
    state = record["state"]
    kind = record.get("type", "NORMAL_TASK")
    resources = record.get("resources") or {}
    if record.get("units"):
        resources = {name: value / UNIT for name, value in resources.items()}
    worker_id = record.get("worker_id") or places.worker_id(record.get("worker", ""))
    env = record.get("env") or (actor or {}).get("env") or {}
    created, start, end = (record.get(name) or 0.0 for name in ("created_s", "start_s", "end_s"))
    return {
        "task_id": task, "attempt_number": record["attempt"], "name": record["name"], "state": state,
        "job_id": task[:8], "actor_id": record.get("actor") or None, "type": kind,
        "func_or_class_name": record.get("function") or record["name"],
        "parent_task_id": _parent(record, parents), "node_id": places.node_id_of(worker_id) if worker_id else None,
        "worker_id": worker_id or None, "worker_pid": record.get("pid") or None,
        "error_type": record.get("error_type") or None, "language": "PYTHON", "required_resources": resources,
        "runtime_env_info": {"serialized_runtime_env": json.dumps(written(env))},
        "placement_group_id": record.get("group") or None,
        "events": _story(record, created, start, end),
        "profiling_data": {
            "component_type": "worker", "component_id": worker_id or "", "node_ip_address": places.ip_of(worker_id),
            "events": [{"event_name": "task:execute", "start_time": start * 1000, "end_time": end * 1000}]
            if start and end else []},
        "creation_time_ms": milliseconds(created or start), "start_time_ms": milliseconds(start),
        "end_time_ms": milliseconds(end),
        "task_log_info": places.logs_of(worker_id) if worker_id else None,
        "error_message": record.get("error_message") or None,
        "is_debugger_paused": bool(record.get("paused")), "call_site": None,
        "label_selector": record.get("labels") or {}, "fallback_strategy": None, "count": record.get("count") or 1,
        "pending_reason": record.get("waits_for") or record.get("pending_reason") or None}


def _story(record: dict[str, Any], created: float, start: float, end: float) -> list[dict[str, Any]]:
    """The states of the attempt with their times, as far as known."""
    steps = [("PENDING_ARGS_AVAIL", created), ("PENDING_NODE_ASSIGNMENT", record.get("ready_s") or 0.0)]
    leased = record.get("leased_s") or 0.0
    if created and created <= leased <= start:  # else the lease served another task before this one
        steps.append(("SUBMITTED_TO_WORKER", leased))
    steps.append(("RUNNING", start))
    for begun, over in record.get("blocked") or ():
        steps += [("RUNNING_IN_RAY_GET", begun), ("RUNNING", over if over < end else 0.0)]
    return [{"state": name, "created_ms": milliseconds(at)} for name, at in [*steps, (record["state"], end)] if at]


def _parent(record: dict[str, Any], parents: dict[str, str]) -> str:
    """The task that submitted this one; a driver has a task id that is made of its job."""
    task = record["task_id"]
    if record.get("type") == "ACTOR_CREATION_TASK":
        return DRIVER_PARENT + task[:8]
    return record.get("parent") or parents.get(task[:PREFIX_DIGITS]) or DRIVER_PARENT + task[:8]


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    number = int.from_bytes(bytes.fromhex(row["task_id"][PREFIX_DIGITS:]), "little")
    return row["state"] in ENDED, -row["end_time_ms"], row["task_id"][:PREFIX_DIGITS], -number, -row["attempt_number"]
