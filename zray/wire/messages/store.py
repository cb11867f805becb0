"""The object store of a node and its clients, and objects on their way between nodes.  Codes 100-139.

An object is named by ``oid, node, generation``: the node that holds (or held) its primary copy, and the generation
there.  A value ``[STORED, offset, nbytes, generation, oid, node]`` holds the same.
"""

from __future__ import annotations

from zray.wire.messages.base import Message, message


@message(100)
class StoreWant(Message):
    """Client -> node: a request for an extent of at least ``nbytes``.  Answered by StoreGrant or StoreRefused."""

    request: int
    nbytes: int


@message(101)
class StoreSurrender(Message):
    """Client -> node: these extents ([[offset, size], ...]) are the node's, with the sealed objects in them."""

    recall: int  # number of the StoreRecall that this answers, 0 for unasked
    extents: list


@message(102)
class StoreFree(Message):
    """Owner -> node -> ``node``: no reference to these objects ([[oid, offset, generation], ...]) is left.

    ``node`` holds their primary copies; b"" is the node of the owner.
    """

    objects: list
    node: bytes = b""


@message(103)
class StoreRestore(Message):
    """Client -> node: the object is not at the place in its value; where is it now?  Answered by StoreRestored."""

    request: int
    oid: bytes
    offset: int
    generation: int


@message(104)
class StoreKeep(Message):
    """Client -> node: so many nodes are to keep a copy of this object, with this one.  Answered by StoreKept."""

    request: int
    value: list
    copies: int


@message(110)
class StoreGrant(Message):
    """Node -> client: this range of the arena, formatted as one free block, is the client's until recalled."""

    request: int
    offset: int
    size: int


@message(111)
class StoreRefused(Message):
    """Node -> client: no room.  ``report``: reason, capacity, used ... and the holders."""

    request: int
    report: dict


@message(112)
class StoreRecall(Message):
    """Node -> client: give back extents, ``nbytes`` of them if possible (0: only those idle since the last recall)."""

    recall: int
    nbytes: int


@message(113)
class StoreReclaimed(Message):
    """Node -> client: these blocks of its extents are free and unpinned, and may be used again."""

    offsets: list[int]


@message(114)
class StoreRestored(Message):
    """Node -> client: the object's wire value now; an empty list when it is gone, for the reason in ``error``."""

    request: int
    value: list
    error: str = ""


# ------------------------------------------------------------ a client and its node, about objects of other nodes

@message(115)
class StorePull(Message):
    """Client -> node: bring this object of another node.  Answered by StoreRestored, with the place of the copy."""

    request: int
    value: list


@message(116)
class StorePulling(Message):
    """Node -> client, now and then while it waits for a StorePull: how far it is.  Once for a StoreWant: no room."""

    request: int
    text: str


@message(117)
class StoreLocate(Message):
    """Client -> node: which nodes have copies of these values (at most 10,000)?  Answered by StoreLocated."""

    request: int
    values: list


@message(118)
class StoreLocated(Message):
    """For each value asked for, a list of incarnations, and whether it has been on this node's disk."""

    request: int
    nodes: list
    spilled: list


@message(119)
class StoreCollect(Message):
    """Node -> client: the store runs full.  Cycles of garbage may hold references: collect them."""


@message(105)
class StoreKept(Message):
    """Node -> client: so many nodes keep the object now.  Less than were asked for: too few nodes can have it yet."""

    request: int
    copies: int


# ------------------------------------------------------------ objects of owners that have ended

@message(131)
class AskHeld(Message):
    """The node that has these objects -> all nodes -> their processes: which do you hold?  See zray.node.jobs.unheld.

    ``again``: the second of the two questions of that number.
    """

    asker: bytes
    number: int
    again: bool
    oids: list[bytes]
    owners: list[bytes]  # processes that had to free the objects; the asked node must have heard of their ends
    ends: list  # [[node, ends of its processes that it had announced to the asked one], ...]


@message(132)
class Held(Message):
    """The answer: the held objects; to the second question, those held at any time since the first.

    ``unsure``: the reason why this answer cannot be relied on, '' when it can.
    """

    asker: bytes
    number: int
    again: bool
    held: list[bytes]
    unsure: str
    ends: list  # of a node: [[other node, ends of processes that it has heard of], ...]


# ------------------------------------------------------------ between nodes

@message(120)
class PullObject(Message):
    """A node that wants an object -> a node that has it, or is receiving it.

    Answered by Chunks, PullElsewhere, PullRefused or PullWait.  ``pull`` numbers this attempt in all that follows.
    """

    pull: int
    oid: bytes
    node: bytes
    generation: int
    offset: int  # at the primary's node
    chunks: list[int]  # to begin with
    have: int  # chunks that it has, when others pull from it; -1 when none does
    avoid: list[bytes]  # nodes that it has tried in vain


@message(121)
class PullChunk(Message):
    """Send further chunks; ``received`` of this attempt have arrived."""

    pull: int
    chunks: list[int]
    received: int


@message(122)
class PullEnd(Message):
    """The attempt is over: the object is complete, or comes from elsewhere."""

    pull: int


@message(123)
class Chunk(Message):
    pull: int
    index: int
    checksum: int  # CRC-32
    data: bytes


@message(124)
class PullElsewhere(Message):
    """The node serves enough others: ask one of these, which have the object or are receiving it."""

    pull: int
    nodes: list[bytes]


@message(125)
class PullRefused(Message):
    """The attempt is over.  ``code``: see zray.store.transfer.machine."""

    pull: int
    code: int
    why: str


@message(126)
class PullWait(Message):
    """The object will take a while, because of ``why``."""

    pull: int
    why: str


@message(127)
class CopyMade(Message):
    """A node -> the node of the primary: it has a complete copy."""

    oid: bytes
    node: bytes
    generation: int


@message(128)
class CopyGone(Message):
    """A node -> the node of the primary: it has no copy any more."""

    oid: bytes
    node: bytes
    generation: int


@message(129)
class DropCopies(Message):
    """The node of the primaries (or, when that is dead, of the owner) -> nodes with copies: they were freed."""

    objects: list  # [[oid, node, generation], ...]


@message(130)
class KeepCopies(Message):
    """A node that leaves, or has a durable object -> another: bring and keep these.  CopyMade or CopyGone for each.

    ``objects``: [[oid, node, generation, offset, nbytes], ...], as in PullObject.  A sixth item is the number of nodes
    that are to keep this object.
    """

    objects: list
