"""The checker must be right before what it checks can be trusted: known cases, seeded violations, brute force."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from tests.oracles.linearizability import linearizable
from zray.sim.chain import register_step
from zray.sim.linearizability import UNANSWERED, Operation, check


def op(action, result, called, returned, key=b"k"):
    return Operation(key, action, result, called, returned)


def test_a_read_between_two_writes_may_see_either_while_they_overlap():
    writes = [op(("put", 1), False, 0, 10), op(("put", 2), True, 0, 10)]
    for seen in (None, 1, 2):
        assert check([*writes, op(("get",), seen, 1, 2)], register_step)
    assert not check([*writes, op(("get",), 3, 1, 2)], register_step)


def test_a_stale_read_is_a_violation():
    verdict = check([op(("put", 1), False, 0, 1), op(("put", 2), True, 2, 3), op(("get",), 1, 4, 5)], register_step)
    assert not verdict and verdict.key == b"k" and len(verdict.longest) == 2


def test_a_value_seen_and_then_unseen_is_a_violation():
    """What Hibari's authors found during chain repair."""
    history = [op(("put", 1), None, 0, UNANSWERED), op(("get",), 1, 1, 2), op(("get",), None, 3, 4)]
    assert not check(history, register_step)


def test_an_unknown_outcome_may_happen_at_any_later_time_or_never():
    write = op(("put", 1), None, 0, UNANSWERED)
    assert check([write, op(("get",), None, 5, 6), op(("get",), 1, 7, 8)], register_step)
    assert check([write, op(("get",), None, 5, 6)], register_step)
    assert not check([op(("get",), 1, -2, -1), write], register_step)


def test_an_update_applied_twice_is_a_violation():
    assert not check([op(("cas", None, 1), (False, 1), 0, 1)], register_step)


def test_keys_are_independent():
    good = [op(("put", 1), False, 0, 1, key=b"a"), op(("get",), 1, 2, 3, key=b"a")]
    bad = [op(("get",), 9, 0, 1, key=b"b")]
    assert check(good, register_step)
    assert check(good + bad, register_step).key == b"b"


def test_a_return_before_its_call_is_refused():
    with pytest.raises(ValueError):
        check([op(("get",), None, 2, 1)], register_step)


actions = st.one_of(
    st.just(("get",)), st.just(("delete",)),
    st.tuples(st.just("put"), st.integers(1, 2)),
    st.tuples(st.just("cas"), st.sampled_from([None, 1, 2]), st.integers(1, 2)))
results = st.sampled_from([None, 1, 2, True, False, (True, 1), (True, 2), (False, None), (False, 1), (False, 2)])


@st.composite
def histories(draw):
    """Up to six operations on one key: mostly the results of some real order, with some of them changed."""
    count = draw(st.integers(1, 6))
    state, out = None, []
    for position in range(count):
        action = draw(actions)
        state, result = register_step(state, action)
        called = position - draw(st.integers(0, 4)) / 2
        returned = position + draw(st.integers(0, 4)) / 2
        if draw(st.integers(0, 5)) == 0:
            result = draw(results)
        if draw(st.integers(0, 5)) == 0:
            returned = UNANSWERED
        out.append(op(action, result, called, max(called, returned)))
    return draw(st.permutations(out))


@settings(max_examples=300, deadline=None)
@given(histories())
def test_agrees_with_trying_every_order(history):
    assert bool(check(history, register_step)) == linearizable(history, register_step)


def real_history(seed: int, clients: int = 6, rounds: int = 20) -> list[Operation]:
    """Operations that truly took effect at one instant inside their interval."""
    random = Random(seed)
    intervals = []
    for client in range(clients):
        now = 0.0
        for _ in range(rounds):
            called = now + random.random()
            returned = called + random.random() * 3
            intervals.append((random.uniform(called, returned), called, returned, client))
            now = returned
    state, out = {}, []
    for _, called, returned, client in sorted(intervals):
        key = random.randrange(3)
        action = random.choice([("get",), ("put", random.random()), ("delete",)])
        state[key], result = register_step(state.get(key), action)
        out.append(Operation(key, action, result, called, returned, client))
    return out


@pytest.mark.parametrize("seed", range(10))
def test_accepts_real_histories_and_finds_a_seeded_stale_read(seed):
    history = real_history(seed)
    assert check(history, register_step)
    end = max(o.returned for o in history)
    # Write something, let it return, then read what was there before it.
    stale = [Operation(0, ("put", "new"), check_existed(history), end + 1, end + 2, 0),
             Operation(0, ("get",), "old", end + 3, end + 4, 1)]
    verdict = check(history + stale, register_step)
    assert not verdict and verdict.key == 0


def check_existed(history: list[Operation]) -> bool:
    """Result that a put at the end would get."""
    state = None
    for o in history:  # real_history lists them in the order they took effect
        if o.key == 0:
            state, _ = register_step(state, o.action)
    return state is not None
