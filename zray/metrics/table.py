"""Metrics of all processes of a node: counters and histograms added up, gauges by process.  Pure, in bounded memory."""

from __future__ import annotations

from typing import Any

from zray.metrics.recorder import COUNTER, GAUGE, HISTOGRAM

WORKER_LABEL = "WorkerId"  # of gauges: each process has its own value
_ROW: tuple[Any, ...] = (str, str, str, list, list, (int, float, list), list)


class MetricTable:
    """Families of series: ``name -> {kind, description, keys, boundaries, series}``.

    A series is found by its tag values; of a gauge also by its process, with which it ends.
    """

    def __init__(self, series_max: int):
        self._series_max = series_max
        self.families: dict[str, dict[str, Any]] = {}
        self.count = 0  # of series
        self.dropped = 0  # values that found no room, or contradict the first declaration of their metric

    def report(self, source: str, rows: list[Any], dropped: int) -> bool:
        """Rows of a process (zray.metrics.recorder); False when they are malformed (rows before the fault are kept)."""
        self.dropped += max(0, dropped)
        return all(self._take(source, row) for row in rows)

    def _take(self, source: str, row: Any) -> bool:
        if type(row) is not list or len(row) != len(_ROW) or not all(map(isinstance, row, _ROW)):
            return False
        kind, name, description, keys, values, value, boundaries = row
        histogram = kind == HISTOGRAM
        if kind not in (COUNTER, GAUGE, HISTOGRAM) or len(keys) != len(values) or (
                not all(isinstance(text, str) for text in [*keys, *values])) or (
                histogram != (type(value) is list) or histogram and len(value) != len(boundaries) + 2):
            return False
        family = self.families.get(name)
        if family is None:
            if self.count >= self._series_max:
                self.dropped += 1
                return True
            family = self.families[name] = {"name": name, "kind": kind, "description": description,
                                            "keys": keys, "boundaries": boundaries, "series": {}}
        if (family["kind"], family["keys"], family["boundaries"]) != (kind, keys, boundaries):
            self.dropped += 1
            return True
        self._add(family, (*values, source) if kind == GAUGE else tuple(values), value)
        return True

    def _add(self, family: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
        series = family["series"]
        known = series.get(key)
        if known is None:
            if self.count >= self._series_max:
                self.dropped += 1
                return
            self.count += 1
            series[key] = value
        elif family["kind"] == COUNTER:
            series[key] = known + value
        elif family["kind"] == GAUGE:
            series[key] = value
        else:
            series[key] = [old + new for old, new in zip(known, value, strict=True)]

    def ended(self, source: str) -> None:
        """A process has ended: its gauges end too."""
        for name, family in list(self.families.items()):
            if family["kind"] == GAUGE:
                for key in [key for key in family["series"] if key[-1] == source]:
                    del family["series"][key]
                    self.count -= 1
                if not family["series"]:
                    del self.families[name]

    def rows(self, labels: dict[str, str]) -> list[dict[str, Any]]:
        """The families for zray.metrics.exposition; ``labels`` are added to each series."""
        found = []
        for family in self.families.values():
            keys = [*family["keys"], *([WORKER_LABEL] if family["kind"] == GAUGE else [])]
            found.append({"name": family["name"], "kind": family["kind"], "description": family["description"],
                          "boundaries": family["boundaries"], "series": [
                              [dict(zip(keys, key, strict=True)) | labels, value]
                              for key, value in family["series"].items()]})
        return found

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        assert self.count == sum(len(family["series"]) for family in self.families.values()) <= self._series_max
