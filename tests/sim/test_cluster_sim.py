"""Owners, workers and a node under delay, loss, duplication, crashes and cancellation, in simulated time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fuzz.command import past_failures
from fuzz.sim_cluster import run, twice
from zray.base.ids import same_node
from zray.gcs.configuration.membership import LATE_MAX, Membership
from zray.gcs.replica.tables import NODES
from zray.sim import cluster as cluster_module, leftovers, programs
from zray.sim.cluster import SimCluster
from zray.sim.driver import SimDriver
from zray.sim.failure import Violation
from zray.sim.network import Faults
from zray.sim.node import SimNode
from zray.sim.oracle import Oracle
from zray.sim.plan import CLUSTER_FAULTS_S, NODE_FAULTS, OUTAGE_S, SIM_NODE_TIMEOUT_S, Plan

SEEDS = 200  # `python -m fuzz.sim_cluster --seeds 200:10000` runs more
TWICE = 20  # of them
SEEDS_A_TEST = 10
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_every_task_has_its_value_or_its_error_and_nothing_is_left_behind(first):
    for seed in range(first, first + SEEDS_A_TEST):
        (twice if seed < TWICE else run)(seed)


@pytest.mark.parametrize("seed", past_failures("cluster"))
def test_a_seed_that_found_a_bug_finds_none_now(seed):
    run(seed)


def test_one_seed_is_one_schedule():
    hashes = [run(seed).net.trace_hash() for seed in (5, 5, 6)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_seed_replays_in_another_process_whatever_its_hashes_of_bytes():
    script = """
import os
os.getpid = lambda: 1000  # an owner's text of a failed argument has the id of the process, which is a real one here
from zray.sim.cluster import SimCluster
for seed in (3, 5, 22, 9234):
    cluster = SimCluster(seed)
    cluster.run()
    print(cluster.plan.nodes, cluster.net.trace_hash())
"""
    found = set()
    for salt in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": salt}, cwd=ROOT,
                              capture_output=True, text=True, check=True, timeout=60)
        found.add(done.stdout)
    assert len(found) == 1


def test_a_thousand_tasks_drained_one_by_one_leave_no_queue_without_a_lease():
    cluster = run(1, Plan(drivers=2, cpus=2, steps=1, burst=1000, actors=False))
    assert cluster.oracle.seen >= 2 * 2 * 1000


def test_without_faults_each_task_runs_once_and_no_error_is_excused():
    for seed in range(20):
        cluster = run(seed, Plan(drivers=2, steps=8, faults=Faults(0.0001, 0.001), actors=False))
        crashing = {task for task, program in cluster.oracle.programs.items() if program[0] == "crash"}
        if not cluster.oracle.happened["crash"]:
            assert all(len(runs) == 1 for task, runs in cluster.oracle.runs.items() if task not in crashing)


def several(nodes: int = 3, **changes: Any) -> Plan:
    """A plan of a quiet network with several nodes."""
    return Plan(**{"nodes": nodes, "drivers": 3, "cpus": 1, "steps": 8, "pace": 0.8, "faults_s": CLUSTER_FAULTS_S,
                   "faults": Faults(0.0001, 0.001), **changes})


def test_tasks_and_calls_go_to_other_nodes():
    elsewhere = {"task": 0, "call": 0}
    for seed in range(6):
        cluster = run(seed, several(steps=16, detached=True, groups=True))
        for worker, owner in cluster.oracle.served:
            if not same_node(worker.incarnation, owner):
                elsewhere["call" if worker.actor is not None else "task"] += 1
    assert elsewhere["task"] > 50
    assert elsewhere["call"] > 5


@pytest.mark.parametrize("what", sorted(set(NODE_FAULTS)))
def test_each_disaster_is_survived(what):
    for seed in range(3):
        cluster = run(seed, several(4, node_faults=(what, what), detached=True))
        assert cluster.nodes_made == (6 if what == "join" else 4)


def test_nodes_that_were_cut_off_until_they_were_declared_dead_are_back_and_nothing_is_doubled():
    back = 0
    for seed in range(8):
        cluster = run(seed, several(2 + seed % 4, outages=2, rejoins=True, detached=True, groups=seed % 2 > 0,
                                    faults_s=CLUSTER_FAULTS_S + OUTAGE_S))
        assert not cluster.returning
        assert len(cluster.returned) >= len(cluster.oracle.condemned), "each has become another node"
        back += len(cluster.returned)
    assert back >= 6


def test_what_is_bound_to_a_node_ends_with_it(monkeypatch):
    roots = []
    excused = Oracle._excused

    def note(oracle, oid, right, value):
        roots.append(value[2].get("root", value[1]) if type(value[2]) is dict else value[1])
        excused(oracle, oid, right, value)

    monkeypatch.setattr(Oracle, "_excused", note)
    for seed in range(8):
        run(seed, several(node_faults=("kill", "leave"), steps=16, bound=True))
    assert roots.count("unschedulable") > 0


def test_a_node_that_stood_still_for_too_long_is_declared_dead_and_ends():
    dead = 0
    for seed in range(8):
        cluster = run(seed, several(node_faults=("freeze", "freeze")))
        assert not cluster.oracle.condemned & cluster.nodes.keys()
        dead += len(cluster.oracle.condemned)
    assert dead > 0


def test_a_daemon_that_is_late_while_its_process_answers_is_not_declared_dead_and_nothing_is_lost():
    """No excuse for any error: its turns are late by up to ten node time-outs, that is all."""
    starved = 0
    for seed in range(12):
        cluster = SimCluster(seed, several(2 + seed % 4, starved=2, detached=True, groups=True))
        starve = cluster.disasters._starve

        def count(node: SimNode, starve=starve) -> None:
            nonlocal starved
            starved += 1
            starve(node)

        cluster.disasters._starve = count
        cluster.run()
        assert not cluster.oracle.condemned and not cluster.oracle.happened["node"]
    assert starved >= 12


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("what", ["crowd", "stall"])
def test_a_crowded_machine_and_a_process_that_stands_still_are_late_and_nothing_is_lost(what, first):
    """No excuse for any error: CPU starvation, a storm of forks, long pauses of an interpreter."""
    happened = 0
    for seed in range(first, first + 4):
        plan = {"crowds": 2} if what == "crowd" else {"stalls": 4}
        cluster = SimCluster(seed, several(1 + seed % 5, detached=True, groups=True, **plan))
        hit = getattr(cluster.disasters, f"_{what}")

        def count(node: SimNode, hit=hit) -> None:
            nonlocal happened
            happened += 1
            hit(node)

        setattr(cluster.disasters, f"_{what}", count)
        cluster.run()
        assert not cluster.oracle.condemned and not cluster.oracle.happened["node"]
    assert happened >= 4


def test_when_memory_runs_out_workers_end_and_nothing_else():
    ended = 0
    for seed in range(8):
        cluster = SimCluster(seed, several(1 + seed % 4, squeezes=2, detached=True, groups=seed % 2 > 0,
                                           task_s_max=0.2))
        cluster.run()
        ended += sum(node.machine.counts["memory_ends"] for node in cluster.nodes.values())
    assert ended >= 8


def test_a_daemon_that_is_late_for_longer_than_the_bound_is_taken_for_stuck():
    cluster = SimCluster(1, several(3, drivers=0, steps=0))
    cluster.net.run_until(1.0)
    *_, node = cluster.nodes.values()
    node.pause()
    bound = LATE_MAX * SIM_NODE_TIMEOUT_S
    cluster.net.run_until(1.0 + 0.9 * bound)
    assert not cluster.oracle.condemned
    cluster.net.run_until(1.0 + 1.1 * bound)
    assert cluster.oracle.condemned == {node.incarnation}
    node.resume()
    assert cluster.net.run_until(60.0, lambda: not node.alive), "it learns so and ends"


def test_the_checks_notice_a_late_node_that_is_declared_dead(monkeypatch):
    monkeypatch.setattr(Membership, "answers", lambda self, node: None)
    with pytest.raises(Violation, match="declared dead while its process answered"):
        for seed in range(12):
            run(seed, several(4, starved=2))


def test_the_history_of_the_control_store_is_checked():
    """A write that was answered for and is not there is noticed."""
    cluster = run(2, several())
    rows = leftovers.rows(cluster)
    cluster.history.check(rows)
    lost = next(key for key in rows if key.startswith(NODES))
    with pytest.raises(AssertionError, match="contradicts itself"):
        cluster.history.check({key: value for key, value in rows.items() if key != lost})


class Deaf(SimCluster):
    """A cluster in which a declared-dead node is listened to: the checks must notice."""

    def stepped(self, process: Any) -> None:
        if isinstance(process, SimNode):
            process.mesh._peers.refused.clear()
            process.machine.context.ends.nodes.clear()
        super().stepped(process)


def test_the_checks_notice_a_node_that_speaks_after_its_death():
    with pytest.raises((Violation, AssertionError)):
        for seed in range(8):
            Deaf(seed, several(node_faults=("freeze", "isolate"))).run()


class PassesOn(SimDriver):
    """Gives a value with references inside to a task elsewhere, lets go at once; the task keeps what is inside."""

    def _main(self):
        for _ in range(20):
            give = self.submit(["give", self.random.randrange(1 << 20), 0.0, [["value", 1, 0.0, []]]])[0]
            yield "wait", [give.record]
            take = self.submit(["take", self.random.randrange(1 << 20), 0.0, []], [], [give], cpus=2)[0]
            give.drop()
            yield "wait", [take.record]
            self.refs_held.append(take)
        self.finished = True


def test_a_reference_taken_out_of_a_borrowed_value_outlives_that_value(monkeypatch):
    """The hold on the inner object takes one hop, the end of the outer one two, and a slow network reverses them."""
    monkeypatch.setattr(cluster_module, "SimDriver", PassesOn)
    monkeypatch.setattr(cluster_module, "CHECK_EVERY", 3)
    for seed in range(5):
        run(seed, Plan(drivers=1, cpus=3, faults=Faults(0.00005, 0.003, slow=0.3)))


class Forgetful(SimCluster):
    """A cluster in which owners forget a borrower's hold: the checks must notice."""

    def stepped(self, process) -> None:
        if process in self.drivers:
            for entry in list(process.refs.owned.values()):
                for holder in list(entry.holders or ()):
                    process.refs._remove_hold(entry, holder)
        super().stepped(process)


def test_the_checks_notice_an_owner_that_forgets_its_borrowers():
    with pytest.raises(Violation):
        for seed in range(30):
            Forgetful(seed, Plan(steps=12, depth=1)).run()


def test_programs_say_their_value_without_running():
    assert programs.expected(["raise", 1, 0.0, []], [], []) == programs.FAILS
    assert programs.expected(["nested", 1, 0.0, [["raise", 1, 0.0, []]]], [], []) == programs.FAILS
    assert programs.expected(["many", 1, 0.0, [3]], [], []) == [programs.mix(1, i) for i in range(3)]
    assert programs.expected(["take", 1, 0.0, []], [], [5]) == programs.mix(1, 5)
