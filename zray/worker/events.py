"""Records the runs of tasks, for ``zray timeline`` and ``zray list tasks``.

The thread that runs tasks appends one tuple a task (0.15 us) to ``pending`` while there is room.  At most ten times a
second, and only when a task ran, one message takes the events to the node.  The room limits the load: 1,000 tasks a
second and worker have an event each, and so has each task over a millisecond; a chunk of a map is one event with a
count.  Other tasks are only counted.  A task that still runs at a report is reported as running.

What costs time is not done for each task, but for each report: texts of errors, names, the resources of leases.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from zray.base.error_types import error_of
from zray.wire.messages import EventReport
from zray.worker.ports import CoreProcess
from zray.worker.queue import FUNCTION, TASK_ATTEMPT, TASK_ID
from zray.worker.run.results import failure_in

REPORT_EVERY_S = 0.1
# Reports that go at once, with the replies: so a process that is killed right after has reported what it did.  After
# a burst they go at most this often a second, and the others by the timer.
REPORTS_AT_ONCE_MAX = 10
REPORTS_AT_ONCE_PER_S = 5
LAST_CALL = ("\n\nSystem error:\nIntentionalSystemExit: Worker exits with an exit code 0.\n"
             "Exited because worker reached max_calls={} for this method.")
LEASES_MAX = 64  # leases whose grants are kept for reports; a worker serves one after the other


def _nameless(key: Any) -> str:
    return ""


class EventRecorder:
    """Events of one worker."""

    __slots__ = ("pending", "room", "queued", "scope", "function_name",
                 "leases", "_rt", "_ran", "_reported", "_reported_queued",
                 "_timer", "_running", "_open", "_at_once", "_refilled_s", "max_calls")

    def __init__(self, rt: CoreProcess):
        self.room = int(rt.config.task_events_per_s_max * REPORT_EVERY_S)
        # (task id, attempt, name, started ns, ended ns, True or the failure, count, lease, key of the function)
        self.pending: list[tuple[Any, ...]] = []
        self.scope = ""  # of an actor: what stands before the bare name of its class in the names of its calls
        self.leases: dict[int, dict[str, Any]] = {}  # lease -> what it was granted, until events of it are reported
        self.queued: Callable[[], list[Any]] = list  # of an actor: [[name, count], ...] of the waiting calls
        self.function_name: Callable[[Any], str] = _nameless  # of a function or method by its key
        self._reported_queued: list[Any] = []
        self._rt = rt
        self._ran = 0
        self._reported = 0  # recorded, or reported as dropped
        self._timer: Any = None
        self._at_once = float(REPORTS_AT_ONCE_MAX)  # reports that may go at once now
        self._refilled_s = 0.0
        self.max_calls = 0  # of the function that ran last and has such a limit
        # (task, attempt, name, since ns, lease, key of the function), to report as running
        self._running: list[tuple[bytes, int, str, int, int, Any]] = []
        self._open: set[tuple[bytes, int]] = set()  # calls that were reported as running

    def add(self, task: list[Any], name: str, started_ns: int, result: Any, count: int = 1, lease: int = 0) -> None:
        """Record an ended call that the hot path of the executor does not record."""
        if len(self.pending) < self.room or (
                self._open and (task[TASK_ID], task[TASK_ATTEMPT]) in self._open):
            self._open.discard((task[TASK_ID], task[TASK_ATTEMPT]))
            # A list is a failure, or a result with further fields; most results are bytes.
            ok = result if type(result) is bool or type(result) is list and failure_in(result) is not None else True
            self.pending.append(
                (task[TASK_ID], task[TASK_ATTEMPT], name, started_ns, time.perf_counter_ns(), ok, count, lease,
                 task[FUNCTION] if len(task) > FUNCTION else None))

    def not_run(self) -> None:
        """A task that is answered next has not run (under the lock)."""
        self._ran -= 1

    def serves(self, lease: Any) -> None:
        """Keep what a lease was granted, for the next report."""
        self.leases[lease.number] = lease.assigned

    def runs_long(self, task: list[Any], name: str, since_ns: int, side_by_side: bool, lease: int = 0) -> None:
        """Note a long task, to report it as running (under the lock)."""
        if not self.room:
            return
        if side_by_side:
            self._open.add((task[TASK_ID], task[TASK_ATTEMPT]))
        self._running.append((task[TASK_ID], task[TASK_ATTEMPT], name, since_ns, lease, task[FUNCTION]))
        self.arm(0)

    def arm(self, ran: int) -> None:
        """``ran`` tasks have been answered: report at once, or schedule a report (under the lock)."""
        self._ran += ran
        if not self.room:
            return
        if ran:
            now = time.monotonic()
            self._at_once = min(REPORTS_AT_ONCE_MAX, self._at_once + (now - self._refilled_s) * REPORTS_AT_ONCE_PER_S)
            self._refilled_s = now
            if self._at_once >= 1.0:
                self._at_once -= 1.0
                self.flush()
                return
        if self._timer is None:
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
        scope = self.scope
        functions = {key: self.function_name(key) for key in {event[8] for event in taken}}
        events = [[name.removeprefix(scope), task, pid, wall + started / 1e9, wall + ended / 1e9, ok is True, attempt,
                   n, None if ok is True else self._error(ok), lease, functions[key]]
                  for task, attempt, name, started, ended, ok, n, lease, key in taken]
        running, self._running = self._running, []
        ended = {event[0] for event in taken} if running else ()  # tasks that ended since: report their ends only
        events += [[name.removeprefix(scope), task, pid, wall + since / 1e9, 0.0, True, attempt, 1, None, lease,
                    self.function_name(key)]
                   for task, attempt, name, since, lease, key in running if task not in ended]
        self._reported += sum(event[6] for event in taken)
        named = {event[9] for event in events} if self.leases else ()
        leases = {number: about for number, about in self.leases.items() if number in named}
        if len(self.leases) > LEASES_MAX:
            self.leases.clear()
        parents = self._rt.parents()
        dropped = max(0, self._ran - self._reported)
        self._reported += dropped
        queued = self.queued()
        changed = queued != self._reported_queued
        self._reported_queued = queued
        if events or dropped or changed or parents or always:
            self._rt.send(self._rt.node, EventReport(events, dropped, queued if changed else None, leases, parents))


    def _error(self, result: Any) -> list[str] | None:
        """``[type, message]`` of a failure; None of a success, and of items of a map."""
        failure = failure_in(result)
        if failure is None:
            return None
        error = error_of(failure[1], failure[2])
        if result[0] == 0 and result[2].get("exiting"):
            error[1] += LAST_CALL.format(self.max_calls)
        return error
