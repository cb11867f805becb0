"""The facts of a report, from a session that runs or has ended.  A part that cannot be had is named as a gap."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from zray.base.version import __version__
from zray.node.running import session as sessions
from zray.state import kept
from zray.state.client import StateClient
from zray.state.errors import RayStateApiException
from zray.state.kinds import KINDS
from zray.state.timeline import timeline_events

GATHER_TIMEOUT_S = 30.0
LIBRARIES = ("pyzmq", "numpy", "numba", "msgpack", "cloudpickle", "sortedcontainers")
GATHERED = ("tasks", "actors", "nodes", "workers", "jobs", "objects", "placement_groups", "cluster_events")

Row = dict[str, Any]


@dataclass
class RunFacts:
    """What is known of a session."""

    about: Row = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=lambda: {kind: [] for kind in GATHERED})
    functions: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)  # of the timeline
    stores: list[Row] = field(default_factory=list)  # usage of each node's object store, with "node_id"
    waiting: list[Row] = field(default_factory=list)  # the queues of the schedulers
    dropped: int = 0  # attempts that were only counted
    forgotten: int = 0  # attempts that are in the sums of their function alone
    gaps: list[str] = field(default_factory=list)  # what could not be had, in words
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return "written_s" in self.about

    @property
    def begin_s(self) -> float:
        return float(self.about.get("started_s") or 0.0)

    @property
    def end_s(self) -> float:
        """The end of the session, or now."""
        return float(self.about.get("written_s") or self.about["now_s"])


def gathered(session_dir: str) -> RunFacts:
    """The facts of the session in that folder.  ServerUnavailable when it neither runs nor has kept anything."""
    run = RunFacts()
    with StateClient(session_dir, GATHER_TIMEOUT_S) as client:
        run.about = _about(session_dir)
        run.versions = versions(run.about)
        for kind in GATHERED:
            args = {"tasks": {"detail": True}} if kind == "tasks" else {}
            run.rows[kind] = _part(run, kind, lambda kind=kind, args=args: client.rows(KINDS[kind], args), [])  # type: ignore[misc]
        found = _part(run, "functions", lambda: client.ask("functions"), {})
        run.functions = _summed(found.get("functions", []))
        run.dropped, run.forgotten = found.get("dropped", 0), found.get("forgotten", 0)
        run.events = _part(run, "timeline", lambda: timeline_events(client.ask), [])
        run.waiting = _part(run, "queues", lambda: client.ask("leases").get("waiting", []), [])
        for node in run.rows["nodes"]:
            if node["state"] == "ALIVE":
                on = bytes.fromhex(node["node_id"])[:8]
                store = _part(run, f"store of node {node['node_id'][:8]}",
                              lambda on=on: client.ask("store", on=on)["store"], {})  # type: ignore[misc]
                run.stores.append({**store, "node_id": node["node_id"]})
        run.gaps += dict.fromkeys(client.missing)
        if client.gone:
            run.gaps.append(f"nodes that have ended took their rows with them: {client.gone}")
    return run


def _part(run: RunFacts, what: str, ask: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return ask()
    except RayStateApiException as error:
        run.gaps.append(f"{what}: {error}")
        return otherwise


def _about(session_dir: str) -> Row:
    if kept.is_ended(session_dir):
        return kept.KeptNode(session_dir).about
    found = sessions.read(session_dir)
    about: Row = {"session": os.path.basename(session_dir), "now_s": time.time()}
    if found is not None:
        about |= {"started_s": found.started, "pid": found.pid, "settings": found.settings, "node_id": found.node_id}
    return about


def _summed(rows: list[Row]) -> list[Row]:
    """One row for each function, whatever node it ran on; the one that took most time first."""
    sums: dict[str, Row] = {}
    for row in rows:
        known = sums.setdefault(row["name"], {**row, "finished": 0, "failed": 0, "seconds": 0.0, "longest_s": 0.0})
        for name in ("finished", "failed", "seconds"):
            known[name] += row[name]
        known["longest_s"] = max(known["longest_s"], row["longest_s"])
    return sorted(sums.values(), key=lambda row: -row["seconds"])


def versions(about: Row) -> dict[str, str]:
    """Versions of the session as far as it has kept them, and of this installation."""
    found = {"zray": str(about.get("zray") or __version__), "Python": str(about.get("python") or
             sys.version.split()[0]), "system": platform.platform(), "machine": platform.machine()}
    if about.get("zray") not in (None, __version__):
        found["zray that made this report"] = __version__
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
