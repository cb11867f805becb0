"""An owner sends values to the holders of its objects unasked, so that they have them when it dies.  Pure.

    event                            the owner sends
    a holder registers (HoldAdd)     of a ready object its value, at the end of the turn
                                     of a pending object its value on completion, if the holder still holds it
    ... for an argument (LENT)       nothing; a holder that keeps the reference beyond its task registers again
    a reference travels in a value   the value of a ready object with the reference (``attach_values``), so that
                                     every process that knows the object has its value
    a pending object, in both cases  how to make it (zray.owner.recipes), in the place of its value

A value here is an inline value, an error, or an address in the store.  The references inside it go along, pinned
until the receiver holds them (``[CARRYING, ...]``, as for results).  An object without holders costs nothing
here: only a registering holder adds the waiter.

Only workers do this.  A driver's objects end with its job, and so do their holders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.base.argument_errors import innermost
from zray.owner.records import Entry
from zray.owner.unmade import OWNER_ALONE, UNMADE_BYTES, recipe_bytes, unmade
from zray.wire.messages import CARRYING, FAILED, UNMADE, Resolved

if TYPE_CHECKING:
    from zray.owner.references import References

# A value that refers to more objects is not sent unasked: each of them costs its receiver a hold.
CARRIED_MAX = 256
CARRIED_BYTES = 64 * 1024  # of values sent with the references in one value: the size of one inline value
MESSAGE_BYTES = 1024 * 1024  # of one Resolved, about
RECIPES_DEEP = 16  # recipes inside recipes; an input that is deeper is sent once its holder has registered
SMALL_BYTES = 100  # of an address in the store, or of an error of zray's own, in a message


class EagerValues:
    """See the module's docstring.  ``bytes_max``: sent to one holder unasked in one turn."""

    def __init__(self, refs: References, me: bytes, endpoint: str, bytes_max: int):
        self.refs = refs
        self.me = me
        self.endpoint = endpoint
        self.bytes_max = bytes_max
        # (recipe, inputs) of a pending object, as in zray.owner.recipes
        self.recipe_of: Callable[[Entry], tuple[Any, list[Any]]] = lambda entry: ("", [])
        self._due: dict[bytes, dict[bytes, None]] = {}  # holder -> objects whose values to send

    # ------------------------------------------------------------ events

    def add_holder(self, entry: Entry, holder: bytes, *, knows_recipe: bool = False) -> None:
        """``holder`` has registered for longer than a task, and does not know the value."""
        if entry.value is not None:
            self.schedule(entry, holder)
            return
        if entry.waiters is None:
            entry.waiters = [_Announcement(self)]
        elif type(entry.waiters[0]) is not _Announcement:
            entry.waiters.insert(0, _Announcement(self))  # at the front, where the next holder finds it
        entry.waiters[0].holders.add(holder)  # type: ignore[attr-defined]
        if not knows_recipe:
            self.schedule(entry, holder)

    def schedule(self, entry: Entry, holder: bytes) -> None:
        self._due.setdefault(holder, {})[entry.oid] = None

    def was_answered(self, entry: Entry, holder: bytes) -> None:
        """The holder has asked for the value and gets it at once."""
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
                if entry is None or holder not in (entry.holders or ()):
                    continue
                if entry.value is None:
                    wire, rest = self._unmade(entry, holder, min(left, CARRIED_BYTES), 0)
                    nbytes = min(left, CARRIED_BYTES) - rest
                    if wire is not None:
                        values += (oid, wire)
                else:
                    nbytes = value_bytes(entry.value)
                left -= nbytes
                room -= nbytes
                if left < 0:
                    break  # the holder would not keep more
                if entry.value is not None and len(entry.contained or ()) <= CARRIED_MAX:
                    values += (oid, self.wire(entry, holder))
                if room < 0:
                    self.refs.net.send(holder, Resolved(values))
                    values, room = [], MESSAGE_BYTES
            if values:
                self.refs.net.send(holder, Resolved(values))

    def wire(self, entry: Entry, receiver: bytes) -> Any:
        """The value of a ready object for a holder, with the references inside it unless those are too many."""
        contained = entry.contained
        if not contained or len(contained) > CARRIED_MAX or entry.holders is None or receiver not in entry.holders:
            return entry.value
        return self._carrying(entry, contained, receiver, CARRIED_BYTES)[0]

    def _carrying(self, entry: Entry, contained: list[Any], receiver: bytes, bytes_max: int) -> tuple[list[Any], int]:
        token = self.refs.transits.send(receiver, contained)
        triples = [self._address(record) for record in contained]
        left = self.attach_values(triples, contained, b"", bytes_max)
        return [CARRYING, entry.value, triples, token], left

    def _unmade(self, entry: Entry, receiver: bytes, bytes_max: int, depth: int) -> tuple[list[Any] | None, int]:
        """How to make a pending object, and the bytes left; None when there is nothing to say."""
        recipe, inputs = self.recipe_of(entry)
        if not recipe:
            return None, bytes_max
        if recipe_bytes(recipe) > bytes_max or len(inputs) > CARRIED_MAX:
            recipe, inputs = OWNER_ALONE, []
        left = bytes_max - recipe_bytes(recipe)
        token = self.refs.transits.send(receiver, inputs) if inputs else 0
        triples = [self._address(record) for record in inputs]
        left = self.attach_values(triples, inputs, receiver, left, depth + 1)
        return unmade(recipe, triples, token), left

    def _address(self, record: Any) -> list[Any]:
        if record.owner is None:
            record.escaped = True
            return [record.oid, self.me, self.endpoint]
        return [record.oid, record.owner, record.endpoint]

    def attach_values(self, triples: list[list[Any]], records: list[Any], receiver: bytes,
                      bytes_max: int = CARRIED_BYTES, depth: int = 0) -> int:
        """Add values of our ready objects, up to ``bytes_max``, to references that travel in a result.

        Values with references inside, and recipes of pending objects, need a ``receiver`` that will hold these
        references.  ``depth``: of the recipe that has these references as its inputs.  Returns the bytes left.
        """
        for triple, record in zip(triples, records, strict=True):
            value, contained = record.value, record.contained
            if type(record) is Entry and value is None and (
                    receiver and depth < RECIPES_DEEP and bytes_max > UNMADE_BYTES):
                wire, bytes_max = self._unmade(record, receiver, bytes_max, depth)
                if wire is not None:
                    triple.append(wire)
                continue
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


class _Announcement:
    """A waiter of a pending object: sends its value to those of these processes that still hold it."""

    __slots__ = ("eager", "holders")

    def __init__(self, eager: EagerValues):
        self.eager = eager
        self.holders: set[bytes] = set()

    def __call__(self, entry: Entry) -> None:
        for holder in sorted(self.holders):
            if entry.holders and holder in entry.holders:
                self.eager.schedule(entry, holder)


def value_bytes(value: Any) -> int:
    """The size of a value in a message, about."""
    if type(value) is bytes:
        return len(value)
    if value[0] == UNMADE:
        return recipe_bytes(value[1])
    error = innermost(value)[2] if value[0] == FAILED else None
    return len(error) if type(error) is bytes else SMALL_BYTES
