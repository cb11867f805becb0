"""The simulated node daemon: a shell around the production NodeMachine, scheduler and control store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zray.gcs.service import GcsService
from zray.node.effects import EndJob, Forget, Kill, Send, Spawn, Watch
from zray.node.machine import NodeMachine
from zray.node.names import GcsNames
from zray.sched.local import LocalScheduler
from zray.sim.core import UNIT
from zray.sim.mesh import SimMesh

if TYPE_CHECKING:
    from zray.sim.cluster import SimCluster

NODE = b"nod1\0\0\0\0"


class SimNode:
    """The shell around NodeMachine."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.net = cluster.net
        self.incarnation = NODE
        self.mesh = SimMesh(cluster.wire, NODE, 0, self.on_message, self.stir)
        self.mesh.on_error = cluster.error
        self.gcs = GcsService(lambda: self.net.now, self._send, incarnation=NODE)
        self.machine = NodeMachine(
            incarnation=NODE, node={}, scheduler=LocalScheduler({"CPU": cluster.plan.cpus * UNIT}, node=NODE),
            names=GcsNames(self.gcs.client), config=cluster.config,
            new_worker_id=cluster.new_worker_id, attach=lambda incarnation, pid: {},
            keep=cluster.plan.cpus)
        self.alive = True
        self._turn_due = False
        self._tick_at: float | None = None
        self._mesh_at: float | None = None

    def start(self) -> None:
        self.machine.start(self.net.now)
        self.stir()

    def _send(self, peer: bytes, message: Any) -> None:
        self.mesh.send(peer, message.CODE, message)
        self.stir()

    def on_message(self, peer: bytes, code: int, message: Any) -> None:
        handler = self.gcs.handlers.get(code)
        if handler is not None:
            handler(peer, message)
        else:
            self.machine.handle(peer, code, message, self.net.now)
        self.stir()

    def stir(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self.net.call_at(self.net.now + self.net.random.uniform(0, 0.0003), self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        self.mesh.report_closed()
        effects = self.machine.effects
        while effects:
            batch = effects[:]
            effects.clear()
            for effect in batch:
                self._perform(effect)
        self.mesh.flush()
        when = self.machine.next_deadline()
        if when is not None and (self._tick_at is None or when < self._tick_at):
            self._tick_at = max(when, self.net.now)
            self.net.call_at(self._tick_at, self._tick, self._tick_at)
        due = self.mesh.deadline()
        if due is not None and (self._mesh_at is None or due < self._mesh_at):
            self._mesh_at = due
            self.net.call_at(due, self._tick_mesh, due)
        self.cluster.stepped(self)

    def _tick(self, when: float) -> None:
        if self._tick_at == when:
            self._tick_at = None
            self.machine.tick(self.net.now)
            self.stir()

    def _tick_mesh(self, when: float) -> None:
        if self._mesh_at == when:
            self._mesh_at = None
            self.mesh.tick(self.net.now)
            self.stir()

    def _perform(self, effect: Any) -> None:
        cluster, net = self.cluster, self.net
        if type(effect) is Send:
            self.mesh.send(effect.peer, effect.message.CODE, effect.message)
        elif type(effect) is Spawn:
            net.call_at(net.now + net.random.uniform(0.001, 0.01), cluster.spawn, effect.worker)
        elif type(effect) is Kill:
            net.call_at(net.now + net.random.uniform(0, 0.001), cluster.kill_worker, effect.incarnation)
        elif type(effect) is Watch:
            cluster.watched.add(effect.incarnation)
        elif type(effect) is Forget:
            self.gcs.forget(effect.incarnation)
            self.mesh.forget(effect.incarnation)
        elif type(effect) is EndJob and effect.reply is not None:
            self._send(effect.driver, effect.reply)

    def check(self) -> None:
        self.mesh.check()
        self.machine.check()
