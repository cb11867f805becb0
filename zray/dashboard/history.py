"""The metrics of the last minutes, while a page is open: a bounded number of points of a bounded number of series.

Pure: the caller gives the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

POINTS_MAX = 300  # five minutes at one a second
KEPT_SERIES_MAX = 300


class Series:
    """One metric with one set of labels."""

    __slots__ = ("kind", "labels", "points")

    def __init__(self, kind: str, labels: dict[str, str]):
        self.kind = kind
        self.labels = labels
        self.points: deque[tuple[float, float]] = deque(maxlen=POINTS_MAX)


class History:
    """Points by metric and labels."""

    def __init__(self) -> None:
        self.families: dict[str, dict[tuple[tuple[str, str], ...], Series]] = {}
        self.descriptions: dict[str, str] = {}
        self.left_out = 0  # series beyond KEPT_SERIES_MAX at the last look

    def add(self, now: float, families: Iterable[Mapping[str, Any]]) -> None:
        """The families of zray.metrics.exposition, as they are at ``now``; a histogram counts its records."""
        self.left_out = 0
        count = sum(map(len, self.families.values()))
        seen = set()
        for family in families:
            name = str(family["name"])
            series_of = self.families.setdefault(name, {})
            self.descriptions[name] = str(family.get("description") or "")
            for labels, value in family["series"]:
                key = tuple(sorted((str(k), str(v)) for k, v in labels.items()))
                series = series_of.get(key)
                if series is None:
                    if count >= KEPT_SERIES_MAX:
                        self.left_out += 1
                        continue
                    count += 1
                    kind = "counter" if family["kind"] == "histogram" else str(family["kind"])
                    series = series_of[key] = Series(kind, dict(key))
                seen.add((name, key))
                number = _number(value)
                if number is not None:
                    series.points.append((now, number))
        self._forget(seen)

    def _forget(self, seen: set[Any]) -> None:
        """Drop the series that are no longer reported: a process has ended, or a node."""
        for name, series_of in list(self.families.items()):
            for key in [key for key in series_of if (name, key) not in seen]:
                del series_of[key]
            if not series_of:
                del self.families[name]
                self.descriptions.pop(name, None)

    def check(self) -> None:
        """The bounds hold."""
        assert sum(map(len, self.families.values())) <= KEPT_SERIES_MAX
        for series_of in self.families.values():
            for series in series_of.values():
                assert len(series.points) <= POINTS_MAX
                times = [at for at, _ in series.points]
                assert times == sorted(times)


def _number(value: Any) -> float | None:
    if isinstance(value, (list, tuple)):  # of a histogram: the counts of its buckets, then the sum of its records
        value = sum(value[:-1])
    return float(value) if isinstance(value, (int, float)) else None


def rates(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The growth a second of a counter; a counter that has begun again grew from 0."""
    found = []
    last: tuple[float, float] | None = None
    for at, value in points:
        if last is not None and at > last[0]:
            grown = value - last[1] if value >= last[1] else value
            found.append((at, grown / (at - last[0])))
        last = at, value
    return found
