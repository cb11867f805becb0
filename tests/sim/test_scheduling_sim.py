"""Whole clusters of production schedulers under simulated time: what is promised about scheduling holds in any mix.

A seed makes a cluster, owners on several nodes with keys of all strategies, actors, deaths and drains.  Every machine
checks itself after every step (resources conserved, nothing oversubscribed but by CPU that woke up, shares add up), and
an auditor looks every 5 ms whether something waits that a node could take at once.
"""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.placement import blind, bottom_up, locality, verdict
from zray.sched.policies.labels import satisfies
from zray.sched.resources import UNIT
from zray.sim.scheduling import SchedulingCluster

GOSSIP_S = 0.1
ROUND_TRIP_S = 0.005
AUDIT_S = 0.005
# Between a node becoming free and its taking what waits elsewhere lie its word, and the way there and back.
IDLE_BESIDE_WANT_S_MAX = GOSSIP_S + ROUND_TRIP_S + 2 * AUDIT_S
STRATEGIES = [{}, {}, {}, {"kind": "spread"}, {"kind": "labels", "hard": {"zone": ["in", "b"]}},
              {"labels": {"zone": "a"}}]


def mixed_cluster(seed: int, *, deaths: bool) -> SchedulingCluster:
    random = Random(seed)
    count = random.randint(2, 8)
    totals = [{"CPU": random.choice((1, 2, 4)), "disk": random.choice((0, 2))} for _ in range(count)]
    labels = [{"zone": random.choice("ab")} for _ in range(count)]
    cluster = SchedulingCluster(totals, labels, seed=seed, checking=True)
    for _ in range(random.randint(1, 4)):
        owner = cluster.owner(random.randrange(count), job=random.randint(1, 2))
        for _ in range(random.randint(1, 3)):
            demand = random.choice(({"CPU": 1}, {"CPU": 0.5}, {"CPU": 2}, {"CPU": 1, "disk": 1}, {"disk": 1}))
            strategy = random.choice(STRATEGIES)
            if random.random() < 0.2:
                node, soft = random.choice(cluster.nodes).name, random.random() < 0.7
                strategy = {"kind": "affinity", "node": node, "soft": soft}
            elif random.random() < 0.1:
                strategy = {"locality": random.choice(cluster.nodes).name}
            tasks = [random.choice((0.001, 0.01, 0.05)) for _ in range(random.randint(1, 60))]
            cluster.net.call_at(random.uniform(0, 0.5), submit, cluster, owner, tasks, demand, strategy)
    for token in range(random.randint(0, 3)):
        cluster.net.call_at(random.uniform(0, 0.5), cluster.actor, 0, token, {"CPU": 1}, random.choice(STRATEGIES))
    if deaths:
        cluster.net.call_at(random.uniform(0, 0.6), cluster.kill, count - 1)
        if count > 3:
            cluster.net.call_at(random.uniform(0, 0.6), cluster.drain, count - 2)
    return cluster


def submit(cluster, owner, tasks, demand, strategy) -> None:
    if owner.alive:
        owner.submit(tasks, demand, strategy)


class Auditor:
    """Since when has a want waited while some node could take it?  ``worst`` seconds, and of what."""

    def __init__(self, cluster: SchedulingCluster) -> None:
        self.cluster = cluster
        self.since: dict = {}
        self.worst, self.what = 0.0, None
        self.look()

    def look(self) -> None:
        now, found = self.cluster.net.now, set()
        for owner in self.cluster.owners.values():
            for key in owner.keys.values() if owner.alive else ():
                entry = owner.node.scheduler.spillback.entries[owner.name, key.number]
                if not entry.outstanding or any(share.promised for share in entry.shares.values()):
                    continue
                for node in self.cluster.nodes:
                    if could_take(node, key.demand, key.strategy, self.cluster):
                        found.add((owner.name, key.number, node.index))
        for pair in found:
            first = self.since.setdefault(pair, now)
            if now - first > self.worst:
                self.worst, self.what = now - first, (now, pair)
        for pair in [pair for pair in self.since if pair not in found]:
            del self.since[pair]
        self.cluster.net.call_at(now + AUDIT_S, self.look)


def could_take(node, demand, strategy, cluster) -> bool:
    local = node.scheduler.local
    if not node.alive or node.scheduler.draining or local._saving is not None:
        return False
    if strategy.get("kind") == "affinity":
        there = cluster.by_name[strategy["node"]]
        if node is not there and (there.alive or not strategy["soft"]):
            return False
    if "locality" in strategy and node.name != strategy["locality"]:
        return False  # it may wait for that one
    if not satisfies(node.labels, strategy.get("labels")) or not satisfies(node.labels, strategy.get("hard")):
        return False
    free = local.available()
    return all(free.get(name, 0) >= value for name, value in demand.items())


def feasible(cluster: SchedulingCluster, demand, strategy) -> bool:
    for node in cluster.nodes:
        if not node.alive or node.scheduler.draining:
            continue
        if not satisfies(node.labels, strategy.get("labels")) or not satisfies(node.labels, strategy.get("hard")):
            continue
        if strategy.get("kind") == "affinity" and not strategy["soft"] and node.name != strategy["node"]:
            continue
        if all(node.total.get(name, 0) >= value for name, value in demand.items()):
            return True
    return False


@pytest.mark.parametrize("seed", range(12))
def test_everything_feasible_runs_once_and_nothing_idles_beside_a_want(seed):
    cluster = mixed_cluster(seed, deaths=False)
    auditor = Auditor(cluster)
    cluster.run_until(20.0, lambda: cluster.net.now > 0.6 and waits_only_for_the_impossible(cluster))
    assert waits_only_for_the_impossible(cluster), "somebody starves"
    assert auditor.worst <= IDLE_BESIDE_WANT_S_MAX, auditor.what
    assert set(cluster.completed.values()) <= {1}, "a task ran twice without a failure"
    cluster.check()


def waits_only_for_the_impossible(cluster: SchedulingCluster) -> bool:
    held = dict.fromkeys(range(len(cluster.nodes)), 0)
    for index in cluster.actors.values():
        held[index] += 1
    for owner in cluster.owners.values():
        for key in owner.keys.values() if owner.alive else ():
            if (key.queue or key.running) and feasible(cluster, key.demand, key.strategy):
                rest = [node for node in cluster.nodes if node.alive and not node.scheduler.draining
                        and node.total["CPU"] - held[node.index] * UNIT >= key.demand.get("CPU", 0)]
                if rest == [node for node in cluster.nodes if node.alive and not node.scheduler.draining]:
                    return False  # no actor is in its way
    return True


@pytest.mark.parametrize("seed", range(12))
def test_what_a_dead_or_draining_node_owed_runs_elsewhere(seed):
    cluster = mixed_cluster(seed, deaths=True)
    cluster.run_until(20.0, lambda: cluster.net.now > 1.2 and waits_only_for_the_impossible(cluster))
    assert waits_only_for_the_impossible(cluster), "somebody starves"
    assert all(times == 1 for times in cluster.completed.values())
    cluster.check()


@pytest.mark.parametrize("seed", range(3))
def test_one_seed_one_schedule(seed):
    def run() -> str:
        cluster = mixed_cluster(seed, deaths=True)
        cluster.run_until(3.0)
        return cluster.net.trace_hash()

    assert run() == run()


# ------------------------------------------------------------------ studies, in small


def test_one_driver_fills_a_cluster_evenly():
    cpus, tasks = [4] * 21, [0.01] * 4000
    runs, _ = bottom_up(cpus, tasks)
    assert len(runs) == len(tasks)
    result = verdict(runs, cpus, tasks)
    assert result["jain_min"] >= 0.99 and result["ratio"] <= 1.15, "of these the ramp is a tenth"


def test_uneven_nodes_get_what_they_can_run_and_blind_placement_does_not_see_that():
    cpus, tasks = [2, 8, 4, 2, 8], [0.005, 0.05, 0.01] * 400
    ours, _ = bottom_up(cpus, tasks)
    blindly, _ = blind(cpus, tasks, lambda position: position % 5)
    ratio = verdict(ours, cpus, tasks)["ratio"]
    assert ratio <= 1.15 and verdict(blindly, cpus, tasks)["ratio"] > 1.5 * ratio


def test_tasks_go_where_their_bytes_are_and_elsewhere_only_when_that_is_sooner():
    aware, unaware = locality(10_000_000, 200, True), locality(10_000_000, 200, False)
    assert unaware["mean_s"] >= 10 * aware["mean_s"]
    small = locality(1000, 200, True)
    assert small["makespan_s"] <= 1.2 * locality(1000, 200, False)["makespan_s"], "few bytes hold nobody up"


def test_forty_nodes_learn_of_each_other_by_rumour_and_are_filled():
    cluster = SchedulingCluster([{"CPU": 2}] * 40, seed=5)
    cluster.owner(0).submit([0.5] * 80, {"CPU": 1})
    assert cluster.run_until(3.0, cluster.done)
    assert max(end for _, _, end in cluster.runs) <= 0.75 and len({node for node, _, _ in cluster.runs}) == 40
    cluster.run_until(cluster.net.now + 2.0)
    for node in cluster.nodes:
        view = node.scheduler.view
        assert all(view.named(view.row_of[other.name]) == other.total for other in cluster.nodes)
    cluster.check()


def test_a_hot_nodes_queue_moves_when_others_become_free():
    cluster = SchedulingCluster([{"CPU": 1}] * 4, seed=2)
    for node in range(1, 4):
        cluster.owner(node, job=node + 1).submit([0.3], {"CPU": 1})
    cluster.run_until(0.1)
    cluster.owner(0).submit([0.3] * 4, {"CPU": 1})
    assert cluster.run_until(5.0, cluster.done)
    assert len({node for node, _, _ in cluster.runs[3:]}) == 3, "two ran at home, two moved"
    # The others are free at 0.5 s, when their owners give back what was idle for 0.2 s; at home alone it took 1.3 s.
    assert max(end for _, _, end in cluster.runs) <= 0.5 + GOSSIP_S + ROUND_TRIP_S + 0.3 + 0.01
