"""The WorkerMachine against the obvious: a list of what waits, one of replies for each lease, and what is sent when."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.fakes.worker import Rig, call, task_id
from tests.fakes.worker_machine import ACTOR, MachineRig
from zray.wire.messages import FAILED, Blocked, CallsDone, CancelTask, HandBack, PushCalls, PushTasks, TasksDone
from zray.worker.machine import FLUSH_AFTER_NS, FLUSH_ENDS, RUN, WAIT
from zray.worker.run.results import identity

OWNERS = [b"owner-1-", b"owner-2-"]
REPLIES_MAX = FLUSH_ENDS // 2


class Obvious:
    """What a worker of leases is to do, in the plainest words."""

    def __init__(self) -> None:
        self.waiting: list[tuple[bytes, int, bytes]] = []  # owner, sequence, task
        self.running: tuple[bytes, int, bytes] | None = None
        self.replies: dict[bytes, list[tuple[int, object]]] = {owner: [] for owner in OWNERS}
        self.sent: list[object] = []
        self.looked_at: object = None
        self.depth = 0

    def flush(self) -> None:
        for owner, replies in self.replies.items():
            if replies:
                self.sent.append((owner, "done", tuple(replies)))
                self.replies[owner] = []

    def hand_back(self) -> None:
        for owner in OWNERS:
            back = tuple(sequence for who, sequence, _ in self.waiting if who == owner)
            if back:
                self.sent.append((owner, "back", back))
        self.waiting.clear()
        self.flush()

    def start(self) -> None:
        self.running = self.waiting.pop(0)

    def finish(self, result: object, took_ns: int) -> None:
        owner, sequence, _ = self.running
        self.running = None
        self.replies[owner].append((sequence, result))
        if took_ns > FLUSH_AFTER_NS or len(self.replies[owner]) >= REPLIES_MAX:
            self.flush()

    def cancel(self, task: bytes) -> None:
        for one in self.waiting:
            if one[2] == task:
                self.waiting.remove(one)
                self.replies[one[0]].append((one[1], "cancelled"))
                self.flush()
                return

    def tick(self) -> None:
        if self.running is not None and self.running == self.looked_at:
            self.hand_back()
        self.looked_at = self.running


def plain(peer, message):
    """A message in the words of the model."""
    if isinstance(message, HandBack):
        return peer, "back", tuple(message.sequences)
    if isinstance(message, TasksDone):
        pairs = zip(message.ends[::2], message.ends[1::2], strict=True)
        return peer, "done", tuple((n, "cancelled" if result[0] == FAILED else result) for n, result in pairs)
    assert isinstance(message, Blocked)
    return "blocked", message.blocked


class WorkerModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rig = MachineRig()
        self.model = Obvious()
        self.next = dict.fromkeys(OWNERS, 1)
        self.ids = 0

    @rule(owner=st.sampled_from(OWNERS), n=st.sampled_from([1, 1, 2, 3, 90]), again=st.integers(0, 2))
    def push(self, owner, n, again):
        """``again`` of them were pushed before; what was pushed once is not queued twice."""
        first = max(1, self.next[owner] - again)
        new = range(self.next[owner], self.next[owner] + n)
        old = [call(0, b"f")] * (new[0] - first)
        tasks = [call(self.ids + i, b"f") for i in range(n)]
        self.rig.tell(PushTasks(1, first, old + tasks), owner)
        self.model.waiting += [(owner, sequence, task[0]) for sequence, task in zip(new, tasks, strict=True)]
        self.ids += n
        self.next[owner] += n

    @precondition(lambda self: self.model.running is None and self.model.waiting)
    @rule()
    def start(self):
        self.model.start()
        lease, sequence, task = self.rig.machine.start()
        assert (lease.owner, sequence, task[0]) == self.model.running

    @precondition(lambda self: self.model.running is not None and self.model.depth == 0)
    @rule(took_ns=st.sampled_from([0, FLUSH_AFTER_NS, FLUSH_AFTER_NS + 1]))
    def finish(self, took_ns):
        result = b"%d" % self.model.running[1]
        self.model.finish(result, took_ns)
        self.rig.machine.finish(result, took_ns)

    @precondition(lambda self: self.model.running is None and len(self.model.waiting) > 70)
    @rule()
    def run_many(self):
        while self.model.waiting:
            self.start()
            self.finish(0)

    @rule(n=st.integers(0, 300))
    def cancel(self, n):
        self.model.cancel(task_id(n))
        self.rig.tell(CancelTask(task_id(n), 0, False))

    @precondition(lambda self: self.model.running is not None)
    @rule()
    def block(self):
        self.model.depth += 1
        if self.model.depth == 1:
            self.model.hand_back()
            self.model.sent.append(("blocked", True))
        self.rig.machine.block()

    @precondition(lambda self: self.model.depth)
    @rule()
    def unblock(self):
        self.model.depth -= 1
        if not self.model.depth:
            self.model.sent.append(("blocked", False))
        self.rig.machine.unblock()

    @precondition(lambda self: self.rig.runner.timers)
    @rule()
    def tick(self):
        self.model.tick()
        self.rig.tick()
        if not self.rig.runner.timers:
            self.model.looked_at = None

    @precondition(lambda self: self.model.running is None)
    @rule()
    def pause(self):
        self.model.flush()
        assert self.rig.machine.pause() == (RUN if self.model.waiting else WAIT)

    @invariant()
    def agrees(self):
        sent = [plain(peer, message) for peer, message in self.rig.sent]
        assert sorted(sent, key=repr) == sorted(self.model.sent, key=repr)
        self.rig.sent.clear()
        self.model.sent.clear()
        self.rig.machine.check()
        assert [(lease.owner, sequence) for lease, sequence in self.rig.machine.queue.queued()] == [
            one[:2] for one in self.model.waiting]
        running = self.model.running
        assert bool(self.rig.runner.timers) or running is None and not self.model.waiting, "nobody watches what runs"
        if running is not None:
            assert self.rig.marks[1] == running[1]


WorkerModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestWorker = WorkerModel.TestCase


class SideBySide(RuleBasedStateMachine):
    """Calls of an actor with concurrency groups against one list of calls a group, of which the first ones run."""

    @initialize(sizes=st.tuples(st.integers(1, 3), st.integers(1, 2)))
    def become(self, sizes):
        self.rig = MachineRig()
        self.size = dict(zip(("", "io"), sizes, strict=True))
        self.rig.become(default=sizes[0], io=sizes[1])
        self.calls: dict[str, list[int]] = {"": [], "io": []}  # in their order; those at the front run
        self.started: dict[int, object] = {}
        self.pushed = 0
        self.answered: set[int] = set()
        self.leaving = False

    def take_started(self):
        for group, entry in self.rig.runner.started:
            self.note(group, entry)
        self.rig.runner.started.clear()

    def note(self, group, entry):
        assert entry[1] not in self.started and entry[1] not in self.answered, "it starts twice"
        self.started[entry[1]] = group, entry

    @rule(n=st.integers(1, 4), group=st.sampled_from(["", "io", "unknown"]))
    def push(self, n, group):
        numbers = range(self.pushed + 1, self.pushed + n + 1)
        tasks = [call(i, "method", extra={"group": group} if group else None) for i in numbers]
        self.rig.tell(PushCalls(ACTOR, 3, numbers[0], tasks))
        if not self.leaving:
            self.calls[group if group in self.calls else ""] += numbers
            self.pushed += n
        self.take_started()

    @precondition(lambda self: self.started)
    @rule(data=st.data())
    def end(self, data):
        number = data.draw(st.sampled_from(sorted(self.started)))
        group, entry = self.started.pop(number)
        following = self.rig.machine.end_call(group, entry, b"r")
        self.answered.add(number)
        self.calls[group.name].remove(number)
        if following is not None:
            self.note(group, following)

    @rule(n=st.integers(1, 40))
    def cancel(self, n):
        self.rig.tell(CancelTask(task_id(n), 0, False))
        for waiting in self.calls.values():
            if n in waiting and n not in self.started:
                waiting.remove(n)
                self.answered.add(n)

    @rule()
    def tick(self):
        self.rig.tick()

    @rule(really=st.integers(0, 9))
    def leave(self, really):
        if really == 0:
            self.rig.machine.leave("exit_actor() was called")
            self.leaving = True
            for group in self.calls.values():
                group[:] = [n for n in group if n in self.started]

    @invariant()
    def agrees(self):
        for name, group in self.calls.items():
            assert [n for n in group if n in self.started] == group[:self.size[name]], "the first ones run"
        self.rig.machine.flush()
        for message in self.rig.take(CallsDone):
            self.answered.difference_update(message.ends[::2])
        assert not self.answered, "ended and not answered"
        self.rig.machine.check()
        long = self.rig.asked("long")
        assert len(set(long)) == len(long), "reported twice"
        young = {identity(entry[2]) for _, entry in self.started.values()} - set(long)
        assert self.rig.runner.timers or not young, "nobody watches what runs"


SideBySide.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestSideBySide = SideBySide.TestCase


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=4), failing=st.sets(st.integers(1, 300), max_size=5))
@settings(max_examples=10, deadline=None)
def test_the_hot_loop_of_the_executor_does_what_start_and_finish_do(sizes, failing):
    """Both get the same pushes; what they answer and mark is the same."""
    rig, plain_rig = Rig(), MachineRig()
    try:
        rig.executor.table[b"f"] = (lambda n: n // (n not in failing), "f")
        first = 1
        for lease, size in enumerate(sizes, 1):
            push = PushTasks(lease, 1, [call(first + i, b"f", first + i) for i in range(size)])
            owner = OWNERS[lease % 2]
            rig.rt.tell(push, owner)
            plain_rig.tell(push, owner)
            first += size
        rig.drive()
        while (entry := plain_rig.machine.start()) is not None:
            number = int.from_bytes(entry[2][0][-8:], "little")
            plain_rig.machine.finish([FAILED] if number in failing else number, 0)
        plain_rig.machine.pause()

        slow = set()  # on a busy machine the watch hands back what this test would have run
        for peer, message in rig.rt.sent:
            if isinstance(message, HandBack):
                slow.update((peer, message.lease, sequence) for sequence in message.sequences)
        real, expected = failures(rig.rt.sent), failures(plain_rig.sent)
        assert real == {place: failed for place, failed in expected.items() if place not in slow}
        assert slow or rig.rt.marks.tolist() == plain_rig.marks
    finally:
        rig.close()


def failures(sent):
    """(owner, lease, sequence) of each answer -> whether it is a failure."""
    found = {}
    for peer, message in sent:
        if isinstance(message, TasksDone):
            for sequence, result in zip(message.ends[::2], message.ends[1::2], strict=True):
                assert (peer, message.lease, sequence) not in found, "answered twice"
                found[peer, message.lease, sequence] = type(result) is list and result[0] == FAILED
    return found
