"""Exceptions that come back from a pickle by their attributes, and the root of zray's own.

An exception whose constructor takes other arguments than it passes on cannot be rebuilt by calling ``__init__``
again, and the user would lose the cause.
"""

from __future__ import annotations

import contextlib
import types
from typing import Any

__tracebackhide__ = True  # pytest leaves these frames out of its reports


def rebuild_exception(cls: type[BaseException], args: tuple, state: dict | None = None,
                      members: dict[str, Any] | None = None) -> BaseException:
    """An exception as it was, without running its ``__init__``."""
    try:
        error = cls.__new__(cls, *args)
    except Exception:  # a __new__ of the user's that needs other arguments
        base = next(base for base in cls.__mro__ if base.__module__ == "builtins")
        error = base.__new__(cls, *args)  # type: ignore[call-overload]
    _set_member(error, "args", args)
    for name, value in (members or {}).items():
        _set_member(error, name, value)
    if state:
        error.__dict__.update(state)
    return error


def fill_exception(error: BaseException, state: dict) -> None:
    """Give a rebuilt exception its attributes, which may lead back to it."""
    error.__dict__.update(state)


def _set_member(error: BaseException, name: str, value: Any) -> None:
    """Bypass a ``__setattr__`` of the user's; attributes that cannot be set come from ``__new__``."""
    with contextlib.suppress(AttributeError, TypeError):
        object.__setattr__(error, name, value)


def exception_members(error: BaseException) -> dict[str, Any]:
    """Attributes that live in C structs and slots (``OSError.errno``,
    ``UnicodeDecodeError.start``), not in ``__dict__``."""
    found: dict[str, Any] = {}
    for cls in type(error).__mro__:
        if cls in (BaseException, Exception, object):
            continue
        for name, member in vars(cls).items():
            if cls is AttributeError and name == "obj":
                continue  # objects that lacked the attribute may be large, or refuse to be pickled
            if not name.startswith("__") and isinstance(member, _MEMBER_TYPES):
                value = getattr(error, name, None)
                if value is not None:
                    found.setdefault(name, value)
    return found


_MEMBER_TYPES = (types.MemberDescriptorType, types.GetSetDescriptorType)


def copy_members(source: BaseException, target: BaseException) -> None:
    for name, value in exception_members(source).items():
        _set_member(target, name, value)


class RayError(Exception):
    """Root of all errors of zray itself."""

    def __reduce__(self):
        return rebuild_exception, (type(self), self.args, self.__dict__ or None)

