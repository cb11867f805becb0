"""Objects that do not fit into shared memory: larger than the store, or beside what is held."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from tests.e2e.target import ray, until

MB = 1_000_000
STORE = 20 * MB


@pytest.fixture(autouse=True)
def _session(module_footprint):
    if not ray.is_initialized():
        ray.init(num_cpus=2, object_store_memory=STORE)


@ray.remote
def filled(megabytes, value):
    return np.full(megabytes * MB, value, dtype=np.uint8)


@ray.remote
def total(*arrays):
    return sum(len(array) for array in arrays), [int(array[-1]) for array in arrays]


def test_a_store_that_is_more_than_half_full_of_held_arrays_takes_more():
    refs = [ray.put(np.full(12 * MB, i, dtype=np.uint8)) for i in range(3)]
    arrays = [ray.get(ref) for ref in refs]
    assert [int(array[0]) for array in arrays] == [0, 1, 2]
    del refs
    assert [int(array[-1]) for array in arrays] == [0, 1, 2]


def test_an_array_larger_than_the_store_is_put_passed_and_returned():
    ref = ray.put(np.full(25 * MB, 3, dtype=np.uint8))
    array = ray.get(ref)
    assert len(array) == 25 * MB and int(array[-1]) == 3 and not array.flags.writeable
    assert ray.get(total.remote(ref)) == (25 * MB, [3])
    assert ray.get(total.remote(np.full(25 * MB, 4, dtype=np.uint8))) == (25 * MB, [4])
    assert int(ray.get(filled.remote(25, 5))[-1]) == 5


def test_arguments_larger_together_than_the_store_are_read_by_one_task():
    assert ray.get(total.remote(*[filled.remote(8, i) for i in range(5)])) == (40 * MB, [*range(5)])


def test_tasks_whose_arguments_do_not_fit_together_all_get_done():
    wanted = [total.remote(*[filled.remote(8, i) for i in range(2)]) for _ in range(4)]
    assert ray.get(wanted) == [(16 * MB, [0, 1])] * 4


class Cycle:
    """Garbage that holds a reference, and that only the collector finds."""

    def __init__(self):
        self.me = self
        self.ref = ray.put(np.zeros(4 * MB, dtype=np.uint8))


@ray.remote
class Maker:
    def __init__(self):
        gc.disable()
        self.made = weakref.ref(Cycle())

    def is_collected(self):
        return self.made() is None


def test_a_store_that_runs_full_makes_all_processes_collect_their_garbage():
    maker = Maker.remote()
    gc.collect()
    gc.disable()
    try:
        made = weakref.ref(Cycle())
        assert made() is not None and not ray.get(maker.is_collected.remote())
        kept = []

        def both():
            kept.append(ray.put(np.zeros(4 * MB, dtype=np.uint8)))
            del kept[:-4]
            return made() is None and ray.get(maker.is_collected.remote())

        until(both, "both cycles are collected", deadline_s=60)
    finally:
        gc.enable()


@pytest.mark.zray_only
def test_objects_larger_than_both_stores_travel_between_nodes(grow):
    ray.shutdown()
    grow({"num_cpus": 1, "object_store_memory": 10 * MB},
         {"num_cpus": 1, "object_store_memory": 10 * MB, "resources": {"far": 1}})

    @ray.remote(resources={"far": 1})
    def far(array):
        return np.concatenate([array, array[-1:] + 1])

    result = ray.get(far.remote(np.full(15 * MB, 7, dtype=np.uint8)))
    assert len(result) == 15 * MB + 1 and list(result[-2:]) == [7, 8]
