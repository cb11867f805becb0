"""Numbers of numpy and other libraries as Python's own, for type checks, the wire and records."""

from __future__ import annotations

import numbers
import operator
from typing import Any

_PLAIN = frozenset((int, float, bool, str, type(None)))


def plain(value: Any) -> Any:
    """An int for any integer, a float for any other real number, in dicts too; other values unchanged."""
    kind = type(value)
    if kind in _PLAIN or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return operator.index(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if kind is dict and not all(type(item) in _PLAIN for item in value.values()):
        return {key: plain(item) for key, item in value.items()}
    return value
