"""zray-node: the process of a node.  One thread, one poll; it performs the decisions of DaemonMachine.

Start: arguments, session directory, imports, fork of the zygote (before any thread or ZeroMQ context), then mesh,
store, control store, ready.  A turn of the loop: poll the mesh's sockets and one epoll descriptor (signals, pidfds,
zygote, inotify); deliver; perform the machine's effects until there are none; flush.  Without work the poll has no
time-out: an idle daemon does not wake up.

Lifetime: a daemon that init() started ends with its driver (pidfd of the parent, and a pipe for the
orderly end).  Its workers have PDEATHSIG, so they end with it, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from zray.base import ids
from zray.base.addresses import is_loopback, is_wildcard
from zray.base.config import Config
from zray.base.ends import Ends
from zray.base.version import __version__
from zray.debugging import places
from zray.node.effects import EndJob, Kill, Note, Spawn, Watch
from zray.node.peers.cluster import routed
from zray.node.processes import linux
from zray.node.processes.children import Children, Processes, Signals, Watcher
from zray.node.running import session as sessions
from zray.node.running.journal import Journal, text_of
from zray.node.running.options import (
    ClusterOptions,
    Offer,
    json_map,
    name_node,
    node_row,
)
from zray.node.running.session import NodeSession

if TYPE_CHECKING:
    from zray.node.daemon_machine import DaemonPorts, MemberShell
    from zray.node.environments.installer import Installer
    from zray.node.peers.entry import ClusterEntry
    from zray.node.processes.linux import Ended
    from zray.node.running.rejoining import Rejoin
    from zray.node.running.scrape import ScrapeEndpoint
    from zray.store.transfer.exchange import HandoverProgress
    from zray.transport.mesh import Mesh

EXIT_WAIT_S = 1.5  # for killed workers to be collected at the end; the kernel needs milliseconds
PRESSURE_EVERY_S = 10.0  # between two log lines about pressure on the object store
# The daemon runs above other programs, where the system allows it (as root): three times the share
# of a CPU.  A daemon needs little CPU, but without delay.
DAEMON_PRIORITY = 5
# Frames of one socket in one turn, a quarter of a core process's number: heartbeats go out between turns.
DRAIN_FRAMES_MAX = 64
# Below this the plain kernels decide in less than a tenth of a millisecond, and save 100 MB a node.
KERNELS_FROM_NODES = 16


class Daemon:
    """The shell around DaemonMachine: sockets, processes, files, clocks."""

    def __init__(self, arguments: argparse.Namespace, config: Config, offered: Offer, membership: ClusterOptions,
                 session_dir: str, rejoin: Rejoin | None = None):

        from zray.node.processes.zygote import ZygoteLink, one_blas_thread

        self.config = config
        self.given: dict[str, Any] = json_map(arguments.config, "--config")  # settings that this node was started with
        self.address = arguments.node_ip_address
        self.membership = membership
        self.session_dir = session_dir
        self.journal = Journal(session_dir, config.log_bytes_max)
        self.before = rejoin  # the node that this process was before, which was declared dead
        self.in_background = arguments.ready_fd >= 0 or rejoin is not None and rejoin.in_background
        self.shares_fate = arguments.fate_fd >= 0
        self.fate_fd = arguments.fate_fd
        self.parent = os.getppid()
        self.soft_limit = linux.raise_descriptor_limit()
        self.node_id = ids.new_node_id()
        self.incarnation = self.node_id[:ids.INCARNATION_SIZE]
        self.endpoint = f"ipc://{session_dir}/node.sock"
        linux.become_subreaper()
        linux.name_process("zray-node")
        one_blas_thread()
        _import_shared()
        gc.freeze()  # a collection writes to each object that it looks at: to a page of its own in daemon and zygote
        self.zygote = ZygoteLink.fork(self.soft_limit, os.path.join(session_dir, "logs", "node.log"))
        self.niceness = os.getpriority(os.PRIO_PROCESS, 0)
        linux.set_niceness(self.niceness - DAEMON_PRIORITY)
        self._compose(offered)

    # ------------------------------------------------------------ the beginning

    def _compose(self, offered: Offer) -> None:
        """Compose all parts that may make threads or contexts, or that workers do not need: only
        after the fork."""
        from zray.gcs.service import GcsPorts, GcsService
        from zray.node.daemon_machine import admit_first_node

        self._prepare()
        shown = node_row(self.node_id, self.endpoint, os.getpid(), offered.labels, self.address,
                         int(time.time() * 1000)) | {"IsHead": self.membership.began}
        self._enter_cluster(shown, offered)
        name_node(offered, shown["NodeManagerAddress"], first=self.membership.began)
        shown["Resources"] = offered.amounts()
        joined = None
        if self.entry is not None and self.membership.address:
            joined = self.entry.join(self.own_row, __version__)
            self.given = {**joined.settings, **self.given}
            self.config = Config.of_session(joined.settings, self.given)
        ports = GcsPorts(time.monotonic, self._send, fenced=lambda reason: self.core.fence(reason),
                         configured=lambda config: self.core.configured())
        self.gcs = GcsService(ports, self.membership.gcs_dir or None, incarnation=self.incarnation,
                              node_id=self.node_id, first=joined is None, node_timeout_s=self.config.node_timeout_s,
                              hints=joined.gcs if joined is not None else None)
        self.mesh.on_early = self.gcs.heard
        ordinal = joined.ordinal if joined is not None else admit_first_node(self.gcs, self.own_row)
        self._compose_store(offered)
        self._compose_machine(ordinal, shown, offered)
        self._load_kernels(len(joined.rows) if joined is not None else 0)
        self._watch_descriptors()
        self._serve_metrics()
        self.zygote.send(self._zygote_base())
        self._note_start(joined is not None, ordinal)
        self.core.start(joined.rows if joined is not None else [])
        # messages that came while it waited; they are acknowledged, so no peer sends them again
        if self.entry is not None:
            early, self.entry.early = self.entry.early, []
            for peer, code, message in early:
                self._deliver(peer, code, message)
        self._perform()

    def _prepare(self) -> None:
        from zray.gcs.configuration.membership import BEAT_PART, UNANSWERED_PART
        from zray.store.node import reaper
        from zray.transport.mesh import Limits, Mesh
        from zray.wire import codec

        for base in sessions.base_dirs():
            reaper.sweep(base)
        self._callbacks: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.ends = Ends()
        self.installer: Installer | None = None  # of runtime environments
        self.failed = False  # it ends without having been asked to
        self.fenced = ""  # why it was declared dead
        self.now = time.monotonic()
        self.watcher = Watcher()
        self.processes = Processes(self.watcher)
        self.children = Children(self._worker_exited, self._zygote_exited)
        self.children.zygote = self.zygote.pid
        self._kill_once_started: set[bytes] = set()  # to be killed as soon as they have a process
        self._spawns: list[dict[str, Any]] = []
        timeout_s = self.config.node_timeout_s
        limits = Limits.of(self.config, drain_frames_max=DRAIN_FRAMES_MAX, heartbeat_s=timeout_s * BEAT_PART,
                           heartbeat_timeout_s=timeout_s * UNANSWERED_PART, reports_answers=True)
        self.mesh = Mesh(self.incarnation, 0, self.endpoint, codec.encode, codec.decode, time.monotonic, limits=limits)
        self.mesh.watch(self.watcher.fileno())
        self.mesh.on_error = self._log_error
        self.mesh.on_closed = lambda peer: self.core.closed(peer)

    def _enter_cluster(self, shown: dict[str, Any], offered: Offer) -> None:
        """Open a port for other nodes, if the arguments ask for it; raises JoinRefused."""
        self.entry: ClusterEntry | None = None
        self.join_string = ""
        self.own_row: dict[str, Any] = {
            "node_id": self.node_id, "endpoint": "", "name": self.membership.name, "total": offered.total,
            "labels": offered.labels, "shown": shown}
        if self.membership.alone:
            return
        from zray.node.peers.entry import ClusterEntry

        self.entry = ClusterEntry(self.mesh, self.incarnation, self.session_dir, self.membership)
        host, _, port = self.entry.address.rpartition(":")
        shown |= {"NodeManagerPort": int(port), "ListenAddress": self.entry.address,
                  "NodeName": self.membership.name or shown["NodeName"]}
        if not (self.address or is_loopback(host) or is_wildcard(host)):  # else it keeps the machine's address
            shown["NodeManagerAddress"] = host
        self.own_row["endpoint"] = self.entry.endpoint

    def _compose_store(self, offered: Offer) -> None:
        from zray.node.locations import GcsLocations
        from zray.node.processes.output import Output
        from zray.store.node.service import StoreService

        locations = self.locations = GcsLocations(lambda: self.gcs.client)
        self.store = StoreService.create(self.session_dir, os.path.basename(self.session_dir), offered.store_bytes,
                                         self._send, self.call_soon, ends=self.ends, config=self.config,
                                         node=self.incarnation, record_location=locations.record,
                                         find_location=locations.find)
        self.store.on_pressure = self._pressed
        self.store.table.name_of = lambda process: self.machine.name_of(process)
        self._pressed_after = 0.0
        self.output = Output(self.session_dir, self.config.log_lines_max, self.config.log_bytes_max)

    def _compose_machine(self, ordinal: int, shown: dict[str, Any], offered: Offer) -> None:
        from zray.node.daemon_machine import DaemonMachine, gcs_report, node_machine
        from zray.node.machine import NodePorts
        from zray.node.peers.object_handover import ObjectHandover
        from zray.node.processes.lines import Lines, LinesPorts
        from zray.node.processes.memory_gauge import MemoryGauge
        from zray.node.processes.zygote import workers_environ
        from zray.node.running.checkpoint_files import DiskFiles
        from zray.node.running.host_metrics import HostMetrics
        from zray.node.running.logs import answer as answer_logs
        from zray.sched.node.local import LocalScheduler

        memory = MemoryGauge(lambda: [worker.pid for worker in self.machine.pool.workers.values() if worker.pid],
                             self.config.memory_limit_bytes)
        self.machine = node_machine(
            self.gcs, ordinal, node=shown, config=self.config, keep=offered.cpus,
            scheduler=lambda next_lease: LocalScheduler(
                offered.total, offered.labels, node=self.incarnation, gpu_ids=offered.gpu_ids, next_lease=next_lease),
            ports=NodePorts(
                ends=self.ends, new_worker_id=map(partial(ids.worker_id, self.incarnation), count(1)).__next__,
                attach=self._attach_driver, environ=workers_environ(), store_report=self.store.report,
                stored_bytes=self.store.payload_bytes,
                gcs_report=partial(gcs_report, self.gcs), ownerless=self.store.ownerless,
                free_unheld=self.store.free_unheld, epoch_s=time.time() - time.monotonic(),
                logs=partial(answer_logs, os.path.join(self.session_dir, sessions.LOGS)),
                host=HostMetrics(self.session_dir), send_output=lambda: self.lines.look(time.monotonic()),
                stops=partial(places.rows, self.session_dir), checkpoints=DiskFiles(self.session_dir),
                read_memory=memory.read, memory_of=memory.held))
        self.lines = Lines(self.incarnation, LinesPorts(
            time.monotonic, self.output, self.watcher.pause, self.watcher.resume, self._send, shown,
            workers=self.machine.pool.workers, jobs=self.machine.jobs.jobs))
        self.store.on_moved = self.machine.moved
        self.handover = ObjectHandover(self.incarnation, self.machine.drivers, self.store,
                                       lambda: not self.locations.unwritten, self.session_dir)
        self.store.join(lambda: self.machine.cluster.peers, self.handover.announce)
        self._keep_state()
        self.core = DaemonMachine(self.gcs, self.machine, self._ports(), self._membership())

    def _keep_state(self) -> None:
        from zray.node.running.kept_state import KeptState, StatePorts

        machine, started_s = self.machine, time.time()
        self.kept = KeptState(self.session_dir, self.config, StatePorts(
            lambda view, args: machine.answer(self.incarnation, view, args), machine.events, machine.spans,
            last_rows=lambda: machine.drivers.last_rows, store_usage=self.store.usage,
            store_objects=self.store.objects, has_jobs=lambda: bool(machine.jobs.by_driver), news=machine.news,
            about=lambda: {"session": os.path.basename(self.session_dir), "node_id": self.node_id.hex(),
                           "cluster": self.entry.cluster if self.entry is not None else "", "started_s": started_s},
            note=self.journal.note))

    def _ports(self) -> DaemonPorts:
        from zray.node.daemon_machine import DaemonPorts

        return DaemonPorts(
            time.monotonic, self._send, self.store.handlers, [self.store, _MeshTimer(self.mesh), self.lines, self.kept],
            install=lambda effect: self._installer().install(effect),
            stop_install=lambda effect: self._installer().stop(effect),
            remove_installed=lambda effect: self._installer().remove(effect), spawn=self._perform_spawn,
            kill=self._perform_kill, watch=self._perform_watch,
            note=self._note, forget=self._forget,
            last_output=self._last_output,
            drop_objects=lambda job: self.store.drop_job(job.to_bytes(ids.JOB_SIZE, "big")),
            node_ended=self.store.node_ended, hand_over=self.handover, left=self._left, fenced=self._fenced,
            error=self._log_error)

    def _installer(self) -> Installer:
        """Made when the first runtime environment needs it: most nodes need none, and its imports take milliseconds."""
        if self.installer is None:
            from zray.node.environments.installer import Installer, InstallerPorts
            from zray.node.processes.zygote import workers_environ

            self.installer = Installer(self.session_dir, workers_environ(), ids.JOB_SIZE, InstallerPorts(
                lambda key, then: self.gcs.client.get_package(key, then), self.children.helpers.__setitem__,
                lambda number, equipment, sizes: self.machine.environment_installed(
                    number, equipment, sizes, time.monotonic()),
                lambda number, error, lost: self.machine.environment_failed(number, error, time.monotonic(), lost),
                self.journal.note))
        return self.installer

    def _membership(self) -> MemberShell | None:
        entry, options = self.entry, self.membership
        if entry is None:
            return None
        from zray.node.daemon_machine import MemberShell
        from zray.node.peers.entry import warn
        from zray.node.peers.member import unfit
        from zray.node.peers.probes import Probes

        self.probes = Probes(self.watcher, lambda node, error: self.core.probed(node, error))
        cluster = self.machine.cluster
        cluster.bind_host, cluster.insecure, cluster.one_port = options.host, options.insecure, options.one_port
        cluster.ports = list(options.ports) if any(options.ports) else []
        self.mesh.relaying.relay = cluster.next_hop
        self.join_string = entry.mint()
        return MemberShell(
            self.mesh, entry.hello, self.probes.begin, self.probes.end, entry.cluster, self.own_row,
            unfit=lambda peer, message: unfit(peer, message, options.insecure, warn), may_dial=entry.admit,
            may_not_dial=entry.bar, warn=warn, settings=self.given, mint=entry.mint,
            rejoins=not self.shares_fate and self.config.rejoin_s > 0)

    def _serve_metrics(self) -> None:
        """Open the endpoint for Prometheus, if the settings say where."""
        self.scraped: ScrapeEndpoint | None = None
        address = self.config.metrics_address
        if not address:
            return
        from zray.metrics.exposition import text_of
        from zray.node.running.scrape import ScrapeEndpoint

        try:
            self.scraped = ScrapeEndpoint(self.watcher, address, lambda: text_of(self.machine.metric_families()))
        except OSError as error:  # several nodes of one machine have one setting
            self.journal.note(f"no metrics are served: {address} cannot be bound ({error.strerror})")
        else:
            self.machine.node["MetricsExportPort"] = self.scraped.port

    def _zygote_base(self) -> dict[str, Any]:
        """The settings of this node that a zygote needs before it forks."""
        return {"base": {
            "session_dir": self.session_dir, "node": self.incarnation, "node_endpoint": self.endpoint,
            "store": self.store.attach_info(), "config": self.config.as_dict(), "node_info": self.machine.node}}

    def _note_start(self, joins: bool, ordinal: int) -> None:
        has = ", ".join(f"{name}={amount:g}" for name, amount in self.machine.node["Resources"].items())
        at = f", at {self.entry.address}" if self.entry is not None else ""
        self.journal.note(f"node {self.node_id.hex()} starts: process {os.getpid()}{at}, zray "
                          f"{__version__}, Python {sys.version.split()[0]}, {has}")
        if joins:
            again = f" again; it was node {self.before.node} before" if self.before is not None else ""
            self.journal.note(f"it joined a cluster{again}, as the node with number {ordinal}")

    def _load_kernels(self, others: int) -> None:
        if self.config.kernels_at_start or others >= KERNELS_FROM_NODES:
            from zray.sched.kernels.loading import Kernels

            kernels = Kernels.load(os.path.dirname(self.session_dir))
            self.machine.scheduler.view.use(kernels)
            self.machine.bottom_up.view.use(kernels)

    def _watch_descriptors(self) -> None:
        from zray.node.daemon_machine import StopRequest

        self.watcher.add(self._wake, self._run_callbacks)
        self.watcher.add(self.zygote.sock.fileno(), self._zygote_answered)
        if (written := self.lines.start()) >= 0:
            self.watcher.add(written, self.lines.written)
        if self.shares_fate:
            self.processes.watch(b"parent", self.parent, lambda: self.core.end("the driver ended"))
            self.watcher.add(self.fate_fd, self._driver_closed_pipe)
        # Not before: while it joins, a signal ends the node at once (supervision.ends_early).
        self.signals = Signals(self.watcher, self.children.collect, lambda: self.core.stop(StopRequest.SIGNAL))
        self.children.collect()

    def session(self) -> NodeSession:
        entry = self.entry
        return NodeSession(self.session_dir, self.incarnation, self.node_id.hex(), self.endpoint, os.getpid(),
                       linux.start_time(os.getpid()), self.shares_fate, time.time(),
                       cluster=entry.cluster if entry else "", join=self.join_string,
                       head=self.membership.head or self.membership.was_head, name=self.membership.name,
                       address=entry.address if entry else "",
                       settings=self.given)

    # ------------------------------------------------------------ the loop

    def run(self) -> None:
        """Take turns until the machine stops."""
        while not self.core.stopping:
            when = self.core.next_deadline()
            self.turn(None if when is None else max(0.0, when - time.monotonic()))

    def turn(self, timeout: float | None) -> None:
        """Wait at most ``timeout`` seconds (None: for ever), deliver messages, handle the consequences, flush."""
        self.mesh.poll(0.0 if self.mesh.readable() else timeout)  # our own sends may have cleared the edge
        self.now = time.monotonic()
        if self.core.begin():
            self.mesh.flush()
        self.mesh.drain(self._deliver)
        self.watcher.run()
        self.core.turn()
        self._send_spawns()
        self.core.flush()
        self.mesh.flush()

    def _deliver(self, peer: bytes, code: int, message: Any) -> None:
        self.core.deliver(peer, code, message, self.now)

    def call_soon(self, fn: Callable[[], None]) -> None:
        """From any thread: run ``fn`` in the loop."""
        self._callbacks.append(fn)
        os.eventfd_write(self._wake, 1)

    def _run_callbacks(self) -> None:
        os.eventfd_read(self._wake)
        while self._callbacks:
            self._callbacks.popleft()()

    def _driver_closed_pipe(self) -> None:
        from zray.node.daemon_machine import StopRequest

        self.watcher.remove(self.fate_fd)  # a closed pipe stays readable
        self.core.stop(StopRequest.SESSION_CLOSED)

    def _left(self, why: str, handed: HandoverProgress) -> None:
        self.journal.note(f"this node has left ({why}); objects handed over: {handed.kept} "
                          f"({handed.kept_bytes:,} bytes), left behind: {handed.left} ({handed.left_bytes:,} bytes)")

    def rejoin(self) -> Rejoin:
        """What the daemon that this process becomes has to know (DaemonMachine.ways_back)."""
        from zray.node.running.rejoining import Rejoin

        return Rejoin(self.node_id.hex(), self.fenced, self.core.ways_back, self.config.rejoin_s,
                      time.monotonic() + self.config.rejoin_s, self.membership.began, self.in_background,
                      self.niceness, self.soft_limit)

    def _fenced(self, reason: str, leaving: bool) -> None:
        if not leaving:  # else the process ends anyway
            self.fenced = reason
            self.failed = True
            self.journal.note(f"this node was declared dead: {reason}; "
                              + ("its work ends, and it joins again as a new node" if self.core.ways_back else
                                 "start it again to rejoin"))

    # ------------------------------------------------------------ effects

    def _perform(self) -> None:
        self.core.perform()
        self._send_spawns()

    def _send_spawns(self) -> None:
        if self._spawns:
            spawns, self._spawns = self._spawns, []
            self.zygote.send({"spawn": spawns})
            self._want_zygote_write()

    def _send(self, peer: bytes, message: Any) -> None:
        peer, message = routed(self.incarnation, peer, message)
        self.mesh.send(peer, message.CODE, message)

    def _perform_spawn(self, effect: Spawn) -> None:
        try:
            slot = self.store.open_slot(effect.worker[:8], 0)
        except RuntimeError as error:  # shared memory is full: handle it like a failed fork
            self.machine.worker_spawned(effect.worker, 0, str(error), time.monotonic())
            return
        self.output.add(effect.worker)
        self.children.expected += 1
        spec: dict[str, Any] = {"worker_id": effect.worker, "slot": slot}
        if effect.broken:
            spec["broken"] = effect.broken
        elif effect.kind is not None:
            job = self.machine.jobs.jobs.get(effect.kind.job)
            equipment = self.machine.environments.equipment(effect.kind.setup) if effect.kind.setup else {}
            spec["start"] = {"env": dict(effect.kind.env), "threads": effect.kind.threads,
                             "drivers": (job.config.get("threads") or {}) if job is not None else {},
                             "python": equipment.get("python") or [], "folder": equipment.get("working_dir", "")}
        self._spawns.append(spec)

    def _perform_kill(self, effect: Kill) -> None:
        if not self.children.kill(effect.incarnation) and effect.incarnation in self.machine.pool.workers:
            self._kill_once_started.add(effect.incarnation)

    def _perform_watch(self, effect: Watch) -> None:
        def ended() -> None:
            self.machine.process_exited(effect.incarnation, time.monotonic())

        self.processes.watch(effect.incarnation, effect.pid, ended)

    def _attach_driver(self, incarnation: bytes, pid: int) -> dict[str, Any]:
        return {**self.store.attach_info(), "slot": self.store.open_slot(incarnation, pid)}

    def _note(self, effect: Note) -> None:
        self.journal.note(text_of(effect.kind, effect.detail))
        if effect.kind == "job_over":
            self.kept.job_over()

    def _forget(self, incarnation: bytes) -> None:
        self.processes.forget(incarnation)
        self._kill_once_started.discard(incarnation)
        self.store.close_slot(incarnation)
        self.mesh.forget(incarnation)
        for kind in "dw":  # the endpoint of a driver or worker is a file, which it may have had no time to remove
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.session_dir, f"{kind}-{incarnation.hex()}.sock"))
        places.forget_process(self.session_dir, incarnation.hex())

    def _last_output(self, effect: EndJob) -> None:
        self.lines.assign()
        lines, dropped = self.output.flush(self.output.workers_of(effect.job))
        if effect.reply is not None:
            self.lines.send(effect.driver, lines.get(effect.job, []), dropped, [])

    def _log_error(self, error: Exception) -> None:
        """A bug in the handler of one message must not end the node."""
        self.journal.note(f"internal error: {error}", error)

    def _pressed(self) -> None:
        """The object store moves objects to disk, or has no space for a request: log it, at most
        every PRESSURE_EVERY_S."""
        now = time.monotonic()
        if now >= self._pressed_after:
            self._pressed_after = now + PRESSURE_EVERY_S
            self.journal.note(f"the object store is under pressure: {self.store.pressure()}")

    # ------------------------------------------------------------ workers

    def _zygote_answered(self) -> None:
        for worker_id, pid, error in self.zygote.read():
            incarnation = worker_id[:8]
            self.machine.worker_spawned(worker_id, pid, error, time.monotonic())
            if pid:
                self.journal.note(f"worker {pid} ({incarnation.hex()}) starts")
                self.children.add(incarnation, pid)
                if incarnation in self._kill_once_started:
                    self._kill_once_started.discard(incarnation)
                    self.children.kill(incarnation)
            else:
                self.children.expected -= 1
        self._want_zygote_write()

    def _want_zygote_write(self) -> None:
        self.watcher.want_write(self.zygote.sock.fileno(), not self.zygote.flush())

    def _worker_exited(self, incarnation: bytes, pid: int, ended: Ended) -> None:
        from zray.node.machine import Death

        if self.children.zygote:
            self.zygote.send({"ended": [pid]})
        worker = self.machine.pool.workers.get(incarnation)
        if worker is not None:
            self.output.assign(incarnation, worker.job, worker.pid)
        lease, started, finished, equipping = self.store.slot_marks(incarnation)
        failed = bool(ended.signal or ended.exit_code or started > finished)  # an exit in the middle of a task, too
        tail = self.output.tail(incarnation) if failed else ""
        log = self.output.file_of(incarnation)
        if not log and failed and worker is not None and worker.lease and not (worker.reason or worker.asked):
            log = self.output.note_death(incarnation, ended.signal, ended.exit_code)
        death = Death(ended.signal, ended.exit_code, lease, started, finished, tail, log, equipping)
        self.machine.worker_exited(incarnation, death, time.monotonic())
        lines, dropped = self.output.flush([incarnation])
        self.lines.deliver(lines, dropped)
        self.output.remove(incarnation)

    def _zygote_exited(self, ended: Ended) -> None:
        """The zygote was killed.  The daemon has threads by now, so the next zygote starts as a
        fresh interpreter."""
        from zray.node.processes.zygote import ZygoteLink

        if not self.core.stopping:
            self._zygote_answered()  # the last reports
        self.watcher.remove(self.zygote.sock.fileno())
        self.zygote.close()
        self.children.zygote = 0
        if self.core.stopping:
            return
        self.children.zygote_ended()
        self.journal.note(f"the zygote ended ({ended}); starting another")
        self.zygote = ZygoteLink.execute(self.soft_limit)
        self.children.zygote = self.zygote.pid
        self.watcher.add(self.zygote.sock.fileno(), self._zygote_answered)
        self.zygote.send({**self._zygote_base(), "began": list(self.children.workers)})
        for worker in list(self.machine.pool.workers.values()):
            if not worker.pid:
                self.machine.worker_spawned(worker.id, 0, "the zygote ended", time.monotonic())

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """End every process, remove everything but logs and state."""
        self._take_last_reports()
        self.kept.finish(self.core.stopping or "an error")
        if self.installer is not None:
            self.installer.close()
        self._end_processes()
        self.machine.effects.clear()
        self.mesh.flush()
        self.mesh.close(0)
        if self.entry is not None:
            self.probes.close()
        self.processes.close()
        self.signals.close()
        if self.scraped is not None:
            self.scraped.close()
        self.watcher.close()
        self.output.close()
        self.zygote.close()
        self.gcs.close()
        self.store.close()
        self.journal.note(f"the end: {self.core.stopping or 'of an error'}")
        self.journal.close()
        sessions.retire(self.session_dir)

    def _take_last_reports(self) -> None:
        """Those that the workers of the last job still send: the driver does not wait for them."""
        while self.machine.pool.dismissed and not self.failed:  # each until its deadline
            self.machine.tick(time.monotonic())
            self.core.perform()
            self.mesh.flush()
            self.mesh.poll(0.01)
            self.mesh.drain(self._deliver)

    def _end_processes(self) -> None:
        """Also of the workers that the zygote has forked and not reported: they would write into a deleted session."""
        import select

        deadline = time.monotonic() + EXIT_WAIT_S
        while self.children.kill_all() and time.monotonic() < deadline:
            select.select([self.watcher], [], [], 0.05)
            for worker_id, pid, _ in self.zygote.read() if self.children.zygote else ():
                if pid:
                    self.children.add(worker_id[:8], pid)
            self.children.collect()


class _MeshTimer:
    """The timers of a mesh."""

    def __init__(self, mesh: Mesh):
        self.next_deadline = mesh.deadline
        self.tick = mesh.tick


def _import_shared() -> None:
    """Import the modules that this process and the workers both need, before the fork: they share the pages.

    The daemon imports the rest after it, while the zygote imports numpy and the modules of workers.
    """
    import zray.gcs.client.client
    import zray.store.segment
    import zray.transport.mesh  # noqa: F401


def main(argv: list[str] | None = None) -> None:
    """Entry point of ``zray-node``."""
    from zray.node.process import run

    run(argv)


if __name__ == "__main__":
    main()
