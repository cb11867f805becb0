"""Objects that are lost with a node, or with the disk, are made again: real daemons, real workers, kill -9."""

from __future__ import annotations

import glob
import os
from collections import Counter

import numpy as np
import pytest

from tests.e2e.target import exceptions, ray, until

pytestmark = pytest.mark.zray_only

STORE_BYTES = 64_000_000
BIG = 1_000_000  # of float64: 8 MB


@ray.remote
def full(value, size=BIG):
    return np.full(size, value, dtype=np.float64)


@ray.remote
def plus(a, b):
    return a + b


def runtime():
    from zray.core.runtime import current

    return current()


def lose_what_is_on_disk() -> int:
    """Delete the files of spilled objects, as a broken disk would; how many there were."""
    session = os.path.dirname(runtime().endpoint.removeprefix("ipc://"))
    files = [path for path in glob.glob(f"{session}/spill/**", recursive=True) if os.path.isfile(path)]
    for path in files:
        os.unlink(path)
    return len(files)


def more_than_fits(count=14):
    refs = [full.remote(i) for i in range(count)]
    ray.wait(refs, num_returns=count)
    until(lambda: lose_what_is_on_disk() >= 3, "objects are spilled")
    return refs


def test_results_whose_copy_on_disk_is_gone_are_made_again(fresh):
    ray.init(num_cpus=2, object_store_memory=STORE_BYTES)
    refs = more_than_fits()
    for i, ref in enumerate(refs):
        assert (ray.get(ref, timeout=60) == i).all()
    assert runtime().submitter.reconstruction.started >= 3
    lose_what_is_on_disk()
    for i in range(0, len(refs), 2):  # a worker finds out
        assert (ray.get(plus.remote(refs[i], refs[i + 1]), timeout=60) == 2 * i + 1).all()
    runtime().check()
    del refs, ref
    until(lambda: not runtime().submitter.lineage.recipes, "recipes go with their objects")
    runtime().check()


def test_a_borrower_that_cannot_read_an_object_has_it_made_again(fresh):
    @ray.remote
    def inside(box):
        return [float(ray.get(ref, timeout=60)[0]) for ref in box]

    ray.init(num_cpus=2, object_store_memory=STORE_BYTES)
    refs = more_than_fits()
    assert ray.get(inside.remote(refs), timeout=60) == list(range(len(refs)))
    assert runtime().submitter.reconstruction.started >= 3


def test_what_was_put_is_lost_with_its_only_copy_and_the_error_says_why(fresh):
    ray.init(num_cpus=2, object_store_memory=STORE_BYTES)
    put = ray.put(np.zeros(BIG))
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="only what tasks return"):
        for _ in range(10):
            kept = more_than_fits()
            ray.get(put)
            del kept


def kill_the_node_of(ref, nodes):
    """The ids of the nodes begin with what the addresses of their objects have."""
    next(node for node in nodes if node.node_id.startswith(ref._record.value[5].hex())).kill()


def test_items_of_generators_and_results_of_restartable_actors_outlive_their_node(grow):
    @ray.remote(resources={"w": 0.01}, num_returns="streaming")
    def numbers(count):
        for number in range(count):
            yield np.full(25_000, number, dtype=np.float64)

    @ray.remote(resources={"w": 0.01}, max_restarts=-1, max_task_retries=-1)
    class Maker:
        def full(self, number):
            return np.full(25_000, number, dtype=np.float64)

        def numbers(self, count):
            for number in range(count):
                yield self.full(number)

    node = {"num_cpus": 2, "resources": {"w": 1}}
    cluster = grow({"num_cpus": 1}, node)
    items = list(numbers.remote(8))
    maker = Maker.remote()
    results = [maker.full.remote(i) for i in range(8)]
    items_of_calls = list(maker.numbers.options(num_returns="streaming").remote(8))
    ray.wait(results, num_returns=8, timeout=60, fetch_local=False)
    kill_the_node_of(items[0], cluster.worker_nodes)
    cluster.add_node(**node)
    for refs in (items, results, items_of_calls):
        assert [float(value[0]) for value in ray.get(refs, timeout=60)] == list(range(8))
    runtime().check()


def test_a_lost_argument_of_a_constructor_is_made_again_when_the_actor_restarts(grow):
    @ray.remote(resources={"w": 0.01}, max_restarts=-1, max_task_retries=-1)
    class Keeper:
        def __init__(self, array, number):
            self.total = float(array.sum()) + number

        def read(self):
            return self.total

    node = {"num_cpus": 2, "resources": {"w": 1}}
    cluster = grow({"num_cpus": 1}, node)
    array = full.options(resources={"w": 0.01}).remote(2, 25_000)
    put = full.options(resources={"w": 0.01}, max_retries=0).remote(1, 25_000)
    keeper, other = Keeper.remote(array, 1), Keeper.remote(put, 1)
    assert ray.get([keeper.read.remote(), other.read.remote()], timeout=60) == [50_001, 25_001]
    cluster.worker_nodes[0].kill()
    cluster.add_node(**node)
    assert ray.get(keeper.read.remote(), timeout=60) == 50_001
    with pytest.raises(exceptions.ActorDiedError, match="arguments") as failed:
        ray.get(other.read.remote(), timeout=60)
    assert "max_retries=0" in str(failed.value) and failed.value.actor_init_failed


def test_results_of_a_map_that_are_lost_with_their_node_are_made_again(grow):
    @ray.remote(resources={"w": 0.01})
    def wide(number):
        return np.full(25_000, number, dtype=np.float64)

    node = {"num_cpus": 2, "resources": {"w": 1}}
    cluster = grow({"num_cpus": 1}, node)
    maps = [wide.map(range(12)), wide.map(range(4))]
    until(lambda: [refs.done() for refs in maps] == [12, 4], "the maps have ended")
    for each in cluster.worker_nodes:
        each.kill()
    cluster.add_node(**node)
    assert [float(value[0]) for value in ray.get(maps[0], timeout=60)] == list(range(12))
    assert float(ray.get(maps[1][2], timeout=60)[0]) == 2
    assert [float(value[0]) for value in ray.get(list(maps[1]), timeout=60)] == list(range(4))
    maps.clear()
    until(lambda: not runtime().submitter.maps.kept, "the items of a map go with its references")
    runtime().check()


def test_a_large_put_stays_while_a_result_may_have_to_be_made_from_it(grow):
    node = {"num_cpus": 2, "resources": {"w": 1}}
    cluster = grow({"num_cpus": 1}, node)
    put = ray.put(np.full(25_000, 3.0))
    total = plus.options(resources={"w": 0.01}).remote(put, put)
    ray.wait([total], timeout=60, fetch_local=False)
    del put
    kill_the_node_of(total, cluster.worker_nodes)
    cluster.add_node(**node)
    assert (ray.get(total, timeout=60) == 6).all()
    runtime().check()


def test_a_tree_reduction_outlives_the_node_that_holds_its_objects(grow):
    leaf = full.options(resources={"w": 1}, max_retries=5)
    add = plus.options(resources={"w": 1}, max_retries=5)
    nodes = grow({"num_cpus": 1}, *[{"num_cpus": 2, "resources": {"w": 2}}] * 2).worker_nodes
    level = leaves = [leaf.remote(i, 25_000) for i in range(16)]  # 200 kB each
    halves = [add.remote(a, b) for a, b in zip(leaves[::2], leaves[1::2], strict=True)]
    ray.wait(leaves, num_returns=len(leaves), timeout=60, fetch_local=False)
    places = Counter(ref._record.value[5].hex() for ref in leaves)
    holder = places.most_common(1)[0][0]
    next(node for node in nodes if node.node_id.startswith(holder)).kill()
    level = halves
    while len(level) > 1:
        level = [add.remote(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
    assert (ray.get(level[0], timeout=100) == sum(range(16))).all()
    assert [float(value[0]) for value in ray.get(leaves, timeout=60)] == list(range(16))
    assert runtime().submitter.reconstruction.started > 0  # of the others the last node had read copies
    runtime().check()
