"""Questions about the whole cluster: one answer, also when a node is silent."""

from __future__ import annotations

import pytest

from tests.fakes.node_parts import DRIVER, PEER, THIRD, Parts
from zray.node.peers.queries import PROCESS_ANSWER_S, QUERY_ANSWER_S, ClusterQueries
from zray.wire.messages import NodeAnswer, NodeQuery, ProcessAnswer, ProcessQuery

LOCAL = {"local": True}


class Asked(Parts):
    """A part that answers what is in ``mine``."""

    def __init__(self, *peers):
        super().__init__(*peers)
        self.mine = {"actors": ["mine"], "total": 1}
        self.queries = ClusterQueries(self.context, self.cluster.peers, lambda peer, what, args: self.mine,
                                      self.processes)

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


ON_PEER = {"on": PEER}


def test_a_question_for_one_node_goes_to_that_node_alone(asked):
    assert asked.ask("logs", ON_PEER) == [(PEER, NodeQuery(1, "logs", {**ON_PEER, "local": True}))]
    [(_, answer)] = asked.hear(PEER, 1, logs=["its"])
    assert answer == NodeAnswer(7, {"logs": ["its"]})


def test_a_question_for_this_node_is_answered_here_and_one_for_no_node_is_refused(asked):
    assert asked.ask("actors", {"on": asked.context.me}) == [(DRIVER, NodeAnswer(7, asked.mine))]
    [(_, answer)] = asked.ask("logs", {"on": b"nobody\0\0"})
    assert "no live node" in answer.answer["error"]


@pytest.mark.parametrize("end", ["dies", "is silent"])
def test_a_question_for_a_node_that_does_not_answer_has_an_error(asked, end):
    asked.ask("logs", ON_PEER)
    if end == "dies":
        asked.queries.node_ended(PEER)
    else:
        asked.queries.tick(asked.context.now + QUERY_ANSWER_S)
    [(_, answer)] = asked.take()
    assert PEER.hex() in answer.answer["error"] and asked.queries.next_deadline() is None


class WithProcesses(Asked):
    """A node with two core processes."""

    def __init__(self, *peers):
        super().__init__(*peers)
        self.mine = {"tasks": [], "total": 0}
        self.queries = ClusterQueries(self.context, self.cluster.peers, lambda peer, what, args: dict(self.mine), self)

    def holders(self):
        return [b"process1", b"process2"]

    def shown(self, process):
        return {"pid": process[-1]}

    def tell(self, process, number, *rows, total=0):
        self.queries.process_answered(process, ProcessAnswer(number, list(rows), total or len(rows)))
        return self.take()


def test_processes_are_asked_for_what_they_alone_know_and_their_rows_say_whose_they_are():
    asked = WithProcesses()
    assert [(peer, type(message)) for peer, message in asked.ask("tasks", {"live": True})] == [
        (process, ProcessQuery) for process in asked.holders()]
    assert not asked.tell(b"process1", 1, {"task_id": b"t"})
    [(_, answer)] = asked.tell(b"process2", 1)
    assert answer.answer["live"] == [{"task_id": b"t".hex(), "process": {"pid": ord("1")}}]


def test_rows_that_processes_left_out_are_counted():
    asked = WithProcesses(PEER)
    asked.ask("tasks", {"live": True})
    asked.tell(b"process1", 1, {"count": 3}, {}, total=9)
    asked.tell(b"process2", 1, {})
    [(_, answer)] = asked.hear(PEER, 1, tasks=[], total=0, left_out=4)
    assert answer.answer["left_out"] == 9


@pytest.mark.parametrize("what", ["task", "object"])
def test_processes_are_asked_for_one_task_or_object_by_its_id(what):
    asked = WithProcesses()
    assert {message.of for _, message in asked.ask(f"{what}s", {"live": True, what: b"id"})} == {b"id"}
    assert {message.of for _, message in asked.ask(f"{what}s", {"live": True})} == {b""}


def test_processes_are_not_asked_without_live():
    asked = WithProcesses()
    assert asked.ask("tasks") == [(DRIVER, NodeAnswer(7, asked.mine))]


def test_a_silent_process_is_named_and_an_ended_one_is_not_waited_for():
    asked = WithProcesses()
    asked.ask("tasks", {"live": True})
    asked.queries.process_ended(b"process1")
    asked.queries.tick(asked.context.now + PROCESS_ANSWER_S)
    [(_, answer)] = asked.take()
    assert answer.answer["silent"] == [b"process2".hex()] and "missing" not in answer.answer


def test_live_rows_of_other_nodes_are_added():
    asked = WithProcesses(PEER)
    asked.ask("tasks", {"live": True})
    asked.hear(PEER, 1, tasks=["ended"], total=1, live=["theirs"], silent=["slow"])
    asked.tell(b"process1", 1, {"n": 1})
    [(_, answer)] = asked.tell(b"process2", 1)
    assert answer.answer["tasks"] == ["ended"] and answer.answer["silent"] == ["slow"]
    assert sorted(map(str, answer.answer["live"])) == ["theirs", str({"n": 1, "process": {"pid": ord("1")}})]
