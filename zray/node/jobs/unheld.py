"""Find and free objects in this node's store whose owner has died and that no process holds.  Pure.

Only an owner frees objects.  When it dies, a holder that has the value adopts the object
(zray.owner.adoption).  An object without such a holder has no process left that could free it.  No
time-out can distinguish the two: a holder may be stopped, or cut off.  So this node asks every core
process of the cluster, twice, and frees the objects that no process held in between:

    AskHeld(first)    each process answers which of the objects it holds, and watches for references to the others
    all have answered: this is time T.  Objects that are held are excluded
    AskHeld(again)    each process answers which of the rest it holds, or has held since its first answer
    all have answered: the others are freed

Each process was watching at T, so at T no process held those objects.  A reference in transit is no
exception: its sender holds the object until the receiver has confirmed it (TransitDone), and the
process that submitted a task holds its arguments.  Without a holder no new reference can be made.

The argument needs an answer of all processes, and messages of dead processes must have arrived or
be lost.  A process or node that is not sure of that answers "unsure", and the questions begin anew,
later:

    a process    that did not exist at the first question, or still has a connection to a process that has ended
    a node       where a process has ended meanwhile; or that has not received all ends that the others had
                 announced at T; or that has learned of a node that came or went in the last ``settle_s``

A node that joined after an owner ended learns that from the question, and informs its processes before it asks.

An actor that may restart needs the arguments of its constructor: its home holds them.  When the
home dies, another node reads them from the actor's row, within ``settle_s``.

A stopped process answers when it continues; until then nothing is freed here.  Two alternatives
were rejected: a time-out, after which the process may lose objects that it holds; and holders that
register all they hold with the stores, which costs a message for each reference.

Two rounds as in termination detection: F. Mattern, "Algorithms for distributed termination detection" (1987), the
four-counter method.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

from zray.base.ids import INCARNATION_SIZE, node_of, same_node
from zray.wire.messages import AskHeld, Held

OBJECTS_MAX = 512  # in one question: 15 kB to each process
# In node_timeout_s, after a node has come or gone: a death that no node noticed is declared within one time-out.
SETTLE_TIMEOUTS = 3.5
DEATHS_GATHER_S = 0.02  # deaths are collected, and the dead process's extents come back to the store
PROCESS_S = 0.0005  # added for each process of this node: a question wakes it, for some 0.1 ms
UNSURE_S, UNSURE_S_MAX = 0.1, 5.0  # before the next attempt, doubled each time
HELD_S, HELD_S_MAX = 1.0, 20.0  # the same while a process holds some: an adopter frees them later


class Found(Protocol):
    """An object of this store, as zray.store.node.ownerless describes it."""

    @property
    def oid(self) -> bytes: ...

    @property
    def owner(self) -> bytes: ...


class _Round:
    """One pair of questions of ours; ``objects`` are those that no process holds according to the answers so far."""

    def __init__(self, number: int, objects: dict[bytes, list[Any]], nodes: set[bytes], more: bool):
        self.number = number
        self.objects = objects
        self.nodes = nodes
        self.waiting = set(nodes)
        self.again = False
        self.more = more  # objects wait for the next round
        self.held = False
        self.ends: dict[bytes, list[list[Any]]] = {node: [] for node in nodes}  # node -> [[of node, ends announced]]


class _Asked:
    """A node's question that this node has passed on to its processes.  Each node has one at a time."""

    def __init__(self, number: int, again: bool, waiting: set[bytes]):
        self.number = number
        self.again = again
        self.waiting = waiting
        self.held: set[bytes] = set()
        self.unsure = ""


class Unheld:
    """See the module's docstring.

    ``processes()``     core processes of this node, including those that are about to exit
    ``nodes()``         other nodes that live
    ``has_ended(p)``    whether that process of another node has ended, as far as is known here
    ``kept()``          objects that this node itself will need
    ``announce()``      tell our processes of all ends that are known here, before anything else
    ``learn(owner)``    that process of another node has ended, and we are the last to hear so
    ``ownerless(f)``    what this store has of owners for which ``f(owner)``;  ``free`` frees some of it
    """

    def __init__(self, me: bytes, send: Callable[[bytes, Any], None], *, processes: Callable[[], list[bytes]],
                 nodes: Callable[[], Collection[bytes]], has_ended: Callable[[bytes], bool],
                 kept: Callable[[], set[bytes]], announce: Callable[[], None], learn: Callable[[bytes], None],
                 ownerless: Callable[[Callable[[bytes], bool]], list[Any]], free: Callable[[list[Any]], None],
                 settle_s: float):
        self.me = me
        self._send = send
        self._processes, self._nodes, self._other_ended = processes, nodes, has_ended
        self._kept, self._announce, self._learn = kept, announce, learn
        self._ownerless, self._free = ownerless, free
        self._settle_s = settle_s
        self.now = 0.0
        self.round: _Round | None = None
        self.asked: dict[bytes, _Asked] = {}  # by asking node
        self._first: dict[bytes, tuple[int, set[bytes]]] = {}  # the same: number, and which processes were asked first
        self._announced: dict[bytes, int] = {}  # node -> ends of ours that it was told of
        self._received: dict[bytes, int] = {}  # node -> ends that it has told us of
        self._settled_at = 0.0
        self._due: float | None = None
        self._number = 0
        self._cursor = b""  # the first object of the next round follows it
        self._unsure = self._tries = 0

    # ------------------------------------------------------------ events

    def announced(self, node: bytes) -> None:
        """The end of a process of ours was announced to that node."""
        self._announced[node] = self._announced.get(node, 0) + 1

    def end_received(self, node: bytes) -> None:
        """That node announced the end of a process of its own."""
        self._received[node] = self._received.get(node, 0) + 1

    def process_ended(self, process: bytes, now: float) -> None:
        """A process of this node or of another; of another, ``has_ended`` says so by now."""
        self.now = now
        for asker, asked in list(self.asked.items()):
            if process in asked.waiting:
                asked.waiting.discard(process)
                asked.unsure = "a process has ended"
                self._answer_if_done(asker, asked)
        self._unsure = self._tries = 0
        self._schedule(DEATHS_GATHER_S)

    def nodes_changed(self, now: float, gone: bytes = b"") -> None:
        """A node has joined, or ``gone``."""
        self.now = now
        self._settled_at = now + self._settle_s
        if gone:
            self._announced.pop(gone, None)
            self._received.pop(gone, None)
            self.asked.pop(gone, None)
            self._first.pop(gone, None)
        if self.round is not None:
            self._give_up()
        self._unsure = self._tries = 0
        self._schedule(self._settle_s + DEATHS_GATHER_S)

    def tick(self, now: float) -> None:
        self.now = now
        if self._due is not None and self._due <= now and self.round is None:
            self._due = None
            self._begin()

    def next_deadline(self) -> float | None:
        return self._due if self.round is None else None

    def _schedule(self, seconds: float) -> None:
        due = self.now + seconds + PROCESS_S * len(self._processes())
        self._due = due if self._due is None else min(self._due, due)

    # ------------------------------------------------------------ the node that has the objects

    def _begin(self) -> None:
        found: dict[bytes, list[Found]] = {}
        for one in self._ownerless(self._has_ended()):
            found.setdefault(one.oid, []).append(one)
        if not found:
            return
        if self.now < self._settled_at:  # this node would answer "unsure" itself
            self._due = self._settled_at
            return
        order = sorted(found, key=lambda oid: (oid <= self._cursor, oid))  # in turn
        chosen = order[:OBJECTS_MAX]
        self._cursor = chosen[-1]
        self._number += 1
        nodes = {self.me, *self._nodes()}
        self.round = _Round(self._number, {oid: found[oid] for oid in chosen}, nodes, len(order) > len(chosen))
        self._ask(self.round)

    def _ask(self, round: _Round) -> None:
        oids = list(round.objects)
        owners = sorted({one.owner for found in round.objects.values() for one in found} - {bytes(INCARNATION_SIZE)})
        for node in sorted(round.nodes - {self.me}):
            self._send(node, AskHeld(self.me, round.number, round.again, oids, owners, round.ends[node]))
        self.on_ask(self.me, AskHeld(self.me, round.number, round.again, oids, owners, round.ends[self.me]))

    def _on_node_held(self, node: bytes, message: Held) -> None:
        round = self.round
        if round is None or (message.number, message.again) != (round.number, round.again) \
                or node not in round.waiting:
            return
        if message.unsure or not {pair[0] for pair in message.ends} <= round.nodes:
            self._give_up()
            return
        round.waiting.discard(node)
        for oid in message.held:
            round.held |= round.objects.pop(oid, None) is not None
        for other, count in message.ends:
            round.ends[other].append([node, count])
        if round.waiting:
            return
        if round.objects and not round.again:
            round.again, round.waiting = True, set(round.nodes)
            self._ask(round)
            return
        self.round = None
        self._unsure = 0
        if round.objects:
            self._free([one for found in round.objects.values() for one in found])
        if round.more:
            self._schedule(DEATHS_GATHER_S)
        elif round.held:
            self._schedule(min(HELD_S * 2**self._tries, HELD_S_MAX))
            self._tries = min(self._tries + 1, 16)

    def _give_up(self) -> None:
        self.round = None
        self._schedule(min(UNSURE_S * 2**self._unsure, UNSURE_S_MAX))
        self._unsure = min(self._unsure + 1, 16)

    # ------------------------------------------------------------ every node

    def _has_ended(self) -> Callable[[bytes], bool]:
        here = set(self._processes())

        def has_ended(process: bytes) -> bool:
            if same_node(process, self.me):
                return process not in here
            return self._other_ended(process)

        return has_ended

    def on_ask(self, asker: bytes, question: AskHeld) -> None:
        """A node, perhaps this one, asks about all processes here."""
        has_ended = self._has_ended()
        for owner in question.owners:
            if not same_node(owner, self.me) and not has_ended(owner):
                self._learn(owner)
        processes = self._processes()
        why = self._unsure_of(asker, question, processes)
        if why:
            self.asked.pop(asker, None)
            self._answer(asker, question.number, question.again, set(), why)
            return
        self._announce()
        asked = self.asked[asker] = _Asked(question.number, question.again, set(processes))
        if not question.again:
            self._first[asker] = question.number, set(processes)
        asked.held = self._kept().intersection(question.oids)
        for process in processes:
            self._send(process, question._replace(owners=[], ends=[]))
        self._answer_if_done(asker, asked)

    def _unsure_of(self, asker: bytes, question: AskHeld, processes: list[bytes]) -> str:
        if self.now < self._settled_at:
            return "a node has come or gone"
        if any(self._received.get(node, 0) < count for node, count in question.ends):
            return "processes have ended of which this node has not heard"
        if not all(map(self._has_ended(), question.owners)):
            return "the owner lives"
        if question.again:
            number, first = self._first.get(asker, (0, set()))
            if number != question.number or not first.issubset(processes):
                return "a process has ended"
        return ""

    def on_held(self, peer: bytes, message: Held) -> None:
        """The answer of a process here, or of another node."""
        if not same_node(peer, self.me):  # processes of other nodes answer their own node
            if message.asker == self.me and node_of(peer) == peer:
                self._on_node_held(peer, message)
            return
        asked = self.asked.get(message.asker)
        if asked is not None and peer in asked.waiting and (message.number, message.again) == (
                asked.number, asked.again):
            asked.waiting.discard(peer)
            asked.held.update(message.held)
            asked.unsure = asked.unsure or message.unsure
            self._answer_if_done(message.asker, asked)

    def _answer_if_done(self, asker: bytes, asked: _Asked) -> None:
        if not asked.waiting:
            del self.asked[asker]
            self._answer(asker, asked.number, asked.again, asked.held, asked.unsure)

    def _answer(self, asker: bytes, number: int, again: bool, held: set[bytes], unsure: str) -> None:
        ends = [[node, self._announced.get(node, 0)] for node in sorted(self._nodes())]
        answer = Held(asker, number, again, sorted(held), unsure, ends)
        if asker == self.me:
            self._on_node_held(self.me, answer)
        else:
            self._send(asker, answer)

    def check(self) -> None:
        for asked in self.asked.values():
            assert asked.waiting <= set(self._processes()), "an answer of a process that has ended is waited for"
        if self.round is not None:
            assert self.round.waiting and self.round.nodes - {self.me} <= set(self._nodes())
