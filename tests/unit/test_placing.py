"""GlobalScheduler, PlacementClient, and how many nodes act: one claim a test, on plain and compiled kernels."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from tests.oracles import sched_naive
from zray.base.causes import Cause
from zray.sched.cluster.asking import TRIES_MAX, PlacementClient, serve
from zray.sched.cluster.placing import COUNT_MAX, GlobalScheduler, schedulers, share_of
from zray.sched.cluster.spillback_effects import Ask
from zray.sched.kernels.loading import Kernels
from zray.sched.policies.base import MASKS_MAX, THRESHOLD_PPM
from zray.sched.resources import GPU_COLUMN
from zray.sched.view import ClusterView
from zray.wire import messages as m

U = 10_000
A, B, C = NODES = [letter * 4 + bytes(4) for letter in (b"a", b"b", b"c")]
CPU = {"CPU": U}


@pytest.fixture(params=["plain", "compiled"])
def view(request) -> ClusterView:
    view = ClusterView(Kernels.load() if request.param == "compiled" else None)
    view.add(A, {"CPU": 4 * U}, {"zone": "east"})
    view.add(B, {"CPU": 4 * U, "GPU": U}, {"zone": "west"})
    view.add(C, {"CPU": 4 * U}, {"zone": "west"})
    return view


def placed(scheduler: GlobalScheduler, demand: dict, strategy: dict, count: int, now: float = 0.0, **more) -> dict:
    return dict(scheduler.place(demand, strategy, count, A, now, **more).placed)


def test_a_batch_takes_from_the_view_until_the_nodes_next_word(view):
    scheduler = GlobalScheduler(view, A)
    assert placed(scheduler, CPU, {}, 6) == {A: 3, C: 3}, "without a GPU demand, nodes with GPUs come last"
    answer = scheduler.place(CPU, {}, 10, A, 0.0)
    assert dict(answer.placed) == {A: 1, B: 4, C: 1} and answer.left == 4 and answer.cause == Cause.RESOURCES_BUSY
    view.set_row(A, {"CPU": 4 * U}, {"CPU": 2 * U})
    assert placed(scheduler, CPU, {}, 9) == {A: 2}
    scheduler.check()


def test_a_resource_that_stands_for_a_node_is_feasible_before_anybody_was_placed_by_it():
    view = ClusterView(sparse="node:")
    view.add(A, {"CPU": U, "node:10.0.0.1": U})
    assert GlobalScheduler(view, A).feasible({"node:10.0.0.1": 10}, {}, A)
    assert not GlobalScheduler(view, A).feasible({"node:10.0.0.2": 10}, {}, A)


def test_a_placement_that_no_word_confirms_is_lifted(view):
    scheduler = GlobalScheduler(view, A, tentative_s=0.1)
    assert sum(placed(scheduler, CPU, {}, 12).values()) == 12
    changes = view.changes
    assert placed(scheduler, CPU, {}, 1, 0.05) == {}
    view.set_row(B, {"CPU": 4 * U, "GPU": U}, {"CPU": U, "GPU": U})
    assert scheduler.deadline() == 0.1
    scheduler.expire(0.1)
    assert [view.named(view.row_of[node])["CPU"] for node in NODES] == [4 * U, U, 4 * U], "B has spoken since"
    assert view.changes > changes and scheduler.deadline() is None
    view.check()


def test_spread_goes_round_and_on(view):
    scheduler = GlobalScheduler(view, A)
    assert placed(scheduler, {"CPU": U // 10}, {"kind": "spread"}, 3) == {A: 1, B: 1, C: 1}
    assert placed(scheduler, {"CPU": U // 10}, {"kind": "spread"}, 1) == {A: 1}
    assert placed(scheduler, {"CPU": U // 10}, {"kind": "spread"}, 1) == {B: 1}


def test_affinity_and_labels_bind(view):
    scheduler = GlobalScheduler(view, A)
    at_b = {"kind": "affinity", "node": B + bytes(20), "soft": False}
    assert placed(scheduler, CPU, at_b, 9) == {B: 4}
    west = {"kind": "labels", "hard": {"zone": ["in", "west"]}}
    assert placed(scheduler, CPU, west, 9) == {C: 4}
    gone = {"kind": "affinity", "node": b"z" * 8, "soft": False}
    assert scheduler.place(CPU, gone, 1, A, 0.0).cause == Cause.INFEASIBLE
    assert "not in the cluster" in scheduler.place(CPU, gone, 1, A, 0.0).detail
    assert placed(scheduler, CPU, gone | {"soft": True}, 1) == {A: 1}


def test_locality_is_soft_unless_patient(view):
    scheduler = GlobalScheduler(view, A)
    wish = {"locality": C}
    assert placed(scheduler, CPU, wish | {"patient": True}, 6) == {C: 4}
    assert placed(scheduler, CPU, wish | {"patient": True}, 1) == {}
    assert placed(scheduler, CPU, wish, 2) == {A: 2}
    assert placed(scheduler, {"GPU": U}, wish | {"patient": True}, 1) == {B: 1}, "C could never hold it"
    view.remove(C)
    assert placed(scheduler, CPU, wish | {"patient": True}, 1) == {A: 1}


def test_a_group_binds_to_its_nodes(view):
    scheduler = GlobalScheduler(view, A)
    assert placed(scheduler, CPU, {"kind": "group", "nodes": [B, C]}, 9) == {B: 4, C: 4}
    answer = scheduler.place(CPU, {"kind": "group", "nodes": []}, 1, A, 0.0)
    assert answer.cause == Cause.INFEASIBLE and "not placed yet" in answer.detail


def test_avoided_nodes_get_nothing_but_may_queue_and_barred_ones_neither(view):
    scheduler = GlobalScheduler(view, A)
    assert placed(scheduler, {"GPU": U}, {}, 1, avoid=[B]) == {}
    answer = scheduler.place({"GPU": U}, {}, 3, A, 0.0, avoid=[B], queue=True)
    assert answer.queued == [(B, 3)] and answer.left == 0
    answer = scheduler.place({"GPU": U}, {}, 3, A, 0.0, barred=[B], queue=True)
    assert answer.queued == [] and (answer.left, answer.cause) == (3, Cause.INFEASIBLE)


def test_what_is_free_nowhere_queues_evenly(view):
    scheduler = GlobalScheduler(view, A)
    answer = scheduler.place(CPU, {}, 12 + 7, A, 0.0, queue=True)
    assert sum(n for _, n in answer.placed) == 12
    assert sorted(n for _, n in answer.queued) == [2, 2, 3] and answer.left == 0
    again = scheduler.place(CPU, {}, 1, A, 0.0, queue=True)
    assert again.queued[0][0] != max(answer.queued, key=lambda pair: pair[1])[0], "the next in turn"


def test_an_infeasible_demand_is_told_what_no_node_has(view):
    scheduler = GlobalScheduler(view, A)

    def why(demand: dict, strategy: dict | None = None) -> str:
        answer = scheduler.place(demand, strategy or {}, 1, A, 0.0)
        assert (answer.left, answer.cause) == (1, Cause.INFEASIBLE)
        return answer.detail

    assert why({"TPU": U}) == "it asks for TPU: 1, and none of the 3 nodes has any"
    assert why({"CPU": 5 * U}) == "it asks for CPU: 5, and no node has more than 4"
    assert "labels" in why(CPU, {"labels": {"zone": "north"}})
    assert "no node that it may run on has all of that" in why({"GPU": U, "CPU": U}, {"labels": {"zone": "east"}})
    assert "malformed" in why(CPU, {"kind": "astrology"})
    assert "malformed" in why({"CPU": -1})
    assert "malformed" in why(CPU, {"labels": {"zone": ["like", "w"]}})
    assert "malformed" in why(CPU, {"kind": "affinity", "node": 3})


def test_draining_nodes_are_not_chosen(view):
    scheduler = GlobalScheduler(view, A)
    view.drain(A)
    assert placed(scheduler, CPU, {}, 12) == {B: 4, C: 4}
    view.drain(A, False)
    assert placed(scheduler, CPU, {}, 1) == {A: 1}


def test_one_question_is_bounded():
    view = ClusterView()
    view.add(A, {"CPU": 2 * COUNT_MAX * U})
    answer = GlobalScheduler(view, A).place({"CPU": 1}, {}, 10**12, A, 0.0)
    assert sum(n for _, n in answer.placed) + answer.left == COUNT_MAX


def test_masks_are_kept_until_the_membership_changes_and_are_bounded(view):
    scheduler = GlobalScheduler(view, A)
    scheduler.place(CPU, {"labels": {"zone": "west"}}, 1, A, 0.0)
    kept = dict(view.masks)
    view.set_row(B, {"CPU": 4 * U, "GPU": U}, {"CPU": 3 * U})
    scheduler.place(CPU, {"labels": {"zone": "west"}}, 1, A, 0.0)
    assert all(view.masks[key] is mask for key, mask in kept.items())
    for number in range(2 * MASKS_MAX):
        scheduler.place(CPU, {"labels": {"zone": str(number)}}, 1, A, 0.0)
    assert len(view.masks) <= MASKS_MAX
    view.remove(C)
    assert not view.masks


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_batches_agree_with_the_oracle_whatever_the_words_between(data):
    """Words of nodes, placements and removals in any order: each batch is what the oracle makes of the same amounts."""
    view = ClusterView(Kernels.load() if data.draw(st.booleans()) else None)
    scheduler = GlobalScheduler(view, A, tentative_s=1e9)
    for number in range(data.draw(st.integers(1, 6))):
        view.add(bytes([number + 1]) * 8, {"CPU": data.draw(st.integers(0, 4)) * U, "x": data.draw(st.integers(0, 2))})
    for _ in range(data.draw(st.integers(1, 8))):
        node = data.draw(st.sampled_from(sorted(view.row_of)))
        if data.draw(st.booleans()):
            total = view.named(view.row_of[node], "total")
            view.set_row(node, total, {name: data.draw(st.integers(0, value)) for name, value in total.items()})
        elif len(view.row_of) > 1 and data.draw(st.integers(0, 5)) == 0:
            view.remove(node)
        demand = {"CPU": data.draw(st.sampled_from([U, U // 2])), "x": data.draw(st.integers(0, 1))}
        count = data.draw(st.integers(2, 9))
        dense = view.index.demand({name: value for name, value in demand.items() if value})
        if dense is None:
            continue
        vector = view.index.vector(dense)
        rows, free = sched_naive.batch(
            [list(map(int, row)) for row in view.total], [list(map(int, row)) for row in view.available],
            list(map(int, view.alive)), [vector], [0] * count, THRESHOLD_PPM, GPU_COLUMN)
        expected: dict[bytes, int] = {}
        for row in rows:
            if row >= 0:
                expected[view.nodes[row]] = expected.get(view.nodes[row], 0) + 1
        assert placed(scheduler, demand, {}, count) == expected
        assert [list(map(int, row)) for row in view.available] == free
        scheduler.check()


# ------------------------------------------------------------------ deciding nodes


def test_schedulers_follow_the_load_and_every_node_finds_the_same(view):
    assert len(schedulers(view, [])) == 1
    assert len(schedulers(view, [8000, 8000], per_node=10_000)) == 2
    assert len(schedulers(view, [10**6])) == 3, "no more than there are"
    other = ClusterView()
    for node in reversed(NODES):
        other.add(node, {"CPU": U})
    assert schedulers(other, [15_000]) == schedulers(view, [15_000])
    view.drain(schedulers(view, [])[0])
    assert schedulers(view, [])[0] != schedulers(other, [])[0], "a draining node decides nothing"


def test_askers_spread_over_the_schedulers():
    among = [bytes([i]) * 8 for i in range(4)]
    first = [share_of(i.to_bytes(8, "big"), among)[0] for i in range(400)]
    assert min(first.count(node) for node in among) > 50
    assert sorted(share_of(A, among)) == among and share_of(A, []) == []


def asker(view: ClusterView, among: list[bytes]) -> PlacementClient:
    return PlacementClient(A, GlobalScheduler(view, A), lambda: among, patience_s=0.05)


QUESTION = Ask(1, CPU, {}, 2, False, [], [])


def test_a_node_that_is_a_scheduler_asks_itself_without_a_message(view):
    asks = asker(view, [B, A])
    asks.ask(QUESTION, 0.0)
    assert not asks.out and asks.answers[0][1].placed == [(A, 2)]


def test_a_scheduler_that_does_not_answer_is_skipped_and_at_last_the_node_decides_itself(view):
    asks = asker(view, [B, C])
    asks.ask(QUESTION, 0.0)
    now, asked = 0.0, []
    for _ in range(TRIES_MAX):
        asked.append(asks.out.pop()[0])
        now += 0.05
        assert not asks.answers and asks.deadline() == pytest.approx(now)
        asks.tick(now)
    assert sorted(asked) == [B, C] and not asks.out
    assert asks.answers[0][1].placed == [(A, 2)] and asks.deadline() is None
    asks.on_answer(asked[0], m.PlaceAnswer(1, [[C, 2]], [], 0, 0, ""))
    assert len(asks.answers) == 1, "a late answer counts no more"
    asks.check()


def test_an_answer_over_the_wire_is_what_the_scheduler_said_and_nonsense_is_dropped(view):
    asks = asker(view, [B])
    asks.ask(QUESTION, 0.0)
    node, message = asks.out.pop()
    answer = serve(GlobalScheduler(view, B), A, message, 0.0)
    asks.on_answer(C, m.PlaceAnswer(1, [[A, 2]], [], 0, 0, ""))
    assert not asks.answers, "nobody asked C"
    asks.on_answer(node, m.PlaceAnswer(1, [*map(list, answer.placed), "x", [A], [A, "1"], [A, -1]], [], 0, 0, ""))
    assert asks.answers == [(1, answer._replace(cause=0))]


def test_a_scheduler_that_dies_is_skipped_at_once(view):
    asks = asker(view, [B, C])
    asks.ask(QUESTION, 0.0)
    first = asks.out.pop()[0]
    asks.node_ended(first, 0.0)
    assert asks.out.pop()[0] == ({B, C} - {first}).pop()
