"""RemoveGroup for a group of another node, as a NodeMachine passes it on: that node may die with it."""

from __future__ import annotations

import pytest

from tests.fakes.node_machine import NODE
from tests.unit.test_node_foreign_jobs import GROUP, HOME, THIRD, NodeOfForeignGroup
from tests.unit.test_node_groups import DRIVER
from zray.base.causes import Cause
from zray.node.groups import service as group_service
from zray.node.groups.table import ADOPTION_STEP
from zray.wire import messages as m

REMOVE = m.RemoveGroup(GROUP, "by me")


def said(state: str, version: int, nodes: tuple[bytes, ...] = (NODE,), detail: str = "") -> m.GroupState:
    return m.GroupState(GROUP, version, state, list(nodes), {"cause": int(Cause.READY), "detail": detail})


REMOVED = said("REMOVED", 2, (b"",), "by another")
ADOPTED = said("CREATED", 1 + ADOPTION_STEP)


@pytest.fixture
def node():
    return NodeOfForeignGroup()


def removals(sent):
    return [peer for peer, message in sent if isinstance(message, m.RemoveGroup)]


def later(node):
    node.now = node.machine.groups.next_deadline()
    node.machine.tick(node.now)
    return node.take()


def test_a_removal_goes_to_the_home_of_the_group_which_is_asked_how_the_group_goes_on(node):
    sent = node.say(DRIVER, REMOVE)
    assert sent == [(THIRD, m.WatchGroup(GROUP)), (THIRD, REMOVE)]


def test_a_removal_that_died_with_the_home_is_done_by_the_node_that_asked_when_it_adopts_the_group(node):
    node.say(DRIVER, REMOVE)
    node.adopt(detached=True)
    assert node.state() == "REMOVED" and node.names.groups[GROUP]["detail"] == "by me"


def test_a_removal_that_died_with_the_home_is_asked_of_every_later_home_until_one_has_done_it(node):
    node.say(DRIVER, REMOVE)
    node.gone(THIRD)
    assert removals(node.say(HOME, ADOPTED)) == [HOME]
    node.adopt_from(HOME)
    assert node.state() == "REMOVED"


def test_a_removal_is_asked_of_a_new_home_that_is_heard_of_before_the_death_of_the_last_one(node):
    node.say(DRIVER, REMOVE)
    assert removals(node.say(HOME, ADOPTED)) == [HOME]
    node.gone(THIRD)
    assert not removals(node.say(HOME, said("REMOVED", 2 + ADOPTION_STEP)))


def test_a_removal_of_a_group_of_a_dead_home_waits_for_the_next_one_also_where_the_group_is_unknown(node):
    node.gone(THIRD)
    assert not removals(node.say(DRIVER, REMOVE))
    assert removals(node.say(HOME, ADOPTED)) == [HOME]


def test_a_removal_is_forgotten_when_the_group_is_removed(node):
    node.say(DRIVER, REMOVE)
    node.say(THIRD, REMOVED)
    assert not node.machine.groups._removes
    assert removals(node.say(DRIVER, REMOVE)) == [THIRD], "again, by another process"
    assert not node.machine.groups._removes


def test_a_removal_is_forgotten_when_nobody_adopts_the_group(node):
    node.say(DRIVER, REMOVE)
    node.gone(THIRD)
    later(node)
    assert not node.machine.groups._removes and node.machine.groups.next_deadline() is None


def test_a_home_that_adopts_the_group_very_late_still_hears_of_its_removal(node):
    node.say(DRIVER, REMOVE)
    node.gone(THIRD)
    later(node)
    assert removals(node.say(HOME, ADOPTED)) == [HOME]


def test_a_home_that_adopts_very_late_hears_of_no_removal_that_nobody_asked_for(node):
    node.say(DRIVER, m.WatchGroup(GROUP))
    node.gone(THIRD)
    [state] = [message for _, message in later(node) if isinstance(message, m.GroupState)]
    assert state.state == "REMOVED" and "died" in state.cause["detail"]
    assert not removals(node.say(HOME, ADOPTED))


def test_a_new_home_whose_row_is_older_than_the_removal_hears_of_it_from_who_knows(node):
    """The home died after it had said so and before the row was written."""
    node.say(DRIVER, m.WatchGroup(GROUP))
    node.say(THIRD, REMOVED)
    [(peer, removal)] = [s for s in node.say(HOME, ADOPTED) if isinstance(s[1], m.RemoveGroup)]
    assert peer == HOME and removal.reason == "by another"


def test_the_node_that_adopts_a_group_which_it_knows_to_be_removed_removes_it(node):
    node.say(DRIVER, m.WatchGroup(GROUP))
    node.say(THIRD, REMOVED)
    node.adopt(detached=True)
    assert node.state() == "REMOVED"


def test_removals_of_homes_that_do_not_answer_are_kept_up_to_a_number(node, monkeypatch):
    monkeypatch.setattr(group_service, "REMOVES_KEPT_MAX", 3)
    for number in range(5):
        node.say(DRIVER, m.RemoveGroup(GROUP[:-1] + bytes([number]), ""))
    assert [group[-1] for group in node.machine.groups._removes] == [2, 3, 4]


def test_a_removal_of_what_is_no_group_is_not_passed_on(node):
    assert not node.say(DRIVER, m.RemoveGroup(THIRD, ""))


def test_a_node_that_did_not_hear_of_the_adoption_finds_the_new_home_in_the_row(node):
    """It joined after that."""
    node.gone(THIRD)
    node.names.groups[GROUP] = {"home": HOME, "state": "CREATED"}
    assert node.say(DRIVER, REMOVE) == [(HOME, m.WatchGroup(GROUP))]
    assert removals(node.say(HOME, ADOPTED)) == [HOME]


@pytest.mark.parametrize("ended", [HOME, b"newc\0\0\0\0"], ids=["a peer", "a node without a row"])
def test_the_groups_hear_of_the_end_of_a_node_once_and_never_of_their_own(node, monkeypatch, ended):
    heard = []
    monkeypatch.setattr(node.machine.groups, "node_ended", heard.append)
    for _ in range(2):
        node.gone(ended)
        node.gone(NODE)
    assert heard == [ended] and NODE not in node.machine.context.ends.nodes
