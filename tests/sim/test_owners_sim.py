"""What owners do in whole simulated nodes: results that are lost with a node, maps, exceptions that are retried."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.quiet_driver import Quiet
from zray.base.causes import Cause
from zray.core.waits.why import explain_record
from zray.sim import cluster as cluster_module, leftovers
from zray.sim.cluster import SimCluster
from zray.sim.driver import SimDriver
from zray.sim.network import Faults
from zray.sim.plan import CLUSTER_FAULTS_S, Plan
from zray.wire import messages as m

STORED = [x for x in range(200) if x % 16 and (17 * 1_000_003 + x) % (1 << 40) % 4 == 1]  # salts of results in a store


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(cluster_module, "SimDriver", Quiet)

    def make(seed: int, nodes: int, **plan: Any) -> tuple[SimCluster, Quiet]:
        cluster = SimCluster(seed, Plan(nodes=nodes, drivers=1, steps=0, faults_s=CLUSTER_FAULTS_S,
                                        faults=Faults(0.0001, 0.001), **plan))
        cluster.net.run_until(1.0)
        assert leftovers.settled(cluster)
        driver, = cluster.drivers
        return cluster, driver

    return make


def run_until(cluster: SimCluster, refs: list[Any]) -> None:
    assert cluster.net.run_until(cluster.net.now + 30.0, lambda: all(ref.ready for ref in refs))


def far_from(cluster: SimCluster, driver: SimDriver) -> dict[str, Any]:
    """A strategy: on another node than the driver's."""
    node = next(node for node in cluster.nodes.values() if node is not driver.host)
    return {"kind": "affinity", "node": node.node_id, "soft": True}


@pytest.mark.parametrize("seed", range(4))
def test_results_that_are_lost_with_their_node_are_made_again_with_what_they_need(quiet, seed):
    cluster, driver = quiet(seed, 3, stored=True, loses=True)
    far = far_from(cluster, driver)
    firsts = [driver.submit(["value", x, 0.0, []], strategy=far)[0] for x in STORED[:12]]
    seconds = [driver.submit(["value", 16 * x + 1, 0.0, []], [first], strategy=far)[0]
               for x, first in enumerate(firsts)]
    run_until(cluster, firsts + seconds)
    assert all(type(ref.record.value) is list and ref.record.value[5] != driver.node for ref in firsts)
    for ref in firsts[:6]:
        ref.drop()  # their recipes are all that is left of them
    lost = next(node for node in cluster.nodes.values() if node.node_id == far["node"])
    cluster.end_node(lost, "killed", power=True)
    cluster.net.run_until(cluster.net.now + 3.0)
    assert cluster.oracle.happened["lost"]

    # A task that needs lost results, a task that was given one, and the driver itself.
    third = driver.submit(["value", 33, 0.0, []], firsts[6:9])[0]
    fourth = driver.submit(["take", 35, 0.0, []], [], [firsts[9]])[0]
    driver.refs_held += [*firsts[6:], *seconds, third, fourth]
    left = list(driver.refs_held)
    while left:
        run_until(cluster, left)
        left = [ref for ref in left if not driver._see(ref)]
    assert driver.submitter.reconstruction.started > 0
    assert all(ref.record.value[0] != m.FAILED for ref in driver.refs_held if type(ref.record.value) is list)
    cluster.run()


@pytest.mark.parametrize("dies", [False, True])
def test_a_stored_result_of_another_node_is_copied_and_is_made_again_when_its_node_dies_meanwhile(quiet, dies):
    cluster, driver = quiet(1, 3, stored=True, loses=True, transfers=True)
    refs = [driver.submit(["value", x, 0.0, []], strategy=far_from(cluster, driver))[0] for x in STORED[:8]]
    run_until(cluster, refs)
    values = [ref.record.value for ref in refs]
    assert all(driver.fetch(value) > 0.0 for value in values)
    if dies:
        cluster.end_node(cluster.nodes[values[0][5]], "killed", power=True)
    driver.refs_held += refs
    driver.script = driver._see_all(inner_too=False)
    driver._resume()
    assert cluster.net.run_until(cluster.net.now + 30.0, lambda: driver.script.gi_frame is None)
    if dies:
        assert driver.submitter.reconstruction.started > 0
    else:
        assert all(driver.node in cluster.stores.locate(value) for value in values)
    cluster.run()


def test_a_result_whose_writer_ended_before_its_reply_was_heard_stays_until_its_job_ends(quiet):
    cluster, driver = quiet(1, 1, stored=True)
    ref = driver.submit(["value", 1, 0.2, []])[0]
    assert cluster.net.run_until(cluster.net.now + 1.0, lambda: any(worker.runs for worker in cluster.workers.values()))
    worker = next(worker for worker in cluster.workers.values() if worker.runs)
    cluster.stores.put(worker, ref.oid, b"result", driver.incarnation)
    cluster.crash(worker, "killed")
    run_until(cluster, [ref])
    ref.drop()
    cluster.net.run_until(cluster.net.now + 1.0)
    assert len(cluster.stores.blocks[driver.node]) == len(cluster.stores.unheard()) == 1
    cluster.run()
    assert not cluster.stores.blocks[driver.node]


@pytest.mark.parametrize("stored", [False, True])
def test_every_item_of_a_map_gets_its_value_or_its_error(quiet, stored):
    cluster, driver = quiet(1, 2, stored=stored)
    batch = driver.map(list(range(40)), 3, True)
    one = driver.map_item(batch, 0)
    assert cluster.net.run_until(cluster.net.now + 30.0, lambda: batch.remaining == 0)
    driver.see_map(batch)
    assert set(batch.failures) == {0, 32} and cluster.oracle.happened["crash"] == 2
    late = [driver.map_item(batch, index) for index in (1, 2, 39)]
    run_until(cluster, [one, *late])
    driver.refs_held += [one, *late]
    driver.maps.append(batch)
    cluster.run()


def test_the_owner_and_the_worker_say_why_an_object_is_pending(quiet):
    cluster, driver = quiet(1, 1)
    ref = driver.submit(["value", 1, 0.5, []])[0]
    cluster.net.run_until(cluster.net.now + 0.2)
    cause, about = explain_record(driver.machine, ref.record)
    assert cause is Cause.RUNNING
    peer, what, endpoint = about["ask"]
    answers: list[Any] = []
    driver.machine.connect(peer, endpoint)
    driver.send(peer, m.Why(driver.machine.ask(answers.append), what))
    assert cluster.net.run_until(cluster.net.now + 0.2, lambda: bool(answers))
    assert [found[:2] for found in answers[0].found] == [[what, Cause.RUNNING]]
    driver.refs_held.append(ref)
    cluster.run()
