"""The actor that is one process of a Pool, and what it sends back of a chunk of calls."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from zray.base.named_tuples import NamedTuple
from zray.values.serialization import dumps

__all__ = ["CallFailure", "PoolProcess"]


# Several chunks are sent together if they took 2 ms lately, all of them.
LONG_S = 0.01
_PLAIN = frozenset((int, float, bool, str, bytes, type(None)))


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

    def run(self, function: Callable[..., Any], chunks: Iterable[Iterable[Any]], kind: str,
            ) -> tuple[float, list[tuple[list[Any], list[int]]]]:
        """Make the calls of each chunk: ``(seconds, [(results, indices of those that are a CallFailure)])``.

        Chunks travel together because they were short.  When they are not any more, the rest is left for others.

        kind: "map" (a call is its only argument), "starmap" (a tuple of arguments), "apply" (arguments and keywords).
        """
        began = time.perf_counter()
        made = []
        seconds = 0.0
        for calls in chunks:
            made.append(_run_chunk(function, calls, kind))
            seconds = time.perf_counter() - began
            if seconds > LONG_S:
                break
        return seconds, [_picklable(*chunk) for chunk in made] if len(made) > 1 else made


def _run_chunk(function: Callable[..., Any], calls: Iterable[Any], kind: str) -> tuple[list[Any], list[int]]:
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
    return results, failed


def _picklable(results: list[Any], failed: list[int]) -> tuple[list[Any], list[int]]:
    """The results, or as many failures: one chunk that cannot be pickled must not spoil the others of its call."""
    if all(type(result) in _PLAIN for result in results):
        return results, failed
    try:
        dumps(results)
    except Exception as error:
        return [_failure(error)] * len(results), list(range(len(results)))
    return results, failed


def _failure(error: Exception) -> CallFailure:
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without ours
    text = "".join(traceback.format_exception(type(error), error, frames))
    try:
        dumps(error)
    except Exception as reason:
        from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]

        error = MaybeEncodingError(reason, error)
    return CallFailure(error, text)
