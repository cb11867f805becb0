"""Leases of one node, through the ports of that part: real scheduler and pool, no actor, no other node."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes.node_machine import CPU
from tests.fakes.node_parts import DRIVER, PEER, Parts
from zray.base.causes import Cause
from zray.node.effects import Kill
from zray.node.jobs.task_events import TaskEventLog
from zray.node.leases.local import LeasePorts, Leases
from zray.node.leases.placements import Death
from zray.node.processes.pool import State
from zray.wire import messages as m

FAR = PEER[:4] + b"drv1"


class Lending(Parts):
    def __init__(self):
        super().__init__(PEER)
        self.job = self.jobs.register(DRIVER, 1, {"sys_path": ["p"]}, 0.0)
        places = SimpleNamespace(requests={}, requested=lambda token: None)
        tables = SimpleNamespace(actors={})
        cluster_wide = SimpleNamespace(
            declare=lambda owner, job, key, demand, strategy, name, env: self.scheduler.declare(
                owner, job, key, demand, strategy, name),
            want=self.scheduler.want, revoke=self.scheduler.revoke,
            drop_owner=lambda owner: SimpleNamespace(leases=self.scheduler.drop_owner(owner)))
        self.leases = Leases(self.context, LeasePorts(
            {"NodeManagerAddress": "1.2.3.4"}, {}, self.scheduler, cluster_wide, self.pool, self.placements,
            self.environments, self.jobs, TaskEventLog(100), tables, tables, places,
            SimpleNamespace(to_lender=self.call("to_lender")),
            job_of=lambda process: self.job if process == DRIVER else None, blocks=self.call("blocks"),
            uses_group=self.call("uses_group"), declares=self.call("declares")))

    def hear(self, peer, message):
        self.leases.handlers[message.CODE](peer, message)
        return self.settle()

    def settle(self):
        for effect in self.scheduler.step(self.context.now):
            self.leases.perform(effect)
        self.leases.check()
        self.placements.check()
        return self.take()

    def want(self, want=1, owner=DRIVER, job=0):
        return self.hear(owner, m.LeaseKey(1, CPU, {}, {}, "f", job)) + self.hear(owner, m.LeaseWant(1, want, 0))

    def bring_up(self):
        sent = []
        for worker in list(self.pool.workers.values()):
            if not worker.endpoint:
                worker.endpoint = "ipc://w"
                sent += self.hear(worker.incarnation, m.WorkerReady(7))
        return sent

    def granted(self, **want):
        self.want(**want)
        return [said for _, said in self.bring_up() if type(said) is m.LeaseGrant]


@pytest.fixture
def node():
    return Lending()


def test_a_want_waits_for_a_worker_and_is_told_so(node):
    [(owner, status)] = node.want()
    assert owner == DRIVER and type(status) is m.LeaseStatus
    assert [type(said) for _, said in node.bring_up()] == [m.JobSettings, m.LeaseGrant]


def test_a_key_without_a_job_and_a_want_without_a_key_are_refused(node):
    node.hear(b"nobody00", m.LeaseKey(1, CPU, {}, {}, "f"))
    node.hear(DRIVER, m.LeaseWant(9, 1, 0))
    assert node.context.counts["refused"] == 2 and not node.leases.declared()


def test_only_keys_of_owners_here_may_be_bound_to_a_node(node):
    node.want()
    node.want(owner=FAR, job=node.job.number)
    assert [call[:2] for call in node.calls if call[0] == "declares"] == [("declares", DRIVER)]


def test_a_worker_that_comes_back_serves_the_next_lease(node):
    first, second = node.granted(want=2)
    node.hear(DRIVER, m.LeaseWant(1, 3, 2))
    [again] = [said for _, said in node.hear(DRIVER, m.LeaseReturn(first.lease)) if type(said) is m.LeaseGrant]
    assert again.worker == first.worker != second.worker


def test_what_this_node_has_not_leased_is_the_business_of_its_lender(node):
    [grant] = node.granted()
    node.hear(FAR, m.LeaseReturn(grant.lease))
    node.hear(DRIVER, m.LeaseKill(99, "why"))
    assert [call[1] for call in node.calls if call[0] == "to_lender"] == [FAR, DRIVER]
    assert grant.lease in node.placements


def test_the_owner_hears_how_its_worker_ended_and_where_it_logged(node):
    [grant] = node.granted()
    worker = node.pool.died(grant.worker, node.context.now, "")
    node.leases.worker_ended(worker, Death(9, 0, grant.lease, 5, 4, "tail", "/log"))
    [(owner, died)] = node.settle()
    assert owner == DRIVER and (died.signal, died.started, died.finished, died.log_file) == (9, 5, 4, "/log")
    assert not node.placements


def test_an_owner_on_another_node_hears_the_machine_of_the_log_too(node):
    [grant] = node.granted(owner=FAR, job=node.job.number)
    node.leases.worker_ended(node.pool.died(grant.worker, node.context.now, ""), Death(9, log_file="/log"))
    [(_, died)] = node.settle()
    assert died.log_file == "1.2.3.4:/log" and died.started == 0, "marks of an earlier lease say nothing"


def test_the_end_of_an_owner_gives_back_what_waits_and_kills_what_runs(node):
    [grant] = node.granted(want=1)
    node.hear(DRIVER, m.LeaseWant(1, 2, 1))  # the second waits for a worker
    assert len(node.placements) == 2
    node.leases.owner_ended(DRIVER)
    assert [effect.incarnation for effect in node.effects(Kill)] == [grant.worker]
    assert list(node.placements) == [grant.lease] and not node.leases.declared()


def test_a_node_that_leaves_calls_back_what_other_nodes_hold(node):
    [ours] = node.granted()
    [theirs] = node.granted(owner=FAR, job=node.job.number)
    node.leases.drain()
    assert node.take() == [(FAR, m.LeaseRecall(theirs.lease))]
    assert [placement.lease for placement in node.leases.lent()] == [theirs.lease] != [ours.lease]
    assert node.leases.owners_on(PEER) == {FAR}


def test_a_worker_that_blocks_lends_its_resources(node):
    [grant] = node.granted(want=1)
    node.hear(grant.worker, m.Blocked(True))
    assert node.scheduler.available()["CPU"] == 20_000
    node.hear(grant.worker, m.Blocked(False))
    assert node.scheduler.available()["CPU"] == 10_000


# ---------------------------------------------------------------- runtime environments

ENV = {"working_dir": "zray://x.zip", "env_vars": {"A": "1"}}


def asks_for(node, env):
    sent = node.hear(DRIVER, m.LeaseKey(1, CPU, env, {}, "f")) + node.hear(DRIVER, m.LeaseWant(1, 1, 0))
    return [message for _, message in sent if type(message) is m.LeaseStatus]


def settles(node, leases):
    node.leases.environment_settled(leases)
    return [message for _, message in [*node.settle(), *node.bring_up()]]


def test_a_grant_waits_for_its_environment_and_then_for_a_worker_that_takes_it_on(node):
    [status] = asks_for(node, ENV)
    assert status.cause == Cause.ENVIRONMENT and status.detail == "working_dir" and not node.pool.workers
    leases = node.environments.installed(1, {"working_dir": "/there"}, {}, node.context.now)
    _, configured, grant = settles(node, leases)
    assert configured.config["equipment"] == {"working_dir": "/there"}
    assert node.pool.workers[grant.worker].kind.setup and not node.pool.workers[grant.worker].kind.fresh


def test_an_environment_with_a_python_of_its_own_gets_a_process_started_by_it(node):
    asks_for(node, ENV)
    leases = node.environments.installed(1, {"fresh": True}, {}, node.context.now)
    _, _, grant = settles(node, leases)
    assert node.pool.workers[grant.worker].kind.fresh


def test_a_failed_environment_gets_a_worker_that_says_so_and_serves_one_lease(node):
    asks_for(node, ENV)
    leases = node.environments.failed(1, "no network", node.context.now)
    _, configured, grant = settles(node, leases)
    assert "no network" in configured.config["equipment"]["error"]
    node.hear(DRIVER, m.LeaseReturn(grant.lease))
    assert node.pool.workers[grant.worker].state is State.EXITING


def test_the_end_of_an_owner_stops_an_installation_that_only_it_waits_for(node):
    asks_for(node, ENV)
    node.leases.owner_ended(DRIVER)
    assert not node.placements and not node.environments.installations
    node.placements.check()


def test_leases_that_wait_for_an_environment_go_when_they_are_not_wanted_any_more(node):
    node.hear(DRIVER, m.LeaseKey(1, CPU, ENV, {}, "f"))
    node.hear(DRIVER, m.LeaseWant(1, 3, 0))
    assert len(node.placements) == 2, "as many as there are CPUs"
    node.hear(DRIVER, m.LeaseWant(1, 1, 0))
    assert len(node.placements) == 1 and node.environments.installations
    node.hear(DRIVER, m.LeaseWant(1, 0, 0))
    assert not node.placements and not node.environments.installations
    assert node.scheduler.available() == {"CPU": 20_000}
    node.hear(DRIVER, m.LeaseWant(1, 1, 0))
    assert len(node.placements) == 1, "the count of grants is as the owner knows it"


def test_workers_of_one_hook_do_not_serve_tasks_of_another(node):
    kinds = {node.leases._kind(1, env, "", {}) for env in (
        {}, {"worker_process_setup_hook": "a.b"}, {"worker_process_setup_hook": "a.c"})}
    assert len(kinds) == 3
