"""PlacementClient: sends a question to the global schedulers, one after the other, until one answers.  Pure.

A node that is a global scheduler itself needs no message.  A scheduler that does not answer within ``patience_s`` is
skipped for the next one of the list.  At last this node decides itself, so local scheduling never stops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.sched.cluster.placing import GlobalScheduler, Placed, share_of
from zray.sched.cluster.spillback_effects import Ask
from zray.wire import messages as m

# Ten times a round trip between daemons under load.
ASK_PATIENCE_S = 0.05
# Other schedulers that are tried before this node decides itself.
TRIES_MAX = 2


class Question:
    """An Ask in flight."""

    __slots__ = ("ask", "at", "left", "until")

    def __init__(self, ask: Ask, left: list[bytes]) -> None:
        self.ask, self.left = ask, left
        self.at: bytes | None = None
        self.until = 0.0


class PlacementClient:
    """``schedulers()`` names the acting ones; ``out`` gathers (node, PlaceAsk), ``answers`` (request, Placed)."""

    def __init__(self, home: bytes, own: GlobalScheduler, schedulers: Callable[[], list[bytes]], *,
                 patience_s: float = ASK_PATIENCE_S) -> None:
        self.home, self.own, self.schedulers, self.patience_s = home, own, schedulers, patience_s
        self.out: list[tuple[bytes, Any]] = []
        self.answers: list[tuple[int, Placed]] = []
        self._open: dict[int, Question] = {}

    def ask(self, ask: Ask, now: float) -> None:
        among = share_of(self.home, self.schedulers())
        left = [] if self.home in among else among[:TRIES_MAX]
        question = self._open[ask.request] = Question(ask, left)
        self._try(question, now)

    def _try(self, question: Question, now: float) -> None:
        ask = question.ask
        if question.left:
            question.at, question.until = question.left.pop(0), now + self.patience_s
            self.out.append((question.at, m.PlaceAsk(ask.request, ask.demand, ask.strategy, ask.number, ask.queue,
                                                     ask.avoid, ask.barred)))
            return
        del self._open[ask.request]
        self.answers.append((ask.request, serve(self.own, self.home, ask, now)))

    def on_answer(self, node: bytes, answer: m.PlaceAnswer) -> None:
        """An answer; it counts unless its scheduler was skipped meanwhile."""
        question = self._open.get(answer.request)
        if question is not None and question.at == node:
            del self._open[answer.request]
            self.answers.append((answer.request, Placed(
                _pairs(answer.placed), _pairs(answer.queued), answer.left, answer.cause, answer.detail)))

    def node_ended(self, node: bytes, now: float) -> None:
        for question in list(self._open.values()):
            if node in question.left:
                question.left.remove(node)
            if question.at == node:
                self._try(question, now)

    def tick(self, now: float) -> None:
        for question in list(self._open.values()):
            if question.until <= now:
                self._try(question, now)

    def deadline(self) -> float | None:
        return min([question.until for question in self._open.values()]) if self._open else None

    def check(self) -> None:
        assert all(question.at is not None for question in self._open.values())


def serve(scheduler: GlobalScheduler, origin: bytes, ask: Any, now: float) -> Placed:
    """The answer of ``scheduler`` to an Ask or PlaceAsk of node ``origin``."""
    number = ask.number if isinstance(ask, Ask) else ask.count
    return scheduler.place(ask.demand, ask.strategy, number, origin, now, queue=ask.queue,
                           avoid=[node for node in ask.avoid if isinstance(node, bytes)],
                           barred=[node for node in ask.barred if isinstance(node, bytes)])


def _pairs(rows: list) -> list[tuple[bytes, int]]:
    """Rows from the wire, without those that are no [node, n]."""
    return [(row[0], row[1]) for row in rows if isinstance(row, (list, tuple)) and len(row) == 2
            and isinstance(row[0], bytes) and type(row[1]) is int and row[1] > 0]
