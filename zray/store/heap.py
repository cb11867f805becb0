"""Blocks inside the extents that one client holds: allocated without a message, warm ones first.

A freed block goes on the stack of its exact size, so that put, drop, put of one size touches the same warm pages; it
keeps its header.  Requests that no stack serves get room from the coalesced ranges, best fit.  Stacks are emptied into
the ranges (``consolidate``) only when that may serve a request.  Headers stay valid for walkers throughout.
"""

from __future__ import annotations

import sys

from sortedcontainers import SortedList

from zray.store.header import ALIGN, Headers, block_bytes

# A free block at least this large, and four times the request, waits for a request of its own size.
WHOLE_BYTES_MIN = 4 * 1024 * 1024
POPULATE_AHEAD = 1024 * 1024


class Extent:
    """A range of the arena that the node granted."""

    __slots__ = ("live", "offset", "open", "promised", "size", "stamp", "touched", "written")

    def __init__(self, offset: int, size: int):
        self.offset = offset
        self.size = size
        self.live = 0  # blocks in use
        self.open = 0  # of these, not yet sealed
        self.touched = offset  # pages below this are mapped in this process
        self.written = offset  # pages below this have been used, by this process
        self.stamp = 0  # of the last allocation
        self.promised = False  # granted to a thread that waits for it and has yet to allocate


class Heap:
    """All extents of one client."""

    def __init__(self, headers: Headers):
        self.headers = headers
        self.extents: dict[int, Extent] = {}
        self.used: dict[int, tuple[int, Extent]] = {}  # block offset -> (size, extent)
        self.free_bytes = 0
        self.free_quick = 0
        self.clock = 0
        self._quick: dict[int, list[int]] = {}  # size -> offsets, last freed last
        self._where: dict[int, Extent] = {}  # offset of a free block -> its extent
        self._ranges: dict[int, int] = {}  # coalesced free blocks: offset -> size
        self._ends: dict[int, int] = {}  # end -> offset, of the same
        self._by_size = SortedList()  # (size, offset), of the same

    def add_extent(self, offset: int, size: int, promised: bool = False) -> None:
        """The node formatted this range as one free block and gave it to us."""
        extent = Extent(offset, size)
        extent.promised = promised
        self.extents[offset] = extent
        self.free_bytes += size
        self._insert(offset, size, extent)

    def allocate(self, nbytes: int, whole: bool = True) -> tuple[int, Extent] | None:
        """A block for ``nbytes``: ``(offset, extent)``; its header still says free.

        ``whole`` spares large free blocks for requests of their size.
        """
        size = block_bytes(nbytes)
        stack = self._quick.get(size)
        if stack:
            offset = stack.pop()
            extent = self._where.pop(offset)
            self.free_quick -= size
        else:
            if self._fit(size, whole) is None:
                if self.free_quick < size:
                    return None
                self.consolidate()
            found = self._fit(size, whole)
            if found is None:
                return None
            found_size, offset = found
            extent = self._where[offset]
            self._remove(offset)
            rest = found_size - size
            if rest >= 2 * ALIGN:
                self.headers.format(offset + size, rest)
                self.headers.resize(offset, size)
                self._insert(offset + size, rest, extent)
            else:
                size = found_size
        self.used[offset] = size, extent
        self.free_bytes -= size
        self.clock += 1
        extent.live += 1
        extent.open += 1
        extent.stamp = self.clock
        extent.promised = False
        return offset, extent

    def sealed(self, offset: int) -> None:
        self.used[offset][1].open -= 1

    def free(self, offset: int, sealed: bool = True) -> bool:
        """Take the block back; False when it is in no extent of ours (any more)."""
        entry = self.used.pop(offset, None)
        if entry is None:
            return False
        size, extent = entry
        extent.live -= 1
        if not sealed:
            extent.open -= 1
        self.headers.free(offset)
        self._where[offset] = extent
        self._quick.setdefault(size, []).append(offset)
        self.free_quick += size
        self.free_bytes += size
        return True

    def cold(self, offset: int, extent: Extent) -> tuple[int, int]:
        """``(start, length)`` of pages to map before the block at ``offset`` is written; length 0 for none."""
        end = offset + self.used[offset][0]
        start = max(extent.touched, offset)
        if end <= extent.touched:
            return start, 0
        upto = min(max(end, start + POPULATE_AHEAD), extent.offset + extent.size)
        extent.touched = upto
        return start, upto - start

    def writes(self, offset: int, start: int, length: int) -> bool:
        """Whether to write through the file what ``cold`` named: at the first use.  The next use maps the pages.

        These are hints, so callers need no lock.
        """
        extent = self.used[offset][1]
        if start < extent.written:
            return False
        extent.written = start + length
        if extent.touched == start + length:
            extent.touched = start
        return True

    def consolidate(self) -> None:
        """Empty the stacks into the coalesced ranges."""
        for size, stack in self._quick.items():
            for offset in stack:
                self._merge(offset, size)
        self._quick.clear()
        self.free_quick = 0

    def surrender(self, nbytes: int, idle_before: int | None = None, below: int = sys.maxsize) -> list[Extent]:
        """Give up extents, empty ones first, then the least recently used, until ``nbytes`` are given up.

        Extents with a block being written stay, and those that a thread is on its way to.  With ``idle_before`` only
        empty extents whose last allocation is older than that clock value go, whatever they add up to.  Without
        it, extents from offset ``below`` on stay.
        """
        chosen = [extent for extent in self.extents.values() if not extent.open and not extent.promised]
        if idle_before is not None:
            chosen = [extent for extent in chosen if not extent.live and extent.stamp < idle_before]
        else:
            chosen.sort(key=lambda extent: (extent.live > 0, extent.stamp))
            chosen = [extent for extent in chosen if extent.offset < below]
            total = 0
            for count, extent in enumerate(chosen):
                if total >= nbytes:
                    del chosen[count:]
                    break
                total += extent.size
        if chosen:
            self.consolidate()
            for extent in chosen:
                self._drop(extent)
        return chosen

    def surrender_empty(self, start: int) -> list[Extent]:
        """Give up all empty extents from offset ``start`` on, but for those that a thread is on its way to."""
        chosen = [extent for extent in self.extents.values()
                  if extent.offset >= start and not extent.live and not extent.promised]
        if chosen:
            self.consolidate()
            for extent in chosen:
                self._drop(extent)
        return chosen

    def break_promises(self) -> None:
        """The thread that waited for an extent will not come for it."""
        for extent in self.extents.values():
            extent.promised = False

    def _drop(self, extent: Extent) -> None:
        del self.extents[extent.offset]
        for offset in [offset for offset, owner in self._where.items() if owner is extent]:
            self.free_bytes -= self._ranges[offset]
            self._remove(offset)
        if extent.live:
            for offset in [offset for offset, entry in self.used.items() if entry[1] is extent]:
                del self.used[offset]

    def _fit(self, size: int, whole: bool) -> tuple[int, int] | None:
        at = self._by_size.bisect_left((size,))
        if at == len(self._by_size):
            return None
        found = self._by_size[at]
        if whole and found[0] >= WHOLE_BYTES_MIN and found[0] > 4 * size and self._is_large_extent(found):
            return None
        return found

    def _is_large_extent(self, found: tuple[int, int]) -> bool:
        """A free block that is a whole extent which has been used: most likely a large object's, wanted again."""
        extent = self._where[found[1]]
        return extent.size == found[0] and extent.stamp > 0

    def _merge(self, offset: int, size: int) -> None:
        extent = self._where.pop(offset)
        before = self._ends.get(offset)
        if before is not None and self._where[before] is extent:
            size += self._ranges[before]
            self._remove(before)
            offset = before
        after = offset + size
        if after in self._ranges and self._where[after] is extent:
            size += self._ranges[after]
            self._remove(after)
        self.headers.resize(offset, size)
        self._insert(offset, size, extent)

    def _insert(self, offset: int, size: int, extent: Extent) -> None:
        self._ranges[offset] = size
        self._ends[offset + size] = offset
        self._where[offset] = extent
        self._by_size.add((size, offset))

    def _remove(self, offset: int) -> None:
        size = self._ranges.pop(offset)
        del self._ends[offset + size]
        del self._where[offset]
        self._by_size.remove((size, offset))

    def check(self) -> None:
        """Each extent is a chain of blocks that are either used or free, as we think they are."""
        free: dict[int, int] = dict(self._ranges)
        for size, stack in self._quick.items():
            for offset in stack:
                assert offset not in free, "a block is free twice"
                free[offset] = size
        assert self._where.keys() == free.keys()
        assert sum(free.values()) == self.free_bytes
        seen = 0
        for extent in self.extents.values():
            live = 0
            for block in self.headers.walk(extent.offset, extent.size):
                if block.offset in self.used:
                    assert self.used[block.offset] == (block.size, extent)
                    live += 1
                else:
                    assert free.get(block.offset) == block.size, f"the block at {block.offset} leaked"
                    assert block.state == 0 and self._where[block.offset] is extent
                seen += 1
            assert live == extent.live and 0 <= extent.open <= live
        assert seen == len(free) + len(self.used), "a block outside of every extent"
