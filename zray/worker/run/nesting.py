"""Decides which tasks may run inside the task that waits for them, and moves them from and to their owner (pure).

A task that this process owns and that has not started may run on the stack of a task that waits for it, if a separate
process would behave the same.  The conditions: the same resources, environment and strategy; no GPU, one return, no
max_calls; both tasks have retries left, because a crash charges the caller's attempt too.  zray.worker.run.inline adds
the conditions on stacks.
"""

from __future__ import annotations

from typing import Any

from zray.owner.records import QUEUED, Entry, Task
from zray.owner.submitter import Submitter
from zray.sched.resources import GPU, UNIT
from zray.worker.machine import WorkerMachine
from zray.worker.queue import EXTRA, QueuedChunk

# One level costs about ten frames of zray; the recursion limit is raised by the frames in use.
DEPTH_MAX = 32


class NestedTasks:
    """Tasks of this process that run inside others."""

    def __init__(self, machine: WorkerMachine, submitter: Submitter):
        self.machine = machine
        self.submitter = submitter
        self.depth = 0

    def is_possible(self) -> bool:
        """Whether another task may run on the stack of the running task."""
        machine = self.machine
        running = machine.queue.running
        if machine.actor is not None or self.depth >= DEPTH_MAX or running is None or type(running[2]) is QueuedChunk:
            return False
        extra = running[2][EXTRA]
        return not (extra and extra.get("last_attempt"))

    def task_of(self, record: Any) -> Task | None:
        """The task that makes a missing value, if it may run here."""
        if record.value is not None or type(record) is not Entry:
            return None
        task = record.task
        return task if type(task) is Task and task.state == QUEUED and self._fits(task) else None

    def _fits(self, task: Task) -> bool:
        key = task.key
        if key is None or task.nret != 1 or task.stream is not None or task.cancelling or task.retries == 0:
            return False
        if task.extra and ("max_calls" in task.extra or "durability" in task.extra):
            return False
        lease = self.machine.lease
        assert lease is not None
        demand = {name: units / UNIT for name, units in key.demand.items()}
        return GPU not in demand and demand == lease.assigned.get("resources") and key.env == lease.env \
            and _same_place(key.strategy, lease.assigned.get("group"))

    def take(self, task: Task) -> list[Any] | None:
        """Take the task out of its owner's queue, in wire form; None when it has started elsewhere (under the lock)."""
        if not self.submitter.take_queued(task):
            return None
        self.depth += 1
        self.submitter.inline.append(task)
        extra = task.extra
        if task.deps is not None:
            extra = {**(extra or {}), "deps": [record.value for record in task.deps]}
        return [task.tid, task.attempt, task.fn.key, task.args, task.nret, extra]

    def finish(self, task: Task, result: Any) -> None:
        self.depth -= 1
        self.submitter.inline.remove(task)
        self.submitter.finish(task, result, None)


def _same_place(strategy: dict[str, Any], group: list[Any] | None) -> bool:
    """Whether the strategy allows the place of the parent, which is bundle [group, index, capture]."""
    if not strategy or group is None:
        return not strategy and group is None
    return strategy == {"kind": "group", "group": group[0], "bundle": strategy.get("bundle"), "capture": group[2]} \
        and strategy["bundle"] in (-1, group[1])
