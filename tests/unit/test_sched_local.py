"""LocalScheduler, in short scripts: sharing, blocking, GPUs, causes."""

from __future__ import annotations

import pytest

from zray.base.causes import Cause
from zray.sched.node.local import PASSED_MAX, Grant, LocalScheduler, Recall, Status

U = 10_000
A, B = b"owner-a", b"owner-b"


def node(cpus: int = 2, **more: int) -> LocalScheduler:
    return LocalScheduler({"CPU": cpus * U, **{name: value * U for name, value in more.items()}})


def declare(scheduler: LocalScheduler, owner: bytes, key: int = 1, job: int = 1, **demand: float) -> None:
    scheduler.declare(owner, job, key, {name: int(value * U) for name, value in (demand or {"CPU": 1}).items()}, {})


def step(scheduler: LocalScheduler, now: float = 0.0):
    effects = scheduler.step(now)
    scheduler.check()
    return ([e for e in effects if type(e) is Grant], [e for e in effects if type(e) is Recall],
            [e for e in effects if type(e) is Status])


def test_grants_still_on_their_way_count_against_an_absolute_want():
    scheduler = node(8)
    declare(scheduler, A)
    scheduler.want(A, 1, 3, 0, 0.0)
    assert len(step(scheduler)[0]) == 3
    scheduler.want(A, 1, 3, 0, 0.0)  # sent before the grants arrived
    assert step(scheduler)[0] == []
    scheduler.want(A, 1, 1, 3, 0.0)
    assert len(step(scheduler)[0]) == 1


def test_jobs_take_turns_then_keys():
    scheduler = node(6)
    for key in (1, 2):
        declare(scheduler, A, key, job=1)
        scheduler.want(A, key, 9, 0, 0.0)
    declare(scheduler, B, 1, job=2)
    scheduler.want(B, 1, 9, 0, 0.0)
    assert [(g.owner, g.key) for g in step(scheduler)[0]] == [(A, 1), (B, 1), (A, 2), (B, 1), (A, 1), (B, 1)]


def test_idle_holders_give_to_whoever_waits_at_once():
    scheduler = node(2)
    declare(scheduler, A)
    scheduler.want(A, 1, 2, 0, 0.0)
    step(scheduler)
    declare(scheduler, B, job=2)
    scheduler.want(B, 1, 2, 0, 0.0)
    _, recalls, statuses = step(scheduler)
    assert [recall.lease for recall in recalls] == [1]
    assert statuses[0].cause == Cause.RESOURCES_BUSY and "0 of 2 is free" in statuses[0].detail
    assert step(scheduler, 1.0)[1] == [], "one lease each is fair, and each is recalled once"
    scheduler.release(1, 1.0)
    assert [grant.owner for grant in step(scheduler, 1.0)[0]] == [B]


def test_keys_that_are_all_busy_take_turns_on_one_cpu():
    scheduler = node(1)
    declare(scheduler, A)
    declare(scheduler, B)
    scheduler.want(A, 1, 5, 0, 0.0)
    scheduler.want(B, 1, 5, 0, 0.0)
    served = []
    now = 0.0
    for _ in range(6):
        grants, recalls, _ = step(scheduler, now)
        served += [grant.owner for grant in grants]
        if not recalls:
            now = scheduler.deadline()
            _, recalls, _ = step(scheduler, now)
        for recall in recalls:
            scheduler.release(recall.lease, now)
    assert served == [A, B, A, B, A, B]


def test_a_large_demand_is_not_starved_by_small_ones():
    scheduler = node(4)
    declare(scheduler, A)
    declare(scheduler, B, CPU=4)
    scheduler.want(A, 1, 10**6, 0, 0.0)
    held = [grant.lease for grant in step(scheduler)[0]]
    scheduler.want(B, 1, 1, 0, 0.0)
    now, small = 0.0, 0
    for _ in range(3 * PASSED_MAX):
        now += 0.0001
        if held:
            scheduler.release(held.pop(0), now)
        grants, _, _ = step(scheduler, now)
        if any(grant.owner == B for grant in grants):
            break
        held += [grant.lease for grant in grants]
        small += len(grants)
    else:
        raise AssertionError("the large demand starves")
    assert small >= PASSED_MAX, "work-conserving until then"


def test_saving_up_never_waits_for_what_an_actor_keeps():
    scheduler = node(4)
    scheduler.request("actor", 1, {"CPU": U}, {}, 0.0)
    step(scheduler)
    declare(scheduler, A)
    declare(scheduler, B, CPU=4)
    scheduler.want(B, 1, 1, 0, 0.0)
    scheduler.want(A, 1, 10**6, 0, 0.0)
    held = [grant.lease for grant in step(scheduler)[0]]
    for _ in range(3 * PASSED_MAX):
        scheduler.release(held.pop(0), 0.0)
        grants, _, _ = step(scheduler)
        assert len(grants) == 1, "nothing is kept idle"
        held.append(grants[0].lease)


def test_a_blocked_worker_lends_its_cpu_and_takes_it_back():
    scheduler = node(1, GPU=1)
    declare(scheduler, A, 1, CPU=1, GPU=1)
    declare(scheduler, A, 2)
    scheduler.want(A, 1, 1, 0, 0.0)
    parent = step(scheduler)[0][0].lease
    scheduler.want(A, 2, 5, 0, 0.0)
    scheduler.block(parent)
    scheduler.block(parent)
    child = step(scheduler)[0][0].lease
    assert scheduler.available() == {"CPU": 0, "GPU": 0}, "the GPU stays"
    scheduler.unblock(parent)
    assert scheduler.available()["CPU"] == -U
    scheduler.release(child, 0.0)
    assert step(scheduler)[0] == [], "paid back first"
    scheduler.release(parent, 0.0)
    assert len(step(scheduler)[0]) == 1


def test_a_blocked_worker_may_die():
    scheduler = node(1)
    declare(scheduler, A)
    scheduler.want(A, 1, 1, 0, 0.0)
    lease = step(scheduler)[0][0].lease
    scheduler.block(lease)
    assert scheduler.release(lease, 0.0) and not scheduler.release(lease, 0.0)
    scheduler.unblock(lease)
    scheduler.check()
    assert scheduler.available() == {"CPU": U}


def test_an_actor_is_placed_with_one_demand_and_runs_with_another():
    scheduler = node(1)
    for token in ("first", "second"):
        scheduler.request(token, 1, {"CPU": U}, {}, 0.0)
    grants, _, statuses = step(scheduler)
    assert [grant.token for grant in grants] == ["first"] and statuses[0].token == "second"
    assert scheduler.resize(grants[0].lease, {})
    assert [grant.token for grant in step(scheduler)[0]] == ["second"]
    assert not scheduler.resize(grants[0].lease, {"CPU": U}), "the CPU is in use by now"
    with pytest.raises(ValueError, match="keeps its GPUs"):
        scheduler.resize(grants[0].lease, {"GPU": U})


def test_a_grant_without_a_worker_is_wanted_again():
    scheduler = node(1)
    declare(scheduler, A)
    scheduler.want(A, 1, 1, 0, 0.0)
    assert scheduler.revoke(step(scheduler)[0][0].lease, 0.0)
    assert [grant.lease for grant in step(scheduler)[0]] == [2]


def test_infeasible_wants_say_what_is_missing_and_what_the_node_has():
    scheduler = LocalScheduler({"CPU": 2 * U}, {"zone": "east"})
    declare(scheduler, A, 1, CPU=4)
    declare(scheduler, A, 2, TPU=1)
    scheduler.declare(A, 1, 3, {"CPU": U}, {"labels": {"zone": "west"}})
    for key in (1, 2, 3):
        scheduler.want(A, key, 1, 0, 0.0)
    _, _, statuses = step(scheduler)
    assert [status.cause for status in statuses] == [Cause.INFEASIBLE] * 3
    assert "CPU: 4, and the node has 2" in statuses[0].detail
    assert "TPU: 1, and the node has none (it has CPU: 2)" in statuses[1].detail
    assert "west" in statuses[2].detail
    assert step(scheduler, 9.0) == ([], [], []), "said once"
    assert scheduler.explain(A, 2)[0] == Cause.INFEASIBLE
    assert len(scheduler.report()["waiting"]) == 3


def test_a_node_without_gpus_grants_what_asks_for_none():
    scheduler = node(1)
    declare(scheduler, A)
    scheduler.want(A, 1, 1, 0, 0.0)
    assert step(scheduler)[0] == [Grant(A, 1, 1, {"gpu_ids": [], "resources": {"CPU": 1.0}})]


def test_halves_on_two_gpus_are_recalled_for_a_whole_one():
    scheduler = node(4, GPU=1)
    declare(scheduler, A, 1, GPU=0.5)
    declare(scheduler, B, 1, GPU=1)
    scheduler.want(A, 1, 2, 0, 0.0)
    grants = step(scheduler)[0]
    assert [grant.assigned["gpu_ids"] for grant in grants] == [[0], [0]]
    scheduler.want(B, 1, 1, 0, 0.0)
    assert len(step(scheduler)[1]) == 2


def test_a_dead_owner_wants_nothing_and_its_leases_are_named():
    scheduler = node(1)
    declare(scheduler, A)
    scheduler.want(A, 1, 9, 0, 0.0)
    lease = step(scheduler)[0][0].lease
    assert scheduler.drop_owner(A) == [lease] and scheduler.drop_owner(A) == []
    assert scheduler.available() == {"CPU": 0}, "held until the worker is gone"
    scheduler.release(lease, 0.0)
    assert step(scheduler) == ([], [], []) and scheduler.held == 0 and scheduler.returned == 1


def test_a_want_for_a_key_that_was_not_declared_is_an_error():
    with pytest.raises(KeyError):
        node().want(A, 1, 1, 0, 0.0)
    scheduler = node()
    declare(scheduler, A)
    declare(scheduler, A)
    with pytest.raises(ValueError, match="another demand"):
        declare(scheduler, A, CPU=2)
