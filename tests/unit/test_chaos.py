"""The pure parts of fuzz.chaos: its plans, and what it excuses."""

from __future__ import annotations

import pytest

from fuzz.chaos.schedule import ALL_KINDS, KILLS, LASTS_S, each, plan
from fuzz.chaos.verdict import LATE_S, NODE, PROCESS, Happened, is_excused
from fuzz.chaos.workloads import WORKLOADS
from zray import exceptions


def test_a_seed_is_one_plan_with_a_kill_in_each_interval():
    first = plan(7, 120, 5, 6, ALL_KINDS)
    assert first == plan(7, 120, 5, 6, ALL_KINDS) != plan(8, 120, 5, 6, ALL_KINDS)
    assert [fault.at_s for fault in first] == sorted(fault.at_s for fault in first)
    assert [fault.at_s for fault in first if fault.kind in KILLS] == [5.0 * i for i in range(1, 24)]
    assert all(0 <= fault.host < 6 and 0 <= fault.pick < 1 and fault.at_s < 120 for fault in first)


def test_faults_that_are_undone_last_and_the_others_do_not():
    drawn = [fault for seed in range(20) for fault in plan(seed, 300, 2, 6, ALL_KINDS)]
    assert {fault.kind for fault in drawn} == set(ALL_KINDS)
    for fault in drawn:
        low, high = LASTS_S.get(fault.kind, (0, 0))
        assert low <= fault.lasts_s <= high


def test_only_wanted_kinds_are_drawn():
    assert {fault.kind for fault in plan(1, 300, 2, 6, ("kill node", "cut"))} == {"kill node", "cut"}
    assert plan(1, 300, 2, 6, ()) == []


def test_each_kind_is_planned_once_for_a_short_run():
    faults = each(1, 0.5, 3, ALL_KINDS)
    assert [fault.kind for fault in faults] == list(ALL_KINDS)
    assert [fault.at_s for fault in faults] == [0.5 * (i + 1) for i in range(len(ALL_KINDS))]


def test_an_error_is_excused_by_a_fault_that_explains_it_and_no_other():
    allowed = {"OwnerDiedError": NODE, "ActorDiedError: its state is lost": PROCESS}
    assert is_excused("OwnerDiedError", "", allowed, {"kill node"})
    assert not is_excused("OwnerDiedError", "", allowed, {"kill worker", "starve of cpu"})
    assert not is_excused("WorkerCrashedError", "", allowed, {"kill node"})
    assert is_excused("ActorDiedError", "x: its state is lost: y", allowed, {"kill worker"})
    assert not is_excused("ActorDiedError", "killed by signal 9", allowed, {"kill worker"})


@pytest.mark.parametrize("since, until, counts", [
    (0, 9, False), (0, 10, True), (15, 16, True), (20 + LATE_S, 60, True), (20.1 + LATE_S, 60, False)])
def test_a_fault_counts_from_its_start_until_some_time_after_its_end(since, until, counts):
    assert Happened([("cut", 10.0, 20.0)]).during(since, until) == ({"cut"} if counts else set())


def test_workloads_excuse_by_names_of_errors_and_kinds_that_exist():
    for workload in WORKLOADS.values():
        for error, kinds in workload.allowed().items():
            assert hasattr(exceptions, error.partition(": ")[0]) and set(kinds) <= set(ALL_KINDS)
