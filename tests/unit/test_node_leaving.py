"""How a node leaves its cluster, and how it keeps its links: decided without processes."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from zray.base.ids import TAG_SIZE
from zray.node.peers.leaving import DRAIN_S_MAX, HAND_OVER_S_MAX, LEAVE_LOOK_S, LEAVE_S_MAX, NodeDeparture
from zray.node.peers.links import PROBE_AGAIN_S, PROBE_S_MAX, REDIAL_S, REDIAL_S_MAX, LinkPorts, Links
from zray.store.transfer.exchange import HandoverProgress

ME, A, B = b"me__\0\0\0\0", b"aaaa\0\0\0\0", b"bbbb\0\0\0\0"


class LeavingNode:
    """The machine and control store of a node that leaves at time 0, with peers A and B."""

    def __init__(self, voter: bytes):
        self.lent = True
        self.ends = 0
        self.did: list[str] = []
        self.leavers: set[bytes] = set()
        self.ended: set[bytes] = set()
        self.left = None
        machine = SimpleNamespace(incarnation=ME, cluster=SimpleNamespace(peers={A: {}, B: {}}),
                                  drain=lambda now: self.did.append("drain"), drained=lambda: not self.lent)
        gcs = SimpleNamespace(config=SimpleNamespace(voters=(voter,)), drain=lambda why: self.did.append(why),
                              leave=self._leave)
        self.handed = HandoverProgress(True)
        self.heirs: set[bytes] = set()
        self.reason = ""
        self.leaving = NodeDeparture("why", machine, gcs, self.leavers, self.ended, self._end, 0.0, self._hand_over)

    def _hand_over(self, heirs):
        self.heirs = heirs
        return self.handed

    def _leave(self, why, then):
        self.did.append("leave")
        self.reason = why
        self.left = then

    def _end(self):
        self.ends += 1


def test_it_drains_then_hands_on_then_ends_once():
    node = LeavingNode(voter=A)
    assert node.did == ["why", "drain"] and node.leaving.next_deadline() == DRAIN_S_MAX
    node.leaving.step(0.1)
    assert node.did == ["why", "drain"], "something is lent"
    node.lent = False
    node.leaving.step(0.2)
    node.leaving.step(0.3)
    assert node.did == ["why", "drain", "leave"] and not node.ends
    node.left()
    node.left()
    node.leaving.step(9.0)
    assert node.ends == 1 and node.leaving.next_deadline() is None


def test_it_waits_for_what_is_lent_and_for_the_control_store_only_so_long():
    node = LeavingNode(voter=A)
    node.leaving.step(DRAIN_S_MAX)
    assert node.did[-1] == "leave" and not node.ends
    node.leaving.step(DRAIN_S_MAX + LEAVE_S_MAX - 0.1)
    assert not node.ends
    node.leaving.step(DRAIN_S_MAX + LEAVE_S_MAX)
    assert node.ends == 1


def test_it_waits_for_its_objects_as_long_as_they_move_and_says_what_it_leaves_behind():
    node = LeavingNode(voter=A)
    node.lent = False
    node.handed = HandoverProgress(False, left=2, left_bytes=7000)
    now = 0.0
    for moved in range(1, 11):
        node.handed = node.handed._replace(moved=moved)
        now += DRAIN_S_MAX - 0.1
        node.leaving.step(now)
    assert node.did == ["why", "drain"] and node.leaving.next_deadline() <= now + LEAVE_LOOK_S
    node.handed = HandoverProgress(False, 1, 1000, 1, 6000, moved)
    node.leaving.step(now)
    node.leaving.step(now + DRAIN_S_MAX)
    assert node.did[-1] == "leave" and node.heirs == {A, B}
    assert node.reason == "why; objects left behind: 1 (6,000 bytes), handed over: 1 (1,000 bytes)"


def test_it_moves_objects_for_no_longer_than_allowed():
    node = LeavingNode(voter=A)
    node.lent = False
    now = 0.0
    while node.did[-1] != "leave":
        node.handed = HandoverProgress(False, left=1, moved=node.handed.moved + 1)
        now += 1.0
        node.leaving.step(now)
    assert HAND_OVER_S_MAX <= now <= HAND_OVER_S_MAX + 1.0


def test_nodes_that_leave_as_well_are_no_heirs():
    node = LeavingNode(voter=A)
    node.leavers.add(A)
    node.leaving.step(0.1)
    assert node.heirs == {B}


def test_when_all_leave_nobody_waits_but_the_first_voter_until_the_others_have_ended():
    node = LeavingNode(voter=A)
    node.leavers.add(A)
    node.leaving.step(0.1)
    assert not node.ends, "B stays"
    node.leavers.add(B)
    node.leaving.step(0.2)
    assert node.ends == 1
    first = LeavingNode(voter=ME)
    first.leavers |= {A, B}
    first.leaving.step(0.1)
    first.ended.add(A)
    first.leaving.step(0.2)
    assert not first.ends
    first.ended.add(B)
    first.leaving.step(0.3)
    assert first.ends == 1


class DiallingMesh:
    """Counts dials."""

    def __init__(self):
        self.dials: list[bytes] = []
        self.lasting: set[bytes] = set()
        self.insecure = False
        self.refused: list[bytes] = []

    def connect(self, node, endpoint):
        self.dials.append(node)

    def forget(self, node):
        pass

    def refuse(self, tag):
        self.refused.append(tag)


class Dialled:
    """Links, to A at first; ``error`` is how a probe comes out at once, None: not yet."""

    def __init__(self):
        self.mesh, self.now, self.error = DiallingMesh(), 0.0, 0
        self.greeted: list[bytes] = []
        self.probes: list[bytes] = []
        self.dead: list[bytes] = []
        self.revoked: list[bytes] = []
        self.answers: list[bytes] = []
        self.links = Links(self.mesh, LinkPorts(
            lambda: self.now, self.greeted.append, self._probe, end_probe=lambda node: None,
            proven_dead=self.dead.append, revoked=self.revoked.append, answers=self.answers.append))
        self.links.link(A, "tcp://a:1")

    def _probe(self, node, endpoint):
        self.probes.append(node)
        return self.error

    def closed(self, after=0.0):
        self.now += after
        self.links.closed(A)
        self.links.tick(self.now)


@pytest.fixture
def dialled():
    return Dialled()


def test_whatever_is_sent_over_a_broken_link_does_not_put_off_its_redial(dialled):
    dialled.closed()
    for _ in range(20):  # each message that cannot go is reported the same way
        dialled.now += REDIAL_S / 10
        dialled.links.closed(A)
    dialled.links.tick(dialled.now)
    assert dialled.mesh.dials == dialled.greeted == [A, A]


def test_the_pauses_between_redials_grow_to_a_bound_and_shrink_when_it_is_well(dialled):
    for _ in range(10):
        dialled.closed()
        dialled.now += REDIAL_S_MAX
        dialled.links.tick(dialled.now)
    assert len(dialled.mesh.dials) == 11
    dialled.links.welcomed(A)
    dialled.closed()
    dialled.now += REDIAL_S
    dialled.links.tick(dialled.now)
    assert len(dialled.mesh.dials) == 12


def test_to_be_turned_away_is_a_revocation_only_by_a_node_that_had_welcomed_us(dialled):
    dialled.mesh.on_turned_away(A)
    dialled.mesh.on_turned_away(B)
    assert not dialled.revoked
    dialled.links.welcomed(A)
    dialled.mesh.on_turned_away(A)
    assert dialled.revoked == [A]


def test_a_refused_connection_proves_the_end_of_a_process(dialled):
    dialled.error = errno.ECONNREFUSED
    dialled.closed()
    assert dialled.dead == [A]


def test_a_process_that_is_about_to_end_still_accepts_so_it_is_asked_again(dialled):
    dialled.closed()
    assert dialled.probes == [A] and not dialled.dead
    dialled.error = errno.ECONNREFUSED
    dialled.now += PROBE_AGAIN_S
    dialled.links.tick(dialled.now)
    assert dialled.dead == [A]


def test_silence_proves_nothing_and_is_given_up(dialled):
    dialled.error = None
    dialled.closed()
    dialled.closed()
    assert dialled.probes == [A], "one at a time"
    dialled.now += PROBE_S_MAX
    dialled.links.tick(dialled.now)
    dialled.links.probed(A, errno.ECONNREFUSED)
    assert not dialled.dead, "an answer after that is of no probe"


def test_an_answer_of_a_link_that_is_closed_is_old_news(dialled):
    dialled.mesh.on_answers(A)
    dialled.closed()
    dialled.mesh.on_answers(A)
    assert dialled.answers == [A]


def test_a_node_that_is_gone_is_hung_up_on_after_it_could_be_told(dialled):
    dialled.links.unlink(A)
    assert not dialled.mesh.refused
    assert not dialled.links.closed(A)
    assert dialled.mesh.refused == [A[:TAG_SIZE]] and dialled.links.next_deadline() is None
