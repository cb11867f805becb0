"""Spillback against an obvious model: owners, nodes, grants that cross withdrawals, deaths, in any order.

The model is a world of counters.  Each node keeps, by key, the last LeaseWant it got and how many leases it granted, as
LocalScheduler does; messages between home and a node are queues that keep their order and may be delivered late.  The
promises: the shares and what is unplaced add up to what is outstanding; what each node believes it owes, once its queue
has drained, is its share; no grant is lost or counted twice; and once all is quiet and somebody has room, nobody waits.
"""

from __future__ import annotations

from collections import deque

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zray.base.causes import Cause
from zray.sched.cluster.spillback import GRANTED, Spillback
from zray.sched.cluster.spillback_effects import (
    Ask,
    Offers,
    PlaceRequest,
    RelayToNode,
    UnplaceRequest,
    WaitReason,
    WantLocal,
)
from zray.sched.view import ClusterView
from zray.wire import messages as m

U = 10_000
HOME, *OTHERS = NODES = [bytes([65 + i]) * 4 + bytes(4) for i in range(4)]
OWNERS = [HOME[:4] + bytes([128, 0, 0, i]) for i in range(2)]
STRATEGIES = [
    {}, {"kind": "spread"}, {"kind": "affinity", "node": OTHERS[0], "soft": False}, {"locality": OTHERS[1]},
    {"kind": "affinity", "node": OTHERS[0], "soft": True}, {"kind": "affinity", "node": HOME},
]
DEMANDS = [{"CPU": U}, {"GPU": U}]  # home has no GPU


class WantAccount:
    """A node's account of one key, in the words of LeaseWant."""

    def __init__(self) -> None:
        self.want = self.seen = self.granted = 0

    @property
    def owes(self) -> int:
        return max(0, self.want - (self.granted - self.seen))


class SpillbackMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.view = ClusterView()
        for node in NODES:
            self.view.add(node, {"CPU": 4 * U} | ({"GPU": U} if node == OTHERS[-1] else {}))
        self.spillback = Spillback(HOME, self.view, Offers(self.obstacle, lambda *_: True, lambda *_: False))
        self.now = 0.0
        self.keys: dict[tuple[bytes, int], tuple[dict, dict]] = {}
        self.wanted: dict[tuple[bytes, int], int] = {}  # what the owner would use, by what it has seen
        self.got: dict[tuple[bytes, int], list[int]] = {}
        self.to_owner: dict[tuple[bytes, int], int] = {}  # grants on their way to the owner
        self.at: dict[tuple[bytes, tuple[bytes, int]], WantAccount] = {}
        self.there: dict[bytes, deque] = {node: deque() for node in OTHERS}  # home -> node
        self.back: dict[bytes, deque] = {node: deque() for node in OTHERS}
        self.asks: deque[Ask] = deque()
        self.lease = 0
        self.homed: dict[bytes, list[int]] = {node: [] for node in NODES}  # leases that Spillback has seen, by node
        self.places: dict[tuple[bytes, int], bool] = {}  # (node, token): asked to hold it
        self.tokens: set[int] = set()
        self.placed: set[int] = set()
        self.last_token = 0

    def obstacle(self, demand: dict, strategy: dict) -> str:
        return "no GPU" if "GPU" in demand else \
            "elsewhere" if strategy.get("node", HOME) != HOME and not strategy["soft"] else ""

    def alive(self) -> list[bytes]:
        return [node for node in NODES if node in self.view.row_of]

    # ---------------------------------------------------------- owners

    @rule(owner=st.sampled_from(OWNERS), key=st.integers(1, 3), demand=st.sampled_from(DEMANDS),
          strategy=st.sampled_from(STRATEGIES))
    def declare(self, owner, key, demand, strategy) -> None:
        if (owner, key) not in self.keys:
            self.spillback.declare(owner, 1, key, demand, strategy)
            self.keys[owner, key] = demand, strategy
            self.wanted[owner, key] = self.to_owner[owner, key] = 0
            self.got[owner, key] = []

    @precondition(lambda self: self.keys)
    @rule(data=st.data(), want=st.integers(0, 6))
    def say_want(self, data, want) -> None:
        who = data.draw(st.sampled_from(sorted(self.keys)))
        seen = len(self.got[who]) - self.to_owner[who]
        self.spillback.want(*who, want, seen, self.now)
        self.wanted[who] = want - self.to_owner[who]
        self.drain()

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def owner_hears_of_its_grants(self, data) -> None:
        self.to_owner[data.draw(st.sampled_from(sorted(self.keys)))] = 0

    @rule(owner=st.sampled_from(OWNERS))
    def owner_dies(self, owner) -> None:
        nodes, held = self.spillback.drop_owner(owner)
        assert HOME not in nodes
        for who in [who for who in self.keys if who[0] == owner]:
            for node in OTHERS:
                told = any(what[0] == who for what in self.there[node]) or (node, who) in self.at
                assert not told or node in nodes or node not in self.alive(), "a node that knows the owner is told"
            del self.keys[who], self.wanted[who], self.to_owner[who], self.got[who]
        for node, lease in held:
            self.homed[node].remove(lease)
        for node in OTHERS:
            self.there[node] = deque(what for what in self.there[node] if what[0][0] != owner)
            self.back[node] = deque(what for what in self.back[node] if what[0][0] != owner)
        for place in [place for place in self.at if place[1][0] == owner]:
            del self.at[place]
        self.drain()

    @rule(strategy=st.sampled_from(STRATEGIES), demand=st.sampled_from(DEMANDS))
    def request(self, strategy, demand) -> None:
        self.last_token += 1
        self.tokens.add(self.last_token)
        self.spillback.request(self.last_token, 1, demand, strategy, self.now)
        self.drain()

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        token = data.draw(st.sampled_from(sorted(self.tokens)))
        assert self.spillback.cancel_request(token) == (token not in self.placed)
        self.tokens.discard(token)
        self.drain()
        assert not any(token == asked for _, asked in self.places) or token in self.placed

    # ---------------------------------------------------------- nodes

    @precondition(lambda self: any(self.there.values()))
    @rule(data=st.data())
    def node_hears(self, data) -> None:
        node = data.draw(st.sampled_from(sorted(node for node in OTHERS if self.there[node])))
        who, message = self.there[node].popleft()
        if isinstance(message, m.LeaseKey):
            assert (message.demand, who) == (self.keys[who][0], who)
            self.at.setdefault((node, who), WantAccount())
        else:
            world = self.at[node, who]  # KeyError: a want before its key
            world.want, world.seen = message.want, min(message.granted, world.granted)

    @precondition(lambda self: any(world.owes for world in self.at.values()))
    @rule(data=st.data())
    def node_grants(self, data) -> None:
        node, who = data.draw(st.sampled_from(sorted(at for at, world in self.at.items() if world.owes)))
        self.at[node, who].granted += 1
        self.lease += 1
        if node == HOME:
            self.count(node, who, self.lease)
            self.drain()
        else:
            self.back[node].append((who, self.lease))

    @precondition(lambda self: any(world.owes for world in self.at.values()))
    @rule(data=st.data(), cause=st.sampled_from([Cause.RESOURCES_BUSY, Cause.INFEASIBLE, *GRANTED]))
    def node_says_why_not(self, data, cause) -> None:
        owing = sorted(at for at, world in self.at.items() if world.owes and at[0] != HOME)
        if owing:
            node, who = data.draw(st.sampled_from(owing))
            self.back[node].append((who, cause))

    @precondition(lambda self: any(self.back.values()))
    @rule(data=st.data())
    def home_hears(self, data) -> None:
        node = data.draw(st.sampled_from(sorted(node for node in OTHERS if self.back[node])))
        self.hear(node)
        self.drain()

    def hear(self, node: bytes) -> None:
        who, what = self.back[node].popleft()
        if isinstance(what, Cause):
            self.spillback.status(node, *who, int(what), "so it is", self.now)
        else:
            self.count(node, who, what)

    def count(self, node: bytes, who, lease: int) -> None:
        assert self.spillback.granted(node, *who, lease, self.now)
        self.got[who].append(lease)
        self.to_owner[who] += 1
        self.wanted[who] -= 1
        if node != HOME:
            assert self.spillback.node_of_lease(lease) == node
            self.homed[node].append(lease)

    @precondition(lambda self: any(self.homed.values()))
    @rule(data=st.data())
    def lease_ends(self, data) -> None:
        node = data.draw(st.sampled_from(sorted(node for node in NODES if self.homed[node])))
        lease = self.homed[node].pop()
        assert self.spillback.lease_over(lease) == node
        assert self.spillback.lease_over(lease) is None

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def node_places(self, data) -> None:
        node, token = data.draw(st.sampled_from(sorted(self.places)))
        if token in self.placed:
            return
        assert self.spillback.placed(token, node, self.now)
        assert not self.spillback.placed(token, node, self.now), "a second place is given back"
        self.placed.add(token)
        self.drain()

    @rule(node=st.sampled_from(OTHERS))
    def node_dies(self, node) -> None:
        if node not in self.view.row_of:
            return
        self.view.remove(node)
        lost = self.spillback.node_ended(node, self.now)
        assert sorted(lease for _, _, lease in lost) == sorted(self.homed[node])
        self.homed[node].clear(), self.there[node].clear(), self.back[node].clear()
        for place in [place for place in self.at if place[0] == node]:
            del self.at[place]
        for place in [place for place in self.places if place[0] == node]:
            del self.places[place]
        self.drain()

    @rule(node=st.sampled_from(NODES))
    def node_drains(self, node) -> None:
        if node in self.view.row_of:
            self.view.drain(node)
            self.spillback.node_draining(node, self.now)
            self.drain()
            assert not any(shares["shares"].get(node) for shares in self.spillback.report()) or len(self.alive()) == 1

    # ---------------------------------------------------------- global schedulers, time

    @precondition(lambda self: self.asks)
    @rule(data=st.data(), queue=st.booleans())
    def scheduler_answers(self, data, queue) -> None:
        ask = self.asks.popleft()
        placed, left = [], ask.number
        for node in NODES:  # perhaps one that has died or drains since
            if left and node not in ask.avoid and node not in ask.barred and \
                    ask.strategy.get("node", node) == node and ("GPU" not in ask.demand or node == OTHERS[-1]):
                count = data.draw(st.integers(0, left + 1))  # perhaps more than was asked for
                placed += [[node, count]] if count else []
                left -= min(count, left)
        queued = [[node, left] for node in self.alive()[-1:] if queue and ask.queue and left]
        if queued:
            left = 0
        self.spillback.answer(ask.request, placed, queued, left, Cause.RESOURCES_BUSY if left else 0, "busy", self.now)
        self.drain()

    @rule(elapsed=st.sampled_from([0.0, 0.002, 0.06, 0.2, 6.0]))
    def time_passes(self, elapsed) -> None:
        self.now += elapsed
        self.drain()

    def drain(self) -> None:
        """Step, and put what comes out on its way."""
        for _ in range(50):
            self.spillback.step(self.now)
            if not self.spillback.out:
                break
            for item in self.spillback.out:
                self.deliver(item)
            self.spillback.out.clear()
        else:
            raise AssertionError("it never comes to rest")
        due = self.spillback.deadline()
        assert due is None or due > self.now or self.asks, "something is due, and step did not do it"

    def deliver(self, item) -> None:
        if isinstance(item, WantLocal):
            world = self.at.setdefault((HOME, (item.owner, item.key)), WantAccount())
            world.want, world.seen = item.want, item.granted
        elif isinstance(item, RelayToNode):
            assert item.node in self.alive() and item.node != HOME
            self.there[item.node].append(((item.owner, item.message.key), item.message))
        elif isinstance(item, Ask):
            self.asks.append(item)
        elif isinstance(item, PlaceRequest):
            assert (item.node, item.token) not in self.places
            self.places[item.node, item.token] = True
        elif isinstance(item, UnplaceRequest):
            self.places.pop((item.node, item.token), None)
        else:
            assert isinstance(item, WaitReason) and item.detail

    # ---------------------------------------------------------- promises

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        self.spillback.check()
        report = {(row["owner"], row["key"]): row for row in self.spillback.report() if row["token"] is None}
        for who, wanted in self.wanted.items():
            row = report.get(who, {"unplaced": 0, "shares": {}, "outstanding": 0})
            assert row["outstanding"] == max(0, wanted) == row["unplaced"] + sum(row["shares"].values())

    @invariant()
    def nodes_owe_their_shares(self) -> None:
        """Once all words have arrived, each node owes just what Spillback counts on."""
        report = {(row["owner"], row["key"]): row for row in self.spillback.report() if row["token"] is None}
        for (node, who), world in self.at.items():
            quiet = node == HOME or (not self.there[node] and not self.back[node])
            if quiet:
                row = report.get(who)
                assert world.owes == (row["shares"].get(node, 0) if row else 0)

    @invariant()
    def requests_are_asked_of_one_node(self) -> None:
        for token in self.tokens - self.placed:
            assert sum(asked == token for _, asked in self.places) <= 1
        for row in self.spillback.report():
            if row["token"] is not None:
                assert [node for node, token in self.places if token == row["token"]] == \
                    [node for node, count in row["shares"].items() if count]

    def teardown(self) -> None:
        """Every node grants what it owes, and schedulers answer: no want is left."""
        if not hasattr(self, "view") or len(self.view.draining) == len(self.view.row_of):
            return
        for _ in range(30):
            self.now += 1.0
            self.drain()
            while self.asks:
                self.place_all(self.asks.popleft())
                self.drain()
            for node in OTHERS:
                while self.there[node]:
                    who, message = self.there[node].popleft()
                    world = self.at.setdefault((node, who), WantAccount())
                    if isinstance(message, m.LeaseWant):
                        world.want, world.seen = message.want, min(message.granted, world.granted)
            for (node, who), world in list(self.at.items()):
                while world.owes:
                    world.granted += 1
                    self.lease += 1
                    if node == HOME:
                        self.count(node, who, self.lease)
                    else:
                        self.back[node].append((who, self.lease))
            for node in OTHERS:
                while self.back[node]:
                    self.hear(node)
            for node, token in sorted(self.places):
                if token not in self.placed and token in self.tokens:
                    self.spillback.placed(token, node, self.now)
            self.drain()
            self.nothing_is_lost_or_doubled()
        for row in self.spillback.report():
            entry = self.spillback._find(row["owner"], row["key"], row["token"])
            assert not self.fitting(entry.lane.demand, entry.lane.strategy, entry.lane.barred), f"{row} starves"

    def fitting(self, demand: dict, strategy: dict, barred) -> list[bytes]:
        nodes = [node for node in self.alive() if self.view.row_of[node] not in self.view.draining]
        nodes = [node for node in nodes if ("GPU" not in demand or node == OTHERS[-1]) and node not in barred]
        if strategy.get("kind") == "affinity" and (strategy["node"] in nodes or not strategy.get("soft")):
            nodes = [node for node in nodes if node == strategy["node"]]
        return nodes

    def place_all(self, ask: Ask) -> None:
        nodes = self.fitting(ask.demand, ask.strategy, ask.barred)
        free = [node for node in nodes if node not in ask.avoid]
        if free:
            self.spillback.answer(ask.request, [[free[0], ask.number]], [], 0, 0, "", self.now)
        elif nodes:
            queued = [[nodes[0], ask.number]] if ask.queue else []
            left = 0 if queued else ask.number
            self.spillback.answer(ask.request, [], queued, left, Cause.RESOURCES_BUSY, "busy", self.now)
        else:
            self.spillback.answer(ask.request, [], [], ask.number, Cause.INFEASIBLE, "nobody has it", self.now)


TestSpill = SpillbackMachine.TestCase
TestSpill.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
