"""Shared memory of a node: the arena, and the control segment with a slot for each core process.

Both are files in /dev/shm of mode 0600, sparse at their full size, mapped once and backed with memory in steps by
``posix_fallocate``: a mapping cannot grow in place, and a write to a sparse part of a full /dev/shm is SIGBUS.

The control segment: one page that names the process which made it (zray.store.node.reaper), then the slots.  Only its
own process writes a slot, except for the slot's header, which the node writes while no process has the slot:

    word 0   incarnation, 0 for a void slot    word 1   pid          word 2   start time of the pid
    word 3   epoch: how many slots the node had opened before (generations of this process start with it)
    word 4   pins: how far the table was ever used (written by the process)
    words 8-15   progress marks: lease, started, finished; then the payload bytes of its objects in its own extents;
                 then whether its setup hook runs
    words 16-    pin table: block offset | 1, or 0
"""

from __future__ import annotations

import json
import mmap
import os
from multiprocessing.shared_memory import SharedMemory

from zray.base import os_linux
from zray.base.parts import PART_BYTES_MIN, in_parts

PAGE_BYTES = 4096
SLOT_BYTES = 256 * 1024
MARK_WORD, MARK_WORDS = 8, 8
PAYLOAD_MARK = 3
HOOK_MARK = 4
PIN_WORD = 16
PINS_MAX = SLOT_BYTES // 8 - PIN_WORD
_MAGIC = b"zray-1\0\0"


class Segment(SharedMemory):
    """A SharedMemory that the resource tracker never hears of, and that may be closed while views of it live.

    Before Python 3.13 the tracker of any process that attached deletes the segment at that process's exit.
    """

    def __init__(self, name: str, create: bool = False, size: int = 0):
        # SharedMemory.__init__ registers with the tracker, and unlinks the segment when attaching to it fails.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if create else 0)
        self._name = "/" + name
        self._track = False  # Python 3.13: unlink asks it
        self._fd = os.open(f"{os_linux.SHM_DIR}/{name}", flags, 0o600)
        try:
            if create:
                os.ftruncate(self._fd, size)
            self._size = os.fstat(self._fd).st_size
            self._mmap = mmap.mmap(self._fd, self._size)
        except OSError:
            os.close(self._fd)
            self._fd = -1
            if create:
                remove(os_linux.SHM_DIR + self._name)
            raise
        self._buf = memoryview(self._mmap)

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def map(self) -> mmap.mmap:
        return self._mmap

    def reserve(self, start: int, length: int) -> None:
        """Back a part with memory that nothing uses yet.  OSError (ENOSPC) when there is no more."""
        try:
            in_parts(length, lambda at, size: os_linux.reserve(self._fd, start + at, size))
        except OSError:
            if length >= 2 * PART_BYTES_MIN:  # a call that fails undoes its own part, and not those of other threads
                os_linux.punch_hole(self._fd, length, start)
            raise

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Write through the file, without mapping its pages."""
        view = memoryview(data).cast("B")

        def write_part(at: int, length: int) -> None:
            end = at + length
            while at < end:
                at += os.pwrite(self._fd, view[at:end], start + at)

        in_parts(len(view), write_part)

    def map_overflow(self, start: int, fd: int) -> None:
        """From ``start`` on the mapping is that of another file.  OSError when that is not possible."""
        os_linux.map_over(self._mmap, start, self._size - start, fd)

    def map_overflow_of(self, start: int, path: str) -> None:
        """The same with the file that the node names.  RuntimeError when it cannot be opened."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise RuntimeError(f"the overflow file of the object store cannot be opened ({error}): run this process "
                               "as the user, and in the pid namespace, of its node") from error
        try:
            self.map_overflow(start, fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Unmap, or leave that to the last view: arrays that users hold stay valid."""
        try:
            if self._buf is not None:
                self._buf.release()
                self._mmap.close()
        except BufferError:
            pass  # a user that holds a view keeps the mapping
        self._buf = self._mmap = None  # type: ignore[assignment]
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def unlink(self) -> None:
        remove(os_linux.SHM_DIR + self._name)


def make_overflow(directory: str, size: int) -> int:
    """A sparse file without a name, for what the arena cannot take; its descriptor.  OSError when there is no place.

    Processes of this user open it through /proc/PID/fd, so nothing of it is left when its node is killed.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = os.path.join(directory, f"overflow-{os.urandom(8).hex()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(path)
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def remove(path: str) -> None:
    """Delete a segment's file; no error when it is gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def arena_name(session: str) -> str:
    return f"zray-{session}-arena"


def control_name(session: str) -> str:
    return f"zray-{session}-control"


class Slot:
    """One process's part of the control segment."""

    __slots__ = ("_segment", "_start", "marks", "pins", "words")

    def __init__(self, segment: Segment, index: int):
        self._segment = segment
        self._start = PAGE_BYTES + index * SLOT_BYTES
        view = memoryview(segment.map)[self._start : self._start + SLOT_BYTES]
        self.words = view.cast("Q")
        self.pins = self.words[PIN_WORD:]
        self.marks = view.cast("q")[MARK_WORD : MARK_WORD + MARK_WORDS]

    @property
    def incarnation(self) -> bytes:
        return self.words[0].to_bytes(8, "little")

    @property
    def epoch(self) -> int:
        return self.words[3]

    def open(self, incarnation: bytes, pid: int, epoch: int) -> None:
        """Node: this slot now belongs to a process.  OSError (ENOSPC) when /dev/shm is full."""
        self.reserve_pins(0)
        words = self.words
        words[1] = pid
        words[2] = os_linux.process_start(pid) if pid else 0
        words[3] = epoch
        words[4] = 0
        for index in range(MARK_WORDS):
            self.marks[index] = 0
        words[0] = int.from_bytes(incarnation, "little")

    def void(self) -> None:
        """Node: the slot's process is gone, its pins count no more."""
        self.words[0] = 0

    def reserve_pins(self, index: int) -> None:
        """Back the page that holds pin ``index``.  OSError (ENOSPC) when /dev/shm is full."""
        at = (PIN_WORD + index) * 8
        self._segment.reserve(self._start + at // PAGE_BYTES * PAGE_BYTES, PAGE_BYTES)

    def pinned(self) -> list[int]:
        """Node: block offsets that the process reads, each | 1, with zeros between."""
        words = self.words
        if not words[0]:
            return []
        return self.pins[: min(words[4], PINS_MAX)].tolist()

    def release(self) -> None:
        for view in (self.pins, self.marks, self.words):
            view.release()


class ControlSegment:
    """All slots, and the identity of the node that made them."""

    def __init__(self, segment: Segment):
        self.segment = segment
        self.slots = (segment.size - PAGE_BYTES) // SLOT_BYTES

    @classmethod
    def create(cls, name: str, slots: int) -> ControlSegment:
        """OSError when /dev/shm cannot take it."""
        segment = Segment(name, create=True, size=PAGE_BYTES + slots * SLOT_BYTES)
        try:
            segment.reserve(0, PAGE_BYTES)
        except OSError:
            segment.close()
            segment.unlink()
            raise
        text = json.dumps(process_identity(os.getpid())).encode()
        segment.map[8 : 8 + len(text)] = text
        segment.map[:8] = _MAGIC  # last: a reader that sees it sees all
        return cls(segment)

    @classmethod
    def attach(cls, name: str) -> ControlSegment:
        return cls(Segment(name))

    def slot(self, index: int) -> Slot:
        if not 0 <= index < self.slots:
            raise IndexError(f"slot {index} of {self.slots}")
        return Slot(self.segment, index)

    def close(self) -> None:
        self.segment.close()


def process_identity(pid: int) -> dict[str, str | int]:
    """The facts that distinguish one process from all others, also after a reboot and from another pid namespace."""
    return {"boot": os_linux.boot_id(), "namespace": os_linux.pid_namespace(), "pid": pid,
            "start": os_linux.process_start(pid)}


def read_identity(path: str) -> dict[str, str | int] | None:
    """The identity in the first page of a control segment; None when it has none (yet)."""
    with open(path, "rb") as file:
        page = file.read(PAGE_BYTES)
    if page[:8] != _MAGIC:
        return None
    try:
        return json.loads(page[8:].rstrip(b"\0"))
    except ValueError:
        return None
