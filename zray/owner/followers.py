"""Followers: tasks that are pushed behind the tasks that make their arguments, to the same worker.  Pure.

A chain of tasks would cost a round trip a link if its owner waited for each result.  So a WAITING task is pushed at
once, with the sequence numbers of its producers in the place of the arguments that are not ready, when

    each argument that is not ready is the result of a plain task of the same key, in flight on one lease
    the run-ahead has room, measured with the slowest of the task's function and those of its producers
    it would wait for all that is in flight there anyway;
      or no task of the key is queued and no lease of it is idle, so no worker could have begun something instead
    it was pushed like this less than FOLLOWS_MAX times: what comes back again and again costs a bounded amount

The first form of the third rule costs no parallelism at all.  The second form is for chains side by side and for
trees; it lets one task follow each producer, so the consumers of one object still spread over the workers.

    the worker                                              the task
    has the results of its producers                        runs
    lacks one: it failed, was cancelled, has references     "unproduced": WAITING, or QUEUED, or fails with its argument
    hands back, or dies                                     the same, and a retry is charged only if it ran
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from zray.owner.arrivals import Arrival
from zray.owner.failures import cancelled, first_failure
from zray.owner.locality import near_arguments
from zray.owner.records import PUSHED, WAITING, Entry, Key, Lease, Net, Task
from zray.owner.references import References
from zray.wire.messages import FAILED, STORED, LeaseKill

FOLLOWS_MAX = 3
CONSUMERS_SEEN = 8  # of one task at its push: an object may have a million


class _Submitter(Protocol):
    node: bytes
    net: Net
    waiting: int
    run_ahead_ns: int
    run_ahead_max: int

    def enqueue(self, task: Task) -> None: ...
    def fail(self, task: Task, failure: list[Any]) -> None: ...
    def push(self, lease: Lease, tasks: Iterable[Task]) -> None: ...
    def touch(self, key: Key) -> None: ...


class Followers:
    """See the module's docstring."""

    def __init__(self, submitter: _Submitter, refs: References):
        self._submitter = submitter
        self._refs = refs
        self.due: list[Lease] = []  # with candidates to look at in this turn
        self._forced: list[Task] = []  # cancelled by force while their arguments were on their way

    # ------------------------------------------------------------ candidates

    def offer(self, task: Task) -> None:
        """The task has begun to wait for arguments: its producers may be in flight already."""
        for record in task.deps or ():
            if record.value is None:
                maker = record.task
                if type(maker) is Task and maker.state == PUSHED and maker.key is task.key and maker.lease is not None:
                    maker.lease.candidates.append(task)
                    self.look(maker.lease)
                return

    def pushed(self, lease: Lease, tasks: Iterable[Task]) -> None:
        """These tasks are in flight now: their consumers may follow."""
        before = len(lease.candidates)
        for task in tasks:
            lease.candidates += consumers_of(task)
        if len(lease.candidates) > before:
            self.look(lease)

    def look(self, lease: Lease) -> None:
        """Look at the candidates of this lease at the end of the turn, when all leases were fed."""
        self.due.append(lease)
        self._submitter.touch(lease.key)

    # ------------------------------------------------------------ the push

    def push(self) -> None:
        """At the end of the pump: push the candidates that may follow."""
        while self.due:
            self._push_behind(self.due.pop())
        while self._forced:
            task = self._forced.pop()
            if task.state == PUSHED and task.lease is not None and first_failure(task.deps or []) is None:
                self._submitter.net.send(self._submitter.node, LeaseKill(task.lease.number, "cancelled by force"))

    def _push_behind(self, lease: Lease) -> None:
        candidates, lease.candidates = lease.candidates, []
        if not candidates or lease.paused or lease.recalled or lease.returned or lease.link.closed \
                or lease.death_notice is not None or lease.key.failed is not None \
                or lease.key.strategy.get("kind") == "spread":
            return
        held = len(lease.inflight)
        following: list[Task] = []
        opened = sum(seq >= lease.barrier for seq in lease.inflight)  # tasks that the next one may not wait for
        led: set[int] = set()  # sequence numbers of producers that have a follower now
        others_busy: bool | None = None
        for at, task in enumerate(candidates):  # it grows meanwhile
            makers = self._makers(task, lease)
            if makers is None or (depth := self._depth(task, makers)) < 2:
                continue
            if held + len(following) >= depth:
                lease.candidates, lease.refill_at = candidates[at:], depth // 2
                break
            numbers = [maker.seq for maker in makers]
            waits_for_all = sum(seq >= lease.barrier for seq in numbers) == opened
            if not waits_for_all:
                if others_busy is None:
                    others_busy = not lease.key.queue and all(other.inflight for other in lease.key.leases.values())
                if not others_busy or not led.isdisjoint(numbers):
                    continue
            led.update(numbers)
            task.state, task.lease, task.seq = PUSHED, lease, lease.next_seq + len(following)
            task.behind += 1
            self._submitter.waiting -= 1
            if waits_for_all:
                lease.barrier, opened = task.seq, 0
            opened += 1
            following.append(task)
            candidates += consumers_of(task)
        if following:
            self._submitter.push(lease, following)

    def _makers(self, task: Task, lease: Lease) -> list[Task] | None:
        """The tasks on this lease that make all missing arguments; None when the task may not follow them."""
        if task.state != WAITING or task.key is not lease.key or task.behind >= FOLLOWS_MAX \
                or task.fn.arguments_carry or not is_plain(task):
            return None
        makers: list[Task] = []
        missing = 0
        for record in task.deps or ():
            value = record.value
            if value is None:
                missing += 1
                maker = record.task
                if type(maker) is not Task or maker.state != PUSHED or maker.lease is not lease or maker.cancelling \
                        or not is_plain(maker):
                    return None
                if maker not in makers:
                    makers.append(maker)
            elif type(value) is list and (value[0] == FAILED or (
                    value[0] == STORED and self._refs.ends.nodes and value[5] in self._refs.ends.nodes)):
                return None
        if not makers or missing != task.missing:  # it waits for something else, too
            return None
        if (missing < len(task.deps or ()) or type(task.args) is list) and near_arguments(
                task, self._submitter.node, self._refs.ends.has_ended):
            return None
        return makers

    def _depth(self, task: Task, makers: list[Task]) -> int:
        """How many tasks may be in flight where this one goes; 0 while a run time is not known."""
        slowest = task.fn.run_ns
        for maker in makers:
            run_ns = maker.fn.run_ns
            if slowest is None or run_ns is None:
                return 0
            if run_ns > slowest:
                slowest = run_ns
        return min(self._submitter.run_ahead_max, self._submitter.run_ahead_ns // (slowest or 1))

    # ------------------------------------------------------------ what comes back

    def waits_again(self, task: Task) -> bool:
        """A task that was pushed behind others comes back: whether it may not be queued, because an argument is
        missing, or has failed."""
        task.state = WAITING
        if task.missing:
            self._submitter.waiting += 1
            return True
        failed = first_failure(task.deps or [])
        if failed is not None:
            self._submitter.enqueue(task)  # which fails it
        return failed is not None

    def unproduced(self, task: Task) -> None:
        """The worker did not start the task, because a result was not there."""
        task.lease = None
        if task.cancelling:
            self._submitter.fail(task, cancelled(task))
        elif not self.waits_again(task):
            if any(record.contained for record in task.deps or ()):
                task.fn.arguments_carry = True
            self._submitter.enqueue(task)

    def may_run_now(self, task: Task) -> None:
        """An argument of a task that was cancelled by force is there: if it was the last, end the task's worker."""
        if task.state == PUSHED and not task.missing:
            self._forced.append(task)
            self.look(task.lease)


def is_plain(task: Task) -> bool:
    """Whether the task has a fixed number of returns, and leaves its worker as it is."""
    extra = task.extra
    return task.nret > 0 and (extra is None or ("max_calls" not in extra and "durability" not in extra))


def consumers_of(task: Task) -> list[Task]:
    """Tasks that wait for a result of this one: the first few."""
    entry = task.entry
    if type(entry) is Entry:
        waiters = entry.waiters
    else:
        waiters = [waiter for each in entry or () for waiter in each.waiters or ()]
    return [waiter.task for waiter in waiters[:CONSUMERS_SEEN] if type(waiter) is Arrival] if waiters else []


def places(task: Task) -> list[int]:
    """``[position, sequence, index, ...]``: this argument is that return of the task with that sequence number."""
    found: list[int] = []
    for position, record in enumerate(task.deps or ()):
        if record.value is None:
            maker = record.task
            found += position, maker.seq, maker.entry.index(record) if type(maker.entry) is list else 0
    return found
