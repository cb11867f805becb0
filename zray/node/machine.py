"""NodeMachine: everything a node decides, composed of jobs, scheduler, pool and actors.  Pure.

The shell gives it messages (``handle``), deaths (``worker_exited``, ``process_exited``), forks (``worker_spawned``) and
time (``tick`` when ``next_deadline`` has come), and after each performs what is in ``effects``.  It reads no clock and
does no I/O, so the simulator runs the same machine.

The way of a lease: LeaseKey and LeaseWant go to the scheduler; its Grant asks the pool for a worker of the right kind;
when there is one the owner gets LeaseGrant, or the actor ActorInit.  What ends it (LeaseReturn, the worker's death,
the owner's death) gives the resources back, and the scheduler is stepped at the end of every event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from zray import env_vars, messages as m
from zray.causes import Cause
from zray.config import Config
from zray.ids import node_of, same_node
from zray.node import views
from zray.node.abroad import Abroad
from zray.node.actor_places import ActorPlaces
from zray.node.actors import ActorTable
from zray.node.bound import BoundWork
from zray.node.census import Census
from zray.node.cluster import Cluster
from zray.node.drivers import Drivers
from zray.node.effects import Effect, Forget, Note, Send
from zray.node.elsewhere import Elsewhere
from zray.node.guests import Guest, Guests
from zray.node.group_service import GroupService
from zray.node.jobs import JobTable
from zray.node.orphans import Orphans
from zray.node.names_table import Names
from zray.node.placements import Death, Declared, Placement
from zray.node.pool import Kind, Pool, State, Worker
from zray.node.task_events import TaskEvents
from zray.node.unheld import SETTLE_TIMEOUTS, Unheld
from zray.sched.bottom_up import BottomUpScheduler
from zray.sched.grouped import NodeScheduler
from zray.sched.local import Grant, LocalScheduler, Recall, Status

# With more processes than this, announcements of deaths gather: n deaths among n processes are n*n messages, and only
# frames make them cheap.  A round wakes every process, which costs some 0.1 ms of CPU each: a fifth of a core at most.
GONE_AT_ONCE_MAX = 64
GONE_GATHER_S = 0.0005  # for each process


class NodeMachine:
    """The decisions of one node."""

    def __init__(self, *, incarnation: bytes, node: dict[str, Any], scheduler: LocalScheduler, names: Names,
                 config: Config, new_worker_id: Callable[[], bytes],
                 attach: Callable[[bytes, int], dict[str, Any]], keep: int, first_job: int = 1,
                 store_report: Callable[[], dict] = dict, gcs_report: Callable[[], dict] = dict,
                 environ: Mapping[str, str] | None = None,
                 ownerless: Callable[[Callable[[bytes], bool]], list[Any]] = lambda has_ended: [],
                 free_unheld: Callable[[list[Any]], None] = lambda objects: None):
        self.incarnation = incarnation
        self.node = node  # as zray.nodes() shows it
        self.scheduler = NodeScheduler(scheduler)
        self.config = config
        self.attach = attach  # (incarnation, pid) -> how that driver attaches to the store
        self.environ = environ or {}  # what workers start under
        self.store_report = store_report
        self.gcs_report = gcs_report
        self.names = names
        self.now = 0.0
        self.effects: list[Effect] = []
        emit = self.effects.append
        self.jobs = JobTable(first_job)
        self.drivers = Drivers(self)
        self.pool = Pool(new_worker_id, emit, keep=keep, workers_max=config.workers_max, idle_s=config.worker_idle_s)
        self.places = ActorPlaces(self)
        self.actors = ActorTable(self.places, emit)
        self.pool.may_retire = lambda worker: not self.actors.owns(worker.incarnation)
        self.guests = Guests(self)
        self.elsewhere = Elsewhere(incarnation, names, emit, self._is_home)
        self.cluster = Cluster(self)
        self.abroad = Abroad(self)
        self.orphans = Orphans(self)
        self.bound = BoundWork(self)
        self.census = Census(self, partial(views.answer, self))
        self.unheld = Unheld(
            incarnation, lambda peer, message: emit(Send(peer, message)), processes=self._holders,
            nodes=lambda: self.cluster.peers, is_gone_node=lambda node: node in self.cluster.gone,
            kept=self.actors.arguments, announce=self._announce_all,
            learn=lambda owner: self._ended_abroad(owner, "its process ended"), ownerless=ownerless, free=free_unheld,
            settle_s=SETTLE_TIMEOUTS * config.node_timeout_s)
        self.placements: dict[int, Placement] = {}
        self.groups = GroupService(self)
        self.bottom_up = BottomUpScheduler(
            self.scheduler, incarnation, scheduler.view.labels[0], seed=int.from_bytes(incarnation, "big"),
            gossip_s=config.gossip_s, patience_s=config.spill_patience_s,
            nodes_of=lambda strategy: self.groups.nodes_of(strategy["group"], strategy.get("bundle", -1)),
            group_waits=lambda strategy: self.groups.why_unplaced(strategy["group"], strategy.get("bundle", -1)))
        self.groups.cluster_view = lambda: self.scheduler.view if self.cluster.alone else self.bottom_up.view
        self.groups.node_ids = self.cluster.node_id
        self.groups.ask_job_ended = self.drivers.ask_ended
        self.groups.directory.on_change.append(
            lambda state: self.bottom_up.spill.group_changed(state.group, self.now))
        self.events = TaskEvents(config.events_max)
        scheduler.running = self.running_names
        self.counts = {"grants": 0, "worker_deaths": 0, "refused": 0}
        self._keys: dict[tuple[bytes, int], Declared] = {}
        self._keys_of: dict[bytes, set[int]] = {}
        self._configured: set[bytes] = set()  # workers that have their job's configuration
        self._gone: list[m.ProcessGone] = []
        self._gone_at = 0.0
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.WorkerReady.CODE: self._worker_ready,
            m.LeaseKey.CODE: self._lease_key, m.LeaseWant.CODE: self._lease_want,
            m.LeaseReturn.CODE: self._lease_return, m.LeaseKill.CODE: self._lease_kill, m.Blocked.CODE: self._blocked,
            m.NodeQuery.CODE: self.census.query, m.NodeAnswer.CODE: self.census.answered,
            m.EventReport.CODE: self._event_report,
            m.ProcessGone.CODE: self._process_gone_abroad, m.AskHeld.CODE: self._ask_held,
            m.Held.CODE: self._held_answer,
            m.PlaceActor.CODE: self.guests.place, m.UnplaceActor.CODE: self.guests.unplace,
            m.AdoptActor.CODE: self.guests.adopt,
            **self.drivers.handlers, **self.places.handlers, **self.cluster.handlers, **self.abroad.handlers,
            **self.groups.handlers,
        }

    # ------------------------------------------------------------ events

    def start(self, now: float) -> None:
        """Start the first workers before anybody asks."""
        self.now = now
        self.pool.prestart(now)

    def handle(self, peer: bytes, code: int, message: Any, now: float) -> None:
        """One message.  A peer that breaks the protocol is noted, never obeyed, never fatal."""
        self.now = now
        handler = self.handlers.get(code)
        if handler is None:
            self.refuse(peer, f"{type(message).__name__} is not for a node")
            return
        handler(peer, message)
        self._settle()

    def worker_spawned(self, worker_id: bytes, pid: int, error: str, now: float) -> None:
        """The zygote forked (pid) or could not (pid 0)."""
        self.now = now
        worker = self.pool.workers.get(worker_id[:8])
        if worker is None:
            return
        if pid:
            worker.pid = pid
        else:
            self.effects.append(Note("spawn_failed", {"error": error}))
            self.worker_exited(worker.incarnation, Death(log_tail=error), now)

    def worker_exited(self, incarnation: bytes, death: Death, now: float) -> None:
        """A worker process has ended and was collected."""
        self.now = now
        worker = self.pool.died(incarnation, now, death.log_tail)
        if worker is None:
            return
        placement = self.placements.get(worker.lease)
        if placement is not None and placement.worker is worker:
            self._end_of_placement(worker, placement, death)
        self.counts["worker_deaths"] += worker.reason == ""
        self.effects.append(Note("worker_died", {
            "worker": incarnation, "pid": worker.pid, "signal": death.signal, "exit_code": death.exit_code,
            "reason": worker.reason, "job": worker.job, "task": self.events.worker_gone(incarnation)}))
        if worker.kind is not None:
            self.process_gone(incarnation, worker.reason or "its process ended")
        self._configured.discard(incarnation)
        self.effects.append(Forget(incarnation))
        self.drivers.may_be_done(worker.job)
        self._settle()

    def process_exited(self, incarnation: bytes, now: float) -> None:
        """A driver (or a tool) has ended without a Goodbye."""
        self.now = now
        if self.drivers.hellos.pop(incarnation, None) is not None:
            self.drivers.over(incarnation, "the driver's process ended", None)
        self.effects.append(Forget(incarnation))
        self._settle()

    def tick(self, now: float) -> None:
        """Time has passed."""
        self.now = now
        self.pool.tick(now)
        self.actors.tick(now)
        self.guests.tick(now)
        self.elsewhere.tick(now)
        self.census.tick(now)
        self.groups.tick(now)
        self.unheld.tick(now)
        self.drivers.tick(now)
        self._settle()

    def settle(self, now: float) -> None:
        """Something outside this machine has called back: do what follows."""
        self.now = now
        self._settle()

    def next_deadline(self) -> float | None:
        times = [self.pool.next_deadline(), self.actors.next_deadline(), self.bottom_up.deadline(),
                 self.guests.next_deadline(), self.elsewhere.next_deadline(), self.census.next_deadline(),
                 self.groups.next_deadline(), self.unheld.next_deadline(),
                 self.drivers.next_deadline(), self._gone_at if self._gone else None]
        return min([when for when in times if when is not None], default=None)

    # ------------------------------------------------------------ workers

    def _worker_ready(self, peer: bytes, message: m.WorkerReady) -> None:
        worker = self.pool.workers.get(peer)
        if worker is None:
            self.refuse(peer, "WorkerReady from a process that is no worker")
            return
        worker.pid = worker.pid or message.pid
        self._serve(self.pool.ready(peer, worker.endpoint, self.now))

    def _blocked(self, peer: bytes, message: m.Blocked) -> None:
        worker = self.pool.workers.get(peer)
        if worker is None or worker.blocked == message.blocked:
            return
        worker.blocked = message.blocked
        if worker.lease:
            (self.scheduler.block if message.blocked else self.scheduler.unblock)(worker.lease)

    def process_gone(self, incarnation: bytes, reason: str) -> None:
        """Nobody answers under this name any more: what it owned or asked for ends, and everybody is told."""
        self.actors.process_gone(incarnation)
        self.elsewhere.process_gone(incarnation)
        self.cluster.forget_process(incarnation)
        if same_node(incarnation, self.incarnation):
            for node in self.cluster.peers:
                self.effects.append(Send(node, m.ProcessGone(incarnation, reason)))
                self.unheld.announced(node)
            self.abroad.owner_gone(incarnation)
        self.groups.process_gone(incarnation)
        held = self.bottom_up.drop_owner(incarnation).leases
        for key in self._keys_of.pop(incarnation, ()):
            del self._keys[incarnation, key]
        for lease in held:
            placement = self.placements.get(lease)
            if placement is None:
                continue
            if placement.worker is None:
                self.give_back(placement)
            else:  # it runs the tasks of somebody who is gone
                self.pool.kill(placement.worker, "the owner of its tasks is gone", self.now)
        if not self._gone:
            crowd = len(self.drivers.hellos) + len(self.pool.workers)
            self._gone_at = self.now if crowd <= GONE_AT_ONCE_MAX else self.now + crowd * GONE_GATHER_S
        self._gone.append(m.ProcessGone(incarnation, reason))
        self.unheld.process_gone(incarnation, self.now)

    def _announce(self) -> None:
        if not self._gone or self._gone_at > self.now:
            return
        gone, self._gone = self._gone, []
        for peer in self._core_processes():
            for message in gone:
                self.effects.append(Send(peer, message))

    def _announce_all(self) -> None:
        """Tell our processes at once of all that has ended, however many they are."""
        self._gone_at = min(self._gone_at, self.now)
        self._announce()

    def _holders(self) -> list[bytes]:
        """Core processes of this node that may hold objects."""
        peers = [job.driver for job in self.jobs.by_driver.values() if same_node(job.driver, self.incarnation)]
        return peers + [w.incarnation for w in self.pool.workers.values()
                        if w.kind is not None and w.state is not State.STARTING]  # no message reaches it yet

    def _core_processes(self) -> list[bytes]:
        """Those of this node that may know others."""
        peers = [job.driver for job in self.jobs.by_driver.values() if same_node(job.driver, self.incarnation)]
        return peers + [w.incarnation for w in self.pool.workers.values()
                        if w.kind is not None and w.state not in (State.STARTING, State.EXITING)]

    # ------------------------------------------------------------ leases

    def _lease_key(self, peer: bytes, message: m.LeaseKey) -> None:
        job = self.jobs.jobs.get(message.job) if message.job else self.drivers.job_of(peer)
        if job is None:
            self.refuse(peer, "LeaseKey from a process without a job")
            return
        ours = same_node(peer, self.incarnation)
        try:
            if ours:
                self.bottom_up.declare(peer, job.number, message.key, message.demand, message.strategy, message.name,
                                       message.env)
            else:
                self.scheduler.declare(peer, job.number, message.key, message.demand, message.strategy, message.name)
        except ValueError as error:
            self.refuse(peer, f"LeaseKey: {error}")
            return
        self._keys[peer, message.key] = Declared(job.number, message.env, message.name, message.strategy)
        self._keys_of.setdefault(peer, set()).add(message.key)
        self.groups.uses(message.strategy)
        if ours:
            self.bound.key(peer, message.key, message.strategy)

    def running_names(self) -> dict[int, str]:
        """What runs on each lease, as far as its worker has reported: a key serves many functions."""
        running = self.events.running_on()
        return {lease: running[placement.worker.incarnation] for lease, placement in self.placements.items()
                if placement.worker is not None and placement.worker.incarnation in running}

    def name_of(self, process: bytes) -> str:
        """A core process of this node, for people."""
        worker = self.pool.workers.get(process)
        if worker is None:
            hello = self.drivers.hellos.get(process)
            return f"driver {hello.pid}" if hello is not None else process.hex()
        actor = self.actors.actors.get(worker.actor)
        does = actor.spec.get("class_name", "") if actor is not None else self.events.running_on().get(process, "")
        return f"worker {worker.pid}" + (f" ({does})" if does else "")

    def declared(self) -> Mapping[tuple[bytes, int], Declared]:
        """All scheduling keys that are known here, by (owner, key)."""
        return self._keys

    def _lease_want(self, peer: bytes, message: m.LeaseWant) -> None:
        if (peer, message.key) not in self._keys:
            self.refuse(peer, f"LeaseWant for key {message.key}, which was not declared")
            return
        if message.name:
            self._keys[peer, message.key].name = message.name
        if same_node(peer, self.incarnation):
            self.bottom_up.want(peer, message.key, message.want, message.granted, self.now)
        else:
            self.scheduler.want(peer, message.key, message.want, message.granted, self.now)

    def _lease_return(self, peer: bytes, message: m.LeaseReturn) -> None:
        placement = self._held(peer, message.lease)
        if placement is None:
            self.abroad.to_lender(peer, message)
            return
        worker = placement.worker
        assert worker is not None
        self._free(placement)
        if message.exiting:
            self.pool.leaving(worker, self.now)
        else:
            self._serve(self.pool.release(worker, self.now))

    def _lease_kill(self, peer: bytes, message: m.LeaseKill) -> None:
        placement = self._held(peer, message.lease)
        if placement is not None:
            assert placement.worker is not None
            self.pool.kill(placement.worker, message.reason, self.now)
        else:
            self.abroad.to_lender(peer, message)

    def _held(self, peer: bytes, lease: int) -> Placement | None:
        """The lease, if ``peer`` holds it.  Not an error otherwise: returns cross with deaths."""
        placement = self.placements.get(lease)
        return placement if placement is not None and placement.owner == peer and placement.worker else None

    def _settle(self) -> None:
        """Step the scheduler until nothing follows, then tell who must know."""
        while (effects := self.bottom_up.step(self.now)) or self.groups.settle(self.now):
            for effect in effects:
                if self.abroad.perform(effect):
                    continue
                if type(effect) is Grant:
                    self._granted(effect)
                elif type(effect) is Recall:
                    self.effects.append(Send(effect.owner, m.LeaseRecall(effect.lease)))
                elif type(effect) is Status:
                    self._status(effect)
        if len(self.places.requests) > len(self.places.infeasible):
            self.pool.start_ahead(len(self.places.requests) - len(self.places.infeasible), self.now)
        self._announce()

    def _granted(self, grant: Grant) -> None:
        if grant.token is not None:
            actor = self.places.requests[grant.token]
            self.places.forget(actor)
            kind = self._kind(actor.job, actor.spec.get("env") or {}, grant.assigned)
            placement = Placement(grant.lease, b"", 0, actor.id, actor.life, grant.assigned, kind, self.now)
            actor.lease = grant.lease
        else:
            declared = self._keys[grant.owner, grant.key]
            kind = self._kind(declared.job, declared.env, grant.assigned)
            placement = Placement(grant.lease, grant.owner, grant.key, b"", 0, grant.assigned, kind, self.now)
        self.placements[grant.lease] = placement
        self.counts["grants"] += 1
        worker = self.pool.take(kind, grant.lease, self.now)
        if worker is not None:
            self._serve([(grant.lease, worker)])
        else:
            limit = self.pool.at_limit()
            self._why(placement, Cause.WORKER_LIMIT if limit else Cause.WORKER_STARTING,
                      f"{self.pool.workers_max} workers, the setting workers_max" if limit else "")

    def _kind(self, job: int, env: dict[str, str], assigned: dict[str, Any]) -> Kind:
        return Kind.of(job, env, assigned.get("gpu_ids", ()), env_vars.threads_for(assigned.get("resources") or {}),
                       self.environ)

    def _serve(self, served: list[tuple[Any, Worker]]) -> None:
        """Workers for placements that waited for one."""
        for lease, worker in served:
            placement = self.placements[lease]
            placement.worker = worker
            self.pool.use(worker, State.ACTOR if placement.actor else State.LEASED, lease, self.now, placement.actor)
            if worker.incarnation not in self._configured:
                self._configured.add(worker.incarnation)
                job = self.jobs.jobs.get(placement.kind.job)
                config = job.config if job is not None else {}
                self.effects.append(Send(worker.incarnation, m.JobConfig(placement.kind.job, config)))
            if not placement.actor:
                self.effects.append(Send(placement.owner, m.LeaseGrant(
                    placement.key, lease, worker.incarnation, worker.endpoint, worker.pid, placement.assigned)))
                if self.scheduler.leases[lease].recalled:  # while the worker started: the owner knew no such lease
                    self.effects.append(Send(placement.owner, m.LeaseRecall(lease)))
            elif not self._placed(placement, worker):
                self._free(placement)
                self._serve(self.pool.release(worker, self.now))

    def _placed(self, placement: Placement, worker: Worker) -> bool:
        guest = self.guests.guests.get(placement.actor)
        if guest is not None and guest.life == placement.life:
            return self.guests.placed(guest, worker, placement.lease, placement.assigned)
        return self.actors.placed(placement.actor, placement.life, worker, placement.lease, placement.assigned)

    def _status(self, status: Status) -> None:
        if status.token is not None:
            actor = self.places.requested(status.token)
            if actor is not None:
                if status.cause in (Cause.INFEASIBLE, Cause.GROUP_PENDING, Cause.GROUP_INFEASIBLE):
                    self.places.infeasible.add(status.token)
                table = self.guests if isinstance(actor, Guest) else self.actors
                table.waiting(actor.id, status.cause, status.detail)
        else:
            self.effects.append(Send(status.owner, m.LeaseStatus(status.key, status.cause, status.detail)))

    def _why(self, placement: Placement, cause: Cause, detail: str) -> None:
        if placement.actor:
            table = self.guests if placement.actor in self.guests.guests else self.actors
            table.waiting(placement.actor, cause, detail)
        else:
            self.effects.append(Send(placement.owner, m.LeaseStatus(placement.key, cause, detail)))

    def _free(self, placement: Placement) -> None:
        """Its resources are free again; the worker is the caller's business."""
        del self.placements[placement.lease]
        self.scheduler.release(placement.lease, self.now)

    def give_back(self, placement: Placement) -> None:
        """It still waits for a worker and needs none any more."""
        self.pool.cancel(placement.lease)
        self._free(placement)

    def _end_of_placement(self, worker: Worker, placement: Placement, death: Death) -> None:
        """The worker under a placement died: tell the owner or the actor table."""
        self._free(placement)
        if placement.actor:
            guest = placement.actor in self.guests.guests
            table = self.guests if guest else self.actors
            log_file = self._log_for(b"" if guest else self.incarnation, death.log_file)
            table.worker_died(placement.actor, worker.incarnation, {
                "signal": death.signal, "exit_code": death.exit_code, "pid": worker.pid, "log_tail": death.log_tail,
                "reason": worker.reason, "log_file": log_file})
            return
        mine = death.lease == placement.lease
        self.effects.append(Send(placement.owner, m.WorkerDied(
            worker.incarnation, placement.lease, worker.pid, death.signal, death.exit_code,
            death.started if mine else 0, death.finished if mine else 0, worker.reason, death.log_tail,
            self._log_for(placement.owner, death.log_file))))

    def _log_for(self, reader: bytes, path: str) -> str:
        """The name of a log file of this node, for a process that may be on another."""
        return path if same_node(reader, self.incarnation) or not path else f"{self.node['NodeManagerAddress']}:{path}"

    # ------------------------------------------------------------ other nodes

    def node_joined(self, incarnation: bytes, row: dict[str, Any], now: float) -> None:
        """The nodes table has it alive."""
        self.now = now
        fresh = incarnation not in self.cluster.peers
        self.cluster.joined(incarnation, row)
        if incarnation in self.cluster.peers:
            self.bottom_up.node_joined(incarnation, row["total"], row["labels"], now)
            if fresh:
                self.elsewhere.homes_changed()
                self.unheld.nodes_changed(now)
            if row.get("state") == "draining":
                self.bottom_up.node_draining(incarnation, now)
        self._settle()

    def node_leaves(self, node: bytes, now: float) -> None:
        """That node says that it is about to leave."""
        self.now = now
        self.bottom_up.node_draining(node, now)
        self._settle()

    def drain(self, now: float) -> None:
        """This node is about to leave: nothing new comes here, and owners on other nodes give back what they hold."""
        self.now = now
        self.bottom_up.drain(now)
        for placement in self._lent():
            if placement.worker is None:
                self.give_back(placement)
            else:
                self.effects.append(Send(placement.owner, m.LeaseRecall(placement.lease)))
        self._settle()

    def drained(self) -> bool:
        """Owners on other nodes hold nothing here any more."""
        return not self._lent()

    def _lent(self) -> list[Placement]:
        return [p for p in self.placements.values() if not p.actor and not same_node(p.owner, self.incarnation)]

    def node_gone(self, incarnation: bytes, reason: str, now: float) -> None:
        """A node is dead or has left, and with it all its processes."""
        self.now = now
        known = self.cluster.left(incarnation, reason)
        # A node may ask for leases before its row is here, and be dead when that comes.
        orphans = self.bottom_up.node_gone(incarnation, now).orphans if known else (
            self.bottom_up.owners_gone(incarnation))
        self.bound.node_gone(incarnation, reason)
        self._owners_gone(incarnation, orphans, reason)
        if not known:  # it may have been here before its row: bundles set aside for it, places of its actors
            self.guests.node_gone(incarnation)
            self.groups.node_died(incarnation)
            self._settle()
            return
        self._gone = [message for message in self._gone if node_of(message.process) != incarnation]
        for peer in self._core_processes():
            self.effects.append(Send(peer, m.NodeGone(incarnation, reason)))
        self.drivers.node_gone(incarnation, reason)
        self.abroad.node_gone(incarnation, reason)
        self.guests.node_gone(incarnation)
        death = {"reason": f"its node is gone: {reason}", "signal": 0, "exit_code": 0, "pid": 0, "log_tail": ""}
        for actor in self.actors.living_on(incarnation):
            self.actors.worker_died(actor.id, actor.worker, death)
        self.groups.node_died(incarnation)
        self.census.node_gone(incarnation)
        self.unheld.nodes_changed(now, incarnation)
        self.orphans.home_gone(incarnation, death)
        self._settle()

    def _owners_gone(self, node: bytes, orphans: list[int], reason: str) -> None:
        """All processes of a node are gone; ``orphans`` are leases of ours that they held."""
        for lease in orphans:
            placement = self.placements.get(lease)
            if placement is not None and placement.worker is None:
                self.give_back(placement)
            elif placement is not None and placement.worker is not None:
                self.pool.kill(placement.worker, "the node of its tasks' owner is gone", self.now)
        gone = {key[0] for key in self._keys if node_of(key[0]) == node}
        gone |= self.actors.owners_on(node)
        for process in sorted(gone):
            self.process_gone(process, reason)

    def from_node(self, node: bytes, process: bytes, message: Any) -> None:
        """What another node tells a process of ours."""
        if self.abroad.heard(node, process, message):
            self.effects.append(Send(process, message))

    def from_abroad(self, process: bytes, code: int, message: Any) -> None:
        """What a process of another node tells this one."""
        self.handlers[code](process, message)

    def _is_home(self, actor: bytes, node: bytes) -> bool:
        """Whether that node, which the actor's row names as its home, lives and knows of it."""
        return node in self.cluster.peers or (node == self.incarnation and actor in self.actors.actors)

    def is_process(self, incarnation: bytes) -> bool:
        """Whether that is a core process of this node."""
        return incarnation in self.pool.workers or incarnation in self.drivers.hellos

    def _process_gone_abroad(self, peer: bytes, message: m.ProcessGone) -> None:
        if node_of(message.process) == peer:
            self.unheld.heard_end(peer)
            self._ended_abroad(message.process, message.reason)

    def _ended_abroad(self, process: bytes, reason: str) -> None:
        if not self.drivers.gone_abroad(process, reason):
            self.process_gone(process, reason)

    def _ask_held(self, peer: bytes, message: m.AskHeld) -> None:
        if peer != message.asker or peer not in self.cluster.peers:
            self.refuse(peer, "AskHeld from a process that is no node")
        elif not _are_pairs(message.ends):
            self.refuse(peer, "malformed AskHeld")
        else:
            self.unheld.now = self.now
            self.unheld.on_ask(peer, message)

    def _held_answer(self, peer: bytes, message: m.Held) -> None:
        if not _are_pairs(message.ends):
            self.refuse(peer, "malformed Held")
            return
        self.unheld.now = self.now
        self.unheld.on_held(peer, message)

    def _event_report(self, peer: bytes, message: m.EventReport) -> None:
        worker = self.pool.workers.get(peer)
        if worker is None:
            self.refuse(peer, "EventReport from a process that is no worker")
        elif not self.events.report(peer, worker.job, message.events, message.dropped) or (
                message.queued is not None and not self.events.queue(peer, message.queued)):
            self.refuse(peer, "malformed EventReport")
        self.pool.reported(peer)

    def refuse(self, peer: bytes, why: str) -> None:
        self.counts["refused"] += 1
        self.effects.append(Note("refused", {"peer": peer, "why": why}))

    def check(self) -> None:
        """Raise AssertionError when an invariant of any part, or between parts, is broken."""
        self.bottom_up.check()
        self.pool.check()
        self.actors.check()
        self.guests.check()
        self.elsewhere.check()
        self.cluster.check()
        self.abroad.check()
        self.groups.check()
        self.jobs.check()
        self.events.check()
        assert set(self.placements) == set(self.scheduler.leases), "every lease of the scheduler is a placement"
        for lease, placement in self.placements.items():
            if placement.worker is None:
                assert self.pool.waits(lease), "a grant without a worker waits for one"
            else:
                assert self.pool.workers[placement.worker.incarnation] is placement.worker
                assert placement.worker.lease == lease and placement.worker.kind == placement.kind
        for worker in self.pool.workers.values():
            if worker.state in (State.LEASED, State.ACTOR):
                assert self.placements[worker.lease].worker is worker
        self.places.check()
        self.unheld.check()
        for (owner, key) in self._keys:
            assert key in self._keys_of[owner]



def _are_pairs(ends: list[Any]) -> bool:
    return all(type(pair) is list and [type(field) for field in pair] == [bytes, int] for pair in ends)


__all__ = ["Death", "Names", "NodeMachine"]
