"""What only its owner knows of a task that took long: when it was submitted, and what it waited for.  Pure.

A worker reports when a task ran.  The owner adds the rest for tasks that took STORY_S or more from submission to
result.  It looks at one task of each message with results: a long task comes alone in its message, and of short ones
one of up to 256 is looked at, so the cost for a task is a hundredth of a microsecond.  At most ``per_s_max`` stories a
second go to the node, ten times a second; others are left out, and their rows begin with their start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.causes import Cause
from zray.owner.records import DONE, Task

STORY_S = 0.01  # below this nobody asks where the time went
STORIES_EVERY_S = 0.1


class Stories:
    """The stories that the node does not have yet: rows of [task id, attempt, submitted s, what it waited for]."""

    def __init__(self, per_s_max: int, send: Callable[[list[Any]], None]):
        self._room_max = int(per_s_max * STORIES_EVERY_S)
        self._send = send
        self.rows: list[list[Any]] = []
        self.due = 0.0  # the time of the next flush

    def ended(self, task: Task) -> None:
        """The task has its result; the caller has looked at STORY_S."""
        if task.state != DONE or not task.created or len(self.rows) >= self._room_max:
            return
        waited = ""
        if task.key is not None and task.key.waited is not None:
            at, cause, detail = task.key.waited
            if at >= task.created:
                waited = f"{Cause(cause).text} ({detail})" if detail else Cause(cause).text
        self.rows.append([task.tid, task.attempt, task.created, waited])

    def flush(self, now: float) -> None:
        """Send the rows."""
        rows, self.rows = self.rows, []
        self.due = now + STORIES_EVERY_S
        self._send(rows)
