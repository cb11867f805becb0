"""Two or three nodes' stores with real shared memory in one process, joined by an in-memory link."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tests.oracles.store_harness import Harness
from zray.base import errors
from zray.core.stored import Stored
from zray.core.waits.patience import Warned
from zray.store.client import StoreClient
from zray.wire.messages import StoreLocate

np = pytest.importorskip("numpy")

MIB = 1024 * 1024
JOIN_S = 1e-9


class StoreCluster:
    """Harnesses that share a clock, a link and the rows of a control store."""

    def __init__(self, nodes: int, capacity: int, **settings: Any):
        self.rows: dict[bytes, list[bytes]] = {}
        self.dead: set[bytes] = set()
        self.delivered = 0
        self.names = [bytes([number + 1]) * 4 + bytes(4) for number in range(nodes)]
        ports = {"record_location": self._record,
                 "find_location": lambda oid, then: then(list(self.rows.get(oid, ())))}
        self.nodes = [Harness(capacity, name, ports, **settings) for name in self.names]
        self.by_name = dict(zip(self.names, self.nodes, strict=True))

    def _record(self, oid: bytes, nodes: list[bytes]) -> None:
        if nodes:
            self.rows[oid] = nodes
        else:
            self.rows.pop(oid, None)

    def step(self) -> bool:
        """Settle every node, then deliver what they sent each other."""
        busy = False
        for name, node in self.by_name.items():
            if name in self.dead:
                continue
            node.settle()
            while node.to_nodes:
                to, message = node.to_nodes.popleft()
                busy = True
                if to not in self.dead:
                    self.delivered += 1
                    self.by_name[to].service.handlers[message.CODE](name, message)
        return busy

    def run(self, seconds: float = 0.0) -> None:
        end = self.nodes[0].now + seconds
        while True:
            while self.step():
                pass
            living = [node for name, node in self.by_name.items() if name not in self.dead]
            due = min((at for node in living if (at := node.service.next_deadline()) is not None), default=None)
            if due is None or due > end:
                break
            for node in self.nodes:
                node.now = max(node.now, due) + JOIN_S
            for node in living:
                node.service.tick(node.now)
        for node in self.nodes:
            node.now = max(node.now, end)

    def kill(self, number: int) -> None:
        self.dead.add(self.names[number])
        for name, node in self.by_name.items():
            if name not in self.dead:
                node.ends.node_ended(self.names[number])
                node.service.node_ended(self.names[number])

    def close(self) -> None:
        for name, node in self.by_name.items():
            if name not in self.dead:
                node.check()
            node.close()


@pytest.fixture
def make(request):
    made: list[StoreCluster] = []

    def cluster(*arguments: Any, **settings: Any) -> StoreCluster:
        made.append(StoreCluster(*arguments, **settings))
        return made[-1]

    yield cluster
    gc.collect()
    for each in made:
        each.close()


def wire(place: list, oid: bytes, node: bytes) -> list:
    return [*place, oid, node]


class Reader:
    """zray.core's reading of stored values over a client of one node; waiting moves the whole cluster."""

    def __init__(self, cluster: StoreCluster, number: int, client: StoreClient):
        self.cluster = cluster
        self.waits: list[str] = []
        self.blocked: dict[Any, Any] = {}
        self.lock = threading.RLock()
        process = SimpleNamespace(node=cluster.names[number], config=SimpleNamespace(warn_wait_s=5.0))
        loop = SimpleNamespace(lock=self.lock, wait=self._wait)
        self.stored = Stored(process, loop, SimpleNamespace(task=b""), Warned(False))  # type: ignore[arg-type]
        self.stored.attach(client)
        self.stored.machine = SimpleNamespace(blocked=self.blocked)  # type: ignore[assignment]

    def _wait(self, waiter: Any, deadline: Any) -> bool:
        for _ in range(100):
            self.waits.append(str(self.blocked[b""]()))
            self.cluster.run(1.0)
            if waiter.done:
                return True
        raise AssertionError("waits for nothing")

    def read(self, value: list) -> Any:
        return self.stored.read(value, None)


def test_100_mb_arrive_intact_read_only_and_without_a_copy_and_are_freed_on_both_nodes(make):
    cluster = make(2, 256 * MIB, arena_step_bytes=64 * MIB, extent_bytes=8 * MIB)
    maker, reader = cluster.nodes[0].join(), cluster.nodes[1].join()
    array = np.arange(100_000_000 // 8, dtype=np.uint64)
    oid, place = cluster.nodes[0].put(maker, array.tobytes())
    value = wire(place, oid, cluster.names[0])
    core = Reader(cluster, 1, reader.client)
    found = np.frombuffer(core.read(value), dtype=np.uint64)
    assert np.array_equal(found, array)
    with pytest.raises(ValueError):
        found[0] = 1
    arena = np.frombuffer(reader.client.raw, dtype=np.uint8)
    start = found.__array_interface__["data"][0] - arena.__array_interface__["data"][0]
    assert 0 <= start < len(arena), "it lies in the node's own arena"
    del arena
    assert core.waits and "being brought from another node" in core.waits[0]
    assert cluster.names[0].hex() in core.waits[0]
    sent = cluster.delivered
    again = core.read(value)
    assert cluster.delivered == sent and not reader.to_node, "a second read asks nobody"
    assert reader.client.pin_table.count == 2
    del found, again
    maker.client.free(oid, place, True)
    cluster.run(1.0)
    assert not cluster.nodes[1].service.table.names
    assert cluster.nodes[1].service.table.room.arena.free_bytes == cluster.nodes[1].service.table.room.arena.reserved
    assert place[1] not in maker.client.heap.used
    assert not cluster.rows


def test_a_viewed_copy_outlives_the_free_until_its_view_ends(make):
    cluster = make(2, 4 * MIB)
    maker, reader = cluster.nodes[0].join(), cluster.nodes[1].join()
    oid, place = cluster.nodes[0].put(maker, b"abcd" * 50_000)
    view = Reader(cluster, 1, reader.client).read(wire(place, oid, cluster.names[0]))
    maker.client.free(oid, place, True)
    cluster.run(5.0)
    assert view == b"abcd" * 50_000 and cluster.nodes[1].service.table.stored_bytes
    del view
    cluster.run(5.0)
    assert not cluster.nodes[1].service.table.stored_bytes


def test_an_owner_on_another_node_frees_by_naming_the_node(make):
    cluster = make(2, 4 * MIB)
    maker, owner = cluster.nodes[0].join(), cluster.nodes[1].join()
    oid, place = cluster.nodes[0].put(maker, b"abcd" * 50_000)
    core = Reader(cluster, 1, owner.client)
    value = wire(place, oid, cluster.names[0])
    assert core.read(value) == b"abcd" * 50_000
    core.stored.free(oid, value, False)
    cluster.run(1.0)
    assert place[1] not in maker.client.heap.used
    assert not cluster.nodes[1].service.table.names
    with pytest.raises(errors.ObjectLostError, match="freed"):
        core.read(value)


def test_under_pressure_copies_go_first_and_are_brought_again_when_they_are_read(make):
    cluster = make(2, 4 * MIB)
    maker, reader = cluster.nodes[0].join(), cluster.nodes[1].join()
    core = Reader(cluster, 1, reader.client)
    values = []
    for i in range(5):
        oid, place = cluster.nodes[0].put(maker, bytes([i]) * 500_000)
        values.append(wire(place, oid, cluster.names[0]))
        assert core.read(values[-1]) == bytes([i]) * 500_000
    for i in range(6):
        cluster.nodes[1].put(reader, bytes([i]) * 500_000)
    usage = cluster.nodes[1].service.report()
    assert usage["count_spilled"] == 0 and len(cluster.nodes[1].service.transfer.copies.local) < 5
    cluster.run(1.0)
    assert core.read(values[0]) == bytes(500_000), "evicted, and brought again"


def test_no_room_for_a_copy_is_the_error_of_a_full_store(make):
    cluster = make(2, 4 * MIB)
    maker, reader = cluster.nodes[0].join(), cluster.nodes[1].join()
    oid, place = cluster.nodes[0].put(maker, b"x" * 2_000_000)
    kept = []
    for i in range(5):
        own, where = cluster.nodes[1].put(reader, bytes([i]) * 600_000)
        kept.append(reader.client.read(where, own))
    core = Reader(cluster, 1, reader.client)
    with pytest.raises(errors.ObjectStoreFullError, match="no room for"):
        core.read(wire(place, oid, cluster.names[0]))
    del kept


def test_the_death_of_a_node_moves_readers_to_another_copy_or_names_the_dead_node(make):
    cluster = make(3, 4 * MIB)
    maker, second, third = (node.join() for node in cluster.nodes)
    oid, place = cluster.nodes[0].put(maker, b"copy" * 100_000)
    lost, at = cluster.nodes[0].put(maker, b"lost" * 100_000)
    value = wire(place, oid, cluster.names[0])
    assert Reader(cluster, 1, second.client).read(value) == b"copy" * 100_000
    cluster.run(1.0)
    cluster.kill(0)
    cluster.run(1.0)
    core = Reader(cluster, 2, third.client)
    assert core.read(value) == b"copy" * 100_000
    with pytest.raises(errors.ObjectLostError, match=f"node {cluster.names[0].hex()} that held it died"):
        core.read(wire(at, lost, cluster.names[0]))
    core.stored.free(oid, value, True)
    cluster.run(60.0)
    assert not cluster.nodes[1].service.table.names and not cluster.nodes[2].service.table.names


def test_some_time_after_the_death_of_a_node_one_look_finds_out_that_an_object_is_lost(make):
    cluster = make(2, 4 * MIB)
    maker, reader = (node.join() for node in cluster.nodes)
    lost = [wire(at, oid, cluster.names[0]) for oid, at in
            (cluster.nodes[0].put(maker, b"lost" * 100_000) for _ in range(5))]
    cluster.kill(0)
    looks = []
    service = cluster.nodes[1].service
    finder, find = service.transfer.finder, service.transfer.finder.find
    finder.find = lambda oid, then: (looks.append(oid), find(oid, then))[1]
    core = Reader(cluster, 1, reader.client)
    with pytest.raises(errors.ObjectLostError):
        core.read(lost[0])
    assert len(looks) > 1  # copies may be on their way into the control store
    cluster.run(5.0)
    looks.clear()
    for value in lost[1:]:
        with pytest.raises(errors.ObjectLostError):
            core.read(value)
    assert looks == [value[4] for value in lost[1:]]


def test_a_client_can_ask_where_copies_are(make):
    cluster = make(2, 4 * MIB)
    maker, reader = cluster.nodes[0].join(), cluster.nodes[1].join()
    oid, place = cluster.nodes[0].put(maker, b"abcd" * 50_000)
    value = wire(place, oid, cluster.names[0])
    Reader(cluster, 1, reader.client).read(value)
    cluster.run(1.0)
    for peer, node in ((maker, cluster.nodes[0]), (reader, cluster.nodes[1])):
        answers = []
        peer.client.handlers[118] = lambda peer, message, answers=answers: answers.append(message)
        peer.to_node.append(StoreLocate(1, [value]))
        node.settle()
        assert [sorted(nodes) for nodes in answers[0].nodes] == [cluster.names] and answers[0].spilled == [False]


def test_a_lone_node_pays_nothing():
    harness = Harness()
    try:
        peer = harness.join()
        oid, value = harness.put(peer, b"x" * 1000)
        peer.client.free(oid, value, True)
        harness.run(1.0)
        assert harness.service.next_deadline() is None and not harness.to_nodes
        assert not harness.service.table.exported
    finally:
        harness.close()


def test_the_end_of_a_job_ends_its_transfers_and_copies(make):
    cluster = make(2, 4 * MIB)
    maker, reader = cluster.nodes[0].join(), cluster.nodes[1].join()
    oid, place = cluster.nodes[0].put(maker, b"abcd" * 50_000)
    value = wire(place, oid, cluster.names[0])
    view = Reader(cluster, 1, reader.client).read(value)
    cluster.run(1.0)
    assert oid in cluster.rows
    del view
    for node, peer in zip(cluster.nodes, (maker, reader), strict=True):
        node.kill(peer)
        node.service.drop_job(oid[:4])
    cluster.run(5.0)
    assert not cluster.rows
    for node in cluster.nodes:
        assert not node.service.table.names and not node.service.table.exported


def test_what_is_fetched_together_comes_together_and_its_errors_wait_for_the_reader(make):
    cluster = make(2, 4 * MIB)
    maker, reader = cluster.nodes[0].join(), cluster.nodes[1].join()
    core = Reader(cluster, 1, reader.client)
    values = []
    for i in range(3):
        oid, place = cluster.nodes[0].put(maker, bytes([i]) * 300_000)
        values.append(wire(place, oid, cluster.names[0]))
    freed = wire([*values[2][:3], values[2][3] + 1], values[2][4], cluster.names[0])
    answers: list[Any] = []
    with core.lock:
        for value in [*values, values[0], freed]:
            assert core.stored.value_to_transfer([3, value, [], 0]) == value
            core.stored.fetch(value, answers.append)
    cluster.run(1.0)
    assert len(answers) == 5 and cluster.nodes[1].service.transfer.pulls.counts["done"] == 3
    for i, value in enumerate(values):
        assert core.stored.value_to_transfer(value) is None
        assert core.read(value) == bytes([i]) * 300_000
    with pytest.raises(errors.ObjectLostError, match="freed"):
        core.read(freed)
    assert not core.waits, "nothing was waited for one by one"


def test_locations_are_rows_of_the_control_store():
    from tests.fakes.gcs_ports import gcs_ports
    from zray.gcs.service import GcsService
    from zray.node.locations import GcsLocations

    service = GcsService(gcs_ports(), incarnation=b"\1" * 4 + bytes(4))
    locations = GcsLocations(lambda: service.client)
    found: list[Any] = []
    locations.find(b"o" * 28, found.append)
    locations.record(b"o" * 28, [b"node0001", b"node0002"])
    locations.find(b"o" * 28, found.append)
    locations.record(b"o" * 28, [])
    locations.find(b"o" * 28, found.append)
    assert found == [[], [b"node0001", b"node0002"], []]
