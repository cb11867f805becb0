"""Pins without messages: a reader's half of the protocol.

    reader   1 write the block's offset into its table   2 read the header again: id, generation, sealed
             3 if it is the object that was looked for, use it; else clear the pin and ask the node
    node     1 mark the header as evicting   2 wait the grace   3 read all tables   4 if no pin is on it, reuse it

Either the reader's step 2 sees the mark of the node's step 1, or it ran before the mark was visible; then its step 1
came earlier still, and is visible to the node's step 3, because the grace is far longer than a store stays in a CPU's
store buffer.  (This is Dekker's argument with a wait for the fence that Python lacks.)  How long either process is
descheduled in between does not matter.

Each view has its own entry, so clearing it is one store that needs no lock and no count: finalisers may run at any
point of any thread.
"""

from __future__ import annotations

import os
from typing import Any

from zray.store.segment import PAGE_BYTES, PIN_WORD, PINS_MAX, Slot

_WORDS_A_PAGE = PAGE_BYTES // 8


class PinTable:
    """The pins of this process."""

    __slots__ = ("_free", "_slot", "_used", "words")

    def __init__(self, slot: Slot):
        self._slot = slot
        self.words = slot.pins
        self._free: list[int] = []
        self._used = 0
        self._extend(_WORDS_A_PAGE - PIN_WORD)

    def pin(self, offset: int) -> int:
        """Pin a block; the index of the entry, or -1 when the table is full or /dev/shm cannot back it."""
        try:
            index = self._free.pop()
        except IndexError:
            index = self._grow()
            if index < 0:
                return -1
        self.words[index] = offset | 1
        return index

    def unpin(self, index: int) -> None:
        self.words[index] = 0
        self._free.append(index)

    def offsets(self) -> set[int]:
        """The blocks that are pinned now."""
        return {word & ~1 for word in map(self.words.__getitem__, range(self._used)) if word}

    @property
    def count(self) -> int:
        return self._used - len(self._free)

    def _grow(self) -> int:
        if self._used >= PINS_MAX:
            return -1
        try:
            self._slot.reserve_pins(self._used)
        except OSError:
            return -1
        self._extend(min(_WORDS_A_PAGE, PINS_MAX - self._used))
        return self._free.pop()

    def _extend(self, count: int) -> None:
        start = self._used
        self._used += count
        for index in range(start, self._used):
            self.words[index] = 0  # left by the slot's last process
        self._slot.words[4] = self._used  # before any entry up there is used
        self._free.extend(range(self._used - 1, start - 1, -1))


def view_type(size: int) -> type:
    """The exporter of read-only views of an arena of ``size`` bytes: its finaliser unpins.

    numpy arrays and memoryviews keep the exporter alive.  A ctypes array is the one object that lends a buffer, has a
    ``__del__`` and exists before Python 3.12; all views share one type that spans the arena, because making a type
    per size would cost more than the read.
    """
    import ctypes

    base: Any = ctypes.c_ubyte * size
    pid = os.getpid()

    class View(base):
        __slots__ = ("emptied", "free", "index", "offset", "pins", "views")

        def __del__(self, getpid=os.getpid) -> None:
            try:
                index = self.index
            except AttributeError:
                return  # from_buffer failed, or the attributes were never set
            if getpid() != pid:
                return  # a fork of ours: the pin is its parent's
            self.pins[index] = 0
            self.free.append(index)
            views = self.views
            if views is not None:
                views.discard(index)
                if not views:
                    self.emptied.append(self.offset)

    return View
