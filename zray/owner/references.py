"""References: which objects live, and who keeps them alive.

    owned object      lives while  refs > 0 (local ObjectRefs and pins)  or  some process holds it
    borrowed object   HoldAdd(n) to its owner when refs goes 0 -> 1, HoldDrop(n) when it goes 1 -> 0

A hold is (process, n); n grows with every hold a process takes, so a late HoldAdd that a HoldDrop has overtaken (a
sender announces a receiver over another connection) is recognised by its number and ignored.  A value that contains
references pins their records; freeing it unpins them.  A borrowed record that was found inside another object pins
that one until its owner has confirmed the hold.

Holder sets instead of counters, and one report per process, after "Ownership: A Distributed Futures System for
Fine-Grained Tasks" (Wang et al., NSDI 2021, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from zray.base.config import DEFAULTS
from zray.base.ends import Ends
from zray.base.ids import node_of
from zray.wire.messages import (
    CARRYING,
    FAILED,
    STORED,
    HoldAck,
    HoldAdd,
    HoldDrop,
    Locate,
    ObjectLost,
    Resolved,
    TransitDone,
)
from zray.owner.records import Borrowed, Entry, Net, Value
from zray.owner.telling import Telling, value_bytes
from zray.owner.unhandled import Unhandled

Record = Entry | Borrowed
KEPT_BYTES_MAX = DEFAULTS.kept_bytes_max
RECORD_BYTES = 1000  # of a Borrowed with its places in our tables; each reference inside a value that is kept makes one


# Third in a hold of a HoldAdd: the holder has the value, or has learned where it is; or it got the reference as an
# argument, which mostly ends with the task.
KNOWN, LENT = 1, 2


class References:
    """All objects that this process owns or borrows."""

    def __init__(self, me: bytes, net: Net, free_stored: Callable[[bytes, Value, bool], None],
                 ends: Ends, kept_bytes_max: int = KEPT_BYTES_MAX):
        self.me = me
        self.net = net
        self.ends = ends
        self.free_stored = free_stored
        self.owned: dict[bytes, Entry] = {}
        self.borrowed: dict[bytes, Borrowed] = {}
        self.held_by: dict[bytes, set[bytes]] = {}  # process -> oids of ours it holds
        self.dropped_holds: dict[bytes, dict[bytes, int]] = {}  # oid -> {process: n of a drop before its add}
        self.transits: dict[int, tuple[bytes, list[Record]]] = {}  # token -> (receiver, records pinned for it)
        # (sender, token) -> holds (owner, oid, n) that their owners have not yet confirmed
        self.arrivals: dict[tuple[bytes, int], set[tuple[bytes, bytes, int]]] = {}
        self.finalizers: dict[bytes, Callable[[], None]] = {}  # called when the object is freed (actor lives)
        self.adopted: Mapping[bytes, Any] = {}  # objects that are ours because their first owner died
        self.traced: Mapping[bytes, Any] = {}  # objects that lineage knows: it is told when one is freed
        self.on_traced_freed: Callable[[Entry], None] = _nobody
        self.unhandled = Unhandled()
        self.unsettled: set[bytes] = set()  # objects whose value was lost and is pending again
        # Asking node -> objects that were not held here when it asked, and have not been since (zray.owner.holding).
        self.watched: dict[bytes, set[bytes]] = {}
        self.inline_bytes = 0
        self.kept_bytes_max = kept_bytes_max
        self.kept_bytes = 0  # of values that owners told us unasked
        self.telling: Telling | None = None  # of a process whose objects should outlive it
        # Called for a borrowed object whose owner has died, or whose connection to us has closed while it was pending.
        self.orphaned: Callable[[Borrowed], None] = self.owner_died
        self.suspected: Callable[[Borrowed], None] = self.owner_died
        self.dropped: Callable[[Borrowed], None] = _nobody  # the last reference here to what lies in a store has gone
        self.on_ended: Callable[[], None] = _nothing  # more processes have certainly ended
        # Whether an entry is not ours from the beginning, so that holders must register themselves.
        self.is_adopted: Callable[[Entry], bool] = lambda entry: False
        self._holds = 0
        self._tokens = 0
        self._adds: dict[bytes, list[list[Any]]] = {}
        self._drops: dict[bytes, list[list[Any]]] = {}
        self._asks: dict[bytes, list[bytes]] = {}

    # ------------------------------------------------------------ local counts

    def own(self, oid: bytes, task: Any = None) -> Entry:
        """A new object of ours, with one reference."""
        entry = self.owned[oid] = Entry(oid, task)
        return entry

    def unpin(self, record: Record) -> None:
        record.refs -= 1
        if record.refs == 0:
            self._unreferenced(record)

    def unpin_all(self, records: Iterable[Record]) -> None:
        for record in records:
            record.refs -= 1
            if record.refs == 0:
                self._unreferenced(record)

    def _unreferenced(self, record: Record) -> None:
        # A worklist, not recursion: objects may contain each other 100,000 deep.
        work: list[Record] = [record]
        while work:
            record = work.pop()
            inner: Iterable[Any] | None
            inner = self._unborrow(record) if isinstance(record, Borrowed) else self._free(record)
            for contained in inner or ():
                contained.refs -= 1
                if contained.refs == 0:
                    work.append(contained)

    def _free(self, entry: Entry) -> list[Any] | None:
        if entry.holders:
            return None
        if self.owned.pop(entry.oid, None) is None:
            return None
        if self.dropped_holds:
            self.dropped_holds.pop(entry.oid, None)
        value = entry.value
        if type(value) is bytes:
            self.inline_bytes -= len(value)
        elif value is not None:
            self._free_place(entry, value)
        if self.traced and entry.oid in self.traced:
            self.on_traced_freed(entry)
        if self.finalizers and (finalizer := self.finalizers.pop(entry.oid, None)) is not None:
            finalizer()
        contained, entry.contained = entry.contained, None
        return contained

    def _unborrow(self, record: Borrowed) -> Iterable[Any] | None:
        if self.borrowed.get(record.oid) is not record:
            return None
        del self.borrowed[record.oid]
        self.unsettled.discard(record.oid)
        if record.owner != self.me:
            self._drops.setdefault(record.owner, []).append([record.oid, record.n])
            if type(record.value) is list and record.value[0] == STORED:
                self.dropped(record)
        self.kept_bytes -= record.kept
        inner = (*(record.keepalive or ()), *(record.contained or ()))
        record.keepalive = record.contained = None
        record.kept = 0
        return inner

    def disown(self, entry: Entry, *, free: bool) -> None:
        """It is not ours after all; ``free``: what it has in the store is."""
        del self.owned[entry.oid]
        self.dropped_holds.pop(entry.oid, None)
        holders, entry.holders = entry.holders, None
        for holder in holders or ():
            held = self.held_by[holder]
            held.discard(entry.oid)
            if not held:
                del self.held_by[holder]
        if type(entry.value) is bytes:
            self.inline_bytes -= len(entry.value)
        elif free and entry.value[0] == STORED:
            self.free_stored(entry.oid, entry.value, True)
        contained, entry.contained = entry.contained, None
        self.unpin_all(contained or ())

    # ------------------------------------------------------------ values

    def complete(self, record: Record, value: Value) -> None:
        """The value (or error) of a pending object is known: store it and tell whoever waits."""
        record.value = value
        orphan = False
        if type(record) is Entry:
            record.task = None
            if type(value) is bytes:
                self.inline_bytes += len(value)
            # Freed while its task ran.  Asked before the waiters are told: one of them may free it, and that is enough.
            orphan = record.refs == 0 and not record.holders and self.owned.get(record.oid) is not record
        waiters = record.waiters
        if waiters is not None:
            record.waiters = None
            for waiter in waiters:
                waiter(record)
        if orphan:
            assert type(record) is Entry
            self._discard(record)

    def _discard(self, entry: Entry) -> None:
        """A value for an object that was freed while its task ran."""
        value = entry.value
        if type(value) is bytes:
            self.inline_bytes -= len(value)
        else:
            self._free_place(entry, value)
        if self.traced and entry.oid in self.traced:
            self.on_traced_freed(entry)
        contained, entry.contained = entry.contained, None
        self.unpin_all(contained or ())

    def _free_place(self, entry: Entry, value: list[Any]) -> None:
        if value[0] == STORED:
            self.free_stored(entry.oid, value, entry.escaped)
        elif value[0] == FAILED:
            self.unhandled.dropped(value, entry.escaped)

    def ask(self, record: Record) -> None:
        """Make sure the owner will send the value."""
        if (type(record) is Borrowed and not record.asked and record.value is None
                and not self.ends.has_ended(record.owner)):
            record.asked = True
            self._asks.setdefault(record.owner, []).append(record.oid)

    def replace_value(self, record: Record, value: Value) -> None:
        """The object moved (spilled, restored, sent to the store): same object, new place."""
        if type(record) is Entry and type(record.value) is bytes:
            self.inline_bytes -= len(record.value)
        record.value = value
        if type(record) is Entry and type(value) is bytes:
            self.inline_bytes += len(value)

    def when_ready(self, record: Record, waiter: Callable[[Any], None]) -> bool:
        """Call ``waiter(record)`` at completion; True when it is ready already (and the waiter is not kept)."""
        if record.value is not None:
            return True
        if record.waiters is None:
            record.waiters = [waiter]
        else:
            record.waiters.append(waiter)
        self.ask(record)
        return False

    def forget_waiter(self, record: Record, waiter: Callable[[Any], None]) -> None:
        if record.waiters is not None:
            try:
                record.waiters.remove(waiter)
            except ValueError:
                return
            if not record.waiters:
                record.waiters = None

    # ------------------------------------------------------------ references from elsewhere

    def restore(self, oid: bytes, owner: bytes, endpoint: str, inside: Record | None = None, value: Value = None,
                contained: Sequence[Record] = (), *, lent: bool = False) -> Record:
        """The record of a reference that arrived in a pickle, its count raised by one.

        ``value``: came along with it, and ``contained`` is inside it, see zray.owner.telling.  ``lent``: it is an
        argument, or inside one.
        """
        if owner == self.me:
            ours: Record | None = self.owned.get(oid) or self.borrowed.get(oid)
            if ours is None:
                ours = self.owned[oid] = Entry(oid)
                ours.value = [FAILED, "freed", {"oid": oid}]
                ours.refs = 0
            ours.refs += 1
            return ours
        record = self.borrowed.get(oid)
        if record is None:
            self._holds += 1
            record = self.borrowed[oid] = Borrowed(oid, owner, endpoint, self._holds)
            if self.watched:
                self.came(oid)
            record.refs = 1
            record.lent = lent
            if value is not None and self._keep(record, value, contained):
                record.value = value
            if self.ends.has_ended(owner):
                record.confirmed = True
                self.orphaned(record)
                return record
            self.net.connect(owner, endpoint)
            self._adds.setdefault(owner, []).append(
                [oid, record.n, KNOWN] if record.value is not None else [oid, record.n, LENT] if lent else
                [oid, record.n])
            if inside is not None and inside.owner != owner:
                inside.refs += 1
                record.keepalive = [inside]
            return record
        record.refs += 1
        if value is not None and record.value is None and self._keep(record, value, contained):
            self.complete(record, value)
        if record.lent and not lent:
            self._stays(record)
        return record

    def came(self, oid: bytes) -> None:
        """A reference to an object has come that was not held here."""
        for watched in self.watched.values():
            watched.discard(oid)

    def _stays(self, record: Borrowed) -> None:
        """A reference that was lent is kept: from now on its owner should tell of it."""
        record.lent = False
        if record.value is None and record.owner != self.me and not self.ends.has_ended(record.owner):
            self._adds.setdefault(record.owner, []).append([record.oid, record.n])

    def _keep(self, record: Borrowed, value: Value, contained: Sequence[Record]) -> bool:
        """Whether there is room for a value that came unasked, and for the records of the references inside it."""
        nbytes = value_bytes(value) + RECORD_BYTES * len(contained)
        if self.kept_bytes + nbytes > self.kept_bytes_max:
            return False
        self.kept_bytes += nbytes - record.kept
        record.kept = nbytes
        return True

    def move(self, record: Borrowed, owner: bytes, endpoint: str) -> None:
        """Another process owns this borrowed object now: hold it there."""
        record.owner, record.endpoint = owner, endpoint
        record.moved += 1
        record.confirmed = record.asked = record.lent = False
        self.net.connect(owner, endpoint)
        self._adds.setdefault(owner, []).append([record.oid, record.n] if record.value is None else
                                                [record.oid, record.n, KNOWN])
        if record.waiters is not None:
            self.ask(record)

    def flush(self) -> None:
        """Send what the turn gathered.  Adds before drops, so that drop-then-add of one object stays held."""
        if self._adds:
            for owner, holds in self._adds.items():
                self.net.send(owner, HoldAdd(holds, self.me, []))
            self._adds = {}
        if self._asks:
            for owner, oids in self._asks.items():
                self.net.send(owner, Locate(oids))
            self._asks = {}
        if self.telling is not None:
            self.telling.flush()
        if self._drops:
            for owner, holds in self._drops.items():
                self.net.send(owner, HoldDrop(holds, self.me))
            self._drops = {}

    # ------------------------------------------------------------ values that carry references

    def send_carrying(self, receiver: bytes, records: list[Record]) -> int:
        """Pin ``records`` until ``receiver`` has confirmed that it holds them; returns the token it will name."""
        self._tokens += 1
        if not self.ends.has_ended(receiver):  # else nobody is left who would confirm
            for record in records:
                record.refs += 1
            self.transits[self._tokens] = (receiver, records)
        return self._tokens

    def receive_carrying(self, sender: bytes, refs: list[list[Any]], token: int) -> list[Record]:
        """Records for the references inside a value that is now ours; confirms to the sender when all are held."""
        records = [self._received(sender, *ref) for ref in refs]
        open_holds = {(r.owner, r.oid, r.n) for r in records if type(r) is Borrowed and not r.confirmed}
        if token:
            if sender == self.me:  # a task that ran inline: nothing travelled
                self.on_transit_done(sender, TransitDone([token]))
            elif open_holds:
                self.arrivals[sender, token] = open_holds
            else:
                self.net.send(sender, TransitDone([token]))
        return records

    def _received(self, sender: bytes, oid: bytes, owner: bytes, endpoint: str, value: Value = None) -> Record:
        """The record of a reference that another process gives us, maybe with the value of the object."""
        contained: list[Record] = []
        if type(value) is list and value[0] == CARRYING:
            contained = self.receive_carrying(sender, value[2], value[3])
            value = value[1]
        record = self.restore(oid, owner, endpoint, None, value, contained)
        if contained:
            if type(record) is Borrowed and record.value is value and record.contained is None:
                record.contained = contained
            else:
                self.unpin_all(contained)
        return record

    def on_transit_done(self, peer: bytes, message: TransitDone) -> None:
        for token in message.tokens:
            kept = self.transits.pop(token, None)
            if kept is not None:
                self.unpin_all(kept[1])

    def announce(self, worker: bytes, held: list[list[Any]]) -> None:
        """A task's reply says that these, ours or borrowed by us, are still held: see :meth:`still_held`."""
        for oid, n, *others in held:
            holder = others[0] if others else worker
            entry = self.owned.get(oid)
            if entry is not None:
                if not self.is_adopted(entry):
                    self._add_hold(entry, holder, n)
                continue
            record = self.borrowed.get(oid)
            if record is not None and not self.ends.has_ended(holder):
                # Before our own drop on the same connection: the owner never sees the object unheld.
                self.net.send(record.owner, HoldAdd([[oid, n]], holder, []))
                if record.passed is None:
                    record.passed = {}
                record.passed[holder] = max(n, record.passed.get(holder, 0))

    def still_held(self, records: Iterable[Record]) -> list[list[Any]]:
        """What a task's reply says of the borrowed ``records`` it got, for the process that lent them.

        ``[oid, n]`` for each that this process still holds, and ``[oid, n, holder]`` for each that a task of ours
        holds: we have announced that to the owner, but the news may be slower than two hops, of our reply and of the
        drop that it brings about.
        """
        held: list[list[Any]] = []
        for record in dict.fromkeys(records):
            if type(record) is Borrowed:
                if record.refs > 0:
                    held.append([record.oid, record.n])
                    if record.lent:
                        self._stays(record)
                held += [[record.oid, n, holder] for holder, n in (record.passed or {}).items()]
        return held

    # ------------------------------------------------------------ messages

    def on_hold_add(self, peer: bytes, message: HoldAdd) -> None:
        missing = []
        holder = message.holder
        for oid, n, *how in message.holds:
            entry = self.owned.get(oid)
            if entry is None:
                missing.append(oid)
                continue
            if holder != peer and self.is_adopted(entry):
                continue
            self._add_hold(entry, holder, n)
            if self.telling is not None and holder == peer and not how and entry.holders and peer in entry.holders:
                self.telling.held(entry, peer)
        if holder == peer:
            self.net.send(peer, HoldAck(message.holds, missing))

    def _add_hold(self, entry: Entry, holder: bytes, n: int) -> None:
        entry.escaped = True
        if holder == self.me or self.ends.has_ended(holder):
            return
        dropped = self.dropped_holds.get(entry.oid)
        if dropped is not None and dropped.get(holder, 0) >= n:
            return
        if entry.holders is None:
            entry.holders = {}
        if entry.holders.get(holder, 0) < n:
            entry.holders[holder] = n
        self.held_by.setdefault(holder, set()).add(entry.oid)

    def on_hold_drop(self, peer: bytes, message: HoldDrop) -> None:
        for oid, n in message.holds:
            entry = self.owned.get(oid)
            if entry is None:
                continue
            holders = entry.holders
            current = holders.get(message.holder, 0) if holders else 0
            if current > n:
                continue  # it let go and took hold again
            dropped = self.dropped_holds.setdefault(oid, {})
            dropped[message.holder] = max(n, dropped.get(message.holder, 0))
            if current:
                self._remove_hold(entry, message.holder)

    def _remove_hold(self, entry: Entry, holder: bytes) -> None:
        if entry.holders is not None:
            entry.holders.pop(holder, None)
        oids = self.held_by.get(holder)
        if oids is not None:
            oids.discard(entry.oid)
            if not oids:
                del self.held_by[holder]
        if entry.refs == 0 and not entry.holders:
            self._unreferenced(entry)

    def on_hold_ack(self, peer: bytes, message: HoldAck) -> None:
        settled = set()
        for oid, n, *_ in message.holds:
            settled.add((peer, oid, n))  # also of a record that was dropped meanwhile: nothing is left to wait for
            record = self.borrowed.get(oid)
            if record is None or record.owner != peer or record.n > n:
                continue
            record.confirmed = True
            keepalive, record.keepalive = record.keepalive, None
            if keepalive:
                self.unpin_all(keepalive)
        for oid in message.missing:
            record = self.borrowed.get(oid)
            if record is None or record.owner != peer:
                continue
            if record.moved:  # freed there, before we had found it
                self.orphaned(record)
            elif record.value is None:
                self.complete(record, [FAILED, "freed", {"oid": oid}])
        self._settled(settled)

    def _settled(self, holds: set[tuple[bytes, bytes, int]]) -> None:
        """These holds need no further waiting: senders of values whose references are all held may let go."""
        for place in [place for place, missing in self.arrivals.items() if missing & holds]:
            self.arrivals[place] -= holds
            if not self.arrivals[place]:
                del self.arrivals[place]
                self.net.send(place[0], TransitDone([place[1]]))

    def on_locate(self, peer: bytes, message: Locate) -> None:
        ready: list[Any] = []
        for oid in message.oids:
            entry = self.owned.get(oid)
            if entry is None:
                ready += (oid, [FAILED, "freed", {"oid": oid}])
                continue
            entry.escaped = True
            if entry.value is None:
                if self.telling is None or not entry.holders or peer not in entry.holders:
                    self.when_ready(entry, self.resolver(peer))
                else:
                    self.telling.held(entry, peer)
            elif self.telling is None:
                ready += (oid, entry.value)
            else:
                self.telling.told(entry, peer)
                ready += (oid, self.telling.wire(entry, peer))
        if ready:
            self.net.send(peer, Resolved(ready))

    def resolver(self, borrower: bytes) -> Callable[[Any], None]:
        return lambda entry: self.net.send(borrower, Resolved([entry.oid, entry.value]))

    def on_resolved(self, peer: bytes, message: Resolved) -> None:
        pairs = iter(message.values)
        for oid, value in zip(pairs, pairs, strict=True):
            contained: list[Record] = []
            if type(value) is list and value[0] == CARRYING:
                contained = self.receive_carrying(peer, value[2], value[3])
                value = value[1]
            record = self.borrowed.get(oid)
            if record is None or record.owner != peer or not self._takes(record, value, contained):
                self.unpin_all(contained)
                continue
            record.asked = False
            self.unsettled.discard(oid)
            before, record.contained = record.contained, contained or record.contained
            if record.value is None:
                self.complete(record, value)
            else:
                record.value = value
            if contained and before:
                self.unpin_all(before)

    def _takes(self, record: Borrowed, value: Value, contained: Sequence[Record]) -> bool:
        """Whether this value was asked for, is that of a value that we have, or there is room for it."""
        return record.asked or record.value is not None or self._keep(record, value, contained)

    def owner_died(self, record: Borrowed) -> None:
        """What a borrowed object comes to that has no owner any more, unless its value is here."""
        if record.value is None:
            self.unsettled.discard(record.oid)
            self.complete(record, [FAILED, "owner_died", {"oid": record.oid, "owner": record.owner}])

    def report_lost(self, record: Borrowed, reason: str) -> None:
        """No copy of a borrowed object's value was found: pending again, until its owner says what to read instead."""
        lost, record.value = record.value, None
        record.asked = True
        self.unsettled.add(record.oid)
        if record.owner == self.me or self.ends.has_ended(record.owner):
            self.unsettled.discard(record.oid)
            self.complete(record, [FAILED, "owner_died", {"oid": record.oid, "owner": record.owner, "reason": reason}])
        else:
            self.net.send(record.owner, ObjectLost(record.oid, lost, reason))

    # ------------------------------------------------------------ the ends of others (verbs: zray.base.ends)

    def process_closed(self, process: bytes) -> None:
        """Our connection to it has closed: its holds are void; objects of it that are pending here are suspected."""
        self._void(process)
        for record in self._without_owner(process):
            if record.value is None:
                self.suspected(record)

    def process_ended(self, process: bytes) -> None:
        """A process has certainly ended: its holds are void, and its objects need another owner (zray.owner.adoption).

        From now on nothing that still arrives about it, from others or late from itself, makes it a holder or an owner
        again.
        """
        self.ends.process_ended(process)
        for oid, drops in list(self.dropped_holds.items()):
            if drops.pop(process, None) is not None and not drops:
                del self.dropped_holds[oid]
        for record in self.borrowed.values():
            if record.passed:
                record.passed.pop(process, None)
        self._void(process)
        for record in self._without_owner(process):
            self.orphaned(record)
        self.on_ended()

    def node_ended(self, node: bytes) -> None:
        """A node has certainly ended, and every process of it."""
        self.ends.node_ended(node)
        known = {process for process in self.held_by if node_of(process) == node}
        known.update(record.owner for record in self.borrowed.values() if node_of(record.owner) == node)
        known.update(receiver for receiver, _ in self.transits.values() if node_of(receiver) == node)
        known.update(sender for sender, _ in self.arrivals if node_of(sender) == node)
        for drops in self.dropped_holds.values():
            known.update(process for process in drops if node_of(process) == node)
        for process in sorted(known):
            self.process_ended(process)
        self.on_ended()

    def _void(self, process: bytes) -> None:
        """Drop the holds of that process, and what is on its way to it or from it."""
        for oid in sorted(self.held_by.get(process, ())):
            entry = self.owned.get(oid)
            if entry is not None:
                self._remove_hold(entry, process)
        self.held_by.pop(process, None)
        for token in [t for t, (receiver, _) in self.transits.items() if receiver == process]:
            self.unpin_all(self.transits.pop(token)[1])
        for place in [place for place in self.arrivals if place[0] == process]:
            del self.arrivals[place]
        for gathered in (self._adds, self._drops, self._asks):
            gathered.pop(process, None)
        if self.telling is not None:
            self.telling.process_closed(process)
        self._settled({hold for holds in self.arrivals.values() for hold in holds if hold[0] == process})

    def _without_owner(self, process: bytes) -> Iterator[Borrowed]:
        """Borrowed objects of that owner, each after what it waited to hear from the owner is settled."""
        for record in [r for r in self.borrowed.values() if r.owner == process]:
            keepalive, record.keepalive = record.keepalive, None
            if keepalive:
                self.unpin_all(keepalive)
            record.confirmed = True  # nobody is left who would say so
            yield record

    # ------------------------------------------------------------ invariants

    def exported(self) -> bool:
        """Whether another process still depends on something this one owns."""
        return bool(self.held_by or self.transits)

    def check(self) -> None:
        inline = 0
        for oid, entry in self.owned.items():
            assert entry.oid == oid
            assert entry.refs >= 0, f"{oid.hex()}: count below zero"
            assert entry.refs > 0 or entry.holders, f"{oid.hex()}: kept by nobody"
            for holder in entry.holders or ():
                assert oid in self.held_by.get(holder, ()), f"{oid.hex()}: holder without index"
            if type(entry.value) is bytes:
                inline += len(entry.value)
            assert entry.value is None or entry.waiters is None, f"{oid.hex()}: ready, and somebody still waits"
        assert inline == self.inline_bytes, f"inline bytes {self.inline_bytes}, counted {inline}"
        for holder, oids in self.held_by.items():
            assert oids, "an empty set of holds is kept"
            for oid in oids:
                assert holder in (self.owned[oid].holders or ()), "index without holder"
        for oid, record in self.borrowed.items():
            assert record.oid == oid and record.refs > 0
            assert record.owner != self.me or self.owned.get(oid) in (record.contained or ()), "ours, and not held"
        assert self.kept_bytes == sum(record.kept for record in self.borrowed.values()) <= self.kept_bytes_max


def _nobody(record: Record) -> None:
    """Until lineage, or adoption, has registered itself."""


def _nothing() -> None:
    """The same."""
