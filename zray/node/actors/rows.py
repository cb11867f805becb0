"""Actors with their home on another node, for processes of this node.  Pure.

The home of an actor is the node that created or adopted it.  It writes the actor's row of the
control store at every change.  A node whose processes call the actor watches that row and tells
them.  So no caller needs to know the home, and a change of home is one more change of the row.

    entry      no row yet          the creation is under way, or there is no such actor.  After ROW_GRACE_S the store
                                   is asked again: the home's write may have waited for a chain.  Then it is answered
               row                 watchers get its ActorState; questions (lookup) get the row, once
               its home is dead    questions wait for another node to adopt the actor, ROW_GRACE_S at most
    pursuit    each row            until it is done: a kill goes to each home that the actor gets,
                                   until one has done it
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

from zray.node.effects import Send
from zray.wire.messages import ActorState

# The creation of an actor and a handle to it may overtake each other by a round trip to the control store.
ROW_GRACE_S = 2.0
# A chain that takes writes again answers reads, too: the write that waited arrives within some round trips of our read.
ASKED_AGAIN_S = 0.5

Row = dict[str, Any]


class Rows(Protocol):
    """The part of the control store that this needs."""

    def watch_actor(self, actor: bytes, changed: Callable[[Row | None], None]) -> int: ...

    def unwatch(self, number: int) -> None: ...


class _Entry:
    __slots__ = ("again", "answered", "asked", "deadline", "pursuits", "row", "watch", "watchers")

    def __init__(self, deadline: float):
        self.deadline = deadline
        self.row: Row | None = None
        self.answered = False  # the control store has answered, perhaps without a row
        self.again = False  # it was asked a second time
        self.watch = 0
        self.watchers: set[bytes] = set()
        self.asked: list[Callable[[Row | None], None]] = []
        self.pursuits: dict[Hashable, Callable[[Row], bool]] = {}


class ActorRows:
    """Rows of actors with other homes, by actor, as long as a process of this node watches them."""

    def __init__(self, rows: Rows, emit: Callable[[Any], None], is_home: Callable[[bytes, bytes], bool]):
        """``is_home(actor, node)``: whether that node lives and can be asked."""
        self._is_home = is_home
        self._rows = rows
        self._emit = emit
        self.entries: dict[bytes, _Entry] = {}
        self._of: dict[bytes, set[bytes]] = {}  # watcher -> actors

    def watch(self, actor: bytes, watchers: set[bytes], now: float) -> None:
        """Send these processes every change from now on."""
        entry = self._entry(actor, now)
        fresh = sorted(watchers - entry.watchers)
        if entry.row is not None:
            for peer in fresh:
                self._emit(Send(peer, state_message(actor, entry.row)))
        if entry.row is None or entry.row["state"] != "DEAD":
            for peer in fresh:
                entry.watchers.add(peer)
                self._of.setdefault(peer, set()).add(actor)
        self._drop_if_idle(actor, entry)

    def find(self, actor: bytes, then: Callable[[Row | None], None], now: float) -> None:
        """``then(row)`` once; None when there is no such actor."""
        entry = self._entry(actor, now)
        if entry.row is not None and self._answers(actor, entry.row):
            then(entry.row)
            self._drop_if_idle(actor, entry)
        else:
            entry.asked.append(then)
            entry.deadline = max(entry.deadline, now + ROW_GRACE_S)

    def pursue(self, actor: bytes, what: Hashable, on_row: Callable[[Row], bool], now: float) -> None:
        """Call ``on_row(row)`` now, at each change and when the actor may have a new home, until it
        returns True or the row is gone.

        A second pursuit of the same ``what`` is ignored while the first is under way.
        """
        entry = self._entry(actor, now)
        if what not in entry.pursuits:
            entry.pursuits[what] = on_row
            entry.deadline = max(entry.deadline, now + ROW_GRACE_S)
            self._pursue(entry)
        self._drop_if_idle(actor, entry)

    @staticmethod
    def _pursue(entry: _Entry) -> None:
        pursuits, entry.pursuits = entry.pursuits, {}  # a callback may change the row at once
        for what, on_row in pursuits.items():
            if entry.row is None or not on_row(entry.row):
                entry.pursuits[what] = on_row

    def homes_changed(self) -> None:
        """A node has joined, or this one has adopted actors: requests that wait for a home may have one."""
        for actor, entry in list(self.entries.items()):
            if entry.row is not None and (entry.asked or entry.pursuits):
                if self._answers(actor, entry.row):
                    self._answer(entry)
                self._pursue(entry)
                self._drop_if_idle(actor, entry)

    def _answers(self, actor: bytes, row: Row) -> bool:
        """Whether a question can be answered with that row; False when its home must be found first."""
        return row["state"] == "DEAD" or self._is_home(actor, row["home"])

    def process_ended(self, peer: bytes) -> None:
        for actor in sorted(self._of.pop(peer, ())):
            entry = self.entries[actor]
            entry.watchers.discard(peer)
            self._drop_if_idle(actor, entry)

    def tick(self, now: float) -> None:
        for actor, entry in list(self.entries.items()):
            if entry.deadline > now:
                continue
            if entry.row is None and not entry.answered:
                entry.deadline = now + ROW_GRACE_S  # a control store without a majority may still have it
            elif entry.row is None and not entry.again:
                self._ask_again(actor, entry, now)
            elif entry.row is None:
                self._end(actor, entry)
            elif entry.asked:
                self._answer(entry)
                self._drop_if_idle(actor, entry)

    def _ask_again(self, actor: bytes, entry: _Entry, now: float) -> None:
        before, entry.watch = entry.watch, 0  # the answer may come before this returns, and the entry must stay
        entry.again, entry.answered, entry.deadline = True, False, now + ASKED_AGAIN_S
        entry.watch = self._rows.watch_actor(actor, lambda row: self._changed(actor, entry, row))
        self._rows.unwatch(before)
        self._drop_if_idle(actor, entry)

    def next_deadline(self) -> float | None:
        if not self.entries:
            return None
        return min((e.deadline for e in self.entries.values() if e.row is None or e.asked), default=None)

    @staticmethod
    def _answer(entry: _Entry) -> None:
        asked, entry.asked = entry.asked, []
        for then in asked:
            then(entry.row)

    def _entry(self, actor: bytes, now: float) -> _Entry:
        entry = self.entries.get(actor)
        if entry is None:
            entry = self.entries[actor] = _Entry(now + ROW_GRACE_S)
            # The answer may come before this returns; until then the entry has no watcher and must stay.
            entry.watch = self._rows.watch_actor(actor, lambda row: self._changed(actor, entry, row))
        return entry

    def _changed(self, actor: bytes, entry: _Entry, row: Row | None) -> None:
        if self.entries.get(actor) is not entry:
            return
        entry.answered = True
        if row is None:
            if entry.row is not None:  # the actor ended long ago, and its home has forgotten it
                self._end(actor, entry)
            return
        entry.row = row
        if self._answers(actor, row):
            self._answer(entry)
        message = state_message(actor, row)
        for peer in sorted(entry.watchers):
            self._emit(Send(peer, message))
        if row["state"] == "DEAD":
            self._forget_watchers(actor, entry)
        self._pursue(entry)
        self._drop_if_idle(actor, entry)

    def _end(self, actor: bytes, entry: _Entry) -> None:
        entry.row = None
        entry.pursuits.clear()
        self._answer(entry)
        cause = {"kind": "unknown", "reason": "no such actor, or it ended long ago"}
        for peer in sorted(entry.watchers):
            self._emit(Send(peer, ActorState(actor, "DEAD", 0, b"", "", cause)))
        self._forget_watchers(actor, entry)
        self._drop_if_idle(actor, entry)

    def _forget_watchers(self, actor: bytes, entry: _Entry) -> None:
        for peer in entry.watchers:
            actors = self._of[peer]
            actors.discard(actor)
            if not actors:
                del self._of[peer]
        entry.watchers.clear()

    def _drop_if_idle(self, actor: bytes, entry: _Entry) -> None:
        idle = not (entry.watchers or entry.asked or entry.pursuits)
        if entry.watch and idle and self.entries.get(actor) is entry:
            del self.entries[actor]
            self._rows.unwatch(entry.watch)

    def check(self) -> None:
        for peer, actors in self._of.items():
            assert actors and all(peer in self.entries[actor].watchers for actor in actors)
        for actor, entry in self.entries.items():
            assert entry.watchers or entry.asked or entry.pursuits, "an actor is watched for nobody"
            assert all(actor in self._of[peer] for peer in entry.watchers)


def state_message(actor: bytes, row: Row) -> ActorState:
    """The state in a row, as the actor's home would send it."""
    if row["state"] == "ALIVE":
        cause = {"pid": row["pid"]} | row["death_cause"]
        if row.get("checkpoints"):
            cause["checkpoints"] = True
        return ActorState(actor, "ALIVE", row["num_restarts"], row["worker"], row["endpoint"], cause)
    return ActorState(actor, row["state"], row["num_restarts"], b"", "", row["death_cause"])
