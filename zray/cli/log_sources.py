"""The log files of a session: of a live one by its nodes, of an ended one from its directory."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import click

from zray.base.formats import TASK_MARKER
from zray.cli.finding import matching
from zray.node.running import logs as log_files, session as sessions
from zray.node.running.journal import NODE_LOG
from zray.state.client import StateClient
from zray.state.errors import RayStateApiException
from zray.state.kinds import KINDS

Row = dict[str, Any]
MARK_BYTES = TASK_MARKER.encode()
SCAN_BYTES_MAX = 4 << 20  # of one file of an ended session, to find who has written it
_WORKER_STARTS = re.compile(r"worker (\d+) \(([0-9a-f]{16})\)")
_ACTOR = re.compile(r"actor ([0-9a-f]{32}) \((.+?)\) is ")


@dataclass(frozen=True)
class KeptFile:
    node: str  # the id of its node, '' in an ended session
    name: str
    size: int = field(compare=False)

    @property
    def worker(self) -> str:
        """The incarnation of the worker that wrote it; '' for another file."""
        stem, _, suffix = self.name.rpartition(".")
        return stem.removeprefix("worker-") if stem.startswith("worker-") and suffix in ("out", "err") else ""


class LogPiece(NamedTuple):
    data: bytes
    offset: int  # of its end
    size: int  # of the file


class Writers(NamedTuple):
    """What a person means: the workers that have written it, and of their output that of this function only."""

    workers: frozenset[str]
    function: str = ""


class LogSource(Protocol):
    def files(self) -> list[KeptFile]: ...
    def read(self, file: KeptFile, *, lines: int = -1, offset: int | None = None) -> LogPiece: ...
    def workers_of(self, kind: str, wanted: str) -> Writers: ...
    def labels(self) -> dict[str, str]: ...


class LiveLogs:
    """Asks the nodes, so the files may be on other machines."""

    def __init__(self, client: StateClient):
        self._client = client
        self.nodes = {row["NodeID"]: row for row in client.ask("nodes")["nodes"] if row["Alive"]}

    def files(self) -> list[KeptFile]:
        found = []
        for node in self.nodes:
            rows = self._client.ask("logs", on=bytes.fromhex(node)[:8], glob="*")["logs"]
            found += [KeptFile(node, row["name"], row["size"]) for row in rows]
        return found

    def read(self, file: KeptFile, *, lines: int = -1, offset: int | None = None) -> LogPiece:
        self._client.extend()
        where: dict[str, Any] = {"lines": lines} if offset is None else {"offset": offset}
        found = self._client.ask("logs", on=bytes.fromhex(file.node)[:8], file=file.name, **where)
        return LogPiece(found["data"], found["offset"], found["size"])

    def workers_of(self, kind: str, wanted: str) -> Writers:
        """The writers that an id or name of a worker, an actor or a task means, the live ones first."""
        if kind == "workers":
            rows = self._client.rows(KINDS["workers"], {})
            return Writers(frozenset(one[:16] for one in matching(kind, rows, wanted)))
        if kind == "actors":
            hits = matching(kind, self._client.ask("actors")["actors"], wanted)
            return Writers(frozenset(row["worker"] for rows in hits.values() for row in rows if row.get("worker")))
        tasks = [row for rows in matching(kind, self._client.rows(KINDS["tasks"], {}), wanted).values() for row in rows]
        workers = frozenset(row["worker_id"][:16] for row in tasks if row["worker_id"])
        return Writers(workers, tasks[0]["name"] if tasks else "")

    def labels(self) -> dict[str, str]:
        """What each worker is, by its incarnation."""
        actors = {row["worker"]: row["name"] or row["class_name"] for row in self._client.ask("actors")["actors"]
                  if row.get("worker")}
        return {row["worker_id"][:16]: f"pid {row['pid']}" + (
            f", actor {actors[row['worker_id'][:16]]}" if row["worker_id"][:16] in actors else "")
            + ("" if row["is_alive"] else ", ended") for row in self._client.rows(KINDS["workers"], {})}


class KeptLogs:
    """Of a session that has ended: who wrote what is in node.log, and in the marks of the files."""

    def __init__(self, session_dir: str):
        self.directory = os.path.join(session_dir, sessions.LOGS)
        self._functions: dict[str, set[str]] = {}

    def files(self) -> list[KeptFile]:
        found = log_files.answer(self.directory, {})
        if "error" in found:
            raise click.ClickException(found["error"])
        return [KeptFile("", row["name"], row["size"]) for row in found["logs"]]

    def read(self, file: KeptFile, *, lines: int = -1, offset: int | None = None) -> LogPiece:
        where: dict[str, Any] = {"lines": lines} if offset is None else {"offset": offset}
        found = log_files.answer(self.directory, {"file": file.name, **where})
        if "error" in found:
            raise click.ClickException(found["error"])
        return LogPiece(found["data"], found["offset"], found["size"])

    def workers_of(self, kind: str, wanted: str) -> Writers:
        pids, classes = self._journal()
        if kind == "workers":
            return Writers(frozenset(worker for worker, pid in pids.items()
                                    if wanted == pid or worker.startswith(wanted.lower()[:16])))
        if kind == "actors":
            named = {name for actor, name in classes.items() if name == wanted or actor.startswith(wanted)
                     or actor[8:].startswith(wanted)}
            return Writers(frozenset(worker for worker, functions in self._written().items()
                                    if any(one.rpartition(".")[0].endswith(name) for one in functions
                                           for name in named)))
        return Writers(frozenset(worker for worker, functions in self._written().items() if wanted in functions),
                      wanted)

    def labels(self) -> dict[str, str]:
        pids, _ = self._journal()
        return {worker: ", ".join([f"pid {pids[worker]}" if worker in pids else "ended", *sorted(functions)[:3]])
                for worker, functions in self._written().items()}

    def _journal(self) -> tuple[dict[str, str], dict[str, str]]:
        """(pids by worker, classes by actor), as far as the logs of the node say."""
        text = ""
        for name in (f"{NODE_LOG}.1", NODE_LOG):
            try:
                with open(os.path.join(self.directory, name), encoding="utf-8", errors="replace") as file:
                    text += file.read()
            except OSError:
                continue
        return ({worker: pid for pid, worker in _WORKER_STARTS.findall(text)}, dict(_ACTOR.findall(text)))

    def _written(self) -> dict[str, set[str]]:
        """The functions that have written into the files of each worker."""
        if not self._functions:
            for file in self.files():
                if file.worker:
                    found = self._functions.setdefault(file.worker, set())
                    with open(os.path.join(self.directory, file.name), "rb") as opened:
                        found |= functions_in(opened.read(SCAN_BYTES_MAX))
        return self._functions


def functions_in(data: bytes) -> set[str]:
    """The names in the marks of a log."""
    marks = (line for line in data.split(b"\n") if line.startswith(MARK_BYTES))
    return {mark[len(MARK_BYTES):].decode(errors="replace") for mark in marks}


def only_of(data: bytes, function: str, is_its: bool) -> tuple[bytes, bool]:
    """``(the lines that a function has written, whether the next ones are its)``; ``is_its``: whether the first are."""
    kept = []
    for line in data.split(b"\n"):
        if line.startswith(MARK_BYTES):
            is_its = line[len(MARK_BYTES):].decode(errors="replace") == function
        elif is_its:
            kept.append(line)
    return b"\n".join(kept), is_its


SESSION_GONE = (RayStateApiException, click.ClickException)  # of a session that ends while its logs are followed
