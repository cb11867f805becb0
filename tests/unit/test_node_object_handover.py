"""What a leaving node hands on of its objects, and what the heirs hear before."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from tests.fakes.node_machine import NODE, MachineNode, only
from zray.node.peers.object_handover import ObjectHandover
from zray.store.transfer.exchange import HandoverProgress
from zray.wire import messages as m

HEIR, ELSEWHERE = b"heir\0\0\0\0", b"else\0\0\0\0"
THEIRS = ELSEWHERE[:4] + b"dr01"


class Store:
    """Says what is put into ``handed``, keeps what it was asked."""

    holds_any = True
    handed = HandoverProgress(True)

    def hand_over(self, heirs, needed):
        self.heirs, self.needed = heirs, needed
        return self.handed


@pytest.fixture
def leaver(tmp_path):
    node = MachineNode()
    node.bring_up()
    node.driver()
    node.say(ELSEWHERE, m.JobStart(77, THEIRS, {"sys_path": ["p"]}))
    store, rows = Store(), SimpleNamespace(unwritten=0)
    handover = ObjectHandover(NODE, node.machine.drivers, store, lambda: not rows.unwritten, str(tmp_path))
    return SimpleNamespace(node=node, store=store, rows=rows, handover=handover, mark=tmp_path / "leaving")


def test_heirs_hear_of_the_jobs_whose_objects_they_get(leaver):
    leaver.handover({HEIR})
    assert [(peer, said.job) for peer, said in leaver.node.take() if type(said) is m.JobStart] == [(HEIR, 77)]
    leaver.handover({HEIR})
    assert not only(leaver.node.take(), m.JobStart), "once"


def test_a_node_without_objects_tells_nobody(leaver):
    leaver.store.holds_any = False
    leaver.handover({HEIR})
    assert not leaver.node.take()


def test_objects_of_a_driver_here_end_with_it_and_those_of_others_are_needed(leaver):
    leaver.handover({HEIR})
    [own] = [job.number for job in leaver.node.machine.jobs.jobs.values() if job.driver[:4] == NODE[:4]]
    assert leaver.store.needed((77).to_bytes(4, "big") + bytes(24))
    assert not leaver.store.needed(own.to_bytes(4, "big") + bytes(24))
    assert not leaver.store.needed((78).to_bytes(4, "big") + bytes(24)), "of a job that nobody knows"


def test_it_is_done_when_the_control_store_knows_where_all_is(leaver):
    leaver.rows.unwritten = 1
    assert not leaver.handover({HEIR}).done
    leaver.rows.unwritten = 0
    assert leaver.handover({HEIR}).done


def test_while_objects_move_the_session_says_so(leaver):
    leaver.store.handed = HandoverProgress(False, moved=1)
    leaver.handover({HEIR})
    os.utime(leaver.mark, (1, 1))
    leaver.handover({HEIR})
    assert leaver.mark.stat().st_mtime == 1
    leaver.store.handed = HandoverProgress(False, moved=2)
    leaver.handover({HEIR})
    assert leaver.mark.stat().st_mtime > 1
