"""The exception that a function raised, out of the one that ``get`` raises."""

from __future__ import annotations

from zray.base.errors import RayTaskError

__all__ = ["raised_by_function"]


def raised_by_function(error: BaseException) -> BaseException:
    """The function's own exception, for interfaces that promise it; its ``__cause__`` has the remote traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if not isinstance(cause, Exception):
        return error
    cause.__cause__ = error
    return cause
