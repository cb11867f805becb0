"""Actors that live on this node and have their home on another.  Pure.

    PlaceActor from the home    -> a request to the scheduler, like one of our own actors'
    granted, worker ready       -> ActorPlaced to the home, which sends ActorInit through us
    ActorUp, ActorExit,
    CallerSeen, SaveCheckpoint,
    StateLost                   -> relayed to the home
    the worker's death          -> ActorWorkerDied to the home
    UnplaceActor, the home dies -> the request or the worker ends; a detached actor stays and waits for adoption

The home decides about restarts and the end (zray.node.actors.table); this file decides about the place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.ids import node_of
from zray.base.ports import Ports
from zray.node.context import NodeContext
from zray.node.processes.pool import WorkerRecord
from zray.wire import messages as m

# How long a detached actor whose home has died waits for another node to adopt it.
ACTOR_ADOPTION_S = 30.0


class ForeignActor:
    """One life of a foreign actor, waiting for a place here or living here.  It has the fields of a
    scheduler request."""

    __slots__ = ("home", "id", "job", "lease", "life", "adopt_until", "spec", "worker")

    def __init__(self, home: bytes, message: m.PlaceActor):
        self.home = home
        self.id = message.actor
        self.life = message.life
        self.job = message.job
        self.lease = 0
        self.worker = b""
        self.adopt_until = 0.0
        self.spec: dict[str, Any] = {"demand": message.demand, "strategy": message.strategy, "env": message.env,
                                     "class_name": message.name}


class ForeignActorPorts(Ports):
    """Ports of foreign actors."""

    request: Callable[[ForeignActor], None]  # ask the scheduler for a place; ValueError for an invalid demand
    end: Callable[[ForeignActor, str], None]  # give up its request, or end its worker


class ForeignActors:
    """Foreign actors on this node, by actor id."""

    def __init__(self, context: NodeContext, ports: ForeignActorPorts):
        self._context = context
        self._ports = ports
        self.actors: dict[bytes, ForeignActor] = {}

    def place(self, peer: bytes, message: m.PlaceActor) -> None:
        known = self.actors.get(message.actor)
        if known is not None:
            if known.life >= message.life:
                return  # a duplicate
            self._end(known, "a later life of this actor was placed")
        foreign = self.actors[message.actor] = ForeignActor(peer, message)
        try:
            self._ports.request(foreign)
        except ValueError as error:
            del self.actors[message.actor]
            self._send_home(foreign, m.ActorNotPlaced(foreign.id, foreign.life, 0, str(error)))

    def unplace(self, peer: bytes, message: m.UnplaceActor) -> None:
        foreign = self.actors.get(message.actor)
        if foreign is not None and foreign.home == peer and foreign.life == message.life:
            self._end(foreign, "its home gave the place back")

    def placed(self, foreign: ForeignActor, worker: WorkerRecord, lease: int, assigned: dict) -> bool:
        """A worker is ready for it; False when the actor does not need it any more."""
        if self.actors.get(foreign.id) is not foreign:
            return False
        foreign.worker = worker.incarnation
        foreign.lease = lease
        self._send_home(foreign, m.ActorPlaced(
            foreign.id, foreign.life, worker.incarnation, worker.endpoint, worker.pid, lease, assigned))
        return True

    def waiting(self, actor: bytes, cause: int, detail: str) -> None:
        foreign = self.actors.get(actor)
        if foreign is not None:
            self._send_home(foreign, m.ActorNotPlaced(actor, foreign.life, cause, detail))

    def from_worker(self, peer: bytes,
                    message: m.ActorUp | m.ActorExit | m.CallerSeen | m.SaveCheckpoint | m.StateLost) -> bool:
        """Relay a message of the worker to the actor's home; False when the actor does not live in
        that worker."""
        foreign = self.actors.get(message.actor)
        if foreign is None or foreign.worker != peer:
            return False
        self._send_home(foreign, m.Relay(peer, message.CODE, list(message)))
        return True

    def worker_died(self, actor: bytes, worker: bytes, death: dict) -> None:
        foreign = self.actors.get(actor)
        if foreign is not None and foreign.worker == worker:
            del self.actors[actor]
            self._send_home(foreign, m.ActorWorkerDied(actor, worker, death))

    def adopt(self, peer: bytes, message: m.AdoptActor) -> None:
        """Another node is the home now; it gets ActorWorkerDied at once when the actor is not here any more."""
        foreign = self.actors.get(message.actor)
        if foreign is not None and foreign.worker == message.worker:
            foreign.home = peer
            foreign.adopt_until = 0.0
        else:
            self._context.send(peer, m.ActorWorkerDied(
                message.actor, message.worker, {"reason": "its process ended while its home was dead"}))

    def adopted(self, actor: bytes) -> None:
        """This node has become its home: the actor is not foreign any more."""
        self.actors.pop(actor, None)

    def node_ended(self, node: bytes) -> None:
        """Their home is dead: requests end; actors that live here wait for adoption."""
        for foreign in [foreign for foreign in self.actors.values() if foreign.home == node]:
            if foreign.worker:
                foreign.adopt_until = self._context.now + ACTOR_ADOPTION_S
            else:
                self._end(foreign, "its home is gone")

    def tick(self, now: float) -> None:
        for foreign in [foreign for foreign in self.actors.values() if 0.0 < foreign.adopt_until <= now]:
            self._end(foreign, "its home is gone, and no other node adopted it")

    def next_deadline(self) -> float | None:
        if not self.actors:
            return None
        return min((foreign.adopt_until for foreign in self.actors.values() if foreign.adopt_until), default=None)

    def job_is_used(self, job: int) -> bool:
        return any(foreign.job == job for foreign in self.actors.values())

    def _end(self, foreign: ForeignActor, reason: str) -> None:
        del self.actors[foreign.id]
        if foreign.worker:  # the home may have accepted the place after it sent the request to give it back
            death = {"reason": reason, "given_back": True}
            self._send_home(foreign, m.ActorWorkerDied(foreign.id, foreign.worker, death))
        self._ports.end(foreign, reason)

    def _send_home(self, foreign: ForeignActor, message: Any) -> None:
        self._context.send(foreign.home, message)

    def check(self) -> None:
        for actor, foreign in self.actors.items():
            assert foreign.id == actor and node_of(foreign.home) == foreign.home != self._context.me
