"""Answers to NodeQuery, for the state API, ``zray status`` and ``zray explain``.  Read-only.

    nodes resources available actors placement-groups workers leases store gcs jobs tasks parents objects timeline spans
    stats explain logs runtime-envs metrics functions output stops

Every answer is a map of wire types; an unknown or failing question answers ``{"error": text}``.  Times that end in _s
are seconds of the day's clock since 1970, 0 for not yet; zray.state makes the rows that users see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, Protocol

from zray.base.causes import Cause
from zray.base.ids import node_of
from zray.base.ports import Ports
from zray.environments.setup import written
from zray.metrics.table import MetricTable
from zray.node import measures
from zray.node.actors.table import ActorTable
from zray.node.context import NodeContext
from zray.node.environments.table import EnvironmentTable, Step
from zray.node.groups.service import GroupService
from zray.node.jobs.ended_events import EVENT_NAME, EVENT_PID, EVENT_TASK
from zray.node.jobs.spans import SpanLog
from zray.node.jobs.table import JobTable
from zray.node.jobs.task_events import TaskEventLog
from zray.node.leases.local import Leases
from zray.node.leases.placements import Placements
from zray.node.peers.cluster import PeerNodes
from zray.node.processes.ended import EndedWorkers, life_of
from zray.node.processes.pool import WorkerPool
from zray.sched.cluster.bottom_up import BottomUpScheduler
from zray.sched.node.grouped import NodeScheduler
from zray.sched.resources import OBJECT_STORE_MEMORY, amounts

EXPECTED_TERMINATION, UNEXPECTED_TERMINATION = 1, 2  # Ray's numbers of why a node has ended; 0 while it lives
HostFamilies = list[tuple[str, str, list[tuple[dict[str, str], float]]]]  # (name, description, series)
LIMIT = 10_000  # rows of one answer, unless the query asks for fewer; "total" is the number of all rows


class HostGauge(Protocol):
    """Measures of the machine and of processes, see zray.node.running.host_metrics."""

    session_name: str

    def read(self, processes: Iterable[tuple[int, str]]) -> HostFamilies: ...


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
    ended_workers: EndedWorkers
    metrics: MetricTable
    logs: Callable[[dict[str, Any]], dict[str, Any]]
    send_output: Callable[[], None]
    host: HostGauge
    stops: Callable[[], list[dict[str, Any]]]
    environments: EnvironmentTable
    spans: SpanLog

    def wall(self, seconds: float) -> float:
        """The time of day of a time of this machine's clock; 0 of 0."""
        return seconds + self.context.epoch_s if seconds else 0.0


def answer(viewed: Viewed, peer: bytes, what: str, args: dict[str, Any]) -> dict[str, Any]:
    view = _VIEWS.get(what)
    if view is None:
        return {"error": f"a node answers {', '.join(sorted(_VIEWS))}, not {what!r}"}
    return view(viewed, peer, args)


def _rows(name: str, rows: list[dict[str, Any]], args: dict[str, Any]) -> dict[str, Any]:
    return {name: [shown(row) for row in rows[:limit_of(args)]], "total": len(rows)}


def limit_of(args: dict[str, Any]) -> int:
    limit = args.get("limit")
    return min(limit, LIMIT) if isinstance(limit, int) and limit >= 0 else LIMIT


def id_of(args: dict[str, Any]) -> bytes:
    """The id of the task or object whose rows alone are wanted; b"" for all."""
    wanted = args.get("task") or args.get("object")
    return wanted if type(wanted) is bytes else b""


def shown(value: Any) -> Any:
    """Convert ids to hex, also as keys: users write them so."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {shown(key): shown(item) for key, item in value.items() if key != "error"}
    if isinstance(value, list):
        return [shown(item) for item in value]
    return value


def _nodes(viewed: Viewed, peer: bytes, args: dict) -> dict:
    mine = "draining" if viewed.bottom_up.draining else "alive"
    rows = [_node(viewed.node, mine, viewed.scheduler.total())]
    rows += [_node(row["shown"], row.get("state", "alive"), row["total"]) for row in viewed.cluster.peers.values()]
    for node, row in viewed.cluster.last_rows.items():
        state = "left" if row.get("state") == "left" else "dead"
        rows.append({**_node(row["shown"], state, {}), "DeathReasonMessage": viewed.context.ends.nodes[node],
                     "DeathReason": EXPECTED_TERMINATION if state == "left" else UNEXPECTED_TERMINATION,
                     "EndTimeMs": int(1000 * viewed.wall(row["ended_s"]))})
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
    return _rows("actors", [_actor(viewed, actor) for actor in actors.values() if not actor.unready], args)


def _actor(viewed: Viewed, actor: Any) -> dict[str, Any]:
    spec = actor.spec
    strategy = spec.get("strategy") or {}
    worker = actor.worker or actor.last_worker
    return {**actor.row(), "required_resources": amounts(spec.get("demand") or {}),
            "running_resources": amounts(spec.get("running") or {}),
            "node_id": viewed.cluster.node_id(node_of(actor.worker)) if actor.worker else "",
            "worker": worker, "owner": actor.owner, "env": spec.get("env") or {},
            "group": strategy.get("group", b"") if strategy.get("kind") == "group" else b"",
            "labels": strategy.get("labels") or {}, "created_s": viewed.wall(actor.started),
            "placed_s": viewed.wall(actor.placed_s), "up_s": viewed.wall(actor.up_s),
            "death_cause": {key: value for key, value in actor.cause.items() if key != "error"}}


def _workers(viewed: Viewed, peer: bytes, args: dict) -> dict:
    node_id = viewed.node.get("NodeID", "")
    stops = viewed.stops()
    rows = [
        {"worker_id": w.id, "stops": [stop["port"] for stop in stops if stop["worker"] == w.incarnation.hex()],
         "pid": w.pid, "state": w.state.name, "job_id": w.job, "actor_id": w.actor,
         "lease": w.lease, "blocked": w.blocked, "env": dict(w.kind.env) if w.kind else {},
         "gpu_ids": list(w.kind.gpus) if w.kind else [], "node_id": node_id,
         "seconds_in_state": viewed.context.now - w.since, "type": "WORKER",
         **{name: viewed.wall(at) for name, at in life_of(w).items()}}
        for w in viewed.pool.workers.values()]
    if args.get("ended"):
        rows += [{**row, "state": "ENDED", "node_id": node_id, "type": "WORKER", "job_id": row["job"],
                  **{name: viewed.wall(row[name]) for name in ("launched_s", "ready_s", "ended_s")}}
                 for row in reversed(viewed.ended_workers.rows)]
    return _rows("workers", rows, args)


def _runtime_envs(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """The environments in which workers of this node run, or could not start."""
    rows: dict[tuple, dict[str, Any]] = {}

    def row_of(env: tuple, setup: str, hook: str) -> dict[str, Any]:
        return rows.setdefault((env, setup, hook), {
            "env": written(dict(env), setup, hook), "success": True, "why": "", "workers": 0, "created_s": 0.0,
            "node_id": viewed.node.get("NodeID", "")})

    for w in viewed.pool.workers.values():
        if w.kind is not None and (w.kind.env or w.kind.setup or w.kind.hook) and not w.broken:
            row = row_of(w.kind.env, w.kind.setup, w.kind.hook)
            row["workers"] += 1
            row["created_s"] = row["created_s"] or viewed.wall(w.launched_s)
    for kind, why in viewed.pool.broken_environments().items():
        row_of(kind.env, kind.setup, kind.hook).update(success=False, why=why)
    for found in viewed.environments.installations.values():
        if found.step is Step.FAILED:
            row_of(tuple(found.variables.items()), found.setup, "").update(
                success=False, why=found.equipment["error"])
    return _rows("runtime-envs", list(rows.values()), args)


def _logs(viewed: Viewed, peer: bytes, args: dict) -> dict:
    return viewed.logs(args)


def _stops(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Tasks that wait for a debugger, or are in one."""
    return _rows("stops", viewed.stops(), args)


def _leases(viewed: Viewed, peer: bytes, args: dict) -> dict:
    report = viewed.scheduler.report()
    workers = {lease: placement.row() for lease, placement in viewed.placements.items()}
    running = viewed.leases.running_names()
    rows = [{**row, **{key: workers[row["lease"]][key] for key in ("pid", "worker", "actor")},
             "name": running.get(row["lease"], row["name"])} for row in report["leases"]]
    return {**_rows("leases", rows, args), "waiting": [shown(row) for row in _waiting(viewed)[:LIMIT]],
            "queued": _queued(viewed), "blocked": _blocked(viewed)}


def _waiting(viewed: Viewed) -> list[dict[str, Any]]:
    """The queue of the scheduler, by the names of the functions that wait first."""
    rows: list[dict[str, Any]] = viewed.scheduler.report()["waiting"]
    declared = viewed.leases.declared()
    for row in rows:
        if not row["actor"] and (known := declared.get((row["owner"], row["key"]))) is not None:
            row["name"] = known.name
        if row["cause"] == Cause.INFEASIBLE:
            row["detail"] += _lost(viewed, row["demand"])
    return rows


def _lost(viewed: Viewed, demand: dict[str, float]) -> str:
    """Names a node that had these resources and has ended."""
    for node, row in viewed.cluster.last_rows.items():
        had = amounts(row["total"])
        if all(had.get(name, 0) >= amount for name, amount in demand.items()):
            name = row["shown"].get("NodeName") or viewed.cluster.node_id(node)[:8]
            return f"; the node {name} had it, and is gone: {viewed.context.ends.nodes.get(node, 'it has ended')}"
    return ""


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
    return [{"name": event[EVENT_NAME], "task_id": event[EVENT_TASK].hex(), "pid": event[EVENT_PID], "job": source.job,
             "worker": source.worker.hex()}
            for source, event in viewed.events.running.values() if _is_blocked(viewed, source.worker)]


def _is_blocked(viewed: Viewed, incarnation: bytes) -> bool:
    worker = viewed.pool.workers.get(incarnation)
    return worker is not None and worker.blocked


def _store(viewed: Viewed, peer: bytes, args: dict) -> dict:
    return {"store": shown(viewed.store_report())}


def _gcs(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """The control store: its chains from head to tail, and its voters."""
    return shown(viewed.gcs_report())


def _jobs(viewed: Viewed, peer: bytes, args: dict) -> dict:
    rows = []
    for job in viewed.jobs.jobs.values():
        row = job.row()  # its times are of the machine's clock, which is local
        start, end = row.pop("start_time"), row.pop("end_time")
        rows.append({**row, "driver": job.driver, "seconds": (end or viewed.context.now) - start,
                     "started_s": viewed.wall(start), "ended_s": viewed.wall(end),
                     "metadata": job.config.get("metadata") or {},
                     "node_id": viewed.node.get("NodeID", "") if viewed.context.is_mine(job.driver) else ""})
    return _rows("jobs", rows, args)


def _groups(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Placement groups whose home is this node, and the bundles on it; ``group``: that group alone."""
    wanted = args.get("group")
    if wanted is not None:
        return _rows("placement-groups", viewed.groups.table.rows(wanted), args)
    return {**_rows("placement-groups", viewed.groups.table.rows(), args),
            "bundles": [shown(row) for row in viewed.scheduler.bundles.rows()]}


def _timeline(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Task events from number ``start`` on, in Chrome's trace format; ``next`` is the start of the
    following page."""
    return timeline(viewed.events, args, viewed.node.get("NodeManagerAddress", ""))


def timeline(events: TaskEventLog, args: dict[str, Any], address: str) -> dict[str, Any]:
    """The answer of the view ``timeline``."""
    following, page = events.timeline(_start_of(args), limit_of(args), address)
    return {"events": page, "next": following, "total": events.seen, "dropped": events.dropped}


def _spans(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Spans beside the tasks from number ``start`` on; with the first page also what runs and waits now."""
    return spans(viewed.spans, viewed.events, args, viewed.wall(viewed.context.now))


def spans(log: SpanLog, events: TaskEventLog, args: dict[str, Any], now_s: float) -> dict[str, Any]:
    """The answer of the view ``spans``."""
    start = _start_of(args)
    first, page = log.page(start, limit_of(args))
    answer = {"spans": page, "next": first + len(page), "total": log.seen, "dropped": log.dropped}
    if not start:
        answer |= {"open": log.open_waits(now_s), "running": events.running_now(now_s)}
    return answer


def _start_of(args: dict[str, Any]) -> int:
    start = args.get("start")
    return start if isinstance(start, int) and start >= 0 else 0


def _tasks(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Attempts that run or ended, by the events of workers and owners, the latest first.

    ClusterQueries adds ``live``: unfinished tasks, by their owners and workers.  ``task``: of that task only.
    ``detail``: with the texts of errors.
    """
    waiting = [{name: row[name] for name in ("owner", "key", "cause", "detail")} for row in _waiting(viewed)[:LIMIT]]
    return {**tasks(viewed.events, args, partial(_is_blocked, viewed)), "waiting": shown(waiting)}


def tasks(events: TaskEventLog, args: dict[str, Any], is_blocked: Callable[[bytes], bool]) -> dict[str, Any]:
    """The answer of the view ``tasks``, as far as the events have it."""
    limit, detail, task = limit_of(args), args.get("detail"), id_of(args)
    rows = [shown(row if detail else {**row, "error_message": ""})
            for row in islice(events.rows(is_blocked, task), limit)]
    stories = [[*key, *story] for key, story in reversed(events.stories.items()) if not task or key[0] == task]
    kept = len(events.running) + len(events.ended) + len(events.failures)
    return {"tasks": rows, "total": max(len(rows), kept if not task else 0), "dropped": events.dropped,
            "forgotten": events.ended.forgotten, "live": [], "stories": shown(stories[:limit])}


def _functions(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """The sums of each function over all ended attempts that were reported one by one, also of those that are no
    longer kept; ``dropped``: attempts that were only counted."""
    return functions(viewed.events, args)


def functions(events: TaskEventLog, args: dict[str, Any]) -> dict[str, Any]:
    """The answer of the view ``functions``."""
    rows = [{"name": name, "finished": finished, "failed": failed, "seconds": seconds, "longest_s": longest}
            for name, (finished, failed, seconds, longest) in events.ended.functions.items()]
    return {**_rows("functions", rows, args), "dropped": events.dropped, "forgotten": events.ended.forgotten}


def _parents(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """``[prefix, task]`` for those of ``prefixes`` whose task ran on this node."""
    return parents(viewed.events, args)


def parents(events: TaskEventLog, args: dict[str, Any]) -> dict[str, Any]:
    """The answer of the view ``parents``."""
    asked = args.get("prefixes")
    known = events.parents
    return {"parents": [[prefix.hex(), known[prefix].hex()] for prefix in asked or () if prefix in known]}


def _objects(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """ClusterQueries adds ``live``: the references of all processes.  ``object``: to that object only."""
    return {"objects": [], "live": []}


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
        "tasks_reported": viewed.events.seen, "tasks_not_reported": viewed.events.dropped,
        "tasks_forgotten": viewed.events.ended.forgotten}}


def _metrics(viewed: Viewed, peer: bytes, args: dict) -> dict:
    return {"metrics": measures.families(viewed)}


def _explain(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Why a key of the asker (``key``) or an actor (``actor``) has no worker."""
    actor = viewed.actors.actors.get(args.get("actor", b""))
    if actor is not None:
        if actor.state != "ALIVE" and actor.worker:
            return {"cause": int(Cause.CONSTRUCTING), "detail": f"pid {actor.pid}", "state": actor.state}
        cause = actor.cause.get("cause", Cause.READY if actor.state == "ALIVE" else Cause.ACTOR_PENDING)
        return {"cause": int(cause), "detail": _detail(actor), "state": actor.state}
    key = args.get("key")
    if not isinstance(key, int):
        return {"error": "explain takes a key or an actor"}
    waiting = [p for p in viewed.placements.values() if p.owner == peer and p.key == key and p.worker is None]
    if waiting:
        limit = viewed.pool.limit()
        cause = Cause.WORKER_LIMIT if limit else Cause.WORKER_STARTING
        return {"cause": int(cause), "detail": limit or f"{len(waiting)} granted, their workers are not up yet"}
    cause, detail = viewed.scheduler.explain(peer, key)
    return {"cause": int(cause), "detail": detail}


def _detail(actor: Any) -> str:
    """Why an actor is not up, and how often it was restarted: one that crashes at each call looks alive in between."""
    said = [actor.cause.get("detail", ""), actor.cause.get("reason", "")]
    if actor.cause.get("signal"):
        said.append(f"signal {actor.cause['signal']}")
    if actor.life:
        said.append(f"{actor.life} restarts so far")
    return "; ".join(dict.fromkeys(filter(None, said)))


def _received(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Nothing: a node reads in order, so the answer says that it has read what the process sent before."""
    return {}


def _output(viewed: Viewed, peer: bytes, args: dict) -> dict:
    """Nothing: the answer comes after the lines that workers have printed before."""
    viewed.send_output()
    return {"output": [], "total": 0}


_VIEWS: dict[str, Callable[[Any, bytes, dict], dict]] = {
    "nodes": _nodes, "resources": _resources, "available": _available, "actors": _actors, "workers": _workers,
    "placement-groups": _groups,
    "leases": _leases, "store": _store, "gcs": _gcs, "jobs": _jobs, "timeline": _timeline, "spans": _spans,
    "tasks": _tasks, "stats": _stats, "explain": _explain, "parents": _parents, "objects": _objects, "logs": _logs,
    "runtime-envs": _runtime_envs, "metrics": _metrics, "functions": _functions, "output": _output,
    "stops": _stops, "received": _received,
}
