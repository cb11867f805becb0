"""Actors that live on a node which is not their home: what the home hears."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes.node_machine import NODE
from tests.fakes.node_parts import PEER, THIRD, Parts
from zray.node.actors.foreign import ACTOR_ADOPTION_S, ForeignActorPorts, ForeignActors
from zray.wire import messages as m

ACTOR = b"a" * 16
WORKER = SimpleNamespace(incarnation=NODE[:4] + b"wrk1", endpoint="ipc://w", pid=7)


def place(life=0):
    return m.PlaceActor(ACTOR, life, 1, {"CPU": 1}, {}, {}, "A")


@pytest.fixture
def parts():
    return Parts(PEER, THIRD)


@pytest.fixture
def foreign(parts):
    found = ForeignActors(parts.context, ForeignActorPorts(parts.call("request"), parts.call("end")))
    yield found
    found.check()


def alive(foreign):
    foreign.place(PEER, place())
    assert foreign.placed(foreign.actors[ACTOR], WORKER, 5, {})


def test_a_placement_that_is_told_twice_asks_once(parts, foreign):
    foreign.place(PEER, place())
    foreign.place(PEER, place())
    assert [name for name, *_ in parts.calls] == ["request"]


def test_a_later_life_ends_the_one_before_it(parts, foreign):
    alive(foreign)
    parts.take()
    foreign.place(PEER, place(1))
    [(peer, died)] = parts.take()
    assert peer == PEER and type(died) is m.ActorWorkerDied and died.death["given_back"]
    assert [name for name, *_ in parts.calls] == ["request", "end", "request"]


def test_a_demand_that_is_none_is_answered_and_forgotten(parts):
    def request(actor):
        raise ValueError("no demand")

    foreign = ForeignActors(parts.context, ForeignActorPorts(request, parts.call("end")))
    foreign.place(PEER, place())
    assert parts.take() == [(PEER, m.ActorNotPlaced(ACTOR, 0, 0, "no demand"))] and not foreign.actors


def test_the_home_hears_of_the_place_of_what_the_worker_says_and_of_its_death(parts, foreign):
    alive(foreign)
    up = m.ActorUp(ACTOR, 0, b"")
    assert foreign.from_worker(WORKER.incarnation, up) and not foreign.from_worker(NODE[:4] + b"wrk2", up)
    foreign.worker_died(ACTOR, WORKER.incarnation, {"signal": 9})
    sent = parts.take()
    assert [peer for peer, _ in sent] == [PEER] * 3 and not foreign.actors
    assert [type(message) for _, message in sent] == [m.ActorPlaced, m.Relay, m.ActorWorkerDied]


def test_when_the_home_dies_a_request_ends_and_a_living_actor_waits_for_adoption(parts, foreign):
    foreign.place(PEER, place())
    foreign.node_ended(PEER)
    assert not foreign.actors and parts.calls[-1][0] == "end"
    alive(foreign)
    foreign.node_ended(PEER)
    due = foreign.next_deadline()
    assert due == parts.context.now + ACTOR_ADOPTION_S
    foreign.tick(due)
    assert not foreign.actors and parts.calls[-1][0] == "end"


def test_an_adopted_actor_stays_and_speaks_to_its_new_home(parts, foreign):
    alive(foreign)
    foreign.node_ended(PEER)
    foreign.adopt(THIRD, m.AdoptActor(ACTOR, WORKER.incarnation))
    assert foreign.next_deadline() is None
    parts.take()
    foreign.waiting(ACTOR, 1, "why")
    assert parts.take() == [(THIRD, m.ActorNotPlaced(ACTOR, 0, 1, "why"))]


def test_a_node_that_adopts_an_actor_which_has_ended_is_told_so(parts, foreign):
    foreign.adopt(THIRD, m.AdoptActor(ACTOR, WORKER.incarnation))
    [(peer, died)] = parts.take()
    assert peer == THIRD and type(died) is m.ActorWorkerDied


def test_an_actor_whose_home_is_this_node_now_is_not_foreign(parts, foreign):
    alive(foreign)
    foreign.adopted(ACTOR)
    assert not foreign.job_is_used(1) and not foreign.from_worker(WORKER.incarnation, m.ActorUp(ACTOR, 0, b""))
