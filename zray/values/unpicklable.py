"""Find the part that makes a value unpicklable, after pickling it has failed: the path to the object, and its type.

The walk goes depth first into the first child that cannot be pickled either, so it costs about
depth x width picklings.  It is bounded, because it runs while an error message is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from zray.base.named_tuples import NamedTuple

STEPS_MAX = 2_000
SEARCH_DEPTH_MAX = 20
CHILDREN_MAX = 1_000


class Culprit(NamedTuple):
    """An object that cannot be pickled, and the path to it from the value."""

    path: str
    value: Any
    error: str
    parent: Any = None  # the object that it is a part of
    labels: tuple[str, ...] = ()  # the parts of the path

    def __str__(self) -> str:
        return f"{self.path or '(the value itself)'} ({describe(self.value)})"


def describe(value: Any) -> str:
    """``a _thread.lock``."""
    cls = type(value)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    if name == "function":
        return f"the function {value.__qualname__}"
    if name == "module":
        return f"the module {value.__name__}"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def explain(value: Any, label: str) -> str:
    """``label -> .lock (a _thread.lock)``."""
    culprit = find(value)
    if culprit is None or not culprit.path:
        return f"{label} ({describe(value)})"
    return f"{label} -> {str(culprit).lstrip()}"


def why_not(value: Any) -> str | None:
    """The error that pickling raises, or None."""
    from zray.values.pickler import cloud_dumps

    try:
        cloud_dumps(value, lambda _: None)
    except Exception as error:  # a user's __reduce__ may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def find(value: Any) -> Culprit | None:
    """The deepest unpicklable part along the first failing branch, or None when the value pickles."""
    error = why_not(value)
    if error is None:
        return None
    labels: list[str] = []
    parent: Any = None
    steps = 0
    seen = {id(value)}
    for _ in range(SEARCH_DEPTH_MAX):
        for label, child in children(value):
            if id(child) in seen:
                continue
            steps += 1
            if steps > STEPS_MAX:
                return Culprit("".join(labels), value, error, parent, tuple(labels))
            child_error = why_not(child)
            if child_error is not None:
                seen.add(id(child))
                labels.append(label)
                parent, value, error = value, child, child_error
                break
        else:
            break
    return Culprit("".join(labels), value, error, parent, tuple(labels))


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts that a pickle of ``value`` would contain, as ``(path, object)``, at most CHILDREN_MAX of them."""
    for count, pair in enumerate(_children(value)):
        if count >= CHILDREN_MAX:
            return
        yield pair


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{_short(key)}]", item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in value:
            yield "{element}", item
    elif inspect.ismethod(value):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif inspect.isfunction(value) or isinstance(value, type):
        yield from captured(value)
    if isinstance(value, type) or inspect.isfunction(value) or inspect.ismodule(value):
        return
    yield from _attributes(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    for name, item in list(getattr(value, "__dict__", {}).items()):
        yield f".{name}", item
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield f".{name}", getattr(value, name)


def captured(definition: Any) -> Iterator[tuple[str, Any]]:
    """The objects that a function or class refers to: globals, closure variables, defaults, class attributes."""
    if isinstance(definition, type):
        for name, item in vars(definition).items():
            if name not in ("__dict__", "__weakref__", "__module__", "__doc__"):
                yield f".{name}", getattr(item, "__func__", item)
        return
    function = inspect.unwrap(definition)
    if not inspect.isfunction(function):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f" closure variable {name!r}", cell.cell_contents
        except ValueError:
            continue  # an empty cell
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield f" global {name!r}", function.__globals__[name]
    for index, item in enumerate(function.__defaults__ or ()):
        yield f" default {index}", item
    for name, item in (function.__kwdefaults__ or {}).items():
        yield f" default {name!r}", item


def _names(code: Any) -> list[str]:
    names = list(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names += _names(constant)
    return names


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 40 else text[:37] + "..."
