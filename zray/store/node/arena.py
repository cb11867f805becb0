"""Free ranges of the node's arena: best fit, coalesced at once; among equal fits the last freed (warm pages).

Pure: offsets and sizes only.  Ranges are multiples of 64 bytes, so the gaps around the objects of a dead or recalled
extent are ranges like any other.
"""

from __future__ import annotations

from sortedcontainers import SortedList

from zray.store.header import ALIGN


class Arena:
    """Ranges of ``[0, reserved)``: allocated or free, never overlapping."""

    def __init__(self, capacity: int):
        self.capacity = capacity // ALIGN * ALIGN
        self.reserved = 0  # how far the backing memory exists
        self.free_bytes = 0
        self._sizes: dict[int, int] = {}  # start of a free range -> size
        self._ends: dict[int, int] = {}  # end of a free range -> start
        self._by_size = SortedList()  # (size, -stamp, start)
        self._stamps: dict[int, int] = {}
        self._clock = 0

    def grow(self, size: int) -> None:
        """The next ``size`` bytes of the arena are backed by memory now."""
        if size <= 0 or size % ALIGN or self.reserved + size > self.capacity:
            raise ValueError(f"an arena of {self.capacity} bytes, {self.reserved} reserved, cannot grow by {size}")
        start = self.reserved
        self.reserved += size
        self.free(start, size)

    def allocate(self, size: int) -> int | None:
        """Offset of a range of ``size`` bytes, or None."""
        if size <= 0 or size % ALIGN:
            raise ValueError(f"ranges are multiples of {ALIGN} bytes, not {size}")
        at = self._by_size.bisect_left((size,))
        if at == len(self._by_size):
            return None
        found, _, start = self._by_size[at]
        self._remove(start)
        self.free_bytes -= size
        if found > size:
            self._insert(start + size, found - size)
        return start

    def free(self, start: int, size: int) -> None:
        if size <= 0 or start < 0 or start + size > self.reserved:
            raise ValueError(f"no range of {size} bytes at {start}")
        self.free_bytes += size
        before = self._ends.get(start)
        if before is not None:
            size += self._sizes[before]
            self._remove(before)
            start = before
        after = self._sizes.get(start + size)
        if after is not None:
            self._remove(start + size)
            size += after
        self._insert(start, size)

    @property
    def largest_free(self) -> int:
        return self._by_size[-1][0] if self._by_size else 0

    def ranges(self) -> list[tuple[int, int]]:
        """Free ranges in order of offset."""
        return sorted(self._sizes.items())

    def _insert(self, start: int, size: int) -> None:
        self._clock += 1
        self._sizes[start] = size
        self._ends[start + size] = start
        self._stamps[start] = self._clock
        self._by_size.add((size, -self._clock, start))

    def _remove(self, start: int) -> None:
        size = self._sizes.pop(start)
        del self._ends[start + size]
        self._by_size.remove((size, -self._stamps.pop(start), start))

    def check(self) -> None:
        end = -1
        for start, size in self.ranges():
            assert start > end, "free ranges overlap or touch"
            assert size > 0 and start % ALIGN == 0 and size % ALIGN == 0
            assert self._ends[start + size] == start
            end = start + size
        assert end <= self.reserved <= self.capacity
        assert len(self._sizes) == len(self._ends) == len(self._by_size) == len(self._stamps)
        assert sum(self._sizes.values()) == self.free_bytes
