"""The node's store machine: which process holds which part of the arena, and how memory comes back.

Every byte of the arena that is backed is exactly one of

    free       in the arena's ranges
    granted    in an extent of a client, which alone allocates there
    stored     the block of one object that the store owns (zray.store.node.records.Phase)
    lost       behind a header that no writer of ours left: never used again, reported

Extents change hands by messages only: StoreGrant to the client, StoreSurrender back (asked by StoreRecall), or the
client's death.  The store then walks the headers: sealed objects become ``stored``, all else becomes free.  So the
store spills and evicts only blocks that no client can be writing to.

Freeing an object, wherever it is: mark, wait the grace, read the pin tables (zray.store.pins), then the block goes
back, to the arena or to the client that holds the extent (StoreReclaimed).

zray.store.node.room serves requests for room.  When there is none, the table spills the objects stored longest,
secondary copies before all others and without a file.

Pure but for the headers, which it reads and writes through ``Headers``: events come in with ``now``, effects go out
through ``take``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from zray.store.header import (
    CREATED,
    EVICTING,
    FREE,
    HEADER_BYTES,
    OWNER_UNKNOWN,
    SEALED,
    BrokenChain,
    Headers,
    block_bytes,
)
from zray.store.node import views
from zray.store.node.records import (
    FULL_REASON,
    Arriving,
    Dropped,
    Effect,
    Eviction,
    ExtentGrant,
    Freed,
    Load,
    Phase,
    SendToClient,
    SpillObject,
    StoredObject,
    UnlinkFile,
)
from zray.store.node.room import FULL_RETRY_S, Room, RoomPorts
from zray.wire.messages import STORED, StoreFree, StoreReclaimed, StoreRestore, StoreRestored, StoreSurrender

# A store leaves a CPU's store buffer in well under a microsecond; this also lets evictions gather.
EVICTION_GRACE_S = 0.002
PIN_RETRY_S_MAX = 0.25


class StoreTable:
    """See the module's docstring."""

    def __init__(self, headers: Headers, capacity: int, pinned: Callable[[], set[int]], *, step_bytes: int,
                 extent_bytes: int, full_wait_s: float, overflow_bytes: int = 0):
        self.headers = headers
        self.counts = dict.fromkeys(("granted", "surrendered", "freed", "spilled", "restored", "received", "refused",
                                     "overflowed", "ignored"), 0)
        self._out: list[Effect] = []
        ports = RoomPorts(self._load, self._give_up, self._make_room, lambda: views.describe(self),
                          lambda: views.usage(self))
        self.room = Room(headers, capacity, ports, self._out, self.counts, step_bytes=step_bytes,
                         extent_bytes=extent_bytes, full_wait_s=full_wait_s, overflow_bytes=overflow_bytes)
        self.pinned = pinned
        self.readers: Callable[[], dict[int, list[bytes]]] = dict  # as pinned, with the readers; for people, as is ...
        self.name_of: Callable[[bytes], str] = bytes.hex  # ... the name of a process
        self.names: dict[int, StoredObject] = {}  # generation -> object; an ObjectId has two after a re-execution
        self.at: dict[int, StoredObject] = {}  # block offset -> object
        self.stored_bytes = 0
        self.payload_bytes = 0  # of the same blocks, without headers and rounding
        self.here: OrderedDict[int, StoredObject] = OrderedDict()  # offset -> object in phase HERE, longest first
        self.exported: set[int] = set()  # generations that other nodes know of: their owners' frees are reported
        self.leaving_bytes = 0  # in blocks that are about to be free
        self.disk_bytes = 0
        self.lost: list[tuple[int, int]] = []
        self.evictions: dict[int, Eviction] = {}
        self.due: list[tuple[float, int]] = []  # heap of (when, offset of an eviction)
        self.spill_error = ""
        self.spill_again_at = 0.0
        self._key = 0
        self._reclaimed: dict[bytes, list[int]] = {}

    # ------------------------------------------------------------ clients

    def disconnect(self, client: bytes, now: float) -> None:
        """The process is gone (and its pin table void): its sealed objects stay, the rest of its extents is free."""
        if client not in self.room.clients:
            return
        self._reclaimed.pop(client, None)
        for grant in self.room.disconnect(client):
            self._absorb(grant)
        for stored in self.names.values():
            if stored.waiters:
                stored.waiters = [waiter for waiter in stored.waiters if waiter[0] != client]
        self.room.progress(now)

    def on_surrender(self, client: bytes, message: StoreSurrender, now: float) -> None:
        if client not in self.room.clients:
            return
        for grant in self.room.surrendered(client, message.extents):
            self._absorb(grant)
        self.room.progress(now)

    def on_free(self, client: bytes, message: StoreFree, now: float) -> None:
        for triple in message.objects:
            if type(triple) is list and [type(field) for field in triple] == [bytes, int, int]:
                self._free(triple[0], triple[1], triple[2], now)
            else:
                self.counts["ignored"] += 1
        self.room.serve(now)

    def on_restore(self, client: bytes, message: StoreRestore, now: float) -> None:
        stored = self.names.get(message.generation)
        if stored is None:
            state = self.headers.matches(message.offset, message.oid, message.generation)
            # the reader looked too early: it is readable now
            if state == SEALED and self.room.grant_of(message.offset) is not None:
                nbytes = self.headers.read(message.offset).nbytes
                value = [STORED, message.offset, nbytes, message.generation]
                self._send(client, StoreRestored(message.request, value))
            else:
                self._send(client, StoreRestored(message.request, [], "the object is not in the store any more"))
            return
        if stored.freed:
            self._send(client, StoreRestored(message.request, [], "the object was freed"))
            return
        if stored.phase is Phase.LEAVING:
            self._stay(stored)
        if stored.phase in (Phase.HERE, Phase.WRITING):
            self._send(client, StoreRestored(message.request, self.value_of(stored)))
            return
        stored.waiters.append((client, message.request))
        if stored.phase is Phase.DISK:
            stored.phase = Phase.QUEUED
            self.room.want_block(stored, client, message.request, now)

    def receive(self, oid: bytes, generation: int, nbytes: int, now: float) -> str:
        """Ask for room for another node's object: Arriving or Dropped follows.  The reason against it, or ''."""
        size = block_bytes(nbytes)
        if size > self.room.capacity and not self.room.overflow.size:
            return (f"{FULL_REASON}an object of {nbytes:,} bytes does not fit into a store of "
                    f"{self.room.capacity:,} bytes")
        self._key += 1
        stored = self.names[generation] = StoredObject(self._key, oid, generation, -1, size, nbytes, OWNER_UNKNOWN)
        stored.foreign = stored.secondary = True
        stored.phase = Phase.QUEUED
        self.room.want_block(stored, b"", 0, now)
        return ""

    def arrived(self, generation: int, error: str, now: float) -> None:
        """The copy is complete; or, with ``error``, will not be."""
        stored = self.names[generation]
        if stored.phase is Phase.LOADING:
            self.loaded(stored.key, generation, error, now)
        else:
            self.drop(generation, now)

    def promote(self, generation: int) -> None:
        """The primary is lost: from now on this complete copy is spilled, not evicted."""
        stored = self.names[generation]
        if stored.phase is Phase.LEAVING and not stored.freed:
            self._stay(stored)
        stored.secondary = False

    def drop(self, generation: int, now: float) -> None:
        """A copy from another node is not wanted any more."""
        stored = self.names[generation]
        if not stored.freed:
            self._start_free(stored, now)

    def drop_job(self, job: bytes, now: float) -> None:
        """The job is over: no owner is left to free its objects."""
        for stored in [stored for stored in self.names.values() if stored.oid.startswith(job)]:
            self._free(stored.oid, stored.offset, stored.generation, now)
        self.room.serve(now)

    @property
    def named(self) -> int:
        """Objects that the store has come to own, ever."""
        return self._key

    def recall_all(self, now: float) -> None:
        """The node leaves: ask all clients for their extents, so that the objects in them become the store's."""
        self.room.recall_all(self.room.capacity, now)

    # ------------------------------------------------------------ answers of the shell

    def spilled(self, key: int, generation: int, error: str, now: float) -> None:
        stored = self.names.get(generation)
        if stored is None or stored.key != key or stored.phase is not Phase.WRITING:
            return
        stored.phase = Phase.HERE
        if error:
            self.leaving_bytes -= stored.size
            self.spill_error = error
            self.spill_again_at = now + FULL_RETRY_S
            self.here[stored.offset] = stored
        else:
            self.spill_error = ""
            stored.on_disk = True
            self.disk_bytes += stored.nbytes
            self.counts["spilled"] += 1
            self._leave(stored, now)
        if stored.freed and stored.phase is Phase.HERE:
            self._start_free(stored, now)
        self.room.progress(now)

    def loaded(self, key: int, generation: int, error: str, now: float) -> None:
        stored = self.names.get(generation)
        if stored is None or stored.key != key or stored.phase is not Phase.LOADING:
            return
        if stored.freed:
            self._release_block(stored)
            self._forget(stored, "the object was freed")
        elif error and stored.secondary:
            self._release_block(stored)
            self._forget(stored, error)
        elif error:  # the file stays: the next reader may have more luck
            self._release_block(stored)
            stored.phase = Phase.DISK
            self._fail(stored, error)
        else:
            self.headers.set_state(stored.offset, generation, SEALED)
            stored.phase = Phase.HERE
            self.here[stored.offset] = stored
            self.counts["received" if stored.secondary else "restored"] += 1
            self._answer(stored)
        self.room.progress(now)

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Everything that is due."""
        if self.due and self.due[0][0] <= now:
            self._evict_due(now)
        self.room.tick(now)
        if now >= self.spill_again_at:  # spilling was tried; not again at once
            self.spill_again_at = now + FULL_RETRY_S

    def next_deadline(self) -> float | None:
        times = [self.room.next_deadline()]
        if self.due:
            times.append(self.due[0][0])
        if self.spill_error and self.room.waiting:
            times.append(self.spill_again_at)
        return min((when for when in times if when is not None), default=None)

    def take(self) -> list[Effect]:
        """Effects since the last call."""
        if self._reclaimed:
            for client, offsets in self._reclaimed.items():
                self._out.append(SendToClient(client, StoreReclaimed(offsets)))
            self._reclaimed = {}
        out = self._out[:]
        self._out.clear()  # the room shares it
        return out

    # ------------------------------------------------------------ room

    def _make_room(self, need: int, now: float) -> None:
        if self.leaving_bytes >= need or (self.spill_error and now < self.spill_again_at):
            return
        pinned = self.pinned()
        for stored in sorted(self.here.values(), key=lambda stored: not stored.secondary):
            if stored.offset | 1 in pinned or self.room.overflow.holds(stored.offset):
                continue
            self._start_spill(stored, now)
            if self.leaving_bytes >= need:
                break

    def _give_up(self, stored: StoredObject, reason: str) -> None:
        if stored.secondary:
            self._forget(stored, reason)
            return
        stored.phase = Phase.DISK
        self._fail(stored, reason)

    # ------------------------------------------------------------ extents that come back

    def _absorb(self, grant: ExtentGrant) -> None:
        """An extent is the store's again: its sealed objects are ``stored`` now, the rest is free."""
        gap = at = grant.offset
        try:
            for block in self.headers.walk(grant.offset, grant.size):
                at = block.offset + block.size
                if block.state in (FREE, CREATED):
                    continue
                if block.offset > gap:
                    self.room.release(gap, block.offset - gap)
                gap = at
                if block.generation in self.names:  # no writer of ours: the two could not be distinguished
                    self.lost.append((block.offset, block.size))
                else:
                    self._adopt(block)
        except BrokenChain:
            end = grant.offset + grant.size
            self.lost.append((at, end - at))
        if at > gap:
            self.room.release(gap, at - gap)

    def _adopt(self, block: Any) -> None:
        self._key += 1
        stored = StoredObject(self._key, block.oid, block.generation, block.offset, block.size, block.nbytes,
                              block.owner)
        self.names[block.generation] = stored
        self.at[block.offset] = stored
        self.stored_bytes += block.size
        self.payload_bytes += block.nbytes
        if block.state == EVICTING:  # freed before, and its eviction is under way
            stored.phase, stored.freed = Phase.LEAVING, True
            self.leaving_bytes += block.size
            if block.offset not in self.evictions:  # no writer of ours; the protocol frees it all the same
                self._evict(block.offset, block.oid, block.generation, 0.0)
        else:
            self.here[block.offset] = stored

    # ------------------------------------------------------------ free and evict

    def _free(self, oid: bytes, offset: int, generation: int, now: float) -> None:
        stored = self.names.get(generation)
        if stored is not None and stored.oid.startswith(oid):
            if not stored.freed:
                self.counts["freed"] += 1
                if generation in self.exported:
                    self._out.append(Freed(stored.oid, generation))
                self._start_free(stored, now)
            return
        grant = self.room.grant_of(offset)
        if grant is None or self.headers.matches(offset, oid, generation) != SEALED:
            self.counts["ignored"] += 1
            return
        self.counts["freed"] += 1
        if generation in self.exported:
            self._out.append(Freed(self.headers.read(offset).oid, generation))
        self._evict(offset, oid, generation, now)

    def _start_free(self, stored: StoredObject, now: float) -> None:
        stored.freed = True
        if stored.phase is Phase.HERE:
            self._leave(stored, now)
        elif stored.phase is Phase.QUEUED:
            self.room.cancel(stored)
            self._forget(stored, "the object was freed")
        elif stored.phase is Phase.DISK:
            self._forget(stored, "")

    def _start_spill(self, stored: StoredObject, now: float) -> None:
        if stored.on_disk or stored.secondary:
            self._leave(stored, now)
            return
        stored.phase = Phase.WRITING
        del self.here[stored.offset]
        self.leaving_bytes += stored.size
        self._out.append(SpillObject(stored.key, stored.generation, stored.offset + HEADER_BYTES, stored.nbytes))

    def _leave(self, stored: StoredObject, now: float) -> None:
        if self.here.pop(stored.offset, None) is not None:
            self.leaving_bytes += stored.size
        stored.phase = Phase.LEAVING
        self._evict(stored.offset, stored.oid, stored.generation, now)

    def _stay(self, stored: StoredObject) -> None:
        """A reader wants the object: do not evict it."""
        del self.evictions[stored.offset]
        self.headers.set_state(stored.offset, stored.generation, SEALED)
        stored.phase = Phase.HERE
        self.here[stored.offset] = stored
        self.leaving_bytes -= stored.size

    def _evict(self, offset: int, oid: bytes, generation: int, now: float) -> None:
        self.headers.set_state(offset, generation, EVICTING)
        self.evictions[offset] = Eviction(offset, oid, generation, now + EVICTION_GRACE_S)
        heappush(self.due, (now + EVICTION_GRACE_S, offset))

    def _evict_due(self, now: float) -> None:
        pinned = self.pinned()
        freed = False
        while self.due and self.due[0][0] <= now:
            when, offset = heappop(self.due)
            eviction = self.evictions.get(offset)
            if eviction is None or eviction.due != when:
                continue  # it stayed; another eviction of the same block waits its own grace
            if offset | 1 not in pinned:
                del self.evictions[offset]
                self._evicted(eviction)
                freed = True
                continue
            stored = self.at.get(offset)
            if stored is not None and not stored.freed:
                self._stay(stored)
            else:
                eviction.tries = min(eviction.tries + 1, 16)
                eviction.due = now + min(PIN_RETRY_S_MAX, EVICTION_GRACE_S * 2**eviction.tries)
                heappush(self.due, (eviction.due, offset))
        if freed:
            self.room.progress(now)

    def _evicted(self, eviction: Eviction) -> None:
        """No process reads the block any more."""
        stored = self.at.get(eviction.offset)
        if stored is None:
            grant = self.room.grant_of(eviction.offset)
            self.headers.free(eviction.offset)
            if grant is not None:
                self._reclaimed.setdefault(grant.client, []).append(eviction.offset)
            return
        self.leaving_bytes -= stored.size
        self._release_block(stored)
        if stored.freed or stored.secondary:
            self._forget(stored, "it was evicted")
        else:
            stored.phase = Phase.DISK

    def _release_block(self, stored: StoredObject) -> None:
        self.headers.free(stored.offset)
        del self.at[stored.offset]
        self.stored_bytes -= stored.size
        self.payload_bytes -= stored.nbytes
        self.room.release(stored.offset, stored.size)
        stored.offset = -1

    def _forget(self, stored: StoredObject, why: str) -> None:
        self._fail(stored, why)
        if stored.on_disk:
            self.disk_bytes -= stored.nbytes
            self._out.append(UnlinkFile(stored.key))
        if stored.foreign:
            self._out.append(Dropped(stored.generation, why))
        del self.names[stored.generation]

    # ------------------------------------------------------------ restore

    def _load(self, stored: StoredObject, offset: int) -> None:
        self.headers.format(offset, stored.size)
        self.headers.create(offset, stored.nbytes, stored.generation, stored.oid,
                            int.from_bytes(stored.owner, "little"))
        stored.offset = offset
        stored.phase = Phase.LOADING
        self.at[offset] = stored
        self.stored_bytes += stored.size
        self.payload_bytes += stored.nbytes
        if stored.secondary:
            self._out.append(Arriving(stored.generation))
        else:
            self._out.append(Load(stored.key, stored.generation, offset + HEADER_BYTES, stored.nbytes))

    def _answer(self, stored: StoredObject) -> None:
        value = self.value_of(stored)
        for client, request in stored.waiters:
            self._send(client, StoreRestored(request, value))
        stored.waiters = []

    def _fail(self, stored: StoredObject, why: str) -> None:
        for client, request in stored.waiters:
            self._send(client, StoreRestored(request, [], why))
        stored.waiters = []

    @staticmethod
    def value_of(stored: StoredObject) -> list:
        return [STORED, stored.offset, stored.nbytes, stored.generation]

    # ------------------------------------------------------------ the rest

    def _send(self, client: bytes, message: Any) -> None:
        self._out.append(SendToClient(client, message))

    def check(self) -> None:
        """Every backed byte has exactly one holder, and every sum is right."""
        self.room.check()
        ranges = self.room.free_ranges()
        ranges += [(grant.offset, grant.size) for grant in self.room.grants.values()]
        ranges += [(stored.offset, stored.size) for stored in self.at.values()]
        ranges += self.lost
        for first, last in self.room.regions():
            end = first
            for start, size in sorted(held for held in ranges if first <= held[0] < max(last, first + 1)):
                assert start == end, f"[{end}, {start}) is held {'twice' if start < end else 'by nobody'}"
                end = start + size
            assert end == last
        assert self.stored_bytes == sum(stored.size for stored in self.at.values())
        assert self.payload_bytes == sum(stored.nbytes for stored in self.at.values())
        assert self.disk_bytes == sum(stored.nbytes for stored in self.names.values() if stored.on_disk)
        for offset, stored in self.at.items():
            assert stored.offset == offset and self.names[stored.generation] is stored
        assert all(stored.phase is Phase.HERE for stored in self.here.values())
        leaving = [s for s in self.names.values() if s.phase in (Phase.WRITING, Phase.LEAVING)]
        assert self.leaving_bytes == sum(stored.size for stored in leaving)
        for stored in self.names.values():
            in_memory = stored.phase in (Phase.HERE, Phase.WRITING, Phase.LEAVING, Phase.LOADING)
            assert (stored.offset >= 0) == in_memory
            assert (self.here.get(stored.offset) is stored) == (stored.phase is Phase.HERE)
            assert (stored.offset in self.evictions) == (stored.phase is Phase.LEAVING)
            if stored.phase is Phase.HERE:
                assert not stored.freed
                assert self.headers.matches(stored.offset, stored.oid, stored.generation) == SEALED
        queued = [request.stored for request in self.room.waiting if request.stored is not None]
        assert all(stored.phase is Phase.QUEUED for stored in queued)
        assert {offset for _, offset in self.due} >= set(self.evictions)
