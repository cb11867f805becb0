"""Records of the store's table, and its effects for the shell."""

from __future__ import annotations

from enum import Enum
from typing import Any

from zray.base.named_tuples import NamedTuple

FULL_REASON = "full: "  # how the error of a StoreRestored begins when there was no room
DISK_FULL_REASON = "disk full: "  # ... and when the disk had none either


class SendToClient(NamedTuple):
    client: bytes
    message: Any


class Grow(NamedTuple):
    """Back ``[start, start + size)`` of the arena with memory; answer with ``room.grown``."""

    start: int
    size: int


class Back(NamedTuple):
    """Reserve disk blocks for ``[start, start + size)`` of the overflow; answer with ``room.backed``."""

    start: int
    size: int


class Punch(NamedTuple):
    """Give the disk blocks of this part of the overflow back; answer with ``room.returned``."""

    start: int
    size: int


class SpillObject(NamedTuple):
    """Write the payload of an object to file ``key``; answer with ``table.spilled``."""

    key: int
    generation: int
    offset: int  # of the payload
    nbytes: int


class Load(NamedTuple):
    """Read file ``key`` to the payload at ``offset``; answer with ``table.loaded``."""

    key: int
    generation: int
    offset: int
    nbytes: int


class UnlinkFile(NamedTuple):
    """Delete file ``key``."""

    key: int


class Arriving(NamedTuple):
    """There is room for the copy that ``table.receive`` asked for; fill it, then ``table.arrived``."""

    generation: int


class Dropped(NamedTuple):
    """A copy from another node has left the table (or never came in), and ``why``."""

    generation: int
    why: str


class Freed(NamedTuple):
    """An object that other nodes know of was freed by its owner."""

    oid: bytes
    generation: int


Effect = SendToClient | Grow | Back | Punch | SpillObject | Load | UnlinkFile | Arriving | Dropped | Freed


class Phase(Enum):
    """Where an object of the store is.  It leaves the table when it is freed and no longer pinned.

        HERE -> WRITING -> LEAVING -> DISK -> QUEUED -> LOADING -> HERE
                              |                  (HERE again when a reader pinned it, or asked for it, in time)

    A secondary copy is QUEUED first, LOADING while its chunks arrive; evicted it goes from LEAVING out of the table.
    """

    HERE = "in memory"
    WRITING = "being written to disk"  # still readable
    LEAVING = "being evicted"  # marked; waits for the grace and for its pins
    DISK = "on disk"
    QUEUED = "waiting for room"
    LOADING = "being read from disk"


class StoredObject:
    """An object in no client's extent: its creator gave the extent back, or died; or it came from another node.

    ``owner``: the process that owned it first; UNKNOWN if it came from another node.
    """

    __slots__ = ("foreign", "freed", "generation", "key", "nbytes", "offset", "oid", "on_disk", "owner", "phase",
                 "secondary", "size", "waiters")

    def __init__(self, key: int, oid: bytes, generation: int, offset: int, size: int, nbytes: int, owner: bytes):
        self.key = key
        self.oid = oid
        self.owner = owner
        self.generation = generation
        self.offset = offset  # of the block, -1 while it has none
        self.size = size
        self.nbytes = nbytes
        self.phase = Phase.HERE
        self.on_disk = False  # objects never change, so a file once written stays good
        self.freed = False
        self.foreign = False  # it came from another node
        self.secondary = False  # the primary is on another node: evicted before anything is spilled, without a file
        self.waiters: list[tuple[bytes, int]] = []  # (client, request) of StoreRestore


class ExtentGrant(NamedTuple):
    client: bytes
    offset: int
    size: int


class Client:
    """A connected core process."""

    __slots__ = ("grants", "next_bytes", "recalled_at")

    def __init__(self, next_bytes: int):
        self.grants: set[int] = set()
        self.next_bytes = next_bytes  # size of its next small extent
        self.recalled_at = -1.0  # when an unanswered recall was sent


class Eviction:
    """A block marked as evicting, until its pins are gone."""

    __slots__ = ("due", "generation", "offset", "oid", "tries")

    def __init__(self, offset: int, oid: bytes, generation: int, due: float):
        self.due = due
        self.offset = offset
        self.oid = oid
        self.generation = generation
        self.tries = 0


class Waiting:
    """A request for room: an extent for a client, or a block for ``stored`` to be read, or to arrive, in."""

    __slots__ = ("client", "deadline", "last", "refusal", "request", "size", "stored", "is_reported")

    def __init__(self, client: bytes, request: int, size: int, stored: StoredObject | None, deadline: float,
                 last: float):
        self.client = client
        self.request = request
        self.size = size
        self.stored = stored
        self.deadline = deadline  # moves while memory comes free
        self.last = last  # does not move
        self.is_reported = False  # the client knows that there is no room
        self.refusal = ""  # why neither memory nor the disk has taken it so far
