"""The waiter of a task or call at an argument that is not ready."""

from __future__ import annotations

from typing import Any, Protocol

from zray.owner.records import Task
from zray.wire.messages import STORED


class _Arrivals(Protocol):
    """Submitter or ActorCalls."""

    def arrived(self, task: Task, /) -> None: ...


class Arrival:
    """Tells the submitter of ``task`` that one of its arguments is ready."""

    __slots__ = ("submitter", "task")

    def __init__(self, submitter: _Arrivals, task: Task):
        self.submitter = submitter
        self.task = task

    def __call__(self, record: Any) -> None:
        value = record.value
        if type(value) is list and value[0] == STORED:
            record.escaped = True  # the task may run already, and read the value in the store (zray.owner.followers)
        self.submitter.arrived(self.task)
