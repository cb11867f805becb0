"""What ran when, on all nodes: Chrome trace events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def timeline_events(ask: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """The task events that the live nodes keep, node by node; ``ask(what, **args)`` asks a node."""
    events: list[dict[str, Any]] = []
    for node in ask("nodes")["nodes"]:
        if node["Alive"]:
            on = bytes.fromhex(node["NodeID"])[:8]
            page = ask("timeline", start=0, on=on)
            while page.get("events"):  # a node that has just left has none
                events += page["events"]
                page = ask("timeline", start=page["next"], on=on)
    return events
