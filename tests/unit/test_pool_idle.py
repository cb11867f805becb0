"""WorkerPool: which idle workers a node keeps."""

from __future__ import annotations

from itertools import count

from tests.fakes.room import roomy
from zray.node.effects import Send
from zray.node.processes.pool import Kind, State, WorkerPool

IDLE_S = 10.0


class Pool:
    """A pool that keeps two workers; ``over`` are the jobs that have ended."""

    def __init__(self):
        self.out, self.over, numbers = [], set(), count(1)
        self.pool = WorkerPool(lambda: next(numbers).to_bytes(28, "little"), self.out.append, keep=2, workers_max=10,
                               idle_s=IDLE_S, room=roomy(), may_retire=lambda worker: True,
                               is_over=self.over.__contains__)

    def idle(self, job, now):
        """A worker of that job, idle since ``now``."""
        assert self.pool.take(Kind.of(job, {}), ("token", job), now) is None
        [(_, worker)] = [served for worker in list(self.pool.workers.values()) if worker.state is State.STARTING
                         for served in self.pool.ready(worker.incarnation, "e", now)]
        self.pool.use(worker, State.LEASED, 1, now)
        assert self.pool.release(worker, now) == []
        return worker.incarnation

    def retired(self, now):
        self.pool.tick(now)
        self.pool.check()
        return [effect.peer for effect in self.out if isinstance(effect, Send)]


def test_a_node_keeps_some_idle_workers_of_jobs_that_go_on():
    node = Pool()
    first, *_ = (node.idle(job, float(job)) for job in (1, 2, 3))
    assert node.pool.next_deadline() == 1.0 + IDLE_S
    assert node.retired(100.0) == [first] and node.pool.next_deadline() is None


def test_no_idle_worker_of_a_job_that_has_ended_is_kept():
    node = Pool()
    node.idle(1, 1.0)
    ended = node.idle(2, 2.0)
    assert node.pool.next_deadline() is None
    node.over.add(2)
    assert node.pool.next_deadline() == 2.0 + IDLE_S
    assert node.retired(2.0 + IDLE_S - 0.1) == [] and node.retired(2.0 + IDLE_S) == [ended]
    assert node.pool.next_deadline() is None
