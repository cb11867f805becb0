"""Which node a task's arguments make it prefer."""

from __future__ import annotations

from zray.owner.locality import LOCALITY_BYTES_MIN, preferred
from zray.wire.messages import STORED

HOME, A, B = b"home\0\0\0\0", b"aaaa\0\0\0\0", b"bbbb\0\0\0\0"


def stored(node: bytes, nbytes: int) -> list:
    return [STORED, 0, nbytes, 1, b"o" * 28, node]


def test_the_node_with_most_bytes_is_preferred_and_the_amount_is_rounded_up() -> None:
    assert preferred([stored(A, 150_000), b"inline", stored(B, 400_000), stored(A, 300_000)], HOME) == (A, 1 << 19)


def test_nothing_is_preferred_when_home_has_as_much_or_little_would_be_gained() -> None:
    assert preferred([stored(A, 10**6), stored(HOME, 10**6)], HOME) is None
    assert preferred([stored(A, LOCALITY_BYTES_MIN - 1)], HOME) is None
    assert preferred([b"inline", [2, "task_error", b""]], HOME) is None
    assert preferred([], HOME) is None
