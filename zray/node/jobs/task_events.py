"""Task events of a node: a bounded number of the last, and the tasks that are known to run now.  Pure.

An event is a report of a worker (zray.worker.events): ``[name, task id, pid, start s, end s, ok,
attempt, count, error, lease, function]``, end 0 while it runs; ``count`` is over 1 for a chunk of a map;
``error`` is None or ``[type, message]``; ``function`` is its name, or '' for that of the task.  The log adds
``[[from s, to s], ...]`` to an ended one whose worker was blocked meanwhile, in get or wait.
Events are numbered from 0, so that readers can page.

A failure is a report of an owner (zray.owner.failed_attempts): an attempt that failed by the owner's
decision.  It may concern an attempt that has an event, and then says more: a worker that died
cannot say why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from zray.node.jobs.ended_events import (
    EVENT_ATTEMPT,
    EVENT_BLOCKED,
    EVENT_COUNT,
    EVENT_END,
    EVENT_ERROR,
    EVENT_LEASE,
    EVENT_NAME,
    EVENT_OK,
    EVENT_START,
    EVENT_TASK,
    EndedEvents,
    Source,
    unpacked,
)
from zray.node.jobs.task_counts import TaskCounts

FIELDS: tuple[Any, ...] = (str, bytes, int, (int, float), (int, float), (bool, int), int, int, (list, type(None)), int,
                          str)
FAILURE_FIELDS: dict[str, Any] = {
    "task_id": bytes, "attempt": int, "name": str, "error_type": str, "error_message": str, "end_s": (int, float),
    "created_s": (int, float)}
WORKER_DIED = "WORKER_DIED"
EVENTS_BYTES_MAX = 64 << 20
STORIES_MAX = 10_000  # 2 MB
DUMPED_ROW_BYTES = 4096  # a failure with its message may have as many: so many rows of other kinds fit into a copy
BLOCKS_MAX = 16  # waits of a running task that are kept with their times; further ones make the last one longer


class TaskEventLog:
    """Bounded: the oldest go first."""

    def __init__(self, kept_max: int, bytes_max: int = EVENTS_BYTES_MAX, kept_s: float = 0.0):
        self.kept_max = kept_max
        self.ended = EndedEvents(kept_max, bytes_max, kept_s)
        self.running: dict[tuple[bytes, int], tuple[Source, list[Any]]] = {}
        self.failures: dict[tuple[bytes, int], dict[str, Any]] = {}  # oldest first
        # When an attempt was submitted, and what it waited for: of those that took long, oldest first.
        self.stories: dict[tuple[bytes, int], tuple[float, str]] = {}
        self.parents: dict[bytes, bytes] = {}  # prefix of ids -> the task that made them, oldest first
        self.queued: dict[bytes, list[Any]] = {}  # worker of an actor -> [[name, count], ...] of the calls that wait
        self.blocks: dict[bytes, list[list[float]]] = {}  # worker -> when it was blocked, [from, to], to 0 for now
        self.counts = TaskCounts()  # of ended attempts
        self.dropped = 0  # tasks that workers or owners counted, but did not report one by one

    @property
    def seen(self) -> int:
        """Ended events ever."""
        return self.ended.seen

    def report(self, source: Source, events: list[Any], dropped: int, leases: dict[int, Any] | None = None,
               parents: list[Any] | None = None, since: Callable[[int], float] = lambda lease: 0.0) -> bool:
        """An EventReport; False when it is malformed (entries before the fault are kept).

        ``since(lease)``: when the lease was granted; 0 for unknown.
        """
        self.dropped += max(0, dropped)
        sources: dict[int, Source] = {}
        for event in events:
            if type(event) is not list or len(event) < len(FIELDS):
                return False
            if not all(isinstance(value, kind) for value, kind in zip(event, FIELDS, strict=False)):
                return False
            if len(event) > EVENT_BLOCKED:
                del event[EVENT_BLOCKED:]  # of a later version
            lease = event[EVENT_LEASE]
            found = sources.get(lease)
            if found is None:
                granted = (leases or {}).get(lease)
                found = sources[lease] = source if type(granted) is not dict else source._replace(
                    granted={**granted, "since_s": since(lease)})
            key = event[EVENT_TASK], event[EVENT_ATTEMPT]
            if event[EVENT_END]:
                self.running.pop(key, None)
                self._end(found, event)
            else:
                self.running[key] = found, event
        if events and events[-1][EVENT_END]:
            self.ended.expire(events[-1][EVENT_END])
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

    def told(self, stories: list[Any], epoch_s: float = 0.0) -> bool:
        """Stories of an owner (zray.owner.stories); False when they are malformed (those before the fault are kept)."""
        for row in stories:
            if type(row) is not list or [type(value) for value in row] != [bytes, int, float, str]:
                return False
            task, attempt, created, waited = row
            self.stories[task, attempt] = created + epoch_s, waited
        _trim(self.stories, min(self.kept_max, STORIES_MAX))
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

    def blocked(self, worker: bytes, is_blocked: bool, now_s: float) -> None:
        """The worker blocks in get or wait, or goes on."""
        blocks = self.blocks.setdefault(worker, [])
        if not is_blocked:
            if blocks:
                blocks[-1][1] = now_s
        elif len(blocks) >= BLOCKS_MAX:
            blocks[-1][1] = 0.0
        else:
            blocks.append([now_s, 0.0])

    def _end(self, source: Source, event: list[Any]) -> None:
        if self.blocks and source.worker in self.blocks:
            event = [*event[:EVENT_BLOCKED], self._blocks_of(source, event)]
        self.ended.add(source, event)
        self.counts.add(event[EVENT_NAME], source.job, bool(event[EVENT_OK]), event[EVENT_ATTEMPT], event[EVENT_COUNT])

    def _blocks_of(self, source: Source, event: list[Any]) -> list[list[float]]:
        """When its worker was blocked while the task ran.  Of an actor that is kept: its calls may overlap."""
        start, end = event[EVENT_START], event[EVENT_END]
        blocks = self.blocks[source.worker]
        found = [[max(begin, start), min(until or end, end)] for begin, until in blocks
                 if begin < end and (until or end) > start]
        if not source.actor:
            self.blocks[source.worker] = [block for block in blocks if not block[1] or block[1] > end]
        else:
            del blocks[:-BLOCKS_MAX // 2]
        if not self.blocks[source.worker]:
            del self.blocks[source.worker]
        return found

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
        self.blocks.pop(worker, None)
        return ", ".join(names)

    def timeline(self, start: int, limit: int, address: str = "") -> tuple[int, list[dict[str, Any]]]:
        """``(start of the next page, events from number start on)`` as complete events of Chrome's trace format.

        As in Ray, a process of the trace is a node, by its address, and a thread of it is a worker.
        zray.state.timeline puts numbers in the place of both.
        """
        following, page = self.ended.page(start, limit)
        return following, [{**_traced(source, unpacked(packed)), "pid": address} for source, packed in page]

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
        for source, packed in self.ended:
            if task not in packed:
                continue
            event = unpacked(packed)
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
                "group": (source.granted.get("group") or [b""])[0], "leased_s": source.granted.get("since_s") or 0.0,
                "blocked": event[EVENT_BLOCKED] if len(event) > EVENT_BLOCKED else []}

    # ------------------------------------------------------------ a copy for a file

    def dump(self, bytes_max: int) -> dict[str, Any]:
        """What is known, with the latest events as far as they fit, as a map of wire types."""
        others = bytes_max // DUMPED_ROW_BYTES
        return {**self.ended.dump(bytes_max), "dropped": self.dropped,
                "running": [[list(source), event] for source, event in islice(self.running.values(), others)],
                "failures": list(islice(reversed(self.failures.values()), others))[::-1],
                "stories": [[*key, *story] for key, story in islice(reversed(self.stories.items()), 10 * others)][::-1],
                "parents": [list(pair) for pair in islice(reversed(self.parents.items()), others)][::-1]}

    @classmethod
    def loaded(cls, dump: dict[str, Any]) -> TaskEventLog:
        """What :meth:`dump` has given; KeyError, TypeError, IndexError for anything else."""
        log = cls(0)
        log.ended = EndedEvents.loaded(dump)
        log.dropped = dump["dropped"]
        log.running = {(event[EVENT_TASK], event[EVENT_ATTEMPT]): (Source(*source), event)
                       for source, event in dump["running"]}
        log.failures = {(row["task_id"], row["attempt"]): row for row in dump["failures"]}
        log.stories = {(task, attempt): (created, waited) for task, attempt, created, waited in dump["stories"]}
        log.parents = dict(dump["parents"])
        log.kept_max = 1 << 62
        return log

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        self.ended.check()
        assert len(self.stories) <= STORIES_MAX
        assert len(self.failures) <= self.kept_max and len(self.parents) <= self.kept_max
        assert all(not event[EVENT_END] for _, event in self.running.values())


def _traced(source: Source, event: list[Any]) -> dict[str, Any]:
    name, task, pid, start_s, end_s, ok, attempt, count, *_ = event
    return {"cat": "task", "ph": "X", "name": name if count == 1 else f"{name} x {count}",
            "tid": f"worker:{source.worker_id.hex()}", "ts": start_s * 1e6, "dur": (end_s - start_s) * 1e6,
            "args": {"task_id": task.hex(), "attempt": attempt, "ok": bool(ok), "job_id": source.job, "pid": pid,
                     "actor_id": source.actor.hex()}}


def _trim(table: dict[Any, Any], kept_max: int) -> None:
    while len(table) > kept_max:
        del table[next(iter(table))]
