"""What a session promises, one sentence a test.  tests/model/test_session_model.py does the hostile network."""

from __future__ import annotations

import pytest

from zray.transport.session import EPOCH_SHIFT, Session

ONE = 1 << EPOCH_SHIFT  # epoch 1


def send(session: Session, frame: bytes, now: float = 0.0) -> int:
    sequence = session.next_sequence()
    session.retain(frame, now)
    return sequence


def test_frames_in_order_come_out_one_by_one() -> None:
    a, b = Session(1), Session(1)
    for frame in (b"x", b"y", b"z"):
        assert list(b.receive(send(a, frame), frame)) == [frame]
    assert b.owed == 3 and b.ack() == ONE + 3 and b.owed == 0


def test_early_frames_wait_for_the_missing_one() -> None:
    b = Session(1)
    assert list(b.receive(ONE + 2, b"2")) == []
    assert list(b.receive(ONE + 3, b"3")) == []
    assert list(b.receive(ONE + 1, b"1")) == [b"1", b"2", b"3"]
    b.check()


def test_a_duplicate_is_dropped_and_acknowledged_at_once() -> None:
    b = Session(1)
    b.receive(ONE + 1, b"1")
    b.ack()
    assert list(b.receive(ONE + 1, b"1")) == []
    assert b.duplicates == 1 and b.ack_due(0.0)


def test_the_reorder_buffer_is_bounded() -> None:
    b = Session(1, frames_max=4)
    for early in range(2, 100):
        assert list(b.receive(ONE + early, b"x")) == []
        b.check()
    assert b.refused == 94


def test_credit_bounds_frames_and_bytes_and_comes_back_with_acks() -> None:
    a = Session(1, frames_max=2, bytes_max=100)
    last = [send(a, b"x"), send(a, b"y")][-1]
    assert not a.can_send()
    a.on_ack(last, 0.0)
    assert a.can_send() and a.unacked() == 0
    send(a, b"x" * 100)
    assert not a.can_send()


def test_an_ack_for_what_was_never_sent_is_ignored() -> None:
    a = Session(1)
    send(a, b"x")
    a.on_ack(ONE + 2, 0.0)
    assert a.unacked() == 1
    a.check()


def test_the_oldest_frame_is_sent_again_after_a_time_out_that_doubles() -> None:
    a = Session(1, resend_s=1.0)
    send(a, b"x", 0.0)
    send(a, b"y", 0.5)
    assert a.due() == 1.0 and a.tick(0.9) is None
    assert a.tick(1.0) == b"x" and a.tick(1.5) is None
    assert a.due() == 3.0 and a.tick(3.0) == b"x" and a.due() == 7.0


def test_a_partial_ack_during_a_repair_sends_the_next_gap_at_once() -> None:
    a = Session(1, resend_s=1.0)
    for frame in (b"1", b"2", b"3"):
        send(a, frame)
    assert a.tick(1.0) == b"1"
    assert a.on_ack(ONE + 1, 1.1) == b"2"
    assert a.on_ack(ONE + 3, 1.2) is None


def test_an_ack_goes_alone_after_half_a_window_or_the_delay() -> None:
    b = Session(1, frames_max=4, ack_delay_s=0.2)
    b.receive(ONE + 1, b"1")
    assert not b.ack_due(0.1) and b.ack_due(0.2)
    b.receive(ONE + 2, b"2")
    assert b.ack_due(0.0)


def test_a_restart_numbers_unacknowledged_frames_anew_and_old_ones_are_stragglers() -> None:
    a, b = Session(1), Session(1)
    first = send(a, b"1")
    b.receive(first, b"1")
    send(a, b"2")
    a.on_ack(first, 0.0)
    assert a.restart(5) == [b"2"]
    again = send(a, b"2")
    assert list(b.receive(again, b"2")) == [b"2"] and b.newest_epoch() == 5
    assert list(b.receive(first + 1, b"2")) == []
    a.on_ack(first + 1, 0.0)  # of the old stream
    assert a.unacked() == 1
    with pytest.raises(ValueError, match="not newer"):
        a.restart(5)
    a.check()
    b.check()
