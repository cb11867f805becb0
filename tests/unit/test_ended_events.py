"""Ended task events: bounded by number, bytes and age, failures kept longest, what goes is counted."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, strategies as st

from zray.node.jobs.ended_events import (
    ENTRY_BYTES,
    EVENT_TASK,
    FUNCTIONS_MAX,
    OTHERS,
    EndedEvents,
    Source,
    packed,
    unpacked,
)
from zray.node.jobs.task_events import TaskEventLog

SOURCE = Source(b"worker--", b"worker--".ljust(28, b"i"), 1, b"", {})


def event(n: int, ok: bool = True, end: float = 2.0, name: str = "f") -> list:
    return [name, n.to_bytes(24, "little"), 7, end - 1.0, end, ok, 0, 1, None if ok else ["E", "boo"], 5, ""]


def numbers(kept) -> list[int]:
    return [int.from_bytes(unpacked(each)[EVENT_TASK], "little") for _, each in kept]


def test_failures_outlive_the_successes_around_them():
    log = EndedEvents(10, 1 << 30, 0.0)
    for n in range(100):
        log.add(SOURCE, event(n, ok=n % 20 != 0))
    assert numbers(log.events) == list(range(90, 100)) and numbers(log.failed) == [0, 20, 40, 60, 80]
    assert numbers(log) == [*range(99, 89, -1), 80, 60, 40, 20, 0]
    assert log.forgotten == 85 and log.functions["f"][:2] == [95, 5]
    log.check()


def test_the_bytes_bound_both_lists():
    size = ENTRY_BYTES + len(packed(event(1)))
    log = EndedEvents(1000, 8 * (size + 8), 0.0)
    for n in range(50):
        log.add(SOURCE, event(n, ok=n % 2 == 0))
    assert 5 <= len(log.events) <= 6 and 1 <= len(log.failed) <= 2 and log.forgotten == 50 - len(log)
    log.check()


def test_what_is_too_old_goes_and_failures_seven_times_later():
    log = EndedEvents(1000, 1 << 30, 10.0)
    for n in range(6):
        log.add(SOURCE, event(n, ok=n % 2 == 0, end=float(n)))
    log.expire(12.5)
    assert numbers(log.events) == [3, 4, 5] and numbers(log.failed) == [1]
    log.expire(80.0)
    assert numbers(log) == [] and log.forgotten == 6
    log.check()


def test_many_functions_share_the_last_sum():
    log = EndedEvents(10, 1 << 30, 0.0)
    for n in range(FUNCTIONS_MAX + 5):
        log.add(SOURCE, event(n, name=f"f{n}"))
    assert len(log.functions) == FUNCTIONS_MAX + 1 and log.functions[OTHERS] == [5, 0, 5.0, 1.0]


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=60), st.integers(0, 20), st.integers(500, 5000),
       st.sampled_from([0.0, 5.0]))
def test_the_lists_keep_their_invariants_whatever_ends(ends, kept_max, bytes_max, kept_s):
    log = EndedEvents(kept_max, bytes_max, kept_s)
    for n, (ok, end) in enumerate(ends):
        log.add(SOURCE, event(n, ok, end))
        log.expire(end)
        log.check()
    start, paged = 0, []
    while start < log.seen:
        start, page = log.page(start, 3)
        paged += numbers(page)
        if not page:
            break
    assert sorted(paged) == sorted(numbers(log)) and len(set(paged)) == len(paged)


def test_a_copy_has_all_that_fits_and_counts_the_rest():
    log = TaskEventLog(1000)
    events = [event(n, ok=n % 10 != 0) for n in range(100)]
    events[50].append([[1.2, 1.5]])
    assert log.report(SOURCE, events, 3, {5: {"resources": {"CPU": 1.0}}}, [[b"p" * 16, b"t" * 24]], lambda lease: 0.5)
    log.report(SOURCE, [event(200, end=0.0)], 0)
    copy = TaskEventLog.loaded(msgpack.unpackb(msgpack.packb(log.dump(1 << 20)), strict_map_key=False))
    assert list(copy.rows()) == list(log.rows()) and copy.timeline(0, 1000) == log.timeline(0, 1000)
    assert (copy.seen, copy.dropped, copy.parents) == (100, 3, log.parents)
    row = next(row for row in copy.rows() if row["task_id"] == (50).to_bytes(24, "little"))
    assert row["leased_s"] == 0.5
    copy.check()
    small = TaskEventLog.loaded(log.dump(2000))
    assert 0 < len(small.ended) < 50 and small.ended.forgotten == 100 - len(small.ended)
    assert small.ended.functions == log.ended.functions
    small.check()


def test_the_waits_of_a_task_are_in_its_row():
    log = TaskEventLog(10)
    log.report(SOURCE, [event(1, end=0.0)], 0)
    log.blocked(SOURCE.worker, True, 10.0)
    log.blocked(SOURCE.worker, False, 12.0)
    log.blocked(SOURCE.worker, True, 13.0)
    started = [*event(1)[:3], 9.0, 14.0, *event(1)[5:]]
    log.report(SOURCE, [started], 0)
    (row,) = log.rows()
    assert row["blocked"] == [[10.0, 12.0], [13.0, 14.0]]
    log.blocked(SOURCE.worker, False, 15.0)
    log.report(SOURCE, [[*event(2)[:3], 16.0, 17.0, *event(2)[5:]]], 0)
    assert next(log.rows())["blocked"] == []
    log.worker_gone(SOURCE.worker)
    assert not log.blocks


@pytest.mark.parametrize("damage", [{}, {"events": [[3, b""]]}, {"sources": [[1]]}])
def test_what_is_no_copy_is_refused(damage):
    whole = TaskEventLog(10)
    whole.report(SOURCE, [event(1)], 0)
    with pytest.raises((KeyError, TypeError, IndexError)):
        TaskEventLog.loaded({**whole.dump(1000), **damage} if damage else {})
