"""Jobs of other nodes, as a NodeMachine hears of them: their end may come before their beginning, or not at all."""

from __future__ import annotations

import pytest

from tests.fakes.gcs_ports import gcs_ports
from tests.fakes.node_machine import CPU, NODE, spec
from tests.unit.test_node_groups import GroupNode
from zray.base.ids import group_id
from zray.gcs.service import GcsService
from zray.node.jobs.table import JOB_BITS, Job
from zray.node.names import GcsNames
from zray.wire import messages as m

HOME, THIRD = b"home\0\0\0\0", b"thrd\0\0\0\0"  # the driver's node, and another one that passes on
DRIVER = HOME[:4] + b"dr01"
ORDINAL = 3
JOB = (ORDINAL << JOB_BITS) + 1
START = m.JobStart(JOB, DRIVER, {})
GROUP = group_id(THIRD, bytes(16), 1)


def row(node, ordinal):
    return {"node_id": node + bytes(20), "endpoint": "tcp://127.0.0.1:1", "name": "", "total": CPU, "labels": {},
            "shown": {}, "state": "alive", "reason": "", "ordinal": ordinal}


class NodeOfForeignGroup(GroupNode):
    """A node with two others, and a group whose home is the third."""

    def __init__(self):
        super().__init__()
        for node, ordinal in ((HOME, ORDINAL), (THIRD, 4)):
            self.machine.node_joined(node, row(node, ordinal), self.now)
        self.take()

    def gone(self, node):
        self.machine.node_ended(node, "its process ended", self.now)
        self.take()

    def over(self):
        job = self.machine.jobs.jobs.get(JOB)
        return job is not None and job.is_over

    def adopt(self, detached=False):
        self.adopt_from(THIRD, detached)

    def adopt_from(self, home, detached=False):
        """The group's home dies, and its row makes this node the next."""
        self.names.groups[GROUP] = {
            "home": home, "state": "CREATED", "is_detached": detached, "creator_job_id": JOB, "units": [CPU],
            "strategy": "PACK", "name": "", "ray_namespace": "", "version": 1, "attempts": 1, "rounds": [1],
            "created_s": 0.0, "nodes": [NODE]}
        self.gone(home)

    def state(self):
        return self.machine.groups.table.groups[GROUP].state


@pytest.fixture
def node():
    return NodeOfForeignGroup()


@pytest.mark.parametrize("end", [
    m.JobEnd(JOB, "bye"), m.ProcessGone(DRIVER, "its process ended"),
], ids=["JobEnd", "ProcessGone"])
def test_a_job_that_begins_here_after_its_end_was_heard_of_is_over_at_once(node, end):
    node.say(HOME, end)
    node.say(THIRD, START)
    assert node.over()


def test_a_job_of_a_dead_node_is_over_at_once(node):
    node.gone(HOME)
    node.say(THIRD, START)
    assert node.over()


def test_a_node_registers_the_ends_of_others_and_of_jobs_and_forgets_its_own_processes(node):
    ends = node.machine.context.ends
    node.say(HOME, m.ProcessGone(DRIVER, "its process ended"))
    node.say(HOME, m.JobEnd(JOB, "bye"))
    node.machine.process_ended(NODE[:4] + b"wrk1", "killed")
    assert list(ends.processes) == [DRIVER] and list(ends.jobs) == [JOB] and not ends.nodes
    node.gone(THIRD)
    assert ends.nodes == {THIRD: "its process ended"}
    node.machine.check()


def test_of_a_job_that_is_passed_on_the_control_store_says_whether_it_goes_on(node):
    node.say(THIRD, START)
    assert not node.over()
    later = NodeOfForeignGroup()
    later.names.ended_jobs.add(JOB)
    later.say(THIRD, START)
    assert later.over()


def test_what_a_drivers_own_node_says_is_taken_as_it_is(node):
    node.names.ended_jobs.add(JOB)  # not of this one: its row is not written yet
    node.say(HOME, START)
    assert not node.over()
    node.say(HOME, m.JobEnd(JOB, "bye"))
    assert node.over()


def test_a_node_without_a_process_of_an_ended_job_keeps_it_while_an_actor_of_it_lives_elsewhere(node):
    """A node that joins late hears of the job when it has ended: the functions of its actors are in the control store
    for the whole cluster."""
    node.names.used_jobs.add(JOB)
    node.say(HOME, START)
    node.say(HOME, m.JobEnd(JOB, "its driver is gone"))
    assert node.over() and not node.dropped
    node.say(HOME, m.JobEnd(JOB, "its last actor has ended", True))
    assert node.dropped == [JOB]
    node.say(HOME, m.JobEnd(JOB, "its last actor has ended", True))
    assert node.dropped == [JOB], "once"


def test_an_ended_job_whose_last_actors_end_with_their_home_is_dropped_when_their_rows_say_so(node):
    """The rows say that they live until another node has read them, and then nobody tells of the end."""
    node.names.used_jobs.add(JOB)
    node.say(HOME, START)
    node.gone(HOME)
    assert node.over() and not node.dropped
    node.names.used_jobs.clear()
    due = node.machine.drivers.next_deadline()
    assert due > node.now and node.machine.next_deadline() <= due
    node.machine.tick(due)
    node.take()
    assert node.dropped == [JOB]
    assert node.machine.drivers.next_deadline() is None


def test_an_ended_job_without_actors_is_dropped_at_once(node):
    node.say(HOME, START)
    node.say(HOME, m.JobEnd(JOB, "its driver is gone"))
    assert node.dropped == [JOB]


def test_a_job_stays_while_a_home_says_that_its_actor_outlives_the_driver(node):
    """The row of that actor may still be under way to the control store, which then does not know of a use."""
    node.say(HOME, START)
    node.say(HOME, m.JobEnd(JOB, "its driver is gone", False, True))
    node.say(THIRD, m.JobEnd(JOB, "its driver is gone", False, True))
    assert node.over() and not node.dropped
    node.say(HOME, m.JobEnd(JOB, "its actors of this home have ended"))
    assert not node.dropped, "the other home has one"
    node.say(THIRD, m.JobEnd(JOB, "its last actor has ended", True))
    assert node.dropped == [JOB]


@pytest.mark.parametrize("dies", [True, False])
def test_a_job_that_stays_for_another_home_is_asked_about_when_that_home_ends(node, dies):
    node.say(HOME, START)
    node.say(HOME, m.JobEnd(JOB, "its driver is gone", False, True))
    if dies:
        node.gone(HOME)
        node.machine.tick(node.machine.drivers.next_deadline())
        node.take()
    else:
        node.say(HOME, m.JobEnd(JOB, "its actors of this home have ended"))
    assert node.dropped == [JOB]


def test_a_home_announces_an_actor_that_outlives_its_driver_and_one_whose_name_is_being_claimed(node):
    claims = []
    node.names.claim = lambda namespace, name, actor, then: claims.append(then)
    node.say(b"driver00", m.CreateActor(b"actor" + bytes(11), spec(name="a", namespace="n", detached=True), 0))
    node.say(b"driver00", m.Goodbye(""))
    [job] = node.machine.jobs.jobs
    ends = [(peer, said.used) for peer, said in node.sent if type(said) is m.JobEnd]
    assert ends == [(HOME, True), (THIRD, True)] and not node.dropped
    claims[0](b"other" + bytes(11))
    node.take()
    assert node.dropped == [job]
    assert [peer for peer, said in node.sent if said == m.JobEnd(job, "its actors of this home have ended")] == [
        HOME, THIRD]


def test_the_home_of_the_last_actor_of_an_ended_job_tells_the_others(node):
    actor = b"actor" + bytes(11)
    node.say(b"driver00", m.CreateActor(actor, spec(name="a", namespace="n", detached=True, max_restarts=0), 0))
    node.bring_up()
    worker = node.machine.actors.actors[actor].worker
    node.say(b"driver00", m.Goodbye(""))
    assert not node.dropped
    node.say(HOME, m.Relay(HOME[:4] + b"dr02", m.KillActor.CODE, list(m.KillActor(actor, True, False, "by a test"))))
    node.sent.clear()
    node.die(worker)
    [job] = node.dropped
    last = m.JobEnd(job, "its last actor has ended", True)
    assert [peer for peer, said in node.sent if said == last] == [HOME, THIRD]


@pytest.mark.parametrize("ended", [True, False])
def test_a_home_that_adopted_the_last_actor_tells_the_others_though_it_never_heard_of_the_job(node, ended):
    actor, worker = b"actor" + bytes(11), HOME[:4] + b"wrk1"
    if ended:
        node.names.ended_jobs.add(JOB)
    node.machine.actors.adopt(actor, {
        "spec": spec(name="a", namespace="n", detached=True, job=JOB), "owner": DRIVER, "state": "ALIVE",
        "num_restarts": 0, "restarts_left": 0, "worker": worker, "endpoint": "", "pid": 7, "lease": 1,
        "death_cause": {}}, node.now)
    node.machine.actors.worker_died(actor, worker, {"reason": "by a test"})
    node.take()
    last = m.JobEnd(JOB, "its last actor has ended", True)
    assert [peer for peer, said in node.sent if said == last] == ([HOME, THIRD] if ended else [])


def test_what_an_owner_on_another_node_has_here_outlives_the_driver(node):
    """It may be a detached actor; if it is none, its end is announced."""
    owner = THIRD[:4] + b"wrk1"
    node.say(HOME, START)
    node.say(THIRD, m.Relay(owner, m.LeaseKey.CODE, list(m.LeaseKey(1, CPU, {}, {}, "f", JOB))))
    node.say(THIRD, m.Relay(owner, m.LeaseWant.CODE, list(m.LeaseWant(1, 2, 0))))
    node.say(HOME, m.JobEnd(JOB, "its driver is gone"))
    assert len(node.machine.placements) == 2 and not node.killed
    node.say(THIRD, m.ProcessGone(owner, "its process ended"))
    node.bring_up()
    for worker in node.killed:
        node.die(worker)
    assert not node.machine.placements and node.dropped == [JOB]


def test_an_adopted_group_of_a_job_that_has_ended_is_removed_also_if_the_job_was_never_heard_of_here(node):
    node.names.ended_jobs.add(JOB)
    node.adopt()
    assert node.state() == "REMOVED"


@pytest.mark.parametrize("end", ["JobEnd", "node"])
def test_an_adopted_group_ends_later_with_a_job_that_was_never_heard_of_here(node, end):
    node.adopt()
    assert node.state() != "REMOVED"
    node.say(HOME, m.JobEnd(JOB, "bye")) if end == "JobEnd" else node.gone(HOME)
    assert node.state() == "REMOVED"


def test_a_job_whose_end_was_heard_of_before_the_adoption_is_not_asked_for(node):
    node.say(HOME, m.JobEnd(JOB, "bye"))
    node.names.job_ended = None  # its row may not be written yet
    node.adopt()
    assert node.state() == "REMOVED"


def test_a_detached_group_stays(node):
    node.names.ended_jobs.add(JOB)
    node.adopt(detached=True)
    node.gone(HOME)
    assert node.state() != "REMOVED"


def test_the_control_store_knows_jobs_by_their_rows_and_by_the_nodes_of_their_drivers():
    service = GcsService(gcs_ports(), incarnation=HOME, node_id=HOME + bytes(20))
    ordinals = []
    service.admit(row(HOME, 0), lambda refused, ordinal: ordinals.append(ordinal))
    names = GcsNames(service.client)
    first = (ordinals[0] << JOB_BITS) + 1
    running, over = Job(first, DRIVER, 7, {}, 1.0), Job(first + 1, DRIVER, 7, {}, 1.0)
    over.ended = 2.0
    for job in (running, over):
        names.record_job(job.number, job.row())
    answers = []
    for number in (first, first + 1, first + 2, JOB):
        names.job_ended(number, answers.append)
    assert answers == [False, True, False, True], "runs; over; not written yet; of no node that lives"
    found = []
    names.find_node(HOME, found.append)
    names.find_node(THIRD, found.append)
    assert found[0]["node_id"] == HOME + bytes(20) and found[1] is None
