"""Meshes that also talk through shared memory: order, ends, scribbles, and what is left behind."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.mesh_net import MeshNet, say
from zray.channels.ring import PUBLISHED, RING_FRAME_BYTES_MAX
from zray.transport import shared
from zray.transport.mesh import Limits, Mesh
from zray.transport.polling import RINGS_ONLY_MAX

SHARING = Limits(channels_max=2, spin_s=1e-4)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MeshNet]:
    monkeypatch.setattr(shared, "HEAT_FRAMES", 2)
    monkeypatch.setattr(shared, "HEAT_S", 10.0)
    monkeypatch.setattr(shared, "REST_S", 0.0)
    net = MeshNet(tmp_path)
    yield net
    for mesh in net.meshes:
        mesh.check()
        mesh.close()
    assert not os.listdir(tmp_path), "a socket is left"


def warm(net: MeshNet, caller: Mesh, callee: Mesh) -> None:
    """Calls and answers until both ends have a way through shared memory."""
    caller.connect(callee.incarnation, callee.endpoint)
    for _ in range(50):
        if caller.incarnation in callee._shared.ways and callee.incarnation in caller._shared.ways:
            break
        net.heard[caller.incarnation].clear()
        net.heard[callee.incarnation].clear()
        say(caller, callee, "call")
        net.until(lambda: net.reasons(callee) == ["call"])
        say(callee, caller, "answer")
        net.until(lambda: net.reasons(caller) == ["answer"])
    else:
        pytest.fail("no way has come")
    net.heard[caller.incarnation].clear()
    net.heard[callee.incarnation].clear()


@pytest.fixture
def pair(net: MeshNet) -> tuple[Mesh, Mesh]:
    caller, callee = net.mesh(limits=SHARING), net.mesh(limits=SHARING)
    warm(net, caller, callee)
    return caller, callee


def test_frames_that_fit_go_by_the_ring_and_the_order_holds_over_both_ways(net, pair):
    a, b = pair
    writer = a._shared.ways[b.incarnation].writer
    before = writer.count
    texts = [str(number) * (1 if number % 5 else RING_FRAME_BYTES_MAX) for number in range(300)]
    for text in texts:
        say(a, b, text)
        a.flush()
    net.until(lambda: len(net.reasons(b)) == len(texts))
    assert net.reasons(b) == texts
    assert 0 < writer.count - before < len(texts), "long frames, and those for which it was full, go by ZeroMQ"


def test_a_blocked_process_is_woken(net, pair):
    a, b = pair
    assert not b._ring_wait.must_not_block(b._rings, may_spin=False)
    say(a, b, "x")
    a.flush()
    assert b._ring_has_frame() and b.dirty and b.readable()
    assert select.select([b._shared.ways[a.incarnation].duplex], [], [], 5.0)[0]
    b.poll(0)
    assert b._ring_fds
    net.until(lambda: net.reasons(b) == ["x"])
    assert not b._ring_fds


def test_what_a_dead_peer_has_written_is_read_before_it_is_reported_closed(net, pair):
    a, b = pair
    texts = [str(number) for number in range(20)]
    for text in texts:
        say(b, a, text)
        b.flush()
    b.close(1000)
    net.until(lambda: bool(net.closed))
    assert net.reasons(a) == texts and net.closed == [(a.incarnation, b.incarnation)]
    assert not a._shared.ways and not a._rings


def test_a_broken_ring_costs_the_way_and_no_frame(net, pair):
    a, b = pair
    say(a, b, *"xyz")
    a.flush()
    b._shared.ways[a.incarnation].reader.words[PUBLISHED] = 10_000
    net.until(lambda: net.reasons(b) == ["x", "y", "z"])
    say(b, a, "answer")
    net.until(lambda: net.reasons(a) == ["answer"])
    assert b.counters["broken_rings"] == 1 and not b._shared.ways
    net.until(lambda: not a._shared.ways)
    assert [type(error) for error in net.errors] == [ConnectionError]


def test_hanging_up_ends_the_way(net, pair):
    a, b = pair
    say(a, b, "last")
    a.flush()
    a.disconnect(b.incarnation)
    assert not a._shared.ways
    net.until(lambda: net.reasons(b) == ["last"] and not b._shared.ways)


def test_ways_at_rest_make_room_and_their_number_is_bounded(net):
    a = net.mesh(limits=SHARING)
    others = [net.mesh(limits=SHARING) for _ in range(4)]
    for other in others:
        warm(net, a, other)
        assert len(a._shared) <= 2
    for other in others:
        say(a, other, "x")
    net.until(lambda: all(net.reasons(other) == ["x"] for other in others))


def test_ways_of_peers_that_talk_in_turn_stay(net, monkeypatch):
    a = net.mesh(limits=SHARING)
    others = [net.mesh(limits=SHARING) for _ in range(4)]
    for other in others[:2]:
        warm(net, a, other)
    ways = a._shared.list
    monkeypatch.setattr(shared, "REST_S", 1000.0)
    a._shared._looked_at = a.clock()
    for other in others[2:]:
        a.connect(other.incarnation, other.endpoint)
    for other in others:
        say(a, other, "hello")
    net.until(lambda: all(map(net.reasons, others)))
    for number in range(10):
        for other in others:
            say(other, a, str(number))
        net.until(lambda number=number: len(net.reasons(a)) == 4 * number + 4)
    assert a._shared.list == ways


def test_a_process_without_such_ways_ignores_the_offer(net):
    a, b = net.mesh(limits=SHARING), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    for number in range(10):
        say(a, b, str(number))
        net.until(lambda number=number: len(net.reasons(b)) == number + 1)
        say(b, a, str(number))
        net.until(lambda number=number: len(net.reasons(a)) == number + 1)
    assert len(a._shared) == 1 and not a._shared.ways, "one offer, not one for each frame"


def test_no_offer_to_a_daemon(net):
    a, node = net.mesh(limits=SHARING), net.mesh(rest=bytes(4), limits=SHARING)
    a.connect(node.incarnation, node.endpoint)
    for number in range(10):
        say(node, a, str(number)) if number else say(a, node, "hello")
        net.until(lambda number=number: len(net.reasons(a)) + len(net.reasons(node)) == number + 1)
    assert not len(a._shared)


@pytest.mark.parametrize("path", ["/etc/passwd", "../c-x.sock", "", "c-\udc80"])
def test_an_offer_at_another_place_is_ignored(net, pair, path):
    a, b = pair
    b._shared.drop(a.incarnation)
    b._shared.offered(a.incarnation, path.encode(errors="surrogateescape"), b.clock())
    assert not len(b._shared)


def test_a_busy_ring_does_not_keep_a_process_from_its_sockets(net, pair):
    a, b = pair
    c = net.mesh()
    c.connect(a.incarnation, a.endpoint)
    say(c, a, "hello")
    net.until(lambda: net.reasons(a) == ["hello"])
    say(c, a, "by a socket")
    c.flush()
    assert select.select([a._inbound_fd], [], [], 5.0)[0]
    for _ in range(RINGS_ONLY_MAX):
        say(b, a, "by the ring")
        b.flush()
        a.poll(5.0)
        a.drain(lambda peer, code, message: net.heard[a.incarnation].append((peer, message)))
    assert net.reasons(a).count("by the ring") == RINGS_ONLY_MAX and "by a socket" in net.reasons(a)


def test_a_thread_that_polls_is_woken_when_a_way_comes_or_goes(net, pair):
    a, b = pair
    a.clear_wake()
    a._shared.drop(b.incarnation)
    assert a.woken
    net.until(lambda: not b._shared.ways)
    a.clear_wake()
    a._poll_rings(())
    assert a.woken


def test_two_processes_that_offer_at_once_keep_one_way(net):
    a, b = net.mesh(limits=SHARING), net.mesh(limits=SHARING)
    a.connect(b.incarnation, b.endpoint)
    b.connect(a.incarnation, a.endpoint)
    say(a, b, "call")
    say(b, a, "call")
    net.until(lambda: net.reasons(a) == net.reasons(b) == ["call"])
    paths = {}
    for one, other in ((a, b), (b, a)):
        record = one._records[other.incarnation]
        paths[one] = b""
        while not paths[one]:
            paths[one] = one._shared.offer(other.incarnation, record, one.clock())
    a._shared.offered(b.incarnation, paths[b], a.clock())
    b._shared.offered(a.incarnation, paths[a], b.clock())
    net.until(lambda: bool(a._shared.ways and b._shared.ways))
    lower, higher = sorted((a, b), key=paths.__getitem__)
    assert len(higher._shared) == 1 and len(lower._shared) == 1
    ways = a._shared.list + b._shared.list
    for number in range(10):
        say(a, b, str(number))
        say(b, a, str(number))
        net.until(lambda number=number: len(net.reasons(a)) == len(net.reasons(b)) == number + 2)
    assert ways == a._shared.list + b._shared.list


def test_an_offer_ends_with_its_peer(net, pair):
    a, b = pair
    a._shared.drop(b.incarnation)
    net.until(lambda: not b._shared.ways)
    record = a._records[b.incarnation]
    path = b""
    while not path:
        path = a._shared.offer(b.incarnation, record, a.clock())
    b._shared.offered(a.incarnation, path, b.clock())
    assert len(a._shared) == len(b._shared) == 1 and os.path.exists(path)
    a.forget(b.incarnation)
    b.forget(a.incarnation)
    assert not len(a._shared) and not len(b._shared) and not os.path.exists(path)


def test_an_offer_that_is_not_taken_makes_room_for_that_of_another_peer(net, pair):
    a, b = pair
    a._shared.drop(b.incarnation)
    record = a._records[b.incarnation]
    path = b""
    while not path:
        path = a._shared.offer(b.incarnation, record, a.clock())
    a._shared.offered(bytes(8), path + b"x", a.clock())
    assert os.path.exists(path)
    a._shared.offered(bytes(8), path + b"x", a.clock() + shared.WITHDRAW_S)
    assert not os.path.exists(path) and not len(a._shared)


def test_no_offer_to_a_peer_on_another_machine(net, pair):
    a, b = pair
    a._shared.drop(b.incarnation)
    record = a._records[b.incarnation]
    record.dialled.endpoint = "tcp://10.0.0.1:1"
    for _ in range(10):
        a._offer_shared(b.incarnation, record, a.clock())
    assert not len(a._shared)


def test_where_the_system_grants_no_memory_frames_go_by_sockets_and_offers_pause(net, monkeypatch):
    def refuse(name: str, flags: int) -> int:
        raise OSError(errno.EMFILE, "no descriptor is left")

    monkeypatch.setattr(os, "memfd_create", refuse)
    asked = []
    offer = shared.DuplexOffer
    monkeypatch.setattr(shared, "DuplexOffer", lambda path: asked.append(path) or offer(path))
    a, b = net.mesh(limits=SHARING), net.mesh(limits=SHARING)
    a.connect(b.incarnation, b.endpoint)
    for number in range(20):
        say(a, b, str(number))
        net.until(lambda number=number: len(net.reasons(b)) == number + 1)
        say(b, a, str(number))
        net.until(lambda number=number: len(net.reasons(a)) == number + 1)
    net.until(lambda: not len(a._shared) and not len(b._shared))
    assert len(asked) == 1 and not net.errors
