"""Golden bytes of every message: what goes over the wire changes only on purpose.

``python tests/unit/test_messages.py --write`` rewrites tests/unit/golden_messages.txt; the diff is what reviewers read.
Fields are append-only with defaults, so a changed line that is not a pure extension breaks older peers.
"""

from __future__ import annotations

import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from zray.wire.codec import Malformed, decode, encode
from zray.wire.messages import BY_CODE, FIELD_TYPES

GOLDEN_FILE = Path(__file__).with_name("golden_messages.txt")


def sample(hint: Any, name: str, position: int) -> Any:
    """A value of a field's type that depends only on the field's name and place."""
    origin = typing.get_origin(hint) or hint
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return sample(typing.get_args(hint)[0], name, position)
    if origin is bool:
        return position % 2 == 0
    if origin is int:
        return 7 + position
    if origin is float:
        return position + 0.5
    if origin is str:
        return name
    if origin is dict:
        return {name: position}
    if origin in (list, tuple):
        inner = typing.get_args(hint)
        return [sample(inner[0], name, position)] if inner else [[name.encode(), position]]
    if hint is type(None):
        return None
    return name.encode()  # bytes and Any


def message_of(code: int) -> Any:
    cls = BY_CODE[code]
    hints = typing.get_type_hints(cls)
    return cls(*(sample(hints[name], name, i) for i, name in enumerate(cls._fields)))  # type: ignore[attr-defined]


def golden_lines() -> list[str]:
    return [f"{code} {BY_CODE[code].__name__} {encode([code, message_of(code)]).hex()}" for code in sorted(BY_CODE)]


def test_every_message_has_its_golden_bytes() -> None:
    written = GOLDEN_FILE.read_text().splitlines()
    assert golden_lines() == written, "wire bytes changed; on purpose? see the top of this file"


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_what_is_encoded_is_decoded(code: int) -> None:
    message = message_of(code)
    assert decode(encode([code, message, code, message])) == [(code, message), (code, message)]


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_older_and_newer_peers_are_understood(code: int) -> None:
    message = message_of(code)
    assert decode(encode([code, [*message, "a field of the future"]])) == [(code, message)]
    defaults = len(type(message)._field_defaults)
    if defaults:
        shorter = list(message)[:-defaults]
        assert decode(encode([code, shorter])) == [(code, type(message)(*shorter))]


@pytest.mark.parametrize("code", sorted(code for code in BY_CODE if FIELD_TYPES[code]))
def test_too_few_fields_are_malformed(code: int) -> None:
    required = len(FIELD_TYPES[code]) - len(BY_CODE[code]._field_defaults)  # type: ignore[attr-defined]
    if required:
        with pytest.raises(Malformed):
            decode(encode([code, list(message_of(code))[: required - 1]]))


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_a_field_of_a_wrong_type_is_malformed(code: int) -> None:
    for i, allowed in enumerate(FIELD_TYPES[code]):
        wrong = next((value for value in (b"", {}, 1, "") if type(value) not in allowed), None)
        if wrong is not None:
            fields = list(message_of(code))
            fields[i] = wrong
            with pytest.raises(Malformed):
                decode(encode([code, fields]))


def test_an_unknown_message_of_a_newer_peer_is_skipped() -> None:
    assert decode(encode([250, [1, 2]])) == []


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81\xa1a\x01", b"\x91\x01", b"\x92\xa1a\x90", b"\x92\xc3\x91\x01",
                                  b"\xdf\xff\xff\xff\xff", b"\xc7\x01\x01x", b"\x90\x90", b"\x92\x01" * 600])
def test_what_is_no_body_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode(body)


if __name__ == "__main__" and "--write" in sys.argv:
    GOLDEN_FILE.write_text("\n".join(golden_lines()) + "\n")
