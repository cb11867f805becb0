"""Connections of a core process, from the first Hello to the certain end of the other side.  Pure.

    event                             meaning
    its connection has closed         no more message comes, so our tasks and calls there end.  Between machines the
                                      connection may come back first (zray.core.redial)
    ProcessGone from our node         the process has ended: its objects may be adopted.  A connection that we dialled
                                      still delivers the last messages, and then closes by itself
    NodeGone from our node            all processes of that node have ended, whatever their connections say

The connection to our own node is different: without it this process can do nothing (CoreMachine.node_lost).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zray.base import ids
from zray.core.ports import Dialling, Shell, Transport
from zray.core.process import ProcessRecord
from zray.core.redial import Redial
from zray.wire import messages as m


class EndHandlers(Protocol):
    """The receiver of ends of connections, processes and nodes."""

    def node_lost(self) -> None: ...
    def peer_closed(self, peer: bytes) -> None: ...
    def process_closed(self, peer: bytes) -> None: ...
    def process_ended(self, process: bytes) -> None: ...
    def node_ended(self, node: bytes) -> None: ...


class Connections:
    """See the module's docstring.  It is the Net of the owner's machines."""

    def __init__(self, process: ProcessRecord, transport: Transport, dialling: Dialling, shell: Shell,
                 ends: EndHandlers):
        self.process = process
        self.transport = transport
        self.dialling = dialling
        self.ends = ends
        self.redial = Redial(transport, process.node, self.send, self.hello, shell.later)
        self._refused = shell.refused
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.Hello.CODE: self.on_hello,
            m.HelloAck.CODE: self.on_hello_ack,
            m.DialAnswer.CODE: self.on_dial_answer,
            m.BindTcp.CODE: self.on_bind_tcp,
            m.ProcessGone.CODE: self.on_process_ended,
            m.NodeGone.CODE: self.on_node_ended,
        }

    # ------------------------------------------------------------ Net

    def send(self, peer: bytes, message: Any) -> None:
        self.transport.send(peer, message.CODE, message)

    def connect(self, peer: bytes, endpoint: str) -> None:
        if self.transport.connected(peer):
            return
        if ids.same_node(peer, self.process.incarnation):
            self.transport.connect(peer, endpoint)
        else:  # messages to it wait until our node has found where it can be dialled
            self.redial.dialling(peer)
            self.transport.hold(peer)
            self.send(self.process.node, m.Dial(peer))
        self.hello(peer)

    def disconnect(self, peer: bytes) -> None:
        if peer != self.process.node:
            self.transport.disconnect(peer)

    # ------------------------------------------------------------ beginnings

    def hello(self, peer: bytes) -> None:
        process = self.process
        self.send(peer, m.Hello(m.PROTOCOL, process.kind, process.endpoint, process.pid, process.job, process.python,
                                list(m.FEATURES)))

    def on_hello(self, peer: bytes, message: m.Hello) -> None:
        refused = "" if message.protocol == m.PROTOCOL else f"protocol {message.protocol}, here {m.PROTOCOL}"
        if not refused:
            self.redial.heard_from(peer)
        self.send(peer, m.HelloAck(m.PROTOCOL, self.process.kind, list(m.FEATURES), refused))

    def on_hello_ack(self, peer: bytes, message: m.HelloAck) -> None:
        if message.refused:
            self._refused(peer, message.refused)
            self.transport.disconnect(peer)
        else:
            self.redial.heard_from(peer)

    def on_dial_answer(self, peer: bytes, message: m.DialAnswer) -> None:
        if message.endpoint:
            self.redial.found(message.process)
            self.dialling.dial(message.process, message.endpoint)
        else:
            self.redial.forget(message.process)
            self.transport.give_up(message.process)

    def on_bind_tcp(self, peer: bytes, message: m.BindTcp) -> None:
        self.send(peer, m.Bound(self.dialling.serve(message)))

    # ------------------------------------------------------------ ends

    def closed(self, peer: bytes) -> None:
        """The mesh says that the connection to a peer is closed, and drained."""
        if peer == self.process.node:
            self.ends.node_lost()
        elif not self.redial.closed(peer):
            self.ends.peer_closed(peer)
            self.ends.process_closed(peer)

    def on_process_ended(self, peer: bytes, message: m.ProcessGone) -> None:
        process = message.process
        self.ends.process_ended(process)
        self.redial.forget(process)
        if process != self.process.node and not self.transport.dialled(process):
            # A connection that we dialled closes once it is drained: this notice overtakes replies.
            self.transport.forget(process)
            self.ends.peer_closed(process)

    def on_node_ended(self, peer: bytes, message: m.NodeGone) -> None:
        for process in [p for p in self.transport.peers() if ids.node_of(p) == message.node]:
            self.redial.forget(process)
            self.transport.forget(process)
            self.closed(process)
        self.ends.node_ended(message.node)
