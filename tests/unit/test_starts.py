"""How many workers may be starting at once follows from how fast they start (zray.node.processes.starts,
zray.node.processes.pool)."""

from __future__ import annotations

import pytest

from tests.fakes.room import roomy
from zray.node.effects import Spawn
from zray.node.processes.pool import HANGING_MAX, Kind, WorkerPool
from zray.node.processes.starts import GOOD_START_S, HANGING_S, REFILL_PAUSE_S, WINDOW_MIN, Starts

KIND = Kind.of(1, {})


class StartingHost:
    """A pool on a machine that makes ``rate`` workers ready a second, in order, however many are starting."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.out: list = []
        self.made = self.now = 0
        self.pool = WorkerPool(self.new_id, self.out.append, keep=0, workers_max=4096, idle_s=60.0,
                               room=roomy(), may_retire=lambda worker: True, is_over=lambda job: False)
        self.starting: list[bytes] = []
        self.most = 0

    def new_id(self) -> bytes:
        self.made += 1
        return self.made.to_bytes(28, "big")[::-1]

    def spawned(self) -> None:
        self.starting += [effect.worker[:8] for effect in self.out if isinstance(effect, Spawn)]
        self.out.clear()
        self.most = max(self.most, len(self.starting))

    def start(self, count: int) -> float:
        """How long it takes until ``count`` tokens have a worker."""
        began = self.now
        for token in range(count):
            self.pool.take(KIND, token, self.now)
        self.spawned()
        while self.starting:
            self.now += 1 / self.rate
            self.pool.ready(self.starting.pop(0), "ipc://w", self.now)
            self.pool.check()
            self.spawned()
        return self.now - began


def test_all_that_wait_get_a_worker_and_no_more_start_at_once_than_are_ready_in_time():
    for rate in (5.0, 50.0, 500.0):
        machine = StartingHost(rate)
        seconds = machine.start(600)
        assert machine.made == 600, "nobody is forgotten"
        assert machine.most <= max(WINDOW_MIN, 2 * rate * GOOD_START_S) + 2
        assert abs(seconds - 600 / rate) < 1e-6, "the machine is never without one to start"


def test_a_fast_machine_soon_starts_many_at_once():
    machine = StartingHost(1000.0)
    machine.start(600)
    assert machine.pool.starts.window > 10 * WINDOW_MIN


def test_a_machine_that_has_become_slow_starts_fewer():
    machine = StartingHost(1000.0)
    machine.start(600)
    machine.rate = 10.0
    machine.start(600)
    assert machine.pool.starts.window == WINDOW_MIN


def test_workers_that_hang_while_they_start_do_not_keep_others_from_starting():
    machine = StartingHost(100.0)
    for token in range(2 * WINDOW_MIN):
        machine.pool.take(KIND, token, 0.0)
    machine.spawned()
    assert len(machine.starting) == WINDOW_MIN
    assert machine.pool.next_deadline() == HANGING_S
    machine.pool.tick(HANGING_S)
    machine.spawned()
    machine.pool.check()
    assert len(machine.starting) == 2 * WINDOW_MIN
    machine.pool.tick(HANGING_S + 1)
    assert machine.pool.next_deadline() == 2 * HANGING_S, "then the rest of what waits gets its starts"


def test_a_worker_that_dies_while_it_starts_gives_its_place_up():
    starts = Starts()
    for number in range(WINDOW_MIN):
        starts.begun(bytes([number]), 0.0)
    assert not starts.may_start(0.0)
    starts.over(b"\0")
    assert starts.may_start(REFILL_PAUSE_S)


def test_after_a_full_window_workers_start_by_the_half_or_when_the_pause_is_over():
    starts = Starts()
    for number in range(WINDOW_MIN):
        starts.begun(bytes([number]), 0.0)
    for number in range(WINDOW_MIN // 2):
        assert not starts.may_start(0.0)
        starts.over(bytes([number]))
    for number in range(WINDOW_MIN // 2):
        assert starts.may_start(0.0)
        starts.begun(bytes([100 + number]), 0.0)
    starts.over(bytes([100]))
    assert not starts.may_start(0.0) and starts.next_deadline() == REFILL_PAUSE_S
    starts.tick(REFILL_PAUSE_S)
    assert starts.next_deadline() == HANGING_S, "a pause that is over asks for no tick"
    assert starts.may_start(REFILL_PAUSE_S)


def test_workers_that_hang_do_not_keep_others_from_starting_for_longer_than_the_pause():
    machine = StartingHost(1.0)
    for token in range(WINDOW_MIN + 3):
        machine.pool.take(KIND, token, 0.0)
    machine.spawned()
    machine.pool.ready(machine.starting.pop(0), "ipc://w", 0.0)
    machine.spawned()
    assert machine.made == WINDOW_MIN
    assert machine.pool.next_deadline() == REFILL_PAUSE_S
    machine.pool.tick(REFILL_PAUSE_S)
    machine.spawned()
    assert machine.made == WINDOW_MIN + 2, "one in its place, and one because it was ready in time"


def test_all_workers_that_are_kept_ahead_are_started_however_small_the_window():
    machine = StartingHost(100.0)
    machine.pool.keep = 3 * WINDOW_MIN
    machine.pool.prestart(0.0)
    machine.start(0)
    assert machine.made == 3 * WINDOW_MIN


@pytest.mark.parametrize("kind", [KIND, Kind(1, (("LD_PRELOAD", "x"),), (), 1, True)], ids=["plain", "fresh"])
def test_what_waits_for_a_worker_that_hangs_while_it_starts_gets_another(kind):
    machine = StartingHost(1.0)
    pool = machine.pool
    pool.take(kind, "token", 0.0)
    machine.spawned()
    assert pool.next_deadline() == HANGING_S
    pool.tick(HANGING_S)
    machine.spawned()
    pool.check()
    first, second = machine.starting
    assert [token for token, _ in pool.ready(second, "ipc://2", HANGING_S + 1)] == ["token"]
    assert pool.ready(first, "ipc://1", HANGING_S + 2) == [], "it comes after all, and is idle"
    pool.check()
    pool.died(second, HANGING_S + 3)
    pool.died(first, HANGING_S + 3)
    pool.check()


def test_a_node_on_which_all_starts_hang_starts_few_more():
    machine = StartingHost(1.0)
    machine.pool.take(KIND, "token", 0.0)
    while (now := machine.pool.next_deadline()) is not None:
        machine.pool.tick(now)
        machine.pool.check()
    assert machine.made == 1 + HANGING_MAX
