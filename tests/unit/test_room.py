"""StartRoom: when another worker may start."""

from __future__ import annotations

from itertools import count

import pytest

from zray.node.processes.memory import Reading
from zray.node.processes.pool import Kind, State, WorkerPool
from zray.node.processes.room import MEMORY_READ_S, SLOW_MARGIN, STOP_MARGIN, TRICKLE_S, WORKER_BYTES, StartRoom

GIB = 1 << 30
LIMIT = 100 * GIB
SHARE_MAX = 0.95


class Memory:
    """A room over readings that a test sets."""

    def __init__(self, share=0.0):
        self.reads = 0
        self.readings = [Reading(int(share * LIMIT), LIMIT, "memory of the machine")]
        self.room = StartRoom(self.read, SHARE_MAX)

    def read(self):
        self.reads += 1
        return self.readings

    def set(self, share):
        self.readings = [Reading(int(share * LIMIT), LIMIT, "memory of the machine")]

    def start(self, now, starting=0, is_needed=False):
        """Start workers at ``now`` until none may, at most 100; their number."""
        for begun in range(100):
            if not self.room.may_start(starting + begun, lambda: is_needed, now):
                return begun
            self.room.started(now)
        return 100


def test_with_much_memory_workers_start_and_the_memory_is_looked_at_now_and_then():
    memory = Memory(0.5)
    assert memory.start(0.0) == 100 and memory.reads == 1
    assert memory.start(MEMORY_READ_S / 2) == 100 and memory.start(MEMORY_READ_S) == 100 and memory.reads == 2
    assert memory.room.next_deadline() is None and memory.room.why_short == ""


def test_workers_that_start_count_before_the_memory_shows_them():
    memory = Memory()
    memory.readings = [Reading(int((SHARE_MAX - SLOW_MARGIN) * LIMIT) - 5 * WORKER_BYTES, LIMIT, "x")]
    assert memory.start(0.0) == 4 + 1, "four at once, and the first of those that come one by one"


def test_above_the_first_bound_they_start_one_by_one_and_above_the_second_none_does():
    memory = Memory(SHARE_MAX - SLOW_MARGIN)
    assert [memory.start(0.0), memory.start(TRICKLE_S / 2), memory.start(TRICKLE_S)] == [1, 0, 1]
    assert memory.room.next_deadline() == TRICKLE_S + MEMORY_READ_S
    assert memory.room.why_short == "85.0 GiB of 100.0 GiB are in use (memory of the machine)"
    memory.set(SHARE_MAX - STOP_MARGIN)
    assert memory.start(10.0) == 0 and memory.room.next_deadline() == 10.0 + MEMORY_READ_S
    assert memory.start(10.0, is_needed=True) == 100
    memory.set(0.5)
    assert memory.start(11.0) == 100 and memory.room.next_deadline() is None


def test_the_limit_that_is_nearest_decides():
    memory = Memory(0.1)
    memory.readings += [Reading(GIB - 1, GIB, "limit of a group")]
    assert memory.start(0.0) == 0 and "limit of a group" in memory.room.why_short


# ---------------------------------------------------------------- the pool


KIND = Kind.of(1, {})


class Pool:
    """A pool over a full memory whose workers are ready as soon as they start."""

    def __init__(self, keep, share):
        self.memory, self.now, self.numbers = Memory(share), 0.0, count(1)
        self.pool = WorkerPool(lambda: next(self.numbers).to_bytes(28, "little"), lambda effect: None, keep=keep,
                               workers_max=1000, idle_s=10.0, room=self.memory.room,
                               may_retire=lambda worker: True, is_over=lambda job: False)

    def take(self, number):
        worker = self.pool.take(KIND, number, self.now)
        if worker is not None:
            self.pool.use(worker, State.LEASED, number, self.now)
        self.settle()

    def settle(self):
        for worker in list(self.pool.workers.values()):
            for token, served in self.pool.ready(worker.incarnation, "e", self.now):
                self.pool.use(served, State.LEASED, token, self.now)
        self.pool.check()

    @property
    def leased(self):
        return [worker for worker in self.pool.workers.values() if worker.state is State.LEASED]


@pytest.mark.parametrize(("keep", "some"), [(3, 3), (0, 1)])
def test_a_node_has_its_usual_workers_however_full_the_memory_is(keep, some):
    node = Pool(keep, 1.0)
    for number in range(6):
        node.take(number)
    assert len(node.leased) == some and "in use" in node.pool.limit()
    due = node.pool.next_deadline()
    assert due == MEMORY_READ_S
    node.memory.set(0.1)
    node.now = due
    node.pool.tick(due)
    node.settle()
    assert len(node.leased) == 6 and not node.pool.limit()


def test_workers_that_wait_for_others_do_not_count_as_usual_ones():
    node = Pool(1, 1.0)
    for number in range(4):
        node.take(number)
        node.leased[-1].blocked = True
        node.pool.tick(node.now)
        node.settle()
    assert len(node.leased) == 4


def test_a_worker_that_becomes_free_serves_what_waits():
    node = Pool(1, 1.0)
    for number in range(2):
        node.take(number)
    [worker] = node.leased
    [(token, served)] = node.pool.release(worker, node.now)
    assert (token, served) == (1, worker)
