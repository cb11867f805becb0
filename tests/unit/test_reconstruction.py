"""Lost objects at their owner: cases that need a precise order of events, and what the errors say."""

from __future__ import annotations

import pytest

from tests.oracles.lineage_world import NODE, WORKER, LineageWorld
from zray.base import errors
from zray.base.causes import Cause
from zray.owner.calls import ALIVE, DEAD, ActorCalls
from zray.owner.eager_values import EagerValues
from zray.owner.lineage import RECIPE_BYTES
from zray.owner.records import Entry, Function, Task
from zray.wire import messages as m

OWNER, BORROWER, OTHER = b"owner...", b"borrower", b"another."


class LosingOwner(LineageWorld):
    """The world, with what is sent kept."""

    def __init__(self, bytes_max: int = 1 << 30):
        self.sent: list[tuple[bytes, object]] = []
        super().__init__(bytes_max)

    def send(self, peer, message):
        self.sent.append((peer, message))
        super().send(peer, message)

    def to(self, peer, kind):
        return [message for other, message in self.sent if other == peer and type(message) is kind]

    def result(self, retries=3, returns=1, deps=()):
        """A task's results, in the store."""
        entries = self.submit(list(deps), [], True, False, returns, retries)
        self.drain()
        return entries

    def lose(self, entry):
        del self.store[entry.value[3]]
        return entry.value

    def error(self, entry):
        failed = self.read(entry)
        return errors.from_failure(failed[1], failed[2])


def test_many_borrowers_of_a_lost_object_cause_one_reconstruction():
    owner = LosingOwner()
    entry, = owner.result()
    value = owner.lose(entry)
    recon = owner.submitter.reconstruction
    for borrower in (BORROWER, OTHER):
        recon.on_object_lost(borrower, m.ObjectLost(entry.oid, value, "gone"))
    assert not owner.to(BORROWER, m.Resolved)
    owner.drain()
    assert recon.started == 1
    assert owner.to(BORROWER, m.Resolved) == owner.to(OTHER, m.Resolved) == [m.Resolved([entry.oid, entry.value])]
    recon.on_object_lost(OWNER, m.ObjectLost(entry.oid, value, "gone"))  # late: it has been made again
    assert owner.to(OWNER, m.Resolved) == [m.Resolved([entry.oid, entry.value])]
    assert recon.started == 1


def test_a_borrower_tells_the_owner_which_value_is_lost_and_waits_for_another():
    owner = LosingOwner()
    record = owner.refs.restore(b"o" * 28, OWNER, "ipc://owner")
    value = [m.STORED, 64, 100, 1, record.oid, NODE]
    owner.refs.complete(record, value)
    assert owner.submitter.reconstruction.lost(record, value, "gone") is None
    assert record.value is None
    assert owner.to(OWNER, m.ObjectLost) == [m.ObjectLost(record.oid, value, "gone")]
    owner.refs.on_resolved(OWNER, m.Resolved([record.oid, b"again"]))
    assert record.value == b"again" and not owner.refs.unsettled


def test_a_lost_object_whose_owner_died_stays_with_that_error():
    owner = LosingOwner()
    record = owner.refs.restore(b"o" * 28, OWNER, "ipc://owner")
    owner.refs.complete(record, [m.STORED, 64, 100, 1, record.oid, NODE])
    owner.refs.process_ended(OWNER)
    assert owner.submitter.reconstruction.lost(record, record.value, "gone") is None
    assert record.value[1] == "owner_died"


def test_holders_of_an_object_that_is_made_again_are_told_where_it_is_now():
    owner = LosingOwner()
    owner.refs.eager = EagerValues(owner.refs, OWNER, "ipc://owner", 1000)
    entry, = owner.result()
    owner.refs.on_hold_add(BORROWER, m.HoldAdd([[entry.oid, 1]], BORROWER, []))
    owner.refs.flush()
    before = entry.value
    assert owner.submitter.reconstruction.lost(entry, owner.lose(entry), "gone") is None
    owner.drain()
    owner.refs.flush()
    assert [told.values[1] for told in owner.to(BORROWER, m.Resolved)] == [before, entry.value]


def test_an_adopted_object_cannot_be_made_again_and_the_error_says_why():
    owner = LosingOwner()
    entry = owner.refs.own(b"o" * 28)
    owner.refs.complete(entry, [m.STORED, 64, 100, 1, entry.oid, NODE])
    owner.refs.adopted = {entry.oid: b"row"}
    failed = owner.submitter.reconstruction.lost(entry, entry.value, "its node died")
    assert "its first owner died, and only that knew" in str(errors.from_failure(failed[1], failed[2]))


def test_of_several_results_only_the_lost_one_gets_another_value():
    owner = LosingOwner()
    first, second = owner.result(returns=2)
    kept = second.value
    owner.lose(first)
    assert owner.read(first) == owner.expected[first.oid]
    assert second.value == kept
    assert len(owner.store) == 2, "the further copy of the second is freed"


def test_a_reconstruction_can_be_cancelled():
    owner = LosingOwner()
    entry, = owner.result()
    assert owner.submitter.reconstruction.lost(entry, owner.lose(entry), "gone") is None
    owner.submitter.cancel(entry.task, False, False)
    assert entry.value[1] == "cancelled"
    owner.drain()
    owner.submitter.check()
    assert not owner.lineage.recipes and not owner.refs.unsettled


def test_an_object_dropped_while_it_is_made_again_leaves_nothing():
    owner = LosingOwner()
    entry, = owner.result()
    assert owner.submitter.reconstruction.lost(entry, owner.lose(entry), "gone") is None
    owner.refs.unpin(entry)
    owner.drain()
    owner.submitter.check()
    assert not owner.store and not owner.refs.owned and not owner.lineage.traced


def test_the_worker_of_a_reconstruction_dies_and_it_goes_on_elsewhere():
    owner = LosingOwner()
    entry, = owner.result(retries=2)
    assert owner.submitter.reconstruction.lost(entry, owner.lose(entry), "gone") is None
    owner.submitter.pump()
    lease, seq, _ = owner.pushed.pop()
    owner.submitter.on_worker_died(NODE, m.WorkerDied(WORKER, lease, 7, 9, 0, seq, seq - 1, "", ""))
    owner.submitter.on_peer_closed(WORKER)
    assert owner.read(entry) == owner.expected[entry.oid]
    owner.submitter.check()


def test_it_says_that_it_makes_a_lost_object_again():
    owner = LosingOwner()
    entry, = owner.result()
    assert owner.submitter.reconstruction.lost(entry, owner.lose(entry), "gone") is None
    cause, about = owner.submitter.explain(entry.task)
    assert cause is Cause.RECONSTRUCTING and about["detail"].startswith("now ")


def test_a_long_chain_of_freed_inputs_is_remembered_and_made_again():
    owner = LosingOwner()
    entry, = owner.result(retries=-1)
    for _ in range(2000):
        following, = owner.submit([entry], [], True, False, 1, -1)
        owner.refs.unpin(entry)
        entry = following
        owner.drain()
    assert len(owner.store) == 1, "values of freed inputs are freed"
    assert len(owner.lineage.recipes) == 2001
    owner.lose(entry)
    assert owner.read(entry) == owner.expected[entry.oid]
    assert all(made.runs == 2 for made in owner.made.values())
    owner.refs.unpin(entry)
    assert not owner.lineage.recipes and not owner.lineage.bytes and not owner.store


def test_lineage_is_bounded_and_the_error_says_so():
    owner = LosingOwner(RECIPE_BYTES * 10)
    old, *others = [owner.result()[0] for _ in range(20)]
    assert len(owner.lineage.recipes) <= 10 and owner.lineage.bytes <= RECIPE_BYTES * 10
    owner.lose(old)
    error = owner.error(old)
    assert type(error) is errors.ObjectReconstructionFailedLineageEvictedError and "lineage_bytes_max" in str(error)
    owner.lose(others[-1])
    assert owner.read(others[-1]) == owner.expected[others[-1].oid]


@pytest.mark.parametrize("retries, kind, says", [
    (0, errors.ObjectReconstructionFailedError, "max_retries=0"),
    (1, errors.ObjectReconstructionFailedMaxAttemptsExceededError, "as often as max_retries allows"),
])
def test_a_task_is_run_again_as_often_as_its_max_retries_allows(retries, kind, says):
    owner = LosingOwner()
    entry, = owner.result(retries=retries)
    for _ in range(retries):
        owner.lose(entry)
        assert owner.read(entry) == owner.expected[entry.oid]
    owner.lose(entry)
    error = owner.error(entry)
    assert type(error) is kind and says in str(error) and "gone" in str(error)


def test_what_was_put_is_not_made_again_and_neither_is_what_needs_it():
    owner = LosingOwner()
    put = owner.put(stored=True)
    result, = owner.result(deps=[put])
    owner.lose(put)
    assert "put into the store" in str(owner.error(put))
    owner.refs.unpin(put)
    owner.lose(result)
    error = str(owner.error(result))
    assert put.oid.hex() in error and "put into the store" in error


def test_an_input_that_cannot_be_made_again_stays_in_the_store_while_a_result_may_need_it():
    owner = LosingOwner()
    put = owner.put(stored=True)
    once, = owner.result(retries=0, deps=[put])
    result, = owner.result(deps=[put, once])
    inputs = [put.value[3], once.value[3]]
    owner.refs.unpin(put)
    owner.refs.unpin(once)
    assert not owner.freed and set(owner.refs.owned) == {result.oid}
    for _ in range(2):
        owner.lose(result)
        assert owner.read(result) == owner.expected[result.oid]
        assert set(owner.refs.owned) == {result.oid} and not owner.freed.intersection(inputs)
        owner.submitter.check()
    owner.refs.unpin(result)
    assert owner.freed.issuperset(inputs) and not owner.lineage.traced
    owner.submitter.check()


def test_an_unreadable_value_that_cannot_be_made_again_stays_for_other_readers():
    """Perhaps only this reader cannot reach it."""
    owner = LosingOwner()
    put = owner.put(stored=True)
    value = owner.lose(put)
    assert owner.submitter.reconstruction.lost(put, value, "gone")[1] == "reconstruction"
    assert put.value == value


def test_a_queued_task_waits_for_an_argument_that_proves_lost_before_it_is_pushed():
    owner = LosingOwner()
    dep, = owner.result()
    result, = owner.submit([dep], [], True, False, 1, 3)
    assert owner.submitter.reconstruction.lost(dep, owner.lose(dep), "gone") is None
    assert owner.read(result) == owner.expected[result.oid]
    assert owner.made[result.oid[:24]].runs == 1 and not owner.submitter.reconstruction.restarts
    owner.submitter.check()


def test_a_freed_result_is_still_an_input_after_its_task_ran_again_for_another():
    owner = LosingOwner()
    first, second = owner.result(returns=2)
    result, = owner.result(deps=[second])
    owner.refs.unpin(second)
    owner.lose(first)
    assert owner.read(first) == owner.expected[first.oid]
    owner.lose(result)
    assert owner.read(result) == owner.expected[result.oid]
    owner.submitter.check()


def test_a_small_argument_comes_back_with_what_it_refers_to():
    owner = LosingOwner()
    inner, = owner.result()
    box, = owner.submit([], [inner], False, True, 1, 3)
    owner.drain()
    result, = owner.result(deps=[box])
    for entry in (inner, box):
        owner.refs.unpin(entry)
    assert set(owner.refs.owned) == {result.oid} and len(owner.store) == 1
    owner.lose(result)
    assert owner.read(result) == owner.expected[result.oid]
    assert owner.made[inner.oid[:24]].runs == 2 and owner.made[box.oid[:24]].runs == 1
    owner.drain()
    assert set(owner.refs.owned) == {result.oid}
    owner.submitter.check()


def test_a_call_whose_argument_was_lost_is_made_again_when_it_is_there():
    owner = LosingOwner()
    calls = ActorCalls(NODE, owner, owner.refs, owner.submitter)
    link = calls.link_for(b"a" * 16, "A")
    calls.on_actor_state(NODE, m.ActorState(b"a" * 16, ALIVE, 0, OTHER, "ipc://actor", {}))
    dep, = owner.result()
    task = Task(b"c" * 24, Function(b"", b"", "method"), b"", 1, None, 0)
    task.entry = owner.refs.own(b"c" * 24 + b"\1\0\0\0", task)
    task.deps = task.pins = [dep]
    calls.submit(link, task)
    calls.pump()
    lost = [[dep.oid, owner.lose(dep), "gone"]]
    said = [m.FAILED, "dependency_lost", {"oid": dep.oid, "reason": "gone", "lost": lost}]
    calls.on_calls_done(OTHER, m.CallsDone(b"a" * 16, 0, [1, said]))
    calls.pump()
    assert len(owner.to(OTHER, m.PushCalls)) == 1
    owner.drain()
    calls.pump()
    again = owner.to(OTHER, m.PushCalls)[1]
    assert again.calls[0][5]["deps"] == [dep.value]
    calls.on_calls_done(OTHER, m.CallsDone(b"a" * 16, 0, [again.first, b"done"]))
    assert task.entry.value == b"done"
    calls.check()
    owner.submitter.check()


def test_the_result_of_a_call_is_made_again_while_its_actor_lives_and_has_retries():
    owner = LosingOwner()
    calls = ActorCalls(NODE, owner, owner.refs, owner.submitter)
    link = calls.link_for(b"a" * 16, "A")
    calls.on_actor_state(NODE, m.ActorState(b"a" * 16, ALIVE, 0, OTHER, "ipc://actor", {}))
    results = []
    for number, retries in enumerate((1, 0), 1):
        task = Task(b"c" * 23 + bytes([number]), Function(b"", b"", "method"), b"", 1, None, retries)
        task.entry = owner.refs.own(task.tid + b"\1\0\0\0", task)
        owner.expected[task.entry.oid] = b"value"
        calls.submit(link, task)
        calls.pump()
        calls.on_calls_done(OTHER, m.CallsDone(b"a" * 16, 0, [number, owner.wire(task.entry.oid, True)]))
        results.append(task.entry)
    again, once = results
    owner.lose(once)
    assert "max_task_retries=0" in str(owner.error(once))
    assert owner.submitter.reconstruction.lost(again, owner.lose(again), "gone") is None
    calls.pump()
    assert [call[1] for push in owner.to(OTHER, m.PushCalls) for call in push.calls] == [0, 0, 1]
    calls.on_calls_done(OTHER, m.CallsDone(b"a" * 16, 0, [3, owner.wire(again.oid, True)]))
    assert owner.read(again) == b"value"
    owner.lose(again)
    assert type(owner.error(again)) is errors.ObjectReconstructionFailedMaxAttemptsExceededError
    calls.check()
    owner.submitter.check()


@pytest.mark.parametrize("retries", [-1, 3, 0])
def test_the_result_of_a_call_of_an_actor_with_checkpoints_is_not_made_again(retries):
    owner = LosingOwner()
    calls = ActorCalls(NODE, owner, owner.refs, owner.submitter)
    link = calls.link_for(b"a" * 16, "A")
    calls.on_actor_state(NODE, m.ActorState(b"a" * 16, ALIVE, 0, OTHER, "ipc://actor", {"checkpoints": True}))
    task = Task(b"c" * 24, Function(b"", b"", "method"), b"", 1, None, retries)
    task.entry = owner.refs.own(task.tid + b"\1\0\0\0", task)
    owner.expected[task.entry.oid] = b"value"
    calls.submit(link, task)
    calls.pump()
    calls.on_logged_done(OTHER, m.LoggedDone(b"a" * 16, 0, [1, owner.wire(task.entry.oid, True)], [1], []))
    assert owner.read(task.entry) == b"value"
    owner.lose(task.entry)
    assert "each call counts once" in str(owner.error(task.entry))
    calls.pump()
    assert len(owner.to(OTHER, m.PushLogged)) == 1  # its effect is in the state already
    calls.check()
    owner.submitter.check()


def test_the_result_of_a_call_of_a_dead_actor_is_not_made_again():
    owner = LosingOwner()
    calls = ActorCalls(NODE, owner, owner.refs, owner.submitter)
    link = calls.link_for(b"a" * 16, "A")
    calls.on_actor_state(NODE, m.ActorState(b"a" * 16, ALIVE, 0, OTHER, "ipc://actor", {}))
    task = Task(b"c" * 24, Function(b"", b"", "method"), b"", 1, None, -1)
    task.entry = owner.refs.own(task.tid + b"\1\0\0\0", task)
    owner.expected[task.entry.oid] = b"value"
    calls.submit(link, task)
    calls.pump()
    calls.on_calls_done(OTHER, m.CallsDone(b"a" * 16, 0, [1, owner.wire(task.entry.oid, True)]))
    calls.on_actor_state(NODE, m.ActorState(b"a" * 16, DEAD, 0, b"", "", {"kind": "killed"}))
    owner.lose(task.entry)
    assert "the actor is dead" in str(owner.error(task.entry))
    owner.submitter.check()


class GeneratorOwner(LosingOwner):
    """An owner whose worker makes the items of one generator when the test says so."""

    def __init__(self, retries: int):
        super().__init__()
        self.task = Task(b"s" * 24, self.fn, b"", -1, self.key, retries)
        self.stream = self.submitter.streams.open(self.task, 0)
        self.submitter.submit(self.task)
        self.items: dict[int, Entry] = {}
        self.start()

    def start(self) -> None:
        """A worker gets the task."""
        self.submitter.pump()
        if self.pushed and type(self.pushed[0][2]) is m.LeaseGrant:
            self.submitter.on_lease_grant(NODE, self.pushed.pop(0)[2])
        self.lease, self.sequence, _ = self.pushed.pop(0)

    def make(self, *indices: int) -> None:
        for index in indices:
            oid = self.task.tid + index.to_bytes(4, "little")
            self.expected[oid] = b"item %d" % index
            self.submitter.streams.on_item(
                WORKER, m.StreamItem(self.task.tid, self.task.attempt, index, self.wire(oid, True)))
            if (item := self.submitter.streams.take(self.stream)) is not None:
                self.items[index] = item

    def end(self, result=(0, [b""], {})) -> None:
        self.submitter.on_tasks_done(WORKER, m.TasksDone(self.lease, [self.sequence, list(result)], 1))

    def lost(self, index: int) -> object:
        item = self.items[index]
        return self.submitter.reconstruction.lost(item, self.lose(item), "gone")


def test_lost_items_of_an_ended_generator_are_made_again_together():
    owner = GeneratorOwner(1)
    owner.make(1, 2, 3)
    owner.end()
    before = owner.items[2].value
    assert owner.lost(1) is None and owner.lost(3) is None
    owner.start()
    owner.make(1, 2, 3)
    owner.end()
    assert [owner.read(owner.items[index]) for index in (1, 2, 3)] == [b"item 1", b"item 2", b"item 3"]
    assert owner.items[2].value == before and len(owner.store) == 3  # the second item 2 was freed
    owner.lose(owner.items[1])
    assert type(owner.error(owner.items[1])) is errors.ObjectReconstructionFailedMaxAttemptsExceededError
    for item in owner.items.values():
        owner.refs.unpin(item)
    assert not owner.lineage.recipes and len(owner.freed) == 6
    owner.submitter.check()


def test_an_item_that_is_lost_after_its_run_has_passed_it_is_made_by_the_next_run():
    owner = GeneratorOwner(2)
    owner.make(1, 2)
    assert owner.lost(1) is None
    owner.make(3)
    owner.end()
    owner.start()
    owner.make(1)
    assert owner.lost(2) is None  # this run has not come so far
    assert owner.lost(1) is None  # and it has passed this one again
    owner.make(2, 3)
    owner.end()
    assert owner.items[1].value is None
    owner.start()
    owner.make(1, 2, 3)
    owner.end()
    assert [owner.read(owner.items[index]) for index in (1, 2, 3)] == [b"item 1", b"item 2", b"item 3"]
    owner.submitter.check()


def test_lost_items_that_a_further_run_does_not_come_to_get_its_error():
    owner = GeneratorOwner(3)
    owner.make(1, 2, 3)
    owner.end()
    assert owner.lost(1) is None and owner.lost(2) is None and owner.lost(3) is None
    owner.start()
    owner.make(1)
    owner.end([m.FAILED, "task_error", b"error"])
    assert owner.read(owner.items[1]) == b"item 1"
    assert owner.items[2].value == owner.items[3].value == [m.FAILED, "task_error", b"error"]
    assert not owner.refs.unsettled
    owner.submitter.check()


def test_items_of_a_generator_without_retries_say_so():
    owner = GeneratorOwner(0)
    owner.make(1)
    failed = owner.lost(1)
    assert "max_retries=0" in str(errors.from_failure(failed[1], failed[2]))
    owner.end()
    assert "max_retries=0" in str(owner.error(owner.items[1]))
