"""Numbered requests: which updates of which client were applied, and their answers.

Part of the replicated state, so that a retry finds its answer on whichever replica is head by then.  (The Ray paper's
prototype gave a retried PUT a new sequence number, and so could apply it twice.)  The idea is the session of Ongaro's
Raft dissertation, section 6.3: a client numbers its requests, and sends with each the number below which it has all
its answers; those are dropped here.

Updates of one client are applied in the order of their numbers, although its messages may overtake each other: a
change of the chain loses some, and redirects others.  A row that a node writes twice would else keep the older value.

A client that has ended is forgotten, and none of its updates is applied from then on: one that was on its way may
arrive after others have looked for what the dead client had written.

Bounds: a client has at most CLIENT_WINDOW numbers open; at most ``clients_max`` clients are remembered, the least
recently active one goes first, and as many ended ones.  A forgotten client that had answers before gets EXPIRED;
its update is never applied again.
"""

from __future__ import annotations

from typing import Any

CLIENT_WINDOW = 4096
CLIENTS_MAX = 65_536

_ENDED = 0  # in a dump, in the place of a floor, which is at least 1

NEW, KNOWN, STALE, EARLY, GONE, TOO_FAR = "new", "known", "stale", "early", "gone", "too_far"


class ClientSession:
    """One client: answers by request number, none below ``floor``.  An answer is (sequence, error, result)."""

    __slots__ = ("answers", "floor", "last")

    def __init__(self) -> None:
        self.floor = 1
        self.last = 0  # the newest number that was applied
        self.answers: dict[int, tuple[int, str, Any]] = {}

    def advance(self, acked: int) -> None:
        if acked > self.floor:
            self.floor = acked
            for number in [n for n in self.answers if n < acked]:
                del self.answers[number]


class ClientTable:
    """Sessions in order of their last update, oldest first."""

    def __init__(self, clients_max: int = CLIENTS_MAX) -> None:
        self.clients_max = clients_max
        self.sessions: dict[bytes, ClientSession] = {}
        self.ended: dict[bytes, None] = {}

    def classify(self, client: bytes, number: int, acked: int) -> str:
        """What to do with an update request.

        NEW: apply it.  KNOWN: it was, here is its answer.  STALE: the client has the answer.  EARLY: one before it is
        missing.  GONE: the client was forgotten.  TOO_FAR: beyond the window.
        """
        session = self.sessions.get(client)
        if session is None:
            if acked > 1 or client in self.ended:
                return GONE
            return NEW if number == 1 else EARLY if number < 1 + CLIENT_WINDOW else TOO_FAR
        if number in session.answers and number >= session.floor:
            return KNOWN
        if number < session.floor:
            return STALE
        if number >= max(acked, session.floor) + CLIENT_WINDOW:
            return TOO_FAR
        return NEW if number <= max(acked, session.last + 1) else EARLY

    def answer(self, client: bytes, number: int) -> tuple[int, str, Any]:
        return self.sessions[client].answers[number]

    def record(self, client: bytes, number: int, acked: int, answer: tuple[int, str, Any]) -> None:
        """Remember the answer of an applied update."""
        session = self.sessions.pop(client, None) or ClientSession()
        self.sessions[client] = session  # last in the order of activity
        session.advance(acked)
        assert number not in session.answers and number >= session.floor, "an update was applied twice"
        session.answers[number] = answer
        session.last = max(session.last, number)
        while len(self.sessions) > self.clients_max:
            del self.sessions[next(iter(self.sessions))]

    def forget(self, client: bytes) -> bool:
        """The client has ended; returns whether it had a session."""
        self.ended[client] = None
        while len(self.ended) > self.clients_max:
            del self.ended[next(iter(self.ended))]
        return self.sessions.pop(client, None) is not None

    def clear(self) -> None:
        """No client of before is left."""
        self.sessions.clear()
        self.ended.clear()

    def dump(self) -> list:
        return [*([client, session.floor, [[n, *answer] for n, answer in session.answers.items()]]
                  for client, session in self.sessions.items()),
                *([client, _ENDED, []] for client in self.ended)]

    def load(self, dumped: list) -> None:
        self.clear()
        for client, floor, answers in dumped:
            if floor == _ENDED:
                self.ended[client] = None
                continue
            session = self.sessions[client] = ClientSession()
            session.floor = floor
            session.answers = {n: (sequence, error, result) for n, sequence, error, result in answers}
            session.last = max(session.answers, default=floor - 1)

    def check(self) -> None:
        assert len(self.sessions) <= self.clients_max and len(self.ended) <= self.clients_max
        assert not self.sessions.keys() & self.ended.keys()
        for client, session in self.sessions.items():
            assert all(session.floor <= n < session.floor + 2 * CLIENT_WINDOW for n in session.answers), client
            assert session.last == max(session.answers, default=session.last), client
