"""The TCP side of a mesh: a bound ROUTER of its own, made when a peer on another machine first needs it.

A socket apart from the one for ipc, although libzmq would take both on one.  The dialler chooses a
routing id.  So on a shared socket a TCP peer could take over the id of a local process that has
just gone, and its rights.  Here every frame carries the principal that the gate gave its connection
(``User-Id``).  It is compared for each frame (1 us), and frames by ipc pay nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq

from zray.transport import sockets
from zray.transport.curve import make_endpoint, require
from zray.transport.gate import DOMAIN, Gate, probe, shut
from zray.transport.peers import PeerTable
from zray.transport.sockets import Limits

if TYPE_CHECKING:
    from zray.transport.curve import Keys

_PEER = 8
_NOBLOCK = int(zmq.NOBLOCK)
_WILDCARDS = ("0.0.0.0", "::", "*")


class TcpSide:
    """``receive()`` frames of admitted peers, ``send`` to the routes of their records.  Under the loop's lock."""

    def __init__(self, context: zmq.Context, incarnation: bytes, limits: Limits, counters: Counter[str], host: str,
                 ports: tuple[int, int], advertise: str, keys: Keys | None, allowed: Callable[[bytes], str],
                 admits: Callable[[bytes, str], bool], peers: PeerTable):
        if host in _WILDCARDS and not advertise:
            raise ValueError(f"{host} listens everywhere, but under which address shall others dial it?")
        if keys is not None:
            require()
        self._peers = peers
        self._principals: dict[bytes, str] = {}  # route -> principal
        self._counters = counters
        self._admits = admits
        self.gate = Gate(context, allowed if keys is not None else None, limits.connections_max)
        self.socket = sockets.make_router(context, limits)
        try:
            self.socket.setsockopt(zmq.ROUTING_ID, incarnation)
            self.socket.setsockopt(zmq.BACKLOG, limits.backlog)
            self.socket.setsockopt(zmq.IPV6, int(":" in host))
            sockets.for_tcp(self.socket, limits)
            if keys is not None:
                sockets.as_server(self.socket, keys, DOMAIN)
            self.gate.watch(self.socket)
            port = sockets.bind_first_free(self.socket, host, ports)
        except BaseException:
            self.socket.close(0)
            self.gate.abandon()
            raise
        self._port = port
        self.gate.start(port)
        key = keys.public if keys is not None else b""
        self.endpoint = make_endpoint(advertise or host, port, key)
        self.fd = self.socket.getsockopt(zmq.FD)
        self.send: Callable[[bytes, int], Any] = super(zmq.Socket, self.socket).send  # type: ignore[misc]  # see Mesh._open
        if keys is not None:
            local = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(host, host)
            try:
                probe(context, make_endpoint(local, port, key))
            except BaseException:
                self.close(0)
                raise

    def receive(self, fired: bool) -> tuple[bytes, bytes] | None:
        """``(peer, frame)`` of the next frame whose sender may send for that peer; None when there is none now."""
        recv, get = self.socket.recv, self.socket.get
        if not fired and not get(zmq.EVENTS) & zmq.POLLIN:
            return None
        try:
            route = recv(_NOBLOCK)
            frame = recv(_NOBLOCK, copy=False)
        except zmq.Again:
            return None
        body = frame.bytes
        if frame.more:
            while get(zmq.RCVMORE):
                recv(_NOBLOCK)
            self._counters["malformed"] += 1
            body = b""
        try:
            principal = frame.get("User-Id")
        except zmq.ZMQError:
            principal = ""  # plain TCP
        peer = route[:_PEER]
        if self._principals.get(route) != principal or self._route(peer) != route:
            if not self._admits(peer, principal):
                self._counters["not_admitted"] += 1
                # its key has been revoked since: close, so that it notices instead of waiting
                if principal.startswith("node:"):
                    shut(frame.get(zmq.SRCFD), self._port)
                return peer, b""
            self.drop(peer)
            self._peers.came_by_tcp(peer, route)
            self._principals[route] = principal
        return peer, body

    def principal(self, peer: bytes) -> str:
        """The principal of the peer according to the gate; '' for plain TCP and for peers that have not dialled us."""
        return self._principals.get(self._route(peer), "")

    def drop(self, peer: bytes) -> None:
        """Forget how to reach the peer."""
        route = self._peers.drop_tcp(peer)
        if route:
            self._principals.pop(route, None)

    def _route(self, peer: bytes) -> bytes:
        record = self._peers.records.get(peer)
        return record.tcp if record is not None else b""

    def close(self, linger_ms: int) -> None:
        """The gate's thread ends when the context is terminated; then join() it."""
        self.socket.monitor(None, 0)
        self.socket.close(linger_ms)

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        assert {record.tcp for record in self._peers.records.values() if record.tcp} == self._principals.keys()
