"""What an owner tells the holders of its objects before they ask, so that they have it when it dies.  Pure.

    a holder registers (HoldAdd)     the object is ready: its value, at the end of the turn
                                     pending: on completion, if it still holds it then
    ... a reference that it got as   nothing; but it registers again when it keeps the reference beyond its task
    an argument (LENT)
    a reference travels in a value   the value of a ready object goes along (``carried``), so that whoever has heard of
                                     the object has it

A value is an inline one, an error, or an address in the store; the references inside it go along, pinned until the
receiver holds them (``[CARRYING, ...]``, as for results).  An object that was lent to nobody never comes here: its
completion is that of any other, and only a holder adds the waiter that tells of it.

Only workers tell.  A driver's objects end with its job, and so do those who hold them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zray.wire.messages import CARRYING, FAILED, Resolved
from zray.owner.records import Entry

if TYPE_CHECKING:
    from zray.owner.references import References

# A value that refers to more objects is not sent unasked: each of them costs its receiver a hold.
CARRIED_MAX = 256
CARRIED_BYTES = 64 * 1024  # of values that go along with the references in one value; the size of one inline value
MESSAGE_BYTES = 1024 * 1024  # of one Resolved, about
SMALL_BYTES = 100  # an address in the store, or an error of ours, in a message


class Telling:
    """See the module's docstring.  ``bytes_max``: what one holder is told unasked in one turn."""

    def __init__(self, refs: References, me: bytes, endpoint: str, bytes_max: int):
        self.refs = refs
        self.me = me
        self.endpoint = endpoint
        self.bytes_max = bytes_max
        self._due: dict[bytes, dict[bytes, None]] = {}  # holder -> objects to tell of

    # ------------------------------------------------------------ events

    def held(self, entry: Entry, holder: bytes) -> None:
        """``holder`` has registered itself, is to stay, and does not know the value."""
        if entry.value is not None:
            self.due(entry, holder)
            return
        if entry.waiters is None:
            entry.waiters = [_Tell(self)]
        elif type(entry.waiters[0]) is not _Tell:
            entry.waiters.insert(0, _Tell(self))  # at the front, where the next holder finds it
        entry.waiters[0].holders.add(holder)  # type: ignore[attr-defined]

    def due(self, entry: Entry, holder: bytes) -> None:
        self._due.setdefault(holder, {})[entry.oid] = None

    def told(self, entry: Entry, holder: bytes) -> None:
        """It has asked, and is answered at once."""
        due = self._due.get(holder)
        if due is not None:
            due.pop(entry.oid, None)

    def process_closed(self, process: bytes) -> None:
        self._due.pop(process, None)

    # ------------------------------------------------------------ messages

    def flush(self) -> None:
        """Once a turn, after the answers to questions."""
        if not self._due:
            return
        due, self._due = self._due, {}
        for holder, oids in due.items():
            values: list[Any] = []
            left, room = self.bytes_max, MESSAGE_BYTES
            for oid in oids:
                entry = self.refs.owned.get(oid)
                if entry is None or entry.value is None or holder not in (entry.holders or ()):
                    continue
                nbytes = value_bytes(entry.value)
                left -= nbytes
                room -= nbytes
                if left < 0:
                    break  # it would keep no more
                if len(entry.contained or ()) <= CARRIED_MAX:
                    values += (oid, self.wire(entry, holder))
                if room < 0:
                    self.refs.net.send(holder, Resolved(values))
                    values, room = [], MESSAGE_BYTES
            if values:
                self.refs.net.send(holder, Resolved(values))

    def wire(self, entry: Entry, receiver: bytes) -> Any:
        """The value of a ready object for one who holds it, with the references inside it if those are not too many."""
        contained = entry.contained
        if not contained or len(contained) > CARRIED_MAX or entry.holders is None or receiver not in entry.holders:
            return entry.value
        return self._carrying(entry, contained, receiver, CARRIED_BYTES)[0]

    def _carrying(self, entry: Entry, contained: list[Any], receiver: bytes, bytes_max: int) -> tuple[list[Any], int]:
        token = self.refs.send_carrying(receiver, contained)
        triples = [self._address(record) for record in contained]
        left = self.carried(triples, contained, b"", bytes_max)
        return [CARRYING, entry.value, triples, token], left

    def _address(self, record: Any) -> list[Any]:
        if record.owner is None:
            record.escaped = True
            return [record.oid, self.me, self.endpoint]
        return [record.oid, record.owner, record.endpoint]

    def carried(self, triples: list[list[Any]], records: list[Any], receiver: bytes, bytes_max: int = CARRIED_BYTES
                ) -> int:
        """Add the values of our ready objects to references that travel in a result, up to so many bytes.

        Those with references inside too, if a ``receiver`` is named who is to hold these.  Returns the bytes left.
        """
        for triple, record in zip(triples, records, strict=True):
            value, contained = record.value, record.contained
            if type(record) is not Entry or value is None or len(contained or ()) > (CARRIED_MAX if receiver else 0):
                continue
            nbytes = value_bytes(value)
            if nbytes > bytes_max:
                continue
            bytes_max -= nbytes
            if contained:
                value, bytes_max = self._carrying(record, contained, receiver, bytes_max)
            triple.append(value)
        return bytes_max


class _Tell:
    """A waiter of a pending object: tells these holders, those of them who still are."""

    __slots__ = ("telling", "holders")

    def __init__(self, telling: Telling):
        self.telling = telling
        self.holders: set[bytes] = set()

    def __call__(self, entry: Entry) -> None:
        for holder in sorted(self.holders):
            if entry.holders and holder in entry.holders:
                self.telling.due(entry, holder)


def value_bytes(value: Any) -> int:
    """What a value takes in a message, about."""
    if type(value) is bytes:
        return len(value)
    return len(value[2]) if value[0] == FAILED and type(value[2]) is bytes else SMALL_BYTES
