"""Placement groups that this process waits for, or knows.  Pure; users call zray.core.groups.

A group's ``ready()`` is an object of this process, which gets its value when GroupState says that the group is placed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.causes import Cause
from zray.owner.records import Entry
from zray.owner.references import References
from zray.wire import messages as m

BUNDLES_KEPT_MAX = 1000  # groups whose bundles are kept, to check demands without a question to the node


class GroupWait:
    """The maker of a pending ``ready()`` object, in the place of a task: it knows why the group waits."""

    __slots__ = ("entry", "state", "value")

    def __init__(self, entry: Entry, value: bytes, state: m.GroupState | None):
        self.entry, self.value, self.state = entry, value, state

    def why(self) -> tuple[Cause, dict[str, Any]]:
        about: dict[str, Any] = {"what": "placement group"}
        if self.state is None:
            return Cause.GROUP_PENDING, about
        cause = Cause(self.state.cause.get("cause") or Cause.GROUP_PENDING)
        return (Cause.GROUP_PENDING if cause is Cause.READY else cause), about | {
            "detail": self.state.cause.get("detail", "")}


class GroupWaits:
    """The groups that one process asked about."""

    def __init__(self, node: bytes, refs: References, send: Callable[[bytes, Any], None]):
        self._node = node
        self._refs = refs
        self._send = send
        self.states: dict[bytes, m.GroupState] = {}  # of groups that live
        self.bundles: dict[bytes, list[dict[str, float]]] = {}
        self._waits: dict[bytes, list[GroupWait]] = {}

    def remember(self, group: bytes, bundles: list[dict[str, float]]) -> None:
        self.bundles[group] = bundles
        while len(self.bundles) > BUNDLES_KEPT_MAX:
            del self.bundles[next(iter(self.bundles))]

    def ready(self, oid: bytes, group: bytes, value: bytes) -> Entry:
        """An object that gets ``value`` when the group is placed, and a failure when it is removed."""
        entry = self._refs.own(oid)
        state = self.states.get(group)
        if state is not None and state.state == "CREATED":
            self._refs.complete(entry, value)
        else:
            wait = GroupWait(entry, value, state)
            entry.task = wait
            self._waits.setdefault(group, []).append(wait)
            if state is None:
                self._send(self._node, m.WatchGroup(group))
        return entry

    def on_state(self, peer: bytes, message: m.GroupState) -> None:
        known = self.states.get(message.group)
        if known is not None and message.version <= known.version:
            return
        self.states[message.group] = message
        for wait in self._waits.get(message.group, ()):
            wait.state = message
        if message.state == "CREATED":
            for wait in self._waits.pop(message.group, ()):
                self._refs.complete(wait.entry, wait.value)
        elif message.state == "REMOVED":
            del self.states[message.group]
            self.bundles.pop(message.group, None)
            for wait in self._waits.pop(message.group, ()):
                self._refs.complete(wait.entry, removed(message.group, message.cause.get("detail", "")))


def removed(group: bytes, reason: str) -> list[Any]:
    """The error of tasks, actors and ``ready()`` objects of a group that was removed."""
    return [m.FAILED, "task_pg_removed", {"placement_group": group, "reason": reason}]
