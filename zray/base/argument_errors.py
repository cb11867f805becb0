"""The failure of a task that never ran, because one of its arguments failed or is lost.

Its wire value is ``[FAILED, ARGUMENT, {"name": task, "failure": the argument's failure, "levels": n}]``: the argument
may itself be the result of a task with a failed argument.  In one process all levels share the innermost failure.
"""

from __future__ import annotations

from typing import Any

ARGUMENT = "argument"
# A longer chain of tasks keeps the innermost levels and the outermost one: a message may not nest without bound.
LEVELS_MAX = 16
TEXT = "At least one of the input arguments for this task could not be computed:"


def argument_failed(name: str, failure: list[Any]) -> list[Any]:
    """The failure of task ``name``, one of whose arguments has this failure."""
    levels = failure[2]["levels"] + 1 if failure[1] == ARGUMENT else 1
    if levels > LEVELS_MAX:
        failure, levels = failure[2]["failure"], LEVELS_MAX
    return [failure[0], ARGUMENT, {"name": name, "failure": failure, "levels": levels}]


def innermost(failure: list[Any]) -> list[Any]:
    """The failure that the others follow from."""
    while failure[1] == ARGUMENT:
        failure = failure[2]["failure"]
    return failure


def text_of(name: str, inner: str, inner_type: str) -> str:
    """The text of the error; ``name`` without the function that a nested one is in."""
    return f"ray::{name.rpartition('<locals>.')[2]}()\n  {TEXT}\nray.exceptions.{inner_type}: {inner}"
