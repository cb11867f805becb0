"""Ended task events of a node: the last ones, by number, bytes and age; failures are kept longest.  Pure.

Events are numbered from 0 in the order of their arrival.  The oldest goes first.  A failed one that goes moves to a
list of its own, which has a part of the bytes for itself, so that a million successes push out no failure.  What goes
from there, or has succeeded, is counted in ``forgotten``, and stays in the sums of its function.

An event is kept packed: less than half of the memory, and nothing for the garbage collector to visit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgpack

from zray.base.named_tuples import NamedTuple

(EVENT_NAME, EVENT_TASK, EVENT_PID, EVENT_START, EVENT_END, EVENT_OK, EVENT_ATTEMPT, EVENT_COUNT, EVENT_ERROR,
 EVENT_LEASE, EVENT_FUNCTION, EVENT_BLOCKED) = range(12)
FAILED_PART = 4  # failures have one part in so many of the bytes
FAILED_AGES = 7  # and are kept this many times as long
ENTRY_BYTES = 100  # of a kept event, beside its packed bytes: measured with CPython 3.11
FUNCTIONS_MAX = 1000  # functions with sums of their own
OTHERS = "(other functions)"


class Source(NamedTuple):
    """Where an event comes from: a worker on one lease, or as one actor."""

    worker: bytes  # incarnation
    worker_id: bytes
    job: int
    actor: bytes  # b'' for a worker of tasks
    granted: dict[str, Any]  # resources, group, labels, since_s; {} when the worker has not said


Kept = tuple[Source, bytes]


def packed(event: list[Any]) -> bytes:
    return msgpack.packb(event, unicode_errors="surrogatepass")  # type: ignore[no-any-return]


def unpacked(event: bytes) -> list[Any]:
    return msgpack.unpackb(event, unicode_errors="surrogatepass", strict_map_key=False)  # whatever a worker has said


class EndedEvents:
    """See the module's docstring."""

    def __init__(self, kept_max: int, bytes_max: int, kept_s: float):
        self.kept_max = kept_max
        self.kept_s = kept_s  # 0: for ever
        self._bytes_max = [bytes_max - bytes_max // FAILED_PART, bytes_max // FAILED_PART]
        self._lists: list[deque[Kept]] = [deque(), deque()]
        self._bytes = [0, 0]
        self._failed: deque[int] = deque()  # numbers of the failed ones among ``events``
        self.seen = 0
        self.forgotten = 0
        # function -> [attempts that succeeded, that failed, seconds of all, seconds of the longest]
        self.functions: dict[str, list[Any]] = {}

    @property
    def events(self) -> deque[Kept]:
        """Those with the numbers from ``first`` on."""
        return self._lists[0]

    @property
    def failed(self) -> deque[Kept]:
        """Failed ones with smaller numbers."""
        return self._lists[1]

    @property
    def first(self) -> int:
        return self.seen - len(self._lists[0])

    def __len__(self) -> int:
        return len(self._lists[0]) + len(self._lists[1])

    def __iter__(self) -> Iterator[Kept]:
        """The latest first."""
        yield from reversed(self._lists[0])
        yield from reversed(self._lists[1])

    def add(self, source: Source, event: list[Any]) -> None:
        """Called for each event of a node: written out for speed."""
        data = packed(event)
        entries = self._lists[0]
        entries.append((source, data))
        total = self._bytes[0] = self._bytes[0] + ENTRY_BYTES + len(data)
        ok = event[EVENT_OK]
        if not ok:
            self._failed.append(self.seen)
        self.seen += 1
        if len(entries) > self.kept_max or total > self._bytes_max[0]:
            self._trim(0)
        sums = self.functions.get(event[EVENT_FUNCTION] or event[EVENT_NAME])
        if sums is None:
            sums = self._sums_of(event[EVENT_FUNCTION] or event[EVENT_NAME])
        seconds = event[EVENT_END] - event[EVENT_START]
        sums[0 if ok else 1] += event[EVENT_COUNT]
        sums[2] += seconds
        if seconds > sums[3]:
            sums[3] = seconds

    def _sums_of(self, function: str) -> list[Any]:
        name = OTHERS if len(self.functions) >= FUNCTIONS_MAX else function
        return self.functions.setdefault(name, [0, 0, 0.0, 0.0])

    def _put(self, part: int, kept: Kept) -> None:
        self._lists[part].append(kept)
        self._bytes[part] += ENTRY_BYTES + len(kept[1])
        self._trim(part)

    def _trim(self, part: int) -> None:
        entries = self._lists[part]
        while len(entries) > self.kept_max or self._bytes[part] > self._bytes_max[part]:
            self._drop_oldest(part)

    def _drop_oldest(self, part: int) -> None:
        number = self.first
        kept = self._lists[part].popleft()
        self._bytes[part] -= ENTRY_BYTES + len(kept[1])
        if part == 0 and self._failed and self._failed[0] == number:
            self._failed.popleft()
            self._put(1, kept)
        else:
            self.forgotten += 1

    def expire(self, now_s: float) -> None:
        """Drop what is too old; looks at the oldest only, so it costs little when there is nothing to drop."""
        if self.kept_s:
            for part, kept_s in enumerate((self.kept_s, self.kept_s * FAILED_AGES)):
                entries = self._lists[part]
                while entries and unpacked(entries[0][1])[EVENT_END] < now_s - kept_s:
                    self._drop_oldest(part)

    def page(self, start: int, limit: int) -> tuple[int, list[Kept]]:
        """``(start of the next page, at most limit events from number start on)``; older failures come first."""
        skip = max(start, self.first) - self.first
        found = list(islice(self._lists[0], skip, skip + limit))
        older = list(self._lists[1]) if start == 0 else []
        return self.first + skip + len(found), older + found

    # ------------------------------------------------------------ a copy for a file

    def dump(self, bytes_max: int) -> dict[str, Any]:
        """The latest events as far as they fit, failures first, as a map of wire types."""
        sources: dict[int, int] = {}
        rows: list[list[Any]] = []

        def take(entries: Iterator[Kept], room: int) -> list[list[Any]]:
            taken = []
            for source, event in entries:
                room -= len(event) + 4
                if room < 0:
                    break
                number = sources.get(id(source))
                if number is None:
                    number = sources[id(source)] = len(rows)
                    rows.append(list(source))
                taken.append([number, event])
            return taken[::-1]

        older = take(reversed(self._lists[1]), bytes_max // FAILED_PART)
        left = bytes_max - sum(len(event) for _, event in older)
        latest = take(reversed(self._lists[0]), left)
        return {"sources": rows, "events": latest, "failed": older, "seen": self.seen,
                "forgotten": self.forgotten + len(self) - len(latest) - len(older), "functions": self.functions}

    @classmethod
    def loaded(cls, dump: dict[str, Any]) -> EndedEvents:
        """What :meth:`dump` has given; KeyError, TypeError, IndexError for anything else."""
        total = len(dump["events"]) + len(dump["failed"])
        found = cls(total + 1, 1 << 62, 0.0)
        sources = [Source(*row) for row in dump["sources"]]
        for part, name in enumerate(("events", "failed")):
            for number, event in dump[name]:
                found._put(part, (sources[number], event))
        found.seen, found.forgotten, found.functions = dump["seen"], dump["forgotten"], dump["functions"]
        return found

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for part in (0, 1):
            entries = self._lists[part]
            assert len(entries) <= self.kept_max
            assert self._bytes[part] == sum(ENTRY_BYTES + len(event) for _, event in entries) <= self._bytes_max[part]
        assert self.seen == len(self._lists[0]) + len(self._lists[1]) + self.forgotten
        assert all(self.first <= number < self.seen for number in self._failed)
