"""Each rule by which zray.node.jobs.unheld frees, or does not free, what a dead owner has left in the store."""

from __future__ import annotations

import pytest

from tests.oracles.unheld_world import SETTLE_S, HoldingProcess, UnheldWorld, run_schedule
from zray.node.jobs.unheld import Unheld
from zray.store.header import OWNER_UNKNOWN
from zray.store.node.ownerless import OwnerlessObject
from zray.wire.messages import AskHeld, Held

ME, OTHER = b"nodA\0\0\0\0", b"nodB\0\0\0\0"
OWNER, ONE, TWO = (b"nodA" + bytes((0, 0, 0, n)) for n in (1, 2, 3))
OID = b"o" * 28


class NodeWithUnheldObject:
    """A node with one object of a dead owner in its store; its processes answer as a test sets."""

    def __init__(self, *, others=(), now=100.0):
        self.processes, self.others, self.sent, self.learned = [OWNER, ONE, TWO], list(others), [], []
        self.objects = [OwnerlessObject(OID, 0, 1, OWNER)]
        self.kept = set()
        self.machine = Unheld(
            ME, lambda peer, message: self.sent.append((peer, message)), processes=lambda: self.processes,
            nodes=lambda: self.others, has_ended=lambda process: False, kept=lambda: self.kept, announce=lambda: None,
            learn=self.learned.append,
            ownerless=lambda ended: [one for one in self.objects if one.owner == OWNER_UNKNOWN or ended(one.owner)],
            free=lambda found: [self.objects.remove(one) for one in found], settle_s=SETTLE_S)
        self.machine.now = now
        self.end(OWNER)

    def end(self, process):
        self.processes.remove(process)
        self.machine.process_ended(process, self.machine.now)

    def tick(self):
        """The questions that come of it."""
        due = self.machine.next_deadline()
        if due is not None:
            self.machine.tick(due)
        return self.take()

    def take(self):
        sent, self.sent = self.sent, []
        return dict(sent)

    def say(self, peer, question, *held, unsure="", ends=()):
        self.machine.on_held(peer, Held(question.asker, question.number, question.again, list(held), unsure,
                                        list(ends)))
        return self.take()


def test_what_nobody_holds_at_both_questions_is_freed():
    node = NodeWithUnheldObject()
    asked = node.tick()
    assert asked.keys() == {ONE, TWO} and asked[ONE].oids == [OID] and not asked[ONE].again
    assert not node.say(ONE, asked[ONE])
    again = node.say(TWO, asked[TWO])
    assert again.keys() == {ONE, TWO} and again[ONE].again and node.objects
    node.say(ONE, again[ONE])
    assert node.objects, "a process that stands still has not answered"
    node.say(TWO, again[TWO])
    assert not node.objects and node.machine.next_deadline() is None


@pytest.mark.parametrize("at", [0, 1])
def test_what_somebody_holds_at_either_question_stays_and_is_asked_for_again_later(at):
    node = NodeWithUnheldObject()
    asked = node.tick()
    for question in (0, 1)[:at + 1]:
        node.say(ONE, asked[ONE])
        asked = node.say(TWO, asked[TWO], *([OID] if question == at else []))
    assert not asked and node.objects and node.machine.next_deadline() is not None
    asked = node.tick()
    assert asked[ONE].number == 2 and not asked[ONE].again


@pytest.mark.parametrize("again", [False, True])
def test_a_process_that_is_unsure_or_ends_at_either_question_makes_it_begin_anew(again):
    for happens in (lambda node, question: node.say(TWO, question, unsure="why"), lambda node, _: node.end(TWO)):
        node = NodeWithUnheldObject()
        asked = node.tick()
        if again:
            node.say(ONE, asked[ONE])
            asked = node.say(TWO, asked[TWO])
        node.say(ONE, asked[ONE])
        happens(node, asked[TWO])
        assert node.objects and node.machine.round is None
        assert not node.tick()[ONE].again


def test_a_process_that_ends_between_its_answer_and_the_second_question_makes_it_begin_anew():
    node = NodeWithUnheldObject()
    asked = node.tick()
    node.say(ONE, asked[ONE])
    node.end(ONE)
    node.say(TWO, asked[TWO])
    assert node.objects and node.machine.round is None and node.machine.next_deadline() is not None


def test_the_arguments_of_an_actor_that_may_restart_stay():
    node = NodeWithUnheldObject()
    node.kept = {OID}
    asked = node.tick()
    node.say(ONE, asked[ONE])
    assert not node.say(TWO, asked[TWO]) and node.objects


def test_every_node_answers_for_its_processes_and_must_have_heard_of_the_ends_that_others_announced():
    node = NodeWithUnheldObject(others=[OTHER])
    asked = node.tick()
    assert asked[OTHER].owners == [OWNER]
    node.say(ONE, asked[ONE])
    node.say(TWO, asked[TWO])
    again = node.say(OTHER, asked[OTHER], ends=[[ME, 3]])
    assert again[OTHER].ends == [[ME, 0]], "it has told us of three"
    assert node.objects and ONE not in again and node.machine.round is None, "and we have heard of none"


@pytest.mark.parametrize("known", [[OTHER], [OTHER, b"nodC\0\0\0\0"]])
def test_a_node_that_the_asking_one_does_not_know_makes_it_begin_anew(known):
    node = NodeWithUnheldObject(others=[OTHER])
    asked = node.tick()
    node.say(OTHER, asked[OTHER], ends=[[other, 0] for other in (ME, *known[1:])])
    assert (node.machine.round is None) == (len(known) > 1)


def test_nothing_is_asked_while_a_node_has_just_come_or_gone():
    node = NodeWithUnheldObject(others=[OTHER])
    node.machine.nodes_changed(node.machine.now)
    assert not node.tick() or node.machine.now >= 100.0 + SETTLE_S
    node.machine.on_ask(OTHER, AskHeld(OTHER, 1, False, [OID], [], []))
    assert node.take()


def test_a_node_that_has_just_seen_another_come_is_unsure():
    node = NodeWithUnheldObject(others=[OTHER])
    node.machine.nodes_changed(node.machine.now)
    node.machine.on_ask(OTHER, AskHeld(OTHER, 1, False, [OID], [], []))
    assert node.take()[OTHER].unsure


def test_a_node_that_joined_after_the_owner_had_ended_learns_it_with_the_question():
    node = NodeWithUnheldObject(others=[OTHER])
    dead = b"nodB\0\0\0\x07"
    node.machine.on_ask(OTHER, AskHeld(OTHER, 1, False, [OID], [dead], []))
    assert node.learned == [dead]


def test_an_owner_that_lives_here_is_not_taken_for_dead():
    node = NodeWithUnheldObject(others=[OTHER])
    node.machine.on_ask(OTHER, AskHeld(OTHER, 1, False, [OID], [ONE], []))
    assert node.take()[OTHER].unsure == "the owner lives"


def test_many_objects_have_their_turns_although_those_before_them_are_held():
    node = NodeWithUnheldObject()
    node.objects = [OwnerlessObject(b"%028d" % n, 0, n, OWNER) for n in range(1200)]
    held = {one.oid for one in node.objects[:1100]}
    for _ in range(6):
        asked = node.tick()
        while asked:
            node.say(ONE, asked[ONE])
            asked = node.say(TWO, asked[TWO], *held.intersection(asked[TWO].oids))
    assert {one.oid for one in node.objects} == held


def process():
    return HoldingProcess(UnheldWorld(lambda choices: choices[0]), ONE)


def ask(process, *, again, number=1):
    process.holding.on_ask(ME, AskHeld(ME, number, again, [OID], [], []))
    return process.world.channels[ONE, ME].pop()


def test_a_process_that_held_it_between_the_questions_says_so():
    holder = process()
    assert not ask(holder, again=False).held
    holder.take(OID)
    holder.let_go(OID)
    assert ask(holder, again=True).held == [OID] and not holder.watched


def test_a_process_watches_nothing_for_a_node_that_died_between_its_questions():
    holder = process()
    ask(holder, again=False)
    assert holder.watched
    holder.holding.node_ended(ME)
    assert not holder.watched and ask(holder, again=True).unsure


def test_a_process_that_was_not_asked_the_first_question_is_unsure():
    assert ask(process(), again=True).unsure
    holder = process()
    ask(holder, again=False)
    assert ask(holder, again=True, number=2).unsure


def test_a_process_with_an_undrained_connection_to_a_dead_one_is_unsure():
    holder = process()
    holder.ended.add(TWO)
    holder.world.channels[TWO, ONE] = []
    assert ask(holder, again=False).unsure


def test_schedules_by_seed():
    for seed in range(40):
        run_schedule(seed)
