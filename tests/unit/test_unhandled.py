"""Failures that nobody fetched are reported once, when nobody can fetch them any more."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, strategies as st

from tests.unit.test_owner import ACTOR, BORROWER, NODE, WORKER, Owner
from zray.base import ids
from zray.base.argument_errors import UNPRODUCED, innermost
from zray.base.errors import failure_text
from zray.owner.calls import DEAD
from zray.owner.failures import cancelled
from zray.owner.records import Entry
from zray.owner.unhandled import Unhandled
from zray.values.serialization import dump_error
from zray.wire import messages as m


def raised(words="lost", name="f"):
    return [m.FAILED, "task_error", dump_error(ValueError(words), name)]


def running(owner, n=1, deps=()):
    """Tasks that a worker runs."""
    owner.fn.run_ns = 1000
    key = owner.submitter.key_for("key", {}, {}, {}, "f")
    tasks = [owner.task(key) for _ in range(n)]
    for task in tasks:
        if deps:
            task.deps, task.pins = list(deps), list(deps)
        owner.submitter.submit(task)
    owner.submitter.pump()
    if not owner.submitter.leases:
        owner.submitter.on_lease_grant(NODE, m.LeaseGrant(key.number, 1, WORKER, "", 7, {}))
    return tasks


def end(owner, task, result):
    owner.submitter.on_tasks_done(WORKER, m.TasksDone(1, [task.seq, result], 1000))


def reports(owner):
    return owner.refs.unhandled.take()


@pytest.mark.parametrize("dropped_first", [True, False])
def test_a_failure_is_reported_when_its_reference_is_gone(dropped_first):
    owner = Owner()
    (task,) = running(owner)
    entry, failure = task.entry, raised()
    if dropped_first:
        owner.refs.unpin(entry)
    end(owner, task, failure)
    if not dropped_first:
        assert reports(owner) == []
        owner.refs.unpin(entry)
    assert reports(owner) == [failure] and owner.refs.unhandled.is_empty()


def test_a_generator_that_runs_again_for_an_item_that_was_lost_fails_only_once():
    owner = Owner()
    (task,) = running(owner)
    entries = task.entry = [Entry(ids.return_id(task.tid, number), task) for number in (1, 2)]
    for entry in entries:
        owner.refs.owned[entry.oid] = entry
    first, again = raised(), raised()
    owner.submitter.results.take(task, [b"item"], {"failure": first}, WORKER)
    entries[0].value = None  # the item; the error of the end is still there
    task.pins = None
    owner.submitter.results.take(task, [b"item"], {"failure": again}, WORKER)
    assert [entry.value for entry in entries] == [b"item", first]
    for entry in entries:
        owner.refs.unpin(entry)
    assert reports(owner) == [first] and owner.refs.unhandled.is_empty()


def test_a_failure_that_was_seen_is_not_reported():
    owner = Owner()
    (task,) = running(owner)
    entry, failure = task.entry, raised()
    end(owner, task, failure)
    owner.refs.unhandled.seen(entry.value)
    owner.refs.unpin(entry)
    assert reports(owner) == [] and owner.refs.unhandled.is_empty()


@pytest.mark.parametrize("fetched", [True, False])
def test_a_failure_that_went_through_arguments_is_that_of_the_last_task(fetched):
    owner = Owner()
    (first,) = running(owner)
    entry = first.entry
    (second,) = running(owner, deps=[entry])
    last = second.entry
    owner.refs.unpin(entry)
    failure = raised()
    end(owner, first, failure)
    end(owner, second, [m.FAILED, UNPRODUCED, {}])  # it was pushed behind the first
    assert reports(owner) == [] and innermost(last.value) is failure
    if fetched:
        owner.refs.unhandled.seen(last.value)
    owner.refs.unpin(last)
    assert reports(owner) == ([] if fetched else [failure])


def test_a_failure_of_an_object_that_other_processes_know_is_theirs_to_look_at():
    owner = Owner()
    (task,) = running(owner)
    entry = task.entry
    owner.refs.on_locate(BORROWER, m.Locate([entry.oid]))
    end(owner, task, raised())
    owner.refs.unpin(entry)
    assert reports(owner) == [] and owner.refs.unhandled.is_empty()


def test_cancelled_tasks_are_not_failures():
    owner = Owner()
    first, second = running(owner, 2)
    entries = first.entry, second.entry
    owner.submitter.cancel(first, False, False)
    owner.submitter.cancel(second, False, False)
    end(owner, first, cancelled(first))
    end(owner, second, raised("KeyboardInterrupt made something else fail"))
    owner.refs.unpin_all(entries)
    assert reports(owner) == []


def test_a_task_without_returns_fails_aloud():
    owner = Owner()
    (task,) = running(owner)
    owner.refs.unpin(task.entry)
    task.entry, task.nret = [], 0
    failure = raised()
    end(owner, task, failure)
    assert reports(owner) == [failure]


def actor_that_fails(owner):
    link = owner.calls.link_for(ACTOR, "A")
    task = owner.task(None)
    owner.calls.submit(link, task)
    entry = task.entry
    error = dump_error(ValueError("lost"), "A.__init__")
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, DEAD, 0, b"", "", {"kind": "init", "error": error}))
    owner.refs.unhandled.actor_failed(ACTOR, owner.calls.death_of(link))
    return entry


def test_a_constructor_that_failed_is_reported_in_time():
    owner = Owner()
    entry = actor_that_fails(owner)
    owner.refs.unhandled.seen(entry.value)
    owner.refs.unhandled.actor_due(ACTOR)
    assert reports(owner) == [], "a call has brought it to somebody"
    owner.refs.unhandled.actor_failed(ACTOR, entry.value)
    owner.refs.unhandled.actor_due(ACTOR)
    assert reports(owner) == [entry.value]


def test_a_constructor_that_failed_is_not_reported_while_a_call_may_bring_it():
    owner = Owner()
    entry = actor_that_fails(owner)
    owner.refs.unhandled.actor_due(ACTOR)
    assert reports(owner) == []
    owner.refs.unpin(entry)
    assert reports(owner) == [entry.value] and owner.refs.unhandled.is_empty()


def test_what_is_left_is_reported_at_the_end():
    owner = Owner()
    (task,) = running(owner)
    failure = raised()
    end(owner, task, failure)
    owner.refs.unhandled.end()
    assert reports(owner) == [failure]


steps = st.lists(st.tuples(st.sampled_from(["failed", "shared", "seen", "dropped", "passed on"]), st.integers(0, 2)),
                 max_size=40)


@given(steps)
def test_one_report_for_each_failure_whose_objects_all_went_unseen(taken):
    unhandled = Unhandled()
    failures = [raised(str(n)) for n in range(3)]
    objects = [0, 0, 0]
    seen = [True, True, True]  # nobody need report what has not failed
    expected = Counter()
    for step, n in taken:
        if step == "failed" and not objects[n]:
            unhandled.failed(failures[n], 1)
            objects[n], seen[n] = 1, False
        elif step == "shared" and objects[n]:
            unhandled.shared(failures[n])
            objects[n] += 1
        elif step == "seen":
            unhandled.seen(failures[n])
            seen[n] = True
        elif step in ("dropped", "passed on") and objects[n]:
            unhandled.dropped(failures[n], step == "passed on")
            objects[n] -= 1
            seen[n] = seen[n] or step == "passed on"
            if not objects[n] and not seen[n]:
                expected[n] += 1
                seen[n] = True
    assert Counter(failures.index(report) for report in unhandled.take()) == expected
    for n in range(3):
        for _ in range(objects[n]):
            unhandled.dropped(failures[n], True)
    assert unhandled.is_empty()


def test_repeats_differ_in_nothing_but_the_process():
    def text(words, line):
        try:
            exec("\n" * line + f"raise ValueError({words!r})")
        except ValueError as error:
            return failure_text("task_error", dump_error(error, "f"))

    one, again, other, elsewhere = text("a", 1), text("a", 1), text("b", 1), text("b", 2)
    assert one[:2] == again[:2] and "ValueError: a" in one[2]
    assert one[0] == other[0] and one[1] != other[1]
    assert other[0] != elsewhere[0]
