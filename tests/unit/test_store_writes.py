"""Large objects in memory that this process has not used are written through the file, the next time mapped."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from zray.store.client import WRITE_BYTES_MIN, Allocation
from zray.store.header import HEADER_BYTES, Headers
from zray.store.heap import Heap
from zray.store.segment import Segment

SIZE = 8 * WRITE_BYTES_MIN
CAPACITY = SIZE // 2  # as if another file were mapped behind it


class CountingSegment(Segment):
    written = 0

    def write(self, start, data):
        self.written += len(data)
        super().write(start, data)


@pytest.fixture
def client():
    arena = CountingSegment(f"zray-test-{os.getpid()}-writes", create=True, size=SIZE)
    raw = memoryview(arena.map)
    headers = Headers(memoryview(arena.map))
    heap = Heap(headers)
    yield SimpleNamespace(arena=arena, raw=raw, headers=headers, heap=heap, capacity=CAPACITY)
    raw.release()
    headers.release()
    arena.unlink()
    arena.close()


def write(client, size):
    """Write an object of a small and a large piece; whether the file was used, and what is there."""
    before = client.arena.written
    offset, extent = client.heap.allocate(size)
    allocation = Allocation(client, offset, size, 1, client.heap.cold(offset, extent))
    head, body = b"head" * 4, os.urandom(size - 64)
    allocation.write([(0, head), (64, memoryview(body))])
    allocation._release()
    client.heap.sealed(offset)
    start = offset + HEADER_BYTES
    assert client.raw[start : start + 16] == head and client.raw[start + 64 : start + size] == body
    return offset, client.arena.written > before


def extent(client, offset, size):
    client.headers.format(offset, size)
    client.heap.add_extent(offset, size)


def test_the_first_use_goes_through_the_file_and_later_ones_through_the_mapping(client):
    extent(client, 0, CAPACITY)
    for through_file in (True, False, False):
        offset, used_file = write(client, 2 * WRITE_BYTES_MIN)
        assert used_file == through_file
        client.heap.free(offset)
    assert client.heap.extents[0].touched >= 2 * WRITE_BYTES_MIN, "mapped since the second use"
    client.heap.check()


def test_the_rest_of_an_extent_is_first_used_later(client):
    extent(client, 0, CAPACITY)
    assert write(client, WRITE_BYTES_MIN + 64)[1]
    assert write(client, WRITE_BYTES_MIN + 64)[1]
    client.heap.check()


def test_small_objects_and_those_in_the_overflow_file_are_mapped(client):
    extent(client, 0, CAPACITY)
    extent(client, CAPACITY, CAPACITY)
    assert not write(client, WRITE_BYTES_MIN // 4)[1]
    first, used_file = write(client, 3 * WRITE_BYTES_MIN)
    assert used_file == (first < CAPACITY)
    second, used_file = write(client, 3 * WRITE_BYTES_MIN)
    assert used_file == (second < CAPACITY) and {first < CAPACITY, second < CAPACITY} == {True, False}


def test_a_write_through_the_file_goes_on_after_a_part(client, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: whole(fd, data[: 1 + len(data) // 2], at))
    data = os.urandom(10_000)
    client.arena.write(4096, data)
    assert client.raw[4096 : 4096 + len(data)] == data
