"""Leases of this node: from an owner's key and want to a worker, and back.  Pure.

    LeaseKey, LeaseWant   to a scheduler: of an owner here to the cluster's, of a foreign owner to this node's
    Grant                 a placement, which takes a worker of the right kind from the pool or waits for one
    a worker is ready     LeaseGrant to the owner; an actor's placement goes to its table, which may refuse
    a lower LeaseWant     placements that wait for an environment, and that are not wanted any more, are given back
    LeaseReturn           the resources are free, the worker serves the next placement
    LeaseKill, a death, the owner's end
                          the resources are free once the worker has ended; its owner or actor gets the cause
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zray.base import env_vars
from zray.base.causes import Cause
from zray.base.ids import node_of
from zray.base.ports import Ports
from zray.environments import setup as setups, spec
from zray.node.actors.foreign import ForeignActor, ForeignActors
from zray.node.actors.places import ActorPlaces
from zray.node.actors.table import ActorTable
from zray.node.context import NodeContext
from zray.node.environments.table import EnvironmentTable, Step
from zray.node.jobs.table import Job, JobTable
from zray.node.jobs.task_events import TaskEventLog
from zray.node.leases.placements import Death, Declared, Placement, Placements
from zray.node.leases.remote import RemoteLeases
from zray.node.processes.ended import exit_of_worker
from zray.node.processes.pool import Kind, State, WorkerPool, WorkerRecord
from zray.sched.cluster.bottom_up import BottomUpScheduler
from zray.sched.node.grouped import NodeScheduler
from zray.sched.node.local import Grant, Recall, Status
from zray.wire import messages as m


class LeasePorts(Ports):
    """Ports of leases."""

    node: dict[str, Any]  # as zray.nodes() shows it
    environ: Mapping[str, str]  # the environment that workers start with
    local: NodeScheduler
    scheduler: BottomUpScheduler  # of this node and the others
    pool: WorkerPool
    placements: Placements
    environments: EnvironmentTable
    jobs: JobTable
    events: TaskEventLog
    actors: ActorTable
    foreign: ForeignActors
    places: ActorPlaces
    remote: RemoteLeases
    job_of: Callable[[bytes], Job | None]  # the job of a core process
    blocks: Callable[[WorkerRecord], None]  # its task begins or ends to wait in get or wait
    uses_group: Callable[[dict | None], None]  # a key names this strategy
    declares: Callable[[bytes, int, dict | None], None]  # (owner, key, strategy): one with a hard affinity may fail


class Leases:
    """See the module's docstring."""

    def __init__(self, context: NodeContext, ports: LeasePorts):
        self._context = context
        self._ports = ports
        self._placements = ports.placements
        self._pool = ports.pool
        self._keys: dict[tuple[bytes, int], Declared] = {}
        self._keys_of: dict[bytes, set[int]] = {}
        self._configured: set[bytes] = set()  # workers that have their job's configuration
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.LeaseKey.CODE: self._key, m.LeaseWant.CODE: self._want, m.LeaseReturn.CODE: self._return,
            m.LeaseKill.CODE: self._kill, m.Blocked.CODE: self._blocked, m.WorkerReady.CODE: self._worker_ready,
        }

    # ------------------------------------------------------------ messages of owners

    def _key(self, peer: bytes, message: m.LeaseKey) -> None:
        ports = self._ports
        job = ports.jobs.jobs.get(message.job) if message.job else ports.job_of(peer)
        if job is None:
            self._context.refuse(peer, "LeaseKey from a process without a job")
            return
        ours = self._context.is_mine(peer)
        try:
            if ours:
                ports.scheduler.declare(peer, job.number, message.key, message.demand, message.strategy, message.name,
                                        message.env)
            else:
                ports.local.declare(peer, job.number, message.key, message.demand, message.strategy, message.name)
        except ValueError as error:
            self._context.refuse(peer, f"LeaseKey: {error}")
            return
        self._keys[peer, message.key] = Declared(job.number, message.env, message.name, message.strategy)
        self._keys_of.setdefault(peer, set()).add(message.key)
        ports.uses_group(message.strategy)
        if ours:
            ports.declares(peer, message.key, message.strategy)

    def _want(self, peer: bytes, message: m.LeaseWant) -> None:
        if (peer, message.key) not in self._keys:
            self._context.refuse(peer, f"LeaseWant for key {message.key}, which was not declared")
            return
        if message.name:
            self._keys[peer, message.key].name = message.name
        scheduler = self._ports.scheduler if self._context.is_mine(peer) else self._ports.local
        scheduler.want(peer, message.key, message.want, message.granted, self._context.now)
        for placement in self._waiting_for_environment(peer, message.key)[message.want:]:
            self._placements.cancel_wait(placement)  # its task was cancelled: with the last lease, the build ends
            scheduler.revoke(placement.lease, self._context.now)

    def _waiting_for_environment(self, owner: bytes, key: int) -> list[Placement]:
        """Leases that the owner has not got, because their environment is being installed; the oldest first."""
        waiting = map(self._placements.__getitem__, self._ports.environments.waiting_leases())
        return [placement for placement in waiting if placement.owner == owner and placement.key == key]

    def _return(self, peer: bytes, message: m.LeaseReturn) -> None:
        placement = self._held(peer, message.lease)
        if placement is None:
            self._ports.remote.to_lender(peer, message)
            return
        worker = placement.worker
        assert worker is not None
        self._placements.free(placement)
        if message.exiting:
            self._pool.leaving(worker, self._context.now)
        else:
            self._serve(self._pool.release(worker, self._context.now))

    def _kill(self, peer: bytes, message: m.LeaseKill) -> None:
        placement = self._held(peer, message.lease)
        if placement is not None:
            assert placement.worker is not None
            self._pool.kill(placement.worker, message.reason, self._context.now)
        else:
            self._ports.remote.to_lender(peer, message)

    def _held(self, peer: bytes, lease: int) -> Placement | None:
        """The lease, if ``peer`` holds it.  Not an error otherwise: returns cross with deaths."""
        placement = self._placements.get(lease)
        return placement if placement is not None and placement.owner == peer and placement.worker else None

    # ------------------------------------------------------------ messages of workers

    def _worker_ready(self, peer: bytes, message: m.WorkerReady) -> None:
        worker = self._pool.workers.get(peer)
        if worker is None:
            self._context.refuse(peer, "WorkerReady from a process that is no worker")
            return
        worker.pid = worker.pid or message.pid
        self._serve(self._pool.ready(peer, worker.endpoint, self._context.now))

    def _blocked(self, peer: bytes, message: m.Blocked) -> None:
        worker = self._pool.workers.get(peer)
        if worker is None or worker.blocked == message.blocked:
            return
        worker.blocked = message.blocked
        self._ports.events.blocked(peer, message.blocked, self._context.now + self._context.epoch_s)
        self._ports.blocks(worker)
        if worker.lease:
            (self._ports.local.block if message.blocked else self._ports.local.unblock)(worker.lease)

    # ------------------------------------------------------------ effects of the scheduler

    def perform(self, effect: Any) -> None:
        """An effect of the scheduler that concerns this node."""
        if type(effect) is Grant:
            self._granted(effect)
        elif type(effect) is Recall:
            self._context.send(effect.owner, m.LeaseRecall(effect.lease))
        elif type(effect) is Status:
            self._status(effect)

    def _granted(self, grant: Grant) -> None:
        now, places = self._context.now, self._ports.places
        if grant.token is not None:
            actor = places.requests[grant.token]
            places.forget(actor)
            env = actor.spec.get("env") or {}
            kind = self._kind(actor.job, env, setups.setup_of(env), grant.assigned)
            placement = Placement(grant.lease, b"", 0, actor.id, actor.life, grant.assigned, kind, now)
            actor.lease = grant.lease
        else:
            declared = self._keys[grant.owner, grant.key]
            env = declared.env
            kind = self._kind(declared.job, env, declared.setup, grant.assigned)
            labels = declared.strategy.get("labels")
            assigned = {**grant.assigned, "labels": labels} if labels else grant.assigned
            placement = Placement(grant.lease, grant.owner, grant.key, b"", 0, assigned, kind, now)
        self._placements[grant.lease] = placement
        self._context.counts["grants"] += 1
        if kind.setup:
            self._equip(placement, env)
        else:
            self._take(placement)

    def _equip(self, placement: Placement, env: dict[str, Any]) -> None:
        """Take a worker once the runtime environment is installed, or has failed."""
        kind = placement.kind
        found = self._ports.environments.ask(kind.setup, env, kind.job, placement.lease, self._context.now)
        if found is None:
            what = "its runtime environment is being set up: " if placement.actor else ""  # the cause says so for tasks
            self._why(placement, Cause.ENVIRONMENT, what + setups.title(kind.setup))
            return
        placement.equipment = found.equipment
        if found.step is Step.FAILED:
            placement.kind = kind._replace(fresh=False)  # a forked worker can say so
        elif found.equipment.get("fresh"):
            placement.kind = kind._replace(fresh=True)
        self._take(placement)

    def environment_settled(self, leases: list[int]) -> None:
        """The environment that these placements waited for is installed, or has failed."""
        for lease in leases:
            placement = self._placements[lease]
            self._equip(placement, {})  # settled: the environment itself is not needed

    def _take(self, placement: Placement) -> None:
        worker = self._pool.take(placement.kind, placement.lease, self._context.now)
        if worker is not None:
            self._serve([(placement.lease, worker)])
        else:
            limit = self._pool.limit()
            self._why(placement, Cause.WORKER_LIMIT if limit else Cause.WORKER_STARTING, limit)

    def _kind(self, job: int, env: dict[str, Any], setup: str, assigned: dict[str, Any]) -> Kind:
        return Kind.of(job, spec.variables(env), assigned.get("gpu_ids", ()),
                       env_vars.threads_for(assigned.get("resources") or {}), self._ports.environ, setup,
                       env.get("worker_process_setup_hook") or "")

    def _serve(self, served: list[tuple[Any, WorkerRecord]]) -> None:
        """Workers for placements that waited for one."""
        for lease, worker in served:
            placement = self._placements[lease]
            placement.worker = worker
            self._pool.use(worker, State.ACTOR if placement.actor else State.LEASED, lease, self._context.now,
                           placement.actor)
            if worker.incarnation not in self._configured:
                self._configured.add(worker.incarnation)
                job = self._ports.jobs.jobs.get(placement.kind.job)
                config = job.config if job is not None else {}
                broken = self._pool.why_broken(placement.kind)  # a fresh kind knows it from its start
                equipment = {"error": broken} if broken and placement.kind.hook else placement.equipment
                if equipment:
                    config = {**config, "equipment": equipment}
                    worker.broken |= "error" in equipment
                self._context.send(worker.incarnation, m.JobSettings(placement.kind.job, config))
            if not placement.actor:
                self._context.send(placement.owner, m.LeaseGrant(
                    placement.key, lease, worker.incarnation, worker.endpoint, worker.pid, placement.assigned))
                # the recall came while the worker started: its owner did not know the lease yet
                if self._ports.local.leases[lease].recalled:
                    self._context.send(placement.owner, m.LeaseRecall(lease))
                self._others_wait(placement)
            elif not self._placed(placement, worker):
                self._placements.free(placement)
                self._serve(self._pool.release(worker, self._context.now))

    def _others_wait(self, served: Placement) -> None:
        """A grant of a key ends the wait that its owner knows of.  Say it again if others of that key go on waiting."""
        if not (limit := self._pool.limit()):
            return
        same = (p for p in self._placements.values() if p.worker is None and p.owner == served.owner)
        if other := next((p for p in same if p.key == served.key), None):
            self._why(other, Cause.WORKER_LIMIT, limit)

    def _placed(self, placement: Placement, worker: WorkerRecord) -> bool:
        foreign = self._ports.foreign.actors.get(placement.actor)
        actor = foreign or self._ports.actors.actors.get(placement.actor)
        if actor is not None:
            self._ports.places.send_class(actor, worker.incarnation)
        if foreign is not None and foreign.life == placement.life:
            return self._ports.foreign.placed(foreign, worker, placement.lease, placement.assigned)
        return self._ports.actors.placed(placement.actor, placement.life, worker, placement.lease, placement.assigned)

    def _status(self, status: Status) -> None:
        if status.token is not None:
            places = self._ports.places
            actor = places.requested(status.token)
            if actor is not None:
                if status.cause in (Cause.INFEASIBLE, Cause.GROUP_PENDING, Cause.GROUP_INFEASIBLE):
                    places.infeasible.add(status.token)
                table = self._ports.foreign if isinstance(actor, ForeignActor) else self._ports.actors
                table.waiting(actor.id, status.cause, status.detail)
        else:
            self._context.send(status.owner, m.LeaseStatus(status.key, status.cause, status.detail))

    def _why(self, placement: Placement, cause: Cause, detail: str) -> None:
        if placement.actor:
            foreign = self._ports.foreign
            table = foreign if placement.actor in foreign.actors else self._ports.actors
            table.waiting(placement.actor, cause, detail)
        else:
            self._context.send(placement.owner, m.LeaseStatus(placement.key, cause, detail))

    # ------------------------------------------------------------ ends

    def worker_ended(self, worker: WorkerRecord, death: Death) -> None:
        """Send the owner its lease, or pass the worker to the table of its actor."""
        self._configured.discard(worker.incarnation)
        placement = self._placements.get(worker.lease)
        if placement is None or placement.worker is not worker:
            return
        self._placements.free(placement)
        if placement.actor:
            foreign = placement.actor in self._ports.foreign.actors
            table = self._ports.foreign if foreign else self._ports.actors
            log_file = self._log_for(b"" if foreign else self._context.me, death.log_file)
            exit_type, exit_detail = exit_of_worker(worker, death)
            table.worker_died(placement.actor, worker.incarnation, {
                "exit_type": exit_type, "exit_detail": exit_detail, "signal": death.signal,
                "exit_code": death.exit_code, "pid": worker.pid, "log_tail": death.log_tail,
                "reason": worker.reason, "log_file": log_file})
            return
        mine = death.lease == placement.lease
        self._context.send(placement.owner, m.WorkerDied(
            worker.incarnation, placement.lease, worker.pid, death.signal, death.exit_code,
            death.started if mine else 0, death.finished if mine else 0, worker.reason, death.log_tail,
            self._log_for(placement.owner, death.log_file), worker.ask))

    def _log_for(self, reader: bytes, path: str) -> str:
        """The name of a log file of this node, for a reader that may be on another node."""
        return path if self._context.is_mine(reader) or not path else f"{self._ports.node['NodeManagerAddress']}:{path}"

    def owner_ended(self, owner: bytes) -> None:
        """Forget its keys, and end the work that runs for them."""
        held = self._ports.scheduler.drop_owner(owner).leases
        for key in self._keys_of.pop(owner, ()):
            del self._keys[owner, key]
        for lease in held:
            self._placements.end(lease, "the owner of its tasks is gone")

    def owners_on(self, node: bytes) -> set[bytes]:
        """Processes of that node that have declared keys here."""
        return {owner for owner, _ in self._keys if node_of(owner) == node}

    def drain(self) -> None:
        """Ask owners on other nodes to give back their leases."""
        for placement in self.lent():
            if placement.worker is None:
                self._placements.give_back(placement)
            else:
                self._context.send(placement.owner, m.LeaseRecall(placement.lease))

    def lent(self) -> list[Placement]:
        """Leases here that owners on other nodes hold, or wait for."""
        return [p for p in self._placements.values() if not p.actor and not self._context.is_mine(p.owner)]

    # ------------------------------------------------------------ for people

    def running_names(self) -> dict[int, str]:
        """The running task of each lease, as far as its worker has reported it: a key serves many functions."""
        running = self._ports.events.running_on()
        return {lease: running[placement.worker.incarnation] for lease, placement in self._placements.items()
                if placement.worker is not None and placement.worker.incarnation in running}

    def declared(self) -> Mapping[tuple[bytes, int], Declared]:
        """All scheduling keys that are known here, by (owner, key)."""
        return self._keys

    def check(self) -> None:
        for owner, key in self._keys:
            assert key in self._keys_of[owner]
