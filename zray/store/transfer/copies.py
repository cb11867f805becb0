"""The node's memory as transfers see it: objects by ObjectKey, as primaries, copies, or copies that come in.

A copy of another node's object is a block of the table like any other, under a generation of this node's own (its
process epoch is 0, which no client has).  Pure over the table and its headers.
"""

from __future__ import annotations

from zray.store.header import HEADER_BYTES, SEALED, Headers
from zray.store.node.records import Phase, StoredObject
from zray.store.node.table import StoreTable
from zray.store.transfer.exchange import ObjectKey
from zray.wire.messages import StoreRestore, StoreRestored

GONE, COMING, HERE = 0, 1, 2
NODE_ITSELF = b""  # the node itself, as a client of its table


class Copies:
    """See the module's docstring."""

    def __init__(self, table: StoreTable, headers: Headers, me: bytes):
        self.table = table
        self.headers = headers
        self.me = me
        self.local: dict[ObjectKey, int] = {}  # copies here, complete or coming in -> generation of the block
        self.keys: dict[int, ObjectKey] = {}  # the reverse
        # served to other nodes just now -> offset at which the puller looks for it
        self.held: dict[ObjectKey, int] = {}
        self._restoring: dict[int, ObjectKey] = {}  # request -> the object that is read back from disk to be served
        self._generation = 0
        self._request = 0

    # ------------------------------------------------------------ copies of other nodes' objects

    def receive(self, key: ObjectKey, nbytes: int, now: float) -> str:
        """Ask for room: the table answers Arriving or Dropped.  The reason against it, or ''."""
        self._generation += 1
        generation = self._generation
        why = self.table.receive(key.oid, generation, nbytes, now)
        if not why:
            self.local[key] = generation
            self.keys[generation] = key
        return why

    def write(self, key: ObjectKey, start: int, data: bytes) -> None:
        at = self.table.names[self.local[key]].offset + HEADER_BYTES + start
        self.headers.raw[at : at + len(data)] = data

    def seal(self, key: ObjectKey, now: float) -> list:
        """The copy is complete: its place here."""
        generation = self.local[key]
        self.table.arrived(generation, "", now)
        self.table.exported.add(generation)
        return self.table.value_of(self.table.names[generation])

    def abandon(self, key: ObjectKey, why: str, now: float) -> None:
        """The copy will not be complete."""
        generation = self._forget(key)
        if generation is not None:
            self.table.arrived(generation, why, now)

    def drop(self, key: ObjectKey, now: float) -> None:
        """The object was freed."""
        generation = self._forget(key)
        if generation is not None:
            self.table.drop(generation, now)

    def complete(self, key: ObjectKey) -> int | None:
        """Generation of the complete copy that is here (or on this node's disk)."""
        generation = self.local.get(key)
        stored = self.table.names.get(generation) if generation is not None else None
        if stored is None or stored.freed:
            return None
        coming = stored.phase in (Phase.QUEUED, Phase.LOADING) and stored.secondary
        return None if coming else generation

    def touch(self, generation: int) -> None:
        """A process reads the copy: evict it later than others."""
        stored = self.table.names[generation]
        if stored.offset in self.table.here:
            self.table.here.move_to_end(stored.offset)

    def keep(self, key: ObjectKey) -> None:
        """The primary of a copy is lost: from now on this copy is spilled, not evicted."""
        self.table.promote(self.local[key])

    def of_node(self, node: bytes) -> list[ObjectKey]:
        """Complete copies of objects whose primaries are on that node."""
        return [key for key in self.local if key.node == node and self.complete(key) is not None]

    def left(self, generation: int) -> ObjectKey | None:
        """A block has left the table: its copy, or None when this node gave the copy up before."""
        key = self.keys.get(generation)
        if key is not None:
            self._forget(key)
        return key

    def _forget(self, key: ObjectKey) -> int | None:
        generation = self.local.pop(key, None)
        if generation is not None:
            del self.keys[generation]
            self.table.exported.discard(generation)
        return generation

    # ------------------------------------------------------------ serving

    def find(self, key: ObjectKey, offset: int, now: float) -> int:
        """Whether the object is HERE, GONE, or COMING from disk: then ``restored`` names its key later."""
        stored = self._stored(key)
        if stored is None:
            return HERE if key.node == self.me and self._in_grant(key, offset) else GONE
        if stored.freed:
            return GONE
        if stored.phase in (Phase.HERE, Phase.WRITING):
            return HERE
        self._request += 1
        self._restoring[self._request] = key
        self.table.on_restore(NODE_ITSELF, StoreRestore(self._request, key.oid, stored.offset, stored.generation), now)
        return COMING

    def restored(self, message: StoreRestored) -> tuple[ObjectKey, str] | None:
        """The table's answer to ``find``."""
        key = self._restoring.pop(message.request, None)
        return None if key is None else (key, message.error)

    def hold(self, key: ObjectKey, offset: int) -> None:
        """The object is being served: neither spill nor evict it.  From now on its owner's free is reported."""
        self.held[key] = offset
        stored = self._stored(key)
        self.table.exported.add(key.generation if stored is None else stored.generation)

    def release(self, key: ObjectKey) -> None:
        self.held.pop(key, None)

    def pins(self) -> set[int]:
        """Entries of a pin table for the objects that are being served."""
        pins = set()
        for key, offset in self.held.items():
            stored = self._stored(key)
            pins.add((offset if stored is None else stored.offset) | 1)
        return pins

    def read(self, key: ObjectKey, start: int, size: int) -> bytes | None:
        """A part of the payload, at most ``size`` bytes; None when it is not there."""
        stored = self._stored(key)
        if stored is not None:
            if stored.freed or stored.offset < 0:
                return None
            offset, nbytes = stored.offset, stored.nbytes
        else:
            offset = self.held.get(key, -1)
            if key.node != self.me or not self._in_grant(key, offset):
                return None
            nbytes = self.headers.read(offset).nbytes
        if not 0 <= start < max(nbytes, 1):
            return None
        at = offset + HEADER_BYTES
        data = bytes(self.headers.raw[at + start : at + min(start + size, nbytes)])
        # In the extent of a client, another process: check that it is still the same object.
        return data if stored is not None or self._in_grant(key, offset) else None

    def spilled(self, key: ObjectKey) -> bool:
        stored = self._stored(key)
        return stored is not None and stored.on_disk

    def _stored(self, key: ObjectKey) -> StoredObject | None:
        generation = key.generation if key.node == self.me else self.local.get(key)
        stored = self.table.names.get(generation) if generation is not None else None
        return stored if stored is not None and stored.oid == key.oid else None

    def _in_grant(self, key: ObjectKey, offset: int) -> bool:
        return (self.headers.matches(offset, key.oid, key.generation) == SEALED
                and self.table.room.grant_of(offset) is not None)

    def check(self) -> None:
        assert {generation: key for key, generation in self.local.items()} == self.keys
        for key, generation in self.local.items():
            assert key.node != self.me and self.table.names[generation].oid == key.oid
        assert all(generation in self.keys for generation, stored in self.table.names.items()
                   if stored.secondary and not stored.freed)
