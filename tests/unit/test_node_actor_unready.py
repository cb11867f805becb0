"""Actors whose creator waits for arguments: the home knows them, and makes them when it hears more."""

from __future__ import annotations

import pytest

from tests.fakes.node_parts import DRIVER, Parts
from zray.node.actors.table import DEAD, PENDING, ActorTable
from zray.wire import messages as m

ACTOR = b"a" * 16
UNREADY = {"class_name": "A", "job": 1, "unready": True, "max_restarts": -1}
READY = {"class_name": "A", "job": 1, "max_restarts": -1, "deps": [b"value"]}


class Home(Parts):
    def __init__(self):
        super().__init__()
        self.table = ActorTable(self, self.context.emit, lambda: self.context.now)
        self.placed = []
        self.table.create(DRIVER, m.CreateActor(ACTOR, dict(UNREADY), 0), 0.0)
        self.actor = self.table.actors[ACTOR]

    def place(self, actor):
        self.placed.append(actor.spec)

    def record(self, actor): ...

    def unplace(self, actor): ...

    def erase(self, actor): ...

    def hear(self, spec):
        self.table.create(DRIVER, m.CreateActor(ACTOR, dict(spec), 0), 1.0)


@pytest.fixture
def home():
    home = Home()
    yield home
    home.table.check()


def test_it_is_placed_once_when_its_arguments_are_ready(home):
    home.hear(UNREADY)  # a retry
    assert not home.placed and home.actor.state == PENDING
    home.hear(READY)
    home.hear(READY)
    assert home.placed == [READY]


def test_it_ends_with_the_failure_of_an_argument(home):
    home.hear({"failed": {"kind": "creation", "reason": "an argument of its constructor failed"}})
    assert home.actor.state == DEAD and home.actor.cause["kind"] == "creation" and not home.placed


def test_a_kill_before_its_arguments_are_ready_is_for_good_and_a_restart_of_nothing_is_none(home):
    home.table.kill(m.KillActor(ACTOR, False), 0.0)
    assert home.actor.state == PENDING and not home.placed
    home.table.kill(m.KillActor(ACTOR, True), 0.0)
    home.hear(READY)
    assert home.actor.state == DEAD and not home.placed
