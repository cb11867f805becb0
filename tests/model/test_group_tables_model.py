"""The placement groups of several homes at once: GroupTables and the Bundles of the nodes, beside an obvious oracle.

Three homes create groups over four nodes, tasks come and go, homes hear late what is free, messages between any two
nodes arrive in order and between others in any, a node dies, one joins.  The oracle knows which node said yes to which
bundle, and what every node must have free.

    at any time    no node gives out more than it has; a group is CREATED only if all its bundles were set aside for it;
                   no cycle of groups that wait for each other
    in the end     every message arrives, everybody hears what is free: a group that fits is placed, and nothing is set
                   aside for a group that does not have it
"""

from __future__ import annotations

from collections import deque
from itertools import count

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.oracles.packing_brute import placings
from zray.node.groups.table import QUEUE_S, GroupTable
from zray.sched.node.bundles import BundleRound, BundleState
from zray.sched.node.grouped import NodeScheduler
from zray.sched.node.local import LocalScheduler
from zray.sched.view import ClusterView
from zray.wire.messages import BundleAck, BundleCommit, BundleReserve, BundleReserved, BundleReturn

U = 10_000
NAMES = [b"n%03d\0\0\0\0" % number for number in range(5)]
HOMES = NAMES[:3]
LATE = NAMES[-1]  # joins
TASK = "task"
SHAPES = [[1], [2], [1, 1], [1, 1, 1], [2, 1], [2, 2]]
STRATEGIES = ["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


class NodeWithBundles:
    """Bundles of one node, and the table of the groups at home there."""

    def __init__(self, world: GroupTablesMachine, name: bytes, cpus: int) -> None:
        self.world, self.name, self.total = world, name, {"CPU": cpus * U}
        self.scheduler = NodeScheduler(LocalScheduler(self.total, node=name, next_lease=count(1).__next__))
        self.bundles = self.scheduler.bundles
        self.heard: dict[bytes, tuple[dict, dict]] = {}  # what each node said last: (total, available)
        self.table = GroupTable(self, name) if name in HOMES else None
        self.leases: list[int] = []  # of tasks

    # ------------------------------------------------------------ ports

    def view(self) -> ClusterView:
        view = ClusterView()
        for node, (total, free) in sorted(self.heard.items()):
            view.add(node, total)
            view.set_row(node, total, free)
        return view

    def send(self, node, message): self.world.links[self.name, node].append(message)  # noqa: E704
    def node_id(self, node): return node.hex()  # noqa: E704
    def changed(self, state): pass  # noqa: E704
    def record(self, group, row): pass  # noqa: E704
    def reply(self, peer, message): pass  # noqa: E704

    # ------------------------------------------------------------ events

    def take(self, source: bytes, message) -> None:
        now = self.world.now
        if type(message) is BundleReserve:
            self.bundles.reserve(message.group, message.attempt, message.job, message.bundles, message.wait, "", now)
        elif type(message) is BundleCommit:
            self.scheduler.commit(message.group, message.attempt, now)
        elif type(message) is BundleReturn:
            self.scheduler.give_back(message.group, message.attempt, message.removed, now)
        elif type(message) is BundleReserved:
            self.table.reserved(source, message, now)
        elif type(message) is BundleAck:
            self.table.acked(source, message, now)
        self.settle()

    def settle(self) -> None:
        """What follows, until nothing does."""
        while True:
            effects = self.scheduler.step(self.world.now)
            self.leases += [effect.lease for effect in effects if getattr(effect, "token", None) is not None
                            and hasattr(effect, "lease")]
            answers, self.bundles.answers = self.bundles.answers, []
            for group, answer in answers:
                self.send(self.world.home_of[group], answer)
            if not effects and not answers:
                break
        if self.table is not None:
            self.hear(self)
            self.table.settle(self.world.now)

    def hear(self, other: NodeWithBundles) -> None:
        said = dict(other.total), dict(other.scheduler.available())
        if self.heard.get(other.name) != said:
            if self.table is not None:
                fresh = other.name not in self.heard or self.heard[other.name][0] != said[0]
                self.heard[other.name] = said
                self.table.nodes_changed(self.world.now) if fresh else self.table.view_changed()


class GroupTablesMachine(RuleBasedStateMachine):
    @initialize(cpus=st.lists(st.integers(1, 3), min_size=5, max_size=5))
    def start(self, cpus) -> None:
        self.now = 0.0
        self.links = {(a, b): deque() for a in NAMES for b in NAMES}
        self.home_of: dict[bytes, bytes] = {}
        self.nodes: dict[bytes, NodeWithBundles] = {}
        self.dead: set[bytes] = set()
        self.unaware: dict[bytes, set[bytes]] = {}  # dead node -> homes that have not heard
        self.made = 0
        for name, amount in zip(NAMES[:4], cpus[:4], strict=True):
            self.nodes[name] = NodeWithBundles(self, name, amount)
        self.late_cpus = cpus[4]
        for home in self.homes():
            for node in self.live():
                home.hear(node)

    def live(self) -> list[NodeWithBundles]:
        return [node for name, node in self.nodes.items() if name not in self.dead]

    def homes(self) -> list[NodeWithBundles]:
        return [node for node in self.live() if node.table is not None]

    # ------------------------------------------------------------ what happens

    @rule(home=st.sampled_from(HOMES), shape=st.sampled_from(SHAPES), strategy=st.sampled_from(STRATEGIES))
    def create(self, home, shape, strategy) -> None:
        self.made += 1
        group = home + self.made.to_bytes(10, "big")
        self.home_of[group] = home
        node = self.nodes[home]
        node.table.create(b"driver", group, 1, {"bundles": [{"CPU": cpus * U} for cpus in shape],
                                                "strategy": strategy}, 0, self.now)
        node.settle()

    @precondition(lambda self: self.home_of)
    @rule(data=st.data())
    def remove(self, data) -> None:
        group = data.draw(st.sampled_from(sorted(self.home_of)))
        node = self.nodes[self.home_of[group]]
        node.table.remove(group, "by a rule", self.now)
        node.settle()

    @rule(data=st.data())
    def a_task_comes(self, data) -> None:
        node = data.draw(st.sampled_from(self.live()))
        self.made += 1
        node.scheduler.request((TASK, self.made), 2, {"CPU": U}, None, self.now, TASK)
        node.settle()

    @rule(data=st.data())
    def a_task_goes(self, data) -> None:
        busy = [node for node in self.live() if node.leases]
        if busy:
            node = data.draw(st.sampled_from(busy))
            node.scheduler.release(node.leases.pop(), self.now)
            node.settle()

    @precondition(lambda self: any(self.links.values()))
    @rule(data=st.data())
    def a_message_arrives(self, data) -> None:
        self.deliver(data.draw(st.sampled_from([link for link in sorted(self.links) if self.links[link]])))

    def deliver(self, link) -> None:
        source, target = link
        message = self.links[link].popleft()
        if target in self.nodes and target not in self.dead:
            self.nodes[target].take(source, message)

    @rule(data=st.data())
    def a_home_hears_what_is_free(self, data) -> None:
        home = data.draw(st.sampled_from(self.homes()))
        node = data.draw(st.sampled_from(self.live()))
        home.hear(node)
        home.settle()

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.1, QUEUE_S]))
    def time_passes(self, seconds) -> None:
        self.now += seconds
        for home in self.homes():
            home.table.tick(self.now)
            home.settle()

    @precondition(lambda self: not self.dead)
    @rule()
    def a_node_dies(self) -> None:
        name = NAMES[3]
        self.dead.add(name)
        self.unaware[name] = {home.name for home in self.homes()}
        for link in self.links:
            if name in link:
                self.links[link].clear()

    @precondition(lambda self: any(self.unaware.values()))
    @rule()
    def a_home_hears_of_the_death(self) -> None:
        [(name, homes)] = self.unaware.items()
        home = self.nodes[min(homes)]
        homes.discard(home.name)
        home.heard.pop(name, None)
        home.table.node_ended(name, self.now)
        home.settle()

    @precondition(lambda self: LATE not in self.nodes)
    @rule()
    def a_node_joins(self) -> None:
        self.nodes[LATE] = NodeWithBundles(self, LATE, self.late_cpus)

    # ------------------------------------------------------------ what must hold

    @invariant()
    def nothing_is_given_out_twice(self) -> None:
        for node in self.live() if hasattr(self, "nodes") else ():
            node.scheduler.check()
            if node.table is not None:
                node.table.check()
            taken = len(node.leases) * U + sum(
                bundle.resources["CPU"] for found in node.bundles.rounds.values()
                if found.state is not BundleState.WAITING for bundle in found.bundles)
            assert node.scheduler.available()["CPU"] == node.total["CPU"] - taken >= 0

    @invariant()
    def no_groups_wait_for_each_other(self) -> None:
        """An edge from a round that waits on a node to each round that holds something there: no cycle."""
        if not hasattr(self, "nodes"):
            return
        waits: dict[bytes, set[bytes]] = {}
        for node in self.live():
            here = list(node.bundles.rounds.values())
            holds = {found.group for found in here if found.state is BundleState.RESERVED and self.is_current(found)}
            for found in here:
                if found.state is BundleState.WAITING and self.is_current(found):
                    waits.setdefault(found.group, set()).update(holds - {found.group})
        while waits:
            free = [group for group, others in waits.items() if not others & waits.keys()]
            assert free, f"{waits} wait for each other"
            for group in free:
                del waits[group]

    def is_current(self, found: BundleRound) -> bool:
        """Of the round under way, which waits for its turn; others are given back, or need no turn."""
        home = self.nodes[self.home_of[found.group]]
        group = home.table.groups.get(found.group)
        return (group is not None and group.round is not None and group.attempt == found.attempt and group.round.waits)

    def teardown(self) -> None:
        if not hasattr(self, "nodes"):
            return
        while any(self.unaware.values()):
            self.a_home_hears_of_the_death()
        for node in self.live():
            for task in [token for token in node.scheduler.root.requests if isinstance(token, tuple)]:
                node.scheduler.cancel_request(task)
        quiet = 0
        for _ in range(600):
            for link in sorted(self.links):
                while self.links[link]:
                    self.deliver(link)
            for home in self.homes():
                for node in self.live():
                    home.hear(node)
                home.settle()
            self.now += 0.05
            for home in self.homes():
                home.table.tick(self.now)
                home.settle()
            quiet = quiet + 1 if self.is_settled() else 0
            if quiet > 3:
                break
        self.nothing_is_given_out_twice()
        assert self.is_settled(), self.unsettled()

    def is_settled(self) -> bool:
        return not any(self.links.values()) and not self.unsettled()

    def unsettled(self) -> list[str]:
        """Groups that fit and are not placed; bundles that are set aside for no group, or not there."""
        free = [node.scheduler.available() for node in self.live()]
        found = []
        believed, here = {}, {}
        for home in self.homes():
            for group in home.table.groups.values():
                believed.update({(group.id, index): node for index, node in enumerate(group.nodes) if node})
                if group.state == "PENDING" and any(True for _ in placings(free, group.bundles, group.strategy)):
                    found.append(f"{group.strategy} of {group.bundles} waits, though {free} is free")
        for node in self.live():
            for current in node.bundles.rounds.values():
                if current.state is BundleState.COMMITTED:
                    here.update({(b.group, b.index): node.name for b in current.bundles})
                elif current.state is BundleState.RESERVED and not self.is_current(current):
                    found.append(f"{current.state.name} is left on a node")
        if here != believed:
            found.append(f"nodes have {here}, homes believe {believed}")
        return found


GroupTablesMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None,
                                   suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
TestGroupTables = GroupTablesMachine.TestCase
