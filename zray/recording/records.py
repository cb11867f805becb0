"""What a record file holds (pure): its records, and their frames.

A file is RECORDING_MAGIC, then frames: length (4 bytes), CRC-32 of the body (4 bytes), the body, which is
``[CODE, *fields]`` in msgpack.  A process that is killed leaves at most one frame that is cut off, the last one.

A *piece* is one serialised value (zray.values.serialization): what it is, or as much of it as the limits allow.

A file begins with an About.  A *run* is one attempt of a task, one item of a map, a constructor or a call of an actor:
RunStarted, what the user's code asked of zray while it ran (Asked, Item), RunEnded.  Runs are numbered by process, from
1; run 0 is all code outside of runs: that of the driver.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct
from typing import Any

import msgpack

from zray.base.named_tuples import NamedTuple

RECORDING_MAGIC = b"zray record 1\n"
RECORD_FORMAT = 1
RECORD_SUFFIX = ".zrec"
_DIGEST_SIZE = 16
_FRAME = Struct("<II")


def digest_of(payload: bytes | memoryview) -> bytes:
    return blake2b(payload, digest_size=_DIGEST_SIZE).digest()


class Piece(NamedTuple):
    """A value.

    ``payload`` is None when the value is larger than the limit.  ``oid``: the object that it was, if it lay in a store.
    ``failure``: it is no value but an error, in wire form.
    """

    digest: bytes
    nbytes: int
    payload: bytes | None = None
    oid: bytes = b""
    failure: list[Any] | None = None


class About(NamedTuple):
    """The process: ``facts`` has its versions, place and limits by name."""

    facts: dict[str, Any]


class Definition(NamedTuple):
    """A pickled function or class."""

    key: bytes
    name: str
    blob: bytes


class Randomness(NamedTuple):
    """A state of a random generator; ``source`` is "random" or "numpy"."""

    number: int
    source: str
    state: bytes


class Seen(NamedTuple):
    """The value of an object that this process has read."""

    oid: bytes
    piece: Piece


class RunStarted(NamedTuple):
    """``function``: the key of a function or class, or the name of a method.  ``kind`` is one of those below.

    ``slots`` and ``deps`` are the places and values of arguments that were references.  ``random`` has the numbers of
    the states of ``random`` and ``numpy.random``, 0 for none.  ``options`` is what else the run depends on.
    """

    number: int
    kind: str
    task: bytes
    attempt: int
    name: str
    function: Any
    returns: int
    args: Piece
    slots: list[Any]
    deps: list[Piece]
    actor: bytes
    life: int
    random: list[int]
    time_ns: int
    options: dict[str, Any]


class RunEnded(NamedTuple):
    """``pieces`` are its returns in order; ``failure`` is its error in wire form; neither when it ended its process."""

    number: int
    pieces: list[Piece]
    failure: list[Any] | None
    items: int  # of a streaming generator; -1 for other runs
    took_ns: int


class Asked(NamedTuple):
    """User code called zray: ``what`` it asked, and the ``answer``; ``error`` is a pickled exception, else b""."""

    run: int
    kind: str
    what: list[Any]
    answer: Any
    error: bytes


class Item(NamedTuple):
    """An item that a streaming generator has made."""

    run: int
    position: int
    piece: Piece


class LimitReached(NamedTuple):
    """The limit of bytes is reached: this process recorded nothing after it."""

    bytes_max: int


PLAIN_TASK, ITEM_OF_MAP, CONSTRUCTOR, ACTOR_CALL = ("task", "item", "constructor", "call")
# Their order is part of the format.
_BY_CODE: dict[int, Any] = dict(enumerate(
    (About, Definition, Randomness, Seen, RunStarted, RunEnded, Asked, Item, LimitReached), 1))
_CODES = {kind: code for code, kind in _BY_CODE.items()}
# Fields that hold pieces, which msgpack gives back as lists.
_PIECE_FIELDS = {"piece": False, "args": False, "deps": True, "pieces": True}


def encode(record: Any) -> bytes:
    """The frame of a record."""
    body = msgpack.packb([_CODES[type(record)], *record], use_bin_type=True)
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def _decode(body: bytes | memoryview) -> Any:
    code, *fields = msgpack.unpackb(body, raw=False, strict_map_key=False)
    kind = _BY_CODE[code]
    record = kind(*fields)
    changed = {}
    for name, several in _PIECE_FIELDS.items():
        if name in kind._fields:
            value = getattr(record, name)
            changed[name] = [Piece(*each) for each in value] if several else Piece(*value)
    return record._replace(**changed) if changed else record


class NoRecord(ValueError):
    """A file is no record file, or one of another format."""


class Frames:
    """The records in the bytes of a file, as far as they are whole; ``damage`` then says what follows them."""

    def __init__(self, data: bytes | memoryview):
        self._data = memoryview(data)
        self.damage = ""
        if bytes(self._data[:len(RECORDING_MAGIC)]) != RECORDING_MAGIC:
            raise NoRecord("it does not begin as a record of this version of zray does")

    def __iter__(self) -> Iterator[Any]:
        data, at = self._data, len(RECORDING_MAGIC)
        while at < len(data):
            start, body = at, at + _FRAME.size
            if body > len(data):
                self.damage = f"its last record, at byte {start}, is cut off"
                return
            length, checksum = _FRAME.unpack_from(data, at)
            at = body + length
            if at > len(data):
                self.damage = f"its last record, at byte {start}, is cut off"
                return
            if zlib.crc32(data[body:at]) != checksum:
                self.damage = f"the record at byte {start} is damaged, so what follows it is not read"
                return
            try:
                record = _decode(data[body:at])
            except (ValueError, TypeError, KeyError) as error:
                self.damage = f"the record at byte {start} cannot be read: {type(error).__name__}: {error}"
                return
            yield record
