"""Which tasks may run inside the one that waits for them, and how far a chunk of a map is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes.worker import OWNER, call, task_id
from tests.fakes.worker_machine import MachineRig
from zray.owner.records import QUEUED, Entry, Function, Key, Task
from zray.wire.messages import LeaseOpen, PushMap, PushTasks
from zray.worker.queue import QueuedChunk, ServedLease
from zray.worker.run.chunk_progress import ChunkProgress
from zray.worker.run.nesting import DEPTH_MAX, NestedTasks

CPU = {"CPU": 10_000}
GROUP = b"g" * 18


class ScriptedSubmitter:
    """The owner's half: what it lets go of, and gets back."""

    def __init__(self):
        self.inline: list[Task] = []
        self.finished: list[tuple[Task, object]] = []
        self.taken = True

    def take_queued(self, task):
        return self.taken

    def finish(self, task, result, lease):
        self.finished.append((task, result))


@pytest.fixture
def rig():
    """A worker in the middle of a task with one CPU."""
    rig = MachineRig()
    rig.submitter = ScriptedSubmitter()
    rig.nested = NestedTasks(rig.machine, rig.submitter)
    return rig


def run_a_task(rig, assigned=None, env=None, **extra):
    rig.tell(LeaseOpen(1, 1, {"resources": {"CPU": 1.0}, **(assigned or {})}, env or {}))
    rig.tell(PushTasks(1, 1, [call(1, b"f", extra=extra or None)]))
    rig.machine.start()


def missing(demand=CPU, env=None, strategy=None, nret=1, retries=3, state=QUEUED, **fields):
    """An object whose task nobody has started."""
    key = Key(1, demand, env or {}, strategy or {}, "f")
    task = Task(task_id(7), Function(b"f", b"", "f"), b"args", nret, key, retries)
    task.state = state
    for name, value in fields.items():
        setattr(task, name, value)
    return Entry(task_id(7) + b"\1\0\0\0", task)


def test_a_task_of_the_same_kind_may_run_inside(rig):
    run_a_task(rig)
    record = missing()
    assert rig.nested.is_possible() and rig.nested.task_of(record) is record.task


@pytest.mark.parametrize("other", [
    {"demand": {"CPU": 20_000}}, {"demand": {"GPU": 10_000}}, {"env": {"A": "1"}}, {"strategy": {"kind": "spread"}},
    {"nret": 2}, {"retries": 0}, {"state": "pushed"}, {"extra": {"max_calls": 1}}, {"cancelling": "asked"},
    {"stream": SimpleNamespace()}, {"key": None}])
def test_a_task_of_another_kind_needs_a_process_of_its_own(rig, other):
    run_a_task(rig)
    assert rig.nested.task_of(missing(**other)) is None


def test_a_value_that_is_here_needs_no_task(rig):
    run_a_task(rig)
    record = missing()
    record.value = b""
    assert rig.nested.task_of(record) is None and rig.nested.task_of(SimpleNamespace(value=None)) is None


@pytest.mark.parametrize("group, strategy, fits", [
    (None, {}, True), ([GROUP, 0, True], {}, False),
    ([GROUP, 0, True], {"kind": "group", "group": GROUP, "bundle": 0, "capture": True}, True),
    ([GROUP, 0, True], {"kind": "group", "group": GROUP, "bundle": -1, "capture": True}, True),
    ([GROUP, 0, True], {"kind": "group", "group": GROUP, "bundle": 1, "capture": True}, False),
    ([GROUP, 0, True], {"kind": "group", "group": b"h" * 18, "bundle": 0, "capture": True}, False)])
def test_it_runs_in_the_bundle_that_its_parent_was_granted(rig, group, strategy, fits):
    run_a_task(rig, {"group": group} if group else None)
    assert (rig.nested.task_of(missing(strategy=strategy)) is not None) == fits


def test_stacks_that_cannot_be_lent(rig):
    assert not rig.nested.is_possible(), "nothing runs"
    run_a_task(rig, last_attempt=True)
    assert not rig.nested.is_possible(), "a crash of the inner task would end the outer one for good"
    rig.machine.finish(b"", 0)
    rig.tell(PushMap(1, 2, task_id(20), 0, b"f", 2, b"", False))
    rig.machine.start()
    assert not rig.nested.is_possible(), "an item of a map"


def test_a_task_leaves_its_owner_and_comes_back_with_its_result(rig):
    run_a_task(rig)
    task = missing(deps=[SimpleNamespace(value=b"dep")], extra={"slots": [0]}).task
    assert rig.nested.take(task) == [task.tid, 0, b"f", b"args", 1, {"slots": [0], "deps": [b"dep"]}]
    assert rig.submitter.inline == [task]
    rig.nested.finish(task, b"result")
    assert rig.submitter.finished == [(task, b"result")] and not rig.submitter.inline and rig.nested.depth == 0
    rig.submitter.taken = False
    assert rig.nested.take(task) is None and rig.nested.depth == 0, "a worker was faster"


def test_the_depth_is_bounded(rig):
    run_a_task(rig)
    for _ in range(DEPTH_MAX):
        assert rig.nested.is_possible()
        rig.nested.take(missing().task)
    assert not rig.nested.is_possible()


def test_a_chunk_is_answered_in_parts_with_positions_relative_to_each():
    progress = ChunkProgress(ServedLease(OWNER, 4), QueuedChunk(task_id(30), 0, b"f", 10, 5, b"", False))
    assert [progress.task_of(n) for n in (10, 14)] == [task_id(30), task_id(34)]
    progress.results += ["a", "b"]
    progress.fail("bad")
    assert progress.take() == (10, ["a", "b", None], [[2, "bad"]])
    progress.fail("worse")
    progress.results.append("c")
    first, results, failures = progress.take()
    assert (first, results, failures) == (13, [None, "c"], [[0, "worse"]])
    done = progress.done(first, 2, b"column", failures, 1000)
    assert (done.lease, done.first, done.count, done.failures, done.ns_each) == (4, 13, 2, [[0, "worse"]], 500)
