"""The core processes of a node, and how they hear of ends elsewhere."""

from __future__ import annotations

from tests.fakes.node_parts import DRIVER, PEER, Parts
from zray.node.processes.local import GONE_AT_ONCE_MAX
from zray.node.processes.pool import Kind, State
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


def test_a_worker_that_leaves_hears_of_ends_until_it_is_gone_and_one_that_is_killed_does_not():
    parts = with_driver()
    kind = Kind.of(1, {})
    for token in (1, 2):
        parts.pool.take(kind, token, 0.0)
    leaving, killed = list(parts.pool.workers)
    for worker in (leaving, killed):
        [(_, record)] = parts.pool.ready(worker, "ipc://w", 0.0)
        parts.pool.use(record, State.LEASED, 1, 0.0)
    parts.pool.leaving(parts.pool.workers[leaving], 0.0)
    parts.pool.kill(parts.pool.workers[killed], "by a test", 0.0)
    parts.take()
    parts.processes.announce_process_ended(GONE)
    parts.processes.announce()
    assert parts.take() == [(DRIVER, GONE), (leaving, GONE)]
