"""A member of a cluster: who joins through it, whom it knows, who leaves."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import pytest

from tests.fakes.node_machine import NODE
from tests.fakes.node_parts import PEER, THIRD, Parts, row
from zray.gcs.configuration.control import FENCED
from zray.gcs.replica.tables import NODES, Change, pack_record
from zray.node.peers.member import (
    ADMIT_S,
    JOIN_CHARS_MAX,
    PYTHON_RELEASE,
    RENEW_TICKET_S,
    UNKNOWN_NODES_S,
    Member,
    MemberPorts,
    unfit,
)
from zray.wire import messages as m

FOURTH = b"four\0\0\0\0"
JOIN = m.NodeJoin(m.PROTOCOL, PYTHON_RELEASE, "0", row(THIRD))


class Joined(Parts):
    """A member with PEER; ``admissions`` are what the control store is asked, as (row, then)."""

    def __init__(self):
        super().__init__(PEER)
        self.admissions, self.why_unfit, self.involved = [], "", ()
        links = SimpleNamespace(closed=lambda node: node == PEER, welcomed=self.call("welcomed"),
                                next_deadline=lambda: None, tick=lambda now: None)
        gcs = SimpleNamespace(
            client=SimpleNamespace(watch=lambda prefix, changed: setattr(self, "changed", changed)),
            config=self, admit=lambda *admission: self.admissions.append(admission), hints=lambda: ["hint"],
            trouble=lambda: "", fenced=self.call("fenced"), peer_closed=self.call("peer_closed"))
        self.member = Member(MemberPorts(
            lambda: self.context.now, self.context.send, self.cluster, self.context.ends, gcs, links, "c", {"x": 1},
            row(NODE), unfit=lambda peer, message: self.why_unfit, may_dial=self.call("may_dial"),
            may_not_dial=self.call("may_not_dial"), node_joined=self.call("node_joined"),
            node_leaves=self.call("node_leaves"), node_ended=self.call("node_ended"), warn=self.call("warn"),
            mint=map("ticket {}".format, count(1)).__next__))
        self.member.start([])
        self.take()

    def hear(self, peer, message):
        self.member.handlers[message.CODE](peer, message)
        return self.take()

    def table(self, node, **more):
        self.changed(False, [Change(NODES + node, 1, pack_record(row(node, **more)))])

    def asked(self, *names):
        return [call for call in self.calls if call[0] in names]


@pytest.fixture
def joined():
    return Joined()


def test_a_newcomer_that_the_control_store_takes_in_gets_the_rows_and_may_dial(joined):
    assert not joined.hear(THIRD, JOIN)
    [(_, then)] = joined.admissions
    then("", 5)
    [(peer, answer)] = joined.take()
    assert peer == THIRD and (answer.refused, answer.ordinal, answer.gcs) == ("", 5, ["hint"])
    assert [found["node_id"][:8] for found in answer.rows] == [NODE, PEER]
    assert joined.asked("may_dial") == [("may_dial", JOIN.row)]


def test_a_newcomer_that_does_not_fit_or_is_refused_gets_the_reason(joined):
    joined.why_unfit = "too old"
    assert [said.refused for _, said in joined.hear(THIRD, JOIN)] == ["too old"] and not joined.admissions
    joined.why_unfit = ""
    joined.hear(THIRD, JOIN)
    joined.admissions[0][1]("no room", 0)
    [(_, answer)] = joined.take()
    assert answer.refused == "no room" and not answer.rows and not joined.asked("may_dial")


def test_a_newcomer_is_told_in_time_that_the_control_store_does_not_answer(joined):
    joined.hear(THIRD, JOIN)
    due = joined.member.next_deadline()
    assert due == joined.context.now + ADMIT_S
    joined.member.tick(due)
    assert "has not answered" in joined.take()[0][1].refused
    joined.admissions[0][1]("", 5)
    assert not joined.take(), "too late"


def test_what_the_nodes_table_says_opens_and_closes_the_door(joined):
    joined.table(THIRD)
    joined.table(PEER, state="dead", reason="by a test")
    joined.table(THIRD, state="left", reason="done")
    assert [call[:2] for call in joined.asked("node_joined", "may_not_dial")] == [
        ("node_joined", THIRD), ("may_not_dial", PEER), ("may_not_dial", THIRD)]
    ended = [("node_ended", PEER, "by a test"), ("node_ended", THIRD, "it has left (done)")]
    assert joined.asked("node_ended") == ended
    joined.table(NODE)
    assert len(joined.asked("node_joined")) == 1, "its own row is no news"


def test_a_node_that_is_declared_dead_is_told_so_though_it_may_never_speak_to_this_one(joined):
    joined.table(PEER, state="dead", reason="by a test")
    assert joined.take() == [(PEER, m.NodeStanding(PEER, FENCED, "by a test"))]
    joined.table(THIRD)
    joined.table(THIRD, state="left", reason="done")
    joined.table(FOURTH, state="dead", reason="never a peer of this node")
    assert not joined.take()


def test_a_node_that_leaves_is_no_heir_until_it_is_gone(joined):
    joined.hear(PEER, m.NodeLeave("why"))
    joined.hear(FOURTH, m.NodeLeave("a stranger"))
    assert joined.member.leavers == {PEER} and [call[1] for call in joined.asked("node_leaves")] == [PEER]
    joined.table(PEER, state="left")
    assert not joined.member.leavers


def test_nodes_with_a_part_in_the_control_store_that_are_unknown_are_asked_for_until_they_are_not(joined):
    joined.involved = (NODE, PEER, FOURTH)
    joined.member.ask_for_unknown_nodes()
    assert joined.take() == [(PEER, m.NodeRows(True, []))]
    due = joined.member.next_deadline()
    assert due == joined.context.now + UNKNOWN_NODES_S
    joined.member.tick(due)
    assert joined.take() == [(PEER, m.NodeRows(True, []))]
    joined.cluster.joined(FOURTH, row(FOURTH))
    joined.hear(PEER, m.NodeRows(False, [row(FOURTH), "nonsense", {}]))
    assert joined.member.next_deadline() is None and [call[1] for call in joined.asked("node_joined")] == [FOURTH]


def test_only_nodes_of_the_cluster_get_its_rows(joined):
    assert not joined.hear(FOURTH, m.NodeRows(True, []))
    [(_, answer)] = joined.hear(PEER, m.NodeRows(True, []))
    assert len(answer.rows) == 2


def test_a_node_that_leaves_says_whom_it_knows_so_that_a_late_one_is_not_left_alone(joined):
    joined.cluster.joined(THIRD, row(THIRD))
    joined.member.announce_leave("done")
    sent = joined.take()
    assert [(peer, type(said)) for peer, said in sent] == [
        (node, kind) for node in sorted((PEER, THIRD)) for kind in (m.NodeRows, m.NodeLeave)]
    assert {found["node_id"][:8] for found in sent[0][1].rows} == {NODE, PEER, THIRD} and not sent[0][1].asks


def test_the_control_store_hears_of_links_and_proofs(joined):
    joined.member.closed(PEER)
    joined.member.closed(FOURTH)
    joined.member.proven_dead(PEER)
    joined.member.revoked(PEER)
    assert joined.asked("peer_closed", "fenced")[:2] == [("peer_closed", PEER, False), ("peer_closed", PEER, True)]
    assert joined.member.suspected_nodes == {PEER} and joined.asked("fenced")


def test_a_newcomer_whose_only_node_has_ended_ends_because_no_other_can_reach_it(joined):
    joined.involved = (PEER, THIRD)
    joined.member.proven_dead(PEER)
    [(_, reason)] = joined.asked("fenced")
    assert "all nodes that it knew have ended" in reason


@pytest.mark.parametrize("knows", ["a part", "another node"])
def test_a_node_with_a_part_or_another_node_outlives_the_end_of_one(joined, knows):
    joined.involved = (PEER, NODE) if knows == "a part" else (PEER, THIRD)
    if knows == "another node":
        joined.cluster.joined(THIRD, row(THIRD))
    joined.member.proven_dead(PEER)
    assert not joined.asked("fenced")


def test_a_greeting_is_an_answer_or_a_warning(joined):
    joined.hear(PEER, m.HelloAck(m.PROTOCOL, "node", [], ""))
    joined.hear(PEER, m.HelloAck(m.PROTOCOL, "node", [], "no"))
    assert [call[0] for call in joined.calls if call[0] in ("welcomed", "warn")] == ["welcomed", "warn"]


@pytest.mark.parametrize("change, why", [
    ({"protocol": 0}, "protocol"), ({"python": "2.7.1"}, "Python"), ({"row": {}}, "no node_id"),
    ({"row": row(FOURTH)}, "not that of its connection"), ({"row": row(THIRD, total={"CPU": -1})}, "amounts"),
    ({"row": row(THIRD, labels={"a": 1})}, "not text"), ({"row": row(THIRD, endpoint="nowhere")}, "endpoint"),
])
def test_what_makes_a_node_unfit(change, why):
    assert unfit(THIRD, JOIN, True, print) == ""
    assert why in unfit(THIRD, JOIN._replace(**change), True, print)


# ---------------------------------------------------------------- the way back


def test_nodes_give_each_other_a_join_string_and_replace_it_before_it_expires(joined):
    joined.cluster.joined(THIRD, row(THIRD))
    welcome = m.HelloAck(m.PROTOCOL, "node", [], "")
    assert joined.hear(PEER, welcome) == [(PEER, m.NodeTicket("ticket 1"))]
    assert joined.hear(PEER, welcome) == [(PEER, m.NodeTicket("ticket 1"))], "one for all, again after a redial"
    assert not joined.hear(FOURTH, welcome), "no node of the cluster"
    due = joined.member.next_deadline()
    assert due == joined.context.now + RENEW_TICKET_S
    joined.context.now = due
    joined.member.tick(due)
    assert joined.take() == [(node, m.NodeTicket("ticket 2")) for node in sorted((PEER, THIRD))]
    assert joined.member.next_deadline() == due + RENEW_TICKET_S


def test_the_ways_back_are_the_join_strings_of_the_nodes_that_live(joined):
    joined.cluster.joined(THIRD, row(THIRD))
    for peer, said in ((PEER, "old"), (PEER, "p"), (THIRD, "t"), (FOURTH, "f"), (THIRD, "x" * (JOIN_CHARS_MAX + 1))):
        joined.hear(peer, m.NodeTicket(said))
    assert joined.member.ways_back() == ["p", "t"]
    joined.table(PEER, state="dead", reason="by a test")
    assert joined.member.ways_back() == ["t"]
