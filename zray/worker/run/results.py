"""Wire results of tasks and calls, for all kinds of runs (pure)."""

from __future__ import annotations

from typing import Any

from zray.wire.messages import FAILED
from zray.worker.queue import EXTRA, TASK_ATTEMPT, TASK_ID


def with_extra(result: Any, **extra: Any) -> Any:
    """The result with further fields."""
    if type(result) is list and result and result[0] == 0:
        result[2].update(extra)
        return result
    return [0, [result], extra]


def cancelled(task: list[Any], name: str, reason: str = "", *, waited: bool = False) -> list[Any]:
    """``waited``: the task was waiting in ``get`` or ``wait``."""
    detail: dict[str, Any] = {"task": task[TASK_ID], "name": name}
    if waited:
        detail["waited"] = True
    if reason:
        detail["reason"] = reason
    return [FAILED, "cancelled", detail]


def failure_in(result: Any) -> list[Any] | None:
    """The failure that a result is, or that it has beside further fields."""
    if type(result) is not list or not result:
        return None
    if result[0] == 0:
        if "failure" in result[2]:
            return result[2]["failure"]  # type: ignore[no-any-return]
        result = result[1][0] if result[1] else None
    return result if type(result) is list and result and result[0] == FAILED else None


def task_name(task: list[Any], name: str) -> str:
    extra = task[EXTRA]
    return (extra.get("name") or name) if extra else name


def identity(task: list[Any]) -> tuple[bytes, int]:
    return task[TASK_ID], task[TASK_ATTEMPT]
