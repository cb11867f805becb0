"""Placement groups over several nodes, with lost, repeated and late messages, and nodes that die."""

from __future__ import annotations

import pytest

from tests.sim.group_cluster import GroupCluster, U
from zray.sim.network import Faults

CALM = Faults(slow=0.0)
STRATEGIES = ["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


def cpus(*amounts: int) -> list[dict[str, int]]:
    return [{"CPU": amount * U} for amount in amounts]


def state(cluster, group, at=None):
    home = cluster.groups[group][0]
    return home.machine.groups.table.groups[group]


def run(seed: int) -> GroupCluster:
    """Three to five nodes: groups come and go, are used, nodes die; then the network heals."""
    cluster = GroupCluster(seed, nodes=3 + seed % 3)
    random, net = cluster.random, cluster.net
    deaths = 0
    for _ in range(60):
        net.run_until(net.now + random.uniform(0.0, 0.3))
        node = random.choice(cluster.live)
        action = random.random()
        live = list(cluster.groups)
        if action < 0.3:
            cluster.create(node, cpus(*(random.randint(1, 3) for _ in range(random.randint(1, 3)))),
                           random.choice(STRATEGIES))
        elif action < 0.45 and live:
            node.hear(node.driver, _remove(random.choice(live)))
        elif action < 0.7:
            node.want(random.choice([None, *live]), random.randint(0, 2))
        elif action < 0.97:
            node.give_lease_back(random)
        elif deaths < 2 and len(cluster.live) > 2:
            deaths += 1
            cluster.kill(node)
    net.heal()
    for node in cluster.live:
        for key in list(node.keys):
            node.want(key, 0)
        while node.held:
            node.give_lease_back(random)
    net.run_until(net.now + 6.0)
    for node in cluster.live:
        while node.held:
            node.give_lease_back(random)
    net.run_until(net.now + 5.0)
    return cluster


def _remove(group):
    from zray.wire.messages import RemoveGroup

    return RemoveGroup(group, "by the test")


@pytest.mark.parametrize("seed", range(6))
def test_no_half_reservation_survives_any_order_of_messages_and_deaths(seed):
    cluster = run(seed)
    cluster.check_settled()
    for node in cluster.live:
        for group in list(cluster.groups):
            node.hear(node.driver, _remove(group))
    cluster.net.run_until(cluster.net.now + 3.0)
    for node in cluster.live:
        assert node.machine.scheduler.available() == node.total, "something is never given back"
        assert not node.machine.scheduler.bundles.rounds


def test_one_seed_is_one_schedule():
    assert run(5).net.trace_hash() == run(5).net.trace_hash()


def test_spread_uses_other_nodes_and_pack_one():
    cluster = GroupCluster(1, 3, CALM)
    home = cluster.live[0]
    spread = cluster.create(home, cpus(1, 1, 1), "SPREAD")
    cluster.net.run_until(0.5)
    pack = cluster.create(home, cpus(1), "PACK")
    cluster.net.run_until(1.0)
    assert len(set(state(cluster, spread).nodes)) == 3
    assert state(cluster, spread).state == state(cluster, pack).state == "CREATED"
    assert home.states[spread].state == "CREATED"


def test_bundles_of_a_dead_node_move_and_the_others_stay():
    cluster = GroupCluster(2, 4, CALM)
    home = cluster.live[0]
    group = cluster.create(home, cpus(1, 1, 1), "STRICT_SPREAD")
    cluster.net.run_until(0.5)
    before = list(state(cluster, group).nodes)
    victim = next(node for node in before if node != home.me)
    cluster.kill(cluster.nodes[victim])
    seen = []
    home.machine.groups.directory.on_change.append(lambda s: seen.append(s.state))
    cluster.net.run_until(3.0)
    after = state(cluster, group).nodes
    assert seen == ["RESCHEDULING", "CREATED"]
    assert victim not in after and len(set(after)) == 3
    assert [a for a, b in zip(after, before, strict=True) if b != victim] == [b for b in before if b != victim]
    cluster.check_settled()


def test_another_node_adopts_the_groups_of_a_dead_home_and_nothing_moves():
    cluster = GroupCluster(7, 3, CALM)
    home, other, third = cluster.live
    kept = cluster.create(home, cpus(1, 1), "SPREAD", detached=True)
    cluster.net.run_until(0.5)
    places = {node.me: node.machine.scheduler.bundles.in_use(kept) for node in (other, third)}
    other.want(kept, 1)
    cluster.net.run_until(1.0)
    held = list(other.held)
    cluster.kill(home)
    cluster.net.run_until(5.0)
    adopter = cluster.home(kept)
    found = adopter.machine.groups.table.groups[kept]
    assert adopter is not home and found.state == "CREATED" and set(found.nodes) <= {other.me, third.me}
    for node in (other, third):
        assert set(map(str, places[node.me])) <= set(map(str, node.machine.scheduler.bundles.in_use(kept)))
    assert set(held) <= set(other.held), "what ran in it runs on"
    late = third if adopter is other else other
    late.hear(late.driver, _remove(kept))
    cluster.net.run_until(8.0)
    assert cluster.names.rows[kept]["state"] == "REMOVED"
    cluster.check_settled()


def test_the_last_row_of_a_dead_home_comes_between_the_reading_and_the_adoption():
    cluster = GroupCluster(8, 3, CALM)
    home, *_ = cluster.live
    group = cluster.create(home, cpus(1, 1), "SPREAD", detached=True)
    cluster.net.run_until(0.5)
    written = dict(cluster.names.rows[group])
    listing = cluster.names.list_groups
    cluster.names.list_groups = lambda then: listing(
        lambda rows: then([(key, {**row, "state": "PENDING", "nodes": [b"", b""]}) for key, row in rows]))  # older ones
    cluster.kill(home)
    cluster.net.run_until(6.0)
    row = cluster.names.rows[group]
    assert row["home"] != home.me and row["state"] == "CREATED" and written["state"] == "CREATED"
    cluster.check_settled()


def test_a_removal_that_was_passed_on_to_a_home_already_dead_is_not_lost():
    for asks in range(2):  # the node that adopts the group, or another one; neither has heard of the group before
        cluster = GroupCluster(8, 3, CALM)
        home, *others = cluster.live
        group = cluster.create(home, cpus(1), "PACK", detached=True)
        cluster.net.run_until(0.5)
        cluster.kill(home)
        others[asks].hear(others[asks].driver, _remove(group))
        cluster.net.run_until(8.0)
        assert cluster.names.rows[group]["state"] == "REMOVED" and cluster.names.rows[group]["home"] != home.me
        cluster.check_settled()


def test_a_removal_while_the_home_is_dead_is_not_lost():
    cluster = GroupCluster(8, 3, CALM)
    home, other, third = cluster.live
    group = cluster.create(home, cpus(1, 1, 1), "SPREAD", detached=True)
    other.machine.groups.nodes_of(group, 0)
    third.machine.groups.nodes_of(group, 0)
    other.perform(), third.perform()
    cluster.net.run_until(0.5)
    adopt = cluster.names.list_groups
    held_back = []
    cluster.names.list_groups = held_back.append  # the control store is slow
    cluster.kill(home)
    cluster.net.run_until(2.0)
    third.hear(third.driver, _remove(group))
    cluster.net.run_until(2.5)
    [then] = held_back
    adopt(then)
    other.perform(), third.perform()
    cluster.net.run_until(6.0)
    assert cluster.names.rows[group]["state"] == "REMOVED"
    cluster.check_settled()


def test_bundles_that_the_row_of_a_dead_home_does_not_know_are_given_back_and_placed_anew():
    cluster = GroupCluster(10, 3, CALM)
    home, other, third = cluster.live
    group = cluster.create(home, cpus(1, 1, 1), "SPREAD", detached=True)
    cluster.net.run_until(0.0005)  # the rounds are on their way: the row says PENDING
    record, cluster.names.record_group = cluster.names.record_group, lambda group, row: None
    cluster.net.run_until(0.5)
    assert state(cluster, group).state == "CREATED" and cluster.names.rows[group]["state"] == "PENDING"
    cluster.names.record_group = record
    old = other.machine.scheduler.bundles.in_use(group) + third.machine.scheduler.bundles.in_use(group)
    cluster.kill(home)
    cluster.net.run_until(5.0)
    found = cluster.home(group).machine.groups.table.groups[group]
    assert old and found.state == "CREATED" and set(found.nodes) == {other.me, third.me}
    cluster.check_settled()


def test_groups_that_nobody_adopts_are_given_back():
    cluster = GroupCluster(9, 3, CALM)
    home = cluster.live[0]
    group = cluster.create(home, cpus(1, 1, 1), "SPREAD")
    cluster.net.run_until(0.5)
    cluster.names.list_groups = lambda then: None  # it never answers
    cluster.kill(home)
    cluster.net.run_until(15.0)
    for node in cluster.live:
        assert node.machine.scheduler.available() == node.total
        assert node.machine.groups.nodes_of(group, 0) is None


def test_a_group_that_lost_a_node_waits_for_another_and_keeps_the_rest():
    cluster = GroupCluster(3, 2, CALM)
    home, other = cluster.live
    group = cluster.create(home, cpus(1, 1), "STRICT_SPREAD")
    cluster.net.run_until(0.5)
    cluster.kill(other)
    cluster.net.run_until(3.0)
    found = state(cluster, group)
    assert found.state == "RESCHEDULING" and found.nodes.count(b"") == 1
    assert "a node of its own for each of 2 bundles" in found.cause["detail"]
    assert home.machine.groups.nodes_of(group, found.nodes.index(b"")) is None
    assert home.machine.groups.nodes_of(group, -1) == [home.me]


def test_nodes_that_did_not_create_a_group_know_where_its_bundles_are():
    cluster = GroupCluster(4, 3, CALM)
    home, other, _ = cluster.live
    group = cluster.create(home, cpus(1, 1, 1), "SPREAD")
    assert other.machine.groups.nodes_of(group, 0) is None
    heard = []
    other.machine.groups.directory.on_change.append(heard.append)
    other.perform()
    cluster.net.run_until(1.0)
    assert heard and sorted(other.machine.groups.nodes_of(group, -1)) == sorted(state(cluster, group).nodes)
    other.hear(other.driver, _remove(group))
    cluster.net.run_until(2.0)
    assert heard[-1].state == "REMOVED" and other.machine.groups.nodes_of(group, 0) is None
    cluster.check_settled()


def test_a_key_waits_while_its_group_has_no_place_and_runs_when_it_has():
    cluster = GroupCluster(6, 2, CALM)
    home, _ = cluster.live
    whole = home.total["CPU"] // U
    home.want(None, whole)  # the home is full
    group = cluster.create(home, cpus(whole), "STRICT_PACK")
    cluster.gossip.clear()  # and knows of no other node
    cluster.gossip[home.me] = home.total, home.machine.scheduler.available()
    home.want(group, 1)
    held = list(home.held)
    cluster.net.run_until(0.04)
    assert state(cluster, group).state == "PENDING" and len(home.held) == whole
    for lease in held:
        home.held.remove(lease)
        from zray.wire.messages import LeaseReturn

        home.hear(home.driver, LeaseReturn(lease))
    cluster.net.run_until(0.045)
    assert state(cluster, group).state == "CREATED" and len(home.held) == 1
