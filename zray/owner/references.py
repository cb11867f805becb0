"""References: which objects live, and which references keep them alive.

    owned object      lives while  refs > 0 (local ObjectRefs and pins)  or  some process holds it
    borrowed object   HoldAdd(n) to its owner when refs goes 0 -> 1, HoldDrop(n) when it goes 1 -> 0

A hold is (process, n).  n grows with every hold that a process takes.  A sender announces a receiver over
another connection, so a HoldDrop may overtake its HoldAdd: the owner ignores the late HoldAdd by its number.

A value that contains references pins their records; freeing the value unpins them.  A borrowed record that
was found inside another object pins that object until its own owner has confirmed the hold.

Holder sets instead of counters, and one report per process, after "Ownership: A Distributed Futures System for
Fine-Grained Tasks" (Wang et al., NSDI 2021, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from zray.base.config import DEFAULTS
from zray.base.ends import Ends
from zray.base.ids import node_of
from zray.owner.eager_values import EagerValues, value_bytes
from zray.owner.records import Borrowed, Entry, Net, Record, Value
from zray.owner.transits import Transits
from zray.owner.unhandled import Unhandled
from zray.wire.messages import (
    CARRYING,
    FAILED,
    STORED,
    UNMADE,
    HoldAck,
    HoldAdd,
    HoldDrop,
    Locate,
    ObjectLost,
    Resolved,
)

KEPT_BYTES_MAX = DEFAULTS.kept_bytes_max
# Memory of a Borrowed with its places in our tables; each reference inside a kept value makes one.
RECORD_BYTES = 1000


# The third item in a hold of a HoldAdd.  HOLDS_VALUE: the holder has the value or its place.  LENT: it got the
# reference as an argument, which mostly ends with the task.
# HOLDS_RECIPE: the holder knows how to make the pending object (zray.owner.recipes).
HOLDS_VALUE, LENT, HOLDS_RECIPE = 1, 2, 3


NOT_ADOPTED = "the control store could not be asked which process may make it"
_WITH_REFERENCES = (CARRYING, UNMADE)


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
        self.held_by: dict[bytes, set[bytes]] = {}  # process -> our objects that it holds
        self.dropped_holds: dict[bytes, dict[bytes, int]] = {}  # oid -> {process: n of a drop before its add}
        self.transits = Transits(self, me, net)
        self.finalizers: dict[bytes, Callable[[], None]] = {}  # called when the object is freed (actor lives)
        self.adopted: Mapping[bytes, Any] = {}  # objects that are ours because their first owner died
        self.traced: Mapping[bytes, Any] = {}  # objects that lineage knows: on_traced_freed is called for these
        self.on_traced_freed: Callable[[Entry], bool] = _is_not_kept  # True: the value stays in the store
        self.unhandled = Unhandled()
        self.unsettled: set[bytes] = set()  # objects whose value was lost and is pending again
        # Asking node -> objects that have not been held here since it asked (zray.owner.holding).
        self.watched: dict[bytes, set[bytes]] = {}
        self.inline_bytes = 0
        self.kept_bytes_max = kept_bytes_max
        self.kept_bytes = 0  # of values that owners sent unasked
        self.eager: EagerValues | None = None  # of a worker: its objects should outlive it
        # For a borrowed object: its owner has died; or the connection to its owner closed while it was pending.
        self.on_owner_died: Callable[[Borrowed], None] = self.owner_died
        self.on_owner_suspected: Callable[[Borrowed], None] = self.owner_died
        # The last reference here to an object in a store has gone.
        self.on_stored_dropped: Callable[[Borrowed], None] = _ignore_record
        self.on_ended_processes: Callable[[], None] = _ignore  # more processes have certainly ended
        # Whether an entry is here by adoption, so that holders must register themselves.
        self.is_adopted: Callable[[Entry], bool] = lambda entry: False
        self._holds = 0
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
        is_kept = bool(self.traced) and entry.oid in self.traced and self.on_traced_freed(entry)
        if type(value) is bytes:
            self.inline_bytes -= len(value)
        elif value is not None and not is_kept:
            self._free_place(entry, value)
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
                self.on_stored_dropped(record)
        self.kept_bytes -= record.kept
        inner = (*(record.keepalive or ()), *(record.contained or ()))
        record.keepalive = record.contained = None
        record.kept = 0
        return inner

    def disown(self, entry: Entry, *, free: bool) -> None:
        """The entry is not ours after all.  ``free``: free its value in the store."""
        del self.owned[entry.oid]
        self.dropped_holds.pop(entry.oid, None)
        holders, entry.holders = entry.holders, None
        entry.waiters = None
        for holder in holders or ():
            held = self.held_by[holder]
            held.discard(entry.oid)
            if not held:
                del self.held_by[holder]
        if type(entry.value) is bytes:
            self.inline_bytes -= len(entry.value)
        elif free and entry.value is not None and entry.value[0] == STORED:
            self.free_stored(entry.oid, entry.value, True)
        contained, entry.contained = entry.contained, None
        self.unpin_all(contained or ())

    # ------------------------------------------------------------ values

    def complete(self, record: Record, value: Value) -> None:
        """The value (or error) of a pending object is known: store it and call its waiters."""
        record.value = value
        was_freed = False
        if type(record) is Entry:
            record.task = None
            if type(value) is bytes:
                self.inline_bytes += len(value)
            # Freed while its task ran.  Test before the waiters run: one of them may free the object itself.
            was_freed = record.refs == 0 and not record.holders and self.owned.get(record.oid) is not record
        waiters = record.waiters
        if waiters is not None:
            record.waiters = None
            for waiter in waiters:
                waiter(record)
        if was_freed:
            assert type(record) is Entry
            self._discard(record)

    def _discard(self, entry: Entry) -> None:
        """A value for an object that was freed while its task ran."""
        value = entry.value
        is_kept = bool(self.traced) and entry.oid in self.traced and self.on_traced_freed(entry)
        if type(value) is bytes:
            self.inline_bytes -= len(value)
        elif not is_kept:
            self._free_place(entry, value)
        contained, entry.contained = entry.contained, None
        self.unpin_all(contained or ())

    def _free_place(self, entry: Entry, value: list[Any]) -> None:
        if value[0] == STORED:
            self.free_stored(entry.oid, value, entry.escaped)
        elif value[0] == FAILED:
            self.unhandled.dropped(value, entry.escaped)

    def ask(self, record: Record) -> None:
        """Make sure that the owner will send the value."""
        if type(record) is Borrowed and not record.asked and record.value is None \
                and not self.ends.has_ended(record.owner):
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
                contained: Sequence[Record] = (), *, lent: bool = False, recipe: Any = None) -> Record:
        """The record of a reference that arrived in a pickle, its count raised by one.

        ``value`` travelled with the reference, and ``contained`` is inside it (zray.owner.eager_values).
        ``lent``: the reference is an argument, or inside one.  ``recipe`` travelled with a pending object.
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
                self.note_restored(oid)
            record.refs = 1
            record.lent = lent
            if value is not None and self._reserve_bytes(record, value, contained):
                record.value = value
            if recipe is not None and self._reserve_bytes(record, [UNMADE, recipe], contained):
                record.recipe = recipe
            if self.ends.has_ended(owner):
                record.confirmed = True
                self.on_owner_died(record)
                return record
            self.net.connect(owner, endpoint)
            self._adds.setdefault(owner, []).append(
                [oid, record.n, HOLDS_VALUE] if record.value is not None else [oid, record.n, LENT] if lent else
                [oid, record.n] if record.recipe is None else [oid, record.n, HOLDS_RECIPE])
            if inside is not None and inside.owner != owner:
                inside.refs += 1
                record.keepalive = [inside]
            return record
        record.refs += 1
        if value is not None and record.value is None and self._reserve_bytes(record, value, contained):
            self.forget_recipe(record)
            self.complete(record, value)
        if recipe is not None and record.value is None and record.recipe is None and self._reserve_bytes(
                record, [UNMADE, recipe], contained):
            record.recipe = recipe
        if record.lent and not lent:
            self._register_beyond_task(record)
        return record

    def note_restored(self, oid: bytes) -> None:
        """A reference has arrived to an object that was not held here."""
        for watched in self.watched.values():
            watched.discard(oid)

    def _register_beyond_task(self, record: Borrowed) -> None:
        """A lent reference outlives its task: register again, so that the owner sends its value unasked."""
        record.lent = False
        if record.value is None and record.owner != self.me and not self.ends.has_ended(record.owner):
            self._adds.setdefault(record.owner, []).append([record.oid, record.n])

    def forget_recipe(self, record: Borrowed) -> None:
        """The object is there, or has failed, or another process makes it: the inputs of its task are not needed."""
        if record.recipe is not None:
            record.recipe = None
            inputs, record.contained = record.contained, None
            self.unpin_all(inputs or ())

    def _reserve_bytes(self, record: Borrowed, value: Value, contained: Sequence[Record]) -> bool:
        """Whether there is room for a value that came unasked, and for the records inside it; counts them."""
        nbytes = value_bytes(value) + RECORD_BYTES * len(contained)
        if self.kept_bytes + nbytes > self.kept_bytes_max:
            return False
        self.kept_bytes += nbytes - record.kept
        record.kept = nbytes
        return True

    def move(self, record: Borrowed, owner: bytes, endpoint: str) -> None:
        """Another process owns this borrowed object now: register the hold there."""
        record.owner, record.endpoint = owner, endpoint
        record.moved += 1
        record.confirmed = record.asked = record.lent = False
        self.net.connect(owner, endpoint)
        self._adds.setdefault(owner, []).append(
            [record.oid, record.n, HOLDS_VALUE] if record.value is not None else [record.oid, record.n])
        if record.waiters is not None:
            self.ask(record)

    def flush(self) -> None:
        """Send the holds and questions of this turn.  Adds before drops: an object dropped and added stays held."""
        if self._adds:
            for owner, holds in self._adds.items():
                self.net.send(owner, HoldAdd(holds, self.me, []))
            self._adds = {}
        if self._asks:
            for owner, oids in self._asks.items():
                self.net.send(owner, Locate(oids))
            self._asks = {}
        if self.eager is not None:
            self.eager.flush()
        if self._drops:
            for owner, holds in self._drops.items():
                self.net.send(owner, HoldDrop(holds, self.me))
            self._drops = {}

    # ------------------------------------------------------------ holds in replies of tasks

    def announce(self, worker: bytes, held: list[list[Any]]) -> None:
        """Register the holds that a task's reply lists, on objects of ours or borrowed by us (:meth:`still_held`)."""
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
        """The holds on borrowed ``records`` that a task's reply lists, for the process that lent them.

        ``[oid, n]``: this process still holds the object.  ``[oid, n, holder]``: a task of ours holds it.  We
        have announced that holder to the owner, but our announcement may be slower than two hops: our reply, and
        the drop that follows it.
        """
        held: list[list[Any]] = []
        for record in dict.fromkeys(records):
            if type(record) is Borrowed:
                if record.refs > 0:
                    held.append([record.oid, record.n])
                    if record.lent:
                        self._register_beyond_task(record)
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
            if self.eager is not None and holder == peer and how in ([], [HOLDS_RECIPE]) and entry.holders \
                    and peer in entry.holders:
                self.eager.add_holder(entry, peer, knows_recipe=bool(how))
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
                continue  # the process has dropped and registered again
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
        confirmed = set()
        for oid, n, *_ in message.holds:
            confirmed.add((peer, oid, n))  # also of a record that was dropped meanwhile: its hold needs no wait
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
            if record.moved:  # the adopter freed it before our hold arrived
                self.on_owner_died(record)
            elif record.value is None:
                self.complete(record, [FAILED, "freed", {"oid": oid}])
        self.transits.confirm(confirmed)

    def on_locate(self, peer: bytes, message: Locate) -> None:
        ready: list[Any] = []
        for oid in message.oids:
            entry = self.owned.get(oid)
            if entry is None:
                ready += (oid, [FAILED, "freed", {"oid": oid}])
                continue
            entry.escaped = True
            if entry.value is None:
                if self.eager is None or not entry.holders or peer not in entry.holders:
                    self.when_ready(entry, self.resolver(peer))
                else:
                    self.eager.add_holder(entry, peer)
            elif self.eager is None:
                ready += (oid, entry.value)
            else:
                self.eager.was_answered(entry, peer)
                ready += (oid, self.eager.wire(entry, peer))
        if ready:
            self.net.send(peer, Resolved(ready))

    def resolver(self, borrower: bytes) -> Callable[[Any], None]:
        return lambda entry: self.net.send(borrower, Resolved([entry.oid, entry.value]))

    def on_resolved(self, peer: bytes, message: Resolved) -> None:
        pairs = iter(message.values)
        for oid, value in zip(pairs, pairs, strict=True):
            contained: list[Record] = []
            if type(value) is list and value[0] in _WITH_REFERENCES:
                contained = self.transits.receive(peer, value[2], value[3])
                if value[0] == UNMADE:
                    self._take_recipe(peer, oid, value, contained)
                    continue
                value = value[1]
            record = self.borrowed.get(oid)
            if record is None or record.owner != peer or not self._accepts(record, value, contained):
                self.unpin_all(contained)
                continue
            record.asked = False
            self.unsettled.discard(oid)
            self.forget_recipe(record)
            before, record.contained = record.contained, contained or record.contained
            if record.value is None:
                self.complete(record, value)
            else:
                record.value = value
            if contained and before:
                self.unpin_all(before)

    def _take_recipe(self, peer: bytes, oid: bytes, value: list[Any], inputs: list[Record]) -> None:
        """The owner says how to make a pending object."""
        record = self.borrowed.get(oid)
        if record is not None and record.owner == peer and record.value is None and self._reserve_bytes(
                record, value, inputs):
            self.forget_recipe(record)
            record.recipe, record.contained = value[1], inputs
        else:
            self.unpin_all(inputs)

    def _accepts(self, record: Borrowed, value: Value, contained: Sequence[Record]) -> bool:
        """Whether we asked for this value, already have one, or have room for it."""
        return record.asked or record.value is not None or self._reserve_bytes(record, value, contained)

    def owner_died(self, record: Borrowed) -> None:
        """Fail a borrowed object that has no owner any more, unless its value is here."""
        if record.value is None:
            self.unsettled.discard(record.oid)
            detail: dict[str, Any] = {"oid": record.oid, "owner": record.owner}
            if record.recipe is not None:
                detail["recipe"] = record.recipe if type(record.recipe) is str else NOT_ADOPTED
                self.forget_recipe(record)
            self.complete(record, [FAILED, "owner_died", detail])

    def report_lost(self, record: Borrowed, reason: str) -> None:
        """No copy of a borrowed object's value was found: it is pending until its owner sends another value."""
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
                self.on_owner_suspected(record)

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
            self.on_owner_died(record)
        self.on_ended_processes()

    def node_ended(self, node: bytes) -> None:
        """A node has certainly ended, and every process of it."""
        self.ends.node_ended(node)
        known = {process for process in self.held_by if node_of(process) == node}
        known.update(record.owner for record in self.borrowed.values() if node_of(record.owner) == node)
        known.update(self.transits.peers_of(node))
        for drops in self.dropped_holds.values():
            known.update(process for process in drops if node_of(process) == node)
        for process in sorted(known):
            self.process_ended(process)
        self.on_ended_processes()

    def _void(self, process: bytes) -> None:
        """Drop the holds of that process, and what is on its way to it or from it."""
        for oid in sorted(self.held_by.get(process, ())):
            entry = self.owned.get(oid)
            if entry is not None:
                self._remove_hold(entry, process)
        self.held_by.pop(process, None)
        self.transits.peer_ended(process)
        for gathered in (self._adds, self._drops, self._asks):
            gathered.pop(process, None)
        if self.eager is not None:
            self.eager.process_closed(process)
        self.transits.owner_ended(process)

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
        """Whether another process still depends on an object of this one."""
        return bool(self.held_by or self.transits.sent)

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


def _ignore_record(record: Record) -> None:
    """The hook until lineage or adoption has registered."""


def _is_not_kept(entry: Entry) -> bool:
    """The hook until lineage has registered."""
    return False


def _ignore() -> None:
    """The hook until adoption has registered."""
