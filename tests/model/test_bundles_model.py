"""NodeScheduler with placement groups against an obvious model: homes, owners, actors, in any order, with repeats.

The model knows by name what each round, bundle and lease holds.  Promises (zray/sched/node/bundles.py, grouped.py): a
round is reserved as a whole or not at all; a round that was returned stays over; resources are conserved and never
oversubscribed, in bundles and outside; a bundle comes back once, when its last lease is gone; a key on any bundle never
gets more leases than it wants; whatever fits is granted.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zray.base.causes import Cause
from zray.sched.node.grouped import NodeScheduler
from zray.sched.node.local import Grant, LocalScheduler, Recall, Status
from zray.wire.messages import BundleAck, BundleReserved

U = 10_000
TOTAL = {"CPU": 4 * U, "GPU": 2 * U, "disk": 3 * U}
BUNDLES = [{"CPU": U}, {"CPU": 2 * U}, {"CPU": U, "GPU": U}, {"GPU": U // 2}, {"disk": 2 * U, "CPU": U // 2},
           {"CPU": 9 * U}]
DEMANDS = [{"CPU": U}, {"CPU": U // 2}, {}, {"GPU": U // 2}, {"CPU": U, "GPU": U}, {"disk": U}]
GROUPS = [bytes([n]) * 18 for n in (1, 2, 3)]
OWNERS = [b"owner-a", b"owner-b"]


def plus(total: dict, more: dict, sign: int = 1) -> dict:
    return {name: total.get(name, 0) + sign * more.get(name, 0) for name in {*total, *more}}


class BundlesMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.scheduler = NodeScheduler(LocalScheduler(TOTAL, gpu_ids=["g0", "g1"]))
        self.now = 0.0
        self.rounds: dict[tuple[bytes, int], dict] = {}  # answered yes: bundles by index, "committed", "closing"
        self.asked: dict[tuple[bytes, int], tuple[list, bool]] = {}  # every reserve sent, so that it can be repeated
        self.waiting: set[tuple[bytes, int]] = set()
        self.over: dict[bytes, int] = {}  # group -> highest attempt returned
        self.attempts = dict.fromkeys(GROUPS, 0)
        self.keys: dict[tuple[bytes, int], tuple[dict, bytes | None, int]] = {}
        self.want: dict[tuple[bytes, int], int] = {}
        self.granted: dict[tuple[bytes, int], int] = {}
        self.requests: dict[int, tuple[dict, bytes | None, int]] = {}
        self.leases: dict[int, dict] = {}  # {"demand", "bundle": (group, index) | None, "who"}
        self.blocked: set[int] = set()
        self.tokens = 0
        self.woken = False

    # ---------------------------------------------------------- homes

    @rule(group=st.sampled_from(GROUPS), bundles=st.lists(st.sampled_from(BUNDLES), min_size=1, max_size=3),
          wait=st.booleans())
    def reserve(self, group, bundles, wait) -> None:
        self.new_round(group, bundles, wait)

    def new_round(self, group, bundles, wait) -> None:
        taken = {i for (g, _), r in self.rounds.items() if g == group for i in r["bundles"]}
        taken |= {i for key in self.waiting if key[0] == group for i, _ in self.asked[key][0]}
        self.attempts[group] += 1
        first = max(taken, default=-1) + 1
        wire = [[first + i, bundle] for i, bundle in enumerate(bundles)]
        self.asked[group, self.attempts[group]] = wire, wait
        self.say_reserve(group, self.attempts[group])

    @rule(group=st.sampled_from(GROUPS), bundles=st.lists(st.sampled_from(BUNDLES[:5]), min_size=1, max_size=3))
    def place(self, group, bundles) -> None:
        self.new_round(group, bundles, False)
        key = group, self.attempts[group]
        if key in self.rounds:
            self.say_commit(key)

    @precondition(lambda self: any(r["committed"] and not r["closing"] for r in self.rounds.values()))
    @rule(data=st.data(), owner=st.sampled_from(OWNERS), key=st.integers(10, 14), want=st.integers(1, 5),
          any_bundle=st.booleans(), actor=st.booleans())
    def work_in_a_bundle(self, data, owner, key, want, any_bundle, actor) -> None:
        group = data.draw(st.sampled_from([g for g in GROUPS if self.in_use(g)]))
        index = data.draw(st.sampled_from(sorted(self.in_use(group))))
        fitting = [d for d in DEMANDS if all(self.in_use(group)[index].get(n, 0) >= v for n, v in d.items())]
        demand, bundle = data.draw(st.sampled_from(fitting)), -1 if any_bundle else index
        if actor:
            self.new_request(demand, group, bundle)
        else:
            self.new_key(owner, key, demand, group, bundle)
            self.scheduler.want(owner, key, want, self.granted[owner, key], self.now)
            if self.want[owner, key] >= 0:
                self.want[owner, key] = want
        self.step_now(0.0)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def a_reserve_comes_again(self, data) -> None:
        self.say_reserve(*data.draw(st.sampled_from(sorted(self.asked))))

    def say_reserve(self, group, attempt) -> None:
        key, (wire, wait) = (group, attempt), self.asked[group, attempt]
        known = self.rounds.get(key)
        before = self.free()
        self.scheduler.bundles.reserve(group, attempt, 1, wire, wait, "pg", self.now)
        answers = self.answers()
        if known is not None and known["closing"] or key in self.waiting:
            assert not answers
            return
        [(_, answer)] = answers
        if known is not None:
            assert answer.ok, "the same answer as before"
            return
        if attempt <= self.over.get(group, 0):
            assert not answer.ok
            return
        if answer.ok:
            need: dict = {}
            for _, bundle in wire:
                need = plus(need, bundle)
            assert all(before.get(name, 0) >= value for name, value in need.items()), "reserved what is not free"
            self.rounds[key] = {"bundles": dict(map(tuple, wire)), "committed": False, "closing": False}

    @precondition(lambda self: self.rounds)
    @rule(data=st.data())
    def commit(self, data) -> None:
        self.say_commit(data.draw(st.sampled_from(sorted(self.rounds))))

    def say_commit(self, key) -> None:
        self.scheduler.commit(*key, self.now)
        [(_, answer)] = self.answers()
        assert answer == BundleAck(*key, "UNKNOWN" if self.rounds[key]["closing"] else "COMMITTED")
        if not self.rounds[key]["closing"]:
            self.rounds[key]["committed"] = True

    @rule(group=st.sampled_from(GROUPS), attempt=st.integers(1, 12))
    def commit_of_what_is_not_here(self, group, attempt) -> None:
        if (group, attempt) not in self.rounds:
            self.scheduler.commit(group, attempt, self.now)
            assert self.answers() == [(group, BundleAck(group, attempt, "UNKNOWN"))]

    @rule(group=st.sampled_from(GROUPS), back=st.integers(0, 3))
    def give_back_a_round(self, group, back) -> None:
        attempt = max(1, self.attempts[group] - back)
        found = self.rounds.get((group, attempt))
        if found is None or not found["committed"]:
            self.returned(group, attempt, False)

    @precondition(lambda self: len(self.rounds) > 2 or len(self.leases) > 4)
    @rule(group=st.sampled_from(GROUPS))
    def remove(self, group) -> None:
        self.end(group)

    def end(self, group) -> None:
        self.returned(group, self.attempts[group], True)
        self.scheduler.group_removed(group)
        for key, (_, named, _) in list(self.keys.items()):
            if named == group:
                self.want[key] = -1  # told that it will get no more
        for token in [token for token, (_, named, _) in self.requests.items() if named == group]:
            del self.requests[token]

    def returned(self, group, attempt, removed) -> None:
        leases = set(self.scheduler.give_back(group, attempt, removed, self.now))
        [(_, answer)] = self.answers()
        assert answer == BundleAck(group, attempt, "REMOVED" if removed else "RETURNED")
        self.over[group] = max(self.over.get(group, 0), attempt)
        expected = set()
        for key in [k for k in self.rounds if k[0] == group and (k[1] == attempt or removed and k[1] <= attempt)]:
            found = self.rounds[key]
            inside = {n for n, lease in self.leases.items()
                      if lease["bundle"] is not None and lease["bundle"] in [(group, i) for i in found["bundles"]]}
            if not found["closing"] and found["committed"]:
                expected |= inside
                found["closing"] = True
            self.closed(key)
        self.waiting -= {k for k in self.waiting if k[0] == group and (k[1] == attempt or removed and k[1] <= attempt)}
        assert leases == expected, "who must end before the bundles are free"

    def closed(self, key) -> None:
        """Bundles of a returned round go with their last lease."""
        found = self.rounds[key]
        busy = {lease["bundle"] for lease in self.leases.values()}
        found["bundles"] = {i: b for i, b in found["bundles"].items() if found["closing"] and (key[0], i) in busy}
        if not found["bundles"]:
            del self.rounds[key]

    # ---------------------------------------------------------- owners and workers

    @rule(owner=st.sampled_from(OWNERS), key=st.integers(1, 6), demand=st.sampled_from(DEMANDS),
          group=st.sampled_from([None, *GROUPS]), bundle=st.integers(-1, 2))
    def declare(self, owner, key, demand, group, bundle) -> None:
        self.new_key(owner, key, demand, group, bundle)

    def new_key(self, owner, key, demand, group, bundle) -> None:
        if (owner, key) not in self.keys:
            strategy = {} if group is None else {"kind": "group", "group": group, "bundle": bundle, "capture": False}
            self.scheduler.declare(owner, 1, key, demand, strategy, "f")
            self.keys[owner, key] = demand, group, bundle
            self.want[owner, key] = self.granted[owner, key] = 0

    @precondition(lambda self: self.keys)
    @rule(data=st.data(), want=st.integers(0, 5), unseen=st.integers(0, 2))
    def say_want(self, data, want, unseen) -> None:
        who = data.draw(st.sampled_from(sorted(self.keys)))
        unseen = min(unseen, self.granted[who])
        self.scheduler.want(*who, want, self.granted[who] - unseen, self.now)
        if self.want[who] >= 0:
            self.want[who] = max(0, want - unseen)

    @rule(demand=st.sampled_from(DEMANDS), group=st.sampled_from([None, *GROUPS]), bundle=st.integers(-1, 2))
    def request(self, demand, group, bundle) -> None:
        self.new_request(demand, group, bundle)

    def new_request(self, demand, group, bundle) -> None:
        self.tokens += 1
        strategy = {} if group is None else {"kind": "group", "group": group, "bundle": bundle, "capture": False}
        self.scheduler.request(self.tokens, 7, demand, strategy, self.now)
        self.requests[self.tokens] = demand, group, bundle

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel_request(self, data) -> None:
        token = data.draw(st.sampled_from(sorted(self.requests)))
        assert self.scheduler.cancel_request(token)
        assert not self.scheduler.cancel_request(token)
        del self.requests[token]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.leases)))
        assert self.scheduler.release(number, self.now)
        assert not self.scheduler.release(number, self.now)
        self.blocked.discard(number)
        del self.leases[number]
        for key in [k for k, found in self.rounds.items() if found["closing"]]:
            self.closed(key)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def block(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.leases)))
        self.scheduler.block(number)
        self.blocked.add(number)

    @precondition(lambda self: self.blocked)
    @rule(data=st.data())
    def unblock(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.blocked)))
        self.scheduler.unblock(number)
        self.blocked.discard(number)
        self.woken = True

    @rule(owner=st.sampled_from(OWNERS))
    def owner_dies(self, owner) -> None:
        held = self.scheduler.drop_owner(owner)
        mine = {n for n, lease in self.leases.items() if lease["who"][0] == owner and not lease.get("orphan")}
        assert sorted(held) == sorted(mine)
        for number in mine:
            self.leases[number]["orphan"] = True
        for who in [who for who in self.keys if who[0] == owner]:
            del self.keys[who], self.want[who], self.granted[who]

    @rule(elapsed=st.sampled_from([0.0, 0.03, 1.0]))
    def step(self, elapsed) -> None:
        self.step_now(elapsed)

    def step_now(self, elapsed) -> None:
        self.now += elapsed
        for effect in self.scheduler.step(self.now):
            self.take(effect)
        for group, answer in self.answers():
            assert type(answer) is BundleReserved
            key = group, answer.attempt
            self.waiting.discard(key)
            if answer.ok:
                self.rounds[key] = {"bundles": dict(map(tuple, self.asked[key][0])), "committed": False,
                                    "closing": False}
            else:
                self.over[group] = max(self.over.get(group, 0), answer.attempt)
        self.everything_that_fits_is_granted()

    def take(self, effect) -> None:
        if isinstance(effect, Recall):
            assert effect.lease in self.leases
            return
        who = (effect.owner, effect.key) if effect.token is None else effect.token
        if isinstance(effect, Status):
            if effect.cause != Cause.GROUP_REMOVED:
                assert who in (self.keys if effect.token is None else self.requests)
            return
        assert isinstance(effect, Grant)
        demand, group, wanted = self.keys[who] if effect.token is None else self.requests.pop(who)
        if effect.token is None:
            assert self.want[who] > 0, "a grant nobody wanted"
            self.want[who] -= 1
            self.granted[who] += 1
        bundle = None
        if group is not None:
            told, index, _ = effect.assigned["group"]
            assert told == group and wanted in (-1, index)
            assert index in self.in_use(group), "a grant in a bundle that is not in use"
            bundle = group, index
        else:
            assert "group" not in effect.assigned
        free = self.free() if bundle is None else self.free_in(bundle)
        assert all(free.get(name, 0) >= value for name, value in demand.items()), "oversubscribed"
        assert effect.lease not in self.leases, "a lease number is used twice"
        self.leases[effect.lease] = {"demand": demand, "bundle": bundle,
                                     "who": who if effect.token is None else (b"", 0)}

    # ---------------------------------------------------------- what the model knows

    def answers(self) -> list:
        answers, self.scheduler.bundles.answers = self.scheduler.bundles.answers, []
        for key in [k for k in self.asked if k in self.scheduler.bundles.rounds and k not in self.rounds]:
            if self.scheduler.bundles.rounds[key] in self.scheduler.root.requests:
                self.waiting.add(key)
        return answers

    def in_use(self, group) -> dict[int, dict]:
        return {i: b for (g, _), r in self.rounds.items() if g == group and r["committed"] and not r["closing"]
                for i, b in r["bundles"].items()}

    def using(self, bundle) -> dict:
        used: dict = {}
        for number, lease in self.leases.items():
            if lease["bundle"] == bundle:
                demand = {n: v for n, v in lease["demand"].items() if not (n == "CPU" and number in self.blocked)}
                used = plus(used, demand)
        return used

    def free(self) -> dict:
        left = plus(TOTAL, self.using(None), -1)
        for found in self.rounds.values():
            for bundle in found["bundles"].values():
                left = plus(left, bundle, -1)
        return left

    def free_in(self, bundle) -> dict:
        return plus(self.in_use(bundle[0])[bundle[1]], self.using(bundle), -1)

    def everything_that_fits_is_granted(self) -> None:
        wants = [self.keys[who] for who, want in self.want.items() if want > 0] + list(self.requests.values())
        for demand, group, wanted in wants:
            if group is None or "GPU" in demand:  # outside, test_local_scheduler_model; fractions may be cut apart
                continue
            for index in self.in_use(group):
                if wanted in (-1, index):
                    scheduler = self.scheduler.bundles.committed[group][index].scheduler
                    free = self.free_in((group, index))
                    fits = all(free.get(name, 0) >= value for name, value in demand.items())
                    assert not fits or scheduler._saving is not None, "a task waits beside a bundle that has room"

    @invariant()
    def conserved(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.check()
        available = self.scheduler.available()
        assert {name: available.get(name, 0) for name in TOTAL} == {n: self.free().get(n, 0) for n in TOTAL}
        assert set(self.scheduler.leases) == set(self.leases)
        gpus = [0, 0]
        for lease in self.scheduler.root.leases.values():
            for position, share in lease.gpus:
                gpus[position] += share
        assert all(share <= U for share in gpus)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for group in GROUPS:
            self.end(group)
        for number in list(self.leases):
            self.scheduler.release(number, self.now)
        self.leases.clear()
        for owner in OWNERS:
            self.scheduler.drop_owner(owner)
        assert self.scheduler.available() == TOTAL, "something is not returned"
        assert not self.scheduler.bundles.rounds
        self.scheduler.check()


TestBundles = BundlesMachine.TestCase
TestBundles.settings = settings(max_examples=60, stateful_step_count=50, deadline=None,
                                suppress_health_check=list(HealthCheck))
