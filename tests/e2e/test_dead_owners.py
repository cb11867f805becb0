"""What a dead process had put in the store: freed when no process holds it, and kept when one does."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from tests.e2e.target import exceptions, ray, until

pytestmark = pytest.mark.zray_only

LARGE = 300_000  # float64: in the store


def objects():
    """Those of this job in the store of the driver's node."""
    from zray.core import runtime

    job = runtime.current().ids.job_bytes.hex()
    return [row for row in runtime.current().query("store")["store"]["objects"] if row["oid"].startswith(job)]


@ray.remote
class Trial:
    def load(self):
        self.data = [ray.put(np.ones(LARGE)) for _ in range(3)]
        return os.getpid()

    def give(self):
        return [self.data[0]]

    def submit(self):
        """The owner of what another process has made and written."""
        self.made = make.remote()
        ray.wait([self.made])


@ray.remote
def make():
    return np.ones(LARGE)


@ray.remote(max_retries=0)
def crash():
    kept = ray.put(np.ones(LARGE))
    os.kill(os.getpid(), signal.SIGKILL)
    return kept


@ray.remote(max_retries=0)
def wait_for_ever(ready):
    kept = ray.put(np.ones(LARGE))
    ray.get(ready.set.remote())
    while kept:
        pass


@ray.remote
class Ready:
    def __init__(self):
        self.is_set = False

    def set(self):
        self.is_set = True

    def get(self):
        return self.is_set


def test_what_a_killed_actor_had_put_and_nobody_holds_is_freed(cluster):
    trial = Trial.remote()
    os.kill(ray.get(trial.load.remote()), signal.SIGKILL)
    until(lambda: not objects())


def test_what_a_crashed_task_and_one_cancelled_by_force_had_put_is_freed(cluster):
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(crash.remote())
    ready = Ready.remote()
    running = wait_for_ever.remote(ready)
    until(lambda: ray.get(ready.get.remote()))
    ray.cancel(running, force=True)
    with pytest.raises((exceptions.TaskCancelledError, exceptions.WorkerCrashedError)):
        ray.get(running)
    until(lambda: not objects())


def test_a_result_that_another_process_wrote_is_freed_when_its_owner_is_dead(cluster):
    trial = Trial.remote()
    ray.get(trial.submit.remote())
    assert objects()
    ray.kill(trial)
    until(lambda: not objects())


def test_what_somebody_holds_stays_while_the_rest_is_freed_and_goes_with_the_last_reference(cluster):
    trial = Trial.remote()
    pid = ray.get(trial.load.remote())
    [held] = ray.get(trial.give.remote())
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(objects()) == 1)
    assert ray.get(held).sum() == LARGE
    del held
    until(lambda: not objects())
