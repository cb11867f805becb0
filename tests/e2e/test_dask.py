"""util.dask: graphs of dask as tasks."""

from __future__ import annotations

import os

import numpy as np
import pytest

import zray as ray

dask = pytest.importorskip("dask")

from zray.util.dask import disable_dask_on_ray, enable_dask_on_ray, ray_dask_get, ray_dask_get_sync  # noqa: E402

pytestmark = pytest.mark.zray_only


@dask.delayed
def add(x, y):
    return x + y


@dask.delayed
def fail(x):
    raise KeyError(f"lost {x}")


@dask.delayed
def where():
    return os.getpid(), ray.get_runtime_context().get_assigned_resources()


@pytest.mark.parametrize("scheduler", [ray_dask_get, ray_dask_get_sync])
def test_delayed_calls_are_tasks(cluster, scheduler):
    total = add(add(1, 2), {"k": [add(3, 4)]}["k"][0])
    assert total.compute(scheduler=scheduler) == 10
    assert dask.compute(add(1, 1), [add(2, 2), 5], scheduler=scheduler) == (2, [4, 5])
    assert where().compute(scheduler=scheduler)[0] != os.getpid()
    with pytest.raises(KeyError, match="lost 3") as caught:
        add(fail(add(1, 2)), 1).compute(scheduler=scheduler)
    assert type(caught.value) is KeyError


def test_graphs_of_the_old_form(cluster):
    graph = {"a": 1, "b": (pow, "a", 2), "c": [(max, ["a", "b", 7]), "b"], "d": "c"}
    assert ray_dask_get(graph, [["c", "b"], "d"]) == [[[7, 1], 1], [7, 1]]
    assert ray_dask_get(graph, "b") == 1
    with pytest.raises(KeyError, match="not in the dask graph"):
        ray_dask_get(graph, ["z"])


def test_arrays_and_bags(cluster):
    array = pytest.importorskip("dask.array")
    bag = pytest.importorskip("dask.bag")
    with enable_dask_on_ray():
        x = array.from_array(np.arange(40_000.0).reshape(200, 200), chunks=(100, 50))
        assert float((x @ x.T).trace().compute()) == float((np.arange(40_000.0) ** 2).sum())
        assert bag.from_sequence(range(20), npartitions=4).map(abs).sum().compute() == 190
        with disable_dask_on_ray():
            assert where().compute(scheduler="sync")[0] == os.getpid()
    assert dask.config.get("scheduler", None) is None


def test_options_of_tasks_and_callbacks(cluster):
    from dask.callbacks import Callback

    assert where().compute(scheduler=ray_dask_get, ray_remote_args={"num_cpus": 3})[1] == {"CPU": 3}
    with dask.annotate(ray_remote_args={"num_cpus": 2}):
        marked = where()
    assert marked.compute(scheduler=ray_dask_get, optimize_graph=False)[1] == {"CPU": 2}
    seen = []
    with Callback(start=lambda dsk: seen.append("start"), pretask=lambda key, dsk, state: seen.append("pre"),
                  posttask=lambda key, value, dsk, state, worker: seen.append(value),
                  finish=lambda dsk, state, failed: seen.append(failed)):
        assert add(1, 2).compute(scheduler=ray_dask_get) == 3
        with pytest.raises(KeyError):
            fail(1).compute(scheduler=ray_dask_get)
    assert seen == ["start", "pre", 3, False, "start", "pre", True]
