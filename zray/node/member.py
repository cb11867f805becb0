"""How this daemon is a member of a cluster: its port, its keys, its links, who may join, who is there.

    first node     new cluster: keys, port, allow-list, a ticket, the join string
    joining node   dials the node of the join string with the ticket, says NodeJoin, gets NodeJoined: its ordinal, the
                   other nodes, where the control store is.  Then it uses keys of its own
    any node       answers NodeJoin (the control store decides); keeps links and allow-list as the nodes table says

A node that stays alone has none of this.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray import ids, messages as m
from zray.gcs.control import FENCED, LEFT
from zray.gcs.tables import NODES, Change, unpack_record
from zray.sched.resources import UNITS_MAX
from zray.transport.credentials import AllowList, BadJoinString, Credentials, JoinString, NotListed, decode_join
from zray.node.links import Links
from zray.node.options import BadOption, Membership
from zray.transport.curve import BadEndpoint, BadKeyFile, parse_endpoint, resolve, split_host_port
from zray.transport.mesh import Mesh

if TYPE_CHECKING:
    from zray.node.daemon import Daemon

JOIN_TIMEOUT_S = 20.0
ADMIT_S = 15.0  # a node that joins is told by then why the control store does not take it in; before it gives up
STRANGERS_S = 0.2  # how often to ask about nodes that have a part in the control store and are unknown here
# Others speak to a node from the moment the nodes table has it, which is before it knows itself.
EARLY_MAX = 10_000
PYTHON_RELEASE = ".".join(map(str, sys.version_info[:3]))
ROW_FIELDS = {"node_id": bytes, "endpoint": str, "name": str, "total": dict, "labels": dict, "shown": dict}


class JoinRefused(RuntimeError):
    """The cluster does not take this node, or cannot be reached; the message is one sentence."""


class Member:
    """See the module's docstring.  Made before the rest of the daemon; ``start`` when that is there."""

    def __init__(self, mesh: Mesh, me: bytes, session_dir: str, options: Membership):
        self.mesh = mesh
        self.clock: Callable[[], float] = time.monotonic
        self.me = me
        self.options = options
        self.session_dir = session_dir
        self.ordinal = 0
        self.hints: list = []
        self.settings: dict[str, Any] = {}
        self.known: list[dict[str, Any]] = []  # rows that came with NodeJoined
        self.join_string = ""
        self._ask_rows_at: float | None = None
        self._early: list[tuple[bytes, int, Any]] = []  # what others said as soon as the nodes table had us
        self._admitting: dict[bytes, float] = {}  # nodes that join here -> when to tell them why they cannot
        self.leavers: set[bytes] = set()  # live nodes that said that they leave
        self.ended_nodes: set[bytes] = set()  # their endpoints refuse connections, and the table has yet to say so
        self._ticket: JoinString | None = _ticket(options) if options.address else None
        try:
            self.credentials = Credentials.create(session_dir, me, self._ticket.cluster if self._ticket else b"")
        except BadKeyFile as error:
            raise BadOption(str(error)) from None
        self.cluster = self.credentials.cluster.hex()
        mesh.insecure = options.insecure
        if not options.insecure:  # else nobody proves who he is, and there is nothing to compare with the list
            self.credentials.equip(mesh)
        try:
            self.endpoint = mesh.serve_tcp(options.host, (options.port, options.port))
        except (OSError, ValueError) as error:
            raise BadOption(f"the node cannot listen at {options.host}:{options.port}: {error}") from None

    @property
    def address(self) -> str:
        """host:port"""
        return parse_endpoint(self.endpoint).address.removeprefix("tcp://")

    # ------------------------------------------------------------ joining

    def join(self, row: dict[str, Any], version: str) -> None:
        """Become a member of the cluster whose join string the options have; JoinRefused says why not."""
        ticket = self._ticket
        assert ticket is not None
        try:
            endpoint = resolve(ticket.endpoint)
        except (BadEndpoint, ConnectionError) as error:
            raise JoinRefused(str(error)) from None
        if warning := ticket.warning(time.time()):
            print(f"zray-node: {warning}", file=sys.stderr)
        peer = ids.node_of(ticket.node)
        if not ticket.insecure:  # it dials us as soon as it has taken us in
            self._allow_list.add_node(ticket.server_key, ticket.node)
            self.mesh.keys = ticket.keys()
        self.mesh.connect(peer, endpoint)
        answer = self._ask(peer, m.NodeJoin(m.PROTOCOL, PYTHON_RELEASE, version, row), ticket)
        self.mesh.disconnect(peer)
        if not ticket.insecure:
            self.mesh.keys = self.credentials.keys
        if answer.refused:
            raise JoinRefused(f"the cluster refuses this node: {answer.refused}")
        self.ordinal, self.hints, self.settings, self.known = answer.ordinal, answer.gcs, answer.settings, answer.rows
        for known in self.known:
            self._list(known)

    def _ask(self, peer: bytes, request: m.NodeJoin, ticket: JoinString) -> m.NodeJoined:
        found: list[m.NodeJoined] = []
        lost: list[bytes] = []

        def on_message(sender: bytes, code: int, message: Any) -> None:
            if sender == peer and type(message) is m.NodeJoined:
                found.append(message)
            elif type(message) is m.NodeStanding and message.node == self.me and message.standing == FENCED:
                raise JoinRefused(f"the cluster declared this node dead while it joined: {message.reason}; "
                                  "start it again")
            elif type(message) is not m.HelloAck and len(self._early) < EARLY_MAX:
                self._early.append((sender, code, message))

        before, self.mesh.on_closed = self.mesh.on_closed, lost.append
        try:
            self.mesh.send(peer, m.Hello.CODE, m.Hello(
                m.PROTOCOL, "node", "", os.getpid(), 0, PYTHON_RELEASE, list(m.FEATURES)))
            self.mesh.send(peer, request.CODE, request)
            deadline = time.monotonic() + JOIN_TIMEOUT_S
            while not found:
                left = deadline - time.monotonic()
                if lost:
                    if self.mesh.counters["failed_handshakes"]:
                        raise JoinRefused(ticket.refusal(time.time()))
                    raise JoinRefused(f"nobody listens at {ticket.host}:{ticket.port}: the node of this join string "
                                      "has ended; use the join string of another node of the cluster")
                if left <= 0:
                    raise JoinRefused(f"the node at {ticket.host}:{ticket.port} did not answer within "
                                      f"{JOIN_TIMEOUT_S:g} s")
                self.mesh.flush()
                self.mesh.poll(0.0 if self.mesh.readable() else min(left, 0.2))
                self.mesh.drain(on_message)
                self.mesh.tick(time.monotonic())
            return found[0]
        finally:
            self.mesh.on_closed = before

    # ------------------------------------------------------------ being there

    def start(self, daemon: Daemon) -> None:
        """The daemon is composed: serve joins, watch the nodes table."""
        self.daemon = daemon
        self.links = Links(self.mesh, daemon.watcher, time.monotonic, self._proven_dead, self._revoked,
                           lambda node: daemon.gcs.link_answers(node, True))
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.NodeJoin.CODE: self._node_join, m.HelloAck.CODE: self._hello_ack, m.NodeRows.CODE: self._node_rows,
            m.NodeLeave.CODE: self._node_leave}
        cluster = daemon.machine.cluster
        cluster.bind_host, cluster.insecure = self.options.host, self.options.insecure
        cluster.one_port = self.options.one_port
        self.mesh.relaying.relay = cluster.next_hop
        cluster.ports = list(self.options.ports) if any(self.options.ports) else []
        host, port = split_host_port(self.address)
        self.join_string = self.credentials.mint(host, port, insecure=self.options.insecure)
        daemon.gcs.on_fenced = daemon.fence
        for row in self.known:
            self._alive(row)
        daemon.gcs.client.watch(NODES, self._nodes_changed)
        daemon.gcs.on_config = lambda config: self._look_for_strangers()
        self._look_for_strangers()

    def deliver_early(self, deliver: Callable[[bytes, int, Any], None]) -> None:
        """What came while this node waited for the answer to its NodeJoin: acknowledged, so nobody sends it again."""
        early, self._early = self._early, []
        for peer, code, message in early:
            deliver(peer, code, message)

    def closed(self, peer: bytes) -> None:
        """The mesh says that a connection of ours is closed."""
        if self.links.closed(peer):
            self.daemon.gcs.peer_closed(peer, False)

    def _proven_dead(self, node: bytes) -> None:
        self.ended_nodes.add(node)
        self.daemon.gcs.peer_closed(node, True)

    def tell_leave(self, reason: str) -> None:
        for node in sorted(self.daemon.machine.cluster.peers):
            self.mesh.send(node, m.NodeLeave.CODE, m.NodeLeave(reason))

    def _node_leave(self, peer: bytes, message: m.NodeLeave) -> None:
        if peer in self.daemon.machine.cluster.peers:
            self.leavers.add(peer)
            self.daemon.machine.node_leaves(peer, time.monotonic())

    def _revoked(self, node: bytes) -> None:
        """Only of nodes that the nodes table calls dead or left are keys taken off the lists."""
        self.daemon.gcs.fenced(f"node {node.hex()} does not list its key any more")

    def _hello_ack(self, peer: bytes, message: m.HelloAck) -> None:
        if message.refused:
            print(f"zray-node: node {peer.hex()} refuses this one: {message.refused}", file=sys.stderr)
        else:
            self.links.welcomed(peer)

    def ended(self, peer: bytes) -> bool:
        """Is this of a node that has ended?  Then it is told so.  (With keys it is rarely heard.)"""
        node = ids.node_of(peer)
        reason = self.daemon.machine.cluster.gone.get(node)
        if reason is None:
            return False
        if peer == node:
            self.mesh.send(peer, m.NodeStanding.CODE, m.NodeStanding(node, FENCED, reason))
        return True

    def _node_join(self, peer: bytes, message: m.NodeJoin) -> None:
        refused = self._unfit(peer, message)
        if refused:
            self._answer(peer, m.NodeJoined(refused, self.cluster, 0, [], [], {}))
            return

        def admitted(refused: str, ordinal: int) -> None:
            if self._admitting.pop(peer, None) is None:
                return  # it was told to give up; its row will be declared dead
            rows = [] if refused else [self.own_row(), *self.daemon.machine.cluster.peers.values()]
            if not refused:
                self._list(message.row)
            self._answer(peer, m.NodeJoined(refused, self.cluster, ordinal, rows, self.daemon.gcs.hints(),
                                            self.daemon.config.as_dict()))

        self._admitting[peer] = self.clock() + ADMIT_S
        self.daemon.gcs.admit(message.row, admitted)

    def _give_up(self, now: float) -> None:
        """Of nodes that the control store has not taken in for long."""
        for peer in [peer for peer, at in self._admitting.items() if at <= now]:
            del self._admitting[peer]
            why = self.daemon.gcs.trouble() or f"the control store has not answered within {ADMIT_S:g} s"
            self._answer(peer, m.NodeJoined(why, self.cluster, 0, [], [], {}))

    def own_row(self) -> dict[str, Any]:
        return self.daemon.own_row

    def _answer(self, peer: bytes, message: m.NodeJoined) -> None:
        self.mesh.send(peer, message.CODE, message)

    def _unfit(self, peer: bytes, message: m.NodeJoin) -> str:
        """Why a node may not join, '' when it may."""
        minor = PYTHON_RELEASE.split(".")[:2]
        if message.protocol != m.PROTOCOL:
            return f"this cluster speaks protocol {m.PROTOCOL}, the node {message.protocol}"
        if message.python.split(".")[:2] != minor:
            return (f"this cluster runs Python {minor[0]}.{minor[1]}, the node {message.python}: what one pickles the "
                    "other may not read")
        if message.python != PYTHON_RELEASE:
            print(f"node {peer.hex()} runs Python {message.python}, this one {PYTHON_RELEASE}", file=sys.stderr)
        if lacks := _lacks(message.row):
            return f"its row has no {lacks}"
        if message.row["node_id"][:ids.INCARNATION_SIZE] != peer or len(message.row["node_id"]) != ids.NODE_SIZE:
            return "its node id is not that of its connection"
        if any(type(key) is not str or type(units) is not int or not 0 <= units <= UNITS_MAX
               for key, units in message.row["total"].items()):
            return f"its resources are not amounts from 0 to {UNITS_MAX} units"
        if any(type(key) is not str or type(value) is not str for key, value in message.row["labels"].items()):
            return "its labels are not text"
        try:
            endpoint = parse_endpoint(message.row["endpoint"])
        except BadEndpoint as error:
            return f"its endpoint: {error}"
        if bool(endpoint.key) == self.options.insecure:
            return f"its endpoint has {'a' if endpoint.key else 'no'} key, unlike those of this cluster"
        return ""

    # ------------------------------------------------------------ nodes that the table has not told of yet

    def _look_for_strangers(self) -> None:
        """Parts of the control store may be with nodes that joined after us and of which we have yet to hear.

        The tail that would tell us may be one of them, and it cannot dial us either: we do not list its key.
        """
        cluster = self.daemon.machine.cluster
        involved = self.daemon.gcs.config.involved
        strangers = [node for node in involved if node != self.me and node not in cluster.peers
                     and node not in cluster.gone]
        if not strangers:
            self._ask_rows_at = None
            return
        for peer in sorted(cluster.peers):
            self.mesh.send(peer, m.NodeRows.CODE, m.NodeRows(True, []))
        self._ask_rows_at = self.clock() + STRANGERS_S

    def _node_rows(self, peer: bytes, message: m.NodeRows) -> None:
        if ids.node_of(peer) != peer or peer not in self.daemon.machine.cluster.peers:
            return
        if message.asks:
            rows = [self.own_row(), *self.daemon.machine.cluster.peers.values()]
            self.mesh.send(peer, m.NodeRows.CODE, m.NodeRows(False, rows))
        for row in message.rows:
            if type(row) is dict and not _lacks(row):
                self._alive(row)
        if message.rows:
            self._look_for_strangers()

    def next_deadline(self) -> float | None:
        times = [self.links.next_deadline(), self._ask_rows_at, *self._admitting.values()]
        return min((when for when in times if when is not None), default=None)

    def tick(self, now: float) -> None:
        self.links.tick(now)
        self._give_up(now)
        if self._ask_rows_at is not None and self._ask_rows_at <= now:
            self._look_for_strangers()

    # ------------------------------------------------------------ the nodes table

    def _nodes_changed(self, reset: bool, changes: list[Change]) -> None:
        for change in changes:
            if change.value is None:
                self._gone(change.key[len(NODES):][:ids.INCARNATION_SIZE], "it was removed")
                continue
            row = unpack_record(change.value)
            incarnation = row["node_id"][:ids.INCARNATION_SIZE]
            if row["state"] in ("alive", "draining"):
                self._alive(row)
            else:
                self._allow_list.remove_node(incarnation[:ids.TAG_SIZE])
                peers = self.daemon.machine.cluster.peers
                if incarnation in peers:
                    peers[incarnation] = row  # the last that is known of it
                reason = row.get("reason") or row["state"]
                self._gone(incarnation, f"it has left ({reason})" if row["state"] == LEFT else reason)

    def _gone(self, incarnation: bytes, reason: str) -> None:
        self.leavers.discard(incarnation)
        self.ended_nodes.discard(incarnation)
        self.daemon.node_gone(incarnation, reason)

    def _alive(self, row: dict[str, Any]) -> None:
        incarnation = row["node_id"][:ids.INCARNATION_SIZE]
        if incarnation != self.me:
            self._list(row)
            self.daemon.machine.node_joined(incarnation, row, self.clock())

    def _list(self, row: dict[str, Any]) -> None:
        key = parse_endpoint(row["endpoint"]).key
        if key:
            try:
                self._allow_list.add_node(key, row["node_id"][:ids.TAG_SIZE])
            except NotListed as error:
                print(f"zray-node: {error}", file=sys.stderr)

    @property
    def _allow_list(self) -> AllowList:
        assert isinstance(self.credentials.peers, AllowList)
        return self.credentials.peers

    def close(self) -> None:
        if hasattr(self, "links"):
            self.links.close()


def _lacks(row: dict[str, Any]) -> str:
    """The first field that a row has not, or of another type."""
    return next((name for name, kind in ROW_FIELDS.items() if type(row.get(name)) is not kind), "")


def _ticket(options: Membership) -> JoinString:
    try:
        ticket = decode_join(options.address)
    except BadJoinString as error:
        raise BadOption(str(error)) from None
    if ticket.insecure != options.insecure:
        raise BadOption("that cluster runs without authentication: join it with --insecure" if ticket.insecure
                        else "that cluster authenticates its nodes: join it without --insecure")
    return ticket
