"""Results in the order in which they get ready."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from zray.api.calls import get, wait
from zray.handles.refs import ObjectRef
from zray.handles.remote import RemoteFunction

__all__ = ["as_completed", "map_unordered"]

R = TypeVar("R")


def as_completed(refs: Sequence[ObjectRef[R]], chunk_size: int = 10, yield_obj_refs: bool = False) -> Iterator[Any]:
    """Values (or with ``yield_obj_refs`` references) as they get ready, fetched ``chunk_size`` at a time at most."""
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be >= 1, not {chunk_size}")
    pending = list(refs)
    while pending:
        ready, pending = wait(pending, num_returns=1)
        if pending and chunk_size > 1:
            more, pending = wait(pending, num_returns=min(chunk_size - 1, len(pending)), timeout=0)
            ready += more
        yield from ready if yield_obj_refs else get(ready)


def map_unordered(fn: RemoteFunction[Any, R], items: Iterable[Any], backpressure_size: int | None = 100,
                  chunk_size: int = 10, yield_obj_refs: bool = False) -> Iterator[Any]:
    """``fn`` over ``items``, results as they get ready; at most ``backpressure_size`` tasks are unfinished at once."""
    if backpressure_size is None:
        yield from as_completed([fn.remote(item) for item in items], chunk_size, yield_obj_refs)
        return
    if backpressure_size < chunk_size:
        raise ValueError(f"backpressure_size {backpressure_size} must be at least chunk_size {chunk_size}")
    pending: list[ObjectRef[R]] = []
    for item in items:
        pending.append(fn.remote(item))
        if len(pending) >= backpressure_size:
            ready, pending = wait(pending, num_returns=1)
            yield from ready if yield_obj_refs else get(ready)
    yield from as_completed(pending, chunk_size, yield_obj_refs)
