"""A worker runs the dependency it waits for itself: few processes, and no difference that a user could see."""

from __future__ import annotations

import pytest

from tests.e2e.target import exceptions, ray, until
from zray.handles.connection import current

pytestmark = pytest.mark.zray_only


def workers() -> int:
    from zray.handles.connection import connected

    return connected().query("workers")["total"]


def test_a_recursion_needs_few_workers(fresh):
    ray.init(num_cpus=2)

    @ray.remote
    def fib(n):
        if n < 2:
            return n
        return sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))

    before = workers()
    assert ray.get(fib.remote(12), timeout=60) == 144
    assert workers() <= before + 4


def test_errors_nested_references_and_several_values(cluster):
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


def test_retries_count_as_in_a_worker_of_its_own(cluster, tmp_path):
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


def test_the_inner_task_has_the_whole_stack_and_a_name_of_its_own(cluster):
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
def test_cancel_of_the_outer_task_ends_both(cluster, gate, recursive):
    @ray.remote
    def inner(gate):
        if gate is not None:
            gate.arrive()
            until(lambda: current().executor.interrupts._later, "the outer task is to end when it runs on")
        return 1

    @ray.remote
    def outer(gate):
        return ray.get(inner.remote(gate))

    ref = outer.remote(gate)
    gate.wait_arrived()
    ray.cancel(ref, recursive=recursive)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    assert ray.get(outer.remote(None), timeout=30) == 1


def test_a_crash_inside_charges_and_ends_as_documented(cluster):
    @ray.remote
    def dies():
        import os

        os._exit(3)

    @ray.remote
    def outer():
        return ray.get(dies.remote())

    with pytest.raises((exceptions.WorkerCrashedError, exceptions.RayTaskError)):
        ray.get(outer.remote(), timeout=60)
