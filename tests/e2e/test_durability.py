"""``durability=``: several nodes keep an object, and the loss of one node loses nothing.  Real daemons, kill -9."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.nodes import ask
from tests.e2e.target import ray, until

pytestmark = pytest.mark.zray_only

NODE = {"num_cpus": 2, "resources": {"w": 1}}


def places(ref):
    """The ids of the nodes that have it."""
    from zray.experimental import get_object_locations

    return set(get_object_locations([ref])[ref]["node_ids"])


@ray.remote(resources={"w": 0.01}, durability=2, max_retries=0)
def full(number):
    return np.full(25_000, number, dtype=np.float64)


@ray.remote(resources={"w": 0.01}, durability=2, max_retries=0, num_returns=2)
def two(number):
    return number, [ray.put(number)]


@ray.remote(resources={"w": 0.01}, durability=2, max_retries=0, num_returns="streaming")
def items(count):
    yield from range(count)


def test_results_and_puts_outlive_a_node_and_get_a_new_second_copy(grow):
    cluster = grow({"num_cpus": 1}, NODE)
    put = ray.put(np.full(25_000, 7.0), durability=2)
    assert len(places(put)) == 2  # when put returns
    results = [full.remote(number) for number in range(6)]
    numbers, boxes = zip(*(two.remote(number) for number in range(3)), strict=True)
    streamed = list(items.remote(4))
    everything = [put, *results, *numbers, *boxes, *streamed]
    ray.wait(everything, num_returns=len(everything), timeout=60, fetch_local=False)
    assert all(len(places(ref)) == 2 for ref in everything)  # when it is ready
    cluster.worker_nodes[0].kill()
    assert [float(value[0]) for value in ray.get(results, timeout=60)] == list(range(6))
    assert ray.get([*numbers, *streamed], timeout=60) == [0, 1, 2, 0, 1, 2, 3]
    cluster.add_node(**NODE)
    until(lambda: all(len(places(ref)) == 2 for ref in everything), "each has a second copy again")


def test_missing_copies_are_made_when_nodes_join_and_a_warning_says_so(grow, caplog):
    cluster = grow({"num_cpus": 1})
    ref = ray.put(b"small", durability=3)
    assert len(places(ref)) == 1 and "durability=3, and only 1 of the nodes" in caplog.text
    cluster.add_node(**NODE)
    until(lambda: len(places(ref)) == 2, "the node that joined has a copy")
    cluster.add_node(**NODE)
    until(lambda: len(places(ref)) == 3, "and the next")
    assert ray.get(ref) == b"small"


def test_copies_end_with_the_object(grow):
    from zray.core.runtime import current

    cluster = grow({"num_cpus": 1}, NODE)
    ref = ray.put(np.zeros(25_000), durability=2)
    other, = {node["NodeID"] for node in ray.nodes()} - {current().node_info["NodeID"]}
    assert other in places(ref)
    node, = cluster.worker_nodes
    assert ask(node, "store")["store"]["objects"]
    del ref
    until(lambda: not ask(node, "store")["store"]["objects"], "the copy is freed")


@pytest.mark.parametrize(("durability", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError),
                                                   (True, TypeError), ("2", TypeError)])
def test_a_durability_that_is_no_number_of_copies_is_refused(cluster, durability, error):
    with pytest.raises(error, match="durability"):
        ray.put(1, durability=durability)
    with pytest.raises(error, match="durability"):
        full.options(durability=durability)
