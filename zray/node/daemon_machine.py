"""DaemonMachine: all decisions of a node daemon: machine, control store, membership.  Pure.

The daemon (zray.node.daemon) and the simulated one (zray.sim.node) are shells around it.  A turn of either:

    begin       heartbeats of the control store that are due, before other work
    deliver     each message that has arrived, to the part it is for
    turn        timers, the leave under way, answers of the control store, the machine's effects
    flush       sync the writes of the control store to disk, then send the messages that waited for it

``next_deadline`` is the time of the next turn when no message arrives.

    stop        a member leaves its cluster first; a node that is alone, fenced or asked twice for
                one reason ends at once
    fence       the cluster goes on without this node: it ends at once, so that nothing runs twice
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import count
from typing import Any, Protocol, get_args

from zray.base import ids
from zray.base.config import Config
from zray.base.ports import Ports
from zray.gcs.configuration.control import FENCED
from zray.gcs.service import GcsService
from zray.node.effects import (
    DropJob,
    Effect,
    EndJob,
    Forget,
    InstallEnvironment,
    Kill,
    Link,
    Note,
    RemoveInstalled,
    Send,
    Spawn,
    StopInstall,
    Unlink,
    Watch,
)
from zray.node.jobs.table import JOB_BITS
from zray.node.leases.placements import LEASE_BITS
from zray.node.machine import NodeMachine, NodePorts
from zray.node.names import GcsNames
from zray.node.peers.early import EarlyMessages
from zray.node.peers.leaving import NodeDeparture
from zray.node.peers.links import LinkMesh, LinkPorts, Links
from zray.node.peers.member import Member, MemberPorts, Row
from zray.sched.node.local import LocalScheduler
from zray.store.transfer.exchange import HandoverProgress
from zray.wire import messages as m

Handlers = Mapping[int, Callable[[bytes, Any], None]]


class StopRequest(Enum):
    """The source of a request to end this node; the text is the reason in the row of the node."""

    SIGNAL = "it was told to stop"
    SESSION_CLOSED = "the driver closed the session"


class Timed(Protocol):
    """A part with a timer."""

    def next_deadline(self) -> float | None: ...

    def tick(self, now: float) -> None: ...


class DaemonPorts(Ports):
    """Ports of a daemon's machine to its shell."""

    clock: Callable[[], float]
    send: Callable[[bytes, Any], None]  # to a process of this node, to another daemon, or by way of that daemon
    handlers: Handlers  # messages that the shell handles itself
    timed: Sequence[Timed]
    spawn: Callable[[Spawn], None]
    kill: Callable[[Kill], None]
    watch: Callable[[Watch], None]
    install: Callable[[InstallEnvironment], None]
    stop_install: Callable[[StopInstall], None]
    remove_installed: Callable[[RemoveInstalled], None]
    note: Callable[[Note], None]
    forget: Callable[[bytes], None]  # drop the session, the connection and all else of that process
    last_output: Callable[[EndJob], None]  # send the driver the output of its job's workers
    drop_objects: Callable[[int], None]  # of that job
    node_ended: Callable[[bytes], None]  # another node, once: the store forgets it
    hand_over: Callable[[set[bytes]], HandoverProgress]  # others are to have our objects: see zray.node.peers.leaving
    left: Callable[[str, HandoverProgress], None]  # the leave is done, for that reason
    fenced: Callable[[str, bool], None]  # (reason, leaving): this node was declared dead, perhaps while it left
    error: Callable[[Exception], None]  # an effect could not be performed


class MemberShell(Ports):
    """Further ports of the shell, for a member of a cluster."""

    mesh: LinkMesh
    hello: Callable[[bytes], None]
    probe: Callable[[bytes, str], int | None]
    end_probe: Callable[[bytes], None]
    cluster_id: str
    own_row: Row
    unfit: Callable[[bytes, m.NodeJoin], str]
    may_dial: Callable[[Row], None]
    may_not_dial: Callable[[bytes], None]
    warn: Callable[[str], None]
    settings: dict[str, Any]  # that the nodes of the cluster were started with, for joining nodes
    mint: Callable[[], str]  # a new join string of this node
    rejoins: bool  # it joins again when it was declared dead


class DaemonMachine:
    """See the module's docstring."""

    def __init__(self, gcs: GcsService, machine: NodeMachine, ports: DaemonPorts, membership: MemberShell | None):
        self.gcs = gcs
        self.machine = machine
        self._ports = ports
        self.me = machine.incarnation
        self.links: Links | None = None
        self.member: Member | None = None
        self.early = EarlyMessages()
        self.stopping = ""  # why it ends
        self.ways_back: list[str] = []  # of a node that was declared dead and is to join again: by one of these
        self._rejoins = membership is not None and membership.rejoins
        self.leaving: NodeDeparture | None = None
        self._asked_by: StopRequest | None = None  # the source of the request for the leave under way
        self._due: float | None = None  # the first deadline when the turn began
        timed: list[Timed] = [machine, *ports.timed, gcs]
        handlers = [ports.handlers, gcs.handlers]
        if membership is not None:
            self.links, self.member = self._join(membership)
            timed.append(self.member)
            handlers.append(self.member.handlers)
        self._timed = timed
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {}
        for table in handlers:
            assert not table.keys() & self.handlers.keys(), "two parts want the same message"
            self.handlers.update(table)
        self._perform: dict[type, Callable[[Any], None]] = {
            Send: lambda effect: ports.send(effect.peer, effect.message), Spawn: ports.spawn, Kill: ports.kill,
            Watch: ports.watch, InstallEnvironment: ports.install, StopInstall: ports.stop_install,
            RemoveInstalled: ports.remove_installed, Note: ports.note, Forget: self._forget, EndJob: self._end_job,
            DropJob: self._drop_job, Link: self._link, Unlink: self._unlink}
        assert set(self._perform) == set(get_args(Effect)), "an effect that nobody performs"

    def _join(self, membership: MemberShell) -> tuple[Links, Member]:
        ports, gcs = self._ports, self.gcs
        links = Links(membership.mesh, LinkPorts(
            ports.clock, membership.hello, membership.probe, membership.end_probe,
            proven_dead=lambda node: member.proven_dead(node), revoked=lambda node: member.revoked(node),
            answers=lambda node: gcs.link_answers(node, True)))
        member = Member(MemberPorts(
            ports.clock, ports.send, self.machine.cluster, self.machine.context.ends, gcs, links, membership.cluster_id,
            membership.settings, membership.own_row, membership.unfit, membership.may_dial,
            membership.may_not_dial, node_joined=self.machine.node_joined, node_leaves=self.machine.node_leaves,
            node_ended=self.node_ended, warn=membership.warn, mint=membership.mint))
        return links, member

    def start(self, known: list[Row]) -> None:
        """All parts are composed.  ``known``: the other nodes, from the answer to NodeJoin."""
        self.machine.start(self._ports.clock())
        if self.member is not None:
            self.member.start(known)

    # ------------------------------------------------------------ a turn

    def begin(self) -> bool:
        """Send the heartbeats and answers by which other nodes judge this one; True when there are any."""
        return self._tick_if_due(self.gcs)

    def _tick_if_due(self, part: Timed) -> bool:
        when = part.next_deadline()
        now = self._ports.clock()  # read after the question: the control store names no past time
        if when is None or when > now:
            return False
        part.tick(now)
        return True

    def deliver(self, peer: bytes, code: int, message: Any, now: float) -> bool:
        """Handle a message that has arrived; False when its sender is not admitted."""
        if not ids.same_node(peer, self.me):
            if not self._is_admitted(peer, code, message, now):
                return False
            if peer in self.machine.cluster.peers:
                for earlier in self.early.take(peer):  # sent before the node was known, so handled before this one
                    self._hand(peer, *earlier, now)
        self._hand(peer, code, message, now)
        return True

    def _hand(self, peer: bytes, code: int, message: Any, now: float) -> None:
        handler = self.handlers.get(code)
        if handler is not None:
            handler(peer, message)
        else:
            self.machine.handle(peer, code, message, now)

    def _is_admitted(self, peer: bytes, code: int, message: Any, now: float) -> bool:
        """Admit nodes of the cluster.  A newcomer may only introduce itself; a node that has ended gets a refusal.

        Other messages of a daemon that is unknown so far are kept until the nodes table has it.
        Rows of its free resources are not kept: it sends them again.
        """
        cluster, ended = self.machine.cluster, self.machine.context.ends.nodes
        if peer in cluster.peers or code == m.Hello.CODE and peer not in ended:
            return True
        if code == m.NodeJoin.CODE and peer not in ended:
            self._refuse_early(peer)  # it was no node when it said that, and asks to be one now
            return True
        if self.member is not None and self.member.ended(peer):
            return False
        if code == m.NodeStanding.CODE and message.standing == FENCED and message.node == self.me:
            return True  # a node that joined later has declared this one dead: its row never comes
        if peer != ids.node_of(peer) or code != m.ViewRows.CODE and not self.early.keep(peer, code, message, now):
            self.machine.refuse(peer, f"{type(message).__name__} from a process that is no node of this cluster")
        return False

    def _deliver_early(self, now: float) -> None:
        """Nodes have become known, or their grace period is over."""
        for peer in self.early.of(self.machine.cluster.peers):
            for earlier in self.early.take(peer):
                self._hand(peer, *earlier, now)
        for peer in [*self.early.of(self.machine.context.ends.nodes), *self.early.overdue(now)]:
            self._refuse_early(peer)

    def _refuse_early(self, peer: bytes) -> None:
        if (count := len(self.early.take(peer))):
            self.machine.refuse(peer, f"{count} message(s) from a process that is no node of this cluster")

    def turn(self) -> None:
        """Handle the consequences of this turn's messages."""
        clock = self._ports.clock
        self._deliver_early(clock())
        self.gcs.flush()
        if self._due is not None and self._due <= clock():  # deadlines that this turn sets belong to the next
            for part in self._timed:
                self._tick_if_due(part)
        if self.leaving is not None:
            self.leaving.step(clock())
        if self.gcs.has_news:  # the control store may have answers for the machine
            self.gcs.has_news = False
            self.machine.settle(clock())
        self.perform()

    def flush(self) -> None:
        self.gcs.flush()

    def next_deadline(self) -> float | None:
        times = [self.early.next_deadline(), *(part.next_deadline() for part in self._timed)]
        if self.leaving is not None:
            times.append(self.leaving.next_deadline())
        self._due = min((when for when in times if when is not None), default=None)
        if self.gcs.has_news:  # at the end of the turn, when the disk has acknowledged a write
            return self._ports.clock()
        return self._due

    # ------------------------------------------------------------ effects

    def perform(self) -> None:
        effects = self.machine.effects
        while effects:
            batch = effects[:]
            effects.clear()
            for effect in batch:
                try:
                    self._perform[type(effect)](effect)
                except Exception as error:  # an effect that fails must not end the node
                    self._ports.error(error)

    def _forget(self, effect: Forget) -> None:
        self._ports.forget(effect.incarnation)
        self.gcs.forget(effect.incarnation)
        self.machine.cluster.bound.pop(effect.incarnation, None)

    def _end_job(self, effect: EndJob) -> None:
        self._ports.last_output(effect)
        if effect.reply is not None:
            self._ports.send(effect.driver, effect.reply)

    def _drop_job(self, effect: DropJob) -> None:
        self._ports.drop_objects(effect.job)
        self.gcs.client.drop_job(effect.job.to_bytes(ids.JOB_SIZE, "big"))

    def _link(self, effect: Link) -> None:
        assert self.links is not None
        self.links.link(effect.node, effect.endpoint)

    def _unlink(self, effect: Unlink) -> None:
        assert self.links is not None
        self.links.unlink(effect.node)

    # ------------------------------------------------------------ other nodes, and the end

    def closed(self, peer: bytes) -> None:
        """The mesh reports a connection of ours closed."""
        if self.member is not None:
            self.member.closed(peer)

    def probed(self, node: bytes, error: int) -> None:
        """The result of an attempt to connect to that daemon."""
        assert self.links is not None
        self.links.probed(node, error)

    def node_ended(self, node: bytes, reason: str) -> None:
        """The nodes table says so."""
        if self.machine.node_ended(node, reason, self._ports.clock()):
            self._ports.node_ended(node)

    def stop(self, request: StopRequest) -> None:
        """End at the next turn.  A member of a cluster leaves it first, unless the same source asks twice.

        Requests of two sources count as one: a process that closes the session also sends SIGTERM,
        for daemons that hang.
        """
        self.ways_back = []
        if self.member is None or self.machine.cluster.alone or self.gcs.fenced_because or (
                self._asked_by is request):
            self.end(request.value)
        elif self.leaving is None:
            self._asked_by = request
            self.member.announce_leave(request.value)
            self.leaving = NodeDeparture(request.value, self.machine, self.gcs, self.member.leavers,
                                   self.member.suspected_nodes, self._left, self._ports.clock(), self._ports.hand_over)

    def _left(self) -> None:
        assert self.leaving is not None
        self._ports.left(self.leaving.why, self.leaving.handed)
        self.stopping = self.leaving.why

    def fence(self, reason: str) -> None:
        """The cluster goes on without this node, and may have run the same work since: end at once.

        Its process may join again, as another node (``ways_back``): nothing of this one goes on.
        """
        if self._rejoins and self.leaving is None and self.member is not None:
            self.ways_back = self.member.ways_back()
        for driver in self.machine.jobs.by_driver:
            if ids.same_node(driver, self.me):
                self._ports.send(driver, m.NodeStanding(self.me, FENCED, reason))
        self._ports.fenced(reason, self.leaving is not None)
        self.stopping = f"this node was declared dead: {reason}"

    def configured(self) -> None:
        """The control store has another configuration, which may name nodes whose rows are not here yet."""
        if self.member is not None:
            self.member.ask_for_unknown_nodes()

    def end(self, why: str) -> None:
        """End at the next turn, whatever the state of the cluster."""
        self.stopping = self.stopping or why


def admit_first_node(gcs: GcsService, row: Row) -> int:
    """Admit the first node to its own cluster; returns its ordinal (0, except in a cluster
    restarted from disk)."""
    answers: list[tuple[str, int]] = []
    gcs.admit(row, lambda refused, ordinal: answers.append((refused, ordinal)))
    refused, ordinal = answers[0]  # a chain of one answers at once
    if refused:
        raise RuntimeError(f"the control store refuses this node: {refused}")
    return ordinal


def node_machine(gcs: GcsService, ordinal: int, *, node: dict[str, Any], config: Config, keep: int, ports: NodePorts,
                 scheduler: Callable[[Callable[[], int]], LocalScheduler]) -> NodeMachine:
    """The machine of the node with that number; ``scheduler(next_lease)`` makes the one of its own resources."""
    return NodeMachine(
        incarnation=gcs.incarnation, node=node, first_job=(ordinal << JOB_BITS) + 1,
        scheduler=scheduler(count((ordinal << LEASE_BITS) + 1).__next__), names=GcsNames(gcs.client), config=config,
        keep=keep, ports=ports)


def gcs_report(gcs: GcsService) -> dict[str, Any]:
    """The control store, as ``zray list gcs`` shows it."""
    config = gcs.config
    return {"generation": config.generation, "voters": list(config.voters), "trouble": gcs.trouble(), "chains": [
        {"shard": shard, "epoch": chain.epoch, "members": list(chain.members), "joining": chain.joining}
        for shard, chain in enumerate(config.chains)]}
