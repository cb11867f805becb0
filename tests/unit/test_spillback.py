"""Spillback and BottomUpScheduler in short scripts: where wants go, when they move, what owners hear."""

from __future__ import annotations

from itertools import count

import pytest

from zray.base.causes import Cause
from zray.sched.cluster.bottom_up import BottomUpScheduler, SchedulerMessage
from zray.sched.cluster.spillback import GRANTED, LINK_BYTES_S, SPILL_PATIENCE_S
from zray.sched.cluster.spillback_effects import PlaceRequest, RelayToNode, UnplaceRequest
from zray.sched.node.local import Grant, LocalScheduler, Status
from zray.wire import messages as m

U = 10_000
HOME, EAST, WEST = NODES = [letter * 4 + bytes(4) for letter in (b"h", b"e", b"w")]
OWNER = HOME[:4] + b"\x80\0\0\1"
LABELS = {EAST: {"zone": "east"}, WEST: {"zone": "west"}}
CPU = {"CPU": U}


class Home:
    """The scheduler of HOME with two idle neighbours of 2 CPUs, EAST with a GPU; ``told`` gathers effects by kind."""

    def __init__(self, *, alone: bool = False, nodes_of=lambda strategy: None) -> None:
        self.now = 0.0
        self.local = LocalScheduler({"CPU": 2 * U}, node=HOME + bytes(20), next_lease=count((7 << 40) + 1).__next__)
        self.it = BottomUpScheduler(self.local, HOME, seed=1, nodes_of=nodes_of)
        self.it.schedulers = self.it.asker.schedulers = lambda: [HOME]
        self.effects: list = []
        for node in () if alone else (EAST, WEST):
            self.it.node_joined(node, {"CPU": 2 * U} | ({"GPU": U} if node == EAST else {}), LABELS[node], self.now)
        self.step()

    def step(self, elapsed: float = 0.0) -> list:
        """Time passes, timers run when they are due; what came out."""
        out, end = [], self.now + elapsed
        while True:
            out += self.it.step(self.now)
            self.it.check()
            due = self.it.deadline()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
        self.now = end
        self.effects += out
        return out

    def want(self, want: int, demand: dict = CPU, strategy: dict | None = None, key: int = 1, granted: int = 0) -> list:
        self.it.declare(OWNER, 1, key, demand, strategy or {}, "f", {"A": "1"})
        self.it.want(OWNER, key, want, granted, self.now)
        return self.step()

    def shares(self, key: int = 1) -> dict[bytes, int]:
        return {node: share.want for node, share in self.it.spillback.entries[OWNER, key].shares.items() if share.want}

    def use(self, node: bytes, free: int, version: int = 1) -> list:
        """A word of another node."""
        total = {"CPU": 2 * U} | ({"GPU": U} if node == EAST else {})
        self.it.message(node, m.ViewRows([[node, version, 0, 0, {"CPU": free}, [], total, LABELS[node]]]), self.now)
        return self.step()


def wants(effects: list) -> list[tuple[bytes, int]]:
    return [(effect.node, effect.message.want) for effect in effects
            if isinstance(effect, RelayToNode) and isinstance(effect.message, m.LeaseWant)]


def grants(effects: list) -> int:
    return sum(isinstance(effect, Grant) for effect in effects)


def statuses(effects: list) -> list[tuple[int, str]]:
    return [(effect.cause, effect.detail) for effect in effects if isinstance(effect, Status)]


def test_home_first_then_where_it_is_free_and_the_rest_waits_at_home():
    home = Home()
    effects = home.want(7)
    assert grants(effects) == 2 and sorted(wants(effects)) == [(EAST, 2), (WEST, 2)]
    assert home.shares() == {HOME: 1, EAST: 2, WEST: 2}
    keys = [effect.message for effect in effects if isinstance(effect, RelayToNode) and effect.message.CODE == 20]
    assert keys[0] == m.LeaseKey(1, CPU, {"A": "1"}, {"kind": "local"}, "f", 1), "before the first want, once a node"


def test_leases_are_numbered_from_their_base_and_routed_to_their_node():
    home = Home()
    effects = home.want(3)
    assert [effect.lease - (7 << 40) for effect in effects if isinstance(effect, Grant)] == [1, 2]
    assert home.it.granted_elsewhere(WEST, OWNER, 1, 99, home.now)
    spill = home.it.spillback
    assert (spill.node_of_lease(99), spill.node_of_lease((7 << 40) + 1)) == (WEST, HOME)
    assert spill.lease_over(99) == WEST and spill.lease_over(99) is None and spill.lease_over((7 << 40) + 1) is None


def test_what_waits_moves_when_a_node_says_it_has_room():
    home = Home()
    home.use(EAST, 0), home.use(WEST, 0)
    assert wants(home.want(5)) == [] and home.shares() == {HOME: 3}
    home.now += 0.01
    assert wants(home.use(WEST, U, version=2)) == [(WEST, 1)]
    assert home.shares() == {HOME: 2, WEST: 1}


def test_a_node_that_says_busy_loses_the_share_at_once():
    home = Home()
    home.want(4)
    assert home.shares() == {EAST: 2} or home.shares() == {WEST: 2}
    (node,) = home.shares()
    other = ({EAST, WEST} - {node}).pop()
    home.it.status_elsewhere(node, OWNER, 1, Cause.RESOURCES_BUSY, "busy", home.now)
    home.step(0.01)
    assert home.shares() == {other: 2}
    assert home.it.granted_elsewhere(node, OWNER, 1, 98, home.now), "a grant that crossed the withdrawal counts"
    home.step()
    assert sum(home.shares().values()) == 1


def test_a_node_that_does_not_answer_loses_the_share_after_a_while():
    home = Home()
    home.want(4)
    (node,) = home.shares()
    assert wants(home.step(SPILL_PATIENCE_S * 0.9)) == []
    effects = home.step(SPILL_PATIENCE_S)
    assert (node, 0) in wants(effects) and node not in home.shares()


@pytest.mark.parametrize("cause", GRANTED)
def test_a_node_that_prepares_a_worker_keeps_the_share(cause):
    home = Home()
    home.want(3)
    (node,) = home.shares()
    home.it.status_elsewhere(node, OWNER, 1, cause, "", home.now)
    assert (cause, "") in statuses(home.step(10 * SPILL_PATIENCE_S))
    assert home.shares() == {node: 1}


def test_when_the_owner_wants_less_the_others_lose_first():
    home = Home()
    home.want(7)
    effects = home.want(1)
    assert sorted(wants(effects)) == [(EAST, 0), (WEST, 0)] and home.shares() == {}
    home.it.want(OWNER, 1, 3, 2, home.now)
    home.step()
    assert sum(home.shares().values()) == 3


def test_a_dead_node_returns_its_shares_and_names_the_leases_lost():
    home = Home()
    home.want(7)
    home.it.granted_elsewhere(EAST, OWNER, 1, 50, home.now)
    gone = home.it.node_ended(EAST, home.now)
    assert gone.lost == [(OWNER, 1, 50)] and gone.orphans == []
    home.step()
    assert EAST not in home.shares() and sum(home.shares().values()) == 4
    assert not home.it.spillback.leases


def test_a_dead_nodes_owners_leave_their_leases_here():
    home = Home()
    foreign = EAST[:4] + b"\x80\0\0\1"
    home.local.declare(foreign, 1, 1, CPU, {"kind": "local"})
    home.local.want(foreign, 1, 1, 0, home.now)
    (grant,) = home.step()[:1]
    assert home.it.node_ended(EAST, home.now).orphans == [grant.lease]


def test_a_draining_node_keeps_nothing_that_waits():
    home = Home()
    home.want(7)
    home.it.node_draining(EAST, home.now)
    home.step()
    assert EAST not in home.shares()
    home.it.drain(home.now)
    home.step()
    assert HOME not in home.shares(), "home too"
    assert home.shares()[WEST] > 0


def test_an_owner_that_is_gone_leaves_nothing():
    home = Home()
    home.want(7)
    home.it.granted_elsewhere(EAST, OWNER, 1, 50, home.now)
    gone = home.it.drop_owner(OWNER)
    assert sorted(gone.nodes) == [EAST, WEST] and gone.elsewhere == [(EAST, 50)] and len(gone.leases) == 2
    assert not home.it.spillback.lanes and not home.it.spillback.leases
    assert not home.it.granted_elsewhere(WEST, OWNER, 1, 51, home.now), "who grants now is told to take it back"
    home.step(1.0)


def test_a_wish_is_placed_first_and_waits_where_it_is_bound_to():
    home = Home()
    assert home.want(3, CPU, {"kind": "affinity", "node": WEST, "soft": False}) and home.shares() == {WEST: 3}
    assert grants(home.effects) == 0
    home.want(2, CPU, {"kind": "labels", "hard": {"zone": ["in", "east"]}}, key=2)
    assert home.shares(2) == {EAST: 2}
    home.want(2, {"GPU": U}, {}, key=3)
    assert home.shares(3) == {EAST: 2}, "one is placed, one queues where the only GPU is"
    fresh = Home()
    fresh.want(3, {"CPU": U // 10}, {"kind": "spread"})
    assert fresh.shares() == {EAST: 1, WEST: 1} and grants(fresh.effects) == 1


def test_bytes_are_waited_for_as_long_as_moving_them_takes():
    home = Home()
    wish = {"locality": WEST, "bytes": int(0.02 * LINK_BYTES_S)}  # 20 ms
    home.want(5, CPU, wish)
    assert home.shares() == {WEST: 5} and grants(home.effects) == 0
    home.step(0.015)
    home.it.status_elsewhere(WEST, OWNER, 1, Cause.WORKER_STARTING, "", home.now)
    home.it.status_elsewhere(WEST, OWNER, 1, Cause.WORKER_STARTING, "", home.now)
    home.step(0.002)
    assert home.shares() == {WEST: 5}
    home.step(0.02)
    assert grants(home.effects) == 2 and home.shares() == {WEST: 2, EAST: 1}


GROUP = b"g" * 18
IN_GROUP = {"kind": "group", "group": GROUP}


def group_home(where: list) -> Home:
    """A home whose questions go to EAST, and to which the group's nodes are ``where``."""
    home = Home(nodes_of=lambda strategy: list(where) or None)
    home.it.schedulers = home.it.asker.schedulers = lambda: [EAST]
    return home


def questions(effects: list) -> list[m.PlaceAsk]:
    return [effect.message for effect in effects
            if isinstance(effect, SchedulerMessage) and isinstance(effect.message, m.PlaceAsk)]


def test_a_group_is_bound_to_its_nodes_and_waits_for_them():
    where: list = []
    home = Home(nodes_of=lambda strategy: where or None)
    home.want(2, CPU, IN_GROUP)
    assert home.shares() == {} and statuses(home.effects)[0][0] == Cause.GROUP_PENDING
    where.append(EAST)
    home.it.spillback.group_changed(GROUP, home.now)
    home.step()
    assert home.shares() == {EAST: 2}
    (key,) = [effect.message for effect in home.effects
              if isinstance(effect, RelayToNode) and isinstance(effect.message, m.LeaseKey)]
    assert key.strategy == IN_GROUP, "the node must know which bundle"


def test_nobody_is_asked_where_a_group_is_that_has_no_place():
    home = group_home([])
    assert not questions(home.want(2, CPU, IN_GROUP)) and not questions(home.step(5.0))


def test_an_answer_about_the_places_that_a_group_had_before_does_not_count():
    where = [WEST]
    home = group_home(where)
    (before,) = questions(home.want(2, CPU, IN_GROUP))
    where[:] = [EAST]
    home.it.spillback.group_changed(GROUP, home.now)
    (after,) = questions(home.step())
    home.it.message(EAST, m.PlaceAnswer(before.request, [], [], 2, Cause.INFEASIBLE, "not there"), home.now)
    assert (before.strategy["nodes"], after.strategy["nodes"]) == ([WEST], [EAST])
    home.it.message(EAST, m.PlaceAnswer(after.request, [[EAST, 2]], [], 0, 0, ""), home.now)
    home.step()
    assert home.shares() == {EAST: 2}


def test_what_is_wanted_of_a_group_after_a_pause_is_asked_for_again():
    """The group was placed while no entry wanted anything of it."""
    where: list = []
    home = group_home(where)
    home.want(2, CPU, IN_GROUP)
    home.want(0, CPU, IN_GROUP)
    where.append(EAST)
    home.it.spillback.group_changed(GROUP, home.now)
    assert questions(home.want(1, CPU, IN_GROUP))


def test_what_waits_at_a_node_that_has_no_bundle_of_the_group_any_more_moves():
    where = [EAST]
    home = group_home(where)
    (ask,) = questions(home.want(2, CPU, IN_GROUP))
    home.it.message(EAST, m.PlaceAnswer(ask.request, [], [[EAST, 2]], 0, 0, ""), home.now)
    home.step()
    assert home.shares() == {EAST: 2}
    where[:] = [WEST]
    home.it.spillback.group_changed(GROUP, home.now)
    (ask,) = questions(home.step())
    assert home.shares() == {} and ask.strategy["nodes"] == [WEST]


def test_a_scheduler_that_has_not_heard_of_a_node_does_not_say_that_nobody_can_hold_it():
    home = Home()
    home.it.schedulers = home.it.asker.schedulers = lambda: [WEST]
    (ask,) = questions(home.want(1, {"GPU": U}))
    home.it.message(WEST, m.PlaceAnswer(ask.request, [], [], 1, Cause.INFEASIBLE, "nobody has any"), home.now)
    (again,) = questions(home.step(0.04))
    home.it.message(WEST, m.PlaceAnswer(again.request, [[EAST, 1]], [], 0, 0, ""), home.now)
    home.step()
    assert home.shares() == {EAST: 1}


@pytest.mark.parametrize("strategy", [
    {"kind": "affinity", "node": WEST, "soft": True},
    {"kind": "labels", "hard": {}, "soft": {"zone": ["in", "west"]}},
    {"kind": "spread"},
], ids=["affinity", "labels", "spread"])
def test_a_preferred_node_keeps_the_share_while_it_is_slow_to_answer(strategy):
    home = Home()
    home.want(3, CPU, strategy)
    before = home.shares()
    assert before.get(WEST)
    home.step(20 * SPILL_PATIENCE_S)
    assert home.shares() == before


def test_a_preferred_node_that_says_busy_loses_the_share():
    home = Home()
    home.want(1, CPU, {"kind": "labels", "hard": {}, "soft": {"zone": ["in", "west"]}})
    home.it.status_elsewhere(WEST, OWNER, 1, Cause.RESOURCES_BUSY, "busy", home.now)
    assert grants(home.step()) == 1 and home.shares() == {}


def test_what_was_wanted_after_the_question_is_asked_for_when_the_answer_is_here():
    """Home has room for any number of wants of nothing, and would get all those of a fast owner."""
    home = Home()
    home.it.schedulers = home.it.asker.schedulers = lambda: [EAST]
    spread = {"kind": "spread"}
    home.want(1, {}, spread)
    (first,) = home.it.spillback._asked
    home.want(7, {}, spread)
    assert list(home.it.spillback._asked) == [first] and home.shares() == {}
    home.it.spillback.answer(first, [[EAST, 1]], [], 0, 0, "", home.now)
    asked = [effect.message for effect in home.step() if isinstance(effect, SchedulerMessage)]
    assert home.shares() == {EAST: 1} and [message.count for message in asked] == [6]
    (second,) = home.it.spillback._asked
    home.it.spillback.answer(second, [], [], 6, Cause.RESOURCES_BUSY, "", home.now)
    assert home.shares() == {EAST: 1, HOME: 6}, "nobody else takes them"


def test_what_nobody_can_hold_is_told_and_starts_when_a_node_joins_that_can():
    home = Home()
    home.want(2, {"TPU": U})
    assert statuses(home.effects) == [(Cause.INFEASIBLE, "it asks for TPU: 1, and none of the 3 nodes has any")]
    home.want(1, {"TPU": U}, {}, key=2)
    assert len(statuses(home.effects)) == 2, "another key hears of it too"
    before = len(home.effects)
    home.step(10.0)
    assert statuses(home.effects[before:]) == [] and home.it.spillback.deadline() is None, "nothing runs meanwhile"
    new = b"t" * 4 + bytes(4)
    home.it.node_joined(new, {"TPU": U}, {}, home.now)
    home.step()
    assert home.shares() == {new: 2} and home.shares(2) == {new: 1}


def test_a_lone_node_answers_for_itself_and_others_join_in():
    home = Home(alone=True)
    home.want(2, {"GPU": U})
    assert statuses(home.effects)[0] == (Cause.INFEASIBLE, "it asks for GPU: 1, and the node has none (it has CPU: 2)")
    home.want(1, CPU, {"kind": "affinity", "node": EAST, "soft": False}, key=2)
    assert "not in the cluster" in statuses(home.effects)[1][1]
    assert home.it.deadline() is None
    home.it.node_joined(EAST, {"CPU": 2 * U, "GPU": U}, LABELS[EAST], home.now)
    home.step()
    assert home.shares() == {EAST: 2} and home.shares(2) == {EAST: 1}


def test_a_node_that_says_never_is_not_asked_again():
    home = Home()
    home.want(1, {"GPU": U})
    assert home.shares() == {EAST: 1}
    home.it.status_elsewhere(EAST, OWNER, 1, Cause.INFEASIBLE, "a fraction must fit on one device", home.now)
    home.step(1.0)
    assert home.shares() == {} and statuses(home.effects)[-1] == (Cause.INFEASIBLE, "a fraction must fit on one device")


def test_keys_get_what_is_free_in_turn():
    home = Home()
    home.use(EAST, 0), home.use(WEST, 0)
    home.want(8, key=1), home.want(8, key=2)
    got = {1: 0, 2: 0}
    for version in range(2, 10):
        home.now += 0.01
        for node in (EAST, WEST):
            for key in (1, 2):
                while home.shares(key).get(node):
                    home.it.granted_elsewhere(node, OWNER, key, 1000 + version * 10 + key, home.now)
                    got[key] += 1
                    if not home.it.spillback.leases:
                        break
        home.use((EAST, WEST)[version % 2], U, version)
    assert abs(got[1] - got[2]) <= 2 and sum(got.values()) >= 6


def test_an_actor_is_placed_like_a_want_of_one():
    home = Home()
    home.it.request("a", 1, CPU, {}, home.now, "A")
    assert [effect.token for effect in home.step() if isinstance(effect, Grant)] == ["a"]
    assert not home.it.cancel_request("a")
    home.it.request("b", 1, CPU, {"kind": "affinity", "node": WEST, "soft": False}, home.now)
    assert PlaceRequest(WEST, "b", {"kind": "local"}) in home.step()
    assert home.it.placed_elsewhere("b", WEST, home.now) and not home.it.placed_elsewhere("b", WEST, home.now)
    home.it.request("c", 1, {"GPU": U}, {}, home.now)
    home.step()
    assert home.it.cancel_request("c") and UnplaceRequest(EAST, "c") in home.step()
    home.it.request("d", 1, CPU, {"kind": "affinity", "node": WEST, "soft": True}, home.now)
    home.step()
    home.it.node_ended(WEST, home.now)
    assert [effect.token for effect in home.step() if isinstance(effect, Grant)] == ["d"], "its life goes on at home"


def test_a_busy_home_hands_an_actor_on():
    home = Home()
    home.want(2)
    home.it.request("a", 1, CPU, {}, home.now)
    (place,) = [effect for effect in home.step() if isinstance(effect, PlaceRequest)]
    assert place.node in (EAST, WEST) and not home.local.requests


@pytest.mark.parametrize("kind", ["actor", "task"])
def test_what_a_scheduler_placed_at_home_moves_on_if_home_is_busy_by_then(kind):
    home = Home()
    home.it.schedulers = home.it.asker.schedulers = lambda: [EAST]
    spread = {"kind": "spread"}
    if kind == "actor":
        home.it.request("a", 1, CPU, spread, home.now)
        effects = home.step()
    else:
        effects = home.want(1, CPU, spread)
    (asked,) = questions(effects)
    assert grants(home.want(2, key=2)) == 2, "home was idle for the scheduler, and is full now"
    home.it.message(EAST, m.PlaceAnswer(asked.request, [[HOME, 1]], [], 0, 0, ""), home.now)
    (again,) = questions(home.step(SPILL_PATIENCE_S / 2))
    assert HOME in again.avoid
    home.it.message(EAST, m.PlaceAnswer(again.request, [[WEST, 1]], [], 0, 0, ""), home.now)
    effects = home.step()
    if kind == "actor":
        assert PlaceRequest(WEST, "a", {"kind": "local"}) in effects and not home.local.requests
    else:
        assert wants(effects) == [(WEST, 1)] and home.shares() == {WEST: 1}


def test_who_was_wrong_about_this_node_is_told_its_row_with_the_answer():
    home = Home()
    home.want(2)
    foreign = EAST[:4] + b"\x80\0\0\1"
    home.local.declare(foreign, 1, 1, CPU, {"kind": "local"})
    home.local.want(foreign, 1, 1, 0, home.now)
    effects = home.step()
    (row,) = [effect for effect in effects
              if isinstance(effect, SchedulerMessage) and isinstance(effect.message, m.ViewRows)]
    (status,) = [effect for effect in effects if isinstance(effect, Status) and effect.owner == foreign]
    assert row.node == EAST and row.message.rows[0].available == {"CPU": 0}
    assert effects.index(row) < effects.index(status)


def test_a_question_of_another_node_is_answered_and_load_is_told():
    home = Home()
    home.it.message(EAST, m.PlaceAsk(5, CPU, {}, 2, False, [], []), home.now)
    (answer,) = [effect.message for effect in home.step() if isinstance(effect, SchedulerMessage)]
    assert isinstance(answer, m.PlaceAnswer) and (answer.request, answer.left) == (5, 0)
    for request in range(500):
        home.it.message(EAST, m.PlaceAsk(request, CPU, {}, 0, False, [], []), home.now)
    home.step(0.2)
    assert home.it.gossip.rows[HOME].decisions > 0
    home.step(5.0)
    assert home.it.gossip.rows[HOME].decisions == 0 and home.it.gossip.deadline() is None, "and that it is over"


def test_a_demand_that_is_none_is_refused():
    home = Home()
    with pytest.raises(ValueError):
        home.it.declare(OWNER, 1, 1, {"CPU": -1})
    with pytest.raises(ValueError):
        home.it.request("x", 1, {"CPU": 1.5}, {}, 0.0)
    with pytest.raises(KeyError):
        home.it.want(OWNER, 9, 1, 0, 0.0)
    home.step()


def test_a_row_that_says_draining_takes_away_what_waits_there():
    home = Home()
    home.want(3, {"GPU": U})
    assert home.shares() == {EAST: 3}
    total = {"CPU": 2 * U, "GPU": U}
    home.it.message(EAST, m.ViewRows([[EAST, 1, 1, 0, total, [], total, LABELS[EAST]]]), home.now)
    home.step(0.2)
    assert home.shares() == {} and statuses(home.effects)[-1][0] == Cause.INFEASIBLE


def test_a_grant_that_never_reached_its_owner_is_wanted_again():
    home = Home(alone=True)
    (grant,) = [effect for effect in home.want(1) if isinstance(effect, Grant)]
    assert home.it.revoke(grant.lease, home.now) and not home.it.revoke(grant.lease, home.now)
    assert grants(home.step()) == 1


def test_a_grant_that_never_reached_its_owner_is_not_made_again_when_it_is_not_wanted():
    home = Home(alone=True)
    (grant,) = [effect for effect in home.want(1) if isinstance(effect, Grant)]
    assert not grants(home.want(0))
    assert home.it.revoke(grant.lease, home.now)
    assert not grants(home.step()) and not home.local.leases
    assert grants(home.want(1)) == 1


def test_a_node_that_gets_what_it_lacked_grants_what_waited():
    home = Home(alone=True)
    home.want(1, {"disk": U})
    assert statuses(home.effects)[-1][0] == Cause.INFEASIBLE
    home.local.view.update(HOME + bytes(20), {"CPU": 2 * U, "disk": U})
    assert grants(home.want(2, {"disk": U})) == 1
