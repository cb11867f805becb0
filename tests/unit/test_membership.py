"""Late and lost nodes: three signals with different meanings (zray.gcs.configuration.membership)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from zray.gcs.configuration.config import ClusterConfig
from zray.gcs.configuration.membership import (
    BEAT_PART,
    LATE_MAX,
    NODE_TIMEOUT_S,
    PAUSE_S,
    REDIAL_PART,
    SUSPECT_S,
    UNANSWERED_PART,
    Membership,
)

ME, A, B, C = (bytes([65 + number]) * 8 for number in range(4))
CONFIG = ClusterConfig.first(ME, 1)._replace(voters=(ME, A, B))


def membership(*others: bytes) -> Membership:
    found = Membership(ME)
    found.watch_over(others, 0.0)
    for name in others:
        found.answers(name)
        found.heard(name, 0.0)
    return found


def turns(found: Membership, until: float, start: float = 0.0) -> None:
    """This node runs all the time."""
    while start < until:
        found.ran(start)
        start += PAUSE_S / 2
    found.ran(until)


def test_a_node_whose_turns_are_late_is_silent_but_not_lost_while_its_process_answers():
    found = membership(A, B)
    turns(found, 10 * NODE_TIMEOUT_S)
    config = CONFIG._replace(voters=(ME, A))
    assert found.silent(config, SUSPECT_S) == [A], "out of its chains: its leases and reads stop"
    assert found.lost(10 * NODE_TIMEOUT_S) == []
    found.heard(A, 10 * NODE_TIMEOUT_S)
    assert found.silent(config, 10 * NODE_TIMEOUT_S) == [], "it takes part again"


def test_a_stopped_process_or_a_cut_link_is_lost_after_the_node_time_out():
    """ZMTP's heartbeats close the connection before; a new one is not answered."""
    found = membership(A)
    for closed_at in (UNANSWERED_PART * NODE_TIMEOUT_S, (UNANSWERED_PART + BEAT_PART) * NODE_TIMEOUT_S):
        found = membership(A)
        turns(found, closed_at)
        found.answers_no_more(A, closed_at)
        turns(found, NODE_TIMEOUT_S, closed_at)
        assert found.lost(NODE_TIMEOUT_S - 0.01) == []
        assert found.next_deadline(CONFIG, NODE_TIMEOUT_S - 0.01) == pytest.approx(NODE_TIMEOUT_S)
        assert found.lost(NODE_TIMEOUT_S + 0.001) == [A]
        assert "process does not answer" in found.why_lost(A)


def test_a_late_node_whose_connection_breaks_has_time_to_be_dialled_again():
    found = membership(A)
    late = 5 * NODE_TIMEOUT_S
    turns(found, late)
    found.answers_no_more(A, late)
    assert found.lost(late) == []
    found.answers(A)
    assert found.lost(late + 2 * NODE_TIMEOUT_S) == [], "its process is there"
    found.answers_no_more(A, late)
    turns(found, late + REDIAL_PART * NODE_TIMEOUT_S, late)
    assert found.lost(late + REDIAL_PART * NODE_TIMEOUT_S) == [A]


def test_a_node_without_any_connection_is_judged_by_its_messages_alone():
    found = Membership(ME)
    found.watch_over([A], 0.0)
    turns(found, NODE_TIMEOUT_S)
    assert found.lost(NODE_TIMEOUT_S) == [A]


def test_a_daemon_that_takes_no_turn_for_very_long_is_taken_for_deadlocked():
    found = membership(A)
    end = LATE_MAX * NODE_TIMEOUT_S
    turns(found, end)
    assert found.lost(end - 0.01) == []
    assert found.lost(end) == [A]
    assert "stuck" in found.why_lost(A)


def test_a_process_that_has_ended_is_lost_at_once_whatever_its_last_connection_said():
    found = membership(A)
    found.proven_gone(A)
    assert found.lost(0.0) == [A]
    assert "refuses connections" in found.why_lost(A)


def test_a_pause_of_this_node_gives_back_the_time_in_which_it_heard_nobody():
    found = membership(A)
    turns(found, 1.0)
    found.answers_no_more(A, 1.0)
    found.ran(1.0 + 10 * NODE_TIMEOUT_S)
    assert found.lost(1.0 + 10 * NODE_TIMEOUT_S) == []


def test_it_takes_a_majority_of_the_voters_to_call_a_late_node_lost():
    """One voter whose own link is cut does not bury a node that another one can reach."""
    found = membership(A, B, C)
    found.answers_no_more(C, 0.0)
    turns(found, NODE_TIMEOUT_S)
    for name in (A, B):
        found.heard(name, NODE_TIMEOUT_S)
    assert found.lost(NODE_TIMEOUT_S) == [C]
    assert found.agreed_lost(CONFIG, NODE_TIMEOUT_S) == set()
    found.opinion(A, [], [C])
    assert found.agreed_lost(CONFIG, NODE_TIMEOUT_S) == {C}


EVENTS = st.sampled_from(["heard", "answers", "closed", "silence", "gone"])


@settings(deadline=None)
@given(st.lists(st.tuples(EVENTS, st.floats(0.01, NODE_TIMEOUT_S)), max_size=40))
def test_nobody_is_lost_while_its_process_answers_and_its_turns_are_not_later_than_the_bound(events):
    found = Membership(ME)
    found.watch_over([A], 0.0)
    now = heard_at = 0.0
    answers, ended = False, False
    for event, seconds in events:
        turns(found, now + seconds, now)
        now += seconds
        if event == "heard":
            found.heard(A, now)
            heard_at = now
        elif event == "answers":
            found.answers(A)
            answers = True
        elif event == "closed":
            found.answers_no_more(A, now)
            answers = False
        elif event == "gone":
            found.proven_gone(A)
            ended = True
        found.check()
        lost = found.lost(now) == [A]
        if ended:
            assert lost
        elif answers:
            assert lost == (now >= heard_at + LATE_MAX * NODE_TIMEOUT_S)
        elif now < heard_at + NODE_TIMEOUT_S:
            assert not lost
        elif now >= heard_at + (1 + REDIAL_PART) * NODE_TIMEOUT_S and not lost:
            assert found.cut_at[A] > now - REDIAL_PART * NODE_TIMEOUT_S, "it answered a moment ago"
