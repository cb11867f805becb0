"""The actor that is one process of a Pool, and what it sends back of a chunk of calls."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from zray.values.pickler import cloud_dumps

__all__ = ["CallFailure", "PoolProcess"]


class CallFailure(NamedTuple):
    """An exception that a call raised, and its traceback as text: pickling keeps no traceback."""

    error: BaseException
    text: str

    def exception(self) -> BaseException:
        """The exception, with the traceback of the process that raised it as its cause."""
        from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]

        if self.error.__cause__ is None:
            self.error.__cause__ = RemoteTraceback(f"\n\"\"\"\n{self.text}\"\"\"")
        return self.error


class PoolProcess:
    """One process: runs the initializer, then chunks of calls."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: Iterable[Any]):
        if initializer is not None:
            initializer(*initargs)

    def ready(self) -> None:
        """Returns once the initializer has run."""

    def run(self, function: Callable[..., Any], calls: Iterable[Any], kind: str) -> tuple[float, list[Any], list[int]]:
        """Make the calls; ``(seconds, results, indices of results that are a CallFailure)``.

        kind: "map" (a call is its only argument), "starmap" (a tuple of arguments), "apply" (arguments and keywords).
        """
        began = time.perf_counter()
        results: list[Any] = []
        failed: list[int] = []
        for call in calls:
            try:
                if kind == "map":
                    results.append(function(call))
                elif kind == "starmap":
                    results.append(function(*call))
                else:
                    results.append(function(*call[0], **call[1]))
            except Exception as error:
                failed.append(len(results))
                results.append(_failure(error))
        return time.perf_counter() - began, results, failed


def _failure(error: Exception) -> CallFailure:
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without ours
    text = "".join(traceback.format_exception(type(error), error, frames))
    try:
        cloud_dumps(error)
    except Exception as reason:
        from multiprocessing.pool import MaybeEncodingError

        error = MaybeEncodingError(reason, error)
    return CallFailure(error, text)
