"""The daemon as a member of its cluster: nodes that join, live, leave.  Pure.

    NodeJoin            of a newcomer: the control store decides; the answer has the other nodes and the store's place
    the nodes table     alive: it may dial us, and is linked; dead or left: all its processes end here too
    NodeLeave           that node leaves: nothing is placed there any more
    NodeRows            nodes that have a part in the control store, and are not in this node's copy of the table yet;
                        a node that leaves sends the rows that it knows
    NodeTicket          a way back: a node that was declared dead, and is not, joins again through a node that it knew
    a link is refused   its process has ended: tell the control store; a node does not list our key: this node has
                        ended

Keys, port and the way in are zray.node.peers.entry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from zray.base import ids
from zray.base.ends import Ends
from zray.base.ports import Ports
from zray.gcs.client.client import GcsClient
from zray.gcs.configuration.config import ClusterConfig
from zray.gcs.configuration.control import FENCED, LEFT
from zray.gcs.replica.tables import NODES, Change, unpack_record
from zray.node.peers.cluster import PeerNodes
from zray.sched.resources import UNITS_MAX
from zray.transport.credentials import TICKET_S
from zray.transport.curve import BadEndpoint, parse_endpoint
from zray.wire import messages as m

ADMIT_S = 15.0  # by then a joining node gets the reason why the control store does not admit it; before it gives up
UNKNOWN_NODES_S = 0.2  # how often to ask about nodes that have a part in the control store and are unknown here
RENEW_TICKET_S = TICKET_S / 2  # the other nodes always have a ticket that is good for as long again
JOIN_CHARS_MAX = 4096  # of a join string, which has about 250
PYTHON_RELEASE = ".".join(map(str, sys.version_info[:3]))
ROW_FIELDS = {"node_id": bytes, "endpoint": str, "name": str, "total": dict, "labels": dict, "shown": dict}

Row = dict[str, Any]


class ControlStore(Protocol):
    """The part of the control store that a member needs: see zray.gcs.service."""

    client: GcsClient

    @property
    def config(self) -> ClusterConfig: ...

    def admit(self, row: Row, then: Callable[[str, int], None]) -> None: ...

    def hints(self) -> list: ...

    def trouble(self) -> str: ...

    def fenced(self, reason: str) -> None: ...

    def peer_closed(self, node: bytes, proven: bool) -> None: ...


class LinkTable(Protocol):
    """The part of zray.node.peers.links that a member needs."""

    def closed(self, node: bytes) -> bool: ...

    def welcomed(self, node: bytes) -> None: ...

    def next_deadline(self) -> float | None: ...

    def tick(self, now: float) -> None: ...


class MemberPorts(Ports):
    """Ports of a member."""

    clock: Callable[[], float]
    send: Callable[[bytes, Any], None]
    cluster: PeerNodes
    ends: Ends
    gcs: ControlStore
    links: LinkTable
    cluster_id: str  # hex
    settings: dict[str, Any]  # that the nodes of the cluster were started with, for joining nodes
    own_row: Row
    unfit: Callable[[bytes, m.NodeJoin], str]  # why a node may not join, '' when it may
    may_dial: Callable[[Row], None]  # that node is of the cluster
    may_not_dial: Callable[[bytes], None]  # that node has ended
    node_joined: Callable[[bytes, Row, float], None]
    node_leaves: Callable[[bytes, float], None]
    node_ended: Callable[[bytes, str], None]
    warn: Callable[[str], None]
    mint: Callable[[], str]  # a new join string of this node


class Member:
    """See the module's docstring."""

    def __init__(self, ports: MemberPorts):
        self._ports = ports
        self._cluster = ports.cluster
        self.me = ports.cluster.me
        self.leavers: set[bytes] = set()  # live nodes that announced a leave
        # their endpoints refuse connections, and the table does not have that yet
        self.suspected_nodes: set[bytes] = set()
        self._ask_rows_at: float | None = None
        self._ticket, self._renew_at = "", 0.0  # the join string that the others have, and when it is replaced
        self._ways_back: dict[bytes, str] = {}  # live nodes -> their join strings
        self._admitting: dict[bytes, float] = {}  # joining nodes -> when to send them the reason why they cannot join
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.NodeJoin.CODE: self._node_join, m.HelloAck.CODE: self._hello_ack, m.NodeRows.CODE: self._node_rows,
            m.NodeLeave.CODE: self._node_leave, m.NodeTicket.CODE: self._node_ticket}

    def start(self, known: list[Row]) -> None:
        """The daemon is composed: watch the nodes table.  ``known`` are the rows that came with NodeJoined."""
        for row in known:
            self._alive(row)
        self._ports.gcs.client.watch(NODES, self._nodes_changed)
        self.ask_for_unknown_nodes()

    # ------------------------------------------------------------ links

    def closed(self, peer: bytes) -> None:
        """The mesh reports a connection of ours closed."""
        if self._ports.links.closed(peer):
            self._ports.gcs.peer_closed(peer, False)

    def proven_dead(self, node: bytes) -> None:
        """Its endpoint refuses connections."""
        self.suspected_nodes.add(node)
        self._ports.gcs.peer_closed(node, True)
        self._end_if_unknown()

    def _end_if_unknown(self) -> None:
        """End if all nodes that this one knows have ended, and it has no part in the control store.

        The node has just joined: the one that admitted it ended before any other was known here.  The others may
        have its row.  But they cannot reach it, because only nodes that it knows may dial it.
        """
        known = self._cluster.peers.keys()
        if known and known <= self.suspected_nodes and self.me not in self._ports.gcs.config.involved:
            self._ports.gcs.fenced("all nodes that it knew have ended, and it has no part in the control store")

    def revoked(self, node: bytes) -> None:
        """Take keys off the lists only for nodes that are dead or left in the nodes table."""
        self._ports.gcs.fenced(f"node {node.hex()} does not list its key any more")

    def _hello_ack(self, peer: bytes, message: m.HelloAck) -> None:
        if message.refused:
            self._ports.warn(f"node {peer.hex()} refuses this one: {message.refused}")
        else:
            self._ports.links.welcomed(peer)
            if peer in self._cluster.peers:
                self._ports.send(peer, m.NodeTicket(self._current_ticket()))

    # ------------------------------------------------------------ the way back

    def ways_back(self) -> list[str]:
        """Join strings of the nodes that this one believes alive, for when it was declared dead."""
        return list(self._ways_back.values())

    def _node_ticket(self, peer: bytes, message: m.NodeTicket) -> None:
        if peer in self._cluster.peers and len(message.join) <= JOIN_CHARS_MAX:
            self._ways_back[peer] = message.join

    def _current_ticket(self) -> str:
        if not self._ticket:
            self._ticket, self._renew_at = self._ports.mint(), self._ports.clock() + RENEW_TICKET_S
        return self._ticket

    def _renew_ticket(self, now: float) -> None:
        if self._ticket and self._renew_at <= now:
            self._ticket = ""
            for peer in sorted(self._cluster.peers):
                self._ports.send(peer, m.NodeTicket(self._current_ticket()))

    # ------------------------------------------------------------ ends

    def announce_leave(self, reason: str) -> None:
        """Tell the other nodes, and whom this one knows: a node that is late may know nobody else who stays."""
        rows = self._rows()
        for node in sorted(self._cluster.peers):
            self._ports.send(node, m.NodeRows(False, rows))
            self._ports.send(node, m.NodeLeave(reason))

    def _node_leave(self, peer: bytes, message: m.NodeLeave) -> None:
        if peer in self._cluster.peers:
            self.leavers.add(peer)
            self._ports.node_leaves(peer, self._ports.clock())

    def ended(self, peer: bytes) -> bool:
        """Whether ``peer`` is a node that has ended; send it that.  (With keys its messages rarely arrive.)"""
        node = ids.node_of(peer)
        reason = self._ports.ends.nodes.get(node)
        if reason is None:
            return False
        if peer == node:
            self._ports.send(peer, m.NodeStanding(node, FENCED, reason))
        return True

    # ------------------------------------------------------------ nodes that join here

    def _node_join(self, peer: bytes, message: m.NodeJoin) -> None:
        refused = self._ports.unfit(peer, message)
        if refused:
            self._refuse(peer, refused)
            return

        def admitted(refused: str, ordinal: int) -> None:
            if self._admitting.pop(peer, None) is None:
                return  # it got a refusal; its row will be declared dead
            rows = [] if refused else self._rows()
            if not refused:
                self._ports.may_dial(message.row)
            self._ports.send(peer, m.NodeJoined(refused, self._ports.cluster_id, ordinal, rows, self._ports.gcs.hints(),
                                                self._ports.settings))

        self._admitting[peer] = self._ports.clock() + ADMIT_S
        self._ports.gcs.admit(message.row, admitted)

    def _give_up(self, now: float) -> None:
        """Refuse nodes that the control store has not admitted in time."""
        for peer in [peer for peer, at in self._admitting.items() if at <= now]:
            del self._admitting[peer]
            self._refuse(peer, self._ports.gcs.trouble() or
                         f"the control store has not answered within {ADMIT_S:g} s")

    def _refuse(self, peer: bytes, why: str) -> None:
        self._ports.send(peer, m.NodeJoined(why, self._ports.cluster_id, 0, [], [], {}))

    def _rows(self) -> list[Row]:
        return [self._ports.own_row, *self._cluster.peers.values()]

    # ------------------------------------------------------------ nodes that are not in our copy of the table yet

    def ask_for_unknown_nodes(self) -> None:
        """Nodes that joined after this one, and that it does not know yet, may have parts of the control store.

        The tail that would send us their rows may be one of them, and it cannot dial us either: we do
        not list its key.
        """
        cluster, ended = self._cluster, self._ports.ends.nodes
        strangers = [node for node in self._ports.gcs.config.involved
                     if node != self.me and node not in cluster.peers and node not in ended]
        if not strangers:
            self._ask_rows_at = None
            return
        for peer in sorted(cluster.peers):
            self._ports.send(peer, m.NodeRows(True, []))
        self._ask_rows_at = self._ports.clock() + UNKNOWN_NODES_S

    def _node_rows(self, peer: bytes, message: m.NodeRows) -> None:
        if ids.node_of(peer) != peer or peer not in self._cluster.peers:
            return
        if message.asks:
            self._ports.send(peer, m.NodeRows(False, self._rows()))
        for row in message.rows:
            if type(row) is dict and not _missing_field(row):
                self._alive(row)
        if message.rows:
            self.ask_for_unknown_nodes()

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        renew_at = self._renew_at if self._ticket else None
        times = [self._ports.links.next_deadline(), self._ask_rows_at, renew_at, *self._admitting.values()]
        return min((when for when in times if when is not None), default=None)

    def tick(self, now: float) -> None:
        self._ports.links.tick(now)
        self._give_up(now)
        self._renew_ticket(now)
        if self._ask_rows_at is not None and self._ask_rows_at <= now:
            self.ask_for_unknown_nodes()

    # ------------------------------------------------------------ the nodes table

    def _nodes_changed(self, reset: bool, changes: list[Change]) -> None:
        for change in changes:
            if change.value is None:
                self._ended(change.key[len(NODES):][:ids.INCARNATION_SIZE], "it was removed")
                continue
            row = unpack_record(change.value)
            incarnation = row["node_id"][:ids.INCARNATION_SIZE]
            if row["state"] in ("alive", "draining"):
                self._alive(row)
            else:
                self._ports.may_not_dial(incarnation)
                peers = self._cluster.peers
                reason = row.get("reason") or row["state"]
                if incarnation in peers:
                    peers[incarnation] = row  # the last row of that node
                    if row["state"] != LEFT:  # it may live; and it sends nothing here if it does not know this node
                        self._ports.send(incarnation, m.NodeStanding(incarnation, FENCED, reason))
                self._ended(incarnation, f"it has left ({reason})" if row["state"] == LEFT else reason)

    def _ended(self, incarnation: bytes, reason: str) -> None:
        self.leavers.discard(incarnation)
        self.suspected_nodes.discard(incarnation)
        self._ways_back.pop(incarnation, None)
        self._ports.node_ended(incarnation, reason)

    def _alive(self, row: Row) -> None:
        incarnation = row["node_id"][:ids.INCARNATION_SIZE]
        if incarnation != self.me:
            self._ports.may_dial(row)
            self._ports.node_joined(incarnation, row, self._ports.clock())


def unfit(peer: bytes, message: m.NodeJoin, insecure: bool, warn: Callable[[str], None]) -> str:
    """Why a node may not join a cluster that is ``insecure`` or not, '' when it may."""
    minor = PYTHON_RELEASE.split(".")[:2]
    if message.protocol != m.PROTOCOL:
        return f"this cluster speaks protocol {m.PROTOCOL}, the node {message.protocol}"
    if message.python.split(".")[:2] != minor:
        return (f"this cluster runs Python {minor[0]}.{minor[1]}, the node {message.python}: what one pickles the "
                "other may not read")
    if message.python != PYTHON_RELEASE:
        warn(f"node {peer.hex()} runs Python {message.python}, this one {PYTHON_RELEASE}")
    if missing := _missing_field(message.row):
        return f"its row has no {missing}"
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
    if bool(endpoint.key) == insecure:
        return f"its endpoint has {'a' if endpoint.key else 'no'} key, unlike those of this cluster"
    return ""


def _missing_field(row: Row) -> str:
    """The first field that a row lacks, or has with another type."""
    return next((name for name, kind in ROW_FIELDS.items() if type(row.get(name)) is not kind), "")
