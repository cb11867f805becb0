"""Objects outlive their owners: when one dies, a holder that has the value becomes the owner.  Pure.

The control store's row ``own/<oid>`` names the adopter of an object; its first owner needs none.  When the owner of a
borrowed object has died, then, for each of them:

    its value (or address in the store) is here
        CLAIM   swap the row, from what a dead adopter left there or from nothing, for one that names this process
                won: an Entry here owns it, as if it had been made here.    lost: the row says who won; MOVE
    it is not
        LOOK    the row names a process that lives: MOVE.    else again, after each of LOOK_AGAIN_S, then OwnerDiedError
    MOVE        register there (HoldAdd), ask there for the value if somebody waits for it

One compare-and-set decides, so an object has one adopter at a time.  Only the notice that a process has certainly ended
(from its node, or of its node from a majority of the voters) lets anybody claim; a connection that closed only makes a
holder look.  A node that was declared dead is not heard again and ends with its processes (zray/gcs), so an owner that
only stood still frees nothing and gives nothing out when it comes back.

The adopter keeps the object for GRACE_S at least, until the other holders, who may hear of the death later, have
registered; from then on as long as it has holders, and when it frees the object it takes the row away.  A holder that
comes later still and has the value finds no row, and adopts it in its turn.

Of objects in a store, those whose last reference here went just before the owner died are adopted too: it may not have
heard of it, and nobody else would free them.

A hold that somebody else announces counts for GRACE_S only: the holder may have dropped it since, and have told the
dead owner so.  If not, it registers itself.

In "Ownership: A Distributed Futures System for Fine-Grained Tasks" (Wang et al., NSDI 2021) an object shares the fate
of its owner; here only one does that nobody else has the value of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Protocol

import msgpack

from zray.wire.messages import FAILED, HoldAck
from zray.owner.lineage import is_stored
from zray.owner.records import Borrowed, Entry
from zray.owner.references import References

LOOK_AGAIN_S = (0.1, 0.3, 0.6, 1.0)  # nodes hear of a process's death within milliseconds, of a node's within a second
MOVES_MAX = 3  # adopters that have freed it when we come, before an object without a value here is given up
CLAIM_AGAIN_S = 1.0  # the control store could not do it
CLAIMS_MAX = 10  # of one object that it could not do
GRACE_S = 5.0
DROPPED_S = 1.0  # between the death of a process and the notice of it there is less
DROPPED_MAX = 1024
CLAIMS_OPEN_MAX = 64  # requests under way
# Failures that say what became of an object here, and are no values of it.
_LOCAL = frozenset(("owner_died", "freed", "raylet_died", "session_ended", "object_lost"))


class Owners(Protocol):
    """The rows; see zray.gcs.client.typed."""

    def swap_owner(self, oid: bytes, old: bytes | None, new: bytes | None, done: Callable[[Any], None]) -> Any: ...
    def read_owner(self, oid: bytes, done: Callable[[Any], None]) -> Any: ...


class Orphan:
    """A borrowed object without an owner; ``row`` is what its row was last seen to hold."""

    __slots__ = ("record", "row", "new", "entry", "value", "tries")

    def __init__(self, record: Borrowed):
        self.record = record
        self.row: bytes | None = None
        self.new = b""
        # Made before the claim is decided, since who reads the row may be here before the answer; and its value then.
        self.entry: Entry | None = None
        self.value: Any = None
        self.tries = 0


class Adoption:
    """See the module's docstring."""

    def __init__(self, refs: References, owners: Owners, endpoint: str, clock: Callable[[], float]):
        self.refs = refs
        self.owners = owners
        self.endpoint = endpoint
        self.clock = clock
        self.orphans: dict[bytes, Orphan] = {}
        self.adopted: dict[bytes, bytes] = {}  # our rows
        self._todo: deque[Orphan] = deque()
        self._again: list[tuple[float, int, Orphan]] = []  # heap
        self._grace: deque[tuple[float, Entry]] = deque()
        self._dropped: deque[tuple[float, Borrowed]] = deque(maxlen=DROPPED_MAX)
        self._under_way = 0
        self._count = 0
        refs.orphaned = refs.suspected = self.orphaned
        refs.dropped = self._drop
        refs.on_ended = self._sweep
        refs.is_adopted = self._announced
        refs.adopted = self.adopted

    @property
    def busy(self) -> bool:
        return bool(self.orphans or self._grace)

    def orphaned(self, record: Borrowed) -> None:
        """Its owner has died, as far as is known; called again for the same one, it changes nothing."""
        if record.oid in self.adopted:
            self._hold(record)
            return
        orphan = self.orphans.get(record.oid)
        if orphan is not None:
            orphan.record = record
            return
        if not record.moved or self.refs.ends.has_ended(record.owner):
            orphan = self.orphans[record.oid] = Orphan(record)
            self._todo.append(orphan)
        elif _is_value(record.value) or record.moved < MOVES_MAX:  # its adopter freed it, and is taking the row away
            orphan = self.orphans[record.oid] = Orphan(record)
            self._later(orphan, LOOK_AGAIN_S[min(record.moved, len(LOOK_AGAIN_S)) - 1])
        else:
            self.refs.owner_died(record)

    def _drop(self, record: Borrowed) -> None:
        self._dropped.append((self.clock(), record))

    def _sweep(self) -> None:
        """Somebody has died: who let go of objects of his in a store a moment ago looks whether they were freed."""
        since = self.clock() - DROPPED_S
        refs, has_ended = self.refs, self.refs.ends.has_ended
        for when, record in self._dropped:
            oid = record.oid
            if when >= since and has_ended(record.owner) and oid not in refs.borrowed and oid not in refs.owned \
                    and oid not in self.orphans:
                self.orphans[oid] = orphan = Orphan(record)
                self._todo.append(orphan)
        while self._dropped and (self._dropped[0][0] < since or has_ended(self._dropped[0][1].owner)):
            self._dropped.popleft()

    # ------------------------------------------------------------ turns

    def pump(self) -> None:
        """Once a turn while ``busy``, and at ``next_deadline``."""
        now = self.clock()
        while self._grace and self._grace[0][0] <= now:
            self.refs.unpin(self._grace.popleft()[1])
        while self._again and self._again[0][0] <= now:
            self._todo.append(heappop(self._again)[2])
        while self._todo and self._under_way < CLAIMS_OPEN_MAX:
            self._step(self._todo.popleft())

    def next_deadline(self) -> float | None:
        times = [queue[0][0] for queue in (self._grace, self._again) if queue]
        return min(times, default=None)

    def _step(self, orphan: Orphan) -> None:
        record = orphan.record
        if not self._matters(record):
            self._close(orphan)
            return
        if not _is_value(record.value):
            self._under_way += 1
            self.owners.read_owner(record.oid, lambda call: self._looked(orphan, call))
        elif not self.refs.ends.has_ended(record.owner) and not record.moved:
            self._close(orphan)  # only its connection had closed, and the value came by another way
        elif orphan.entry is None and record.oid in self.refs.owned:
            self._later(orphan, CLAIM_AGAIN_S)  # the stale address of something that was freed here stands in the way
        else:
            if orphan.entry is None:
                self._prepare(orphan)
            self._count += 1
            self._under_way += 1
            orphan.new = msgpack.packb([self.refs.me, self.endpoint, self._count])
            self.owners.swap_owner(record.oid, orphan.row, orphan.new, lambda call: self._claimed(orphan, call))

    def _matters(self, record: Borrowed) -> bool:
        """Whether it is held here; or is in a store, where it would stay if nobody owned it."""
        return self.refs.borrowed.get(record.oid) is record or is_stored(record.value)

    def _later(self, orphan: Orphan, seconds: float) -> None:
        orphan.tries += 1
        self._count += 1
        heappush(self._again, (self.clock() + seconds, self._count, orphan))

    # ------------------------------------------------------------ answers

    def _claimed(self, orphan: Orphan, call: Any) -> None:
        self._under_way -= 1
        if call.error:
            self._refused(orphan)
            return
        won, orphan.row = call.value
        if won:
            self._won(orphan)
        else:
            self._decide(orphan)

    def _looked(self, orphan: Orphan, call: Any) -> None:
        self._under_way -= 1
        if call.error:
            self._refused(orphan)
            return
        orphan.row = call.value
        self._decide(orphan)

    def _refused(self, orphan: Orphan) -> None:
        if orphan.tries < CLAIMS_MAX:
            self._later(orphan, CLAIM_AGAIN_S)
            return
        self._close(orphan)
        self.refs.owner_died(orphan.record)

    def _decide(self, orphan: Orphan) -> None:
        """The row does not name us; whom then?"""
        record = orphan.record
        owner, endpoint, _ = msgpack.unpackb(orphan.row) if orphan.row is not None else (self.refs.me, "", 0)
        if owner != self.refs.me and not self.refs.ends.has_ended(owner):
            if self.refs.borrowed.get(record.oid) is record:
                self.refs.move(record, owner, endpoint)
            self._close(orphan)
        elif not self._matters(record):
            self._close(orphan)
        elif _is_value(record.value):
            self._todo.append(orphan)  # with the row as it is now
        elif orphan.tries < len(LOOK_AGAIN_S):
            self._later(orphan, LOOK_AGAIN_S[orphan.tries])
        else:
            self._close(orphan)
            self.refs.owner_died(record)

    # ------------------------------------------------------------ the entry

    def _prepare(self, orphan: Orphan) -> None:
        """The object as its owner has it, before it is known that we are."""
        record, refs = orphan.record, self.refs
        entry = orphan.entry = Entry(record.oid)  # its one reference is this orphan's, and then the grace's
        entry.value = orphan.value = record.value
        entry.escaped = True
        entry.contained = record.contained and list(record.contained)
        for inner in entry.contained or ():
            inner.refs += 1
        refs.owned[entry.oid] = entry
        if type(entry.value) is bytes:
            refs.inline_bytes += len(entry.value)

    def _won(self, orphan: Orphan) -> None:
        entry = orphan.entry
        assert entry is not None
        oid = entry.oid
        orphan.entry = None
        del self.orphans[oid]
        self.adopted[oid] = orphan.new
        self.refs.finalizers[oid] = lambda: self._freed(oid)
        self._grace.append((self.clock() + GRACE_S, entry))
        record = self.refs.borrowed.get(oid)
        if record is not None:
            self._hold(record)

    def _hold(self, record: Borrowed) -> None:
        """What is borrowed here is ours: it holds the entry, as whatever contains it would."""
        entry = self.refs.owned[record.oid]
        entry.refs += 1
        record.contained = [*(record.contained or ()), entry]
        record.owner, record.endpoint = self.refs.me, self.endpoint
        record.moved += 1
        record.confirmed = True
        if record.value is None:
            self.refs.complete(record, entry.value)

    def _announced(self, entry: Entry) -> bool:
        """Whether an entry is here by adoption; it is kept for a while, in which the holder registers itself."""
        if entry.oid in self.adopted:
            entry.refs += 1
            self._grace.append((self.clock() + GRACE_S, entry))
            return True
        orphan = self.orphans.get(entry.oid)
        return orphan is not None and orphan.entry is entry

    def _close(self, orphan: Orphan) -> None:
        """Nothing more is done for it.  An entry that did not become the owner goes; its holders look again."""
        oid = orphan.record.oid
        del self.orphans[oid]
        entry, orphan.entry = orphan.entry, None
        if entry is None:
            return
        for holder in entry.holders or ():
            self.refs.net.send(holder, HoldAck([], [oid]))
        self.refs.disown(entry, free=entry.value is not orphan.value)  # else it is the object's own place in the store

    def _freed(self, oid: bytes) -> None:
        self._take_away(oid, self.adopted.pop(oid))

    def _take_away(self, oid: bytes, row: bytes, tries: int = CLAIMS_MAX) -> None:
        def done(call: Any) -> None:
            if call.error and tries:
                self._take_away(oid, row, tries - 1)

        self.owners.swap_owner(oid, row, None, done)

    def check(self) -> None:
        for oid, orphan in self.orphans.items():
            assert orphan.record.oid == oid
            assert orphan.entry is None or self.refs.owned[oid] is orphan.entry
            assert oid not in self.adopted, "adopted, and looked for"
        for oid in self.adopted:
            assert oid in self.refs.owned and oid in self.refs.finalizers
        assert 0 <= self._under_way <= len(self.orphans)


def _is_value(value: Any) -> bool:
    return value is not None and (type(value) is bytes or value[0] != FAILED or value[1] not in _LOCAL)

