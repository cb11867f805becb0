"""Drivers and their jobs, through the ports of that part."""

from __future__ import annotations

import pytest

from tests.fakes.node_parts import DRIVER, PEER, THIRD, Parts
from zray.node.actors.foreign import ForeignActorPorts, ForeignActors
from zray.node.actors.table import ActorTable
from zray.node.effects import DropJob, EndJob, Forget, Watch
from zray.node.jobs.drivers import PYTHON, DriverPorts, Drivers
from zray.node.jobs.table import JOB_BITS
from zray.wire import messages as m

JOB = (1 << JOB_BITS) + 1  # of PEER, whose ordinal is 1
FAR = PEER[:4] + b"drv1"
HELLO = m.Hello(m.PROTOCOL, "driver", "ipc://d", 7, 0, PYTHON + ".1", [])


class House(Parts):
    """Drivers, with no actor anywhere."""

    def __init__(self, *peers):
        super().__init__(*peers)
        self.jobs_with_groups = set()
        self.drivers = Drivers(self.context, self.jobs, DriverPorts(
            self.config, {"NodeID": "n"}, self.pool, self.placements, self.processes, self.names, self.cluster,
            ActorTable(self, self.context.emit, lambda: self.context.now),
            ForeignActors(self.context, ForeignActorPorts(self.call("request"), self.call("end"))),
            attach=lambda peer, pid: {"pid": pid}, process_ended=self.call("process_ended"),
            end_groups=self.call("end_groups"), jobs_with_groups=lambda: self.jobs_with_groups))

    def hear(self, peer, message):
        self.drivers.handlers[message.CODE](peer, message)
        return self.take()

    def asked(self):
        return [call[0] for call in self.calls]


@pytest.fixture
def house():
    return House()


@pytest.fixture
def cluster():
    return House(PEER, THIRD)


@pytest.mark.parametrize("hello, why", [
    (HELLO._replace(protocol=0), "protocol"), (HELLO._replace(python="2.7.1"), "Python"),
    (HELLO._replace(kind="worker"), "no worker"),
])
def test_a_hello_that_does_not_fit_is_answered_with_the_reason(house, hello, why):
    [(_, ack)] = house.hear(DRIVER, hello)
    assert why in ack.refused and house.context.counts["refused"] == 1 and not house.drivers.hellos


def test_a_process_of_another_node_must_talk_to_its_own(cluster):
    [(_, ack)] = cluster.hear(FAR, HELLO)
    assert "its own" in ack.refused and not cluster.effects(Watch)


def test_a_driver_gets_a_job_and_a_way_into_the_store(house):
    house.drivers.handlers[m.Hello.CODE](DRIVER, HELLO)
    assert [effect.pid for effect in house.effects(Watch)] == [7]
    house.take()
    [(_, accepted)] = house.hear(DRIVER, m.RegisterDriver({}))
    assert accepted.job == 1 and accepted.store == {"pid": 7}
    assert not house.hear(DRIVER[:4] + b"none", m.RegisterDriver({})) and house.context.counts["refused"] == 1


def test_a_goodbye_ends_the_job_its_groups_and_its_objects(house):
    house.hear(DRIVER, HELLO)
    house.hear(DRIVER, m.RegisterDriver({}))
    house.drivers.handlers[m.Goodbye.CODE](DRIVER, m.Goodbye("done"))
    assert house.asked() == ["end_groups", "process_ended"]
    assert [effect.job for effect in house.effects(DropJob)] == [1]
    [end] = house.effects(EndJob)
    assert (end.job, end.driver) == (1, DRIVER) and type(end.reply) is m.Bye
    house.take()
    assert [type(said) for _, said in house.hear(DRIVER, m.Goodbye("again"))] == [m.Bye]


def test_what_a_driver_knew_at_its_end_is_kept_with_its_process(house):
    house.hear(DRIVER, HELLO)
    house.hear(DRIVER, m.RegisterDriver({}))
    rows = {"tasks": [[{"name": "f"}, 7], 3], "objects": [1], "x": None}
    house.drivers.handlers[m.Goodbye.CODE](DRIVER, m.Goodbye("done", rows))
    assert list(house.drivers.last_rows) == ["tasks"]
    [row], total = house.drivers.last_rows["tasks"]
    assert (row["name"], row["process"]["pid"], row["process"]["type"], total) == ("f", 7, "DRIVER", 3)


def test_a_driver_that_leaves_is_forgotten(house):
    house.hear(DRIVER, HELLO)
    house.drivers.handlers[m.Bye.CODE](DRIVER, m.Bye(""))
    assert [effect.incarnation for effect in house.effects(Forget)] == [DRIVER] and not house.drivers.hellos


def test_a_node_hears_of_a_job_once_and_of_its_end(cluster):
    job = cluster.jobs.register(DRIVER, 7, {}, 1.0)
    cluster.drivers.announce_job(job, PEER)
    cluster.drivers.announce_job(job, PEER)
    assert cluster.take() == [(PEER, m.JobStart(1, DRIVER, {}))]
    cluster.drivers.over(DRIVER, "by a test", None)
    ends = [(peer, said) for peer, said in cluster.take() if type(said) is m.JobEnd]
    assert ends == [(node, m.JobEnd(1, "by a test")) for node in (PEER, THIRD)], "the driver's node tells all"


def test_a_job_of_a_node_that_dies_ends_here_and_so_do_groups_of_its_other_jobs(cluster):
    cluster.hear(PEER, m.JobStart(JOB, FAR, {}))
    cluster.jobs_with_groups = {JOB + 1, (2 << JOB_BITS) + 1}
    cluster.cluster.node_ended(PEER, "by a test")
    cluster.drivers.node_ended(PEER, "by a test")
    assert cluster.jobs.jobs[JOB].is_over
    assert [call[1] for call in cluster.calls if call[0] == "end_groups"] == [JOB, JOB + 1]


def test_the_end_of_a_foreign_process_is_known_as_a_drivers_or_kept_for_later(cluster):
    cluster.context.ends.process_ended(FAR)
    assert not cluster.drivers.foreign_ended(FAR, "by a test")
    cluster.hear(THIRD, m.JobStart(JOB, FAR, {}))
    assert cluster.jobs.jobs[JOB].is_over, "its end was heard of before"


def test_a_worker_works_for_the_job_that_it_was_started_for(house):
    job = house.jobs.register(DRIVER, 7, {}, 1.0)
    assert house.drivers.job_of(DRIVER) is job and house.drivers.job_of(b"none") is None
