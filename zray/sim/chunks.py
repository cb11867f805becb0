"""A chunk of ``f.map`` in a simulated worker: its items run one after the other, each as the task that it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from zray import messages as m
from zray.worker.chunk_progress import CHUNK_FLUSH_NS, ChunkProgress
from zray.worker.queue import Chunk, Lease
from zray.worker.results import cancelled

# Runs an item, as a task in wire form, and calls back with its wire result.
RunItem = Callable[[int, list[Any], Callable[[Any], None]], None]


class _Clock(Protocol):
    now: float


class SimChunk:
    """One chunk under way.  Items are programs; a column of results is a list of wire values, None where one failed."""

    def __init__(self, lease: Lease, chunk: Chunk, items: bytes, clock: _Clock, marks: list[int], run_item: RunItem,
                 send: Callable[[bytes, Any], None], ended: Callable[[], None]) -> None:
        chunk.payload = None
        chunk.items = deque(msgpack.unpackb(items))
        self.progress = ChunkProgress(lease, chunk)
        self._clock, self._marks, self._run_item, self._send, self._ended = clock, marks, run_item, send, ended
        self._flushed = clock.now

    def go_on(self) -> None:
        """The next item that nobody took away; else the chunk has ended."""
        progress, chunk = self.progress, self.progress.chunk
        while chunk.items:
            program = chunk.items.popleft()
            position = progress.sent + len(progress.results)
            sequence = chunk.first + position
            self._marks[1] = sequence
            task = [progress.task_of(sequence), chunk.attempt, chunk.function, msgpack.packb([program, []]), 1, None]
            if position not in chunk.cancelled:
                self._run_item(sequence, task, self._item_ended)
                return
            self._keep(cancelled(task, ""))
        self._flush()
        chunk.items = None
        self._ended()

    def _item_ended(self, result: Any) -> None:
        self._keep(result)
        if self._since() >= CHUNK_FLUSH_NS and self.progress.chunk.items:
            self._flush()
        self.go_on()

    def _keep(self, result: Any) -> None:
        if type(result) is list and result[0] == m.FAILED:
            self.progress.fail(result)
        else:
            self.progress.results.append(result)
        self._marks[2] = self._marks[1]

    def _since(self) -> int:
        return int((self._clock.now - self._flushed) * 1e9)

    def _flush(self) -> None:
        first, results, failures = self.progress.take()
        if results:
            lease = self.progress.lease
            self._send(lease.owner, self.progress.done(first, len(results), msgpack.packb(results), failures,
                                                       self._since()))
        self._flushed = self._clock.now
