"""The results that a worker has just made, as arguments of tasks behind them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.fakes.worker_machine import MachineRig
from zray.wire.messages import CARRYING, FAILED, STORED, HandBack, PushTasks
from zray.worker.produced import NOT_PRODUCED, take_arguments
from zray.worker.queue import EXTRA, SENT_BYTES_MAX, SENT_KEPT, ServedLease

OWNER = b"owner-1-"
PLACE = [STORED, 64, 4096, 3, b"o" * 28, b"node...."]


def consumer(*places: int, deps: int = 1) -> list[Any]:
    return [b"t" * 24, 0, b"f", b"args", 1, {"slots": list(range(deps)), "deps": [None] * deps, "behind": list(places)}]


@pytest.mark.parametrize("result, index, value", [
    (b"inline", 0, b"inline"), (PLACE, 0, PLACE), ([0, [b"a", PLACE], {}], 1, PLACE), ([0, [b"a", b"b"], {}], 0, b"a"),
    ([0, [b"a"], {"held": [[b"o", 1]]}], 0, b"a"),
    ([FAILED, "task_error", b""], 0, None), ([0, [b"a"], {"failure": [FAILED, "task_error", b""]}], 0, None),
    ([CARRYING, b"a", [], 0], 0, None), ([0, [[CARRYING, b"a", [], 0]], {}], 0, None), (NOT_PRODUCED, 0, None),
    ([0, [b"a"], {}], 1, None)])
def test_only_whole_values_without_references_are_taken(result, index, value):
    lease = ServedLease(OWNER, 1)
    lease.ends += [7, result]
    task = consumer(0, 7, index)
    assert take_arguments(lease, task) == (value is not None)
    if value is not None:
        assert task[EXTRA] == {"slots": [0], "deps": [value]}


def test_each_argument_is_put_into_its_place():
    lease = ServedLease(OWNER, 1)
    lease.ends += [1, b"1", 2, [0, [b"2a", b"2b"], {}], 3, b"3"]
    task = consumer(3, 1, 0, 0, 2, 1, 2, 3, 0, deps=4)
    task[EXTRA]["deps"][1] = b"ready"
    assert take_arguments(lease, task)
    assert task[EXTRA]["deps"] == [b"2b", b"ready", b"3", b"1"]


def test_the_result_of_an_older_attempt_is_not_taken():
    """The attempts of a task have different sequence numbers."""
    lease = ServedLease(OWNER, 1)
    lease.ends += [1, b"old", 4, [FAILED, "task_error", b""]]
    assert not take_arguments(lease, consumer(0, 4, 0))
    lease.ends += [6, b"new"]
    task = consumer(0, 6, 0)
    assert take_arguments(lease, task) and task[EXTRA]["deps"] == [b"new"]


@given(st.lists(st.one_of(st.integers(0, SENT_BYTES_MAX), st.just("failed"), st.just("flush")), max_size=30))
def test_a_result_is_found_until_it_was_sent_some_messages_ago_and_memory_is_bounded(steps):
    lease = ServedLease(OWNER, 1)
    flushes: list[list[tuple[int, Any]]] = [[]]
    for sequence, step in enumerate(steps, 1):
        if step == "flush":
            taken = lease.ends[:]
            if taken:
                lease.keep_sent(taken)
                flushes.append([])
            del lease.ends[:]
        else:
            result = bytes(step) if type(step) is int else [FAILED, "task_error", b""]
            lease.ends += [sequence, result]
            flushes[-1].append((sequence, result))
    *sent, unsent = flushes
    small = [ends for ends in sent if all(type(value) is bytes for _, value in ends)
             and sum(len(value) for _, value in ends) <= SENT_BYTES_MAX]
    kept = dict(pair for ends in (*small[-SENT_KEPT:], unsent) for pair in ends)
    for sequence in range(len(steps) + 2):
        task = consumer(0, sequence, 0)
        expected = kept.get(sequence)
        found = take_arguments(lease, task)
        assert found == (type(expected) is bytes)
        assert not found or task[EXTRA]["deps"] == [expected]
    assert sum(len(value) for ends in lease.sent for value in ends[1::2]) <= SENT_KEPT * SENT_BYTES_MAX


def test_the_machine_keeps_what_it_has_sent_and_hands_back_tasks_that_wait_for_it():
    rig = MachineRig()
    machine = rig.machine
    producer = [b"p" * 24, 0, b"f", b"args", 1, None]
    machine.on_push(OWNER, PushTasks(1, 1, [producer]))
    lease, sequence, _ = machine.start()
    machine.finish(b"value", 10)
    machine.pause()
    assert not lease.ends
    machine.on_push(OWNER, PushTasks(1, 2, [consumer(0, sequence, 0), consumer(0, 2, 0)]))
    _, _, task = machine.start()
    assert take_arguments(lease, task) and task[EXTRA]["deps"] == [b"value"]
    machine.block()
    assert [message for _, message in rig.sent if type(message) is HandBack] == [HandBack(1, [3])]
