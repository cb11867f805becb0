"""The simulated node daemon: a shell around the production NodeMachine, scheduler, control store, member and links."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from zray import messages as m
from zray.gcs.control import FENCED
from zray.gcs.service import GcsService
from zray.gcs.tables import NODES
from zray.ids import INCARNATION_SIZE, NODE_SIZE, node_of
from zray.node.cluster import routed
from zray.node.daemon import LEASE_BITS
from zray.node.effects import DropJob, EndJob, Forget, Kill, Link, Send, Spawn, Unlink, Watch
from zray.node.jobs import JOB_BITS
from zray.node.leaving import Leaving
from zray.node.links import Links
from zray.node.machine import NodeMachine
from zray.node.member import Member
from zray.node.names import GcsNames
from zray.sched.local import LocalScheduler
from zray.sim.core import UNIT
from zray.sim.process import Process

if TYPE_CHECKING:
    from zray.sim.cluster import SimCluster

# What only placement groups use: scarce, and enough for all of a run.
GEAR, SPACE = 3, 1000
JOIN_AGAIN_S = 1.0  # a node that gets no answer asks another one


def node_incarnation(number: int) -> bytes:
    """Of the ``number``-th node, from 1."""
    return b"nod%c\0\0\0\0" % (48 + number)


class SimLinks(Links):
    """Links whose probes ask the simulated kernel of the other machine."""

    def __init__(self, node: SimNode, proven_dead: Callable[[bytes], None],
                 revoked: Callable[[bytes], None]) -> None:
        super().__init__(node.mesh, None, lambda: node.net.now, proven_dead, revoked,  # type: ignore[arg-type]
                         lambda other: node.gcs.link_answers(other, True))
        self._node = node

    def _dial(self, node: bytes) -> None:
        self._mesh.connect(node, self._links[node].endpoint)
        self._node.hello(node)

    def _probe(self, node: bytes, endpoint: str) -> None:
        if self._node.wire.refused(self._node.incarnation, endpoint):
            self._node.later(self._node.net.random.uniform(0.0001, 0.001), self._judge, node, errno.ECONNREFUSED)


class _AllowList:
    """Who may dial is decided by the wire, from what the machines know."""

    def remove_node(self, tag: bytes) -> None:
        pass


class SimMember(Member):
    """The production member without keys and sockets: what it does with NodeJoin and the nodes table."""

    def __init__(self, node: SimNode) -> None:
        self.mesh = node.mesh
        self.me = node.incarnation
        self.cluster = "sim"
        self.known = []
        self.clock = lambda: node.net.now
        self._ask_rows_at = None
        self._admitting = {}
        self.leavers = set()
        self.ended_nodes = set()

    def begin(self, node: SimNode) -> None:
        self.daemon = node  # type: ignore[assignment]
        self.links = SimLinks(node, self._proven_dead, self._revoked)
        node.gcs.on_fenced = node.fence
        node.gcs.on_config = lambda config: self._look_for_strangers()
        for row in self.known:
            self._alive(row)
        node.gcs.client.watch(NODES, self._nodes_changed)
        self._look_for_strangers()

    def node_join(self, peer: bytes, message: m.NodeJoin) -> None:
        self._node_join(peer, message)

    def _unfit(self, peer: bytes, message: m.NodeJoin) -> str:
        return ""

    def _list(self, row: dict[str, Any]) -> None:
        pass

    @property
    def _allow_list(self) -> Any:
        return _AllowList()


class SimNode(Process):
    """The shell around NodeMachine: the first node of a cluster, or one that asks ``through`` another to join."""

    def __init__(self, cluster: SimCluster, number: int, through: bytes = b"") -> None:
        super().__init__(cluster.wire, node_incarnation(number))
        self.cluster = cluster
        cluster.nodes[self.incarnation] = self
        self.number = number
        self.mesh.on_error = cluster.error
        self.mesh.on_closed = self._closed
        self.config = cluster.config
        self.node_id = self.incarnation + bytes(NODE_SIZE - INCARNATION_SIZE - 1) + bytes((number,))
        self.cpus = cluster.plan.cpus
        self.total = {"CPU": self.cpus * UNIT, "gear": GEAR * UNIT, "space": SPACE * UNIT}
        self.member = SimMember(self)
        self.own_row: dict[str, Any] = {
            "node_id": self.node_id, "endpoint": self.mesh.serve_tcp(), "name": "", "total": self.total,
            "labels": {}, "shown": {}}
        self.ready = False
        self.refused = ""
        self.stopping = ""
        self._leaving: Leaving | None = None
        self.unlinked: set[bytes] = set()
        self.watched: set[bytes] = set()  # drivers whose process this node watches
        self._workers_made = 0
        self._tick_at: float | None = None
        self._early: deque[tuple[bytes, int, Any]] = deque()
        self._through = through
        if through:
            self._ask_to_join()
        else:
            self._compose(None)

    # ------------------------------------------------------------ the beginning

    def _ask_to_join(self) -> None:
        if self.ready or self.refused:
            return
        live = [node for node in self.cluster.serving() if node is not self]
        if not live:
            self.later(JOIN_AGAIN_S, self._ask_to_join)
            return
        if self._through not in {node.incarnation for node in live}:
            self._through = live[0].incarnation
        self.mesh.connect(self._through, self.cluster.nodes[self._through].mesh.serve_tcp())
        self.hello(self._through)
        self._send(self._through, m.NodeJoin(m.PROTOCOL, self.cluster.python, "", self.own_row))

    def hello(self, peer: bytes) -> None:
        self._send(peer, m.Hello(m.PROTOCOL, "node", self.mesh.endpoint, self.number, 0, self.cluster.python,
                                 list(m.FEATURES)))

    def _joining(self, peer: bytes, code: int, message: Any) -> None:
        fenced = code == m.NodeStanding.CODE and message.node == self.incarnation and message.standing == FENCED
        if code != m.NodeJoined.CODE and not fenced:
            self._early.append((peer, code, message))
        elif fenced or message.refused:
            self.refused = message.reason if fenced else message.refused
            self.cluster.end_node(self, "its process ends")
        else:
            self.mesh.disconnect(peer)
            self._compose(message)

    def _compose(self, joined: m.NodeJoined | None) -> None:
        net, cluster = self.net, self.cluster
        self.gcs = GcsService(lambda: net.now, self._send, incarnation=self.incarnation, node_id=self.node_id,
                              first=joined is None, hints=joined.gcs if joined is not None else None,
                              node_timeout_s=self.config.node_timeout_s)
        self.mesh.on_early = self.gcs.heard
        cluster.history.follow(self.gcs.client)
        ordinal = 0
        if joined is not None:
            ordinal, self.member.known = joined.ordinal, joined.rows
        else:
            answers: list[tuple[str, int]] = []
            self.gcs.admit(self.own_row, lambda refused, ordinal: answers.append((refused, ordinal)))
            assert answers == [("", 0)]
        self.machine = NodeMachine(
            incarnation=self.incarnation, node={"NodeID": self.node_id.hex()}, first_job=(ordinal << JOB_BITS) + 1,
            scheduler=LocalScheduler(self.total, node=self.incarnation,
                                     next_lease=count((ordinal << LEASE_BITS) + 1).__next__),
            names=GcsNames(self.gcs.client), config=self.config, new_worker_id=self._new_worker_id,
            attach=lambda incarnation, pid: {}, keep=self.cpus,
            ownerless=lambda has_ended: cluster.stores.ownerless(self.incarnation, has_ended),
            free_unheld=partial(cluster.stores.free_unheld, self.incarnation))
        self.ready = True
        self.machine.start(net.now)
        self.member.begin(self)
        early, self._early = self._early, deque()
        for peer, code, message in early:
            self.on_message(peer, code, message)
        self.stir()
        cluster.node_ready(self)

    def _new_worker_id(self) -> bytes:
        self._workers_made += 1
        return self.incarnation[:4] + self._workers_made.to_bytes(4, "big") + bytes(20)

    # ------------------------------------------------------------ the loop

    def _send(self, peer: bytes, message: Any) -> None:
        peer, message = routed(self.incarnation, peer, message)
        self.mesh.send(peer, message.CODE, message)
        self.stir()

    def on_message(self, peer: bytes, code: int, message: Any) -> None:
        if not self.ready:
            self._joining(peer, code, message)
            return
        if self.machine.cluster.gone and self.member.ended(peer):
            self.stir()
            return
        self.cluster.oracle.heard(self, peer)
        handler = self.gcs.handlers.get(code)
        if handler is not None:
            handler(peer, message)
        elif code == m.StoreLocate.CODE:
            where = [self.cluster.stores.locate(value) for value in message.values]
            self._send(peer, m.StoreLocated(message.request, where, [False] * len(where)))
        elif code == m.StoreFree.CODE:
            self.cluster.stores.free(self.incarnation, message.objects)
        elif code == m.NodeJoin.CODE:
            self.member.node_join(peer, message)
        elif code == m.NodeRows.CODE:
            self.member._node_rows(peer, message)
        elif code == m.HelloAck.CODE:
            self.member._hello_ack(peer, message)
        elif code == m.NodeLeave.CODE:
            self.member._node_leave(peer, message)
        else:
            self.machine.handle(peer, code, message, self.net.now)
        self.stir()

    def turn(self) -> None:
        if not self.ready:
            return
        if self._leaving is not None:
            self._leaving.step(self.net.now)
        self.gcs.flush()
        if self.gcs.told:
            self.gcs.told = False
            self.machine.settle(self.net.now)
        effects = self.machine.effects
        while effects:
            batch = effects[:]
            effects.clear()
            for effect in batch:
                self._perform(effect)
        if self.stopping:
            self.cluster.end_node(self, self.stopping)
            return
        if self.gcs.told:  # the control store has answered what an effect asked
            self.stir()
        times = [self.machine.next_deadline(), self.gcs.next_deadline(), self.member.next_deadline(),
                 self._leaving.next_deadline() if self._leaving is not None else None]
        when = min((at for at in times if at is not None), default=None)
        if when is not None and (self._tick_at is None or when < self._tick_at):
            self._tick_at = max(when, self.net.now)
            self.at(self._tick_at, self._tick, self._tick_at)
        self.cluster.stepped(self)

    def _tick(self, due: float) -> None:
        if self._tick_at != due:
            return
        self._tick_at = None
        now = self.net.now
        if (when := self.machine.next_deadline()) is not None and when <= now:
            self.machine.tick(now)
        if (when := self.gcs.next_deadline()) is not None and when <= now:
            self.gcs.tick(now)
        if (when := self.member.next_deadline()) is not None and when <= now:
            self.member.tick(now)
        self.stir()

    def _perform(self, effect: Any) -> None:
        cluster, net, kind = self.cluster, self.net, type(effect)
        if kind is Send:
            self._send(effect.peer, effect.message)
        elif kind is Spawn:
            fork = effect.kind is None  # else Python starts again
            seconds = net.random.uniform(0.001, 0.01) if fork else net.random.uniform(0.05, 0.2)
            net.call_at(net.now + seconds, cluster.spawn, self, effect.worker, () if fork else effect.kind.env)
        elif kind is Kill:
            net.call_at(net.now + net.random.uniform(0, 0.001), cluster.kill_worker, self, effect.incarnation)
        elif kind is Watch:
            self.watched.add(effect.incarnation)
        elif kind is Forget:
            self.gcs.forget(effect.incarnation)
            self.mesh.forget(effect.incarnation)
            self.machine.cluster.bound.pop(effect.incarnation, None)
        elif kind is DropJob:
            cluster.oracle.dropped(self, effect.job)
            cluster.stores.drop_job(self.incarnation, effect.job.to_bytes(4, "big"))
        elif kind is EndJob and effect.reply is not None:
            self._send(effect.driver, effect.reply)
        elif kind is Link:
            self.member.links.link(effect.node, effect.endpoint)
        elif kind is Unlink:
            self.unlinked.add(effect.node)
            self.member.links.unlink(effect.node)

    # ------------------------------------------------------------ other nodes, as zray.node.daemon sees them

    def _closed(self, peer: bytes) -> None:
        if self.ready:
            self.member.closed(peer)
        elif peer == self._through:
            self._through = b""
            self.later(self.net.random.uniform(0.01, 0.1), self._ask_to_join)

    def node_gone(self, node: bytes, reason: str) -> None:
        self.cluster.oracle.condemn(node)
        self.cluster.stores.node_gone(node, self.incarnation)
        self.machine.node_gone(node, reason, self.net.now)

    def stop(self, why: str) -> None:
        """End at the next turn; a member of a cluster leaves it first."""
        if self.machine.cluster.alone or self.gcs.fenced_because:
            self.stopping = self.stopping or why
        elif self._leaving is None:
            self.member.tell_leave(why)
            self._leaving = Leaving(why, self.machine, self.gcs, self.member.leavers, self.member.ended_nodes,
                                    self._left, self.net.now)
        self.stir()

    def _left(self) -> None:
        assert self._leaving is not None
        self.stopping = self._leaving.why
        self.stir()

    def fence(self, reason: str) -> None:
        self.stopping = f"declared dead: {reason}"
        self.stir()

    @property
    def is_leaving(self) -> bool:
        return self._leaving is not None or bool(self.stopping)

    def check(self) -> None:
        self.mesh.check()
        if self.ready:
            self.machine.check()
            self.gcs.check()

    def knows_gone(self, node: bytes) -> bool:
        return self.ready and node_of(node) in self.machine.cluster.gone
