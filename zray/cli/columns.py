"""The columns of `zray list` for people, one function for each kind of rows.  Pure.

JSON and YAML have the state API's own columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zray.cli.finding import short_actor, short_job, short_node, short_task
from zray.cli.live import RUNNING_STATES, STATES, Unfinished, seconds_since, took
from zray.cli.showing import cell
from zray.cli.tables import Column
from zray.cli.text import amounts, duration, of_bytes, safe
from zray.cli.usage import Usage

Row = dict[str, Any]


@dataclass
class Scene:
    """What the cells of a table need beside their row."""

    now_s: float
    work: Unfinished = field(default_factory=lambda: Unfinished(()))
    actors: Mapping[str, Row] = field(default_factory=dict)
    workers: Mapping[str, Row] = field(default_factory=dict)  # the node's own rows, by worker
    usage: Mapping[int, Usage] = field(default_factory=dict)  # of processes of this machine


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: cell(row.get(key))


def tasks(scene: Scene) -> list[Column]:
    def why(row: Row) -> str:
        return safe(row["error_type"] or row["pending_reason"] or "") if row["state"] != "FINISHED" else ""

    return [
        Column("TASK", lambda row: short_task(row["task_id"])),
        Column("FUNCTION", _text("name"), 0, 12),
        Column("COUNT", lambda row: f"{row['count']:,}" if (row["count"] or 1) > 1 else "", 5, 0, True),
        Column("TRY", lambda row: str(row["attempt_number"] + 1) if row["attempt_number"] else "", 3, 0, True),
        Column("STATE", lambda row: STATES.get(row["state"], row["state"]), 0),
        Column("AGE", lambda row: duration(took(row, scene.now_s)), 1, 0, True),
        Column("PID", lambda row: str(row["worker_pid"] or ""), 2, 0, True),
        Column("WHY", why, 4, 14),
        Column("ACTOR", lambda row: short_actor(row["actor_id"] or ""), 6),
        Column("NODE", lambda row: short_node(row["node_id"]), 7),
        Column("JOB", lambda row: short_job(row["job_id"]), 8, 0, True)]


def actors(scene: Scene) -> list[Column]:
    def runs(row: Row) -> str:
        found = scene.work.of_actor(row)
        more = f" +{len(found) - 1}" if len(found) > 1 else ""
        return safe(found[0]["name"]) + more if found else ""

    def runs_for(row: Row) -> str:
        found = scene.work.of_actor(row)
        return duration(took(found[0], scene.now_s)) if found else ""

    def queued(row: Row) -> str:
        queue = scene.work.queues.get(row["actor_id"])
        return f"{queue.count:,}" if queue else ""

    def head(row: Row) -> str:
        queue = scene.work.queues.get(row["actor_id"])
        return duration(seconds_since(queue.oldest_ms, scene.now_s)) if queue else ""

    return [
        Column("ACTOR", lambda row: short_actor(row["actor_id"])),
        Column("NAME", _text("name"), 0, 12),
        Column("CLASS", _text("class_name"), 4, 8),
        Column("STATE", lambda row: row["state"].lower()),
        Column("RUNS", runs, 2, 16),
        Column("FOR", runs_for, 3, 0, True),
        Column("QUEUED", queued, 0, 0, True),
        Column("HEAD", head, 1, 0, True),
        Column("PID", lambda row: str(row["pid"] or ""), 5, 0, True),
        Column("RESTARTS", lambda row: str(row["num_restarts"] or ""), 6, 0, True),
        Column("NODE", lambda row: short_node(row["node_id"]), 7),
        Column("JOB", lambda row: short_job(row["job_id"]), 8, 0, True),
        Column("DEATH", _death, 3, 12)]


def _death(row: Row) -> str:
    causes = row.get("death_cause") or {}
    died = causes.get("actor_died_error_context") or {}
    failed = causes.get("creation_task_failure_context") or {}
    return safe(died.get("error_message") or
                (failed.get("formatted_exception_string") or "").strip().rpartition("\n")[2])


def workers(scene: Scene) -> list[Column]:
    def raw(row: Row) -> Row:
        return scene.workers.get(row["worker_id"], {})

    def runs(row: Row) -> str:
        found = scene.work.on(row["worker_id"])
        if found:
            more = f" +{len(found) - 1}" if len(found) > 1 else ""
            return safe(found[0]["name"]) + more
        actor = scene.actors.get(raw(row).get("actor_id") or "")
        return f"({safe(actor['name'] or actor['class_name'])})" if actor is not None and row["is_alive"] else ""

    def state(row: Row) -> str:
        if not row["is_alive"]:
            return "ended"
        if row["worker_type"] == "DRIVER":
            return "driver"
        found = scene.work.on(row["worker_id"])
        if found:
            return RUNNING_STATES[found[0]["state"]] or "runs"
        return "idle" if row["worker_launched_time_ms"] else "starting"

    def since(row: Row) -> str:
        found = scene.work.on(row["worker_id"])
        return duration(took(found[0], scene.now_s)) if found else ""

    def rss(row: Row) -> str:
        usage = scene.usage.get(row["pid"]) if row["is_alive"] else None
        return of_bytes(usage.rss) if usage else ""

    def cpu(row: Row) -> str:
        usage = scene.usage.get(row["pid"]) if row["is_alive"] else None
        return f"{usage.cpu:.0f}%" if usage and usage.cpu is not None else ""

    return [
        Column("PID", lambda row: str(row["pid"]), 0, 0, True),
        Column("STATE", state),
        Column("RUNS", runs, 0, 18),
        Column("FOR", since, 1, 0, True),
        Column("RSS", rss, 2, 0, True),
        Column("CPU", cpu, 3, 0, True),
        Column("UP", lambda row: duration(seconds_since(row["start_time_ms"], scene.now_s)) if row["is_alive"] else "",
               7, 0, True),
        Column("NODE", lambda row: short_node(row["node_id"]), 8),
        Column("WORKER", lambda row: row["worker_id"][:16], 6),
        Column("ENDED", lambda row: safe(row["exit_detail"] or row["exit_type"] or "") if not row["is_alive"] else "",
               4, 12)]


def leases(scene: Scene) -> list[Column]:
    def runs(row: Row) -> str:
        found = scene.work.on(row["worker"])
        return safe(found[0]["name"] if found else row["name"])

    def since(row: Row) -> str:
        found = scene.work.on(row["worker"])
        return duration(took(found[0], scene.now_s)) if found else ""

    return [
        Column("LEASE", _text("lease"), 0, 0, True),
        Column("PID", _text("pid"), 0, 0, True),
        Column("RUNS", runs, 0, 18),
        Column("FOR", since, 1, 0, True),
        Column("STATE", lambda row: "in get" if row["blocked"] else "runs" if scene.work.on(row["worker"]) else "idle",
               3),
        Column("RESOURCES", lambda row: amounts(row["resources"]), 2, 12),
        Column("GPUS", lambda row: cell(row["gpu_ids"]), 4),
        Column("ACTOR", lambda row: short_actor(row["actor"] or ""), 5),
        Column("OWNER", lambda row: (row["owner"] or "")[:16], 8),
        Column("JOB", _text("job"), 6, 0, True)]


def nodes(scene: Scene) -> list[Column]:
    def of(resource: str) -> Callable[[Row], str]:
        return lambda row: f"{row['resources_total'][resource]:g}" if resource in row["resources_total"] else ""

    return [
        Column("NODE", lambda row: short_node(row["node_id"])),
        Column("STATE", lambda row: row["state"].lower()),
        Column("NAME", _text("node_name"), 4, 8),
        Column("ADDRESS", _text("node_ip"), 2),
        Column("CPU", of("CPU"), 1, 0, True),
        Column("GPU", of("GPU"), 3, 0, True),
        Column("MEMORY", lambda row: of_bytes(row["resources_total"].get("memory")), 5, 0, True),
        Column("STORE", lambda row: of_bytes(row["resources_total"].get("object_store_memory")), 6, 0, True),
        Column("UP", lambda row: duration(seconds_since(row["start_time_ms"], scene.now_s))
               if row["state"] == "ALIVE" else "", 7, 0, True),
        Column("HEAD", lambda row: "yes" if row["is_head_node"] else "", 8),
        Column("WHY", _text("state_message"), 3, 12)]


def jobs(scene: Scene) -> list[Column]:
    return [
        Column("JOB", lambda row: short_job(row["job_id"]), 0, 0, True),
        Column("STATUS", lambda row: row["status"].lower()),
        Column("NAME", _text("job_name"), 3, 8),
        Column("SUBMISSION", _text("submission_id"), 4, 8),
        Column("PID", lambda row: (row["driver_info"] or {}).get("pid", ""), 2, 0, True),
        Column("STARTED", lambda row: clock(row["start_time"]), 5),
        Column("TOOK", lambda row: duration(((row["end_time"] or scene.now_s * 1000) - row["start_time"]) / 1000)
               if row["start_time"] else "", 1, 0, True),
        Column("ENTRYPOINT", _text("entrypoint"), 6, 10)]


def objects(scene: Scene) -> list[Column]:
    return [
        Column("OBJECT", lambda row: short_task(row["object_id"])),
        Column("SIZE", lambda row: of_bytes(row["object_size"]), 0, 0, True),
        Column("STATE", lambda row: STATES.get(row["task_status"], row["task_status"]), 3),
        Column("KIND", lambda row: row["reference_type"].lower().replace("_", " "), 2, 8),
        Column("HOLDER", lambda row: f"{row['type'].lower()} {row['pid']}", 1),
        Column("MADE AT", lambda row: safe(row["call_site"] if row["call_site"] != "disabled" else ""), 4, 12)]


def placement_groups(scene: Scene) -> list[Column]:
    return [
        Column("GROUP", lambda row: row["placement_group_id"][:8]),
        Column("NAME", _text("name"), 3, 8),
        Column("STATE", lambda row: row["state"].lower()),
        Column("BUNDLES", lambda row: str(len(row["bundles"] or ())), 2, 0, True),
        Column("FIRST BUNDLE", lambda row: amounts(row["bundles"][0]["unit_resources"]) if row["bundles"] else "",
               4, 8),
        Column("JOB", lambda row: short_job(row["creator_job_id"]), 5, 0, True),
        Column("WHY", lambda row: safe((row["stats"] or {}).get("detail", "")), 1, 12)]


def runtime_envs(scene: Scene) -> list[Column]:
    return [
        Column("NODE", lambda row: short_node(row["node_id"])),
        Column("STATE", lambda row: "ready" if row["success"] else "failed"),
        Column("WORKERS", lambda row: str(row["ref_cnt"] or ""), 2, 0, True),
        Column("ENVIRONMENT", lambda row: cell(row["runtime_env"]), 0, 12),
        Column("ERROR", _text("error"), 1, 12)]


def cluster_events(scene: Scene) -> list[Column]:
    return [
        Column("TIME", _text("time")),
        Column("SEVERITY", lambda row: row["severity"] if row["severity"] != "INFO" else "", 3),
        Column("NODE", lambda row: row["event_id"][:8], 4),
        Column("EVENT", _text("message"), 0, 12)]


def clock(ms: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000)) if ms else ""


COLUMNS: dict[str, Callable[[Scene], list[Column]]] = {
    "tasks": tasks, "actors": actors, "workers": workers, "leases": leases, "nodes": nodes, "jobs": jobs,
    "objects": objects, "placement_groups": placement_groups, "runtime_envs": runtime_envs,
    "cluster_events": cluster_events}
NEED_WORK = frozenset(("actors", "workers", "leases"))  # kinds whose cells say what runs
