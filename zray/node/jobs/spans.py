"""Spans of a node beside its tasks, for the timeline: waits, transfers, spilling, and what processes report.  Pure.

A span is ``[kind, name, pid, start s, end s, args]``; times are those of the day, pid 0 is the node itself.  Spans are
numbered from 0, so that readers can page.  Bounded: the oldest go first.

    wait                 a worker is blocked in get or wait: it says so to its node anyway
    transfer             an object comes from another node
    spill, restore       an object goes to disk, and back
    submit, get, gc      reported by processes where the setting ``timeline_details`` is on (zray.core.spans)
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

import msgpack

REPORTED = ("submit", "get", "gc")  # kinds that processes report
TASKS_MAX = 100  # of one span


class SpanLog:
    """See the module's docstring."""

    def __init__(self, kept_max: int):
        self._kept: deque[bytes] = deque(maxlen=kept_max)  # packed, as ended tasks are
        self.seen = 0
        self.dropped = 0
        self._blocked: dict[bytes, tuple[int, float]] = {}  # worker -> pid, since

    def add(self, kind: str, name: str, pid: int, start_s: float, end_s: float, args: dict[str, Any]) -> None:
        self._kept.append(msgpack.packb([kind, name, pid, start_s, end_s, args], unicode_errors="surrogatepass"))
        self.seen += 1

    def blocked(self, worker: bytes, pid: int, is_blocked: bool, now_s: float) -> None:
        """A worker's task begins or ends to wait in get or wait."""
        if is_blocked:
            self._blocked[worker] = pid, now_s
            return
        known = self._blocked.pop(worker, None)
        if known is not None:
            self.add("wait", "waits in get", known[0], known[1], now_s, {})

    def ended(self, worker: bytes, now_s: float) -> None:
        """The process of a worker has ended."""
        self.blocked(worker, 0, False, now_s)

    def report(self, pid: int, is_driver: bool, rows: list[Any], dropped: int) -> bool:
        """A SpanReport; False when it is malformed (rows before the fault are kept)."""
        self.dropped += max(0, dropped)
        for row in rows:
            if type(row) is not list or len(row) != 5:
                return False
            kind, name, start_s, end_s, tasks = row
            if kind not in REPORTED or type(name) is not str or type(tasks) is not list or not (
                    isinstance(start_s, float) and isinstance(end_s, float)) or not all(
                    type(task) is bytes for task in tasks):
                return False
            args = {"tasks": [task.hex() for task in tasks[:TASKS_MAX]], "driver": is_driver}
            self.add(kind, name, pid, start_s, max(start_s, end_s), args)
        return True

    def page(self, start: int, limit: int) -> tuple[int, list[list[Any]]]:
        """``(number of the first, spans from number start on)``."""
        first = max(start, self.seen - len(self._kept))
        skip = first - (self.seen - len(self._kept))
        return first, [msgpack.unpackb(packed, unicode_errors="surrogatepass")
                       for packed in islice(self._kept, skip, skip + limit)]

    def open_waits(self, now_s: float) -> list[list[Any]]:
        """The waits that have not ended, up to now."""
        return [["wait", "waits in get", pid, since, max(since, now_s), {"running": True}]
                for pid, since in self._blocked.values()]

    def dump(self, bytes_max: int) -> dict[str, Any]:
        """The latest spans as far as they fit, and the open waits, as a map of wire types."""
        found: list[bytes] = []
        for packed in reversed(self._kept):
            bytes_max -= len(packed) + 4
            if bytes_max < 0:
                break
            found.append(packed)
        return {"spans": found[::-1], "seen": self.seen, "dropped": self.dropped,
                "blocked": [[worker, *known] for worker, known in self._blocked.items()]}

    @classmethod
    def loaded(cls, dump: dict[str, Any]) -> SpanLog:
        """What :meth:`dump` has given; KeyError, TypeError, ValueError for anything else."""
        log = cls(len(dump["spans"]))
        log._kept.extend(dump["spans"])
        log.seen, log.dropped = dump["seen"], dump["dropped"]
        log._blocked = {worker: (pid, since) for worker, pid, since in dump["blocked"]}
        return log

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        assert len(self._kept) <= self.seen
