"""Values that carry references: both ends of a reference's transit.  Pure.

    sender      ``send`` pins the records in the value, until the receiver has sent TransitDone with the token
    receiver    ``receive`` restores the records, and sends TransitDone when all their owners have confirmed the holds

So an object inside a value is always held: by the sender, or by the receiver's confirmed hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from zray.base.ends import Ends
from zray.base.ids import node_of
from zray.owner.records import Borrowed, Entry, Net, Record, Value
from zray.wire.messages import CARRYING, UNMADE, TransitDone

Hold = tuple[bytes, bytes, int]  # (owner, object, n)


class _References(Protocol):
    """The records of this process, and its register of ends."""

    ends: Ends

    def restore(self, oid: bytes, owner: bytes, endpoint: str, inside: Record | None = None, value: Value = None,
                contained: Sequence[Record] = (), *, lent: bool = False, recipe: Any = None) -> Record: ...
    def unpin_all(self, records: Iterable[Entry | Borrowed]) -> None: ...


class Transits:
    """See the module's docstring."""

    def __init__(self, refs: _References, me: bytes, net: Net):
        self.refs = refs
        self.me = me
        self.net = net
        self.sent: dict[int, tuple[bytes, list[Record]]] = {}  # token -> (receiver, records pinned for it)
        self.received: dict[tuple[bytes, int], set[Hold]] = {}  # (sender, token) -> holds without confirmation yet
        self._tokens = 0

    def send(self, receiver: bytes, records: list[Record]) -> int:
        """Pin ``records`` until ``receiver`` has confirmed its holds; returns the token that it will name."""
        self._tokens += 1
        if not self.refs.ends.has_ended(receiver):  # else no confirmation would ever come
            for record in records:
                record.refs += 1
            self.sent[self._tokens] = (receiver, records)
        return self._tokens

    def receive(self, sender: bytes, refs: list[list[Any]], token: int) -> list[Record]:
        """Records for the references inside a received value; confirms to the sender when all are held."""
        records = [self._restore(sender, *ref) for ref in refs]
        open_holds = {(r.owner, r.oid, r.n) for r in records if type(r) is Borrowed and not r.confirmed}
        if token:
            if sender == self.me:  # a task that ran inline: no message was sent
                self.on_transit_done(sender, TransitDone([token]))
            elif open_holds:
                self.received[sender, token] = open_holds
            else:
                self.net.send(sender, TransitDone([token]))
        return records

    def _restore(self, sender: bytes, oid: bytes, owner: bytes, endpoint: str, value: Value = None) -> Record:
        """The record of a reference that another process sent, maybe with the value of the object."""
        contained: list[Record] = []
        recipe = None
        if type(value) is list and value[0] == CARRYING:
            contained = self.receive(sender, value[2], value[3])
            value = value[1]
        elif type(value) is list and value[0] == UNMADE:
            contained = self.receive(sender, value[2], value[3])
            value, recipe = None, value[1]
        record = self.refs.restore(oid, owner, endpoint, None, value, contained, recipe=recipe)
        if contained:
            if type(record) is Borrowed and record.contained is None and (
                    record.value is value if recipe is None else record.recipe is recipe):
                record.contained = contained
            else:
                self.refs.unpin_all(contained)
        return record

    def on_transit_done(self, peer: bytes, message: TransitDone) -> None:
        for token in message.tokens:
            pinned = self.sent.pop(token, None)
            if pinned is not None:
                self.refs.unpin_all(pinned[1])

    def confirm(self, holds: set[Hold]) -> None:
        """These holds are confirmed or void: tell senders whose references are all held to unpin them."""
        for place in [place for place, missing in self.received.items() if missing & holds]:
            self.received[place] -= holds
            if not self.received[place]:
                del self.received[place]
                self.net.send(place[0], TransitDone([place[1]]))

    # ------------------------------------------------------------ ends of processes

    def peers_of(self, node: bytes) -> set[bytes]:
        """The processes of a node that are at the other end of a transit."""
        return {process for process in (*(receiver for receiver, _ in self.sent.values()),
                                        *(sender for sender, _ in self.received)) if node_of(process) == node}

    def peer_ended(self, process: bytes) -> None:
        """Neither side of a transit with an ended process needs to wait."""
        for token in [token for token, (receiver, _) in self.sent.items() if receiver == process]:
            self.refs.unpin_all(self.sent.pop(token)[1])
        for place in [place for place in self.received if place[0] == process]:
            del self.received[place]

    def owner_ended(self, process: bytes) -> None:
        """Holds with an ended owner will not be confirmed: count them as void."""
        self.confirm({hold for holds in self.received.values() for hold in holds if hold[0] == process})
