"""Questions about the whole cluster: asked of every node, answered as one.  Pure.

A NodeQuery of a process or tool goes to all peers with ``local`` set; their rows are appended to ours.  A node that
does not answer within QUERY_ANSWER_S is named in ``missing`` instead of holding up the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from zray.node import views
from zray.node.context import NodeContext
from zray.wire.messages import NodeAnswer, NodeQuery

QUERY_ANSWER_S = 2.0
# The questions that go to all nodes, and the name of the rows in their answers.
EVERYWHERE = {"available": "stored", "actors": "actors", "workers": "workers", "leases": "leases", "jobs": "jobs",
              "tasks": "tasks", "placement-groups": "placement-groups"}


class _Asked:
    __slots__ = ("answer", "deadline", "peer", "request", "rows", "waiting")

    def __init__(self, peer: bytes, request: int, rows: str, answer: dict[str, Any], waiting: set[bytes],
                 deadline: float):
        self.peer = peer
        self.request = request
        self.rows = rows
        self.answer = answer
        self.waiting = waiting
        self.deadline = deadline


class ClusterQueries:
    """Queries under way."""

    def __init__(self, context: NodeContext, peers: Collection[bytes], answer: Callable[[bytes, str, dict], dict]):
        """``peers``: the other live nodes, now and later.  ``answer(peer, what, args)``: the answer of this node."""
        self._context = context
        self._peers = peers
        self._answer = answer
        self.asked: dict[int, _Asked] = {}
        self._last = 0

    def query(self, peer: bytes, message: NodeQuery) -> None:
        """Answer now, or ask the others first."""
        answer = self._answer(peer, message.what, message.args)
        rows = EVERYWHERE.get(message.what)
        if rows is None or message.args.get("local") or not self._peers or "error" in answer:
            self._reply(peer, message.request, answer, message.args)
            return
        self._last += 1
        self.asked[self._last] = _Asked(peer, message.request, rows, answer, set(self._peers),
                                         self._context.now + QUERY_ANSWER_S)
        for node in self._peers:
            self._context.send(node, NodeQuery(self._last, message.what, {**message.args, "local": True}))

    def answered(self, node: bytes, message: NodeAnswer) -> None:
        asked = self.asked.get(message.request)
        if asked is None or node not in asked.waiting:
            return
        asked.waiting.discard(node)
        whole = asked.answer
        whole[asked.rows] += message.answer.get(asked.rows, [])
        if asked.rows == "jobs":
            whole["jobs"] = _each_once(whole["jobs"])
        for name in ("total", "dropped"):
            if name in whole:
                whole[name] += message.answer.get(name, 0)
        for name in ("waiting", "queued", "blocked"):
            if name in whole:
                whole[name] += message.answer.get(name, [])
        if not asked.waiting:
            self._finish(message.request)

    def node_ended(self, node: bytes) -> None:
        for number, asked in list(self.asked.items()):
            asked.waiting.discard(node)
            if not asked.waiting:
                self._finish(number)

    def tick(self, now: float) -> None:
        for number, asked in list(self.asked.items()):
            if asked.deadline <= now:
                asked.answer["missing"] = [node.hex() for node in sorted(asked.waiting)]
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


def _each_once(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A job is known on every node that works for it; the row of its driver's node, which has the pid, counts."""
    found: dict[Any, dict[str, Any]] = {}
    for row in jobs:
        known = found.get(row["job_id"])
        if known is None or (row.get("driver_pid") and not known.get("driver_pid")):
            found[row["job_id"]] = row
    return list(found.values())
