"""Services of several nodes on links without faults and a clock that stands still unless a test moves it."""

from __future__ import annotations

import errno
import os
from collections import defaultdict, deque

import pytest
from hypothesis import given, settings, strategies as st

from tests.fakes.gcs_ports import gcs_ports
from zray.base.ids import TAG_SIZE
from zray.gcs.client.client import GcsClient
from zray.gcs.client.requests import RETRY_S, STUCK_RETRIES
from zray.gcs.client.sharding import SHARDS, shard_of
from zray.gcs.client.watching import WATCH_ASK_S
from zray.gcs.configuration.config import ClusterConfig
from zray.gcs.configuration.membership import FAST_S, NODE_TIMEOUT_S, SUSPECT_S
from zray.gcs.configuration.register import HOLD_S, LEASE_RENEW_S, LEASE_S, PROMISE_S
from zray.gcs.replica import tables
from zray.gcs.replica.chain import LEASE_UNUSED_S
from zray.gcs.replica.disk import Disk, log_name
from zray.gcs.replica.persistence import LAYOUT_NAME
from zray.gcs.replica.state import CorruptSnapshot
from zray.gcs.service import GcsService
from zray.wire.messages import (
    GcsEvents,
    GcsRedirect,
    GcsReply,
    GcsRequest,
    GcsWatch,
    Heartbeat,
    LeaseAsk,
    LeasePromise,
    NodeStanding,
    RegisterAccept,
    RegisterAccepted,
    RegisterPrepare,
    RegisterPromise,
    RegisterRefused,
)

KV_SHARD = shard_of(tables.scoped(tables.KV, "", b"k"), SHARDS)


def node_id(number: int) -> bytes:
    return b"N%03d" % number + bytes(4) + b"%020d" % number


class ServiceBench:
    """Nodes and the messages between them."""

    def __init__(self, nodes: int = 1, persist=None) -> None:
        self.now = 0.0
        self.persist = persist
        self.services: dict[bytes, GcsService] = {}
        self.links: deque[tuple[bytes, bytes, object]] = deque()
        self.to_processes: list[tuple[bytes, object]] = []
        self.stopped: set[bytes] = set()
        self.fenced: list[bytes] = []
        self.voters: dict[bytes, list[tuple[float, tuple[bytes, ...]]]] = defaultdict(list)  # as a node heard of them
        self.sent = 0
        first = self.start(0, None)
        first.admit({"node_id": node_id(0), "name": "head"}, self.admitted)
        for _ in range(1, nodes):
            self.join()

    def admitted(self, refused: str, ordinal: int) -> None:
        assert not refused

    def start(self, number: int, hints: list | None) -> GcsService:
        me = node_id(number)[:8]

        def send(peer: bytes, message: object) -> None:
            self.sent += 1
            if peer[:TAG_SIZE] == me[:TAG_SIZE]:
                self.to_processes.append((peer, message))
            else:
                self.links.append((me, peer, message))

        path = self.persist / str(number) if self.persist else None
        ports = gcs_ports(lambda: self.now, send, fenced=lambda reason: self.fenced.append(me),
                          configured=lambda config: self.voters[me].append((self.now, config.voters)))
        service = GcsService(ports, path, incarnation=me, node_id=node_id(number),
                             first=hints is None, hints=hints)
        self.services[me] = service
        return service

    def join(self, name: str = "") -> GcsService:
        number = len(self.services)
        host = next(iter(self.services.values()))
        answers: list = []
        host.admit({"node_id": node_id(number), "name": name}, lambda *answer: answers.append(answer))
        self.run()
        assert answers == [("", number)]
        service = self.start(number, host.hints())
        self.settle()
        return service

    def run(self) -> None:
        """Deliver everything, without a moment passing."""
        for _ in range(100_000):
            if not self.links:
                for service in self.services.values():
                    service.flush()
                if not self.links:
                    return
            source, target, message = self.links.popleft()
            if target in self.services and target not in self.stopped and source not in self.stopped:
                self.services[target].receive(source, message)
                self.services[target].check()
        pytest.fail("they never stop talking")

    def wait(self, seconds: float) -> None:
        """Let time pass: every node wakes when it asked to."""
        end = self.now + seconds
        while True:
            self.run()
            due = {name: at for name, service in self.services.items()
                   if name not in self.stopped and (at := service.next_deadline()) is not None}
            if not due or min(due.values()) > end:
                break
            self.now = max(self.now + 1e-4, min(due.values()))
            for name, at in due.items():
                if at <= self.now:
                    self.services[name].tick(self.now)
        self.now = max(self.now, end)

    def settle(self) -> None:
        self.wait(2.0)

    def kill(self, name: bytes, proven: bool = True) -> None:
        del self.services[name]
        if proven:
            for service in self.services.values():
                service.peer_closed(name, True)

    @property
    def chain(self) -> tuple[bytes, ...]:
        return next(iter(self.services.values())).config.chains[0].members

    def state_of(self, number: int) -> str:
        return next(iter(self.services.values())).control.rows[node_id(number)[:8]].state

    def put(self, service: GcsService, key: bytes, value: bytes = b"v"):
        call = service.client.kv_put(key, value)
        self.run()
        return call


def test_a_lone_node_sends_nothing_and_never_wakes():
    bench = ServiceBench(1)
    service = next(iter(bench.services.values()))
    assert service.client.kv_put(b"k", b"v").result() is False
    assert service.client.kv_get(b"k").result() == b"v"
    assert service.next_deadline() is None and bench.sent == 0 and service.alone


@pytest.mark.parametrize(("nodes", "replicas", "voters"), [(1, 1, 1), (2, 2, 1), (3, 3, 3), (4, 3, 3), (5, 3, 5),
                                                           (6, 3, 5)])
def test_replicas_and_voters_follow_the_number_of_nodes(nodes, replicas, voters):
    bench = ServiceBench(nodes)
    for service in bench.services.values():
        assert len(service.config.chains[0].members) == replicas and len(service.config.voters) == voters
    assert [service.control.rows[name].ordinal for name, service in bench.services.items()] == list(range(nodes))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_member_that_is_proven_dead_is_replaced_without_a_moment_passing(place):
    bench = ServiceBench(4)
    victim = bench.chain[place]
    before = bench.now
    bench.kill(victim)
    survivor = list(bench.services.values())[-1]
    call = bench.put(survivor, b"k")
    read = survivor.client.kv_get(b"k")
    bench.run()
    assert call.result() is False and read.result() == b"v" and bench.now == before
    assert victim not in bench.chain and len(bench.chain) == 3, "and another has joined"
    assert next(iter(bench.services.values())).control.rows[victim].state == "dead"


def test_voters_are_replaced_without_a_moment_passing_though_one_goes_or_comes_at_a_time():
    bench = ServiceBench(4)
    first = next(iter(bench.services.values()))
    victim, before = first.config.voters[1], bench.now
    seen = bench.voters[first.incarnation] = [(before, first.config.voters)]
    bench.kill(victim)
    bench.run()
    sizes = [len(voters) for voters in dict.fromkeys(voters for _, voters in seen)]
    assert sizes == [3, 2, 3] and victim not in first.config.voters and bench.now == before


def test_two_voters_more_come_by_two_decisions_in_a_row():
    bench = ServiceBench(2)
    first = next(iter(bench.services.values()))
    bench.join()
    at = {len(voters): now for now, voters in reversed(bench.voters[first.incarnation])}
    assert at[2] == at[3], "nobody should wait while both of two are needed"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_silent_member_is_out_of_the_chain_after_the_detection_time_and_may_come_back(place):
    bench = ServiceBench(3)
    victim = bench.chain[place]
    bench.stopped.add(victim)
    survivor = next(service for name, service in bench.services.items() if name != victim)
    call = survivor.client.kv_put(b"k", b"v")
    bench.wait(SUSPECT_S + 0.01)
    assert call.done and victim not in survivor.config.chains[0].members
    assert survivor.control.rows[victim].state == "alive"
    bench.stopped.clear()
    bench.settle()
    assert victim in bench.chain and not bench.fenced
    assert len({service.replicas[0].state.snapshot() for service in bench.services.values()}) == 1


def test_a_lease_that_nobody_uses_is_not_renewed_and_the_next_read_gets_one_at_once():
    bench = ServiceBench(3)
    bench.settle()
    outsider, tail = (next(s for n, s in bench.services.items() if (n == bench.chain[2]) is is_tail)
                      for is_tail in (False, True))
    asked = tail.control.lease._number
    bench.wait(2.0)
    assert tail.control.lease._number - asked <= 2 * (LEASE_UNUSED_S / LEASE_RENEW_S + 1), "for its watches, no more"
    bench.put(outsider, b"k")
    bench.now += LEASE_S
    call, before = outsider.client.list_names(), bench.now  # names are in shard 0
    bench.run()
    assert call.done and bench.now == before, "a round trip, no time-out"
    assert tail.replicas[0].lease_until > bench.now


def test_a_lease_that_is_used_is_renewed_before_it_ends():
    bench = ServiceBench(3)
    outsider, tail = (next(s for n, s in bench.services.items() if (n == bench.chain[2]) is is_tail)
                      for is_tail in (False, True))
    outsider.client.list_names()
    bench.run()
    for _ in range(100):
        bench.wait(LEASE_RENEW_S / 2)
        early = tail.replicas[0].counters["unready"]
        call = outsider.client.list_names()
        bench.run()
        assert call.done and tail.replicas[0].counters["unready"] == early


@pytest.fixture
def leases_are_for_all_shards(monkeypatch):
    """Voters then let the lease of a node run out before it leaves any chain, not only one of which it is the tail."""
    monkeypatch.setattr(ClusterConfig, "tails_of", lambda config, name: frozenset(range(len(config.chains))))


def held_up(bench: ServiceBench) -> GcsService:
    """One of four nodes dies: the proposer that then spreads heads among the others and waits for a lease."""
    bench.kill(node_id(3)[:8])
    bench.run()
    return next(service for service in bench.services.values() if service.control.proposer.held is not None)


def test_what_waits_for_a_lease_is_asked_for_again_as_it_was(leases_are_for_all_shards, monkeypatch):
    bench = ServiceBench(4)
    control = held_up(bench).control
    held = control.proposer.held
    monkeypatch.setattr("zray.gcs.configuration.control.next_config", lambda config, view: None)  # the same, or nothing
    bench.wait(LEASE_UNUSED_S + PROMISE_S + HOLD_S)
    assert control.config == held


@pytest.mark.usefixtures("leases_are_for_all_shards")
@pytest.mark.parametrize("number", [1, 2])
def test_a_death_is_acted_on_without_a_moment_passing_though_another_wish_waits_for_a_lease(number):
    bench = ServiceBench(4)
    service = held_up(bench)
    bench.kill(node_id(number)[:8])
    bench.run()
    assert node_id(number)[:8] not in service.config.involved


def test_a_redirect_here_that_overtakes_the_configuration_waits_for_it():
    bench = ServiceBench(2)
    first, second = bench.services.values()
    requests = second.client.shards[0]
    epoch, ends = requests.epoch, [first.incarnation, second.incarnation]
    second.receive(first.incarnation, GcsRedirect(0, epoch + 1, ends, 0))
    assert requests.epoch == epoch, "what is open would be sent here at once, and refused"
    second.receive(first.incarnation, GcsRedirect(0, epoch + 1, ends[:1], 0))
    assert requests.epoch == epoch + 1


def test_the_time_out_leaves_room_for_the_lease():
    assert PROMISE_S < SUSPECT_S and 2 * FAST_S < SUSPECT_S < NODE_TIMEOUT_S


def test_a_node_silent_for_the_time_out_is_declared_dead_and_fenced_when_it_comes_back():
    bench = ServiceBench(4)
    victim = node_id(3)[:8]
    bench.stopped.add(victim)
    bench.wait(NODE_TIMEOUT_S - 1)
    assert bench.state_of(3) == "alive"
    bench.wait(1.2)
    assert bench.state_of(3) == "dead" and not bench.fenced
    bench.stopped.clear()
    bench.settle()
    assert bench.fenced == [victim]
    refused: list = []
    next(iter(bench.services.values())).admit({"node_id": node_id(3), "name": ""}, lambda *a: refused.append(a))
    bench.run()
    assert "declared dead" in refused[0][0]


def test_a_node_that_is_heard_again_while_its_row_becomes_dead_gets_no_part():
    bench = ServiceBench(4)
    first, victim = next(iter(bench.services.values())), node_id(3)[:8]
    on_their_way: list = []
    put_off, first.client.compare_and_set = first.client.compare_and_set, lambda *op: on_their_way.append(op)
    bench.stopped.add(victim)
    bench.wait(NODE_TIMEOUT_S + 0.1)
    bench.stopped.clear()
    bench.wait(1.0)
    assert len(on_their_way) == 1 and victim in first.control.membership.answering
    assert victim not in first.control.view(bench.now).usable and victim not in first.config.involved
    first.client.compare_and_set = put_off
    put_off(*on_their_way[0])
    bench.settle()
    assert bench.fenced == [victim] and not first.condemned()


def test_a_node_that_does_not_know_the_others_yet_gets_no_part():
    """They could not reach it, because it lets in only nodes that it knows; as a voter it would be no help."""
    bench = ServiceBench(2)
    first = next(iter(bench.services.values()))
    first.admit({"node_id": node_id(2), "name": ""}, bench.admitted)
    bench.run()
    third = bench.start(2, first.hints())
    late: list = []
    learn, third.control.on_rows = third.control.on_rows, lambda rows, now: late.append(rows) or []
    bench.settle()
    assert third.incarnation in first.control.membership.answering
    assert third.incarnation not in first.config.involved and len(first.config.voters) == 1
    third.control.on_rows = learn
    third._emit(learn(late[-1], bench.now))
    bench.settle()
    assert third.incarnation in first.config.involved and len(first.config.voters) == 3


def test_a_minority_that_is_cut_off_declares_nobody_dead_and_writes_nothing():
    bench = ServiceBench(3)
    lonely = bench.services[bench.chain[0]]
    others = {name: service for name, service in bench.services.items() if service is not lonely}
    bench.services = {lonely.incarnation: lonely}
    bench.wait(PROMISE_S)  # where it is a tail, it may answer reads as long as nobody may go on without it
    call = lonely.client.kv_put(b"k", b"v")
    read = lonely.client.kv_get(b"k")
    bench.wait(2 * NODE_TIMEOUT_S)
    assert not call.done and not read.done
    assert all(row.state == "alive" for row in lonely.control.rows.values())
    bench.services.update(others)
    bench.settle()
    assert call.done and read.done


def test_a_minority_says_which_voters_are_missing():
    bench = ServiceBench(4)
    first, second, third, fourth = bench.services.values()
    assert {first.trouble(), fourth.trouble()} == {""}
    missing = [name for name in first.config.voters if name != first.incarnation]
    bench.stopped.update(missing)
    bench.wait(SUSPECT_S + 0.1)
    for name in missing:
        assert f"no majority: {missing[0].hex()[:8]}" in first.trouble() and name.hex()[:8] in first.trouble()
    assert "of its 3 voters 2 must" in first.trouble()
    # It is no voter, listens to no node, and asks only whether its watch of the nodes missed something.
    bench.wait(WATCH_ASK_S + 2 * STUCK_RETRIES * RETRY_S)
    assert "requests without an answer" in fourth.trouble() and first.incarnation.hex()[:8] in fourth.trouble()
    bench.stopped.clear()
    bench.settle()
    assert {first.trouble(), fourth.trouble()} == {""}


def test_of_an_even_number_of_voters_it_says_what_the_first_is_worth():
    bench = ServiceBench(2)
    first, second = bench.services.values()
    config = second.config._replace(voters=(first.incarnation, second.incarnation))
    second.control.acceptor.config = config
    bench.kill(first.incarnation)
    assert f"of its 2 voters 2, or 1 with {first.incarnation.hex()[:8]} (head), must" in second.trouble()


def test_without_its_only_voter_the_second_node_says_so_at_once():
    bench = ServiceBench(2)
    first, second = bench.services.values()
    bench.kill(first.incarnation)
    assert f"no majority: {first.incarnation.hex()[:8]}" in second.trouble()
    assert "of its 1 voter 1 must" in second.trouble() and "start the cluster anew" in second.trouble()


def test_a_cluster_of_two_survives_its_second_node_only():
    bench = ServiceBench(2)
    first, second = bench.services.values()
    bench.put(second, b"k")
    bench.kill(second.incarnation)
    assert bench.put(first, b"k2").done and first.alone and first.next_deadline() is None
    bench = ServiceBench(2)
    first, second = bench.services.values()
    bench.kill(first.incarnation)
    assert not bench.put(second, b"k").done


def test_any_one_of_three_nodes_may_die_and_then_the_first_voter_only_may_not():
    bench = ServiceBench(3)
    bench.kill(node_id(0)[:8])
    first, second = bench.services.values()
    bench.settle()
    assert len(first.config.voters) == 1 and len(bench.chain) == 2
    assert bench.put(second, b"k").done


def test_names_and_incarnations_are_admitted_once():
    bench = ServiceBench(2)
    first, second = bench.services.values()
    answers: list = []
    first.admit({"node_id": node_id(7), "name": "head"}, lambda *answer: answers.append(answer))
    second.admit({"node_id": node_id(1), "name": "x"}, lambda *answer: answers.append(answer))
    second.admit({"node_id": b"short", "name": "x"}, lambda *answer: answers.append(answer))
    bench.run()
    assert sorted(answer[0].split()[0] for answer in answers) == ["a", "another", "this"]


def test_the_name_of_a_dead_node_is_free():
    bench = ServiceBench(1)
    worker = bench.join("worker")
    bench.kill(worker.incarnation)
    bench.run()
    answers: list = []
    next(iter(bench.services.values())).admit({"node_id": node_id(9), "name": "worker"},
                                              lambda *answer: answers.append(answer))
    assert answers == [("", 2)]


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_the_first_node_may_leave_and_loses_nothing(nodes):
    bench = ServiceBench(nodes)
    first = next(iter(bench.services.values()))
    bench.put(first, b"k")
    gone: list = []
    first.leave("done here", lambda: gone.append(True))
    bench.settle()
    assert gone == [True] and bench.state_of(0) == "left"
    if nodes > 1:
        assert first.incarnation not in first.config.involved
        bench.kill(first.incarnation, proven=False)
        rest = next(iter(bench.services.values()))
        assert rest.client.kv_get(b"k") and bench.put(rest, b"k2").done
        read = rest.client.kv_get(b"k")
        bench.run()
        assert read.result() == b"v"


def test_clients_hear_of_a_new_configuration_at_once():
    bench = ServiceBench(4)
    outsider = next(service for name, service in bench.services.items() if name not in bench.chain)
    bench.kill(bench.chain[2])
    bench.run()
    assert outsider.client.shards[0].epoch == outsider.config.chains[0].epoch


# ---------------------------------------------------------------- processes of a node

def process(service: GcsService, number: int = 1) -> bytes:
    return service.incarnation[:TAG_SIZE] + number.to_bytes(4, "big")


def test_a_request_of_a_process_is_issued_once_however_often_it_is_asked():
    bench = ServiceBench(3)
    service = list(bench.services.values())[1]
    me = process(service)
    request = GcsRequest(1, 1, [tables.COMPARE_AND_SET, b"kv/a", None, b"v"])
    for _ in range(3):
        service.receive(me, request)
    bench.run()
    service.receive(me, request)
    assert bench.to_processes == [(me, GcsReply(1, "", bench.to_processes[0][1].result))] * 2
    assert bench.to_processes[0][1].result[0] is True
    service.receive(me, GcsRequest(2, 2, [tables.DELETE, b"kv/a"]))
    service.receive(me, request)  # acknowledged long ago
    bench.run()
    assert [message.number for _, message in bench.to_processes] == [1, 1, 2]
    service.check()


def test_a_watch_of_a_process_goes_on_across_a_failure_without_gap_or_repeat():
    bench = ServiceBench(4)
    service = bench.services[bench.chain[0]]
    me = process(service)
    seen: list = []
    client = GcsClient(me, lambda peer, message: service.receive(me, message), [service.incarnation])
    client.watch(tables.KV, lambda reset, changes: seen.append((reset, [change.value for change in changes])))

    def deliver() -> None:
        bench.run()
        while bench.to_processes:
            client.on_message(service.incarnation, bench.to_processes.pop(0)[1])

    deliver()
    for i in range(3):
        bench.put(service, b"k", b"%d" % i)
        deliver()
        bench.kill(bench.chain[-1])
        deliver()
    assert seen == [(True, []), (False, [b"0"]), (False, [b"1"]), (False, [b"2"])]


def test_a_process_that_reads_nothing_costs_a_bounded_number_of_events_and_then_gets_the_whole_state(monkeypatch):
    monkeypatch.setattr("zray.gcs.client.proxy.WATCH_CREDIT", 3)
    bench = ServiceBench(1)
    service = next(iter(bench.services.values()))
    me = process(service)
    service.receive(me, GcsWatch(1, b"kv/", -1))
    for i in range(10):
        bench.put(service, b"%d" % i)
    events = [message for _, message in bench.to_processes if isinstance(message, GcsEvents)]
    assert len(events) == 4
    service.receive(me, GcsWatch(1, b"kv/", events[-1].version))
    last = bench.to_processes[-1][1]
    assert last.reset and last.previous == events[-1].version and len(last.changes) == 10


def test_a_process_that_ends_leaves_nothing():
    bench = ServiceBench(1)
    service = next(iter(bench.services.values()))
    me = process(service)
    service.receive(me, GcsWatch(1, b"kv/", -1))
    service.receive(me, GcsRequest(1, 1, [tables.PUT, b"kv/a", b"v"]))
    service.forget(me)
    bench.to_processes.clear()
    bench.put(service, b"b")
    assert not bench.to_processes and len(service.replicas[0].publisher.watchers) == 1


# ---------------------------------------------------------------- nonsense

values = st.recursive(st.none() | st.booleans() | st.integers(-5, 2**63) | st.binary(max_size=8) | st.text(max_size=3),
                      lambda inner: st.lists(inner, max_size=5), max_leaves=12)
ints, lists = st.integers(-2, 9), st.lists(values, max_size=5)
configs = st.one_of(lists, st.builds(lambda generation, voters: [generation, voters, [[1, voters, [1] * len(voters),
                                     b"", 0]], []], ints, st.lists(st.binary(max_size=2), max_size=3)))
hostile = st.one_of(
    st.builds(RegisterPrepare, ints, lists), st.builds(RegisterPromise, ints, ints, ints, st.binary(), configs),
    st.builds(RegisterAccept, ints, lists, configs), st.builds(RegisterAccepted, ints, ints),
    st.builds(RegisterRefused, ints, ints, ints, st.floats()), st.builds(LeaseAsk, ints, ints),
    st.builds(LeasePromise, ints, ints), st.builds(Heartbeat, ints, lists, lists, lists),
    st.builds(NodeStanding, st.binary(max_size=8), st.sampled_from(["gone", "released", "x"]), st.text(max_size=3)))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([node_id(1)[:8], node_id(2)[:8], node_id(9)[:8]]), hostile), max_size=8))
def test_no_message_breaks_a_service(messages):
    bench = ServiceBench(3)
    first = next(iter(bench.services.values()))
    for peer, message in messages:
        first.receive(peer, message)
        first.check()
    bench.wait(0.2)


def test_a_process_has_no_say_in_who_forms_the_store():
    bench = ServiceBench(3)
    first = next(iter(bench.services.values()))
    first.receive(process(first), NodeStanding(node_id(1)[:8], "gone", ""))
    assert not first.control.membership.gone and first.counters["stranger"] == 1


# ---------------------------------------------------------------- disk

def test_a_cluster_that_is_killed_at_once_restarts_with_all_acknowledged_state(tmp_path):
    bench = ServiceBench(3, tmp_path)
    calls = [bench.put(service, b"%d" % i) for i, service in enumerate([*bench.services.values()] * 3)]
    assert all(call.done for call in calls)
    bench.services.clear()  # kill -9 of everything; no close()
    for number in range(3):
        again = GcsService(gcs_ports(send=print), tmp_path / str(number), incarnation=b"X%03d" % number + bytes(4))
        assert again.client.kv_list().result() == sorted(b"%d" % i for i in range(9))
        assert {row.state for row in again.control.rows.values()} == {"dead"}
        assert again.alone
        again.check()


def test_a_directory_that_holds_some_of_the_shards_is_not_taken_for_the_whole_store(tmp_path):
    bench = ServiceBench(5, tmp_path)
    for i in range(30):
        assert bench.put(next(iter(bench.services.values())), b"%d" % i).done
    config = next(iter(bench.services.values())).config
    bench.services.clear()  # kill -9 of everything
    again = tmp_path / "0"
    with pytest.raises(CorruptSnapshot, match="shards .* lay on other nodes"):
        GcsService(gcs_ports(send=print), again, incarnation=b"X000" + bytes(4))
    for shard, chain in enumerate(config.chains):
        if node_id(0)[:8] not in chain.members:
            assert not list(again.glob(f"shard-{shard}.*"))
            for path in (tmp_path / str(int(chain.tail[1:4]))).glob(f"shard-{shard}.*"):
                (again / path.name).write_bytes(path.read_bytes())
    (again / LAYOUT_NAME).unlink()
    service = GcsService(gcs_ports(send=print), again, incarnation=b"X000" + bytes(4))
    assert service.client.kv_list().result() == sorted(b"%d" % i for i in range(30))
    service.check()


def test_a_torn_record_is_cut_off_and_what_was_synced_stays(tmp_path):
    service = GcsService(gcs_ports(send=print), tmp_path, incarnation=b"N000" + bytes(4))
    for i in range(3):
        service.client.kv_put(b"k", b"%d" % i)
    log = tmp_path / log_name(KV_SHARD)
    whole = log.read_bytes()
    for size in range(8, len(whole)):
        log.write_bytes(whole[:size])
        state = Disk(tmp_path, KV_SHARD).load()
        assert state is not None and state.sequence <= 3
        state.check()
    log.write_bytes(b"another file")
    with pytest.raises(CorruptSnapshot, match="not a log"):
        Disk(tmp_path, KV_SHARD).load()


def test_a_long_log_becomes_a_snapshot(tmp_path, monkeypatch):
    monkeypatch.setattr("zray.gcs.replica.persistence.UPDATES_BYTES_MAX", 2000)
    service = GcsService(gcs_ports(send=print), tmp_path, incarnation=b"N000" + bytes(4))
    for i in range(100):
        service.client.record_job(i, {"padding": bytes(100)})
    assert os.path.getsize(tmp_path / log_name(0)) < 4000
    state = Disk(tmp_path).load()
    assert state is not None and len(state.tables.rows) == 100


def test_a_cluster_that_starts_again_has_no_objects_and_no_nodes_of_before(tmp_path):
    first = GcsService(gcs_ports(send=print), tmp_path, incarnation=b"N000" + bytes(4), node_id=node_id(0))
    first.admit({"node_id": node_id(0), "name": ""}, lambda *answer: None)
    oid = bytes(28)
    first.client.record_location(oid, {"nodes": [b"N000" + bytes(4)]})
    first.client.swap_owner(oid, None, b"owner")
    first.client.kv_put(b"k", b"v")
    again = GcsService(gcs_ports(send=print), tmp_path, incarnation=b"N001" + bytes(4), node_id=node_id(1))
    assert again.client.kv_get(b"k").result() == b"v"
    assert again.client.get_location(oid).result() is None and again.client.read_owner(oid).result() is None
    assert [(row["state"], row["reason"]) for _, row in again.client.list_nodes().result()] == [
        ("dead", "the cluster was restarted")]


def full_disk(monkeypatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("zray.gcs.replica.disk.os.fdatasync", refuse)


def test_a_lone_replica_with_a_full_disk_refuses_writes_and_answers_reads(tmp_path, monkeypatch):
    service = GcsService(gcs_ports(send=print), tmp_path, incarnation=b"N000" + bytes(4))
    service.client.kv_put(b"k", b"v")
    full_disk(monkeypatch)
    for _ in range(2):
        call = service.client.kv_put(b"k2", b"v")
        assert call.error.startswith(tables.DISK) and "No space left" in call.error and "bytes free" in call.error
    assert service.client.kv_get(b"k").result() == b"v"
    service.check()


def test_a_chain_goes_on_without_a_replica_whose_disk_is_full(tmp_path, monkeypatch):
    bench = ServiceBench(3, tmp_path)
    victim = bench.services[bench.chain[1]]
    victim.disk.disk(KV_SHARD).sync = lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    call = bench.put(next(iter(bench.services.values())), b"k")
    bench.settle()
    assert call.result() is False and victim.incarnation not in bench.chain and len(bench.chain) == 2
