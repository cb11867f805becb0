"""Memory runs out on a node: which worker ends, with which reason, and what its owner is told."""

from __future__ import annotations

import pytest

from tests.fakes.node_machine import CPU, MachineNode, only, spec
from zray.base.config import Config
from zray.base.exits import NODE_OUT_OF_MEMORY, OUT_OF_MEMORY, exit_of
from zray.node.processes.memory import (
    DYING_S,
    IDLE_BYTES_MIN,
    PAUSE_LONGEST_S,
    Candidate,
    MemoryMonitor,
    MemoryPorts,
    MemoryVerdict,
    Reading,
)
from zray.wire import messages as m

MIB, GIB = 1 << 20, 1 << 30
FULL, EMPTY = Reading(GIB, GIB, "a test"), Reading(0, GIB, "a test")


class Monitored:
    """A monitor, and what it ended."""

    def __init__(self, pause_s=0.25, threshold=0.95, enforced=False):
        self.reading, self.others, self.held, self.workers, self.ended, self.charged = EMPTY, [], {}, [], [], {}
        self.monitor = MemoryMonitor(pause_s, threshold, enforced, MemoryPorts(
            lambda: [self.reading, *self.others], lambda pid: self.held.get(pid, 0), lambda: self.workers,
            self.charged.update, lambda: 10 * GIB, self._end))

    def _end(self, verdict):
        self.ended.append(verdict)
        self.workers = [one for one in self.workers if one.worker != verdict.worker]

    def worker(self, number, job=1, again=True, since=0.0, idle=False, allowed=0, held=MIB):
        self.workers.append(Candidate(b"%d" % number, number, job, f"f{number}", idle, again, since, allowed))
        self.held[number] = held

    def pass_time(self, now):
        self.monitor.settle(True, now)
        self.monitor.tick(now)
        self.monitor.check()


# ---------------------------------------------------------------- when it looks


def test_it_looks_only_while_a_worker_runs_something_and_never_when_it_is_off():
    found = Monitored()
    found.monitor.settle(False, 1.0)
    assert found.monitor.next_deadline() is None
    found.monitor.settle(True, 1.0)
    assert found.monitor.next_deadline() == 1.25
    found.monitor.settle(True, 1.2)
    assert found.monitor.next_deadline() == 1.25, "other events do not postpone it"
    found.monitor.settle(False, 1.2)
    assert found.monitor.next_deadline() is None
    off = Monitored(pause_s=0.0)
    off.monitor.settle(True, 1.0)
    assert off.monitor.next_deadline() is None


@pytest.mark.parametrize(("reading", "pause"), [
    (Reading(0, 100 * GIB, ""), PAUSE_LONGEST_S), (Reading(0, GIB, ""), 0.25), (FULL, 0.25)])
def test_it_looks_less_often_while_much_room_is_left(reading, pause):
    found = Monitored()
    found.reading = reading
    found.pass_time(0.0)
    found.pass_time(0.25)
    assert found.monitor.next_deadline() == 0.25 + pause


def test_a_small_limit_with_little_room_is_looked_at_often_though_more_of_a_large_one_is_in_use():
    found = Monitored()
    found.reading, found.others = Reading(100 * GIB, 400 * GIB, "the machine"), [Reading(GIB // 8, GIB, "a group")]
    found.pass_time(0.0)
    found.pass_time(0.25)
    assert found.monitor.next_deadline() == 0.25 + 0.25


# ---------------------------------------------------------------- whom it ends


def test_below_the_threshold_nobody_ends_and_above_one_at_a_time():
    found = Monitored()
    for number in range(3):
        found.worker(number, since=float(number))
    found.reading = Reading(int(0.94 * GIB), GIB, "a test")
    found.pass_time(0.0)
    found.pass_time(1.0)
    assert not found.ended
    found.reading = FULL
    found.pass_time(2.0)
    found.pass_time(2.5)
    assert [verdict.worker for verdict in found.ended] == [b"2"], "its memory is not free yet"
    found.monitor.gone(b"2")
    found.pass_time(3.0)
    assert [verdict.worker for verdict in found.ended] == [b"2", b"1"]
    found.pass_time(3.0 + DYING_S + 0.1)
    assert len(found.ended) == 3, "a process that does not go is not waited for"
    found.pass_time(20.0)
    assert len(found.ended) == 3 == found.monitor.ended, "and no worker is left"


def test_an_idle_worker_that_holds_much_goes_before_work_is_lost():
    found = Monitored()
    found.worker(1)
    found.worker(2, idle=True, held=IDLE_BYTES_MIN - 1)
    found.worker(3, idle=True, held=IDLE_BYTES_MIN)
    found.reading = FULL
    found.pass_time(0.0)
    found.pass_time(1.0)
    [verdict] = found.ended
    assert verdict.worker == b"3" and not verdict.ask


def test_the_reason_says_which_process_how_much_and_why_and_who_else_holds_memory():
    found = Monitored()
    found.worker(1, held=3 * GIB)
    found.worker(2, again=False, since=5.0, held=700 * MIB)
    found.reading = Reading(15 * GIB, 15 * GIB, "limit of the control group /x")
    found.pass_time(0.0)
    found.pass_time(1.0)
    assert found.ended == [MemoryVerdict(b"1", (
        "out of memory: 15.0 GiB of 15.0 GiB were in use (limit of the control group /x), more than the 95% of "
        "memory_share_max. This process (pid 1) held 3.0 GiB; it was the youngest whose work may run again. "
        "Others: pid 2 (f2) 700 MiB"), int(4.5 * GIB))]
    assert found.charged == {b"2": 700 * MIB}


def test_its_task_asks_for_no_more_than_the_node_has():
    found = Monitored()
    found.worker(1, held=9 * GIB)
    found.reading = FULL
    found.pass_time(0.0)
    found.pass_time(1.0)
    assert found.ended[0].ask == 10 * GIB


def test_a_worker_above_its_own_limit_ends_only_when_limits_are_enforced():
    for enforced in (False, True):
        found = Monitored(enforced=enforced)
        found.worker(1, allowed=100 * MIB, held=101 * MIB)
        found.worker(2, allowed=100 * MIB, held=100 * MIB)
        found.worker(3, held=10 * GIB)
        found.pass_time(0.0)
        found.pass_time(1.0)
        assert [verdict.worker for verdict in found.ended] == [b"1"] * enforced
    assert "it held 101 MiB, and its memory= allows 100 MiB" in found.ended[0].reason and not found.ended[0].ask
    found.reading = FULL
    found.worker(4, allowed=100 * MIB, held=101 * MIB, since=9.0)
    found.pass_time(2.0)
    assert [verdict.worker for verdict in found.ended] == [b"1", b"4", b"3"], "none is chosen twice"


# ---------------------------------------------------------------- on a node


def out_of_memory(node):
    """Memory runs out, and the monitor looks; returns what was sent."""
    node.memory = FULL
    node.now += PAUSE_LONGEST_S
    node.machine.tick(node.now)
    return node.take()


def test_a_leased_worker_is_killed_and_its_owner_hears_why_and_how_much_to_ask_for():
    node = MachineNode(memory_monitor_s=0.25)
    node.driver()
    node.want()
    [grant] = only(node.bring_up(), m.LeaseGrant)
    node.held[grant.pid] = 100 * MIB
    out_of_memory(node)
    assert node.killed == [grant.worker]
    [died] = only(node.die(grant.worker, signal=9), m.WorkerDied)
    assert died.reason.startswith(f"{OUT_OF_MEMORY}: ") and f"(pid {grant.pid}) held 100 MiB" in died.reason
    assert died.ask == {"memory": 192 * MIB * 10_000}
    assert node.machine.ended_workers.rows[-1]["exit_type"] == NODE_OUT_OF_MEMORY
    assert node.machine.counts["memory_ends"] == 1


def test_work_that_may_not_run_again_is_spared():
    node = MachineNode(memory_monitor_s=0.25)
    node.driver()
    node.want(key=1)
    first, = only(node.bring_up(), m.LeaseGrant)
    node.now += 1.0
    second, = only([*node.want(key=2, strategy={"once": True}), *node.bring_up()], m.LeaseGrant)
    out_of_memory(node)
    assert node.killed == [first.worker] != [second.worker]


def test_an_actor_without_restarts_is_spared_and_one_with_restarts_is_not():
    node = MachineNode(cpus=3, memory_monitor_s=0.25)
    node.driver()
    for number, restarts in enumerate((1, 0, 0)):
        actor = b"%d" % number * 16
        node.say(b"driver00", m.CreateActor(actor, spec(max_restarts=restarts), number + 1))
        node.bring_up()
        node.now += 1.0
    out_of_memory(node)
    [killed] = node.killed
    assert node.machine.actors.actors[b"0" * 16].worker == killed


def test_those_that_stay_are_charged_for_what_they_hold_so_that_what_ended_waits_for_it():
    node = MachineNode(memory_monitor_s=0.25)
    node.driver()
    node.want(key=1)
    stays, = only(node.bring_up(), m.LeaseGrant)
    node.now += 1.0
    goes, = only([*node.want(key=2), *node.bring_up()], m.LeaseGrant)
    node.held = {stays.pid: 500 * MIB, goes.pid: 400 * MIB}
    out_of_memory(node)
    assert node.killed == [goes.worker]
    [died] = only(node.die(goes.worker, signal=9), m.WorkerDied)
    assert node.machine.scheduler.available()["memory"] == 512 * MIB * 10_000
    node.memory = EMPTY
    assert not only([*node.want(key=3, demand={**CPU, **died.ask}), *node.bring_up()], m.LeaseGrant), "it waits"
    node.say(b"driver00", m.LeaseReturn(stays.lease, False))
    assert only([*node.sent, *node.bring_up()], m.LeaseGrant)[-1].key == 3
    assert node.machine.scheduler.available()["memory"] == (1024 - 640) * MIB * 10_000


def test_an_idle_node_does_not_wake_up_to_look():
    node = MachineNode(memory_monitor_s=0.25)
    assert node.machine.relief.next_deadline() is None
    node.driver()
    node.want()
    [grant] = only(node.bring_up(), m.LeaseGrant)
    assert node.machine.relief.next_deadline() is not None
    node.say(b"driver00", m.LeaseReturn(grant.lease, False))
    assert node.machine.relief.next_deadline() is None


# ---------------------------------------------------------------- settings and names


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_threshold_is_a_share(share):
    with pytest.raises(ValueError, match=f"memory_share_max takes a share.*{share}"):
        Config(memory_share_max=share)


def test_the_exit_of_the_worker_has_the_name_of_ray_and_the_reason():
    assert exit_of(f"{OUT_OF_MEMORY}: all of it", 9, 0) == (
        NODE_OUT_OF_MEMORY, "The node killed the worker because the node ran out of memory: all of it.")


