"""as_completed, map_unordered, and results of an ActorPool that come late."""

from __future__ import annotations

import pytest

from tests.e2e.target import Gate, ray


@ray.remote(num_cpus=0)
def after(gate, value):
    if gate is not None:
        gate.wait()
    return value


@ray.remote(num_cpus=0, max_concurrency=4)
class Waiter:
    def wait(self, gate, value):
        if gate is not None:
            gate.wait()
        return value


def test_results_come_as_they_get_ready(cluster, gate):
    refs = [after.remote(gate, "late"), after.remote(None, 1), after.remote(None, 2)]
    results = ray.util.as_completed(refs, chunk_size=1)
    assert {next(results), next(results)} == {1, 2}
    gate.open()
    assert list(results) == ["late"]
    assert list(ray.util.as_completed(refs[1:], chunk_size=2, yield_obj_refs=True, fetch_local=False)) == refs[1:]
    for wrong in ({"chunk_size": 0}, {"num_returns": 2}):
        with pytest.raises(ValueError):
            list(ray.util.as_completed(refs, **wrong))


def test_no_more_tasks_than_the_back_pressure_allows(cluster):
    taken = []

    def items():
        for n in range(12):
            taken.append(n)
            yield None, n

    @ray.remote(num_cpus=0)
    def second(pair):
        return pair[1]

    results = ray.util.map_unordered(second, items(), backpressure_size=3, chunk_size=1)
    first = next(results)
    assert len(taken) == 3
    assert sorted([first, *results]) == list(range(12))
    assert sorted(ray.util.map_unordered(second, items(), backpressure_size=2)) == list(range(12))
    assert sorted(ray.util.map_unordered(second, items(), backpressure_size=None)) == list(range(12))
    with pytest.raises(ValueError, match="backpressure_size must be positive"):
        list(ray.util.map_unordered(second, items(), backpressure_size=0))


def test_a_pool_gives_up_a_late_result_only_when_asked_to(cluster, tmp_path):
    gate = Gate(tmp_path)
    pool = ray.util.ActorPool([Waiter.remote()])
    for value in ("late", "later"):
        pool.submit(lambda actor, value: actor.wait.remote(gate, value), value)
    with pytest.raises(TimeoutError, match="Timed out waiting for result"):
        pool.get_next(timeout=0.05)
    with pytest.raises(TimeoutError, match="has been ignored"):
        pool.get_next(timeout=0.05, ignore_if_timedout=True)
    gate.open()
    assert pool.get_next(timeout=60) == "later" and not pool.has_next()
