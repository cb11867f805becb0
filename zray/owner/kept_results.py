"""Results that a job keeps for its next run: the records in its log files, and which of these stay.  Pure.

The log is a row of segments, each a file that only grows.  A record has one finished task: its key and its values.
The newest record of a key counts.  A run begins a new segment, so a record that a killed driver left cut off is the
last of its segment.

    add       begins a segment when the open one is full, and drops the oldest ones beyond ``bytes_max``
    expire    drops segments whose newest record is older than ``kept_s``
    forget    a record proved unreadable
    failed    a record could not be written, and has no place
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

RESULT_KEY_BYTES = 16
CHECK_BYTES = 16
RECORD_MAGIC = b"ZRK1"
# magic, flags, number of values, key, time of the record (s), bytes of the body; then the CRC of these
HEAD = struct.Struct("<4sHHIQd16s")
HEAD_BYTES = HEAD.size + 4
BY_NAME = 1  # the values name classes of the program: the reader makes them anew
SEGMENT_BYTES_MIN = 1024 * 1024
SEGMENT_BYTES_MAX = 64 * 1024 * 1024
SEGMENTS = 16  # of a full log: so the oldest sixteenth goes at a time


class RecordPlace:
    """Where a record lies: ``start`` is that of its head in the segment, ``nbytes`` its whole size."""

    __slots__ = ("segment", "start", "nbytes")

    def __init__(self, segment: int, start: int, nbytes: int):
        self.segment = segment
        self.start = start
        self.nbytes = nbytes


class LogSegment:
    """One file: its size, the time of its newest record, and the keys of its records."""

    __slots__ = ("nbytes", "newest_s", "keys")

    def __init__(self) -> None:
        self.nbytes = 0
        self.newest_s = 0.0
        self.keys: set[bytes] = set()


class ResultLog:
    """The records of one job; the shell (zray.core.resume_folder) reads and writes the files."""

    def __init__(self, bytes_max: int, kept_s: float):
        self.bytes_max = bytes_max
        self.kept_s = kept_s
        self.segment_bytes = min(max(bytes_max // SEGMENTS, SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX)
        self.segments: dict[int, LogSegment] = {}  # oldest first
        self.places: dict[bytes, RecordPlace] = {}
        self.nbytes = 0
        self.open = 0  # the segment that grows; 0: the next record begins one
        self._last = 0

    def load(self, number: int, records: Sequence[tuple[bytes, float, int, int]], nbytes: int) -> None:
        """A segment of an earlier run, the oldest first: ``(key, time, start, size)`` of each record."""
        assert number > self._last and not self.open
        segment = self._begin(number)
        for key, time_s, start, size in records:
            self._place(key, RecordPlace(number, start, size), time_s)
        segment.nbytes = nbytes
        self.nbytes += nbytes

    def shrink(self) -> list[int]:
        """The oldest segments beyond ``bytes_max``, to be removed: after the last ``load``."""
        dropped = []
        while self.nbytes > self.bytes_max:
            dropped.append(next(iter(self.segments)))
            self._drop(dropped[-1])
        return dropped

    def fits(self, nbytes: int) -> bool:
        """Whether a record of this size may be kept: one that would drop most others is not."""
        return nbytes <= self.bytes_max // 2

    def add(self, key: bytes, nbytes: int, now_s: float) -> tuple[RecordPlace, list[int]]:
        """The place of a new record, and the segments to remove before it is written."""
        assert self.fits(nbytes)
        if not self.open or self.segments[self.open].nbytes + nbytes > max(self.segment_bytes, nbytes):
            self.open = self._last + 1
            self._begin(self.open)
        dropped = []
        while self.nbytes + nbytes > self.bytes_max:
            oldest = next(iter(self.segments))
            if oldest == self.open:
                self.open = self._last + 1
                self._begin(self.open)
            self._drop(oldest)
            dropped.append(oldest)
        segment = self.segments[self.open]
        place = RecordPlace(self.open, segment.nbytes, nbytes)
        segment.nbytes += nbytes
        self.nbytes += nbytes
        self._place(key, place, now_s)
        return place, dropped

    def failed(self, key: bytes, place: RecordPlace, is_clean: bool) -> None:
        """The newest record could not be written.  Unless its segment ends where it began, nothing may follow it."""
        self.forget(key)
        segment = self.segments[place.segment]
        assert segment.nbytes == place.start + place.nbytes
        if is_clean:
            segment.nbytes -= place.nbytes
            self.nbytes -= place.nbytes
        else:
            self.open = 0

    def forget(self, key: bytes) -> None:
        place = self.places.pop(key, None)
        if place is not None:
            self.segments[place.segment].keys.discard(key)

    def expire(self, now_s: float) -> list[int]:
        """Segments that are too old, to be removed."""
        old = [number for number, segment in self.segments.items()
               if segment.newest_s < now_s - self.kept_s and segment.nbytes]
        for number in old:
            self._drop(number)
        return old

    def _begin(self, number: int) -> LogSegment:
        self._last = number
        segment = self.segments[number] = LogSegment()
        return segment

    def _place(self, key: bytes, place: RecordPlace, time_s: float) -> None:
        self.forget(key)
        segment = self.segments[place.segment]
        segment.keys.add(key)
        segment.newest_s = max(segment.newest_s, time_s)
        self.places[key] = place

    def _drop(self, number: int) -> None:
        segment = self.segments.pop(number)
        for key in segment.keys:
            del self.places[key]
        self.nbytes -= segment.nbytes
        if number == self.open:
            self.open = 0

    def check(self) -> None:
        assert self.nbytes == sum(segment.nbytes for segment in self.segments.values()) <= self.bytes_max
        assert not self.open or self.open in self.segments
        assert list(self.segments) == sorted(self.segments)
        found = {(key, number) for number, segment in self.segments.items() for key in segment.keys}
        assert found == {(key, place.segment) for key, place in self.places.items()}
        for place in self.places.values():
            assert place.start + place.nbytes <= self.segments[place.segment].nbytes


# ---------------------------------------------------------------- records


def record_bytes(sizes: Sequence[int]) -> int:
    """The size of a record with values of these sizes."""
    return HEAD_BYTES + 8 * len(sizes) + sum(sizes) + CHECK_BYTES


def encode(key: bytes, flags: int, values: Sequence[Any], time_s: float) -> list[Any]:
    """A record, as pieces to be written one after the other; the values are not copied."""
    sizes = [memoryview(value).nbytes for value in values]
    head = HEAD.pack(RECORD_MAGIC, 1, flags, len(values), record_bytes(sizes) - HEAD_BYTES, time_s, key)
    lengths = struct.pack(f"<{len(sizes)}Q", *sizes)
    check = blake2b(head, digest_size=CHECK_BYTES)
    for piece in (lengths, *values):
        check.update(piece)
    return [head + zlib.crc32(head).to_bytes(4, "little"), lengths, *values, check.digest()]


def head_of(data: bytes) -> tuple[bytes, float, int] | None:
    """``(key, time, size of the whole record)`` from the first bytes of a record; None for anything else."""
    if len(data) < HEAD_BYTES or zlib.crc32(data[:HEAD.size]) != int.from_bytes(data[HEAD.size:HEAD_BYTES], "little"):
        return None
    magic, version, _, _, nbytes, time_s, key = HEAD.unpack_from(data)
    return (key, time_s, HEAD_BYTES + nbytes) if magic == RECORD_MAGIC and version == 1 else None


def decode(data: bytes, key: bytes) -> tuple[int, list[memoryview]] | None:
    """``(flags, values)`` of the record of ``key``; None when its bytes have changed, or are not all there."""
    head = head_of(data[:HEAD_BYTES])
    if head is None or head[0] != key or head[2] != len(data):
        return None
    _, _, flags, count, _, _, _ = HEAD.unpack_from(data)
    view = memoryview(data)
    check = blake2b(view[:HEAD.size], digest_size=CHECK_BYTES)
    check.update(view[HEAD_BYTES:-CHECK_BYTES])
    if check.digest() != data[-CHECK_BYTES:]:
        return None
    at = HEAD_BYTES + 8 * count
    values = []
    for size in struct.unpack_from(f"<{count}Q", data, HEAD_BYTES):
        values.append(view[at:at + size])
        at += size
    return flags, values


def scan(read: Any, nbytes: int) -> Iterator[tuple[bytes, float, int, int]]:
    """``(key, time, start, size)`` of the whole records of a file; ``read(start, size)`` gives its bytes.

    Ends at the first record that is cut off or is none.
    """
    at = 0
    while at + HEAD_BYTES <= nbytes:
        head = head_of(read(at, HEAD_BYTES))
        if head is None or at + head[2] > nbytes:
            return
        yield head[0], head[1], at, head[2]
        at += head[2]
