"""Unfinished objects of owners that died are made by the process that adopts them.  Pure.

    adopted, with a recipe    the task waits for its arguments, and for the fence: no attempt of the earlier owners runs
    fenced                    the task runs as a task of this process, charged one retry
    another return of it      joins the task if that has not ended; else the task runs once more

The fence is an answer of all nodes (zray.node.leases.fences).  An attempt gets a number that no other owner uses, so
that its child tasks have ids of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zray.base import ids
from zray.owner.arrivals import Arrival
from zray.owner.records import DONE, WAITING, Entry, Function, Key, Record, Task
from zray.owner.references import References
from zray.owner.unmade import UnmadeTask

OWNERS_KEPT = 1024  # of which it is known that they are fenced
TASKS_KEPT = 4096  # of earlier owners' tasks
LIFE_SHIFT = 16  # attempts of one owner are fewer than 2 ** 16


class _Submitter(Protocol):
    """The tasks of this process."""

    waiting: int

    def key_for(self, key: Any, demand: dict, env: dict, strategy: dict, name: str) -> Key: ...
    def arrived(self, task: Task) -> None: ...


class Remaking:
    """See the module's docstring.

    ``fence(owner, then)`` asks all nodes; ``then()`` when no attempt of that owner's tasks runs or will run.
    """

    def __init__(self, submitter: _Submitter, refs: References, fence: Callable[[bytes, Callable[[], None]], None]):
        self.submitter = submitter
        self.refs = refs
        self.fence = fence
        self.tasks: dict[bytes, Task] = {}  # tasks of earlier owners, the oldest first
        self.owners: dict[bytes, list[bytes]] = {}  # the same -> their earlier owners
        self.functions: dict[bytes, Function] = {}
        self.fenced: dict[bytes, None] = {}
        self.asked: dict[bytes, list[Task]] = {}  # owner -> tasks that wait for its fence
        self.started = 0

    def before(self, task: bytes) -> list[bytes]:
        """The earlier owners of a task of this process."""
        return self.owners.get(task, [])

    def make(self, entry: Entry, recipe: list[Any], inputs: list[Record], owner: bytes, life: int) -> None:
        """Make a pending object that this process has adopted from ``owner``.  ``inputs`` are pinned for its task."""
        how = UnmadeTask(*recipe)
        task = self.tasks.get(how.task)
        if task is not None and task.state != DONE:
            self.refs.unpin_all(inputs)
            self._join(task, entry)
            return
        task = self._task(entry, how, inputs, life)
        task.missing = 1  # until all is asked for
        self.submitter.waiting += 1
        for record in task.deps or ():
            if not self.refs.when_ready(record, Arrival(self.submitter, task)):
                task.missing += 1
        owners = dict.fromkeys([*how.owners, owner])
        self._remember(task, list(owners))
        for each in owners:
            if each not in self.fenced:
                task.missing += 1
                self._ask(each, task)
        self.started += 1
        self.submitter.arrived(task)

    def _join(self, task: Task, entry: Entry) -> None:
        """A further return of a task that this process makes already."""
        entry.task = task
        entries = task.entry if type(task.entry) is list else [task.entry]
        at = next((i for i, other in enumerate(entries) if other.oid == entry.oid), None)
        assert at is not None and entries[at].refs == 0, "an object is adopted twice"
        if type(task.entry) is list:
            task.entry[at] = entry
        else:
            task.entry = entry

    def _task(self, entry: Entry, how: UnmadeTask, inputs: list[Record], life: int) -> Task:
        key = self.submitter.key_for(("adopted", repr(how.key)), *how.key)
        fn = self.functions.get(how.function)
        if fn is None:  # its workers read it from the control store
            fn = self.functions[how.function] = Function(how.function, None, how.name)
        task = Task(how.task, fn, how.args, how.returns, key, how.retries - 1 if how.retries > 0 else how.retries)
        index = int.from_bytes(entry.oid[ids.TASK_SIZE:], "little")
        task.attempt = how.attempt % (1 << LIFE_SHIFT) + 1 + (((index - 1) << 8 & 0xFF00 | life & 0xFF) << LIFE_SHIFT)
        task.extra = how.extra
        task.retry_errors = how.retry_errors
        task.pins = inputs
        task.deps = inputs[:how.arguments] or None
        task.state = WAITING
        entry.task = task
        if task.nret > 1:
            task.entry = [self._unadopted(task, i + 1) for i in range(task.nret)]
            task.entry[index - 1] = entry
        else:
            task.entry = entry
        return task

    def _unadopted(self, task: Task, index: int) -> Entry:
        """A return that nobody here has adopted: its value is discarded."""
        entry = Entry(ids.return_id(task.tid, index), task)
        entry.refs = 0
        return entry

    def _remember(self, task: Task, owners: list[bytes]) -> None:
        self.tasks.pop(task.tid, None)
        self.tasks[task.tid] = task
        self.owners[task.tid] = owners
        if len(self.tasks) > TASKS_KEPT:
            for tid in [tid for tid, other in self.tasks.items() if other.state == DONE]:
                del self.tasks[tid], self.owners[tid]

    def _ask(self, owner: bytes, task: Task) -> None:
        waiting = self.asked.get(owner)
        if waiting is not None:
            waiting.append(task)
            return
        self.asked[owner] = [task]
        self.fence(owner, lambda: self._is_fenced(owner))

    def _is_fenced(self, owner: bytes) -> None:
        self.fenced[owner] = None
        if len(self.fenced) > OWNERS_KEPT:
            del self.fenced[next(iter(self.fenced))]
        for task in self.asked.pop(owner):
            self.submitter.arrived(task)

    def waits_for_fence(self, task: Task) -> bool:
        return any(task in waiting for waiting in self.asked.values())

    def check(self) -> None:
        assert self.tasks.keys() == self.owners.keys()
        for waiting in self.asked.values():
            assert all(task.missing > 0 or task.state == DONE for task in waiting)
