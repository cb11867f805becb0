"""Two and more meshes in one process, over real ipc sockets."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz import fuzz_codec
from tests.fakes.mesh_net import PATIENCE_S, MeshNet, say
from zray.base.ids import new_incarnation
from zray.transport.faults import FrameFaults
from zray.transport.mesh import Limits, Mesh
from zray.wire.codec import decode, encode
from zray.wire.messages import Bye, HoldDrop


@pytest.fixture
def net(tmp_path: Path) -> Iterator[MeshNet]:
    net = MeshNet(tmp_path)
    yield net
    for mesh in net.meshes:
        mesh.check()
        mesh.close()
    assert not net.errors


def test_answers_go_back_over_the_connection_they_came_by(net: MeshNet) -> None:
    a, b = net.mesh(bind=False), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    a.connect(b.incarnation, b.endpoint)
    assert a.connected(b.incarnation) and not b.connected(a.incarnation)
    say(a, b, "x", "y")
    net.until(lambda: net.reasons(b) == ["x", "y"])
    assert b.connected(a.incarnation)
    say(b, a, "z")
    net.until(lambda: net.reasons(a) == ["z"])


def test_peers_that_dial_each_other_keep_the_order(net: MeshNet) -> None:
    a, b = net.mesh(), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    b.connect(a.incarnation, a.endpoint)
    numbers = [str(i) for i in range(500)]
    for number in numbers:
        say(a, b, number)
        say(b, a, number)
        a.flush()
        b.flush()
    net.until(lambda: net.reasons(a) == numbers and net.reasons(b) == numbers)


def test_a_burst_is_one_frame_and_a_large_one_is_split(net: MeshNet) -> None:
    a, b = net.mesh(limits=Limits(frame_bytes_max=10_000)), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    say(a, b, *"x" * 100)
    a.flush()
    assert a.session(b.incarnation).unacked() == 1
    long = ["x" * 900 + str(i) for i in range(100)]
    say(a, b, *long)
    a.flush()
    assert 10 <= a.session(b.incarnation).unacked() - 1 <= 20
    net.until(lambda: net.reasons(b) == ["x"] * 100 + long)


def test_what_has_no_credit_waits_in_order_and_nothing_is_lost(net: MeshNet) -> None:
    a, b = net.mesh(limits=Limits(session_frames_max=4)), net.mesh(limits=Limits(session_frames_max=4))
    a.connect(b.incarnation, b.endpoint)
    numbers = [str(i) for i in range(100)]
    for number in numbers:
        say(a, b, number)
        a.flush()
    assert a.session(b.incarnation).unacked() == 4 and a.pending() == 96
    net.until(lambda: net.reasons(b) == numbers)
    assert a.pending() == 0


def test_everything_a_dead_peer_sent_is_handled_before_it_is_reported_closed_once(net: MeshNet) -> None:
    a, b = net.mesh(), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    say(a, b, "hello")
    net.until(lambda: len(net.heard[b.incarnation]) == 1)
    for i in range(1000):
        say(b, a, str(i))
        b.flush()
    b.close(1000)
    net.until(lambda: bool(net.closed))
    assert net.closed == [(a.incarnation, b.incarnation)]
    assert net.reasons(a) == [str(i) for i in range(1000)]
    assert not a.connected(b.incarnation) and not a.peers()


def test_a_peer_that_dialled_us_too_is_drained_on_both_connections(net: MeshNet) -> None:
    a, b = net.mesh(), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    b.connect(a.incarnation, a.endpoint)
    say(a, b, "hello")
    say(b, a, "hello")
    net.until(lambda: bool(net.heard[b.incarnation]) and bool(net.heard[a.incarnation]))
    say(b, a, *map(str, range(1000)))
    b.close(1000)
    net.until(lambda: bool(net.closed))
    assert net.closed == [(a.incarnation, b.incarnation)] and len(net.reasons(a)) == 1001


def test_nobody_listens_or_no_connection_is_reported_closed_and_not_from_send(net: MeshNet) -> None:
    a = net.mesh()
    gone, stranger = new_incarnation(), new_incarnation()
    a.connect(gone, f"ipc://{net.directory}/nobody")
    a.send(gone, Bye.CODE, Bye("x"))
    a.send(stranger, Bye.CODE, Bye("x"))
    a.flush()
    assert not net.closed
    net.until(lambda: len(net.closed) == 2)
    assert {peer for _, peer in net.closed} == {gone, stranger}
    assert a.counters["dropped_frames"] == 2 and not a.peers()


def test_a_redialled_peer_goes_on_where_it_was(net: MeshNet) -> None:
    a, b = net.mesh(), net.mesh()
    for i in range(20):
        a.connect(b.incarnation, b.endpoint)
        say(a, b, str(i))
        net.until(lambda i=i: len(net.heard[b.incarnation]) == i + 1)  # type: ignore[misc]
        a.disconnect(b.incarnation)
    assert net.reasons(b) == [str(i) for i in range(20)] and not net.closed


def test_a_peer_that_forgot_us_makes_us_start_over(net: MeshNet) -> None:
    a, b = net.mesh(), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    say(a, b, "1")
    net.until(lambda: net.reasons(b) == ["1"])
    b.forget(a.incarnation)
    assert not b.peers()
    say(a, b, "2")
    net.until(lambda: net.reasons(b)[-1] == "2")
    assert b.counters["departed"] >= 1 and a.counters["restarts"] == 1
    say(b, a, "3")
    net.until(lambda: net.reasons(a) == ["3"])


def test_a_session_that_lost_what_it_could_not_hold_does_not_outlast_its_connection(net: MeshNet) -> None:
    """Else its peer would wait in vain for what is missing, once it can be reached again."""
    a, b = net.mesh(limits=Limits(held_messages_max=10)), net.mesh()
    a.lasting.add(b.incarnation)
    a.connect(b.incarnation, b.endpoint)
    say(a, b, "1")
    net.until(lambda: net.reasons(b) == ["1"])
    a._lost(b.incarnation)
    a.hold(b.incarnation)
    say(a, b, *map(str, range(11)))
    net.until(lambda: bool(net.closed))
    assert net.closed == [(a.incarnation, b.incarnation)] and not a.peers()
    assert a.counters["dropped_messages"] == 11


def test_a_session_that_only_the_dialler_has_dropped_starts_over_both_ways(net: MeshNet) -> None:
    """Its connection broke, and it dials anew and speaks first; the other side has noticed nothing."""
    a, b = net.mesh(bind=False), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    for number in ("1", "2", "3"):
        say(a, b, number)
        net.until(lambda: net.reasons(b)[-1:] == [number])  # noqa: B023
        say(b, a, number)
        net.until(lambda: net.reasons(a)[-1:] == [number])  # noqa: B023
    a.forget(b.incarnation)
    a.connect(b.incarnation, b.endpoint)
    say(a, b, "4")
    net.until(lambda: net.reasons(b)[-1] == "4")
    say(b, a, "5")
    net.until(lambda: net.reasons(a)[-1] == "5")


def test_a_message_that_cannot_be_encoded_is_reported_and_loses_no_other(net: MeshNet) -> None:
    a, b = net.mesh(), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    say(a, b, "1")
    a.send(b.incarnation, HoldDrop.CODE, HoldDrop([object()], b""))
    say(a, b, "2")
    net.until(lambda: net.reasons(b) == ["1", "2"])
    assert a.counters["unencodable"] == 1 and [type(error) for error in net.errors] == [TypeError]
    net.errors.clear()


def test_an_exception_of_the_handler_is_reported_and_loses_no_other_message(net: MeshNet) -> None:
    a, b = net.mesh(), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    say(a, b, "1", "boom", "2")
    a.flush()
    heard: list[str] = []

    def on_message(peer: bytes, code: int, message: Bye) -> None:
        if message.reason == "boom":
            raise RuntimeError("boom")
        heard.append(message.reason)

    give_up = time.monotonic() + PATIENCE_S
    while len(heard) < 2 and time.monotonic() < give_up:
        b.poll(0.1)
        b.drain(on_message)
    assert heard == ["1", "2"] and [str(error) for error in net.errors] == ["boom"]
    net.errors.clear()


@pytest.mark.parametrize("seed", range(5))
def test_loss_duplicates_and_delays_are_invisible(net: MeshNet, seed: int) -> None:
    limits = Limits(resend_s=0.02, ack_delay_s=0.005, session_frames_max=16)
    a = net.mesh(limits=limits, faults=FrameFaults(seed, drop=0.2, duplicate=0.2, delay=0.3, delay_s_max=0.01))
    b = net.mesh(limits=limits, faults=FrameFaults(seed + 100, drop=0.2, duplicate=0.2, delay=0.3, delay_s_max=0.01))
    a.connect(b.incarnation, b.endpoint)
    numbers = [str(i) for i in range(60)]
    say(a, b, "hello")
    net.until(lambda: net.reasons(b) == ["hello"])
    for number in numbers:
        say(a, b, number)
        say(b, a, number)
        net.turn(a)
        net.turn(b)
    net.until(lambda: net.reasons(b)[1:] == numbers and net.reasons(a) == numbers)
    net.until(lambda: not any(s.unacked() for mesh in (a, b) for s in map(mesh.session, mesh.peers())))
    assert not net.closed


def test_an_idle_mesh_has_no_deadline(net: MeshNet) -> None:
    a, b = net.mesh(limits=Limits(ack_delay_s=0.01)), net.mesh(limits=Limits(ack_delay_s=0.01))
    a.connect(b.incarnation, b.endpoint)
    say(a, b, "x")
    net.until(lambda: net.reasons(b) == ["x"])
    net.until(lambda: a.deadline() is None and b.deadline() is None)
    assert not any(s.unacked() or s.owed for mesh in (a, b) for s in map(mesh.session, mesh.peers()))


def test_a_mesh_that_hung_up_on_everybody_does_not_spin(net: MeshNet) -> None:
    a, b = net.mesh(), net.mesh()
    a.connect(b.incarnation, b.endpoint)
    say(a, b, "x")
    net.until(lambda: net.reasons(b) == ["x"])
    net.until(lambda: not a._active)
    a.disconnect(b.incarnation)
    give_up = time.monotonic() + PATIENCE_S
    while a._pollers[0].poll(0.05):  # ends once nothing is left to be told
        assert time.monotonic() < give_up
        net.turn(a)
        a.readable()


def test_peers_that_come_and_go_leave_nothing_behind(net: MeshNet) -> None:
    hub = net.mesh(limits=Limits(departed_max=10))
    for _ in range(30):
        guest = net.mesh(bind=False)
        guest.connect(hub.incarnation, hub.endpoint)
        say(guest, hub, "hello")
        count = len(net.heard[hub.incarnation])
        net.until(lambda count=count: len(net.heard[hub.incarnation]) > count)  # type: ignore[misc]
        guest.close()
        net.meshes.remove(guest)
        hub.forget(guest.incarnation)
    assert not hub.peers() and not hub._records and not hub._active and len(hub._ended) == 10


@pytest.mark.parametrize("seed", range(3))
def test_hostile_frames_are_counted_and_dropped(tmp_path: Path, seed: int) -> None:
    assert fuzz_codec.run_mesh(seed, 200, str(tmp_path))["malformed"] > 0


@pytest.mark.parametrize("seed", range(10))
def test_hostile_bytes_raise_nothing_but_malformed(seed: int) -> None:
    fuzz_codec.run_pure(seed, 100)


def test_the_transport_imports_no_numpy_no_messages_and_what_tcp_needs_only_for_tcp() -> None:
    import subprocess

    code = ("import sys, zray.transport.loop, zray.transport.mesh; "
            "sys.exit(bool({'numpy', 'numba', 'zray.wire.messages', 'zray.transport.curve', 'zray.transport.gate'} "
            "& set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_an_old_libzmq_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmq.zmq_version_info", lambda: (4, 2, 5))
    with pytest.raises(RuntimeError, match="libzmq 4.3.3"):
        Mesh(new_incarnation(), 1, None, encode, decode, time.monotonic)
