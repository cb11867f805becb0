"""Placement groups with real processes on one node."""

from __future__ import annotations

import asyncio
import os
import pickle
import time

import pytest

from tests.e2e.scripts import run_script, zray
from tests.e2e.target import Counts, ray, until, waits_because
from zray import exceptions
from zray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from zray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup

pytestmark = pytest.mark.zray_only
WAIT_S = 20


@pytest.fixture
def groups(module_footprint):
    """A node with 4 CPUs and 2 (logical) GPUs; what a test made is removed after it."""
    if not ray.is_initialized():
        ray.init(num_cpus=4, num_gpus=2, resources={"disk": 2})
    yield placement_group
    for row in placement_group_table().values():
        if row["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(row["placement_group_id"])))
    all_free()
    module_footprint.watch()


def all_free() -> None:
    def is_free() -> bool:
        free, total = ray.available_resources(), ray.cluster_resources()
        return all(free.get(name) == total[name] for name in ("CPU", "GPU", "disk"))

    until(is_free, "everything is free")


@ray.remote
def where():
    context = ray.get_runtime_context()
    return context.get_placement_group_id(), os.environ.get("CUDA_VISIBLE_DEVICES")


@ray.remote
def wait_for(gate):
    gate.wait()


@ray.remote
class Counter(Counts):
    def group(self):
        return get_current_placement_group()

    def gpus(self):
        return ray.get_gpu_ids()


@pytest.mark.parametrize("strategy", [None, "PACK", "SPREAD", "STRICT_PACK"])
def test_a_group_sets_its_bundles_aside_until_it_is_removed(groups, strategy):
    pg = groups([{"CPU": 1, "disk": 1}, {"CPU": 2}], strategy=strategy)
    assert ray.get(pg.ready(), timeout=WAIT_S) == pg and pg.wait(1)
    free = ray.available_resources()
    assert free["CPU"] == 1 and free["disk"] == 1
    assert pg.bundle_specs == [{"CPU": 1.0, "disk": 1.0}, {"CPU": 2.0}] and pg.bundle_count == 2
    row = placement_group_table(pg)
    assert row["state"] == "CREATED" and row["strategy"] == (strategy or "PACK")
    assert set(row["bundles_to_node_id"].values()) == {ray.nodes()[0]["NodeID"]}
    remove_placement_group(pg)
    all_free()
    assert placement_group_table(pg)["state"] == "REMOVED"
    remove_placement_group(pg)  # again: harmless


def test_strict_spread_over_more_nodes_than_there_are_is_pending_and_explained(groups):
    pg = groups([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    waits_because(pg.ready(), "a node of its own for each of 2 bundles", "2 bundles, and the cluster has 1 node")
    ray.cancel(pg.ready())  # there is no task to cancel, so nothing happens
    waits_because(where.options(scheduling_strategy=InGroup(pg)).remote(), "a node of its own for each of 2 bundles")
    row = placement_group_table(pg)
    assert row["state"] == "PENDING" and row["stats"]["scheduling_state"] == "INFEASIBLE"
    assert not pg.wait(0.05)
    assert groups([{"CPU": 1}], strategy="STRICT_SPREAD").wait(WAIT_S)


def test_a_bundle_larger_than_the_node_is_pending_and_says_which(groups):
    pg = groups([{"CPU": 1}, {"CPU": 64}])
    waits_because(pg.ready(), "bundle 1 (CPU: 64) fits on no node")
    assert ray.available_resources()["CPU"] == 4, "never half a group"


def test_a_group_waits_for_what_is_in_use_and_gets_it_before_later_tasks(groups):
    first = groups([{"CPU": 3}])
    assert first.wait(WAIT_S)
    second = groups([{"CPU": 3}])
    waits_because(second.ready(), "bundle 0 asks for CPU: 3, and CPU: 1 is free")
    remove_placement_group(first)
    assert second.wait(WAIT_S)


def test_a_stream_of_tasks_does_not_starve_a_group(groups):
    @ray.remote
    def short():
        time.sleep(0.005)

    pending = [short.remote() for _ in range(40)]
    pg = groups([{"CPU": 4}])
    ready = pg.ready()
    deadline = time.monotonic() + WAIT_S
    while not ray.wait([ready], timeout=0)[0]:  # there is always more to do than the node can
        assert time.monotonic() < deadline
        done, pending = ray.wait(pending, timeout=0.1)
        pending += [short.remote() for _ in done]
    remove_placement_group(pg)
    ray.get(pending, timeout=WAIT_S)


def test_tasks_and_actors_run_in_their_bundle(groups):
    pg = groups([{"CPU": 1}, {"CPU": 1, "GPU": 1}])
    actor = Counter.options(num_cpus=1, num_gpus=1, scheduling_strategy=InGroup(pg, 1)).remote()
    assert ray.get(actor.group.remote(), timeout=WAIT_S) == pg
    assert len(ray.get(actor.gpus.remote(), timeout=WAIT_S)) == 1
    found, gpus = ray.get(where.options(scheduling_strategy=InGroup(pg, 0)).remote(), timeout=WAIT_S)
    assert found == pg.id.hex() and gpus is None
    busy = where.options(scheduling_strategy=InGroup(pg, 1)).remote()
    waits_because(busy, "the resources its task asks for are in use")
    ray.kill(actor)
    assert ray.get(busy, timeout=WAIT_S)[0] == pg.id.hex()
    assert ray.get(where.remote(), timeout=WAIT_S)[0] is None and get_current_placement_group() is None


def test_a_task_for_any_bundle_uses_them_all(groups, gate):
    pg = groups([{"CPU": 1}, {"CPU": 1}])
    held = [wait_for.options(scheduling_strategy=InGroup(pg)).remote(gate) for _ in range(2)]
    free = where.remote()  # outside of the group
    gate.wait_arrived(2)
    assert ray.get(free, timeout=WAIT_S)[0] is None
    gate.open()
    ray.get(held, timeout=WAIT_S)


def test_each_bundle_has_gpus_of_its_own(groups):
    pg = groups([{"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 0.5}, {"CPU": 1, "GPU": 0.5}])
    seen = [ray.get(where.options(num_gpus=share, scheduling_strategy=InGroup(pg, index)).remote(), timeout=WAIT_S)[1]
            for index, share in ((0, 1), (1, 0.5), (2, 0.5))]
    assert sorted(seen[:2]) == ["0", "1"] and seen[1] == seen[2]
    assert "GPU" not in {name for name, value in ray.available_resources().items() if value}
    remove_placement_group(pg)
    all_free()


def test_removal_in_use_kills_what_runs_and_fails_what_waits(groups, gate):
    pg = groups([{"CPU": 1}])
    strategy = InGroup(pg)
    running = wait_for.options(scheduling_strategy=strategy).remote(gate)
    waiting = [where.options(scheduling_strategy=strategy).remote() for _ in range(3)]
    gate.wait_arrived(1)
    remove_placement_group(pg)
    for ref in [running, *waiting]:
        with pytest.raises(exceptions.TaskPlacementGroupRemoved, match="^The placement group corresponding to"):
            ray.get(ref, timeout=WAIT_S)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):  # and what comes later
        ray.get(where.options(scheduling_strategy=strategy).remote(), timeout=WAIT_S)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        ray.get(pg.ready(), timeout=WAIT_S)
    assert not pg.wait(WAIT_S)
    all_free()


def test_a_map_in_a_group_ends_with_it(groups, gate):
    @ray.remote
    def item(gate, i):
        gate.wait()

    pg = groups([{"CPU": 1}])
    refs = item.options(scheduling_strategy=InGroup(pg)).starmap([(gate, i) for i in range(100)])
    gate.wait_arrived(1)
    remove_placement_group(pg)
    for ref in (refs[0], refs[99]):
        with pytest.raises(exceptions.TaskPlacementGroupRemoved):
            ray.get(ref, timeout=WAIT_S)


def test_actors_of_a_removed_group_are_gone_even_with_restarts_left(groups):
    pg = groups([{"CPU": 1}])
    actor = Counter.options(num_cpus=1, max_restarts=-1, scheduling_strategy=InGroup(pg)).remote()
    assert ray.get(actor.add.remote(), timeout=WAIT_S) == 1
    waiting = Counter.options(num_cpus=1, scheduling_strategy=InGroup(pg)).remote()
    remove_placement_group(pg)
    all_free()  # removal is asynchronous
    for ref in (actor.add.remote(), waiting.add.remote()):
        with pytest.raises(exceptions.ActorPlacementGroupRemoved, match="^The placement group corresponding to this"):
            ray.get(ref, timeout=WAIT_S)


def test_an_actor_restarts_in_its_bundle(groups):
    pg = groups([{"CPU": 1}])
    actor = Counter.options(num_cpus=1, max_restarts=1, max_task_retries=-1,
                            scheduling_strategy=InGroup(pg, 0)).remote()
    assert ray.get(actor.add.remote(), timeout=WAIT_S) == 1
    ray.kill(actor, no_restart=False)
    assert ray.get(actor.group.remote(), timeout=WAIT_S) == pg


def test_children_are_captured_only_where_asked(groups):
    @ray.remote
    def parent():
        own = get_current_placement_group()
        return own, [ray.get(where.options(**options).remote())[0] for options in (
            {}, {"scheduling_strategy": "DEFAULT"})], ray.get(Counter.options(num_cpus=0).remote().group.remote())

    pg = groups([{"CPU": 2}])
    own, (child, other), actor = ray.get(
        parent.options(scheduling_strategy=InGroup(pg, 0, True)).remote(), timeout=WAIT_S)
    assert own == pg and child == pg.id.hex() and other is None and actor == pg
    own, (child, other), actor = ray.get(parent.options(scheduling_strategy=InGroup(pg)).remote(), timeout=WAIT_S)
    assert own == pg and child is None and actor is None


def test_a_blocked_parent_lends_its_cpu_inside_its_bundle(groups):
    @ray.remote
    def nested(depth):
        return 0 if depth == 0 else 1 + ray.get(nested.remote(depth - 1))

    pg = groups([{"CPU": 1}])
    strategy = InGroup(pg, placement_group_capture_child_tasks=True)
    assert ray.get(nested.options(scheduling_strategy=strategy).remote(4), timeout=WAIT_S) == 4


def test_a_name_finds_a_group_and_is_free_again_after_removal(groups):
    pg = groups([{"CPU": 1}], name="mine")
    assert get_placement_group("mine") == pg and get_placement_group("mine").bundle_specs == [{"CPU": 1.0}]
    with pytest.raises(ValueError, match="Failed to create placement group .* because name 'mine' already exists"):
        groups([{"CPU": 1}], name="mine")
    remove_placement_group(pg)
    with pytest.raises(ValueError, match="Failed to look up placement group with name: mine"):
        get_placement_group("mine")
    assert groups([{"CPU": 1}], name="mine").wait(WAIT_S)
    with pytest.raises(ValueError, match="non-empty"):
        get_placement_group("")


def test_a_handle_pickles_and_tasks_use_it(groups):
    @ray.remote
    def use(pg):
        assert pg.wait(WAIT_S)
        return pg.bundle_count, ray.get(where.options(scheduling_strategy=InGroup(pg)).remote())[0]

    pg = groups([{"CPU": 1}])
    assert pickle.loads(pickle.dumps(pg)) == pg and hash(pickle.loads(pickle.dumps(pg))) == hash(pg)
    assert ray.get(use.remote(pg), timeout=WAIT_S) == (1, pg.id.hex())
    empty = PlacementGroup.empty()
    assert empty.is_empty and empty.wait(0) and ray.get(empty.ready()) == empty and empty.bundle_count == 0
    assert ray.get(where.options(scheduling_strategy=InGroup(empty)).remote(), timeout=WAIT_S)[0] is None


def test_ready_is_awaited(groups):
    async def both():
        first, second = groups([{"CPU": 1}]), groups([{"CPU": 1}])
        return await asyncio.gather(first.ready(), second.ready()) == [first, second]

    assert asyncio.run(both())


@pytest.mark.parametrize(("options", "index", "words"), [
    ({"num_cpus": 2}, -1, "Cannot schedule where with the placement group because the resource request"),
    ({"num_cpus": 1, "num_gpus": 1}, 0, "cannot fit into bundle 0"),
    ({}, 2, "placement group bundle index 2 is invalid. Valid placement group indexes: 0-1"),
])
def test_a_demand_that_never_fits_is_refused_at_submission(groups, options, index, words):
    pg = groups([{"CPU": 1}, {"GPU": 1, "CPU": 0.5}])
    with pytest.raises(ValueError, match=words):
        where.options(**options, scheduling_strategy=InGroup(pg, index)).remote()
    with pytest.raises(ValueError, match="requires 1 CPU for creation"):
        Counter.options(scheduling_strategy=InGroup(groups([{"GPU": 1}]))).remote()


ENTER = 'import zray as ray\nray.init("auto", namespace="shop")\n'


def test_a_group_ends_with_its_job_unless_it_is_detached(fresh, tmp_path):
    pytest.importorskip("click")
    zray("start", "--head", "--num-cpus", "2")
    try:
        run_script(tmp_path, ENTER + """
for name, lifetime in (("kept", "detached"), ("gone", None)):
    assert ray.util.placement_group([{"CPU": 1}], name=name, lifetime=lifetime).wait(20)
""")
        run_script(tmp_path, ENTER + """
from zray.util.placement_group import get_placement_group, placement_group_table, remove_placement_group
kept = get_placement_group("kept")
assert kept.wait(20) and ray.available_resources()["CPU"] == 1
states = {row["name"]: row["state"] for row in placement_group_table().values()}
assert states == {"kept": "CREATED", "gone": "REMOVED"}, states
try:
    get_placement_group("gone")
except ValueError:
    remove_placement_group(kept)
""")
        shown = zray("list", "placement-groups", "--format", "json")
        assert shown.count("REMOVED") == 2
    finally:
        zray("stop")


def test_a_bundle_without_a_group_is_refused_at_the_call():
    task = ray.remote(lambda: 1)
    with pytest.raises(ValueError, match="If placement group is not set, the value of bundle index must be -1."):
        task.options(placement_group_bundle_index=0).remote()
    with pytest.raises(ValueError, match="If placement group is not set"):
        ray.remote(type("Actor", (), {})).options(placement_group_bundle_index=0).remote()


@pytest.mark.parametrize(("target", "strategy", "error"), [
    ("ab" * 28, "PACK", "only works with STRICT_PACK"), ("zz", "STRICT_PACK", "Invalid hex ID"),
    ("ab" * 27, "STRICT_PACK", "Invalid hex ID")])
def test_a_soft_target_that_cannot_be_is_refused(target, strategy, error):
    with pytest.raises(ValueError, match=error):
        ray.util.placement_group([{"CPU": 1}], strategy=strategy, _soft_target_node_id=target)
