"""Placement groups in one NodeMachine: what it sends for each event."""

from __future__ import annotations

import pytest

from tests.fakes.node_machine import CPU, NODE, MachineNode, only, spec
from zray.base.causes import Cause
from zray.base.ids import group_id
from zray.node.groups.table import GroupTable
from zray.sched.view import ClusterView
from zray.wire import messages as m

ME = NODE
DRIVER = b"driver00"


def group(number: int = 1) -> bytes:
    return group_id(ME, bytes(16), number)


class GroupNode(MachineNode):
    """A MachineNode with a driver and its workers up."""

    def __init__(self, cpus=2):
        super().__init__(cpus)
        self.bring_up()
        self.driver()

    def create(self, bundles, number=1, request=0, **more):
        about = {"bundles": bundles, "strategy": "PACK", "name": "", "namespace": "n", "detached": False, **more}
        return self.say(DRIVER, m.CreateGroup(group(number), about, request))

    def want_in(self, number=1, bundle=-1, key=1, want=1, demand=CPU):
        strategy = {"kind": "group", "group": group(number), "bundle": bundle, "capture": True}
        sent = self.say(DRIVER, m.LeaseKey(key, demand, {}, strategy, "f"))
        return sent + self.say(DRIVER, m.LeaseWant(key, want, 0))

    def row(self, number=1):
        return self.names.groups[group(number)]


@pytest.fixture
def node():
    return GroupNode()


def test_a_group_that_fits_is_created_within_the_event_that_asked_for_it(node):
    node.create([CPU, CPU])
    assert node.row()["state"] == "CREATED" and node.row()["nodes"] == [ME, ME] and node.row()["attempts"] == 1
    assert node.machine.scheduler.available()["CPU"] == 0 and not node.machine.placements


def test_watchers_hear_the_state_now_and_at_each_change(node):
    node.create([CPU, CPU, CPU])
    [pending] = only(node.say(DRIVER, m.WatchGroup(group())), m.GroupState)
    assert pending.state == "PENDING" and pending.cause["cause"] == Cause.GROUP_INFEASIBLE
    [removed] = only(node.say(DRIVER, m.RemoveGroup(group(), "by me")), m.GroupState)
    assert removed.state == "REMOVED" and removed.version > pending.version and removed.cause["detail"] == "by me"


def test_an_unknown_group_counts_as_removed_after_a_while(node):
    assert not only(node.say(DRIVER, m.WatchGroup(group(9))), m.GroupState)
    node.now = node.machine.next_deadline()
    node.machine.tick(node.now)
    [state] = only(node.take(), m.GroupState)
    assert state.state == "REMOVED" and "no such group" in state.cause["detail"]


def test_a_grant_in_a_bundle_says_so_and_comes_back_to_the_bundle(node):
    node.create([CPU])
    [grant] = only(node.want_in(), m.LeaseGrant)
    assert grant.assigned["group"] == [group(), 0, True]
    assert not only(node.want_in(key=2), m.LeaseGrant)
    [other] = only(node.want(key=3), m.LeaseGrant)  # outside of the group there is room
    assert "group" not in other.assigned and other.lease != grant.lease
    assert only(node.say(DRIVER, m.LeaseReturn(grant.lease)), m.LeaseGrant)[0].key == 2


def test_a_key_learns_why_its_group_has_no_place(node):
    node.create([{"CPU": 9 * 10_000}])
    [status] = only(node.want_in(), m.LeaseStatus)
    assert status.cause == Cause.GROUP_INFEASIBLE and "bundle 0 (CPU: 9) fits on no node" in status.detail


def test_a_demand_larger_than_its_bundle_is_infeasible(node):
    node.create([CPU])
    [status] = only(node.want_in(demand={"CPU": 20_000}), m.LeaseStatus)
    assert status.cause == Cause.INFEASIBLE and "bundle 0 of its placement group has CPU: 1" in status.detail


def test_removal_tells_the_owner_before_it_kills_the_worker(node):
    node.create([CPU])
    [grant] = only(node.want_in(), m.LeaseGrant)
    sent = node.say(DRIVER, m.RemoveGroup(group(), "by me"))
    [status] = only(sent, m.LeaseStatus)
    assert status.cause == Cause.GROUP_REMOVED and node.killed == [grant.worker]
    assert node.machine.scheduler.available()["CPU"] == 10_000, "the worker still runs"
    [died] = only(node.die(grant.worker, signal=9), m.WorkerDied)
    assert died.reason == Cause.GROUP_REMOVED.text
    assert node.machine.scheduler.available()["CPU"] == 20_000
    assert [s.cause for s in only(node.want_in(key=5), m.LeaseStatus)] == [Cause.GROUP_REMOVED]


def test_an_actor_of_a_removed_group_ends_and_is_not_restarted(node):
    node.create([CPU])
    strategy = {"kind": "group", "group": group(), "bundle": 0, "capture": False}
    node.say(DRIVER, m.CreateActor(b"a" * 16, spec(strategy=strategy, max_restarts=-1), 0))
    worker = node.machine.actors.actors[b"a" * 16].worker
    node.say(worker, m.ActorUp(b"a" * 16, 0, b""))
    node.say(DRIVER, m.WatchActor(b"a" * 16))
    [state] = only(node.say(DRIVER, m.RemoveGroup(group(), "by me")), m.ActorState)
    assert state.state == "DEAD" and state.cause["kind"] == "pg_removed" and node.killed == [worker]


def test_the_end_of_a_job_removes_its_groups_but_not_detached_ones(node):
    node.create([CPU], 1)
    node.create([CPU], 2, detached=True)
    node.say(DRIVER, m.Goodbye("done"))
    assert node.row(1)["state"] == "REMOVED" and node.row(2)["state"] == "CREATED"
    assert node.machine.scheduler.available()["CPU"] == 10_000


def test_a_name_is_claimed_once_and_released_at_removal(node):
    [first] = only(node.create([CPU], 1, request=5, name="x"), m.GroupReply)
    [second] = only(node.create([CPU], 2, request=6, name="x"), m.GroupReply)
    assert first.error == "" and second.error == "name_taken" and group(2) not in node.names.groups
    node.say(DRIVER, m.RemoveGroup(group(1), ""))
    [third] = only(node.create([CPU], 3, request=7, name="x"), m.GroupReply)
    assert third.error == ""


@pytest.mark.parametrize("bad", [
    {"bundles": []}, {"bundles": [{}]}, {"bundles": [{"CPU": -1}]}, {"bundles": [{"GPU": 15_000}]}, {"bundles": 3},
    {"bundles": [CPU], "strategy": "LOOSE"},
])
def test_a_malformed_group_is_refused(node, bad):
    about = {"bundles": [CPU], **bad}
    [reply] = only(node.create(about.pop("bundles"), request=3, **about), m.GroupReply)
    assert reply.error == "refused" and not node.machine.groups.table.groups


def test_a_strategy_that_names_no_group_is_refused(node):
    before = node.machine.counts["refused"]
    for strategy in ({"kind": "group", "group": b"short"}, {"kind": "group", "group": group(), "bundle": "0"},
                     {"kind": "group", "group": 3}):
        node.say(DRIVER, m.LeaseKey(7, CPU, {}, strategy, "f"))
    assert node.machine.counts["refused"] > before + 1 and not node.machine.scheduler.claims


def test_messages_of_rounds_that_never_were_do_no_harm(node):
    node.create([CPU])
    for message in (m.BundleReserved(group(), 9, True, ""), m.BundleReserved(group(5), 1, False, "x"),
                    m.BundleAck(group(), 1, "UNKNOWN"), m.BundleCommit(group(5), 1), m.BundleReturn(group(5), 1, True),
                    m.BundleReserve(group(6), 1, 1, [["x", {}]], False, ""), m.RemoveGroup(group(8), "")):
        node.say(ME, message)
    assert node.row()["state"] == "CREATED" and node.machine.scheduler.available()["CPU"] == 10_000


def test_an_early_return_acknowledged_late_does_not_stand_for_the_removal():
    sent = []

    class Ports:
        def view(self):
            view = ClusterView()
            view.add(ME, CPU)
            return view

        def send(self, node, message):
            sent.append(message)

        def node_id(self, node):
            return node.hex()

        def changed(self, state): ...
        def record(self, group, row): ...
        def reply(self, peer, message): ...

    table = GroupTable(Ports(), ME)
    table.create(DRIVER, group(), 1, {"bundles": [CPU], "strategy": "PACK"}, 0, 0.0)
    table.settle(0.0)
    table.reserved(ME, m.BundleReserved(group(), 1, False, "no"), 0.0)
    table.remove(group(), "by me", 0.0)
    assert sent[1:] == [m.BundleReturn(group(), 1, False), m.BundleReturn(group(), 1, True)]
    table.acked(ME, m.BundleAck(group(), 1, "RETURNED"), 0.1)
    table.tick(5.0)
    assert sent[-1] == m.BundleReturn(group(), 1, True) and len(sent) == 4, "said again"
    table.acked(ME, m.BundleAck(group(), 1, "REMOVED"), 5.1)
    assert table.next_deadline() is None
    table.check()


def test_an_idle_node_with_a_group_that_never_fits_has_nothing_to_wake_up_for(node):
    node.create([{"TPU": 10_000}])
    assert node.machine.groups.next_deadline() is None
