"""functools' caches and dispatchers by value: they travel without their cached values.

``lru_cache``, ``cached_property``, ``singledispatch`` and ``singledispatchmethod`` hold locks, weak references and C
state, so those of a script's functions and classes do not pickle.  Those that a worker can import by their name go by
name, like functions.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

import cloudpickle

LRU_TYPE = type(functools.lru_cache(lambda: None))
_DISPATCH_CODE = functools.singledispatch(lambda _: None).__code__  # type: ignore[attr-defined]
_OF_DISPATCH = frozenset(("register", "dispatch", "registry", "_clear_cache"))


def reduce_cache(obj: Any) -> Any:
    """How to pickle ``obj`` by value; NotImplemented for other objects, and for importable ones."""
    kind = type(obj)
    if kind is FunctionType:
        return NotImplemented if obj.__code__ is not _DISPATCH_CODE or _is_importable(obj) else _reduce_dispatch(obj)
    if kind is LRU_TYPE:
        return NotImplemented if _is_importable(obj) else _reduce_lru(obj)
    if isinstance(obj, _DESCRIPTORS) and kind.__reduce_ex__ is object.__reduce_ex__ and (
            kind.__reduce__ is object.__reduce__):
        held = [name for name in _MADE_ANEW if name in vars(obj)]
        return _new_descriptor, (kind, held), {name: value for name, value in vars(obj).items() if name not in held}
    return NotImplemented


def _is_importable(obj: Any) -> bool:
    """A worker finds it by its module and name."""
    name = getattr(obj, "__module__", None)
    if name is None or name in ("__main__", "__mp_main__") or name not in sys.modules:
        return False
    parts = name.split(".")
    by_value = cloudpickle.list_registry_pickle_by_value()
    if any(".".join(parts[:n]) in by_value for n in range(1, len(parts) + 1)):
        return False
    found: Any = sys.modules[name]
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj


# ---------------------------------------------------------------- lru_cache, cache


def _reduce_lru(obj: Any) -> Any:
    given = obj.cache_parameters()
    state = {name: value for name, value in vars(obj).items() if name not in ("__wrapped__", "cache_parameters")}
    return _new_lru, (obj.__wrapped__, given["maxsize"], given["typed"]), state


def _new_lru(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize=maxsize, typed=typed)(function)


# ---------------------------------------------------------------- cached_property, singledispatchmethod

_DESCRIPTORS = (functools.cached_property, functools.singledispatchmethod)
_MADE_ANEW: dict[str, Callable[[], Any]] = {
    "lock": threading.RLock,  # of a cached_property before Python 3.12
    "_method_cache": weakref.WeakKeyDictionary}  # of a singledispatchmethod in Python 3.13


def _new_descriptor(kind: type, held: list[str]) -> Any:
    new: Any = object.__new__(kind)
    for name in held:
        setattr(new, name, _MADE_ANEW[name]())
    return new


# ---------------------------------------------------------------- singledispatch


def _reduce_dispatch(obj: Any) -> Any:
    """The implementations are state: one of them may call the dispatcher by its name."""
    default = obj.registry[object]
    others = [(cls, function) for cls, function in obj.registry.items() if cls is not object]
    attributes = {name: value for name, value in vars(obj).items() if name not in (*_OF_DISPATCH, "__wrapped__")}
    return functools.singledispatch, (default,), (others, attributes), None, None, _register


def _register(dispatcher: Any, state: tuple[list[tuple[type, Any]], dict[str, Any]]) -> None:
    others, attributes = state
    for cls, function in others:
        dispatcher.register(cls, function)
    dispatcher.__dict__.update(attributes)
