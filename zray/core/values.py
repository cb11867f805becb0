"""Converts values between Python objects and wire forms: inline bytes, or a place in the object store.

There is no state machine here.  Pickling and copying happen outside the loop lock; only allocation and look-ups take
the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zray.base import errors, ids
from zray.core.context import Context, TaskIds
from zray.core.machine import CoreMachine
from zray.core.process import ProcessRecord
from zray.core.stored import Stored
from zray.handles.refs import DynamicObjectRefGenerator, ObjectRef
from zray.owner.records import Borrowed, Entry
from zray.transport.loop import Loop
from zray.values import serialization
from zray.values.serialization import NONE, Serialized, loads
from zray.wire.messages import CARRYING, FAILED, STORED

__tracebackhide__ = True  # pytest leaves these frames out of its reports


class NotReady(Exception):
    """The value of a record is lost, and the object is pending again: wait for it as for any object."""


class Values:
    """Encoding and decoding for one Runtime; the Columns of its machine.

    Values and machine need each other, so ``bind`` completes the construction: ``on_futures(call)`` runs a call on
    the thread of futures, ``kick()`` sends the queued messages.
    """

    none = NONE
    machine: CoreMachine
    on_futures: Callable[[Callable[[], None]], None]
    kick: Callable[[], None]

    def __init__(self, process: ProcessRecord, loop: Loop, context: Context, ids_: TaskIds, stored: Stored):
        self.process = process
        self.loop = loop
        self.context = context
        self.ids = ids_
        self.stored = stored
        self.inline_max = process.config.inline_bytes_max
        self._opened: tuple[Any, list[Any]] | None = None  # the column that pick() read last, and its values

    def bind(self, machine: CoreMachine, on_futures: Callable[[Callable[[], None]], None],
             kick: Callable[[], None]) -> None:
        self.machine, self.on_futures, self.kick = machine, on_futures, kick

    # ------------------------------------------------------------ to wire values

    def place(self, value: Serialized, oid: bytes, owner: bytes) -> Any:
        """The wire value of a serialised object: inline if small, else in the store (may wait for space)."""
        if value.nbytes <= self.inline_max:
            return serialization.to_bytes(value)
        return self.store(value, oid, owner)

    def store(self, value: Serialized, oid: bytes, owner: bytes = b"") -> list[Any]:
        """Write to the store.  ``owner``: the object's owner, if that is another process."""
        allocation = self.stored.allocate(value.nbytes, oid, owner)
        try:
            allocation.write(serialization.pieces(value))
        except BaseException:
            with self.loop.lock:
                allocation.abandon()
            raise
        with self.loop.lock:
            return [*allocation.seal(), oid, self.process.node]

    def result(self, value: Any, oid: bytes, receiver: bytes) -> Any:
        """The wire value of a task's return; references inside are pinned until the receiver holds them."""
        dumped = serialization.dumps(value)
        wire = self.place(dumped, oid, receiver)
        if not dumped.refs:
            return wire
        with self.loop.lock:
            return self.machine.carrying(wire, [ref._record for ref in dumped.refs], receiver)

    def put(self, value: Any, copies: int = 1) -> ObjectRef:
        """Store a value; its owner is this process.  ``copies``: so many nodes are to keep it."""
        dumped = serialization.dumps(value, "put value")
        context = self.context
        if dumped.nbytes <= self.inline_max and copies == 1:
            wire: Any = dumped.pickle if not dumped.buffers else serialization.to_bytes(dumped)
            oid = None
        else:
            with self.loop.lock:
                oid = self.ids.next(context) + ids.PUT_INDEX
            wire = self.store(dumped, oid)
        with self.loop.lock:
            if oid is None:
                oid = self.ids.next(context) + ids.PUT_INDEX
                self.machine.refs.inline_bytes += len(wire)
            entry = self.machine.refs.owned[oid] = Entry(oid)
            entry.value = wire
            if dumped.refs:
                entry.contained = [ref._record for ref in dumped.refs]
                for record in entry.contained:
                    record.refs += 1
            if self.machine.dropped:
                self.machine.empty_dropped()
        self.loop.raise_pending()
        ref: ObjectRef = ObjectRef(oid, entry)
        if copies > 1:
            entry.escaped = True  # the node knows it, and must hear of its end
            self.stored.keep([wire], copies)
        return ref

    def store_bytes(self, payload: bytes | memoryview, oid: bytes, owner: bytes) -> list[Any]:
        """Write a payload to the store.  ``owner``: the object's owner."""
        allocation = self.stored.allocate(len(payload), oid, owner)
        allocation.view[:] = payload
        with self.loop.lock:
            return [*allocation.seal(), oid, self.process.node]

    # ------------------------------------------------------------ from wire values

    def load(self, record: Entry | Borrowed) -> Any:
        """The Python value of a ready object; raises its error, or NotReady when the value proves to be lost."""
        if record.owner is None:
            return self._value_of(record)
        # The references inside keep this object alive, and so their objects, until their owners know the holds.
        context = self.context
        outer, context.inside = context.inside, record
        try:
            return self._value_of(record)
        finally:
            context.inside = outer

    def _value_of(self, record: Entry | Borrowed) -> Any:
        value = record.value
        if type(value) is bytes:
            return None if value == NONE else loads(value)
        if value is None:
            raise NotReady  # another thread has just found that the value is lost
        return self._load(value, record)

    def _load(self, value: Any, record: Entry | Borrowed | None) -> Any:
        kind = value[0]
        if kind == STORED:
            return loads(self._read(value, record))
        if kind == FAILED:
            self.machine.refs.unhandled.seen(value)
            raise self.error(value)
        if kind == CARRYING:
            return self.load_wire(value[1])
        raise errors.RaySystemError(f"an object has a value of unknown form {kind!r}")

    def _read(self, value: Any, record: Entry | Borrowed | None) -> Any:
        try:
            return self.stored.read(value, record)
        except errors.ObjectLostError as lost:
            if record is None:
                raise
            reason = str(getattr(lost, "reason", ""))
        with self.loop.lock:
            failure = self.machine.submitter.reconstruction.lost(record, value, reason)
        if failure is not None:
            raise self.error(failure)
        raise NotReady

    def load_wire(self, value: Any) -> Any:
        """The Python value of an argument from a message."""
        if type(value) is bytes:
            return None if value == NONE else loads(value)
        return self._load(value, None)

    def prefetch(self, values: Sequence[Any]) -> None:
        """Begin the transfers of all values on other nodes together; reading one waits for it."""
        listed = [value for value in values if type(value) is list]
        if listed:
            self.stored.prefetch(listed)

    def load_many(self, values: Sequence[Any]) -> list[Any]:
        self.prefetch(values)
        return [self.load_wire(value) for value in values]

    def payload(self, value: Any) -> Any:
        """The buffer of a wire value that is no error (arguments, map chunks)."""
        if type(value) is bytes:
            return value
        if value[0] == STORED:
            return self.stored.read(value, None)
        return self.payload(value[1])

    @staticmethod
    def error(value: Any) -> Exception:
        return errors.from_failure(value[1], value[2])

    # ------------------------------------------------------------ map columns

    def pack_items(self, items: Sequence[Any]) -> tuple[Any, list[Any] | None]:
        """The wire value of a column of arguments, and the records that it pins (called under the lock)."""
        dumped = serialization.dumps(items if isinstance(items, range) else list(items))
        pins = [ref._record for ref in dumped.refs] or None
        if pins:
            for record in pins:
                record.refs += 1
        return serialization.to_bytes(dumped), pins

    def pack_call(self, item: Any, star: bool) -> tuple[Any, list[Any]]:
        """The arguments of a task that is one item of a map, and the records inside (called under the lock)."""
        dumped, _, _ = serialization.dump_args(tuple(item) if star else (item,), {}, None)
        return serialization.to_bytes(dumped), [ref._record for ref in dumped.refs]

    def pick(self, column: Any, position: int, name: str) -> tuple[Any, list[Any]]:
        """One result of a column: its wire value, and the records inside it, pinned."""
        try:
            opened = self._opened
            if opened is None or opened[0] is not column:
                opened = self._opened = column, loads(self.payload(column))
            dumped = serialization.dumps(opened[1][position])
        except errors.ObjectLostError as lost:
            return [FAILED, "object_lost", {"reason": str(getattr(lost, "reason", ""))}], []
        except Exception as error:  # any error of unpickling the user's objects is the item's error
            return self.failure(error, name), []
        records = [ref._record for ref in dumped.refs]
        if records:
            self._opened = None  # a kept column would keep its references alive too
            with self.loop.lock:
                for record in records:
                    record.refs += 1
        return serialization.to_bytes(dumped), records

    def pick_later(self, column: Any, position: int, name: str, then: Callable[[Any, list[Any]], None]) -> None:
        """The same on the thread of futures, because reading a stored column may block.  ``then`` under the lock."""
        def picked() -> None:
            value, records = self.pick(column, position, name)
            self._opened = None  # it pins the column in the store
            with self.loop.lock:
                if not self.process.closed:
                    then(value, records)
                    self.kick()

        self.on_futures(picked)

    def references(self, oids: Sequence[bytes]) -> bytes:
        """The value of an object that is the references to these objects of ours (under the lock)."""
        refs: list[ObjectRef[Any]] = []
        for oid in oids:
            entry = self.machine.refs.owned[oid]
            entry.refs += 1
            refs.append(ObjectRef(oid, entry))
        return serialization.to_bytes(serialization.dumps(DynamicObjectRefGenerator(refs)))

    @staticmethod
    def failure(error: Exception, name: str) -> list[Any]:
        return [FAILED, "task_error", serialization.dump_error(error, name)]
