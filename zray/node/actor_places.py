"""Places for actors: those whose home is this node, anywhere in the cluster; guests, here.  Pure.

    ActorTable (what becomes of an actor) -- Ports --> ActorPlaces -- request --> scheduler -- granted --> a worker
                                                                  '-- PlaceActor, EndWorker, ... --> another node

Also the messages about actors, from their callers, their workers and other nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from zray import messages as m
from zray.causes import Cause
from zray.ids import node_of, same_node
from zray.node.actors import Actor
from zray.node.effects import JOB_OVER, Note, Send
from zray.node.guests import Guest
from zray.sched.spill import Place, Unplace

if TYPE_CHECKING:
    from zray.node.machine import NodeMachine


class Remote(NamedTuple):
    """What the actor table needs to know of a worker of another node."""

    incarnation: bytes
    endpoint: str
    pid: int


class _Kill:
    """A kill that waits for what the actor's row says: asked of the home it has, and of the next when that one dies.

    So a kill is lost only with the node of whoever asked for it, not with a home that died before it had written DEAD.
    """

    def __init__(self, host: NodeMachine, peer: bytes, message: m.KillActor):
        self._host = host
        self._peer = peer
        self._message = message
        self._home = b""  # whom we have asked
        self._life: int | None = None  # which one is to end

    def __call__(self, row: dict[str, Any]) -> bool:
        """A row of the actor; True when there is no more to be done."""
        host, message, life = self._host, self._message, row["num_restarts"]
        if self._life is None:
            self._life = life
        if row["state"] == "DEAD" or not (message.no_restart or life == self._life):
            return True
        home = row["home"]
        if message.actor in host.actors.actors:  # adopted meanwhile
            host.actors.kill(message, host.now)
            return True
        if not same_node(self._peer, host.incarnation):
            return home != host.incarnation  # its own node asks the next home; if that is to be us, we soon are
        if home != self._home and home in host.cluster.peers:
            self._home = home
            host.effects.append(Send(home, m.Relay(self._peer, message.CODE, list(message))))
        return False


class ActorPlaces:
    """See the module's docstring; the ports of zray.node.actors.ActorTable."""

    def __init__(self, host: NodeMachine):
        self._host = host
        self.requests: dict[int, Actor | Guest] = {}  # scheduler token -> actor that waits
        self.infeasible: set[int] = set()  # of those tokens: no worker need be ready for them
        self._token_of: dict[bytes, int] = {}  # actor -> its token
        self._last_token = 0
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.CreateActor.CODE: self._create_actor, m.LookupActor.CODE: self._lookup_actor,
            m.WatchActor.CODE: self._watch_actor, m.KillActor.CODE: self._kill_actor,
            m.ActorUp.CODE: self._actor_up, m.ActorExit.CODE: self._actor_exit,
            m.ActorPlaced.CODE: self._actor_placed, m.ActorNotPlaced.CODE: self._actor_not_placed,
            m.ActorWorkerDied.CODE: self._actor_worker_died, m.EndWorker.CODE: self._end_worker,
            m.ResizeLease.CODE: self._resize_lease,
        }

    # ------------------------------------------------------------ actors: messages

    def _create_actor(self, peer: bytes, message: m.CreateActor) -> None:
        job = self._host.drivers.job_of(peer)
        if job is None:
            self._host.refuse(peer, "CreateActor from a process without a job")
            return
        message.spec["job"] = job.number
        self._host.actors.create(peer, message, self._host.now)

    def _lookup_actor(self, peer: bytes, message: m.LookupActor) -> None:
        self._host.actors.lookup(peer, message.name, message.namespace, message.request)

    def _watch_actor(self, peer: bytes, message: m.WatchActor) -> None:
        actor = message.actor
        if actor in self._host.actors.actors or self._host.cluster.lone:
            self._host.actors.watch(peer, actor, self._host.now)
        else:
            self._host.elsewhere.watch(actor, {peer}, self._host.now)

    def _kill_actor(self, peer: bytes, message: m.KillActor) -> None:
        host = self._host
        if message.actor in host.actors.actors or host.cluster.lone:
            host.actors.kill(message, host.now)
            return
        host.elsewhere.pursue(message.actor, ("kill", message.no_restart, message.graceful), _Kill(host, peer, message),
                              host.now)

    def _actor_up(self, peer: bytes, message: m.ActorUp) -> None:
        if not self._host.guests.from_worker(peer, message):
            self._host.actors.up(peer, message.actor, message.life, message.error)

    def _actor_exit(self, peer: bytes, message: m.ActorExit) -> None:
        if not self._host.guests.from_worker(peer, message):
            self._host.actors.exit(peer, message, self._host.now)
        # The process stays until then: its death, which the kernel tells, must not overtake its word.
        self._host.effects.append(Send(peer, m.WorkerExit("its exit is known")))

    # ------------------------------------------------------------ places for actors, ours and guests

    def request(self, actor: Actor | Guest) -> None:
        """Ask for a place: ours anywhere in the cluster, a guest here.  ValueError for a demand that is none."""
        self._last_token += 1
        token = self._last_token
        scheduler = self._host.scheduler if isinstance(actor, Guest) else self._host.bottom_up
        scheduler.request(token, actor.job, actor.spec.get("demand") or {}, actor.spec.get("strategy"), self._host.now,
                          actor.spec.get("class_name", ""))
        self.requests[token] = actor
        self._token_of[actor.id] = token
        self._host.groups.uses(actor.spec.get("strategy"))

    def end(self, actor: Actor | Guest, reason: str) -> None:
        """Whatever it has on this node: a request, a grant without worker, a worker."""
        token = self._token_of.get(actor.id)
        if token is not None:
            scheduler = self._host.scheduler if isinstance(actor, Guest) else self._host.bottom_up
            scheduler.cancel_request(token)
            self._settle_unplaced(token)
            self.forget(actor)
        for placement in [p for p in self._host.placements.values() if p.actor == actor.id and p.life == actor.life]:
            if placement.worker is None:
                self._host.give_back(placement)
            else:
                self._host.pool.kill(placement.worker, reason, self._host.now)

    def _settle_unplaced(self, token: int) -> None:
        """Whoever was asked to place it is told while we know which actor that was, and this node before it grants."""
        host, spill = self._host, self._host.bottom_up.spill
        spill.step(host.now)
        keep = []
        for effect in spill.out:
            if type(effect) is Unplace and effect.node == host.incarnation:
                host.scheduler.cancel_request(effect.token)
            elif type(effect) is Unplace:
                host.abroad.perform(effect)
            elif type(effect) is not Place or effect.token != token:
                keep.append(effect)
        spill.out[:] = keep

    def requested(self, token: int) -> Actor | Guest | None:
        """The actor that waits under a scheduler's token."""
        return self.requests.get(token)

    def token_of(self, actor: bytes) -> int | None:
        return self._token_of.get(actor)

    def forget(self, actor: Actor | Guest) -> None:
        """It waits no more."""
        token = self._token_of.pop(actor.id, None)
        if token is not None:
            del self.requests[token]
            self.infeasible.discard(token)

    def _end_worker(self, peer: bytes, message: m.EndWorker) -> None:
        worker = self._host.pool.workers.get(message.worker)
        guest = self._host.guests.guests.get(worker.actor) if worker is not None else None
        if worker is not None and guest is not None and guest.home == peer:
            end = self._host.pool.dismiss if message.reason == JOB_OVER else self._host.pool.kill
            end(worker, message.reason, self._host.now)

    def _resize_lease(self, peer: bytes, message: m.ResizeLease) -> None:
        placement = self._host.placements.get(message.lease)
        guest = self._host.guests.guests.get(placement.actor) if placement is not None else None
        if guest is not None and guest.home == peer:
            self._resize(guest.id, message.lease, message.demand)

    def _resize(self, actor: bytes, lease: int, demand: dict) -> None:
        try:
            self._host.scheduler.resize(lease, demand)
        except ValueError as error:
            self._host.effects.append(Note("resize_refused", {"actor": actor, "error": str(error)}))

    # ------------------------------------------------------------ actors: ports (see zray.node.actors.Ports)

    def place(self, actor: Actor) -> None:
        try:
            self.request(actor)
        except ValueError as error:
            self._host.actors.waiting(actor.id, Cause.INFEASIBLE, str(error))
            return
        self._host.bound.actor(actor)

    def unplace(self, actor: Actor) -> None:
        self.end(actor, "")

    def running(self, actor: Actor) -> None:
        running = actor.spec.get("running")
        if running is None:
            return
        if actor.lease in self._host.placements:
            self._resize(actor.id, actor.lease, running)
        elif actor.worker and not same_node(actor.worker, self._host.incarnation):
            self._host.effects.append(Send(node_of(actor.worker), m.ResizeLease(actor.lease, running)))

    def end_worker(self, actor: Actor, reason: str) -> None:
        worker = self._host.pool.workers.get(actor.worker)
        if worker is not None:
            self._host.pool.kill(worker, reason, self._host.now)
        elif actor.worker and not same_node(actor.worker, self._host.incarnation):
            self._host.effects.append(Send(node_of(actor.worker), m.EndWorker(actor.worker, reason)))

    def find_actor(self, actor: bytes, then: Callable[[dict | None], None]) -> None:
        if self._host.cluster.lone:
            then(None)
        else:
            self._host.elsewhere.find(actor, then, self._host.now)

    def _actor_placed(self, peer: bytes, message: m.ActorPlaced) -> None:
        worker = Remote(message.worker, message.endpoint, message.pid)
        if not self._host.abroad.actor_placed(peer, message) or not self._host.actors.placed(
                message.actor, message.life, worker, message.lease, message.assigned):
            self._host.effects.append(Send(peer, m.UnplaceActor(message.actor, message.life)))

    def _actor_not_placed(self, peer: bytes, message: m.ActorNotPlaced) -> None:
        self._host.abroad.actor_not_placed(peer, message)

    def _actor_worker_died(self, peer: bytes, message: m.ActorWorkerDied) -> None:
        actor = self._host.actors.actors.get(message.actor)
        if actor is not None and actor.worker == message.worker and message.death.get("given_back"):
            # We gave a place there back and asked for another: the first answered for the second, which still waits.
            self._host.effects.append(Send(peer, m.UnplaceActor(actor.id, actor.life)))
        self._host.actors.worker_died(message.actor, message.worker, message.death)

    def claim_name(self, namespace: str, name: str, actor: bytes, then: Callable[[bytes], None]) -> None:
        self._host.names.claim(namespace, name, actor, then)

    def release_name(self, namespace: str, name: str, actor: bytes) -> None:
        self._host.names.release(namespace, name, actor)

    def find_name(self, namespace: str, name: str, then: Callable[[bytes], None]) -> None:
        self._host.names.find(namespace, name, then)

    def record(self, actor: Actor) -> None:
        self._host.names.record_actor(actor.id, actor.record(self._host.incarnation))
        if actor.detached and actor.state == "DEAD":
            self._host.drivers.actor_ended(actor.job)

    def erase(self, actor: bytes) -> None:
        self._host.names.record_actor(actor, None)

    def check(self) -> None:
        assert self.infeasible <= set(self.requests)
        assert {actor.id for actor in self.requests.values()} == set(self._token_of)
