"""The simulated node daemon: a shell around the production DaemonMachine."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from zray.base.ends import Ends
from zray.base.ids import INCARNATION_SIZE, JOB_SIZE, NODE_SIZE, node_of
from zray.gcs.configuration.control import FENCED
from zray.gcs.service import GcsPorts, GcsService
from zray.node.daemon_machine import (
    DaemonMachine,
    DaemonPorts,
    MemberShell,
    StopRequest,
    admit_first_node,
    gcs_report,
    node_machine,
)
from zray.node.effects import InstallEnvironment, Kill, Spawn, Watch
from zray.node.machine import NodePorts, NoHost, no_logs
from zray.node.peers.cluster import routed
from zray.node.peers.leaving import NOTHING_TO_HAND_OVER
from zray.node.processes.memory import Reading
from zray.sched.node.local import LocalScheduler
from zray.sched.resources import UNIT
from zray.sim.files import MemoryFiles
from zray.sim.history import GcsHistory
from zray.sim.process import Process
from zray.sim.surroundings import SimSurroundings
from zray.wire import messages as m

# Resources that only placement groups use: a scarce one, and one that is enough for a whole run.
GEAR, SPACE = 3, 1000
MEMORY_BYTES = 1 << 30  # of each node
LOOK_PAUSE_S = 0.002  # a timer may be late by that
JOIN_AGAIN_S = 1.0  # a node that gets no answer asks another one


def node_incarnation(number: int) -> bytes:
    """The id of the ``number``-th node, from 1."""
    return b"nod%c\0\0\0\0" % (48 + number)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSurroundings(SimSurroundings):
    """What a node daemon asks of its surroundings."""

    history: GcsHistory
    serving: Callable[[], list[SimNode]]  # nodes that have joined and live
    ready: Callable[[SimNode], None]  # it has joined
    end: Callable[[SimNode, str], None]  # its process ends, and why
    rejoin: Callable[[SimNode, list[bytes]], None]  # it has ended, and joins again through one of these nodes
    spawn: Callable[[SimNode, bytes, tuple[Any, ...]], None]  # a worker's id, and what it is started under
    kill: Callable[[SimNode, bytes], None]  # a worker


class SimNode(Process):
    """The shell around NodeMachine.  It lives from :meth:`start` on."""

    def __init__(self, around: NodeSurroundings, number: int) -> None:
        super().__init__(around.wire, node_incarnation(number))
        self.around = around
        self.number = number
        self.mesh.on_error = around.error
        self.mesh.on_closed = self._closed
        self.core: DaemonMachine | None = None  # once it has joined
        self.config = around.config
        self.node_id = self.incarnation + bytes(NODE_SIZE - INCARNATION_SIZE - 1) + bytes((number,))
        self.cpus = around.plan.cpus
        self.total = {"CPU": self.cpus * UNIT, "gear": GEAR * UNIT, "space": SPACE * UNIT,
                      "memory": MEMORY_BYTES * UNIT}
        self.own_row: dict[str, Any] = {
            "node_id": self.node_id, "endpoint": self.mesh.serve_tcp(), "name": "", "total": self.total,
            "labels": {}, "shown": {}}
        self.files = MemoryFiles()
        self.ready = False
        self.refused = ""
        self.memory_used = 0  # of MEMORY_BYTES
        self.fork_delay = 1.0  # how much longer than usual a fork takes
        self.watched: set[bytes] = set()  # drivers whose process this node watches
        self._workers_made = 0
        self._tick_at: float | None = None
        self._look_at = 0.0  # for deadlines, not earlier
        self._looks_later = False
        self._is_due = False
        self._early: deque[tuple[bytes, int, Any]] = deque()
        self._through = b""

    def start(self, through: bytes) -> None:
        """Found the cluster, or ask ``through`` another node to join."""
        self._through = through
        if through:
            self._ask_to_join()
        else:
            self._compose(None)

    # ------------------------------------------------------------ the beginning

    def _ask_to_join(self) -> None:
        if self.ready or self.refused:
            return
        live = {node.incarnation: node for node in self.around.serving() if node is not self}
        if not live:
            self.later(JOIN_AGAIN_S, self._ask_to_join)
            return
        if self._through not in live:
            self._through = next(iter(live))
        self.mesh.connect(self._through, live[self._through].mesh.serve_tcp())
        self.hello(self._through)
        self._send(self._through, m.NodeJoin(m.PROTOCOL, self.around.python, "", self.own_row))

    def hello(self, peer: bytes) -> None:
        self._send(peer, m.Hello(m.PROTOCOL, "node", self.mesh.endpoint, self.number, 0, self.around.python,
                                 list(m.FEATURES)))

    def _joining(self, peer: bytes, code: int, message: Any) -> None:
        fenced = code == m.NodeStanding.CODE and message.node == self.incarnation and message.standing == FENCED
        if code != m.NodeJoined.CODE and not fenced:
            self._early.append((peer, code, message))
        elif fenced or message.refused:
            self.refused = message.reason if fenced else message.refused
            self.around.end(self, "its process ends")
        else:
            self.mesh.disconnect(peer)
            self._compose(message)

    def _compose(self, joined: m.NodeJoined | None) -> None:
        net, around, stores, me = self.net, self.around, self.around.stores, self.incarnation
        ports = GcsPorts(lambda: net.now, self._send, fenced=lambda reason: self._composed().fence(reason),
                         configured=lambda config: self._composed().configured())
        self.gcs = GcsService(ports, incarnation=me, node_id=self.node_id,
                              first=joined is None, hints=joined.gcs if joined is not None else None,
                              node_timeout_s=self.config.node_timeout_s)
        self.mesh.on_early = self.gcs.heard
        around.history.follow(self.gcs.client)
        ordinal = joined.ordinal if joined is not None else admit_first_node(self.gcs, self.own_row)
        self.machine = node_machine(
            self.gcs, ordinal, node={"NodeID": self.node_id.hex()}, config=self.config, keep=self.cpus,
            scheduler=lambda next_lease: LocalScheduler(self.total, node=me, next_lease=next_lease),
            ports=NodePorts(
                ends=Ends(), new_worker_id=self._new_worker_id,
                attach=lambda incarnation, pid: {}, environ={}, store_report=dict, stored_bytes=int,
                gcs_report=partial(gcs_report, self.gcs), ownerless=partial(stores.ownerless, me),
                free_unheld=partial(stores.free_unheld, me), epoch_s=0.0, logs=no_logs,
                host=NoHost(), send_output=lambda: None, stops=list, checkpoints=self.files,
                read_memory=lambda: [Reading(self.memory_used, MEMORY_BYTES, "simulated")],
                memory_of=lambda pid: MEMORY_BYTES // 8))
        self.core = DaemonMachine(self.gcs, self.machine, self._ports(), self._member_shell())
        self.ready = True
        self.core.start(joined.rows if joined is not None else [])
        early, self._early = self._early, deque()
        for peer, code, message in early:
            self.on_message(peer, code, message)
        self.stir()
        around.ready(self)

    def _composed(self) -> DaemonMachine:
        assert self.core is not None
        return self.core

    def _ports(self) -> DaemonPorts:
        stores = self.around.stores
        return DaemonPorts(
            lambda: self.net.now, self._send, timed=[],
            handlers={m.StoreFree.CODE: lambda peer, message: stores.free(self.incarnation, message.objects),
                      m.StoreLocate.CODE: self._locate},
            install=self._install, stop_install=lambda effect: None, remove_installed=lambda effect: None,
            spawn=self._spawn, kill=self._kill, watch=self._watch, note=lambda effect: None, forget=self.mesh.forget,
            last_output=lambda effect: None, drop_objects=self._drop_objects, node_ended=self._node_ended,
            hand_over=lambda heirs: NOTHING_TO_HAND_OVER, left=lambda why, handed: self.stir(),
            fenced=lambda reason, leaving: self.stir(), error=self.around.error)

    def _locate(self, peer: bytes, message: m.StoreLocate) -> None:
        where = [self.around.stores.locate(value) for value in message.values]
        self._send(peer, m.StoreLocated(message.request, where, [False] * len(where)))

    def _member_shell(self) -> MemberShell:
        """Nothing to do: the wire decides which peers may dial, from the nodes tables."""
        return MemberShell(
            self.mesh, self.hello, self._probe, end_probe=lambda node: None, cluster_id="sim", own_row=self.own_row,
            unfit=lambda peer, message: "", may_dial=lambda row: None, may_not_dial=lambda node: None,
            warn=lambda text: None, settings={}, mint=self.incarnation.hex, rejoins=self.around.plan.rejoins)

    def _new_worker_id(self) -> bytes:
        self._workers_made += 1
        return self.incarnation[:4] + self._workers_made.to_bytes(4, "big") + bytes(20)

    # ------------------------------------------------------------ the loop

    def _send(self, peer: bytes, message: Any) -> None:
        peer, message = routed(self.incarnation, peer, message)
        self.mesh.send(peer, message.CODE, message)
        self.stir()

    def on_message(self, peer: bytes, code: int, message: Any) -> None:
        if self.core is None:
            self._joining(peer, code, message)
            return
        is_gone = node_of(peer) in self.machine.context.ends.nodes
        if self.core.deliver(peer, code, message, self.net.now) and is_gone:
            self.around.oracle.heard_of_the_dead(self, peer)
        self.stir()

    def turn(self) -> None:
        core = self.core
        if core is None:
            return
        if self._is_due:  # by the timer, as the product asks before the messages of a turn
            self._is_due = False
            core.begin()
        core.turn()
        core.flush()
        if core.stopping:
            self.around.end(self, core.stopping)
            if core.ways_back:
                self.around.rejoin(self, [bytes.fromhex(join) for join in core.ways_back])
            return
        if core.gcs.has_news or self.net.now >= self._look_at:
            self._look()
        elif not self._looks_later:
            self._looks_later = True
            self.at(self._look_at, self._look)
        self.around.stepped(self)

    def _look(self) -> None:
        """Arm the timer.  Turns that come close together share one look, which costs a fifth of a turn."""
        core, now = self.core, self.net.now
        assert core is not None
        self._looks_later = False
        self._look_at = now + LOOK_PAUSE_S
        when = core.next_deadline()
        if when is not None and (self._tick_at is None or when < self._tick_at):
            self._tick_at = max(when, now)
            self.at(self._tick_at, self._tick, self._tick_at)

    def _tick(self, due: float) -> None:
        if self._tick_at == due:
            self._tick_at = None
            self._is_due = True
            self.stir()

    # ------------------------------------------------------------ effects

    def _spawn(self, effect: Spawn) -> None:
        net, fork = self.net, effect.kind is None  # else Python starts again
        seconds = (net.random.uniform(0.001, 0.01) if fork else net.random.uniform(0.05, 0.2)) * self.fork_delay
        net.call_at(net.now + seconds, self.around.spawn, self, effect.worker, () if fork else effect.kind.env)

    def _install(self, effect: InstallEnvironment) -> None:
        slow = self.net.random.random() < 0.3  # of packages, by far
        self.later(self.net.random.uniform(0.01, 2.0 if slow else 0.1), self._installed, effect.number, {})

    def _installed(self, number: int, equipment: dict[str, Any]) -> None:
        self.machine.environment_installed(number, equipment, {}, self.net.now)
        self.stir()

    def _kill(self, effect: Kill) -> None:
        net = self.net
        net.call_at(net.now + net.random.uniform(0, 0.001), self.around.kill, self, effect.incarnation)

    def _watch(self, effect: Watch) -> None:
        self.watched.add(effect.incarnation)

    def _drop_objects(self, job: int) -> None:
        self.around.oracle.dropped(self, job)
        self.around.stores.drop_job(self.incarnation, job.to_bytes(JOB_SIZE, "big"))

    # ------------------------------------------------------------ other nodes

    def _closed(self, peer: bytes) -> None:
        if self.core is not None:
            self.core.closed(peer)
        elif peer == self._through:
            self._through = b""
            self.later(self.net.random.uniform(0.01, 0.1), self._ask_to_join)

    def _probe(self, node: bytes, endpoint: str) -> None:
        """Ask the simulated kernel of the other machine; a machine that is cut off does not answer."""
        assert self.core is not None
        if self.wire.audible(self.incarnation, node):
            error = errno.ECONNREFUSED if self.wire.refused(self.incarnation, endpoint) else 0
            self.later(self.net.random.uniform(0.0001, 0.001), self.core.probed, node, error)

    def _node_ended(self, node: bytes) -> None:
        self.around.oracle.condemn(node)
        self.around.stores.declared_dead(node, self.incarnation)

    def stop(self) -> None:
        """End at the next turn; a node of a cluster leaves it first."""
        assert self.core is not None
        self.core.stop(StopRequest.SIGNAL)
        self.stir()

    @property
    def leavers(self) -> set[bytes]:
        """The nodes that this node knows to be leaving."""
        return self.core.member.leavers if self.core is not None and self.core.member is not None else set()

    @property
    def is_leaving(self) -> bool:
        return self.core is not None and (self.core.leaving is not None or bool(self.core.stopping))

    def check(self) -> None:
        self.mesh.check()
        if self.ready:
            self.machine.check()
            self.gcs.check()

    def knows_gone(self, node: bytes) -> bool:
        return self.ready and node_of(node) in self.machine.context.ends.nodes
