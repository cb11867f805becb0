"""How this daemon joins a cluster: its port, its keys, the allow-list, and the request to be admitted.

    first node     new cluster: keys, port, allow-list, a ticket, the join string
    joining node   dials the node of the join string with the ticket, sends NodeJoin, gets NodeJoined: its ordinal,
                   the other nodes, the place of the control store.  Then it uses keys of its own

A node that stays alone has none of this.  zray.node.peers.member does the rest, while the node is a member.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from zray.base import ids
from zray.gcs.configuration.control import FENCED
from zray.node.peers.member import PYTHON_RELEASE
from zray.node.running.options import BadOption, ClusterOptions
from zray.transport.credentials import AllowList, BadJoinString, Credentials, JoinString, NotListed, decode_join
from zray.transport.curve import BadEndpoint, BadKeyFile, parse_endpoint, resolve, split_host_port
from zray.transport.mesh import Mesh
from zray.wire import messages as m

JOIN_TIMEOUT_S = 20.0
# Other nodes send messages as soon as the nodes table has this one, which is before it knows that itself.
JOIN_MESSAGES_MAX = 10_000


class JoinRefused(RuntimeError):
    """The cluster does not admit this node, or cannot be reached; the message is one sentence."""


class ClusterEntry:
    """See the module's docstring.  Made before the rest of the daemon."""

    def __init__(self, mesh: Mesh, me: bytes, session_dir: str, options: ClusterOptions):
        self.mesh = mesh
        self.me = me
        self.options = options
        # messages that other nodes sent as soon as the nodes table had this one
        self.early: list[tuple[bytes, int, Any]] = []
        self._ticket: JoinString | None = _ticket(options) if options.address else None
        try:
            self.credentials = Credentials.create(session_dir, me, self._ticket.cluster if self._ticket else b"")
        except BadKeyFile as error:
            raise BadOption(str(error)) from None
        self.cluster = self.credentials.cluster.hex()
        mesh.insecure = options.insecure
        if not options.insecure:  # else no peer proves its identity, and there is nothing to compare with the list
            self.credentials.equip(mesh)
        try:
            self.endpoint = mesh.serve_tcp(options.host, (options.port, options.port))
        except (OSError, ValueError) as error:
            raise BadOption(f"the node cannot listen at {options.host}:{options.port}: {error}") from None

    @property
    def address(self) -> str:
        """host:port"""
        return parse_endpoint(self.endpoint).address.removeprefix("tcp://")

    def hello(self, peer: bytes) -> None:
        """Introduce this daemon to another."""
        self.mesh.send(peer, m.Hello.CODE, m.Hello(
            m.PROTOCOL, "node", self.mesh.endpoint, os.getpid(), 0, PYTHON_RELEASE, list(m.FEATURES)))

    # ------------------------------------------------------------ joining

    def join(self, row: dict[str, Any], version: str) -> m.NodeJoined:
        """Join the cluster of the join string in the options; JoinRefused has the reason why not."""
        ticket = self._ticket
        assert ticket is not None
        try:
            endpoint = resolve(ticket.endpoint)
        except (BadEndpoint, ConnectionError) as error:
            raise JoinRefused(str(error)) from None
        if warning := ticket.warning(time.time()):
            warn(warning)
        peer = ids.node_of(ticket.node)
        if not ticket.insecure:  # the node dials us as soon as it has admitted us
            self._allow_list.add_node(ticket.server_key, ticket.node)
            self.mesh.keys = ticket.keys()
        self.mesh.connect(peer, endpoint)
        answer = self._ask(peer, m.NodeJoin(m.PROTOCOL, PYTHON_RELEASE, version, row), ticket)
        self.mesh.disconnect(peer)
        if not ticket.insecure:
            self.mesh.keys = self.credentials.keys
        if answer.refused:
            raise JoinRefused(f"the cluster refuses this node: {answer.refused}")
        for known in answer.rows:
            self.admit(known)
        return answer

    def _ask(self, peer: bytes, request: m.NodeJoin, ticket: JoinString) -> m.NodeJoined:
        found: list[m.NodeJoined] = []
        lost: list[bytes] = []

        def on_message(sender: bytes, code: int, message: Any) -> None:
            if sender == peer and type(message) is m.NodeJoined:
                found.append(message)
            elif type(message) is m.NodeStanding and message.node == self.me and message.standing == FENCED:
                raise JoinRefused(f"the cluster declared this node dead while it joined: {message.reason}; "
                                  "start it again")
            elif type(message) is not m.HelloAck and len(self.early) < JOIN_MESSAGES_MAX:
                self.early.append((sender, code, message))

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

    def mint(self) -> str:
        """A join string for this node."""
        host, port = split_host_port(self.address)
        return self.credentials.mint(host, port, insecure=self.options.insecure)

    # ------------------------------------------------------------ the allow-list

    def admit(self, row: dict[str, Any]) -> None:
        """A node of the cluster: its key may connect."""
        key = parse_endpoint(row["endpoint"]).key
        if key:
            try:
                self._allow_list.add_node(key, row["node_id"][:ids.TAG_SIZE])
            except NotListed as error:
                warn(str(error))

    def bar(self, node: bytes) -> None:
        """That node has ended: its key may not connect any more."""
        self._allow_list.remove_node(node[:ids.TAG_SIZE])

    @property
    def _allow_list(self) -> AllowList:
        assert isinstance(self.credentials.peers, AllowList)
        return self.credentials.peers


def warn(text: str) -> None:
    print(f"zray-node: {text}", file=sys.stderr)


def _ticket(options: ClusterOptions) -> JoinString:
    try:
        ticket = decode_join(options.address)
    except BadJoinString as error:
        raise BadOption(str(error)) from None
    if ticket.insecure != options.insecure:
        raise BadOption("that cluster runs without authentication: join it with --insecure" if ticket.insecure
                        else "that cluster authenticates its nodes: join it without --insecure")
    return ticket
