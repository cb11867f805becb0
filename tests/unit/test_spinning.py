"""When a wait spins (zray.channels.spinning)."""

from __future__ import annotations

import pytest

from zray.channels.spinning import BUSY_WAITS, LONG_YIELD_S, MISSES_MAX, PROBE_EVERY, SpinBudget


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
    assert not budget.yielded(LONG_YIELD_S / 2) and budget.yielded(LONG_YIELD_S)
    assert not any(spins(budget, BUSY_WAITS)) and budget.allowed_s()


def test_a_budget_of_nothing_never_spins():
    budget = SpinBudget(0.0)
    budget.hit()
    assert not any(spins(budget, 3 * PROBE_EVERY))
