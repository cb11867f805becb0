"""Room in the node's arena: extents for clients, blocks for objects, and the requests that wait for either.

    request     room is free           granted: StoreGrant to the client, or ``ports.load`` for an object
                none is free           waits; requests are served in order
    waits       Grow succeeds, memory comes back      served; the head's deadline moves
                deadline passes        overflow: room in a file (zray.store.node.overflow)
    overflow    Back succeeds          granted
                no range, Back fails   waits for the disk, while anything is in the file; else refused
    for disk    a Punch, or time       overflow again
                deadline passes        refused: StoreRefused to the client, or ``ports.give_up`` for an object

A request that is larger than the arena goes to the overflow at once.  Where there is none, requests are refused.

When there is no room: grow the arena; then recall extents, and let objects leave (``ports.make_room``).  When the disk
has none: recall extents.

Pure but for the headers: events come in with ``now``, effects go to ``out``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from sortedcontainers import SortedDict

from zray.base.named_tuples import NamedTuple
from zray.store.header import Headers
from zray.store.node.arena import Arena
from zray.store.node.overflow import Overflow
from zray.store.node.records import (
    DISK_FULL_REASON,
    FULL_REASON,
    Client,
    Effect,
    ExtentGrant,
    Grow,
    SendToClient,
    StoredObject,
    Waiting,
)
from zray.wire.messages import StoreCollect, StoreGrant, StorePulling, StoreRecall, StoreRefused, StoreWant

RECALL_RETRY_S = 0.25
IDLE_RECALL_S = 5.0
FULL_RETRY_S = 5.0  # after the disk or /dev/shm was full
FIRST_EXTENT_BYTES = 1024 * 1024
FIRST_GROWTH_BYTES = 8 * 1024 * 1024
COLLECT_ABOVE = 0.7  # of the arena in use: ask the clients to collect garbage, as Ray does
COLLECT_AGAIN_S = 10.0  # a collection stops a process for up to a second
WAIT_FACTOR_MAX = 10  # a request with progress around it is refused after this many times full_wait_s
PAGE = 4096


class RoomPorts(NamedTuple):
    """The store's objects, as the room uses them."""

    load: Callable[[StoredObject, int], None]  # there is a block for the object at this offset
    give_up: Callable[[StoredObject, str], None]  # there was none in time
    make_room: Callable[[int, float], None]  # objects of so many bytes are to leave the memory
    describe: Callable[[], str]  # the holders of memory, for the reason of a refusal
    usage: Callable[[], dict[str, Any]]  # the same in numbers


class Room:
    """See the module's docstring.  ``out`` and ``counts`` are the store table's."""

    def __init__(self, headers: Headers, capacity: int, ports: RoomPorts, out: list[Effect], counts: dict[str, int], *,
                 step_bytes: int, extent_bytes: int, full_wait_s: float, overflow_bytes: int = 0) -> None:
        self.headers = headers
        self.arena = Arena(capacity)
        self.capacity = self.arena.capacity
        self.overflow = Overflow(self.capacity, overflow_bytes, out)
        self.ports = ports
        self.step_bytes = step_bytes
        self.extent_bytes = extent_bytes
        self.full_wait_s = full_wait_s
        self.clients: dict[bytes, Client] = {}
        self.grants: SortedDict = SortedDict()  # offset -> ExtentGrant
        self.granted_bytes = 0
        self.waiting: deque[Waiting] = deque()
        self.for_disk: list[Waiting] = []  # requests that the overflow could not take
        self._disk_again_at = 0.0
        self.growing = False
        self.growth_error = ""
        self._growth_again_at = 0.0
        self._idle_recall_at = 0.0
        self._collect_again_at = 0.0
        self._recall = 0
        self._out = out
        self._counts = counts

    # ------------------------------------------------------------ clients

    def connect(self, client: bytes) -> None:
        self.clients.setdefault(client, Client(min(FIRST_EXTENT_BYTES, self.extent_bytes)))

    def disconnect(self, client: bytes) -> list[ExtentGrant]:
        """The process is gone, with its requests: its extents, which the store must take over."""
        state = self.clients.pop(client)
        self.overflow.cancel(None, client)
        self.waiting = deque(w for w in self.waiting if w.stored is not None or w.client != client)
        self.for_disk = [w for w in self.for_disk if w.stored is not None or w.client != client]
        return [self._taken(self.grants[offset]) for offset in sorted(state.grants)]

    def on_want(self, client: bytes, message: StoreWant, now: float) -> None:
        state = self.clients.get(client)
        if state is None or message.nbytes <= 0:
            self._counts["ignored"] += 1
            return
        size = self._extent_size(state, message.nbytes)
        request = Waiting(client, message.request, size, None, now + self.full_wait_s,
                          now + WAIT_FACTOR_MAX * self.full_wait_s)
        if size > self.capacity:
            self._overflow(request, f"an object of {message.nbytes:,} bytes does not fit into a store of "
                                    f"{self.capacity:,} bytes", now)
            return
        self._wait(request, now)

    def surrendered(self, client: bytes, extents: list[Any]) -> list[ExtentGrant]:
        """Extents that a client gives back, which the store must take over."""
        state = self.clients[client]
        state.recalled_at = -1.0
        found = []
        for pair in extents:
            grant = (self.grants.get(pair[0])
                     if type(pair) is list and [type(field) for field in pair] == [int, int] else None)
            if grant is None or grant.client != client or grant.size != pair[1]:
                self._counts["ignored"] += 1
                continue
            state.grants.discard(grant.offset)
            found.append(self._taken(grant))
            self._counts["surrendered"] += 1
        return found

    def _taken(self, grant: ExtentGrant) -> ExtentGrant:
        del self.grants[grant.offset]
        self.granted_bytes -= grant.size
        return grant

    def recall_all(self, need: int, now: float) -> None:
        """Ask every client for extents of ``need`` bytes; not again while an answer may be in flight."""
        for client, state in self.clients.items():
            if state.grants and (state.recalled_at < 0 or now - state.recalled_at >= RECALL_RETRY_S):
                state.recalled_at = now
                self._recall += 1
                self._send(client, StoreRecall(self._recall, need))

    def grant_of(self, offset: int) -> ExtentGrant | None:
        """The extent of a client that holds ``offset``."""
        at = self.grants.bisect_right(offset) - 1
        if at < 0:
            return None
        grant = self.grants.peekitem(at)[1]
        return grant if offset < grant.offset + grant.size else None

    # ------------------------------------------------------------ objects

    def want_block(self, stored: StoredObject, client: bytes, request: int, now: float) -> None:
        """``ports.load`` follows, or ``ports.give_up``."""
        waiting = Waiting(client, request, stored.size, stored, now + self.full_wait_s,
                          now + WAIT_FACTOR_MAX * self.full_wait_s)
        if stored.size <= self.capacity:
            self._wait(waiting, now)
        else:
            self._overflow(waiting, f"an object of {stored.nbytes:,} bytes does not fit into a store of "
                                    f"{self.capacity:,} bytes", now)

    def cancel(self, stored: StoredObject) -> None:
        """The object needs no block any more."""
        self.overflow.cancel(stored, b"")
        self.waiting = deque(request for request in self.waiting if request.stored is not stored)
        self.for_disk = [request for request in self.for_disk if request.stored is not stored]

    # ------------------------------------------------------------ memory and time

    def grown(self, size: int, error: str, now: float) -> None:
        """The Grow is done; with ``error`` the arena stays as it is, for now."""
        self.growing = False
        self.growth_error = error
        if error:
            self._growth_again_at = now + FULL_RETRY_S
        else:
            self.arena.grow(size)
        self.serve(now)

    def backed(self, start: int, error: str, now: float) -> None:
        """The Back is done: a range of the overflow may be used, or the disk is full."""
        request = self.overflow.backed(start, error)
        if request is None:
            return
        if error:
            reason = f"no room for {request.size:,} bytes: {error}; {self.ports.describe()}"
            self._wait_for_disk(request, reason, now)
        else:
            self._counts["overflowed"] += 1
            self._use(request, start)

    def returned(self, start: int, now: float) -> None:
        """The Punch is done."""
        self.overflow.returned(start)
        for request in self.for_disk:
            request.deadline = now + self.full_wait_s
        self._try_disk()

    def release(self, start: int, size: int) -> None:
        """A range that was granted, or a block, is free."""
        if self.overflow.holds(start):
            self.overflow.release(start, size)
        else:
            self.arena.free(start, size)

    def regions(self) -> list[tuple[int, int]]:
        """``(start, end)`` of each part that has room behind it."""
        return [(0, self.arena.reserved), (self.overflow.start, self.overflow.start + self.overflow.size)]

    def free_ranges(self) -> list[tuple[int, int]]:
        """Ranges that are no extent and no block."""
        return self.arena.ranges() + self.overflow.held()

    def progress(self, now: float) -> None:
        """Memory became free: the head of the queue may wait on."""
        if self.waiting:
            self.waiting[0].deadline = now + self.full_wait_s
            self.serve(now)

    def tick(self, now: float) -> None:
        """Everything that is due."""
        while self.waiting and self._expired(self.waiting[0], now):
            self._give_up(self.waiting.popleft(), now)
        if self.waiting:
            self.serve(now)
        if self.for_disk:
            self._serve_disk(now)
        # Growing was tried; requests that still wait try again after another while, not at once.
        if now >= self._growth_again_at:
            self._growth_again_at = now + FULL_RETRY_S
        if self._may_hold_idle and now >= self._idle_recall_at:
            self._idle_recall_at = now + IDLE_RECALL_S
            for client, state in self.clients.items():
                if state.grants and state.recalled_at < 0:
                    self._send(client, StoreRecall(0, 0))

    def next_deadline(self) -> float | None:
        times = []
        if self.waiting:
            head = self.waiting[0]
            times.append(min(head.deadline, head.last))
            recalled = [state.recalled_at for state in self.clients.values() if state.recalled_at >= 0]
            if recalled:
                times.append(min(recalled) + RECALL_RETRY_S)
            if self.growth_error:
                times.append(self._growth_again_at)
        if self.for_disk:
            times.append(self._disk_again_at)
            times += [min(request.deadline, request.last) for request in self.for_disk]
        if self._may_hold_idle:
            times.append(self._idle_recall_at)
        return min(times) if times else None

    @property
    def _may_hold_idle(self) -> bool:
        """Whether it is worth asking the clients for extents that they do not use."""
        return self.granted_bytes * 2 > self.capacity or self.overflow.used_bytes > 0

    # ------------------------------------------------------------ the queue

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
            self.serve(now)
        elif self.waiting[0].is_reported:
            self._report_full()

    def serve(self, now: float) -> None:
        """Give room to the requests at the head of the queue, or make room."""
        while self.waiting:
            head = self.waiting[0]
            offset = self.arena.allocate(head.size)
            if offset is None:
                if not self._grow(head.size, now):
                    self._report_full()
                    self._collect(now)
                    self.recall_all(head.size, now)
                    self.ports.make_room(head.size, now)
                return
            self._use(self.waiting.popleft(), offset)
            self._collect(now)

    def _collect(self, now: float, *, disk_full: bool = False) -> None:
        """When the arena or the disk runs full: garbage of the clients may hold references to what is in it."""
        used = self.arena.reserved - self.arena.free_bytes
        if (disk_full or used > COLLECT_ABOVE * self.capacity) and now >= self._collect_again_at:
            self._collect_again_at = now + COLLECT_AGAIN_S
            for client in self.clients:
                self._send(client, StoreCollect())

    def _use(self, request: Waiting, offset: int) -> None:
        if request.stored is None:
            self._grant(request, offset)
        else:
            self.ports.load(request.stored, offset)

    def _grant(self, request: Waiting, offset: int) -> None:
        self.headers.format(offset, request.size)
        self.grants[offset] = ExtentGrant(request.client, offset, request.size)
        self.clients[request.client].grants.add(offset)
        self.granted_bytes += request.size
        self._counts["granted"] += 1
        self._send(request.client, StoreGrant(request.request, offset, request.size))

    def _grow(self, need: int, now: float) -> bool:
        """Whether the arena is growing (now)."""
        if self.growing:
            return True
        left = self.capacity - self.arena.reserved
        if left <= 0 or (self.growth_error and now < self._growth_again_at):
            return False
        step = min(self.step_bytes, max(FIRST_GROWTH_BYTES, self.arena.reserved))
        size = min(left, max(step, -(-need // PAGE) * PAGE))
        self.growing = True
        self._out.append(Grow(self.arena.reserved, size))
        return True

    def _report_full(self) -> None:
        """Report to requests for an extent that they wait for room, and not for an answer."""
        for request in self.waiting:
            if not request.is_reported:
                request.is_reported = True
                if request.stored is None:
                    used = self.arena.reserved - self.arena.free_bytes
                    fullness = f"{used:,} of {self.capacity:,} bytes are in use"
                    self._send(request.client, StorePulling(request.request, fullness))

    def _expired(self, request: Waiting, now: float) -> bool:
        return now >= request.deadline or now >= request.last

    def _give_up(self, request: Waiting, now: float) -> None:
        reason = f"no room for {request.size:,} bytes within {self.full_wait_s:g} s; {self.ports.describe()}"
        self._overflow(request, reason, now)

    # ------------------------------------------------------------ what memory cannot take

    def _overflow(self, request: Waiting, reason: str, now: float) -> None:
        """Memory cannot take the request, for this reason: give it room in the file, or refuse it."""
        if self.overflow.take(request):
            return
        if self.overflow.size:
            self._wait_for_disk(request, f"{reason}; {self._file_usage()}", now)
        else:
            self._refuse(request, reason)

    def _file_usage(self) -> str:
        return f"the overflow file has {self.overflow.used_bytes:,} of {self.overflow.size:,} bytes in use"

    def _wait_for_disk(self, request: Waiting, reason: str, now: float) -> None:
        """Wait for disk that the clients give back; refuse the request, for this reason, if there is none to come."""
        if not self.overflow.used_bytes or request.size > self.overflow.size:
            self._refuse(request, reason, disk_full=True)
            return
        if not request.refusal:
            request.deadline = now + self.full_wait_s
            if request.stored is None:
                self._send(request.client, StorePulling(request.request, self._file_usage()))
        request.refusal = reason
        self.for_disk.append(request)
        self._recall_disk(now)

    def _recall_disk(self, now: float) -> None:
        """Ask for extents in the file too: clients give those only for a request that memory could not take."""
        self._disk_again_at = now + RECALL_RETRY_S
        self._collect(now, disk_full=True)
        self.recall_all(max(self.capacity, *(request.size for request in self.for_disk)), now)

    def _serve_disk(self, now: float) -> None:
        """Refuse the requests for which it is too late; now and then, try again for the others."""
        for request in [request for request in self.for_disk if self._expired(request, now)]:
            self.for_disk.remove(request)
            self._refuse(request, request.refusal, disk_full=True)
        if self.for_disk and now >= self._disk_again_at:
            self._recall_disk(now)
            self._try_disk()

    def _try_disk(self) -> None:
        self.for_disk = [request for request in self.for_disk if not self.overflow.take(request)]

    def _refuse(self, request: Waiting, reason: str, *, disk_full: bool = False) -> None:
        if request.stored is not None:
            self.ports.give_up(request.stored, (DISK_FULL_REASON if disk_full else FULL_REASON) + reason)
            return
        self._counts["refused"] += 1
        self._send(request.client, StoreRefused(request.request, {"reason": reason, "disk_full": disk_full,
                                                                  **self.ports.usage()}))

    def _send(self, client: bytes, message: Any) -> None:
        self._out.append(SendToClient(client, message))

    def check(self) -> None:
        self.arena.check()
        self.overflow.check()
        assert self.granted_bytes == sum(grant.size for grant in self.grants.values())
        held = {offset for state in self.clients.values() for offset in state.grants}
        assert held == set(self.grants)
