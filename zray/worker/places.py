"""Where a task or call is that was pushed to this worker: it runs, or waits behind others.  For Why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from zray.base.causes import Cause
from zray.worker.machine import WorkerMachine
from zray.worker.queue import TASK_ID

BEHIND_MAX = 3  # of the calls that run, so many are named to one that waits
COUNTED_MAX = 1000  # queued calls that are counted by name

Place = tuple[Cause, dict[str, Any]]
NameOf = Callable[[list[Any]], str]


def place_of(machine: WorkerMachine, name_of: NameOf, tid: bytes) -> Place | None:
    """Of a task or call, by its id; None when it is not here.  Under the lock, while the main thread may start tasks.

    ``about`` has its name, and of one that waits how many are ahead and ``behind``, [(task, name), ...] that run now.
    """
    for running, waiting in lines(machine):
        for task in running:
            if task[TASK_ID] == tid:
                return Cause.RUNNING, {"name": name_of(task), "task": tid.hex()}
        for position, task in enumerate(waiting):
            if task[TASK_ID] == tid:
                behind = [(each[TASK_ID], name_of(each)) for each in running[:BEHIND_MAX]]
                return Cause.PUSHED if machine.actor is None else Cause.ACTOR_BUSY, {
                    "name": name_of(task), "task": tid.hex(), "ahead": position + len(running),
                    "behind": behind}
    return None


def lines(machine: WorkerMachine, most: int | None = None) -> list[tuple[list[Any], list[Any]]]:
    """What runs and what waits, for each line of waiting: one of a worker or a plain actor, else one a group.

    ``most``: of each line, no more than so many that wait.
    """
    queue = machine.queue
    running = queue.running
    found = [(_tasks([running] if running else []), _tasks(queue.entries, most))]
    if machine.actor is not None:
        found += [(list(group.running.values()), _tasks(group.waiting, most))
                  for group in machine.actor.groups.values()]
    return found


def _tasks(entries: Iterable[Any], most: int | None = None) -> list[Any]:
    """Copied in one step of the interpreter: the main thread takes entries out meanwhile."""
    return [task for _, _, task in list(islice(entries, most)) if type(task) is list]


def queued(machine: WorkerMachine, name_of: NameOf) -> list[list[Any]]:
    """[[name, count], ...] of the calls that wait here (under the lock)."""
    counts: dict[str, int] = {}
    for _, waiting in lines(machine, COUNTED_MAX):
        for task in waiting:
            name = name_of(task)
            counts[name] = counts.get(name, 0) + 1
    return [[name, count] for name, count in counts.items()]
