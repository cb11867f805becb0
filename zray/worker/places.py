"""Finds tasks and calls that were pushed to this worker: they run, or wait.  Answers Why and the state API."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from zray.base.causes import Cause
from zray.owner.attempt_rows import ARGS_FETCH
from zray.worker.machine import WorkerMachine
from zray.worker.queue import TASK_ATTEMPT, TASK_ID

BEHIND_MAX = 3  # running calls that are named for a waiting call
COUNTED_MAX = 1000  # queued calls that are counted by name

CALL_ARGS_FETCH = "PENDING_ACTOR_TASK_ARGS_FETCH"

Place = tuple[Cause, dict[str, Any]]
NameOf = Callable[[list[Any]], str]


def place_of(machine: WorkerMachine, name_of: NameOf, tid: bytes) -> Place | None:
    """The place of a task or call; None when it is not here.  Under the lock; the main thread may start tasks.

    ``about`` has the name.  Of a waiting task it has ``ahead``, the number of tasks before it, and ``behind``, the
    running tasks as [(task, name), ...].
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
    """(running, waiting) for each queue: a worker or a plain actor has one, other actors have one a group.

    ``most``: at most so many waiting tasks of each queue.
    """
    queue = machine.queue
    running = queue.running
    found = [(_tasks([running] if running else []), _tasks(queue.entries, most))]
    if machine.actor is not None:
        found += [(list(group.running.values()), _tasks(group.waiting, most))
                  for group in machine.actor.groups.values()]
    return found


def _tasks(entries: Iterable[Any], most: int | None = None) -> list[Any]:
    """Copies in one step of the interpreter, because the main thread takes entries out meanwhile."""
    return [task for _, _, task in list(islice(entries, most)) if type(task) is list]


def queued(machine: WorkerMachine, name_of: NameOf) -> list[list[Any]]:
    """[[name, count], ...] of the waiting calls (under the lock)."""
    counts: dict[str, int] = {}
    for _, waiting in lines(machine, COUNTED_MAX):
        for task in waiting:
            name = name_of(task)
            counts[name] = counts.get(name, 0) + 1
    return [[name, count] for name, count in counts.items()]


def rows_of(machine: WorkerMachine, name_of: NameOf, state_of_running: Callable[[bytes], str], most: int
            ) -> list[dict[str, Any]]:
    """Rows of the state API: what runs here, and what waits here (under the lock)."""
    waits = "SUBMITTED_TO_WORKER" if machine.actor is None else "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"
    rows = []
    for running, waiting in lines(machine, most):
        states = [state_of_running(task[TASK_ID]) for task in running]
        if machine.actor is not None:
            states = [CALL_ARGS_FETCH if state == ARGS_FETCH else state for state in states]
        for task, state in [*zip(running, states, strict=True), *((task, waits) for task in waiting)]:
            rows.append({"task_id": task[TASK_ID], "attempt": task[TASK_ATTEMPT], "name": name_of(task), "state": state,
                         "here": True})
    return rows
