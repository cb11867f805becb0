"""The views of the page by name: what each reads, and what the page gets of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from zray.dashboard import tasks as of_tasks
from zray.dashboard.asking import identifier
from zray.dashboard.history import rates
from zray.dashboard.overview import node_use, overview, store_use
from zray.dashboard.query import BadQuery, Query, cell, table, whole
from zray.dashboard.reading import PageReader
from zray.dashboard.source import SourceError
from zray.state.attempts import INCARNATION_DIGITS

View = Callable[[PageReader, Query], dict[str, Any]]
LOG_LINES = 500
LOG_LINES_MAX = 5_000
HOLDERS_MAX = 50
SERIES_SHOWN_MAX = 12


def nodes(reader: PageReader, query: Query) -> dict[str, Any]:
    return {"nodes": node_use(reader), "stats": reader.ask("stats").get("stats", {}) if reader.source.live else {}}


def jobs(reader: PageReader, query: Query) -> dict[str, Any]:
    found = reader.rows("jobs")
    columns = ("job_id", "job_name", "submission_id", "type", "status", "entrypoint", "start_time", "end_time",
               "driver_info", "metadata", "resume")
    return {"table": table(found.rows, columns, query)}


def workers(reader: PageReader, query: Query) -> dict[str, Any]:
    columns = ("worker_id", "worker_type", "is_alive", "pid", "node_id", "start_time_ms", "end_time_ms", "exit_type",
               "exit_detail")
    return {"table": table(reader.rows("workers").rows, columns, query)}


def actors(reader: PageReader, query: Query) -> dict[str, Any]:
    """Actors, with their queue and the age of its head."""
    queues = of_tasks.of_actors(reader.rows("tasks").rows)
    none = {"queued": 0, "head_ms": 0, "running": "", "running_ms": 0}
    rows = [{**row, **queues.get(row["actor_id"], none)} for row in reader.rows("actors").rows]
    rows.sort(key=lambda row: (row["state"] == "DEAD", -row["queued"]))
    columns = ("actor_id", "class_name", "name", "state", "queued", "head_ms", "running", "running_ms", "pid",
               "node_id", "job_id", "num_restarts", "ray_namespace")
    return {"table": table(rows, columns, query), "states": dict(Counter(row["state"] for row in rows))}


def actor(reader: PageReader, query: Query) -> dict[str, Any]:
    """One actor: all its columns, its queue, and its latest calls."""
    wanted = query.wanted("id")
    row = next((row for row in reader.rows("actors").rows if row["actor_id"] == wanted), None)
    if row is None:
        return {"found": False, "id": cell(wanted)}
    tasks = reader.rows("tasks").rows
    calls = [call for call in tasks if call.get("actor_id") == wanted]
    return {"found": True, "actor": whole(row), "queue": of_tasks.of_actors(calls).get(wanted),
            "calls": table(calls, of_tasks.TASK_COLUMNS, Query(limit=30))}


def objects(reader: PageReader, query: Query) -> dict[str, Any]:
    """References, the largest first, and their bytes by holder and by line."""
    found = reader.rows("objects")
    rows = sorted(found.rows, key=lambda row: -(row["object_size"] or 0))
    columns = ("object_id", "object_size", "reference_type", "task_status", "type", "pid", "ip", "call_site")
    holders: dict[tuple[str, Any, str], list[int]] = {}
    sites: dict[str, list[int]] = {}
    for row in rows:
        size = max(0, row["object_size"] or 0)
        for sums in (holders.setdefault((row["type"], row["pid"], row["ip"]), [0, 0]),
                     sites.setdefault(row["call_site"], [0, 0])):
            sums[0] += 1
            sums[1] += size
    largest = sorted(holders.items(), key=lambda item: -item[1][1])[:HOLDERS_MAX]
    lines = sorted(sites.items(), key=lambda item: -item[1][1])[:HOLDERS_MAX]
    return {"table": table(rows, columns, query),
            "holders": [{"type": kind, "pid": pid, "ip": ip, "count": count, "bytes": size}
                        for (kind, pid, ip), (count, size) in largest],
            "sites": [{"site": cell(site), "count": count, "bytes": size} for site, (count, size) in lines],
            "stores": store_use(reader)}


def groups(reader: PageReader, query: Query) -> dict[str, Any]:
    columns = ("placement_group_id", "name", "state", "creator_job_id", "is_detached", "bundles", "stats")
    return {"table": table(reader.rows("placement_groups").rows, columns, query)}


def control(reader: PageReader, query: Query) -> dict[str, Any]:
    """The control store: its chains from head to tail with their epochs, and its voters."""
    found = reader.ask("gcs")
    names = {row["node_id"][:INCARNATION_DIGITS]: {"name": cell(row["node_name"], 100), "node_id": row["node_id"],
                                                   "state": row["state"]} for row in reader.rows("nodes").rows}
    return {"generation": found.get("generation"), "voters": found.get("voters", []), "names": names,
            "trouble": cell(found.get("trouble") or ""), "chains": cell(found.get("chains", []))}


def events(reader: PageReader, query: Query) -> dict[str, Any]:
    rows = list(reversed(reader.rows("cluster_events").rows))
    columns = ("time", "severity", "source_type", "message", "custom_fields", "event_id")
    return {"table": table(rows, columns, query), "severities": sorted({row["severity"] for row in rows})}


def logs(reader: PageReader, query: Query) -> dict[str, Any]:
    """The names of the log files of a node, and the end of one of them."""
    alive = [row for row in reader.rows("nodes").rows if row["state"] == "ALIVE"]
    found: dict[str, Any] = {"nodes": [{"node_id": row["node_id"], "name": cell(row["node_name"], 100)}
                                       for row in alive]}
    node_id = query.where.get("node") or (alive[0]["node_id"] if alive else "")
    name = query.where.get("file", "") or _log_of_actor(reader, query.where.get("actor", ""))
    if not node_id:
        return {**found, "files": [], "file": "", "text": ""}
    found |= {"node": node_id, "files": reader.source.logs(node_id)[:2_000], "file": name, "text": ""}
    if name:
        if name not in found["files"]:
            raise BadQuery(f"node {node_id} has no log file {name[:100]!r}")
        lines = of_tasks.number(query.where, "lines", LOG_LINES, LOG_LINES_MAX)
        found["text"] = reader.source.log(node_id, name, lines)
    return found


def _log_of_actor(reader: PageReader, actor_id: str) -> str:
    """The name of the output of the process in which an actor lives, or has lived; "" of no actor."""
    rows = reader.source.ask("actors", actor=identifier(actor_id, "an actor"))["actors"] if actor_id else []
    return next((f"worker-{row['worker'][:INCARNATION_DIGITS]}.out" for row in rows if row.get("worker")), "")


def timeline(reader: PageReader, query: Query) -> dict[str, Any]:
    return of_tasks.stream(reader, Query(where={"span": "300", **query.where}))


def metrics(reader: PageReader, query: Query) -> dict[str, Any]:
    """Points of each metric since a page has been open; of counters their growth a second."""
    found = []
    words = query.search.lower().split()
    for name, series_of in sorted(reader.history.families.items()):
        if not all(word in name.lower() for word in words):
            continue
        lines = []
        for series in list(series_of.values())[:SERIES_SHOWN_MAX]:
            counts = series.kind == "counter"
            points = rates(series.points) if counts else series.points
            lines.append({"labels": cell(series.labels, 80),
                          "points": [[round(at, 1), round(value, 4)] for at, value in points]})
        kind = next(iter(series_of.values())).kind
        found.append({"name": name, "kind": kind, "description": cell(reader.history.descriptions.get(name, "")),
                      "series": lines, "series_total": len(series_of)})
    return {"families": found[query.offset:query.offset + query.limit], "total": len(found),
            "left_out": reader.history.left_out}


VIEWS: dict[str, View] = {
    "overview": overview, "nodes": nodes, "jobs": jobs, "workers": workers, "tasks": of_tasks.tasks,
    "stream": of_tasks.stream, "task": of_tasks.task, "actors": actors, "actor": actor, "objects": objects,
    "groups": groups, "control": control, "events": events, "logs": logs, "timeline": timeline, "metrics": metrics,
}


def make(reader: PageReader, name: str, query: Query) -> dict[str, Any]:
    """What the page ``name`` shows now, with what is missing in it.  BadQuery, SourceError."""
    view = VIEWS.get(name)
    if view is None:
        raise BadQuery(f"no view is named {name[:40]!r}; the views are {', '.join(VIEWS)}")
    reader.begin()
    if reader.source.live:
        reader.sample()
    try:
        found = view(reader, query)
    except SourceError as error:
        if reader.source.live:
            raise
        return {"view": name, "error": str(error), "missing": []}
    return {"view": name, **found, "missing": [cell(text) for text in reader.missing]}
