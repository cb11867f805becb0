"""Questions about the whole cluster: one answer, also when a node is silent."""

from __future__ import annotations

import pytest

from tests.fakes.node_parts import DRIVER, PEER, THIRD, Parts
from zray.node.peers.queries import QUERY_ANSWER_S, ClusterQueries
from zray.wire.messages import NodeAnswer, NodeQuery

LOCAL = {"local": True}


class Asked(Parts):
    """A part that answers what is in ``mine``."""

    def __init__(self, *peers):
        super().__init__(*peers)
        self.mine = {"actors": ["mine"], "total": 1}
        self.queries = ClusterQueries(self.context, self.cluster.peers, lambda peer, what, args: self.mine)

    def ask(self, what, args=None):
        self.queries.query(DRIVER, NodeQuery(7, what, args or {}))
        return self.take()

    def hear(self, node, number, **answer):
        self.queries.answered(node, NodeAnswer(number, answer))
        return self.take()


@pytest.fixture
def asked():
    return Asked(PEER, THIRD)


def test_a_lone_node_answers_at_once():
    asked = Asked()
    assert asked.ask("actors") == [(DRIVER, NodeAnswer(7, asked.mine))]


def test_what_concerns_this_node_alone_is_answered_at_once(asked):
    assert asked.ask("stats") == asked.ask("actors", LOCAL) == [(DRIVER, NodeAnswer(7, asked.mine))]


def test_rows_of_all_nodes_are_one_answer(asked):
    assert asked.ask("actors", {"limit": 3}) == [
        (node, NodeQuery(1, "actors", {"limit": 3, "local": True})) for node in (PEER, THIRD)]
    assert not asked.hear(PEER, 1, actors=["peers"], total=2)
    assert not asked.hear(PEER, 1, actors=["again"], total=2), "once"
    [(peer, answer)] = asked.hear(THIRD, 1, actors=[], total=0)
    assert peer == DRIVER and answer == NodeAnswer(7, {"actors": ["mine", "peers"], "total": 3})
    assert asked.queries.next_deadline() is None


def test_a_silent_node_is_named_and_does_not_hold_up_the_others(asked):
    asked.ask("actors")
    asked.hear(PEER, 1, actors=[], total=0)
    due = asked.queries.next_deadline()
    assert due == asked.context.now + QUERY_ANSWER_S
    asked.queries.tick(due)
    [(_, answer)] = asked.take()
    assert answer.answer["missing"] == [THIRD.hex()]


def test_a_dead_node_is_not_waited_for(asked):
    asked.ask("actors")
    asked.hear(PEER, 1, actors=[], total=0)
    asked.queries.node_ended(THIRD)
    assert [type(message) for _, message in asked.take()] == [NodeAnswer]


def test_a_job_that_several_nodes_know_is_one_row_that_of_its_drivers_node(asked):
    asked.mine = {"jobs": [{"job_id": 1}], "total": 1}
    asked.ask("jobs")
    asked.hear(PEER, 1, jobs=[{"job_id": 1, "driver_pid": 5}], total=1)
    [(_, answer)] = asked.hear(THIRD, 1, jobs=[{"job_id": 1}], total=1)
    assert answer.answer["jobs"] == [{"job_id": 1, "driver_pid": 5}]


def test_objects_take_of_the_memory_that_the_schedulers_say_is_free(asked):
    asked.mine = {"resources": {"object_store_memory": 100.0}, "stored": [10]}
    asked.ask("available")
    asked.hear(PEER, 1, resources={}, stored=[20])
    [(_, answer)] = asked.hear(THIRD, 1, resources={}, stored=[0])
    assert answer.answer["resources"] == {"object_store_memory": 70.0}
