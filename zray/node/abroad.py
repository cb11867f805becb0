"""Leases and actors of this node's processes on other nodes.  Pure.

    LeaseWant of a process of ours  -> zray.sched.spill divides it: our own scheduler, other nodes
    a grant from another node       -> remembered by lease, handed to the owner like one of ours
    return, kill of such a lease    -> to the node that lent it
    that node dies                  -> WorkerDied for each of its leases: the owners push the tasks again
    an actor without a place here   -> PlaceActor to the node that zray.sched.spill picks

Alone, wants go straight to the scheduler of this node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zray import messages as m
from zray.node.actors import Actor
from zray.node.effects import Send
from zray.sched.local import Status

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
        self.places: dict[bytes, tuple[bytes, int]] = {}  # actor of ours -> (node asked to run it, life)

    # ------------------------------------------------------------ leases

    def declare(self, owner: bytes, job: int, message: m.LeaseKey) -> None:
        pass

    def want(self, owner: bytes, message: m.LeaseWant) -> None:
        self._host.scheduler.want(owner, message.key, message.want, message.granted, self._host.now)

    def waits(self, status: Status) -> None:
        """Our own scheduler does not grant what a process of ours wants."""
        self._host.effects.append(Send(status.owner, m.LeaseStatus(status.key, status.cause, status.detail)))

    def to_lender(self, owner: bytes, message: m.LeaseReturn | m.LeaseKill) -> None:
        """A return or kill of a lease that is not ours; nothing when it has ended: returns cross with deaths."""
        lent = self.lent.get(message.lease)
        if lent is None or lent.owner != owner:
            return
        if type(message) is m.LeaseReturn:
            del self.lent[message.lease]
        self._host.effects.append(Send(lent.node, m.Relay(owner, message.CODE, list(message))))

    def heard(self, node: bytes, process: bytes, message: Any) -> bool:
        """What another node tells a process of ours: whether to pass it on."""
        if type(message) is m.LeaseGrant:
            self.lent[message.lease] = Lent(node, process, message.key, message.worker, message.pid)
        elif type(message) is m.WorkerDied:
            self.lent.pop(message.lease, None)
        return True

    def owner_gone(self, owner: bytes) -> None:
        for lease in [lease for lease, lent in self.lent.items() if lent.owner == owner]:
            del self.lent[lease]  # its node is told that the owner is gone

    # ------------------------------------------------------------ actors

    def place(self, actor: Actor) -> None:
        try:
            self._host.request_place(actor)
        except ValueError as error:
            from zray.causes import Cause

            self._host.actors.waiting(actor.id, Cause.INFEASIBLE, str(error))

    def unplace(self, actor: Actor) -> None:
        asked = self.places.pop(actor.id, None)
        if asked is not None:
            self._host.effects.append(Send(asked[0], m.UnplaceActor(actor.id, asked[1])))

    def actor_waits(self, actor: Actor, cause: int, detail: str) -> None:
        self._host.actors.waiting(actor.id, cause, detail)

    def actor_placed(self, node: bytes, message: m.ActorPlaced) -> bool:
        """Whether that place is still the one we asked for."""
        return self.places.pop(message.actor, None) == (node, message.life)

    def actor_not_placed(self, node: bytes, message: m.ActorNotPlaced) -> None:
        pass

    # ------------------------------------------------------------ nodes, time

    def node_joined(self, node: bytes, row: dict[str, Any]) -> None:
        pass

    def node_gone(self, node: bytes, reason: str) -> None:
        for lease, lent in [item for item in self.lent.items() if item[1].node == node]:
            del self.lent[lease]
            self._host.effects.append(Send(lent.owner, m.WorkerDied(
                lent.worker, lease, lent.pid, 0, 0, 0, 0, f"its node is gone: {reason}", "")))

    def tick(self, now: float) -> None:
        pass

    def next_deadline(self) -> float | None:
        return None

    def check(self) -> None:
        pass
