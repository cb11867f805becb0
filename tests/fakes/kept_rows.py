"""Rows and answers of a session as files may keep them, with names that no page expects."""

from __future__ import annotations

from typing import Any

from zray.base.causes import Cause
from zray.dashboard.source import RowsSource

NODE = "ab" * 28
HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "n" * 10_000, "two\nlines", "\u202eabc\u202d",
           "quotes \" ' `", "\ud800 lone", "\x00\x1b[31m", "emoji 👩‍👩‍👧", "العربية", ""]


def task(number: int, state: str = "FINISHED", name: str = "f", **more: Any) -> dict[str, Any]:
    ended = state in ("FINISHED", "FAILED")
    started = ended or state.startswith("RUNNING")
    return {"task_id": f"{1:08x}{7:024x}{number.to_bytes(8, 'little').hex()}", "attempt_number": 0, "name": name,
            "state": state, "job_id": "00000001", "actor_id": None, "type": "NORMAL_TASK", "func_or_class_name": name,
            "parent_task_id": "ff" * 20 + "00000001", "node_id": NODE if started else None,
            "worker_id": "ab" * 4 + f"{number % 7 + 1:08x}" + "0" * 40 if started else None,
            "worker_pid": 100 + number % 7, "error_type": None, "error_message": None,
            "creation_time_ms": 1_000 + number, "start_time_ms": 2_000 + number if started else 0,
            "end_time_ms": 3_000 + number if ended else 0, "count": 1, "pending_reason": None,
            "events": [], "required_resources": {"CPU": 1.0}, "task_log_info": None,
            "call_site": None, **more}


def actor(number: int, state: str = "ALIVE", name: str = "") -> dict[str, Any]:
    return {"actor_id": f"{1:08x}{number:024x}", "class_name": "Counter", "state": state, "job_id": "00000001",
            "name": name, "node_id": NODE, "pid": 50, "ray_namespace": "", "required_resources": {},
            "death_cause": None, "is_detached": False, "num_restarts": 0, "call_site": None}


def node(number: int = 0) -> dict[str, Any]:
    return {"node_id": f"{0xab + number:02x}" * 28, "node_ip": "10.0.0.1", "is_head_node": number == 0,
            "state": "ALIVE", "state_message": None, "node_name": f"machine-{number}",
            "resources_total": {"CPU": 4.0, "node:10.0.0.1": 1.0}, "labels": {}, "start_time_ms": 1, "end_time_ms": 0}


def metrics(used: float) -> list[dict[str, Any]]:
    return [{"name": name, "kind": "gauge", "description": "Bytes", "boundaries": [],
             "series": [[{"NodeId": NODE}, value]]}
            for name, value in (("zray_object_store_capacity", 100.0), ("ray_object_store_used_memory", used))]


ANSWERS: dict[str, dict[str, Any]] = {
    "leases": {"leases": [], "blocked": [], "waiting": [
        {"name": HOSTILE[0], "want": 3, "job": 1, "actor": False, "cause": int(Cause.INFEASIBLE), "detail": "GPU: 1"}],
        "queued": [{"name": "Counter.add", "count": 5, "job": 1, "actor": f"{1:08x}{1:024x}", "pid": 50,
                    "behind": "add"}]},
    "available": {"nodes": {NODE: {"CPU": 1.0}}}, "metrics": {"metrics": metrics(25.0)},
    "gcs": {"generation": 3, "voters": [NODE[:16]], "trouble": "", "chains": [
        {"shard": 0, "epoch": 2, "members": [NODE[:16]], "joining": ""}]},
}


def session(**kinds: Any) -> RowsSource:
    """A session with hostile names; ``kinds`` replaces rows."""
    tasks = [task(number, name=name) for number, name in enumerate(HOSTILE)]
    tasks += [task(50, "FAILED", error_type="TASK_EXECUTION_EXCEPTION",
                   error_message="Traceback\nValueError: <b>no</b>\n"),
              task(51, "RUNNING", "g"), task(52, "PENDING_ARGS_AVAIL", "h"),
              task(53, "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY", "Counter.add", type="ACTOR_TASK",
                   actor_id=f"{1:08x}{1:024x}")]
    rows: dict[str, Any] = {
        "tasks": tasks, "actors": [actor(1), actor(2, "DEAD", HOSTILE[1])], "nodes": [node()], "jobs": [
            {"job_id": "00000001", "job_name": HOSTILE[4], "submission_id": None, "type": "DRIVER", "status": "RUNNING",
             "entrypoint": HOSTILE[0], "start_time": 1, "end_time": 0, "driver_info": {"pid": "1"}, "metadata": {}}],
        "workers": [], "objects": [
            {"object_id": "cd" * 28, "object_size": 10 * size, "reference_type": "LOCAL_REFERENCE",
             "task_status": "NIL", "type": "DRIVER", "pid": 1, "ip": "10.0.0.1", "call_site": HOSTILE[size]}
            for size in range(3)],
        "placement_groups": [{"placement_group_id": "ef" * 18, "name": HOSTILE[1], "creator_job_id": "00000001",
                              "state": "PENDING", "bundles": [], "is_detached": False, "stats": {"detail": "no room"}}],
        "cluster_events": [{"severity": "INFO", "time": "2026-01-01 00:00:00.0", "source_type": "NODE", "event_id": "1",
                            "message": HOSTILE[3], "custom_fields": {"node_id": NODE}}]}
    return RowsSource({**rows, **kinds}, ANSWERS)
