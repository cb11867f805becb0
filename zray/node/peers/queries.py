"""Questions about the whole cluster: asked of every node, answered as one.  Pure.

A NodeQuery of a process or tool goes to all peers with ``local`` set; their rows are appended to ours.  A node that
does not answer within QUERY_ANSWER_S is named in ``missing`` instead of holding up the others.

What only the processes of a node know (unfinished tasks, references), each node asks its own processes with
ProcessQuery, if the question has ``live``.  Those that do not answer within PROCESS_ANSWER_S are named in ``silent``;
``left_out`` counts the rows that were too many for the answers of the others.

A question with ``on``, the incarnation of a node, is for that node alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

from zray.node import views
from zray.node.context import NodeContext
from zray.wire.messages import NodeAnswer, NodeQuery, ProcessAnswer, ProcessQuery

QUERY_ANSWER_S = 4.0
# A process in native code that holds the interpreter answers late; this is the longest that one delays a list.
PROCESS_ANSWER_S = 2.0
# The questions that go to all nodes, and the name of the rows in their answers.
EVERYWHERE = {"available": "stored", "actors": "actors", "workers": "workers", "leases": "leases", "jobs": "jobs",
              "tasks": "tasks", "placement-groups": "placement-groups",
              "objects": "objects", "parents": "parents", "metrics": "metrics",
              "runtime-envs": "runtime-envs", "functions": "functions", "output": "output",
              "stops": "stops"}
OF_PROCESSES = frozenset(("tasks", "objects", "actors"))  # processes answer them too, with ``live``
APPENDED = ("waiting", "queued", "blocked", "live", "missing", "silent", "stories")
ADDED = ("total", "dropped", "forgotten", "left_out")


class AskedProcesses(Protocol):
    """The core processes of this node."""

    def holders(self) -> list[bytes]: ...

    def shown(self, process: bytes) -> dict[str, Any]: ...


class _Asked:
    __slots__ = ("answer", "deadline", "peer", "request", "rows", "waiting")

    def __init__(self, peer: bytes, request: int, rows: str, answer: dict[str, Any], waiting: set[bytes],
                 deadline: float):
        self.peer = peer
        self.request = request
        self.rows = rows
        self.answer = answer
        self.waiting = waiting  # nodes, and processes of this node
        self.deadline = deadline


class ClusterQueries:
    """Queries under way."""

    def __init__(self, context: NodeContext, peers: Collection[bytes], answer: Callable[[bytes, str, dict], dict],
                 processes: AskedProcesses):
        """``peers``: the other live nodes, now and later.  ``answer(peer, what, args)``: the answer of this node."""
        self._context = context
        self._peers = peers
        self._answer = answer
        self._processes = processes
        self.asked: dict[int, _Asked] = {}
        self._last = 0
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            NodeQuery.CODE: self.query, NodeAnswer.CODE: self.answered, ProcessAnswer.CODE: self.process_answered}

    def query(self, peer: bytes, message: NodeQuery) -> None:
        """Answer now, or ask the others first."""
        on = message.args.get("on")
        if on is not None and on != self._context.me:
            self._query_on(peer, message, on)
            return
        answer = self._answer(peer, message.what, message.args)
        rows = EVERYWHERE.get(message.what)
        if "error" in answer or rows is None or on is not None:
            self._reply(peer, message.request, answer, message.args)
            return
        nodes = [] if message.args.get("local") else list(self._peers)
        asks_processes = message.what in OF_PROCESSES and message.args.get("live")
        processes = self._processes.holders() if asks_processes else []
        if not nodes and not processes:
            self._reply(peer, message.request, answer, message.args)
            return
        number = self._begin(peer, message.request, rows, answer, {*nodes, *processes},
                             QUERY_ANSWER_S if nodes else PROCESS_ANSWER_S)
        for node in nodes:
            self._context.send(node, NodeQuery(number, message.what, {**message.args, "local": True}))
        for process in processes:
            self._context.send(process, ProcessQuery(number, message.what, views.limit_of(message.args),
                                                     views.id_of(message.args)))

    def _query_on(self, peer: bytes, message: NodeQuery, on: Any) -> None:
        if on not in self._peers or message.args.get("local"):
            text = on.hex() if isinstance(on, bytes) else repr(on)
            self._reply(peer, message.request, {"error": f"no live node of this cluster is {text}"}, message.args)
            return
        number = self._begin(peer, message.request, "", {}, {on}, QUERY_ANSWER_S)
        self._context.send(on, NodeQuery(number, message.what, {**message.args, "local": True}))

    def _begin(self, peer: bytes, request: int, rows: str, answer: dict[str, Any], waiting: set[bytes],
               seconds: float) -> int:
        self._last += 1
        self.asked[self._last] = _Asked(peer, request, rows, answer, waiting, self._context.now + seconds)
        return self._last

    def answered(self, node: bytes, message: NodeAnswer) -> None:
        asked = self.asked.get(message.request)
        if asked is None or node not in asked.waiting:
            return
        if not asked.rows:
            asked.answer = message.answer
        else:
            add(asked.answer, message.answer, asked.rows)
        self._has_answered(message.request, node)

    def process_answered(self, process: bytes, message: ProcessAnswer) -> None:
        asked = self.asked.get(message.request)
        if asked is None or process not in asked.waiting:
            return
        shown = self._processes.shown(process)
        rows = asked.answer.setdefault("live", [])
        found = [row for row in message.rows if type(row) is dict]
        rows += [views.shown({**row, "process": shown}) for row in found]
        left_out = message.total - sum(row.get("count", 1) for row in found)
        if left_out > 0:
            asked.answer["left_out"] = asked.answer.get("left_out", 0) + left_out
        self._has_answered(message.request, process)

    def _has_answered(self, number: int, peer: bytes) -> None:
        asked = self.asked[number]
        asked.waiting.discard(peer)
        if not asked.waiting:
            self._finish(number)

    def node_ended(self, node: bytes) -> None:
        """A node or a process has ended."""
        for number, asked in list(self.asked.items()):
            if node in asked.waiting:
                if not asked.rows:
                    asked.answer = {"error": f"node {node.hex()} has ended"}
                self._has_answered(number, node)

    process_ended = node_ended

    def tick(self, now: float) -> None:
        for number, asked in list(self.asked.items()):
            if asked.deadline <= now:
                nodes = [peer.hex() for peer in sorted(asked.waiting) if peer in self._peers]
                silent = [peer.hex() for peer in sorted(asked.waiting) if peer not in self._peers]
                if not asked.rows:
                    asked.answer = {"error": f"node {nodes[0]} did not answer" if nodes else "its node has ended"}
                if nodes:
                    asked.answer["missing"] = [*asked.answer.get("missing", ()), *nodes]
                if silent:
                    asked.answer["silent"] = [*asked.answer.get("silent", ()), *silent]
                self._finish(number)

    def next_deadline(self) -> float | None:
        return min([asked.deadline for asked in self.asked.values()]) if self.asked else None

    def _finish(self, number: int) -> None:
        asked = self.asked.pop(number)
        self._reply(asked.peer, asked.request, asked.answer, {})

    def _reply(self, peer: bytes, request: int, answer: dict[str, Any], args: dict[str, Any]) -> None:
        if "stored" in answer and not args.get("local"):
            views.subtract_stored(answer["resources"], answer.pop("stored"))
        self._context.send(peer, NodeAnswer(request, answer))


def add(whole: dict[str, Any], answer: dict[str, Any], rows: str) -> None:
    """Add the answer of one more node to that of others; ``rows``: the name of the rows in it."""
    whole[rows] += answer.get(rows, [])
    if rows == "jobs":
        whole["jobs"] = _each_once(whole["jobs"])
    for name in ADDED:
        if name in answer:
            whole[name] = whole.get(name, 0) + answer[name]
    for name in APPENDED:
        if name in answer:
            whole[name] = [*whole.get(name, ()), *answer[name]]


def _each_once(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A job is known on every node that works for it; the row of its driver's node, which has the pid, counts."""
    found: dict[Any, dict[str, Any]] = {}
    for row in jobs:
        known = found.get(row["job_id"])
        if known is None or (row.get("driver_pid") and not known.get("driver_pid")):
            found[row["job_id"]] = row
    return list(found.values())
