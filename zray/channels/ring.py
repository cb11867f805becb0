"""A ring of frames in memory that two processes map: one writes, one reads, neither waits for the other.  Pure.

    words, each in cache lines of its own         frames
    PUBLISHED  how many the writer has written    RING_SLOTS slots, each a word (check, length) and the frame
    CONSUMED   how many the reader has taken
    ASLEEP     1: the reader is about to block

The writer stores a frame, then PUBLISHED; the reader takes it, then stores CONSUMED.  Before it blocks, the reader
stores ASLEEP and loads PUBLISHED once more; the writer stores PUBLISHED and then loads ASLEEP.  One of them sees the
other's store, if neither processor moves its load before its store (Dekker's problem).  x86-64 does move it, and arm64
moves more, so there is a fence between the two: an atomic exchange, which an uncontended lock makes.

A frame must be there before its count, and be copied before its slot counts as free.  x86-64 keeps the order of stores
and that of loads, and moves no store before a load; elsewhere there are fences for this, too.

Nothing that the other process writes is trusted: a count that cannot be, a length that does not fit, or a check that
is not of this frame and this ring raises RingBroken.
"""

from __future__ import annotations

import platform
from _thread import allocate_lock

RING_SLOTS, RING_SLOT_BYTES = 32, 2048
RING_FRAME_BYTES_MAX = RING_SLOT_BYTES - 8
PUBLISHED, CONSUMED, ASLEEP = 0, 16, 32  # words; 128 bytes apart, as processors fetch lines in pairs
_HEAD_BYTES = 384
RING_BYTES = _HEAD_BYTES + RING_SLOTS * RING_SLOT_BYTES
_CHECK = 0xFFFFFFFF

NO_ROOM, WRITTEN, WRITTEN_FOR_A_SLEEPER = 0, 1, 2  # what put() has done


class RingBroken(Exception):
    """The other process has written what no ring has: its memory is not used any more."""


class _Side:
    """``memory``: RING_BYTES of the mapping.  ``generation``: a random number of 32 bits, the same on both sides."""

    def __init__(self, memory: memoryview, generation: int):
        self.words = memory.cast("Q")
        self.bytes = memory
        self.generation = generation
        self.count = 0  # frames written, or taken
        lock = allocate_lock()
        self._keeps_order = platform.machine() in ("x86_64", "AMD64")
        # arm64: the release of one lock and the acquisition of the next keep the order that one alone does not
        self._fences = (lock,) if self._keeps_order else (lock, allocate_lock())

    def _fence(self) -> None:
        for lock in self._fences:
            with lock:
                pass

    def close(self) -> None:
        """Let go of the memory; a thread that looks at ``words`` gets ValueError."""
        self.words.release()
        self.bytes.release()


class RingWriter(_Side):
    """The end that writes."""

    def put(self, frame: bytes) -> int:
        """NO_ROOM: it has no room for that frame now, or never.  WRITTEN_FOR_A_SLEEPER: the reader must be woken."""
        size, count, words = len(frame), self.count, self.words
        taken = words[CONSUMED]
        if count - taken >= RING_SLOTS or size > RING_FRAME_BYTES_MAX:
            return NO_ROOM
        if taken > count:
            raise RingBroken(f"{taken} frames taken of {count}")
        start = _HEAD_BYTES + count % RING_SLOTS * RING_SLOT_BYTES
        self.bytes[start + 8:start + 8 + size] = frame
        words[start >> 3] = ((self.generation ^ count) & _CHECK) << 32 | size
        if not self._keeps_order:
            self._fence()
        self.count = words[PUBLISHED] = count + 1
        for lock in self._fences:
            with lock:
                pass
        if words[ASLEEP]:
            words[ASLEEP] = 0
            return WRITTEN_FOR_A_SLEEPER
        return WRITTEN


class RingReader(_Side):
    """The end that reads.  It counts as asleep until it has looked for the first time."""

    def __init__(self, memory: memoryview, generation: int):
        super().__init__(memory, generation)
        self.may_block()

    def take(self) -> bytes | None:
        """The next frame, None when there is none."""
        count, words = self.count, self.words
        published = words[PUBLISHED]
        if published == count:
            return None
        if not count < published <= count + RING_SLOTS:
            raise RingBroken(f"{published} frames written, {count} taken")
        if not self._keeps_order:
            self._fence()
        start = _HEAD_BYTES + count % RING_SLOTS * RING_SLOT_BYTES
        head = words[start >> 3]
        size = head & _CHECK
        if head >> 32 != (self.generation ^ count) & _CHECK or size > RING_FRAME_BYTES_MAX:
            raise RingBroken(f"frame {count} has no valid head")
        frame = bytes(self.bytes[start + 8:start + 8 + size])
        if not self._keeps_order:
            self._fence()
        self.count = words[CONSUMED] = count + 1
        return frame

    def may_block(self) -> bool:
        """Say that this side is about to block; False when there is a frame."""
        self.words[ASLEEP] = 1
        self._fence()
        return self.words[PUBLISHED] == self.count
