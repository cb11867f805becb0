"""Actors that live on this node and whose home is another.  Pure.

    PlaceActor from the home    -> a request to the scheduler, like one of our own actors'
    granted, worker ready       -> ActorPlaced to the home, which sends ActorInit through us
    ActorUp, ActorExit          -> relayed to the home
    the worker's death          -> ActorWorkerDied to the home
    UnplaceActor, the home dies -> the request or the worker ends; a detached actor stays and waits to be adopted

What becomes of the actor is decided at its home (zray.node.actors); here is only its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zray import messages as m
from zray.ids import node_of
from zray.node.effects import Send

if TYPE_CHECKING:
    from zray.node.machine import NodeMachine
    from zray.node.pool import Worker

# A detached actor whose home has died waits so long for another node to adopt it.
ADOPTION_S = 30.0


class Guest:
    """One life of a foreign actor, waiting for a place here or living here.  Has what a scheduler request needs."""

    __slots__ = ("home", "id", "job", "lease", "life", "orphan_until", "spec", "worker")

    def __init__(self, home: bytes, message: m.PlaceActor):
        self.home = home
        self.id = message.actor
        self.life = message.life
        self.job = message.job
        self.lease = 0
        self.worker = b""
        self.orphan_until = 0.0
        self.spec: dict[str, Any] = {"demand": message.demand, "strategy": message.strategy, "env": message.env,
                                     "class_name": message.name}


class Guests:
    """Foreign actors on this node, by actor id."""

    def __init__(self, host: NodeMachine):
        self._host = host
        self.guests: dict[bytes, Guest] = {}

    def place(self, peer: bytes, message: m.PlaceActor) -> None:
        known = self.guests.get(message.actor)
        if known is not None:
            if known.life >= message.life:
                return  # told twice
            self._end(known, "a later life of this actor was placed")
        guest = self.guests[message.actor] = Guest(peer, message)
        try:
            self._host.places.request(guest)
        except ValueError as error:
            del self.guests[message.actor]
            self._tell(guest, m.ActorNotPlaced(guest.id, guest.life, 0, str(error)))

    def unplace(self, peer: bytes, message: m.UnplaceActor) -> None:
        guest = self.guests.get(message.actor)
        if guest is not None and guest.home == peer and guest.life == message.life:
            self._end(guest, "its home gave the place back")

    def placed(self, guest: Guest, worker: Worker, lease: int, assigned: dict) -> bool:
        """A worker is there for it; False when it is not wanted any more."""
        if self.guests.get(guest.id) is not guest:
            return False
        guest.worker = worker.incarnation
        guest.lease = lease
        self._tell(guest, m.ActorPlaced(guest.id, guest.life, worker.incarnation, worker.endpoint, worker.pid, lease,
                                        assigned))
        return True

    def waiting(self, actor: bytes, cause: int, detail: str) -> None:
        guest = self.guests.get(actor)
        if guest is not None:
            self._tell(guest, m.ActorNotPlaced(actor, guest.life, cause, detail))

    def from_worker(self, peer: bytes, message: m.ActorUp | m.ActorExit) -> bool:
        """What the worker says to the actor's home; False when it is no guest's worker."""
        guest = self.guests.get(message.actor)
        if guest is None or guest.worker != peer:
            return False
        self._tell(guest, m.Relay(peer, message.CODE, list(message)))
        return True

    def worker_died(self, actor: bytes, worker: bytes, death: dict) -> None:
        guest = self.guests.get(actor)
        if guest is not None and guest.worker == worker:
            del self.guests[actor]
            self._tell(guest, m.ActorWorkerDied(actor, worker, death))

    def adopt(self, peer: bytes, message: m.AdoptActor) -> None:
        """Another node is the home now; it is told at once when the actor is not here (any more)."""
        guest = self.guests.get(message.actor)
        if guest is not None and guest.worker == message.worker:
            guest.home = peer
            guest.orphan_until = 0.0
        else:
            self._host.effects.append(Send(peer, m.ActorWorkerDied(
                message.actor, message.worker, {"reason": "its process ended while its home was dead"})))

    def come_home(self, actor: bytes) -> None:
        """This node has become the home of a guest: it is no guest any more."""
        self.guests.pop(actor, None)

    def node_gone(self, node: bytes) -> None:
        """Their home is dead: requests end; who lives here waits for adoption."""
        for guest in [guest for guest in self.guests.values() if guest.home == node]:
            if guest.worker:
                guest.orphan_until = self._host.now + ADOPTION_S
            else:
                self._end(guest, "its home is gone")

    def tick(self, now: float) -> None:
        for guest in [guest for guest in self.guests.values() if 0.0 < guest.orphan_until <= now]:
            self._end(guest, "its home is gone, and no other node adopted it")

    def next_deadline(self) -> float | None:
        if not self.guests:
            return None
        return min((g.orphan_until for g in self.guests.values() if g.orphan_until), default=None)

    def job_is_used(self, job: int) -> bool:
        return any(guest.job == job for guest in self.guests.values())

    def _end(self, guest: Guest, reason: str) -> None:
        del self.guests[guest.id]
        if guest.worker:  # the home may have heard of the place, and taken it, after it told us to give it back
            self._tell(guest, m.ActorWorkerDied(guest.id, guest.worker, {"reason": reason, "given_back": True}))
        self._host.places.end(guest, reason)

    def _tell(self, guest: Guest, message: Any) -> None:
        self._host.effects.append(Send(guest.home, message))

    def check(self) -> None:
        for actor, guest in self.guests.items():
            assert guest.id == actor and node_of(guest.home) == guest.home != self._host.incarnation
            if guest.worker:
                assert self._host.placements[guest.lease].actor == actor
