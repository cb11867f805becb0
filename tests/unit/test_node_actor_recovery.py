"""What the home of an actor with checkpoints keeps for its next life."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes.node_machine import NODE
from tests.fakes.node_parts import PEER, THIRD
from zray.node.actors.recovery import ActorRecovery
from zray.wire.messages import CheckpointSaved, SaveCheckpoint

ACTOR, WORKER = b"a" * 16, THIRD[:4] + b"wrk1"


class Home:
    """A home with one actor, whose rows are stored when ``store`` is called."""

    def __init__(self, detached):
        self.actor = SimpleNamespace(id=ACTOR, life=0, worker=WORKER, last_worker=WORKER, detached=detached,
                                     checkpoint=None, checkpoint_nodes=set(), callers=set(), state="ALIVE",
                                     has_checkpoints=True)
        self.sent, self.stored, self.dropped = [], [], []
        self.recovery = ActorRecovery(self, self.sent.append)

    def record(self, actor, then=None):
        self.stored.append(then)

    def store(self):
        stored, self.stored = self.stored, []
        for then in stored:
            then()

    def has_ended(self, process):
        return False

    def drop_checkpoints(self, actor, nodes, keep, only=""):
        self.dropped.append((set(nodes), keep, only))

    def saved(self, start, *holders):
        self.recovery.checkpointed(self.actor, SaveCheckpoint(
            ACTOR, 0, start, {"file": f"{start:04}", "bytes": 5, "holders": list(holders)}))


@pytest.mark.parametrize("detached", [False, True])
def test_nodes_with_older_checkpoints_remove_them_and_are_forgotten(detached):
    home = Home(detached)
    home.saved(1, THIRD, PEER)
    home.store()
    home.saved(2, THIRD, NODE)
    home.store()
    assert home.dropped[-1] == ({THIRD, PEER, NODE}, "0002", "")
    assert home.actor.checkpoint_nodes == {THIRD, NODE}
    assert [type(effect.message) for effect in home.sent] == [CheckpointSaved, CheckpointSaved]


@pytest.mark.parametrize("detached", [False, True])
def test_a_checkpoint_that_was_copied_twice_is_on_all_of_these_nodes(detached):
    """The worker announces it again while nobody answers, and its node may make a copy on yet another node."""
    home = Home(detached)
    home.saved(1, THIRD, PEER)
    home.saved(1, THIRD, NODE)
    home.store()
    assert home.actor.checkpoint["holders"] == sorted([THIRD, PEER, NODE])
    home.actor.state = "DEAD"
    home.recovery.ended(home.actor)
    assert home.dropped[-1] == ({THIRD, PEER, NODE}, "", "")
