"""Bodies of frames: a flat msgpack array ``[code, fields, code, fields, ...]``, with caps on every length.

Decoding never runs code from the peer: no pickle, no extension types, and a cap on sizes and counts.  Whatever does
not decode into declared messages raises :class:`Malformed`, which the mesh counts and drops.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack

from zray.messages import BY_CODE, FIELD_TYPES, SIGNATURES

FRAME_BYTES_MAX = 512 * 1024 * 1024
ITEMS_MAX = 4_000_000


class Malformed(ValueError):
    """Bytes that are not a body of declared messages."""


_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def encode(flat: list[Any]) -> bytes:
    """``[code, message, code, message, ...]`` to bytes; messages are NamedTuples declared in zray.messages."""
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
        cls = BY_CODE.get(code) if type(code) is int else None
        if cls is None:
            if type(code) is int and type(fields) is list:
                continue  # a newer peer's message: skip it, as the versioned hello allows
            raise Malformed("a message is an integer code and an array of fields")
        if type(fields) is list and tuple(map(type, fields)) == SIGNATURES[code]:
            out.append((code, cls(*fields)))
            continue
        types = FIELD_TYPES[code]
        if type(fields) is not list:
            raise Malformed(f"{cls.__name__}: fields are an array")
        if len(fields) > len(types):
            del fields[len(types):]
        for value, allowed in zip(fields, types):  # noqa: B905  (defaults fill the tail)
            if type(value) not in allowed:
                raise Malformed(f"{cls.__name__}: a field has type {type(value).__name__}")
        try:
            out.append((code, cls(*fields)))
        except TypeError as error:
            raise Malformed(f"{cls.__name__}: {error}") from None
    return out
