"""Placement groups in a NodeMachine: the groups with their home here, the bundles on this node, and
the directory of all known groups.  Pure.

The path of the messages: core process -> its node -> the group's home (``ids.home_of``) -> the
nodes of its bundles.  Messages of this node to itself take the same path, through ``_inbox``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from zray.base.causes import Cause
from zray.base.ids import PLACEMENT_GROUP_SIZE, home_of
from zray.base.ports import Ports
from zray.node.context import NodeContext
from zray.node.groups.directory import GroupDirectory
from zray.node.groups.table import GroupTable
from zray.node.jobs.table import Job
from zray.node.leases.placements import Placements
from zray.node.names_table import Names
from zray.node.processes.pool import State as WorkerState, WorkerPool
from zray.sched.node.bundles import BundleState
from zray.sched.node.claims import group_of
from zray.sched.node.grouped import NodeScheduler
from zray.sched.view import ClusterView
from zray.wire import messages as m

# How long a watcher of an unknown group waits for its creation to arrive: a handle may overtake it.
UNKNOWN_GROUP_GRACE_S = 2.0
# How long groups whose home died wait for another home; adoption takes a few round trips to the control store.
GROUP_ADOPTION_S = 10.0
# Removals on their way to other homes; each one ends with the answer of its home, or when that one's groups are lost.
REMOVES_KEPT_MAX = 10_000


class GroupServicePorts(Ports):
    """Ports of placement groups."""

    scheduler: NodeScheduler
    names: Names
    pool: WorkerPool
    placements: Placements
    job_of: Callable[[bytes], Job | None]  # the job of a core process
    cluster_view: Callable[[], ClusterView]  # all live nodes, with their free resources
    node_id: Callable[[bytes], str]  # the hex NodeID of an incarnation
    ask_job_ended: Callable[[int, Callable[[bool], None]], None]
    end_actors: Callable[[bytes, str], None]  # (group, reason): end the actors in a removed group


class _TablePorts(Ports):
    """See zray.node.groups.table.GroupPorts."""

    view: Callable[[], ClusterView]
    send: Callable[[bytes, Any], None]
    reply: Callable[[bytes, Any], None]
    changed: Callable[[m.GroupState], None]
    claim_name: Callable[[str, str, bytes, Callable[[bytes], None]], None]
    release_name: Callable[[str, str, bytes], None]
    record: Callable[[bytes, dict[str, Any] | None], None]
    node_id: Callable[[bytes], str]


class GroupService:
    """See the module's docstring.

    When a home dies, the next live node in the order of incarnations reads the rows of its groups
    in the control store.  It adopts each by compare-and-set and announces that to all nodes.  They
    give back bundles that the row does not know.

    A home may die with a removal that it has not read, or before the row has it.  So a node that sent
    one keeps it until it receives the end of the group, and every node sends it again to a new home.
    """

    def __init__(self, context: NodeContext, ports: GroupServicePorts) -> None:
        self._context = context
        self.ports = ports
        self.me = context.me
        self.bundles = ports.scheduler.bundles
        self._inbox: deque[tuple[bytes, Any]] = deque()
        self.directory = GroupDirectory(self._ask, context.send)
        self.directory.on_change.append(self._apply)
        self.table = GroupTable(_TablePorts(
            view=lambda: self.ports.cluster_view(), send=self.send, reply=context.send,
            changed=self._changed, claim_name=ports.names.claim_group, release_name=ports.names.release_group,
            record=self._record, node_id=lambda node: self.ports.node_id(node)), self.me)
        self._homes: dict[bytes, bytes] = {}  # of groups that have another home than the one that made them
        self._ended_nodes = context.ends.nodes
        self._removes: dict[bytes, m.RemoveGroup] = {}  # asked of other homes, without an answer so far
        self._unknown: dict[bytes, float] = {}  # group -> when it counts as removed
        self._free: list[int] = []  # free resources here at the last look
        self._view: ClusterView | None = None  # the cluster view at the last look, and its number of changes then
        self._seen = self._generation = -1
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.CreateGroup.CODE: self._create, m.RemoveGroup.CODE: self._remove, m.WatchGroup.CODE: self._watch,
            m.GroupState.CODE: self._state, m.BundleReserve.CODE: self._reserve, m.BundleReserved.CODE: self._reserved,
            m.BundleCommit.CODE: self._commit, m.BundleReturn.CODE: self._return, m.BundleAck.CODE: self._ack,
        }

    # ------------------------------------------------------------ questions of the schedulers

    def nodes_of(self, group: bytes, bundle: int) -> list[bytes] | None:
        """Incarnations of the nodes that have ``bundle`` (all bundles for -1); None while it has no place.

        Listeners of ``directory.on_change`` get the GroupState when that changes.
        """
        return self.directory.nodes_of(group, bundle)

    def why_unplaced(self, group: bytes, bundle: int) -> tuple[int, str]:
        """Why ``nodes_of`` is None, for tasks and actors that wait for that bundle."""
        state = self.directory.look(group)
        detail = state.cause.get("detail", "")
        if state.state == "REMOVED":
            return int(Cause.GROUP_REMOVED), detail
        if state.nodes and bundle >= len(state.nodes):
            return int(Cause.INFEASIBLE), f"its placement group has {len(state.nodes)} bundles, none is number {bundle}"
        return state.cause.get("cause", 0) or int(Cause.GROUP_PENDING), detail

    def uses(self, strategy: dict | None) -> None:
        """A key or an actor of this node names this strategy: follow its group, if it has one."""
        group = group_of(strategy)
        if type(group) is bytes and len(group) == PLACEMENT_GROUP_SIZE:
            self._apply(self.directory.look(group))

    def home(self, group: bytes) -> bytes:
        """The home of a group."""
        if group in self.table.groups:
            return self.me
        return self._homes.get(group) or home_of(group)

    def job_ended(self, job: int) -> None:
        self.table.job_ended(job, self._context.now)

    def jobs(self) -> set[int]:
        """Jobs with groups at home here, which end with their job."""
        return {group.job for group in self.table.groups.values() if not group.detached}

    def process_ended(self, peer: bytes) -> None:
        self.directory.forget(peer)

    def node_ended(self, node: bytes) -> None:
        """Another node has ended, once: its bundles are lost, and the groups whose home it was need another home."""
        now = self._context.now
        self.table.node_ended(node, now)
        self.directory.forget(node)
        for group in sorted({*self.bundles.homes(), *self.directory.living()}):
            if self.home(group) != node:
                continue
            self._unknown[group] = now + GROUP_ADOPTION_S
            for attempt in self.bundles.not_in_use(group):  # the home that had to commit them is dead
                self._give_back(group, attempt, False)
        if self._is_successor_of(node):
            names = self.ports.names
            names.fence(list(self._ended_nodes), lambda: names.list_groups(self._adopt))

    def _is_successor_of(self, dead: bytes) -> bool:
        live = sorted(self._live())
        return next((node for node in live if node > dead), live[0]) == self.me

    def _live(self) -> set[bytes]:
        nodes = self.ports.cluster_view().nodes
        return {node for node in nodes if node is not None and node not in self._ended_nodes} | {self.me}

    def _adopt(self, rows: list[tuple[bytes, dict[str, Any]]]) -> None:
        for group, row in rows:
            self._adopt_one(group, row)

    def _adopt_one(self, group: bytes, row: dict[str, Any]) -> None:
        """Become the home of that group if its home is dead; ``row``: its row as it was read last."""
        def swapped(mine: bool, now: dict[str, Any] | None) -> None:
            if mine:
                self._adopted(group, new)
            elif now is not None:  # another node has adopted it
                self._adopt_one(group, now)

        if row["home"] in self._ended_nodes and row["state"] != "REMOVED" and group not in self.table.groups:
            new = {**row, "home": self.me}
            self.ports.names.swap_group(group, row, new, swapped)

    def _adopted(self, group: bytes, row: dict[str, Any]) -> None:
        """This node is the home now: the control store has written it."""
        now, live = self._context.now, self._live()
        self._unknown.pop(group, None)
        self.table.adopt(group, row, live, now)
        state = self.table.groups[group].state_message()
        self._reconcile(state)
        for node in sorted(live - {self.me}):
            self.send(node, state)
        removal = self._removal(group)
        self._removes.pop(group, None)
        if removal is not None:
            self.table.remove(group, removal.reason, now)
        elif not row["is_detached"]:
            self.ports.ask_job_ended(row["creator_job_id"], lambda ended: self._job_ended(group) if ended else None)

    def _job_ended(self, group: bytes) -> None:
        self.table.remove(group, "its job is over", self._context.now)

    def _reconcile(self, state: m.GroupState) -> None:
        """A new home sends the places of the bundles: give back bundles that it does not know."""
        for attempt, indices in self.bundles.in_use(state.group):
            if any(index >= len(state.nodes) or state.nodes[index] != self.me for index in indices):
                self._give_back(state.group, attempt, False)

    # ------------------------------------------------------------ handlers

    def _create(self, peer: bytes, message: m.CreateGroup) -> None:
        job = self.ports.job_of(peer)
        if job is None or len(message.group) != PLACEMENT_GROUP_SIZE:
            self._context.refuse(peer, "CreateGroup from a process without a job, or with an id that is none")
            return
        worker = self.ports.pool.workers.get(peer)
        if job.number in self._context.ends.jobs and worker is not None and worker.state is WorkerState.EXITING:
            return  # it runs until it has reported what it did, and nothing would ever remove the group
        self._unknown.pop(message.group, None)
        self.table.create(peer, message.group, job.number, message.spec, message.request, self._context.now)

    def _remove(self, peer: bytes, message: m.RemoveGroup) -> None:
        if len(message.group) != PLACEMENT_GROUP_SIZE:
            return
        message = message._replace(reason=message.reason or "it was removed")
        home = self.home(message.group)
        if home == self.me:
            self.table.remove(message.group, message.reason, self._context.now)
            return
        if self.directory.look(message.group).state != "REMOVED":  # its home, or the next one, is asked for its state
            self._removes[message.group] = message
            if len(self._removes) > REMOVES_KEPT_MAX:
                del self._removes[next(iter(self._removes))]
        if home not in self._ended_nodes:
            self.send(home, message)

    def _removal(self, group: bytes) -> m.RemoveGroup | None:
        """The removal for a new home: a process here requested it, or the last home did it."""
        reason = self.directory.why_removed(group)
        return self._removes.get(group) if reason is None else m.RemoveGroup(group, reason)

    def _watch(self, peer: bytes, message: m.WatchGroup) -> None:
        if len(message.group) == PLACEMENT_GROUP_SIZE:
            self.directory.watch(peer, message.group)

    def _state(self, peer: bytes, message: m.GroupState) -> None:
        if message.group in self.table.groups:
            return  # a message of the previous home
        moved = peer != self.home(message.group)
        news = self.directory.update(message)
        if not moved or message.state == "REMOVED":
            return
        removal = self._removal(message.group)
        if news:
            self._homes[message.group] = peer
            self._unknown.pop(message.group, None)
            self._reconcile(message)
            self.send(peer, m.WatchGroup(message.group))
        if removal is not None:
            self.send(peer, removal)

    def _reserve(self, peer: bytes, message: m.BundleReserve) -> None:
        self.bundles.reserve(message.group, message.attempt, message.job, message.bundles, message.wait, message.name,
                             self._context.now)

    def _commit(self, peer: bytes, message: m.BundleCommit) -> None:
        self.ports.scheduler.commit(message.group, message.attempt, self._context.now)

    def _return(self, peer: bytes, message: m.BundleReturn) -> None:
        self._give_back(message.group, message.attempt, message.removed)

    def _give_back(self, group: bytes, attempt: int, removed: bool) -> None:
        for lease in self.ports.scheduler.give_back(group, attempt, removed, self._context.now):
            self.ports.placements.end(lease, Cause.GROUP_REMOVED.text)

    def _reserved(self, peer: bytes, message: m.BundleReserved) -> None:
        self.table.reserved(peer, message, self._context.now)

    def _ack(self, peer: bytes, message: m.BundleAck) -> None:
        self.table.acked(peer, message, self._context.now)

    # ------------------------------------------------------------ states

    def _ask(self, group: bytes) -> None:
        if group in self.table.groups:
            self.directory.update(self.table.groups[group].state_message())
        elif self.home(group) == self.me or self.home(group) in self._ended_nodes:
            grace = UNKNOWN_GROUP_GRACE_S if self.home(group) == self.me else GROUP_ADOPTION_S
            self._unknown.setdefault(group, self._context.now + grace)
            if self.home(group) != self.me:  # its next home informed the nodes that lived then
                self.ports.names.find_group(group, lambda row: self._found(group, row))
        else:
            self.send(self.home(group), m.WatchGroup(group))

    def _found(self, group: bytes, row: dict[str, Any] | None) -> None:
        """The row of a group whose home is dead: ask its new home; the answer has the rest."""
        if row is not None and group in self._unknown and row["home"] in self._live() - {self.me}:
            self.send(row["home"], m.WatchGroup(group))

    def _changed(self, state: m.GroupState) -> None:
        """A group with its home here has another state."""
        self.directory.update(state)

    def _record(self, group: bytes, row: dict[str, Any] | None) -> None:
        self.ports.names.record_group(group, row)

    def _apply(self, state: m.GroupState) -> None:
        """Apply a state to the tasks and actors here that claim the group."""
        scheduler = self.ports.scheduler
        if state.state == "REMOVED":
            self._homes.pop(state.group, None)
            self._removes.pop(state.group, None)
            self.ports.end_actors(state.group, state.cause.get("detail", ""))
            scheduler.group_removed(state.group, state.cause.get("detail", ""))
        elif state.state == "CREATED":
            scheduler.group_placed(state.group)
        else:
            cause = state.cause.get("cause", 0) or int(Cause.GROUP_PENDING)
            scheduler.group_waits(state.group, cause, state.cause.get("detail", ""))

    def send(self, node: bytes, message: Any) -> None:
        """Send to a node; messages to this node wait for the end of the event."""
        if node == self.me:
            self._inbox.append((node, message))
        else:
            self._context.send(node, message)

    # ------------------------------------------------------------ time

    def settle(self, now: float) -> bool:
        """Run after an event, before its end; returns whether the scheduler should look again."""
        moved = False
        free = self.ports.scheduler.view.available[0] if self.table.unplaced else None
        if free is not None and any(now_free > before for now_free, before in zip(free, self._free, strict=False)):
            self.table.view_changed()
        self._free = list(free) if free is not None else []
        view = self.ports.cluster_view()
        if view.generation != self._generation or view is not self._view:
            self._view, self._generation = view, view.generation
            self.table.nodes_changed(now)
        if view.changes != self._seen:  # rows of other nodes have come
            self._seen = view.changes
            if self.table.unplaced:
                self.table.view_changed()
        while True:
            if self.table.settle(now):
                moved = True
            answers, self.bundles.answers = self.bundles.answers, []
            for group, answer in answers:
                self.send(self.home(group), answer)
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
                orphan = self.home(group) in self._ended_nodes
                for attempt, _ in self.bundles.in_use(group):
                    self._give_back(group, attempt, True)
                if group in self._removes:
                    self.directory.lost(group, self._removes[group].reason, asked=True)
                else:
                    self.directory.lost(group, "its home node died" if orphan else
                                        "no such group, or it was removed long ago")

    def next_deadline(self) -> float | None:
        first = self.table.next_deadline()
        if not self._unknown:
            return first
        return min(self._unknown.values() if first is None else (first, *self._unknown.values()))

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        self.table.check()
        self.directory.check()
        assert len(self._removes) <= REMOVES_KEPT_MAX
        for asked in self._removes:
            assert self.directory.known[asked].state.state != "REMOVED", "a removal is kept that has happened"
            assert self.home(asked) not in self._ended_nodes or asked in self._unknown, "a removal is kept for ever"
        for found in self.bundles.rounds.values():
            group = self.table.groups.get(found.group)
            if group is not None and found.state in (BundleState.COMMITTED, BundleState.RESERVED):
                assert self.me in group.used or group.state == "REMOVED", "a bundle that its home does not know of"
