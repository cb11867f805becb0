"""Answers a node that asks which objects of dead owners this process holds.  Pure.

The node has these objects in its store (zray.node.jobs.unheld) and asks twice.  Between the two questions
References notes each of the objects that this process begins to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from zray.owner.adoption import Adoption
from zray.owner.references import References
from zray.wire.messages import AskHeld, Held


class Holding:
    """``may_hear_the_dead()``: whether messages of a process that has ended may still arrive here.

    columns    objects of this process that have no reference: zray.owner.maps
    """

    def __init__(self, refs: References, adoption: Adoption, columns: Container[bytes],
                 send: Callable[[bytes, Held], None], may_hear_the_dead: Callable[[], bool]):
        self._refs = refs
        self._adoption = adoption
        self._columns = columns
        self._send = send
        self._may_hear_the_dead = may_hear_the_dead
        self._numbers: dict[bytes, int] = {}  # asking node -> number of its question that it will repeat

    def on_ask(self, node: bytes, question: AskHeld) -> None:
        asker, number = question.asker, question.number
        watched = self._refs.watched
        held = [oid for oid in question.oids if self._holds(oid)]
        unsure = "messages of a process that has ended may still come" if self._may_hear_the_dead() else ""
        if not question.again:
            self._numbers[asker] = number
            watched[asker] = set(question.oids).difference(held)
        elif self._numbers.pop(asker, 0) == number:
            untouched = watched.pop(asker)
            held = [oid for oid in question.oids if oid in held or oid not in untouched]
        else:
            unsure = "this process was not asked before"
        self._send(node, Held(asker, number, question.again, held, unsure, []))

    def node_ended(self, node: bytes) -> None:
        """Forget the question: a dead node does not repeat it."""
        self._numbers.pop(node, None)
        self._refs.watched.pop(node, None)

    def _holds(self, oid: bytes) -> bool:
        refs = self._refs
        return (oid in refs.borrowed or oid in refs.owned or oid in self._columns
                or oid in self._adoption.ownerless)
