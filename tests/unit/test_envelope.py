"""The envelope's bytes are fixed: relays and older peers read them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from zray.transport import envelope

GOLDEN = bytes.fromhex(
    "5a01" "0200" "04030201" "4142434445464748" "6162636465666768"
    "0807060504030201" "100f0e0d0c0b0a09" "1716151413121110"
)
FIELDS = (2, 0x01020304, b"ABCDEFGH", b"abcdefgh", 0x0102030405060708, 0x090A0B0C0D0E0F10, 0x1011121314151617)
U64 = st.integers(0, 2**64 - 1)
PEER = st.binary(min_size=8, max_size=8)


def test_golden_bytes() -> None:
    assert envelope.SIZE == 48
    assert envelope.pack(*FIELDS) == GOLDEN
    assert envelope.parse(GOLDEN + b"body") == FIELDS


@given(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), PEER, PEER, U64, U64, U64))
def test_what_is_packed_is_parsed(fields: tuple[int, int, bytes, bytes, int, int, int]) -> None:
    assert envelope.parse(envelope.pack(*fields)) == fields


@pytest.mark.parametrize("frame", [b"", GOLDEN[:47], b"\x5b" + GOLDEN[1:], b"\x5a\x02" + GOLDEN[2:]])
def test_anything_else_is_malformed(frame: bytes) -> None:
    with pytest.raises(envelope.MalformedFrame):
        envelope.parse(frame)


@given(st.binary(max_size=100))
def test_random_bytes_never_raise_anything_else(frame: bytes) -> None:
    try:
        envelope.parse(frame)
    except envelope.MalformedFrame:
        pass
