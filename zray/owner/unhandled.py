"""Unhandled failures: kept until the user sees them, reported when no code can see them any more.

    failed      a task of ours, or an actor that we created, has failed for good
    seen        get or await raised the error, or another process got it: forget it
    dropped     an object with the failure is freed; when it is the last one, the failure is reported

A failure is its wire value: one list that several objects share.  These are the returns of a task.  The failures of
tasks that had one of them as an argument have it inside, and count as the innermost one.  So a failure is reported
once, when the last of these objects is freed.
"""

from __future__ import annotations

from typing import Any

from zray.base.argument_errors import innermost

# Failures that the user has to repair.  Others are wanted (cancelled, killed), or follow from a reported failure.
SHOWN = frozenset(("task_error", "worker_crashed", "oom", "runtime_env", "unschedulable", "bad_returns", "system",
                   "store_full", "disk_full"))
REPORTS_MAX = 1000  # not yet taken


class Unhandled:
    """The failures of one owner.  ``seen`` may be called without the lock."""

    def __init__(self) -> None:
        self.reports: list[list[Any]] = []  # to be shown; taken by the shell
        self._waiting: dict[int, tuple[list[Any], int]] = {}  # id of a failure -> it, and how many objects have it
        self._actors: dict[bytes, list[Any]] = {}  # actors whose constructor failed, until ``seen`` or ``actor_due``

    def failed(self, failure: list[Any], objects: int) -> None:
        """``objects`` more have this failure; without any object no code can ever fetch it."""
        failure = innermost(failure)
        if not _is_shown(failure):
            return
        known = self._waiting.get(id(failure))
        count = objects + (known[1] if known is not None else 0)
        if count:
            self._waiting[id(failure)] = failure, count
        else:
            self._report(failure)

    def shared(self, failure: list[Any]) -> None:
        """One more object has a failure that was reported to ``failed`` before."""
        failure = innermost(failure)
        known = self._waiting.get(id(failure))
        if known is not None:
            self._waiting[id(failure)] = failure, known[1] + 1

    def seen(self, failure: list[Any]) -> None:
        failure = innermost(failure)
        self._waiting.pop(id(failure), None)
        if failure[1] == "actor_died" and self._actors:
            self._actors.pop(failure[2].get("actor", b""), None)

    def dropped(self, failure: list[Any], passed_on: bool) -> None:
        """An object with the failure is freed; ``passed_on``: other processes know the object, and may read it."""
        failure = innermost(failure)
        known = self._waiting.get(id(failure))
        if known is None:
            return
        if passed_on:
            self.seen(failure)
        elif known[1] > 1:
            self._waiting[id(failure)] = failure, known[1] - 1
        else:
            self.seen(failure)
            self._report(failure)

    # ------------------------------------------------------------ actors

    def actor_failed(self, actor: bytes, failure: list[Any]) -> None:
        """The constructor of an actor that we created raised; the caller calls ``actor_due`` later."""
        self._actors[actor] = failure

    def actor_due(self, actor: bytes) -> None:
        """Report an actor's failure that no code has seen for a while, unless failed calls still have it."""
        failure = self._actors.pop(actor, None)
        if failure is not None and not any(
                waiting[1] == "actor_died" and waiting[2].get("actor") == actor
                for waiting, _ in list(self._waiting.values())):
            self._report(failure)

    def end(self) -> None:
        """The session ends: report all failures that are left."""
        for actor in list(self._actors):
            self.actor_due(actor)
        for failure, _ in list(self._waiting.values()):
            self._report(failure)
        self._waiting.clear()

    def _report(self, failure: list[Any]) -> None:
        if len(self.reports) < REPORTS_MAX:
            self.reports.append(failure)

    def take(self) -> list[list[Any]]:
        taken = self.reports[:]
        self.reports.clear()
        return taken

    def is_empty(self) -> bool:
        return not self._waiting and not self._actors


def _is_shown(failure: list[Any]) -> bool:
    return failure[1] in SHOWN or (failure[1] == "actor_died" and bool(failure[2].get("error")))
