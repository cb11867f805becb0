"""One picture of a session: `zray status` prints it, `zray top` draws it again and again.

``take`` asks the session; the rest is pure.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from zray.cli import columns as columns_module
from zray.cli.columns import Scene
from zray.cli.finding import short_task
from zray.cli.gathering import GatheringClient, pids_here, rows
from zray.cli.live import RUNNING_STATES, TaskGroup, Unfinished, grouped, reason_of, took
from zray.cli.tables import Column, folded, table
from zray.cli.text import cut, duration, of_bytes, plural, safe
from zray.cli.usage import Usage, Usages
from zray.state.attempts import ENDED

FAILURES_MAX = 3  # that are named
FUNCTIONS_SHOWN_MAX = 20  # of running or waiting functions in `zray status`
QUEUES_MAX = 5
NAME_COLUMNS_MAX = 40
Row = dict[str, Any]


@dataclass
class Picture:
    """The answers of a session at one time; rows have all columns of the state API."""

    now_s: float
    where: str
    tasks: list[Row]
    actors: list[Row]
    workers: list[Row]
    worker_rows: dict[str, Row]  # the node's own rows
    nodes: list[Row]  # the node's own rows
    node_rows: list[Row]
    resources: dict[str, float]
    available: dict[str, float]
    stats: dict[str, Any]
    waiting: list[Row]  # demands of the scheduler
    store: dict[str, Any]
    control_store: dict[str, Any]
    usage: dict[int, Usage] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def scene(self) -> Scene:
        return Scene(self.now_s, self.work, self.by_actor, self.worker_rows, self.usage)

    @cached_property
    def work(self) -> Unfinished:
        return Unfinished(self.tasks)

    @cached_property
    def by_actor(self) -> dict[str, Row]:
        return {row["actor_id"]: row for row in self.actors}

    def runs(self) -> list[TaskGroup]:
        return grouped(self.work.all_running(), self.now_s)

    def waits(self) -> list[TaskGroup]:
        work, actors = self.work, self.by_actor
        return grouped(work.waiting, self.now_s, lambda row: reason_of(row, work, actors))

    def failures(self) -> list[Row]:
        """Attempts that failed, the latest first."""
        failed = [row for row in self.tasks if row["state"] == "FAILED"]
        return sorted(failed, key=lambda row: -(row["end_time_ms"] or 0))


def take(client: GatheringClient, usages: Usages, where: str = "", twice: bool = False, errors: bool = False
         ) -> Picture:
    """Ask a session.

    ``twice``: wait for the CPU of the processes, which takes a second look.  ``errors``: with the texts of failures.
    """
    client.gather(("tasks", "actors", "workers", "nodes"), [(what, {}) for what in (
        "resources", "available", "stats", "leases", "store", "gcs")], tasks={"detail": errors})
    workers = client.ask("workers", ended=True)["workers"]
    jobs = client.ask("jobs")["jobs"]
    pids = pids_here(workers, jobs)
    usage = usages.look_twice(pids) if twice else usages.look(pids)
    client.missing.clear()
    nodes = client.ask("nodes")["nodes"]
    return Picture(
        now_s=time.time(), where=where, tasks=rows(client, "tasks", tasks={"detail": errors}),
        actors=rows(client, "actors"),
        workers=[row for row in rows(client, "workers") if row["is_alive"]],
        worker_rows={row["worker_id"]: row for row in workers}, nodes=nodes, node_rows=rows(client, "nodes"),
        resources=client.ask("resources")["resources"], available=client.ask("available")["resources"],
        stats=client.ask("stats")["stats"], waiting=client.ask("leases")["waiting"],
        store=client.ask("store")["store"], control_store=client.ask("gcs"), usage=usage,
        missing=list(dict.fromkeys(client.missing)))


def as_map(picture: Picture) -> dict[str, Any]:
    """For JSON and YAML."""
    return {
        "running": [_as_row(group) for group in picture.runs()],
        "waits": [_as_row(group) for group in picture.waits()],
        "nodes": picture.nodes, "resources": picture.resources, "available": picture.available,
        "stats": picture.stats, "waiting": picture.waiting, "control_store": picture.control_store,
        "workers": [_worker_map(row, picture) for row in picture.workers],
        "object_store": {name: picture.store.get(name, 0) for name in ("capacity", "used", "spilled", "waiting")}}


def _as_row(group: TaskGroup) -> Row:
    return {"name": group.name, "state": group.state, "count": group.count, "longest_s": group.longest_s,
            "why": group.why, "task_id": group.example}


def _worker_map(row: Row, picture: Picture) -> Row:
    usage = picture.usage.get(row["pid"])
    return {"worker_id": row["worker_id"], "pid": row["pid"], "type": row["worker_type"], "node_id": row["node_id"],
            "runs": [{"name": each["name"], "seconds": took(each, picture.now_s)}
                     for each in picture.work.on(row["worker_id"])],
            "rss_bytes": usage.rss if usage else None, "cpu_percent": usage.cpu if usage else None}


# ---------------------------------------------------------------- text


def lines(picture: Picture, width: int) -> list[str]:
    """All of it, for `zray status`."""
    found = [*running_lines(picture, width, FUNCTIONS_SHOWN_MAX), *waiting_lines(picture, width, FUNCTIONS_SHOWN_MAX),
             *queue_lines(picture, width, QUEUES_MAX), *failure_lines(picture, width), "",
             *node_lines(picture, width), *resource_lines(picture, width), *control_store_lines(picture, width)]
    found += [line for text in picture.missing for line in folded(f"not everything is shown: {text}", width, "  ")]
    found += folded(f"session {picture.where}", width, "  ") if picture.where else []
    return [cut(line, width) for line in found]


def running_lines(picture: Picture, width: int, most: int) -> list[str]:
    groups = picture.runs()
    if not groups:
        return ["runs: nothing"]
    count = sum(group.count for group in groups)
    shown = table((
        Column("FUNCTION", lambda group: safe(group.name), 0, 12),
        Column("COUNT", lambda group: f"{group.count:,}", 0, 0, True),
        Column("LONGEST", lambda group: duration(group.longest_s), 0, 0, True),
        Column("STATE", lambda group: RUNNING_STATES[group.state], 1),
        Column("TASK", lambda group: short_task(group.example), 2)), groups[:most], width - 2)
    return [f"runs: {plural(count, 'task')}", *(f"  {line}" for line in shown), *_more(len(groups), most, "function")]


def waiting_lines(picture: Picture, width: int, most: int) -> list[str]:
    groups = picture.waits()
    if not groups:
        return ["waits: nothing"]
    found = [f"waits: {plural(sum(group.count for group in groups), 'task')}"]
    for group in groups[:most]:
        since = f", {duration(group.longest_s)}" if group.longest_s is not None else ""
        found += folded(f"  {group.count:,} x {named(group.name)} ({short_task(group.example)}{since}): "
                        f"{safe(group.why)}", width, "    ")
    return found + _more(len(groups), most, "function")


def queue_lines(picture: Picture, width: int, most: int) -> list[str]:
    queued = [row for row in picture.actors if row["actor_id"] in picture.work.queues]
    if not queued:
        return []
    queues = picture.work.queues
    queued.sort(key=lambda row: (-queues[row["actor_id"]].count, row["actor_id"]))
    kept = [column for column in columns_module.actors(picture.scene)
            if column.title in ("ACTOR", "NAME", "CLASS", "RUNS", "FOR", "QUEUED", "HEAD", "PID")]
    return ["actors with calls that wait:", *(f"  {line}" for line in table(kept, queued[:most], width - 2)),
            *_more(len(queued), most, "actor")]


def failure_lines(picture: Picture, width: int) -> list[str]:
    failed = picture.failures()
    if not failed:
        return []
    found = [f"failed: {plural(len(failed), 'attempt')} of the tasks that are kept"]
    for row in failed[:FAILURES_MAX]:
        ago = f", {duration(picture.now_s - row['end_time_ms'] / 1000)} ago" if row["end_time_ms"] else ""
        last = (row["error_message"] or "").strip().rpartition("\n")[2]
        found += folded(f"  {named(row['name'])} ({short_task(row['task_id'])}{ago}): "
                        f"{safe(last or row['error_type'] or 'failed')}", width, "    ")
    return found + _more(len(failed), FAILURES_MAX, "attempt")


def named(name: str) -> str:
    """A name in a sentence."""
    return cut(safe(name), NAME_COLUMNS_MAX)


def _more(count: int, most: int, noun: str) -> list[str]:
    return [f"  and {plural(count - most, f'more {noun}')}"] if count > most else []


def node_lines(picture: Picture, width: int) -> list[str]:
    alive = sum(row["Alive"] for row in picture.nodes)
    listens = {row["NodeID"]: row.get("ListenAddress") or row["NodeManagerAddress"] for row in picture.nodes}
    kept = [column if column.title != "ADDRESS" else Column("ADDRESS", lambda row: listens.get(row["node_id"], ""), 1)
            for column in columns_module.nodes(picture.scene)]
    shown = table(kept, picture.node_rows, width - 2)
    return [f"{plural(alive, 'node')}:", *(f"  {line}" for line in shown)]


def resource_lines(picture: Picture, width: int) -> list[str]:
    """What is in use of each resource, the workers by state, and the object store."""
    total, free = picture.resources, picture.available
    used = [f"{_used(name, amount - free.get(name, 0), amount)} {safe(name)}" for name, amount in total.items()
            if not name.startswith("node:") or free.get(name) != amount]
    states: dict[str, int] = {}
    for row in picture.workers:
        if row["worker_type"] == "WORKER":
            state = "busy" if picture.work.on(row["worker_id"]) else "idle"
            states[state] = states.get(state, 0) + 1
    rss = sum(usage.rss for usage in picture.usage.values())
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    store = picture.store
    found = [f"in use: {', '.join(used)}",
             f"workers: {counts}" + (f"; with drivers {of_bytes(rss)} resident on this machine" if rss else ""),
             f"object store: {of_bytes(store.get('used', 0))} of {of_bytes(store.get('capacity', 0))} in memory, "
             f"{of_bytes(store.get('spilled', 0))} on disk"
             + (f", {plural(store['waiting'], 'request')} wait for room" if store.get("waiting") else "")]
    return [line for text in found for line in folded(text, width, "  ")]


def _used(name: str, used: float, amount: float) -> str:
    if name.endswith("memory"):
        return f"{of_bytes(used)}/{of_bytes(amount)}"
    return f"{used:g}/{amount:g}"


def control_store_lines(picture: Picture, width: int) -> list[str]:
    """The chains from head to tail, shards of one chain together, and the voters for them."""
    store = picture.control_store
    shards: dict[str, list[int]] = {}
    for chain in store["chains"]:
        members = " -> ".join(name[:8] for name in chain["members"])
        joins = f", {chain['joining'][:8]} catches up" if chain["joining"] else ""
        shards.setdefault(members + joins, []).append(chain["shard"])
    chains = "; ".join(f"shards {_spans(numbers)} on {members}" for members, numbers in shards.items())
    text = f"control store: {chains}; decided by {', '.join(name[:8] for name in store['voters'])}"
    trouble = folded(safe(store["trouble"]), width, "  ") if store.get("trouble") else []
    return [*folded(text, width, "  "), *trouble]


def _spans(numbers: list[int]) -> str:
    """Ascending numbers for people: "0-3, 5"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)


# ---------------------------------------------------------------- zray top


def screen(picture: Picture, width: int, height: int) -> list[str]:
    """As much as a window holds: what runs, what waits, queues, then workers by their CPU."""
    ended = sum(row["state"] in ENDED for row in picture.tasks)
    head = [cut(f"zray top  {picture.where}", width)]
    head += resource_lines(picture, width)
    head.append(f"{plural(sum(row['Alive'] for row in picture.nodes), 'node')}, "
                f"{plural(len(picture.actors), 'actor')}, {ended:,} ended tasks are kept")
    most = max(2, (height - len(head) - 4) // 4)
    body = [*running_lines(picture, width, most), *waiting_lines(picture, width, most)[:2 * most],
            *queue_lines(picture, width, most), *failure_lines(picture, width)[:3]]
    room = max(4, (height - len(head) - 2) * 2 // 3)  # the rest is for workers
    body = body if len(body) <= room else [*body[:room - 1], "..."]

    def load(row: Row) -> tuple[float, float]:
        usage = picture.usage.get(row["pid"])
        return (-(usage.cpu or 0.0), -usage.rss) if usage else (0.0, 0.0)

    busy = sorted(picture.workers, key=load)
    workers = table(columns_module.workers(picture.scene), busy, width) if busy else []
    found = [cut(line, width) for line in (*head, "", *body, "", *workers)]
    return found if len(found) <= height else [*found[:max(1, height - 1)], "..."]

