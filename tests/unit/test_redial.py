"""Connections between machines that break: who asks, who waits, and when the peer is given up."""

from __future__ import annotations

import pytest

from zray.core.redial import REDIALS_MAX, RETURN_S, Redial
from zray.wire.messages import Dial

NODE, PEER, NEIGHBOUR = b"here\0\0\0\0", b"away\0\0\0\1", b"here\0\0\0\1"


class HeldMesh:
    """What Redial asks of a mesh."""

    def __init__(self):
        self.lasting, self.log = set(), []

    def hold(self, peer):
        self.log.append("hold")

    def resume(self, peer):
        self.log.append("resume")

    def forget(self, peer):
        self.log.append("forget")


class RedialBench:
    def __init__(self):
        self.mesh, self.sent, self.timers = HeldMesh(), [], []
        self.redial = Redial(self.mesh, NODE, lambda peer, message: self.sent.append((peer, message)),
                             lambda peer: self.sent.append((peer, "hello")),
                             lambda seconds, action: self.timers.append((seconds, action)))

    def timer(self):
        """Run the only timer; its seconds."""
        (seconds, action), = self.timers
        self.timers.clear()
        action()
        return seconds


@pytest.fixture
def bench():
    return RedialBench()


def test_a_peer_of_the_same_machine_is_closed_at_once(bench):
    bench.redial.heard_from(NEIGHBOUR)
    assert not bench.redial.closed(NEIGHBOUR)


def test_whom_we_dialled_is_looked_for_again(bench):
    bench.redial.dialling(PEER)
    bench.redial.heard_from(PEER)
    assert bench.redial.closed(PEER) and bench.mesh.log == ["hold"]
    assert bench.redial.closed(PEER) and len(bench.timers) == 1  # what is sent meanwhile is told the same
    assert bench.timer() == 0
    assert bench.sent == [(NODE, Dial(PEER)), (PEER, "hello")]


def test_it_is_out_of_reach_after_so_many_attempts_without_a_word(bench):
    bench.redial.dialling(PEER)
    pauses = []
    for _ in range(REDIALS_MAX):
        assert bench.redial.closed(PEER)
        pauses.append(bench.timer())
        bench.redial.found(PEER)
    assert not bench.redial.closed(PEER) and bench.mesh.log[-1] == "forget" and PEER not in bench.mesh.lasting
    assert pauses == sorted(pauses) and sum(pauses) < 2


def test_a_word_from_it_starts_the_count_anew(bench):
    bench.redial.dialling(PEER)
    for _ in range(3 * REDIALS_MAX):
        assert bench.redial.closed(PEER)
        assert bench.timer() == 0
        bench.redial.found(PEER)
        bench.redial.heard_from(PEER)


def test_when_its_node_says_that_it_has_ended_the_next_close_is_the_end(bench):
    bench.redial.dialling(PEER)
    assert bench.redial.closed(PEER)
    bench.timer()
    bench.redial.forget(PEER)
    assert not bench.redial.closed(PEER)


def test_whoever_dialled_us_is_waited_for(bench):
    bench.redial.heard_from(PEER)
    assert bench.redial.closed(PEER) and not bench.sent
    bench.redial.heard_from(PEER)
    assert bench.mesh.log == ["hold", "resume"]
    assert bench.timer() == RETURN_S and not bench.sent


def test_whoever_dialled_us_and_does_not_return_is_dialled(bench):
    bench.redial.heard_from(PEER)
    assert bench.redial.closed(PEER)
    bench.timer()
    assert bench.sent == [(NODE, Dial(PEER)), (PEER, "hello")]


def test_a_dial_that_was_put_off_is_void_when_it_has_come_back(bench):
    bench.redial.dialling(PEER)
    bench.redial.closed(PEER)
    bench.redial.heard_from(PEER)  # it dialled us meanwhile
    bench.timer()
    assert not bench.sent
