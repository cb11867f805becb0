"""Exceptions that come back from a pickle by their attributes, and the root of zray's own.

An exception whose constructor takes other arguments than it passes on cannot be rebuilt by calling ``__init__``
again, and the user would lose the cause.
"""

from __future__ import annotations

from typing import Any

from zray.base.exception_members import exception_members, set_member

__tracebackhide__ = True  # pytest leaves these frames out of its reports


def rebuild_exception(cls: type[BaseException], args: tuple, state: dict | None = None,
                      members: dict[str, Any] | None = None) -> BaseException:
    """An exception as it was, without running its ``__init__``."""
    try:
        error = cls.__new__(cls, *args)
    except Exception:  # a __new__ of the user's that needs other arguments
        base = next(base for base in cls.__mro__ if base.__module__ == "builtins")
        error = base.__new__(cls, *args)  # type: ignore[call-overload]
    set_member(error, "args", args)
    for name, value in (members or {}).items():
        set_member(error, name, value)
    if state:
        error.__dict__.update({name: arrived(value) for name, value in state.items()})
    return error


def fill_exception(error: BaseException, state: dict) -> None:
    """Give a rebuilt exception its attributes, which may lead back to it."""
    error.__dict__.update(state)


class _Travelling:
    """Stands for an exception in a pickle: loaded, it is the exception, made without its ``__init__``."""

    def __init__(self, error: BaseException):
        self.error = error

    def __reduce__(self):
        error = self.error
        return rebuild_exception, (type(error), error.args, travelling(error.__dict__), exception_members(error))


def arrived(value: Any) -> Any:
    """What stands behind it; a shallow copy has it as it was sent."""
    return value.error if type(value) is _Travelling else value


def travelling(state: dict[str, Any]) -> dict[str, Any] | None:
    """The attributes of an exception for its pickle: a cause may have a constructor that a pickle cannot call."""
    return {name: _Travelling(value) if isinstance(value, BaseException) and not isinstance(value, RayError) else value
            for name, value in state.items()} or None


class RayError(Exception):
    """Root of all errors of zray itself."""

    def __reduce__(self):
        return rebuild_exception, (type(self), self.args, travelling(self.__dict__))

