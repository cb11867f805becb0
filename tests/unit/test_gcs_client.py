"""Client and service: typed helpers, retries, redirects, watches, snapshots on disk, hostile messages."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given, settings, strategies as st

from tests.fakes.clock import FakeClock
from tests.fakes.gcs_ports import gcs_ports
from zray.gcs.client.client import GcsClient, GcsError
from zray.gcs.client.sharding import SHARDS, shard_of
from zray.gcs.configuration.config import ChainConfig
from zray.gcs.replica import tables
from zray.gcs.replica.chain import ChainReplica
from zray.gcs.replica.dedupe import CLIENT_WINDOW
from zray.gcs.replica.disk import log_name, snapshot_name
from zray.gcs.replica.persistence import LAYOUT_NAME
from zray.gcs.replica.state import CorruptSnapshot
from zray.gcs.service import GcsService
from zray.wire import codec
from zray.wire.messages import (
    BY_CODE,
    ChainAck,
    ChainFetch,
    ChainSnapshot,
    ChainUpdates,
    GcsEvents,
    GcsRedirect,
    GcsReply,
    GcsRequest,
    GcsUnwatch,
    GcsWatch,
)

ME, OTHER = b"\x01" * 8, b"\x02" * 8


@pytest.fixture
def service():
    ports = gcs_ports(FakeClock(), lambda peer, message: pytest.fail("nothing leaves the process"))
    made = GcsService(ports, incarnation=ME)
    yield made
    made.check()


# ---------------------------------------------------------------- typed helpers, through the real chain

def test_names_are_claimed_once_and_released_by_their_holder(service):
    client = service.client
    assert client.claim_name("ns", "counter", b"a1").result() == (True, b"a1")
    assert client.claim_name("ns", "counter", b"a2").result() == (False, b"a1")
    assert client.claim_name("other", "counter", b"a2").result() == (True, b"a2")
    assert client.lookup_name("ns", "counter").result() == b"a1"
    assert client.list_names("ns").result() == [("ns", "counter", b"a1")]
    assert len(client.list_names().result()) == 2
    assert client.release_name("ns", "counter", b"a2").result() is False
    assert client.release_name("ns", "counter", b"a1").result() is True
    assert client.lookup_name("ns", "counter").result() is None


def test_functions_jobs_actors_nodes_and_locations(service):
    client = service.client
    assert client.register_function(b"f", b"blob").result() is True
    assert client.register_function(b"f", b"blob").result() is False
    assert client.get_function(b"f").result() == b"blob"
    client.record_job(7, {"name": "j"})
    client.record_actor(b"a1", {"state": "ALIVE"})
    client.record_node(b"n1", {"alive": True})
    client.record_location(b"o1", {"nodes": [b"n1"]})
    assert client.list_jobs().result() == [(7, {"name": "j"})]
    assert client.list_actors().result() == [(b"a1", {"state": "ALIVE"})]
    assert client.get_actor(b"a1").result() == {"state": "ALIVE"}
    assert client.list_nodes().result() == [(b"n1", {"alive": True})]
    assert client.get_location(b"o1").result() == {"nodes": [b"n1"]}
    client.record_actor(b"a1", None)
    assert client.get_actor(b"a1").result() is None


def test_whoever_waits_for_a_function_gets_it_when_it_is_stored_or_at_once(service):
    client, early, late = service.client, [], []
    client.await_function(b"f" * 20, early.append)
    assert early == []
    client.register_function(b"f" * 20, b"blob")
    client.await_function(b"f" * 20, late.append)
    assert early == late == [b"blob"]


def test_a_job_takes_its_functions_and_the_adopters_of_its_objects_with_it(service):
    client = service.client
    for job in (b"job1", b"job2"):
        for name in (b"f", b"g"):
            client.register_function(job + name, b"blob")
            assert client.swap_owner(job + name, None, b"somebody").result() == (True, b"somebody")
    client.drop_job(b"job1")
    assert client.get_function(b"job1f").result() is None and client.get_function(b"job1g").result() is None
    assert client.get_function(b"job2f").result() == b"blob"
    assert client.read_owner(b"job1f").result() is None and client.read_owner(b"job2f").result() == b"somebody"


def test_user_keys(service):
    client = service.client
    assert client.kv_put(b"k", b"1").result() is False
    assert client.kv_put(b"k", b"2", overwrite=False).result() is True
    assert client.kv_get(b"k").result() == b"1"
    assert client.kv_put(b"k", b"3").result() is True
    assert client.kv_swap(b"k", b"3", b"4").result() is True and client.kv_swap(b"k", b"3", b"5").result() is False
    assert client.kv_get(b"k").result() == b"4"
    assert client.kv_swap(b"none", b"3", b"4").result() is False and client.kv_get(b"none").result() is None
    assert client.kv_put(b"k", b"x", namespace="ns").result() is False
    assert client.kv_put(b"k2", b"x").result() is False
    assert client.kv_list(b"k").result() == [b"k", b"k2"]
    assert client.kv_exists(b"k").result() is True and client.kv_exists(b"k1").result() is False
    client.kv_del(b"k")
    assert client.kv_exists(b"k").result() is False, "k2 starts with k, and is not k"
    assert client.kv_list(namespace="ns").result() == [b"k"]


def test_lists_longer_than_a_page_come_whole(service, monkeypatch):
    monkeypatch.setattr(tables, "LIST_ROWS_MAX", 3)
    for i in range(10):
        service.client.kv_put(b"%d" % i, b"v")
    assert service.client.kv_list().result() == [b"%d" % i for i in range(10)]


def test_a_refused_request_says_why(service):
    call = service.client.kv_put(b"k", b"v" * (tables.BLOB_BYTES_MAX + 1))
    with pytest.raises(GcsError, match="put large data in the object store") as caught:
        call.result()
    assert caught.value.code == tables.TOO_LARGE
    assert service.client.kv_put(b"k", b"v").result() is False, "the client goes on"


def test_callbacks_may_issue_requests(service):
    client, seen = service.client, []
    client.kv_put(b"a", b"1", done=lambda _: client.kv_get(b"a", done=lambda call: seen.append(call.value)))
    assert seen == [b"1"]


def test_a_watch_starts_with_the_state_and_goes_on_with_changes(service):
    service.client.kv_put(b"a", b"1")
    seen = []
    number = service.client.watch(tables.KV, lambda reset, changes: seen.append((reset, [c.value for c in changes])))
    service.client.kv_put(b"b", b"2")
    service.client.record_job(1, {})
    service.client.kv_del(b"a")
    service.client.unwatch(number)
    service.client.kv_put(b"c", b"3")
    assert seen == [(True, [b"1"]), (False, [b"2"]), (False, [None])]


def test_a_dead_client_leaves_nothing(service):
    replica = service.replicas[1]
    replica.on_message(OTHER, GcsRequest(1, 1, [tables.PUT, b"kv/x", b"v"]), 0)
    replica.on_message(OTHER, GcsWatch(1, b"kv/", -1), 0)
    service.forget(OTHER)
    assert OTHER not in replica.state.clients.sessions and not [c for c, _ in replica.publisher.watchers if c == OTHER]


def test_a_fenced_client_can_write_in_no_shard(service):
    fenced = []
    service.replicas[1].on_message(OTHER, GcsRequest(1, 1, [tables.PUT, b"kv/x", b"v"]), 0)
    service.client.fence([OTHER], lambda: fenced.append(True))
    assert fenced == [True]
    for replica in service.replicas.values():
        [(_, reply)] = replica.on_message(OTHER, GcsRequest(2, 2, [tables.PUT, b"kv/x", b"late"]), 0)
        assert reply.error.startswith(tables.EXPIRED)
    service.client.fence([], lambda: fenced.append(True))
    assert fenced == [True, True], "nothing to wait for"


# ---------------------------------------------------------------- retries and redirects

class SentRequests:
    """What a client sends, kept for the test."""

    def __init__(self, *members: bytes, epoch: int = 1) -> None:
        self.sent: list[tuple[bytes, object]] = []
        self.client = GcsClient(ME, lambda peer, message: self.sent.append((peer, message)), members, epoch)

    def take(self):
        sent, self.sent = self.sent, []
        return sent


def test_updates_go_to_the_head_and_reads_to_the_tail():
    wire = SentRequests(b"h", b"m", b"t")
    wire.client.put(b"kv/a", b"v")
    wire.client.get(b"kv/a")
    wire.client.watch(b"kv/", print)
    assert [(peer, type(m)) for peer, m in wire.take()] == [(b"h", GcsRequest), (b"t", GcsRequest), (b"t", GcsWatch)]


def test_a_retry_carries_the_same_number_and_tries_other_members():
    wire = SentRequests(b"h", b"t")
    wire.client.put(b"kv/a", b"v")
    first = wire.take()[0][1]
    wire.client.tick(0.5)  # how long ago it was sent nobody has said: it counts from here
    assert wire.take() == []
    wire.client.tick(1.0)
    wire.client.tick(2.0)
    assert wire.take() == [(b"t", first), (b"h", first)]
    wire.client.check()


def test_a_redirect_of_a_later_epoch_moves_everything_open_at_once():
    wire = SentRequests(b"dead", b"t")
    call = wire.client.put(b"kv/a", b"v")
    wire.take()
    wire.client.on_message(b"t", GcsRedirect(1, 2, [b"t"]))
    assert [peer for peer, _ in wire.take()] == [b"t"]
    wire.client.on_message(b"x", GcsRedirect(1, 1, [b"dead"]))
    assert wire.client.shards[0].members == (b"t",) and not wire.take()
    wire.client.on_message(b"t", GcsReply(1, "", [False, 1]))
    wire.client.on_message(b"t", GcsReply(1, "", [False, 1]))
    assert call.result() is False and not wire.client.busy
    wire.client.check()


def test_after_retries_a_new_configuration_is_asked_at_its_head():
    wire = SentRequests(b"h", b"m", b"t")
    wire.client.put(b"kv/a", b"v")
    for now in (1.0, 2.0):
        wire.client.tick(now)
    first = wire.take()[0][1]
    wire.client.configure(wire.client.shards[0].epoch + 1, [b"m", b"t"])
    assert wire.take() == [(b"m", first)]


def test_requests_made_before_the_chain_is_known_go_out_when_it_is():
    wire = SentRequests(epoch=0)
    wire.client.get(b"kv/a")
    assert not wire.take()
    wire.client.configured(ChainConfig.first(b"h"))
    assert [peer for peer, _ in wire.take()] == [b"h"]


def test_requests_beyond_the_window_wait():
    wire = SentRequests(b"h")
    calls = [wire.client.put(b"kv/a", b"v") for _ in range(CLIENT_WINDOW + 10)]
    assert len(wire.take()) == CLIENT_WINDOW
    wire.client.on_message(b"h", GcsReply(2, "", [False, 1]))
    assert not wire.take(), "number 1 still is open"
    wire.client.on_message(b"h", GcsReply(1, "", [False, 1]))
    assert [m.number for _, m in wire.take()] == [CLIENT_WINDOW + 1, CLIENT_WINDOW + 2]
    wire.client.check()
    assert sum(call.done for call in calls) == 2


def test_a_watch_tells_gap_duplicate_and_overlap_apart():
    wire, seen = SentRequests(b"t"), []
    number = wire.client.watch(b"kv/", lambda reset, changes: seen.append((reset, [c.version for c in changes])))
    event = lambda previous, version, reset, *versions: wire.client.on_message(  # noqa: E731
        b"t", GcsEvents(number, previous, version, reset, [[v, b"kv/x", b""] for v in versions]))
    event(-1, 3, True, 2, 3)
    event(5, 6, False, 6)   # 4..5 lost
    event(3, 5, False, 4, 5)
    event(3, 5, False, 4, 5)  # again
    event(4, 6, False, 5, 6)  # overlaps
    event(-1, 7, True, 7)  # answers a question from before
    assert seen == [(True, [2, 3]), (False, [4, 5]), (False, [6])]
    assert wire.client.counters["watch_gap"] == 2
    assert wire.take()[-1][1] == GcsWatch(number, b"kv/", 6), "it asks again from where it is"


# ---------------------------------------------------------------- snapshot on disk

def files(*keys: bytes) -> list[str]:
    shards = {shard_of(tables.scoped(tables.KV, "", key), SHARDS) for key in keys}
    return sorted([*(name(shard) for shard in shards for name in (log_name, snapshot_name)), LAYOUT_NAME])


def test_a_service_restarts_with_all_it_acknowledged(tmp_path):
    clock = FakeClock()
    first = GcsService(gcs_ports(clock, print), tmp_path, incarnation=ME)
    first.client.kv_put(b"k", b"v")
    assert sorted(os.listdir(tmp_path)) == files(b"k"), "an empty shard has none"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert first.client.kv_put(b"k2", b"v").done, "and then it is killed"
    second = GcsService(gcs_ports(clock, print), tmp_path, incarnation=OTHER)
    second.check()
    assert second.client.kv_list().result() == [b"k", b"k2"]
    assert second.client.kv_put(b"k3", b"v").result() is False
    assert sorted(os.listdir(tmp_path)) == files(b"k", b"k2", b"k3")


def test_a_damaged_snapshot_is_not_taken_for_an_empty_store(tmp_path):
    service = GcsService(gcs_ports(FakeClock(), print), tmp_path, incarnation=ME)
    service.client.kv_put(b"k", b"v")
    service.close()
    path = next(tmp_path.glob("*.snapshot"))
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.raises(CorruptSnapshot, match="damaged"):
        GcsService(gcs_ports(FakeClock(), print), tmp_path, incarnation=ME)


# ---------------------------------------------------------------- messages

MESSAGES = [GcsRequest(1, 1, [1, b"kv/a", b"v"]), GcsReply(1, "", [True, 1]), GcsRedirect(1, 2, [b"h"]),
            GcsWatch(1, b"kv/", -1), GcsUnwatch(1), GcsEvents(1, 0, 1, False, [[1, b"k", None]]),
            ChainUpdates(1, 1, [[b"c", 1, 1, [2, b"kv/a"]]], 1), ChainAck(1, 1, 1), ChainSnapshot(1, 1, 0, 1, b"x"),
            ChainFetch(1, 1, 0)]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_messages_survive_the_wire(message):
    assert codec.decode(codec.encode([message.CODE, message])) == [(message.CODE, message)]


def test_handlers_cover_all_messages_of_the_control_store(service):
    assert set(service.handlers) == {code for code in BY_CODE if 140 <= code < 160 or 220 <= code < 230}


values = st.recursive(st.none() | st.booleans() | st.integers(-5, 2**63) | st.binary(max_size=8) | st.text(max_size=3),
                      lambda inner: st.lists(inner, max_size=4), max_leaves=8)
ints, blobs, lists = st.integers(-2, 2**63), st.binary(max_size=6), st.lists(values, max_size=4)
hostile = st.one_of(
    st.builds(GcsRequest, ints, ints, lists), st.builds(GcsWatch, ints, blobs, ints), st.builds(GcsUnwatch, ints),
    st.builds(ChainUpdates, st.integers(0, 2), ints, lists, ints), st.builds(ChainAck, st.integers(0, 2), ints, ints),
    st.builds(ChainSnapshot, st.integers(0, 2), ints, ints, ints, blobs),
    st.builds(ChainFetch, st.integers(0, 2), ints, ints), st.builds(GcsReply, ints, st.text(max_size=3), values))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"x"]), hostile), max_size=12))
def test_no_message_breaks_a_replica(messages):
    """Well-formed for the codec, nonsense for the chain: from members, a joining replica and strangers."""
    config = ChainConfig(1, (b"a", b"b"), (1, 1), b"c", 1)
    replicas = [ChainReplica(name, config) for name in (b"a", b"b", b"c")]
    for peer, message in messages:
        for replica in replicas:
            replica.on_message(peer, message, 0.0)
            replica.tick(1.0)
            replica.check()
