"""Large transfers in parts, by several threads (zray.base.parts)."""

from __future__ import annotations

import errno
import mmap
import os
import threading

import pytest

from zray.base import os_linux, parts
from zray.base.parts import PART_BYTES_MIN, PARTS_MAX, in_parts
from zray.store.segment import Segment


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(3)))


def parts_of(length):
    found = []
    in_parts(length, lambda start, size: found.append((start, size, threading.current_thread())))
    return sorted(found, key=lambda part: part[:2])


@pytest.mark.parametrize("length", [0, 1, PART_BYTES_MIN, 2 * PART_BYTES_MIN - 1, 2 * PART_BYTES_MIN,
                                    3 * PART_BYTES_MIN + 12345, 100_000_000])
def test_the_parts_are_the_whole_and_begin_at_pages(length):
    found = parts_of(length)
    end = 0
    for start, size, _ in found:
        assert start == end and start % mmap.PAGESIZE == 0
        end += size
    assert end == length
    assert len(found) == max(1, min(3, length // PART_BYTES_MIN))
    assert len({thread for *_, thread in found}) == len(found), "a thread each"


def test_no_more_threads_than_cores_or_than_the_memory_feeds(monkeypatch):
    for cores, count in ((1, 1), (2, 2), (64, PARTS_MAX)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        assert len(parts_of(100 * PART_BYTES_MIN)) == count


def test_without_threads_the_caller_does_it_all(monkeypatch):
    class NoThread(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(parts.threading, "Thread", NoThread)
    found = parts_of(3 * PART_BYTES_MIN)
    assert sum(size for _, size, _ in found) == 3 * PART_BYTES_MIN
    assert {thread for *_, thread in found} == {threading.current_thread()}


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_of_any_part_is_raised_when_all_have_ended(failing):
    ended = []

    def work(start, size):
        if start // PART_BYTES_MIN == failing:
            raise OSError(errno.ENOSPC, "full")
        ended.append(start)

    with pytest.raises(OSError, match="full"):
        in_parts(3 * PART_BYTES_MIN, work)
    assert len(ended) == 2


def test_an_interrupt_waits_for_the_other_parts():
    released, done = threading.Event(), []

    def work(start, size):
        if start == 0:
            released.set()
            raise KeyboardInterrupt
        released.wait()
        done.append(start)

    with pytest.raises(KeyboardInterrupt):
        in_parts(3 * PART_BYTES_MIN, work)
    assert len(done) == 2


def test_a_reservation_that_fails_in_one_part_gives_back_the_others(monkeypatch):
    segment = Segment(f"zray-test-{os.getpid()}-parts", create=True, size=4 * PART_BYTES_MIN)
    try:
        reserve = os_linux.reserve

        def full_in_the_middle(fd, start, length):
            if start == PART_BYTES_MIN:
                raise OSError(errno.ENOSPC, "full")
            reserve(fd, start, length)

        monkeypatch.setattr(os_linux, "reserve", full_in_the_middle)
        with pytest.raises(OSError, match="full"):
            segment.reserve(0, 3 * PART_BYTES_MIN)
        assert os.fstat(segment.fd).st_blocks == 0
        monkeypatch.setattr(os_linux, "reserve", reserve)
        segment.reserve(0, 3 * PART_BYTES_MIN)
        assert os.fstat(segment.fd).st_blocks * 512 == 3 * PART_BYTES_MIN
        data = os.urandom(3 * PART_BYTES_MIN - 5)
        segment.write(3, data)
        assert memoryview(segment.map)[3 : 3 + len(data)] == data
    finally:
        segment.unlink()
        segment.close()
