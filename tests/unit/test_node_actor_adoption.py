"""Actors whose home node has died: the lowest node that lives takes care of them."""

from __future__ import annotations

import pytest

from tests.fakes.node_machine import NODE, MachineNode, spec
from tests.fakes.node_parts import PEER, THIRD, Parts
from zray.node.actors.adoption import ActorAdoption, ActorAdoptionPorts
from zray.node.actors.table import ActorTable
from zray.wire.messages import AdoptActor

ACTOR = b"a" * 16
LOW = b"aaaa\0\0\0\0"  # before this node in the order
DEATH = {"reason": "its node is gone", "signal": 0, "exit_code": 0, "pid": 0, "log_tail": ""}


def row(worker=b"", **more):
    return {"state": "ALIVE" if worker else "PENDING", "num_restarts": 0, "restarts_left": 1, "worker": worker,
            "endpoint": "", "pid": 3, "lease": 4, "death_cause": {}, "owner": PEER[:4] + b"drv1", "home": PEER,
            "is_detached": True, "spec": spec(name="x", namespace="n", detached=True), "name": "x",
            "ray_namespace": "n", **more}


class AdoptingNode(Parts):
    """A node that has heard of the death of PEER; the control store has ``rows``."""

    def __init__(self, *others):
        super().__init__(PEER, *others)
        self.cluster.node_ended(PEER, "by a test")
        self.take()
        self.rows, self.swapped = [], []
        self.changed = []  # what the row has become by the time of a swap, swap after swap
        self.names.actors_of = lambda homes, then: then([(ACTOR, row, b"packed") for row in self.rows])
        self.names.swap_actor = self._swap
        self.table = ActorTable(self, self.context.emit, lambda: self.context.now)
        self.adoption = ActorAdoption(self.context, ActorAdoptionPorts(
            self.cluster, self.names, self.table, place=self.call("place"), lives_here=self.call("lives_here"),
            homes_changed=self.call("homes_changed"), drop_checkpoints=self.call("drop_checkpoints"),
            learn_job=self.call("learn_job")))

    def _swap(self, actor, packed, row, then):
        self.swapped.append(row)
        now = self.changed.pop(0) if self.changed else row
        then(now is row, (now, b"changed") if now is not None else None)

    def record(self, actor, then=None): ...  # of the table

    def has_ended(self, process):
        return False

    def place(self, actor):
        self.calls.append(("restarted", actor.id))

    def dies(self, *rows):
        self.rows = list(rows)
        self.adoption.home_gone(PEER, DEATH)
        return [call[0] for call in self.calls]


@pytest.fixture
def world():
    return AdoptingNode(THIRD)


def test_only_the_lowest_node_looks():
    world = AdoptingNode(LOW)
    world.names.actors_of = world.call("actors_of")
    assert not world.dies(row())


def test_a_detached_actor_on_another_node_is_told_of_its_new_home(world):
    worker = THIRD[:4] + b"wrk1"
    assert world.dies(row(worker)) == ["homes_changed"]
    assert world.take() == [(THIRD, AdoptActor(ACTOR, worker))]
    assert world.swapped[0]["home"] == NODE and world.table.actors[ACTOR].state == "ALIVE"


def test_a_detached_actor_that_lives_here_is_foreign_no_more(world):
    assert world.dies(row(NODE[:4] + b"wrk1")) == ["lives_here", "homes_changed"]


def test_a_detached_actor_that_died_with_its_home_restarts(world):
    assert world.dies(row(PEER[:4] + b"wrk1")) == ["restarted", "homes_changed"]
    assert world.table.actors[ACTOR].life == 1


def test_a_detached_actor_without_a_place_gets_one(world):
    assert world.dies(row()) == ["place", "homes_changed"]


def test_other_actors_end_and_their_names_are_free(world):
    world.names.names["n", "x"] = ACTOR
    assert not world.dies(row(NODE[:4] + b"wrk1", is_detached=False))
    assert world.swapped[0]["state"] == "DEAD" and world.swapped[0]["death_cause"]["kind"] == "owner_died"
    assert not world.names.names and not world.table.actors


@pytest.mark.parametrize("now", [row(home=THIRD), row(state="DEAD"), None])
@pytest.mark.parametrize("detached", [False, True])
def test_a_row_that_another_node_has_changed_is_left_alone(world, now, detached):
    world.changed = [now]
    assert not world.dies(row(is_detached=detached)) and not world.table.actors
    assert len(world.swapped) == 1


def test_the_last_writes_of_the_dead_home_come_between_the_reading_and_the_adoption(world):
    worker = THIRD[:4] + b"wrk1"
    world.changed = [row(worker), row(worker, restarts_left=0)]
    assert world.dies(row()) == ["homes_changed"]
    assert world.take() == [(THIRD, AdoptActor(ACTOR, worker))]
    assert world.swapped[-1] == row(worker, restarts_left=0, home=NODE)


def test_the_last_writes_of_the_dead_home_come_between_the_reading_and_the_end(world):
    world.names.names["n", "x"] = ACTOR
    world.changed = [row(is_detached=False, pid=5)]
    assert not world.dies(row(is_detached=False))
    assert [written["state"] for written in world.swapped] == ["DEAD", "DEAD"] and not world.names.names


def test_the_rows_are_read_when_the_dead_home_can_write_none_any_more(world):
    fences = []
    world.names.fence = lambda nodes, then: fences.append((nodes, then))
    assert not world.dies(row(worker=THIRD[:4] + b"wrk1")) and not world.swapped
    [(nodes, then)] = fences
    assert nodes == [PEER]
    then()
    assert [written["home"] for written in world.swapped] == [world.context.me]


def test_a_node_that_was_dead_before_this_one_came_is_looked_at_too():
    """So is each node of the cluster that a persistent control store is from."""
    node, asked = MachineNode(), []
    node.names.actors_of = lambda homes, then: asked.append(list(homes))
    for _ in range(2):
        node.machine.node_ended(PEER, "the cluster was restarted", 100.0)
    assert asked == [[PEER]]


def test_the_dead_stay_dead(world):
    assert not world.dies(row(state="DEAD")) and not world.swapped
