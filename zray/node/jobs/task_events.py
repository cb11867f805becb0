"""Task events of a node: a bounded number of the last, and the tasks that are known to run now.  Pure.

An event is a report of a worker (zray.worker.events): ``[name, task id, pid, start s, end s, ok,
attempt, count]``, end 0 while it runs; ``count`` is over 1 for a chunk of a map.  Events are
numbered from 0, so that readers can page.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

EVENT_NAME, EVENT_TASK, EVENT_PID, EVENT_START, EVENT_END, EVENT_OK, EVENT_ATTEMPT, EVENT_COUNT = range(8)
FIELDS: tuple[Any, ...] = (str, bytes, int, (int, float), (int, float), (bool, int), int, int)


class TaskEventLog:
    """Bounded: the oldest go first."""

    def __init__(self, kept_max: int):
        self.ended: deque[tuple[int, list[Any]]] = deque(maxlen=kept_max)  # (job, event)
        self.running: dict[tuple[bytes, int], tuple[bytes, int, list[Any]]] = {}  # -> (worker, job, event)
        self.queued: dict[bytes, list[Any]] = {}  # worker of an actor -> [[name, count], ...] of the calls that wait
        self.seen = 0  # ended events ever
        self.dropped = 0  # tasks that workers counted, but did not report one by one

    def report(self, worker: bytes, job: int, events: list[Any], dropped: int) -> bool:
        """An EventReport; False when it is malformed (entries before the fault are kept)."""
        self.dropped += max(0, dropped)
        for event in events:
            if type(event) is not list or len(event) < len(FIELDS):
                return False
            if not all(isinstance(value, kind) for value, kind in zip(event, FIELDS, strict=False)):
                return False
            key = event[EVENT_TASK], event[EVENT_ATTEMPT]
            if event[EVENT_END]:
                self.running.pop(key, None)
                self._end(job, event)
            else:
                self.running[key] = worker, job, event
        return True

    def queue(self, worker: bytes, queued: list[Any]) -> bool:
        """The calls that wait in an actor; False when that is malformed."""
        if not all(type(row) is list and [type(value) for value in row] == [str, int] for row in queued):
            return False
        self.queued[worker] = queued
        if not queued:
            del self.queued[worker]
        return True

    def running_on(self) -> dict[bytes, str]:
        """The running task of each worker, as far as reported."""
        return {worker: event[EVENT_NAME] for worker, _, event in self.running.values()}

    def _end(self, job: int, event: list[Any]) -> None:
        self.ended.append((job, event))
        self.seen += 1

    def worker_gone(self, worker: bytes) -> str:
        """The process of a worker ended: remove and return its running task.  The event has no
        length, because the time of the end is unknown."""
        names = []
        self.queued.pop(worker, None)
        for key, (runner, job, event) in list(self.running.items()):
            if runner == worker:
                del self.running[key]
                self._end(job, [*event[:EVENT_END], event[EVENT_START], False, *event[EVENT_OK + 1:]])
                names.append(event[EVENT_NAME])
        return ", ".join(names)

    def timeline(self, start: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """``(number of the first event, events from number start on)`` as complete events of Chrome's trace format."""
        first = max(start, self.seen - len(self.ended))
        skip = first - (self.seen - len(self.ended))
        return first, [
            {"cat": "task", "ph": "X", "name": name if count == 1 else f"{name} x {count}",
             "pid": pid, "tid": pid, "ts": start_s * 1e6, "dur": (end_s - start_s) * 1e6,
             "args": {"task_id": task.hex(), "attempt": attempt, "ok": bool(ok), "job_id": job}}
            for job, (name, task, pid, start_s, end_s, ok, attempt, count) in islice(self.ended, skip, skip + limit)]

    def rows(self, blocked: Callable[[bytes], bool] = lambda worker: False) -> list[dict[str, Any]]:
        """Tasks as ``zray list tasks`` shows them, the latest first; those that wait are with the scheduler.

        ``blocked(worker)``: whether its task waits in get or wait.
        """
        found = [self._row(job, event, "RUNNING_IN_RAY_GET" if blocked(worker) else "RUNNING")
                 for worker, job, event in self.running.values()]
        found += [self._row(job, event, "FINISHED" if event[EVENT_OK] else "FAILED")
                  for job, event in reversed(self.ended)]
        return found

    @staticmethod
    def _row(job: int, event: list[Any], state: str) -> dict[str, Any]:
        name, task, pid, start_s, end_s, _, attempt, count = event
        return {"task_id": task, "name": name, "state": state, "job_id": job, "pid": pid, "attempt": attempt,
                "count": count, "start_time": start_s, "end_time": end_s or None,
                "seconds": end_s - start_s if end_s else None}

    def check(self) -> None:
        assert len(self.ended) <= self.seen
        assert all(not event[EVENT_END] for _, _, event in self.running.values())
