"""The owner's machines against a net that only records: cases that need a precise order of events."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakes.owner_net import RecordingNet
from zray.base import errors, ids
from zray.base.config import Config
from zray.base.ends import Ends
from zray.owner.calls import ALIVE, DEAD, RESTARTING, ActorCalls
from zray.owner.holding import Holding
from zray.owner.maps import MapBatch
from zray.owner.node_loss import fail_all
from zray.owner.ports import SubmitterPorts
from zray.owner.records import PUSHED, QUEUED, Entry, Function, Task
from zray.owner.references import References
from zray.owner.submitter import Submitter
from zray.wire import messages as m
from zray.wire.messages.leases import UNKNOWN

ME, NODE, WORKER, BORROWER = b"me......", b"node....", b"worker..", b"borrower"
ACTOR = b"a" * 16


def ports(locate: Any = None) -> SubmitterPorts:
    """Those of a process that pickles nothing, runs nothing itself, and retries every exception."""
    return SubmitterPorts(columns=Unused(), retry_matches=lambda wanted, failure: True, locate=locate or Unused(),
                          cancel_inline=Unused())


class Unused:
    """A port that a test does not expect to be used."""

    def __call__(self, *_: Any) -> None:
        raise AssertionError("this port is not expected to be used")

    none = b"none"
    pack_items = pick = pick_later = failure = references = __call__


class Owner:
    """The machines of one process, composed as the Runtime does."""

    def __init__(self) -> None:
        self.net = RecordingNet()
        self.refs = References(ME, self.net, lambda oid, value, escaped: None, Ends())
        self.submitter = Submitter(ME, NODE, 1, self.net, self.refs, Config(), ports())
        self.calls = ActorCalls(NODE, self.net, self.refs, self.submitter)
        self.fn = Function(b"f" * 20, b"", "f")
        self.made = 0

    def task(self, key: Any, retries: int = 0) -> Task:
        self.made += 1
        task = Task(self.made.to_bytes(24, "big"), self.fn, b"", 1, key, retries)
        oid = task.tid + b"\1\0\0\0"
        self.refs.owned[oid] = task.entry = Entry(oid, task)
        return task


def test_references_in_the_last_reply_of_an_actor_that_ended_are_confirmed_to_it():
    """Not to this process itself, whose own values under way may have the same token."""
    owner = Owner()
    link = owner.calls.link_for(ACTOR, "A")
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 0, WORKER, "ipc://worker", {}))
    task = owner.task(None)
    owner.calls.submit(link, task)
    owner.calls.pump()
    kept = owner.refs.own(b"k" * 28)
    token = owner.refs.transits.send(BORROWER, [kept])

    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, DEAD, 0, b"", "", {"kind": "exited"}))
    owner.calls.on_calls_done(WORKER, m.CallsDone(ACTOR, 0, [task.seq, [m.CARRYING, b"value", [], token]]))

    assert task.entry.value == b"value"
    assert token in owner.refs.transits.sent and kept.refs == 2
    assert owner.net.to(WORKER, m.TransitDone) == [m.TransitDone([token])]


@pytest.mark.parametrize("kind", ["task_error", "dependency_lost"])
def test_a_call_that_is_made_again_may_have_kept_a_reference(kind):
    """Its reply carries the failure together with what is still held."""
    owner = Owner()
    link = owner.calls.link_for(ACTOR, "A")
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 0, WORKER, "ipc://worker", {}))
    kept = owner.refs.own(b"k" * 28)
    task = owner.task(None, retries=1)
    task.retry_errors, task.deps, task.pins = True, [], [kept]
    owner.calls.submit(link, task)
    owner.calls.pump()

    lost = {"lost": [[kept.oid, [m.STORED, 0, 1, 1, kept.oid, NODE], "gone"]]}
    reply = [0, [[m.FAILED, kind, lost]], {"held": [[kept.oid, 1]]}]
    owner.calls.on_calls_done(WORKER, m.CallsDone(ACTOR, 0, [task.seq, reply]))

    owner.calls.pump()
    assert [push.calls[0][:2] for push in owner.net.to(WORKER, m.PushCalls)] == [(task.tid, 0), (task.tid, 1)]
    assert kept.holders == {WORKER: 1}
    owner.calls.check()


@pytest.mark.parametrize("kind", ["task_error", "dependency_lost"])
def test_a_call_that_would_be_made_again_fails_when_its_actor_is_dead(kind):
    """The news of the end overtakes the last reply."""
    owner = Owner()
    link = owner.calls.link_for(ACTOR, "A")
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 0, WORKER, "ipc://worker", {}))
    kept = owner.refs.own(b"k" * 28)
    task = owner.task(None, retries=1)
    task.retry_errors, task.deps, task.pins = True, [], [kept]
    owner.calls.submit(link, task)
    owner.calls.pump()
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, DEAD, 0, b"", "", {"kind": "exited"}))
    assert task.entry.value is None

    lost = {"lost": [[kept.oid, [m.STORED, 0, 1, 1, kept.oid, NODE], "gone"]]}
    owner.calls.on_calls_done(WORKER, m.CallsDone(ACTOR, 0, [task.seq, [m.FAILED, kind, lost]]))
    assert task.entry.value[1] == "actor_died" and link.unfinished == 0
    owner.calls.check()


def test_while_an_actor_restarts_calls_without_retries_fail_and_all_others_wait():
    owner = Owner()
    link = owner.calls.link_for(ACTOR, "A")
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 0, WORKER, "ipc://worker", {}))
    running = [owner.task(None, retries) for retries in (0, 1, -1)]
    for task in running:
        owner.calls.submit(link, task)
    owner.calls.pump()
    owner.calls.on_peer_closed(WORKER)
    owner.calls.kill(ACTOR)
    queued = [owner.task(None, retries) for retries in (0, 1)]
    for task in queued:
        owner.calls.submit(link, task)
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, RESTARTING, 1, b"", "", {"reason": "killed"}))
    late = [owner.task(None, retries) for retries in (0, 2)]
    for task in late:
        owner.calls.submit(link, task)
    owner.calls.check()

    failed = [task.entry.value for task in (running[0], queued[0], late[0])]
    assert [value[1] for value in failed] == ["actor_unavailable"] * 3
    for _, kind, detail in failed[1:]:
        assert "The actor is restarting (killed)" in str(errors.from_failure(kind, detail))
    waiting = [running[1], running[2], queued[1], late[1]]
    assert list(link.queue) == waiting and [task.retries for task in waiting] == [0, -1, 1, 2]
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 1, b"worker.2", "ipc://w2", {}))
    [push] = owner.net.to(b"worker.2", m.PushCalls)
    assert [call[0] for call in push.calls] == [task.tid for task in waiting]
    owner.calls.check()


def test_a_call_to_an_actor_that_restarts_does_not_look_at_the_calls_that_wait_already():
    """10,000 calls that were made during a restart took 50 million steps under the lock."""
    owner = Owner()
    link = owner.calls.link_for(ACTOR, "A")
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, RESTARTING, 1, b"", "", {"reason": "killed"}))

    class Unread(deque):
        def __iter__(self):
            raise AssertionError("all waiting calls are read for one more")

    link.queue = Unread()
    for retries in (1, 0, 1):
        owner.calls.submit(link, owner.task(None, retries))
    assert len(link.queue) == 2 and link.unfinished == 2


def test_a_call_that_met_the_end_of_its_actor_says_how_it_ended_even_when_the_next_life_is_up_already():
    owner = Owner()
    link = owner.calls.link_for(ACTOR, "A")
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 0, WORKER, "ipc://worker", {}))
    task = owner.task(None)
    owner.calls.submit(link, task)
    owner.calls.pump()
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, RESTARTING, 1, b"", "", {"reason": "sys.exit(3) was called"}))
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 1, b"worker.2", "ipc://w2", {"pid": 7}))
    owner.calls.on_peer_closed(WORKER)
    assert task.entry.value[1] == "actor_unavailable"
    assert task.entry.value[2]["reason"] == "sys.exit(3) was called"


def test_a_task_that_stands_in_its_queue_twice_is_pushed_once():
    """Taken out for inline execution it stays in the deque as a tombstone; a retry puts it in again."""
    owner = Owner()
    owner.fn.run_ns = 1000  # deep run-ahead
    key = owner.submitter.key_for("key", {}, {}, {}, "f")
    task = owner.task(key, retries=3)
    owner.submitter.submit(task)
    assert owner.submitter.take_queued(task)
    owner.submitter.requeue(task, charge=True)
    assert [queued.state for queued in key.queue] == [QUEUED, QUEUED]

    owner.submitter.pump()
    owner.submitter.on_lease_grant(NODE, m.LeaseGrant(key.number, 1, WORKER, "ipc://worker", 7, {}))
    owner.submitter.pump()
    pushed = [task for push in owner.net.to(WORKER, m.PushTasks) for task in push.tasks]
    assert len(pushed) == 1
    owner.submitter.check()


def test_cancelled_tasks_in_the_queue_want_no_lease_and_leave_it():
    owner = Owner()
    key = owner.submitter.key_for("key", {}, {}, {}, "f")
    tasks = [owner.task(key) for _ in range(10)]
    for task in tasks:
        owner.submitter.submit(task)
    owner.submitter.pump()
    for task in tasks[1:]:
        owner.submitter.cancel(task, False, True)
        owner.submitter.check()
    owner.submitter.pump()
    assert list(key.queue) == tasks[:1]
    owner.submitter.cancel(tasks[0], False, True)
    owner.submitter.pump()
    assert [said.want for said in owner.net.to(NODE, m.LeaseWant)] == [10, 1, 0] and not key.queue


def test_cancelled_items_of_a_map_that_wait_for_a_lease_end_at_once():
    owner = Owner()
    key = owner.submitter.key_for("key", {}, {}, {}, "f")
    batch = MapBatch(b"m" * 16, 1, owner.fn, key, range(5), False, 0)
    owner.submitter.maps.submit(batch)
    owner.submitter.pump()
    for index in (2, 0, 4, 3, 3, 1):
        owner.submitter.maps.cancel(batch, index, False)
        assert batch.failures[index][1] == "cancelled" and sum(work.count for work in key.queue) == batch.remaining
        owner.submitter.check()
    owner.submitter.pump()
    assert batch.remaining == 0 and not key.queue and owner.net.to(NODE, m.LeaseWant)[-1].want == 0


def test_a_value_for_a_process_that_has_ended_pins_nothing():
    owner = Owner()
    kept = owner.refs.own(b"k" * 28)
    owner.refs.process_ended(BORROWER)
    owner.refs.transits.send(BORROWER, [kept])
    assert kept.refs == 1 and not owner.refs.transits.sent
    assert not owner.refs.exported()


def test_a_hold_that_a_task_of_a_borrower_took_is_reported_to_the_lender_too():
    """The borrower's own word to the owner may be slower than its reply and the lender's drop."""
    sent = []

    class Wire:
        send = staticmethod(lambda peer, message: sent.append((peer, message)))
        connect = disconnect = staticmethod(lambda *_: None)

    refs = References(b"borrower", Wire(), lambda *_: None, Ends())
    record = refs.restore(b"oid", b"owner---", "")
    refs.announce(b"grandson", [[b"oid", 7]])
    refs.unpin(record)
    assert refs.still_held([record]) == [[b"oid", 7, b"grandson"]]
    lender = References(b"lender--", Wire(), lambda *_: None, Ends())
    lender.restore(b"oid", b"owner---", "")
    lender.announce(b"borrower", refs.still_held([record]))
    assert (b"owner---", m.HoldAdd([[b"oid", 7]], b"grandson", [])) in sent[-1:]


def test_a_notice_whose_grant_never_comes_is_forgotten_in_time():
    submitter = Owner().submitter
    submitter.on_worker_died(NODE, m.WorkerDied(WORKER, 1, 7, 0, 0, UNKNOWN, UNKNOWN, "it ended", ""))
    assert submitter.timed and submitter.deaths.early
    submitter.tick(submitter.next_deadline())
    assert not submitter.deaths.early and submitter.next_deadline() is None


def test_what_was_in_flight_on_a_node_that_died_may_have_run_and_is_charged():
    """Progress marks die with their node: a task that may run once must not run again, the others use up a retry."""
    owner = Owner()
    owner.fn.run_ns = 1000  # deep run-ahead
    key = owner.submitter.key_for("key", {}, {}, {}, "f")
    once, again = owner.task(key), owner.task(key, retries=1)
    for task in (once, again):
        owner.submitter.submit(task)
    owner.submitter.pump()
    owner.submitter.on_lease_grant(NODE, m.LeaseGrant(key.number, 1, WORKER, "", 7, {}))
    owner.submitter.pump()
    assert len([task for push in owner.net.to(WORKER, m.PushTasks) for task in push.tasks]) == 2
    owner.submitter.on_worker_died(NODE, m.WorkerDied(WORKER, 1, 7, 0, 0, UNKNOWN, UNKNOWN, "its node is gone", ""))
    owner.submitter.on_peer_closed(WORKER)
    assert once.entry.value[:2] == [m.FAILED, "worker_crashed"]
    assert (again.state, again.retries, again.attempt) == (QUEUED, 0, 1)
    owner.submitter.check()


def test_a_worker_out_of_reach_that_nobody_calls_dead_is_given_back_so_that_its_resources_come_free():
    """Its node has it alive and in use: without a word from its owner the task would wait for that lease for ever."""
    owner = Owner()
    key = owner.submitter.key_for("key", {}, {}, {}, "f")
    task = owner.task(key, retries=1)
    owner.submitter.submit(task)
    owner.submitter.pump()
    owner.submitter.on_lease_grant(NODE, m.LeaseGrant(key.number, 1, WORKER, "", 7, {}))
    owner.submitter.pump()
    owner.submitter.on_peer_closed(WORKER)
    assert not owner.net.to(NODE, m.LeaseKill), "the node may be about to say that it ended"
    owner.submitter.tick(owner.submitter.next_deadline())
    assert [message.lease for message in owner.net.to(NODE, m.LeaseKill)] == [1]
    assert (task.state, task.retries) == (QUEUED, 0)
    owner.submitter.check()


def lose_its_worker(owner, task, reason, ask):
    """The task runs on a worker, which its node ends."""
    key = task.key
    owner.submitter.submit(task)
    owner.submitter.pump()
    lease = key.granted + 1 + 100 * key.number
    owner.submitter.on_lease_grant(NODE, m.LeaseGrant(key.number, lease, WORKER, "", 7, {}))
    owner.submitter.pump()
    owner.submitter.on_worker_died(NODE, m.WorkerDied(WORKER, lease, 7, 9, 0, 1, 0, reason, "", "", ask))
    owner.submitter.on_peer_closed(WORKER)
    owner.submitter.check()


def test_a_task_whose_worker_ended_to_free_memory_asks_for_more_when_it_runs_again():
    owner = Owner()
    key = owner.submitter.key_for("key", {"CPU": 1}, {"x": "y"}, {"kind": "spread"}, "f")
    task = owner.task(key, retries=3)
    lose_its_worker(owner, task, "out of memory: all of it", {"memory": 70})
    assert (task.state, task.retries) == (QUEUED, 2) and list(task.key.queue) == [task] and not key.queue
    assert (task.key.demand, task.key.env, task.key.strategy) == ({"CPU": 1, "memory": 70}, key.env, key.strategy)
    more = task.key
    assert owner.submitter.key_asking(key, {"memory": 70}) is more, "one key for one demand"
    assert owner.submitter.key_asking(more, {"memory": 60}) is more, "never less than before"
    grouped = owner.submitter.key_for("group", {"CPU": 1}, {}, {"kind": "group", "group": b"g"}, "f")
    assert owner.submitter.key_asking(grouped, {"memory": 70}) is grouped, "its bundle does not grow"


def test_a_task_that_ended_for_memory_for_the_last_time_says_so():
    owner = Owner()
    task = owner.task(owner.submitter.key_for("key", {}, {}, {}, "f"))
    lose_its_worker(owner, task, "out of memory: 15 of 16 GiB were in use", {})
    assert task.entry.value[1] == "oom"
    error = errors.from_failure(*task.entry.value[1:])
    assert isinstance(error, errors.OutOfMemoryError)
    assert "ran out of memory. 15 of 16 GiB were in use" in str(error) and "pid=7" in str(error)


def test_generators_and_maps_that_are_queued_or_run_elsewhere_fail_at_once_when_our_node_is_gone():
    """Without our node no lease is granted any more, and a worker of another node cannot be dialled again."""
    owner = Owner()
    link = owner.calls.link_for(ACTOR, "A")
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 0, b"w-actor.", "ipc://actor", {}))
    key = owner.submitter.key_for("k", {"CPU": 1}, {}, {}, "f")
    running, queued, called = owner.task(key, -1), owner.task(key, -1), owner.task(None, -1)
    streams = [owner.submitter.streams.open(task, 0) for task in (running, queued, called)]
    owner.submitter.submit(running)
    owner.submitter.pump()
    owner.submitter.on_lease_grant(NODE, m.LeaseGrant(key.number, 7, WORKER, "ipc://worker", 5, {}))
    batch = MapBatch(b"p" * 16, 1, owner.fn, key, [1, 2, 3], False, -1)
    owner.submitter.maps.submit(batch)
    owner.submitter.submit(queued)
    owner.calls.submit(link, called)
    owner.calls.pump()
    assert [task.state for task in (running, called)] == [PUSHED] * 2

    owner.submitter.lost = failure = [m.FAILED, "raylet_died", {}]
    fail_all(owner.submitter, owner.calls, failure)
    owner.submitter.pump()
    assert [stream.outcome for stream in streams] == [failure] * 3
    assert batch.remaining == 0 and set(batch.failures) == {0, 1, 2}
    assert not owner.submitter.leases and not link.unfinished
    owner.submitter.check()
    owner.calls.check()


@pytest.mark.parametrize("late", [
    [("PENDING", 0), (ALIVE, 0)], [(RESTARTING, 1), (ALIVE, 1)], [(ALIVE, 0), (RESTARTING, 1)], [("PENDING", 0)]])
def test_states_that_come_late_do_not_begin_a_life_again(late):
    """Rows of the control store come after what the home has said, when the store was slow."""
    owner = Owner()
    link = owner.calls.link_for(ACTOR, "A")
    workers = {0: b"worker.1", 1: b"worker.2"}
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 0, workers[0], "ipc://w1", {}))
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, RESTARTING, 1, b"", "", {}))
    owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 1, workers[1], "ipc://w2", {}))
    for number in (1, 2):
        task = owner.task(None)
        owner.calls.submit(link, task)
        owner.calls.pump()
        assert owner.net.to(workers[1], m.PushCalls)[-1].first == number
        owner.calls.on_calls_done(workers[1], m.CallsDone(ACTOR, 1, [number, b"value"]))
        for state, life in late:
            worker = workers[life] if state == ALIVE else b""
            owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, state, life, worker, "ipc://w", {}))
        assert link.state == ALIVE and link.life == 1


def test_a_new_home_may_start_another_process_in_a_life_that_it_did_not_know_of():
    owner = Owner()
    link = owner.calls.link_for(ACTOR, "A")
    for worker in (b"worker.1", b"worker.2"):
        owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, RESTARTING, 1, b"", "", {}))
        owner.calls.on_actor_state(NODE, m.ActorState(ACTOR, ALIVE, 1, worker, "ipc://w", {}))
        owner.calls.submit(link, owner.task(None))
        owner.calls.pump()
        assert owner.net.to(worker, m.PushCalls)[-1].first == 1
    owner.calls.check()


def test_a_result_of_a_map_that_no_reference_has_is_held_until_the_map_is_dropped():
    """A node that has a copy of it, after the node with the first one has died, asks who holds it."""
    owner, answers = Owner(), []
    owner.submitter.maps.columns = SimpleNamespace(pack_items=lambda items: (b"items", None))
    holding = Holding(owner.refs, SimpleNamespace(ownerless=()), owner.submitter.maps.stored,
                      lambda node, held: answers.append(held), lambda: False)
    key = owner.submitter.key_for("k", {"CPU": 1}, {}, {}, "f")
    batch = MapBatch(b"p" * 16, 1, owner.fn, key, [1, 2, 3], False, 0)
    owner.submitter.maps.submit(batch)
    owner.submitter.pump()
    owner.submitter.on_lease_grant(NODE, m.LeaseGrant(key.number, 7, WORKER, "ipc://worker", 5, {}))
    ((first, chunk),) = owner.submitter.leases[7].inflight.items()
    oid = ids.return_id(batch.task_id(0), 1)
    place = [m.STORED, 0, 1000, 3, oid, NODE]
    owner.submitter.maps.on_map_done(WORKER, m.MapDone(7, first, chunk.count, place, [], 1000))
    for again in (False, True):
        holding.on_ask(NODE, m.AskHeld(NODE, 1, again, [oid], [], []))
    assert [answer.held for answer in answers] == [[oid], [oid]]
    owner.submitter.maps.release(batch)
    holding.on_ask(NODE, m.AskHeld(NODE, 2, False, [oid], [], []))
    assert answers[-1].held == [] and not owner.submitter.maps.stored


@pytest.mark.parametrize("retry_is_done", [False, True])
def test_a_lost_column_of_a_map_does_not_make_items_again_that_raised_in_it(retry_is_done):
    """They run again anyway, or have run: a second run would count twice, and could overtake a newer attempt."""
    owner, pushed = Owner(), []
    owner.submitter.maps.columns = SimpleNamespace(pack_items=lambda items: (pushed.extend(items) or b"", None))
    key = owner.submitter.key_for("k", {"CPU": 1}, {}, {}, "f")
    owner.fn.run_ns = 1000
    batch = MapBatch(b"p" * 16, 1, owner.fn, key, list("abcdef"), False, 3)
    batch.retry_errors = True
    owner.submitter.maps.submit(batch)
    owner.submitter.pump()
    owner.submitter.on_lease_grant(NODE, m.LeaseGrant(key.number, 7, WORKER, "ipc://worker", 5, {}))
    lease = owner.submitter.leases[7]
    places = iter([m.STORED, offset, 1000, 3, b"%d" % offset, NODE] for offset in range(100))
    lost = next(places)

    def answer(value, failures=()):
        first, chunk = next(iter(lease.inflight.items()))
        owner.submitter.maps.on_map_done(WORKER, m.MapDone(7, first, chunk.count, value, list(failures), 1000))

    answer(lost, [[1, [m.FAILED, "task_error", b""]]])
    assert pushed[:3] == ["a", "b", "c"]
    while retry_is_done and batch.remaining:
        answer(next(places))
    assert owner.submitter.maps.column_lost(batch, lost, "its node died") is None
    owner.submitter.pump()
    while lease.inflight:
        answer(next(places))
    assert batch.remaining == 0 and sorted(pushed) == sorted("abcdef" + "abc"), "each of the column once more"
    assert batch.attempts == {0: 1, 1: 1, 2: 1} and not batch.failures
