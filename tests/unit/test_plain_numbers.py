"""Numbers of numpy are numbers, wherever zray takes one; booleans are none."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import zray as ray
from zray.base.config import Config
from zray.base.plain_numbers import plain
from zray.handles.options import ActorOptions, CallOptions, TaskOptions
from zray.util.placement_group import placement_group, placement_group_table
from zray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


def kinds(value):
    return {key: kinds(item) for key, item in value.items()} if isinstance(value, dict) else (type(value), value)


@pytest.mark.parametrize(("cls", "raw", "written"), [
    (TaskOptions, {"num_cpus": np.float64(1)}, {"num_cpus": 1.0}),
    (TaskOptions, {"num_cpus": np.int32(2), "memory": np.uint64(5)}, {"num_cpus": 2, "memory": 5}),
    (TaskOptions, {"num_returns": np.int64(2), "max_retries": np.int8(-1)}, {"num_returns": 2, "max_retries": -1}),
    (TaskOptions, {"resources": {"disk": np.float32(0.5)}}, {"resources": {"disk": 0.5}}),
    (TaskOptions, {"num_gpus": Fraction(1, 2)}, {"num_gpus": 0.5}),
    (ActorOptions, {"max_restarts": np.int64(3), "max_concurrency": np.int64(2)},
     {"max_restarts": 3, "max_concurrency": 2}),
    (ActorOptions, {"concurrency_groups": {"io": np.int64(2)}}, {"concurrency_groups": {"io": 2}}),
    (CallOptions, {"num_returns": np.int64(2), "max_task_retries": np.int64(1)},
     {"num_returns": 2, "max_task_retries": 1}),
])
def test_options_take_any_integer_and_any_real_number_and_keep_pythons_own(cls, raw, written):
    assert kinds(cls.build(raw).raw) == kinds(written)
    if "concurrency_groups" not in raw:  # not an option of .options()
        assert kinds(cls.build().merged(**raw).raw) == kinds(written)


@pytest.mark.parametrize("value", [True, np.True_, np.float64(1.5), np.array([1, 2]), "1"])
def test_what_is_no_integer_is_refused_as_before(value):
    with pytest.raises(TypeError, match="The type of keyword 'max_retries'"):
        TaskOptions.build({"max_retries": value})


def test_booleans_of_the_users_stay_booleans():
    assert plain(True) is True and plain({"a": True, "b": np.int64(1)}) == {"a": True, "b": 1}


def test_waits_groups_bundles_and_settings_take_them_too():
    ray.init(local_mode=True, num_cpus=np.int64(3), resources={"disk": np.int64(2)})
    try:
        refs = [ray.put(1), ray.put(2)]
        assert ray.wait(refs, num_returns=np.int64(2), timeout=np.float32(1))[0] == refs
        assert ray.get(refs, timeout=np.int64(5)) == [1, 2]
        group = placement_group([{"CPU": np.float64(1)}])
        assert placement_group_table(group)["bundles"] == {0: {"CPU": 1.0}}
        strategy = PlacementGroupSchedulingStrategy(group, np.int64(0))
        assert type(strategy.to_map()["bundle"]) is int
        assert ray.cluster_resources() == {"CPU": 3.0, "disk": 2.0}
        for wrong in (True, np.float64(1.0)):
            with pytest.raises(TypeError, match="num_returns must be an int"):
                ray.wait(refs, num_returns=wrong)
    finally:
        ray.shutdown()
    assert Config.load({"workers_max": np.int64(7)}).workers_max == 7
