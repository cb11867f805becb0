"""Results in the order in which they get ready."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from zray.api.calls import get, wait
from zray.handles.refs import ObjectRef
from zray.handles.remote import RemoteFunction

__all__ = ["as_completed", "map_unordered"]

R = TypeVar("R")


def as_completed(refs: Sequence[ObjectRef[R]], chunk_size: int = 10, yield_obj_refs: bool = False,
                 **kwargs: Any) -> Iterator[Any]:
    """Values (or with ``yield_obj_refs`` references) as they get ready, fetched ``chunk_size`` at a time at most.

    ``kwargs`` are options of ``wait``, such as ``fetch_local``.
    """
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be >= 1, not {chunk_size}")
    if "num_returns" in kwargs:
        raise ValueError("Use the `chunk_size` argument instead of `num_returns`.")
    pending = list(refs)
    while pending:
        ready, pending = wait(pending, num_returns=1, **kwargs)
        if ready and pending and chunk_size > 1:
            more, pending = wait(pending, num_returns=min(chunk_size - 1, len(pending)), **{**kwargs, "timeout": 0})
            ready += more
        yield from ready if yield_obj_refs else get(ready)


def map_unordered(fn: RemoteFunction[Any, R], items: Iterable[Any], backpressure_size: int | None = 100,
                  chunk_size: int = 10, yield_obj_refs: bool = False, **kwargs: Any) -> Iterator[Any]:
    """``fn`` over ``items``, results as they get ready; at most ``backpressure_size`` tasks are unfinished at once.

    None for no such limit.  ``chunk_size`` and ``kwargs``: see :func:`as_completed`.
    """
    if backpressure_size is not None and backpressure_size <= 0:
        raise ValueError(f"backpressure_size must be positive, not {backpressure_size}.")
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be >= 1, not {chunk_size}")
    if backpressure_size is None:
        yield from as_completed([fn.remote(item) for item in items], chunk_size, yield_obj_refs, **kwargs)
        return
    pending: list[ObjectRef[R]] = []
    for item in items:
        pending.append(fn.remote(item))
        while len(pending) >= backpressure_size:
            ready, pending = wait(pending, num_returns=1, **kwargs)
            yield from ready if yield_obj_refs else get(ready)
    yield from as_completed(pending, chunk_size, yield_obj_refs, **kwargs)
