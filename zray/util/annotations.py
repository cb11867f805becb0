"""Decorators that declare the stability of an interface: on the object, and at the end of its docstring."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from enum import Enum
from functools import wraps
from typing import Any, TypeVar

__all__ = ["AnnotationType", "Deprecated", "DeveloperAPI", "PublicAPI", "RayDeprecationWarning"]

T = TypeVar("T")


class AnnotationType(Enum):
    PUBLIC_API = "PublicAPI"
    DEVELOPER_API = "DeveloperAPI"
    DEPRECATED = "Deprecated"
    UNKNOWN = "Unknown"


class RayDeprecationWarning(DeprecationWarning):
    """An interface that is marked with ``Deprecated`` is used."""


def PublicAPI(*args: Any, stability: str = "stable", api_group: str = "Others") -> Any:
    """For users; ``stability`` is "stable", "beta" or "alpha": the last two may change."""
    if stability not in ("stable", "beta", "alpha"):
        raise ValueError(f"stability is stable, beta or alpha, not {stability!r}")
    may_change = "" if stability == "stable" else f"**PublicAPI ({stability}):** This API may change."
    return _decorate(args, lambda target: _annotate(target, AnnotationType.PUBLIC_API, may_change, api_group))


def DeveloperAPI(*args: Any, api_group: str = "Others") -> Any:
    """For authors of libraries; it may change."""
    text = "**DeveloperAPI:** This API may change."
    return _decorate(args, lambda target: _annotate(target, AnnotationType.DEVELOPER_API, text, api_group))


def Deprecated(*args: Any, message: str = "", warning: bool = False) -> Any:
    """To be removed; with ``warning`` each use of the function or class is a RayDeprecationWarning."""
    text = f"**DEPRECATED:** {message or 'This API is deprecated and may be removed.'}"

    def mark(target: Any) -> Any:
        if warning:
            target = _warning(target, message)
        return _annotate(target, AnnotationType.DEPRECATED, text, "Others")

    return _decorate(args, mark)


def _decorate(args: tuple[Any, ...], mark: Callable[[Any], Any]) -> Any:
    """As ``@decorator`` or ``@decorator(options)``."""
    return mark(args[0]) if len(args) == 1 and callable(args[0]) else mark


def _annotate(target: T, kind: AnnotationType, text: str, group: str) -> T:
    target.__doc__ = "\n\n".join(filter(None, (inspect.getdoc(target), text))) or None
    for name, value in (("_annotated", getattr(target, "__name__", "")), ("_annotated_type", kind),
                        ("_annotated_api_group", group)):
        setattr(target, name, value)
    return target


def _warning(target: Any, message: str) -> Any:
    text = f"{target.__name__} is deprecated. {message}".rstrip()
    call = vars(target).get("__init__", object.__init__) if isinstance(target, type) else target

    @wraps(call)
    def warns(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(text, RayDeprecationWarning, stacklevel=2)
        return call(*args, **kwargs)

    if not isinstance(target, type):
        return warns
    target.__init__ = warns  # type: ignore[misc]
    return target
