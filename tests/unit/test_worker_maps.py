"""Chunks of a map against the obvious loop."""

from __future__ import annotations

import threading
import time

import pytest

from tests.fakes.worker import Rig, switching_often, task_id, value
from zray.base import errors
from zray.values import serialization
from zray.wire.messages import CancelTask, HandBack, LeaseOpen, MapDone, PushMap


@pytest.fixture
def rig():
    rig = Rig()
    rig.rt.tell(LeaseOpen(1, 1, {}, {}))
    yield rig
    rig.close()


def chunk(first, items, function=b"f", star=False, attempt=0):
    return PushMap(1, first, task_id(first), attempt, function, len(items),
                   serialization.to_bytes(serialization.dumps(items)), star)


def outcome(rig):
    """Sequence -> ("value" | "error", what); each sequence answered once, pieces of a chunk in order."""
    found = {}
    for message in rig.sent(MapDone):
        values = value(message.results)
        assert len(values) == message.count
        failures = dict(message.failures)
        for position, item in enumerate(values):
            sequence = message.first + position
            assert sequence not in found
            found[sequence] = ("error", failures[position]) if position in failures else ("value", item)
    return found


def test_results_are_those_of_a_plain_loop(rig):
    rig.executor.table[b"f"] = (lambda x: x * x, "f")
    rig.executor.table[b"g"] = (lambda a, b: a - b, "g")
    rig.rt.tell(chunk(1, list(range(5000))))
    rig.rt.tell(chunk(5001, [(i, 1) for i in range(700)], b"g", star=True))
    rig.drive()
    expected = [("value", x * x) for x in range(5000)] + [("value", i - 1) for i in range(700)]
    got = outcome(rig)
    assert [got[s] for s in range(1, 5701)] == expected
    assert rig.rt.marks.tolist()[1:] == [5700, 5700]


def test_items_that_raise_fail_alone(rig):
    def f(x):
        if x % 7 == 3:
            raise KeyError(x)
        return x

    rig.executor.table[b"f"] = (f, "f")
    rig.rt.tell(chunk(1, list(range(70))))
    rig.drive()
    got = outcome(rig)
    for x in range(70):
        kind, what = got[x + 1]
        if x % 7 == 3:
            raised = errors.from_failure(what[1], what[2])
            assert kind == "error" and isinstance(raised, KeyError) and raised.args == (x,)
        else:
            assert (kind, what) == ("value", x)


def test_an_unpicklable_result_fails_its_item_only(rig):
    rig.executor.table[b"f"] = (lambda x: threading.Lock() if x == 2 else x, "f")
    rig.rt.tell(chunk(1, list(range(5))))
    rig.drive()
    got = outcome(rig)
    assert [got[s][0] for s in range(1, 6)] == ["value", "value", "error", "value", "value"]


def test_a_function_that_does_not_load_fails_every_item(rig):
    rig.rt.definitions[b"bad"] = b"\x80\x05not a pickle"
    rig.rt.tell(chunk(1, [1, 2, 3], b"bad"))
    rig.drive()
    assert [kind for kind, _ in outcome(rig).values()] == ["error"] * 3


def test_a_slow_item_gives_the_rest_of_its_chunk_away(rig):
    release = threading.Event()

    def f(x):
        if x == 3:
            release.wait(10)
        return x

    rig.executor.table[b"f"] = (f, "f")

    def script():
        rig.rt.tell(chunk(1, list(range(10))))
        rig.rt.tell(chunk(11, list(range(5))))
        rig.rt.until(lambda: rig.sent(HandBack))
        release.set()

    rig.drive(script)
    back = [s for message in rig.sent(HandBack) for s in message.sequences]
    assert back == list(range(5, 16))
    assert sorted(outcome(rig)) == [1, 2, 3, 4]


def test_every_item_is_run_or_handed_back_never_both(rig):
    rig.executor.table[b"f"] = (lambda x: x, "f")
    total = 40_000

    def script():
        for first in range(1, total, 2000):
            rig.rt.tell(chunk(first, list(range(first, first + 2000))))
            for _ in range(3):
                with rig.rt.loop.lock:
                    rig.executor.machine.hand_back()
        rig.rt.until(lambda: not rig.executor.queue.entries)

    with switching_often():
        rig.drive(script)
    back = [s for message in rig.sent(HandBack) for s in message.sequences]
    got = outcome(rig)
    assert sorted([*back, *got]) == list(range(1, total + 1))
    assert all(got[s] == ("value", s) for s in got)


def test_progress_is_sent_while_a_long_chunk_runs(rig):
    def f(x):
        deadline = time.perf_counter() + 0.003
        while time.perf_counter() < deadline:
            pass
        return x

    rig.executor.table[b"f"] = (f, "f")
    rig.rt.tell(chunk(1, list(range(6))))
    rig.drive(lambda: rig.rt.until(lambda: len(rig.sent(MapDone)) >= 2))


def test_a_cancelled_item_is_not_run(rig):
    ran = []
    rig.executor.table[b"f"] = (ran.append, "f")
    rig.rt.tell(chunk(1, list(range(1, 9))))
    rig.rt.tell(CancelTask(task_id(4), 0, False))
    rig.drive()
    assert ran == [1, 2, 3, 5, 6, 7, 8]
    assert outcome(rig)[4][1][1] == "cancelled"
