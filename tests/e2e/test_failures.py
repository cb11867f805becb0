"""Processes that die: what is retried, what is lost, what it is called, and that nothing stays behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import psutil
import pytest

from tests.e2e.scripts import environment
from tests.e2e.target import IS_ZRAY, exceptions, ray, until, waits_because


@pytest.fixture
def one_node(cluster):
    return cluster


def remote_kill_9(tmp_path, times):
    """A task that kills its own worker ``times`` times, then succeeds."""

    @ray.remote
    def die_then_live():
        attempt = len(os.listdir(tmp_path))
        (tmp_path / str(attempt)).touch()
        if attempt < times:
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt

    return die_then_live


def test_a_task_whose_worker_is_killed_is_retried(one_node, tmp_path):
    assert ray.get(remote_kill_9(tmp_path, 2).options(max_retries=2).remote()) == 2


def test_a_task_that_kills_every_worker_ends_in_workercrashederror(one_node, tmp_path):
    ref = remote_kill_9(tmp_path, 100).options(max_retries=1).remote()
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(ref)
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.zray_only
@pytest.mark.parametrize(("how", "expected"), [
    ("exit", "exit code 7|exit.*7"), ("kill", "SIGKILL|signal 9"), ("segfault", "SIGSEGV|signal 11"),
])
def test_workercrashederror_says_how_the_worker_ended(one_node, how, expected):
    @ray.remote(max_retries=0)
    def crash():
        if how == "exit":
            os._exit(7)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        ctypes.string_at(0)

    with pytest.raises(exceptions.WorkerCrashedError, match=expected):
        ray.get(crash.remote())


@pytest.mark.zray_only
@pytest.mark.parametrize("how", ["prints", "is silent", "leaves with 0"])
def test_workercrashederror_names_the_log_of_its_worker(one_node, how):
    @ray.remote(max_retries=0)
    def crash():
        if how == "prints":
            print("my last words", flush=True)
        os._exit(0 if how == "leaves with 0" else 7)

    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        ray.get(crash.remote())
    error = caught.value
    with open(error.log_file) as file:
        text = file.read()
    assert os.path.basename(error.log_file).startswith("worker-") and f"Its log is {error.log_file}" in str(error)
    if how == "prints":
        assert "my last words" in text and "  my last words" in str(error)
    else:
        code = 0 if how == "leaves with 0" else 7
        assert text == f"(zray: worker {error.pid} printed nothing and exited with code {code})\n"


def test_tasks_that_were_only_queued_on_a_dead_worker_are_not_charged(one_node, gate):
    """With max_retries=0, a crash may fail only the task that ran."""

    @ray.remote(max_retries=0)
    def maybe_crash(i):
        if i == 50:
            os._exit(1)
        return i

    refs = [maybe_crash.remote(i) for i in range(200)]
    failed = []
    for i, ref in enumerate(refs):
        try:
            assert ray.get(ref) == i
        except exceptions.WorkerCrashedError:
            failed.append(i)
    assert failed == [50]


def test_recursion_too_deep_is_an_error_of_the_task(one_node):
    @ray.remote
    def deep(n):
        return deep_call(n)

    def deep_call(n):
        return deep_call(n + 1)

    with pytest.raises(RecursionError):
        ray.get(deep.remote(0))
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


def test_an_actor_whose_process_dies_says_so_in_the_error(one_node):
    @ray.remote
    class Mortal:
        def die(self):
            os.kill(os.getpid(), signal.SIGKILL)

        def hello(self):
            return "hello"

    mortal = Mortal.remote()
    with pytest.raises(exceptions.RayActorError):
        ray.get(mortal.die.remote())
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(mortal.hello.remote())


def test_results_that_are_ready_survive_the_worker_that_made_them(one_node):
    @ray.remote
    class Maker:
        def make(self):
            import numpy as np

            return np.arange(300_000)

        def pid(self):
            return os.getpid()

    maker = Maker.remote()
    ref, pid = maker.make.remote(), ray.get(maker.pid.remote())
    ray.wait([ref])
    os.kill(pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid), "the actor's process is gone")
    assert int(ray.get(ref)[-1]) == 299_999


def test_killing_workers_under_load_loses_nothing(one_node):
    @ray.remote(max_retries=-1)
    def work(i):
        return i, os.getpid()

    refs = [work.remote(i) for i in range(3000)]
    victims = {ray.get(refs[0])[1]}
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
    assert [i for i, _ in ray.get(refs)] == list(range(3000))


DRIVER = """
    import os, sys, time
    import zray as ray
    ray.init(num_cpus=2)

    @ray.remote
    class Holder:
        def pid(self):
            return os.getpid()

    holders = [Holder.remote() for _ in range(2)]
    print(*ray.get([h.pid.remote() for h in holders]), flush=True)
    sys.stdin.read()
"""


def start_driver(tmp_path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A driver in a process of its own, and every process of its session (its own not included)."""
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    driver = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              env=environment())
    workers = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
    session = set(psutil.Process(driver.pid).children(recursive=True)) | set(workers)
    for worker in workers:
        session |= {parent for parent in worker.parents() if parent.pid not in (1, driver.pid, os.getpid())
                    and driver.pid in {p.pid for p in parent.parents()}}
    return driver, sorted(session, key=lambda p: p.pid)


def all_gone(processes: list[psutil.Process]) -> bool:
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.zray_only
def test_a_killed_driver_takes_its_whole_session_with_it(fresh, tmp_path, session_root):
    driver, session = start_driver(tmp_path)
    with driver:
        assert len(session) >= 3
        driver.kill()
    until(lambda: all_gone(session), lambda: f"processes end: {[p for p in session if p.is_running()]}")


@pytest.mark.zray_only
def test_a_killed_node_takes_its_workers_with_it_and_the_driver_gets_an_error(fresh):
    ray.init(num_cpus=2)

    @ray.remote
    def pid():
        return os.getpid()

    @ray.remote
    def forever(gate_pid):
        signal.pause()

    @ray.remote(num_cpus=0)
    class Counter:
        def up(self):
            return 1

    counter = Counter.remote()
    stored = ray.put(np.ones(100_000))
    assert ray.get(counter.up.remote()) == 1
    worker = psutil.Process(ray.get(pid.remote()))
    node = [p for p in psutil.Process().children() if p.pid != worker.pid]
    fresh.watch()
    ref = forever.remote(0)
    for process in node:
        process.kill()
    with pytest.raises(exceptions.LocalRayletDiedError):
        ray.get(ref, timeout=30)
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker ends", 10)
    later = {
        "a task": lambda: ray.get(pid.remote(), timeout=30),
        "a task of a new key": lambda: ray.get(pid.options(num_cpus=0.5).remote(), timeout=30),
        "a call": lambda: ray.get(counter.up.remote(), timeout=30),
        "a new actor": lambda: ray.get(Counter.remote().up.remote(), timeout=30),
        "a large value": lambda: ray.put(np.ones(1_000_000)),
        "a question": ray.nodes,
    }
    for name, use in later.items():
        with pytest.raises(exceptions.LocalRayletDiedError):
            use()
            pytest.fail(f"{name} succeeded without a node")
    assert ray.get(stored).sum() == 100_000, "what is in memory can still be read"


@pytest.mark.zray_only
def test_nesting_a_hundred_levels_deep_on_one_cpu(fresh):
    ray.init(num_cpus=1)

    @ray.remote
    def down(n):
        return 0 if n == 0 else 1 + ray.get(down.remote(n - 1))

    assert ray.get(down.remote(100), timeout=60) == 100


@pytest.mark.zray_only
def test_nesting_through_actors_and_two_keys_on_one_cpu(fresh):
    ray.init(num_cpus=1)

    @ray.remote(num_cpus=1)
    def one(n, relay):
        return 0 if n == 0 else 1 + ray.get(relay.call.remote(two, n - 1, relay))

    @ray.remote(num_cpus=0.5)
    def two(n, relay):
        return 0 if n == 0 else 1 + ray.get(relay.call.remote(one, n - 1, relay))

    @ray.remote(max_concurrency=100)
    class Relay:
        def call(self, f, n, relay):
            return ray.get(f.remote(n, relay))

    assert ray.get(one.remote(10, Relay.remote()), timeout=60) == 10


@pytest.mark.zray_only
def test_a_lock_held_across_get_does_not_deadlock(fresh):
    """The exact dependency may run inline in a blocked worker, but never where it could meet the caller's lock."""
    ray.init(num_cpus=1)

    class Lock:
        """One lock a process, whoever unpickles this class."""

        @staticmethod
        def of_process():
            import sys
            import threading

            return sys.modules.setdefault("_lock_of_process", threading.Lock())

    @ray.remote
    def nested():
        with Lock.of_process():
            return 1 + ray.get(leaf.remote())

    @ray.remote
    def leaf():
        with Lock.of_process():
            return 1

    assert ray.get([nested.remote() for _ in range(5)], timeout=60) == [2] * 5


@pytest.mark.skipif(not IS_ZRAY, reason="Ray's message differs")
def test_an_infeasible_task_says_which_resource_is_missing(one_node):
    @ray.remote(resources={"unobtainium": 1})
    def impossible():
        return None

    ref = impossible.remote()
    waits_because(ref, "unobtainium")
    ray.cancel(ref)
