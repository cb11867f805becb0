"""Questions to the nodes of a cluster, and the rows that their answers make.

Works as a driver, in a task, and without ``init()``: then it asks a running node of this user and starts no job.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

from zray.base.causes import Cause
from zray.base.errors import GetTimeoutError
from zray.handles.connection import current
from zray.state import attempts, kept, rows
from zray.state.attempts import PREFIX_DIGITS
from zray.state.errors import NodesEnded, RayStateApiException, ServerUnavailable
from zray.state.filters import checked, matcher
from zray.state.kinds import KINDS, RowKind
from zray.state.places import Places

DEFAULT_LIMIT = 100
DEFAULT_TIMEOUT_S = 30
LIMIT_MAX = 10_000  # rows of one list, and of the answer of one node
OF_NODES = ("tasks", "workers", "cluster_events", "runtime_envs")  # kinds whose ended rows each node keeps by itself
# Lines of zray itself in the output of a worker: the name of the task that prints, warnings, progress bars.
_MARK = re.compile(rb"\x01zray-[^\n]*\n")
LOG_LOOK_S = 0.5  # between two looks for new lines of a log that is followed


class Asker(Protocol):
    """A connection that asks one node."""

    def ask(self, what: str, timeout_s: float, **args: Any) -> dict[str, Any]: ...

    def close(self) -> None: ...


class _RuntimeAsker:
    """The connection of this driver, task or actor."""

    def __init__(self, runtime: Any):
        self._runtime = runtime

    def ask(self, what: str, timeout_s: float, **args: Any) -> dict[str, Any]:
        try:
            return self._runtime.query(what, timeout_s=timeout_s, **args)
        except GetTimeoutError as error:
            raise RayStateApiException(str(error)) from None

    def close(self) -> None:
        """The connection is the process's own."""


class _NodeAsker:
    """A connection of its own to a running node of this user."""

    def __init__(self, address: str):
        from zray.node.running.ask import NodeClient

        try:
            self._client = NodeClient(address)
        except ConnectionError as error:
            raise ServerUnavailable(str(error)) from None

    def ask(self, what: str, timeout_s: float, **args: Any) -> dict[str, Any]:
        try:
            return self._client.ask(what, timeout_s=timeout_s, **args)
        except RuntimeError as error:
            raise RayStateApiException(str(error)) from None

    def ask_all(self, questions: Sequence[tuple[str, dict[str, Any]]], timeout_s: float) -> list[dict[str, Any] | None]:
        """The answers to several questions that are asked at once; None for one that has not come in time."""
        return self._client.ask_all(questions, timeout_s)

    def close(self) -> None:
        self._client.close()


def asker_for(address: str | None) -> Asker:
    """This process's own connection, or one to the node at ``address``, or what a session kept that has ended, whose
    folder ``address`` is.  ServerUnavailable."""
    runtime = current()
    if address is None and runtime is not None:
        return _RuntimeAsker(runtime)
    if address and kept.is_ended(address):
        return kept.KeptAsker(address)
    return _NodeAsker(address or os.environ.get("ZRAY_ADDRESS") or os.environ.get("RAY_ADDRESS") or "auto")


class StateClient:
    """One question of a user: it may ask a node several times, within ``timeout_s``."""

    def __init__(self, address: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S, asker: Asker | None = None):
        """``asker``: a connection that the caller has already."""
        if not isinstance(timeout_s, (int, float)) or isinstance(timeout_s, bool) or timeout_s <= 0:
            raise ValueError(f"timeout takes a number of seconds over 0, not {timeout_s!r}")
        self._asker = asker or asker_for(address)
        self._deadline = time.monotonic() + timeout_s
        self.missing: list[str] = []  # what is not in the rows, in words
        self.gone = ""  # the nodes that have ended, with the rows that only they kept
        self.totals: dict[str, int] = {}  # rows that the nodes have of each view, also those that they did not send

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._asker.close()

    def ask(self, what: str, **args: Any) -> dict[str, Any]:
        """The answer of the node.  RayStateApiException when it is none."""
        found = self._answer(what, args)
        if "error" in found:
            raise RayStateApiException(str(found["error"]))
        if found.get("missing"):
            self.missing.append(f"the nodes {', '.join(found['missing'])} did not answer")
        self.missing += found.get("cut", ())
        if found.get("silent"):
            self.missing.append(f"the processes {', '.join(found['silent'])} did not answer")
        return found

    def _answer(self, what: str, args: dict[str, Any]) -> dict[str, Any]:
        return self._asker.ask(what, self._left_s(), **args)

    def _left_s(self) -> float:
        return max(0.01, self._deadline - time.monotonic())

    def extend(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Take so long from now on: for a client that goes on to ask."""
        self._deadline = time.monotonic() + timeout_s

    # ------------------------------------------------------------ rows

    def rows(self, kind: RowKind, args: dict[str, Any]) -> list[dict[str, Any]]:
        """All rows of a kind, in order, with every column."""
        answers = {}
        for view, fixed in kind.views.items():
            found = answers[view] = self.ask(view, **fixed, **args.get(view, {}))
            total, given = found.get("total", 0), len(found.get(view, ()))
            self.totals[view] = total
            if total > given >= LIMIT_MAX:
                self.missing.append(f"only {given} of {total} {view} were sent")
            if left_out := found.get("left_out", 0):
                live = sum(row.get("count", 1) for row in found.get("live", ()))
                self.missing.append(f"only {live} of {live + left_out} {view} of the processes were sent")
        if kind.name in OF_NODES:
            self.gone = ", ".join(f"{row['NodeID']} ({row['State']})" for row in answers["nodes"]["nodes"]
                                  if not row["Alive"])
        if kind.name == "tasks":
            return self._tasks(answers)
        if kind.name == "cluster_events":
            return rows.cluster_events(list(self._node_logs(answers["nodes"]["nodes"])))
        return kind.build(answers, _places(answers))

    def _tasks(self, answers: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        found = answers["tasks"]
        events, live = found["tasks"], found.get("live", [])
        prefixes = {bytes.fromhex(row["task_id"][:PREFIX_DIGITS]) for row in events}
        parents = dict(self.ask("parents", prefixes=sorted(prefixes))["parents"]) if prefixes else {}
        actors = answers["actors"]["actors"] + [
            rows.waiting_actor(row) for row in answers["actors"].get("live", ()) if row.get("creation")]
        sites = {row["task_id"]: row["call_site"] for row in live if "call_site" in row}
        sites |= {attempts.creation_task(row["actor"]): row["call_site"]
                  for row in answers["actors"].get("live", ()) if "call_site" in row}
        reasons = {(row["owner"], row["key"]): f"{Cause(row['cause']).text} ({row['detail']})"
                   for row in found.get("waiting", ())}
        merged = attempts.rows(events, [row for row in live if "state" in row and "task_id" in row], actors, parents,
                               reasons, _places(answers), found.get("stories", ()))
        return [{**row, "call_site": sites.get(row["task_id"])} for row in merged] if sites else merged

    def _node_logs(self, nodes: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
        for node in nodes:
            if node["Alive"]:
                on = bytes.fromhex(node["NodeID"])[:8]
                with contextlib.suppress(RayStateApiException):  # it has ended since, or has no log yet
                    found = self.ask("logs", on=on, file="node.log", lines=LIMIT_MAX)
                    yield node, found["data"].decode(errors="replace")

    # ------------------------------------------------------------ logs

    def node_of(self, node_id: str | None, node_ip: str | None) -> dict[str, Any]:
        """The live node with that id or address; the one that answers when neither is given."""
        nodes = [row for row in self.ask("nodes")["nodes"] if row["Alive"]]
        for row in nodes:
            if (node_id is None or row["NodeID"] == node_id) and (
                    node_ip is None or row["NodeManagerAddress"] == node_ip):
                return row
        what = f"id {node_id}" if node_id is not None else f"address {node_ip}"
        raise RayStateApiException(f"no live node has the {what}; the live nodes are "
                                   f"{', '.join(row['NodeID'] for row in nodes)}")

    def logs_on(self, node: dict[str, Any], pattern: str = "*") -> list[str]:
        on = bytes.fromhex(node["NodeID"])[:8]
        return [row["name"] for row in self.ask("logs", on=on, glob=pattern)["logs"]]

    def log(self, node: dict[str, Any], name: str, lines: int, follow: bool, look_s: float) -> Iterator[bytes]:
        """Pieces of a log file: its last ``lines`` lines (-1: all), then, with ``follow``, what is written later."""
        on = bytes.fromhex(node["NodeID"])[:8]
        found = self.ask("logs", on=on, file=name, lines=lines)
        rest = b""
        while True:
            data, rest = without_marks(rest + found["data"])
            if data:
                yield data
            if found["data"]:
                pass
            elif not follow:
                return
            else:
                time.sleep(look_s)
            if follow:
                self.extend()
            elif found["offset"] >= found["size"]:
                return
            found = self.ask("logs", on=on, file=name, offset=found["offset"])


def without_marks(data: bytes) -> tuple[bytes, bytes]:
    """``(a piece of a log without zray's own lines, the beginning of such a line at its end)``."""
    data = _MARK.sub(b"", data.replace(b"\0", b""))
    at = data.rfind(b"\x01", data.rfind(b"\n") + 1)
    return (data, b"") if at < 0 else (data[:at], data[at:])


def _places(answers: dict[str, dict[str, Any]]) -> Places:
    return Places(answers["nodes"]["nodes"], answers.get("workers", {}).get("workers", ()))


def list_rows(kind_name: str, address: str | None, filters: Sequence[Any] | None, limit: int, timeout: float,
              detail: bool, raise_on_missing_output: bool, narrow: dict[str, Any] | None = None) -> list[Any]:
    """Rows of a kind as its class.  ``narrow``: arguments of views that make the answers smaller."""
    kind = KINDS[kind_name]
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise ValueError(f"limit takes a number of rows from 0 to {LIMIT_MAX}, not {limit!r}")
    if limit > LIMIT_MAX:
        raise ValueError(f"Given limit {limit} exceeds the supported limit {LIMIT_MAX}. Use a lower limit.")
    wanted = matcher(checked(filters, kind.row.filterable_columns(), kind.name))
    args = {view: dict(more) for view, more in (narrow or {}).items()}
    if kind_name == "tasks":
        args.setdefault("tasks", {})["detail"] = detail
    with StateClient(address, timeout) as client:
        found = [row for row in client.rows(kind, args) if wanted(row)]
        missing, gone = client.missing, client.gone
    if gone:
        warnings.warn(f"the list of {kind.name} has only what others know of nodes that have ended: {gone}",
                      NodesEnded, stacklevel=4)
    if missing:
        text = f"the list of {kind.name} is not complete: {'; '.join(dict.fromkeys(missing))}"
        if raise_on_missing_output:
            raise RayStateApiException(f"{text}. Pass raise_on_missing_output=False for the rows that are there.")
        warnings.warn(text, stacklevel=4)
    return [kind.row.of(row, detail) for row in found[:limit]]
