"""The rule about waiting, tested during the whole run: a want that can be met does not wait.

Every CHECK_EVERY_S the audit tests each waiting want, actor and placement group: do healthy nodes that its home can
reach have room for it?  If the answer is yes at each test for MET_S_MAX, an event was forgotten: a node joined, a
resource became free, a group got its places or a lease ended, and no machine looked again.

A detached actor or a group whose home is dead waits as well: for the node that is to become its home.

The bound is a gossip interval, round trips with frames that are lost and sent again, and a turn.  A node that was cut
off can be reached again when all frames that the cut lost have been sent again.  Requests under way count too, because
a message without an answer, or rounds without end, look the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from zray.gcs.replica.tables import ACTORS, GROUPS, unpack_record
from zray.node.groups.records import Group
from zray.sched.cluster import packing
from zray.sched.cluster.spillback_lanes import SpillbackEntry
from zray.sched.node.claims import group_of
from zray.sched.view import ClusterView
from zray.sim import leftovers
from zray.sim.describe import describe
from zray.sim.failure import Violation
from zray.sim.node import SimNode
from zray.sim.observed import Observed

CHECK_EVERY_S = 0.05
MET_S_MAX = 1.5


class Liveness:
    """Since when what waits could have been met; ``look`` raises Violation.

    is_well       whether no disaster affects a node now
    """

    def __init__(self, cluster: Observed, is_well: Callable[[SimNode], bool]) -> None:
        self.cluster, self._is_unharmed = cluster, is_well
        self.since: dict[Any, float] = {}
        self.worst = 0.0
        cluster.net.call_at(CHECK_EVERY_S, self._again)

    def _again(self) -> None:
        self.look()
        self.cluster.net.call_at(self.cluster.net.now + CHECK_EVERY_S, self._again)

    def look(self) -> None:
        now, since = self.cluster.net.now, {}
        for what in self._could_be_met():
            since[what] = self.since.get(what, now)
            self.worst = max(self.worst, now - since[what])
            if now - since[what] > MET_S_MAX:
                raise Violation(f"seed {self.cluster.seed}: for {MET_S_MAX} s there has been room for what waits: "
                                f"{self._words(what)}")
        self.since = since

    def _could_be_met(self) -> Iterator[Any]:
        serving = [node for node in self.cluster.serving() if node.alive]
        for home in serving:
            spillback, table = home.machine.bottom_up.spillback, home.machine.groups.table
            entries = [(key, entry) for key, entry in spillback.entries.items()
                       if entry.outstanding > 0 and key[0] in self.cluster.cores]
            if not (entries or spillback.requests or table.unplaced) or not self._is_well(home):
                continue
            near = [node for node in serving if node is home or self._reach(home, node)]
            for (owner, key), entry in entries:
                if self._waits(entry, near) and self._has_room(entry, home, near):
                    yield home.incarnation, "want", owner, key, entry.granted
            for token, entry in spillback.requests.items():
                if self._waits(entry, near) and self._has_room(entry, home, near):
                    yield home.incarnation, "actor", token
            if table.unplaced:
                view, names = _truth(near), {node.incarnation for node in near}
                for group in table.unplaced:
                    if self._is_answered(table.groups[group], names) and self._fits(table.groups[group], view):
                        yield home.incarnation, "group", group, table.groups[group].state
        yield from self._orphans(serving)

    def _orphans(self, serving: list[SimNode]) -> Iterator[Any]:
        """Actors and groups that still have a dead home, while every node knows that it is dead."""
        if not serving or not all(self._is_well(node) for node in serving):
            return
        known = set.intersection(*(set(node.machine.context.ends.nodes) for node in serving))
        known = {node for node in known if all(node not in other.machine.cluster.peers for other in serving)}
        if not known or not all(node is other or self._reach(node, other) for node in serving for other in serving):
            return
        for key, value in leftovers.rows(self.cluster, (ACTORS, GROUPS)).items():
            row = unpack_record(value)
            if row["home"] in known and row["state"] not in ("DEAD", "REMOVED"):
                yield "a dead home", key, row["home"]

    # ------------------------------------------------------------ nodes

    def _is_well(self, node: SimNode) -> bool:
        return node.alive and self._is_unharmed(node)

    def _reach(self, home: SimNode, node: SimNode) -> bool:
        return (self._is_well(node) and node.incarnation in home.machine.cluster.peers
                and home.incarnation in node.machine.cluster.peers and not node.machine.bottom_up.draining
                and node.incarnation not in home.leavers
                and self.cluster.wire.caught_up(home.incarnation, node.incarnation)
                and self.cluster.wire.caught_up(node.incarnation, home.incarnation))

    # ------------------------------------------------------------ wants

    @staticmethod
    def _waits(entry: SpillbackEntry, near: list[SimNode]) -> bool:
        """Leases wanted, without granted ones that wait for a worker process, or shares that wait for a slow node.

        A SPREAD or softly bound share is not withdrawn when an answer is late.
        """
        under_way = sum(share.promised for share in entry.shares.values())
        if entry.outstanding > under_way and entry.lane.prefers:
            names = {node.incarnation for node in near}
            under_way += sum(share.want - share.promised for node, share in entry.shares.items()
                             if node not in names and not share.queued)
        return entry.outstanding > under_way

    def _has_room(self, entry: SpillbackEntry, home: SimNode, near: list[SimNode]) -> bool:
        strategy, demand = entry.lane.strategy, entry.lane.demand
        if (group := group_of(strategy)) is not None:
            return any(self._bundle_has_room(node, group, strategy.get("bundle", -1), demand) for node in near)
        if strategy.get("kind") == "affinity":
            bound = next((node for node in near if node.node_id == strategy["node"]), None)
            if bound is None and (not strategy.get("soft") or strategy["node"][:8] in home.machine.cluster.peers):
                return False
            near = near if bound is None else [bound]
        return any(self._node_has_room(node, demand) for node in near)

    @staticmethod
    def _node_has_room(node: SimNode, demand: dict[str, int]) -> bool:
        root, free = node.machine.scheduler.root, node.machine.scheduler.available()
        return root._saving is None and all(free.get(name, 0) >= value for name, value in demand.items())

    @staticmethod
    def _bundle_has_room(node: SimNode, group: bytes, index: int, demand: dict[str, int]) -> bool:
        for bundle in node.machine.scheduler.bundles.committed.get(group, {}).values():
            scheduler = bundle.scheduler
            if index in (-1, bundle.index) and scheduler._saving is None:
                free = scheduler.available()
                if all(free.get(name, 0) >= value for name, value in demand.items()):
                    return True
        return False

    # ------------------------------------------------------------ groups

    @staticmethod
    def _is_answered(group: Group, near: set[bytes]) -> bool:
        """Whether no answer is under way from a node that cannot be reached yet."""
        return group.round is None or group.round.asked - group.round.yes <= near

    @staticmethod
    def _fits(group: Group, view: ClusterView) -> bool:
        others = [node for node in group.nodes if node]
        if any(node not in view.row_of for node in others):
            return False  # the group is about to lose those
        held = [] if group.round is None else [
            (node, group.bundles[index]) for node in sorted(group.round.yes) for index in group.round.nodes[node]]
        bundles = [group.bundles[index] for index in group.missing]
        return packing.choose(view, bundles, group.strategy, others, held=held) is not None

    def _words(self, what: Any) -> str:
        return f"{what}\n{describe(self.cluster)}"


def _truth(nodes: list[SimNode]) -> ClusterView:
    """The free resources of nodes, without the delay of gossip."""
    view = ClusterView()
    for node in nodes:
        total, free = node.machine.scheduler.total(), node.machine.scheduler.available()
        view.add(node.incarnation, total)
        view.set_row(node.incarnation, total, free)
    return view
