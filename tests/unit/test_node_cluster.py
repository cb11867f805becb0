"""What a node knows of the others: who lives, how to reach their processes, what they relay."""

from __future__ import annotations

import pytest

from tests.fakes.node_machine import NODE
from tests.fakes.node_parts import DRIVER, PEER, THIRD, Parts, row
from zray.node.effects import Link, Unlink
from zray.node.peers.cluster import routed
from zray.wire import messages as m
from zray.wire.messages.cluster import RELAYED

FAR = PEER[:4] + b"wrk1"


@pytest.fixture
def parts():
    parts = Parts(PEER)
    parts.processes.hellos[DRIVER] = m.Hello(m.PROTOCOL, "driver", "", 1, 0, "", [])
    yield parts
    parts.cluster.check()


def test_a_node_is_linked_once_and_unlinked_when_it_is_gone(parts):
    parts.cluster.joined(THIRD, row(THIRD))
    parts.cluster.joined(THIRD, row(THIRD, state="draining"))
    assert [effect.node for effect in parts.effects(Link)] == [THIRD]
    assert parts.cluster.node_ended(THIRD, "by a test") and not parts.cluster.node_ended(THIRD, "again")
    assert [effect.node for effect in parts.effects(Unlink)] == [THIRD]
    parts.cluster.joined(THIRD, row(THIRD))
    assert THIRD not in parts.cluster.peers, "a node that has ended does not come back"


def test_a_node_with_others_now_or_before_is_not_lone(parts):
    assert Parts().cluster.lone and not parts.cluster.lone
    parts.cluster.node_ended(PEER, "by a test")
    assert parts.cluster.alone and not parts.cluster.lone


def test_a_dial_of_a_process_here_binds_it_once_and_answers_all_askers(parts):
    for asker in (PEER, THIRD):
        parts.cluster.handlers[m.Dial.CODE](asker, m.Dial(DRIVER))
    assert [(peer, type(said)) for peer, said in parts.take()] == [(DRIVER, m.BindTcp)]
    parts.cluster.handlers[m.Bound.CODE](DRIVER, m.Bound("tcp://d:1"))
    answer = m.DialAnswer(DRIVER, "tcp://d:1", "")
    assert parts.take() == [(PEER, answer), (THIRD, answer)]
    parts.cluster.handlers[m.Dial.CODE](PEER, m.Dial(DRIVER))
    assert parts.take() == [(PEER, answer)], "it is bound"


def test_where_processes_bind_no_port_nodes_relay(parts):
    parts.cluster.one_port = True
    parts.cluster.handlers[m.Dial.CODE](PEER, m.Dial(DRIVER))
    assert parts.take() == [(PEER, m.DialAnswer(DRIVER, RELAYED))]


def test_whoever_waits_for_an_endpoint_on_a_node_hears_of_its_death(parts):
    parts.cluster.handlers[m.Dial.CODE](DRIVER, m.Dial(FAR))
    assert parts.take() == [(PEER, m.Dial(FAR))]
    parts.cluster.node_ended(PEER, "by a test")
    [(peer, answer)] = parts.take()
    assert peer == DRIVER and "by a test" in answer.error
    parts.cluster.handlers[m.Dial.CODE](DRIVER, m.Dial(FAR))
    [(_, again)] = parts.take()
    assert "by a test" in again.error, "later askers too"


def test_relays_are_taken_from_the_node_of_the_process_only(parts):
    relay = parts.cluster.handlers[m.Relay.CODE]
    want = m.LeaseWant(1, 1, 0)
    relay(PEER, m.Relay(FAR, want.CODE, list(want)))
    relay(PEER, m.Relay(DRIVER, m.Bye.CODE, [""]))
    assert [call[0] for call in parts.calls] == ["from_process", "from_node"]
    for peer, said in ((THIRD, m.Relay(FAR, want.CODE, list(want))), (FAR, m.Relay(FAR, want.CODE, list(want))),
                       (PEER, m.Relay(FAR, m.Bye.CODE, [""])), (PEER, m.Relay(FAR, want.CODE, ["x"]))):
        relay(peer, said)
    assert len(parts.calls) == 2 and parts.context.counts["refused"] == 4


def test_messages_for_processes_of_other_nodes_go_through_those():
    said = m.Bye("")
    assert routed(NODE, DRIVER, said) == (DRIVER, said) and routed(NODE, PEER, said) == (PEER, said)
    assert routed(NODE, FAR, said) == (PEER, m.Relay(FAR, said.CODE, list(said)))


def test_a_frame_hops_to_the_process_or_to_its_node(parts):
    assert parts.cluster.next_hop(DRIVER) == DRIVER and parts.cluster.next_hop(FAR) == PEER
    assert parts.cluster.next_hop(NODE[:4] + b"none") is None and parts.cluster.next_hop(THIRD[:4] + b"wrk1") is None
