"""The other nodes, as this one knows them: live nodes, ways to their processes, relayed messages.  Pure.

    nodes table (control store)   row alive     -> a peer: linked, in the cluster view
                                  row dead/left -> gone: all processes and leases on it end here too
    Relay from a peer             process is ours  -> deliver to it a message of that node (a grant, an actor's state)
                                  process is theirs -> its message to this node, as if it were connected here
    Dial from a process of ours   to the node of the process to reach; the answer comes back to all who asked
    Dial from a peer              BindTcp to that process, unless it has bound already; DialAnswer

Between nodes all messages of a process go through its own node.  So each node knows the relations
of its processes with any other node, and can end them when that node dies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.ids import node_of
from zray.base.ports import Ports
from zray.node.context import NodeContext
from zray.node.effects import Link, Note, Unlink
from zray.wire import messages as m
from zray.wire.codec import Malformed, typed
from zray.wire.messages.cluster import RELAYED

# Messages that processes of other nodes may send to this one through their own.
FROM_OTHER_NODES = frozenset(cls.CODE for cls in (
    m.LeaseKey, m.LeaseWant, m.LeaseReturn, m.LeaseKill, m.KillActor, m.ActorUp, m.ActorExit, m.CreateActor,
    m.CallerSeen, m.SaveCheckpoint, m.StateLost))


class PeerNodesPorts(Ports):
    """Ports of the view of the other nodes."""

    is_process: Callable[[bytes], bool]  # whether that is a core process of this node
    from_node: Callable[[bytes, bytes, Any], None]  # (node, process, message): a node's message to a process of ours
    from_process: Callable[[bytes, int, Any], None]  # (process, code, message): a message of another node's process


class PeerNodes:
    """Peers of this node; see the module's docstring."""

    def __init__(self, context: NodeContext, node_id: str, ports: PeerNodesPorts):
        self._context = context
        self._node_id = node_id  # hex
        self._ports = ports
        self.me = context.me
        self.peers: dict[bytes, dict[str, Any]] = {}  # live nodes other than this one, and their rows
        self._ended = context.ends.nodes  # other nodes that have ended, and why
        self.last_rows: dict[bytes, dict[str, Any]] = {}  # of those nodes, as far as they were peers
        self.bound: dict[bytes, str] = {}  # process of ours -> its TCP endpoint
        self._dialling: dict[bytes, set[bytes]] = {}  # process -> those that wait for its endpoint
        self.bind_host = "127.0.0.1"  # the daemon sets these three
        self.insecure = False
        self.ports: list[int] = []
        self.one_port = False  # processes bind no port: nodes pass their frames on
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.Relay.CODE: self._relay, m.Dial.CODE: self._dial, m.DialAnswer.CODE: self._dial_answer,
            m.Bound.CODE: self._bound,
        }

    @property
    def alone(self) -> bool:
        return not self.peers

    @property
    def lone(self) -> bool:
        """Nobody else was ever there: what this node does not have does not exist."""
        return not (self.peers or self._ended)

    def node_id(self, node: bytes) -> str:
        """The hex NodeID of an incarnation, as far as known."""
        if node == self.me:
            return self._node_id
        row = self.peers.get(node) or self.last_rows.get(node)
        return row["node_id"].hex() if row is not None else node.hex()

    # ------------------------------------------------------------ nodes

    def joined(self, incarnation: bytes, row: dict[str, Any]) -> None:
        """A node is alive (again told: its row has changed)."""
        if incarnation == self.me or incarnation in self._ended:
            return
        fresh = incarnation not in self.peers
        self.peers[incarnation] = row
        if not fresh:
            return
        self._context.emit(Link(incarnation, row["endpoint"]))
        self._context.emit(Note("node_joined", {"node": incarnation.hex(), "endpoint": row["endpoint"]}))

    def node_ended(self, incarnation: bytes, reason: str) -> bool:
        """Another node has certainly ended; whether it was a peer until now."""
        if incarnation == self.me or not self._context.ends.node_ended(incarnation, reason):
            return False
        if self.last_rows and (oldest := next(iter(self.last_rows))) not in self._ended:
            del self.last_rows[oldest]
        row = self.peers.pop(incarnation, None)
        if row is None:
            return False
        self.last_rows[incarnation] = {**row, "ended_s": self._context.now}
        self._context.emit(Note("node_gone", {"node": incarnation.hex(), "reason": reason}))
        for process in [p for p in self._dialling if node_of(p) == incarnation]:
            self._answer(process, "", f"its node is gone: {reason}")
        for askers in self._dialling.values():
            askers.difference_update([asker for asker in askers if node_of(asker) == incarnation])
        self._context.emit(Unlink(incarnation))
        return True

    def forget_process(self, incarnation: bytes) -> None:
        """A process of ours has ended."""
        self.bound.pop(incarnation, None)
        if incarnation in self._dialling:
            self._answer(incarnation, "", "it has ended")
        for askers in self._dialling.values():
            askers.discard(incarnation)

    # ------------------------------------------------------------ relays

    def _relay(self, peer: bytes, message: m.Relay) -> None:
        if node_of(peer) != peer or peer == self.me:
            self._context.refuse(peer, "Relay from a process that is no node")
            return
        try:
            inner = typed(message.code, message.fields)
        except Malformed as error:
            self._context.refuse(peer, f"Relay: {error}")
            return
        home = node_of(message.process)
        if home == self.me:
            self._ports.from_node(peer, message.process, inner)
        elif home == peer and message.code in FROM_OTHER_NODES:
            self._ports.from_process(message.process, message.code, inner)
        else:
            self._context.refuse(peer, f"Relay of {type(inner).__name__} for {message.process.hex()}")

    # ------------------------------------------------------------ endpoints of processes

    def _dial(self, peer: bytes, message: m.Dial) -> None:
        process = message.process
        home = node_of(process)
        if home != self.me:
            if home not in self.peers:
                why = self._ended.get(home, "no such node in this cluster")
                self._context.send(peer, m.DialAnswer(process, "", f"its node is gone: {why}"))
                return
            askers = self._dialling.setdefault(process, set())
            askers.add(peer)
            if len(askers) == 1:
                self._context.send(home, message)
            return
        endpoint = self.bound.get(process)
        if endpoint is not None:
            self._context.send(peer, m.DialAnswer(process, endpoint))
        elif self.one_port and self._ports.is_process(process):
            self._context.send(peer, m.DialAnswer(process, RELAYED))
        elif not self._ports.is_process(process):
            self._context.send(peer, m.DialAnswer(process, "", "no such process"))
        else:
            askers = self._dialling.setdefault(process, set())
            askers.add(peer)
            if len(askers) == 1:
                self._context.send(process, m.BindTcp(self.bind_host, self.insecure, self.ports))

    def _dial_answer(self, peer: bytes, message: m.DialAnswer) -> None:
        if node_of(message.process) == peer:
            self._answer(message.process, message.endpoint, message.error)

    def _bound(self, peer: bytes, message: m.Bound) -> None:
        if not self._ports.is_process(peer):
            self._context.refuse(peer, "Bound from a process that is not of this node")
            return
        if message.endpoint:
            self.bound[peer] = message.endpoint
        self._answer(peer, message.endpoint or RELAYED, "")

    def _answer(self, process: bytes, endpoint: str, error: str) -> None:
        for asker in sorted(self._dialling.pop(process, ())):
            self._context.send(asker, m.DialAnswer(process, endpoint, error))

    def next_hop(self, process: bytes) -> bytes | None:
        """The next hop of a frame for ``process``; None when the process is gone (zray.transport.relay)."""
        home = node_of(process)
        if home == self.me:
            return process if self._ports.is_process(process) else None
        return home if home in self.peers else None

    def check(self) -> None:
        assert self.me not in self.peers
        assert not self.peers.keys() & self._ended.keys()
        assert self.last_rows.keys() <= self._ended.keys()
        assert all(node_of(process) == self.me for process in self.bound)
        for process, askers in self._dialling.items():
            assert node_of(process) in (self.me, *self.peers), "somebody waits for an endpoint on a dead node"
            assert self.me not in askers


def routed(me: bytes, peer: bytes, message: Any) -> tuple[bytes, Any]:
    """Where node ``me`` sends a message for ``peer``: to processes of other nodes through those nodes."""
    home = node_of(peer)
    if home == me or home == peer:
        return peer, message
    return home, m.Relay(peer, message.CODE, list(message))
