"""Unfinished tasks whose owner dies run again for the processes that hold their references: real processes, kill -9."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from tests.e2e.target import exceptions, ray, until

pytestmark = pytest.mark.zray_only


@ray.remote
def after(gate, x, log=None):
    """x + 1, once the file is there.  Runs are logged; no earlier run may live."""
    import time

    from zray.node.processes import linux

    if log is not None:
        with open(log, "a+", encoding="ascii") as file:
            file.seek(0)
            earlier = [int(line.split()[0]) for line in file]
            alive = [pid for pid in earlier if pid != os.getpid() and linux.start_time(pid)]
            print(os.getpid(), *alive, file=file, flush=True)
    while not os.path.exists(gate):
        time.sleep(0.01)
    return x + 1


@ray.remote(num_returns=2)
def pair(x):
    return x, [x]


@ray.remote(num_cpus=0)
class Owner:
    def pid(self):
        return os.getpid()

    def chain(self, gate, log, count):
        """References to tasks of which each needs the one before."""
        refs = [after.remote(gate, ray.put(0), log)]
        while len(refs) < count:
            refs.append(after.remote(gate, refs[-1]))
        return refs

    def several(self, gate):
        return list(pair.remote(after.remote(gate, 6)))

    def large(self, gate):
        @ray.remote
        def total(array, more):
            return float(array.sum()) + more

        return [total.remote(np.ones(200_000), after.remote(gate, 0))]

    def nested(self, gate):
        @ray.remote
        def inside(refs):
            return ray.get(refs)

        return [inside.remote([after.remote(gate, 1), after.remote(gate, 2)])]

    def mapped(self, gate):
        @ray.remote
        def item(x):
            import time

            while not os.path.exists(gate):
                time.sleep(0.01)
            return x * x

        return list(item.map(range(5)))

    def once(self, gate):
        return [after.options(max_retries=0).remote(gate, 1)]

    def call(self, gate):
        self.other = Holder.remote()
        return [self.other.wait_for.remote(gate)]

    def give(self, gate, log, holders):
        ref = after.remote(gate, 40, log)
        ray.get([holder.hold.remote([ref]) for holder in holders])


@ray.remote(num_cpus=0)
class Holder:
    def pid(self):
        return os.getpid()

    def hold(self, refs):
        self.refs = refs

    def read(self):
        return ray.get(self.refs, timeout=60)

    def wait_for(self, gate):
        import time

        while not os.path.exists(gate):
            time.sleep(0.01)


@pytest.fixture
def waiting(tmp_path):
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


def kill(actor):
    os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)


def logged(path):
    return path.read_text(encoding="ascii").splitlines() if path.exists() else []


def test_a_chain_runs_again_when_its_owner_was_killed_and_never_beside_the_first_run(cluster, waiting, tmp_path):
    log = tmp_path / "runs"
    owner = Owner.remote()
    refs = ray.get(owner.chain.remote(str(waiting), str(log), 4))
    until(lambda: logged(log), "the first task runs")
    kill(owner)
    until(lambda: len(logged(log)) == 2, "it runs again")
    waiting.touch()
    assert ray.get(refs, timeout=60) == [1, 2, 3, 4]
    assert all(len(line.split()) == 1 for line in logged(log)), "an earlier run was alive"


@pytest.mark.parametrize(("method", "values"), [
    ("several", [7, [7]]), ("large", [200_001.0]), ("nested", [[2, 3]]), ("mapped", [0, 1, 4, 9, 16])])
def test_whatever_tasks_it_had_submitted_ends_with_its_value(cluster, waiting, method, values):
    owner = Owner.remote()
    refs = ray.get(getattr(owner, method).remote(str(waiting)))
    kill(owner)
    waiting.touch()
    assert ray.get(refs, timeout=60) == values


@pytest.mark.parametrize(("method", "reason"), [
    ("once", "max_retries=0"), ("call", "calls are not run again without their caller")])
def test_what_must_not_run_twice_fails_and_the_error_says_why(cluster, waiting, method, reason):
    owner = Owner.remote()
    refs = ray.get(getattr(owner, method).remote(str(waiting)))
    kill(owner)
    with pytest.raises(exceptions.OwnerDiedError, match=reason):
        ray.get(refs, timeout=60)


def test_the_process_that_makes_it_may_be_killed_too(cluster, waiting, tmp_path):
    log = tmp_path / "runs"
    owner = Owner.remote()
    holders = [Holder.remote() for _ in range(3)]
    ray.get(owner.give.remote(str(waiting), str(log), holders))
    until(lambda: logged(log), "it runs")
    for killed in (owner, *holders[:2]):
        runs = len(logged(log))
        kill(killed)
        if killed is owner:
            until(lambda runs=runs: len(logged(log)) > runs, "it runs again")
    waiting.touch()
    assert ray.get(holders[2].read.remote(), timeout=60) == [41]
    assert all(len(line.split()) == 1 for line in logged(log)), "an earlier run was alive"
