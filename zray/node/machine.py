"""NodeMachine: all decisions of a node, composed of jobs, scheduler, pool, actors and groups.  Pure.

The shell gives it messages (``handle``), deaths (``worker_exited``, ``process_exited``), forks (``worker_spawned``) and
time (``tick`` when ``next_deadline`` has come), and after each performs what is in ``effects``.  It reads no clock and
does no I/O, so the simulator runs the same machine.

Each part gets ports: the few other parts, or single methods of them, that it needs.  No part gets
the machine.  A method of a part that is made later is passed as a lambda; all other parts exist
when they are passed.

The path of a lease: LeaseKey and LeaseWant go to the scheduler.  Its Grant asks the pool for a
worker of the right kind.  With a worker, the owner gets LeaseGrant, or the actor ActorInit.
LeaseReturn, the worker's death or the owner's death gives the resources back.  Every event ends
with a step of the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from zray.base.config import Config
from zray.base.ends import Ends
from zray.base.ids import node_of
from zray.base.ports import Ports
from zray.metrics.table import MetricTable
from zray.node import measures, views
from zray.node.actors.adoption import ActorAdoption, ActorAdoptionPorts
from zray.node.actors.checkpoints import CheckpointFiles, CheckpointPorts, Files
from zray.node.actors.foreign import ForeignActorPorts, ForeignActors
from zray.node.actors.messages import ActorMessagePorts, ActorMessages
from zray.node.actors.places import ActorPlacePorts, ActorPlaces
from zray.node.actors.rows import ActorRows
from zray.node.actors.table import ActorTable
from zray.node.context import NodeContext
from zray.node.effects import Forget, Note, Send
from zray.node.environments.table import EnvironmentTable
from zray.node.groups.service import GroupService, GroupServicePorts
from zray.node.jobs.drivers import DriverPorts, Drivers
from zray.node.jobs.ended_events import Source
from zray.node.jobs.spans import SpanLog
from zray.node.jobs.table import JobTable
from zray.node.jobs.task_events import TaskEventLog
from zray.node.jobs.unheld import SETTLE_TIMEOUTS, Unheld
from zray.node.leases.affinity import HardAffinity, HardAffinityPorts
from zray.node.leases.fences import FencePorts, Fences
from zray.node.leases.local import LeasePorts, Leases
from zray.node.leases.placements import Death, Placements
from zray.node.leases.relief import MemoryRelief, ReliefPorts
from zray.node.leases.remote import RemoteLeasePorts, RemoteLeases
from zray.node.names_table import Names
from zray.node.peers.cluster import PeerNodes, PeerNodesPorts
from zray.node.peers.queries import ClusterQueries
from zray.node.processes.ended import EndedWorkers
from zray.node.processes.local import LocalProcesses
from zray.node.processes.memory import Reading
from zray.node.processes.pool import WorkerPool
from zray.node.processes.room import StartRoom
from zray.sched.cluster.bottom_up import BottomUpScheduler
from zray.sched.node.grouped import NodeScheduler
from zray.sched.node.local import LocalScheduler
from zray.wire import messages as m

Handlers = dict[int, Callable[[bytes, Any], None]]


class NoHost:
    """The measures of a node without a machine, in the simulator and in tests."""

    session_name = ""

    def read(self, processes: Any) -> views.HostFamilies:
        return []


def no_logs(args: dict[str, Any]) -> dict[str, Any]:
    """Of a node without files, in a simulation."""
    return {"logs": []}


class NodePorts(Ports):
    """Ports of a node's machine to its shell."""

    ends: Ends  # shared with the store; this machine enters what it hears
    new_worker_id: Callable[[], bytes]
    # (incarnation, pid): the data with which that driver attaches to the store
    attach: Callable[[bytes, int], dict[str, Any]]
    environ: Mapping[str, str]  # the environment that workers start with
    store_report: Callable[[], dict[str, Any]]
    stored_bytes: Callable[[], int]
    gcs_report: Callable[[], dict[str, Any]]
    ownerless: Callable[[Callable[[bytes], bool]], list[Any]]  # (has_ended): objects here whose owner has ended
    free_unheld: Callable[[list[Any]], None]
    epoch_s: float  # the time of day when the clock of this machine was 0, in seconds since 1970
    logs: Callable[[dict[str, Any]], dict[str, Any]]  # answers questions about log files
    host: views.HostGauge
    send_output: Callable[[], None]  # send the drivers what their workers have printed so far
    stops: Callable[[], list[dict[str, Any]]]  # tasks that wait for a debugger, or are in one
    checkpoints: Files  # files of checkpoints
    read_memory: Callable[[], Sequence[Reading]]
    memory_of: Callable[[int], int]  # bytes that only this process holds


class NodeMachine:
    """The decisions of one node."""

    def __init__(self, *, incarnation: bytes, node: dict[str, Any], scheduler: LocalScheduler, names: Names,
                 config: Config, keep: int, ports: NodePorts, first_job: int = 1):
        self.incarnation = incarnation
        self.node = node  # as zray.nodes() shows it
        self.config = config
        self.context = context = NodeContext(incarnation, ports.ends, ports.epoch_s)
        self.effects = context.effects
        self.counts = context.counts
        self.scheduler = NodeScheduler(scheduler)
        self.jobs = JobTable(first_job)
        self.events = TaskEventLog(config.events_max, config.events_bytes_max, config.events_kept_s)
        self.spans = SpanLog(config.events_max)
        self.ended_workers = EndedWorkers(config.ended_workers_max)
        self.metrics = MetricTable(config.metric_series_max)
        self.pool = WorkerPool(
            ports.new_worker_id, context.emit, keep=keep, workers_max=config.workers_max, idle_s=config.worker_idle_s,
            room=StartRoom(ports.read_memory, config.memory_share_max),
            may_retire=lambda worker: not self.actors.owns(worker.incarnation),
            is_over=lambda job: job not in self.jobs.jobs or self.jobs.jobs[job].is_over)
        self.environments = EnvironmentTable(
            context.emit, kept_bytes_max=config.environments_kept_bytes_max, used=self._used_setups)
        self.placements = Placements(context, self.scheduler, self.pool, self.environments)
        self.processes = LocalProcesses(context, self.jobs, self.pool)
        self.cluster = PeerNodes(context, node.get("NodeID", ""), PeerNodesPorts(
            self.processes.is_process, self._from_node, self._from_process))
        self.bottom_up = BottomUpScheduler(
            self.scheduler, incarnation, scheduler.view.labels[0], seed=int.from_bytes(incarnation, "big"),
            gossip_s=config.gossip_s, patience_s=config.spill_patience_s,
            nodes_of=lambda strategy: self.groups.nodes_of(strategy["group"], strategy.get("bundle", -1)),
            group_waits=lambda strategy: self.groups.why_unplaced(strategy["group"], strategy.get("bundle", -1)))
        self._compose_actors(names, ports)
        self._compose_jobs(names, ports)
        self._compose_leases(names, ports)
        scheduler.running = self.leases.running_names
        self.relief = MemoryRelief(context, ReliefPorts(
            config, self.pool, self.placements, self.scheduler, self.leases, self.actors, self.foreign, self.events,
            read=ports.read_memory, held=ports.memory_of))
        self._compose_cluster(names, ports)
        self.handlers = _merged(
            self.queries.handlers,
            {m.EventReport.CODE: self._event_report, m.TaskFailures.CODE: self._task_failures,
             m.MetricsReport.CODE: self._metrics_report, m.SpanReport.CODE: self._span_report,
             m.ProcessGone.CODE: self._foreign_process_ended,
             m.AskHeld.CODE: self._ask_held, m.Held.CODE: self._held_answer},
            self.drivers.handlers, self.actor_messages.handlers, self.checkpoints.handlers, self.cluster.handlers,
            self.leases.handlers, self.remote_leases.handlers, self.groups.handlers, self.fences.handlers)

    def _compose_actors(self, names: Names, ports: NodePorts) -> None:
        context = self.context
        self.checkpoints = CheckpointFiles(context, CheckpointPorts(
            ports.checkpoints, self.cluster, saved=self._checkpoint_saved))
        self.places = ActorPlaces(context, ActorPlacePorts(
            self.scheduler, self.bottom_up, self.pool, self.placements, names, self.cluster,
            find_row=lambda actor, then, now: self.actor_rows.find(actor, then, now),
            waiting=lambda actor, cause, detail: self.actors.waiting(actor, cause, detail),
            uses_group=lambda strategy: self.groups.uses(strategy),
            needs_place=lambda actor: self.affinity.actor(actor),
            unplace_elsewhere=lambda effect: self.remote_leases.perform(effect),
            detached_ended=lambda job: self.drivers.actor_ended(job), is_process=self.processes.is_process,
            job=self.jobs.about, drop_checkpoints=self.checkpoints.drop))
        self.actors = ActorTable(self.places, context.emit, lambda: context.now)
        self.foreign = ForeignActors(context, ForeignActorPorts(self.places.request, self.places.end))
        self.actor_rows = ActorRows(names, context.emit, self._is_home)
        self.adoption = ActorAdoption(context, ActorAdoptionPorts(
            self.cluster, names, self.actors, place=self.places.place, lives_here=self.foreign.adopted,
            homes_changed=self.actor_rows.homes_changed, drop_checkpoints=self.checkpoints.drop_everywhere,
            learn_job=lambda job, driver, config: self.drivers.learn(job, driver, config)))

    def _compose_jobs(self, names: Names, ports: NodePorts) -> None:
        self.drivers = Drivers(self.context, self.jobs, DriverPorts(
            self.config, self.node, self.pool, self.placements, self.processes, names, self.cluster, self.actors,
            self.foreign, attach=ports.attach, process_ended=self.process_ended,
            end_groups=lambda job: self.groups.job_ended(job), jobs_with_groups=lambda: self.groups.jobs()))
        self.groups = GroupService(self.context, GroupServicePorts(
            self.scheduler, names, self.pool, self.placements, job_of=self.drivers.job_of,
            cluster_view=lambda: self.scheduler.view if self.cluster.alone else self.bottom_up.view,
            node_id=self.cluster.node_id, ask_job_ended=self.drivers.ask_ended, end_actors=self.actors.group_removed))
        self.groups.directory.on_change.append(
            lambda state: self.bottom_up.spillback.group_changed(state.group, self.context.now))

    def _compose_leases(self, names: Names, ports: NodePorts) -> None:
        self.remote_leases = RemoteLeases(self.context, RemoteLeasePorts(
            self.cluster, self.jobs, self.bottom_up, self.places, actor=self.actors.actors.get,
            job_of=self.drivers.job_of, announce_job=self.drivers.announce_job))
        self.leases = Leases(self.context, LeasePorts(
            self.node, ports.environ, self.scheduler, self.bottom_up, self.pool, self.placements,
            self.environments, self.jobs, self.events, self.actors, self.foreign, self.places, self.remote_leases,
            job_of=self.drivers.job_of,
            blocks=lambda worker: self.spans.blocked(
                worker.incarnation, worker.pid, worker.blocked, self.context.now + self.context.epoch_s),
            uses_group=self.groups.uses,
            declares=lambda owner, key, strategy: self.affinity.key(owner, key, strategy)))
        self.fences = Fences(self.context, FencePorts(
            self.placements, nodes=lambda: self.cluster.peers, is_process=self.processes.is_process,
            learn=lambda owner: self._foreign_ended(owner, "its process ended")))
        self.affinity = HardAffinity(self.context, HardAffinityPorts(
            self.cluster, names, declared=self.leases.declared, waiting=self.places.waiting_here,
            end_actor=self.actors.unschedulable))
        self.actor_messages = ActorMessages(self.context, ActorMessagePorts(
            self.actors, self.actor_rows, self.foreign, self.places, self.checkpoints, self.remote_leases,
            self.cluster, self.pool, self.placements, job_of=self.drivers.job_of))

    def _compose_cluster(self, names: Names, ports: NodePorts) -> None:
        viewed = views.Viewed(
            self.context, self.node, self.cluster, self.scheduler, self.bottom_up, self.pool, self.placements,
            self.leases, self.jobs, self.actors, self.groups, self.events,
            remote_available=self.remote_leases.available, store_report=ports.store_report,
            stored_bytes=ports.stored_bytes, gcs_report=ports.gcs_report, ended_workers=self.ended_workers,
            metrics=self.metrics, logs=ports.logs, send_output=ports.send_output, host=ports.host,
            stops=ports.stops, environments=self.environments, spans=self.spans)
        self.metric_families = partial(measures.families, viewed)
        self.answer = partial(views.answer, viewed)
        self.queries = ClusterQueries(self.context, self.cluster.peers, self.answer, self.processes)
        self.unheld = Unheld(
            self.incarnation, self.context.send, processes=self.processes.holders,
            nodes=lambda: self.cluster.peers, has_ended=self.context.ends.has_ended,
            kept=self.actors.arguments, announce=self.processes.announce_all,
            learn=lambda owner: self._foreign_ended(owner, "its process ended"), ownerless=ports.ownerless,
            free=ports.free_unheld, settle_s=SETTLE_TIMEOUTS * self.config.node_timeout_s)

    # ------------------------------------------------------------ events

    def start(self, now: float) -> None:
        """Start the first workers before any request."""
        self.context.now = now
        self.pool.prestart(now)

    def handle(self, peer: bytes, code: int, message: Any, now: float) -> None:
        """Handle one message.  A peer that breaks the protocol is noted; its message has no effect,
        and never ends the node."""
        self.context.now = now
        handler = self.handlers.get(code)
        if handler is None:
            self.refuse(peer, f"{type(message).__name__} is not for a node")
            return
        handler(peer, message)
        self._settle()

    def worker_spawned(self, worker_id: bytes, pid: int, error: str, now: float) -> None:
        """The zygote forked (pid) or could not (pid 0)."""
        self.context.now = now
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
        self.context.now = now
        worker = self.pool.died(incarnation, now, death.log_tail, death.equipping)
        if worker is None:
            return
        self.leases.worker_ended(worker, death)
        self.spans.ended(incarnation, now + self.context.epoch_s)
        if worker.actor:
            self.checkpoints.worker_ended(worker.actor)
        self.relief.worker_gone(incarnation)
        self.counts["worker_deaths"] += worker.reason == ""
        exit_type, detail = self.ended_workers.add(worker, death, now)
        self.queries.process_ended(incarnation)
        self.effects.append(Note("worker_died", {
            "worker": incarnation, "pid": worker.pid, "signal": death.signal, "exit_code": death.exit_code,
            "reason": worker.reason, "job": worker.job, "task": self.events.worker_gone(
                incarnation, now + self.context.epoch_s, f"{exit_type}: {detail}")}))
        if worker.kind is not None:
            self.process_ended(incarnation, worker.reason or "its process ended")
        self.effects.append(Forget(incarnation))
        self.drivers.may_be_done(worker.job)
        self._settle()

    def environment_installed(self, number: int, equipment: dict[str, Any], sizes: dict[str, int], now: float) -> None:
        """Installation ``number`` is done; see zray.node.environments.table."""
        self.context.now = now
        self.leases.environment_settled(self.environments.installed(number, equipment, sizes, now))
        self._settle()

    def environment_failed(self, number: int, error: str, now: float, lost: bool = False) -> None:
        """Installation ``number`` has failed; ``lost``: the packages of its job are gone."""
        self.context.now = now
        self.leases.environment_settled(self.environments.failed(number, error, now, lost))
        self._settle()

    def _used_setups(self) -> set[str]:
        """Setups that workers or placements use; those of failed set-ups need nothing."""
        used = {placement.kind.setup for placement in self.placements.values()}
        used |= {worker.kind.setup for worker in self.pool.workers.values() if worker.kind and not worker.broken}
        return used - {""}

    def process_exited(self, incarnation: bytes, now: float) -> None:
        """A driver (or a tool) has ended without a Goodbye."""
        self.context.now = now
        if self.processes.hellos.pop(incarnation, None) is not None:
            self.drivers.over(incarnation, "the driver's process ended", None)
        self.effects.append(Forget(incarnation))
        self._settle()

    def tick(self, now: float) -> None:
        """Run the timers that are due."""
        self.context.now = now
        self.pool.tick(now)
        self.relief.tick(now)
        for number, error in self.environments.overdue(now):
            self.leases.environment_settled(self.environments.failed(number, error, now))
        self.actors.tick(now)
        self.foreign.tick(now)
        self.actor_rows.tick(now)
        self.queries.tick(now)
        self.groups.tick(now)
        self.unheld.tick(now)
        self.drivers.tick(now)
        self._settle()

    def settle(self, now: float) -> None:
        """A part outside this machine has called back: handle the consequences."""
        self.context.now = now
        self._settle()

    def next_deadline(self) -> float | None:
        times = [self.pool.next_deadline(), self.environments.next_deadline(), self.actors.next_deadline(),
                 self.bottom_up.deadline(), self.relief.next_deadline(),
                 self.foreign.next_deadline(), self.actor_rows.next_deadline(), self.queries.next_deadline(),
                 self.groups.next_deadline(), self.unheld.next_deadline(), self.drivers.next_deadline(),
                 self.processes.next_deadline()]
        return min([when for when in times if when is not None], default=None)

    def _settle(self) -> None:
        """Step the scheduler until it has no more effects, then announce ended processes."""
        now = self.context.now
        while (effects := self.bottom_up.step(now)) or self.groups.settle(now):
            for effect in effects:
                if not self.remote_leases.perform(effect):
                    self.leases.perform(effect)
        if len(self.places.requests) > len(self.places.infeasible):
            self.pool.start_ahead(len(self.places.requests) - len(self.places.infeasible), now)
        self.fences.settle()
        self.processes.announce()
        self.relief.settle(now)

    def refuse(self, peer: bytes, why: str) -> None:
        """A peer broke the protocol, as the shell has found."""
        self.context.refuse(peer, why)

    # ------------------------------------------------------------ processes

    def process_ended(self, incarnation: bytes, reason: str) -> None:
        """Nobody answers under this name any more: what it owned or asked for ends, and everybody is told."""
        if not self.context.is_mine(incarnation):
            self.context.ends.process_ended(incarnation)
        self.metrics.ended(incarnation.hex())
        self.actors.process_ended(incarnation)
        self.actor_rows.process_ended(incarnation)
        self.cluster.forget_process(incarnation)
        if self.context.is_mine(incarnation):
            for node in self.cluster.peers:
                self.effects.append(Send(node, m.ProcessGone(incarnation, reason)))
                self.unheld.announced(node)
            self.remote_leases.owner_ended(incarnation)
        self.groups.process_ended(incarnation)
        self.leases.owner_ended(incarnation)
        self.processes.announce_process_ended(m.ProcessGone(incarnation, reason))
        self.unheld.process_ended(incarnation, self.context.now)

    def _foreign_process_ended(self, peer: bytes, message: m.ProcessGone) -> None:
        if node_of(message.process) == peer:
            self.unheld.end_received(peer)
            self._foreign_ended(message.process, message.reason)

    def _foreign_ended(self, process: bytes, reason: str) -> None:
        if not self.drivers.foreign_ended(process, reason):
            self.process_ended(process, reason)

    def name_of(self, process: bytes) -> str:
        """The name of a core process of this node in messages for people."""
        worker = self.pool.workers.get(process)
        if worker is None:
            hello = self.processes.hellos.get(process)
            return f"driver {hello.pid}" if hello is not None else process.hex()
        actor = self.actors.actors.get(worker.actor)
        does = actor.spec.get("class_name", "") if actor is not None else self.events.running_on().get(process, "")
        return f"worker {worker.pid}" + (f" ({does})" if does else "")

    def _event_report(self, peer: bytes, message: m.EventReport) -> None:
        worker = self.pool.workers.get(peer)
        if worker is None:
            self.refuse(peer, "EventReport from a process that is no worker")
        elif not self.events.report(Source(peer, worker.id, worker.job, worker.actor, {}), message.events,
                                    message.dropped, message.leases, message.parents, self._granted_at) or (
                message.queued is not None and not self.events.queue(peer, message.queued)):
            self.refuse(peer, "malformed EventReport")
        self.pool.reported(peer)

    def news(self) -> tuple[int, ...]:
        """Differs when there is something new to keep of this node's rows; asked in each turn."""
        counts = self.counts
        return (self.events.seen, self.events.dropped, len(self.events.running), len(self.events.failures),
                len(self.pool.workers), len(self.jobs.by_driver), counts["worker_deaths"], counts["grants"])

    def _granted_at(self, lease: int) -> float:
        placement = self.placements.get(lease)
        return placement.since + self.context.epoch_s if placement is not None else 0.0

    def _task_failures(self, peer: bytes, message: m.TaskFailures) -> None:
        if not self.processes.is_process(peer):
            self.refuse(peer, "TaskFailures from a process that is not of this node")
        elif not (self.events.failed(message.rows, message.dropped, self.context.epoch_s)
                  and self.events.told(message.stories, self.context.epoch_s)):
            self.refuse(peer, "malformed TaskFailures")

    def _metrics_report(self, peer: bytes, message: m.MetricsReport) -> None:
        if not self.processes.is_process(peer):
            self.refuse(peer, "MetricsReport from a process that is not of this node")
        elif not self.metrics.report(peer.hex(), message.rows, message.dropped):
            self.refuse(peer, "malformed MetricsReport")

    def _span_report(self, peer: bytes, message: m.SpanReport) -> None:
        about = self.processes.shown(peer) if self.processes.is_process(peer) else None
        if about is None:
            self.refuse(peer, "SpanReport from a process that is not of this node")
        elif not self.spans.report(about["pid"], about["type"] == "DRIVER", message.rows, message.dropped):
            self.refuse(peer, "malformed SpanReport")

    def moved(self, kind: str, nbytes: int, began: float, now: float, other: bytes, failure: str) -> None:
        """An object was transferred from ``other``, spilled, or read back."""
        args = {"bytes": nbytes} | ({"from": other.hex()} if other else {}) | ({"failure": failure} if failure else {})
        epoch_s = self.context.epoch_s
        self.spans.add(kind, f"{kind} {nbytes:,} bytes", 0, began + epoch_s, now + epoch_s, args)

    # ------------------------------------------------------------ other nodes

    def node_joined(self, incarnation: bytes, row: dict[str, Any], now: float) -> None:
        """The nodes table has that node alive."""
        self.context.now = now
        fresh = incarnation not in self.cluster.peers
        self.cluster.joined(incarnation, row)
        if incarnation in self.cluster.peers:
            self.bottom_up.node_joined(incarnation, row["total"], row["labels"], now)
            if fresh:
                self.actor_rows.homes_changed()
                self.unheld.nodes_changed(now)
            if row.get("state") == "draining":
                self.bottom_up.node_draining(incarnation, now)
        self._settle()

    def node_leaves(self, node: bytes, now: float) -> None:
        """That node announces that it will leave."""
        self.context.now = now
        self.bottom_up.node_draining(node, now)
        self._settle()

    def drain(self, now: float) -> None:
        """This node will leave: it accepts no new work, and owners on other nodes give back their leases."""
        self.context.now = now
        self.bottom_up.drain(now)
        self.leases.drain()
        self._settle()

    def drained(self) -> bool:
        """Whether owners on other nodes hold no lease here any more."""
        return not self.leases.lent()

    def node_ended(self, incarnation: bytes, reason: str, now: float) -> bool:
        """A node is dead or has left, and with it all its processes; whether that is news, and of another node."""
        self.context.now = now
        news = incarnation != self.incarnation and incarnation not in self.context.ends.nodes
        known = self.cluster.node_ended(incarnation, reason)
        # A node may ask for leases before its row is here, and be dead when the row comes.
        held = self.bottom_up.node_ended(incarnation, now).orphans if known else (
            self.bottom_up.owners_gone(incarnation))
        self.affinity.node_ended(incarnation, reason)
        self._owners_gone(incarnation, held, reason)
        death = {"reason": f"its node is gone: {reason}", "signal": 0, "exit_code": 0, "pid": 0, "log_tail": ""}
        if not known:  # it may have been here before its row: bundles reserved for it, places of its actors
            self.foreign.node_ended(incarnation)
            if news:  # of the time before this node, or of the cluster that a persistent control store is from
                self.groups.node_ended(incarnation)
                self.adoption.home_gone(incarnation, death)
            self._settle()
            return news
        self.processes.announce_node_ended(incarnation, reason)
        self.drivers.node_ended(incarnation, reason)
        self.remote_leases.node_ended(incarnation, reason)
        self.foreign.node_ended(incarnation)
        for actor in self.actors.living_on(incarnation):
            self.actors.worker_died(actor.id, actor.worker, death)
        self.groups.node_ended(incarnation)
        self.queries.node_ended(incarnation)
        self.checkpoints.node_ended(incarnation)
        self.fences.node_ended(incarnation)
        self.unheld.nodes_changed(now, incarnation)
        self.adoption.home_gone(incarnation, death)
        self._settle()
        return True

    def _owners_gone(self, node: bytes, held: list[int], reason: str) -> None:
        """All processes of a node are gone; ``held`` are leases of ours that they held."""
        for lease in held:
            self.placements.end(lease, "the node of its tasks' owner is gone")
        for process in sorted(self.leases.owners_on(node) | self.actors.owners_on(node)):
            self.process_ended(process, reason)

    def _from_node(self, node: bytes, process: bytes, message: Any) -> None:
        """Another node sends a message to a process of ours."""
        if self.remote_leases.accept(node, process, message):
            self.effects.append(Send(process, message))

    def _from_process(self, process: bytes, code: int, message: Any) -> None:
        """A process of another node sends a message to this node."""
        self.handlers[code](process, message)

    def _is_home(self, actor: bytes, node: bytes) -> bool:
        """Whether that node, the home according to the actor's row, lives and knows the actor."""
        return node in self.cluster.peers or (node == self.incarnation and actor in self.actors.actors)

    def _checkpoint_saved(self, worker: bytes, message: m.SaveCheckpoint) -> None:
        if not self.foreign.from_worker(worker, message):
            self.actors.checkpointed(worker, message)

    def _ask_held(self, peer: bytes, message: m.AskHeld) -> None:
        if peer != message.asker or peer not in self.cluster.peers:
            self.refuse(peer, "AskHeld from a process that is no node")
        elif not _are_pairs(message.ends):
            self.refuse(peer, "malformed AskHeld")
        else:
            self.unheld.now = self.context.now
            self.unheld.on_ask(peer, message)

    def _held_answer(self, peer: bytes, message: m.Held) -> None:
        if not _are_pairs(message.ends):
            self.refuse(peer, "malformed Held")
            return
        self.unheld.now = self.context.now
        self.unheld.on_held(peer, message)

    def check(self) -> None:
        """Raise AssertionError when an invariant of any part, or between parts, is broken."""
        self.context.ends.check()
        for part in (self.bottom_up, self.pool, self.environments, self.actors, self.foreign, self.actor_rows,
                     self.cluster, self.remote_leases, self.groups, self.jobs, self.events, self.metrics,
                     self.placements, self.leases, self.places, self.checkpoints, self.unheld, self.fences,
                     self.relief):
            part.check()
        for actor in self.foreign.actors.values():
            assert not actor.worker or self.placements[actor.lease].actor == actor.id


def _merged(*tables: Handlers) -> Handlers:
    """One table of handlers: each message is for one part."""
    whole: Handlers = {}
    for table in tables:
        assert not whole.keys() & table.keys(), "two parts want the same message"
        whole |= table
    return whole


def _are_pairs(ends: list[Any]) -> bool:
    return all(type(pair) is list and [type(field) for field in pair] == [bytes, int] for pair in ends)


__all__ = ["Death", "Names", "NodeMachine", "NodePorts"]
