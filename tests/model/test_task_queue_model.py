"""TaskQueue against the obvious: a list of what is queued, searched and filtered."""

from __future__ import annotations

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.worker import task_id
from zray.worker.queue import TASK_ATTEMPT, TASK_ID, QueuedChunk, TaskQueue, split

OWNERS = [b"owner-1-", b"owner-2-"]


class QueueModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.queue = TaskQueue()
        self.queued: list[tuple[bytes, int, int, object]] = []  # owner, lease, sequence, task or QueuedChunk
        self.next: dict[tuple[bytes, int], int] = {}
        self.lease = dict.fromkeys(OWNERS, 1)  # an owner pushes only on its newest lease
        self.running = None
        self.ids = 0
        self.fate: dict[tuple[bytes, int, int], str] = {}

    def end(self, owner, lease, sequence, how):
        key = owner, lease, sequence
        assert key not in self.fate, f"{key} had an end already: {self.fate[key]}, now {how}"
        self.fate[key] = how

    def fresh(self, n):
        self.ids += n
        return self.ids - n

    @rule(owner=st.sampled_from(OWNERS))
    def open(self, owner):
        self.lease[owner] += 1
        self.queue.open(owner, self.lease[owner])

    @rule(owner=st.sampled_from(OWNERS), n=st.integers(1, 4), again=st.integers(0, 3))
    def push(self, owner, n, again):
        """``again`` of the tasks were pushed before: they must not be queued twice."""
        lease = self.lease[owner]
        following = self.next.setdefault((owner, lease), 1)
        first = max(1, following - again)
        base = self.fresh(n)
        tasks = [[task_id(base + i), 0, b"f", b"", 1, None] for i in range(n)]
        new = max(0, first + n - following)
        assert self.queue.push(owner, lease, first, tasks) == new
        for i in range(n - new, n):
            self.queued.append((owner, lease, first + i, tasks[i]))
        self.next[owner, lease] = following + new

    @rule(owner=st.sampled_from(OWNERS), n=st.integers(1, 5))
    def push_chunk(self, owner, n):
        lease = self.lease[owner]
        first = self.next.setdefault((owner, lease), 1)
        chunk = QueuedChunk(task_id(self.fresh(n)), 0, b"f", first, n, b"", False)
        assert self.queue.push_chunk(owner, lease, chunk)
        again = QueuedChunk(chunk.task, 0, b"f", first, n, b"", False)
        assert not self.queue.push_chunk(owner, lease, again)
        self.queued.append((owner, lease, first, chunk))
        self.next[owner, lease] = first + n

    @precondition(lambda self: self.running is None)
    @rule()
    def start(self):
        entry = self.queue.start()
        if not self.queued:
            assert entry is None
            return
        owner, lease, sequence, task = self.queued.pop(0)
        assert (entry[0].owner, entry[0].number, entry[1], entry[2]) == (owner, lease, sequence, task)
        self.running = owner, lease, sequence, task
        if type(task) is QueuedChunk:
            from collections import deque

            task.items = deque(range(task.count))

    @precondition(lambda self: self.running is not None and type(self.running[3]) is QueuedChunk)
    @rule()
    def run_an_item(self):
        owner, lease, sequence, chunk = self.running
        if chunk.items:
            self.end(owner, lease, sequence + chunk.items.popleft(), "ran")

    @precondition(lambda self: self.running is not None)
    @rule()
    def finish(self):
        owner, lease, sequence, task = self.running
        if type(task) is QueuedChunk:
            while task.items:
                self.end(owner, lease, sequence + task.items.popleft(), "ran")
        else:
            self.end(owner, lease, sequence, "ran")
        self.queue.finish()
        self.running = None

    @rule()
    def hand_back(self):
        expected: dict[tuple[bytes, int], list[int]] = {}
        if self.running is not None and type(self.running[3]) is QueuedChunk:
            owner, lease, sequence, chunk = self.running
            if chunk.items:
                expected[owner, lease] = [sequence + i for i in chunk.items]
        for owner, lease, sequence, task in self.queued:
            count = task.count if type(task) is QueuedChunk else 1
            expected.setdefault((owner, lease), []).extend(range(sequence, sequence + count))
        got = {(lease.owner, lease.number): sequences for lease, sequences in self.queue.hand_back().items()}
        assert got == expected
        for (owner, lease), sequences in got.items():
            for sequence in sequences:
                self.end(owner, lease, sequence, "handed back")
        self.queued.clear()

    @rule(n=st.integers(0, 60), attempt=st.integers(0, 1))
    def cancel(self, n, attempt):
        wanted = task_id(n)
        found = next((e for e in self.queued if type(e[3]) is list and e[3][TASK_ID] == wanted
                      and e[3][TASK_ATTEMPT] == attempt), None)
        place = self.queue.cancel(wanted, attempt)
        if found is None:
            assert place is None
        else:
            assert (place[0].owner, place[0].number, place[1]) == found[:3]
            self.queued.remove(found)
            self.end(*found[:3], "cancelled")

    @rule(owner=st.sampled_from(OWNERS))
    def owner_gone(self, owner):
        self.queue.forget_owners(lambda other: other == owner)
        self.lease[owner] += 1
        assert all(key[0] != owner for key in self.queue.leases)

    @invariant()
    def agrees(self):
        self.queue.check()
        assert [(lease.owner, lease.number, sequence) for lease, sequence in self.queue.queued()] == [
            entry[:3] for entry in self.queued]


QueueModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestQueue = QueueModel.TestCase


def test_split_takes_what_nobody_claimed():
    from collections import deque

    chunk = QueuedChunk(task_id(0), 0, b"f", 10, 5, b"", False)
    assert split(chunk) == range(0), "it has not started"
    chunk.items = deque("abcde")
    chunk.items.popleft()
    assert list(split(chunk)) == [11, 12, 13, 14]
    assert chunk.count == 1 and not split(chunk)
