"""Actors whose home is another node: pursuits, which hear every row until they have what they want."""

from __future__ import annotations

import pytest

from zray.node.actors.rows import ASKED_AGAIN_S, ROW_GRACE_S, ActorRows

ACTOR = b"actor"


class Rows:
    """The control store; its answers come when the test says so."""

    def __init__(self):
        self.watches = {}
        self.made = 0

    def watch_actor(self, actor, changed):
        self.made += 1
        self.watches[self.made] = changed
        return self.made

    def unwatch(self, number):
        del self.watches[number]

    def say(self, row):
        for changed in list(self.watches.values()):
            changed(row)


@pytest.fixture
def rows():
    return Rows()


@pytest.fixture
def actor_rows(rows):
    sent = []
    found = ActorRows(rows, sent.append, lambda actor, node: True)
    yield found
    found.check()
    assert not rows.watches and not found.entries


def row(state="ALIVE", home=b"one"):
    return {"state": state, "home": home, "num_restarts": 0, "worker": b"w", "endpoint": "", "pid": 1,
            "death_cause": {}}


def test_a_pursuit_hears_each_row_until_it_has_what_it_wants(actor_rows, rows):
    heard = []

    def until_dead(row):
        heard.append((row["state"], row["home"]))
        return row["state"] == "DEAD"

    actor_rows.pursue(ACTOR, "kill", until_dead, 0.0)
    rows.say(row())
    rows.say(row(home=b"two"))
    actor_rows.homes_changed()
    actor_rows.tick(ROW_GRACE_S * 10)
    rows.say(row("DEAD"))
    assert heard == [("ALIVE", b"one"), ("ALIVE", b"two"), ("ALIVE", b"two"), ("DEAD", b"one")]


def test_the_same_thing_is_pursued_once(actor_rows, rows):
    heard = []
    for _ in range(3):
        actor_rows.pursue(ACTOR, "kill", lambda row: heard.append(row), 0.0)
    rows.say(row())
    assert len(heard) == 1
    rows.say(None)  # it ended long ago
    assert len(heard) == 1


def test_what_is_heard_may_change_the_row_at_once(actor_rows, rows):
    def kill(found):
        if found["state"] != "DEAD":
            rows.say(row("DEAD"))  # this node is its home, and the control store has one replica, here
        return True

    actor_rows.pursue(ACTOR, "kill", kill, 0.0)
    rows.say(row())


def test_an_actor_that_does_not_exist_is_pursued_no_longer_than_its_creation_may_take(actor_rows, rows):
    actor_rows.pursue(ACTOR, "kill", lambda row: False, 0.0)
    rows.say(None)
    actor_rows.tick(ROW_GRACE_S / 2)
    assert actor_rows.entries
    actor_rows.tick(ROW_GRACE_S)
    rows.say(None)
    assert actor_rows.entries
    actor_rows.tick(ROW_GRACE_S + ASKED_AGAIN_S)


def test_an_actor_is_not_called_unknown_while_its_row_waits_for_the_control_store():
    """The store had no row when it was asked; the write of the home then waited for a chain, and so does the next
    read."""
    sent, rows = [], Rows()
    actor_rows = ActorRows(rows, sent.append, lambda actor, node: True)
    actor_rows.watch(ACTOR, {b"peer...."}, 0.0)
    rows.say(None)
    for turn in range(1, 20):
        actor_rows.tick(turn * ROW_GRACE_S)
        assert not sent and len(rows.watches) == 1
    rows.say(row())
    assert [(each.peer, each.message.state) for each in sent] == [(b"peer....", "ALIVE")]
    actor_rows.check()
