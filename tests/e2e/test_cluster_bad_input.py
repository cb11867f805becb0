"""Whatever comes in at the ports of a cluster: who may not join is told why, noise does no harm, and work goes on."""

from __future__ import annotations

import os
import socket
import time

import pytest

from tests.e2e.nodes import clusters, listening
from tests.e2e.target import ray, until
from zray.base import ids
from zray.node.peers.member import PYTHON_RELEASE
from zray.sched.resources import UNITS_MAX
from zray.transport import curve
from zray.transport.credentials import decode_join
from zray.transport.mesh import Mesh
from zray.wire import codec, messages as m

pytestmark = pytest.mark.zray_only

MINOR = ".".join(PYTHON_RELEASE.split(".")[:2])


@pytest.fixture(scope="module")
def pair(session_root):
    """Two nodes, a driver at the first, an actor on the second."""
    with clusters(session_root) as start:
        yield start({"num_cpus": 1, "_system_config": {"node_timeout_s": 1.0}}, {"num_cpus": 1, "resources": {"x": 2}})


@pytest.fixture(autouse=True)
def works(pair):
    """The cluster does its work, before, while and after."""

    @ray.remote(resources={"x": 1})
    def there(x):
        return x + 1

    def check():
        assert ray.get([there.remote(i) for i in range(3)], timeout=30) == [1, 2, 3]
        until(lambda: sum(row["Alive"] for row in ray.nodes()) == 2, "those that only seemed to join are found out")

    check()
    yield check
    check()


class Newcomer:
    """Says to a cluster what a joining node says, or something else."""

    def __init__(self, join: str, ticket: curve.Keys | None = None, server_key: bytes = b""):
        self.ticket = decode_join(join)
        self.node_id = ids.new_node_id()
        self.me = self.node_id[:ids.INCARNATION_SIZE]
        self.peer = ids.node_of(self.ticket.node)
        self.mesh = Mesh(self.me, 0, None, codec.encode, codec.decode, time.monotonic)
        self.mesh.keys = curve.new_keys()
        self.mesh.allowed = lambda key: "a node" if key == self.ticket.server_key else ""
        self.endpoint = self.mesh.serve_tcp()  # whoever takes it in dials it at once, and answers there
        self.mesh.keys = ticket or self.ticket.keys()
        self.got: list = []
        self.closed: list[bytes] = []
        self.mesh.on_closed = self.closed.append
        self.mesh.connect(self.peer, curve.make_endpoint(self.ticket.host, self.ticket.port,
                                                         server_key or self.ticket.server_key))

    def row(self, **changes) -> dict:
        return {"node_id": self.node_id, "endpoint": self.endpoint, "name": "", "total": {"CPU": 10_000}, "labels": {},
                "shown": {"NodeID": self.node_id.hex()}} | changes

    def say(self, *messages) -> None:
        self.mesh.send(self.peer, m.Hello.CODE, m.Hello(
            m.PROTOCOL, "node", "", os.getpid(), 0, PYTHON_RELEASE, list(m.FEATURES)))
        for message in messages:
            self.mesh.send(self.peer, message.CODE, message)

    def turn(self) -> None:
        self.mesh.flush()
        self.mesh.poll(0.0 if self.mesh.readable() else 0.02)
        self.mesh.drain(lambda peer, code, message: self.got.append(message))
        self.mesh.tick(time.monotonic())

    def join(self, row: dict | None = None, protocol: int = m.PROTOCOL, python: str = PYTHON_RELEASE) -> str:
        """What NodeJoined says: '' for welcome, else why not."""
        self.say(m.NodeJoin(protocol, python, "0.1.0", row if row is not None else self.row()))

        def answer():
            self.turn()
            return [message for message in self.got if type(message) is m.NodeJoined]

        return until(answer, "an answer", 10)[0].refused

    def turned_away(self) -> bool:
        def over():
            self.turn()
            return self.closed

        until(over, "the connection is closed", 10)
        return self.mesh.counters["failed_handshakes"] > 0 and not self.got

    def close(self) -> None:
        self.mesh.close()


@pytest.fixture
def newcomer(pair):
    made = []

    def make(**options) -> Newcomer:
        made.append(Newcomer(pair.join_string, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# ------------------------------------------------------------ who may join


def test_another_protocol_or_python_is_refused_with_both_versions(newcomer):
    assert newcomer().join(protocol=m.PROTOCOL + 1) == (
        f"this cluster speaks protocol {m.PROTOCOL}, the node {m.PROTOCOL + 1}")
    said = newcomer().join(python="2.7.18")
    assert f"this cluster runs Python {MINOR}, the node 2.7.18" in said


def test_another_patch_version_only_warns(newcomer, pair):
    one = newcomer()
    assert one.join(python=f"{MINOR}.99") == ""
    with open(os.path.join(pair.head_node.session_dir, "logs", "node.log")) as log:
        assert f"runs Python {MINOR}.99" in log.read()


@pytest.mark.parametrize(("change", "why"), [
    ({"total": {"CPU": -1}}, "not amounts"),
    ({"total": {"CPU": UNITS_MAX + 1}}, "not amounts"),
    ({"total": {"CPU": 1.5}}, "not amounts"),
    ({"total": {"CPU": "many"}}, "not amounts"),
    ({"total": {1: 1}}, "not amounts"),
    ({"total": [1]}, "has no total"),
    ({"labels": {"zone": 1}}, "labels are not text"),
    ({"shown": None}, "has no shown"),
    ({"node_id": b"x" * 28}, "node id is not that of its connection"),
    ({"node_id": "x"}, "has no node_id"),
    ({"name": "n" * 1000}, "256 characters"),
    ({"endpoint": "tcp://127.0.0.1:9"}, "has no key"),
    ({"endpoint": "nowhere"}, "its endpoint"),
])
def test_a_row_that_makes_no_sense_is_refused(newcomer, change, why):
    one = newcomer()
    assert why in one.join(one.row(**change))


def test_an_incarnation_joins_once(newcomer):
    one = newcomer()
    assert one.join() == ""
    one.got.clear()
    assert "known already" in one.join()


def test_without_a_ticket_of_the_cluster_nobody_gets_in(newcomer):
    for one in (newcomer(ticket=curve.new_keys()), newcomer(server_key=curve.new_keys().public)):
        one.say()
        assert one.turned_away()


def test_a_newcomer_that_says_other_things_first_is_not_served(newcomer):
    one = newcomer()
    one.say(m.RegisterDriver({}), m.LeaseWant(1, 1, 0), m.KillActor(b"a" * 16, True), m.NodeLeave("me too"),
            m.NodeRows(True, []), m.Relay(one.me, m.KillActor.CODE, [b"a" * 16, True]))
    assert one.join() == "", "and may still join"
    assert not [message for message in one.got if type(message) in (m.DriverAccepted, m.NodeRows)]


# ------------------------------------------------------------ noise at the ports


def noise(port: int) -> list[socket.socket]:
    """Random bytes, a greeting that ends in the middle, a greeting with garbage, and silence; still open."""
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
    random = os.urandom(3000)
    out = []
    for data in (random, greeting[:30], greeting + random, b"GET / HTTP/1.1\r\n\r\n", b"", b""):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(data)
        out.append(connection)
    return out


def test_noise_at_the_port_of_a_daemon_does_no_harm(pair, works):
    connections = [one for node in pair.list_all_nodes()
                   for one in noise(int(node.handle.session.address.rpartition(":")[2]))]
    works()
    for connection in connections:
        connection.close()


def test_noise_at_the_port_of_a_worker_does_no_harm(works):
    @ray.remote(resources={"x": 0.5}, num_cpus=0)
    class Actor:
        def pid(self):
            return os.getpid()

    actor = Actor.remote()
    pid = ray.get(actor.pid.remote())
    ports = until(lambda: listening(pid), "it has a port")
    connections = [one for port in ports for one in noise(port)]
    assert ray.get([actor.pid.remote() for _ in range(20)], timeout=30) == [pid] * 20
    works()
    for connection in connections:
        connection.close()
