"""A worker runs the dependency it waits for itself: few processes, and no difference that a user could see."""

from __future__ import annotations

import time

import pytest

from tests.e2e.target import exceptions, ray, until

pytestmark = pytest.mark.zray_only


@pytest.fixture
def two_cpus(fresh):
    ray.init(num_cpus=2)
    return fresh


def workers() -> int:
    from zray.connection import connected

    return connected().query("workers")["total"]


def test_a_recursion_needs_few_workers(two_cpus):
    @ray.remote
    def fib(n):
        if n < 2:
            return n
        return sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))

    before = workers()
    assert ray.get(fib.remote(12), timeout=60) == 144
    assert workers() <= before + 4


def test_errors_nested_references_and_several_values(two_cpus):
    @ray.remote
    def fails():
        raise KeyError("inner")

    @ray.remote
    def array(n):
        import numpy as np

        return np.ones(n)

    @ray.remote
    def wraps():
        return [ray.put(5), array.remote(100_000)]

    @ray.remote
    def total(refs):
        return sum(float(v.sum()) for v in ray.get(refs))

    @ray.remote
    def outer():
        refs = ray.get(wraps.remote())
        small, large = ray.get(refs)
        return small + large.sum() + ray.get(total.remote([array.remote(10), array.remote(200_000)])), refs

    @ray.remote
    def hopeless():
        return ray.get(fails.remote())

    value, refs = ray.get(outer.remote(), timeout=60)
    assert value == 5 + 100_000 + 200_010
    assert ray.get(refs[0], timeout=60) == 5 and len(ray.get(refs[1], timeout=60)) == 100_000
    with pytest.raises(KeyError):
        ray.get(hopeless.remote(), timeout=60)


def test_retries_count_as_in_a_worker_of_its_own(two_cpus, tmp_path):
    @ray.remote(max_retries=3, retry_exceptions=True)
    def flaky(path):
        attempt = ray.get_runtime_context().get_attempt_number()
        with open(path, "a") as log:
            log.write(f"{attempt}\n")
        if attempt < 2:
            raise ValueError("again")
        return attempt

    @ray.remote
    def outer(path):
        own = ray.get_runtime_context().get_task_id()
        value = ray.get(flaky.remote(path))
        assert ray.get_runtime_context().get_task_id() == own
        return value

    path = str(tmp_path / "attempts")
    assert ray.get(outer.remote(path), timeout=60) == 2
    assert (tmp_path / "attempts").read_text().split() == ["0", "1", "2"]


def test_the_inner_task_has_the_whole_stack_and_a_name_of_its_own(two_cpus):
    @ray.remote
    def deep(n):
        def down(k):
            return 0 if k == 0 else 1 + down(k - 1)

        return down(n), ray.get_runtime_context().get_task_name()

    def call(k):
        return ray.get(deep.remote(850)) if k == 0 else call(k - 1)

    @ray.remote
    def outer():
        return call(500)

    depth, name = ray.get(outer.remote(), timeout=60)
    assert depth == 850 and "deep" in name


@pytest.mark.parametrize("recursive", [True, False])
def test_cancel_of_the_outer_task_ends_both(two_cpus, tmp_path, recursive):
    started = tmp_path / "started"

    @ray.remote
    def inner(path, seconds):
        open(path, "w").close()
        time.sleep(seconds)
        return 1

    @ray.remote
    def outer(path, seconds):
        return ray.get(inner.remote(path, seconds))

    ref = outer.remote(str(started), 60 if recursive else 1)
    until(started.exists, "the inner task runs")
    ray.cancel(ref, recursive=recursive)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=30)
    assert ray.get(outer.remote(str(tmp_path / "again"), 0), timeout=30) == 1


def test_a_crash_inside_charges_and_ends_as_documented(two_cpus):
    @ray.remote
    def dies():
        import os

        os._exit(3)

    @ray.remote
    def outer():
        return ray.get(dies.remote())

    with pytest.raises((exceptions.WorkerCrashedError, exceptions.RayTaskError)):
        ray.get(outer.remote(), timeout=60)
