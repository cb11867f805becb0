"""Errors that the owner itself gives to tasks, in wire form."""

from __future__ import annotations

from typing import Any

from zray.base.causes import Cause
from zray.base.exits import OUT_OF_MEMORY
from zray.wire.messages import FAILED, WorkerDied


def first_failure(deps: list[Any]) -> list[Any] | None:
    for record in deps:
        value = record.value
        if type(value) is list and value[0] == FAILED:
            return value
    return None


def parts_of(result: Any) -> tuple[list[Any], dict[str, Any]]:
    """``(values, extra)`` of a task's reply, which is one value or ``[0, values, extra]``."""
    if type(result) is list and result and result[0] == 0:
        return result[1], result[2]
    return [result], {}


def failure_in(result: Any) -> list[Any] | None:
    """The failure in a task's reply: the reply itself, its value beside the list of holds, or of a generator's rest."""
    if type(result) is list and result and result[0] == 0:
        if "failure" in result[2]:
            return result[2]["failure"]
        result = result[1][0] if result[1] else None
    return result if type(result) is list and result and result[0] == FAILED else None


def held_in(result: Any) -> list[list[Any]]:
    """The holds that a task's reply lists."""
    return result[2].get("held") or [] if type(result) is list and result and result[0] == 0 else []


def cancelled(task: Any) -> list[Any]:
    return [FAILED, "cancelled", {"task": task.tid, "name": task.fn.name}]


def crashed(name: str, attempt: int, notice: WorkerDied | None) -> list[Any]:
    """The error of a task whose worker died for the last time."""
    detail: dict[str, Any] = {"name": name, "attempts": attempt + 1}
    if notice is not None:
        detail |= {"pid": notice.pid, "signal": notice.signal, "exit_code": notice.exit_code,
                   "reason": notice.reason, "log_tail": notice.log_tail, "log_file": notice.log_file}
    if notice is not None and notice.reason == Cause.GROUP_REMOVED.text:
        return [FAILED, "task_pg_removed", detail | {"reason": "while it ran"}]
    if notice is not None and notice.reason.startswith(OUT_OF_MEMORY):
        return [FAILED, "oom", detail | {"reason": notice.reason.removeprefix(OUT_OF_MEMORY).lstrip(": ")}]
    return [FAILED, "worker_crashed", detail]
