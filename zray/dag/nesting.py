"""Nodes of a graph inside the containers of an argument: find them, and put their results in their places.

Looked into: list, tuple (also named), dict, set, frozenset, their subclasses that copy can make, and dataclasses.
Other objects are left as they are, so a node inside one travels as a node.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_CONTAINERS = (list, tuple, set, frozenset, dict)


def instances_in(value: Any, kind: type[T]) -> Iterator[T]:
    """Each instance of ``kind`` in ``value``, in order, with repeats."""
    seen: set[int] = set()  # a list may contain itself
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, kind):
            yield item
        elif (parts := _parts(item)) is not None and id(item) not in seen:
            seen.add(id(item))
            stack += reversed(parts)


def _parts(item: Any) -> list[Any] | None:
    """The items of a container; None when it is none."""
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    if isinstance(item, _CONTAINERS):
        return list(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return [getattr(item, field.name) for field in dataclasses.fields(item) if hasattr(item, field.name)]
    return None


def replaced(value: Any, kind: type[T], results: Mapping[T, Any]) -> Any:
    """``value`` with the result of each instance in its place; containers without one stay the same objects."""
    if isinstance(value, kind):
        return results[value]
    if _parts(value) is None or next(instances_in(value, kind), None) is None:
        return value
    if isinstance(value, dict):
        items = [(replaced(key, kind, results), replaced(item, kind, results)) for key, item in value.items()]
        if type(value) is dict:
            return dict(items)
        made = copy.copy(value)
        made.clear()
        made.update(items)
        return made
    if isinstance(value, _CONTAINERS):
        parts = [replaced(item, kind, results) for item in value]
        named = getattr(type(value), "_make", None)  # of a named tuple
        return named(parts) if named is not None else type(value)(parts)
    made = copy.copy(value)
    for field in dataclasses.fields(value):
        if hasattr(value, field.name):  # frozen ones too
            object.__setattr__(made, field.name, replaced(getattr(value, field.name), kind, results))
    return made
