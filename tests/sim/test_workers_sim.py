"""What workers do with calls and tasks, in whole clusters, simulated: side by side, inside each other, to their end."""

from __future__ import annotations

import pytest

from tests.sim.quiet_driver import Quiet
from zray.sim import cluster as cluster_module
from zray.sim.cluster import SimCluster
from zray.sim.network import Faults
from zray.sim.plan import Plan
from zray.sim.worker import SimWorker
from zray.wire.messages import FAILED

SLEEP_S = 0.05


@pytest.fixture
def cluster(monkeypatch):
    """One node of two CPUs, one driver; at the end nothing may be left."""
    monkeypatch.setattr(cluster_module, "SimDriver", Quiet)
    cluster = SimCluster(5, Plan(drivers=1, cpus=2, steps=0, faults=Faults(0.0001, 0.001)))
    cluster.net.run_until(1.0)
    yield cluster
    cluster.run()


@pytest.fixture
def driver(cluster):
    driver, = cluster.drivers
    return driver


def actor_of(cluster, driver, **concurrency):
    """A handle, and the process of the actor once it is up."""
    handle = driver.create_actor(2, concurrency=concurrency)
    first = driver.call(handle, 0)
    until(cluster, lambda: first.ready)
    first.drop()
    worker, = (worker for worker in cluster.workers.values() if worker.actor is not None)
    return handle, worker


def until(cluster, condition):
    assert cluster.net.run_until(cluster.net.now + 5.0, condition)


def kind_of(ref):
    return ref.record.value[1] if type(ref.record.value) is list and ref.record.value[0] == FAILED else "value"


def end(cluster, refs, *handles):
    for one in (*refs, *handles):
        one.drop()


@pytest.mark.parametrize("concurrency, most", [
    ({}, 1), ({"max_concurrency": 3}, 3), ({"is_async": True, "max_concurrency": 3}, 3), ({"is_async": True}, 6)])
def test_as_many_calls_run_at_once_as_the_actor_allows(cluster, driver, concurrency, most):
    handle, worker = actor_of(cluster, driver, **concurrency)
    refs = [driver.call(handle, x, SLEEP_S) for x in range(6)]
    seen = []
    until(cluster, lambda: seen.append(len(worker.runs)) or all(ref.ready for ref in refs))
    assert max(seen) == most
    end(cluster, refs, handle)


@pytest.mark.parametrize("concurrency, number, becomes", [
    ({}, 1, "cancelled"), ({}, 0, "value"),
    ({"max_concurrency": 2}, 2, "cancelled"), ({"max_concurrency": 2}, 1, "value"),
    ({"is_async": True, "max_concurrency": 2}, 2, "cancelled"), ({"is_async": True}, 1, "cancelled")])
def test_calls_that_wait_are_cancelled_and_of_those_that_run_only_coroutines(cluster, driver, concurrency, number,
                                                                             becomes):
    handle, worker = actor_of(cluster, driver, **concurrency)
    refs = [driver.call(handle, x, SLEEP_S) for x in range(3)]
    until(cluster, lambda: worker.runs)
    cluster.net.run_until(cluster.net.now + SLEEP_S / 4)
    cluster.oracle.happened["cancel"] += 1
    driver.cancel(refs[number], force=False, recursive=False)
    until(cluster, lambda: all(ref.ready for ref in refs))
    assert [kind_of(ref) for ref in refs] == [becomes if i == number else "value" for i in range(3)]
    end(cluster, refs, handle)


@pytest.mark.parametrize("concurrency, first", [
    ({}, "value"), ({"max_concurrency": 2}, "value"), ({"is_async": True, "max_concurrency": 2}, "lost")])
@pytest.mark.parametrize("may_restart", [False, True])
def test_an_actor_that_ends_itself_waits_for_threads_and_not_for_coroutines(cluster, driver, concurrency, first,
                                                                            may_restart):
    handle, worker = actor_of(cluster, driver, **concurrency)
    cluster.oracle.happened["kill"] += 1
    refs = [driver.call(handle, 1, SLEEP_S), driver.call(handle, 2, program=["exit", 2, 0.0, [may_restart]]),
            driver.call(handle, 3)]
    until(cluster, lambda: not worker.alive and all(ref.ready for ref in refs))
    lost = "actor_unavailable" if may_restart else "actor_died"
    assert [kind_of(ref) for ref in refs][:2] == [lost if first == "lost" else first, lost]
    assert worker.heard, "it has said that it ends, and its node has heard it"
    cluster.net.run_until(cluster.net.now + 1.0)
    later = driver.call(handle, 4)
    until(cluster, lambda: later.ready)
    assert kind_of(later) == ("value" if may_restart else "actor_died")
    end(cluster, [*refs, later], handle)


@pytest.mark.parametrize("concurrency", [{"max_concurrency": 2}, {"is_async": True, "max_concurrency": 2}])
def test_on_sigterm_the_calls_that_run_end_and_nothing_more_starts(cluster, driver, concurrency):
    handle, worker = actor_of(cluster, driver, **concurrency)
    refs = [driver.call(handle, x, SLEEP_S) for x in range(3)]
    until(cluster, lambda: len(worker.runs) == 2)
    cluster.oracle.happened["kill"] += 1
    worker.work.drain(-15, "it received SIGTERM")
    until(cluster, lambda: not worker.alive and all(ref.ready for ref in refs))
    assert [kind_of(ref) for ref in refs] == ["value", "value", "actor_unavailable"] and worker.heard
    end(cluster, refs, handle)


def test_a_task_runs_inside_the_one_that_waits_for_it(cluster, driver, monkeypatch):
    """Every worker is busy, so the children of a task have nowhere else to run."""
    inside = []
    start = SimWorker._start

    def noted(self, run):
        if run.outer is not None:
            inside.append((self.incarnation, run.outer.task[0]))
        start(self, run)

    monkeypatch.setattr(SimWorker, "_start", noted)
    children = [["value", x, 0.001, []] for x in range(3)]
    refs = [ref for x in range(20) for ref in driver.submit(["nested", x, 0.0, children])]
    until(cluster, lambda: all(ref.ready for ref in refs))
    assert inside and {kind_of(ref) for ref in refs} == {"value"}
    end(cluster, refs)


def test_each_concurrency_group_runs_as_many_calls_as_it_allows_in_their_order(cluster, driver):
    handle, worker = actor_of(cluster, driver, concurrency_groups={"io": 2}, max_concurrency=1)
    refs = [driver.call(handle, x, SLEEP_S) for x in (2, 4, 1, 3, 5)]  # odd numbers go to "io"
    seen = []
    until(cluster, lambda: seen.append(sorted(run.group.name for run in worker.runs.values()))
          or all(ref.ready for ref in refs))
    assert max(seen, key=len) == ["", "io", "io"]
    end(cluster, refs, handle)


def test_why_a_call_waits_is_asked_and_changes_nothing(cluster, driver):
    handle, _ = actor_of(cluster, driver)
    refs = [driver.call(handle, x, SLEEP_S) for x in range(3)] + driver.submit(["nested", 1, SLEEP_S, []])
    cluster.net.run_until(cluster.net.now + SLEEP_S / 2)
    driver.ask_why(refs)
    assert driver.whys_asked >= len(refs[:3])
    until(cluster, lambda: all(ref.ready for ref in refs) and not driver.machine.is_asking)
    assert {kind_of(ref) for ref in refs} == {"value"}
    end(cluster, refs, handle)
