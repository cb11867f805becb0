"""The core processes of a node, and how they hear of ends elsewhere."""

from __future__ import annotations

from tests.fakes.node_parts import DRIVER, PEER, Parts
from zray.node.processes.local import GONE_AT_ONCE_MAX
from zray.wire import messages as m

FAR = PEER[:4] + b"wrk1"
GONE = m.ProcessGone(FAR, "by a test")


def with_driver(*more):
    parts = Parts(PEER)
    parts.jobs.register(DRIVER, 1, {}, 0.0)
    for process in (DRIVER, *more):
        parts.processes.hellos[process] = m.Hello(m.PROTOCOL, "driver", "", 1, 0, "", [])
    return parts


def test_few_processes_hear_of_an_end_at_once():
    parts = with_driver()
    parts.processes.announce_process_ended(GONE)
    parts.processes.announce()
    assert parts.take() == [(DRIVER, GONE)] and parts.processes.next_deadline() is None


def test_among_many_ends_gather_until_somebody_must_know():
    parts = with_driver(*(DRIVER[:6] + bytes([1, number]) for number in range(GONE_AT_ONCE_MAX)))
    parts.processes.announce_process_ended(GONE)
    parts.processes.announce()
    assert not parts.take() and parts.processes.next_deadline() > parts.context.now
    parts.processes.announce_all()
    assert parts.take() == [(DRIVER, GONE)]


def test_the_end_of_a_node_says_it_of_its_processes():
    parts = with_driver()
    parts.processes.announce_process_ended(GONE)
    parts.processes.announce_node_ended(PEER, "by a test")
    parts.processes.announce_all()
    assert parts.take() == [(DRIVER, m.NodeGone(PEER, "by a test"))]


def test_a_worker_without_a_kind_knows_nobody():
    parts = with_driver()
    parts.pool.keep = 1
    parts.pool.prestart(0.0)
    [worker] = parts.pool.workers
    assert parts.processes.is_process(worker) and parts.processes.is_process(DRIVER)
    assert not parts.processes.is_process(FAR)
    assert parts.processes.holders() == parts.processes.that_know_others() == [DRIVER]
