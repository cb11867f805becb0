"""What ran when, on all nodes: Chrome trace events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.state.trace import NodeTrace, trace_events


def timeline_events(ask: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """The trace of what the live nodes keep; ``ask(what, **args)`` asks a node."""
    reports = []
    for node in ask("nodes")["nodes"]:
        if node["Alive"]:
            on = bytes.fromhex(node["NodeID"])[:8]
            first = ask("spans", start=0, on=on)  # before the tasks: one that ends meanwhile is in both
            tasks = _pages(ask, "timeline", "events", ask("timeline", start=0, on=on), on)
            ended = {(event["args"]["task_id"], event["args"]["attempt"]) for event in tasks}
            running = [event for event in first.get("running", ())
                       if (event["args"]["task_id"], event["args"]["attempt"]) not in ended]
            spans = _pages(ask, "spans", "spans", first, on) + first.get("open", [])
            reports.append(NodeTrace(node, tasks, running, spans))
    return trace_events(reports)


def _pages(ask: Callable[..., dict[str, Any]], what: str, rows: str, page: dict[str, Any], on: bytes) -> list[Any]:
    """All rows; a node that has just left has none."""
    found: list[Any] = []
    while page.get(rows):
        found += page[rows]
        page = ask(what, start=page["next"], on=on)
    return found
