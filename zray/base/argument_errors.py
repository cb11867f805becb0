"""The failure of a task that never ran, because one of its arguments failed or is lost.

Its wire value is ``[FAILED, ARGUMENT, {"name": task, "failure": the argument's failure, "levels": n, "skipped": n}]``,
for a call with the ``actor`` and its ``pid``: the argument may itself be the result of a task with a failed argument.
In one process all levels share the innermost failure.
"""

from __future__ import annotations

from typing import Any

ARGUMENT = "argument"
# A worker's answer for a task that was pushed behind the tasks that make its arguments: one of them is not there.  The
# task has not started; its owner makes it wait, or fails it (zray.owner.followers).
UNPRODUCED = "unproduced"
# A longer chain of tasks keeps the innermost levels and the outermost one: a message may not nest without bound.
LEVELS_MAX = 16
TEXT = "At least one of the input arguments for this task could not be computed:"


def argument_failed(name: str, failure: list[Any], actor: bytes = b"", pid: int = 0) -> list[Any]:
    """The failure of task ``name``, one of whose arguments has this failure; ``actor`` and its ``pid`` for a call."""
    levels, skipped = 1, 0
    if failure[1] == ARGUMENT:
        levels, skipped = failure[2]["levels"] + 1, failure[2]["skipped"]
    if levels > LEVELS_MAX:
        failure, levels, skipped = failure[2]["failure"], LEVELS_MAX, skipped + 1
    detail = {"name": name, "failure": failure, "levels": levels, "skipped": skipped}
    if actor:
        detail |= {"actor": actor, "pid": pid}
    return [failure[0], ARGUMENT, detail]


def innermost(failure: list[Any]) -> list[Any]:
    """The failure that the others follow from."""
    while failure[1] == ARGUMENT:
        failure = failure[2]["failure"]
    return failure


def text_of(header: str, inner: str, inner_type: str, skipped: int = 0) -> str:
    """The text of the error; ``header`` says where the task would have run."""
    note = f"\n  ({skipped} more tasks, each an argument of the one before)" if skipped else ""
    return f"{header}\n  {TEXT}{note}\nray.exceptions.{inner_type}: {inner}"
