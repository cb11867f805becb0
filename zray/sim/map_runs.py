"""Maps in the simulator: the task and value of each item, and a worker's run of a chunk (zray.worker.run.maps).

An item is a number, which determines its task, so that the oracle knows its value.

    item % 32 == 0                 it raises
    item % 32 == 1                 it raises in its first attempt, where the map retries exceptions
    item % 32 == 2                 its process ends in its first attempt
    any                            it takes up to 2 ms
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from zray.base import ids
from zray.sim.programs import FAILS, mix
from zray.wire import messages as m
from zray.worker.queue import Entry, QueuedChunk
from zray.worker.run.maps import FLUSH_NS

MAP_ITEMS_MAX = 40
SHOW = "map"  # the name of the function


def value_of(item: int) -> Any:
    """The right value of an item."""
    return FAILS if item % 32 == 0 else mix(item)


def outcome(item: int, attempt: int, retries_errors: bool) -> str:
    """The outcome of a run of an item: "value", "raise" or "crash"."""
    kind = item % 32
    if kind == 0 or (kind == 1 and attempt == 0 and retries_errors):
        return "raise"
    return "crash" if kind == 2 and attempt == 0 else "value"


def seconds(item: int) -> float:
    return (item % 5) * 0.0005


class MapProcess(Protocol):
    """The worker process of a chunk."""

    marks: list[int]

    def send(self, peer: bytes, message: Any) -> None: ...
    def later(self, seconds: float, action: Callable[..., None], *args: Any) -> None: ...
    def place_column(self, wire: bytes, oid: bytes, owner: bytes) -> Any: ...
    def encode(self, number: int, refs: list[Any]) -> bytes: ...
    def item_started(self, owner: bytes, sequence: int, task: list[Any]) -> None: ...
    def item_ended(self, task: list[Any], result: Any) -> None: ...
    def item_crashed(self) -> None: ...
    def now(self) -> float: ...


class MapRun:
    """One running chunk; calls ``over()`` when all its items have run, or were handed back."""

    def __init__(self, process: MapProcess, entry: Entry, over: Callable[[], None]) -> None:
        self.process = process
        self.lease, self.first, self.chunk = entry
        assert type(self.chunk) is QueuedChunk
        self.over = over
        self.current: bytes | None = None  # task id of the running item
        self.cancelled = False
        self.position = 0  # of the next item
        self.sent = 0  # items that were answered
        self.results: list[bytes] = []
        self.failures: list[list[Any]] = []
        self.flushed_at = process.now()
        self.retries_errors, items = msgpack.unpackb(self.chunk.payload)
        self.chunk.payload = None
        self.chunk.items = deque(items)

    def next(self) -> None:
        """Claim an item and run it."""
        chunk = self.chunk
        if not chunk.items:
            self._flush()
            self.over()
            return
        item = chunk.items.popleft()
        position, self.position = self.position, self.position + 1
        sequence = self.first + position
        self.process.marks[1] = sequence
        self.current = ids.task_id(chunk.task[:ids.PREFIX_SIZE],
                                   int.from_bytes(chunk.task[ids.PREFIX_SIZE:], "little") + position)
        self.cancelled = position in chunk.cancelled
        if self.cancelled:
            self._ended(item)
            return
        self.process.item_started(self.lease.owner, sequence, [self.current, chunk.attempt])
        self.process.later(seconds(item), self._ended, item)

    def interrupt(self, task: bytes, attempt: int) -> bool:
        """End the running item with an error if it is this one; returns whether it is."""
        found = (task, attempt) == (self.current, self.chunk.attempt)
        self.cancelled = self.cancelled or found
        return found

    def _ended(self, item: int) -> None:
        what = outcome(item, self.chunk.attempt, self.retries_errors)
        if self.cancelled:
            self._fail([m.FAILED, "cancelled", {"task": self.current}])
        elif what == "crash":
            self.process.item_crashed()
            return
        elif what == "raise":
            failure = [m.FAILED, "task_error", {"root": "raised"}]
            self.process.item_ended([self.current, self.chunk.attempt], failure)
            self._fail(failure)
        else:
            self.results.append(self.process.encode(mix(item), []))
        self.current = None
        self.process.marks[2] = self.first + self.position - 1
        if (self.process.now() - self.flushed_at) * 1e9 > FLUSH_NS:
            self._flush()
        self.next()

    def _fail(self, failure: list[Any]) -> None:
        self.failures.append([len(self.results), failure])
        self.results.append(b"")

    def _flush(self) -> None:
        results, self.results = self.results, []
        failures, self.failures = self.failures, []
        spent = self.process.now() - self.flushed_at
        self.flushed_at = self.process.now()
        if results:
            self.process.send(self.lease.owner, m.MapDone(
                self.lease.number, self.first + self.sent, len(results), self._column(results), failures,
                int(spent * 1e9) // len(results)))
            self.sent += len(results)

    def _column(self, results: list[bytes]) -> Any:
        first = ids.task_id(self.chunk.task[:ids.PREFIX_SIZE],
                            int.from_bytes(self.chunk.task[ids.PREFIX_SIZE:], "little") + self.sent)
        return self.process.place_column(msgpack.packb(results), ids.return_id(first, 1), self.lease.owner)
