"""Work bound to one node by a hard affinity: what a NodeMachine says when that node is dead, unknown or joining."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes.node_machine import CPU, NODE, MachineNode, only, spec
from tests.fakes.node_parts import Parts
from zray.base.causes import Cause
from zray.node.leases.affinity import HardAffinity, HardAffinityPorts
from zray.node.leases.placements import Declared
from zray.wire import messages as m

DRIVER, ACTOR = b"driver00", b"a" * 16
OTHER = b"othr\0\0\0\0"
OTHER_ID = OTHER + bytes(20)


def row(state="alive", reason=""):
    return {"node_id": OTHER_ID, "endpoint": "tcp://127.0.0.1:1", "name": "", "total": CPU, "labels": {}, "shown": {},
            "state": state, "reason": reason, "ordinal": 1}


class BoundNode(MachineNode):
    """A MachineNode with a driver, whose nodes table answers when it is told to."""

    def __init__(self):
        super().__init__()
        self.bring_up()
        self.driver()
        self.asked = []
        self.names.find_node = lambda node, then: self.asked.append((node, then))

    def bind(self, node=OTHER_ID, key=1, soft=False):
        strategy = {"kind": "affinity", "node": node, "soft": soft}
        return self.say(DRIVER, m.LeaseKey(key, CPU, {}, strategy, "f")) + self.say(DRIVER, m.LeaseWant(key, 1, 0))

    def create(self, node=OTHER_ID, **more):
        strategy = {"kind": "affinity", "node": node, "soft": False}
        sent = self.say(DRIVER, m.CreateActor(ACTOR, spec(strategy=strategy, **more), 0))
        return sent + self.say(DRIVER, m.WatchActor(ACTOR))

    def join(self):
        self.machine.node_joined(OTHER, row(), self.now)
        return self.take()

    def end(self, reason="its process ended"):
        self.machine.node_ended(OTHER, reason, self.now)
        return self.take()

    def answer(self, found):
        [(_, then)] = self.asked
        self.asked.clear()
        then(found)
        self.machine.settle(self.now)
        return self.take()


def fatal(sent):
    return [status.detail for status in only(sent, m.LeaseStatus) if status.cause == Cause.NODE_GONE]


def dead(sent):
    return [state.cause for state in only(sent, m.ActorState) if state.state == "DEAD"]


@pytest.fixture
def node():
    return BoundNode()


def test_work_for_a_dead_node_fails_at_once_and_names_it(node):
    node.join()
    node.end("it has left (remove_node)")
    [why] = fatal(node.bind())
    assert OTHER_ID.hex() in why and "it has left (remove_node)" in why and "soft=True" in why
    [cause] = dead(node.create())
    assert cause["kind"] == "unschedulable" and OTHER_ID.hex() in cause["reason"]
    assert not node.asked, "this node knows without asking"


def test_queued_work_fails_when_its_node_dies(node):
    node.join()
    assert not fatal(node.bind()) and not dead(node.create())
    sent = node.end()
    assert len(fatal(sent)) == 1 and [cause["kind"] for cause in dead(sent)] == ["unschedulable"]
    assert not node.machine.places.requests


def test_an_actor_that_ran_on_a_dead_node_is_not_restarted_without_end(node):
    node.join()
    node.create(max_restarts=-1)
    worker = OTHER[:4] + b"w001"
    node.say(OTHER, m.ActorPlaced(ACTOR, 0, worker, "tcp://w", 5, 99, {}))
    node.say(OTHER, m.Relay(worker, m.ActorUp.CODE, list(m.ActorUp(ACTOR, 0, b""))))
    assert node.machine.actors.actors[ACTOR].state == "ALIVE"
    [cause] = dead(node.end())
    assert cause["kind"] == "unschedulable"


@pytest.mark.parametrize("found", [None, row("dead", "it did not answer"), row("left", "stop")])
def test_for_a_node_that_is_not_known_here_the_nodes_table_decides(node, found):
    assert not fatal(node.bind()) and not fatal(node.bind(key=2)) and not dead(node.create())
    assert [asked for asked, _ in node.asked] == [OTHER], "one question for all"
    sent = node.answer(found)
    assert len(fatal(sent)) == 2 and len(dead(sent)) == 1
    assert "has never been" in fatal(sent)[0] if found is None else found["reason"] in fatal(sent)[0]


def test_a_node_that_has_just_joined_is_waited_for(node):
    node.bind()
    assert not fatal(node.answer(row()))
    sent = node.join()
    node.now += 1.0
    node.machine.tick(node.now)
    sent += node.take()
    assert any(peer == OTHER and isinstance(said, m.Relay) for peer, said in sent), "the want goes there"
    assert not fatal(sent)
    assert len(fatal(node.end())) == 1


def test_a_node_that_ends_before_it_was_heard_of_fails_its_work_too(node):
    node.bind()
    assert not fatal(node.answer(row()))
    assert len(fatal(node.end())) == 1


def test_a_soft_affinity_and_this_node_itself_are_no_bonds(node):
    node.join()
    node.end()
    assert only(node.bind(soft=True), m.LeaseGrant)
    assert only(node.bind(NODE + bytes(20), key=2), m.LeaseGrant)


def test_what_a_node_has_free_may_be_heard_before_the_node_itself_and_is_no_refusal(node):
    node.say(OTHER, m.ViewRows([]))
    assert node.machine.counts["refused"] == 0
    node.say(OTHER, m.PlaceAnswer(1, [], [], 0, 0, ""))
    node.say(OTHER[:4] + b"w001", m.ViewRows([]))
    assert node.machine.counts["refused"] == 2


def test_an_id_that_can_be_no_nodes_never_was(node):
    [why] = fatal(node.bind(b"\1\2"))
    assert "0102" in why and "has never been" in why


def test_through_its_ports_an_end_that_the_nodes_table_tells_fails_keys_and_actors_of_this_node():
    parts, asked = Parts(), []
    parts.names.find_node = lambda node, then: asked.append(then)
    strategy = {"kind": "affinity", "node": OTHER_ID, "soft": False}
    keys = {(DRIVER, 1): Declared(1, {}, "f", strategy), (b"far\0drv1", 1): Declared(1, {}, "f", strategy)}
    waiting = [SimpleNamespace(id=ACTOR, spec={"strategy": strategy})]
    affinity = HardAffinity(parts.context, HardAffinityPorts(
        parts.cluster, parts.names, declared=lambda: keys, waiting=lambda: waiting, end_actor=parts.call("end_actor")))
    affinity.key(DRIVER, 1, strategy)
    affinity.key(DRIVER, 1, strategy)
    [answer] = asked  # once
    answer(row("alive"))
    assert not parts.take() and not parts.calls
    affinity.actor(waiting[0])
    asked[1](row("dead", "by a test"))
    [(owner, status)] = parts.take()
    assert owner == DRIVER and "by a test" in status.detail, "an owner elsewhere hears it from its own node"
    assert [call[:2] for call in parts.calls] == [("end_actor", ACTOR)]
