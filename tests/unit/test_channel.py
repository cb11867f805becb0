"""Channels: messages of any size arrive in order at every reader; the end of a process is the end of its channels."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest
from hypothesis import given, strategies as st

from zray.channels.channel import (
    INLINE_BYTES_MAX,
    ChannelClosed,
    ChannelTimeout,
    Listener,
    Reader,
    Writer,
    connect,
)

SLOTS = 3


def pair(readers=1, slots=SLOTS, slot_bytes=4096):
    """A writer and its readers in this process."""
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(readers)]
    for _, there in ends:
        there.setblocking(False)
    return Writer([here for here, _ in ends], slots, slot_bytes), [Reader(there, slots) for _, there in ends]


def write(writer, data, kind=0):
    def fill(target):
        target[:] = data
    writer.write(len(data), fill, kind)


def close(writer, readers):
    writer.close()
    for reader in readers:
        reader.close()


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


sizes = st.sampled_from([0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 4096, 4097, 100_000])
steps = st.lists(st.one_of(st.tuples(st.just("write"), sizes), st.tuples(st.just("read"), st.integers(0, 1))),
                 max_size=40)


@given(steps)
def test_each_reader_gets_every_message_in_order(steps):
    """The oracle is a queue for each reader.  A message is written when every reader has read the one in its slot."""
    before = descriptors()
    writer, readers = pair(readers=2)
    queues: list[list[tuple[bytes, int]]] = [[], []]
    written = 0
    for step, argument in steps:
        if step == "write" and max(map(len, queues)) < SLOTS:
            message = bytes([written % 251]) * argument, written % 2
            write(writer, *message)
            for queue in queues:
                queue.append(message)
            written += 1
        elif step == "read" and queues[argument]:
            assert readers[argument].read(time.monotonic() + 10) == queues[argument].pop(0)
    for reader, queue in zip(readers, queues):
        for message in queue:
            assert reader.read(time.monotonic() + 10) == message
        with pytest.raises(ChannelTimeout):
            reader.read(time.monotonic())
    close(writer, readers)
    assert descriptors() == before


def test_a_slot_is_used_again_and_grows_only_for_larger_messages():
    writer, (reader,) = pair(slots=1)
    sent = []
    for nbytes in (2000, 4000, 4096, 9000, 2000, 9000):
        write(writer, b"x" * nbytes)
        sent.append(id(writer._slots[0]))
        assert reader.read()[0] == b"x" * nbytes
    assert len(set(sent[:3])) == 1 and len(set(sent[3:])) == 1, "4096 bytes at first, then 16384"
    assert len(writer._slots[0]) == 16384
    close(writer, [reader])


def test_the_memory_of_a_channel_has_no_name():
    before = set(os.listdir("/dev/shm"))
    writer, (reader,) = pair()
    write(writer, b"x" * 100_000)
    assert set(os.listdir("/dev/shm")) == before
    close(writer, [reader])


def test_what_was_written_before_the_end_is_read_and_then_the_end():
    writer, (reader,) = pair()
    write(writer, b"last")
    write(writer, b"x" * 5000, 1)
    writer.close()
    assert [reader.read(), reader.read()] == [(b"last", 0), (b"x" * 5000, 1)]
    with pytest.raises(ChannelClosed):
        reader.read()
    reader.close()


def test_a_writer_whose_reader_is_gone_gets_the_end():
    writer, (reader,) = pair()
    reader.close()
    with pytest.raises(ChannelClosed):
        write(writer, b"x")
    writer.close()


def test_a_message_that_arrives_in_pieces_is_waited_for():
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    there.setblocking(False)
    reader, (spare, spare_reader) = Reader(there, SLOTS), socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    write(Writer([spare], SLOTS, 4096), b"hello")
    whole = spare_reader.recv(1 << 16)
    for piece in whole[:3], whole[3:17]:
        here.sendall(piece)
        with pytest.raises(ChannelTimeout):
            reader.read(time.monotonic())
    here.sendall(whole[17:])
    assert reader.read() == (b"hello", 0)
    for one in (here, spare, spare_reader, reader):
        one.close()


def test_readers_listen_and_writers_connect_in_any_order(tmp_path):
    listener = Listener(str(tmp_path))
    sockets = {number: connect(listener.path, number) for number in (7, 3)}
    readers = listener.accept([3, 7], SLOTS, 10)
    listener.close()
    assert os.listdir(tmp_path) == []
    for number, one in sockets.items():
        writer = Writer([one], SLOTS, 4096)
        write(writer, b"%d" % number)
        assert readers[number].read() == (b"%d" % number, 0)
        writer.close()
        readers[number].close()
    with pytest.raises(ChannelClosed):
        connect(listener.path, 1)


def test_a_writer_that_does_not_come_is_named(tmp_path):
    listener = Listener(str(tmp_path))
    first = connect(listener.path, 1)
    with pytest.raises(ChannelTimeout, match=r"\[2\] were not connected in 0.05 s"):
        listener.accept([1, 2], SLOTS, 0.05)
    listener.close()
    first.close()


def test_a_blocked_reader_wakes_at_the_end():
    writer, (reader,) = pair()
    ended = threading.Event()

    def read():
        with pytest.raises(ChannelClosed):
            reader.read()
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    writer.close()
    assert ended.wait(10)
    thread.join()
    reader.close()
