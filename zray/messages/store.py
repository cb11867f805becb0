"""The object store of a node and its clients.  Codes 100-139."""

from __future__ import annotations

from zray.messages.base import Message, message


@message(100)
class StoreWant(Message):
    """Client -> node: an extent of at least ``nbytes``, please.  Answered by StoreGrant or StoreRefused."""

    request: int
    nbytes: int


@message(101)
class StoreSurrender(Message):
    """Client -> node: these extents ([[offset, size], ...]) are yours, with the sealed objects in them."""

    recall: int  # number of the StoreRecall that this answers, 0 for unasked
    extents: list


@message(102)
class StoreFree(Message):
    """Owner -> node: no reference to these objects ([[oid, offset, generation], ...]) is left."""

    objects: list


@message(103)
class StoreRestore(Message):
    """Client -> node: the object is not where its value says; where is it now?  Answered by StoreRestored."""

    request: int
    oid: bytes
    offset: int
    generation: int


@message(110)
class StoreGrant(Message):
    """Node -> client: this range of the arena, formatted as one free block, is yours until recalled."""

    request: int
    offset: int
    size: int


@message(111)
class StoreRefused(Message):
    """Node -> client: no room.  ``report``: reason, capacity, used ... who holds what."""

    request: int
    report: dict


@message(112)
class StoreRecall(Message):
    """Node -> client: give back extents, ``nbytes`` of them if you can (0: only those idle since the last recall)."""

    recall: int
    nbytes: int


@message(113)
class StoreReclaimed(Message):
    """Node -> client: these blocks of your extents are free and unpinned, use them again."""

    offsets: list[int]


@message(114)
class StoreRestored(Message):
    """Node -> client: the object's wire value now; an empty list when it is gone, and ``error`` says why."""

    request: int
    value: list
    error: str = ""
