"""The errors that users see: Ray's exception tree, and how failures on the wire become exceptions.

A FAILED wire value is ``[FAILED, kind, detail]``.  For kind ``task_error`` the detail is bytes (a pickled
:class:`TaskErrorRecord`); every other kind has a map.  :func:`from_failure` is the only place that knows the kinds.

Every error pickles by its attributes, never by calling ``__init__`` again: an exception whose constructor takes
other arguments than it passes on cannot be rebuilt otherwise, and the user would lose the cause.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from zray.base.argument_errors import ARGUMENT, text_of
from zray.base.exception_members import exception_members
from zray.base.exits import OUT_OF_MEMORY
from zray.base.rebuilding import RayError, fill_exception, rebuild_exception, travelling
from zray.base.task_errors import RayTaskError, TaskErrorRecord, _rebuild_task_error, header, load_error

__tracebackhide__ = True  # pytest leaves these frames out of its reports
__all__ = [
    "ARGUMENT", "RayError", "RayTaskError", "TaskErrorRecord", "_rebuild_task_error", "did_you_mean",
    "argument_error", "creation_failed_text", "exception_members", "failure_kinds", "failure_text", "fill_exception",
    "from_failure", "load_error", "name_is_taken", "rebuild_exception",
]

LOG_LINES_SHOWN = 20

ZrayError = RayError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'num_cpus'?)"`` for a probable slip of one of the ``known`` names, else ''."""
    from difflib import get_close_matches  # for errors alone

    found = get_close_matches(name, list(known), 1, 0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


# ---------------------------------------------------------------- failures


def failure_text(kind: str, detail: dict[str, Any] | bytes) -> tuple[Any, Any, str]:
    """``(place, identity, text)`` of a FAILED wire value; loads no code of the user's.

    Failures of one line of the user's code have the same place.  Failures that differ only in the process have the
    same identity.
    """
    if kind == ARGUMENT and isinstance(detail, dict):
        return failure_text(*detail["failure"][1:])
    error = detail if isinstance(detail, bytes) else detail.get("error")
    if not isinstance(error, bytes):
        text = str(from_failure(kind, detail))
        return (kind, detail.get("name") if isinstance(detail, dict) else None), text, text
    record = TaskErrorRecord.from_bytes(error)
    frames = [line for line in record.traceback.splitlines() if line.startswith('  File "')]
    place = kind, record.function, record.type_name, *frames
    if isinstance(detail, dict):
        return place, detail.get("actor"), creation_failed_text(record.traceback)
    return place, "\n".join(record.traceback.splitlines()[1:]), record.traceback


# ---------------------------------------------------------------- everything else


class TaskCancelledError(RayError):
    """The task was cancelled before it finished.  ``task_id`` is its hex id."""

    task_id: str | None = None


class WorkerCrashedError(RayError):
    """The worker process of the task died: ``pid``, ``signal`` (0 when it exited), ``exit_code``, ``log_tail``,
    ``log_file``."""

    pid: int = 0
    signal: int = 0
    exit_code: int = 0
    log_tail: str = ""
    log_file: str = ""


class LocalRayletDiedError(RayError):
    """The node daemon that this process belongs to is gone.

    In a driver: ``pid``, ``signal`` (0 when it exited), ``exit_code`` and ``log_tail``, as far as they are known.
    """

    pid: int = 0
    signal: int = 0
    exit_code: int = 0
    log_tail: str = ""


class NodeDiedError(RayError):
    """The node of the task is gone."""


class RayActorError(RayError):
    """The actor cannot run the call.  ``actor_id`` is its hex id; ``cause`` what its constructor raised, if it did
    (``actor_init_failed``)."""

    actor_id: str | None = None
    actor_init_failed: bool = False
    preempted: bool = False
    cause: BaseException | None = None

    @property
    def error_msg(self) -> str:
        """The text."""
        return str(self)


class ActorDiedError(RayActorError):
    """The actor is dead and will not come back."""


class ActorUnavailableError(RayActorError):
    """The actor cannot be reached now; whether the call ran is not known."""


class ObjectLostError(RayError):
    """The value is gone and cannot be made again.  ``object_ref_hex`` names it."""

    object_ref_hex: str = ""


class ObjectFetchTimedOutError(ObjectLostError):
    """The value exists elsewhere and did not arrive in time."""


class ObjectRefStreamEndOfStreamError(RayError):
    """A stream of references has no more; iteration shows it as StopIteration."""


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The value was released though a reference was left: a bug of zray's."""


class ObjectFreedError(ObjectLostError):
    """The value was freed by hand."""


class OwnerDiedError(ObjectLostError):
    """The process that owned the object is gone."""


class ObjectReconstructionFailedError(ObjectLostError):
    """The task that made the value cannot be run again."""


class ObjectReconstructionFailedMaxAttemptsExceededError(ObjectReconstructionFailedError):
    """The task that made the value was run as often as its max_retries allows."""


class ObjectReconstructionFailedLineageEvictedError(ObjectReconstructionFailedError):
    """How the value was made is no longer known."""


class GetTimeoutError(RayError, TimeoutError):
    """``get`` ran out of time; the text has the causes for which the objects wait."""


class RaySystemError(RayError):
    """Something inside zray failed."""


class ObjectStoreFullError(RayError):
    """The object store is full; the text lists the holders of objects."""


class OutOfDiskError(RayError):
    """The disk that objects spill to is full."""


class OutOfMemoryError(RayError):
    """The worker was killed because the node ran out of memory."""


class ActorOutOfMemoryError(ActorDiedError, OutOfMemoryError):
    """The actor is dead because the node ran out of memory and ended its worker."""


class RuntimeEnvSetupError(RayError):
    """The runtime environment could not be made."""


class TaskPlacementGroupRemoved(RayError):
    """The placement group of the task was removed."""


class ActorPlacementGroupRemoved(ActorDiedError):
    """The placement group of the actor was removed, and the actor with it."""


class TaskUnschedulableError(RayError):
    """No node can ever run the task."""


class ActorUnschedulableError(RayError):
    """No node can ever run the actor."""


class PendingCallsLimitExceeded(RayError):
    """The actor has max_pending_calls calls waiting."""


class AsyncioActorExit(RayError):
    """Raised inside an async actor to end it."""


class ExitActor(SystemExit):
    """Raised by ``exit_actor()`` in a synchronous actor: the executor ends the process as planned."""


class ActorAlreadyExistsError(ValueError, RayError):
    """The name is taken by a living actor."""

    def __reduce__(self):
        return rebuild_exception, (type(self), self.args, travelling(self.__dict__))


def name_is_taken(name: str, namespace: str) -> ActorAlreadyExistsError:
    """The error of creating a second actor of a name."""
    return ActorAlreadyExistsError(
        f"The name {name} (namespace={namespace}) is already taken. Please use a different name or get the existing "
        f"actor using ray.get_actor('{name}', namespace='{namespace}')")


class AuthenticationError(RayError):
    """The peer is not allowed in."""


class UnserializableException(RayError):
    """Stands for an exception that could not be pickled."""


class OufOfBandObjectRefSerializationException(RayError):
    """An ObjectRef was pickled outside zray where that is forbidden.  (Ray's spelling.)"""


# ---------------------------------------------------------------- from the wire

Describe = Callable[[dict[str, Any]], str]


def _text(detail: dict[str, Any], name: str, default: str = "") -> str:
    value = detail.get(name)
    if isinstance(value, bytes):
        return value.hex()
    return default if value is None or value == "" else str(value)


def how_it_ended(detail: dict[str, Any]) -> str:
    """``was killed by SIGKILL`` or ``exited with code 3``, from signal and exit_code."""
    number = detail.get("signal") or 0
    if number:
        import signal

        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        hint = {
            "SIGKILL": " (kill -9, or the kernel's out-of-memory killer)",
            "SIGSEGV": " (a segmentation fault in native code)",
            "SIGABRT": " (an abort in native code)",
        }.get(name, "")
        return f"was killed by {name}{hint}"
    return f"exited with code {detail.get('exit_code') or 0}"


def _log_tail(detail: dict[str, Any]) -> str:
    lines = _text(detail, "log_tail").rstrip().splitlines()[-LOG_LINES_SHOWN:]
    where = f"\nIts log is {detail['log_file']}" if detail.get("log_file") else ""
    if not lines:
        return where
    return "\nThe last lines it printed:\n" + "\n".join(f"  {line}" for line in lines) + where


def _worker_crashed(detail: dict[str, Any]) -> str:
    attempts = detail.get("attempts") or 0
    tried = f", on attempt {attempts} of {attempts}" if attempts else ""
    reason = f": {detail['reason']}" if detail.get("reason") else ""
    ended = "was lost" if str(detail.get("reason")).startswith("its node is gone") else how_it_ended(detail)
    return ("The worker died unexpectedly while executing this task: "
            f"its process (pid={detail.get('pid') or '?'}) {ended} while it ran "
            f"{_text(detail, 'name', 'a task')}(){tried}{reason}. "
            f"If that may pass, allow more attempts with max_retries.{_log_tail(detail)}")


def _who_died(detail: dict[str, Any]) -> str:
    name = f" named {detail['name']!r}" if detail.get("name") else ""
    return f"{_text(detail, 'class_name', 'the actor')}({_text(detail, 'actor')[:16]}){name}"


def creation_failed_text(error: str) -> str:
    """The text of an ActorDiedError; ``error``: that of what the constructor raised."""
    return f"The actor died because of an error raised in its creation task, {error}"


NEVER_RAN = "\nThe actor never ran - it was cancelled before it started running."


def _actor_died(detail: dict[str, Any]) -> str:
    if detail.get("kind") == "unknown":
        return (f"Can't find actor {_text(detail, 'actor')}. It might be dead or it's from a different cluster "
                f"({_text(detail, 'reason')}).")
    if detail.get("error"):
        return creation_failed_text(str(load_error(detail["error"])))
    if detail.get("argument"):
        return creation_failed_text(str(from_failure(*detail["argument"][1:])))
    about = {"class_name": detail.get("class_name"), "actor_id": _text(detail, "actor"), "pid": detail.get("pid"),
             "name": detail.get("name"), "namespace": detail.get("namespace")}
    lines = "".join(f"\n\t{name}: {value}" for name, value in about.items() if value)
    reason = _how_its_process_went(detail) or "of an unknown reason"
    return (f"The actor died unexpectedly before finishing this task.{lines}\n"
            f"The actor is dead because {reason}.{NEVER_RAN if detail.get('never_ran') else ''}{_log_tail(detail)}")


def _actor_unavailable(detail: dict[str, Any]) -> str:
    reason = _how_its_process_went(detail) or "its process ended"
    if detail.get("restarting"):
        reason = f"The actor is restarting ({reason})"
    return (f"The actor {_who_died(detail)} is unavailable: {reason}. The task may or may not have been "
            f"executed on the actor; set max_task_retries for it to be tried again.{_log_tail(detail)}")


def _how_its_process_went(detail: dict[str, Any]) -> str:
    """The reported reason for the end of an actor's process, and its signal or exit code; empty when unknown."""
    reason = _text(detail, "reason")
    if detail.get("pid") and (detail.get("signal") or detail.get("exit_code")):
        ended = f"its process (pid={detail['pid']}) {how_it_ended(detail)}"
        reason = f"{reason}; {ended}" if reason else ended
    return reason


def _why(detail: dict[str, Any]) -> str:
    return f" ({detail['reason']})." if detail.get("reason") else "."


def _which_group(detail: dict[str, Any]) -> str:
    group, reason = _text(detail, "placement_group"), detail.get("reason")
    about = ": ".join(filter(None, [group and f"placement group {group}", reason]))
    return f" ({about})." if about else "."


def _object(detail: dict[str, Any]) -> str:
    """Ray's first words; what follows says what "it" is."""
    return f"Failed to retrieve object {_text(detail, 'oid') or '(unknown id)'}. It"


def _lost(detail: dict[str, Any]) -> str:
    return f" ({_text(detail, 'lost')})" if detail.get("lost") else ""


def _sentence(detail: dict[str, Any], name: str) -> str:
    """The detail and a space after it; empty when there is none."""
    return f"{_text(detail, name)} " if detail.get(name) else ""


def _needed(detail: dict[str, Any]) -> str:
    """For a failure of another object that is needed to make this one."""
    return f"of the object {_text(detail, 'needed')}, which its task needs: " if detail.get("needed") else ""


_KINDS: dict[str, tuple[type[RayError], Describe]] = {
    "worker_crashed": (WorkerCrashedError, _worker_crashed),
    "actor_died": (ActorDiedError, _actor_died),
    "actor_unavailable": (ActorUnavailableError, _actor_unavailable),
    "cancelled": (TaskCancelledError, lambda d: f"Task: {_text(d, 'task') or _text(d, 'name') or '?'} was cancelled. "
        + (f"It is {d['name']}(). " if d.get("task") and d.get("name") else "") + _text(d, "reason")),
    "object_lost": (ObjectLostError, lambda d: (
        f"{_object(d)} is lost: {_text(d, 'reason', 'no copy is left')}.")),
    "object_fetch": (ObjectFetchTimedOutError, lambda d: f"{_object(d)} did not arrive in time. {_text(d, 'reason')}"),
    "owner_died": (OwnerDiedError, lambda d: (
        f"{_object(d)} cannot be had: the process that owned it ended"
        f"{' (' + _text(d, 'reason') + ')' if d.get('reason') else ' before it had told others of its value'}. "
        f"It is not made again: {_text(d, 'recipe', 'no process that is left knows how')}. "
        "Let a process that lives longer (the driver, a detached actor) make the object.")),
    "freed": (ObjectFreedError, lambda d: f"{_object(d)} was freed by hand. {_text(d, 'reason')}".rstrip()),
    "reconstruction": (ObjectReconstructionFailedError, lambda d: (
        f"{_object(d)} was lost{_lost(d)} and cannot be made again: {_needed(d)}"
        f"{_text(d, 'reason', 'its task may not run twice')}.")),
    "reconstruction_attempts": (ObjectReconstructionFailedMaxAttemptsExceededError, lambda d: (
        f"{_object(d)} was lost{_lost(d)} and cannot be made again: {_needed(d)}"
        "its task was already run as often as max_retries allows.")),
    "reconstruction_evicted": (ObjectReconstructionFailedLineageEvictedError, lambda d: (
        f"{_object(d)} was lost{_lost(d)} and cannot be made again: {_needed(d)}its owner has forgotten how it was "
        "made, because it keeps no more than lineage_bytes_max of that.")),
    "dependency_lost": (ObjectLostError, lambda d: (
        f"{_object(d)} is an argument of the task, and is lost: {_text(d, 'reason', 'no copy is left')}.")),
    "unschedulable": (TaskUnschedulableError, lambda d: (
        f"The task is not schedulable: {_text(d, 'reason', 'no node has what it asks for')} "
        f"(the task {_text(d, 'name')}).")),
    "actor_unschedulable": (ActorUnschedulableError, lambda d: (
        f"The actor is not schedulable: {_text(d, 'reason', 'no node has what it asks for')} "
        f"(the actor {_text(d, 'class_name')}({_text(d, 'actor')[:16]})).")),
    "oom": (OutOfMemoryError, lambda d: (
        f"The worker (pid={_text(d, 'pid', '?')}) of {_text(d, 'name', 'the task')} was ended by the node, which "
        f"ran out of memory. {_sentence(d, 'reason')}Ask for memory= so that fewer run at once.{_log_tail(d)}")),
    "runtime_env": (RuntimeEnvSetupError, lambda d: (
        f"The runtime environment could not be set up: {_text(d, 'reason', 'no reason is known')}")),
    "pending_calls": (PendingCallsLimitExceeded, lambda d: (
        f"The actor {_text(d, 'class_name')}({_text(d, 'actor')[:16]}) has {_text(d, 'limit', 'max_pending_calls')} "
        "calls pending already. Wait for some of them, or raise max_pending_calls.")),
    "store_full": (ObjectStoreFullError, lambda d: (
        f"The object store is full: {_text(d, 'reason', 'no room for the object')}")),
    "disk_full": (OutOfDiskError, lambda d: f"The disk for spilled objects is full: {_text(d, 'reason')}"),
    "node_died": (NodeDiedError, lambda d: (
        f"The node {_text(d, 'node')} died: {_text(d, 'reason', 'its daemon ended')}.")),
    "raylet_died": (LocalRayletDiedError, lambda d: (
        "The node daemon of this process died, so nothing can run any more: "
        f"{_text(d, 'reason', 'see its log')}. Call shutdown() and init() to begin again.{_log_tail(d)}")),
    "task_pg_removed": (TaskPlacementGroupRemoved, lambda d: (
        "The placement group corresponding to this task has been removed" + _why(d))),
    "actor_pg_removed": (ActorPlacementGroupRemoved, lambda d: (
        "The placement group corresponding to this Actor has been removed" + _which_group(d)
        + f" The actor {_text(d, 'class_name')}({_text(d, 'actor')[:16]}) ended with it.")),
    "session_ended": (ObjectLostError, lambda d: (
        "The object belonged to a session that has ended: zray was shut down since.")),
    "system": (RaySystemError, lambda d: f"System error: {_text(d, 'reason')}"),
    "bad_returns": (RaySystemError, lambda d: (
        _text(d, "reason", "the task returned another number of values than num_returns"))),
}

# Names under which details become attributes of the exception, where they differ.
_ATTRIBUTES = {"oid": "object_ref_hex", "actor": "actor_id", "task": "task_id"}


def failure_kinds() -> list[str]:
    """Every kind that :func:`from_failure` knows."""
    return ["task_error", ARGUMENT, *_KINDS]


def argument_error(name: str, first: BaseException, actor: bytes = b"", pid: int = 0, skipped: int = 0) -> RayTaskError:
    """The error of a task whose argument failed with ``first``: also of the type of that error.

    The header has the process that raised ``first``, unless it is an actor's: no process has run the task.
    """
    pid = pid or getattr(first, "pid", 0) or os.getpid()
    ip = getattr(first, "ip", "") or "127.0.0.1"
    shown = "RayTaskError" if isinstance(first, RayTaskError) else type(first).__name__
    cause = first.cause if isinstance(first, RayTaskError) else first
    text = text_of(header(name, pid, ip, actor.hex()), str(first), shown, skipped)
    return RayTaskError(name, text, cause, None, pid, ip, None, actor.hex())


def _argument_error(detail: dict[str, Any]) -> RayTaskError:
    first = from_failure(*detail["failure"][1:])
    error = argument_error(str(detail["name"]), first, detail.get("actor", b""), detail.get("pid", 0),
                           detail.get("skipped", 0))
    error._rebuilt = from_failure, (ARGUMENT, detail)
    return error.as_instanceof_cause()


def from_failure(kind: str, detail: dict[str, Any] | bytes) -> RayError:
    """The exception for a FAILED wire value.  An unknown kind (a newer peer's) becomes a RaySystemError."""
    if kind == "task_error":
        if not isinstance(detail, bytes):
            return RaySystemError(f"System error: a task failed and its error was lost: {detail!r}")
        return load_error(detail)
    fields = detail if isinstance(detail, dict) else {}
    if kind == ARGUMENT and "failure" in fields:
        return _argument_error(fields)
    if kind not in _KINDS:
        return RaySystemError(f"System error: {kind}: {_text(fields, 'reason')} {fields!r}")
    cls, describe = _KINDS[kind]
    if kind == "actor_died" and _text(fields, "reason").startswith(OUT_OF_MEMORY):
        cls = ActorOutOfMemoryError
    error = cls(describe(fields).strip())
    for name, value in fields.items():
        if name in ("error", "argument"):
            if value:
                failed = load_error(value) if name == "error" else from_failure(*value[1:])
                error.cause = getattr(failed, "cause", None) or failed  # type: ignore[attr-defined]
                error.actor_init_failed = True  # type: ignore[attr-defined]
            continue
        if name.startswith("_") or name in ("args", "cause", "detail", "add_note", "with_traceback"):
            continue
        setattr(error, _ATTRIBUTES.get(name, name), value.hex() if isinstance(value, bytes) else value)
    return _cancelled_in_get(kind, fields, error) if fields.get("waited") else error


def _cancelled_in_get(kind: str, detail: dict[str, Any], error: RayError) -> RayTaskError:
    """A task was cancelled while it waited in ``get``: what it waited for raised there, as any error does."""
    name, pid = _text(detail, "name", "a task").rpartition("<locals>.")[2], int(detail.get("pid") or 0)
    text = f"{header(name, pid, '127.0.0.1')}\nray.exceptions.TaskCancelledError: {error}"
    raised = RayTaskError(name, text, error, None, pid)
    raised._rebuilt = from_failure, (kind, detail)
    return raised.as_instanceof_cause()
