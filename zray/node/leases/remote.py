"""Leases that processes of this node hold on other nodes, and the path of their wants to those.  Pure.

    effects of zray.sched.cluster.bottom_up   messages for other nodes
    a grant from another node        remembered by lease, handed to the owner like one of ours
    return, kill of such a lease     to the node that granted it
    that node dies                   WorkerDied for each of its leases: the owners push the tasks again

A node gets JobStart before any other message about a job.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.ids import node_of
from zray.base.named_tuples import NamedTuple
from zray.base.ports import Ports
from zray.node.actors.places import ActorPlaces
from zray.node.actors.table import Actor
from zray.node.context import NodeContext
from zray.node.jobs.table import Job, JobTable
from zray.node.peers.cluster import PeerNodes
from zray.sched.cluster import bottom_up
from zray.sched.cluster.bottom_up import BottomUpScheduler, RelayToNode
from zray.sched.cluster.spillback_effects import PlaceRequest, UnplaceRequest
from zray.wire import messages as m
from zray.wire.messages.leases import UNKNOWN


class RemoteLease(NamedTuple):
    """A lease of another node that a process of ours holds."""

    node: bytes
    owner: bytes
    key: int
    worker: bytes
    pid: int


class RemoteLeasePorts(Ports):
    """Ports of remote leases."""

    cluster: PeerNodes
    jobs: JobTable
    scheduler: BottomUpScheduler
    places: ActorPlaces
    actor: Callable[[bytes], Actor | None]  # by id, when its home is this node
    job_of: Callable[[bytes], Job | None]  # the job of a core process
    announce_job: Callable[[Job, bytes], None]  # send JobStart to a node, before any other message about the job


class RemoteLeases:
    """See the module's docstring."""

    def __init__(self, context: NodeContext, ports: RemoteLeasePorts):
        self._context = context
        self._ports = ports
        self.leases: dict[int, RemoteLease] = {}
        self.handlers: dict[int, Any] = {
            cls.CODE: self._scheduling for cls in (m.ViewRows, m.PlaceAsk, m.PlaceAnswer)}

    def perform(self, effect: Any) -> bool:
        """An effect of the scheduler; False when it concerns this node."""
        kind = type(effect)
        if kind is RelayToNode:
            job = self._ports.job_of(effect.owner)
            if job is not None and effect.node in self._ports.cluster.peers:
                self._ports.announce_job(job, effect.node)
                self._relay(effect.node, effect.owner, effect.message)
        elif kind is bottom_up.SchedulerMessage:
            self._context.send(effect.node, effect.message)
        elif kind is PlaceRequest:
            self._place(effect)
        elif kind is UnplaceRequest:
            actor = self._ports.places.requested(effect.token)
            if actor is not None:
                self._context.send(effect.node, m.UnplaceActor(actor.id, actor.life))
        else:
            return False
        return True

    def _place(self, effect: PlaceRequest) -> None:
        ports = self._ports
        actor = ports.places.requested(effect.token)
        job = ports.jobs.jobs.get(actor.job) if actor is not None else None
        if actor is None or job is None or effect.node not in ports.cluster.peers:
            return
        ports.announce_job(job, effect.node)
        spec = actor.spec
        self._context.send(effect.node, m.PlaceActor(
            actor.id, actor.life, actor.job, spec.get("demand") or {}, effect.strategy, spec.get("env") or {},
            spec.get("class_name", "")))

    def _scheduling(self, peer: bytes, message: Any) -> None:
        if peer in self._ports.cluster.peers:
            self._ports.scheduler.message(peer, message, self._context.now)
        # else the node has just joined, and sends its row again
        elif type(message) is not m.ViewRows or node_of(peer) != peer:
            self._context.refuse(peer, f"{type(message).__name__} from a process that is no node of this cluster")

    # ------------------------------------------------------------ leases

    def to_lender(self, owner: bytes, message: m.LeaseReturn | m.LeaseKill) -> None:
        """A return or kill of a lease of another node; no effect when it has ended: returns cross with deaths."""
        lease = self.leases.get(message.lease)
        if lease is None or lease.owner != owner:
            return
        if type(message) is m.LeaseReturn:
            self._over(message.lease)
        self._relay(lease.node, owner, message)

    def accept(self, node: bytes, process: bytes, message: Any) -> bool:
        """A message of another node to a process of ours; returns whether to pass it on."""
        kind, scheduler, now = type(message), self._ports.scheduler, self._context.now
        if kind is m.LeaseGrant:
            if not scheduler.granted_elsewhere(node, process, message.key, message.lease, now):
                self._relay(node, process, m.LeaseReturn(message.lease))
                return False
            self.leases[message.lease] = RemoteLease(node, process, message.key, message.worker, message.pid)
        elif kind is m.WorkerDied:
            self._over(message.lease)
        elif kind is m.LeaseStatus:
            scheduler.status_elsewhere(node, process, message.key, message.cause, message.detail, now)
            return False
        return True

    def _over(self, lease: int) -> None:
        if self.leases.pop(lease, None) is not None:
            self._ports.scheduler.spillback.lease_over(lease)

    def owner_ended(self, owner: bytes) -> None:
        for number in [number for number, lease in self.leases.items() if lease.owner == owner]:
            del self.leases[number]  # its node gets the end of the owner

    def _relay(self, node: bytes, process: bytes, message: Any) -> None:
        self._context.send(node, m.Relay(process, message.CODE, list(message)))

    # ------------------------------------------------------------ actors

    def actor_placed(self, node: bytes, message: m.ActorPlaced) -> bool:
        """Whether that place is still needed."""
        ports = self._ports
        actor = ports.actor(message.actor)
        token = ports.places.token_of(message.actor)
        if actor is None or token is None or actor.life != message.life:
            return False
        if not ports.scheduler.placed_elsewhere(token, node, self._context.now):
            return False
        ports.places.forget(actor)
        return True

    def actor_not_placed(self, node: bytes, message: m.ActorNotPlaced) -> None:
        ports = self._ports
        actor = ports.actor(message.actor)
        token = ports.places.token_of(message.actor)
        if actor is not None and token is not None and actor.life == message.life:
            ports.scheduler.status_elsewhere(node, b"", 0, message.cause, message.detail, self._context.now, token)

    # ------------------------------------------------------------ nodes

    def node_ended(self, node: bytes, reason: str) -> None:
        for number, lease in [item for item in self.leases.items() if item[1].node == node]:
            del self.leases[number]
            self._context.send(lease.owner, m.WorkerDied(
                lease.worker, number, lease.pid, 0, 0, UNKNOWN, UNKNOWN, f"its node is gone: {reason}", ""))

    def available(self) -> dict[bytes, dict[str, int]]:
        """Free resources of the other nodes, as far as this node knows."""
        view = self._ports.scheduler.view
        return {node: view.named(row) for node, row in view.row_of.items() if node != self._context.me}

    def check(self) -> None:
        assert all(lease.node in self._ports.cluster.peers for lease in self.leases.values())
