"""The task that runs on a thread, and the ids of its child tasks and puts."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from zray.base import ids

PARENTS_MAX = 1000  # of one report; a report goes ten times a second


class Context(threading.local):
    """The task that runs on this thread; ``task`` is the parent of everything that it submits."""

    task = b""
    attempt = 0
    task_name = ""
    function: Any = (b"", None)  # a task that ran the general way, and its function
    actor = b""
    job = 0
    assigned: dict[str, Any] = {}
    receiver = b""  # the owner of the running task
    prefix_of: Any = None
    prefix = b""
    counter = 0
    inside: Any = None  # the borrowed object whose value is being unpickled


class TaskIds:
    """Ids of tasks and puts: a prefix, then a counter.

    Each attempt of a parent task has a prefix, and so has each thread that runs no task.
    """

    def __init__(self) -> None:
        self.job_bytes = bytes(ids.JOB_SIZE)
        self.root_task = b""
        self._threads = 0
        # (prefix, task): the ids of a task's children have that prefix; taken by the reports of a worker
        self.parents: deque[list[bytes]] = deque(maxlen=PARENTS_MAX)

    def set_job(self, job: int) -> None:
        """Ids made from now on carry this job."""
        self.job_bytes = ids.JobID.from_int(job).binary()
        self.root_task = ids.task_id(self.job_bytes + ids.random_bytes(12), 0)

    def next(self, context: Context) -> bytes:
        """The next task id of the thread of ``context`` (under the lock)."""
        if context.prefix_of is not context.task:
            context.prefix_of = context.task
            context.counter = 0
            if context.task:
                context.prefix = ids.task_prefix(self.job_bytes, context.task, context.attempt)
                self.parents.append([context.prefix, context.task])
            else:
                self._threads += 1  # a thread of the driver, or one that user code started
                context.prefix = ids.task_prefix(self.job_bytes, self.root_task, self._threads)
        context.counter += 1
        return context.prefix + context.counter.to_bytes(8, "little")
