"""The store as a core process uses it.  All methods run under the process's loop lock; copies and finalisers do not.

    attach   the node's answer: {"control": segment, "arena": segment}
    send     send(message), to the node
    make_waiter, notify   the runtime's waiters: ``notify(waiter)`` after ``waiter.done`` was set, under the loop lock

``allocate``, ``restore`` and ``pull`` return a :class:`Pending` when they need the node: wait for ``pending.waiter``
without the lock, then call ``allocate`` again, or read ``pending.value``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from zray.base.os_linux import populate_write
from zray.store import StoreFull
from zray.store.header import CREATED, EVICTING, FREE, HEADER_BYTES, SEALED, Headers, block_bytes
from zray.store.heap import Extent, Heap
from zray.store.node.records import DISK_FULL_REASON, FULL_REASON
from zray.store.pins import PinTable, view_type
from zray.store.segment import PAYLOAD_MARK, ControlSegment, Segment
from zray.wire.messages import (
    FAILED,
    STORED,
    StoreCollect,
    StoreFree,
    StoreGrant,
    StorePull,
    StorePulling,
    StoreRecall,
    StoreReclaimed,
    StoreRefused,
    StoreRestore,
    StoreRestored,
    StoreSurrender,
    StoreWant,
)

# A generation: the epoch of the process (24 bits), then its count of allocations.
_EPOCH_BITS = 24
_COUNTER_BITS = 32
# Below this a page fault a page is as quick as the call that maps them all.
POPULATE_BYTES_MIN = 64 * 1024
# From this size on, cold memory is written through the file: the kernel then copies, where a mapping makes it fill
# 25,600 pages with zeros first and map them.  100 MB take 23 ms of processor time instead of 41.  The next use of the
# block maps its pages (19 ms), and so does this process if it reads the object; most are read by others.
WRITE_BYTES_MIN = 1024 * 1024
FREES_MAX = 1024  # gathered for one message


class FlagWaiter:
    """The default waiter: only a flag."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False


class Pending:
    """The node has been asked.  After ``waiter.done``: ``value`` is ``[STORED, ...]`` or ``[FAILED, ...]``.

    For an allocation it stays None, unless the node ended.
    """

    __slots__ = ("awaited", "error", "joined", "key", "nbytes", "progress", "report", "then", "value", "waiter")
    ready = False

    def __init__(self, waiter: Any, nbytes: int, key: Any):
        self.waiter = waiter
        self.nbytes = nbytes
        self.key = key
        self.value: list | None = None
        self.awaited = False  # a thread waits for room, and will allocate
        self.error = ""
        self.progress = ""  # how far a pull is, in words; of an allocation: how full the store is
        self.report: dict[str, Any] | None = None
        self.then: Callable[[Pending], None] | None = None  # called with the answer, for callers that cannot wait
        self.joined: list[Pending] = []  # of other threads that want the same: a waiter belongs to one thread


class Allocation:
    """Memory for one object: write ``view`` (without the lock), then ``seal`` or ``abandon`` (with it)."""

    __slots__ = ("_client", "_cold", "_view", "generation", "nbytes", "offset")
    ready = True

    def __init__(self, client: StoreClient, offset: int, nbytes: int, generation: int, cold: tuple[int, int]):
        self._client = client
        self._cold = cold
        self._view: memoryview | None = None
        self.offset = offset
        self.nbytes = nbytes
        self.generation = generation

    @property
    def view(self) -> memoryview:
        """The payload's memory, writable."""
        view = self._view
        if view is None:
            start, length = self._cold
            if length >= POPULATE_BYTES_MIN:
                populate_write(self._client.arena.map, start, length)
            start = self.offset + HEADER_BYTES
            view = self._view = self._client.raw[start : start + self.nbytes]
        return view

    def write(self, pieces: list[tuple[int, bytes | memoryview]]) -> None:
        """Write ``pieces`` at their places in the payload.  Behind the capacity another file is mapped."""
        client = self._client
        start, length = self._cold
        is_large = min(length, self.nbytes) >= WRITE_BYTES_MIN and start + length <= client.capacity
        if not is_large or not client.heap.writes(self.offset, start, length):
            view = self.view
            for at, piece in pieces:
                view[at : at + len(piece)] = piece
            return
        payload = self.offset + HEADER_BYTES
        for at, piece in pieces:
            if len(piece) >= WRITE_BYTES_MIN:
                client.arena.write(payload + at, piece)
            else:
                client.raw[payload + at : payload + at + len(piece)] = piece

    def seal(self) -> list[Any]:
        """The object is complete: its wire value.  The view cannot be written through any more."""
        self._release()
        client = self._client
        client.words[(self.offset >> 3) + 1] = self.generation << 8 | SEALED
        client.heap.sealed(self.offset)
        client.slot.marks[PAYLOAD_MARK] += self.nbytes
        return [STORED, self.offset, self.nbytes, self.generation]

    def abandon(self) -> None:
        """The object will not be written: take the memory back."""
        self._release()
        self._client.made.pop(self.offset, None)
        self._client.heap.free(self.offset, sealed=False)

    def _release(self) -> None:
        if self._view is not None:
            try:
                self._view.release()
            except BufferError:
                pass  # the writer kept a view of the view
            self._view = None


def _failure(oid: bytes, why: str) -> list[Any]:
    """The wire value of an object that cannot be read."""
    if why.startswith(FULL_REASON):
        return [FAILED, "store_full", {"reason": why[len(FULL_REASON) :]}]
    if why.startswith(DISK_FULL_REASON):
        return [FAILED, "disk_full", {"reason": why[len(DISK_FULL_REASON) :]}]
    return [FAILED, "object_lost", {"oid": oid.hex(), "reason": why}]


class StoreClient:
    """See the module's docstring.  ``handlers`` goes into the runtime's."""

    def __init__(self, attach: dict[str, Any], slot: int, incarnation: bytes, send: Callable[[Any], None],
                 config: Any = None, make_waiter: Callable[[], Any] = FlagWaiter,
                 notify: Callable[[Any], None] = lambda waiter: None):
        self.closed = False
        self.send = send
        self.make_waiter = make_waiter
        self.notify = notify
        self.control = ControlSegment.attach(attach["control"])
        self.arena = Segment(attach["arena"])
        self.capacity = attach.get("capacity", self.arena.size)  # of memory; a file is mapped behind it
        if self.arena.size > self.capacity:
            self.arena.map_overflow_of(self.capacity, attach["overflow"])
        self.slot = self.control.slot(slot)
        if self.slot.incarnation != incarnation:
            found = self.slot.incarnation.hex()
            self.close()
            raise ValueError(f"slot {slot} of the store belongs to {found}, not to {incarnation.hex()}")
        self.headers = Headers(memoryview(self.arena.map))
        self.raw = self.headers.raw
        self.words = self.headers.words
        self.size = self.arena.size
        self.heap = Heap(self.headers)
        self.pin_table = PinTable(self.slot)
        self._view = view_type(self.size)
        self._me = int.from_bytes(incarnation, "little")
        self._generation = (self.slot.epoch & (1 << _EPOCH_BITS) - 1) << _COUNTER_BITS
        self.collect: Callable[[], None] = lambda: None  # collect garbage, soon: called under the lock
        self.made: dict[int, set[int]] = {}  # block offset of each of our objects -> pin indices of our views of it
        self._emptied: deque[int] = deque()  # blocks whose last view went away: appended by finalisers
        self._frees: list[list[Any]] = []
        self._frees_elsewhere: dict[bytes, list[list[Any]]] = {}  # by node
        self._zombies: set[int] = set()  # freed by their owner, but viewed here
        self._pending: dict[Any, Pending] = {}  # by request number, and by the requested object
        self._refused: dict[int, dict[str, Any]] = {}
        self._request = 0
        self._lost: list[Any] | None = None  # the node ended: the answer to every request
        self._idle_mark = 0
        self._recalled: tuple[int, int] | None = None  # (recall, bytes) for which there was nothing to give back
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            StoreGrant.CODE: self._on_grant,  # type: ignore[attr-defined]
            StoreRefused.CODE: self._on_refused,  # type: ignore[attr-defined]
            StoreRecall.CODE: self._on_recall,  # type: ignore[attr-defined]
            StoreReclaimed.CODE: self._on_reclaimed,  # type: ignore[attr-defined]
            StoreRestored.CODE: self._on_restored,  # type: ignore[attr-defined]
            StorePulling.CODE: self._on_pulling,  # type: ignore[attr-defined]
            StoreCollect.CODE: lambda peer, message: self.collect(),  # type: ignore[attr-defined]
        }

    # ------------------------------------------------------------ writing

    def allocate(self, nbytes: int, oid: bytes, owner: bytes = b"") -> Allocation | Pending:
        """Memory for an object, or a Pending: wait and call again.  StoreFull when the node has refused.

        ``owner``: the process that will own the object; this one if it is not named.
        """
        if self._emptied:
            self._bury()
        heap = self.heap
        found = heap.allocate(nbytes)
        if found is None:
            size = block_bytes(nbytes)
            report = self._refused.pop(size, None) if self._refused else None
            if report is not None:
                found = heap.allocate(nbytes, whole=False)
                if found is None:
                    raise StoreFull(report)
            else:
                if size > self.capacity:  # disk that holds nothing is not to add up
                    self._give_back(0, heap.surrender_empty(self.capacity))
                return self._ask(("want", size), nbytes, lambda number: StoreWant(number, size))
        offset, extent = found
        self._generation += 1
        generation = self._generation
        self.headers.create(offset, nbytes, generation, oid,
                            int.from_bytes(owner, "little") if owner else self._me)
        self.made[offset] = set()
        cold = heap.cold(offset, extent) if extent.touched < extent.offset + extent.size else (0, 0)
        return Allocation(self, offset, nbytes, generation, cold)

    def forsake(self, pending: Pending) -> None:
        """The thread that waited for room will not allocate: the extent granted for it may be recalled."""
        pending.awaited = False
        if not self.closed:
            self.heap.break_promises()

    def free(self, oid: bytes, value: list[Any], escaped: bool) -> None:
        """The owner has no reference left.  A block that never left this process is reused at once, unannounced."""
        if self.closed:
            return
        _, offset, _, generation = value
        if not escaped:
            views = self.made.get(offset)
            if views is not None and self.words[(offset >> 3) + 1] == generation << 8 | SEALED:
                if views:
                    self._zombies.add(offset)
                else:
                    self._let_go(offset)
                    self.heap.free(offset)
                return
        self._frees.append([oid, offset, generation])
        if len(self._frees) >= FREES_MAX:
            self.flush()

    def free_elsewhere(self, oid: bytes, value: list[Any], node: bytes) -> None:
        """The owner, a process here, has no reference left to an object whose primary is on another node."""
        if self.closed:
            return
        frees = self._frees_elsewhere.setdefault(node, [])
        frees.append([oid, value[1], value[3]])
        if len(frees) >= FREES_MAX:
            self.flush()

    def flush(self) -> None:
        """Once a turn of the loop: send the frees that gathered."""
        if self.closed:
            return
        if self._emptied:
            self._bury()
        if self._recalled is not None:
            self._surrender(*self._recalled)
        if self._frees:
            frees, self._frees = self._frees, []
            self.send(StoreFree(frees))
        if self._frees_elsewhere:
            elsewhere, self._frees_elsewhere = self._frees_elsewhere, {}
            for node, objects in elsewhere.items():
                self.send(StoreFree(objects, node))

    def _bury(self) -> None:
        """Free an object that its owner freed while a view of this process lived."""
        emptied, zombies = self._emptied, self._zombies
        while emptied:
            offset = emptied.popleft()
            if offset in zombies and not self.made[offset]:
                zombies.discard(offset)
                self._let_go(offset)
                self.heap.free(offset)

    def _let_go(self, offset: int) -> None:
        """A sealed object is none of this process's any more: it is free, or the store's."""
        del self.made[offset]
        self.slot.marks[PAYLOAD_MARK] -= self.words[(offset >> 3) + 2]

    # ------------------------------------------------------------ reading

    def read(self, value: list[Any], oid: bytes) -> memoryview | None:
        """A read-only view that pins the object while the view, or an array made from it, lives.

        None when the object is not there (spilled, evicted): ask ``restore``.
        """
        _, offset, nbytes, generation = value
        table = self.pin_table
        index = table.pin(offset)
        if index < 0:
            return self._read_copy(value, oid)
        words = self.words
        at = offset >> 3
        try:
            there = (words[at + 1] == generation << 8 | SEALED and words[at + 2] == nbytes
                     and self.raw[offset + 32 : offset + 32 + len(oid)] == oid)
        except IndexError:
            there = False  # no offset of this arena
        if not there:
            table.unpin(index)
            return None
        view = self._view.from_buffer(self.arena.map)  # type: ignore[attr-defined]
        views = self.made.get(offset)
        if views is not None:
            views.add(index)
        view.offset, view.views, view.emptied = offset, views, self._emptied
        view.pins, view.free = table.words, table._free
        view.index = index  # last: with it, the finaliser acts
        start = offset + HEADER_BYTES
        return memoryview(view).cast("B")[start : start + nbytes].toreadonly()

    def pinned(self) -> dict[bytes, int]:
        """The objects that views of this process pin, with their sizes in bytes."""
        if self.closed:
            return {}
        blocks = map(self.headers.read, self.pin_table.offsets())
        return {block.oid: block.nbytes for block in blocks if block.state in (SEALED, EVICTING)}

    def there(self, value: list[Any], oid: bytes) -> bool:
        """Whether ``read`` would find it now."""
        return self.headers.matches(value[1], oid, value[3]) == SEALED

    def _read_copy(self, value: list[Any], oid: bytes) -> memoryview | None:
        """The pin table is full: check, copy, check again that nothing moved meanwhile."""
        _, offset, nbytes, generation = value
        if self.headers.matches(offset, oid, generation) != SEALED:
            return None
        start = offset + HEADER_BYTES
        copy = bytes(self.raw[start : start + nbytes])
        return memoryview(copy) if self.headers.matches(offset, oid, generation) == SEALED else None

    def restore(self, oid: bytes, value: list[Any]) -> Pending:
        """Ask the node for the object: after the wait, ``pending.value`` is its new wire value or an error's."""
        _, offset, _, generation = value
        return self._ask(("restore", oid, generation), 0,
                         lambda number: StoreRestore(number, oid, offset, generation))

    def pull(self, value: list[Any]) -> Pending:
        """Ask the node to bring an object of another node (its value has six fields): ``pending.value`` is the place
        of a copy here, to be read like any other, or an error's value."""
        oid, node = value[4], value[5]
        return self._ask(("pull", oid, value[3], node), 0, lambda number: StorePull(number, value))

    def leave(self, pending: Pending) -> None:
        """A thread does not wait for the answer any more."""
        first = self._pending.get(pending.key)
        if first is not None and pending in first.joined:
            first.joined.remove(pending)

    # ------------------------------------------------------------ the node

    def _ask(self, key: tuple[Any, ...], nbytes: int, make: Callable[[int], Any]) -> Pending:
        """One request a key: threads that want the same object wait for one answer."""
        pending = self._pending.get(key)
        if pending is None:
            self._request += 1
            pending = Pending(self.make_waiter(), nbytes, key)
            if self._lost is not None:
                pending.value = self._lost
                self._finish(pending)
                return pending
            self._pending[key] = self._pending[self._request] = pending
            self.send(make(self._request))
            return pending
        joined = Pending(self.make_waiter(), nbytes, key)
        joined.progress = pending.progress
        pending.joined.append(joined)
        return joined

    def _answered(self, request: int) -> Pending | None:
        pending = self._pending.pop(request, None)
        if pending is not None:
            del self._pending[pending.key]
        return pending

    def node_lost(self, failure: list[Any]) -> None:
        """The node ended: threads that wait for it, and later requests, get this wire value of an error."""
        self._lost = failure
        for request in [key for key in self._pending if type(key) is int]:
            pending = self._answered(request)
            assert pending is not None
            pending.value = failure
            self._finish(pending)

    def _finish(self, pending: Pending) -> None:
        for each in (pending, *pending.joined):
            each.value, each.error, each.report = pending.value, pending.error, pending.report
            each.waiter.done = True
            self.notify(each.waiter)
            if each.then is not None:
                each.then(each)

    def _on_grant(self, peer: bytes, message: StoreGrant) -> None:
        pending = self._answered(message.request)
        awaited = pending is not None and any(each.awaited for each in (pending, *pending.joined))
        self.heap.add_extent(message.offset, message.size, awaited)
        if pending is not None:
            self._finish(pending)

    def _on_refused(self, peer: bytes, message: StoreRefused) -> None:
        pending = self._answered(message.request)
        if pending is not None:
            pending.report = message.report
            pending.error = str(message.report.get("reason", ""))
            self._refused[block_bytes(pending.nbytes)] = message.report
            self._finish(pending)

    def _on_recall(self, peer: bytes, message: StoreRecall) -> None:
        self._bury()
        if message.recall == 0:  # no thread waits
            extents = self.heap.surrender(0, idle_before=self._idle_mark)
            self._idle_mark = self.heap.clock + 1
            self._give_back(0, extents)
        else:
            self._surrender(message.recall, message.nbytes)

    def _surrender(self, recall: int, nbytes: int) -> None:
        """Answer a recall: now, or in the turn in which there is something to give back."""
        # Extents in the file do not help a request that waits for memory.
        extents = self.heap.surrender(nbytes, below=self.capacity if nbytes < self.capacity else self.size)
        self._recalled = None if extents else (recall, nbytes)
        self._give_back(recall, extents)

    def _give_back(self, recall: int, extents: list[Extent]) -> None:
        if not extents:
            return
        frees = [free for extent in extents for free in self._pass_to_node(extent.offset, extent.offset + extent.size)]
        self.flush()  # frees of objects that are the store's from the next message on
        self.send(StoreSurrender(recall, [[extent.offset, extent.size] for extent in extents]))
        if frees:
            self.send(StoreFree(frees))

    def _pass_to_node(self, start: int, end: int) -> list[list[Any]]:
        """Objects in this range are the store's from now on, also those that only our views keep: it frees them."""
        frees: list[list[Any]] = []
        for offset in [offset for offset in self.made if start <= offset < end]:
            self._let_go(offset)
            if offset in self._zombies:
                self._zombies.discard(offset)
                block = self.headers.read(offset)
                frees.append([block.oid, offset, block.generation])
        return frees

    def _on_reclaimed(self, peer: bytes, message: StoreReclaimed) -> None:
        for offset in message.offsets:
            if self.heap.free(offset) and offset in self.made:
                self._let_go(offset)

    def _on_restored(self, peer: bytes, message: StoreRestored) -> None:
        pending = self._answered(message.request)
        if pending is not None:
            pending.error = message.error
            pending.value = message.value or _failure(pending.key[1], message.error)
            self._finish(pending)

    def _on_pulling(self, peer: bytes, message: StorePulling) -> None:
        pending = self._pending.get(message.request)
        if pending is not None:
            for each in (pending, *pending.joined):
                each.progress = message.text

    # ------------------------------------------------------------ life

    @property
    def marks(self) -> memoryview:
        """Progress marks of this process: lease, started, finished (int64), read by the node after its death."""
        return self.slot.marks

    @property
    def held_bytes(self) -> int:
        """Bytes of the extents that this process holds."""
        return sum(extent.size for extent in self.heap.extents.values())

    def check(self) -> None:
        self._bury()
        self.heap.check()
        assert set(self.made) <= set(self.heap.used)
        sealed = [offset for offset in self.made if self.words[(offset >> 3) + 1] & 0xFF not in (FREE, CREATED)]
        assert self.slot.marks[PAYLOAD_MARK] == sum(self.words[(offset >> 3) + 2] for offset in sealed)
        assert self._zombies <= set(self.made)

    def close(self) -> None:
        """Detach.  Views that users hold stay readable; the node takes the extents back when it closes the slot."""
        self.closed = True
        table = getattr(self, "pin_table", None)
        if table is None or table.count == 0:
            self.slot.release()  # else the finalisers of the living views clear their pins
        for name in ("raw", "words", "headers", "heap", "pin_table"):
            if hasattr(self, name):
                delattr(self, name)
        self.made = {}
        self.arena.close()
        self.control.close()
