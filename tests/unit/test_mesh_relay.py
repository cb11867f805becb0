"""Core processes on two nodes that reach each other through their nodes only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import zmq

from tests.fakes.mesh_net import MeshNet, say
from zray.base.ids import new_incarnation, node_of
from zray.transport import curve, envelope
from zray.transport.mesh import Limits, Mesh
from zray.wire.codec import encode
from zray.wire.messages import Bye

KEYS = curve.new_keys()


class TwoNodes(MeshNet):
    """a1, a2 - A - B - b1: A and B are linked by TCP, the others have dialled their node by ipc."""

    def __init__(self, directory: Path, limits: Limits | None = None):
        super().__init__(directory)
        self.A, self.B = (self.node(new_incarnation()[:4] + bytes(4), limits) for _ in "AB")
        self.A.connect(self.B.incarnation, self.B.serve_tcp())
        self.B.connect(self.A.incarnation, self.A.serve_tcp())
        self.a1, self.a2, self.b1 = (self.core(node, limits) for node in (self.A, self.A, self.B))
        self.until(lambda: len(self.reasons(self.A)) == 2 and len(self.reasons(self.B)) == 1)
        for mesh in self.meshes:
            self.heard[mesh.incarnation].clear()

    def node(self, incarnation: bytes, limits: Limits | None) -> Mesh:
        mesh = self.mesh(node=incarnation, rest=bytes(4), limits=limits)
        mesh.keys, mesh.allowed = KEYS, lambda key: "node" * (key == KEYS.public)
        mesh.relaying.relay = lambda to: to if to[:4] == incarnation[:4] else node_of(to)
        return mesh

    def core(self, node: Mesh, limits: Limits | None) -> Mesh:
        mesh = self.mesh(node=node.incarnation, limits=limits)
        mesh.relaying.hops.add(node.incarnation)
        mesh.connect(node.incarnation, node.endpoint)
        say(mesh, node, "hello")
        return mesh


@pytest.fixture
def net(tmp_path: Path) -> Iterator[TwoNodes]:
    net = TwoNodes(tmp_path)
    yield net
    for mesh in net.meshes:
        mesh.check()
        mesh.close()
    assert not net.errors


def test_messages_go_through_both_nodes_undecoded_and_the_answer_comes_the_same_way(net: TwoNodes) -> None:
    numbers = [str(i) for i in range(500)]
    for mesh in (net.A, net.B):
        mesh._decode = None  # type: ignore[assignment]  # a relay that decoded would report an error
    net.a1.hold(net.b1.incarnation)
    say(net.a1, net.b1, "held")
    net.turn(net.a1)
    net.a1.via(net.b1.incarnation, net.A.incarnation)
    assert net.a1.connected(net.b1.incarnation) and not net.a1.dialled(net.b1.incarnation)
    for number in numbers:
        say(net.a1, net.b1, number)
        net.a1.flush()
    net.until(lambda: net.reasons(net.b1) == ["held", *numbers])
    assert net.b1.connected(net.a1.incarnation)
    say(net.b1, net.a1, "answer")
    net.until(lambda: net.reasons(net.a1) == ["answer"])
    assert net.heard[net.b1.incarnation][0][0] == net.a1.incarnation
    assert net.A.counters["relayed"] >= 501 and not net.A.peers() == []


def test_what_a_full_next_hop_drops_is_sent_again_by_the_session(tmp_path: Path) -> None:
    net = TwoNodes(tmp_path, Limits(resend_s=0.01, ack_delay_s=0.005, session_frames_max=16))
    put, random = net.B._send_in, Random(1)

    def sometimes_full(part: bytes, flags: int) -> None:
        if flags & zmq.SNDMORE and random.random() < 0.2:
            raise zmq.Again
        put(part, flags)

    net.B._send_in = sometimes_full
    net.a1.via(net.b1.incarnation, net.A.incarnation)
    numbers = [str(i) for i in range(100)]
    for number in numbers:
        say(net.a1, net.b1, number)
        net.a1.flush()
    net.until(lambda: net.reasons(net.b1) == numbers)
    assert net.B.counters["not_relayed"] > 3
    for mesh in net.meshes:
        mesh.close()


def test_a_peer_behind_a_next_hop_ends_with_it(net: TwoNodes) -> None:
    net.a1.via(net.b1.incarnation, net.A.incarnation)
    say(net.a1, net.b1, "x")
    net.until(lambda: net.reasons(net.b1) == ["x"])
    net.A.close()
    lost = {(net.a1.incarnation, net.A.incarnation), (net.a1.incarnation, net.b1.incarnation)}
    net.until(lambda: lost <= set(net.closed))
    assert not net.a1.peers() and not net.a1._peers.hops
    net.a1.via(net.b1.incarnation, net.A.incarnation)
    net.until(lambda: net.closed.count((net.a1.incarnation, net.b1.incarnation)) == 2)


def test_what_was_lost_while_two_nodes_had_no_connection_goes_first_when_there_is_a_way_again(tmp_path: Path) -> None:
    net = TwoNodes(tmp_path, Limits(resend_s=1000.0))
    peer, endpoint = net.b1.incarnation, net.A._records[net.B.incarnation].dialled.endpoint
    net.a1.lasting.add(peer)
    net.a1.via(peer, net.A.incarnation)
    say(net.a1, net.b1, "1")
    net.until(lambda: net.reasons(net.b1) == ["1"])
    for one, other in ((net.A, net.B), (net.B, net.A)):
        one.lasting.add(other.incarnation)
        one._lost(other.incarnation)
        one._hang_up(other.incarnation)
    say(net.a1, net.b1, "2")
    net.until(lambda: (net.a1.incarnation, peer) in net.closed)
    assert peer in net.a1.peers() and not net.a1.connected(peer)
    net.A.connect(net.B.incarnation, endpoint)
    net.a1.via(peer, net.A.incarnation)
    say(net.a1, net.b1, "3")
    net.until(lambda: net.reasons(net.b1) == ["1", "2", "3"])
    for mesh in net.meshes:
        mesh.check()
        mesh.close()


@pytest.mark.parametrize("why", ["it has ended", "there never was one"])
def test_a_process_that_no_relay_can_reach_is_reported_closed_to_who_sends_to_it(net: TwoNodes, why: str) -> None:
    peer = net.b1.incarnation if why == "it has ended" else net.B.incarnation[:4] + b"none"
    if why == "it has ended":
        net.a1.via(peer, net.A.incarnation)
        say(net.a1, net.b1, "x")
        net.until(lambda: net.reasons(net.b1) == ["x"])
        net.b1.close()
        net.B.forget(peer)
    net.a1.via(peer, net.A.incarnation)
    net.a1.send(peer, Bye.CODE, Bye("y"))
    net.until(lambda: (net.a1.incarnation, peer) in net.closed)
    assert not net.a1.connected(peer) and net.a1.connected(net.A.incarnation)


def test_a_connection_of_its_own_takes_the_place_of_the_relay(net: TwoNodes) -> None:
    net.a1.via(net.b1.incarnation, net.A.incarnation)
    say(net.a1, net.b1, "1")
    net.until(lambda: net.reasons(net.b1) == ["1"])
    net.a1.connect(net.b1.incarnation, net.b1.endpoint)
    relayed = net.A.counters["relayed"]
    say(net.a1, net.b1, "2")
    net.until(lambda: net.reasons(net.b1) == ["1", "2"])
    say(net.b1, net.a1, "3")
    net.until(lambda: net.reasons(net.a1) == ["3"])
    assert net.A.counters["relayed"] <= relayed + 1  # an acknowledgement may have been under way


def forge(mesh: Mesh, hop: Mesh, source: bytes, destination: bytes) -> None:
    """Send ``hop`` a frame that says it is from ``source``, over mesh's own connection."""
    frame = envelope.pack(0, 1, source, destination, 1 << 40 | 1, 0) + encode([Bye.CODE, Bye("forged")])
    put, route = mesh._way(hop.incarnation)
    put(route, 3)
    put(frame, 1)


def test_only_relays_are_believed_about_the_source_of_a_frame(net: TwoNodes) -> None:
    stranger = net.mesh(node=net.A.incarnation)
    stranger.connect(net.a1.incarnation, net.a1.endpoint)
    stranger.connect(net.A.incarnation, net.A.endpoint)
    forge(stranger, net.a1, net.b1.incarnation, net.a1.incarnation)  # a core process is no relay of another
    net.until(lambda: net.a1.counters["misdirected"] == 1)
    forge(stranger, net.A, net.a2.incarnation, net.b1.incarnation)  # nor speaks for another to its node
    net.until(lambda: net.A.counters["misdirected"] == 1)
    forge(net.B, net.A, net.a2.incarnation, net.a1.incarnation)  # nor a node for the processes of another
    net.until(lambda: net.A.counters["misdirected"] == 2)
    forge(net.B, net.A, net.b1.incarnation, new_incarnation())  # nor passes a node on what is neither from nor to it
    net.until(lambda: net.A.counters["misdirected"] == 3)
    assert not any(net.heard.values())


def test_a_mesh_that_is_no_relay_passes_nothing_on(net: TwoNodes) -> None:
    net.B.relaying.relay = None
    net.a1.via(net.b1.incarnation, net.A.incarnation)
    say(net.a1, net.b1, "x")
    net.until(lambda: net.B.counters["misdirected"] > 0)
    assert not net.reasons(net.b1) and not net.reasons(net.B)


def test_nothing_is_passed_on_from_a_refused_node(net: TwoNodes) -> None:
    net.B.refuse(net.A.incarnation[:4])
    net.a1.via(net.b1.incarnation, net.A.incarnation)
    say(net.a1, net.b1, "x")
    net.until(lambda: net.A.counters["relayed"] > 0)
    for _ in range(20):
        net.turn(net.B)
        net.turn(net.b1)
    assert not net.reasons(net.b1)
