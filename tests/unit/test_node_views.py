"""Answers to questions about a node."""

from __future__ import annotations

import pytest

from tests.fakes.node_machine import MachineNode
from zray.wire import messages as m

WHATS = ["nodes", "resources", "available", "actors", "placement-groups", "workers", "leases", "store", "gcs", "jobs",
         "tasks", "timeline", "stats", "parents", "objects", "logs", "runtime-envs", "metrics", "output", "spans"]


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
