"""Leases that processes of this node hold on other nodes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes.node_parts import DRIVER, PEER, Parts, fake_actor
from zray.node.leases.remote import RemoteLeasePorts, RemoteLeases
from zray.sched.cluster.spillback_effects import PlaceRequest, RelayToNode
from zray.wire import messages as m

WORKER = PEER[:4] + b"wrk1"
GRANT = m.LeaseGrant(1, 5, WORKER, "ipc://w", 7, {})


class Lender(Parts):
    """A node whose scheduler wants what another grants, unless ``wanted`` says otherwise."""

    def __init__(self):
        super().__init__(PEER)
        self.wanted = True
        self.job = self.jobs.register(DRIVER, 1, {}, 0.0)
        self.actor = fake_actor()
        self.places = SimpleNamespace(requested={8: self.actor}.get, token_of={self.actor.id: 8}.get,
                                      forget=self.call("forget"))
        scheduler = SimpleNamespace(
            granted_elsewhere=lambda *grant: self.wanted, placed_elsewhere=lambda *place: self.wanted,
            status_elsewhere=self.call("status"), message=self.call("message"),
            spillback=SimpleNamespace(lease_over=self.call("lease_over")))
        self.remote = RemoteLeases(self.context, RemoteLeasePorts(
            self.cluster, self.jobs, scheduler, self.places, actor={self.actor.id: self.actor}.get,
            job_of=lambda process: self.job, announce_job=self.call("announce_job")))

    def granted(self):
        return self.remote.accept(PEER, DRIVER, GRANT)


@pytest.fixture
def lender():
    lender = Lender()
    yield lender
    lender.remote.check()


def relayed(message):
    return [(PEER, m.Relay(DRIVER, message.CODE, list(message)))]


def test_a_node_hears_of_the_job_before_a_want_of_it(lender):
    lender.remote.perform(RelayToNode(PEER, DRIVER, m.LeaseWant(1, 1, 0)))
    assert lender.calls == [("announce_job", lender.job, PEER)] and lender.take() == relayed(m.LeaseWant(1, 1, 0))
    assert not lender.remote.perform("an effect that concerns this node")


def test_a_grant_that_is_not_wanted_any_more_goes_back(lender):
    lender.wanted = False
    assert not lender.granted() and lender.take() == relayed(m.LeaseReturn(5)) and not lender.remote.leases


def test_a_return_goes_to_the_node_of_the_lease_once_and_from_its_owner_only(lender):
    assert lender.granted()
    lender.remote.to_lender(DRIVER[:4] + b"othr", m.LeaseReturn(5))
    assert not lender.take()
    lender.remote.to_lender(DRIVER, m.LeaseReturn(5))
    lender.remote.to_lender(DRIVER, m.LeaseReturn(5))
    assert lender.take() == relayed(m.LeaseReturn(5)) and lender.calls == [("lease_over", 5)]


def test_when_the_node_dies_owners_hear_of_the_death_of_each_worker(lender):
    lender.granted()
    lender.remote.node_ended(PEER, "by a test")
    [(owner, died)] = lender.take()
    assert owner == DRIVER and (died.worker, died.lease) == (WORKER, 5) and "by a test" in died.reason


def test_a_dead_owner_holds_nothing(lender):
    lender.granted()
    lender.remote.owner_ended(DRIVER)
    assert not lender.remote.leases and not lender.take()


def test_an_actor_is_placed_with_its_job_known_and_only_while_it_waits(lender):
    lender.remote.perform(PlaceRequest(PEER, 8, {}))
    [(node, place)] = lender.take()
    assert node == PEER and place.actor == lender.actor.id and lender.calls == [("announce_job", lender.job, PEER)]
    placed = m.ActorPlaced(lender.actor.id, 0, WORKER, "", 7, 5, {})
    assert lender.remote.actor_placed(PEER, placed) and lender.calls[-1] == ("forget", lender.actor)
    assert not lender.remote.actor_placed(PEER, placed._replace(life=1))
    lender.wanted = False
    assert not lender.remote.actor_placed(PEER, placed)


def test_what_schedulers_say_to_each_other_is_taken_from_nodes_only(lender):
    ask = m.PlaceAnswer(1, [], [], 0, 0, "")
    lender.remote.handlers[ask.CODE](PEER, ask)
    lender.remote.handlers[ask.CODE](WORKER, ask)
    assert [call[0] for call in lender.calls] == ["message"] and lender.context.counts["refused"] == 1
