"""Ray's names of the types of failures, as ``error_type`` of a task shows them, by the kinds of zray.base.errors."""

from __future__ import annotations

import os
from typing import Any

from zray.base.argument_errors import ARGUMENT, text_of as text_of_argument
from zray.base.task_errors import TaskErrorRecord, header

MESSAGE_CHARS_MAX = 4096  # of an error message that is kept for listings: a page of text

USER_EXCEPTION = "User exception:\n"  # how the message of an exception of user code begins
TASK_EXECUTION_EXCEPTION = "TASK_EXECUTION_EXCEPTION"
DEPENDENCY_RESOLUTION_FAILED = "DEPENDENCY_RESOLUTION_FAILED"
_TYPES = {
    "task_error": TASK_EXECUTION_EXCEPTION,
    ARGUMENT: DEPENDENCY_RESOLUTION_FAILED,
    "worker_crashed": "WORKER_DIED",
    "actor_died": "ACTOR_DIED",
    "actor_unavailable": "ACTOR_UNAVAILABLE",
    "cancelled": "TASK_CANCELLED",
    "object_lost": "OBJECT_LOST",
    "object_fetch": "OBJECT_FETCH_TIMED_OUT",
    "owner_died": "OWNER_DIED",
    "freed": "OBJECT_FREED",
    "reconstruction": "OBJECT_UNRECONSTRUCTABLE",
    "reconstruction_attempts": "OBJECT_UNRECONSTRUCTABLE_MAX_ATTEMPTS_EXCEEDED",
    "reconstruction_evicted": "OBJECT_UNRECONSTRUCTABLE_LINEAGE_EVICTED",
    "dependency_lost": "OBJECT_LOST",
    "unschedulable": "TASK_UNSCHEDULABLE_ERROR",
    "actor_unschedulable": "ACTOR_UNSCHEDULABLE_ERROR",
    "oom": "OUT_OF_MEMORY",
    "runtime_env": "RUNTIME_ENV_SETUP_FAILED",
    "disk_full": "OUT_OF_DISK_ERROR",
    "node_died": "NODE_DIED",
    "raylet_died": "LOCAL_RAYLET_DIED",
    "task_pg_removed": "TASK_PLACEMENT_GROUP_REMOVED",
    "actor_pg_removed": "ACTOR_PLACEMENT_GROUP_REMOVED",
}


def type_of(kind: str) -> str:
    """The type of a failure of that kind; a kind without a name of its own is an error of the system."""
    return _TYPES.get(kind, "WORKER_DIED" if kind.startswith("worker") else "SYSTEM_ERROR")


def error_of(kind: str, detail: Any) -> list[str]:
    """``[type, message]`` of a failure.  Unpickles no exception: of one that a task raised it reads the text only."""
    if kind == "task_error":
        message = USER_EXCEPTION + text_of(detail)
    else:
        message = _message(kind, detail)
    return [type_of(kind), shortened(message)]


def _message(kind: str, detail: Any) -> str:
    """The text of the exception that ``get`` raises."""
    from zray.base.errors import creation_failed_text, from_failure

    if isinstance(detail, bytes):
        return TaskErrorRecord.from_bytes(detail).traceback
    fields = detail if isinstance(detail, dict) else {}
    if kind == ARGUMENT and "failure" in fields:
        return _argument_message(fields)
    if isinstance(fields.get("error"), bytes) and fields["error"]:
        return creation_failed_text(_message("task_error", fields["error"]))
    if fields.get("argument"):
        return creation_failed_text(_message(*fields["argument"][1:]))
    return str(from_failure(kind, fields))


def _argument_message(detail: dict[str, Any]) -> str:
    """As zray.base.errors.argument_error writes it."""
    from zray.base.errors import from_failure

    _, kind, inner = detail["failure"]
    shown = "RayTaskError" if isinstance(inner, bytes) or kind == ARGUMENT else type(from_failure(kind, {})).__name__
    pid, ip = _place(ARGUMENT, detail)
    where = header(detail["name"], pid or os.getpid(), ip, detail.get("actor", b"").hex())
    return text_of_argument(where, _message(kind, inner), shown, detail.get("skipped", 0))


def _place(kind: str, detail: Any) -> tuple[int, str]:
    """``(pid, address)`` of the process that the text of a failure names."""
    if isinstance(detail, bytes):
        record = TaskErrorRecord.from_bytes(detail)
        return record.pid, record.ip
    if kind != ARGUMENT:
        return detail.get("pid") or 0, "127.0.0.1"
    pid, ip = _place(*detail["failure"][1:])
    return detail.get("pid") or pid, ip


def text_of(detail: Any) -> str:
    """The text of an exception that a task or a constructor raised, from its record."""
    return shortened(TaskErrorRecord.from_bytes(detail).traceback) if isinstance(detail, bytes) else ""


def shortened(message: str) -> str:
    """The text without its middle, if it is longer than MESSAGE_CHARS_MAX: its ends say what and why."""
    if len(message) <= MESSAGE_CHARS_MAX:
        return message
    half = MESSAGE_CHARS_MAX // 2
    return f"{message[:half]}\n... ({len(message) - 2 * half} characters left out) ...\n{message[-half:]}"
