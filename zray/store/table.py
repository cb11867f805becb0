"""The node's store machine: who holds which part of the arena, and how memory comes back.

Every byte of the arena that is backed is exactly one of

    free       in the arena's ranges
    granted    in an extent of a client, which alone allocates there
    stored     the block of one object that the store owns (zray.store.records.Phase)
    lost       behind a header that no writer of ours left: never used again, reported

Extents change hands by messages only: StoreGrant to the client, StoreSurrender back (asked by StoreRecall), or the
client's death.  The store then walks the headers: sealed objects become ``stored``, all else becomes free.  So the
store spills and evicts only what no client can be writing to.

Freeing an object, wherever it is: mark, wait the grace, read the pin tables (zray.store.pins), then the block goes
back, to the arena or to the client that holds the extent (StoreReclaimed).

Requests for room are served in order.  When there is none: grow; then recall extents and spill the objects stored
longest, secondary copies before all others and without a file; a request that sees no progress for ``full_wait_s`` is
refused with a report of who holds what.

Pure but for the headers, which it reads and writes through ``Headers``: events come in with ``now``, effects go out
through ``take``.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from sortedcontainers import SortedDict

from zray.messages import (
    STORED, StoreFree, StoreGrant, StorePulling, StoreRecall, StoreReclaimed, StoreRefused, StoreRestore, StoreRestored,
    StoreSurrender, StoreWant,
)
from zray.store import views
from zray.store.arena import Arena
from zray.store.header import (
    CREATED, EVICTING, FREE, HEADER_BYTES, SEALED, OWNER_UNKNOWN, BrokenChain, Headers, block_bytes,
)
from zray.store.records import (
    FULL_REASON, Arriving, Client, Dropped, Effect, Eviction, Freed, Grant, Grow, Load, Phase, Send, Spill, Stored,
    Unlink, Waiting,
)

# A store leaves a CPU's store buffer in well under a microsecond; this also lets evictions gather.
EVICTION_GRACE_S = 0.002
PIN_RETRY_S_MAX = 0.25
RECALL_RETRY_S = 0.25
IDLE_RECALL_S = 5.0
FULL_RETRY_S = 5.0  # after the disk or /dev/shm was full
FIRST_EXTENT_BYTES = 1024 * 1024
FIRST_GROWTH_BYTES = 8 * 1024 * 1024
WAIT_FACTOR_MAX = 10  # a request with progress around it is refused after this many times full_wait_s
PAGE = 4096


class StoreTable:
    """See the module's docstring."""

    def __init__(self, headers: Headers, capacity: int, pinned: Callable[[], set[int]], *, step_bytes: int,
                 extent_bytes: int, full_wait_s: float):
        self.headers = headers
        self.arena = Arena(capacity)
        self.capacity = self.arena.capacity
        self.pinned = pinned
        self.readers: Callable[[], dict[int, list[bytes]]] = dict  # as pinned, with the readers; for people, as is ...
        self.name_of: Callable[[bytes], str] = bytes.hex  # ... the name of a process
        self.step_bytes = step_bytes
        self.extent_bytes = extent_bytes
        self.full_wait_s = full_wait_s
        self.clients: dict[bytes, Client] = {}
        self.grants: SortedDict = SortedDict()  # offset -> Grant
        self.granted_bytes = 0
        self.names: dict[int, Stored] = {}  # generation -> object; one ObjectId may have two, after a re-execution
        self.at: dict[int, Stored] = {}  # block offset -> object
        self.stored_bytes = 0
        self.here: OrderedDict[int, Stored] = OrderedDict()  # offset -> object in phase HERE, longest first
        self.exported: set[int] = set()  # generations that other nodes know of: their owners' frees are reported
        self.leaving_bytes = 0  # in blocks that are on their way to be free
        self.disk_bytes = 0
        self.lost: list[tuple[int, int]] = []
        self.evictions: dict[int, Eviction] = {}
        self.due: list[tuple[float, int]] = []  # heap of (when, offset of an eviction)
        self.waiting: deque[Waiting] = deque()
        self.growing = False
        self.growth_error = ""
        self.growth_again_at = 0.0
        self.spill_error = ""
        self.spill_again_at = 0.0
        self.idle_recall_at = 0.0
        self.counts = dict.fromkeys(("granted", "surrendered", "freed", "spilled", "restored", "received", "refused",
                                     "ignored"), 0)
        self._key = 0
        self._recall = 0
        self._out: list[Effect] = []
        self._reclaimed: dict[bytes, list[int]] = {}

    # ------------------------------------------------------------ clients

    def connect(self, client: bytes) -> None:
        self.clients.setdefault(client, Client(min(FIRST_EXTENT_BYTES, self.extent_bytes)))

    def disconnect(self, client: bytes, now: float) -> None:
        """The process is gone (and its pin table void): what it sealed stays, the rest of its extents is free."""
        state = self.clients.pop(client, None)
        if state is None:
            return
        self._reclaimed.pop(client, None)
        for offset in sorted(state.grants):
            self._absorb(self.grants[offset])
        self.waiting = deque(w for w in self.waiting if w.stored is not None or w.client != client)
        for stored in self.names.values():
            if stored.waiters:
                stored.waiters = [waiter for waiter in stored.waiters if waiter[0] != client]
        self._progress(now)

    def on_want(self, client: bytes, message: StoreWant, now: float) -> None:
        state = self.clients.get(client)
        if state is None or message.nbytes <= 0:
            self.counts["ignored"] += 1
            return
        size = self._extent_size(state, message.nbytes)
        if size > self.capacity:
            reason = f"an object of {message.nbytes:,} bytes does not fit into a store of {self.capacity:,} bytes"
            self._refuse(client, message.request, reason)
            return
        self._wait(Waiting(client, message.request, size, None, now + self.full_wait_s,
                           now + WAIT_FACTOR_MAX * self.full_wait_s), now)

    def on_surrender(self, client: bytes, message: StoreSurrender, now: float) -> None:
        state = self.clients.get(client)
        if state is None:
            return
        state.recalled_at = -1.0
        for pair in message.extents:
            grant = (self.grants.get(pair[0])
                     if type(pair) is list and [type(field) for field in pair] == [int, int] else None)
            if grant is None or grant.client != client or grant.size != pair[1]:
                self.counts["ignored"] += 1
                continue
            state.grants.discard(grant.offset)
            self._absorb(grant)
            self.counts["surrendered"] += 1
        self._progress(now)

    def on_free(self, client: bytes, message: StoreFree, now: float) -> None:
        for triple in message.objects:
            if type(triple) is list and [type(field) for field in triple] == [bytes, int, int]:
                self._free(triple[0], triple[1], triple[2], now)
            else:
                self.counts["ignored"] += 1
        self._serve(now)

    def on_restore(self, client: bytes, message: StoreRestore, now: float) -> None:
        stored = self.names.get(message.generation)
        if stored is None:
            state = self.headers.matches(message.offset, message.oid, message.generation)
            if state == SEALED and self.grant_of(message.offset) is not None:  # the reader lost a race it then won
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
            self._wait(Waiting(client, message.request, stored.size, stored, now + self.full_wait_s,
                               now + WAIT_FACTOR_MAX * self.full_wait_s), now)

    def receive(self, oid: bytes, generation: int, nbytes: int, now: float) -> str:
        """Ask for room for a copy of another node's object: Arriving follows, or Dropped.  Why it cannot be, or ''."""
        size = block_bytes(nbytes)
        if size > self.capacity:
            return f"{FULL_REASON}an object of {nbytes:,} bytes does not fit into a store of {self.capacity:,} bytes"
        self._key += 1
        stored = self.names[generation] = Stored(self._key, oid, generation, -1, size, nbytes, OWNER_UNKNOWN)
        stored.foreign = stored.secondary = True
        stored.phase = Phase.QUEUED
        self._wait(Waiting(b"", 0, size, stored, now + self.full_wait_s, now + WAIT_FACTOR_MAX * self.full_wait_s), now)
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
        """The job is over: nobody is left who would free its objects."""
        for stored in [stored for stored in self.names.values() if stored.oid.startswith(job)]:
            self._free(stored.oid, stored.offset, stored.generation, now)
        self._serve(now)

    @property
    def named(self) -> int:
        """Objects that the store has come to own, ever."""
        return self._key

    def recall_all(self, now: float) -> None:
        """The node leaves: what is in extents of clients becomes the store's."""
        for client, state in self.clients.items():
            if state.grants and (state.recalled_at < 0 or now - state.recalled_at >= RECALL_RETRY_S):
                state.recalled_at = now
                self._recall += 1
                self._send(client, StoreRecall(self._recall, self.capacity))

    # ------------------------------------------------------------ answers of the shell

    def grown(self, size: int, error: str, now: float) -> None:
        """The Grow is done; with ``error`` the arena stays as it is, for now."""
        self.growing = False
        self.growth_error = error
        if error:
            self.growth_again_at = now + FULL_RETRY_S
        else:
            self.arena.grow(size)
        self._serve(now)

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
        self._progress(now)

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
        self._progress(now)

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Everything that is due."""
        if self.due and self.due[0][0] <= now:
            self._evict_due(now)
        while self.waiting and self._expired(self.waiting[0], now):
            self._give_up(self.waiting.popleft())
        if self.waiting:
            self._serve(now)
        # What was due has been tried; whoever still waits looks again after another while, not at once.
        if now >= self.spill_again_at:
            self.spill_again_at = now + FULL_RETRY_S
        if now >= self.growth_again_at:
            self.growth_again_at = now + FULL_RETRY_S
        if self.granted_bytes * 2 > self.capacity and now >= self.idle_recall_at:
            self.idle_recall_at = now + IDLE_RECALL_S
            for client, state in self.clients.items():
                if state.grants and state.recalled_at < 0:
                    self._send(client, StoreRecall(0, 0))

    def next_deadline(self) -> float | None:
        times = []
        if self.due:
            times.append(self.due[0][0])
        if self.waiting:
            head = self.waiting[0]
            times.append(min(head.deadline, head.last))
            recalled = [state.recalled_at for state in self.clients.values() if state.recalled_at >= 0]
            if recalled:
                times.append(min(recalled) + RECALL_RETRY_S)
            if self.spill_error:
                times.append(self.spill_again_at)
            if self.growth_error:
                times.append(self.growth_again_at)
        if self.granted_bytes * 2 > self.capacity:
            times.append(self.idle_recall_at)
        return min(times) if times else None

    def take(self) -> list[Effect]:
        """What is to be sent and done since the last call."""
        if self._reclaimed:
            for client, offsets in self._reclaimed.items():
                self._out.append(Send(client, StoreReclaimed(offsets)))
            self._reclaimed = {}
        out, self._out = self._out, []
        return out

    # ------------------------------------------------------------ room

    def _extent_size(self, state: Client, nbytes: int) -> int:
        """Small requests get an extent to share, each one of a client larger than its last; a large one its own."""
        size = -(-nbytes // PAGE) * PAGE
        if size * 4 > self.extent_bytes:
            return size if size <= self.capacity else -(-nbytes // 64) * 64
        wish = max(state.next_bytes, -(-size * 4 // PAGE) * PAGE)
        state.next_bytes = min(state.next_bytes * 2, self.extent_bytes)
        return max(size, min(wish, self.extent_bytes, self.capacity // 16 // PAGE * PAGE))

    def _wait(self, request: Waiting, now: float) -> None:
        self.waiting.append(request)
        if len(self.waiting) == 1:
            self._serve(now)
        elif self.waiting[0].told:
            self._tell_full()

    def _serve(self, now: float) -> None:
        """Give room to the requests at the head of the queue, or see to it that room comes."""
        while self.waiting:
            head = self.waiting[0]
            offset = self.arena.allocate(head.size)
            if offset is None:
                if not self._grow(head.size, now):
                    self._pressure(head.size, now)
                return
            self.waiting.popleft()
            if head.stored is None:
                self._grant(head, offset)
            else:
                self._load(head.stored, offset)

    def _grant(self, request: Waiting, offset: int) -> None:
        self.headers.format(offset, request.size)
        self.grants[offset] = Grant(request.client, offset, request.size)
        self.clients[request.client].grants.add(offset)
        self.granted_bytes += request.size
        self.counts["granted"] += 1
        self._send(request.client, StoreGrant(request.request, offset, request.size))

    def _grow(self, need: int, now: float) -> bool:
        """Whether the arena is growing (now)."""
        if self.growing:
            return True
        left = self.capacity - self.arena.reserved
        if left <= 0 or (self.growth_error and now < self.growth_again_at):
            return False
        step = min(self.step_bytes, max(FIRST_GROWTH_BYTES, self.arena.reserved))
        size = min(left, max(step, -(-need // PAGE) * PAGE))
        self.growing = True
        self._out.append(Grow(self.arena.reserved, size))
        return True

    def _tell_full(self) -> None:
        """Who waits for an extent may know that it is for want of room, and not of an answer."""
        for request in self.waiting:
            if not request.told:
                request.told = True
                if request.stored is None:
                    self._send(request.client, StorePulling(request.request, views.fullness(self)))

    def _pressure(self, need: int, now: float) -> None:
        self._tell_full()
        for client, state in self.clients.items():
            if state.grants and (state.recalled_at < 0 or now - state.recalled_at >= RECALL_RETRY_S):
                state.recalled_at = now
                self._recall += 1
                self._send(client, StoreRecall(self._recall, need))
        if self.leaving_bytes >= need or (self.spill_error and now < self.spill_again_at):
            return
        pinned = self.pinned()
        for stored in sorted(self.here.values(), key=lambda stored: not stored.secondary):
            if stored.offset | 1 in pinned:
                continue
            self._start_spill(stored, now)
            if self.leaving_bytes >= need:
                break

    def _expired(self, request: Waiting, now: float) -> bool:
        return now >= request.deadline or now >= request.last

    def _progress(self, now: float) -> None:
        """Memory moved: the head of the queue may wait on."""
        if self.waiting:
            self.waiting[0].deadline = now + self.full_wait_s
            self._serve(now)

    def _give_up(self, request: Waiting) -> None:
        reason = f"no room for {request.size:,} bytes within {self.full_wait_s:g} s; {views.describe(self)}"
        if request.stored is None:
            self._refuse(request.client, request.request, reason)
            return
        stored = request.stored
        if stored.secondary:
            self._forget(stored, FULL_REASON + reason)
            return
        stored.phase = Phase.DISK
        self._fail(stored, FULL_REASON + reason)

    def _refuse(self, client: bytes, request: int, reason: str) -> None:
        self.counts["refused"] += 1
        self._send(client, StoreRefused(request, {"reason": reason, **views.usage(self)}))

    # ------------------------------------------------------------ extents that come back

    def _absorb(self, grant: Grant) -> None:
        """An extent is the store's again: its sealed objects are ``stored`` now, the rest is free."""
        del self.grants[grant.offset]
        self.granted_bytes -= grant.size
        gap = at = grant.offset
        try:
            for block in self.headers.walk(grant.offset, grant.size):
                at = block.offset + block.size
                if block.state in (FREE, CREATED):
                    continue
                if block.offset > gap:
                    self.arena.free(gap, block.offset - gap)
                gap = at
                if block.generation in self.names:  # no writer of ours: the two could not be told apart
                    self.lost.append((block.offset, block.size))
                else:
                    self._adopt(block)
        except BrokenChain:
            end = grant.offset + grant.size
            self.lost.append((at, end - at))
        if at > gap:
            self.arena.free(gap, at - gap)

    def _adopt(self, block: Any) -> None:
        self._key += 1
        stored = Stored(self._key, block.oid, block.generation, block.offset, block.size, block.nbytes, block.owner)
        self.names[block.generation] = stored
        self.at[block.offset] = stored
        self.stored_bytes += block.size
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
        grant = self.grant_of(offset)
        if grant is None or self.headers.matches(offset, oid, generation) != SEALED:
            self.counts["ignored"] += 1
            return
        self.counts["freed"] += 1
        if generation in self.exported:
            self._out.append(Freed(self.headers.read(offset).oid, generation))
        self._evict(offset, oid, generation, now)

    def _start_free(self, stored: Stored, now: float) -> None:
        stored.freed = True
        if stored.phase is Phase.HERE:
            self._leave(stored, now)
        elif stored.phase is Phase.QUEUED:
            self.waiting = deque(request for request in self.waiting if request.stored is not stored)
            self._forget(stored, "the object was freed")
        elif stored.phase is Phase.DISK:
            self._forget(stored, "")

    def _start_spill(self, stored: Stored, now: float) -> None:
        if stored.on_disk or stored.secondary:
            self._leave(stored, now)
            return
        stored.phase = Phase.WRITING
        del self.here[stored.offset]
        self.leaving_bytes += stored.size
        self._out.append(Spill(stored.key, stored.generation, stored.offset + HEADER_BYTES, stored.nbytes))

    def _leave(self, stored: Stored, now: float) -> None:
        if self.here.pop(stored.offset, None) is not None:
            self.leaving_bytes += stored.size
        stored.phase = Phase.LEAVING
        self._evict(stored.offset, stored.oid, stored.generation, now)

    def _stay(self, stored: Stored) -> None:
        """Somebody reads it: not this one."""
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
            self._progress(now)

    def _evicted(self, eviction: Eviction) -> None:
        """Nobody reads the block any more."""
        stored = self.at.get(eviction.offset)
        if stored is None:
            grant = self.grant_of(eviction.offset)
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

    def _release_block(self, stored: Stored) -> None:
        self.headers.free(stored.offset)
        del self.at[stored.offset]
        self.stored_bytes -= stored.size
        self.arena.free(stored.offset, stored.size)
        stored.offset = -1

    def _forget(self, stored: Stored, why: str) -> None:
        self._fail(stored, why)
        if stored.on_disk:
            self.disk_bytes -= stored.nbytes
            self._out.append(Unlink(stored.key))
        if stored.foreign:
            self._out.append(Dropped(stored.generation, why))
        del self.names[stored.generation]

    # ------------------------------------------------------------ restore

    def _load(self, stored: Stored, offset: int) -> None:
        self.headers.format(offset, stored.size)
        self.headers.create(offset, stored.nbytes, stored.generation, stored.oid,
                            int.from_bytes(stored.owner, "little"))
        stored.offset = offset
        stored.phase = Phase.LOADING
        self.at[offset] = stored
        self.stored_bytes += stored.size
        if stored.secondary:
            self._out.append(Arriving(stored.generation))
        else:
            self._out.append(Load(stored.key, stored.generation, offset + HEADER_BYTES, stored.nbytes))

    def _answer(self, stored: Stored) -> None:
        value = self.value_of(stored)
        for client, request in stored.waiters:
            self._send(client, StoreRestored(request, value))
        stored.waiters = []

    def _fail(self, stored: Stored, why: str) -> None:
        for client, request in stored.waiters:
            self._send(client, StoreRestored(request, [], why))
        stored.waiters = []

    @staticmethod
    def value_of(stored: Stored) -> list:
        return [STORED, stored.offset, stored.nbytes, stored.generation]

    # ------------------------------------------------------------ the rest

    def grant_of(self, offset: int) -> Grant | None:
        at = self.grants.bisect_right(offset) - 1
        if at < 0:
            return None
        grant = self.grants.peekitem(at)[1]
        return grant if offset < grant.offset + grant.size else None

    def _send(self, client: bytes, message: Any) -> None:
        self._out.append(Send(client, message))

    def check(self) -> None:
        """Every backed byte has exactly one holder, and every sum is right."""
        self.arena.check()
        ranges = [(start, size) for start, size in self.arena.ranges()]
        ranges += [(grant.offset, grant.size) for grant in self.grants.values()]
        ranges += [(stored.offset, stored.size) for stored in self.at.values()]
        ranges += self.lost
        end = 0
        for start, size in sorted(ranges):
            assert start == end, f"[{end}, {start}) is held {'twice' if start < end else 'by nobody'}"
            end = start + size
        assert end == self.arena.reserved
        assert self.granted_bytes == sum(grant.size for grant in self.grants.values())
        assert self.stored_bytes == sum(stored.size for stored in self.at.values())
        assert self.disk_bytes == sum(stored.nbytes for stored in self.names.values() if stored.on_disk)
        held = {offset for state in self.clients.values() for offset in state.grants}
        assert held == set(self.grants)
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
        queued = [request.stored for request in self.waiting if request.stored is not None]
        assert all(stored.phase is Phase.QUEUED for stored in queued)
        assert {offset for _, offset in self.due} >= set(self.evictions)
