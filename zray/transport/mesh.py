"""The mesh: this process's ZeroMQ sockets, one session per peer, one outbox per peer.

    inbound     a bound ROUTER that peers on this machine dial
    tcp         another one, with CURVE, made once a peer on another machine must dial (zray.transport.tcp)
    outbound    a ROUTER that dials peers; its monitor tells when a dialled peer's process has ended

The mesh knows bytes and peers; ``encode(flat)`` and ``decode(body)`` are injected.  Not thread-safe: whoever calls it
holds the loop's lock, except for ``poll`` and ``wake``, which may be called without.  ``poll`` waits on the sockets'
file descriptors only, so that other threads may send and receive (under the lock) while one thread is blocked in it.
ZeroMQ's descriptors signal edges, and sending may swallow one: therefore whoever sends looks at ``readable()``
afterwards, and drains or wakes the poller.

Routing ids are the incarnation and a counter of the dialler's, so that a new connection never collides with an old
one that ZeroMQ has not buried yet (libzmq drops such a connection without a word, or aborts when it dialled itself).
Redialling is put off for ever (24 days) instead of disabled, because with RECONNECT_IVL = -1 libzmq buries the pipe
of a peer that died together with the replies in it; the mesh reads them all, reports on_closed, then buries it.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq

from zray.transport import envelope, sockets
from zray.transport.envelope import ACK, RESET, SIZE, MalformedFrame
from zray.transport.faults import Faults
from zray.transport.polling import Polling
from zray.transport.session import EPOCH_SHIFT, Session
from zray.transport.sockets import Limits

if TYPE_CHECKING:
    from zray.transport.curve import Endpoint, Keys
    from zray.transport.tcp import TcpSide

__all__ = ["LIBZMQ_MIN", "Limits", "Mesh"]

LIBZMQ_MIN = (4, 3, 3)
_NEVER_MS = 2**31 - 1
_PEER = 8  # bytes of an incarnation
_TAG = 4  # of them, those that name the node
_POLLIN = int(zmq.POLLIN)
_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)
_NOBLOCK = int(zmq.NOBLOCK)
_SEND_FIRST = int(zmq.SNDMORE | zmq.NOBLOCK)
_FAILED_EVENTS = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
                  | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_CLOSED_EVENTS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | _FAILED_EVENTS


class _Dialled:
    """A connection that we made."""

    __slots__ = ("address", "endpoint", "route")

    def __init__(self, endpoint: str, address: str, route: bytes):
        self.endpoint = endpoint
        self.address = address  # the endpoint without its key
        self.route = route


class Mesh(Polling):
    """Send and receive messages by peer incarnation.

    What connections between machines need is set before the first one: ``keys``, ``allowed(public_key) -> principal``
    (called by another thread, see zray.transport.gate), ``admits(peer, principal)``; or ``insecure`` for plain TCP.
    """

    def __init__(self, incarnation: bytes, job: int, bind_endpoint: str | None,
                 encode: Callable[[list[Any]], bytes], decode: Callable[[bytes | memoryview], list[tuple[int, Any]]],
                 clock: Callable[[], float], faults: Faults | None = None, limits: Limits | None = None):
        if zmq.zmq_version_info() < LIBZMQ_MIN:
            found, needed = zmq.zmq_version(), ".".join(map(str, LIBZMQ_MIN))
            raise RuntimeError(f"zray needs libzmq {needed} or newer, and pyzmq was built with {found}")
        if len(incarnation) != _PEER or incarnation[0] == 0:
            raise ValueError(f"an incarnation is {_PEER} bytes and does not begin with zero, not {incarnation!r}")
        self.incarnation = incarnation
        self.job = job
        self.trace = 0  # trace id of frames sent from now on
        self.clock = clock
        self.limits = limits or Limits()
        self.counters: Counter[str] = Counter()
        self.on_closed: Callable[[bytes], None] = lambda peer: None
        self.on_turned_away: Callable[[bytes], None] = lambda peer: None  # its gate does not list our key
        self.on_error: Callable[[Exception], None] = lambda error: None
        self.keys: Keys | None = None
        self.insecure = False
        self.allowed: Callable[[bytes], str] = lambda public_key: ""
        self.admits: Callable[[bytes, str], bool] = lambda peer, principal: True
        self._encode, self._decode, self._faults = encode, decode, faults
        self._outbox: dict[bytes, list[Any]] = {}
        self._stalled: dict[bytes, list[Any]] = {}  # no credit; older than what the outbox has for the peer
        self._sessions: dict[bytes, Session] = {}
        self._active: dict[bytes, Session] = {}  # sessions that tick() must visit
        self._tick_at: float | None = None
        self._epoch = 0
        self._dialled: dict[bytes, _Dialled] = {}
        self._at: dict[str, bytes] = {}  # address -> dialled peer
        self._dials = 0
        self._inbound_route: dict[bytes, bytes] = {}
        self._departed: dict[bytes, int] = {}  # peer -> newest epoch heard from it
        self._closing: dict[bytes, float] = {}  # connection lost, on_closed still to come: give up waiting then
        self._held: dict[bytes, list[Any]] = {}  # messages for peers whose endpoint is looked up
        self.lasting: set[bytes] = set()  # peers whose sessions outlast their connections
        self._refused: set[bytes] = set()  # tags of nodes
        self._tcp: TcpSide | None = None
        self._dials_tcp = False  # are the outbound socket's options those for TCP?
        self._open(bind_endpoint)

    def _open(self, bind_endpoint: str | None) -> None:
        self._context = zmq.Context()
        self._inbound = sockets.make_router(self._context, self.limits.message_bytes_max)
        self._inbound.setsockopt(zmq.ROUTING_ID, self.incarnation)
        self.endpoint = ""
        if bind_endpoint:
            self._inbound.bind(bind_endpoint)
            self.endpoint = self._inbound.getsockopt_string(zmq.LAST_ENDPOINT)
        self._outbound = sockets.make_router(self._context, self.limits.message_bytes_max)
        self._outbound.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
        # pyzmq's Python layer over send costs as much as the send; nothing of what it does is used here
        self._send_in: Callable[[bytes, int], Any] = super(zmq.Socket, self._inbound).send  # type: ignore[misc]
        self._send_out: Callable[[bytes, int], Any] = super(zmq.Socket, self._outbound).send  # type: ignore[misc]
        self._monitor: Any = self._outbound.get_monitor_socket(_CLOSED_EVENTS)
        self._open_pollers(*(socket.getsockopt(zmq.FD) for socket in (self._inbound, self._outbound, self._monitor)))
        for socket in (self._inbound, self._outbound, self._monitor):
            socket.getsockopt(zmq.EVENTS)  # arms the edge of its descriptor

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
                                keys, lambda key: self.allowed(key), lambda peer, who: self.admits(peer, who))
            self._tcp_fd = self._tcp.fd
            self._tcp_stirred = True
            self._register(self._tcp_fd)
        return self._tcp.endpoint

    @property
    def gate(self) -> Counter[str]:
        """What the gate of the TCP port has counted: accepted, shut, let_in, turned_away, errors."""
        return self._tcp.gate.counters if self._tcp is not None else Counter()

    def principal(self, peer: bytes) -> str:
        """The principal by which the peer came in over TCP; '' when it came in by ipc, or not at all."""
        return self._tcp.principal(peer) if self._tcp is not None else ""

    # ---------------------------------------------------------------- peers

    def connect(self, peer: bytes, endpoint: str) -> None:
        """Dial ``peer``; nothing happens when that connection exists.  Failure shows as on_closed, and is counted.

        ``endpoint`` is one of ZeroMQ's for ipc, else as in zray.transport.curve, with a number for the host.
        """
        dialled = self._dialled.get(peer)
        if dialled is not None and dialled.endpoint == endpoint:
            return
        if dialled is not None:
            self.disconnect(peer)
        if peer[:_TAG] in self._refused:
            self._lost(peer)
            return
        try:
            address = self._prepare_dial(endpoint)
            self._dial(peer, endpoint, address)
        except (ValueError, zmq.ZMQError) as error:  # such an endpoint came from somewhere else: its peer is lost
            self.counters["failed_dials"] += 1
            self.on_error(ConnectionError(f"cannot dial {endpoint!r}: {error}"))
            self._lost(peer)
            return
        self._release(peer)

    def _prepare_dial(self, endpoint: str) -> str:
        """Set the outbound socket's options for ``endpoint``; returns the address."""
        if not endpoint.startswith("tcp:"):
            if self._dials_tcp:
                sockets.for_ipc(self._outbound, self.limits)
                self._dials_tcp = False
            return endpoint
        from zray.transport import curve  # noqa: PLC0415  (processes of a lone node do not pay for it)

        parsed: Endpoint = curve.parse_endpoint(endpoint)
        if not curve.is_numeric(parsed.address):
            raise ValueError("its host is not a number")
        if not parsed.key and not self.insecure:
            raise ValueError("it has no key, and this cluster is not insecure")
        if parsed.key and self.keys is None:
            raise ValueError("this process has no keys")
        if not self._dials_tcp:
            sockets.for_tcp(self._outbound, self.limits)
            self._dials_tcp = True
        sockets.as_client(self._outbound, parsed, self.keys)
        return parsed.address

    def _dial(self, peer: bytes, endpoint: str, address: str) -> None:
        other = self._at.get(address)
        if other is not None:  # a successor listens where a process that ended did
            self._lost(other)
            self.disconnect(other)
        self._dials += 1
        self._out_stirred = True
        suffix = self._dials.to_bytes(4, "big")
        route = peer + suffix
        self._outbound.setsockopt(zmq.ROUTING_ID, self.incarnation + suffix)
        self._outbound.setsockopt(zmq.CONNECT_ROUTING_ID, route)
        self._outbound.connect(address)
        self._closing.pop(peer, None)
        self._dialled[peer] = _Dialled(endpoint, address, route)
        self._at[address] = peer
        session = self._sessions.get(peer)
        if session is not None and session.unacked():  # of a lasting peer: what the last connection lost goes first
            session.resend_at = now = self.clock()
            self._tick_at = now if self._tick_at is None else min(self._tick_at, now)

    def disconnect(self, peer: bytes) -> None:
        """Hang up on a peer that we dialled.  The session stays, for its other connection or the next one."""
        dialled = self._dialled.pop(peer, None)
        if dialled is None:
            return
        del self._at[dialled.address]
        self._out_stirred = True
        try:
            self._outbound.disconnect(dialled.address)
        except zmq.ZMQError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise

    def forget(self, peer: bytes) -> None:
        """The peer has ended: drop its connection, session and outbox; refuse what still comes from it."""
        self.disconnect(peer)
        self._closing.pop(peer, None)
        session = self._sessions.pop(peer, None)
        self._active.pop(peer, None)
        self._inbound_route.pop(peer, None)
        if self._tcp is not None:
            self._tcp.drop(peer)
        dropped = len(self._outbox.pop(peer, ())) + len(self._stalled.pop(peer, ())) + len(self._held.pop(peer, ()))
        self.counters["dropped_messages"] += dropped // 2
        if session is not None:
            self.counters["dropped_frames"] += session.unacked()
            self._departed.pop(peer, None)
            self._departed[peer] = session.heard()
            if len(self._departed) > self.limits.departed_max:
                del self._departed[next(iter(self._departed))]

    def connected(self, peer: bytes) -> bool:
        """Is there a connection to send to the peer by, as far as known, or is one looked up (hold)?"""
        reachable = peer in self._dialled or peer in self._inbound_route or peer in self._held
        return (reachable or self._by_tcp(peer)) and peer not in self._closing

    def _by_tcp(self, peer: bytes) -> bool:
        return self._tcp is not None and peer in self._tcp.routes

    def dialled(self, peer: bytes) -> bool:
        """Have we a connection of our own to the peer?  Then its end shows as on_closed, once it is drained."""
        return peer in self._dialled

    def peers(self) -> list[bytes]:
        """Peers with a session."""
        return list(self._sessions)

    def _hang_up(self, peer: bytes) -> None:
        """No connection to a lasting peer is left; its session waits for the next."""
        self.disconnect(peer)
        self._closing.pop(peer, None)
        self._inbound_route.pop(peer, None)
        if self._tcp is not None:
            self._tcp.drop(peer)

    def hold(self, peer: bytes) -> None:
        """Keep messages for the peer until connect() or give_up(), while its endpoint is looked up.

        More than ``held_messages_max`` of them, and it is given up.  Nothing happens when it is connected.
        """
        if not self.connected(peer) and peer[:_TAG] not in self._refused:
            self._closing.pop(peer, None)
            self._held[peer] = self._outbox.pop(peer, [])

    def give_up(self, peer: bytes) -> None:
        """There is no way to a peer on hold: drop its messages, with a count, and report it closed."""
        if peer in self._held:
            self.counters["dropped_messages"] += len(self._held.pop(peer)) // 2
            self._lost(peer)

    def _release(self, peer: bytes) -> None:
        """There is a connection now: what was held goes out before what was queued since."""
        held = self._held.pop(peer, None)
        if held:
            self._outbox[peer] = held + self._outbox.pop(peer, [])

    def _keep(self, peer: bytes, flat: list[Any]) -> None:
        held = self._held[peer]
        held += flat
        if len(held) // 2 > self.limits.held_messages_max:
            self.counters["held_too_many"] += 1
            self.give_up(peer)

    def refuse(self, node_tag: bytes) -> None:
        """Have nothing more to do with the processes of a node: drop what comes from them, hang up, report them closed.

        ``allowed`` must say no to their key as well: that keeps new connections out.
        """
        self._refused.add(node_tag)
        tcp = self._tcp.routes if self._tcp is not None else {}
        for peer in {*self._sessions, *self._dialled, *self._inbound_route, *self._held, *self._outbox, *tcp}:
            if peer[:_TAG] == node_tag:
                self.disconnect(peer)
                self._inbound_route.pop(peer, None)
                self._lost(peer)

    def _new_session(self, peer: bytes) -> Session:
        self._epoch += 1
        limits = self.limits
        session = Session(self._epoch, limits.session_frames_max, limits.session_bytes_max,
                          limits.resend_s, limits.ack_delay_s)
        self._sessions[peer] = session
        return session

    # ---------------------------------------------------------------- sending

    def send(self, peer: bytes, code: int, message: Any) -> None:
        """Queue a message; flush() sends it.  No I/O, never blocks, never fails."""
        box = self._outbox.get(peer)
        if box is None:
            self._outbox[peer] = [code, message]
        else:
            box += (code, message)

    def flush(self) -> None:
        """One frame to every peer with pending messages and credit; never blocks."""
        if not self._outbox:
            return
        outbox, self._outbox = self._outbox, {}
        now = self.clock()
        for peer, flat in outbox.items():
            if self._stalled and peer in self._stalled:
                self._stalled[peer] += flat
                continue
            session = self._sessions.get(peer)
            if self._held and peer in self._held:
                self._keep(peer, flat)
                continue
            if session is None:
                if peer in self._departed and peer not in self._dialled:
                    self.counters["dropped_messages"] += len(flat) // 2  # it has ended, and nobody waits for news of it
                    continue
                session = self._new_session(peer)
            self._send_flat(peer, session, flat, now)

    def _send_flat(self, peer: bytes, session: Session, flat: list[Any], now: float) -> None:
        if not session.can_send():
            self._stall(peer, flat)
            return
        try:
            body = self._encode(flat)
        except Exception as error:  # whatever the encoder raises, the other messages must go out
            if len(flat) == 2:
                self.counters["unencodable"] += 1
                self.on_error(error)
                return
            body = b""
        if not body or len(body) > self.limits.frame_bytes_max:
            self._send_in_parts(peer, session, flat, body, now)
            return
        self._send_body(peer, session, body, now)

    def _send_in_parts(self, peer: bytes, session: Session, flat: list[Any], body: bytes, now: float) -> None:
        if len(flat) > 2:
            parts = max(2, -(-len(body) // self.limits.frame_bytes_max))
            step = max(1, len(flat) // 2 // parts) * 2
            for start in range(0, len(flat), step):
                if peer in self._stalled:
                    self._stalled[peer] += flat[start:]
                    return
                self._send_flat(peer, session, flat[start:start + step], now)
        elif len(body) + SIZE > self._message_bytes_max(peer):  # it would close the connection
            self.counters["too_large"] += 1
            self.on_error(ValueError(f"a message of {len(body)} bytes is larger than a connection carries"))
        else:
            self._send_body(peer, session, body, now)

    def _message_bytes_max(self, peer: bytes) -> int:
        dialled = self._dialled.get(peer)
        tcp = dialled.endpoint.startswith("tcp:") if dialled is not None else peer not in self._inbound_route
        return self.limits.tcp_message_bytes_max if tcp else self.limits.message_bytes_max

    def _stall(self, peer: bytes, flat: list[Any]) -> None:
        self.counters["stalls"] += 1
        self._stalled.setdefault(peer, []).extend(flat)

    def _send_body(self, peer: bytes, session: Session, body: bytes, now: float) -> None:
        sequence, ack = session.stamp()
        frame = envelope.pack(0, self.job, self.incarnation, peer, sequence, ack, self.trace) + body
        session.retain(frame, now)
        if not session.active:
            self._activate(peer, session)
        if self._faults is None:
            self._put(peer, frame)
        else:
            self._transmit(peer, frame, now)

    def _activate(self, peer: bytes, session: Session) -> None:
        due = session.due()
        if due is None:
            return  # an early frame is held: nothing to do until more comes, and then this is asked again
        session.active = True
        self._active[peer] = session
        if self._tick_at is None or due < self._tick_at:
            self._tick_at = due

    def _transmit(self, peer: bytes, frame: bytes, now: float) -> None:
        if self._faults is None:
            self._put(peer, frame)
            return
        self._faults.offer(now, (peer, frame))
        self._pump_faults(now)

    def _pump_faults(self, now: float) -> None:
        assert self._faults is not None
        for peer, frame in self._faults.ready(now):
            if peer in self._sessions:
                self._put(peer, frame)

    def _put(self, peer: bytes, frame: bytes) -> None:
        """Hand a frame to ZeroMQ.  An unreachable peer is reported as closed, later; the session keeps the frame."""
        dialled = self._dialled.get(peer)
        if dialled is not None:
            self._out_stirred = True
            put, route = self._send_out, dialled.route
        else:
            self._in_stirred = True
            put, route = self._send_in, self._inbound_route.get(peer, b"")
            if not route:
                if not self._by_tcp(peer):
                    self._lost(peer)
                    return
                put, route = self._through_tcp(peer)
        try:
            put(route, _SEND_FIRST)
            put(frame, _NOBLOCK)
        except zmq.Again:
            self.counters["again"] += 1  # the session sends the frame again
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            if dialled is None:
                self._drop_routes(peer)
            self._lost(peer)

    def _through_tcp(self, peer: bytes) -> tuple[Callable[[bytes, int], Any], bytes]:
        assert self._tcp is not None
        self._tcp_stirred = True
        return self._tcp.send, self._tcp.routes[peer]

    def _drop_routes(self, peer: bytes) -> None:
        self._inbound_route.pop(peer, None)
        if self._tcp is not None:
            self._tcp.drop(peer)

    def _put_control(self, peer: bytes, flags: int, ack: int) -> None:
        """A frame without body or number.  Nobody waits for it, so an unreachable peer is no news."""
        header = envelope.pack(flags, self.job, self.incarnation, peer, 0, ack, self.trace)
        dialled = self._dialled.get(peer)
        if not self._try(peer, header, dialled):
            self.counters["lost_acks"] += 1

    def _try(self, peer: bytes, header: bytes, dialled: _Dialled | None) -> bool:
        """Send a frame by that connection, or by one that the peer has made; False when there is none."""
        put: Callable[[bytes, int], Any]
        self._in_stirred = self._out_stirred = True
        if dialled is not None:
            put, route = self._send_out, dialled.route
        elif peer in self._inbound_route:
            put, route = self._send_in, self._inbound_route[peer]
        elif self._by_tcp(peer):
            put, route = self._through_tcp(peer)
        else:
            return False
        try:
            put(route, _SEND_FIRST)
            put(header, _NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    # ---------------------------------------------------------------- receiving

    def readable(self) -> bool:
        """Would drain() find something?  Cheap; also re-arms the edges that poll() waits for."""
        if self._closing or self._monitored:
            return True
        if self._out_stirred:
            self._out_stirred = False
            if self._outbound.get(_EVENTS) & _POLLIN:
                self._out_stirred = True
                return True
        if self._in_stirred:
            self._in_stirred = False
            if self._inbound.get(_EVENTS) & _POLLIN:
                self._in_stirred = True
                return True
        return self._tcp_stirred and self._tcp_readable()

    def _tcp_readable(self) -> bool:
        assert self._tcp is not None
        self._tcp_stirred = bool(self._tcp.socket.get(_EVENTS) & _POLLIN)
        return self._tcp_stirred

    @property
    def stirred(self) -> bool:
        """May drain() find something?  False is sure, True is not."""
        return bool(self._in_stirred or self._out_stirred or self._tcp_stirred or self._monitored or self._closing)

    def drain(self, on_message: Callable[[bytes, int, Any], None], until: Any = None) -> int:
        """``on_message(peer, code, message)`` for all that has arrived (bounded per turn); returns how many.

        Stops early once ``until.done``: its thread is waiting for nothing else, and a look for more costs 3 us.
        """
        if self._monitored:
            self._read_monitor()
        now = self.clock()
        count = 0
        if self._out_stirred:
            fired, self._out_fired, self._out_stirred = self._out_fired, False, False
            received, self._out_stirred = self._drain_socket(self._outbound, fired, now, on_message, until)
            count += received
        if self._in_stirred:
            fired, self._in_fired, self._in_stirred = self._in_fired, False, False
            received, self._in_stirred = self._drain_socket(self._inbound, fired, now, on_message, until)
            count += received
        if self._tcp_stirred:
            count += self._drain_tcp(now, on_message, until)
        if self._closing and not (self._out_stirred or self._in_stirred or self._tcp_stirred):
            self._report_closed(now)
        return count

    def _drain_tcp(self, now: float, on_message: Callable[[bytes, int, Any], None], until: Any) -> int:
        assert self._tcp is not None
        fired, self._tcp_fired, self._tcp_stirred = self._tcp_fired, False, False
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
                if self._held and peer in self._held:
                    self._release(peer)
                count += self._on_frame(peer, frame, now, on_message)
                if until is not None and until.done:
                    break
        self._tcp_stirred = True
        return count

    def _drain_socket(self, socket: zmq.Socket, fired: bool, now: float,
                      on_message: Callable[[bytes, int, Any], None], until: Any) -> tuple[int, bool]:
        """``(messages, may there be more)``.  ``fired``: its descriptor says that there is something; try at once."""
        get, recv = socket.get, socket.recv
        inbound = socket is self._inbound
        count = 0
        for _ in range(self.limits.drain_frames_max):
            if not fired and not get(_EVENTS) & _POLLIN:  # type: ignore[operator]
                return count, self._stirred_meanwhile(inbound)
            fired = False
            try:
                route = recv(_NOBLOCK)
                frame = recv(_NOBLOCK)
            except zmq.Again:
                continue  # the descriptor fired for something else, or a peer that we dialled sent an odd part
            if inbound:
                while get(_RCVMORE):
                    recv(_NOBLOCK)
                    self.counters["malformed"] += 1
                    frame = b""
            peer = route[:_PEER]
            if inbound and self._inbound_route.get(peer) != route:
                self._inbound_route[peer] = route
                self._release(peer)
            count += self._on_frame(peer, frame, now, on_message)
            if until is not None and until.done:
                return count, True
        return count, True

    def _stirred_meanwhile(self, inbound: bool) -> bool:
        """A handler may have sent, and a poll may have fired, since this drain began."""
        return self._in_stirred if inbound else self._out_stirred

    def _on_frame(self, peer: bytes, frame: bytes, now: float, on_message: Callable[[bytes, int, Any], None]) -> int:
        try:
            flags, _job, source, destination, sequence, ack, _trace = envelope.parse(frame)
        except MalformedFrame:
            self.counters["malformed"] += 1
            return 0
        if destination != self.incarnation or source != peer:
            self.counters["misdirected"] += 1
            return 0
        if self._refused and peer[:_TAG] in self._refused:
            self.counters["refused"] += 1
            return 0
        session = self._sessions.get(peer)
        if flags:
            if session is not None:
                self._on_control(peer, session, flags, ack, now)
            return 0
        if session is None:
            session = self._admit(peer, sequence)
            if session is None:
                return 0
        if ack > session.acked:
            self._on_ack(peer, session, ack, now)
        if not session.owed:
            session.owed_since = now
            if self._tick_at is not None and self._tick_at > now + self.limits.ack_delay_s:
                self._tick_at = now + self.limits.ack_delay_s
        frames = session.receive(sequence, frame)
        if not session.active:
            self._activate(peer, session)
        if session.owed >= session.owed_max:
            self._put_control(peer, ACK, session.ack())
        if len(frames) == 1:
            return self._deliver(peer, frames[0], on_message)
        return sum(self._deliver(peer, early, on_message) for early in frames)

    def _on_ack(self, peer: bytes, session: Session, ack: int, now: float) -> None:
        again = session.on_ack(ack, now)
        if again is not None:
            self._transmit(peer, again, now)
        if self._stalled and peer in self._stalled and session.can_send():
            self._outbox[peer] = self._stalled.pop(peer) + self._outbox.pop(peer, [])

    def _on_control(self, peer: bytes, session: Session, flags: int, ack: int, now: float) -> None:
        if flags & ACK:
            self._on_ack(peer, session, ack, now)
        elif flags & RESET and ack >> EPOCH_SHIFT == session.epoch:
            self.counters["restarts"] += 1
            self._epoch += 1
            for frame in session.restart(self._epoch):
                self._send_body(peer, session, frame[SIZE:], now)

    def _admit(self, peer: bytes, sequence: int) -> Session | None:
        """A session for a peer that has none, unless it is one that has ended."""
        gone = self._departed.get(peer)
        if gone is not None:
            if sequence >> EPOCH_SHIFT <= gone:
                self.counters["departed"] += 1
                self._put_control(peer, RESET, sequence)
                self._drop_routes(peer)
                return None
            del self._departed[peer]
        return self._new_session(peer)

    def _deliver(self, peer: bytes, frame: bytes, on_message: Callable[[bytes, int, Any], None]) -> int:
        try:
            messages = self._decode(frame[SIZE:] if len(frame) < 4096 else memoryview(frame)[SIZE:])
        except ValueError:
            self.counters["malformed"] += 1
            return 0
        for code, message in messages:
            try:
                on_message(peer, code, message)
            except Exception as error:  # a bug in one handler must not lose the other messages
                self.on_error(error)
        return len(messages)

    # ---------------------------------------------------------------- ends of peers

    def _read_monitor(self) -> None:
        self._monitored = False
        while self._monitor.getsockopt(zmq.EVENTS) & _POLLIN:
            # event number and value, then the endpoint; zmq.utils.monitor reads them too, but imports asyncio (17 ms)
            event, address = self._monitor.recv_multipart(zmq.NOBLOCK)
            number, peer = int.from_bytes(event[:2], "little"), self._at.get(address.decode())
            if number & _FAILED_EVENTS:
                self.counters["failed_handshakes"] += 1  # a wrong key on either side; DISCONNECTED follows
                if number & zmq.EVENT_HANDSHAKE_FAILED_AUTH and peer is not None:
                    self.on_turned_away(peer)
            elif peer is not None:
                self._lost(peer)

    def _lost(self, peer: bytes) -> None:
        """The connection to ``peer`` is gone: report it once everything that has arrived is handled."""
        if peer not in self._closing:
            self._closing[peer] = self.clock() + self.limits.farewell_s

    def _report_closed(self, now: float) -> None:
        for peer, give_up_at in list(self._closing.items()):
            if now < give_up_at and self._inbound_alive(peer):
                if self._tick_at is None or self._tick_at > now + 0.001:
                    self._tick_at = now + 0.001
                continue
            if peer in self.lasting:
                self._hang_up(peer)
            else:
                self.forget(peer)
            self.counters["closed"] += 1
            try:
                self.on_closed(peer)
            except Exception as error:  # as in _deliver
                self.on_error(error)

    def _inbound_alive(self, peer: bytes) -> bool:
        """A peer that had dialled us too may have replies under way there: is that connection still open?"""
        if peer not in self._inbound_route and not self._by_tcp(peer) or peer[:_TAG] in self._refused:
            return False
        session = self._sessions.get(peer)
        ack = session.ack() if session else 0
        return self._try(peer, envelope.pack(ACK, self.job, self.incarnation, peer, 0, ack), None)

    # ---------------------------------------------------------------- time

    def deadline(self) -> float | None:
        """When tick() must be called next; None for never."""
        due = self._faults.due() if self._faults is not None else None
        if due is None or (self._tick_at is not None and self._tick_at < due):
            return self._tick_at
        return due

    def tick(self, now: float) -> None:
        """Acks that nothing carried, frames that were not acknowledged, faults that are due."""
        if self._faults is not None:
            self._pump_faults(now)
        if self._tick_at is None or now < self._tick_at:
            return
        self._tick_at = None
        # What is due soon goes too: with thousands of peers, a tick at each one's own time would visit all of them
        # each time.
        soon = now + self.limits.ack_delay_s / 2
        for peer, session in list(self._active.items()):
            if session.ack_due(soon):
                self._put_control(peer, ACK, session.ack())
            again = session.tick(now)
            if again is not None:
                self._transmit(peer, again, now)
            session.active = False
            del self._active[peer]
            if session.due() is not None:
                self._activate(peer, session)

    # ---------------------------------------------------------------- the end

    def pending(self) -> int:
        """Messages that flush() has not handed to ZeroMQ yet."""
        return sum(len(flat) for box in (self._outbox, self._stalled, self._held) for flat in box.values()) // 2

    def close(self, linger_ms: int = 0) -> None:
        """Flush, give ZeroMQ ``linger_ms`` to write what it holds, and close.  Idempotent."""
        if self.closed:
            return
        self.flush()
        self.closed = True
        self._outbound.disable_monitor()
        self._monitor.close(0)
        for socket in (self._inbound, self._outbound):
            socket.close(linger_ms)
        if self._tcp is not None:
            self._tcp.close(linger_ms)
        self._context.term()
        if self._tcp is not None:
            self._tcp.gate.join()
        self._close_pollers()

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for session in self._sessions.values():
            session.check()
        assert self._active.keys() <= self._sessions.keys()
        assert not self._active or self._tick_at is not None, "sessions wait for a tick that will not come"
        assert all(session.active == (peer in self._active) for peer, session in self._sessions.items())
        assert {dialled.address: peer for peer, dialled in self._dialled.items()} == self._at
        assert not self._held.keys() & (self._dialled.keys() | self._inbound_route.keys()), "held though reachable"
        assert self._tcp is None or len(self._tcp.routes) == len(self._tcp._principals)
        assert self._stalled.keys() <= self._sessions.keys()
        assert not self._departed.keys() & self._sessions.keys() - self._dialled.keys()
