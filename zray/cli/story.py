"""Why one thing waits or how it ended, from its owner and its node, for ``zray why``."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from zray.base.causes import Cause
from zray.base.ids import PUT_FLAG, RETURN_1, TASK_SIZE
from zray.cli.asking import CommandAsker
from zray.cli.columns import clock
from zray.cli.finding import IDENTITIES, matching, short_actor, short_job, short_task
from zray.cli.gathering import GatheringClient
from zray.cli.live import RUNNING_STATES, Unfinished, reason_of, seconds_since, took
from zray.cli.text import duration, of_bytes, plural, safe
from zray.core.waits.explaining import Asking, is_reason, sentence
from zray.core.waits.why import WAITS
from zray.state.attempts import ENDED
from zray.state.kinds import KINDS

Row = dict[str, Any]
ERROR_LINES_MAX = 30  # the last lines of the text of a failure


def tell(node: CommandAsker, client: GatheringClient, wanted: str, budget_s: float) -> Row:
    """``kind``, ``id``, ``name``, ``state`` and ``text`` (lines) of the thing that ``wanted`` names."""
    client.gather(("tasks", "actors", "objects", "placement_groups"), tasks={"detail": True})
    tasks = client.rows(KINDS["tasks"], {"tasks": {"detail": True}})
    rows = {"tasks": tasks, "actors": client.rows(KINDS["actors"], {}),
            "objects": client.rows(KINDS["objects"], {}),
            "placement_groups": client.rows(KINDS["placement_groups"], {})}
    found = {kind: hits for kind in rows if (hits := matching(kind, rows[kind], wanted))}
    if "tasks" in found:  # the objects of a task have its id at their beginning, and its short form
        found.pop("objects", None)
    if "actors" in found and all(row["type"] == "ACTOR_CREATION_TASK" for group in found.get("tasks", {}).values()
                                 for row in group):
        found.pop("tasks", None)  # the constructor has the actor's id
    if len(found) > 1:
        named = [kind for kind, hits in found.items() if wanted in
                 (str(row.get("name")) for group in hits.values() for row in group)]
        found = {named[0]: found[named[0]]} if len(named) == 1 else found
    if not found:
        raise click.ClickException(f"no task, actor, object or placement group with id or name {safe(wanted)!r}: "
                                   "`zray list tasks` and `zray list actors` show what there is")
    if len(found) > 1:
        raise click.ClickException(f"{safe(wanted)!r} could be of several kinds: {', '.join(sorted(found))}. Give more "
                                   "digits of the id")
    [(kind, hits)] = found.items()
    if len(hits) > 1 and kind != "tasks":
        identity = IDENTITIES[kind]
        shown = ", ".join(identity.short(one) for one in list(hits)[:5])
        raise click.ClickException(f"{safe(wanted)!r} could be {len(hits)} {identity.noun}s: {shown}. Give more digits "
                                   "of the id")
    teller = _Teller(node, client, rows, budget_s)
    if kind == "tasks":
        attempts = _of_interest(hits)
        return teller.task(attempts, len(hits))
    row = next(iter(hits.values()))
    return {"actors": teller.actor, "objects": teller.object, "placement_groups": teller.group}[kind](row)


def _of_interest(hits: dict[str, list[Row]]) -> list[Row]:
    """Of several tasks of one name the one that has waited longest, else run longest, else ended last."""
    def rank(attempts: list[Row]) -> tuple[int, float]:
        row = attempts[0]
        place = 2 if row["state"] in ENDED else 1 if row["state"] in RUNNING_STATES else 0
        return place, -row["end_time_ms"] if place == 2 else row["creation_time_ms"] or 0.0

    return min(hits.values(), key=rank)


class _Teller:
    def __init__(self, node: CommandAsker, client: GatheringClient, rows: dict[str, list[Row]], budget_s: float):
        self.node = node
        self.client = client
        self.rows = rows
        self.budget_s = budget_s
        self.now_s = time.time()
        self.actors = {row["actor_id"]: row for row in rows["actors"]}
        self.work = Unfinished(rows["tasks"])

    def task(self, attempts: list[Row], same_name: int) -> Row:
        row = attempts[0]
        lines = []
        if same_name > 1:
            lines.append(f"{plural(same_name, 'task')} have this name; this is the one that has waited longest, or "
                         "else ran last")
        head = (f"task {short_task(row['task_id'])} {row['name']} of job {short_job(row['job_id'])} is {row['state']}"
                f"{_age(row, self.now_s)}")
        where = f", on pid {row['worker_pid']}" if row["worker_pid"] else ""
        lines.append(head + where + (f" (attempt {row['attempt_number'] + 1})" if row["attempt_number"] else ""))
        if row["type"] == "ACTOR_CREATION_TASK" and row["state"] not in ENDED and row["actor_id"] in self.actors:
            lines += self.actor([self.actors[row["actor_id"]]])["text"]
        elif row["state"] in RUNNING_STATES and RUNNING_STATES[row["state"]] and row["worker_id"]:
            lines += blocked_in(self.node, bytes.fromhex(row["worker_id"])[:8], row["task_id"], row["name"],
                                self.budget_s)
        elif row["state"] not in ENDED and row["state"] not in RUNNING_STATES:
            lines += self._owner_says(row["task_id"]) or [f"  {reason_of(row, self.work, self.actors)}"]
        for each in attempts:
            lines += _failure(each) if each["state"] == "FAILED" else []
        if row["call_site"]:
            lines.append(f"  called at {row['call_site']}")
        return _found("task", row["task_id"], row["name"], row["state"], lines)

    def _owner_says(self, task_id: str) -> list[str]:
        """The reasons that the owner of a task knows; none where it is on another machine."""
        task = bytes.fromhex(task_id)
        for live in self.client.ask("tasks", live=True, task=task).get("live", ()):
            if live.get("here") or live.get("task_id") != task_id:
                continue
            oid = task + RETURN_1
            owner = bytes.fromhex(live["process"]["worker_id"])[:8]
            _, found = self.node.ask_why(owner, oid, "", time.monotonic() + self.budget_s)
            return _told(self.node, [each for each in found if is_reason(each)], self.budget_s)
        return []

    def actor(self, rows: list[Row]) -> Row:
        row = rows[0]
        name = f" {row['name']!r}" if row["name"] else ""
        said = self._home_says(bytes.fromhex(row["actor_id"]))
        detail = f" ({said['detail']})" if said.get("detail") else ""
        lines = [f"actor {row['class_name']}{name} ({short_actor(row['actor_id'])}) is {row['state']}: "
                 f"{Cause(said['cause']).text}{detail}" if row["state"] != "DEAD" else
                 f"actor {row['class_name']}{name} ({short_actor(row['actor_id'])}) is DEAD{detail}"]
        for running in self.work.of_actor(row):
            lines.append(f"  {running['name']}() runs on pid {running['worker_pid']}{_age(running, self.now_s)}"
                         + (f", {RUNNING_STATES[running['state']]}" if RUNNING_STATES[running["state"]] else ""))
            if RUNNING_STATES[running["state"]] and running["worker_id"]:
                lines += blocked_in(self.node, bytes.fromhex(running["worker_id"])[:8], running["task_id"],
                                    running["name"], self.budget_s, "    ")
        queue = self.work.queues.get(row["actor_id"])
        if queue is not None:
            names = ", ".join(f"{count} x {called}" for called, count in sorted(queue.names.items()))
            head = duration(seconds_since(queue.oldest_ms, self.now_s))
            lines.append(f"  {plural(queue.count, 'call')} wait{f', the first for {head}' if head else ''}: {names}")
        if row["death_cause"]:
            for about in row["death_cause"].values():
                text = about.get("error_message") or about.get("formatted_exception_string") or ""
                lines += [f"  {line}" for line in text.strip().split("\n")[-ERROR_LINES_MAX:]]
        return _found("actor", row["actor_id"], row["name"] or row["class_name"], row["state"], lines)

    def _home_says(self, actor: bytes) -> Row:
        """The answer of the home of an actor, which may be any node; else that its owner alone knows it yet."""
        nodes = [bytes.fromhex(row["NodeID"])[:8] for row in self.client.ask("nodes")["nodes"] if row["Alive"]]
        for node in nodes:  # the one that is asked comes first
            try:
                return self.node.ask("explain", actor=actor, on=node)
            except click.ClickException:
                continue
        return {"cause": int(Cause.ACTOR_PENDING), "detail": "no node has it"}

    def object(self, rows: list[Row]) -> Row:
        identifier = rows[0]["object_id"]
        raw = bytes.fromhex(identifier)
        size = max(row["object_size"] for row in rows)
        lines = [f"object {short_task(identifier)}: " + (f"it has a value, of {of_bytes(size)}" if size >= 0
                                                         else "it has no value yet")]
        if size < 0 and not int.from_bytes(raw[TASK_SIZE:], "little") & PUT_FLAG:
            lines += self._owner_says(raw[:TASK_SIZE].hex())
        for row in rows:
            site = f", made at {row['call_site']}" if row["call_site"] not in ("", "disabled", None) else ""
            lines.append(f"  {row['type'].lower()} {row['pid']} holds it "
                         f"({row['reference_type'].lower().replace('_', ' ')}){site}")
        return _found("object", identifier, "", rows[0]["task_status"], lines)

    def group(self, rows: list[Row]) -> Row:
        row = rows[0]
        detail = (row["stats"] or {}).get("detail", "")
        name = f" {row['name']!r}" if row["name"] else ""
        lines = [f"placement group{name} ({row['placement_group_id'][:8]}) is {row['state']}"
                 + (f": {detail}" if detail else "")]
        for number, bundle in enumerate(row["bundles"] or ()):
            has = ", ".join(f"{key} {value:g}" for key, value in bundle["unit_resources"].items())
            lines.append(f"  bundle {number}: {has}; "
                         + (f"on node {bundle['node_id'][:8]}" if bundle["node_id"] else "it has no place"))
        return _found("placement_group", row["placement_group_id"], row["name"], row["state"], lines)


def _found(kind: str, identifier: str, name: str, state: str, lines: list[str]) -> Row:
    return {"kind": kind, "id": identifier, "name": name, "state": state, "text": lines}


def _age(row: Row, now_s: float) -> str:
    seconds = took(row, now_s)
    if seconds is None:
        return ""
    if row["state"] in ENDED:
        return f" after {duration(seconds)}, at {clock(row['end_time_ms'])}"
    return f" for {duration(seconds)}"


def _failure(row: Row) -> list[str]:
    text = (row["error_message"] or row["error_type"] or "").strip().split("\n")
    begin = f"  attempt {row['attempt_number'] + 1} failed" if row["attempt_number"] else "  it failed"
    cut = [f"    ... {len(text) - ERROR_LINES_MAX} lines"] if len(text) > ERROR_LINES_MAX else []
    return [f"{begin} ({row['error_type']}):", *cut, *(f"    {line}" for line in text[-ERROR_LINES_MAX:])]


# ---------------------------------------------------------------- chains of reasons


def blocked_in(node: CommandAsker, worker: bytes, task_id: str, name: str, budget_s: float, indent: str = "  "
               ) -> list[str]:
    """What a task waits for in get or wait."""
    task = bytes.fromhex(task_id)
    about = {"task": task_id, "name": name, "ask": [worker, task, ""]}
    found: list[Any] = [[task, Cause.RUNNING, about]]
    Asking(node, budget_s).follow(found)
    return [sentence(oid, cause, more, indent) for oid, cause, more in found[0][2].get("because", ())]


def waits_of_driver(node: CommandAsker, driver: str, budget_s: float) -> list[str]:
    """What the threads of a driver wait for."""
    name = f"d-{driver}.sock"
    directory = next((one for one in node.directories() if os.path.exists(os.path.join(one, name))), "")
    answer = node.ask_process(name, WAITS, session_dir=directory)
    return _told(node, [each for each in answer.found if is_reason(each)] if answer is not None else [], budget_s)


def _told(node: CommandAsker, found: list[Any], budget_s: float) -> list[str]:
    if found:
        Asking(node, budget_s).follow(found)
    return [sentence(oid, cause, about, "  ") for oid, cause, about in found]
