"""Grants of the scheduler on their way to a worker, and the leases that came of them.  Pure.

    scheduler Grant -> waiting for a worker (pool) -> in use by an owner or an actor -> released

Everything that holds resources of the node is one :class:`Placement`, by lease number.
"""

from __future__ import annotations

from typing import Any

from zray.node.pool import Kind, Worker


class Placement:
    """Resources granted to an owner's key or to an actor, with or without a worker yet."""

    __slots__ = ("actor", "assigned", "key", "kind", "lease", "life", "owner", "since", "worker")

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
        self.worker: Worker | None = None

    def row(self) -> dict[str, Any]:
        return {"lease": self.lease, "owner": self.owner, "key": self.key, "actor": self.actor,
                "job": self.kind.job, "assigned": self.assigned, "since": self.since,
                "worker": self.worker.incarnation if self.worker else b"",
                "pid": self.worker.pid if self.worker else 0}


class Declared:
    """A scheduling key as its owner declared it."""

    __slots__ = ("env", "job", "name", "strategy")

    def __init__(self, job: int, env: dict, name: str, strategy: dict):
        self.job = job
        self.env = env
        self.name = name
        self.strategy = strategy
