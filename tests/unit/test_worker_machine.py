"""The WorkerMachine through its ports: replies, hand-back, cancellation, calls side by side, ends."""

from __future__ import annotations

from collections import deque

import pytest

from tests.fakes.worker import NODE, OWNER, call, task_id
from tests.fakes.worker_machine import ACTOR, FakeRunner, MachineRig, calls
from zray.wire.messages import (
    FAILED,
    ActorExit,
    ActorInit,
    ActorUp,
    Blocked,
    CallsDone,
    CancelTask,
    HandBack,
    JobOver,
    JobSettings,
    LeaseOpen,
    PushCalls,
    PushMap,
    PushTasks,
    StreamAck,
    TasksDone,
    WorkerExit,
)
from zray.worker.actors.life import KEPT_BYTES
from zray.worker.machine import CANCELS_KEPT, CHUNK_TICKS, FLUSH_AFTER_NS, FLUSH_ENDS, RUN, STOP, WAIT, WorkerMachine


@pytest.fixture
def rig():
    rig = MachineRig()
    yield rig
    rig.machine.check()


def push(rig, *numbers, lease=1, first=1, peer=OWNER, **extra):
    rig.tell(PushTasks(lease, first, [call(n, b"f", extra=extra or None) for n in numbers]), peer)


def push_calls(rig, first, *pushed, peer=OWNER, life=3):
    rig.tell(PushCalls(ACTOR, life, first, list(pushed)), peer)


def done(*pairs, lease=1, mean=0):
    return TasksDone(lease, [part for pair in pairs for part in pair], mean)


def started(rig):
    found, rig.runner.started = rig.runner.started, []
    return [entry[1] for _, entry in found]


# ---------------------------------------------------------------- composition


def test_a_runner_that_lacks_a_verb_fails_at_construction():
    class Silent:
        pass

    verbs = [name for name in dir(FakeRunner) if not name.startswith("_")]
    for missing in verbs:
        runner = Silent()
        for name in verbs:
            if name != missing:
                setattr(runner, name, lambda *args: None)
        with pytest.raises(AttributeError, match=missing):
            WorkerMachine(NODE, [0, 0, 0], lambda peer, message: None, runner)


# ---------------------------------------------------------------- replies


def test_replies_gather_until_the_queue_is_empty(rig):
    push(rig, 1, 2)
    rig.run(b"a")
    rig.run(b"b")
    assert rig.take() == []
    assert rig.machine.pause() == WAIT
    assert rig.take() == [done((1, b"a"), (2, b"b"))]


def test_a_long_task_is_answered_at_once_with_all_before_it(rig):
    push(rig, 1, 2, 3)
    rig.run(b"a", FLUSH_AFTER_NS)
    assert rig.take() == []
    rig.run(b"b", FLUSH_AFTER_NS + 1)
    assert rig.take() == [done((1, b"a"), (2, b"b"), mean=(2 * FLUSH_AFTER_NS + 1) // 2)]


def test_many_short_tasks_are_answered_in_batches(rig):
    push(rig, *range(1, FLUSH_ENDS))
    for _ in range(FLUSH_ENDS // 2):
        assert rig.take() == []
        rig.run()
    assert [len(message.ends) for message in rig.take()] == [FLUSH_ENDS]


def test_a_task_without_a_result_is_not_answered(rig):
    push(rig, 1)
    rig.run(None)
    rig.machine.pause()
    assert rig.take() == []


def test_marks_name_the_lease_the_start_and_the_end(rig):
    push(rig, 1, lease=4)
    push(rig, 2, 3, lease=9, peer=b"owner-2-")
    rig.machine.start()
    assert rig.marks == [4, 1, 0]
    rig.machine.finish(b"", 0)
    assert rig.marks == [4, 1, 1]
    rig.machine.start()
    assert rig.marks == [9, 1, 0]


def test_nothing_runs_before_the_job_is_known(rig):
    rig.machine.has_job = False
    push(rig, 1)
    assert rig.machine.pause() == WAIT
    rig.tell(JobSettings(7, {}), NODE)
    assert rig.asked("job") == [(7,)] and rig.machine.pause() == RUN
    rig.tell(JobOver(7), NODE)
    assert rig.asked("report") == [()]


# ---------------------------------------------------------------- hand-back


def test_a_task_that_blocks_gives_back_what_waits_and_lends_its_cpu(rig):
    push(rig, 1, 2, 3, 4)
    rig.run(b"a")
    rig.machine.start()
    rig.machine.block()
    assert rig.take() == [HandBack(1, [3, 4]), done((1, b"a")), Blocked(True)]
    rig.machine.block()
    rig.machine.unblock()
    assert rig.take() == [], "get inside get"
    rig.machine.unblock()
    rig.machine.unblock()
    assert rig.take() == [Blocked(False)]


def test_a_task_seen_twice_by_the_watch_gives_back_what_waits(rig):
    push(rig, 1, 2)
    rig.machine.start()
    rig.tick()
    assert rig.take() == []
    rig.tick()
    assert rig.take() == [HandBack(1, [2])] and rig.asked("long") == [(task_id(1), 0)]
    rig.tick()
    assert len(rig.asked("long")) == 1
    rig.machine.finish(b"", 0)
    rig.tick()
    assert not rig.runner.timers, "nothing runs and nothing waits"


def test_short_tasks_are_not_handed_back(rig):
    push(rig, *range(1, 10))
    for _ in range(9):
        rig.run()
        rig.tick()
    assert rig.take(HandBack) == []


def test_a_chunk_gives_its_rest_away_after_some_ticks(rig):
    rig.tell(PushMap(1, 1, task_id(1), 0, b"f", 6, b"", False))
    _, _, chunk = rig.machine.start()
    chunk.items = deque(range(6))
    for step in range(CHUNK_TICKS + 1):
        assert rig.take() == []
        chunk.items.popleft() if step < 3 else None
        rig.marks[1] = step + 1  # another item each time
        rig.tick()
    assert rig.take() == [HandBack(1, [4, 5, 6])]


def test_max_calls_announces_the_end_and_gives_back_the_rest(rig):
    push(rig, 1, 2, 3, max_calls=2)
    for _ in range(2):
        _, _, task = rig.machine.start()
        rig.machine.finish(rig.machine.count_run(task, b"r"), 0)
    assert rig.take() == [HandBack(1, [3]), done((1, b"r"))]
    assert rig.machine.pause() == STOP
    assert rig.take() == [done((2, [0, [b"r"], {"exiting": True}]))]


def test_after_max_calls_the_process_waits_while_others_need_what_it_owns(rig):
    push(rig, 1, max_calls=1)
    _, _, task = rig.machine.start()
    rig.machine.finish(rig.machine.count_run(task, b"r"), 0)
    rig.runner.busy = True
    assert rig.machine.pause() == WAIT and rig.machine.pause() == WAIT
    rig.runner.busy = False
    assert rig.machine.pause() == STOP


# ---------------------------------------------------------------- cancel


def test_a_queued_task_is_taken_out_and_answered(rig):
    push(rig, 1, 2)
    rig.machine.start()
    rig.tell(CancelTask(task_id(2), 0, False))
    assert rig.take() == [done((2, [FAILED, "cancelled", {"task": task_id(2)}]))]
    assert not rig.asked("interrupt") and not rig.asked("cancel children")


def test_a_running_task_is_interrupted_and_its_children_are_cancelled(rig):
    push(rig, 1)
    rig.machine.start()
    rig.runner.interruptible.add((task_id(1), 0))
    rig.tell(CancelTask(task_id(1), 0, True))
    assert rig.asked("interrupt") == [(task_id(1), 0)] and rig.asked("cancel children") == [(task_id(1),)]
    assert not rig.machine.cancels and rig.take() == []


def test_a_task_that_is_not_here_yet_is_remembered_until_the_queue_is_empty(rig):
    rig.tell(CancelTask(task_id(1), 0, False))
    assert rig.machine.cancels == {(task_id(1), 0): True}
    push(rig, 1)
    rig.machine.pause()
    assert rig.machine.cancels, "it waits: it is looked at before its call"
    rig.run()
    rig.machine.pause()
    assert not rig.machine.cancels


def test_what_is_remembered_is_bounded(rig):
    for n in range(CANCELS_KEPT + 10):
        rig.tell(CancelTask(task_id(n), 0, False))
    assert len(rig.machine.cancels) == CANCELS_KEPT and (task_id(0), 0) not in rig.machine.cancels


def test_an_item_of_a_running_chunk_is_marked_and_not_remembered(rig):
    rig.tell(PushMap(1, 1, task_id(1), 0, b"f", 6, b"", False))
    _, _, chunk = rig.machine.start()
    rig.tell(CancelTask(task_id(4), 0, False))
    assert chunk.cancelled == {3} and not rig.machine.cancels


# ---------------------------------------------------------------- an actor's calls


def test_a_repeated_call_is_answered_from_what_is_kept(rig):
    rig.become()
    push_calls(rig, 1, *calls(1, 2))
    rig.run(b"a")
    rig.run(b"b")
    rig.machine.pause()
    assert rig.take() == [CallsDone(ACTOR, 3, [1, b"a", 2, b"b"])]
    push_calls(rig, 2, *calls(2, 3))
    assert rig.take() == [CallsDone(ACTOR, 3, [2, b"b"])] and [n for _, n in rig.machine.queue.queued()] == [3]


def test_large_replies_are_not_kept(rig):
    rig.become()
    push_calls(rig, 1, *calls(1))
    rig.run(bytes(KEPT_BYTES))
    rig.machine.pause()
    rig.take()
    push_calls(rig, 1, *calls(1))
    assert rig.take() == []


def test_calls_of_another_life_are_refused(rig):
    push_calls(rig, 1, *calls(1))
    rig.become()
    push_calls(rig, 1, *calls(1), life=2)
    assert rig.machine.actor.refused == 1 and not rig.machine.queue.entries


def test_calls_start_in_order_as_their_group_has_room(rig):
    rig.become(default=2, io=1)
    push_calls(rig, 1, *calls(1, 2, 3, 4), *calls(5, 6, group="io"))
    running = rig.runner.started
    assert [entry[1] for _, entry in running] == [1, 2, 5]
    group, entry = running[0]
    assert rig.machine.end_call(group, entry, b"one")[1] == 3
    group, entry = running[2]
    assert rig.machine.end_call(group, entry, b"five")[1] == 6
    rig.machine.flush()
    assert rig.take() == [CallsDone(ACTOR, 3, [1, b"one", 5, b"five"])]


def test_a_waiting_call_is_taken_out_and_answered(rig):
    rig.become(default=1)
    push_calls(rig, 1, *calls(1, 2, 3))
    rig.tell(CancelTask(task_id(2), 0, False))
    [message] = rig.take()
    assert message.ends[0] == 2 and message.ends[1][:2] == [FAILED, "cancelled"]
    [(group, entry)] = rig.runner.started
    assert rig.machine.end_call(group, entry, b"")[1] == 3


def test_calls_side_by_side_that_run_long_are_reported_once(rig):
    rig.become(default=3)
    push_calls(rig, 1, *calls(1, 2))
    rig.tick()
    assert not rig.asked("long")
    rig.tick()
    assert rig.asked("long") == [(task_id(1), 0), (task_id(2), 0)]
    rig.tick()
    assert len(rig.asked("long")) == 2 and not rig.runner.timers, "all that run were reported"
    push_calls(rig, 3, *calls(3))
    rig.tick()
    rig.tick()
    assert rig.asked("long")[2:] == [(task_id(3), 0)]


# ---------------------------------------------------------------- generators


def test_a_generator_waits_for_its_consumer(rig):
    task = call(1, b"f", returns=-1, extra={"backpressure": 2})
    production = rig.machine.open_stream(task)
    assert not production.is_ahead(1) and production.is_ahead(2)
    woken = []
    production.wake = lambda: woken.append(1)
    rig.tell(StreamAck(task_id(1), 0, 1))
    rig.tell(StreamAck(task_id(1), 0, 1))
    assert woken == [1] and not production.is_ahead(2)
    rig.machine.close_stream(task)
    rig.tell(StreamAck(task_id(1), 0, 2))
    assert not rig.machine.open_stream(call(2, b"f")).is_ahead(1000)


# ---------------------------------------------------------------- the end


def test_a_worker_whose_objects_others_hold_does_not_go(rig):
    rig.runner.busy = True
    rig.tell(WorkerExit("idle"), NODE)
    assert rig.machine.pause() == WAIT
    rig.runner.busy = False
    rig.tell(WorkerExit("idle"), NODE)
    assert rig.machine.pause() == STOP and rig.machine.stopping == "idle"
    rig.machine.announce_end()
    assert rig.take() == [], "its death says it"


def test_what_was_pushed_runs_before_the_end(rig):
    push(rig, 1)
    rig.tell(WorkerExit(""), NODE)
    assert rig.machine.pause() == RUN
    rig.run(b"a")
    assert rig.machine.pause() == STOP and rig.take() == [done((1, b"a"))]


def test_an_actor_says_that_it_ends_behind_its_replies(rig):
    rig.become()
    rig.machine.actor_up()
    push_calls(rig, 1, *calls(1, 2, 3))
    rig.run(b"a")
    rig.machine.start()
    rig.machine.leave("exit_actor() was called")
    rig.machine.leave("again", 1, True)
    rig.machine.finish(None, 0)
    push_calls(rig, 4, *calls(4))
    assert rig.machine.pause() == STOP
    rig.machine.announce_end()
    assert rig.take() == [ActorUp(ACTOR, 3, b""), CallsDone(ACTOR, 3, [1, b"a"]),
                          ActorExit(ACTOR, 3, "exit_actor() was called", False)]
    rig.tell(WorkerExit(""), NODE)
    assert rig.asked("released") == [()]


def test_an_actor_that_leaves_does_not_wait_for_coroutines_and_one_that_drains_does(rig):
    rig.become(default=1)
    push_calls(rig, 1, *calls(1, 2))
    assert not rig.machine.calls_are_over()
    rig.machine.drain(-15, "it received SIGTERM")
    push_calls(rig, 3, *calls(3))
    assert not rig.machine.calls_are_over() and started(rig) == [1]
    rig.machine.leave("exit_actor() was called", 0)
    assert rig.machine.calls_are_over()


def test_a_worker_becomes_an_actor_once(rig):
    rig.tell(LeaseOpen(3, 1, {}, {}))
    rig.become()
    rig.tell(ActorInit(b"b" * 16, 0, {"class_key": b"k"}, {}), NODE)
    assert rig.machine.actor_to_start is None and rig.machine.actor.id == ACTOR
    push_calls(rig, 1, *calls(1))
    assert [n for _, n in rig.machine.queue.queued()] == [1], "its life has the number of a lease that it served"
