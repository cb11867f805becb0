"""Named actors."""

from __future__ import annotations

from typing import Any

from zray.handles.connection import connected

__all__ = ["list_named_actors"]


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of the living named actors of this namespace, or ``{"name", "namespace"}`` of those of every namespace."""
    runtime = connected()
    found = runtime.query("actors", named=True)["actors"]
    if all_namespaces:
        return [{"name": actor["name"], "namespace": actor["namespace"]} for actor in found]
    return [actor["name"] for actor in found if actor["namespace"] == runtime.namespace]
