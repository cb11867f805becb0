"""The node's side of the store: table, segments, spill files and transfers, composed for the daemon.  No sockets.

``handlers`` are called on the daemon's loop with ``(peer, message)``; answers go through ``send(peer, message)``.  Slow
calls (disk, growing the arena) run in the spiller's threads and come back through ``call_soon_threadsafe(fn)``.
The daemon calls ``tick(now)`` when ``next_deadline()`` has passed, and ``node_ended(node)`` for each node that died.

The nodes with copies of an object go to the control store through two ports: ``record_location(oid, nodes)`` (no nodes:
delete) and ``find_location(oid, then)``, which calls ``then(nodes)`` on the daemon's loop.  A lone node has neither.
"""

from __future__ import annotations

import heapq
import mmap
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from zray.base import os_linux
from zray.base.config import Config
from zray.base.ends import Ends
from zray.base.memory_linux import memory_bytes
from zray.store.header import Headers
from zray.store.node import ownerless, views
from zray.store.node.ownerless import OwnerlessObject
from zray.store.node.reaper import write_owner
from zray.store.node.records import (
    Arriving,
    Back,
    Dropped,
    Effect,
    Freed,
    Grow,
    Load,
    Punch,
    SendToClient,
    SpillObject,
    UnlinkFile,
)
from zray.store.node.spill import Spiller
from zray.store.node.table import StoreTable
from zray.store.segment import (
    HOOK_MARK,
    PAYLOAD_MARK,
    ControlSegment,
    Segment,
    Slot,
    arena_name,
    control_name,
    make_overflow,
)
from zray.store.transfer.copies import NODE_ITSELF
from zray.store.transfer.exchange import Find, HandoverProgress, RecordCopies, SendToNode
from zray.store.transfer.machine import TransferMachine
from zray.store.transfer.pulls import Pull
from zray.wire.messages import (
    StoreFree,
    StoreKeep,
    StoreLocate,
    StorePull,
    StoreRefused,
    StoreRestore,
    StoreSurrender,
    StoreWant,
)

CAPACITY_BYTES_MIN = 1024 * 1024
OVERFLOW_BYTES_MAX = 1 << 42  # address space only; x86-64 has 2**47
SLOTS_SPARE = 512  # drivers, and workers that are about to end


RecordLocation = Callable[[bytes, list[bytes]], None]
FindLocation = Callable[[bytes, Callable[[list[bytes]], None]], None]


def _record_nowhere(oid: bytes, nodes: list[bytes]) -> None:
    """The port of a lone node."""


def _find_nowhere(oid: bytes, then: Callable[[list[bytes]], None]) -> None:
    then([])


def choose_capacity(asked: int) -> int:
    """Size of the store: the requested one, else 30 % of memory but at most 80 % of the free part of /dev/shm.

    RuntimeError when that is less than a store needs.
    """
    free = os_linux.shm_free_bytes()
    capacity = asked or min(memory_bytes() * 3 // 10, free * 8 // 10)
    if capacity < CAPACITY_BYTES_MIN or free < CAPACITY_BYTES_MIN:
        raise RuntimeError(
            f"the object store needs at least {CAPACITY_BYTES_MIN:,} bytes; asked for {asked:,} (0: choose), and "
            f"{os_linux.SHM_DIR} has {free:,} bytes free: make it larger (in a container: --shm-size)")
    return capacity // mmap.PAGESIZE * mmap.PAGESIZE


def make_overflow_file(directory: str, size: int) -> tuple[int, int]:
    """``(descriptor, bytes)`` of the overflow file; no bytes where there can be none."""
    try:
        if size < 0:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            disk = os.statvfs(directory)
            size = min(disk.f_blocks * disk.f_frsize, OVERFLOW_BYTES_MAX) // mmap.PAGESIZE * mmap.PAGESIZE
        return (make_overflow(directory, size), size) if size else (-1, 0)
    except OSError:
        return -1, 0  # the store then refuses what does not fit into memory


def make_arena(session: str, size: int, overflow: tuple[int, int]) -> Segment:
    """The arena, with the overflow file mapped at its end where that is possible."""
    fd, more = overflow
    if more:
        try:
            arena = Segment(arena_name(session), create=True, size=size + more)
        except OSError:
            return Segment(arena_name(session), create=True, size=size)  # address space is limited
        try:
            arena.map_overflow(size, fd)
            return arena
        except OSError:
            arena.close()
            arena.unlink()
    return Segment(arena_name(session), create=True, size=size)


class StoreService:
    """See the module's docstring; made by :meth:`create`."""

    def __init__(self, session: str, control: ControlSegment, arena: Segment, spiller: Spiller, config: Config,
                 send: Callable[[bytes, Any], None], call_soon_threadsafe: Callable[[Callable[[], None]], Any],
                 clock: Callable[[], float], ends: Ends, node: bytes = b"",
                 record_location: RecordLocation = _record_nowhere, find_location: FindLocation = _find_nowhere,
                 overflow: tuple[int, int] = (-1, 0)):
        """``overflow``: descriptor and size of the file that is mapped at the end of the arena."""
        self.session = session
        self.overflow_fd, overflow_bytes = overflow
        self.capacity = arena.size - overflow_bytes
        self.control = control
        self.arena = arena
        self.spiller = spiller
        self.send = send
        self.call_soon_threadsafe = call_soon_threadsafe
        self.clock = clock
        self.closed = False
        self.on_pressure: Callable[[], None] = lambda: None  # objects go to disk, or a request is refused
        # (kind, bytes, began, now, node it came from, failure): an object was transferred, spilled or read back
        self.on_moved: Callable[[str, int, float, float, bytes, str], None] = lambda *moved: None
        self._performing = False
        self.headers = Headers(memoryview(arena.map))
        self.table = StoreTable(self.headers, self.capacity, self._pinned, step_bytes=config.arena_step_bytes,
                                extent_bytes=config.extent_bytes, full_wait_s=config.store_full_wait_s,
                                overflow_bytes=overflow_bytes)
        self.table.readers = self._readers
        self.node = node
        self.record_location = record_location
        self.find_location = find_location
        self.transfer = TransferMachine(self.table, self.headers, node, ends)
        self.transfer.pulls.on_over = self._pulled
        self.slots: dict[bytes, tuple[int, Slot, int]] = {}  # incarnation -> (index, slot, pid)
        self._free_slots: list[int] = []
        self._slots_used = 0
        self._epoch = 0
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            StoreWant.CODE: partial(self._handle, self.table.room.on_want),  # type: ignore[attr-defined]
            StoreSurrender.CODE: partial(self._handle, self.table.on_surrender),  # type: ignore[attr-defined]
            StoreFree.CODE: partial(self._handle, self._on_free),  # type: ignore[attr-defined]
            StoreRestore.CODE: partial(self._handle, self.table.on_restore),  # type: ignore[attr-defined]
            StorePull.CODE: partial(self._handle, self.transfer.on_pull),  # type: ignore[attr-defined]
            StoreLocate.CODE: partial(self._handle, self.transfer.on_locate),  # type: ignore[attr-defined]
            StoreKeep.CODE: partial(self._handle, self.transfer.on_keep),  # type: ignore[attr-defined]
            **{code: partial(self._handle, handler) for code, handler in self.transfer.handlers.items()},
        }

    @classmethod
    def create(cls, session_dir: str, session_name: str, capacity: int, send: Callable[[bytes, Any], None],
               call_soon_threadsafe: Callable[[Callable[[], None]], Any], *, ends: Ends, config: Config | None = None,
               clock: Callable[[], float] = time.monotonic, node: bytes = b"",
               record_location: RecordLocation = _record_nowhere,
               find_location: FindLocation = _find_nowhere, overflow_bytes: int = -1) -> StoreService:
        """Make the segments of a session.  ``capacity`` 0: choose.  RuntimeError when /dev/shm has no room for them.

        ``overflow_bytes``: of the file for what does not fit into memory; -1: as large as its disk.
        """
        config = config or Config()
        size = choose_capacity(capacity or config.object_store_bytes)
        write_owner(session_dir)
        try:
            control = ControlSegment.create(control_name(session_name), config.workers_max + SLOTS_SPARE)
        except OSError as error:
            raise RuntimeError(f"cannot make shared memory for the object store: {error}") from error
        files = session_dir if not config.spill_dir or "://" in config.spill_dir else config.spill_dir
        overflow = make_overflow_file(files, overflow_bytes)
        try:
            arena = make_arena(session_name, size, overflow)
        except OSError as error:
            control.segment.unlink()
            control.close()
            raise RuntimeError(f"cannot make shared memory for the object store: {error}") from error
        spiller = Spiller.at(config.spill_dir or os.path.join(session_dir, "spill"), session_name)
        return cls(session_name, control, arena, spiller, config, send, call_soon_threadsafe, clock, ends, node,
                   record_location, find_location, (overflow[0], arena.size - size))

    def attach_info(self) -> dict[str, Any]:
        """What a StoreClient needs to attach."""
        return {"control": control_name(self.session), "arena": arena_name(self.session), "capacity": self.capacity,
                "overflow": f"/proc/{os.getpid()}/fd/{self.overflow_fd}"}

    # ------------------------------------------------------------ processes

    def open_slot(self, incarnation: bytes, pid: int) -> int:
        """A slot for a new core process (pid 0: not known yet).  RuntimeError when there is none left."""
        if incarnation in self.slots:
            return self.slots[incarnation][0]
        if self._free_slots:
            index = heapq.heappop(self._free_slots)
        elif self._slots_used < self.control.slots:
            index = self._slots_used
            self._slots_used += 1
        else:
            raise RuntimeError(f"all {self.control.slots} process slots of the object store are taken (workers_max)")
        slot = self.control.slot(index)
        self._epoch += 1
        try:
            slot.open(incarnation, pid, self._epoch)
        except OSError as error:
            heapq.heappush(self._free_slots, index)
            raise RuntimeError(f"no room in {os_linux.SHM_DIR} for another process: {error}") from error
        self.slots[incarnation] = index, slot, pid
        self.table.room.connect(incarnation)
        return index

    def close_slot(self, incarnation: bytes) -> None:
        """The process died or left: its pins are void, its sealed objects stay, the rest of its extents is free."""
        entry = self.slots.pop(incarnation, None)
        if entry is None:
            return
        index, slot, _ = entry
        slot.void()
        slot.release()
        heapq.heappush(self._free_slots, index)
        self.transfer.forget_client(incarnation, self.clock())
        self.table.disconnect(incarnation, self.clock())
        self._perform()

    def slot_marks(self, incarnation: bytes) -> tuple[int, int, int, bool]:
        """Progress marks ``(lease, started, finished, in its setup hook)``; read them before ``close_slot``."""
        entry = self.slots.get(incarnation)
        if entry is None:
            return 0, 0, 0, False
        marks = entry[1].marks
        lease, started, finished = marks[:3]
        return lease, started, finished, bool(marks[HOOK_MARK])

    def drop_job(self, job: bytes) -> None:
        """All processes of this job (4 bytes) are gone: so are its objects."""
        self.transfer.drop_job(job, self.clock())
        self.table.drop_job(job, self.clock())
        self._perform()

    def ownerless(self, has_ended: Callable[[bytes], bool]) -> list[OwnerlessObject]:
        """The objects here whose owners have ended."""
        return ownerless.ownerless(self.table, has_ended)

    def free_unheld(self, objects: list[OwnerlessObject]) -> None:
        """Free those of them that no process holds a reference to (zray.node.jobs.unheld)."""
        ownerless.free(self.table, objects, self.clock())
        self._perform()

    def node_ended(self, node: bytes) -> None:
        """That node (its incarnation) has ended, as the register says by now: pulls from it go on from other copies."""
        self.transfer.node_ended(node, self.clock())
        self._perform()

    def join(self, nodes: Callable[[], Iterable[bytes]], announce: Callable[[bytes, bytes], None]) -> None:
        """This node has a cluster.  See zray.store.transfer.durable for the two ports."""
        self.transfer.durable.nodes, self.transfer.durable.announce = nodes, announce

    @property
    def holds_any(self) -> bool:
        return bool(self.table.names or self.table.room.grants)

    def hand_over(self, heirs: Iterable[bytes], needed: Callable[[bytes], bool]) -> HandoverProgress:
        """This node leaves: other nodes are to keep the objects that only it has.  Call it again until that is done.

        ``needed(oid)``: whether any process could want the object when this node has gone.
        """
        handed = self.transfer.hand_over(heirs, needed, self.clock())
        self._perform()
        return handed

    def _pinned(self) -> set[int]:
        pins = self.transfer.copies.pins()
        for _, slot, _ in self.slots.values():
            pins.update(slot.pinned())
        pins.discard(0)
        return pins

    def _readers(self) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for incarnation, (_, slot, _) in self.slots.items():
            for pin in set(slot.pinned()) - {0}:
                found.setdefault(pin, []).append(incarnation)
        return found

    # ------------------------------------------------------------ the loop

    def tick(self, now: float) -> None:
        self.table.tick(now)
        self.transfer.tick(now)
        self._perform()

    def next_deadline(self) -> float | None:
        table, transfer = self.table.next_deadline(), self.transfer.next_deadline()
        if table is None or transfer is None:
            return transfer if table is None else table
        return min(table, transfer)

    def _on_free(self, peer: bytes, message: StoreFree, now: float) -> None:
        if message.node in (b"", self.node):
            self.table.on_free(peer, message, now)
        elif peer in self.slots:  # not from another node: no node passes on a relayed message
            self.transfer.free(message.node, message.objects, now)

    def _handle(self, transition: Callable[[bytes, Any, float], None], peer: bytes, message: Any) -> None:
        transition(peer, message, self.clock())
        self._perform()

    def _perform(self) -> None:
        """Perform the effects of the table and the transfers, in that order also when a port answers at once."""
        if self._performing:
            return
        self._performing = True
        try:
            while effects := [*self.table.take(), *self.transfer.take()]:
                for effect in effects:
                    self._perform_one(effect)
        finally:
            self._performing = False

    def _perform_one(self, effect: Any) -> None:
        kind = type(effect)
        if kind is SendToClient:
            if type(effect.message) is StoreRefused:
                self.on_pressure()
            if effect.client in self.slots:
                self.send(effect.client, effect.message)
            elif effect.client == NODE_ITSELF:
                self.transfer.restored(effect.message, self.clock())
        elif kind is SendToNode:
            self.send(effect.node, effect.message)
        elif kind in (Arriving, Dropped, Freed, RecordCopies, Find):
            self._transfer(effect)
        else:
            self._start(effect)

    def _transfer(self, effect: Any) -> None:
        """Pass effects between the table, the transfers and the control store."""
        transfer = self.transfer
        if type(effect) is Arriving:
            transfer.arriving(effect, self.clock())
        elif type(effect) is Dropped:
            transfer.dropped(effect, self.clock())
        elif type(effect) is Freed:
            transfer.freed(effect, self.clock())
        elif type(effect) is RecordCopies:
            self.record_location(effect.oid, effect.nodes)
        elif type(effect) is Find:
            self.find_location(effect.oid, partial(self._located, effect.token))

    def _located(self, token: int, nodes: list[bytes]) -> None:
        if not self.closed:
            self.transfer.located(token, nodes, self.clock())
            self._perform()

    def _start(self, effect: Effect) -> None:
        table, spiller = self.table, self.spiller
        if type(effect) is Grow:
            spiller.run(partial(self.arena.reserve, effect.start, effect.size),
                        self._back(lambda error, now: table.room.grown(effect.size, self._shm_error(error), now)))
        elif type(effect) is Back:
            start = effect.start
            spiller.run(partial(os_linux.reserve, self.overflow_fd, start - self.capacity, effect.size),
                        self._back(lambda error, now: table.room.backed(start, error, now)))
        elif type(effect) is Punch:
            start = effect.start
            spiller.run(partial(os_linux.punch_hole, self.overflow_fd, effect.size, start - self.capacity),
                        self._back(lambda error, now: table.room.returned(start, now)))
        elif type(effect) is SpillObject:
            self.on_pressure()
            spiller.write(effect.key, self.headers.raw[effect.offset : effect.offset + effect.nbytes].toreadonly(),
                          self._back(self._moving("spill", effect, table.spilled)))
        elif type(effect) is Load:
            spiller.read(effect.key, self.headers.raw[effect.offset : effect.offset + effect.nbytes],
                         self._back(self._moving("restore", effect, table.loaded)))
        elif type(effect) is UnlinkFile:
            spiller.remove(effect.key)

    def _moving(self, kind: str, effect: Any, then: Callable[[int, int, str, float], None]
                ) -> Callable[[str, float], None]:
        """What to do when the disk is done: report so to the table, and how long it took."""
        began = self.clock()

        def done(error: str, now: float) -> None:
            self.on_moved(kind, effect.nbytes, began, now, b"", error)
            then(effect.key, effect.generation, error, now)

        return done

    def _pulled(self, pull: Pull, now: float, failure: str) -> None:
        if pull.began:
            self.on_moved("transfer", pull.nbytes, pull.began, now, pull.source or pull.key.node, failure)

    def _back(self, event: Callable[[str, float], None]) -> Callable[[str], None]:
        """From a thread of the spiller to the daemon's loop."""

        def on_loop(error: str) -> None:
            if not self.closed:
                event(error, self.clock())
                self._perform()

        def done(error: str) -> None:
            if not self.closed:
                self.call_soon_threadsafe(partial(on_loop, error))

        return done

    @staticmethod
    def _shm_error(error: str) -> str:
        if not error:
            return ""
        return f"{os_linux.SHM_DIR} has {os_linux.shm_free_bytes():,} bytes free ({error})"

    # ------------------------------------------------------------ views and the end

    def pressure(self) -> str:
        """How full it is, in words."""
        return views.describe(self.table)

    def payload_bytes(self) -> int:
        """Bytes of objects in memory, without a look at each: processes keep count of those in their extents."""
        return self.table.payload_bytes + sum(slot.marks[PAYLOAD_MARK] for _, slot, _ in self.slots.values())

    def usage(self) -> dict[str, Any]:
        """Capacity, use, and the processes that hold objects."""
        usage = views.usage(self.table)
        usage["used"] = usage["reserved"] - usage["free"]
        usage["pids"] = {incarnation.hex(): pid for incarnation, (_, _, pid) in self.slots.items()}
        return usage

    def objects(self, most: int | None = None) -> list[dict[str, Any]]:
        """Every object of the node, with its holder; ``most``: stop when there are so many."""
        return views.objects(self.table, most)

    def report(self) -> dict[str, Any]:
        """Capacity, use, holders and objects, for ``zray memory`` and metrics."""
        usage = self.usage()
        usage["pinned"] = len(self._pinned())
        usage["objects"] = self.objects()
        usage["transfers"] = self.transfer.usage()
        return usage

    def check(self) -> None:
        self.table.check()
        self.transfer.check()

    def close(self, remove: bool = True) -> None:
        """Stop the threads; with ``remove`` also delete the segments.  Views that others hold stay readable."""
        if self.closed:
            return
        self.closed = True
        self.spiller.close()
        if remove:  # the arena first: while there is an arena, there is the segment that names its node
            self.arena.unlink()
            self.control.segment.unlink()
        for _, slot, _ in self.slots.values():
            slot.release()
        self.slots.clear()
        self.headers.release()
        self.arena.close()
        self.control.close()
        if self.overflow_fd >= 0:
            os.close(self.overflow_fd)
