"""What a daemon does between its sockets: messages, turns, effects, stop and fence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes.node_machine import NODE, MachineNode
from tests.fakes.node_parts import DRIVER, PEER, THIRD, row
from zray.base.ports import changed
from zray.gcs.configuration.control import FENCED
from zray.node.daemon_machine import DaemonMachine, DaemonPorts, MemberShell, StopRequest
from zray.node.effects import (
    DropJob,
    EndJob,
    Forget,
    InstallEnvironment,
    Kill,
    Link,
    Note,
    RemoveInstalled,
    Send,
    Spawn,
    StopInstall,
    Watch,
)
from zray.node.peers.early import EARLY_KEPT_S
from zray.node.peers.leaving import NOTHING_TO_HAND_OVER
from zray.wire import messages as m

VOTE = m.LeaseAsk(1, 1)


class Gcs:
    """A control store that notes what it is told."""

    def __init__(self, notes):
        self.notes = notes
        self.handlers = dict.fromkeys((VOTE.CODE, m.NodeStanding.CODE), lambda peer, _: notes.append(("gcs", peer)))
        self.client = SimpleNamespace(watch=lambda *watch: None, drop_job=lambda job: notes.append(("drop_job", job)))
        self.config = SimpleNamespace(involved=(), voters=(NODE,))
        self.has_news, self.fenced_because, self.due = False, "", None

    def next_deadline(self):
        return self.due

    def __getattr__(self, name):
        return lambda *args: self.notes.append((name, *args))


class Shell:
    """A DaemonMachine and what it asks of its shell, in ``notes``."""

    def __init__(self, *peers, member=True, rejoins=True):
        self.node = MachineNode()
        self.now, self.notes, self.sent = 100.0, [], []
        self.gcs = Gcs(self.notes)
        mesh = SimpleNamespace(insecure=True, lasting=set(), connect=self.note("connect"), forget=self.note("hang_up"))
        shell = MemberShell(mesh, self.note("hello"), self.note("probe"), self.note("end_probe"), "c", row(NODE),
                            unfit=lambda peer, message: "", may_dial=self.note("may_dial"),
                            may_not_dial=self.note("may_not_dial"), warn=self.note("warn"),
                            settings={}, mint=lambda: "", rejoins=rejoins)
        self.ports = DaemonPorts(
            lambda: self.now, lambda peer, message: self.sent.append((peer, message)),
            handlers={m.StoreFree.CODE: lambda peer, message: self.notes.append(("store", peer))}, timed=[],
            **{name: self.note(name) for name in ("spawn", "kill", "watch", "note", "forget", "last_output",
                                                   "drop_objects", "node_ended", "left", "fenced", "error", "install",
                                                   "stop_install", "remove_installed")},
            hand_over=lambda heirs: NOTHING_TO_HAND_OVER)
        self.shell = shell if member else None
        self.core = DaemonMachine(self.gcs, self.node.machine, self.ports, self.shell)
        self.machine = self.node.machine
        for peer in peers:
            self.machine.node_joined(peer, row(peer), self.now)
        self.machine.effects.clear()

    def note(self, name):
        return lambda *args: self.notes.append((name, *args))

    def hear(self, peer, message):
        return self.core.deliver(peer, message.CODE, message, self.now)

    def heard(self):
        return [note for note in self.notes if note[0] in ("gcs", "store")]

    def refused(self):
        return self.machine.counts["refused"]


@pytest.fixture
def shell():
    return Shell(PEER)


# ---------------------------------------------------------------- messages


def test_each_message_goes_to_the_part_that_it_is_for(shell):
    assert shell.hear(PEER, VOTE) and shell.hear(DRIVER, m.StoreFree([]))
    assert shell.heard() == [("gcs", PEER), ("store", DRIVER)]
    shell.hear(DRIVER, m.Hello(m.PROTOCOL, "driver", "", 7, 0, "2.7", []))
    assert [type(effect.message) for effect in shell.machine.effects if type(effect) is Send] == [m.HelloAck]


def test_two_parts_that_want_the_same_message_cannot_be_composed(shell):
    twice = changed(shell.ports, handlers={VOTE.CODE: lambda peer, message: None})
    with pytest.raises(AssertionError, match="the same message"):
        DaemonMachine(shell.gcs, shell.machine, twice, shell.shell)


def test_what_a_daemon_says_before_the_nodes_table_has_told_of_it_is_heard_after_that_in_order(shell):
    ended = m.ProcessGone(THIRD[:4] + b"wrk1", "by a test")
    assert not shell.hear(THIRD, VOTE) and not shell.hear(THIRD, ended)
    assert not shell.heard() and shell.refused() == 0
    shell.machine.node_joined(THIRD, row(THIRD), shell.now)
    shell.hear(THIRD, VOTE)
    assert shell.heard() == [("gcs", THIRD)] * 2
    assert shell.machine.unheld._received == {THIRD: 1}, "and so the count of ends is right"


def test_a_node_that_becomes_known_and_says_no_more_is_heard_in_the_next_turn(shell):
    shell.hear(THIRD, VOTE)
    shell.core.turn()
    assert not shell.heard()
    shell.machine.node_joined(THIRD, row(THIRD), shell.now)
    shell.core.turn()
    assert shell.heard() == [("gcs", THIRD)]


def test_a_daemon_that_never_becomes_a_node_is_refused_in_the_end(shell):
    shell.hear(THIRD, VOTE)
    assert shell.core.next_deadline() <= shell.now + EARLY_KEPT_S
    shell.now += EARLY_KEPT_S
    shell.core.turn()
    assert shell.refused() == 1 and not shell.heard()


def test_what_a_newcomer_says_before_it_asks_to_join_is_not_heard_when_it_has_joined(shell):
    shell.hear(THIRD, VOTE)
    assert shell.hear(THIRD, m.NodeJoin(m.PROTOCOL, "3", "0", row(THIRD))) and shell.refused() == 1
    shell.machine.node_joined(THIRD, row(THIRD), shell.now)
    shell.core.turn()
    assert not shell.heard()


def test_a_daemon_that_joined_later_may_say_that_this_node_is_dead_and_nothing_else_about_nodes(shell):
    gone, released = m.NodeStanding(PEER, "gone", ""), m.NodeStanding(THIRD, "released", "")
    assert not shell.hear(THIRD, gone) and not shell.hear(THIRD, released)
    assert not shell.hear(THIRD, m.NodeStanding(PEER, FENCED, "another node"))
    assert not shell.heard()
    assert shell.hear(THIRD, m.NodeStanding(NODE, FENCED, "unheard of"))
    assert shell.heard() == [("gcs", THIRD)]


def test_processes_of_unknown_nodes_are_refused_at_once_and_newcomers_may_introduce_themselves(shell):
    assert not shell.hear(THIRD[:4] + b"wrk1", VOTE) and shell.refused() == 1
    assert shell.hear(THIRD, m.Hello(m.PROTOCOL, "node", "", 7, 0, "", []))
    assert not shell.hear(THIRD, m.ViewRows([])) and shell.refused() == 1, "it says that again"


def test_a_node_that_has_ended_is_told_so_and_not_heard(shell):
    for _ in range(2):
        shell.core.node_ended(PEER, "by a test")
    assert shell.notes.count(("node_ended", PEER)) == 1
    assert not shell.hear(PEER, VOTE) and not shell.heard() and ("node_ended", PEER) in shell.notes
    [(peer, standing)] = shell.sent
    assert peer == PEER and type(standing) is m.NodeStanding and standing.reason == "by a test"


# ---------------------------------------------------------------- turns and effects


def test_what_a_turn_makes_due_is_for_the_next(shell):
    ticks = []
    shell.gcs.tick = ticks.append
    shell.core.next_deadline()
    shell.gcs.due = 99.0
    shell.core.turn()
    assert not ticks
    assert shell.core.next_deadline() == 99.0
    shell.core.turn()
    assert ticks == [100.0]


def test_heartbeats_that_are_due_go_out_before_other_work(shell):
    assert not shell.core.begin()
    shell.gcs.due = 100.0
    assert shell.core.begin() and ("tick", 100.0) in shell.notes


def test_an_answer_of_the_control_store_is_a_reason_for_a_turn(shell):
    shell.gcs.has_news = True
    assert shell.core.next_deadline() == shell.now
    shell.core.turn()
    assert not shell.gcs.has_news


def test_every_effect_reaches_the_shell(shell):
    worker = NODE[:4] + b"wrk1"
    shell.machine.effects += [
        Send(DRIVER, m.Bye("")), Spawn(worker + bytes(20)), Kill(worker), Watch(worker, 7), Note("x", {}),
        Forget(worker),
        InstallEnvironment(1, "{}", 3, {}), StopInstall(1), RemoveInstalled(("/x",)),
        EndJob(3, DRIVER, m.Bye("over")), DropJob(3), Link(THIRD, "tcp://t:1")]
    shell.core.perform()
    assert shell.sent == [(DRIVER, m.Bye("")), (DRIVER, m.Bye("over"))]
    assert [note[0] for note in shell.notes] == [
        "spawn", "kill", "watch", "note", "forget", "forget", "install", "stop_install", "remove_installed",
        "last_output", "drop_objects", "drop_job", "connect", "hello"]


def test_an_effect_that_fails_does_not_end_the_node(shell):
    def fails(effect):
        raise OSError("by a test")

    core = DaemonMachine(shell.gcs, shell.machine, changed(shell.ports, kill=fails), shell.shell)
    shell.machine.effects += [Kill(b"w"), Watch(b"d", 7)]
    core.perform()
    assert [note[0] for note in shell.notes] == ["error", "watch"]


# ---------------------------------------------------------------- the end


def test_a_node_without_others_ends_when_it_is_asked():
    for alone in (Shell(), Shell(member=False)):
        alone.core.stop(StopRequest.SESSION_CLOSED)
        assert alone.core.stopping == "the driver closed the session"


def test_a_member_leaves_first_and_ends_at_once_when_the_same_one_asks_again(shell):
    shell.core.stop(StopRequest.SESSION_CLOSED)
    shell.core.stop(StopRequest.SIGNAL)  # whoever closes the session also sends one
    assert not shell.core.stopping and shell.core.leaving is not None
    assert [(peer, type(said)) for peer, said in shell.sent] == [(PEER, m.NodeRows), (PEER, m.NodeLeave)]
    shell.core.stop(StopRequest.SESSION_CLOSED)
    assert shell.core.stopping == "the driver closed the session"


def test_a_leave_that_is_done_is_the_end(shell):
    left = []
    shell.gcs.leave = lambda why, then: left.append(then)
    shell.core.stop(StopRequest.SIGNAL)
    shell.core.turn()
    assert not shell.core.stopping
    left[0]()
    assert shell.core.stopping == "it was told to stop"
    assert shell.notes[-1] == ("left", "it was told to stop", NOTHING_TO_HAND_OVER)


def test_a_fenced_node_ends_at_once_and_the_shell_hears_whether_it_left_anyhow(shell):
    shell.core.fence("by a test")
    assert "by a test" in shell.core.stopping and shell.notes[-1] == ("fenced", "by a test", False)
    shell = Shell(PEER)
    shell.core.stop(StopRequest.SIGNAL)
    shell.core.fence("by a test")
    assert shell.notes[-1] == ("fenced", "by a test", True)


def test_a_fenced_node_that_may_join_again_has_the_ways_back_unless_it_leaves_or_is_told_to_stop():
    for rejoins, before, after, ways in (
            (True, (), (), ["zray://peer"]), (False, (), (), []), (True, (StopRequest.SIGNAL,), (), []),
            (True, (), (StopRequest.SIGNAL,), [])):
        shell = Shell(PEER, rejoins=rejoins)
        shell.hear(PEER, m.NodeTicket("zray://peer"))
        for request in before:
            shell.core.stop(request)
        shell.core.fence("by a test")
        for request in after:
            shell.core.stop(request)
        assert shell.core.ways_back == ways


def test_a_fenced_node_says_so_to_its_own_drivers(shell):
    shell.machine.jobs.by_driver = dict.fromkeys((DRIVER, PEER[:4] + b"drvr"))
    shell.core.fence("by a test")
    assert shell.sent == [(DRIVER, m.NodeStanding(NODE, FENCED, "by a test"))]


def test_a_broken_link_is_told_to_the_control_store(shell):
    shell.core._link(Link(THIRD, "tcp://t:1"))
    shell.core.closed(THIRD)
    shell.core.probed(THIRD, 111)  # ECONNREFUSED
    assert ("peer_closed", THIRD, False) in shell.notes and ("peer_closed", THIRD, True) in shell.notes
