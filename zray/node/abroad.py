"""What processes of this node hold on other nodes, and how their wants get there.  Pure.

    TellNode, Place, Unplace, Send   of zray.sched.bottom_up: messages for other nodes
    a grant from another node        remembered by lease, handed to the owner like one of ours
    return, kill of such a lease     to the node that lent it
    that node dies                   WorkerDied for each of its leases: the owners push the tasks again

Before anything else about a job, a node is told of it (JobStart).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zray import messages as m
from zray.ids import node_of
from zray.messages.leases import UNKNOWN
from zray.node.effects import Send
from zray.sched import bottom_up
from zray.sched.bottom_up import TellNode
from zray.sched.spill import Place, Unplace

if TYPE_CHECKING:
    from zray.node.machine import NodeMachine


class Lent(NamedTuple):
    """A lease of another node's that a process of ours holds."""

    node: bytes
    owner: bytes
    key: int
    worker: bytes
    pid: int


class Abroad:
    """See the module's docstring."""

    def __init__(self, host: NodeMachine):
        self._host = host
        self.lent: dict[int, Lent] = {}  # by lease
        self.handlers: dict[int, Any] = {
            cls.CODE: self._scheduling for cls in (m.ViewRows, m.PlaceAsk, m.PlaceAnswer)}

    def perform(self, effect: Any) -> bool:
        """An effect of the scheduler; False when it concerns this node."""
        host, kind = self._host, type(effect)
        if kind is TellNode:
            job = host.drivers.job_of(effect.owner)
            if job is not None and effect.node in host.cluster.peers:
                host.drivers.tell_job(job, effect.node)
                self._relay(effect.node, effect.owner, effect.message)
        elif kind is bottom_up.Send:
            host.effects.append(Send(effect.node, effect.message))
        elif kind is Place:
            self._place(effect)
        elif kind is Unplace:
            actor = host.places.requested(effect.token)
            if actor is not None:
                host.effects.append(Send(effect.node, m.UnplaceActor(actor.id, actor.life)))
        else:
            return False
        return True

    def _place(self, effect: Place) -> None:
        host = self._host
        actor = host.places.requested(effect.token)
        job = host.jobs.jobs.get(actor.job) if actor is not None else None
        if actor is None or job is None or effect.node not in host.cluster.peers:
            return
        host.drivers.tell_job(job, effect.node)
        spec = actor.spec
        host.effects.append(Send(effect.node, m.PlaceActor(
            actor.id, actor.life, actor.job, spec.get("demand") or {}, effect.strategy, spec.get("env") or {},
            spec.get("class_name", ""))))

    def _scheduling(self, peer: bytes, message: Any) -> None:
        if peer in self._host.cluster.peers:
            self._host.bottom_up.message(peer, message, self._host.now)
        elif type(message) is not m.ViewRows or node_of(peer) != peer:  # else it has just joined, and says it again
            self._host.refuse(peer, f"{type(message).__name__} from a process that is no node of this cluster")

    # ------------------------------------------------------------ leases

    def to_lender(self, owner: bytes, message: m.LeaseReturn | m.LeaseKill) -> None:
        """A return or kill of a lease that is not ours; nothing when it has ended: returns cross with deaths."""
        lent = self.lent.get(message.lease)
        if lent is None or lent.owner != owner:
            return
        if type(message) is m.LeaseReturn:
            self._over(message.lease)
        self._relay(lent.node, owner, message)

    def heard(self, node: bytes, process: bytes, message: Any) -> bool:
        """What another node tells a process of ours: whether to pass it on."""
        host, kind = self._host, type(message)
        if kind is m.LeaseGrant:
            if not host.bottom_up.granted_elsewhere(node, process, message.key, message.lease, host.now):
                self._relay(node, process, m.LeaseReturn(message.lease))
                return False
            self.lent[message.lease] = Lent(node, process, message.key, message.worker, message.pid)
        elif kind is m.WorkerDied:
            self._over(message.lease)
        elif kind is m.LeaseStatus:
            host.bottom_up.status_elsewhere(node, process, message.key, message.cause, message.detail, host.now)
            return False
        return True

    def _over(self, lease: int) -> None:
        if self.lent.pop(lease, None) is not None:
            self._host.bottom_up.spill.lease_over(lease)

    def owner_gone(self, owner: bytes) -> None:
        for lease in [lease for lease, lent in self.lent.items() if lent.owner == owner]:
            del self.lent[lease]  # its node is told that the owner is gone

    def _relay(self, node: bytes, process: bytes, message: Any) -> None:
        self._host.effects.append(Send(node, m.Relay(process, message.CODE, list(message))))

    # ------------------------------------------------------------ actors

    def actor_placed(self, node: bytes, message: m.ActorPlaced) -> bool:
        """Whether that place is still wanted."""
        host = self._host
        actor = host.actors.actors.get(message.actor)
        token = host.places.token_of(message.actor)
        if actor is None or token is None or actor.life != message.life:
            return False
        if not host.bottom_up.placed_elsewhere(token, node, host.now):
            return False
        host.places.forget(actor)
        return True

    def actor_not_placed(self, node: bytes, message: m.ActorNotPlaced) -> None:
        host = self._host
        actor = host.actors.actors.get(message.actor)
        token = host.places.token_of(message.actor)
        if actor is not None and token is not None and actor.life == message.life:
            host.bottom_up.status_elsewhere(node, b"", 0, message.cause, message.detail, host.now, token)

    # ------------------------------------------------------------ nodes

    def node_gone(self, node: bytes, reason: str) -> None:
        for lease, lent in [item for item in self.lent.items() if item[1].node == node]:
            del self.lent[lease]
            self._host.effects.append(Send(lent.owner, m.WorkerDied(
                lent.worker, lease, lent.pid, 0, 0, UNKNOWN, UNKNOWN, f"its node is gone: {reason}", "")))

    def available(self) -> dict[bytes, dict[str, int]]:
        """What the other nodes have free, as far as this one knows."""
        view = self._host.bottom_up.view
        return {node: view.named(row) for node, row in view.row_of.items() if node != self._host.incarnation}

    def check(self) -> None:
        assert all(lent.node in self._host.cluster.peers for lent in self.lent.values())


