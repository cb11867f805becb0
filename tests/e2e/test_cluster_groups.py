"""What waits in a cluster goes on when it can: placement groups of several homes, nodes that join, drivers that end."""

from __future__ import annotations

import pytest

from tests.e2e.nodes import clusters
from tests.e2e.scripts import run_script
from tests.e2e.target import ray, until, waits_because
from zray.util.placement_group import placement_group, remove_placement_group
from zray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup

pytestmark = pytest.mark.zray_only
WAIT_S = 60


@pytest.fixture
def start(session_root):
    with clusters(session_root) as start:
        yield start


@ray.remote(num_cpus=0, num_gpus=1)
def node_of_a_bundle():
    return ray.get_runtime_context().get_node_id()


@ray.remote(num_cpus=0)
def use_groups(count, nodes):
    groups = [placement_group([{"GPU": 1, "custom": 1}] * nodes, strategy="STRICT_SPREAD") for _ in range(count)]
    refs = [[node_of_a_bundle.options(scheduling_strategy=InGroup(group, index)).remote() for index in range(nodes)]
            for group in groups]
    found = [len(set(ray.get(each))) for each in refs]
    for group in groups:
        remove_placement_group(group)
    return found


def test_tasks_on_all_nodes_create_groups_at_once_and_each_bundle_runs_its_task(start):
    start(*[{"num_cpus": 1, "num_gpus": 12, "resources": {"custom": 12}}] * 3)
    refs = [use_groups.options(scheduling_strategy="SPREAD").remote(4, 3) for _ in range(3)]
    assert ray.get(refs, timeout=WAIT_S) == [[3] * 4] * 3
    until(lambda: ray.available_resources().get("GPU") == 36, "the groups have given everything back")


def test_groups_that_wait_for_busy_cpus_are_placed_when_a_node_joins(start):
    cluster = start({"num_cpus": 1})
    groups = [placement_group([{"CPU": 1}]) for _ in range(3)]
    assert sum(group.wait(0.2) for group in groups) == 1
    cluster.add_node(num_cpus=2)
    assert all(group.wait(WAIT_S) for group in groups)


DETACHED = """
import sys
import zray as ray

ray.init(address=sys.argv[1], namespace="test")

@ray.remote(num_cpus=0)
class Lasting:
    def begin(self):
        @ray.remote(resources={"late": 1})
        def task():
            return ray.get_runtime_context().get_node_id()

        @ray.remote(resources={"late": 1}, num_cpus=0)
        class Child:
            def where(self):
                return ray.get_runtime_context().get_node_id()

        self.child = Child.remote()
        self.refs = [task.remote(), self.child.where.remote()]

    def nodes(self):
        return ray.get(self.refs)

ray.get(Lasting.options(name="lasting", lifetime="detached").remote().__ray_ready__.remote())
"""


def test_a_detached_actor_whose_driver_has_ended_uses_a_node_that_joins_later(start, tmp_path):
    cluster = start({"num_cpus": 1}, {"num_cpus": 1})
    run_script(tmp_path, DETACHED, cluster.address)
    lasting = ray.get_actor("lasting")
    ray.get(lasting.begin.remote())
    answer = lasting.nodes.remote()
    late = cluster.add_node(num_cpus=1, resources={"late": 2})
    assert ray.get(answer, timeout=WAIT_S) == [late.node_id] * 2
    ray.kill(lasting)


def test_a_task_says_why_its_group_waits(start):
    start({"num_cpus": 1}, {"num_cpus": 1})
    group = placement_group([{"TPU": 1}])
    ref = node_of_a_bundle.options(num_gpus=0, scheduling_strategy=InGroup(group, 0)).remote()
    waits_because(ref, "TPU")
    remove_placement_group(group)


def is_on(group, node_id):
    return set(ray.util.placement_group_table(group)["bundles_to_node_id"].values()) == {node_id}


def test_a_strictly_packed_group_is_on_its_target_if_that_is_there(start):
    cluster = start({"num_cpus": 2}, {"num_cpus": 2}, {"num_cpus": 2})
    ids = [row["NodeID"] for row in ray.nodes()]
    for target in ids:
        group = ray.util.placement_group([{"CPU": 1}], strategy="STRICT_PACK", _soft_target_node_id=target)
        ray.get(group.ready(), timeout=30)
        assert is_on(group, target)
    two = ray.util.placement_group([{"CPU": 2}], strategy="STRICT_PACK", _soft_target_node_id=ids[0])
    assert not two.wait(0), "each node has one CPU left"
    ray.util.remove_placement_group(group)
    ray.get(two.ready(), timeout=30)
    assert is_on(two, ids[-1]), "the node with room for both"
    gone = ray.util.placement_group([{"CPU": 1}], strategy="STRICT_PACK", _soft_target_node_id="ab" * 28)
    ray.get(gone.ready(), timeout=30)
    assert cluster
