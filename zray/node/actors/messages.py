"""Messages of callers, workers and other nodes about actors, each to the part that it concerns.  Pure.

    CreateActor, LookupActor, WatchActor, KillActor      the home's ActorTable; else the row of the actor (ActorRows)
    ActorUp, ActorExit                                   from the worker: to the home, which may be another node
    ActorPlaced, ActorNotPlaced, ActorWorkerDied         from the node where an actor of ours lives, or will live
    EndWorker, ResizeLease                               from the home of a foreign actor
    CallerSeen, SaveCheckpoint, StateLost                from the worker: to the home, as ActorUp
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.named_tuples import NamedTuple
from zray.base.ports import Ports
from zray.node.actors.checkpoints import CheckpointFiles
from zray.node.actors.foreign import ForeignActors
from zray.node.actors.places import ActorPlaces
from zray.node.actors.rows import ActorRows
from zray.node.actors.table import ActorTable
from zray.node.context import NodeContext
from zray.node.effects import JOB_OVER
from zray.node.jobs.table import Job
from zray.node.leases.placements import Placements
from zray.node.leases.remote import RemoteLeases
from zray.node.peers.cluster import PeerNodes
from zray.node.processes.pool import WorkerPool
from zray.wire import messages as m


class RemoteWorker(NamedTuple):
    """The fields of another node's worker that the actor table needs."""

    incarnation: bytes
    endpoint: str
    pid: int


class ActorMessagePorts(Ports):
    """The parts of a node that get messages about actors."""

    actors: ActorTable
    rows: ActorRows
    foreign: ForeignActors
    places: ActorPlaces
    checkpoints: CheckpointFiles
    remote: RemoteLeases
    cluster: PeerNodes
    pool: WorkerPool
    placements: Placements
    job_of: Callable[[bytes], Job | None]  # the job of a core process


class _Kill:
    """A kill of an actor with another home.  It goes to the home in the actor's row, and to the
    next home when that one dies.

    So a kill is lost only with the node of its caller, not with a home that died before it wrote DEAD.
    """

    def __init__(self, context: NodeContext, ports: ActorMessagePorts, peer: bytes, message: m.KillActor):
        self._context = context
        self._ports = ports
        self._peer = peer
        self._message = message
        self._home = b""  # the home that has the request
        self._life: int | None = None  # the life to end

    def __call__(self, row: dict[str, Any]) -> bool:
        """Handle a row of the actor; True when the kill is done."""
        context, ports, message, life = self._context, self._ports, self._message, row["num_restarts"]
        if self._life is None:
            self._life = life
        if row["state"] == "DEAD" or not (message.no_restart or life == self._life):
            return True
        home = row["home"]
        if message.actor in ports.actors.actors:  # adopted in the meantime
            ports.actors.kill(message, context.now)
            return True
        if not context.is_mine(self._peer):
            # the caller's own node asks the next home; when that is this node, it becomes the home
            # soon
            return home != context.me
        if home != self._home and home in ports.cluster.peers:
            self._home = home
            context.send(home, m.Relay(self._peer, message.CODE, list(message)))
        return False


class ActorMessages:
    """See the module's docstring."""

    def __init__(self, context: NodeContext, ports: ActorMessagePorts):
        self._context = context
        self._ports = ports
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.CreateActor.CODE: self._create, m.LookupActor.CODE: self._lookup, m.WatchActor.CODE: self._watch,
            m.KillActor.CODE: self._kill, m.ActorUp.CODE: self._up, m.ActorExit.CODE: self._exit,
            m.ActorPlaced.CODE: self._placed, m.ActorNotPlaced.CODE: self._not_placed,
            m.ActorWorkerDied.CODE: self._worker_died, m.EndWorker.CODE: self._end_worker,
            m.ResizeLease.CODE: self._resize_lease, m.CallerSeen.CODE: self._caller_seen,
            m.SaveCheckpoint.CODE: self._save_checkpoint, m.StateLost.CODE: self._state_lost,
            m.PlaceActor.CODE: ports.foreign.place, m.UnplaceActor.CODE: ports.foreign.unplace,
            m.AdoptActor.CODE: ports.foreign.adopt,
        }

    # ------------------------------------------------------------ core processes

    def _create(self, peer: bytes, message: m.CreateActor) -> None:
        job = self._ports.job_of(peer)
        if job is None:
            self._context.refuse(peer, "CreateActor from a process without a job")
            return
        message.spec["job"] = job.number
        self._ports.actors.create(peer, message, self._context.now)

    def _lookup(self, peer: bytes, message: m.LookupActor) -> None:
        self._ports.actors.lookup(peer, message.name, message.namespace, message.request)

    def _watch(self, peer: bytes, message: m.WatchActor) -> None:
        actor = message.actor
        if self._is_home(actor):
            self._ports.actors.watch(peer, actor, self._context.now)
        else:
            self._ports.rows.watch(actor, {peer}, self._context.now)

    def _kill(self, peer: bytes, message: m.KillActor) -> None:
        context, ports = self._context, self._ports
        if self._is_home(message.actor):
            ports.actors.kill(message, context.now)
            return
        ports.rows.pursue(message.actor, ("kill", message.no_restart, message.graceful),
                          _Kill(context, ports, peer, message), context.now)

    def _is_home(self, actor: bytes) -> bool:
        return actor in self._ports.actors.actors or self._ports.cluster.lone

    # ------------------------------------------------------------ workers

    def _up(self, peer: bytes, message: m.ActorUp) -> None:
        worker = self._ports.pool.workers.get(peer)
        if worker is not None and message.error:
            worker.raised = message.message or "an exception without a text"
        if not self._ports.foreign.from_worker(peer, message):
            self._ports.actors.up(peer, message)

    def _exit(self, peer: bytes, message: m.ActorExit) -> None:
        if not self._ports.foreign.from_worker(peer, message):
            self._ports.actors.exit(peer, message, self._context.now)
        # The process stays until then: its death, which the kernel reports, must not overtake its ActorExit.
        self._context.send(peer, m.WorkerExit("its exit is known"))

    def _caller_seen(self, peer: bytes, message: m.CallerSeen) -> None:
        if not self._ports.foreign.from_worker(peer, message):
            self._ports.actors.caller_seen(peer, message)

    def _save_checkpoint(self, peer: bytes, message: m.SaveCheckpoint) -> None:
        if self._context.is_mine(peer):
            self._ports.checkpoints.save(peer, message)
        else:
            self._ports.actors.checkpointed(peer, message)

    def _state_lost(self, peer: bytes, message: m.StateLost) -> None:
        if not self._ports.foreign.from_worker(peer, message):
            self._ports.actors.state_lost(peer, message)

    # ------------------------------------------------------------ other nodes

    def _placed(self, peer: bytes, message: m.ActorPlaced) -> None:
        worker = RemoteWorker(message.worker, message.endpoint, message.pid)
        if not self._ports.remote.actor_placed(peer, message) or not self._ports.actors.placed(
                message.actor, message.life, worker, message.lease, message.assigned):
            self._context.send(peer, m.UnplaceActor(message.actor, message.life))

    def _not_placed(self, peer: bytes, message: m.ActorNotPlaced) -> None:
        self._ports.remote.actor_not_placed(peer, message)

    def _worker_died(self, peer: bytes, message: m.ActorWorkerDied) -> None:
        actor = self._ports.actors.actors.get(message.actor)
        if actor is not None and actor.worker == message.worker and message.death.get("given_back"):
            # This node gave back a place there and asked for another: the first answered for the
            # second, which still waits.
            self._context.send(peer, m.UnplaceActor(actor.id, actor.life))
        self._ports.actors.worker_died(message.actor, message.worker, message.death)

    def _end_worker(self, peer: bytes, message: m.EndWorker) -> None:
        pool = self._ports.pool
        worker = pool.workers.get(message.worker)
        actor = self._ports.foreign.actors.get(worker.actor) if worker is not None else None
        if worker is not None and actor is not None and actor.home == peer:
            end = pool.dismiss if message.reason == JOB_OVER else pool.kill
            end(worker, message.reason, self._context.now)

    def _resize_lease(self, peer: bytes, message: m.ResizeLease) -> None:
        placement = self._ports.placements.get(message.lease)
        actor = self._ports.foreign.actors.get(placement.actor) if placement is not None else None
        if actor is not None and actor.home == peer:
            self._ports.places.resize(actor.id, message.lease, message.demand)
