"""Placement groups in a NodeMachine: the table of groups at home here, the bundles on this node, and what it knows of
others, composed.  Pure.

The ways of the messages: core process -> its node -> the group's home (``ids.home_of``) -> the nodes of its bundles.
What a node has to say to itself takes the same way, through ``_inbox``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray import messages as m
from zray.causes import Cause
from zray.ids import PLACEMENT_GROUP_SIZE, home_of
from zray.node.effects import Send
from zray.node.group_directory import GroupDirectory
from zray.node.groups import GroupTable
from zray.sched.bundles import State
from zray.sched.claims import group_of
from zray.sched.view import ClusterView

if TYPE_CHECKING:
    from zray.node.machine import NodeMachine

# How long a watcher of an unknown group waits for its creation to arrive: a handle may overtake it.
UNKNOWN_GRACE_S = 2.0


class GroupService:
    """``machine.groups``.  What a cluster sets: ``cluster_view`` and ``node_ids``; what it calls: ``node_died``,
    ``table.view_changed`` and ``table.nodes_changed``."""

    def __init__(self, machine: NodeMachine) -> None:
        self.machine = machine
        self.me = machine.scheduler.node
        self.bundles = machine.scheduler.bundles
        self.table = GroupTable(self)
        self.directory = GroupDirectory(self._ask, self._tell)
        self.directory.on_change.append(self._state_changed)
        self.cluster_view: Callable[[], ClusterView] = lambda: machine.scheduler.view
        self.node_ids: Callable[[bytes], str] = self._own_node_id
        self._inbox: deque[tuple[bytes, Any]] = deque()
        self._unknown: dict[bytes, float] = {}  # group -> when it counts as removed
        self._free: list[int] = []  # what was free here at the last look
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.CreateGroup.CODE: self._create, m.RemoveGroup.CODE: self._remove, m.WatchGroup.CODE: self._watch,
            m.GroupState.CODE: self._state, m.BundleReserve.CODE: self._reserve, m.BundleReserved.CODE: self._reserved,
            m.BundleCommit.CODE: self._commit, m.BundleReturn.CODE: self._return, m.BundleAck.CODE: self._ack,
        }

    # ------------------------------------------------------------ what the cluster asks

    def nodes_of(self, group: bytes, bundle: int) -> list[bytes] | None:
        """Incarnations of the nodes where ``bundle`` (all of them for -1) is; None while it has no place.

        ``directory.on_change`` listeners are called with the GroupState when that changes.
        """
        return self.directory.nodes_of(group, bundle)

    def uses(self, strategy: dict | None) -> None:
        """A key or an actor of this node names this strategy: follow its group, if it is one."""
        group = group_of(strategy)
        if type(group) is bytes and len(group) == PLACEMENT_GROUP_SIZE:
            self._apply(self.directory.look(group))

    def job_over(self, job: int) -> None:
        self.table.job_over(job, self.machine.now)

    def process_gone(self, peer: bytes) -> None:
        self.directory.forget(peer)

    def node_died(self, node: bytes) -> None:
        """Another node is dead: its bundles are lost, and the groups that it was the home of end."""
        now = self.machine.now
        self.table.node_died(node, now)
        self.directory.forget(node)
        for group in [g for g in self.bundles.homes() if home_of(g) == node]:
            self._give_back(group, max(found.attempt for found in self.bundles.rounds.values()
                                       if found.group == group), True)
        self.directory.home_died(node, "its home node died")

    # ------------------------------------------------------------ handlers

    def _create(self, peer: bytes, message: m.CreateGroup) -> None:
        job = self.machine.job_of(peer)
        if job is None or len(message.group) != PLACEMENT_GROUP_SIZE:
            self.machine.refuse(peer, "CreateGroup from a process without a job, or with an id that is none")
            return
        self._unknown.pop(message.group, None)
        self.table.create(peer, message.group, job.number, message.spec, message.request, self.machine.now)

    def _remove(self, peer: bytes, message: m.RemoveGroup) -> None:
        home = home_of(message.group)
        if message.group in self.table.groups or home == self.me:
            self.table.remove(message.group, message.reason or "it was removed", self.machine.now)
        else:
            self.send(home, message)

    def _watch(self, peer: bytes, message: m.WatchGroup) -> None:
        if len(message.group) == PLACEMENT_GROUP_SIZE:
            self.directory.watch(peer, message.group)

    def _state(self, peer: bytes, message: m.GroupState) -> None:
        self.directory.update(message)

    def _reserve(self, peer: bytes, message: m.BundleReserve) -> None:
        self.bundles.reserve(message.group, message.attempt, message.job, message.bundles, message.wait, message.name,
                             self.machine.now)

    def _commit(self, peer: bytes, message: m.BundleCommit) -> None:
        self.machine.scheduler.commit(message.group, message.attempt, self.machine.now)

    def _return(self, peer: bytes, message: m.BundleReturn) -> None:
        self._give_back(message.group, message.attempt, message.removed)

    def _give_back(self, group: bytes, attempt: int, removed: bool) -> None:
        machine = self.machine
        for lease in machine.scheduler.give_back(group, attempt, removed, machine.now):
            placement = machine.placements.get(lease)
            if placement is None:
                continue
            if placement.worker is None:
                machine._give_back(placement)
            else:
                machine.pool.kill(placement.worker, Cause.GROUP_REMOVED.text, machine.now)

    def _reserved(self, peer: bytes, message: m.BundleReserved) -> None:
        self.table.reserved(peer, message, self.machine.now)

    def _ack(self, peer: bytes, message: m.BundleAck) -> None:
        self.table.acked(peer, message, self.machine.now)

    # ------------------------------------------------------------ states

    def _ask(self, group: bytes) -> None:
        if group in self.table.groups:
            self.directory.update(self.table.groups[group].state_message())
        elif home_of(group) == self.me:
            self._unknown[group] = self.machine.now + UNKNOWN_GRACE_S
        else:
            self.send(home_of(group), m.WatchGroup(group))

    def _tell(self, peer: bytes, state: m.GroupState) -> None:
        self.machine.effects.append(Send(peer, state))

    def _state_changed(self, state: m.GroupState) -> None:
        self._apply(state)

    def _apply(self, state: m.GroupState) -> None:
        """What a state means for those here who claim the group."""
        scheduler = self.machine.scheduler
        if state.state == "REMOVED":
            self.machine.actors.group_removed(state.group, state.cause.get("detail", ""))
            scheduler.group_removed(state.group)
        elif state.state == "CREATED":
            scheduler.group_placed(state.group)
        else:
            cause = state.cause.get("cause", 0) or int(Cause.GROUP_PENDING)
            scheduler.group_waits(state.group, cause, state.cause.get("detail", ""))

    # ------------------------------------------------------------ ports of the table

    def view(self) -> ClusterView:
        return self.cluster_view()

    def send(self, node: bytes, message: Any) -> None:
        if node == self.me:
            self._inbox.append((node, message))
        else:
            self.machine.effects.append(Send(node, message))

    def reply(self, peer: bytes, message: Any) -> None:
        self.machine.effects.append(Send(peer, message))

    def changed(self, state: m.GroupState) -> None:
        self.directory.update(state)

    def claim_name(self, namespace: str, name: str, group: bytes, then: Callable[[bytes], None]) -> None:
        self.machine.names.claim_group(namespace, name, group, then)

    def release_name(self, namespace: str, name: str, group: bytes) -> None:
        self.machine.names.release_group(namespace, name, group)

    def record(self, group: bytes, row: dict[str, Any] | None) -> None:
        self.machine.names.record_group(group, row)

    def node_id(self, node: bytes) -> str:
        return self.node_ids(node)

    def _own_node_id(self, node: bytes) -> str:
        return self.machine.node.get("NodeID", "") if node == self.me else node.hex()

    # ------------------------------------------------------------ time

    def settle(self, now: float) -> bool:
        """After an event, before its end: whether anything happened that the scheduler should look at."""
        moved = False
        free = self.machine.scheduler.view.available[0] if self.table.unplaced else None
        if free is not None and any(now_free > before for now_free, before in zip(free, self._free, strict=False)):
            self.table.view_changed()
        self._free = list(free) if free is not None else []
        while True:
            if self.table.settle(now):
                moved = True
            answers, self.bundles.answers = self.bundles.answers, []
            for group, answer in answers:
                self.send(home_of(group) if group not in self.table.groups else self.me, answer)
            if not self._inbox:
                return moved
            moved = True
            while self._inbox:
                peer, message = self._inbox.popleft()
                self.handlers[message.CODE](peer, message)

    def tick(self, now: float) -> None:
        self.table.tick(now)
        for group, deadline in list(self._unknown.items()):
            if deadline <= now:
                del self._unknown[group]
                cause = {"cause": int(Cause.GROUP_REMOVED), "detail": "no such group, or it was removed long ago"}
                self.directory.update(m.GroupState(group, 1, "REMOVED", [], cause))

    def next_deadline(self) -> float | None:
        times = [self.table.next_deadline(), *self._unknown.values()]
        return min((when for when in times if when is not None), default=None)

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        self.table.check()
        self.directory.check()
        for found in self.bundles.rounds.values():
            group = self.table.groups.get(found.group)
            if group is not None and found.state in (State.COMMITTED, State.RESERVED):
                assert self.me in group.used or group.state == "REMOVED", "a bundle that its home does not know of"
