"""Records the runs of tasks, for ``zray timeline`` and ``zray list tasks``.

The thread that runs tasks appends one tuple a task (0.15 us) to ``pending`` while there is room.  At most ten times a
second, and only when a task ran, one message takes the events to the node.  The room limits the load: 1,000 tasks a
second and worker have an event each, and so has each task over a millisecond; a chunk of a map is one event with a
count.  Other tasks are only counted.  A task that still runs at a report is reported as running.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from zray.wire.messages import EventReport
from zray.worker.ports import CoreProcess
from zray.worker.queue import ATTEMPT, TASK_ID
from zray.worker.run.results import succeeded

REPORT_EVERY_S = 0.1


class EventRecorder:
    """Events of one worker."""

    __slots__ = ("pending", "room", "queued", "_rt", "_ran", "_reported", "_reported_queued", "_timer", "_running",
                 "_open")

    def __init__(self, rt: CoreProcess):
        self.room = int(rt.config.task_events_per_s_max * REPORT_EVERY_S)
        self.pending: list[tuple[Any, ...]] = []  # (task id, attempt, name, started ns, ended ns, result or ok, count)
        self.queued: Callable[[], list[Any]] = list  # of an actor: [[name, count], ...] of the waiting calls
        self._reported_queued: list[Any] = []
        self._rt = rt
        self._ran = 0
        self._reported = 0  # recorded, or reported as dropped
        self._timer: Any = None
        self._running: list[tuple[bytes, int, str, int]] = []  # (task, attempt, name, since) to report as running
        self._open: set[tuple[bytes, int]] = set()  # calls that were reported as running

    def add(self, task: list[Any], name: str, started_ns: int, result: Any, count: int = 1) -> None:
        """Record an ended call that the hot path of the executor does not record."""
        if len(self.pending) < self.room or self._open and (task[TASK_ID], task[ATTEMPT]) in self._open:
            self._open.discard((task[TASK_ID], task[ATTEMPT]))
            ok = result if type(result) is bool else succeeded(result)
            self.pending.append((task[TASK_ID], task[ATTEMPT], name, started_ns, time.perf_counter_ns(), ok, count))

    def runs_long(self, task: list[Any], name: str, since_ns: int, side_by_side: bool) -> None:
        """Note a long task, to report it as running (under the lock)."""
        if not self.room:
            return
        if side_by_side:
            self._open.add((task[TASK_ID], task[ATTEMPT]))
        self._running.append((task[TASK_ID], task[ATTEMPT], name, since_ns))
        self.arm(0)

    def arm(self, ran: int) -> None:
        """``ran`` tasks have been answered: schedule a report (under the lock)."""
        self._ran += ran
        if self._timer is None and self.room:
            self._timer = self._rt.loop.call_at(time.monotonic() + REPORT_EVERY_S, self._report)

    def _report(self) -> None:
        self._timer = None
        self.flush()

    def flush(self, always: bool = False) -> None:
        """Report the events; ``always``: even when there are none (under the lock)."""
        pending = self.pending
        count = len(pending)
        taken = pending[:count]
        del pending[:count]
        wall = time.time() - time.perf_counter_ns() / 1e9
        pid = os.getpid()
        events = [[name, task, pid, wall + started / 1e9, wall + ended / 1e9, ok, attempt, n]
                  for task, attempt, name, started, ended, ok, n in taken]
        running, self._running = self._running, []
        ended = {event[0] for event in taken} if running else ()  # tasks that ended since: report their ends only
        events += [[name, task, pid, wall + since / 1e9, 0.0, True, attempt, 1]
                   for task, attempt, name, since in running if task not in ended]
        self._reported += sum(event[6] for event in taken)
        dropped = max(0, self._ran - self._reported)
        self._reported += dropped
        queued = self.queued()
        changed = queued != self._reported_queued
        self._reported_queued = queued
        if events or dropped or changed or always:
            self._rt.send(self._rt.node, EventReport(events, dropped, queued if changed else None))
