"""The parts of a node that need no other: what tests of one part pass to its ports.  The rest are fakes of the test."""

from __future__ import annotations

from types import SimpleNamespace

from tests.fakes.node_machine import NODE, FakeNames
from tests.fakes.room import roomy
from zray.base.config import Config
from zray.base.ends import Ends
from zray.node.context import NodeContext
from zray.node.effects import Send
from zray.node.environments.table import EnvironmentTable
from zray.node.jobs.table import JobTable
from zray.node.leases.placements import Placements
from zray.node.peers.cluster import PeerNodes, PeerNodesPorts
from zray.node.processes.local import LocalProcesses
from zray.node.processes.pool import WorkerPool
from zray.sched.node.grouped import NodeScheduler
from zray.sched.node.local import LocalScheduler

DRIVER = NODE[:4] + b"er00"
PEER, THIRD = b"peer\0\0\0\0", b"thrd\0\0\0\0"


def row(node, ordinal=1, **more):
    return {"node_id": node + bytes(20), "endpoint": f"tcp://{node[:4].decode()}:1", "name": "", "labels": {},
            "total": {"CPU": 10_000}, "shown": {}, "state": "alive", "reason": "", "ordinal": ordinal, **more}


class Parts:
    """Real parts, and ``calls``: what the part under test asked of its ports, as (name, arguments...)."""

    def __init__(self, *peers, cpus=2):
        self.context = NodeContext(NODE, Ends())
        self.context.now = 100.0
        self.config = Config()
        self.names = FakeNames()
        self.jobs = JobTable()
        self.pool = WorkerPool(self._new_id, self.context.emit, keep=0, workers_max=8, idle_s=10.0,
                               room=roomy(), may_retire=lambda worker: True, is_over=lambda job: False)
        self.scheduler = NodeScheduler(LocalScheduler({"CPU": cpus * 10_000}, node=NODE))
        self.environments = EnvironmentTable(self.context.emit, kept_bytes_max=1000, used=set)
        self.placements = Placements(self.context, self.scheduler, self.pool, self.environments)
        self.processes = LocalProcesses(self.context, self.jobs, self.pool)
        self.calls = []
        self.cluster = PeerNodes(self.context, "n", PeerNodesPorts(
            self.processes.is_process, from_node=self.call("from_node"), from_process=self.call("from_process")))
        for number, peer in enumerate(peers, 1):
            self.cluster.joined(peer, row(peer, number))
        self.take()
        self._made = 0

    def _new_id(self):
        self._made += 1
        return NODE[:4] + self._made.to_bytes(4, "big") + bytes(20)

    def call(self, name, answer=None):
        """A port that notes how it was called."""
        def port(*args):
            self.calls.append((name, *args))
            return answer
        return port

    def take(self):
        """What the parts have sent since the last time, as (peer, message)."""
        sent = [(effect.peer, effect.message) for effect in self.context.effects if isinstance(effect, Send)]
        self.context.effects.clear()
        return sent

    def effects(self, kind):
        return [effect for effect in self.context.effects if isinstance(effect, kind)]


def fake_actor(actor=b"a" * 16, **more):
    return SimpleNamespace(id=actor, life=0, job=1, lease=0, spec={}, **more)
