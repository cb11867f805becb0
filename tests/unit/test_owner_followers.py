"""Tasks that are pushed behind their producers: the owner's machines against a net that only records."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.owner_net import RecordingNet
from zray.base.argument_errors import ARGUMENT, UNPRODUCED
from zray.base.config import Config
from zray.base.ends import Ends
from zray.owner.followers import CONSUMERS_SEEN, FOLLOWS_MAX
from zray.owner.ports import SubmitterPorts
from zray.owner.records import DONE, PUSHED, QUEUED, WAITING, Entry, Function, Key, Task
from zray.owner.references import References
from zray.owner.submitter import Submitter
from zray.wire import messages as m

ME, NODE = b"me......", b"node...."
SHORT_NS = 10_000
LEFT_OUT = [m.FAILED, UNPRODUCED, {}]


class Unused:
    """A port that these tests do not use."""

    none = b"none"

    def __call__(self, *_: Any) -> None:
        raise AssertionError("this port is not expected to be used")

    pack_items = pack_call = pick = pick_later = references = failure = __call__


class Owner:
    """A Submitter, and the leases that the test grants it."""

    def __init__(self, leases: int = 1) -> None:
        self.net = RecordingNet()
        self.ends = Ends()
        self.refs = References(ME, self.net, lambda oid, value, escaped: None, self.ends)
        self.submitter = Submitter(ME, NODE, 1, self.net, self.refs, Config(), SubmitterPorts(
            columns=Unused(), retry_matches=lambda wanted, failure: True, locate=Unused(), cancel_inline=Unused()))
        self.fn = Function(b"f" * 20, b"", "f")
        self.fn.run_ns = SHORT_NS
        self.key = self.submitter.key_for("key", {"CPU": 10_000}, {}, {}, "f")
        self.made = 0
        self.wanted = leases
        self.granted = 0

    def task(self, *deps: Task | Entry, retries: int = 3, returns: int = 1, fn: Function | None = None,
             key: Key | None = None, extra: dict[str, Any] | None = None) -> Task:
        """Submit a task with these arguments."""
        self.made += 1
        task = Task(self.made.to_bytes(24, "big"), fn or self.fn, b"args", returns, key or self.key, retries)
        entries = [self.refs.own(task.tid + (index + 1).to_bytes(4, "little"), task) for index in range(returns)]
        task.entry = entries[0] if returns == 1 else entries
        task.extra = extra
        if deps:
            task.deps = [each.entry if type(each) is Task else each for each in deps]
            task.pins = list(task.deps)
            task.extra = {**(extra or {}), "slots": list(range(len(deps)))}
        self.submitter.submit(task)
        return task

    def turn(self) -> None:
        self.submitter.pump()
        while self.granted < self.wanted:
            self.granted += 1
            number = self.granted
            self.submitter.on_lease_grant(NODE, m.LeaseGrant(self.key.number, number, self.worker(number), "ipc://w",
                                                             100 + number, {}))
        self.submitter.pump()
        self.submitter.check()

    @staticmethod
    def worker(lease: int) -> bytes:
        return b"worker%02d" % lease

    def pushes(self, lease: int = 1) -> list[tuple[int, bytes, Any]]:
        """What has been pushed since the last call: (sequence, task, extra)."""
        found = []
        for peer, message in self.net.take(m.PushTasks):
            assert peer == self.worker(message.lease)
            if message.lease == lease:
                found += [(message.first + at, task[0], task[5]) for at, task in enumerate(message.tasks)]
        return found

    def done(self, *ends: Any, lease: int = 1) -> None:
        """Tasks of that lease have ended: ``task, result, task, result, ...``."""
        pairs: list[Any] = []
        for task, result in zip(ends[::2], ends[1::2], strict=True):
            pairs += [task.seq, result]
        self.submitter.on_tasks_done(self.worker(lease), m.TasksDone(lease, pairs, SHORT_NS))
        self.turn()

    def hand_back(self, *tasks: Task, lease: int = 1) -> None:
        self.submitter.on_hand_back(self.worker(lease), m.HandBack(lease, [task.seq for task in tasks]))
        self.turn()

    def dies(self, started: int, finished: int, lease: int = 1) -> None:
        self.submitter.on_peer_closed(self.worker(lease))
        self.submitter.on_worker_died(NODE, m.WorkerDied(
            worker=self.worker(lease), lease=lease, started=started, finished=finished, pid=1, signal=9, exit_code=0,
            reason="", log_tail="", log_file=""))
        self.turn()


@pytest.fixture
def owner():
    return Owner()


def chain(owner: Owner, count: int, **options: Any) -> list[Task]:
    tasks = [owner.task(**options)]
    while len(tasks) < count:
        tasks.append(owner.task(tasks[-1], **options))
    return tasks


def states(tasks: list[Task]) -> list[int]:
    return [task.state for task in tasks]


# ---------------------------------------------------------------- what follows, and where

def test_a_chain_is_pushed_at_once_and_each_link_names_the_one_before(owner):
    tasks = chain(owner, 5)
    owner.turn()
    assert owner.pushes() == [
        (1, tasks[0].tid, None),
        *((at + 1, tasks[at].tid, {"slots": [0], "deps": [None], "behind": [0, at, 0]}) for at in range(1, 5))]
    assert owner.submitter.waiting == 0
    owner.done(*(part for number, task in enumerate(tasks) for part in (task, b"%d" % number)))
    assert [task.entry.value for task in tasks] == [b"0", b"1", b"2", b"3", b"4"]
    assert states(tasks) == [DONE] * 5 and not owner.submitter.leases[1].inflight


def test_a_link_that_is_submitted_later_follows_a_task_that_runs(owner):
    first = owner.task()
    owner.turn()
    owner.pushes()
    second = owner.task(first)
    assert not owner.pushes(), "the turn sends it"
    owner.turn()
    assert owner.pushes() == [(2, second.tid, {"slots": [0], "deps": [None], "behind": [0, 1, 0]})]


def test_an_argument_that_is_ready_goes_along_and_one_of_several_returns_is_named(owner):
    ready = owner.refs.own(b"r" * 28)
    ready.value = b"ready"
    first = owner.task(returns=3)
    second = owner.task(first.entry[2], ready, first.entry[0])
    owner.turn()
    assert owner.pushes()[1] == (2, second.tid, {
        "slots": [0, 1, 2], "deps": [None, b"ready", None], "behind": [0, 1, 2, 2, 1, 0]})


def test_a_task_of_which_all_producers_are_on_the_lease_follows_them(owner):
    left, right = owner.task(), owner.task()
    root = owner.task(left, right)
    owner.turn()
    assert owner.pushes()[2] == (3, root.tid, {"slots": [0, 1], "deps": [None, None], "behind": [0, 1, 0, 1, 2, 0]})


def test_producers_on_two_leases_are_waited_for():
    owner = Owner(2)
    left, right = owner.task(), owner.task()
    root = owner.task(left, right)
    owner.fn.run_ns = None  # so that each lease gets one
    owner.turn()
    owner.fn.run_ns = SHORT_NS
    owner.submitter.followers.offer(root)
    owner.turn()
    assert (left.lease.number, right.lease.number, root.state) == (1, 2, WAITING)
    owner.done(left, b"1")
    owner.done(right, b"2", lease=2)
    assert root.state == PUSHED and not root.missing


def test_one_consumer_of_an_object_follows_while_another_lease_is_idle_and_the_others_spread():
    owner = Owner(2)
    idle = owner.task(), owner.task()
    owner.fn.run_ns = None
    owner.turn()
    owner.fn.run_ns = SHORT_NS
    owner.done(idle[1], b"", lease=2)
    owner.done(idle[0], b"", lease=1)
    first = owner.task()
    consumers = [owner.task(first) for _ in range(4)]
    owner.turn()
    assert states(consumers) == [PUSHED, WAITING, WAITING, WAITING]
    owner.done(first, b"1", lease=first.lease.number)
    assert states(consumers) == [PUSHED] * 4
    assert {task.lease.number for task in consumers} == {1, 2}


def test_one_consumer_of_an_object_follows_also_when_no_lease_is_idle(owner):
    first = owner.task()
    consumers = [owner.task(first) for _ in range(4)]
    last = owner.task(consumers[0])
    owner.turn()
    assert states([*consumers, last]) == [PUSHED, WAITING, WAITING, WAITING, PUSHED]
    owner.done(first, b"1")
    assert states(consumers) == [PUSHED] * 4


def test_chains_side_by_side_follow_when_no_lease_is_idle(owner):
    heads = [owner.task() for _ in range(3)]
    seconds = [owner.task(head) for head in heads]
    thirds = [owner.task(second) for second in seconds]
    owner.turn()
    assert [task for _, task, _ in owner.pushes()] == [task.tid for task in heads + seconds + thirds]


def test_what_waits_in_the_queue_goes_before_tasks_that_need_not_be_the_next():
    owner = Owner()
    owner.submitter.run_ahead_max = 2
    heads = [owner.task() for _ in range(3)]
    second = owner.task(heads[1])
    owner.turn()
    assert states([*heads, second]) == [PUSHED, PUSHED, QUEUED, WAITING]


def test_a_long_chain_is_pushed_in_parts_as_the_run_ahead_allows(owner):
    owner.submitter.run_ahead_max = 8
    tasks = chain(owner, 20)
    owner.turn()
    assert [seq for seq, _, _ in owner.pushes()] == list(range(1, 9))
    for task in tasks[:3]:
        owner.done(task, b"v")
    assert not owner.pushes(), "half of the run-ahead is not used up"
    owner.done(tasks[3], b"v")
    assert [seq for seq, _, _ in owner.pushes()] == list(range(9, 13))
    for task in tasks[4:]:
        owner.done(task, b"v")
    assert states(tasks) == [DONE] * 20


@pytest.mark.parametrize("slow", ["producer", "consumer", "producer not measured", "consumer not measured"])
def test_no_task_follows_when_a_run_time_is_long_or_not_known(owner, slow):
    other = Function(b"g" * 20, b"", "g")
    other.run_ns = None if "not" in slow else owner.submitter.run_ahead_ns
    first = owner.task(fn=other if "producer" in slow else None)
    second = owner.task(first, fn=other if "consumer" in slow else None)
    owner.turn()
    assert states([first, second]) == [PUSHED, WAITING]


@pytest.mark.parametrize("what", ["max_calls", "durability"])
@pytest.mark.parametrize("position", [0, 1])
def test_tasks_that_change_their_worker_or_their_result_are_left_out(owner, what, position):
    first = owner.task(extra={what: 2} if position == 0 else None)
    second = owner.task(first, extra={what: 2} if position == 1 else None)
    owner.turn()
    assert states([first, second]) == [PUSHED, WAITING]


def test_another_scheduling_key_a_failed_and_a_borrowed_argument_are_left_out(owner):
    first = owner.task()
    other = owner.submitter.key_for("other", {"GPU": 10_000}, {}, {}, "f")
    failed = owner.refs.own(b"x" * 28)
    failed.value = [m.FAILED, "task_error", {}]
    borrowed = owner.refs.restore(b"b" * 28, b"another.", "ipc://another")
    waiting = [owner.task(first, key=other), owner.task(first, failed), owner.task(first, borrowed)]
    owner.turn()
    assert states(waiting) == [WAITING] * 3


def test_spread_tasks_are_left_out(owner):
    owner.key = owner.submitter.key_for("spread", {"CPU": 10_000}, {}, {"kind": "spread"}, "f")
    tasks = chain(owner, 2)
    owner.turn()
    assert states(tasks) == [PUSHED, WAITING]


def test_a_task_follows_only_a_lease_that_may_be_fed(owner):
    first = owner.task()
    owner.turn()
    owner.submitter.on_lease_recall(NODE, m.LeaseRecall(1))
    second = owner.task(first)
    owner.turn()
    assert second.state == WAITING


def test_of_a_million_consumers_only_the_first_are_looked_at(owner):
    first = owner.task()
    for _ in range(CONSUMERS_SEEN * 3):
        owner.task(first)
    owner.submitter.followers.pushed(lease := _lease(owner), [first])
    assert len(lease.candidates) == CONSUMERS_SEEN


def _lease(owner: Owner) -> Any:
    owner.turn()
    return owner.submitter.leases[1]


# ---------------------------------------------------------------- what comes back

def test_a_producer_that_raises_fails_its_consumers_as_if_they_had_waited(owner):
    tasks = chain(owner, 3)
    owner.turn()
    owner.done(tasks[0], [m.FAILED, "task_error", {}], tasks[1], LEFT_OUT, tasks[2], LEFT_OUT)
    inner = [m.FAILED, ARGUMENT, {
        "name": "f", "failure": [m.FAILED, "task_error", {}], "levels": 1, "skipped": 0}]
    assert tasks[1].entry.value == inner
    assert tasks[2].entry.value[:2] == [m.FAILED, ARGUMENT] and tasks[2].entry.value[2]["failure"] == inner
    assert owner.submitter.waiting == 0


def test_a_producer_that_is_retried_is_waited_for_and_no_retry_of_the_consumer_is_used_up(owner):
    first = owner.task(retries=2)
    first.retry_errors = True
    second = owner.task(first, retries=0)
    owner.turn()
    owner.pushes()
    owner.done(first, [m.FAILED, "task_error", {}], second, LEFT_OUT)
    assert (first.attempt, first.retries, second.attempt) == (1, 1, 0)
    (seq, tid, _), (_, _, extra) = owner.pushes()
    assert (seq, tid) == (3, first.tid) and extra["behind"] == [0, 3, 0], "the number of the new attempt"
    owner.done(first, b"1", second, b"2")
    assert second.entry.value == b"2"


def test_a_consumer_comes_back_a_bounded_number_of_times(owner):
    first = owner.task(retries=-1)
    first.retry_errors = True
    second = owner.task(first)
    owner.turn()
    for _ in range(FOLLOWS_MAX):
        assert second.state == PUSHED
        owner.done(first, [m.FAILED, "task_error", {}], second, LEFT_OUT)
    assert (first.state, second.state) == (PUSHED, WAITING)
    owner.done(first, b"1")
    assert (second.state, second.missing) == (PUSHED, 0)


def test_values_with_references_come_through_the_owner_and_the_function_is_not_pushed_behind_again(owner):
    first, second = chain(owner, 2)
    owner.turn()
    owner.pushes()
    held = owner.refs.own(b"h" * 28)
    owner.done(first, [m.CARRYING, b"with", [[held.oid, ME, ""]], 0], second, LEFT_OUT)
    assert owner.pushes() == [(3, second.tid, {"slots": [0], "deps": [b"with"]})]
    third = owner.task(second)
    owner.turn()
    assert third.state == WAITING


def test_a_hand_back_makes_consumers_wait_again_and_queues_those_whose_arguments_are_there(owner):
    tasks = chain(owner, 4)
    owner.turn()
    owner.done(tasks[0], b"0")
    owner.hand_back(*tasks[2:])
    assert states(tasks) == [DONE, PUSHED, WAITING, WAITING] and owner.submitter.waiting == 2
    owner.done(tasks[1], b"1")
    assert states(tasks) == [DONE, DONE, PUSHED, PUSHED]
    owner.done(tasks[2], b"2", tasks[3], b"3")
    assert [task.entry.value for task in tasks] == [b"0", b"1", b"2", b"3"]


def test_a_hand_back_after_the_argument_came_queues_the_task(owner):
    first, second = chain(owner, 2)
    owner.turn()
    owner.done(first, b"0")
    owner.pushes()
    owner.hand_back(second)
    assert owner.pushes() == [(3, second.tid, {"slots": [0], "deps": [b"0"]})] and second.retries == 3


@pytest.mark.parametrize("started, finished, charged", [
    (1, 0, [1, 0, 0]),      # the first runs
    (1, 1, [0, 0, 0]),      # it has ended, and its reply is lost
    (2, 1, [0, 1, 0]),      # the second runs
    (3, 2, [0, 0, 1])])
def test_when_the_worker_dies_only_what_ran_is_charged_and_the_others_wait(started, finished, charged):
    owner = Owner()
    tasks = chain(owner, 3)
    owner.turn()
    owner.wanted = 2
    owner.dies(started, finished)
    assert [3 - task.retries for task in tasks] == charged
    assert tasks[0].lease.number == 2 and not tasks[0].missing
    assert [extra["behind"] for _, _, extra in owner.pushes(2)[1:]] == [[0, 1, 0], [0, 2, 0]]
    owner.done(*(part for task in tasks for part in (task, b"v")), lease=2)
    assert states(tasks) == [DONE] * 3


def test_a_reply_that_came_before_the_death_is_the_argument_of_the_next_attempt():
    owner = Owner()
    first, second = chain(owner, 2)
    owner.turn()
    owner.done(first, b"0")
    owner.wanted = 2
    owner.dies(2, 1)
    assert owner.pushes(2) == [(1, second.tid, {"slots": [0], "deps": [b"0"]})]
    assert (first.state, second.retries) == (DONE, 2)


def test_a_producer_that_may_not_run_again_fails_its_consumers_at_the_death():
    owner = Owner()
    tasks = chain(owner, 3, retries=0)
    owner.turn()
    owner.dies(1, 0)
    assert [task.entry.value[1] for task in tasks] == ["worker_crashed", ARGUMENT, ARGUMENT]


# ---------------------------------------------------------------- cancellation

def test_a_consumer_is_cancelled_in_the_queue_of_its_worker(owner):
    tasks = chain(owner, 3)
    owner.turn()
    owner.submitter.cancel(tasks[1], False, False)
    assert owner.net.to(owner.worker(1), m.CancelTask) == [m.CancelTask(tasks[1].tid, 0, False)]
    owner.done(tasks[1], [m.FAILED, "cancelled", {"task": tasks[1].tid}])
    owner.done(tasks[0], b"0", tasks[2], LEFT_OUT)
    assert tasks[0].entry.value == b"0" and tasks[1].entry.value[1] == "cancelled"
    assert tasks[2].entry.value[1] == ARGUMENT


def test_a_consumer_that_is_cancelled_and_not_started_gets_no_further_attempt(owner):
    first, second = chain(owner, 2)
    owner.turn()
    owner.submitter.cancel(second, False, False)
    owner.done(first, [m.FAILED, "task_error", {}], second, LEFT_OUT)
    assert second.entry.value[1] == "cancelled"


def test_a_cancel_by_force_does_not_end_the_worker_while_the_producer_runs(owner):
    first, second = chain(owner, 2)
    owner.turn()
    owner.submitter.cancel(second, True, False)
    assert owner.net.to(owner.worker(1), m.CancelTask) and not owner.net.to(NODE, m.LeaseKill)
    owner.done(first, b"0")
    assert owner.net.to(NODE, m.LeaseKill) == [m.LeaseKill(1, "cancelled by force")], "now it runs"


def test_a_cancel_by_force_spares_the_worker_when_the_answer_comes_with_the_argument(owner):
    first, second = chain(owner, 2)
    owner.turn()
    owner.submitter.cancel(second, True, False)
    owner.done(first, b"0", second, [m.FAILED, "cancelled", {"task": second.tid}])
    assert second.entry.value[1] == "cancelled" and not owner.net.to(NODE, m.LeaseKill)


def test_a_cancelled_producer_fails_its_consumers_and_gets_no_new_ones(owner):
    first, second = chain(owner, 2)
    owner.turn()
    owner.submitter.cancel(first, False, False)
    third = owner.task(first)
    owner.turn()
    assert third.state == WAITING
    owner.done(first, [m.FAILED, "cancelled", {"task": first.tid}], second, LEFT_OUT)
    assert [task.entry.value[1] for task in (first, second, third)] == ["cancelled", ARGUMENT, ARGUMENT]


# ---------------------------------------------------------------- references, and words

def test_the_owner_holds_the_argument_until_its_consumer_has_ended(owner):
    first, second = chain(owner, 2)
    entry = first.entry
    owner.refs.unpin(entry)  # the reference of the program
    owner.turn()
    owner.done(first, b"0")
    assert owner.refs.owned[entry.oid] is entry
    owner.done(second, b"1")
    assert entry.oid not in owner.refs.owned


def test_a_task_behind_its_producer_is_shown_as_waiting_for_its_argument(owner):
    from zray.base.causes import Cause
    from zray.owner.attempt_rows import state_of

    first, second = chain(owner, 2)
    owner.turn()
    cause, about = owner.submitter.explain(second)
    assert (cause, about["missing"]) == (Cause.DEPENDENCY, [first.entry.oid])
    assert state_of(second) == "PENDING_ARGS_AVAIL"
    owner.done(first, b"0")
    assert state_of(second) == "SUBMITTED_TO_WORKER"
