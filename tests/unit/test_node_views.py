"""Answers to questions about a node."""

from __future__ import annotations

import pytest

from tests.fakes.node_machine import MachineNode
from zray.wire import messages as m

WHATS = ["nodes", "resources", "available", "actors", "placement-groups", "workers", "leases", "store", "gcs", "jobs",
         "tasks", "timeline", "stats", "parents", "objects", "logs", "runtime-envs", "metrics", "functions", "output",
         "spans", "stops"]


@pytest.fixture
def node():
    node = MachineNode()
    node.bring_up()
    node.driver()
    return node


def ask(node, what, **args):
    [(_, answer)] = node.say(b"driver00", m.NodeQuery(1, what, args))
    return answer.answer


@pytest.mark.parametrize("what", WHATS)
def test_every_question_has_an_answer(node, what):
    node.want(want=3)
    assert "error" not in ask(node, what)


def test_an_unknown_question_is_answered_with_those_that_are_known(node):
    assert all(what in ask(node, "everything")["error"] for what in WHATS)


def test_a_key_is_explained_by_the_scheduler_or_by_the_worker_that_it_waits_for(node):
    node.want(want=3, demand={"CPU": 20_000})
    assert ask(node, "explain", key=1)["cause"]
    assert "error" in ask(node, "explain")


def test_a_limit_cuts_the_rows_and_not_the_count(node):
    assert ask(node, "workers", limit=1)["total"] == 2 and len(ask(node, "workers", limit=1)["workers"]) == 1


def test_work_that_no_node_can_run_names_a_node_that_had_the_resources_and_is_gone(node):
    machine = node.machine
    gone = b"gone\0\0\0\0"
    row = {"node_id": b"g" * 28, "endpoint": "tcp://10.0.0.9:1", "total": {"scanner": 10_000, "CPU": 10_000},
           "shown": {"NodeID": "67" * 28, "NodeName": "scanner-host"}, "labels": {}}
    machine.cluster.joined(gone, row)
    machine.cluster.node_ended(gone, "its process has ended")
    node.want(want=1, demand={"scanner": 10_000})
    (waiting,) = ask(node, "leases")["waiting"]
    assert waiting["detail"].endswith("; the node scanner-host had it, and is gone: its process has ended")
    node.want(key=2, want=1, demand={"telescope": 10_000})
    assert "gone" not in [row["detail"] for row in ask(node, "leases")["waiting"] if "telescope" in row["demand"]][0]
