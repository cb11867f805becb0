"""Attempts that failed by the decision of their owner, for the state API: no worker could report them.  Pure.

Examples: an argument failed, the worker or actor died, the task was cancelled in a queue.  What a worker itself has
seen (an exception of the task) comes from the worker.  The rows of a turn go to the node together, at most
``per_s_max`` a second; the others are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.argument_errors import ARGUMENT
from zray.base.causes import Cause
from zray.base.error_types import error_of
from zray.base.exits import exit_of
from zray.owner.attempt_rows import about
from zray.owner.records import PUSHED, Task
from zray.wire.messages import TaskFailures

NODE_GONE = "its node is gone"  # how the reason of a death begins that came with the end of the node


class FailedAttempts:
    """The rows that the node does not have yet."""

    def __init__(self, per_s_max: int, send: Callable[[Any], None]):
        self._per_s_max = per_s_max
        self._send = send
        self._second = -1
        self._room = 0
        self.rows: list[dict[str, Any]] = []
        self.dropped = 0

    def ended(self, task: Task, failure: list[Any], now: float) -> None:
        """The task has failed for ever."""
        if task.state != PUSHED or failure[1] not in ("task_error", ARGUMENT):  # else its worker reports it
            self._add(task, failure, now)

    def attempt(self, task: Task, failure: list[Any], now: float) -> None:
        """An attempt has failed, and another one follows."""
        self._add(task, failure, now)

    def _add(self, task: Task, failure: list[Any], now: float) -> None:
        if int(now) != self._second:
            self._second, self._room = int(now), self._per_s_max
        if self._room <= 0:
            self.dropped += 1
            return
        self._room -= 1
        _, kind, detail = failure
        found, message = error_of(kind, detail)
        reason = str(detail.get("reason") or "") if isinstance(detail, dict) else ""
        if task.state == PUSHED and kind in ("actor_died", "actor_pg_removed", "actor_unavailable"):
            # the call ran, so what it has seen is the end of the actor's process
            if kind == "actor_pg_removed":
                reason = Cause.GROUP_REMOVED.text
            exit_type, sentence = detail.get("exit_type"), detail.get("exit_detail")
            if not exit_type:  # the node ended the actor, and its process has not ended yet
                exit_type, sentence = exit_of(reason, int(detail.get("signal") or 0), int(detail.get("exit_code") or 0))
            found, message = "ACTOR_DIED", f"{message}\n{exit_type}: {sentence}"
        if reason.startswith(NODE_GONE):
            found = "NODE_DIED"
        self.rows.append({**about(task), "error_type": found, "error_message": message, "end_s": now})

    def flush(self) -> None:
        """Once a turn: send the rows."""
        rows, self.rows = self.rows, []
        dropped, self.dropped = self.dropped, 0
        self._send(TaskFailures(rows, dropped))
