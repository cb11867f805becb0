"""Bodies of frames: a flat msgpack array ``[code, fields, code, fields, ...]``, with caps on every length.

Decoding never runs code from the peer: no pickle, no extension types, and a cap on sizes and counts.  Whatever does
not decode into declared messages raises :class:`Malformed`, which the mesh counts and drops.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack

from zray.wire.messages import BY_CODE, FIELD_TYPES, SIGNATURES

FRAME_BYTES_MAX = 512 * 1024 * 1024
ITEMS_MAX = 4_000_000


class Malformed(ValueError):
    """Bytes that are not a body of declared messages."""


_tuple_new: Any = tuple.__new__  # skips the constructor and its defaults
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def encode(flat: list[Any]) -> bytes:
    """``[code, message, code, message, ...]`` to bytes; messages are named tuples declared in zray.wire.messages."""
    return _pack(flat)


def decode(body: bytes | memoryview) -> list[tuple[int, Any]]:
    """Bytes to ``[(code, message), ...]``.  Fields that newer peers appended are ignored, missing ones are defaults."""
    try:
        flat = msgpack.unpackb(
            body, raw=False, strict_map_key=False, use_list=True,
            max_str_len=16 * 1024 * 1024, max_bin_len=FRAME_BYTES_MAX,
            max_array_len=ITEMS_MAX, max_map_len=1_000_000, max_ext_len=0,
        )
    except Exception as error:  # msgpack raises half a dozen types on hostile bytes; all mean the same here
        raise Malformed(f"not msgpack: {error}") from None
    if type(flat) is not list or len(flat) & 1:
        raise Malformed("a body is a flat array of code and fields")
    out: list[tuple[int, Any]] = []
    pairs: Iterable[Any] = iter(flat)
    for code, fields in zip(pairs, pairs, strict=True):
        if type(code) is int and type(fields) is list:
            if code not in BY_CODE:
                continue  # a newer peer's message: skip it, as the versioned hello allows
            if tuple(map(type, fields)) == SIGNATURES[code]:
                out.append((code, _tuple_new(BY_CODE[code], fields)))
            else:
                out.append((code, typed(code, fields)))
        else:
            raise Malformed("a message is an integer code and an array of fields")
    return out


def typed(code: int, fields: list[Any]) -> Any:
    """The message with this code and these fields, every type checked; raises Malformed."""
    cls = BY_CODE.get(code)
    if cls is None:
        raise Malformed(f"no message has code {code}")
    types = FIELD_TYPES[code]
    for value, allowed in zip(fields, types):  # noqa: B905  (defaults fill the tail; newer peers append)
        if type(value) not in allowed:
            raise Malformed(f"{cls.__name__}: a field has type {type(value).__name__}")
    try:
        return cls(*fields[:len(types)])
    except TypeError as error:
        raise Malformed(f"{cls.__name__}: {error}") from None
