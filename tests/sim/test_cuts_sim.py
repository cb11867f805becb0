"""What becomes of a node that is cut off or dies, of what was asked of it and what it had: whole nodes, simulated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.quiet_driver import Quiet
from zray.owner.deaths import WITHOUT_NOTICE_S
from zray.sim import cluster as cluster_module, leftovers
from zray.sim.cluster import SimCluster
from zray.sim.network import Faults
from zray.sim.node import MEMORY_BYTES, SimNode
from zray.sim.plan import CLUSTER_FAULTS_S, Plan


def quiet(seed: int, nodes: int, drivers: int = 0, **more: Any) -> SimCluster:
    """A cluster whose nodes all know each other."""
    cluster = SimCluster(seed, Plan(nodes=nodes, drivers=drivers, cpus=1, steps=0, faults_s=CLUSTER_FAULTS_S,
                                    faults=Faults(0.0001, 0.001), **more))
    cluster.net.run_until(1.0)
    assert leftovers.settled(cluster)
    return cluster


def cut_off(node: SimNode) -> None:
    for other in node.around.serving():
        if other is not node:
            node.wire.part(other.incarnation, node.incarnation)


@pytest.mark.parametrize("seconds", [1.0, 5.0, 9.9, 15.0])
@pytest.mark.parametrize("nodes", [2, 3])
def test_a_node_that_was_cut_off_until_it_was_declared_dead_hears_of_it(nodes, seconds):
    """Whether its connections outlasted the cut or not."""
    cluster = quiet(nodes, nodes)
    net = cluster.net
    *others, lost = cluster.nodes.values()
    cut_off(lost)
    net.run_until(net.now + seconds)
    assert lost.incarnation in cluster.oracle.condemned
    for node in others:
        cluster.wire.mend(node.incarnation, lost.incarnation)
    assert net.run_until(net.now + 60.0, lambda: not lost.alive)


BACK_S = 5.0  # from the end of a cut to the end of the join


@pytest.mark.parametrize("seconds", [1.0, 5.0, 9.9, 15.0])
@pytest.mark.parametrize("nodes", [2, 3])
def test_a_node_that_was_cut_off_until_it_was_declared_dead_is_back_soon_after_and_takes_work(
        monkeypatch, nodes, seconds):
    monkeypatch.setattr(cluster_module, "SimDriver", Quiet)
    cluster = quiet(nodes, nodes, drivers=1, rejoins=True)
    net = cluster.net
    driver, = cluster.drivers
    *others, lost = cluster.nodes.values()
    assert driver.host in others
    cut_off(lost)
    net.run_until(net.now + seconds)
    assert lost.incarnation in cluster.oracle.condemned
    for node in others:
        cluster.wire.mend(node.incarnation, lost.incarnation)
    assert net.run_until(net.now + BACK_S, lambda: bool(cluster.returned) and leftovers.settled(cluster))
    assert not lost.alive and lost.incarnation not in cluster.nodes
    back = cluster.nodes[cluster.returned[0]]
    strategy = {"kind": "affinity", "node": back.node_id, "soft": False}
    refs = driver.submit(["value", 5, 0.01, []], strategy=strategy)
    assert net.run_until(net.now + 1.0, lambda: all(ref.ready for ref in refs))
    assert [worker.host for worker, _ in cluster.oracle.served] == [back]
    for ref in refs:
        ref.drop()
    cluster.run()


def test_an_actor_that_moved_while_its_node_was_cut_off_is_not_doubled_when_that_is_back(monkeypatch):
    monkeypatch.setattr(cluster_module, "SimDriver", Quiet)
    cluster = quiet(7, 3, drivers=3, rejoins=True)
    net, handles = cluster.net, []
    home = next(node for node in cluster.nodes.values() if node.incarnation != cluster.drivers[0].node)
    creator, = (driver for driver in cluster.drivers if driver.host is home)
    creator.create_detached("one", -1, handles.append)
    net.run_until(3.0)
    assert state(home, handles[0].actor) == "ALIVE"
    cut_off(home)
    net.run_until(net.now + 5.0)
    for node in cluster.serving():
        if node is not home:
            cluster.wire.mend(node.incarnation, home.incarnation)
    assert net.run_until(net.now + BACK_S, lambda: bool(cluster.returned) and leftovers.settled(cluster))
    actor = handles[0].actor
    assert not home.alive, "and with it the worker of its life of the actor"
    alive = [worker for worker in cluster.workers.values() if worker.actor is not None and worker.actor.actor == actor]
    assert len(alive) == 1 and alive[0].host is not home
    cluster.run()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("nodes", [2, 3])
def test_a_kill_outlives_the_home_that_it_was_asked_of(monkeypatch, nodes, heard, seed):
    """The home of a detached actor dies before it hears of the kill, or before others hear that it was done."""
    monkeypatch.setattr(cluster_module, "SimDriver", Quiet)
    cluster = quiet(seed, nodes, drivers=2)
    net, handles = cluster.net, []
    killer, creator = sorted(cluster.drivers, key=lambda driver: driver.incarnation)
    creator.create_detached("one", -1, handles.append)
    net.run_until(2.0)
    killer.look_up("one", handles.append)
    net.run_until(3.0)
    home, actor = cluster.nodes[creator.node], handles[1].actor
    assert killer.node != creator.node and state(home, actor) == "ALIVE"

    if not heard:
        cut_off(home)
    killer.kill_actor(handles[1], no_restart=True)
    if heard:
        assert net.run_until(4.0, lambda: state(home, actor) == "DEAD")
        cut_off(home)
    net.run_until(net.now + 2.0)
    assert home.incarnation in cluster.oracle.condemned
    cluster.oracle.names.clear()  # so that nobody kills it once more
    cluster.run()


def state(node: SimNode, actor: bytes) -> Any:
    return node.machine.actors.actors[actor].state


@pytest.mark.parametrize("later_s", [0.0, 0.002, 0.004, 0.006])
def test_actors_are_adopted_although_the_adopter_dies_too(monkeypatch, later_s):
    """The lowest node adopts the actors of a dead home; when it dies before it has, the next one does."""
    monkeypatch.setattr(cluster_module, "SimDriver", Quiet)
    cluster = quiet(7, 4, drivers=4)
    net, handles = cluster.net, []
    lowest, *others = cluster.nodes.values()
    home, = (node for node in others if node.incarnation not in lowest.gcs.config.voters)
    creator, = (driver for driver in cluster.drivers if driver.host is home)
    creator.create_detached("one", -1, handles.append)
    net.run_until(2.0)
    assert state(home, handles[0].actor) == "ALIVE"
    cluster.end_node(home, "killed")
    net.run_until(net.now + later_s)
    cluster.end_node(lowest, "killed")
    cluster.run()


@pytest.mark.parametrize("seed", range(8))
def test_a_process_of_another_node_that_ends_is_known_to_have_before_anybody_loses_patience(monkeypatch, seed):
    """Whatever is heard first: that its connection closed, that it is gone, or where it could be dialled again."""
    monkeypatch.setattr(cluster_module, "SimDriver", Quiet)
    cluster = quiet(seed, 2, drivers=1)
    net = cluster.net
    driver, = cluster.drivers
    other, = (node for node in cluster.nodes.values() if node is not driver.host)
    strategy = {"kind": "affinity", "node": other.node_id, "soft": False}
    refs = [ref for x in range(5) for ref in driver.submit(["crash", x, 0.01, [1]], strategy=strategy)]
    assert net.run_until(net.now + WITHOUT_NOTICE_S, lambda: all(ref.ready for ref in refs))
    assert cluster.oracle.happened["crash"] == 5
    for ref in refs:
        ref.drop()
    cluster.run()


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_task_whose_worker_ended_to_free_memory_runs_again_and_asks_for_what_it_held(monkeypatch, nodes):
    monkeypatch.setattr(cluster_module, "SimDriver", Quiet)
    cluster = quiet(1, nodes, drivers=1)
    net = cluster.net
    driver, = cluster.drivers
    node = next(node for node in cluster.nodes.values() if nodes == 1 or node is not driver.host)
    strategy = {"kind": "affinity", "node": node.node_id, "soft": False}
    refs = driver.submit(["value", 5, 1.0, []], strategy=strategy)
    net.run_until(net.now + 0.5)
    node.memory_used = MEMORY_BYTES
    assert net.run_until(net.now + 1.0, lambda: node.machine.counts["memory_ends"] > 0)
    node.memory_used = 0
    assert net.run_until(net.now + 3.0, lambda: all(ref.ready for ref in refs))
    assert [attempt for [run] in [cluster.oracle.runs.values()] for _, attempt in run] == [0, 1]
    assert sum("memory" in key.demand for key in driver.submitter.keys.values()) == 1
    for ref in refs:
        ref.drop()
    cluster.run()
