"""Tasks that are pushed behind their producers, with real processes: values, errors, kills and cancels."""

from __future__ import annotations

import os
import random
import signal
import threading

import numpy as np
import pytest

from tests.e2e.target import exceptions, ray, until

pytestmark = pytest.mark.zray_only


@ray.remote(max_retries=-1)
def add(x, *more):
    return x + sum(more) + 1


@ray.remote
def noted(folder, number, before, die=False):
    """Note the run; ``die``: the first run ends its worker."""
    runs = len([name for name in os.listdir(folder) if name.startswith(f"{number}-")])
    with open(os.path.join(folder, f"{number}-{runs}"), "w") as file:
        file.write(str(os.getpid()))
    if die and runs == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return before + 1


@ray.remote
def fails(x):
    raise ValueError("no value")


def runtime():
    from zray.core.runtime import current

    return current()


@pytest.fixture
def behind(cluster, monkeypatch):
    """The tasks that were pushed before their arguments were there."""
    submitter = runtime().submitter
    followers = []
    push = submitter.push

    def pushing(lease, tasks):
        tasks = list(tasks)
        followers.extend(task.tid for task in tasks if task.missing)
        push(lease, tasks)

    monkeypatch.setattr(submitter, "push", pushing)
    return followers


def short(function, *arguments):
    """Let the function run once; the owner takes it for a short one, however busy this machine is."""
    try:
        ray.get(function.remote(*arguments))
    except exceptions.RayTaskError:
        pass
    function.state.fn.run_ns = 1000


def test_a_chain_is_sent_ahead_and_has_the_values_of_a_loop(behind):
    short(add, 0)
    refs = [add.remote(0)]
    for _ in range(200):
        refs.append(add.remote(refs[-1]))
    assert ray.get(refs) == list(range(1, 202))
    assert len(behind) > 32


def test_trees_and_tasks_with_several_arguments(behind):
    short(add, 0)
    for _ in range(5):
        level = [add.remote(number) for number in range(16)]
        while len(level) > 1:
            level = [add.remote(left, right) for left, right in zip(level[::2], level[1::2], strict=True)]
        assert ray.get(level[0]) == sum(range(16)) + 31
    first = add.remote(0)
    second = add.remote(first, first, 5)
    assert ray.get(add.remote(first, second, first)) == 1 + 8 + 1 + 1
    assert behind


def test_large_values_come_from_the_store_and_go_with_their_references(behind):
    @ray.remote
    def grow(array):
        return array + 1

    short(grow, np.zeros(10))
    owned = len(runtime().refs.owned)
    x = grow.remote(np.zeros(100_000))
    for _ in range(20):
        x = grow.remote(x)
    assert (ray.get(x) == 21).all()
    assert behind
    del x
    until(lambda: len(runtime().refs.owned) <= owned, "the results of the chain are freed")


def test_several_returns_and_values_with_references(behind):
    @ray.remote(num_returns=2)
    def divide(x, y):
        return x // y, x % y

    @ray.remote
    def inside(x):
        return [ray.put(x + 1)]

    @ray.remote
    def unpack(refs):
        return ray.get(refs[0])

    for function, arguments in ((divide, (7, 3)), (inside, (1,)), (unpack, ([ray.put(1)],))):
        function.state or ray.get(function.remote(*arguments))
        function.state.fn.run_ns = 1000
    short(add, 0)
    whole, rest = divide.remote(add.remote(16), 5)
    assert ray.get([whole, rest, add.remote(whole, rest)]) == [3, 2, 6]
    x = add.remote(0)
    for _ in range(5):
        x = unpack.remote(inside.remote(x))
    assert ray.get(x) == 6


def test_a_failed_producer_gives_the_same_error_as_to_a_task_that_waited(behind):
    short(fails, 0)
    short(add, 0)
    failed = fails.remote(0)
    followers = [add.remote(failed)]
    followers.append(add.remote(followers[0]))
    texts = []
    for ref in followers:
        with pytest.raises(ValueError, match="no value") as caught:
            ray.get(ref)
        texts.append(str(caught.value))
    waited = [add.remote(failed)]
    with pytest.raises(ValueError, match="no value"):
        ray.get(waited[0])
    waited.append(add.remote(waited[0]))
    for ref, text in zip(waited, texts, strict=True):
        with pytest.raises(ValueError, match="no value") as caught:
            ray.get(ref)
        assert _without_pids(str(caught.value)) == _without_pids(text)


def _without_pids(text):
    return [line.partition("pid=")[0] for line in text.splitlines()]


def test_an_exception_that_is_retried_is_waited_for(behind, tmp_path):
    @ray.remote(retry_exceptions=True, max_retries=3)
    def flaky(x):
        with open(tmp_path / "runs", "a") as file:
            file.write("x")
        if os.path.getsize(tmp_path / "runs") % 3:
            raise ValueError("not yet")
        return x

    short(flaky, 0)
    short(add, 0)
    for _ in range(5):
        assert ray.get(add.remote(add.remote(flaky.remote(add.remote(0))))) == 3
    assert behind


@pytest.mark.parametrize("killed", [0, 1, 7, 15])
def test_a_link_that_ends_its_worker_runs_again_and_those_behind_it_run_once(behind, tmp_path, killed):
    short(noted, str(tmp_path), 99, 0)
    x = 0
    for number in range(16):
        x = noted.remote(str(tmp_path), number, x, number == killed)
    assert ray.get(x) == 16
    runs = [len([name for name in os.listdir(tmp_path) if name.startswith(f"{number}-")]) for number in range(16)]
    assert runs[killed] == 2 and runs[killed + 1:] == [1] * (15 - killed)
    assert behind


def test_links_behind_one_that_may_not_run_again_fail_with_it(behind, tmp_path):
    once = noted.options(max_retries=0)
    short(once, str(tmp_path), 99, 0)
    first = once.remote(str(tmp_path), 0, 0)
    second = once.remote(str(tmp_path), 1, first, True)
    third = once.remote(str(tmp_path), 2, second)
    with pytest.raises(exceptions.RayError):
        ray.get(third)
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(second)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("2-")]


def test_chains_survive_kill_9_at_random_moments(behind, tmp_path):
    """A thread kills workers while chains run; every value is right in the end."""
    pids = tmp_path / "pids"
    pids.mkdir()

    @ray.remote(max_retries=-1)
    def named(x):
        (pids / str(os.getpid())).touch()
        return x + 1

    short(named, 0)
    over, kills, chance = threading.Event(), [], random.Random(1)

    def kill():
        while not over.is_set() and len(kills) < 8:
            for name in os.listdir(pids):
                os.unlink(pids / name)
                try:
                    os.kill(int(name), signal.SIGKILL)
                    kills.append(name)
                except ProcessLookupError:
                    pass
                break
            over.wait(chance.uniform(0.0, 0.02))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for _ in range(4):
            named.state.fn.run_ns = 1000
            x = 0
            for _ in range(60):
                x = named.remote(x)
            assert ray.get(x) == 60
    finally:
        over.set()
        killer.join()
    assert behind and kills


def test_a_producer_that_waits_for_another_task_gives_its_consumers_back(behind):
    @ray.remote
    def outer(x):
        return ray.get(add.remote(x))

    short(add, 0)
    short(outer, 0)
    x = outer.remote(0)
    for _ in range(5):
        x = outer.remote(add.remote(x))
    assert ray.get(x) == 11
    assert behind


@pytest.mark.parametrize("force", [False, True])
def test_a_consumer_is_cancelled_while_its_producer_runs(behind, tmp_path, force):
    @ray.remote(max_retries=0)
    def gate(path):
        while not os.path.exists(path):
            pass
        return 1

    (tmp_path / "open").touch()
    short(gate, str(tmp_path / "open"))
    short(add, 0)
    (tmp_path / "open").unlink()
    first = gate.remote(str(tmp_path / "open"))
    second = add.remote(first)
    third = add.remote(second)
    ray.wait([first], timeout=0)
    ray.cancel(second, force=force)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(second)
    (tmp_path / "open").touch()
    assert ray.get(first) == 1, "its worker has not been ended, though the task may not run again"
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(third)
