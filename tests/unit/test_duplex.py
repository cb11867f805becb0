"""A pair of rings between two processes: offered, taken, rung, killed."""

from __future__ import annotations

import mmap
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from zray.channels.duplex import DuplexAnswer, DuplexOffer, Refused
from zray.channels.ring import RING_SLOTS, WRITTEN, WRITTEN_FOR_A_SLEEPER

WAIT_S = 20


def readable(thing):
    poll = select.poll()
    poll.register(thing.fileno(), select.POLLIN)
    return bool(poll.poll(WAIT_S * 1000))


@pytest.fixture
def pair(tmp_path: Path):
    offer = DuplexOffer(str(tmp_path / "c-1.sock"))
    answer = DuplexAnswer(offer.path)
    ours, theirs = offer.accept(), answer.receive()
    offer.close()
    yield ours, theirs
    ours.close()
    theirs.close()
    assert not os.listdir(tmp_path), "a path is left"


def test_frames_go_both_ways_and_a_sleeper_is_woken(pair):
    ours, theirs = pair
    for one, other in ((ours, theirs), (theirs, ours)):
        assert one.writer.put(b"first") == WRITTEN_FOR_A_SLEEPER and one.wake()
        assert readable(other) and other.woken() and other.reader.take() == b"first"
        assert one.writer.put(b"second") == WRITTEN and other.reader.take() == b"second"
        assert other.reader.may_block()


def test_the_end_of_one_side_shows_at_the_other_and_its_frames_are_still_there(pair):
    ours, theirs = pair
    theirs.writer.put(b"last words")
    theirs._socket.shutdown(socket.SHUT_RDWR)
    assert readable(ours) and not ours.woken() and ours.reader.take() == b"last words"
    assert not ours.wake()


def test_wake_ups_that_nobody_takes_are_bounded(pair):
    ours, theirs = pair
    for _ in range(10_000):
        assert ours.wake()
    while theirs.woken() and select.select([theirs], [], [], 0)[0]:
        pass


def test_an_offer_of_something_else_is_refused(tmp_path):
    with pytest.raises(Refused):
        DuplexAnswer(str(tmp_path / "nobody"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "c-2.sock"))
    listener.listen(4)
    plain = os.memfd_create("plain")
    os.ftruncate(plain, mmap.PAGESIZE)
    for what, handles in ((b"nonsense", []), (b"zrd1\0\0\0\0", []), (b"zrd1\0\0\0\0", [plain]), (b"", [])):
        answer = DuplexAnswer(str(tmp_path / "c-2.sock"))
        connection, _ = listener.accept()
        if what:
            socket.send_fds(connection, [what], handles)
        connection.close()
        with pytest.raises(Refused):
            answer.receive()
    os.close(plain)
    listener.close()


def test_without_descriptors_nothing_comes_of_an_offer(tmp_path):
    offer = DuplexOffer(str(tmp_path / "c-1.sock"))
    answer = DuplexAnswer(offer.path)
    assert readable(offer)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        for attempt in (offer.accept, lambda: DuplexAnswer(offer.path)):
            with pytest.raises(Refused):
                attempt()
        resource.setrlimit(resource.RLIMIT_NOFILE, (_free_descriptor() + 1, hard))
        with pytest.raises(Refused):  # the connection gets the last one, the memory none
            offer.accept()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with pytest.raises(Refused):
        answer.receive()
    offer.close()


def _free_descriptor() -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1:] * 2)
    free = os.dup(0)
    os.close(free)
    return free


_ECHO = """
import select, sys
from zray.channels.duplex import DuplexAnswer
answer = DuplexAnswer(sys.argv[1])
select.select([answer], [], [])
duplex = answer.receive()
reader, writer = duplex.reader, duplex.writer
while True:
    frame = reader.take()
    if frame is None:
        if reader.may_block():
            select.select([duplex], [], [])
            if not duplex.woken():
                break
        continue
    done = writer.put(frame)
    while not done:
        done = writer.put(frame)
    if done == 2:
        duplex.wake()
"""


@pytest.mark.parametrize("kill_after", [None, 1, 50, 333])
def test_another_process_echoes_every_frame_until_it_is_killed(tmp_path, kill_after):
    offer = DuplexOffer(str(tmp_path / "c-1.sock"))
    process = subprocess.Popen([sys.executable, "-c", _ECHO, offer.path])
    try:
        assert readable(offer)
        duplex = offer.accept()
        offer.close()
        sent = got = 0
        ended = False
        while got < 2000 and not ended:
            if kill_after is not None and got == kill_after and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
            if sent < got + RING_SLOTS - 1 and sent < 2000:
                done = duplex.writer.put(b"%d" % sent * (1 + sent % 300))
                sent += bool(done)
                if done == WRITTEN_FOR_A_SLEEPER:
                    duplex.wake()
            frame = duplex.reader.take()
            if frame is not None:
                assert frame == b"%d" % got * (1 + got % 300), "a frame is missing, torn, or of another round"
                got += 1
            elif select.select([duplex], [], [], 0)[0]:
                ended = not duplex.woken() and duplex.reader.take() is None
        assert ended == (kill_after is not None)
        duplex.close()
    finally:
        process.kill()
        process.wait()
    assert not os.listdir(tmp_path)
