"""The executor against a fake Runtime: results, errors, hand-back, cancellation, blocking."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from tests.fakes.worker import NODE, OWNER, Ended, Rig, call, switching_often, task_id, value
from zray.base import errors
from zray.base.argument_errors import argument_failed
from zray.values import serialization
from zray.wire.messages import (
    FAILED,
    Blocked,
    CancelTask,
    EventReport,
    FunctionDef,
    HandBack,
    LeaseOpen,
    PushTasks,
    StreamAck,
    StreamItem,
    TasksDone,
    WorkerExit,
)


@pytest.fixture
def rig():
    rig = Rig()
    rig.rt.tell(LeaseOpen(1, 1, {"gpu_ids": []}, {}))
    yield rig
    rig.executor.queue.check()
    rig.close()


def failure_of(wire):
    assert type(wire) is list and wire[0] == FAILED, wire
    return errors.from_failure(wire[1], wire[2])


def test_tasks_run_in_order_and_are_answered_once(rig):
    seen = []
    rig.executor.table[b"f"] = (lambda x: seen.append(x) or x * 2, "f")
    rig.rt.tell(PushTasks(1, 1, [call(n, b"f", n) for n in range(1, 301)]))
    rig.drive()
    assert seen == list(range(1, 301))
    assert {s: value(w) for s, w in rig.ends().items()} == {n: n * 2 for n in range(1, 301)}
    assert all(peer == (NODE if isinstance(m, EventReport) else OWNER) for peer, m in rig.rt.sent)
    assert rig.rt.marks.tolist() == [1, 300, 300]


def test_nothing_runs_before_the_job_is_known(rig):
    seen = []
    rig.executor.table[b"f"] = (seen.append, "f")
    rig.executor.machine.has_job = False
    rig.rt.tell(PushTasks(1, 1, [call(1, b"f", 1), call(2, b"f", 2)]))

    def script():
        rig.rt.until(lambda: rig.executor._idle is not None)
        assert seen == []
        with rig.rt.loop.lock:
            rig.executor.machine.has_job = True
            rig.executor.wake()
        rig.wait_ends(2)

    rig.drive(script)
    assert seen == [1, 2]


def test_a_definition_is_loaded_from_the_owner_or_fetched(rig):
    def twice(x):
        return x * 2

    key = rig.define(twice)
    other, blob = serialization.dump_function(lambda: "fetched")
    rig.rt.definitions[other] = blob
    rig.rt.tell(PushTasks(1, 1, [call(1, key, 21), call(2, other)]))
    rig.drive()
    assert [value(w) for w in rig.ends().values()] == [42, "fetched"]


def test_the_error_of_a_function_that_cannot_be_loaded_has_its_name(rig):
    rig.rt.tell(FunctionDef(b"bad", b"no pickle", "module.f"))
    rig.rt.tell(PushTasks(1, 1, [call(1, b"bad")]))
    rig.drive()
    [[_, kind, detail]] = rig.ends().values()
    error = errors.from_failure(kind, detail)
    assert error.function_name == "module.f" and "module.f()" in str(error)


def test_a_pushed_duplicate_is_not_run_again(rig):
    seen = []
    rig.executor.table[b"f"] = (seen.append, "f")
    tasks = [call(n, b"f", n) for n in range(1, 5)]
    rig.rt.tell(PushTasks(1, 1, tasks[:3]))
    rig.rt.tell(PushTasks(1, 1, tasks[:3]))
    rig.rt.tell(PushTasks(1, 2, tasks[1:]))
    rig.drive()
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), RecursionError("deep"), KeyboardInterrupt()])
def test_whatever_is_raised_becomes_a_task_error(rig, error):
    def f():
        raise error

    rig.executor.table[b"f"] = (f, "f")
    rig.rt.tell(PushTasks(1, 1, [call(1, b"f"), call(2, b"f", extra={"name": "named"})]))
    rig.drive()
    ends = rig.ends()
    assert ends[1][:2] == [FAILED, "task_error"]
    raised = failure_of(ends[1])
    assert type(error).__name__ in str(raised) and "in f" in str(raised) and "run_queued" not in str(raised)
    text = str(failure_of(ends[2]))
    assert "named" in text and "run_one" not in text


def test_a_task_that_exits_ends_the_process_and_hands_back_what_waits(rig):
    rig.executor.table[b"f"] = (lambda: sys.exit(3), "f")
    rig.rt.tell(PushTasks(1, 1, [call(1, b"f"), call(2, b"f")]))
    with pytest.raises(Ended, match="3"):
        rig.executor.run_forever()
    assert rig.sent(HandBack) == [HandBack(1, [2])] and not rig.ends(), "the node tells its owner of the end"


def test_recursion_without_end_is_an_error_and_the_worker_goes_on(rig):
    def f(n):
        return f(n + 1) if n else 1

    rig.executor.table[b"f"] = (f, "f")

    def script():
        for n in (1, 2):
            rig.rt.tell(PushTasks(1, n, [call(n, b"f", 2 - n)]))
            rig.wait_ends(n)

    rig.drive(script)
    assert isinstance(failure_of(rig.ends()[1]), RecursionError)
    assert value(rig.ends()[2]) == 1


def test_an_unpicklable_result_names_the_path(rig):
    rig.executor.table[b"f"] = (lambda: {"a": [threading.Lock()]}, "f")
    rig.rt.tell(PushTasks(1, 1, [call(1, b"f")]))
    rig.drive()
    assert isinstance(failure_of(rig.ends()[1]), TypeError)


def test_several_returns_are_counted(rig):
    rig.executor.table[b"f"] = (lambda: (1, "b", None), "f")
    rig.executor.table[b"g"] = (lambda: 5, "g")
    rig.rt.tell(PushTasks(1, 1, [call(1, b"f", returns=3), call(2, b"f", returns=2), call(3, b"g", returns=2),
                                 call(4, b"g", returns=0)]))
    rig.drive()
    ends = rig.ends()
    assert [value(v) for v in ends[1][1]] == [1, "b", None]
    assert isinstance(failure_of(ends[2]), ValueError) and isinstance(failure_of(ends[3]), TypeError)
    assert ends[4] == [0, [], {}]


def test_arguments_that_are_references_are_put_in_place(rig):
    rig.executor.table[b"f"] = (lambda a, b, c=0: (a, b, c), "f")
    deps = [serialization.to_bytes(serialization.dumps(v)) for v in ("first", [7])]
    bad = [FAILED, "cancelled", {"task": b"t"}]
    rig.rt.tell(PushTasks(1, 1, [
        call(1, b"f", None, 2, c=None, extra={"slots": [0, "c"], "deps": deps}),
        call(2, b"f", None, 2, extra={"slots": [0], "deps": [bad]})]))
    rig.drive()
    assert value(rig.ends()[1]) == ("first", 2, [7])
    assert rig.ends()[2] == argument_failed("f", bad)


def test_the_context_names_the_task(rig):
    context = rig.rt.context
    rig.executor.table[b"f"] = (lambda: (context.task, context.attempt, context.task_name, context.receiver), "f")
    rig.rt.tell(PushTasks(1, 1, [call(1, b"f"), call(2, b"f", attempt=2, extra={"name": "own"})]))
    rig.drive()
    assert value(rig.ends()[1]) == (task_id(1), 0, "f", OWNER)
    assert value(rig.ends()[2]) == (task_id(2), 2, "own", OWNER)


def test_a_blocked_task_hands_back_what_is_behind_it_and_gives_up_its_cpu(rig):
    def f():
        assert rig.executor.on_blocked()
        order.append([type(message).__name__ for _, message in rig.rt.sent if not isinstance(message, EventReport)])
        rig.executor.on_unblocked()

    order = []
    rig.executor.table[b"f"] = (f, "f")
    rig.executor.table[b"g"] = (lambda: None, "g")
    rig.rt.tell(PushTasks(1, 1, [call(1, b"g"), call(2, b"f"), call(3, b"g"), call(4, b"g")]))
    rig.drive()
    assert order == [["HandBack", "TasksDone", "Blocked"]]
    assert rig.sent(HandBack) == [HandBack(1, [3, 4])]
    assert set(rig.ends()) == {1, 2}
    assert [m.blocked for m in rig.sent(Blocked)] == [True, False]
    assert {peer for peer, m in rig.rt.sent if isinstance(m, Blocked)} == {NODE}


def test_a_long_task_loses_what_is_behind_it_to_the_watchdog(rig):
    release = threading.Event()
    rig.executor.table[b"f"] = (lambda: release.wait(10), "f")
    rig.executor.table[b"g"] = (lambda: None, "g")

    def script():
        rig.rt.tell(PushTasks(1, 1, [call(1, b"g"), call(2, b"f"), call(3, b"g")]))
        rig.rt.until(lambda: rig.sent(HandBack))
        assert rig.ends() == {1: serialization.NONE}, "the reply before the long task must not wait for it"
        release.set()

    rig.drive(script)
    assert rig.sent(HandBack) == [HandBack(1, [3])]
    assert set(rig.ends()) == {1, 2}


def test_every_task_is_run_or_handed_back_never_both(rig):
    ran = []
    rig.executor.table[b"f"] = (lambda n: ran.append(n), "f")
    total = 5000

    def script():
        pushed = 0
        while pushed < total:
            rig.rt.tell(PushTasks(1, pushed + 1, [call(n, b"f", n) for n in range(pushed + 1, pushed + 101)]))
            pushed += 100
            with rig.rt.loop.lock:
                rig.executor.machine.hand_back()

    with switching_often():
        rig.drive(script)
    back = [s for message in rig.sent(HandBack) for s in message.sequences]
    assert sorted(ran + back) == list(range(1, total + 1))
    assert sorted(rig.ends()) == sorted(ran)


def test_cancel_of_a_queued_task_answers_it_at_once(rig):
    rig.executor.table[b"f"] = (lambda: None, "f")
    rig.rt.tell(PushTasks(1, 1, [call(1, b"f"), call(2, b"f"), call(3, b"f")]))
    rig.rt.tell(CancelTask(task_id(2), 1, False))  # another attempt
    rig.rt.tell(CancelTask(task_id(3), 0, True))
    assert rig.ends()[3][1] == "cancelled"
    rig.drive()
    assert set(rig.ends()) == {1, 2, 3} and rig.ends()[2] == serialization.NONE
    assert rig.rt.cancelled_children == [task_id(3)]


def test_cancel_interrupts_the_running_task_and_no_other(rig):
    started = threading.Event()

    def f():
        started.set()
        time.sleep(30)  # what is interrupted

    rig.executor.table[b"f"] = (f, "f")
    rig.executor.table[b"g"] = (lambda: "fine", "g")

    def script():
        rig.rt.tell(PushTasks(1, 1, [call(1, b"f")]))
        assert started.wait(10)
        rig.rt.tell(CancelTask(task_id(7), 0, False))
        rig.rt.tell(CancelTask(task_id(1), 0, False))
        rig.wait_ends(1)
        rig.rt.tell(CancelTask(task_id(1), 0, False))  # too late: must hit nobody
        rig.rt.tell(PushTasks(1, 2, [call(n, b"g") for n in range(2, 50)]))
        rig.wait_ends(49)

    rig.drive(script)
    ends = rig.ends()
    assert ends[1][:2] == [FAILED, "cancelled"]
    assert all(value(ends[n]) == "fine" for n in range(2, 50))


def test_an_interrupt_inside_a_transition_waits_for_its_end(rig):
    inside = threading.Event()
    loop = rig.rt.loop

    def f():
        with loop.lock:
            inside.set()
            # A transition that takes long: the signal must not raise in here.
            deadline = time.monotonic() + 10
            while not loop.sigint and time.monotonic() < deadline:
                pass
        done.append(loop.sigint)

    done = []
    rig.executor.table[b"f"] = (f, "f")

    def script():
        rig.rt.tell(PushTasks(1, 1, [call(1, b"f")]))
        assert inside.wait(10)
        # Without the lock, which the task holds: the test's stand-in for a timer that fires inside the transition.
        rig.executor.interrupts.request(task_id(1), 0)

    rig.drive(script)
    assert done == [True], "recorded with the loop, which raises at the end of the transition"
    assert not loop.sigint, "and void once the task has ended"


def test_max_calls_ends_the_process_and_says_so(rig):
    rig.executor.table[b"f"] = (lambda: 1, "f")
    extra = {"max_calls": 2}
    rig.rt.tell(PushTasks(1, 1, [call(n, b"f", extra=extra) for n in range(1, 5)]))
    rig.drive()
    ends = rig.ends()
    assert value(ends[1]) == 1
    assert ends[2][2] == {"exiting": True} and value(ends[2][1][0]) == 1
    assert rig.sent(HandBack) == [HandBack(1, [3, 4])]


def test_a_generator_streams_its_items_and_waits_for_its_consumer(rig):
    made = []

    def f():
        for i in range(6):
            made.append(i)
            yield i

    rig.executor.table[b"f"] = (f, "f")

    def script():
        rig.rt.tell(PushTasks(1, 1, [call(1, b"f", returns=-1, extra={"backpressure": 2})]))
        rig.rt.until(lambda: len(rig.sent(StreamItem)) == 2)
        assert made == [0, 1]
        rig.rt.tell(StreamAck(task_id(1), 0, 1))
        rig.rt.until(lambda: len(rig.sent(StreamItem)) == 3)
        rig.rt.tell(StreamAck(task_id(1), 0, 6))
        rig.wait_ends(1)

    rig.drive(script)
    assert [(m.index, value(m.value)) for m in rig.sent(StreamItem)] == [(i + 1, i) for i in range(6)]
    assert rig.ends()[1] == [0, [serialization.NONE], {"stream_len": 6}]


def test_an_error_of_a_generator_ends_its_stream(rig):
    def f():
        yield 1
        raise ValueError("no more")

    rig.executor.table[b"f"] = (f, "f")
    rig.executor.table[b"g"] = (lambda: iter("abc"), "g")
    rig.rt.tell(PushTasks(1, 1, [call(1, b"f", returns=-1), call(2, b"g", returns=-2), call(3, b"f", returns=-2)]))
    rig.drive()
    ends = rig.ends()
    assert len(rig.sent(StreamItem)) == 1 and isinstance(failure_of(ends[1]), ValueError)
    assert [value(v) for v in ends[2][1]] == ["a", "b", "c"] and ends[2][2] == {"dynamic": True}
    items, extra = ends[3][1:]
    assert [value(v) for v in items] == [1] and isinstance(failure_of(extra["failure"]), ValueError)


def test_a_task_runs_inline_inside_the_one_that_waits_for_it(rig):
    context = rig.rt.context

    def outer():
        limit = sys.getrecursionlimit()
        got = value(rig.executor.run_inline(call(9, b"inner"), frames=50))
        assert sys.getrecursionlimit() == limit
        return got, context.task

    rig.executor.table[b"inner"] = (lambda: context.task, "inner")
    rig.executor.table[b"outer"] = (outer, "outer")
    rig.rt.tell(PushTasks(1, 1, [call(1, b"outer")]))
    rig.drive()
    assert value(rig.ends()[1]) == (task_id(9), task_id(1))


def test_a_cancel_reaches_the_outer_task_when_the_inner_one_has_ended(rig):
    inside = threading.Event()
    asked = threading.Event()

    def inner():
        inside.set()
        assert asked.wait(10)
        return 7

    def outer():
        got = value(rig.executor.run_inline(call(9, b"inner")))
        rig.executor.interrupts.resume()
        return got

    rig.executor.table[b"inner"] = (inner, "inner")
    rig.executor.table[b"outer"] = (outer, "outer")

    def script():
        rig.rt.tell(PushTasks(1, 1, [call(1, b"outer")]))
        assert inside.wait(10)
        rig.rt.tell(CancelTask(task_id(1), 0, False))
        asked.set()
        rig.wait_ends(1)

    rig.drive(script)
    assert rig.ends()[1][1] == "cancelled"


def test_replies_go_to_their_owner_and_lease(rig):
    rig.executor.table[b"f"] = (lambda n: n, "f")
    other = b"owner-2-"
    rig.rt.tell(PushTasks(1, 1, [call(1, b"f", 1)]))
    rig.rt.tell(LeaseOpen(2, 1, {}, {}), other)
    rig.rt.tell(PushTasks(2, 1, [call(2, b"f", 2)]), other)
    rig.drive()
    done = [(peer, m.lease, [value(w) for w in m.ends[1::2]]) for peer, m in rig.rt.sent if isinstance(m, TasksDone)]
    assert done == [(OWNER, 1, [1]), (other, 2, [2])]
    assert rig.rt.marks.tolist() == [2, 1, 1]


def test_a_worker_whose_objects_others_hold_does_not_exit(rig):
    rig.executor.table[b"f"] = (lambda: None, "f")

    def script():
        rig.rt.busy = True
        rig.rt.tell(WorkerExit("idle"), NODE)
        assert rig.executor.machine.stopping is None
        rig.rt.busy = False
        rig.rt.tell(WorkerExit("idle"), NODE)
        assert rig.executor.machine.stopping == "idle"

    rig.drive(script)
