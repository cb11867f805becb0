"""Tasks that an owner pushed and this worker has not started: the TaskQueue machine (pure).

    pushed --start--> running --finish--> gone
       |  \\--cancel (queued)--> gone
       \\----hand_back---------> gone

One thread, the executor's, starts tasks, without a lock: ``start`` is one ``deque.popleft``.  All other methods run
under the loop's lock and take entries from the right end, also with one atomic pop each.  So each entry is taken
once: it is started, handed back or cancelled, never two of these.  A lock for each task would cost as much as the
rest of the queue.

The owner numbers the tasks of each lease, and the numbers rise.  A push that repeats numbers is dropped, so a
second delivery does no harm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, repeat
from typing import Any

from zray.wire.messages import FAILED, STORED

TASK_ID, TASK_ATTEMPT, FUNCTION, ARGS, RETURNS, EXTRA = range(6)
# Replies of a lease that are kept after they were sent, for tasks that need their values (zray.worker.produced): the
# owner needs a fraction of a millisecond to get them, and to push no further task that names them.
SENT_KEPT = 4
SENT_BYTES_MAX = 64 * 1024  # of each


class ServedLease:
    """A lease of an owner on this worker, and the replies gathered for it."""

    __slots__ = ("owner", "number", "assigned", "env", "next", "ends", "spent_ns", "kept", "sent")

    def __init__(self, owner: bytes, number: int, assigned: dict | None = None, env: dict | None = None):
        self.owner = owner
        self.number = number
        self.assigned = assigned or {}
        self.env = env or {}
        self.next = 1  # the lowest sequence number not yet pushed
        self.ends: list[Any] = []  # [sequence, result, ...] not yet sent
        self.spent_ns = 0  # run time of the tasks in ``ends``
        self.kept: deque[list[Any]] | None = None  # of an actor's caller: replies that may be needed again
        self.sent: tuple[list[Any], ...] = ()  # the last parts of ``ends`` that were sent, if small

    def keep_sent(self, ends: list[Any]) -> None:
        """These replies are about to be sent."""
        if sum(map(_nbytes, ends[1::2])) <= SENT_BYTES_MAX:
            self.sent = (*self.sent[1 - SENT_KEPT:], ends)

    def __repr__(self) -> str:
        return f"ServedLease({self.owner.hex()}, {self.number}, next={self.next})"


def _nbytes(result: Any) -> int:
    """The size of a result; an error, which no task takes as an argument, is too large to keep."""
    if type(result) is bytes:
        return len(result)
    if type(result) is not list or not result or result[0] == STORED:
        return 0
    if result[0] == FAILED:
        return SENT_BYTES_MAX + 1
    return sum(map(_nbytes, result[1])) if result[0] == 0 else _nbytes(result[1])


class QueuedChunk:
    """One chunk of a map in the queue.

    Its items are claimed one by one: from the left by the thread that runs them, from the right by a hand-back.
    """

    __slots__ = ("task", "attempt", "function", "first", "count", "items", "payload", "star", "cancelled")

    def __init__(self, task: bytes, attempt: int, function: bytes, first: int, count: int, payload: Any, star: bool):
        self.task = task
        self.attempt = attempt
        self.function = function
        self.first = first
        self.count = count  # items not handed back
        self.payload = payload
        self.items: deque[Any] | None = None  # None until it starts: then the arguments not yet claimed
        self.star = star
        self.cancelled: set[int] = set()  # positions


# lease, sequence, and the work: a task (a list as in PushTasks), QueuedChunk, or CheckpointMark or Replayed of
# zray.worker.actors.logged
Entry = tuple[ServedLease, int, Any]


class TaskQueue:
    """The queued tasks with their leases, and the running task."""

    __slots__ = ("leases", "entries", "running")

    def __init__(self) -> None:
        self.leases: dict[tuple[bytes, int], ServedLease] = {}
        self.entries: deque[Entry] = deque()
        self.running: Entry | None = None

    def __len__(self) -> int:
        return len(self.entries)

    # ---- under the lock

    def open(self, owner: bytes, number: int, assigned: dict | None = None, env: dict | None = None) -> ServedLease:
        """The owner leased this worker (again).  Its older leases get no further tasks."""
        lease = self.leases.get((owner, number))
        if lease is None:
            lease = self.leases[owner, number] = ServedLease(owner, number, assigned, env)
            busy = {id(entry[0]) for entry in self.entries}
            if self.running is not None:
                busy.add(id(self.running[0]))
            for key, old in list(self.leases.items()):
                if key[0] == owner and old is not lease and id(old) not in busy and not old.ends:
                    del self.leases[key]
        elif assigned is not None:
            lease.assigned, lease.env = assigned, env or {}
        return lease

    def forget_leases(self) -> None:
        """The process becomes an actor: from now on numbers are lives, and may equal the number of an old lease."""
        assert not self.entries, "tasks are queued here"
        self.leases.clear()

    def push(self, owner: bytes, number: int, first: int, tasks: list[Any]) -> int:
        """Queue tasks ``first ...``; returns how many were new."""
        lease = self.leases.get((owner, number)) or self.open(owner, number)
        if first < lease.next:
            tasks = tasks[lease.next - first:]
            first = lease.next
        lease.next = first + len(tasks)
        self.entries.extend(zip(repeat(lease), count(first), tasks))  # noqa: B905
        return len(tasks)

    def push_chunk(self, owner: bytes, number: int, chunk: QueuedChunk) -> bool:
        """Queue one chunk of a map; False when it has come before."""
        lease = self.leases.get((owner, number)) or self.open(owner, number)
        if chunk.first < lease.next:
            return False
        lease.next = chunk.first + chunk.count
        self.entries.append((lease, chunk.first, chunk))
        return True

    def hand_back(self) -> dict[ServedLease, list[int]]:
        """Take out all tasks that have not started; returns their sequence numbers by lease, in order."""
        back: dict[ServedLease, list[int]] = {}
        for lease, sequence, task in self._drain():
            sequences = back.setdefault(lease, [])
            if type(task) is QueuedChunk:
                sequences.extend(range(sequence, sequence + task.count))
            else:
                sequences.append(sequence)
        running = self.running
        if running is not None and type(running[2]) is QueuedChunk:
            rest = split(running[2])
            if rest:
                back[running[0]] = list(rest) + back.get(running[0], [])
        return back

    def cancel(self, task: bytes, attempt: int) -> tuple[ServedLease, int] | None:
        """Take a queued task out; returns its lease and sequence, or None when it is not queued.

        A cancelled item of a chunk stays in its chunk, and is skipped when it is claimed.
        """
        found: tuple[ServedLease, int] | None = None
        kept: list[Entry] = []
        for entry in self._drain():
            work = entry[2]
            if found is None and type(work) is list and (
                    work[TASK_ID] == task and work[TASK_ATTEMPT] == attempt):
                found = entry[0], entry[1]
            else:
                kept.append(entry)
                if found is None and type(work) is QueuedChunk:
                    position = position_in(work, task, attempt)
                    if position is not None:
                        work.cancelled.add(position)
        self.entries.extend(kept)
        running = self.running
        if found is None and running is not None and type(running[2]) is QueuedChunk:
            position = position_in(running[2], task, attempt)
            if position is not None:
                running[2].cancelled.add(position)
        return found

    def forget_owners(self, has_ended: Callable[[bytes], bool]) -> None:
        """These owners have ended: forget their leases.  What they queued still runs, for what it does."""
        for key in [key for key in self.leases if has_ended(key[0])]:
            del self.leases[key]

    def _drain(self) -> list[Entry]:
        """Take all entries from the right, while the executor may take from the left."""
        taken: list[Entry] = []
        pop = self.entries.pop
        while True:
            try:
                taken.append(pop())
            except IndexError:
                taken.reverse()
                return taken

    # ---- the executor's thread, without the lock

    def start(self) -> Entry | None:
        """The next entry, which runs from now on; None when there is none."""
        assert self.running is None, "a task is running already"
        try:
            entry = self.entries.popleft()
        except IndexError:
            return None
        self.running = entry
        return entry

    def finish(self) -> None:
        """The running entry has ended."""
        self.running = None

    def queued(self) -> Iterator[tuple[ServedLease, int]]:
        """(lease, sequence) of every entry not started; for tests and views."""
        return ((entry[0], entry[1]) for entry in list(self.entries))

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        seen: dict[int, int] = {}
        entries = list(self.entries)
        if self.running is not None:
            entries.insert(0, self.running)
        for lease, sequence, task in entries:
            assert self.leases.get((lease.owner, lease.number), lease) is lease, "two records of one lease"
            assert sequence > seen.get(id(lease), 0), "sequence numbers do not rise"
            last = sequence + task.count - 1 if type(task) is QueuedChunk else sequence
            assert last < lease.next, "an entry beyond the lease's next sequence number"
            seen[id(lease)] = sequence


def split(chunk: QueuedChunk) -> range:
    """Claim all unclaimed items of a running chunk; returns their sequence numbers."""
    items = chunk.items
    if not items:
        return range(0)
    taken = 0
    end = chunk.first + chunk.count
    try:
        while True:
            items.pop()
            taken += 1
    except IndexError:
        pass
    chunk.count -= taken
    return range(end - taken, end)


def position_in(chunk: QueuedChunk, task: bytes, attempt: int) -> int | None:
    """The item of the chunk with this task id: ids of a map are consecutive in their last 8 bytes (zray.base.ids)."""
    if chunk.attempt != attempt or chunk.task[:16] != task[:16]:
        return None
    position = int.from_bytes(task[16:], "little") - int.from_bytes(chunk.task[16:], "little")
    return position if 0 <= position < chunk.count else None
