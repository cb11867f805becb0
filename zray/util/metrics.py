"""Metrics of user code, with Ray's names: Counter, Gauge, Histogram.

Each process records into its own memory and reports to its node twice a second, so that a record costs about a
microsecond and no message.  The node adds up counters and histograms of its processes; a gauge has a series for each
process.  `zray metrics` shows all of them, and a node serves them to Prometheus where the setting ``metrics_address``
says so.  A metric is exported as ``ray_<name>``, a counter as ``ray_<name>_total``, as Ray does it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any, Self

from zray.base.plain_numbers import plain
from zray.core.metrics import record
from zray.metrics.recorder import COUNTER, GAUGE, HISTOGRAM

__all__ = ["Counter", "Gauge", "Histogram"]

EXPORT_PREFIX = "ray_"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_TAG = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Metric:
    """What the three kinds share: a name, and tags."""

    _kind = ""

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None):
        if not isinstance(name, str):
            raise TypeError(f"the name of a metric is a str, not {type(name)}.")
        if not name:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        self._is_discarded = not _NAME.fullmatch(name)
        if self._is_discarded:
            warnings.warn(f"Invalid metric name: {name}. Metric will be discarded and data will not be collected or "
                          "published. Metric names can only contain letters, numbers, _, and :. Metric names cannot "
                          "start with numbers.", UserWarning, stacklevel=3)
        if not isinstance(description, str):
            raise TypeError(f"the description of a metric is a str, not {type(description)}.")
        if tag_keys is not None and not isinstance(tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(tag_keys)}")
        for key in tag_keys or ():
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
            if not _TAG.fullmatch(key):
                raise ValueError(f"Tag key {key!r} is no label of Prometheus: letters, digits and _, no digit first.")
        if len(set(tag_keys or ())) < len(tag_keys or ()):
            raise ValueError(f"Tag keys must differ from each other, got {tag_keys}.")
        self._name = name
        self._description = description
        self._tag_keys: tuple[str, ...] = tag_keys or ()
        self._default_tags: dict[str, str] = {}
        self._boundaries: tuple[float, ...] = ()

    def set_default_tags(self, default_tags: dict[str, str]) -> Self:
        """Tags of each record that does not give them itself; returns the metric."""
        if not isinstance(default_tags, dict):
            raise TypeError(f"default_tags should be a dict of tag keys and values, got {type(default_tags)}.")
        for key, value in default_tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")
        self._default_tags = dict(default_tags)
        return self

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, tag keys and default tags."""
        return {"name": self._name, "description": self._description, "tag_keys": self._tag_keys,
                "default_tags": self._default_tags}

    def _record(self, value: float, tags: dict[str, str] | None) -> None:
        """Tags that the metric does not declare are ignored.  ValueError for one that is missing."""
        if tags:
            if not isinstance(tags, dict):
                raise TypeError(f"tags should be a dict of tag keys and values, got {type(tags)}.")
            for given in tags.values():
                if not isinstance(given, str):
                    raise TypeError(f"Tag values must be str, got {type(given)}.")
            tags = {**self._default_tags, **tags}
        else:
            tags = self._default_tags
        if len(tags) < len(self._tag_keys) or not all(key in tags for key in self._tag_keys):
            missing = [key for key in self._tag_keys if key not in tags]
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        if not self._is_discarded:
            record(self._kind, EXPORT_PREFIX + self._name, self._description, self._tag_keys,
                   tuple(tags[key] for key in self._tag_keys), value, self._boundaries)

    def __reduce__(self) -> Any:
        return _restored, (type(self), self.__dict__)


def _restored(cls: type[Metric], fields: dict[str, Any]) -> Metric:
    metric = cls.__new__(cls)
    metric.__dict__.update(fields)
    return metric


def _checked(value: Any) -> float:
    value = plain(value)
    if not isinstance(value, (int, float)):
        raise TypeError(f"value must be int or float, got {type(value)}.")
    try:
        float(value)
    except OverflowError:
        raise ValueError("value must be in the range of a float, up to about 1.8e308.") from None
    return value


class Counter(Metric):
    """A number that only grows."""

    _kind = COUNTER

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Add ``value``, over 0.  TypeError, ValueError."""
        value = _checked(value)
        if value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        self._record(value, tags)


class Gauge(Metric):
    """A number that goes up and down; each process has its own."""

    _kind = GAUGE

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        """Set it; None changes nothing.  TypeError, ValueError."""
        if value is not None:
            self._record(float(_checked(value)), tags)


class Histogram(Metric):
    """How many values lie between given boundaries, and their sum."""

    _kind = HISTOGRAM

    def __init__(self, name: str, description: str = "", boundaries: Sequence[float] | None = None,
                 tag_keys: tuple[str, ...] | None = None):
        super().__init__(name, description, tag_keys)
        if boundaries is None or len(boundaries) == 0:
            raise ValueError("boundaries argument should be provided when using the Histogram class. "
                             'e.g., Histogram("name", boundaries=[1.0, 2.0])')
        for index, boundary in enumerate(boundaries):
            if not _checked(boundary) > 0:
                raise ValueError(f"Invalid `boundaries` argument at index {index}, {boundaries}. Use positive values "
                                 "for the arguments.")
        self.boundaries = boundaries
        self._boundaries = tuple(sorted({float(plain(boundary)) for boundary in boundaries}))

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        """Count a value.  TypeError, ValueError."""
        self._record(float(_checked(value)), tags)

    @property
    def info(self) -> dict[str, Any]:
        return {**super().info, "boundaries": self.boundaries}
