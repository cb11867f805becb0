"""GroupDirectory: the placement groups that this node knows, its own and others', and their watchers.  Pure.

A group is known from the first WatchGroup, or from the first key or actor here that names it.  It
is forgotten long after its removal.  Its home sends GroupState at each change; versions rise, so
late ones are ignored.  REMOVED is the last state.
"""

from __future__ import annotations

from collections.abc import Callable

from zray.base.causes import Cause
from zray.node.groups.records import REMOVED_KEPT_MAX
from zray.wire.messages import GroupState


class Known:
    """The last state of one group, and the processes (and other nodes) that watch it here."""

    __slots__ = ("lost", "state", "watchers")

    def __init__(self, group: bytes) -> None:
        self.state = GroupState(group, 0, "PENDING", [], {"cause": int(Cause.GROUP_PENDING),
                                                           "detail": "its home node has not answered yet"})
        self.watchers: set[bytes] = set()
        self.lost = False  # it is gone without a removal or a request for one


class GroupDirectory:
    """``ask(group)`` subscribes at the group's home; ``publish(peer, state)`` passes a state on."""

    def __init__(self, ask: Callable[[bytes], None], publish: Callable[[bytes, GroupState], None]) -> None:
        self._ask = ask
        self._publish = publish
        self.known: dict[bytes, Known] = {}
        self.on_change: list[Callable[[GroupState], None]] = []
        self._watched: dict[bytes, set[bytes]] = {}  # watcher -> groups
        self._removed: dict[bytes, None] = {}

    def nodes_of(self, group: bytes, bundle: int) -> list[bytes] | None:
        """Nodes (incarnations) of ``bundle``, of all bundles for -1; None while it has no place, or
        when it is removed."""
        found = self.look(group)
        if found.state != "CREATED" and found.state != "RESCHEDULING":
            return None
        nodes = found.nodes if bundle == -1 else found.nodes[bundle:bundle + 1]
        return list(dict.fromkeys(node for node in nodes if node)) or None

    def look(self, group: bytes) -> GroupState:
        """The state of a group; the first call subscribes to it at its home."""
        found = self.known.get(group)
        if found is None:
            found = self.known[group] = Known(group)
            self._ask(group)
        return found.state

    def watch(self, peer: bytes, group: bytes) -> None:
        """WatchGroup of a core process or another node: it gets the state now (once known) and at each change."""
        state = self.look(group)
        self.known[group].watchers.add(peer)
        self._watched.setdefault(peer, set()).add(group)
        if state.version:
            self._publish(peer, state)

    def update(self, state: GroupState) -> bool:
        """GroupState of the home; returns whether it is new.  A group that no process here asked
        for is kept as well."""
        found = self.known.get(state.group)
        if found is None:
            found = self.known[state.group] = Known(state.group)
        if state.version <= found.state.version or found.state.state == "REMOVED":
            return False
        found.state = state
        for peer in sorted(found.watchers):
            self._publish(peer, state)
        for listener in self.on_change:
            listener(state)
        if state.state == "REMOVED":
            self._end(state.group, found)
        return True

    def forget(self, peer: bytes) -> None:
        """A watcher has ended."""
        for group in self._watched.pop(peer, ()):
            self.known[group].watchers.discard(peer)

    def lost(self, group: bytes, reason: str, asked: bool = False) -> None:
        """The group has no home any more: it counts as removed; ``asked`` when its removal was requested."""
        found = self.known.setdefault(group, Known(group))
        found.lost = found.state.state != "REMOVED" and not asked
        version = found.state.version + 1
        cause = {"cause": int(Cause.GROUP_REMOVED), "detail": reason}
        self.update(GroupState(group, version, "REMOVED", [], cause))

    def why_removed(self, group: bytes) -> str | None:
        """Why it was removed; None unless its home reported the removal or a process here requested it."""
        found = self.known.get(group)
        if found is None or found.lost or found.state.state != "REMOVED":
            return None
        return found.state.cause.get("detail", "")

    def _end(self, group: bytes, found: Known) -> None:
        for peer in found.watchers:
            watched = self._watched[peer]
            watched.discard(group)
            if not watched:
                del self._watched[peer]
        found.watchers = set()
        self._removed[group] = None
        while len(self._removed) > REMOVED_KEPT_MAX:
            oldest = next(iter(self._removed))
            del self._removed[oldest]
            del self.known[oldest]

    def living(self) -> list[bytes]:
        """Groups that are not known to be removed."""
        return [group for group, found in self.known.items() if found.state.state != "REMOVED"]

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for group, found in self.known.items():
            assert (found.state.state == "REMOVED") == (group in self._removed)
            assert all(group in self._watched[peer] for peer in found.watchers)
        for peer, groups in self._watched.items():
            assert groups and all(peer in self.known[group].watchers for group in groups)
        assert len(self._removed) <= REMOVED_KEPT_MAX
