"""Meshes that talk by TCP and CURVE, over loopback: who gets in, who does not, and what either costs."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import zmq

from fuzz import hostile_peers
from tests.fakes.mesh_net import PATIENCE_S, MeshNet, say
from zray.base.ids import new_incarnation
from zray.transport import curve, envelope, gate
from zray.transport.mesh import Limits, Mesh
from zray.wire.codec import encode
from zray.wire.messages import Bye

SERVER, CLIENT, STRANGER = curve.new_keys(), curve.new_keys(), curve.new_keys()


class TcpNet(MeshNet):
    """A net whose meshes have keys; a key is allowed as the principal that ``listed`` has for it."""

    def __init__(self, directory: Path):
        super().__init__(directory)
        self.listed = {CLIENT.public: "client", SERVER.public: "server"}
        self.decoded = 0

    def mesh(self, bind: bool = True, keys: curve.Keys = CLIENT, **options: Any) -> Mesh:
        mesh = super().mesh(bind, **options)
        mesh.keys = keys
        mesh.allowed = lambda key: self.listed.get(key, "")
        return mesh

    def server(self, **options: Any) -> Mesh:
        """A mesh with a TCP port that is lost if a byte from a stranger reaches its decoder."""
        mesh = self.mesh(keys=SERVER, **options)
        mesh.serve_tcp()
        return mesh

    def never(self, body: Any) -> NoReturn:
        self.decoded += 1
        raise AssertionError("a stranger's bytes were decoded")


@pytest.fixture
def net(tmp_path: Path) -> Iterator[TcpNet]:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    net = TcpNet(tmp_path)
    yield net
    for mesh in net.meshes:
        mesh.check()
        mesh.close()
    assert not net.errors and not net.decoded
    assert threading.active_count() == threads and len(os.listdir("/proc/self/fd")) <= descriptors


def port_of(mesh: Mesh) -> int:
    return int(mesh.serve_tcp().rpartition("/")[0].rpartition(":")[2])


def settles(net: TcpNet, mesh: Mesh, **counts: int) -> None:
    """Turn until the gate of ``mesh`` has counted this (the self-probe was turned away once)."""
    net.until(lambda: all(mesh.gate[name] >= count for name, count in counts.items()))


def lost(net: TcpNet, dialler: Mesh, peer: bytes) -> None:
    net.until(lambda: (dialler.incarnation, peer) in net.closed)
    assert not dialler.connected(peer) and not dialler.peers()


# ---------------------------------------------------------------- those who may


def test_messages_go_both_ways_over_one_connection_and_the_gate_says_who_it_is(net: TcpNet) -> None:
    a, b = net.mesh(bind=False), net.server()
    a.connect(b.incarnation, b.serve_tcp())
    say(a, b, "x", "y")
    net.until(lambda: net.reasons(b) == ["x", "y"])
    say(b, a, "z")
    net.until(lambda: net.reasons(a) == ["z"])
    assert b.principal(a.incarnation) == "client" and a.principal(b.incarnation) == ""
    assert b.connected(a.incarnation) and b.gate["let_in"] == 1 and b.gate["turned_away"] == 1  # the self-probe


def test_one_mesh_dials_ipc_and_tcp_with_different_keys_in_any_order(net: TcpNet) -> None:
    hub = net.mesh(bind=False)
    other_keys = curve.new_keys()
    peers = [net.mesh(), net.server(), net.mesh(), net.mesh(keys=other_keys), net.mesh()]
    peers[3].serve_tcp()
    for peer in peers:
        hub.connect(peer.incarnation, peer.serve_tcp() if peer in (peers[1], peers[3]) else peer.endpoint)
        say(hub, peer, "hello")
    net.until(lambda: all(net.reasons(peer) == ["hello"] for peer in peers))
    assert not net.closed


def test_a_process_that_is_busy_still_lets_peers_in(net: TcpNet) -> None:
    a, b = net.mesh(bind=False), net.server()
    a.connect(b.incarnation, b.serve_tcp())
    deadline = time.monotonic() + PATIENCE_S
    while not b.gate["let_in"]:  # b takes no turn
        assert time.monotonic() < deadline
        net.turn(a)
    assert not net.closed


def test_a_peer_whose_host_is_silent_is_cut_off(net: TcpNet) -> None:
    limits = Limits(heartbeat_s=0.05, heartbeat_timeout_s=0.2)
    said, heard = os.pipe()
    child = os.fork()
    if child == 0:
        mesh = net.mesh(keys=SERVER, limits=limits)
        os.write(heard, mesh.incarnation + mesh.serve_tcp().encode())
        signal.pause()
    try:
        answer = os.read(said, 200)
        peer, endpoint = answer[:8], answer[8:].decode()
        a = net.mesh(bind=False, limits=limits)
        a.connect(peer, endpoint)
        a.send(peer, Bye.CODE, Bye("x"))
        until = time.monotonic() + 0.5
        net.until(lambda: time.monotonic() > until)
        assert a.connected(peer), "a process that takes no turn is not silent"
        os.kill(child, signal.SIGSTOP)
        lost(net, a, peer)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(said)
        os.close(heard)


def test_local_peers_of_a_mesh_with_a_tcp_port_need_no_key(net: TcpNet) -> None:
    b = net.server()
    a = net.mesh(bind=False)
    a.keys = None
    a.connect(b.incarnation, b.endpoint)
    say(a, b, "x")
    net.until(lambda: net.reasons(b) == ["x"])
    assert b.principal(a.incarnation) == "" and b.gate["let_in"] == 0


def test_peers_that_dial_each_other_by_tcp_keep_the_order(net: TcpNet) -> None:
    a, b = net.mesh(), net.server()
    a.connect(b.incarnation, b.serve_tcp())
    b.connect(a.incarnation, a.serve_tcp())
    numbers = [str(i) for i in range(300)]
    for number in numbers:
        say(a, b, number)
        say(b, a, number)
        a.flush()
        b.flush()
    net.until(lambda: net.reasons(b) == numbers and net.reasons(a) == numbers)


def test_all_that_a_peer_sent_by_tcp_before_it_ended_is_handled_first(net: TcpNet) -> None:
    a, b = net.mesh(), net.server()
    a.connect(b.incarnation, b.serve_tcp())
    say(a, b, "hello")
    net.until(lambda: net.reasons(b) == ["hello"])
    for i in range(300):
        say(b, a, str(i))
        b.flush()
    b.close(1000)
    lost(net, a, b.incarnation)
    assert net.reasons(a) == [str(i) for i in range(300)]


def test_a_cluster_without_keys_must_say_that_it_is_insecure(net: TcpNet) -> None:
    a, b = net.mesh(bind=False), net.mesh()
    b.keys = None
    with pytest.raises(ValueError, match="open to everybody"):
        b.serve_tcp()
    b.insecure = True
    endpoint = b.serve_tcp()
    assert "/" not in endpoint.removeprefix("tcp://")
    a.connect(b.incarnation, endpoint)
    lost(net, a, b.incarnation)
    assert "not insecure" in str(net.errors.pop())
    a.insecure = True
    a.connect(b.incarnation, endpoint)
    say(a, b, "x")
    net.until(lambda: net.reasons(b) == ["x"])


# ---------------------------------------------------------------- those who may not


@pytest.mark.parametrize("who", ["unlisted", "wrong server key", "revoked"])
def test_a_dialler_without_the_right_keys_is_told_and_nothing_of_it_is_decoded(net: TcpNet, who: str) -> None:
    b = net.server(decode=net.never)
    a = net.mesh(bind=False, keys=STRANGER if who == "unlisted" else CLIENT)
    endpoint = b.serve_tcp()
    if who == "wrong server key":
        endpoint = endpoint.replace(SERVER.public.hex(), STRANGER.public.hex())
    elif who == "revoked":
        del net.listed[CLIENT.public]
    a.connect(b.incarnation, endpoint)
    say(a, b, "let me in")
    lost(net, a, b.incarnation)
    assert a.counters["failed_handshakes"] == 1
    assert not net.heard[b.incarnation] and not b.peers() and not b.gate["let_in"]


@pytest.mark.parametrize("wrong", ["server key", "own key", "nobody listens"])
def test_a_peer_that_is_dialled_anew_at_once_is_not_hurt_by_the_news_of_the_attempt_before(
        net: TcpNet, wrong: str) -> None:
    a = net.mesh(bind=False)
    for _ in range(10):
        b = net.server()
        endpoint = b.serve_tcp()
        if wrong == "nobody listens":
            port = port_of(b)
            b.close()
        a.keys = STRANGER if wrong == "own key" else CLIENT
        bad = endpoint.replace(SERVER.public.hex(), STRANGER.public.hex()) if wrong == "server key" else endpoint
        a.connect(b.incarnation, bad)
        say(a, b, "lost")
        lost(net, a, b.incarnation)
        net.closed.clear()
        a.keys = CLIENT
        if wrong == "nobody listens":
            b = net.mesh(keys=SERVER)
            b.serve_tcp(ports=(port, port))
        a.connect(b.incarnation, endpoint)
        say(a, b, "hello")
        net.until(lambda b=b: "hello" in net.reasons(b))  # type: ignore[misc]
        for _ in range(5):
            net.turn(a)
        assert not net.closed
        b.close()
        net.until(lambda: bool(net.closed))
        net.closed.clear()


def test_strangers_who_do_not_speak_curve_are_cut_off(net: TcpNet) -> None:
    b = net.server(decode=net.never, limits=Limits(handshake_s=0.2))
    context = zmq.Context()
    plain = context.socket(zmq.DEALER)
    plain.setsockopt(zmq.LINGER, 0)
    plain.connect(f"tcp://127.0.0.1:{port_of(b)}")
    plain.send(envelope.pack(0, 1, b"s" * 8, b.incarnation, 1 << 40 | 1, 0) + encode([Bye.CODE, Bye("x")]))
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\x00" + bytes(31)
    raw = [socket.create_connection(("127.0.0.1", port_of(b))) for _ in range(5)]
    for connection, said in zip(raw, [b"", os.urandom(1000), greeting[:20], greeting + b"\x02" + b"\xff" * 9,
                                      greeting + b"\x04\xc8\x05HELLO" + bytes(194)]):
        connection.sendall(said)
        connection.setblocking(False)

    def closed(connection: socket.socket) -> bool:
        try:
            while connection.recv(4096):
                pass
            return True
        except BlockingIOError:
            return False
        except OSError:
            return True

    net.until(lambda: all(map(closed, raw)))
    settles(net, b, accepted=7)
    assert not b.peers()
    for connection in raw:
        connection.close()
    context.destroy(0)


def test_a_listener_that_never_answers_is_given_up(net: TcpNet) -> None:
    a = net.mesh(bind=False, limits=Limits(handshake_s=0.1))
    silent = socket.create_server(("127.0.0.1", 0))
    peer = new_incarnation()
    a.connect(peer, curve.make_endpoint("127.0.0.1", silent.getsockname()[1], STRANGER.public))
    a.send(peer, Bye.CODE, Bye("x"))
    lost(net, a, peer)
    silent.close()
    again = new_incarnation()
    a.connect(again, curve.make_endpoint("127.0.0.1", 1, STRANGER.public))
    lost(net, a, again)


@pytest.mark.parametrize(("endpoint", "why"), [
    ("tcp://localhost:1/" + "0" * 64, "not a number"), ("tcp://127.0.0.1:1/00", "64 hexadecimal"),
    ("tcp://127.0.0.1/", "HOST:PORT"), ("tcp://127.0.0.1:99999", "not a port"), ("nonsense", "Invalid argument"),
])
def test_an_endpoint_that_cannot_be_dialled_is_reported_as_a_lost_peer(net: TcpNet, endpoint: str, why: str) -> None:
    a, peer = net.mesh(), new_incarnation()
    a.connect(peer, endpoint)
    lost(net, a, peer)
    assert why in str(net.errors.pop())


def test_a_principal_speaks_only_for_the_incarnations_it_is_admitted_for(net: TcpNet) -> None:
    b = net.server(decode=net.never)
    b.admits = lambda peer, principal: False
    a = net.mesh(bind=False)
    a.connect(b.incarnation, b.serve_tcp())
    say(a, b, "x")
    net.until(lambda: b.counters["not_admitted"] > 0)
    assert not b.peers() and not b.connected(a.incarnation)


def test_a_tcp_peer_cannot_take_over_the_routing_id_of_a_local_process_that_has_gone(net: TcpNet) -> None:
    b = net.server()
    a = net.mesh(bind=False)
    a.connect(b.incarnation, b.endpoint)
    say(a, b, "local")
    net.until(lambda: net.reasons(b) == ["local"])
    route = b._records[a.incarnation].inbound
    a.close()
    asked: list[tuple[bytes, str]] = []
    b.admits = lambda peer, principal: bool(asked.append((peer, principal)))
    context = zmq.Context()
    thief = context.socket(zmq.DEALER)
    parsed = curve.parse_endpoint(b.serve_tcp())
    for option, value in ((zmq.LINGER, 0), (zmq.ROUTING_ID, route), (zmq.CURVE_SERVERKEY, parsed.key),
                          (zmq.CURVE_PUBLICKEY, CLIENT.public), (zmq.CURVE_SECRETKEY, CLIENT.secret)):
        thief.setsockopt(option, value)
    thief.connect(parsed.address)
    body = encode([Bye.CODE, Bye("stolen")])
    thief.send(envelope.pack(0, 1, a.incarnation, b.incarnation, 1 << 40 | 2, 0) + body)
    net.until(lambda: b.counters["not_admitted"] > 0)
    assert asked == [(a.incarnation, "client")] and net.reasons(b) == ["local"]
    context.destroy(0)


def test_a_refused_node_is_cut_off_on_every_connection(net: TcpNet) -> None:
    node = new_incarnation()[:4] + bytes(4)
    b, friend = net.server(), net.mesh(bind=False)
    dials, dialled = net.mesh(bind=False, node=node), net.mesh(node=node)
    dialled.serve_tcp()
    for mesh in (friend, dials):
        mesh.connect(b.incarnation, b.serve_tcp())
        say(mesh, b, "hello")
    b.connect(dialled.incarnation, dialled.serve_tcp())
    b.hold(node)
    b.send(node, Bye.CODE, Bye("x"))
    say(b, dialled, "hello")
    net.until(lambda: len(net.reasons(b)) == 2 and net.reasons(dialled) == ["hello"])
    b.refuse(node[:4])
    for mesh in (dials, dialled, friend):
        say(mesh, b, "after")
    net.until(lambda: net.reasons(b)[2:] == ["after"] and b.counters["refused"] > 0)
    assert {peer for me, peer in net.closed if me == b.incarnation} == {dials.incarnation, dialled.incarnation, node}
    assert b.peers() == [friend.incarnation]
    b.connect(dialled.incarnation, dialled.serve_tcp())
    assert not b.connected(dialled.incarnation)
    net.until(lambda: not b.readable())


@pytest.mark.parametrize(("seed", "silent"), [(1, 0), (2, 20), (3, 1000)])
def test_an_honest_peer_talks_on_among_hostile_and_silent_ones(seed: int, silent: int) -> None:
    counts = hostile_peers.run(seed, 60, silent)
    assert counts["accepted"] > 50 + silent and counts["turned_away"] > 0 and counts["malformed"] > 0
    assert not counts.get("errors") and not counts.get("shut")


# ---------------------------------------------------------------- ports, threads, caps


def test_the_first_free_port_of_the_range_is_taken_and_one_in_use_is_named(net: TcpNet) -> None:
    a, b, c = net.mesh(), net.mesh(), net.mesh()
    taken = port_of(a)
    with pytest.raises(OSError, match=f"port {taken} is in use"):
        b.serve_tcp(ports=(taken, taken))
    assert taken < int(re.findall(r":(\d+)/", b.serve_tcp(ports=(taken, min(taken + 50, 65535))))[0])
    with pytest.raises(OSError, match="cannot listen at 192.0.2.1"):
        c.serve_tcp(host="192.0.2.1")
    for ports in ((5, 4), (0, 7), (1, 70000), (-1, 4)):
        with pytest.raises(ValueError, match="range of ports"):
            c.serve_tcp(ports=ports)
    with pytest.raises(ValueError, match="others dial"):
        c.serve_tcp(host="0.0.0.0")
    assert "://198.51.100.7:" in c.serve_tcp(host="0.0.0.0", advertise="198.51.100.7")


def test_a_libzmq_that_does_not_ask_the_gate_is_noticed_before_anybody_can_dial(tmp_path: Path) -> None:
    net = TcpNet(tmp_path)
    mesh = net.mesh(keys=SERVER)
    mesh.allowed = lambda key: "everybody"
    with pytest.raises(RuntimeError, match="lets strangers in"):
        mesh.serve_tcp()
    mesh.close()


def test_an_allow_list_that_cannot_be_read_lets_nobody_in_and_the_gate_goes_on(net: TcpNet) -> None:
    b = net.server()
    allowed = b.allowed
    b.allowed = lambda key: 1 // 0  # type: ignore[assignment,return-value]
    a, later = net.mesh(bind=False), net.mesh(bind=False)
    a.connect(b.incarnation, b.serve_tcp())
    lost(net, a, b.incarnation)
    assert b.gate["errors"] == 1
    b.allowed = allowed
    later.connect(b.incarnation, b.serve_tcp())
    say(later, b, "x")
    net.until(lambda: net.reasons(b) == ["x"])


def test_connections_beyond_the_cap_are_shut_and_those_below_it_go_on(net: TcpNet) -> None:
    b = net.server(limits=Limits(connections_max=4))
    a = net.mesh(bind=False)
    a.connect(b.incarnation, b.serve_tcp())
    say(a, b, "before")
    net.until(lambda: net.reasons(b) == ["before"])
    crowd = [socket.create_connection(("127.0.0.1", port_of(b))) for _ in range(20)]
    settles(net, b, shut=10)
    say(a, b, "after")
    net.until(lambda: net.reasons(b) == ["before", "after"])
    for connection in crowd:
        connection.close()


def test_only_connections_at_the_port_are_ever_shut(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    dialler = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    with (tmp_path / "file").open("wb") as file:
        for fd in (here.fileno(), file.fileno(), 10_000_000):
            gate.shut(fd, listener.getsockname()[1])
    gate.shut(accepted.fileno(), 1)
    here.send(b"x")
    accepted.send(b"x")
    assert there.recv(1) == dialler.recv(1) == b"x"
    gate.shut(accepted.fileno(), listener.getsockname()[1])
    assert dialler.recv(1) == b""
    for each in (here, there, listener, dialler, accepted):
        each.close()


def test_a_child_that_was_forked_leaves_the_port_to_its_parent(net: TcpNet) -> None:
    b, a = net.server(), net.mesh(bind=False)
    a.connect(b.incarnation, b.serve_tcp())
    say(a, b, "before")
    net.until(lambda: net.reasons(b) == ["before"])
    child = os.fork()
    if child == 0:
        sys.exit = os._exit  # type: ignore[assignment]
        os._exit(threading.active_count() - 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    say(a, b, "after")
    net.until(lambda: net.reasons(b) == ["before", "after"])


# ---------------------------------------------------------------- peers on hold


def test_messages_for_a_peer_on_hold_wait_for_its_endpoint_in_order(net: TcpNet) -> None:
    a, b = net.mesh(), net.server()
    a.hold(b.incarnation)
    assert a.connected(b.incarnation) and not a.dialled(b.incarnation)
    say(a, b, "1")
    net.turn(a)
    say(a, b, "2")
    a.hold(b.incarnation)
    net.turn(a)
    assert a.pending() == 2 and not net.closed
    say(a, b, "3")
    a.connect(b.incarnation, b.serve_tcp())
    say(a, b, "4")
    net.until(lambda: net.reasons(b) == ["1", "2", "3", "4"])


def test_a_peer_that_is_given_up_is_closed_with_its_messages(net: TcpNet) -> None:
    a, peer = net.mesh(), new_incarnation()
    a.hold(peer)
    a.send(peer, Bye.CODE, Bye("x"))
    net.turn(a)
    a.give_up(peer)
    a.give_up(peer)
    lost(net, a, peer)
    assert a.counters["dropped_messages"] == 1 and net.closed.count((a.incarnation, peer)) == 1


def test_a_peer_with_too_many_messages_on_hold_is_given_up(net: TcpNet) -> None:
    a, peer = net.mesh(limits=Limits(held_messages_max=10)), new_incarnation()
    a.hold(peer)
    for _ in range(11):
        assert a.connected(peer)
        a.send(peer, Bye.CODE, Bye("x"))
        a.flush()
    lost(net, a, peer)
    assert a.counters["held_too_many"] == 1 and a.counters["dropped_messages"] == 11


def test_a_peer_on_hold_that_dials_us_gets_what_was_held(net: TcpNet) -> None:
    a, b = net.mesh(), net.mesh(bind=False)
    a.serve_tcp()
    for endpoint in (a.endpoint, a.serve_tcp()):
        a.hold(b.incarnation)
        say(a, b, "held")
        net.turn(a)
        b.connect(a.incarnation, endpoint)
        say(b, a, "hello")
        count = len(net.reasons(b))
        net.until(lambda count=count: len(net.reasons(b)) > count)  # type: ignore[misc]
        b.disconnect(a.incarnation)
        a.forget(b.incarnation)
        b.forget(a.incarnation)
    assert not net.closed


def test_a_message_too_large_for_tcp_is_reported_and_does_not_cost_the_connection(net: TcpNet) -> None:
    limits = Limits(tcp_message_bytes_max=5_000_000)
    a, b = net.mesh(bind=False, limits=limits), net.server(limits=limits)
    a.connect(b.incarnation, b.serve_tcp())
    say(a, b, "1", "x" * 6_000_000, "2")
    net.until(lambda: net.reasons(b) == ["1", "2"])
    assert a.counters["too_large"] == 1 and "larger than" in str(net.errors.pop())


# ---------------------------------------------------------------- keys and endpoints


def test_keys_come_back_from_their_file_and_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "private" / "node.key"
    os.umask(umask := os.umask(0))
    curve.save(SERVER, str(path))
    assert curve.load(str(path)) == SERVER == curve.from_secret(SERVER.secret)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert umask == os.umask(umask)
    with pytest.raises(FileExistsError):
        curve.save(CLIENT, str(path))
    assert SERVER.secret.hex() not in repr(SERVER) and str(SERVER.secret) not in repr(SERVER)


@pytest.mark.parametrize("harm", ["file mode", "directory mode", "link", "missing", "garbage", "mixed", "directory"])
def test_key_files_that_others_could_read_or_that_are_damaged_are_refused(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "private" / "node.key"
    curve.save(SERVER, str(path))
    if harm == "file mode":
        path.chmod(0o640)
    elif harm == "directory mode":
        path.parent.chmod(0o750)
    elif harm == "link":
        path.rename(path.parent / "other")
        path.symlink_to("other")
    elif harm == "garbage":
        path.write_bytes(os.urandom(300))
    elif harm == "mixed":
        path.write_text(f"{CLIENT.public.hex()}\n{SERVER.secret.hex()}\n")
    else:
        path.unlink()
        if harm == "directory":
            path.mkdir(mode=0o700)
    with pytest.raises(curve.BadKeyFile, match=re.escape(str(tmp_path))):
        curve.load(str(path))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "node-3.example.org"])
@pytest.mark.parametrize("key", [b"", SERVER.public], ids=["without a key", "with a key"])
def test_endpoints_are_read_as_they_were_written(host: str, key: bytes) -> None:
    text = curve.make_endpoint(host, 6379, key)
    address, found = curve.parse_endpoint(text)
    assert found == key and curve.split_host_port(address.removeprefix("tcp://")) == (host, 6379)


def test_names_are_resolved_to_numbers_and_unknown_ones_are_an_error() -> None:
    endpoint = curve.resolve(curve.make_endpoint("localhost", 80, SERVER.public))
    assert curve.is_numeric(curve.parse_endpoint(endpoint).address) and endpoint.endswith(SERVER.public.hex())
    with pytest.raises(ConnectionError, match="no-such-host.invalid"):
        curve.resolve("tcp://no-such-host.invalid:80")
