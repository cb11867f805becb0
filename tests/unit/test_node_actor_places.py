"""Places for actors: which scheduler is asked, and what an actor gives back when it ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes.node_machine import CPU, NODE, spec
from tests.fakes.node_parts import DRIVER, PEER, Parts
from zray.node.actors.foreign import ForeignActor
from zray.node.actors.places import ActorPlacePorts, ActorPlaces
from zray.node.actors.table import DEAD, Actor
from zray.sched.cluster.spillback_effects import PlaceRequest, UnplaceRequest
from zray.wire import messages as m

ACTOR = b"a" * 16


class Scheduler:
    """Notes requests; one without resources it refuses."""

    def __init__(self):
        self.tokens = []
        self.spillback = SimpleNamespace(out=[], step=lambda now: None)

    def request(self, token, job, demand, strategy, now, name):
        if not demand:
            raise ValueError("no demand")
        self.tokens.append(token)

    def cancel_request(self, token):
        self.tokens.remove(token)


class Placing(Parts):
    def __init__(self, *peers):
        super().__init__(*peers)
        self.here, self.anywhere = Scheduler(), Scheduler()
        self.places = ActorPlaces(self.context, ActorPlacePorts(
            self.here, self.anywhere, self.pool, self.placements, self.names, self.cluster,
            find_row=self.call("find_row"), waiting=self.call("waiting"), uses_group=self.call("uses_group"),
            needs_place=self.call("needs_place"), unplace_elsewhere=self.call("unplace_elsewhere"),
            detached_ended=self.call("detached_ended"), is_process=lambda process: True, job=lambda number: [],
            drop_checkpoints=self.call("drop_checkpoints")))


def own(**more):
    return Actor(ACTOR, {**spec(), **more}, DRIVER, 0.0)


def foreign():
    return ForeignActor(PEER, m.PlaceActor(ACTOR, 0, 1, CPU, {}, {}, "A"))


@pytest.fixture
def placing():
    placing = Placing(PEER)
    yield placing
    placing.places.check()


def test_an_actor_of_ours_may_live_anywhere_and_a_foreign_one_only_here(placing):
    placing.places.place(own())
    assert placing.anywhere.tokens == [1] and [call[0] for call in placing.calls] == ["uses_group", "needs_place"]
    assert [actor.id for actor in placing.places.waiting_here()] == [ACTOR]
    other = Placing(PEER)
    other.places.request(foreign())
    assert other.here.tokens == [1] and not other.places.waiting_here()


def test_a_demand_that_is_none_is_a_reason_to_wait(placing):
    placing.places.place(own(demand={}))
    [(name, actor, _, detail)] = placing.calls
    assert (name, actor, detail) == ("waiting", ACTOR, "no demand") and not placing.places.requests


def test_an_actor_that_ends_takes_its_request_back(placing):
    actor = own()
    placing.places.place(actor)
    placing.anywhere.spillback.out = [UnplaceRequest(PEER, 1), PlaceRequest(PEER, 1, {}), PlaceRequest(PEER, 2, {})]
    placing.places.unplace(actor)
    assert not placing.anywhere.tokens and placing.places.token_of(ACTOR) is None
    assert placing.calls[-1] == ("unplace_elsewhere", UnplaceRequest(PEER, 1)), "while the token still says which actor"
    assert placing.anywhere.spillback.out == [PlaceRequest(PEER, 2, {})]


def test_the_worker_of_an_actor_that_lives_on_another_node_is_ended_and_resized_there(placing):
    actor = own(running={"CPU": 0})
    actor.worker, actor.lease = PEER[:4] + b"wrk1", 9
    placing.places.running(actor)
    placing.places.end_worker(actor, "by a test")
    assert placing.take() == [(PEER, m.ResizeLease(9, {"CPU": 0})), (PEER, m.EndWorker(actor.worker, "by a test"))]


def test_a_lone_node_knows_every_actor_there_is():
    found = []
    alone = Placing()
    alone.places.find_actor(ACTOR, found.append)
    assert found == [None] and not alone.calls
    Placing(PEER).places.find_actor(ACTOR, found.append)
    assert found == [None]


def test_the_end_of_a_detached_actor_may_be_the_end_of_its_job(placing):
    actor = own(detached=True, job=3)
    placing.places.record(actor)
    assert not placing.calls
    actor.state = DEAD
    placing.places.record(actor)
    assert placing.calls == [("detached_ended", 3)] and placing.names.actors == {ACTOR: DEAD}
    placing.places.erase(ACTOR)
    assert not placing.names.actors and NODE == placing.context.me
