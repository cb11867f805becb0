"""Rows of the kinds of the state API, but for tasks, from the answers of nodes.  Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from zray.base.exits import INTENDED_USER_EXIT
from zray.environments.spec import written
from zray.state.places import Places, bare, job_hex, milliseconds

Row = dict[str, Any]
ACTOR_STATES = {"PENDING": "PENDING_CREATION"}  # those that Ray names otherwise
# Kinds of an actor's death (zray.node.actors.table) -> Ray's reasons.
_DEATH_REASONS = {"killed": "RAY_KILL", "died": "WORKER_DIED", "exited": "WORKER_DIED", "out_of_scope": "OUT_OF_SCOPE",
                  "owner_died": "OWNER_DIED", "job_over": "OWNER_DIED", "pg_removed": "WORKER_DIED",
                  "unschedulable": "UNSCHEDULABLE"}
_RAY_KILL = "The actor is dead because it was killed by `ray.kill`."
# A line of the log of a node: see zray.node.running.log_file.
_LOG_LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)$")


def actors(raw: list[Row], live: list[Row], places: Places) -> list[Row]:
    """Rows of ActorState by id; ``live``: what their owners know, creations that wait for arguments, and call sites."""
    sites = {row["actor"]: row["call_site"] for row in live if row.get("call_site")}
    known = {row["actor_id"] for row in raw}
    raw = raw + [waiting_actor(row) for row in live if row.get("creation") and row["actor"] not in known]
    found = [_actor(row, places) | {"call_site": sites.get(row["actor_id"])} for row in raw]
    return sorted(found, key=lambda row: row["actor_id"])


def waiting_actor(row: Row) -> Row:
    """The row of an actor whose node does not know it yet."""
    return {**row, "actor_id": row["actor"], "pid": 0, "node_id": "", "worker": "", "num_restarts": 0,
            "required_resources": {name: value / 10_000 for name, value in (row.get("resources") or {}).items()},
            "job_id": int(row["actor"][:8], 16), "death_cause": row.get("death_cause") or {}, "repr_name": ""}


def _actor(row: Row, places: Places) -> Row:
    dead = row["state"] == "DEAD"
    node_id = row.get("node_id") or (places.node_id_of(row.get("worker", "")) if row.get("worker") else None)
    env = row.get("env") or {}
    return {
        "actor_id": row["actor_id"], "class_name": bare(row["class_name"]), "job_id": row["actor_id"][:8],
        "state": ACTOR_STATES.get(row["state"], row["state"]), "name": row.get("name") or "",
        "node_id": node_id or None,
        "pid": row.get("pid") or 0, "ray_namespace": row.get("ray_namespace", ""),
        "serialized_runtime_env": json.dumps(written(env)),
        "required_resources": row.get("running_resources", row.get("required_resources")) or {},
        "death_cause": _death_cause(row, places) if dead else None, "is_detached": bool(row.get("is_detached")),
        "placement_group_id": row.get("group") or None, "repr_name": row.get("repr_name") or "",
        "num_restarts": row.get("num_restarts", 0), "num_restarts_due_to_lineage_reconstruction": 0,
        "num_restarts_due_to_node_preemption": 0, "label_selector": row.get("labels") or {},
        "fallback_strategy": None}


def _death_cause(row: Row, places: Places) -> Row:
    cause = row.get("death_cause") or {}
    if cause.get("kind") in ("init", "creation"):
        return {"creation_task_failure_context": {
            "formatted_exception_string": cause.get("message") or cause.get("reason", ""), "language": "PYTHON"}}
    message = _RAY_KILL if cause.get("kind") == "killed" and "zray.kill" in cause.get("reason", "") else \
        cause.get("reason", "")
    for name in ("signal", "exit_code"):
        if cause.get(name):
            message += f" ({name.replace('_', ' ')} {cause[name]})"
    return {"actor_died_error_context": {
        "actor_id": row["actor_id"], "class_name": bare(row["class_name"]), "error_message": message,
        "name": row.get("name") or "", "never_started": not row.get("placed_s"),
        "node_ip_address": places.ip_of(row.get("worker")), "owner_id": places.worker_id(row.get("owner", "")),
        "owner_ip_address": places.ip_of(row.get("owner")), "pid": row.get("pid") or 0,
        "ray_namespace": row.get("ray_namespace", ""),
        "reason": _DEATH_REASONS.get(cause.get("kind", ""), "UNSPECIFIED")}}


def nodes(raw: list[Row]) -> list[Row]:
    """Rows of NodeState by id."""
    return sorted((_node(row) for row in raw), key=lambda row: row["node_id"])


def _node(row: Row) -> Row:
    alive = row["Alive"]
    return {"node_id": row["NodeID"], "node_ip": row.get("NodeManagerAddress", ""),
            "is_head_node": bool(row.get("IsHead")), "state": "ALIVE" if alive else "DEAD",
            "state_message": row.get("DeathReasonMessage") or ("it leaves" if row.get("State") == "draining" else None),
            "node_name": row.get("NodeName", ""), "resources_total": row["Resources"],
            "labels": row.get("Labels") or {},
            "start_time_ms": row.get("StartTimeMs", 0), "end_time_ms": row.get("EndTimeMs", 0)}


def workers(raw: list[Row], jobs: list[Row], places: Places) -> list[Row]:
    """Rows of WorkerState by id: workers that run or have ended, and drivers."""
    found = [_worker(row, places) for row in raw] + [_driver(row, places) for row in jobs if row.get("driver")]
    return sorted(found, key=lambda row: row["worker_id"])


def _worker(row: Row, places: Places) -> Row:
    ended = row["state"] == "ENDED"
    ready = milliseconds(row.get("ready_s") or 0.0)
    return {"worker_id": row["worker_id"], "is_alive": not ended, "worker_type": "WORKER",
            "exit_type": row.get("exit_type"), "node_id": row["node_id"], "ip": places.ip_of(row["worker_id"]),
            "pid": row["pid"], "exit_detail": row.get("exit_detail"),
            "worker_launch_time_ms": milliseconds(row.get("launched_s") or 0.0), "worker_launched_time_ms": ready,
            "start_time_ms": ready, "end_time_ms": milliseconds(row.get("ended_s") or 0.0),
            "debugger_port": next(filter(None, row.get("stops") or ()), None),
            "num_paused_threads": len(row["stops"]) if "stops" in row else None}


def _driver(job: Row, places: Places) -> Row:
    ended = milliseconds(job.get("ended_s") or 0.0)
    started = milliseconds(job.get("started_s") or 0.0)
    return {"worker_id": places.worker_id(job["driver"]), "is_alive": not ended, "worker_type": "DRIVER",
            "exit_type": INTENDED_USER_EXIT if ended else None, "ip": places.ip_of(job["driver"]),
            "node_id": job.get("node_id") or places.node_id_of(job["driver"]) or "", "pid": job["driver_pid"],
            "exit_detail": "The driver left, or its process ended." if ended else None,
            "worker_launch_time_ms": 0, "worker_launched_time_ms": 0, "start_time_ms": started, "end_time_ms": ended,
            "debugger_port": None, "num_paused_threads": None}


def jobs(raw: list[Row], places: Places) -> list[Row]:
    """Rows of JobState by id."""
    return sorted((job(row, places) for row in raw), key=lambda row: row["job_id"])


def job(row: Row, places: Places) -> Row:
    """The row of a driver, which may be that of a submitted job."""
    submission = row.get("submission_id") or None
    job_id = job_hex(row["job_id"])
    return {"job_id": job_id, "submission_id": submission, "job_name": row.get("job_name") or "",
            "entrypoint": row.get("entrypoint", ""), "type": "SUBMISSION" if submission else "DRIVER",
            "status": row["status"], "message": None, "error_type": None,
            "driver_info": {"id": job_id, "node_ip_address": places.ip_of(row.get("driver")),
                            "pid": str(row["driver_pid"])},
            "start_time": milliseconds(row.get("started_s") or 0.0),
            "end_time": milliseconds(row.get("ended_s") or 0.0),
            "metadata": row.get("metadata") or {}, "runtime_env": {}, "resume": row.get("resume") or {},
            "driver_agent_http_address": None, "driver_node_id": row.get("node_id") or None, "driver_exit_code": None}


def groups(raw: list[Row]) -> list[Row]:
    """Rows of PlacementGroupState by id."""
    return sorted((_group(row) for row in raw), key=lambda row: row["placement_group_id"])


def _group(row: Row) -> Row:
    took_ms = (row.get("created_s") or 0.0) * 1000
    return {"placement_group_id": row["placement_group_id"], "name": row.get("name") or "",
            "creator_job_id": job_hex(row["creator_job_id"]), "state": row["state"],
            "bundles": [{"bundle_id": {"placement_group_id": row["placement_group_id"], "bundle_index": index},
                         "unit_resources": bundle, "node_id": node or None, "label_selector": {}}
                        for index, (bundle, node) in enumerate(zip(row["bundles"], row["node_ids"], strict=True))],
            "is_detached": bool(row.get("is_detached")),
            "stats": {"end_to_end_creation_latency_ms": took_ms, "scheduling_latency_ms": took_ms,
                      "scheduling_attempt": row.get("attempts", 0), "scheduling_state": row["state"],
                      "detail": row.get("detail", ""), "highest_retry_delay_ms": 0.0}}


def objects(live: list[Row], places: Places) -> list[Row]:
    """Rows of ObjectState by id: one for each process that holds a reference."""
    found = []
    for row in live:
        if "object_id" in row:
            process = row["process"]
            found.append({
                "object_id": row["object_id"], "object_size": row["nbytes"], "task_status": row["task_status"],
                "attempt_number": row["attempt"] + 1, "reference_type": row["reference_type"],
                "call_site": row.get("call_site", "disabled"),
                "type": process["type"], "pid": process["pid"], "ip": places.ip_of(process["worker_id"])})
    return sorted(found, key=lambda row: (row["object_id"], row["pid"]))


def runtime_envs(raw: list[Row]) -> list[Row]:
    """Rows of RuntimeEnvState, by node and environment."""
    found = [{"runtime_env": row["env"], "success": row["success"], "node_id": row["node_id"],
              "creation_time_ms": float(milliseconds(row["created_s"])), "ref_cnt": row["workers"],
              "error": row["why"] or None} for row in raw]
    return sorted(found, key=lambda row: (row["node_id"], json.dumps(row["runtime_env"], sort_keys=True)))


def cluster_events(logs: list[tuple[Row, str]]) -> list[Row]:
    """Rows of ClusterEventState, in order of time, from the texts of the nodes' logs."""
    found = []
    for node, text in logs:
        for number, line in enumerate(text.splitlines()):
            match = _LOG_LINE.match(line)
            if match is not None:
                at, severity, message = match.groups()
                found.append({"severity": severity, "time": at, "source_type": "NODE", "message": message,
                              "event_id": f"{node['NodeID'][:8]}-{at}-{number}",
                              "custom_fields": {"node_id": node["NodeID"]}})
    return sorted(found, key=lambda row: (row["time"], row["event_id"]))
