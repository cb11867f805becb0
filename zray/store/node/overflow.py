"""Room beyond the arena's memory: a file on disk, mapped behind the arena at the same distance in every process.

    [0, capacity)                      shared memory
    [capacity, capacity + overflow)    the file: for blocks that memory cannot take

So a block there is a block like any other: pinned, read, sent to other nodes and freed in the same way.

    free       in ``ranges``; no disk blocks behind it
    backing    taken for a request, while ``Back`` reserves disk blocks
    taken      an extent or a block
    returning  freed, while ``Punch`` gives the disk blocks back

Pure: offsets and sizes only.
"""

from __future__ import annotations

from zray.store.header import ALIGN
from zray.store.node.arena import Arena
from zray.store.node.records import Back, Effect, Punch, Waiting


class Overflow:
    """Ranges of the file; ``out`` is the store table's."""

    def __init__(self, start: int, size: int, out: list[Effect]):
        self.start = start
        self.size = size // ALIGN * ALIGN
        self._ranges = Arena(self.size)
        if self.size:
            self._ranges.grow(self.size)
        self._backing: dict[int, tuple[int, Waiting | None]] = {}  # offset -> (size, request; None: it was cancelled)
        self._returning: dict[int, int] = {}  # offset -> size
        self._out = out

    @property
    def used_bytes(self) -> int:
        """Bytes that are not free."""
        return self.size - self._ranges.free_bytes

    def holds(self, offset: int) -> bool:
        return offset >= self.start

    def take(self, request: Waiting) -> bool:
        """Begin to make room for a request; ``backed`` follows.  False when there is none."""
        at = self._ranges.allocate(request.size) if self.size else None
        if at is None:
            return False
        offset = self.start + at
        self._backing[offset] = request.size, request
        self._out.append(Back(offset, request.size))
        return True

    def backed(self, offset: int, error: str) -> Waiting | None:
        """The disk blocks are there, or not: the request that may use the range; None when nobody wants it.

        With ``error`` the range is free again.
        """
        size, request = self._backing.pop(offset)
        if error:
            self._ranges.free(offset - self.start, size)
        elif request is None:
            self.release(offset, size)
        return request

    def cancel(self, unwanted: object, client: bytes) -> None:
        """Forget the requests for this object, or of this client."""
        for offset, (size, request) in self._backing.items():
            if request is not None and (request.stored is unwanted if unwanted is not None
                                        else request.stored is None and request.client == client):
                self._backing[offset] = size, None

    def release(self, offset: int, size: int) -> None:
        """A range is not used any more; ``returned`` follows."""
        self._returning[offset] = size
        self._out.append(Punch(offset, size))

    def returned(self, offset: int) -> None:
        self._ranges.free(offset - self.start, self._returning.pop(offset))

    def held(self) -> list[tuple[int, int]]:
        """Ranges that are no extent and no block: free, backing or returning."""
        return [*((self.start + at, size) for at, size in self._ranges.ranges()),
                *((offset, size) for offset, (size, _) in self._backing.items()), *self._returning.items()]

    def check(self) -> None:
        self._ranges.check()
