"""Places for actors: those whose home is this node, anywhere in the cluster; foreign ones, here.  Pure.

    ActorTable (states of the actor) -- ports --> ActorPlaces -- request --> scheduler -- granted --> a worker
                                                                  '-- PlaceActor, EndWorker, ... --> another node
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.causes import Cause
from zray.base.ids import JOB_SIZE, node_of
from zray.base.ports import Ports
from zray.node.actors.foreign import ForeignActor
from zray.node.actors.table import DEAD, Actor
from zray.node.context import NodeContext
from zray.node.effects import Note
from zray.node.leases.placements import Placements
from zray.node.names_table import Names
from zray.node.peers.cluster import PeerNodes
from zray.node.processes.pool import WorkerPool
from zray.sched.cluster.bottom_up import BottomUpScheduler
from zray.sched.cluster.spillback_effects import PlaceRequest, UnplaceRequest
from zray.sched.node.grouped import NodeScheduler
from zray.wire import messages as m


class ActorPlacePorts(Ports):
    """Ports of places for actors."""

    local: NodeScheduler
    scheduler: BottomUpScheduler  # of this node and the others
    pool: WorkerPool
    placements: Placements
    names: Names
    cluster: PeerNodes
    find_row: Callable[[bytes, Callable[[dict | None], None], float], None]  # the row of an actor with another home
    waiting: Callable[[bytes, int, str], None]  # (actor, cause, detail): the reason why it has no place yet
    uses_group: Callable[[dict | None], None]  # a request names this strategy
    needs_place: Callable[[Actor], None]  # an actor with its home here needs a place; one with a hard affinity may fail
    unplace_elsewhere: Callable[[UnplaceRequest], Any]  # send it to another node
    detached_ended: Callable[[int], None]  # a detached actor of that job has ended
    job: Callable[[int], list[Any]]  # [driver, config] of that job, [] when it is unknown here
    is_process: Callable[[bytes], bool]  # whether that is a live process of this node
    drop_checkpoints: Callable[[bytes, set[bytes], str, str], None]  # see zray.node.actors.checkpoints


class ActorPlaces:
    """See the module's docstring; the ports of zray.node.actors.table.ActorTable."""

    def __init__(self, context: NodeContext, ports: ActorPlacePorts):
        self._context = context
        self._ports = ports
        self.requests: dict[int, Actor | ForeignActor] = {}  # scheduler token -> actor that waits
        self.infeasible: set[int] = set()  # tokens among them for which no worker needs to be ready
        self._token_of: dict[bytes, int] = {}  # actor -> its token
        self._last_token = 0

    # ------------------------------------------------------------ both kinds

    def request(self, actor: Actor | ForeignActor) -> None:
        """Ask for a place: anywhere in the cluster for an own actor, here for a foreign one.
        ValueError for an invalid demand."""
        self._last_token += 1
        token = self._last_token
        self._scheduler_of(actor).request(
            token, actor.job, actor.spec.get("demand") or {}, actor.spec.get("strategy"), self._context.now,
            actor.spec.get("class_name", ""))
        self.requests[token] = actor
        self._token_of[actor.id] = token
        self._ports.uses_group(actor.spec.get("strategy"))

    def _scheduler_of(self, actor: Actor | ForeignActor) -> NodeScheduler | BottomUpScheduler:
        return self._ports.local if isinstance(actor, ForeignActor) else self._ports.scheduler

    def end(self, actor: Actor | ForeignActor, reason: str) -> None:
        """Give back what the actor has on this node: a request, a grant without worker, or a worker."""
        token = self._token_of.get(actor.id)
        if token is not None:
            self._scheduler_of(actor).cancel_request(token)
            self._settle_unplaced(token)
            self.forget(actor)
        for placement in [p for p in self._ports.placements.values() if p.actor == actor.id and p.life == actor.life]:
            self._ports.placements.end(placement.lease, reason)

    def _settle_unplaced(self, token: int) -> None:
        """Send a pending UnplaceRequest now: its token still maps to this actor, and no grant came
        in between."""
        spillback = self._ports.scheduler.spillback
        spillback.step(self._context.now)
        keep = []
        for effect in spillback.out:
            if type(effect) is UnplaceRequest and effect.node == self._context.me:
                self._ports.local.cancel_request(effect.token)
            elif type(effect) is UnplaceRequest:
                self._ports.unplace_elsewhere(effect)
            elif type(effect) is not PlaceRequest or effect.token != token:
                keep.append(effect)
        spillback.out[:] = keep

    def requested(self, token: int) -> Actor | ForeignActor | None:
        """The actor that waits under a token of the scheduler."""
        return self.requests.get(token)

    def token_of(self, actor: bytes) -> int | None:
        return self._token_of.get(actor)

    def forget(self, actor: Actor | ForeignActor) -> None:
        """Its request is over."""
        token = self._token_of.pop(actor.id, None)
        if token is not None:
            del self.requests[token]
            self.infeasible.discard(token)

    def waiting_here(self) -> list[Actor]:
        """Actors with their home here that wait for a place."""
        return [actor for actor in self.requests.values() if isinstance(actor, Actor)]

    def resize(self, actor: bytes, lease: int, demand: dict) -> None:
        try:
            self._ports.local.resize(lease, demand)
        except ValueError as error:
            self._context.emit(Note("resize_refused", {"actor": actor, "error": str(error)}))

    def send_class(self, actor: Actor | ForeignActor, worker: bytes) -> None:
        """Send the worker the actor's class, where this node is the whole control store; else the worker asks for it.

        It saves the worker a question and the wait for its answer.
        """
        key = actor.spec.get("class_key")
        if key and self._ports.cluster.lone:
            blob = self._ports.names.function(actor.job.to_bytes(JOB_SIZE, "big") + key)
            if blob is not None:
                self._context.send(worker, m.FunctionDef(key, blob, actor.spec.get("class_name", "")))

    # ------------------------------------------------------------ ports of the actor table

    def place(self, actor: Actor) -> None:
        try:
            self.request(actor)
        except ValueError as error:
            self._ports.waiting(actor.id, Cause.INFEASIBLE, str(error))
            return
        self._ports.needs_place(actor)

    def unplace(self, actor: Actor) -> None:
        self.end(actor, "")

    def running(self, actor: Actor) -> None:
        running = actor.spec.get("running")
        if running is None:
            return
        if actor.lease in self._ports.placements:
            self.resize(actor.id, actor.lease, running)
        elif actor.worker and not self._context.is_mine(actor.worker):
            self._context.send(node_of(actor.worker), m.ResizeLease(actor.lease, running))

    def end_worker(self, actor: Actor, reason: str) -> None:
        worker = self._ports.pool.workers.get(actor.worker)
        if worker is not None:
            self._ports.pool.kill(worker, reason, self._context.now)
        elif actor.worker and not self._context.is_mine(actor.worker):
            self._context.send(node_of(actor.worker), m.EndWorker(actor.worker, reason))

    def find_actor(self, actor: bytes, then: Callable[[dict | None], None]) -> None:
        if self._ports.cluster.lone:
            then(None)
        else:
            self._ports.find_row(actor, then, self._context.now)

    def claim_name(self, namespace: str, name: str, actor: bytes, then: Callable[[bytes], None]) -> None:
        self._ports.names.claim(namespace, name, actor, then)

    def release_name(self, namespace: str, name: str, actor: bytes) -> None:
        self._ports.names.release(namespace, name, actor)

    def find_name(self, namespace: str, name: str, then: Callable[[bytes], None]) -> None:
        self._ports.names.find(namespace, name, then)

    def not_made(self, actor: Actor) -> None:
        if actor.detached:
            self._ports.detached_ended(actor.job)

    def record(self, actor: Actor, then: Callable[[], None] | None = None) -> None:
        row = actor.record(self._context.me)
        if row["spec"] is not None:
            row["job"] = self._ports.job(actor.job)  # a node that adopts the actor may not know its job
        self._ports.names.record_actor(actor.id, row, then)
        if actor.detached and actor.state == DEAD:
            self._ports.detached_ended(actor.job)

    def has_ended(self, process: bytes) -> bool:
        if self._context.is_mine(process):
            return not self._ports.is_process(process)
        return self._context.ends.has_ended(process)

    def drop_checkpoints(self, actor: bytes, nodes: set[bytes], keep: str, only: str = "") -> None:
        self._ports.drop_checkpoints(actor, nodes, keep, only)

    def erase(self, actor: bytes) -> None:
        self._ports.names.record_actor(actor, None)

    def check(self) -> None:
        assert self.infeasible <= set(self.requests)
        assert {actor.id for actor in self.requests.values()} == set(self._token_of)
