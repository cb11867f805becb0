"""Each group of the benchmarks runs and gives its rows.  What they measure is not tested: the counts are tiny."""

from __future__ import annotations

import importlib
import math
from functools import partial
from multiprocessing import resource_tracker

import pytest

from benchmarks import cluster, gcs, groups, measure

pytestmark = [pytest.mark.zray_only, pytest.mark.filterwarnings("ignore:num_returns=.dynamic")]

# What a group would do many times: (module, name) -> how often, or how much.
FEW = {
    ("actors", "CREATED"): 4, ("startup", "ACTORS"): 2, ("queue_depth", "TASKS_QUICK"): 1000,
    ("placement_groups", "AT_ONCE"): 5, ("kernels", "DECISIONS"): 20_000, ("kernels", "ROUNDS"): 1,
    ("kernels", "NODES"): 100,
    ("transfer", "SIZES"): (1 << 20,), ("cluster", "ROUND_S"): 0.01, ("cluster", "LARGE_BYTES"): 1_000_000,
    ("graphs", "ARRAY_BYTES"): 1 << 10, ("tasks", "ITEMS"): 1000, ("gcs", "KEYS_RESTART"): 100,
    ("gcs", "BEFORE_S"): 0.3, ("gcs", "AFTER_S"): 1.2,
}


@pytest.fixture(autouse=True)
def _few(fresh, monkeypatch):
    for (module, name), value in FEW.items():
        monkeypatch.setattr(importlib.import_module(f"benchmarks.{module}"), name, value)
    monkeypatch.setattr(gcs, "steady", partial(gcs.steady, seconds=0.1, rounds=1))
    for name, value in (("ROUNDS", 1), ("ROUND_S", 0.01), ("LATENCIES_S", 0.01)):
        monkeypatch.setattr(measure, name, value)
    yield
    resource_tracker._resource_tracker._stop()  # of the drivers' processes; it would live as long as this process


def complete(rows) -> bool:
    return bool(rows) and all(row["row"] and row["unit"] is not None and math.isfinite(row["value"]) for row in rows)


LONG = {"kernels", "cluster"}  # they compile, and measure three drivers in turn


@pytest.mark.parametrize("group", [pytest.param(group, marks=[pytest.mark.slow] * (group in LONG))
                                   for group in groups.GROUPS])
def test_a_group_gives_its_rows(group):
    rows = groups.measure(group, "zray", quick=True)
    assert complete(rows) and {row["group"] for row in rows} == {group}


def test_what_a_driver_of_a_cluster_measures_is_there_at_each_place():
    made = cluster.Cluster(2)
    try:
        found = cluster.three_ways(made, ["nn"], 1)
        others = [node.node_id for node in made.daemons.worker_nodes]
        broadcast = made.drivers["remote"].do("benchmarks.cluster", "broadcast", others)
    finally:
        made.close()
    assert complete(broadcast) and all(set(places) == set(cluster.PLACES) for places in found.values())
    assert cluster.show(cluster.summary(found))


@pytest.mark.slow
def test_the_long_parts_of_the_cluster_run():
    made = cluster.Cluster(2)
    try:
        found = cluster.three_ways(made, ["wide", "map", "async", "creation", "objects", "wait"], 1)
    finally:
        made.close()
    assert cluster.summary(found)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_events_of_the_control_store_run(how):
    assert gcs.show_events(how, gcs.events(how, 1))


@pytest.mark.slow
def test_the_other_parts_of_the_control_store_run(tmp_path):
    assert gcs.chains()["3"]["put"]["count"] > 0
    assert gcs.show_events("join", gcs.joins(1))
    assert gcs.restart()["acknowledged and missing"] == 0
    assert gcs.memory(1000)["tasks"] == 1000
    assert gcs.timeline(str(tmp_path))["joined_s"] > 0
