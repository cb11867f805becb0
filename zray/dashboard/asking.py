"""What a page asks only when a person wants it: stacks, why a task waits, and the trace of all tasks.

Processes answer over their sockets in the session directory, so only those on the node of the dashboard can be asked.
"""

from __future__ import annotations

import os
from typing import Any

from zray.base.causes import Cause
from zray.base.ids import RETURN_1, TASK_SIZE
from zray.core.waits.explaining import Asking, sentence
from zray.dashboard.query import TEXT_MAX, BadQuery, Query, cell
from zray.dashboard.source import LiveSource, SourceError
from zray.state.attempts import INCARNATION_DIGITS
from zray.state.timeline import timeline_events

REASONS_WAIT_S = 2.0  # how long to wait for other processes' reasons


def identifier(text: str, what: str, nbytes: int = 0) -> bytes:
    """An id of hex digits."""
    try:
        found = bytes.fromhex(text) if text.isascii() else b""
    except ValueError:
        found = b""
    if not found or nbytes and len(found) != nbytes:
        raise BadQuery(f"the id of {what} is hex digits, not {text[:80]!r}")
    return found


def socket_of(source: LiveSource, process: str) -> str:
    """The socket of a driver or worker of this node.  SourceError where there is none."""
    for kind in ("w", "d"):
        name = f"{kind}-{process[:INCARNATION_DIGITS]}.sock"
        if os.path.exists(os.path.join(source.session_dir, name)):
            return name
    raise SourceError("that process has ended, or runs on another node: only processes on the node of this dashboard "
                      "can be asked (run `zray dashboard` on that machine)")


def stack(source: LiveSource, query: Query) -> dict[str, Any]:
    """The Python stacks of an actor (``actor``) or of a worker (``worker``)."""
    if query.where.get("actor"):
        actor = identifier(query.where["actor"], "an actor")
        rows = source.ask("actors", actor=actor)["actors"]
        process = next((row["worker"] for row in rows if row.get("worker")), "")
        if not process:
            raise SourceError("the actor has no process now")
    else:
        process = identifier(query.wanted("worker"), "a worker").hex()
    answer = source.client.ask_process(socket_of(source, process))
    if answer is None:
        raise SourceError("no answer: the process is gone, or C code holds its interpreter lock")
    return {"text": cell(answer.text, TEXT_MAX)}


def why(source: LiveSource, query: Query) -> dict[str, Any]:
    """Why a task is not finished, as its owner, its worker and its node know it."""
    task = identifier(query.wanted("task"), "a task", TASK_SIZE)
    said = source.ask("tasks", live=True, task=task).get("live", ())
    live = [row for row in said if row.get("task_id") == task.hex()]
    if not live:
        raise SourceError("no process has that task unfinished: it has ended")
    owner = next((row for row in live if not row.get("here")), None)
    row = owner or live[0]
    process = row["process"]["worker_id"][:INCARNATION_DIGITS]
    about: dict[str, Any] = {"name": row.get("name", ""), "ask": [bytes.fromhex(process), task, ""]}
    found: list[Any] = [[task + RETURN_1, Cause.RUNNING, about | {"task": task.hex()}]]
    if owner is not None:  # it names the task itself: with its id here, that would look like a circle
        found = [[task + RETURN_1, Cause.OWNER, about | {"ask": [bytes.fromhex(process), task + RETURN_1, ""]}]]
    Asking(source.client, REASONS_WAIT_S).follow(found)
    return {"text": cell("\n".join(sentence(*each) for each in found), TEXT_MAX)}


def trace(source: LiveSource, query: Query) -> dict[str, Any]:
    """What ran when on all nodes, as ``zray timeline`` writes it."""
    return {"traceEvents": timeline_events(source.ask)}


REQUESTS = {"stack": stack, "why": why, "trace": trace}
