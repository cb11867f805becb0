"""The drivers and workers of this machine that a person names: by pid, worker, actor, task or function."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import click

from zray.cli.asking import CommandAsker
from zray.cli.finding import matching
from zray.cli.gathering import GatheringClient
from zray.cli.live import Unfinished
from zray.cli.text import safe
from zray.state.kinds import KINDS

Row = dict[str, Any]
KNOWN_MAX = 20  # pids that an error names


@dataclass(frozen=True)
class NamedProcess:
    """A driver or worker; ``socket`` is its place in ``session_dir``, '' where it is on another machine."""

    worker_id: str
    pid: int
    is_driver: bool
    label: str  # what it is or runs, for people
    runs: tuple[str, ...]  # the functions
    socket: str
    session_dir: str

    @property
    def is_idle(self) -> bool:
        return not self.is_driver and not self.runs


def processes(node: CommandAsker, client: GatheringClient) -> list[NamedProcess]:
    """The live ones; drivers first, then workers by what they run."""
    client.gather(("tasks", "actors", "workers"))
    work = Unfinished(client.rows(KINDS["tasks"], {}))
    actors = {row["actor_id"]: row for row in client.rows(KINDS["actors"], {})}
    raw = {row["worker_id"]: row for row in client.ask("workers", ended=True)["workers"]}
    sockets = _sockets(node)
    found = []
    for row in client.rows(KINDS["workers"], {}):
        if not row["is_alive"]:
            continue
        runs = tuple(each["name"] for each in work.on(row["worker_id"]))
        actor = actors.get(raw.get(row["worker_id"], {}).get("actor_id") or "")
        directory, socket = sockets.get(row["worker_id"][:16], ("", ""))
        is_driver = row["worker_type"] == "DRIVER"
        label = "driver" if is_driver else _label(runs, actor)
        found.append(NamedProcess(row["worker_id"], row["pid"], is_driver, label, runs, socket, directory))
    return sorted(found, key=lambda one: (not one.is_driver, one.label, one.pid))


def _label(runs: tuple[str, ...], actor: Row | None) -> str:
    name = f" of actor {safe(actor['name'])}" if actor is not None and actor["name"] else ""
    if runs:
        more = f" and {len(runs) - 1} more calls" if len(runs) > 1 else ""
        return f"{safe(runs[0])}{name}{more}"
    if actor is not None:
        return f"{safe(actor['class_name'])}{name}, idle"
    return "idle worker"


def _sockets(node: CommandAsker) -> dict[str, tuple[str, str]]:
    """(session directory, socket) of the processes of this machine, by incarnation."""
    found = {}
    for directory in node.directories():
        for name in os.listdir(directory):
            if name.endswith(".sock") and name[:2] in ("d-", "w-"):
                found[name[2:18]] = directory, name
    return found


def named(known: list[NamedProcess], client: GatheringClient, wanted: str) -> list[NamedProcess]:
    """The processes that a pid, or the id or name of a worker, actor, task or function means."""
    if wanted.isdigit() and (found := [one for one in known if one.pid == int(wanted)]):
        return found
    by_worker = matching("workers", client.rows(KINDS["workers"], {}), wanted)
    workers = {rows[0]["worker_id"] for rows in by_worker.values() if len(by_worker) == 1}
    if not workers:
        workers = {row["worker_id"] for row in client.rows(KINDS["tasks"], {}) if row["worker_id"]
                   and row["state"].startswith("RUNNING") and (row["name"] == wanted
                   or matching("tasks", [row], wanted))}
    raw = client.ask("actors", live=True)["actors"]
    actors = matching("actors", raw, wanted)
    workers |= {row["worker"].ljust(56, "0")[:16] for rows in actors.values() for row in rows if row.get("worker")}
    found = [one for one in known if one.worker_id in workers or one.worker_id[:16] in workers]
    if not found:
        pids = ", ".join(str(one.pid) for one in known[:KNOWN_MAX]) or "none"
        raise click.ClickException(f"no driver or worker runs that {safe(wanted)!r} means: neither a pid, nor the id "
                                   f"or name of a worker, an actor, or a task that runs; these pids run: {pids}")
    return found


