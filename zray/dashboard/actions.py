"""What the page can do: kill an actor, cancel a task, drain a node.  These methods and no others.

Each says what it has sent; the page shows what came of it.  The methods are those of ``zray.kill``, ``zray.cancel`` and
``zray stop``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zray.base.ids import ACTOR_SIZE, RETURN_1, TASK_SIZE
from zray.dashboard.asking import identifier, socket_of
from zray.dashboard.query import BadQuery
from zray.dashboard.source import LiveSource, SourceError
from zray.node.running import launch, session as sessions
from zray.state.attempts import INCARNATION_DIGITS
from zray.wire.messages import CancelObject, KillActor

KILL_REASON = "it was killed from the dashboard"


def kill(source: LiveSource, given: Mapping[str, Any]) -> str:
    """End an actor at once."""
    actor = identifier(_text(given, "id"), "an actor", ACTOR_SIZE)
    rows = source.ask("actors", actor=actor)["actors"]
    if not rows:
        raise SourceError("no live node knows that actor")
    if rows[0]["state"] == "DEAD":
        raise SourceError("the actor is dead already")
    source.client.tell_node(KillActor(actor, True, False, KILL_REASON))
    return f"asked the home of actor {actor.hex()} to kill it"


def cancel(source: LiveSource, given: Mapping[str, Any]) -> str:
    """Cancel a task: it never starts, or gets a KeyboardInterrupt; with ``force`` its worker is killed."""
    task = identifier(_text(given, "id"), "a task", TASK_SIZE)
    live = source.ask("tasks", live=True, task=task).get("live", ())
    owner = next((row["process"]["worker_id"][:INCARNATION_DIGITS] for row in live
                  if row.get("task_id") == task.hex() and not row.get("here")), None)
    if owner is None:
        raise SourceError("no process owns that task unfinished: it has ended")
    wish = CancelObject(task + RETURN_1, given.get("force") is True, True)
    if not source.client.tell_process(socket_of(source, owner), wish):
        raise SourceError("the owner of the task did not answer: it has ended, or C code holds its interpreter lock")
    return f"asked the owner of task {task.hex()} to cancel it"


def drain(source: LiveSource, given: Mapping[str, Any]) -> str:
    """A node of this machine leaves: its objects move to others, and it ends."""
    node_id = identifier(_text(given, "id"), "a node").hex()
    alive = [row for row in source.ask("nodes")["nodes"] if row["Alive"]]
    if node_id not in {row["NodeID"] for row in alive}:
        raise SourceError("no live node has that id")
    if len(alive) == 1:
        raise SourceError("it is the only node: without it the session ends. End the session with `zray stop`")
    found = next((session for session in sessions.live_sessions() if session.node_id == node_id), None)
    if found is None:
        raise SourceError("that node is on another machine: run `zray stop` there")
    if not launch.end_process(found):
        raise SourceError("the node has ended already")
    return f"node {node_id} has left"


METHODS: dict[str, Callable[[LiveSource, Mapping[str, Any]], str]] = {"kill": kill, "cancel": cancel, "drain": drain}


def act(source: LiveSource, given: Any) -> str:
    """Do ``{"method": name, "id": id}``.  BadQuery, SourceError."""
    if not isinstance(given, dict):
        raise BadQuery("an action is a JSON object with a method and an id")
    method = METHODS.get(_text(given, "method"))
    if method is None:
        raise BadQuery(f"the methods are {', '.join(METHODS)}, not {str(given.get('method'))[:40]!r}")
    return method(source, given)


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise BadQuery(f"the action needs {name}, a text")
    return value
