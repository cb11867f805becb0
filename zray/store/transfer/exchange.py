"""Shared parts of a transfer: the names of objects, the questions of the machine to its shell, and the limits.

The limits are counts of chunks, so the memory in flight is bounded by their product with CHUNK_BYTES, however large
objects are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.named_tuples import NamedTuple

# One chunk costs its node about a millisecond: 0.27 ms for the CRC-32 (3.8 GB/s), 0.1-0.2 for the copy out of or into
# the arena, 0.5 for packing and the socket; CURVE adds 2 ms in ZeroMQ's thread.  Smaller chunks cost messages; larger
# ones make every other message on the daemon's loop wait.
CHUNK_BYTES = 1024 * 1024
PULL_WINDOW = 8  # chunks of one object asked for ahead: 8 MiB covers 16 ms of round trip at 0.5 GB/s
FANOUT = 2  # nodes that one node serves the same object to at once: a binary tree, 1/2 of the link to each child
PULLS_MAX = 16  # objects on their way in at once
QUEUED_MAX = 100_000  # objects waiting for their turn
IN_CHUNKS_MAX = 32  # asked for and not here yet; each pull may always have one
OUT_CHUNKS_MAX = 64  # sent and not known to have arrived
SESSIONS_MAX = 1024  # served at once
STALL_S = 5.0  # without a chunk: ask another node.  Above the time in which a dead node is declared dead (3 s)
RESTORE_STALL_S = 60.0  # the same while the source waits for its disk or for room
GIVE_UP_S = 60.0  # without a chunk from any node
FIND_RETRY_S = 0.1
FINDS_MAX = 2  # looks into the control store after the primary's node died, each after twice the pause of the last
# After the death of a node, the others write the copies that they have within a turn and LOCATIONS_DELAY_S.  From then
# on one look is enough: a program that reads a thousand lost objects one by one waits for each look.
RECORDED_S = 1.0
SESSION_IDLE_S = 20.0  # a puller that is silent for so long has ended
BAD_SAME_MAX = 3  # copies of a chunk with a wrong checksum from one source
BAD_MAX = 12  # in one pull
AVOID_MAX = 32  # nodes tried in vain that a puller names
PROGRESS_S = 1.0
LOCATIONS_DELAY_S = 0.05  # changes of an object's locations gather for so long
ANNOUNCED_AT_ONCE = 256
ANNOUNCE_TRIES = 4  # of a copy whose primary is lost
FREE_AGAIN_S = (1.0, 5.0, 30.0)  # pauses between looks for copies of a freed object whose primary was lost
FREED_MAX = 4096  # frees of other nodes' objects that are remembered, in case the node dies before it acts on them
ASKED_AHEAD = 256  # objects that a leaving node asks others to keep and has no answer for: 16 pulls each of many heirs

# Codes of PullRefused.
FREED = 1  # the owner freed it: no node will have it
ABSENT = 2  # not here
BEHIND = 3  # being received here, and the puller has as much
STALE = 4  # this node does not know (any more) of this attempt
BUSY = 5


class ObjectKey(NamedTuple):
    """The name of an object, unique for ever: no two primaries of a node share a generation."""

    oid: bytes
    node: bytes  # of the primary copy
    generation: int


class SendToNode(NamedTuple):
    """Send to another node."""

    node: bytes
    message: Any


class RecordCopies(NamedTuple):
    """Write the nodes with copies of the object to the control store (no ``nodes``: delete the row)."""

    oid: bytes
    nodes: list[bytes]


class Find(NamedTuple):
    """Read the row; answer with ``machine.located(token, nodes)``."""

    token: int
    oid: bytes


class HandoverProgress(NamedTuple):
    """How far a leaving node is with the objects that only it has."""

    done: bool
    kept: int = 0
    kept_bytes: int = 0
    left: int = 0
    left_bytes: int = 0
    moved: int = 0  # chunks sent: grows as long as anything moves


class Finder:
    """Questions to the control store, and the callbacks that wait for their answers."""

    def __init__(self, out: list[Any]):
        self.out = out
        self._count = 0
        self._then: dict[int, Callable[[list[bytes], float], None]] = {}

    def find(self, oid: bytes, then: Callable[[list[bytes], float], None]) -> None:
        self._count += 1
        self._then[self._count] = then
        self.out.append(Find(self._count, oid))

    def located(self, token: int, nodes: list[bytes], now: float) -> None:
        then = self._then.pop(token, None)
        if then is not None:
            then(nodes, now)
