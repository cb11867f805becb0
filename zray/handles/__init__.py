"""The objects that a program holds: references, remote functions, actor handles, and their options."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Pickles of earlier versions name ``zray.handles.ActorHandle`` and others of zray.handles.remote."""
    from zray.handles import remote

    try:
        return getattr(remote, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
