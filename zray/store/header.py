"""The 64 bytes before every object in the arena.

    bytes 0-7    size of the block, header included, a multiple of 64: the next header starts there
    bytes 8-15   generation << 8 | state: the *state word*; sealing is one store to it
    bytes 16-23  size of the payload
    bytes 24-31  incarnation of the process that owned the object first; zeros: not known (a copy from another node)
    bytes 32-59  ObjectId

Every write that a reader or a walker depends on is one aligned 8-byte store, and the order of stores keeps the chain
of blocks whole at every instruction, because the writer may be killed at any of them.

One process at a time may write a state word.  The client that holds the extent writes it until the object is sealed.
The node writes it once the owner has reported that no reference is left.  After the node has handed the block back, it
is the client's again.  An object that never left its process is the client's all along.
"""

from __future__ import annotations

from collections.abc import Iterator

from zray.base.named_tuples import NamedTuple

HEADER_BYTES = 64
ALIGN = 64
OBJECT_ID_BYTES = 28
OWNER_UNKNOWN = bytes(8)  # owner of a copy from another node
GENERATION_BITS = 56

FREE, CREATED, SEALED, EVICTING = 0, 1, 2, 3
STATE_NAMES = ("free", "created", "sealed", "evicting")


def block_bytes(nbytes: int) -> int:
    """Size of the block for a payload of ``nbytes``.

    Small blocks round up to 1/16 of their power of two, so that objects of nearly one size reuse each other's
    blocks; from 1 MiB on they round up to whole pages.
    """
    size = HEADER_BYTES + max(nbytes, 1)
    grain = max(ALIGN, 1 << (size.bit_length() - 5)) if size < 1 << 20 else 4096
    return -(-size // grain) * grain


class Block(NamedTuple):
    """The fields of a header; ``offset`` is where the header lies."""

    offset: int
    size: int
    state: int
    generation: int
    nbytes: int
    oid: bytes
    owner: bytes


class BrokenChain(Exception):
    """A header that no writer of ours left; ``offset`` is where the walk ended."""

    def __init__(self, offset: int, why: str):
        super().__init__(f"the header at {offset} is broken: {why}")
        self.offset = offset


class Headers:
    """Headers of blocks in a writable buffer."""

    __slots__ = ("raw", "words")

    def __init__(self, buffer: memoryview | bytearray):
        self.raw = memoryview(buffer).cast("B")
        self.words = self.raw.cast("Q")

    def release(self) -> None:
        self.words.release()
        self.raw.release()

    def format(self, offset: int, size: int) -> None:
        """One free block of ``size``.  Also a split (the tail first, then ``resize`` the front) and a merge."""
        at = offset >> 3
        self.words[at + 1] = FREE
        self.words[at] = size

    def resize(self, offset: int, size: int) -> None:
        self.words[offset >> 3] = size

    def create(self, offset: int, nbytes: int, generation: int, oid: bytes, owner: int = 0) -> None:
        """``owner``: its incarnation as one little-endian word."""
        at = offset >> 3
        words = self.words
        words[at + 2] = nbytes
        words[at + 3] = owner
        self.raw[offset + 32 : offset + 60] = oid
        words[at + 1] = generation << 8 | CREATED

    def set_state(self, offset: int, generation: int, state: int) -> None:
        self.words[(offset >> 3) + 1] = generation << 8 | state

    def free(self, offset: int) -> None:
        self.words[(offset >> 3) + 1] = FREE

    def matches(self, offset: int, oid: bytes, generation: int) -> int:
        """The state of this very object at ``offset``; FREE when something else (or nothing) is there.

        The generation alone names the object: no two allocations of a session share one.  ``oid``, or a prefix of it
        from callers that do not know all of it, is checked on top.
        """
        if not 0 <= offset <= len(self.raw) - HEADER_BYTES or offset % ALIGN:
            return FREE
        word = self.words[(offset >> 3) + 1]
        if word >> 8 != generation or self.raw[offset + 32 : offset + 32 + len(oid)] != oid:
            return FREE
        return word & 0xFF

    def read(self, offset: int) -> Block:
        at = offset >> 3
        words = self.words
        word = words[at + 1]
        return Block(offset, words[at], word & 0xFF, word >> 8, words[at + 2],
                     bytes(self.raw[offset + 32 : offset + 60]), bytes(self.raw[offset + 24 : offset + 32]))

    def walk(self, offset: int, size: int) -> Iterator[Block]:
        """All blocks of an extent, in order; BrokenChain when the headers do not add up."""
        end = offset + size
        while offset < end:
            block = self.read(offset)
            if block.size < ALIGN or block.size % ALIGN or offset + block.size > end:
                raise BrokenChain(offset, f"block of {block.size} bytes, {end - offset} left")
            if block.state > EVICTING:
                raise BrokenChain(offset, f"state {block.state}")
            if block.state != FREE and block.nbytes > block.size - HEADER_BYTES:
                raise BrokenChain(offset, f"payload of {block.nbytes} in a block of {block.size}")
            yield block
            offset += block.size
