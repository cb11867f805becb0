"""Messages of daemons that the nodes table has not told of yet."""

from __future__ import annotations

from zray.node.peers.early import EARLY_KEPT_S, EARLY_MESSAGES_MAX, EarlyMessages

ONE, OTHER = b"one_\0\0\0\0", b"othr\0\0\0\0"


def test_they_are_kept_in_order_until_their_daemon_is_known():
    early = EarlyMessages()
    for number, peer in enumerate((ONE, OTHER, ONE)):
        assert early.keep(peer, number, "said", 0.0)
    early.check()
    assert early.of({ONE, b"nobody"}) == [ONE]
    assert early.take(ONE) == [(0, "said"), (2, "said")] and early.take(ONE) == []
    assert early.of({ONE, OTHER}) == [OTHER]
    early.check()


def test_they_are_bounded_in_number_and_in_time():
    early = EarlyMessages()
    assert all(early.keep(ONE, 0, "said", 1.0) for _ in range(EARLY_MESSAGES_MAX))
    assert not early.keep(OTHER, 0, "said", 2.0)
    assert early.next_deadline() == 1.0 + EARLY_KEPT_S and not early.overdue(1.0)
    assert early.overdue(1.0 + EARLY_KEPT_S) == [ONE]
    early.take(ONE)
    assert early.next_deadline() is None and early.keep(OTHER, 0, "said", 3.0)
    early.check()
