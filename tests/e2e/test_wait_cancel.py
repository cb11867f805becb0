"""wait and cancel."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.e2e.target import exceptions, ray, until


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


@ray.remote
def value(x):
    return x


@ray.remote
def hold(gate, x=None):
    gate.wait()
    return x


@ray.remote
def spin(gate):
    """Runs Python until it is interrupted."""
    gate.arrive()
    while True:
        time.sleep(0.001)


def test_wait_splits_ready_from_pending_and_keeps_the_order(gate):
    refs = [hold.remote(gate), value.remote(1), value.remote(2)]
    ready, rest = ray.wait(refs, num_returns=2, timeout=30)
    assert ready == refs[1:]
    assert rest == refs[:1]
    gate.open()
    assert ray.wait(refs, num_returns=3, timeout=30) == (refs, [])


def test_wait_returns_at_most_num_returns():
    refs = [ray.put(i) for i in range(5)]
    ready, rest = ray.wait(refs, num_returns=2)
    assert len(ready) == 2
    assert len(rest) == 3
    assert set(ready) | set(rest) == set(refs)


def test_wait_with_a_timeout_returns_what_is_ready(gate):
    refs = [hold.remote(gate), hold.remote(gate)]
    gate.wait_arrived(2)
    assert ray.wait(refs, num_returns=1, timeout=0) == ([], refs)
    assert ray.wait(refs, num_returns=2, timeout=0.05) == ([], refs)


def test_wait_counts_a_failed_task_as_ready():
    @ray.remote
    def fail():
        raise ValueError

    ref = fail.remote()
    assert ray.wait([ref], timeout=30) == ([ref], [])


@pytest.mark.parametrize("wrong", [
    None, 5, "ref", [1], {"a": 1},
], ids=str)
def test_wait_refuses_what_is_not_a_list_of_references(wrong):
    with pytest.raises(TypeError):
        ray.wait(wrong)


def test_wait_for_nothing_returns_at_once():
    assert ray.wait([]) == ([], [])


def test_wait_refuses_duplicates_and_impossible_counts():
    ref = ray.put(1)
    with pytest.raises(ValueError, match="unique|duplicate"):
        ray.wait([ref, ref])
    with pytest.raises(ValueError, match="number of objects|num_returns"):
        ray.wait([ref], num_returns=0)
    with pytest.raises(ValueError, match="num_returns"):
        ray.wait([ref], num_returns=2)


def test_wait_drains_a_thousand_references_one_by_one():
    rest = [value.remote(i) for i in range(1000)]
    seen = []
    while rest:
        ready, rest = ray.wait(rest)
        seen += ray.get(ready)
    assert sorted(seen) == list(range(1000))


def test_cancel_of_a_queued_task(gate):
    blockers = [hold.options(num_cpus=4).remote(gate)]
    gate.wait_arrived()
    queued = value.remote(1)
    ray.cancel(queued)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(queued, timeout=30)
    gate.open()
    ray.get(blockers)


def test_cancel_interrupts_a_running_task_and_leaves_the_worker_usable(gate):
    ref = spin.remote(gate)
    gate.wait_arrived()
    ray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=30)
    assert ray.get([value.remote(i) for i in range(20)], timeout=30) == list(range(20))


def test_cancel_by_force_kills_a_task_that_ignores_interrupts(gate):
    @ray.remote(max_retries=0)
    def stubborn(gate):
        gate.arrive()
        while True:
            try:
                time.sleep(0.001)
            except KeyboardInterrupt:
                pass

    ref = stubborn.remote(gate)
    gate.wait_arrived()
    ray.cancel(ref, force=True)
    with pytest.raises((exceptions.TaskCancelledError, exceptions.WorkerCrashedError)):
        ray.get(ref, timeout=30)


def test_cancel_of_a_finished_task_changes_nothing():
    ref = value.remote(5)
    assert ray.get(ref) == 5
    ray.cancel(ref)
    assert ray.get(ref) == 5


def test_cancel_is_recursive_by_default(gate, tmp_path):
    @ray.remote
    def parent(gate):
        return ray.get(spin.remote(gate))

    ref = parent.remote(gate)
    gate.wait_arrived()
    ray.cancel(ref)
    with pytest.raises((exceptions.TaskCancelledError, exceptions.RayTaskError)):
        ray.get(ref, timeout=30)
    assert ray.get(value.options(num_cpus=4).remote(1), timeout=30) == 1


def test_what_depends_on_a_cancelled_task_fails_too(gate):
    ref = spin.remote(gate)
    after = value.remote(ref)
    gate.wait_arrived()
    ray.cancel(ref)
    with pytest.raises((exceptions.TaskCancelledError, exceptions.RayTaskError)):
        ray.get(after, timeout=30)


def test_cancel_of_an_async_actor_call_cancels_its_coroutine():
    @ray.remote
    class Sleeper:
        def __init__(self):
            self.started = asyncio.Event()
            self.cancelled = False

        async def sleep(self):
            self.started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise

        async def has_started(self):
            await self.started.wait()

        async def was_cancelled(self):
            return self.cancelled

    sleeper = Sleeper.remote()
    ref = sleeper.sleep.remote()
    ray.get(sleeper.has_started.remote())
    ray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=30)
    assert ray.get(sleeper.was_cancelled.remote()) is True


@pytest.mark.zray_only
def test_cancelled_calls_of_an_actor_do_not_disturb_the_order_of_the_others(gate):
    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def add(self, x):
            if x == 0:
                gate.wait()
            self.seen.append(x)

        def read(self):
            return self.seen

    log = Log.remote()
    refs = [log.add.remote(i) for i in range(10)]
    gate.wait_arrived()
    ray.cancel(refs[5])
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(refs[5], timeout=30)  # at once, while the first call still runs
    gate.open()
    assert ray.get(log.read.remote()) == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_cancel_refuses_what_is_not_a_reference():
    with pytest.raises(TypeError):
        ray.cancel("ref")


def test_wait_looks_at_a_list_of_unready_references_that_was_edited(gate):
    """The list that ``wait`` returned is often refilled to the same length: what counts is what is in it now."""
    @ray.remote
    def held(gate):
        gate.wait()

    @ray.remote
    def quick(x):
        return x

    _, rest = ray.wait([held.remote(gate), held.remote(gate), quick.remote(0)], num_returns=1, timeout=60)
    assert len(rest) == 2
    rest[0], rest[1] = quick.remote(1), quick.remote(2)
    ready, rest = ray.wait(rest, num_returns=2, timeout=60)
    assert sorted(ray.get(ready)) == [1, 2]
    assert rest == []


def test_two_threads_may_wait_with_the_same_list_of_unready_references(gate):
    @ray.remote
    def held(gate):
        gate.wait()

    @ray.remote
    def quick():
        return 0

    _, rest = ray.wait([quick.remote()] + [held.remote(gate) for _ in range(3)], num_returns=1, timeout=60)
    assert len(rest) == 3
    found = []
    threads = [threading.Thread(target=lambda: found.append(len(ray.wait(rest, num_returns=3, timeout=60)[0])))
               for _ in range(2)]
    for thread in threads:
        thread.start()
    gate.wait_arrived(3)
    gate.open()
    for thread in threads:
        thread.join(60)
    assert found == [3, 3]


@pytest.mark.parametrize("recursive", [True, False])
def test_a_cancelled_async_call_cancels_the_calls_and_tasks_below_it_if_asked(recursive, tmp_path):
    @ray.remote
    def nap():
        try:
            (tmp_path / "runs").touch()
            time.sleep(600)
        except KeyboardInterrupt:
            (tmp_path / "nap").touch()
            raise

    @ray.remote
    class Link:
        async def run(self, others):
            try:
                await (others[0].run.remote(others[1:]) if others else nap.remote())
            except asyncio.CancelledError:
                (tmp_path / f"call{len(others)}").touch()
                raise

    links = [Link.remote() for _ in range(3)]
    ref = links[0].run.remote(links[1:])
    until(lambda: (tmp_path / "runs").exists(), "the task at the end of the chain runs")
    ray.cancel(ref, recursive=recursive)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=30)
    wanted = {"runs", "call2", "call1", "call0", "nap"} if recursive else {"runs", "call2"}
    until(lambda: {path.name for path in tmp_path.iterdir()} >= wanted, "all of them are cancelled")
    assert {path.name for path in tmp_path.iterdir()} == wanted
    for link in links:
        ray.kill(link)
