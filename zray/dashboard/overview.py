"""The first page: what runs, what waits and why, what failed last, and the nodes with their use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from zray.base.causes import Cause
from zray.dashboard.query import Query, cell
from zray.dashboard.reading import PageReader
from zray.dashboard.tasks import counts, phase
from zray.report.failures import last_line

RUNNING_MAX = 12
WAITS_SHOWN_MAX = 40
RECENT_FAILURES_MAX = 12
STORE_METRICS = {("zray_object_store_capacity", ""): "capacity", ("ray_object_store_used_memory", ""): "used",
                 ("ray_object_store_memory", "SPILLED"): "spilled"}  # family and its label Location


def overview(reader: PageReader, query: Query) -> dict[str, Any]:
    """Everything of the first page."""
    tasks = reader.rows("tasks").rows
    leases = reader.ask("leases")
    groups = [group for group in counts(tasks)["groups"] if group["runs"] or group["blocked"]]
    phases: Counter[str] = Counter()
    for row in tasks:
        phases[phase(row["state"])] += row.get("count") or 1
    return {"phases": dict(phases), "running": groups[:RUNNING_MAX],
            "waiting": waiting(leases, tasks)[:WAITS_SHOWN_MAX], "blocked": blocked(leases),
            "failures": failures(tasks),
            "actors": dict(Counter(row["state"] for row in reader.rows("actors").rows)),
            "jobs": dict(Counter(row["status"] for row in reader.rows("jobs").rows)), "nodes": node_use(reader)}


def waiting(leases: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What waits for a worker or for its turn, with its cause as ``zray explain`` gives it; then what tasks say."""
    found = []
    for row in leases.get("waiting", ()):
        found.append({"what": cell(row["name"] or "an actor", 200), "kind": "actor" if row["actor"] else "task",
                      "count": row["want"], "job": row["job"], "cause": Cause(row["cause"]).text,
                      "detail": cell(row["detail"])})
    for row in leases.get("queued", ()):
        behind = f"; {row['behind']}() runs" if row["behind"] else ""
        found.append({"what": cell(row["name"], 200), "kind": "call", "count": row["count"], "job": row["job"],
                      "cause": Cause.ACTOR_BUSY.text, "actor": row["actor"],
                      "detail": cell(f"pid {row['pid']}{behind}")})
    named = {row["what"] for row in found}
    others: Counter[tuple[str, str]] = Counter()
    for row in tasks:
        if phase(row["state"]) == "waits" and named.isdisjoint(
                (cell(row["name"], 200), cell(row["func_or_class_name"], 200))):
            others[row["name"], row.get("pending_reason") or reason(row)] += row.get("count") or 1
    found += [{"what": cell(name, 200), "kind": "task", "count": count, "job": None, "cause": cell(why),
               "detail": ""} for (name, why), count in others.most_common(WAITS_SHOWN_MAX)]
    return found


def reason(row: Mapping[str, Any]) -> str:
    """What a state says of a wait, where nobody has said more."""
    if row["type"] == "ACTOR_TASK" and row["state"] == "PENDING_NODE_ASSIGNMENT":
        return Cause.ACTOR_PENDING.text
    return _OF_STATES.get(row["state"], row["state"])


_OF_STATES = {"PENDING_ARGS_AVAIL": Cause.DEPENDENCY.text, "PENDING_NODE_ASSIGNMENT": Cause.LEASE_REQUESTED.text,
              "SUBMITTED_TO_WORKER": Cause.PUSHED.text, "PENDING_ARGS_FETCH": Cause.TRANSFERRING.text,
              "PENDING_ACTOR_TASK_ARGS_FETCH": Cause.TRANSFERRING.text,
              "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY": Cause.ACTOR_BUSY.text}


def blocked(leases: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tasks that wait in get or wait."""
    return [{"name": cell(row["name"], 200), "task_id": row["task_id"], "pid": row["pid"], "job": row["job"]}
            for row in leases.get("blocked", ())[:WAITS_SHOWN_MAX]]


def failures(tasks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The attempts that failed last."""
    found = sorted((row for row in tasks if row["state"] == "FAILED"), key=lambda row: -row["end_time_ms"])
    return [{"task_id": row["task_id"], "name": cell(row["name"], 200), "attempt": row["attempt_number"],
             "end_ms": row["end_time_ms"], "error_type": row["error_type"],
             "message": cell(last_line(row.get("error_message") or ""))} for row in found[:RECENT_FAILURES_MAX]]


def node_use(reader: PageReader) -> list[dict[str, Any]]:
    """Each node with its CPUs, GPUs, memory and store: how much there is, and how much is in use."""
    free = reader.ask("available").get("nodes", {})
    stores = store_use(reader)
    found = []
    for row in reader.rows("nodes").rows:
        total = row["resources_total"] or {}
        left = free.get(row["node_id"], {})
        use = {name: [amount - left.get(name, 0.0), amount] for name, amount in total.items()
               if not name.startswith(("node:", "object_store")) and name in ("CPU", "GPU", "memory")}
        found.append({"node_id": row["node_id"], "name": cell(row["node_name"], 100), "state": row["state"],
                      "message": cell(row["state_message"]), "ip": row["node_ip"], "head": row["is_head_node"],
                      "use": use, "other": {name: [amount - left.get(name, 0.0), amount] for name, amount in
                                            list(total.items())[:30] if name not in use
                                            and not name.startswith(("node:", "object_store"))},
                      "store": stores.get(row["node_id"], {}), "labels": cell(row["labels"]),
                      "start_ms": row["start_time_ms"], "end_ms": row["end_time_ms"]})
    found.sort(key=lambda row: (row["state"] != "ALIVE", not row["head"], row["name"], row["node_id"]))
    return found


def store_use(reader: PageReader) -> dict[str, dict[str, float]]:
    """Bytes of the object store of each node: capacity, used, spilled."""
    found: dict[str, dict[str, float]] = {}
    for family in reader.ask("metrics").get("metrics", ()):
        for labels, value in family["series"]:
            name = STORE_METRICS.get((family["name"], labels.get("Location", "")))
            if name is not None:
                found.setdefault(labels.get("NodeId", ""), {})[name] = value
    return found
