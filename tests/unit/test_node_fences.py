"""The fence of an ended owner: it is answered when no worker of any node serves that owner."""

from __future__ import annotations

from types import SimpleNamespace

from zray.base.ends import Ends
from zray.node.context import NodeContext
from zray.node.leases.fences import FencePorts, Fences
from zray.wire import messages as m

ME, OTHER, THIRD = b"me__\0\0\0\0", b"othr\0\0\0\0", b"thrd\0\0\0\0"
CLIENT, OWNER, FOREIGN = b"me__\0\0\0\1", b"me__\0\0\0\2", b"othr\0\0\0\5"


class Node:
    def __init__(self):
        self.context = NodeContext(ME, Ends())
        self.placements: dict[int, object] = {}
        self.processes = {CLIENT}
        self.peers = {OTHER, THIRD}
        self.learned: list[bytes] = []
        self.fences = Fences(self.context, FencePorts(
            self.placements, nodes=lambda: self.peers, is_process=self.processes.__contains__,
            learn=self.learned.append))

    def hear(self, peer, message):
        self.fences.handlers[message.CODE](peer, message)
        return self.settle()

    def settle(self):
        self.fences.settle()
        self.fences.check()
        sent = [(effect.peer, effect.message) for effect in self.context.effects]
        self.context.effects.clear()
        return sent


def serving(owner, actor=b""):
    return SimpleNamespace(owner=owner, actor=actor)


def test_a_process_is_answered_when_all_nodes_have_answered_and_no_worker_here_serves_the_owner():
    node = Node()
    node.placements[1] = serving(OWNER)
    asked = node.hear(CLIENT, m.FenceOwner(7, OWNER))
    assert asked == [(OTHER, m.FenceOwner(0, OWNER)), (THIRD, m.FenceOwner(0, OWNER))]
    assert node.hear(OTHER, m.OwnerFenced(0, OWNER)) == node.hear(THIRD, m.OwnerFenced(0, OWNER)) == []
    node.placements[2] = serving(OWNER, b"actor")  # its actors end with it, and are no attempts
    del node.placements[1]
    assert node.settle() == [(CLIENT, m.OwnerFenced(7, OWNER))]


def test_a_second_process_joins_the_question():
    node = Node()
    node.processes.add(b"me__\0\0\0\3")
    node.hear(CLIENT, m.FenceOwner(1, OWNER))
    assert node.hear(b"me__\0\0\0\3", m.FenceOwner(2, OWNER)) == []
    node.hear(OTHER, m.OwnerFenced(0, OWNER))
    assert len(node.hear(THIRD, m.OwnerFenced(0, OWNER))) == 2


def test_a_node_that_ends_is_not_waited_for():
    node = Node()
    node.hear(CLIENT, m.FenceOwner(1, OWNER))
    node.hear(OTHER, m.OwnerFenced(0, OWNER))
    node.peers.discard(THIRD)
    node.fences.node_ended(THIRD)
    assert node.settle() == [(CLIENT, m.OwnerFenced(1, OWNER))]


def test_another_node_is_answered_once_the_owner_has_ended_here_too():
    node = Node()
    node.placements[1] = serving(FOREIGN)
    assert node.hear(OTHER, m.FenceOwner(0, FOREIGN)) == [] and node.learned == [FOREIGN]
    node.placements.clear()
    assert node.settle() == [(OTHER, m.OwnerFenced(0, FOREIGN))]
    node.processes.add(OWNER)  # it lives: another node cannot know better
    assert node.hear(OTHER, m.FenceOwner(0, OWNER)) == []
    node.processes.discard(OWNER)
    assert node.settle() == [(OTHER, m.OwnerFenced(0, OWNER))]


def test_the_question_of_a_stranger_is_refused():
    node = Node()
    node.fences.handlers[m.FenceOwner.CODE](b"xxxx\0\0\0\1", m.FenceOwner(1, OWNER))
    assert node.context.counts["refused"] == 1 and not node.fences.waiting
