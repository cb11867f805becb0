"""Answers to NodeQuery, for the state API, ``zray status`` and ``zray explain``.  Read-only.

    nodes resources available actors placement-groups workers leases store gcs jobs tasks timeline stats explain

Every answer is a map of wire types; an unknown or failing question answers ``{"error": text}``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from zray.base.causes import Cause
from zray.base.ids import node_of
from zray.base.ports import Ports
from zray.node.actors.table import ActorTable
from zray.node.context import NodeContext
from zray.node.groups.service import GroupService
from zray.node.jobs.table import JobTable
from zray.node.jobs.task_events import EVENT_NAME, EVENT_PID, EVENT_TASK, TaskEventLog
from zray.node.leases.local import Leases
from zray.node.leases.placements import Placements
from zray.node.peers.cluster import PeerNodes
from zray.node.processes.pool import WorkerPool
from zray.sched.cluster.bottom_up import BottomUpScheduler
from zray.sched.node.grouped import NodeScheduler
from zray.sched.resources import OBJECT_STORE_MEMORY, amounts

LIMIT = 10_000  # rows of one answer, unless the query asks for fewer; "total" is the number of all rows


class Viewed(Ports):
    """The parts of a node that the views read."""

    context: NodeContext
    node: dict[str, Any]  # as zray.nodes() shows it
    cluster: PeerNodes
    scheduler: NodeScheduler
    bottom_up: BottomUpScheduler
    pool: WorkerPool
    placements: Placements
    leases: Leases
    jobs: JobTable
    actors: ActorTable
    groups: GroupService
    events: TaskEventLog
    remote_available: Callable[[], dict[bytes, dict[str, int]]]  # free resources of the other nodes, as far as known
    store_report: Callable[[], dict[str, Any]]
    stored_bytes: Callable[[], int]  # of objects in the store's memory
    gcs_report: Callable[[], dict[str, Any]]


def answer(viewed: Viewed, peer: bytes, what: str, args: dict[str, Any]) -> dict[str, Any]:
    view = _VIEWS.get(what)
    if view is None:
        return {"error": f"a node answers {', '.join(sorted(_VIEWS))}, not {what!r}"}
    return view(viewed, peer, args)


def _rows(name: str, rows: list[dict[str, Any]], args: dict[str, Any]) -> dict[str, Any]:
    return {name: [_shown(row) for row in rows[:_limit(args)]], "total": len(rows)}


def _limit(args: dict[str, Any]) -> int:
    limit = args.get("limit")
    return min(limit, LIMIT) if isinstance(limit, int) and limit >= 0 else LIMIT


def _shown(value: Any) -> Any:
    """Convert ids to hex, also as keys: users write them so."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {_shown(key): _shown(item) for key, item in value.items() if key != "error"}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return value


def _nodes(viewed: Viewed, peer: bytes, args: dict) -> dict:
    mine = "draining" if viewed.bottom_up.draining else "alive"
    rows = [_node(viewed.node, mine, viewed.scheduler.total())]
    rows += [_node(row["shown"], row.get("state", "alive"), row["total"]) for row in viewed.cluster.peers.values()]
    for node, row in viewed.cluster.last_rows.items():
        state = "left" if row.get("state") == "left" else "dead"
        rows.append({**_node(row["shown"], state, {}), "DeathReason": viewed.context.ends.nodes[node]})
    return {"nodes": rows, "total": len(rows)}


def _node(shown: dict[str, Any], state: str, total: dict[str, int]) -> dict[str, Any]:
    alive = state in ("alive", "draining")
    return {**shown, "Alive": alive, "alive": alive, "State": state, "Resources": amounts(total)}


def _resources(viewed: Viewed, peer: bytes, args: dict) -> dict:
    return {"resources": _sum(viewed.scheduler.total(), *(row["total"] for row in viewed.cluster.peers.values()))}


def _available(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """The free resources; ``stored`` is the number of bytes of objects in each node's store."""
    stored = viewed.stored_bytes()
    if args.get("local"):
        return {"resources": {}, "stored": [stored]}
    mine, others = viewed.scheduler.available(), viewed.remote_available()
    nodes = {viewed.node.get("NodeID", ""): _sum(mine),
             **{viewed.cluster.node_id(node): _sum(units) for node, units in others.items()}}
    return {"resources": _sum(mine, *others.values()), "nodes": nodes, "stored": [stored]}


def subtract_stored(resources: dict[str, float], stored: list[int]) -> None:
    """Subtract the bytes of stored objects: objects are no leases, so schedulers do not count them."""
    if OBJECT_STORE_MEMORY in resources:
        resources[OBJECT_STORE_MEMORY] = max(0.0, resources[OBJECT_STORE_MEMORY] - sum(stored))


def _sum(*nodes: dict[str, int]) -> dict[str, float]:
    whole: dict[str, int] = {}
    for units in nodes:
        for name, amount in units.items():
            whole[name] = whole.get(name, 0) + max(0, amount)
    return amounts({name: units for name, units in whole.items() if units})


def _actors(viewed: Viewed, peer: bytes, args: dict) -> dict:
    actors = viewed.actors.actors
    wanted = args.get("actor")
    if wanted is not None:
        return _rows("actors", [_actor(viewed, actors[wanted])] if wanted in actors else [], args)
    if args.get("named"):
        rows = [{"name": a.name, "namespace": a.namespace, "actor_id": a.id}
                for a in actors.values() if a.name and a.state != "DEAD"]
        return _rows("actors", rows, args)
    return _rows("actors", [_actor(viewed, actor) for actor in actors.values()], args)


def _actor(viewed: Viewed, actor: Any) -> dict[str, Any]:
    return {**actor.row(), "required_resources": amounts(actor.spec.get("demand") or {}),
            "node_id": viewed.cluster.node_id(node_of(actor.worker)) if actor.worker else ""}


def _workers(viewed: Viewed, peer: bytes, args: dict) -> dict:
    return _rows("workers", [
        {"worker_id": w.id, "pid": w.pid, "state": w.state.name, "job_id": w.job, "actor_id": w.actor,
         "lease": w.lease, "blocked": w.blocked, "env": dict(w.kind.env) if w.kind else {},
         "gpu_ids": list(w.kind.gpus) if w.kind else [], "node_id": viewed.node.get("NodeID", ""),
         "seconds_in_state": viewed.context.now - w.since}
        for w in viewed.pool.workers.values()], args)


def _leases(viewed: Viewed, peer: bytes, args: dict) -> dict:
    report = viewed.scheduler.report()
    workers = {lease: placement.row() for lease, placement in viewed.placements.items()}
    running = viewed.leases.running_names()
    rows = [{**row, **{key: workers[row["lease"]][key] for key in ("pid", "worker", "actor")},
             "name": running.get(row["lease"], row["name"])} for row in report["leases"]]
    return {**_rows("leases", rows, args), "waiting": [_shown(row) for row in _waiting(viewed)[:LIMIT]],
            "queued": _queued(viewed), "blocked": _blocked(viewed)}


def _waiting(viewed: Viewed) -> list[dict[str, Any]]:
    """The queue of the scheduler, by the names of the functions that wait first."""
    rows: list[dict[str, Any]] = viewed.scheduler.report()["waiting"]
    declared = viewed.leases.declared()
    for row in rows:
        if not row["actor"] and (known := declared.get((row["owner"], row["key"]))) is not None:
            row["name"] = known.name
    return rows


def _queued(viewed: Viewed) -> list[dict[str, Any]]:
    """Calls that wait in actors, by actor and name."""
    running = viewed.events.running_on()
    found = []
    for incarnation, queued in viewed.events.queued.items():
        worker = viewed.pool.workers.get(incarnation)
        if worker is not None:
            found += [{"name": name, "count": count, "job": worker.job, "actor": worker.actor.hex(), "pid": worker.pid,
                       "behind": running.get(incarnation, "")} for name, count in queued]
    return found


def _blocked(viewed: Viewed) -> list[dict[str, Any]]:
    """Tasks that are blocked in get or wait."""
    return [{"name": event[EVENT_NAME], "task_id": event[EVENT_TASK].hex(), "pid": event[EVENT_PID], "job": job,
             "worker": worker.hex()}
            for worker, job, event in viewed.events.running.values() if _is_blocked(viewed, worker)]


def _is_blocked(viewed: Viewed, incarnation: bytes) -> bool:
    worker = viewed.pool.workers.get(incarnation)
    return worker is not None and worker.blocked


def _store(viewed: Viewed, peer: bytes, args: dict) -> dict:
    return {"store": _shown(viewed.store_report())}


def _gcs(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """The control store: its chains from head to tail, and its voters."""
    return _shown(viewed.gcs_report())


def _jobs(viewed: Viewed, peer: bytes, args: dict) -> dict:
    rows = []
    for job in viewed.jobs.jobs.values():
        row = job.row()  # its times are of the machine's clock, which is local
        start, end = row.pop("start_time"), row.pop("end_time")
        rows.append({**row, "driver": job.driver, "seconds": (end or viewed.context.now) - start})
    return _rows("jobs", rows, args)


def _groups(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Placement groups whose home is this node, and the bundles on it."""
    return {**_rows("placement-groups", viewed.groups.table.rows(), args),
            "bundles": [_shown(row) for row in viewed.scheduler.bundles.rows()]}


def _timeline(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Task events from number ``start`` on, in Chrome's trace format; ``next`` is the start of the
    following page."""
    start = args.get("start")
    first, events = viewed.events.timeline(start if isinstance(start, int) and start >= 0 else 0, _limit(args))
    return {"events": events, "next": first + len(events), "total": viewed.events.seen,
            "dropped": viewed.events.dropped}


def _tasks(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Tasks by the events of workers, the latest first, after one row for each key that waits."""
    waiting = [{"task_id": b"", "name": row["name"], "state": "PENDING_NODE_ASSIGNMENT", "job_id": row["job"], "pid": 0,
                "attempt": 0, "count": row["want"], "start_time": None, "end_time": None, "seconds": None,
                "detail": row["detail"]}
               for row in _waiting(viewed) if not row["actor"]]
    waiting += [{"task_id": b"", "name": row["name"], "state": "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY",
                 "job_id": row["job"], "pid": row["pid"], "attempt": 0, "count": row["count"], "start_time": None,
                 "end_time": None, "seconds": None,
                 "detail": f"behind {row['behind']}" if row["behind"] else ""} for row in _queued(viewed)]
    rows = waiting + viewed.events.rows(partial(_is_blocked, viewed))
    return {**_rows("tasks", rows, args), "dropped": viewed.events.dropped}


def _stats(viewed: Viewed, peer: bytes, args: dict) -> dict:
    states: dict[str, int] = {}
    for worker in viewed.pool.workers.values():
        states[worker.state.name] = states.get(worker.state.name, 0) + 1
    report = viewed.scheduler.report()
    return {"stats": {
        **viewed.context.counts, "workers": states, "workers_max": viewed.pool.workers_max,
        "actors": sum(a.state != "DEAD" for a in viewed.actors.actors.values()),
        "kernels": "compiled" if viewed.scheduler.view.kernels.compiled else "plain",
        "jobs": len(viewed.jobs.by_driver), "leases": len(viewed.placements), "waiting": len(report["waiting"]),
        "tasks_reported": viewed.events.seen, "tasks_not_reported": viewed.events.dropped}}


def _explain(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Why a key of the asker (``key``) or an actor (``actor``) has no worker."""
    actor = viewed.actors.actors.get(args.get("actor", b""))
    if actor is not None:
        if actor.state != "ALIVE" and actor.worker:
            return {"cause": int(Cause.CONSTRUCTING), "detail": f"pid {actor.pid}", "state": actor.state}
        cause = actor.cause.get("cause", Cause.READY if actor.state == "ALIVE" else Cause.ACTOR_PENDING)
        return {"cause": int(cause), "detail": actor.cause.get("detail") or actor.cause.get("reason", ""),
                "state": actor.state}
    key = args.get("key")
    if not isinstance(key, int):
        return {"error": "explain takes a key or an actor"}
    waiting = [p for p in viewed.placements.values() if p.owner == peer and p.key == key and p.worker is None]
    if waiting:
        cause = Cause.WORKER_LIMIT if viewed.pool.at_limit() else Cause.WORKER_STARTING
        return {"cause": int(cause), "detail": f"{len(waiting)} granted, their workers are not up yet"}
    cause, detail = viewed.scheduler.explain(peer, key)
    return {"cause": int(cause), "detail": detail}


_VIEWS: dict[str, Callable[[Any, bytes, dict], dict]] = {
    "nodes": _nodes, "resources": _resources, "available": _available, "actors": _actors, "workers": _workers,
    "placement-groups": _groups,
    "leases": _leases, "store": _store, "gcs": _gcs, "jobs": _jobs, "timeline": _timeline, "tasks": _tasks,
    "stats": _stats, "explain": _explain,
}
