"""An owner whose tasks follow their producers, and workers that stop anywhere, against a plain recursion.

Hypothesis submits tasks that take each other's results, runs them on two workers, delays replies, hands tasks back,
ends workers and cancels.  Each task must get the value that a loop would have made, or the error of its argument.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.test_owner_followers import ME, NODE, Owner
from zray.base.argument_errors import ARGUMENT
from zray.owner.failures import first_failure
from zray.owner.records import DONE, WAITING, Task
from zray.wire import messages as m
from zray.worker.produced import NOT_PRODUCED, take_arguments
from zray.worker.queue import ServedLease

LEASES = 2
KINDS = ("plain", "plain", "plain", "raises", "flaky", "carries")


class Worker:
    """One worker: what it has not started, what runs, and replies that it has not sent."""

    def __init__(self, lease: int) -> None:
        self.lease = ServedLease(ME, lease)
        self.queue: deque[tuple[int, Any]] = deque()
        self.started = self.finished = 0
        self.running: tuple[int, Any] | None = None


class FollowersModel(RuleBasedStateMachine):
    @initialize(run_ahead=st.sampled_from([2, 4, 256, 256]))
    def begin(self, run_ahead):
        self.owner = Owner(0)
        self.deaths = 0
        self.owner.submitter.run_ahead_max = run_ahead
        self.tasks: list[Task] = []
        self.kinds: dict[bytes, str] = {}
        self.deps: dict[bytes, list[Task]] = {}
        self.ran: dict[tuple[bytes, int], int] = {}
        self.cancelled: set[bytes] = set()
        self.workers: dict[int, Worker] = {}

    # ---- the owner

    @rule(data=st.data(), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
    def submit(self, data, kinds):
        for kind in kinds:
            recent = self.tasks[-4:]
            deps = data.draw(st.lists(st.sampled_from(recent), max_size=3)) if recent else []
            task = self.owner.task(*deps, retries=-1)
            task.retry_errors = kind == "flaky"
            self.tasks.append(task)
            self.kinds[task.tid], self.deps[task.tid] = kind, deps

    @rule()
    def turn(self):
        owner = self.owner
        owner.wanted = owner.granted + (LEASES - len(owner.submitter.leases) if owner.key.queue else 0)
        owner.turn()
        for _, message in self.owner.net.take(m.PushTasks):
            worker = self.workers.setdefault(message.lease, Worker(message.lease))
            worker.queue.extend((message.first + at, list(task)) for at, task in enumerate(message.tasks))
        for peer, message in self.owner.net.take(m.CancelTask):
            self.deliver_cancel(peer, message)

    def deliver_cancel(self, peer, message):
        for worker in self.workers.values():
            for entry in worker.queue if self.owner.worker(worker.lease.number) == peer else ():
                if entry[1][0] == message.task and entry[1][1] == message.attempt:
                    worker.queue.remove(entry)
                    worker.lease.ends += [entry[0], [m.FAILED, "cancelled", {"task": message.task}]]
                    return

    @precondition(lambda self: any(task.state != DONE for task in self.tasks))
    @rule(data=st.data())
    def cancel(self, data):
        task = data.draw(st.sampled_from([task for task in self.tasks if task.state != DONE]))
        self.cancelled.add(task.tid)
        self.owner.submitter.cancel(task, False, False)

    # ---- a worker

    def living(self):
        return [worker for worker in self.workers.values() if worker.lease.number in self.owner.submitter.leases]

    def draw_worker(self, data):
        return data.draw(st.sampled_from(self.living()))

    @precondition(lambda self: self.living())
    @rule(data=st.data(), count=st.integers(1, 6))
    def run(self, data, count):
        worker = self.draw_worker(data)
        for _ in range(count):
            self.end(worker)
            self.start(worker)

    def start(self, worker):
        if worker.queue:
            worker.started, task = worker.running = worker.queue.popleft()
            if "behind" in (task[5] or {}):
                task[5] = {**task[5], "deps": list(task[5]["deps"])}
                if not take_arguments(worker.lease, task):
                    worker.lease.ends += [worker.started, NOT_PRODUCED]
                    worker.finished, worker.running = worker.started, None
                    return
            assert self.ran.setdefault((task[0], task[1]), id(worker)) == id(worker), "an attempt runs twice"
            for value, producer in zip((task[5] or {}).get("deps", ()), self.deps[task[0]], strict=True):
                assert value == self.value(producer.tid), "an argument has another value"

    def end(self, worker):
        if worker.running is not None:
            worker.finished, task = worker.running
            worker.running = None
            worker.lease.ends += [worker.finished, self.result(task[0], task[1])]

    def value(self, tid: bytes) -> bytes:
        return blake2b(tid + b"".join(self.value(dep.tid) for dep in self.deps[tid]), digest_size=8).digest()

    def result(self, tid: bytes, attempt: int) -> Any:
        kind = self.kinds[tid]
        if kind == "raises" or (kind == "flaky" and attempt % 2 == 0):
            return [m.FAILED, "task_error", {}]
        return [m.CARRYING, self.value(tid), [], 0] if kind == "carries" else self.value(tid)

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def flush(self, data):
        self.send(self.draw_worker(data))

    def send(self, worker):
        ends = worker.lease.ends[:]
        if ends:
            worker.lease.keep_sent(ends)
            del worker.lease.ends[:]
            number = worker.lease.number
            self.owner.submitter.on_tasks_done(self.owner.worker(number), m.TasksDone(number, ends, 10_000))

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def hand_back(self, data):
        worker = self.draw_worker(data)
        back = [sequence for sequence, _ in worker.queue]
        worker.queue.clear()
        number = worker.lease.number
        if back:
            self.owner.submitter.on_hand_back(self.owner.worker(number), m.HandBack(number, back))
        self.send(worker)

    @precondition(lambda self: self.living() and self.deaths < 4)
    @rule(data=st.data())
    def die(self, data):
        worker = self.draw_worker(data)
        number = worker.lease.number
        self.deaths += 1
        self.owner.submitter.on_peer_closed(self.owner.worker(number))
        self.owner.submitter.on_worker_died(NODE, m.WorkerDied(
            worker=self.owner.worker(number), lease=number, started=worker.started, finished=worker.finished, pid=1,
            signal=9, exit_code=0, reason="", log_tail="", log_file=""))

    # ---- what must hold

    @invariant()
    def machines_agree(self):
        if hasattr(self, "owner"):
            self.owner.submitter.check()
            assert self.owner.submitter.waiting == sum(task.state == WAITING for task in self.tasks)

    def teardown(self):
        if not hasattr(self, "owner"):
            return
        for _ in range(60 + 10 * len(self.tasks)):
            self.turn()
            for worker in self.living():
                self.end(worker)
                self.start(worker)
                self.end(worker)
                self.send(worker)
            if all(task.state == DONE for task in self.tasks):
                break
        for task in self.tasks:
            self.check_end(task)

    def check_end(self, task):
        value = task.entry.value
        assert value is not None, "a task has not ended"
        if type(value) is bytes:
            assert value == self.value(task.tid)
            return
        producers = [dep.entry for dep in self.deps[task.tid]]
        if value[1] == ARGUMENT:
            assert value[2]["name"] == "f" and value[2]["failure"] == first_failure(producers)
        elif value[1] == "cancelled":
            assert task.tid in self.cancelled
        else:
            assert value[1] == "task_error"
            assert self.kinds[task.tid] == "raises" or task.tid in self.cancelled


FollowersModel.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestFollowers = FollowersModel.TestCase
