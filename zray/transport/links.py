"""The links of a process: its sockets, and their ways to a peer.  The mesh has the sessions.

    inbound     a bound ROUTER that peers on this machine dial
    tcp         another one, with CURVE, made once a peer on another machine must dial (zray.transport.tcp)
    outbound    a ROUTER that dials peers; its monitor reports when a dialled peer's process has ended
                (zray.transport.outbound)

Ways to a peer, best first: a connection that we have dialled, one that the peer has dialled (by
ipc, by TCP), and through the connection to another process (``via``).
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq

from zray.channels.ring import PUBLISHED, RingBroken
from zray.transport import sockets
from zray.transport.outbound import Outbound
from zray.transport.peers import PeerRecord, PeerTable
from zray.transport.polling import Polling
from zray.transport.relay import Relaying
from zray.transport.shared import SharedWays
from zray.transport.sockets import Limits

if TYPE_CHECKING:
    from zray.transport.curve import Keys
    from zray.transport.tcp import TcpSide

_POLLIN = int(zmq.POLLIN)
_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)
_PEER = 8  # bytes of an incarnation
NOBLOCK = int(zmq.NOBLOCK)
SEND_FIRST = int(zmq.SNDMORE | zmq.NOBLOCK)

Send = Callable[[bytes, int], Any]
OnMessage = Callable[[bytes, int, Any], None]  # peer, code, message


class ProcessLinks(Polling):
    """The sockets of one process.

    Connections between machines need settings before the first one: ``keys``, ``allowed(public_key)
    -> principal`` (called by another thread, see zray.transport.gate), ``admits(peer, principal)``;
    or ``insecure`` for plain TCP. A node that relays sets ``relaying.relay(destination) -> next
    hop``; its core processes set ``relaying.hops``.
    """

    def __init__(self, incarnation: bytes, bind_endpoint: str | None, limits: Limits):
        self.incarnation = incarnation
        self.limits = limits
        self.counters: Counter[str] = Counter()
        self.on_error: Callable[[Exception], None] = lambda error: None
        self.keys: Keys | None = None
        self.insecure = False
        self.allowed: Callable[[bytes], str] = lambda public_key: ""
        self.admits: Callable[[bytes, str], bool] = lambda peer, principal: True
        self._peers = PeerTable(limits.departed_max)
        self._records = self._peers.records
        self._tcp: TcpSide | None = None
        self.relaying = Relaying(incarnation, self.counters, self.limits.via_max, self._peers)
        self._process = os.getpid()
        self._shared: SharedWays | None = None
        self._open(bind_endpoint)

    def _open(self, bind_endpoint: str | None) -> None:
        """Make the sockets (the simulator makes others)."""
        self._context = zmq.Context()
        self._inbound = sockets.make_router(self._context, self.limits)
        self._inbound.setsockopt(zmq.ROUTING_ID, self.incarnation)
        self.endpoint = ""
        if bind_endpoint:
            self._inbound.bind(bind_endpoint)
            self.endpoint = self._inbound.getsockopt_string(zmq.LAST_ENDPOINT)
        self._out = Outbound(self._make_router(), self.incarnation, self.limits, self.counters)
        self._outbound = self._out.socket
        # pyzmq's Python layer over send costs as much as the send, and its services are not used here
        self._send_in: Send = super(zmq.Socket, self._inbound).send  # type: ignore[misc]
        self._send_out: Send = super(zmq.Socket, self._outbound).send  # type: ignore[misc]
        inbound_fd, outbound_fd, monitor_fd = (
            socket.getsockopt(zmq.FD) for socket in (self._inbound, self._outbound, self._out.monitor))
        self._open_pollers(inbound_fd, outbound_fd, monitor_fd, self.limits.spin_s)
        if self.limits.channels_max and self.endpoint.startswith("ipc://"):
            self._shared = SharedWays(self.endpoint, self.limits.channels_max, self._register, self._unregister,
                                       self._poll_rings)
        for socket in (self._inbound, self._outbound, self._out.monitor):
            socket.getsockopt(zmq.EVENTS)  # arms the edge of its descriptor

    def _make_router(self) -> Any:
        return sockets.make_router(self._context, self.limits)

    def serve_tcp(self, host: str = "127.0.0.1", ports: tuple[int, int] = (0, 0), advertise: str = "") -> str:
        """Let peers dial us by TCP, at the first free port of the range; returns the endpoint that they dial.

        It is under ``advertise`` or ``host``.  Called again it returns the same.  OSError when the port is in use or
        the host is not ours; ValueError without ``keys`` in a mesh that is not ``insecure``.
        """
        if self._tcp is None:
            if self.keys is None and not self.insecure:
                raise ValueError("a TCP port without keys is open to everybody: set keys, or insecure")
            from zray.transport.tcp import TcpSide  # noqa: PLC0415  (processes of a lone node do not pay for it)

            keys = None if self.insecure else self.keys
            self._tcp = TcpSide(self._context, self.incarnation, self.limits, self.counters, host, ports, advertise,
                                keys, lambda key: self.allowed(key), lambda peer, who: self.admits(peer, who),
                                self._peers)
            self._tcp_fd = self._tcp.fd
            self._tcp_dirty = True
            self._register(self._tcp_fd)
        return self._tcp.endpoint

    @property
    def gate(self) -> Counter[str]:
        """The counters of the TCP port's gate: accepted, shut, let_in, turned_away, errors."""
        return self._tcp.gate.counters if self._tcp is not None else Counter()

    def principal(self, peer: bytes) -> str:
        """The principal by which the peer came in over TCP; '' when it came in by ipc, or not at all."""
        return self._tcp.principal(peer) if self._tcp is not None else ""

    def _way(self, peer: bytes) -> tuple[Send, bytes]:
        """``(send, route)`` of the best way to a peer; the route is b'' when there is none."""
        record = self._records.get(peer)
        if record is None:
            return self._send_in, b""
        if record.dialled is not None:
            self._out_dirty = True
            return self._send_out, record.dialled.route
        return self._way_back(record)

    def _way_back(self, record: PeerRecord) -> tuple[Send, bytes]:
        """The best way among those that we have not dialled."""
        if record.inbound:
            self._in_dirty = True
            return self._send_in, record.inbound
        if record.tcp:
            assert self._tcp is not None
            self._tcp_dirty = True
            return self._tcp.send, record.tcp
        hop = record.hop
        return self._way(hop) if hop and not self._peers.hop(hop) else (self._send_in, b"")

    def _drop_inbound(self, peer: bytes) -> None:
        """Forget the peer's own connections."""
        if self._tcp is not None:
            self._tcp.drop(peer)
        self._peers.drop_ipc(peer)

    def _tcp_readable(self) -> bool:
        assert self._tcp is not None
        self._tcp_dirty = bool(self._tcp.socket.get(_EVENTS) & _POLLIN)
        return self._tcp_dirty

    # ---------------------------------------------------------------- shared memory

    def _drain_shared(self, shared: SharedWays, now: float, on_message: OnMessage, until: Any) -> int:
        if self._ring_fds:
            fired, self._ring_fds = self._ring_fds, set()
            for fd in fired:
                shared.fired(fd)
        count = 0
        for way in shared.list:
            try:
                for _ in range(self.limits.drain_frames_max):
                    frame = way.reader.take()
                    if frame is None:
                        if way.ending:
                            self._end_shared(way.peer)
                        break
                    count += self._on_frame(way.peer, frame, now, on_message)
                    if until is not None and until.done:
                        return count
            except RingBroken as error:
                self.counters["broken_rings"] += 1
                self.on_error(ConnectionError(f"a ring of shared memory is of no use any more: {error}"))
                self._end_shared(way.peer)
            except ValueError:
                continue  # a handler has dropped the way
        return count

    def _drop_shared(self, peer: bytes) -> None:
        """No more frames go to the peer through shared memory."""
        if self._shared is not None:
            self._shared.drop(peer)

    def _end_shared(self, peer: bytes) -> None:
        """The way has ended by itself: what the peer has not taken from it is sent again by another one."""
        self._drop_shared(peer)
        self.resume(peer)

    def _ring_has_frame(self) -> bool:
        for ring in self._rings:
            if ring.words[PUBLISHED] != ring.count:
                return True
        return False

    # ---------------------------------------------------------------- reading

    def _on_frame(self, peer: bytes, frame: bytes, now: float, on_message: OnMessage) -> int:
        """A frame came by the connection to ``peer``; returns the number of its messages.  Mesh implements it."""
        raise NotImplementedError

    def _release(self, peer: bytes, record: PeerRecord) -> None:
        """There is a way to a peer now: send the messages that waited for one.  PeerConnections implements it."""
        raise NotImplementedError

    def resume(self, peer: bytes) -> None:
        """Frames that the last connection lost go first.  PeerConnections implements it."""
        raise NotImplementedError

    def _drain_tcp(self, now: float, on_message: OnMessage, until: Any) -> int:
        assert self._tcp is not None
        fired, self._tcp_fired, self._tcp_dirty = self._tcp_fired, False, False
        count = 0
        for _ in range(self.limits.drain_frames_max):
            received = self._tcp.receive(fired)
            if received is None:
                if not fired:
                    return count
                fired = False
                continue
            fired = False
            peer, frame = received
            if frame:
                if self._records[peer].held is not None:
                    self._release(peer, self._records[peer])
                count += self._on_frame(peer, frame, now, on_message)
                if until is not None and until.done:
                    break
        self._tcp_dirty = True
        return count

    def _drain_socket(self, socket: zmq.Socket, fired: bool, now: float,
                      on_message: OnMessage, until: Any) -> tuple[int, bool]:
        """``(messages, may there be more)``.  ``fired``: its descriptor signals input; try at once."""
        get, recv = socket.get, socket.recv
        inbound = socket is self._inbound
        count = 0
        for _ in range(self.limits.drain_frames_max):
            if not fired and not get(_EVENTS) & _POLLIN:  # type: ignore[operator]
                return count, self._dirty_since_drain(inbound)
            fired = False
            try:
                route = recv(NOBLOCK)
                frame = recv(NOBLOCK)
            except zmq.Again:
                continue  # the descriptor fired for another reason, or a peer that we dialled sent an odd part
            if inbound:
                while get(_RCVMORE):
                    recv(NOBLOCK)
                    self.counters["malformed"] += 1
                    frame = b""
            peer = route[:_PEER]
            if inbound:
                self._comes_by(peer, route)
            count += self._on_frame(peer, frame, now, on_message)
            if until is not None and until.done:
                return count, True
        return count, True

    def _comes_by(self, peer: bytes, route: bytes) -> None:
        """A frame came by the peer's own connection, at the ROUTER for ipc."""
        record = self._records.get(peer)
        if record is None or record.inbound != route:
            self._release(peer, self._peers.came(peer, route))

    def _dirty_since_drain(self, inbound: bool) -> bool:
        """A handler may have sent, and a poll may have fired, since this drain began."""
        return self._in_dirty if inbound else self._out_dirty

    def _close_links(self, linger_ms: int) -> None:
        if self._shared is not None:
            self._shared.close()
        self._out.close_monitor()
        for socket in (self._inbound, self._outbound):
            socket.close(linger_ms)
        if self._tcp is not None:
            self._tcp.close(linger_ms)
        self._context.term()
        if self._tcp is not None:
            self._tcp.gate.join()
        self._close_pollers()
        if self.endpoint.startswith("ipc://") and self._process == os.getpid():  # a fork's end leaves it to its parent
            with contextlib.suppress(OSError):  # the node has removed it
                os.unlink(self.endpoint.removeprefix("ipc://"))  # libzmq leaves it


def try_send(put: Send, route: bytes, frame: bytes) -> bool:
    """Send a frame; False when there is no way, or when the way is full."""
    if not route:
        return False
    try:
        put(route, SEND_FIRST)
        put(frame, NOBLOCK)
    except zmq.ZMQError:
        return False
    return True
