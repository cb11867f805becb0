"""Gossip: rows reach every node, in time, once, and nothing is sent when nothing has changed."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random

import pytest

from zray.sched.cluster.gossip import (
    ALL_PEERS_MAX,
    GOSSIP_EARLY_MAX,
    GOSSIP_GATHER_S,
    GOSSIP_S,
    PEERS,
    ROWS_MAX,
    Gossip,
    GossipRow,
    NodeReport,
)
from zray.sched.view import ClusterView
from zray.wire.codec import decode, encode
from zray.wire.messages import ViewRows

U = 10_000
FULL = {"CPU": 4 * U}


class GossipMesh:
    """Gossips of some nodes, delivered at once or after a delay, with a clock."""

    def __init__(self, count: int) -> None:
        self.now, self.sent, self.delay_s = 0.0, 0, 0.001
        self.names = [i.to_bytes(4, "big") + bytes(4) for i in range(1, count + 1)]
        self.free = dict.fromkeys(self.names, 4 * U)
        self.nodes: dict[bytes, Gossip] = {}
        self.mail: list[tuple[float, int, bytes, list]] = []
        for name in self.names:
            self.join(name)

    def join(self, name: bytes) -> None:
        view = ClusterView()
        view.add(name, FULL)
        gossip = self.nodes[name] = Gossip(name, view, seed=int.from_bytes(name, "big"))
        self.free.setdefault(name, 4 * U)
        for other, there in list(self.nodes.items()):
            if other != name:
                gossip.add(other, FULL, {}, self.now)
                there.add(name, FULL, {}, self.now)

    def use(self, name: bytes, free: int, big: bool = False) -> None:
        self.free[name] = free
        self.nodes[name].changed(self.now, big=big)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := self._next()) is not None and at <= end:
            self.now = max(self.now, at)
            while self.mail and self.mail[0][0] <= self.now:
                _, _, peer, rows = heappop(self.mail)
                if peer in self.nodes:
                    self.nodes[peer].on_rows(rows, self.now)
            for name, gossip in self.nodes.items():
                gossip.step(self.now, lambda _, name=name: NodeReport({"CPU": self.free[name]}, FULL))
                for peer, message in gossip.out:
                    self.sent += 1
                    heappush(self.mail, (self.now + self.delay_s, self.sent, peer, message.rows))
                gossip.out.clear()
        self.now = end
        for gossip in self.nodes.values():
            gossip.check()

    def _next(self) -> float | None:
        times = [when for gossip in self.nodes.values() if (when := gossip.deadline()) is not None]
        return min([*times, *(mail[0] for mail in self.mail[:1])], default=None)

    def seen(self, name: bytes) -> list[int]:
        """What the nodes think ``name`` has free."""
        return [node.view.named(node.view.row_of[name])["CPU"] for other, node in self.nodes.items() if other != name]


@pytest.mark.parametrize("count", [2, ALL_PEERS_MAX + 1, 60])
def test_a_row_reaches_everybody(count):
    mesh = GossipMesh(count)
    mesh.run(0.05)
    assert mesh.sent == 0, "all is free, as everybody assumes"
    mesh.use(mesh.names[1], U)
    mesh.run(0.01 if count <= ALL_PEERS_MAX + 1 else GOSSIP_S)
    assert set(mesh.seen(mesh.names[1])) == {U}
    assert mesh.sent <= (count - 1 if count <= ALL_PEERS_MAX + 1 else count * PEERS)


def test_nothing_is_sent_and_no_timer_runs_while_nothing_changes_or_a_node_is_alone():
    mesh = GossipMesh(20)
    mesh.use(mesh.names[0], 0)
    mesh.run(1.0)
    sent = mesh.sent
    mesh.run(1.0)
    assert mesh.sent == sent and all(node.deadline() is None for node in mesh.nodes.values())
    alone = GossipMesh(1)
    alone.use(alone.names[0], 0)
    assert alone.nodes[alone.names[0]].deadline() is None


def test_changes_are_told_at_most_every_interval_and_big_ones_at_once():
    mesh = GossipMesh(2)
    first = mesh.names[0]
    for step in range(300):
        mesh.use(first, U + step)
        mesh.run(0.001)
    assert 3 <= mesh.sent <= 4, "0.3 s of small changes"
    mesh.run(0.2)
    gossip = mesh.nodes[first]
    gossip.changed(mesh.now, big=True)
    due = gossip.deadline()
    assert due is not None and due - mesh.now <= 0.005
    gossip._due = None
    gossip._sent_at = mesh.now
    gossip.changed(mesh.now)
    assert gossip.deadline() == pytest.approx(mesh.now + GOSSIP_S)


def test_what_went_and_came_back_is_told():
    mesh = GossipMesh(2)
    mesh.use(mesh.names[0], 0)
    mesh.run(0.2)
    stamp = list(mesh.nodes[mesh.names[1]].view.stamps)
    mesh.use(mesh.names[0], U)
    mesh.use(mesh.names[0], 0)
    mesh.run(0.2)
    assert mesh.nodes[mesh.names[1]].view.stamps != stamp


def test_a_dead_node_never_comes_back_with_old_rows():
    mesh = GossipMesh(3)
    one, two, three = mesh.names
    mesh.use(three, 0)
    mesh.run(0.2)
    late = mesh.nodes[one].rows[three]
    del mesh.nodes[three]
    mesh.nodes[one].node_ended(three, mesh.now)
    mesh.nodes[one].on_rows([late._replace(version=99)], mesh.now)
    mesh.run(0.2)
    assert three not in mesh.nodes[one].view.row_of and three not in mesh.nodes[one].rows
    mesh.nodes[two].on_rows([late], mesh.now)
    assert mesh.nodes[two].rows[three].version == late.version, "the same version again changes nothing"


@pytest.mark.parametrize("count", [5, 40])
def test_a_newcomer_learns_what_the_others_have(count):
    mesh = GossipMesh(count)
    for name in mesh.names[:3]:
        mesh.use(name, U)
    mesh.run(1.0)
    new = b"\x09" * 4 + bytes(4)
    mesh.join(new)
    mesh.run(0.1)
    view = mesh.nodes[new].view
    assert {view.named(view.row_of[name])["CPU"] for name in mesh.names[:3]} == {U}


def test_rows_reach_everybody_though_a_node_dies_that_should_have_passed_them_on():
    mesh = GossipMesh(40)
    random = Random(3)
    for _ in range(8):
        dying, speaking = random.sample(sorted(mesh.nodes), 2)
        mesh.use(speaking, random.randrange(4) * U)
        mesh.run(0.003)
        del mesh.nodes[dying]
        mesh.run(0.05)
        for node in mesh.nodes.values():
            node.node_ended(dying, mesh.now)
        mesh.run(0.3)
        assert set(mesh.seen(speaking)) == {mesh.free[speaking]}


def test_a_row_that_comes_before_its_node_waits_for_it():
    mesh = GossipMesh(2)
    gossip, other = mesh.nodes[mesh.names[0]], b"\x07" * 4 + bytes(4)
    gossip.on_rows([GossipRow(other, 3, 0, 0, {"CPU": U}, [], FULL, {})], 0.0)
    assert other not in gossip.view.row_of
    gossip.add(other, FULL, {}, 0.0)
    assert gossip.view.named(gossip.view.row_of[other])["CPU"] == U
    for i in range(GOSSIP_EARLY_MAX + 50):
        gossip.on_rows([GossipRow((i + 1000).to_bytes(8, "big"), 1, 0, 0, {}, [], {}, {})], 0.0)
    gossip.check()


@pytest.mark.parametrize("wire", [
    None, [], ["x"] * 8, [b"n" * 8, 1, 0, 0, {}, [], {}], [b"n", 1, 0, 0, {}, [], {}, {}],
    [b"n" * 8, "1", 0, 0, {}, [], {}, {}], [b"n" * 8, 1, 0, -1, {}, [], {}, {}],
])
def test_malformed_rows_are_counted_and_dropped(wire):
    gossip = GossipMesh(2).nodes[(1).to_bytes(4, "big") + bytes(4)]
    gossip.on_rows([wire], 0.0)
    assert gossip.refused == 1
    gossip.check()


@pytest.mark.parametrize(("available", "total"), [
    ({"CPU": 9 * U}, FULL), ({"CPU": -(2**61)}, FULL), ({"CPU": 1.5}, FULL), ({"x": 1}, FULL), ({}, {"CPU": -1}),
    ({}, {3: 1}), ({}, {"CPU": 2**70}),
])
def test_rows_of_impossible_amounts_change_nothing(available, total):
    mesh = GossipMesh(2)
    one, two = mesh.names
    mesh.nodes[one].on_rows([[two, 1, 0, 0, available, [], total, {}]], 0.0)
    assert mesh.nodes[one].refused == 1 and mesh.seen(two) == [4 * U]
    mesh.nodes[one].check()


def test_messages_are_bounded_and_survive_the_wire():
    mesh = GossipMesh(2)
    gossip = mesh.nodes[mesh.names[0]]
    rows = [GossipRow((i + 9).to_bytes(8, "big"), 1, 0, 0, {"CPU": U}, [[{"CPU": U}, 4]], FULL, {"z": "a"})
            for i in range(ROWS_MAX + 10)]
    gossip._send(mesh.names[1], rows)
    assert [len(message.rows) for _, message in gossip.out] == [ROWS_MAX, 10]
    ((_, message),) = decode(encode([ViewRows.CODE, gossip.out[0][1]]))
    fresh = GossipMesh(2).nodes[mesh.names[0]]
    fresh.on_rows(message.rows, 0.0)
    assert fresh.refused == 0 and len(fresh._early) == ROWS_MAX


def test_gathering_is_short():
    assert GOSSIP_GATHER_S <= 0.005
