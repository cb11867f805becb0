"""Objects outlive their owners: kill -9 of an actor, or of its node, whose objects others hold."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from tests.e2e.target import exceptions, ray, until

pytestmark = pytest.mark.zray_only

LARGE = 300_000  # float64: in the store


@ray.remote
class Maker:
    """Owns what it puts and what the tasks that it submits return."""

    def pid(self):
        return os.getpid()

    def small(self):
        return [ray.put("small")]

    def large(self, value=1.0):
        return [ray.put(np.full(LARGE, value))]

    def nested(self):
        """A reference to a value with a reference inside."""
        inner = ray.put("inside")
        return [ray.put([inner, "outside"])]

    def submitted(self, gate):
        return [waits.remote(gate), fails.remote()]


@ray.remote
class Keeper:
    def __init__(self):
        self.kept = []

    def keep(self, refs):
        self.kept += refs

    def read(self):
        return [value if isinstance(value, str) else float(value[0]) for value in ray.get(self.kept, timeout=60)]

    def give(self):
        return list(self.kept)

    def fetch(self, maker):
        self.kept += ray.get(maker.large.remote(2.0))

    def knows(self):
        return all(ref._record.value is not None for ref in self.kept)


@ray.remote
def waits(gate):
    gate.wait()
    return "waited"


@ray.remote
def fails():
    raise KeyError("lost and found")


@ray.remote
def read(box):
    return [value if isinstance(value, str) else float(value[0]) for value in ray.get(box, timeout=60)]


def runtime():
    from zray.core import runtime

    return runtime.current()


def kill_9(actor):
    pid = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(exceptions.RayActorError):
        ray.get(actor.pid.remote(), timeout=60)


def adopted(refs):
    """The driver has become the owner."""
    return until(lambda: all(ref._record.owner == runtime().incarnation for ref in refs), "the driver adopts")


def objects_in_store():
    return [row for row in runtime().query("store")["store"]["objects"] if row["state"] != "EVICTING"]


def test_what_an_actor_put_outlives_it(cluster):
    maker = Maker.remote()
    refs = ray.get(maker.small.remote()) + ray.get(maker.large.remote())
    kill_9(maker)
    assert ray.get(refs[0], timeout=60) == "small" and (ray.get(refs[1], timeout=60) == 1.0).all()
    # Passed on, too: the driver owns them now.
    assert ray.get(read.remote(refs), timeout=60) == ["small", 1.0]
    adopted(refs)
    assert ray.get(read.remote(refs), timeout=60) == ["small", 1.0]
    runtime().check()
    del refs
    until(lambda: not runtime().machine.adoption.adopted, "freed when nobody refers to it")
    until(lambda: not objects_in_store(), "nothing of it stays in the store")
    runtime().check()


def test_a_reference_inside_a_value_is_good_after_the_owner_of_both_is_dead(cluster):
    maker = Maker.remote()
    [outer] = ray.get(maker.nested.remote())
    until(lambda: outer._record.value is not None, "its owner tells of it")
    kill_9(maker)
    inner, text = ray.get(outer, timeout=60)
    assert text == "outside" and ray.get(inner, timeout=60) == "inside"
    adopted([inner, outer])
    assert ray.get(read.remote([inner]), timeout=60) == ["inside"]
    runtime().check()


def test_pending_results_are_told_when_they_are_ready_and_made_again_if_their_owner_dies_first(cluster, gate):
    maker = Maker.remote()
    pending, failed = ray.get(maker.submitted.remote(gate))
    gate.wait_arrived()
    until(lambda: failed._record.value is not None, "its owner tells of its error")
    other = Maker.remote()
    lost, _ = ray.get(other.submitted.remote(gate))
    kill_9(other)
    gate.open()
    until(lambda: pending._record.value is not None, "its owner tells of it")
    kill_9(maker)
    assert ray.get(pending, timeout=60) == "waited"
    with pytest.raises(KeyError, match="lost and found"):
        ray.get(failed, timeout=60)
    assert ray.get(lost, timeout=60) == "waited"


def test_the_next_adopter_dies_too(cluster):
    maker, keeper = Maker.remote(), Keeper.remote()
    refs = ray.get(maker.small.remote()) + ray.get(maker.large.remote())
    ray.get(keeper.keep.remote(refs))
    ray.get(keeper.fetch.remote(maker))
    until(lambda: ray.get(keeper.knows.remote()), "the owner tells of what is kept beyond the call")
    kill_9(maker)
    assert ray.get(keeper.read.remote(), timeout=60) == ["small", 1.0, 2.0]
    third = ray.get(keeper.give.remote(), timeout=60)[2]
    until(lambda: third._record.value is not None and third._record.confirmed, "the keeper, its owner now, tells of it")
    keeper_pid = ray.get(keeper.__ray_call__.remote(lambda self: os.getpid()))
    os.kill(keeper_pid, signal.SIGKILL)
    adopted([*refs, third])
    assert (ray.get(third, timeout=60) == 2.0).all() and ray.get(refs[0], timeout=60) == "small"
    runtime().check()


def test_objects_of_a_dead_node_live_on_in_the_copies_of_others(fresh):
    from zray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        node = cluster.add_node(num_cpus=1, resources={"w": 1})
        cluster.wait_for_nodes()
        ray.init(address=cluster.address)
        maker = Maker.options(resources={"w": 1}).remote()
        refs = ray.get(maker.small.remote()) + ray.get(maker.large.remote())
        assert (ray.get(refs[1], timeout=60) == 1.0).all()  # brings a copy here
        node.kill()
        adopted(refs)
        assert ray.get(read.options(num_cpus=1).remote(refs), timeout=60) == ["small", 1.0]
        runtime().check()
    finally:
        ray.shutdown()
        cluster.shutdown()
