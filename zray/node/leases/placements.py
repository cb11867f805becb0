"""Grants of the scheduler on their way to a worker, and the leases that they become.  Pure.

    scheduler Grant -> waiting for its environment -> waiting for a worker (pool) -> in use by an owner or an actor
    in use -> released

Everything that holds resources of the node is one :class:`Placement`, by lease number.
"""

from __future__ import annotations

from typing import Any

from zray.environments.setup import setup_of
from zray.node.context import NodeContext
from zray.node.environments.table import EnvironmentTable
from zray.node.processes.pool import Kind, State, WorkerPool, WorkerRecord
from zray.sched.node.grouped import NodeScheduler

LEASE_BITS = 40  # lease numbers are unique in the cluster: the ordinal of the node, then its own counting


class Placement:
    """Resources granted to an owner's key or to an actor, with or without a worker yet."""

    __slots__ = ("actor", "assigned", "charged", "equipment", "key", "kind", "lease", "life", "owner", "since",
                 "worker")

    def __init__(self, lease: int, owner: bytes, key: int, actor: bytes, life: int, assigned: dict, kind: Kind,
                 now: float):
        self.lease = lease
        self.owner = owner
        self.key = key
        self.actor = actor
        self.life = life
        self.assigned = assigned
        self.kind = kind
        self.since = now
        self.charged = 0  # memory, in units, that it was charged for beyond its demand (zray.node.leases.relief)
        self.worker: WorkerRecord | None = None
        self.equipment: dict[str, Any] = {}  # what its worker takes on of a runtime environment, or {"error": text}

    def row(self) -> dict[str, Any]:
        return {"lease": self.lease, "owner": self.owner, "key": self.key, "actor": self.actor,
                "job": self.kind.job, "assigned": self.assigned, "since": self.since,
                "worker": self.worker.incarnation if self.worker else b"",
                "pid": self.worker.pid if self.worker else 0}


class Placements(dict[int, Placement]):
    """All placements of a node, by lease number."""

    def __init__(self, context: NodeContext, scheduler: NodeScheduler, pool: WorkerPool,
                 environments: EnvironmentTable) -> None:
        super().__init__()
        self._environments = environments
        self._context = context
        self._scheduler = scheduler
        self._pool = pool

    def free(self, placement: Placement) -> None:
        """Its resources are free again; the caller handles the worker."""
        del self[placement.lease]
        self._scheduler.release(placement.lease, self._context.now)

    def give_back(self, placement: Placement) -> None:
        """It still waits for its environment or a worker, and does not need one any more."""
        self.cancel_wait(placement)
        self._scheduler.release(placement.lease, self._context.now)

    def cancel_wait(self, placement: Placement) -> None:
        """As give_back; the caller gives the lease back to the scheduler."""
        if not self._environments.cancel(placement.lease):
            self._pool.cancel(placement.lease)
        del self[placement.lease]

    def end(self, lease: int, reason: str) -> None:
        """Give it back, or kill its worker; no effect when it has ended."""
        placement = self.get(lease)
        if placement is None:
            return
        if placement.worker is None:
            self.give_back(placement)
        else:
            self._pool.kill(placement.worker, reason, self._context.now)

    def check(self) -> None:
        assert set(self) == set(self._scheduler.leases), "every lease of the scheduler is a placement"
        workers = self._pool.workers
        for lease, placement in self.items():
            if placement.worker is None:
                assert self._pool.waits(lease) != self._environments.waits(lease), "it waits for one of the two"
            else:
                assert workers[placement.worker.incarnation] is placement.worker
                assert placement.worker.lease == lease and placement.worker.kind == placement.kind
        for worker in workers.values():
            if worker.state in (State.LEASED, State.ACTOR):
                assert self[worker.lease].worker is worker


class Declared:
    """A scheduling key as its owner declared it."""

    __slots__ = ("env", "job", "name", "setup", "strategy")

    def __init__(self, job: int, env: dict, name: str, strategy: dict):
        self.job = job
        self.env = env
        self.setup = setup_of(env)
        self.name = name
        self.strategy = strategy


class Death:
    """How a worker process ended, as the shell saw it."""

    __slots__ = ("equipping", "exit_code", "finished", "lease", "log_file", "log_tail", "signal", "started")

    def __init__(self, signal: int = 0, exit_code: int = 0, lease: int = 0, started: int = 0, finished: int = 0,
                 log_tail: str = "", log_file: str = "", equipping: bool = False):
        self.signal = signal
        self.exit_code = exit_code
        self.lease = lease  # the lease of its progress marks
        self.started = started
        self.finished = finished
        self.log_tail = log_tail
        self.log_file = log_file
        self.equipping = equipping  # its setup hook ran
