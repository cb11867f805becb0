"""Amounts of resources are exact integers, bad ones are named, devices are packed, views conserve."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from zray.sched.kernels.loading import Kernels
from zray.sched.node.gpus import GpuPool
from zray.sched.policies import INFEASIBLE, NOT_NOW, obstacle, pick
from zray.sched.resources import AMOUNT_MAX, UNIT, amount, amounts, checked_units, describe, units
from zray.sched.view import ClusterView

CPU = {"CPU": UNIT}


@pytest.mark.parametrize(("value", "expected"), [
    (0, 0), (1, 10_000), (0.1, 1_000), (0.0001, 1), (2.0, 20_000), (1e9, 10**13), (Fraction(1, 2), 5_000),
    (AMOUNT_MAX, AMOUNT_MAX * UNIT), (0.3, 3_000), (1.1, 11_000),
])
def test_amounts_become_units_exactly(value, expected):
    assert units(value, "CPU") == expected


@pytest.mark.parametrize(("value", "word"), [
    (-1, "negative"), (-0.5, "negative"), (math.nan, "nan"), (math.inf, "inf"), (0.00005, "too fine"),
    (0.33333, "too fine"), (AMOUNT_MAX + 1, "too much"), (1e300, "too much"),
])
def test_amounts_that_are_none_name_the_resource_and_what_is_allowed(value, word):
    with pytest.raises(ValueError, match=word) as caught:
        units(value, "bananas")
    assert "'bananas'" in str(caught.value) and "0 to" in str(caught.value) and "1/10000" in str(caught.value)


@pytest.mark.parametrize("value", [True, "1", b"1", None, [1], 1j])
def test_amounts_of_another_type_are_type_errors(value):
    with pytest.raises(TypeError, match="'GPU' takes a number"):
        units(value, "GPU")


@given(st.integers(0, 10**9))
def test_units_come_back_as_what_was_written(value):
    assert units(amount(value), "x") == value


def test_units_are_shown_as_amounts():
    assert describe({"CPU": 20_000, "GPU": 5_000, "zero": 0}) == "CPU: 2, GPU: 0.5"
    assert describe({}) == "nothing"
    assert amounts({"CPU": 10_000}) == {"CPU": 1.0}


@pytest.mark.parametrize("bad", [{"CPU": -1}, {"CPU": 1.5}, {"CPU": True}, {"": 1}, {3: 1}, {"CPU": 2**61}])
def test_a_demand_from_a_peer_is_checked(bad):
    with pytest.raises(ValueError):
        checked_units(bad)


def test_fractions_of_gpus_share_the_fullest_device_and_whole_ones_get_the_lowest_free():
    pool = GpuPool(3 * UNIT, ["4", "2", "7"])
    half = pool.take(UNIT // 2)
    assert pool.named(half) == ["4"]
    assert pool.named(pool.take(UNIT // 4)) == ["4"]
    whole = pool.take(2 * UNIT)
    assert pool.named(whole) == ["2", "7"]
    assert not pool.fits(UNIT) and not pool.fits(UNIT // 2) and pool.fits(UNIT // 4)
    pool.give(whole)
    pool.give(half)
    assert pool.fits(2 * UNIT) and not pool.fits(3 * UNIT)
    pool.check()


def test_a_node_without_gpus_holds_what_asks_for_none():
    pool = GpuPool(0)
    assert pool.holds(0) and pool.fits(0) and pool.take(0) == () and not pool.holds(1)


def test_more_than_one_gpu_is_whole():
    pool = GpuPool(4 * UNIT)
    assert not pool.holds(3 * UNIT // 2) and pool.holds(4 * UNIT) and not pool.holds(5 * UNIT)


# ------------------------------------------------------------------ the view

@settings(max_examples=60, deadline=None)
@given(events=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(["CPU", "memory", "x", "y"]),
                                 st.integers(0, 4)), max_size=40))
def test_a_view_conserves_in_either_form(events):
    """The same events on lists and on arrays, switching in the middle; rows, amounts and refusals are equal."""
    plain, arrays = ClusterView(), ClusterView()
    for position, (kind, number, name, value) in enumerate(events):
        if position == len(events) // 2:
            arrays.use(Kernels.load())
        node = bytes([number]) * 28
        if kind == 0 and node not in plain.row_of:
            total = {"CPU": 4, name: 4}
            assert plain.add(node, total) == arrays.add(node, total)
        elif kind == 1 and node in plain.row_of:
            assert plain.remove(node) == arrays.remove(node)
        elif kind in (2, 3) and node in plain.row_of:
            row, demand = plain.row_of[node], plain.index.demand({name: value})
            if demand is None:
                continue
            assert plain.fits(row, demand) == arrays.fits(row, demand)
            assert attempt(plain.acquire, row, demand) == attempt(arrays.acquire, row, demand)
        elif kind == 4 and node in plain.row_of:
            row, demand = plain.row_of[node], plain.index.demand({name: value})
            if demand is not None:
                assert attempt(plain.release, row, demand) == attempt(arrays.release, row, demand)
        elif kind == 5 and node in plain.row_of:
            for view in (plain, arrays):
                view.update(node, {"CPU": value + 4, name: 9})
        plain.check()
        arrays.check()
        assert [list(map(int, row)) for row in arrays.available] == plain.available


def attempt(change, row, demand) -> str:
    """The refusal, '' when there was none."""
    try:
        change(row, demand)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("compiled", [False, True])
def test_what_each_node_has_alone_takes_no_column_until_somebody_asks_for_it(compiled):
    view = ClusterView(Kernels.load() if compiled else None, "node:")
    for number in range(50):
        view.add(b"%d" % number, {"CPU": UNIT, f"node:{number}": UNIT})
    view.set_row(b"9", {"CPU": UNIT, "node:9": UNIT}, {"CPU": 0, "node:9": 5})
    view.remove(b"8")
    width = len(view.index)
    assert width == 4 and view.named(3) == {"CPU": UNIT, "node:3": UNIT}
    assert view.demand({"node:8": 10}) is None and view.demand({"node:50": 10}) is None and len(view.index) == width
    demand = view.demand({"CPU": UNIT, "node:3": 10})
    assert [row for row in range(50) if view.fits(row, demand)] == [3] and len(view.index) == width + 1
    view.acquire(3, demand)
    assert view.named(3) == {"CPU": 0, "node:3": UNIT - 10}
    view.set_row(b"3", {"CPU": UNIT, "node:3": UNIT}, {"CPU": UNIT, "node:3": 4})
    assert view.named(3) == {"CPU": UNIT, "node:3": 4} and not view.fits(3, demand)
    view.add(b"8", {"node:3": UNIT})
    assert view.covers(view.row_of[b"8"], view.demand({"node:3": UNIT}))
    view.check()


def test_a_view_refuses_what_would_not_be_conserved():
    view = ClusterView()
    row = view.add(b"n" * 28, {"CPU": 2 * UNIT})
    one = view.index.demand(CPU)
    view.acquire(row, one)
    view.acquire(row, one)
    with pytest.raises(ValueError, match="does not have CPU: 1 free"):
        view.acquire(row, one)
    view.release(row, one)
    view.release(row, one)
    with pytest.raises(ValueError, match="more CPU than was taken"):
        view.release(row, one)
    with pytest.raises(ValueError, match="in the view already"):
        view.add(b"n" * 28, {})
    view.check()


# ------------------------------------------------------------------ policies

@pytest.fixture(params=["plain", "compiled"])
def view(request) -> ClusterView:
    view = ClusterView(Kernels.load() if request.param == "compiled" else None)
    view.add(b"a" * 28, {"CPU": 4 * UNIT}, {"zone": "east"})
    view.add(b"b" * 28, {"CPU": 4 * UNIT, "GPU": UNIT}, {"zone": "west", "disk": "ssd"})
    view.add(b"c" * 28, {"CPU": 4 * UNIT}, {"zone": "west"})
    return view


def test_default_packs_to_half_then_spreads_and_spares_gpu_nodes(view):
    one, rows = view.index.demand(CPU), []
    for _ in range(8):
        rows.append(pick(view, one, {}, 2))
        view.acquire(rows[-1], one)
    assert rows == [2, 2, 0, 0, 2, 0, 2, 0]
    assert pick(view, one, {}) == 1
    assert pick(view, view.index.demand({"GPU": UNIT}), {}) == 1
    assert pick(view, view.index.demand({"GPU": 2 * UNIT}), {}) == INFEASIBLE
    assert pick(view, view.index.demand({"TPU": UNIT}), {}) == INFEASIBLE


def test_spread_goes_round(view):
    one = view.index.demand(CPU)
    assert [pick(view, one, {"kind": "spread", "cursor": cursor}) for cursor in range(4)] == [0, 1, 2, 0]


def test_affinity_waits_for_its_node_and_soft_affinity_leaves_a_missing_one(view):
    one = view.index.demand(CPU)
    at_b = {"kind": "affinity", "node": b"b" * 28}
    assert pick(view, one, at_b) == 1
    view.acquire(1, view.index.demand({"CPU": 4 * UNIT}))
    assert pick(view, one, at_b) == NOT_NOW == pick(view, one, at_b | {"soft": True})
    gone = {"kind": "affinity", "node": b"z" * 28}
    assert pick(view, one, gone) == INFEASIBLE and pick(view, one, gone | {"soft": True}) == 0
    assert "not in the cluster" in obstacle(view, gone) and obstacle(view, gone | {"soft": True}) == ""


def test_labels_are_hard_or_soft(view):
    one = view.index.demand(CPU)
    west = {"kind": "labels", "hard": {"zone": ["in", "west"]}}
    assert pick(view, one, west) == 2  # of the two the one without a GPU
    assert pick(view, one, west | {"soft": {"disk": ["exists"]}}) == 1
    assert pick(view, one, west | {"soft": {"disk": "nvme"}}) == 2
    assert pick(view, one, {"labels": {"zone": "!west"}}) == 0
    ladder = {"kind": "labels", "ladder": [{"zone": "north"}, {"zone": "!west"}]}
    assert pick(view, one, ladder) == 0 and obstacle(view, ladder) == ""
    assert pick(view, one, {"kind": "labels", "ladder": [{"zone": ["in", "west"]}, {}]}) == pick(view, one, west)
    assert "north" in obstacle(view, {"kind": "labels", "ladder": [{"zone": "north"}, {"zone": "south"}]})
    assert pick(view, one, {"labels": {"zone": ["not_in", "west", "east"]}}) == INFEASIBLE
    assert "zone" in obstacle(view, {"labels": {"zone": "north"}})
    assert "malformed" in obstacle(view, {"labels": {"zone": ["like", "w"]}})
    assert "none of" in obstacle(view, {"kind": "astrology"})
    assert pick(view, one, {"kind": "local"}, 1) == 1
