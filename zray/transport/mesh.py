"""The mesh: this process's two ZeroMQ sockets, one session per peer, one outbox per peer.

    inbound     a bound ROUTER that peers dial
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
import os
import select
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import zmq

from zray.transport import envelope
from zray.transport.envelope import ACK, RESET, SIZE, MalformedFrame
from zray.transport.faults import Faults
from zray.transport.session import EPOCH_SHIFT, Session

LIBZMQ_MIN = (4, 3, 3)
_NEVER_MS = 2**31 - 1
_PEER = 8  # bytes of an incarnation
_POLLIN = int(zmq.POLLIN)
_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)
_NOBLOCK = int(zmq.NOBLOCK)
_SEND_FIRST = int(zmq.SNDMORE | zmq.NOBLOCK)
_CLOSED_EVENTS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED


class Limits(NamedTuple):
    """Bounds of a mesh; see zray.config for where the numbers come from."""

    session_frames_max: int = 1024
    session_bytes_max: int = 256 * 1024 * 1024
    frame_bytes_max: int = 4 * 1024 * 1024
    message_bytes_max: int = 1024 * 1024 * 1024  # a larger frame closes the connection it comes from
    drain_frames_max: int = 256  # frames handled in one turn of the loop, per socket
    resend_s: float = 1.0
    ack_delay_s: float = 0.2
    departed_max: int = 8192  # incarnations remembered as gone
    farewell_s: float = 0.1  # how long to wait for the second connection of a peer whose first has closed


class _Dialled:
    """A connection that we made."""

    __slots__ = ("endpoint", "route")

    def __init__(self, endpoint: str, route: bytes):
        self.endpoint = endpoint
        self.route = route


class Mesh:
    """Send and receive messages by peer incarnation."""

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
        self.on_error: Callable[[Exception], None] = lambda error: None
        self._encode, self._decode, self._faults = encode, decode, faults
        self._outbox: dict[bytes, list[Any]] = {}
        self._stalled: dict[bytes, list[Any]] = {}  # no credit; older than what the outbox has for the peer
        self._sessions: dict[bytes, Session] = {}
        self._active: dict[bytes, Session] = {}  # sessions that tick() must visit
        self._tick_at: float | None = None
        self._epoch = 0
        self._dialled: dict[bytes, _Dialled] = {}
        self._at: dict[str, bytes] = {}  # endpoint -> dialled peer
        self._dials = 0
        self._inbound_route: dict[bytes, bytes] = {}
        self._departed: dict[bytes, int] = {}  # peer -> newest epoch heard from it
        self._closing: dict[bytes, float] = {}  # connection lost, on_closed still to come: give up waiting then
        self.closed = False
        self._open(bind_endpoint)

    def _open(self, bind_endpoint: str | None) -> None:
        self._context = zmq.Context()
        self._inbound = self._socket()
        self._inbound.setsockopt(zmq.ROUTING_ID, self.incarnation)
        self.endpoint = ""
        if bind_endpoint:
            self._inbound.bind(bind_endpoint)
            self.endpoint = self._inbound.getsockopt_string(zmq.LAST_ENDPOINT)
        self._outbound = self._socket()
        self._outbound.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
        # pyzmq's Python layer over send costs as much as the send; nothing of what it does is used here
        self._send_in: Callable[[bytes, int], Any] = super(zmq.Socket, self._inbound).send  # type: ignore[misc]
        self._send_out: Callable[[bytes, int], Any] = super(zmq.Socket, self._outbound).send  # type: ignore[misc]
        self._monitor: Any = self._outbound.get_monitor_socket(_CLOSED_EVENTS)
        self._inbound_fd = self._inbound.getsockopt(zmq.FD)
        self._outbound_fd = self._outbound.getsockopt(zmq.FD)
        # Any call of a socket may swallow the edge of its descriptor, so from then on, until its EVENTS say that there
        # is nothing to read, it is "stirred"; a descriptor that fires stirs it too.  A look at EVENTS costs 2-3 us.
        self._in_stirred = self._out_stirred = True
        self._in_fired = self._out_fired = False
        self._monitor_fd = self._monitor.getsockopt(zmq.FD)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False
        self._monitored = False
        self._pollers = (select.epoll(), select.epoll())  # one for callers, one for the service thread
        fds = (self._inbound_fd, self._outbound_fd, self._monitor_fd, self._wake_fd)
        for poller in self._pollers:
            for fd in fds:
                poller.register(fd, select.EPOLLIN)
        for socket in (self._inbound, self._outbound, self._monitor):
            socket.getsockopt(zmq.EVENTS)  # arms the edge of its descriptor

    def _socket(self) -> Any:  # pyzmq's stubs say int | bytes for every option
        socket = self._context.socket(zmq.ROUTER)
        socket.set_hwm(0)  # the sessions' credit is the bound
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, self.limits.message_bytes_max)
        return socket

    # ---------------------------------------------------------------- peers

    def connect(self, peer: bytes, endpoint: str) -> None:
        """Dial ``peer``; nothing happens when that connection exists.  Failure shows as on_closed."""
        dialled = self._dialled.get(peer)
        if dialled is not None and dialled.endpoint == endpoint:
            return
        if dialled is not None:
            self.disconnect(peer)
        other = self._at.get(endpoint)
        if other is not None:  # a successor listens where a process that ended did
            self._lost(other)
            self.disconnect(other)
        self._dials += 1
        self._out_stirred = True
        suffix = self._dials.to_bytes(4, "big")
        route = peer + suffix
        self._outbound.setsockopt(zmq.ROUTING_ID, self.incarnation + suffix)
        self._outbound.setsockopt(zmq.CONNECT_ROUTING_ID, route)
        self._outbound.connect(endpoint)
        self._closing.pop(peer, None)
        self._dialled[peer] = _Dialled(endpoint, route)
        self._at[endpoint] = peer

    def disconnect(self, peer: bytes) -> None:
        """Hang up on a peer that we dialled.  The session stays, for its other connection or the next one."""
        dialled = self._dialled.pop(peer, None)
        if dialled is None:
            return
        del self._at[dialled.endpoint]
        self._out_stirred = True
        try:
            self._outbound.disconnect(dialled.endpoint)
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
        dropped = len(self._outbox.pop(peer, ())) + len(self._stalled.pop(peer, ()))
        self.counters["dropped_messages"] += dropped // 2
        if session is not None:
            self.counters["dropped_frames"] += session.unacked()
            self._departed.pop(peer, None)
            self._departed[peer] = session.heard()
            if len(self._departed) > self.limits.departed_max:
                del self._departed[next(iter(self._departed))]

    def connected(self, peer: bytes) -> bool:
        """Is there a connection to send to the peer by, as far as known?"""
        return (peer in self._dialled or peer in self._inbound_route) and peer not in self._closing

    def dialled(self, peer: bytes) -> bool:
        """Have we a connection of our own to the peer?  Then its end shows as on_closed, once it is drained."""
        return peer in self._dialled

    def peers(self) -> list[bytes]:
        """Peers with a session."""
        return list(self._sessions)

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
        if (not body or len(body) > self.limits.frame_bytes_max) and len(flat) > 2:
            parts = max(2, -(-len(body) // self.limits.frame_bytes_max))
            step = max(1, len(flat) // 2 // parts) * 2
            for start in range(0, len(flat), step):
                if peer in self._stalled:
                    self._stalled[peer] += flat[start:]
                    return
                self._send_flat(peer, session, flat[start:start + step], now)
            return
        self._send_body(peer, session, body, now)

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
            self._lost(peer)
            return
        try:
            put(route, _SEND_FIRST)
            put(frame, _NOBLOCK)
        except zmq.Again:
            self.counters["again"] += 1  # the session sends the frame again
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            if dialled is None:
                self._inbound_route.pop(peer, None)
            self._lost(peer)

    def _put_control(self, peer: bytes, flags: int, ack: int) -> None:
        """A frame without body or number.  Nobody waits for it, so an unreachable peer is no news."""
        header = envelope.pack(flags, self.job, self.incarnation, peer, 0, ack, self.trace)
        dialled = self._dialled.get(peer)
        socket, route = (self._outbound, dialled.route) if dialled else (self._inbound, self._inbound_route.get(peer))
        self._in_stirred = self._out_stirred = True
        if route:
            try:
                socket.send(route, _SEND_FIRST)
                socket.send(header, _NOBLOCK)
            except zmq.ZMQError:
                self.counters["lost_acks"] += 1

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
        return False

    @property
    def stirred(self) -> bool:
        """May drain() find something?  False is sure, True is not."""
        return bool(self._in_stirred or self._out_stirred or self._monitored or self._closing)

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
        if self._closing and not self._out_stirred and not self._in_stirred:
            self._report_closed(now)
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
                self._inbound_route.pop(peer, None)
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
            _, endpoint = self._monitor.recv_multipart(zmq.NOBLOCK)
            peer = self._at.get(endpoint.decode())
            if peer is not None:
                self._lost(peer)

    def _lost(self, peer: bytes) -> None:
        """The connection to ``peer`` is gone: report it once everything that has arrived is handled."""
        if peer not in self._closing:
            self._closing[peer] = self.clock() + self.limits.farewell_s

    def _report_closed(self, now: float) -> None:
        for peer, give_up_at in list(self._closing.items()):
            if now < give_up_at and peer in self._inbound_route and self._inbound_alive(peer):
                if self._tick_at is None or self._tick_at > now + 0.001:
                    self._tick_at = now + 0.001
                continue
            self.forget(peer)
            self.counters["closed"] += 1
            try:
                self.on_closed(peer)
            except Exception as error:  # as in _deliver
                self.on_error(error)

    def _inbound_alive(self, peer: bytes) -> bool:
        """A peer that had dialled us too may have replies under way there: is that connection still open?"""
        session = self._sessions.get(peer)
        header = envelope.pack(ACK, self.job, self.incarnation, peer, 0, session.ack() if session else 0)
        self._in_stirred = True
        try:
            self._inbound.send(self._inbound_route[peer], _SEND_FIRST)
            self._inbound.send(header, _NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    # ---------------------------------------------------------------- time and waiting

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

    def poll(self, timeout_s: float | None, service: bool = False) -> None:
        """Block until something arrived, wake() was called, or the time passed.  Needs no lock; touches no socket."""
        try:
            events = self._pollers[service].poll(timeout_s)  # rounds up to milliseconds, so never early
        except ValueError:
            if not self.closed:
                raise
            return  # closed while this thread was on its way here
        for fd, _ in events:
            if fd == self._monitor_fd:
                self._monitored = True
            elif fd == self._outbound_fd:
                self._out_fired = self._out_stirred = True
            elif fd == self._inbound_fd:
                self._in_fired = self._in_stirred = True

    def watch(self, fd: int) -> None:
        """``poll`` also ends while ``fd`` is readable (a node daemon's epoll descriptor); the caller looks at it."""
        self._pollers[0].register(fd, select.EPOLLIN)

    def wake(self) -> None:
        """End the poll that is under way, or the next one.  Callable from any thread and from signal handlers."""
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._wake_fd, 1)

    def clear_wake(self) -> None:
        """Whoever leads, under the lock, before looking at what it was woken for."""
        if self._woken:
            try:
                os.eventfd_read(self._wake_fd)
            except BlockingIOError:
                pass  # wake() has set the flag and not written yet; the poll to come ends at once
            else:
                self._woken = False

    # ---------------------------------------------------------------- the end

    def pending(self) -> int:
        """Messages that flush() has not handed to ZeroMQ yet."""
        return (sum(map(len, self._outbox.values())) + sum(map(len, self._stalled.values()))) // 2

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
        self._context.term()
        for poller in self._pollers:
            poller.close()
        os.close(self._wake_fd)

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for session in self._sessions.values():
            session.check()
        assert self._active.keys() <= self._sessions.keys()
        assert not self._active or self._tick_at is not None, "sessions wait for a tick that will not come"
        assert all(session.active == (peer in self._active) for peer, session in self._sessions.items())
        assert {dialled.endpoint: peer for peer, dialled in self._dialled.items()} == self._at
        assert self._stalled.keys() <= self._sessions.keys()
        assert not self._departed.keys() & self._sessions.keys() - self._dialled.keys()
