"""Objects outlive their owners: when one dies, a holder that has the value becomes the owner.  Pure.

The row ``own/<oid>`` of the control store names the adopter of an object.  The first owner needs no row.  When
the owner of a borrowed object has died, a holder acts by what it has:

    has the value, or its address in the store
        CLAIM   swap the row: from nothing, or from the row of a dead adopter, to a row that names this process
                won: an Entry here owns the object, as if it had been made here
                lost: the row names the winner; MOVE
    has a recipe of a pending object (zray.owner.recipes), and the owner has certainly ended
        CLAIM   a little later, because another process may have the value.  Won: the Entry here is pending, and
                its task runs again (``make``)
    has no value
        LOOK    the row names a process that lives: MOVE
                else look again after each of LOOK_AGAIN_S, then OwnerDiedError
    MOVE        register at the adopter (HoldAdd), and ask it for the value if a waiter needs it

One compare-and-set decides, so an object has one adopter at a time.  A holder may claim only when the owner has
certainly ended: its node reported it, or a majority of the voters declared its node dead.  A closed connection
only makes a holder look.  A node that was declared dead is not heard again, and ends with its processes
(zray/gcs).  So an owner that was only stopped frees nothing and sends nothing out when it continues.

The adopter keeps the object for at least GRACE_S, because other holders may hear of the death later and register
then.  After that it keeps the object while it has holders; when it frees the object it removes the row.  A
holder that has the value and comes even later finds no row, and adopts the object itself.

A stored object whose last reference here was dropped just before the owner died is adopted too.  The owner may
not have heard of the drop, and no other process would free the object.

A hold that another process announces counts for GRACE_S only: the holder may have dropped it since, at the dead
owner.  A holder that still holds the object registers itself.

In "Ownership: A Distributed Futures System for Fine-Grained Tasks" (Wang et al., NSDI 2021) an object shares the
fate of its owner.  Here only an object does whose value no other process has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Protocol

import msgpack

from zray.base.argument_errors import innermost
from zray.owner.lineage import is_stored
from zray.owner.records import Borrowed, Entry
from zray.owner.references import References
from zray.wire.messages import FAILED, HoldAck

LOOK_AGAIN_S = (0.1, 0.3, 0.6, 1.0)  # nodes hear of a process's death within milliseconds, of a node's within a second
MOVES_MAX = 3  # adopters that freed an object before we registered; then an object without value here fails
CLAIM_AGAIN_S = 1.0  # pause after a claim that the control store could not carry out
CLAIMS_MAX = 10  # claims of one object that the control store could not carry out
GRACE_S = 5.0
LIVES_OF_ROW = 16  # a row that was deleted counts its adopters anew: one whose adopter freed the object
DROPPED_S = 1.0  # longer than from the death of a process to the notice of it
DROPPED_MAX = 1024
CLAIMS_OPEN_MAX = 64  # requests under way
# Failures that describe an object at this process; they are no values of the object.
_LOCAL = frozenset(("owner_died", "freed", "raylet_died", "session_ended", "object_lost"))


class Owners(Protocol):
    """The rows ``own/<oid>``; see zray.gcs.client.typed."""

    def swap_owner(self, oid: bytes, old: bytes | None, new: bytes | None, done: Callable[[Any], None]) -> Any: ...
    def read_owner(self, oid: bytes, done: Callable[[Any], None]) -> Any: ...


class AdoptionCandidate:
    """A borrowed object without an owner; ``row`` is the last known content of its row."""

    __slots__ = ("record", "row", "new", "entry", "value", "tries", "life", "recipe")

    def __init__(self, record: Borrowed):
        self.record = record
        self.row: bytes | None = None
        self.new = b""
        # Made before the claim is decided, with the value of that time: a reader of the row may register here
        # before the answer to the claim arrives.
        self.entry: Entry | None = None
        self.value: Any = None
        self.tries = 0
        self.recipe: Any = None
        self.life = 0  # how often the object was adopted, with this claim


class Adoption:
    """See the module's docstring."""

    def __init__(self, refs: References, owners: Owners, endpoint: str, clock: Callable[[], float]):
        self.refs = refs
        self.owners = owners
        self.endpoint = endpoint
        self.clock = clock
        # make(entry, recipe, inputs, last owner, life): run the task of a pending object again (zray.owner.remaking)
        self.make: Callable[[Entry, list[Any], list[Any], bytes, int], None] = _make_nothing
        self.ownerless: dict[bytes, AdoptionCandidate] = {}
        self.adopted: dict[bytes, bytes] = {}  # our rows
        self._ready: deque[AdoptionCandidate] = deque()
        self._retries: list[tuple[float, int, AdoptionCandidate]] = []  # heap
        self._grace: deque[tuple[float, Entry]] = deque()
        self._dropped: deque[tuple[float, Borrowed]] = deque(maxlen=DROPPED_MAX)
        self._under_way = 0
        self._counter = 0
        refs.on_owner_died = refs.on_owner_suspected = self.on_owner_died
        refs.on_stored_dropped = self._note_dropped
        refs.on_ended_processes = self._adopt_dropped
        refs.is_adopted = self._is_adopted
        refs.adopted = self.adopted

    @property
    def busy(self) -> bool:
        return bool(self.ownerless or self._grace)

    def on_owner_died(self, record: Borrowed) -> None:
        """The owner has died, or seems to have; a second call for the same record changes nothing."""
        if record.oid in self.adopted:
            self._hold(record)
            return
        item = self.ownerless.get(record.oid)
        if item is not None:
            item.record = record
            return
        if not record.moved or self.refs.ends.has_ended(record.owner):
            item = self.ownerless[record.oid] = AdoptionCandidate(record)
            self._ready.append(item)
        elif _is_value(record.value) or type(record.recipe) is list or record.moved < MOVES_MAX:
            # its adopter freed it, and is removing the row
            item = self.ownerless[record.oid] = AdoptionCandidate(record)
            self._retry_later(item, LOOK_AGAIN_S[min(record.moved, len(LOOK_AGAIN_S)) - 1])
        else:
            self.refs.owner_died(record)

    def _note_dropped(self, record: Borrowed) -> None:
        self._dropped.append((self.clock(), record))

    def _adopt_dropped(self) -> None:
        """An owner died: look again at stored objects that we dropped just before; it may not have heard the drop."""
        since = self.clock() - DROPPED_S
        refs, has_ended = self.refs, self.refs.ends.has_ended
        for when, record in self._dropped:
            oid = record.oid
            if when >= since and has_ended(record.owner) and oid not in refs.borrowed and oid not in refs.owned \
                    and oid not in self.ownerless:
                self.ownerless[oid] = item = AdoptionCandidate(record)
                self._ready.append(item)
        while self._dropped and (self._dropped[0][0] < since or has_ended(self._dropped[0][1].owner)):
            self._dropped.popleft()

    # ------------------------------------------------------------ turns

    def pump(self) -> None:
        """Once a turn while ``busy``, and at ``next_deadline``."""
        now = self.clock()
        while self._grace and self._grace[0][0] <= now:
            self.refs.unpin(self._grace.popleft()[1])
        while self._retries and self._retries[0][0] <= now:
            self._ready.append(heappop(self._retries)[2])
        while self._ready and self._under_way < CLAIMS_OPEN_MAX:
            self._step(self._ready.popleft())

    def next_deadline(self) -> float | None:
        times = [queue[0][0] for queue in (self._grace, self._retries) if queue]
        return min(times, default=None)

    def _step(self, item: AdoptionCandidate) -> None:
        record = item.record
        if not self._is_needed(record):
            self._close(item)
            return
        if not self._may_claim(record):
            self._under_way += 1
            self.owners.read_owner(record.oid, lambda call: self._row_read(item, call))
        elif record.value is None and item.tries == 0:
            self._retry_later(item, LOOK_AGAIN_S[0])
        elif record.value is not None and not self.refs.ends.has_ended(record.owner) and not record.moved:
            self._close(item)  # only the connection had closed, and the value came from another process
        elif item.entry is None and record.oid in self.refs.owned:
            self._retry_later(item, CLAIM_AGAIN_S)  # an entry of a freed object, made by a stale address, is in the way
        else:
            if item.entry is None:
                self._prepare(item)
            self._counter += 1
            self._under_way += 1
            item.life = 1 + (LIVES_OF_ROW * min(record.moved, 15) if item.row is None else _life_of(item.row))
            item.new = msgpack.packb([self.refs.me, self.endpoint, self._counter, item.life])
            self.owners.swap_owner(record.oid, item.row, item.new, lambda call: self._swap_ended(item, call))

    def _may_claim(self, record: Borrowed) -> bool:
        """Whether this process has the value, or knows how to make it."""
        if record.value is None:
            return type(record.recipe) is list and self.refs.ends.has_ended(record.owner)
        return _is_value(record.value)

    def _is_needed(self, record: Borrowed) -> bool:
        """Whether the object is held here, or is in a store, where it would stay for ever without an owner."""
        return self.refs.borrowed.get(record.oid) is record or is_stored(record.value)

    def _retry_later(self, item: AdoptionCandidate, seconds: float) -> None:
        item.tries += 1
        self._counter += 1
        heappush(self._retries, (self.clock() + seconds, self._counter, item))

    # ------------------------------------------------------------ answers

    def _swap_ended(self, item: AdoptionCandidate, call: Any) -> None:
        self._under_way -= 1
        if call.error:
            self._swap_failed(item)
            return
        won, item.row = call.value
        if won:
            self._won(item)
        else:
            self._decide(item)

    def _row_read(self, item: AdoptionCandidate, call: Any) -> None:
        self._under_way -= 1
        if call.error:
            self._swap_failed(item)
            return
        item.row = call.value
        self._decide(item)

    def _swap_failed(self, item: AdoptionCandidate) -> None:
        if item.tries < CLAIMS_MAX:
            self._retry_later(item, CLAIM_AGAIN_S)
            return
        self._close(item)
        self.refs.owner_died(item.record)

    def _decide(self, item: AdoptionCandidate) -> None:
        """The row does not name this process: move to the adopter it names, claim again, look again or fail."""
        record = item.record
        owner, endpoint, *_ = msgpack.unpackb(item.row) if item.row is not None else (self.refs.me, "", 0)
        if owner != self.refs.me and not self.refs.ends.has_ended(owner):
            if self.refs.borrowed.get(record.oid) is record:
                self.refs.move(record, owner, endpoint)
            self._close(item)
        elif not self._is_needed(record):
            self._close(item)
        elif self._may_claim(record):
            self._ready.append(item)  # claim again, from the row as it is now
        elif item.tries < len(LOOK_AGAIN_S):
            self._retry_later(item, LOOK_AGAIN_S[item.tries])
        else:
            self._close(item)
            self.refs.owner_died(record)

    # ------------------------------------------------------------ the entry

    def _prepare(self, item: AdoptionCandidate) -> None:
        """Make the owner's Entry of the object before the claim is decided."""
        record, refs = item.record, self.refs
        entry = item.entry = Entry(record.oid)  # its one reference belongs to this item, later to the grace time
        entry.value = item.value = record.value
        item.recipe = record.recipe
        entry.escaped = True
        entry.contained = record.contained and list(record.contained)
        for inner in entry.contained or ():
            inner.refs += 1
        refs.owned[entry.oid] = entry
        if type(entry.value) is bytes:
            refs.inline_bytes += len(entry.value)

    def _won(self, item: AdoptionCandidate) -> None:
        entry = item.entry
        assert entry is not None
        oid = entry.oid
        item.entry = None
        owner = item.record.owner
        del self.ownerless[oid]
        self.adopted[oid] = item.new
        self.refs.finalizers[oid] = lambda: self._freed(oid)
        self._grace.append((self.clock() + GRACE_S, entry))
        record = self.refs.borrowed.get(oid)
        if record is not None:
            self._hold(record)
        if entry.value is None:
            self._make(entry, item, owner)

    def _make(self, entry: Entry, item: AdoptionCandidate, owner: bytes) -> None:
        """The adopted object is pending: make it, unless its value has arrived from elsewhere meanwhile."""
        value = item.record.value
        inputs, entry.contained = entry.contained or [], None
        if value is not None and _is_value(value):
            entry.contained = [inner for inner in item.record.contained or () if inner is not entry]
            for inner in entry.contained:
                inner.refs += 1
            self.refs.unpin_all(inputs)
            self.refs.complete(entry, value)
        else:
            self.make(entry, item.recipe, inputs, owner, item.life)

    def _hold(self, record: Borrowed) -> None:
        """A borrowed object is ours now: its Borrowed record holds the Entry, as a containing value would."""
        entry = self.refs.owned[record.oid]
        entry.refs += 1
        self.refs.forget_recipe(record)
        record.contained = [*(record.contained or ()), entry]
        record.owner, record.endpoint = self.refs.me, self.endpoint
        record.moved += 1
        record.confirmed = True
        if record.value is not None:
            return
        if entry.value is not None:
            self.refs.complete(record, entry.value)
        else:
            record.asked = True  # it gets its value from the Entry
            self.refs.when_ready(entry, lambda ready: self._pass_on(record, ready))

    def _pass_on(self, record: Borrowed, entry: Entry) -> None:
        if record.value is None and self.refs.borrowed.get(record.oid) is record:
            self.refs.complete(record, entry.value)

    def _is_adopted(self, entry: Entry) -> bool:
        """Whether an entry is here by adoption; then keep it for GRACE_S, so that the holder can register."""
        if entry.oid in self.adopted:
            entry.refs += 1
            self._grace.append((self.clock() + GRACE_S, entry))
            return True
        item = self.ownerless.get(entry.oid)
        return item is not None and item.entry is entry

    def _close(self, item: AdoptionCandidate) -> None:
        """Stop handling this object.  If the claim was lost, drop its entry; the entry's holders look again."""
        oid = item.record.oid
        del self.ownerless[oid]
        entry, item.entry = item.entry, None
        if entry is None:
            return
        for holder in entry.holders or ():
            self.refs.net.send(holder, HoldAck([], [oid]))
        self.refs.disown(entry, free=entry.value is not item.value)  # the first value is the adopter's now

    def _freed(self, oid: bytes) -> None:
        self._remove_row(oid, self.adopted.pop(oid))

    def _remove_row(self, oid: bytes, row: bytes, tries: int = CLAIMS_MAX) -> None:
        def done(call: Any) -> None:
            if call.error and tries:
                self._remove_row(oid, row, tries - 1)

        self.owners.swap_owner(oid, row, None, done)

    def check(self) -> None:
        for oid, item in self.ownerless.items():
            assert item.record.oid == oid
            assert item.entry is None or self.refs.owned[oid] is item.entry
            assert oid not in self.adopted, "adopted, and without an owner"
        for oid in self.adopted:
            assert oid in self.refs.owned and oid in self.refs.finalizers
        assert 0 <= self._under_way <= len(self.ownerless)


def _life_of(row: bytes) -> int:
    """How often the object was adopted, according to its row."""
    fields: list[Any] = msgpack.unpackb(row)
    return fields[3] if len(fields) > 3 else 0


def _make_nothing(entry: Entry, recipe: list[Any], inputs: list[Any], owner: bytes, life: int) -> None:
    """The hook until Remaking has registered."""


def _is_value(value: Any) -> bool:
    return value is not None and (type(value) is bytes or value[0] != FAILED or innermost(value)[1] not in _LOCAL)

