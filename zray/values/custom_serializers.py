"""Classes whose instances a program pickles in its own way (zray.util.register_serializer)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# type -> (serializer, deserializer); zray.values.pickler looks here first.
custom: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}


def register_serializer(cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Pickle instances of exactly ``cls`` as ``deserializer(serializer(value))`` in this process from now on."""
    if not isinstance(cls, type):
        raise TypeError(f"register_serializer() takes a class, not {cls!r}")
    custom[cls] = (serializer, deserializer)


def unregister_serializer(cls: type) -> None:
    """Undo :func:`register_serializer`; no error when there was none."""
    custom.pop(cls, None)
