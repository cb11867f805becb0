"""When a wait spins (zray.channels.spinning)."""

from __future__ import annotations

import pytest

from zray.channels import waiting
from zray.channels.spinning import BUSY_WAITS, BUSY_WAITS_MAX, LONG_YIELD_S, MISSES_MAX, PROBE_EVERY, SpinBudget


def spins(budget, waits):
    return [budget.allowed_s() > 0 for _ in range(waits)]


def test_a_wait_blocks_at_once_after_some_misses_and_looks_again_now_and_then():
    budget = SpinBudget(1e-4)
    for _ in range(MISSES_MAX):
        assert budget.allowed_s() == 1e-4
        budget.missed()
    assert spins(budget, 2 * PROBE_EVERY) == 2 * ([False] * (PROBE_EVERY - 1) + [True])
    budget.hit()
    assert all(spins(budget, 5))


def test_a_short_block_lets_the_next_wait_spin():
    budget = SpinBudget(1e-4)
    for _ in range(MISSES_MAX):
        budget.missed()
    budget.blocked(1e-3)
    assert not budget.allowed_s()
    budget.blocked(2e-4)
    assert budget.allowed_s() == pytest.approx(3e-4)
    budget.hit()
    assert budget.allowed_s() == pytest.approx(3e-4), "as long as the one that was of use"
    for _ in range(MISSES_MAX):
        budget.missed()
    assert not budget.allowed_s()
    budget.blocked(2e-4)
    budget.missed()
    assert not budget.allowed_s(), "one more miss is enough after a short block"


def test_no_wait_spins_while_other_processes_want_the_cores():
    budget = SpinBudget(1e-4)
    assert not budget.yielded(LONG_YIELD_S / 2)
    pauses = []
    for _ in range(10):
        assert budget.yielded(LONG_YIELD_S)
        pauses.append(0)
        while not budget.allowed_s():
            pauses[-1] += 1
    assert pauses[:3] == [BUSY_WAITS, 2 * BUSY_WAITS, 4 * BUSY_WAITS] and pauses[-1] == BUSY_WAITS_MAX
    budget.hit()
    assert budget.yielded(LONG_YIELD_S) and not any(spins(budget, BUSY_WAITS)) and budget.allowed_s()


def test_a_budget_of_nothing_never_spins():
    budget = SpinBudget(0.0)
    budget.hit()
    assert not any(spins(budget, 3 * PROBE_EVERY))


def test_a_crowd_is_more_processes_that_want_to_run_than_cores(tmp_path, monkeypatch):
    load = tmp_path / "loadavg"
    monkeypatch.setattr(waiting, "LOAD", str(load))
    monkeypatch.setattr(waiting.os, "sched_getaffinity", lambda pid: {0, 1})
    crowd = waiting.Crowd()
    assert not crowd.is_there(1.0), "a system that does not say"
    load.write_text("0.5 0.4 0.3 2/300 999\n")
    assert not crowd.is_there(2.0)
    load.write_text("0.5 0.4 0.3 3/300 999\n")
    assert not crowd.is_there(2.0 + waiting.CROWD_LOOK_S / 2), "it was looked at just before"
    assert crowd.is_there(2.0 + waiting.CROWD_LOOK_S)
    load.write_text("nonsense")
    assert not crowd.is_there(3.0)
    crowd.close()
    crowd.close()
