"""LocalScheduler against an obvious model: owners, actors, blocked workers, in any order.

The model knows, by name, what each lease uses; the rules below are the promises of zray/sched/node/local.py: resources
are conserved and never oversubscribed except by a worker that woke up, whatever fits is granted unless somebody's share
is being saved up, an infeasible want is told, and once owners return what is recalled everybody gets a turn.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zray.base.causes import Cause
from zray.sched.node.local import Grant, LocalScheduler, Recall, Status

U = 10_000
TOTAL = {"CPU": 4 * U, "GPU": 2 * U, "memory": 10 * U, "disk": 3 * U}
DEMANDS = [
    {"CPU": U}, {"CPU": U // 2}, {"CPU": 4 * U}, {}, {"CPU": U, "GPU": U}, {"GPU": U // 2}, {"GPU": 2 * U},
    {"CPU": U, "memory": 4 * U}, {"disk": 2 * U, "CPU": U}, {"CPU": 5 * U}, {"TPU": U}, {"GPU": 3 * U // 2},
]
FEASIBLE = DEMANDS[:9]
OWNERS = [b"owner-a", b"owner-b", b"owner-c"]


class LocalSchedulerMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.scheduler, self.twin = LocalScheduler(TOTAL), LocalScheduler(TOTAL)
        self.now = 0.0
        self.keys: dict[tuple[bytes, int], dict] = {}
        self.want: dict[tuple[bytes, int], int] = {}
        self.granted: dict[tuple[bytes, int], int] = {}
        self.told: dict = {}
        self.requests: dict[int, dict] = {}
        self.leases: dict[int, dict] = {}  # number -> {"who", "demand", "gpu_ids"}
        self.blocked: set[int] = set()
        self.recalled: set[int] = set()
        self.used_numbers: set[int] = set()
        self.tokens = 0
        self.woken = False  # somebody may have taken CPU that was not free

    def both(self, method: str, *args):
        """The same to a second scheduler: whatever happens, it answers the same."""
        first, second = (getattr(each, method)(*args) for each in (self.scheduler, self.twin))
        assert first == second, "two runs of the same events differ"
        return first

    # ---------------------------------------------------------- events

    @rule(owner=st.sampled_from(OWNERS), key=st.integers(1, 4), demand=st.sampled_from(DEMANDS))
    def declare(self, owner, key, demand) -> None:
        if (owner, key) not in self.keys:
            self.both("declare", owner, OWNERS.index(owner) // 2, key, demand, {})
            self.keys[owner, key] = demand
            self.want[owner, key] = self.granted[owner, key] = 0

    @precondition(lambda self: self.keys)
    @rule(data=st.data(), want=st.integers(0, 6), unseen=st.integers(0, 2))
    def say_want(self, data, want, unseen) -> None:
        who = data.draw(st.sampled_from(sorted(self.keys)))
        unseen = min(unseen, self.granted[who])  # grants on their way count against the want
        self.both("want", *who, want, self.granted[who] - unseen, self.now)
        self.want[who] = want - unseen  # below zero: more are on their way than it wants

    @rule(demand=st.sampled_from(DEMANDS))
    def request(self, demand) -> None:
        self.tokens += 1
        self.both("request", self.tokens, 7, demand, {}, self.now)
        self.requests[self.tokens] = demand

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel_request(self, data) -> None:
        token = data.draw(st.sampled_from(sorted(self.requests)))
        assert self.both("cancel_request", token)
        assert not self.both("cancel_request", token)
        del self.requests[token]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data) -> None:
        self.give_back(data.draw(st.sampled_from(sorted(self.leases))))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def worker_never_came_up(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.leases)))
        lease = self.leases.pop(number)
        self.blocked.discard(number), self.recalled.discard(number)
        self.both("revoke", number, self.now)
        if lease["who"] in self.keys:
            self.granted[lease["who"]] -= 1
            self.want[lease["who"]] += 1
        elif isinstance(lease["who"], int):
            self.requests[lease["who"]] = lease["asked"]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def block(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.leases)))
        self.both("block", number)
        self.blocked.add(number)

    @precondition(lambda self: self.blocked)
    @rule(data=st.data())
    def unblock(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.blocked)))
        self.both("unblock", number)
        self.blocked.discard(number)
        self.woken = True

    @precondition(lambda self: any(isinstance(lease["who"], int) for lease in self.leases.values()))
    @rule(data=st.data(), cpu=st.sampled_from([0, U, 2 * U]))
    def actor_runs(self, data, cpu) -> None:
        number = data.draw(st.sampled_from([n for n, lease in self.leases.items() if isinstance(lease["who"], int)]))
        running = {**self.leases[number]["demand"], "CPU": cpu}
        if self.both("resize", number, running):
            self.leases[number]["demand"] = running

    @rule(owner=st.sampled_from(OWNERS))
    def owner_dies(self, owner) -> None:
        held = self.both("drop_owner", owner)
        mine = [n for n, lease in self.leases.items() if isinstance(lease["who"], tuple) and lease["who"][0] == owner]
        orphans = {n for n in mine if self.leases[n].get("orphan")}
        assert sorted(held) == sorted(set(mine) - orphans)
        for number in mine:
            self.leases[number] |= {"orphan": True, "who": (owner, -1)}
        for who in [who for who in self.keys if who[0] == owner]:
            del self.keys[who], self.want[who], self.granted[who]
            self.told.pop(who, None)

    @rule(elapsed=st.sampled_from([0.0, 0.001, 0.03, 1.0]), room=st.sampled_from([None, None, None, 0, 1, 2]))
    def step(self, elapsed, room) -> None:
        self.now += elapsed
        effects = self.both("step", self.now, room)
        assert room is None or sum(isinstance(effect, Grant) for effect in effects) <= room
        for effect in effects:
            self.take(effect)
        if room is None:
            self.everything_that_fits_is_granted()
            assert self.both("step", self.now) == []

    # ---------------------------------------------------------- what the model makes of it

    def take(self, effect) -> None:
        if isinstance(effect, Grant):
            who = (effect.owner, effect.key) if effect.token is None else effect.token
            demand = self.keys[who] if effect.token is None else self.requests.pop(effect.token)
            assert effect.lease not in self.used_numbers, "lease numbers are never used twice"
            self.used_numbers.add(effect.lease)
            if effect.token is None:
                assert self.want[who] > 0, "a grant nobody wanted"
                self.want[who] -= 1
                self.granted[who] += 1
            for name, value in demand.items():
                assert self.free(name) >= value, f"{name} is oversubscribed"
            gpus = demand.get("GPU", 0)
            assert len(effect.assigned["gpu_ids"]) == -(-gpus // U)
            assert effect.assigned["resources"] == {name: value / U for name, value in demand.items()}
            self.leases[effect.lease] = {"who": who, "demand": demand, "asked": demand,
                                         "gpu_ids": effect.assigned["gpu_ids"]}
        elif isinstance(effect, Recall):
            assert effect.lease not in self.recalled, "a lease is recalled once"
            assert effect.lease not in self.blocked and isinstance(self.leases[effect.lease]["who"], tuple)
            self.recalled.add(effect.lease)
        else:
            assert isinstance(effect, Status)
            demand = self.requests[effect.token] if effect.token is not None else self.keys[effect.owner, effect.key]
            infeasible = demand not in FEASIBLE
            assert effect.cause == (Cause.INFEASIBLE if infeasible else Cause.RESOURCES_BUSY)
            assert effect.detail

    def give_back(self, number: int) -> None:
        assert self.both("release", number, self.now)
        assert not self.both("release", number, self.now), "a second release is harmless"
        del self.leases[number]
        self.blocked.discard(number), self.recalled.discard(number)

    def free(self, name: str) -> int:
        return TOTAL.get(name, 0) - sum(
            lease["demand"].get(name, 0) for number, lease in self.leases.items()
            if not (name == "CPU" and number in self.blocked)
        )

    def fits(self, demand: dict) -> bool:
        if any(value and self.free(name) < value for name, value in demand.items()):
            return False
        need = demand.get("GPU", 0)
        room = [U - sum(self.share(lease) for lease in self.leases.values() if device in lease["gpu_ids"])
                for device in range(2)]
        return need == 0 or (room.count(U) * U >= need if need >= U else max(room) >= need)

    @staticmethod
    def share(lease: dict) -> int:
        return min(U, lease["demand"].get("GPU", 0))

    def waiting(self) -> list[dict]:
        return [self.keys[who] for who, want in self.want.items() if want > 0] + list(self.requests.values())

    def everything_that_fits_is_granted(self) -> None:
        if self.scheduler._saving is None:
            assert not [demand for demand in self.waiting() if demand in FEASIBLE and self.fits(demand)]

    # ---------------------------------------------------------- always

    @invariant()
    def invariants_hold(self) -> None:
        self.scheduler.check()

    @invariant()
    def resources_are_conserved(self) -> None:
        free = self.scheduler.available()
        assert free == {name: self.free(name) for name in TOTAL}
        assert all(value >= 0 for name, value in free.items() if name != "CPU")
        assert free["CPU"] >= 0 or self.woken, "only a worker that wakes up may oversubscribe"

    @invariant()
    def devices_are_not_shared_beyond_one(self) -> None:
        for device in range(2):
            assert sum(self.share(lease) for lease in self.leases.values() if device in lease["gpu_ids"]) <= U

    def teardown(self) -> None:
        """No entry starves: actors end, workers wake up, owners return recalled leases, and every want is met."""
        if not hasattr(self, "scheduler"):
            return
        for number in sorted(self.leases):
            if number in self.blocked:
                self.unblock_for_good(number)
            if isinstance(self.leases[number]["who"], int) or self.leases[number].get("orphan"):
                self.give_back(number)
        for _ in range(400):
            self.now += 0.05
            for effect in self.both("step", self.now):
                self.take(effect)
            self.scheduler.check()
            for number in sorted(self.recalled):
                self.give_back(number)
            for number in [n for n, lease in self.leases.items() if isinstance(lease["who"], int)]:
                self.give_back(number)
            if not [demand for demand in self.waiting() if demand in FEASIBLE]:
                break
            if not self.recalled and self.leases:  # shared fairly as it is: the tasks of the oldest lease end
                self.give_back(min(self.leases))
        assert not [demand for demand in self.waiting() if demand in FEASIBLE], "somebody starves"
        for number in sorted(self.leases):
            self.give_back(number)
        assert self.scheduler.available() == TOTAL, "something leaked"

    def unblock_for_good(self, number: int) -> None:
        self.both("unblock", number)
        self.blocked.discard(number)
        self.woken = True


TestLocalScheduler = LocalSchedulerMachine.TestCase
TestLocalScheduler.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow],
)

if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__]))
