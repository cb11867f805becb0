"""What placement_group() accepts, and placement groups in local mode."""

from __future__ import annotations

import asyncio
import pickle

import pytest

import zray as ray
from zray import exceptions
from zray.base.causes import Cause
from zray.base.ids import PlacementGroupID, group_id, home_of
from zray.core.waits.explaining import sentence
from zray.handles.options import ActorOptions, TaskOptions
from zray.sched.cluster.packing import STRATEGIES
from zray.util.placement_group import (
    VALID_PLACEMENT_GROUP_STRATEGIES,
    PlacementGroup,
    checked_bundles,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from zray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

PG = PlacementGroup(PlacementGroupID(b"g" * 18), [{"CPU": 1.0}])


def test_each_strategy_that_users_may_name_can_be_placed():
    assert set(VALID_PLACEMENT_GROUP_STRATEGIES) == set(STRATEGIES)


@pytest.mark.parametrize(("bundles", "words"), [
    ({"CPU": 1}, "Placement group bundles must be a list, got"),
    ([], "Bundles must be a non-empty list of resource dictionaries"),
    ([{}], "Bundles cannot be an empty dictionary or resources with only 0 values"),
    ([{"CPU": 1}, {"CPU": 0, "GPU": 0}], "Bundles cannot be an empty dictionary or resources with only 0 values"),
    ([{"CPU": -1}], "Bundle 0 is not valid: .* negative"),
    ([{"CPU": 1}, {"CPU": float("nan")}], "Bundle 1 is not valid"),
    ([{"CPU": 1e30}], "Bundle 0 is not valid: .* too much"),
    ([{"CPU": 0.00001}], "Bundle 0 is not valid: .* too fine"),
    ([{"CPU": "1"}], "Bundles must be a non-empty list of resource dictionaries"),
    ([{"CPU": True}], "Bundles must be a non-empty list of resource dictionaries"),
    ([{1: 1}], "Bundles must be a non-empty list of resource dictionaries"),
    (["CPU"], "Bundles must be a non-empty list of resource dictionaries"),
    ([{"GPU": 1.5}], "GPU must be a whole number or less than 1"),
])
def test_bundles_that_are_none_are_refused_in_words(bundles, words):
    with pytest.raises(ValueError, match=words):
        checked_bundles(bundles)


def test_bundles_become_exact_units_without_zeros():
    assert checked_bundles([{"CPU": 0.1, "GPU": 0}, {"disk": 2}]) == [{"CPU": 1000}, {"disk": 20_000}]


def test_object_store_memory_in_a_bundle_is_deprecated():
    with pytest.warns(DeprecationWarning, match="object_store_memory"):
        checked_bundles([{"object_store_memory": 10}])


@pytest.mark.parametrize(("arguments", "error", "words"), [
    ({"strategy": "LOOSE"}, ValueError, "Invalid placement group strategy LOOSE. Supported strategies are"),
    ({"lifetime": "for ever"}, ValueError, "`lifetime` argument must be either `None` or 'detached'. Got for ever"),
    ({"name": 3}, TypeError, "name"),
    ({"bundle_label_selector": [{"a": "b"}]}, ValueError, "not supported"),
])
def test_other_bad_arguments_are_refused_in_words(arguments, error, words):
    with pytest.raises(error, match=words):
        placement_group([{"CPU": 1}], **arguments)


@pytest.mark.parametrize(("arguments", "words"), [
    (("a group",), "placement_group must be a PlacementGroup or None"),
    ((PG, -2), "placement group bundle index -2 is invalid"),
    ((PG, "0"), "must be an int"),
    ((None, 0), "If placement group is not set, the value of bundle index must be -1"),
    ((PlacementGroup.empty(), 0), "If placement group is not set"),
])
def test_a_bad_strategy_is_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        PlacementGroupSchedulingStrategy(*arguments)


@pytest.mark.parametrize("options", [TaskOptions, ActorOptions])
def test_a_group_is_part_of_the_scheduling_key(options):
    def built(strategy):
        return options.build({"scheduling_strategy": strategy})

    one = built(PlacementGroupSchedulingStrategy(PG, 0))
    assert one.strategy == {"kind": "group", "group": b"g" * 18, "bundle": 0, "capture": False}
    assert one.key != built(PlacementGroupSchedulingStrategy(PG)).key != built(None).key
    for none in (None, PlacementGroup.empty()):
        assert built(PlacementGroupSchedulingStrategy(none)).key == built(None).key
    assert pickle.loads(pickle.dumps(one)).key == one.key


def test_an_id_names_its_home():
    group = group_id(b"node\0\0\0\0", b"\0\0\0\7" + b"p" * 12, 3)
    assert len(group) == 18 and home_of(group) == b"node\0\0\0\0" and group[-4:] == b"\0\0\0\7"
    assert group != group_id(b"node\0\0\0\0", b"\0\0\0\7" + b"p" * 12, 4)


def test_a_wait_for_a_group_is_named_as_one():
    text = sentence(b"o" * 28, Cause.GROUP_PENDING, {"what": "placement group", "detail": "bundle 0 asks for CPU: 2"})
    assert "of placement group: its placement group has no place yet (bundle 0 asks for CPU: 2)" in text


@pytest.fixture
def local():
    ray.init(local_mode=True)
    yield
    ray.shutdown()


def test_local_mode_accepts_groups_and_they_are_ready_at_once(local):
    @ray.remote(num_cpus=64)
    def f():
        return 1

    pg = placement_group([{"CPU": 99}], name="big", strategy="STRICT_SPREAD")
    assert ray.get(pg.ready()) == pg and pg.wait(0) and pg.bundle_specs == [{"CPU": 99.0}]
    assert ray.get(f.options(scheduling_strategy=PlacementGroupSchedulingStrategy(pg)).remote()) == 1
    assert get_placement_group("big") == pg and get_current_placement_group() is None
    with pytest.raises(ValueError, match="already exists"):
        placement_group([{"CPU": 1}], name="big")

    async def awaited():
        return await pg.ready()

    assert asyncio.run(awaited()) == pg
    remove_placement_group(pg)
    assert placement_group_table(pg)["state"] == "REMOVED" and not pg.wait(0)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        ray.get(pg.ready())
    with pytest.raises(TypeError, match="takes a PlacementGroup"):
        remove_placement_group("big")


def test_the_older_keywords_still_name_a_group():
    with pytest.warns(DeprecationWarning, match="placement_group option is deprecated"):
        options = TaskOptions.build({"placement_group": PG, "placement_group_bundle_index": 0})
    assert options.strategy == {"kind": "group", "group": b"g" * 18, "bundle": 0, "capture": False}
    assert TaskOptions.build({"placement_group": None}).strategy == {}
    with pytest.raises(ValueError, match="should be specified via the scheduling_strategy option"):
        TaskOptions.build({"placement_group": PG, "scheduling_strategy": "SPREAD"})
