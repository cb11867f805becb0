"""Metrics of one process until its node has them: changes since the last report, in bounded memory.

Any thread may record.  A row is ``[kind, name, description, tag keys, tag values, value, boundaries]``.  Its value is
the increase of a counter, the last value of a gauge, or ``[count for each bucket ..., sum]`` of a histogram, as
increases.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import Any

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
# Series of one process between two reports; a further one is left out, and counted.
SERIES_MAX = 10_000


def _sendable(text: str) -> str:
    """The text with escapes in place of lone surrogates: a message, and Prometheus' text, are UTF-8."""
    return text.encode(errors="backslashreplace").decode()


class Recorder:
    """See the module's docstring."""

    def __init__(self, series_max: int = SERIES_MAX):
        self._series_max = series_max
        self._lock = threading.Lock()
        self._rows: dict[tuple[Any, ...], list[Any]] = {}
        self.dropped = 0  # records of series that found no room

    def add(self, kind: str, name: str, description: str, keys: tuple[str, ...], values: tuple[str, ...],
            value: float, boundaries: tuple[float, ...] = ()) -> None:
        """Record a value."""
        series = kind, name, keys, values, boundaries  # its node leaves out what contradicts the first declaration
        with self._lock:
            row = self._rows.get(series)
            if row is None:
                if len(self._rows) >= self._series_max:
                    self.dropped += 1
                    return
                empty: Any = [0] * (len(boundaries) + 1) + [0.0] if kind == HISTOGRAM else 0.0
                row = self._rows[series] = [kind, name, _sendable(description), list(keys),
                                            list(map(_sendable, values)), empty, list(boundaries)]
            if kind == COUNTER:
                row[5] += value
            elif kind == GAUGE:
                row[5] = value
            else:
                row[5][bisect_left(boundaries, value)] += 1
                row[5][-1] += value

    def take(self) -> tuple[list[list[Any]], int]:
        """``(rows, records that were left out)`` since the last call."""
        with self._lock:
            rows, self._rows = list(self._rows.values()), {}
            dropped, self.dropped = self.dropped, 0
        return rows, dropped
