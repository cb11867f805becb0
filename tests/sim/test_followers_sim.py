"""Tasks that are pushed behind their producers, in whole clusters: kills and cancels at each step, and wrong versions
of the feature that the simulator must find."""

from __future__ import annotations

import pytest

from fuzz.sim_cluster import run
from tests.sim.quiet_driver import Quiet
from zray.owner.followers import Followers
from zray.sim import cluster as cluster_module, programs, worker as worker_module
from zray.sim.cluster import SimCluster
from zray.sim.failure import Violation
from zray.sim.network import Faults
from zray.sim.plan import Plan
from zray.wire.messages import FAILED
from zray.worker import produced
from zray.worker.queue import EXTRA

LINKS = 8
STEP_S = 0.0001  # a third of a link's run time
LINK_S = 0.0003
CHAINS = Plan(drivers=2, cpus=2, steps=10, chains=True, cancels=True, kills=3, stored=True, faults_s=0.6)


@pytest.fixture
def cluster(monkeypatch):
    """One node of two CPUs, one driver, a function that is measured; at the end nothing may be left."""
    monkeypatch.setattr(cluster_module, "SimDriver", Quiet)
    cluster = SimCluster(7, Plan(drivers=1, cpus=2, steps=0, faults=Faults(0.0001, 0.0003), stored=True))
    cluster.net.run_until(1.0)
    driver, = cluster.drivers
    for _ in range(2):
        refs = [link(driver, number) for number in range(2)]
        until(cluster, lambda refs=refs: all(ref.ready for ref in refs))
        for ref in refs:
            ref.drop()
    yield cluster
    cluster.run()


@pytest.fixture
def driver(cluster):
    driver, = cluster.drivers
    return driver


def until(cluster, condition):
    assert cluster.net.run_until(cluster.net.now + 5.0, condition)


def link(driver, number, *deps, kind="value", parts=(), retries=3):
    return driver.submit([kind, number * 16 + 2, LINK_S, list(parts)], list(deps), retries=retries,
                         measured=programs.LINK)[0]


def chain(driver, **options):
    refs = [link(driver, 100, **options)]
    for number in range(1, LINKS):
        refs.append(link(driver, 100 + number, refs[-1], **options))
    return refs


def kind_of(ref):
    return ref.record.value[1] if type(ref.record.value) is list and ref.record.value[0] == FAILED else "value"


def leased(cluster, driver):
    """The worker that the chain runs on."""
    lease = next((lease for lease in driver.submitter.leases.values() if lease.inflight), None)
    return None if lease is None else cluster.workers.get(lease.link.peer)


def test_a_chain_runs_on_one_worker_and_each_link_but_the_first_follows(cluster, driver):
    refs = chain(driver)
    until(cluster, lambda: all(ref.ready for ref in refs))
    runs = [cluster.oracle.runs[ref.oid[:24]] for ref in refs]
    assert len({worker for ran in runs for worker, _ in ran}) == 1
    for ref in refs:
        driver.load(ref)
        ref.drop()


@pytest.mark.parametrize("step", range(0, 40, 2))
@pytest.mark.parametrize("retries", [0, 3])
def test_the_worker_is_killed_at_each_step(cluster, driver, step, retries):
    refs = chain(driver, retries=retries)
    until(cluster, lambda: leased(cluster, driver) is not None)
    cluster.net.run_until(cluster.net.now + step * STEP_S)
    if (worker := leased(cluster, driver)) is not None:
        cluster.crash(worker, "killed by the test")
    until(cluster, lambda: all(ref.ready for ref in refs))
    attempts = [len(cluster.oracle.runs.get(ref.oid[:24], ())) for ref in refs]
    assert sum(count > 1 for count in attempts) <= LINKS
    kinds = [kind_of(ref) for ref in refs]
    if retries:
        assert kinds == ["value"] * LINKS
    else:  # the task that ran is lost, and those behind it fail with it
        good = kinds.count("value")
        assert kinds[:good] == ["value"] * good
        assert kinds[good:good + 1] in ([], ["worker_crashed"]) and set(kinds[good + 1:]) <= {"argument"}
    for ref in refs:
        driver.around.oracle.observe(driver, ref.record)
        ref.drop()


@pytest.mark.parametrize("step", range(0, 30, 6))
@pytest.mark.parametrize("number", [0, 3, LINKS - 1])
@pytest.mark.parametrize("force", [False, True])
def test_a_link_is_cancelled_at_each_step(cluster, driver, step, number, force):
    refs = chain(driver)
    cluster.net.run_until(cluster.net.now + step * STEP_S)
    cluster.oracle.happened["cancel"] += 1
    cluster.oracle.happened["crash"] += force
    driver.cancel(refs[number], force=force, recursive=False)
    until(cluster, lambda: all(ref.ready for ref in refs))
    kinds = [kind_of(ref) for ref in refs]
    assert kinds[:number] == ["value"] * number, "what was not cancelled runs, again if its worker ended"
    assert kinds[number] in ("value", "cancelled")
    behind = "value" if kinds[number] == "value" else "argument"
    assert kinds[number + 1:] == [behind] * (LINKS - number - 1)
    for ref in refs:
        driver.around.oracle.observe(driver, ref.record)
        ref.drop()


@pytest.mark.parametrize("kind, parts, becomes", [
    ("raise", (), "task_error"), ("flaky", (2,), "value"), ("crash", (1,), "value"),
    ("give", (["value", 1, 0.0, []],), "value"), ("chain", (5,), "value")])
def test_a_link_of_another_kind_in_the_middle(cluster, driver, kind, parts, becomes):
    cluster.oracle.happened["crash"] += kind == "crash"
    first = link(driver, 1)
    odd = link(driver, 2, first, kind=kind, parts=parts)
    refs = [first, odd, link(driver, 3, odd)]
    refs.append(link(driver, 4, refs[-1], first))
    until(cluster, lambda: all(ref.ready for ref in refs))
    behind = "value" if becomes == "value" else "argument"
    assert [kind_of(ref) for ref in refs] == ["value", becomes, behind, behind]
    for ref in refs:
        driver.around.oracle.observe(driver, ref.record)
        ref.drop()


# ---------------------------------------------------------------- wrong versions

def fails(seeds=range(12)):
    """Whether one of the seeds finds a violation, or ends with an error."""
    for seed in seeds:
        try:
            run(seed, CHAINS)
        except (Violation, AssertionError, KeyError, TypeError, AttributeError):
            return True
    return False


def test_the_right_version_has_no_violation():
    assert not fails(range(4))


def test_a_worker_that_takes_the_newest_result_instead_of_the_named_one_is_found(monkeypatch):
    monkeypatch.setattr(produced, "_result_of", lambda lease, sequence: lease.ends[-1] if lease.ends else None)
    assert fails()


def test_a_worker_that_takes_the_result_of_a_producers_older_attempt_is_found(monkeypatch):
    """It remembers results by task: an attempt that raised is taken for the one that was retried."""
    found: dict[bytes, object] = {}
    names: dict[tuple[int, int], bytes] = {}
    real, ended, started = produced.take_arguments, worker_module.SimWorker._end, worker_module.SimWorker._start

    def start(self, run):
        names[id(run.lease), run.sequence] = run.task[0]
        started(self, run)

    def end(self, run, result):
        found.setdefault(run.task[0], result)  # the oldest
        ended(self, run, result)

    def take(lease, task):
        places = iter(list(task[EXTRA]["behind"]))
        for position, sequence, _ in zip(places, places, places, strict=True):
            old = found.get(names.get((id(lease), sequence), b""))
            if type(old) is list and old[0] == FAILED:
                task[EXTRA].pop("behind")
                task[EXTRA]["deps"][position] = old
                return True
        return real(lease, task)

    monkeypatch.setattr(worker_module.SimWorker, "_start", start)
    monkeypatch.setattr(worker_module.SimWorker, "_end", end)
    monkeypatch.setattr(worker_module, "take_arguments", take)
    assert fails(range(40))


def test_an_owner_that_forgets_a_task_that_came_back_before_its_argument_is_found(monkeypatch):
    """The task is neither queued nor WAITING, so the argument does not start it."""
    monkeypatch.setattr(Followers, "waits_again", lambda self, task: task.missing > 0)
    assert fails()
