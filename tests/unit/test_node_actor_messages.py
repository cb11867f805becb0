"""Messages about actors: to the table of this node, or to the home that the actor's row names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes.node_machine import NODE
from tests.fakes.node_parts import DRIVER, PEER, THIRD, Parts
from zray.node.actors.foreign import ForeignActorPorts, ForeignActors
from zray.node.actors.messages import ActorMessagePorts, ActorMessages
from zray.node.effects import JOB_OVER
from zray.wire import messages as m

ACTOR = b"a" * 16
KILL = m.KillActor(ACTOR, True)


class Messages(Parts):
    """``pursued``: what a kill hears of each row of the actor."""

    def __init__(self, *peers):
        super().__init__(*peers)
        self.known = {}  # actors at home here
        verbs = ("create", "lookup", "watch", "kill", "up", "exit", "placed", "worker_died",
                 "caller_seen", "checkpointed", "state_lost")
        table = SimpleNamespace(actors=self.known, **{name: self.call(name) for name in verbs})
        rows = SimpleNamespace(watch=self.call("watch_row"), pursue=self._pursue)
        self.foreign = ForeignActors(self.context, ForeignActorPorts(self.call("request"), self.call("end")))
        self.remote = SimpleNamespace(actor_placed=lambda peer, message: False,
                                      actor_not_placed=self.call("not_placed"))
        self.places = SimpleNamespace(resize=self.call("resize"))
        self.checkpoints = SimpleNamespace(save=self.call("save"))
        self.job = None
        self.messages = ActorMessages(self.context, ActorMessagePorts(
            table, rows, self.foreign, self.places, self.checkpoints, self.remote, self.cluster, self.pool,
            self.placements, job_of=lambda process: self.job))

    def _pursue(self, actor, what, on_row, now):
        self.pursued = on_row

    def hear(self, peer, message):
        self.messages.handlers[message.CODE](peer, message)
        return self.take()


def row(home, state="ALIVE", life=0):
    return {"home": home, "state": state, "num_restarts": life}


@pytest.fixture
def messages():
    return Messages(PEER, THIRD)


def test_an_actor_needs_a_job(messages):
    messages.hear(DRIVER, m.CreateActor(ACTOR, {}, 0))
    assert messages.context.counts["refused"] == 1
    messages.job = SimpleNamespace(number=4)
    messages.hear(DRIVER, m.CreateActor(ACTOR, spec := {}, 0))
    assert spec["job"] == 4 and [call[0] for call in messages.calls] == ["create"]


def test_a_node_that_was_always_alone_is_every_actors_home():
    alone = Messages()
    alone.hear(DRIVER, m.WatchActor(ACTOR))
    alone.hear(DRIVER, KILL)
    assert [call[0] for call in alone.calls] == ["watch", "kill"]


def test_a_kill_asks_the_home_and_the_next_one_until_the_row_says_that_it_is_done(messages):
    messages.hear(DRIVER, KILL)
    for home in (PEER, PEER, THIRD):
        assert not messages.pursued(row(home))
    relay = m.Relay(DRIVER, KILL.CODE, list(KILL))
    assert messages.take() == [(PEER, relay), (THIRD, relay)], "each home once"
    assert messages.pursued(row(THIRD, "DEAD"))


def test_a_kill_that_lets_it_restart_is_done_with_the_next_life(messages):
    messages.hear(DRIVER, m.KillActor(ACTOR, False))
    assert not messages.pursued(row(PEER, life=1)) and messages.pursued(row(PEER, "RESTARTING", 2))


def test_a_kill_of_an_actor_that_this_node_has_adopted_meanwhile(messages):
    messages.hear(DRIVER, KILL)
    messages.known[ACTOR] = object()
    assert messages.pursued(row(NODE)) and messages.calls[-1][0] == "kill"


def test_a_kill_of_a_process_elsewhere_is_left_to_its_own_node(messages):
    messages.hear(PEER[:4] + b"wrk1", KILL)
    assert messages.pursued(row(THIRD)) and not messages.pursued(row(NODE)) and not messages.take()


def test_a_worker_that_exits_stays_until_its_exit_is_known(messages):
    worker = NODE[:4] + b"wrk1"
    assert messages.hear(worker, m.ActorExit(ACTOR, 0, "", False)) == [(worker, m.WorkerExit("its exit is known"))]
    assert [call[0] for call in messages.calls] == ["exit"]


def test_a_place_that_is_not_wanted_any_more_is_given_back(messages):
    placed = m.ActorPlaced(ACTOR, 2, PEER[:4] + b"wrk1", "", 1, 3, {})
    assert messages.hear(PEER, placed) == [(PEER, m.UnplaceActor(ACTOR, 2))]


def test_only_its_home_ends_or_resizes_a_foreign_actor(messages):
    messages.hear(PEER, m.PlaceActor(ACTOR, 0, 1, {}, {}, {}, "A"))
    ended = []
    worker = SimpleNamespace(actor=ACTOR)
    messages.pool.workers[b"w"] = worker
    messages.pool.dismiss = lambda *call: ended.append(("dismissed", *call))
    messages.pool.kill = lambda *call: ended.append(("killed", *call))
    messages.placements[3] = worker
    for peer in (THIRD, PEER):
        messages.hear(peer, m.EndWorker(b"w", JOB_OVER))
        messages.hear(peer, m.EndWorker(b"w", "why"))
        messages.hear(peer, m.ResizeLease(3, {}))
    assert ended == [("dismissed", worker, JOB_OVER, 100.0), ("killed", worker, "why", 100.0)]
    assert [call for call in messages.calls if call[0] == "resize"] == [("resize", ACTOR, 3, {})]
