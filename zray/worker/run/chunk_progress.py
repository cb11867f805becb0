"""The progress of a running chunk of ``f.map``: the results since the last MapDone (pure).

Items are claimed one by one from the left of ``chunk.items``.  A hand-back claims from the right end
(zray.worker.queue), so the rest of a chunk can be handed back while a slow item runs.
"""

from __future__ import annotations

from typing import Any

from zray.wire.messages import MapDone
from zray.worker.queue import QueuedChunk, ServedLease

# Results of a chunk are sent at least this often, while more of its items wait.
FLUSH_NS = 5_000_000


class ChunkProgress:
    """The shell's loop appends to ``results`` and ``failures``."""

    __slots__ = ("lease", "chunk", "sent", "results", "failures", "_prefix", "_base")

    def __init__(self, lease: ServedLease, chunk: QueuedChunk):
        self.lease = lease
        self.chunk = chunk
        self.sent = 0  # items whose results were sent
        self.results: list[Any] = []
        self.failures: list[list[Any]] = []  # [position since the last MapDone, wire value]
        self._prefix = chunk.task[:16]
        self._base = int.from_bytes(chunk.task[16:], "little") - chunk.first

    def task_of(self, sequence: int) -> bytes:
        """Ids of a map are consecutive in their last 8 bytes (zray.base.ids)."""
        return self._prefix + (self._base + sequence).to_bytes(8, "little")

    def fail(self, failure: Any) -> None:
        """The running item has failed."""
        self.failures.append([len(self.results), failure])
        self.results.append(None)

    def take(self) -> tuple[int, list[Any], list[list[Any]]]:
        """(sequence of the first, results, failures) since the last call; the caller sends them."""
        results, self.results = self.results, []
        failures, self.failures = self.failures, []
        first = self.chunk.first + self.sent
        self.sent += len(results)
        return first, results, failures

    def done(self, first: int, count: int, column: Any, failures: list[list[Any]], spent_ns: int) -> MapDone:
        return MapDone(self.lease.number, first, count, column, failures, spent_ns // count)
