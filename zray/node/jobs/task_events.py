"""Task events of a node: a bounded number of the last, and the tasks that are known to run now.  Pure.

An event is a report of a worker (zray.worker.events): ``[name, task id, pid, start s, end s, ok,
attempt, count, error, lease, function]``, end 0 while it runs; ``count`` is over 1 for a chunk of a map;
``error`` is None or ``[type, message]``; ``function`` is its name, or '' for that of the task.
Events are numbered from 0, so that readers can page.

A failure is a report of an owner (zray.owner.failed_attempts): an attempt that failed by the owner's
decision.  It may concern an attempt that has an event, and then says more: a worker that died
cannot say why.

Ended events are kept packed: less than half of the memory, and nothing for the garbage collector to visit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgpack

from zray.base.named_tuples import NamedTuple
from zray.node.jobs.task_counts import TaskCounts

(EVENT_NAME, EVENT_TASK, EVENT_PID, EVENT_START, EVENT_END, EVENT_OK, EVENT_ATTEMPT, EVENT_COUNT, EVENT_ERROR,
 EVENT_LEASE, EVENT_FUNCTION) = range(11)
FIELDS: tuple[Any, ...] = (str, bytes, int, (int, float), (int, float), (bool, int), int, int, (list, type(None)), int,
                          str)
FAILURE_FIELDS: dict[str, Any] = {
    "task_id": bytes, "attempt": int, "name": str, "error_type": str, "error_message": str, "end_s": (int, float),
    "created_s": (int, float)}
WORKER_DIED = "WORKER_DIED"


class Source(NamedTuple):
    """Where an event comes from: a worker on one lease, or as one actor."""

    worker: bytes  # incarnation
    worker_id: bytes
    job: int
    actor: bytes  # b'' for a worker of tasks
    granted: dict[str, Any]  # resources, group, labels; {} when the worker has not said


class TaskEventLog:
    """Bounded: the oldest go first."""

    def __init__(self, kept_max: int):
        self.kept_max = kept_max
        self.ended: deque[tuple[Source, bytes]] = deque(maxlen=kept_max)
        self.running: dict[tuple[bytes, int], tuple[Source, list[Any]]] = {}
        self.failures: dict[tuple[bytes, int], dict[str, Any]] = {}  # oldest first
        self.parents: dict[bytes, bytes] = {}  # prefix of ids -> the task that made them, oldest first
        self.queued: dict[bytes, list[Any]] = {}  # worker of an actor -> [[name, count], ...] of the calls that wait
        self.counts = TaskCounts()  # of ended attempts
        self.seen = 0  # ended events ever
        self.dropped = 0  # tasks that workers or owners counted, but did not report one by one

    def report(self, source: Source, events: list[Any], dropped: int, leases: dict[int, Any] | None = None,
               parents: list[Any] | None = None) -> bool:
        """An EventReport; False when it is malformed (entries before the fault are kept)."""
        self.dropped += max(0, dropped)
        sources: dict[int, Source] = {}
        for event in events:
            if type(event) is not list or len(event) < len(FIELDS):
                return False
            if not all(isinstance(value, kind) for value, kind in zip(event, FIELDS, strict=False)):
                return False
            lease = event[EVENT_LEASE]
            found = sources.get(lease)
            if found is None:
                granted = (leases or {}).get(lease)
                found = sources[lease] = source._replace(granted=granted) if type(granted) is dict else source
            key = event[EVENT_TASK], event[EVENT_ATTEMPT]
            if event[EVENT_END]:
                self.running.pop(key, None)
                self._end(found, event)
            else:
                self.running[key] = found, event
        return self._take_parents(parents or [])

    def _take_parents(self, parents: list[Any]) -> bool:
        for pair in parents:
            if type(pair) is not list or [type(value) for value in pair] != [bytes, bytes]:
                return False
            self.parents[pair[0]] = pair[1]
        _trim(self.parents, self.kept_max)
        return True

    def failed(self, rows: list[Any], dropped: int, epoch_s: float = 0.0) -> bool:
        """TaskFailures of an owner; False when it is malformed (rows before the fault are kept).

        ``epoch_s``: what to add to its times, which are of the clock that the processes of a machine share.
        """
        self.dropped += max(0, dropped)
        for row in rows:
            if type(row) is not dict or not all(isinstance(row.get(name), kind)
                                                for name, kind in FAILURE_FIELDS.items()):
                return False
            self.failures[row["task_id"], row["attempt"]] = {
                **row, **{name: row[name] + epoch_s for name in ("created_s", "end_s") if row[name]}}
        _trim(self.failures, self.kept_max)
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
        return {source.worker: event[EVENT_NAME] for source, event in self.running.values()}

    def _end(self, source: Source, event: list[Any]) -> None:
        self.ended.append((source, msgpack.packb(event, unicode_errors="surrogatepass")))
        self.counts.add(event[EVENT_NAME], source.job, bool(event[EVENT_OK]), event[EVENT_ATTEMPT], event[EVENT_COUNT])
        self.seen += 1

    def worker_gone(self, worker: bytes, now_s: float = 0.0, why: str = "") -> str:
        """The process of a worker ended: remove and return its running task.

        Its event ends now: a worker's death is noticed within milliseconds.
        """
        names = []
        self.queued.pop(worker, None)
        for key, (source, event) in list(self.running.items()):
            if source.worker == worker:
                del self.running[key]
                end = max(now_s, event[EVENT_START])
                error = ["ACTOR_DIED" if source.actor else WORKER_DIED, why]
                self._end(source, [*event[:EVENT_END], end, False, *event[EVENT_OK + 1:EVENT_ERROR], error,
                                   *event[EVENT_LEASE:]])
                names.append(event[EVENT_NAME])
        return ", ".join(names)

    def timeline(self, start: int, limit: int, address: str = "") -> tuple[int, list[dict[str, Any]]]:
        """``(number of the first event, events from number start on)`` as complete events of Chrome's trace format.

        As in Ray, a process of the trace is a node, by its address, and a thread of it is a worker.
        zray.state.timeline puts numbers in the place of both.
        """
        first = max(start, self.seen - len(self.ended))
        skip = first - (self.seen - len(self.ended))
        return first, [{**_traced(source, _unpacked(packed)), "pid": address}
                       for source, packed in islice(self.ended, skip, skip + limit)]

    def running_now(self, now_s: float) -> list[dict[str, Any]]:
        """The tasks that are known to run, as such events up to now."""
        found = [_traced(source, [*event[:EVENT_END], max(now_s, event[EVENT_START]), *event[EVENT_OK:]])
                 for source, event in self.running.values()]
        for each in found:
            each["args"]["running"] = True
        return found

    def rows(self, blocked: Callable[[bytes], bool] = lambda worker: False, task: bytes = b"") -> Iterator[dict]:
        """Attempts that run or ended, the latest first; ``task``: of that task only.

        ``blocked(worker)``: whether its task waits in get or wait.
        """
        for source, event in self.running.values():
            if not task or event[EVENT_TASK] == task:
                yield self._row(source, event, "RUNNING_IN_RAY_GET" if blocked(source.worker) else "RUNNING")
        reported = set()
        for source, packed in reversed(self.ended):
            if task not in packed:
                continue
            event = _unpacked(packed)
            if task and event[EVENT_TASK] != task:
                continue
            row = self._row(source, event, "FINISHED" if event[EVENT_OK] else "FAILED")
            key = event[EVENT_TASK], event[EVENT_ATTEMPT]
            if self.failures and not event[EVENT_OK] and (said := self.failures.get(key)) is not None:
                reported.add(key)
                row |= {name: said[name] for name in ("error_type", "error_message")}
            yield row
        for key, said in reversed(self.failures.items()):
            if key not in reported and (not task or key[0] == task):
                yield {**said, "state": "FAILED", "start_s": 0.0, "pid": 0, "worker_id": b"", "count": 1}

    @staticmethod
    def _row(source: Source, event: list[Any], state: str) -> dict[str, Any]:
        name, task, pid, start_s, end_s, _, attempt, count, error, _, function = event[:len(FIELDS)]
        creation = source.actor and task[:len(source.actor)] == source.actor
        error_type, message = error if error else ("", "")
        return {"task_id": task, "name": name, "function": function or name,
                "state": state, "job": source.job, "pid": pid, "attempt": attempt,
                "count": count, "start_s": start_s, "end_s": end_s, "worker_id": source.worker_id,
                "actor": source.actor, "error_type": error_type, "error_message": message,
                "type": "ACTOR_CREATION_TASK" if creation else "ACTOR_TASK" if source.actor else "NORMAL_TASK",
                "resources": source.granted.get("resources") or {}, "labels": source.granted.get("labels") or {},
                "group": (source.granted.get("group") or [b""])[0]}

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        assert len(self.ended) <= min(self.seen, self.kept_max)
        assert len(self.failures) <= self.kept_max and len(self.parents) <= self.kept_max
        assert all(not event[EVENT_END] for _, event in self.running.values())


def _traced(source: Source, event: list[Any]) -> dict[str, Any]:
    name, task, pid, start_s, end_s, ok, attempt, count, *_ = event
    return {"cat": "task", "ph": "X", "name": name if count == 1 else f"{name} x {count}",
            "tid": f"worker:{source.worker_id.hex()}", "ts": start_s * 1e6, "dur": (end_s - start_s) * 1e6,
            "args": {"task_id": task.hex(), "attempt": attempt, "ok": bool(ok), "job_id": source.job, "pid": pid,
                     "actor_id": source.actor.hex()}}


def _unpacked(event: bytes) -> list[Any]:
    return msgpack.unpackb(event, unicode_errors="surrogatepass", strict_map_key=False)  # whatever a worker has said


def _trim(table: dict[Any, Any], kept_max: int) -> None:
    while len(table) > kept_max:
        del table[next(iter(table))]
