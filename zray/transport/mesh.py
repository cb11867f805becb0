"""The mesh: one session per peer, one outbox per peer, over the links of this process (zray.transport.links).

The mesh knows bytes and peers; ``encode(flat)`` and ``decode(body)`` are injected.  Not thread-safe: whoever calls it
holds the loop's lock, except for ``poll`` and ``wake``, which may be called without.  ``poll`` waits on the sockets'
file descriptors only, so that other threads may send and receive (under the lock) while one thread is blocked in it.
ZeroMQ's descriptors signal edges, and sending may swallow one: therefore whoever sends looks at ``readable()``
afterwards, and drains or wakes the poller.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import zmq

from zray.transport import envelope
from zray.transport.envelope import ACK, GONE, RESET, SIZE, MalformedFrame
from zray.transport.faults import Faults
from zray.transport.links import Links, try_send
from zray.transport.session import EPOCH_SHIFT, Session
from zray.transport.sockets import Limits

__all__ = ["LIBZMQ_MIN", "Limits", "Mesh"]

LIBZMQ_MIN = (4, 3, 3)
_PEER = 8  # bytes of an incarnation
_TAG = 4  # of them, those that name the node
_POLLIN = int(zmq.POLLIN)
_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)
_NOBLOCK = int(zmq.NOBLOCK)
_SEND_FIRST = int(zmq.SNDMORE | zmq.NOBLOCK)


class Mesh(Links):
    """Send and receive messages by peer incarnation."""

    def __init__(self, incarnation: bytes, job: int, bind_endpoint: str | None,
                 encode: Callable[[list[Any]], bytes], decode: Callable[[bytes | memoryview], list[tuple[int, Any]]],
                 clock: Callable[[], float], faults: Faults | None = None, limits: Limits | None = None):
        if zmq.zmq_version_info() < LIBZMQ_MIN:
            found, needed = zmq.zmq_version(), ".".join(map(str, LIBZMQ_MIN))
            raise RuntimeError(f"zray needs libzmq {needed} or newer, and pyzmq was built with {found}")
        if len(incarnation) != _PEER or incarnation[0] == 0:
            raise ValueError(f"an incarnation is {_PEER} bytes and does not begin with zero, not {incarnation!r}")
        super().__init__(incarnation, bind_endpoint, limits or Limits())
        self.job = job
        self.trace = 0  # trace id of frames sent from now on
        self.clock = clock
        self.now = 0.0  # when the last drain began
        self.on_closed: Callable[[bytes], None] = lambda peer: None
        self.on_early: Callable[[bytes], None] = lambda peer: None  # a frame is held until those before it have arrived
        self.on_turned_away: Callable[[bytes], None] = lambda peer: None  # its gate does not list our key
        self.on_answers: Callable[[bytes], None] = lambda peer: None  # Limits.reports_answers: until on_closed
        self.on_error: Callable[[Exception], None] = lambda error: None
        self._out.turned_away = lambda peer: self.on_turned_away(peer)
        self._out.answers = lambda peer: self.on_answers(peer)
        self._encode, self._decode, self._faults = encode, decode, faults
        self._outbox: dict[bytes, list[Any]] = {}
        self._stalled: dict[bytes, list[Any]] = {}  # no credit; older than what the outbox has for the peer
        self._sessions: dict[bytes, Session] = {}
        self._active: dict[bytes, Session] = {}  # sessions that tick() must visit
        self._tick_at: float | None = None
        self._epoch = 0
        self._departed: dict[bytes, int] = {}  # peer -> newest epoch heard from it
        self._closing: dict[bytes, float] = {}  # connection lost, on_closed still to come: give up waiting then
        self._held: dict[bytes, list[Any]] = {}  # messages for peers whose endpoint is looked up
        self.lasting: set[bytes] = set()  # peers whose sessions outlast their connections
        self._refused: set[bytes] = set()  # tags of nodes

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
        self._out_stirred = True
        try:
            replaced = self._out.dial(peer, endpoint, self.keys, self.insecure)
        except (ValueError, zmq.ZMQError) as error:  # such an endpoint came from somewhere else: its peer is lost
            self.counters["failed_dials"] += 1
            self.on_error(ConnectionError(f"cannot dial {endpoint!r}: {error}"))
            self._lost(peer)
            return
        if replaced is not None:
            self._lost(replaced)
        self._closing.pop(peer, None)
        self._via.pop(peer, None)
        self.resume(peer)
        self._release(peer)

    def resume(self, peer: bytes) -> None:
        """There is a connection to a lasting peer again: what the last one lost goes first."""
        session = self._sessions.get(peer)
        if session is not None and session.unacked():
            session.resend_at = now = self.clock()
            self._tick_at = now if self._tick_at is None else min(self._tick_at, now)

    def via(self, peer: bytes, next_hop: bytes) -> None:
        """Reach ``peer`` through the connection to ``next_hop``, from now on, unless there is a connection to itself.

        It is reported closed together with the next hop.
        """
        if peer[:_TAG] in self._refused or not self.connected(next_hop) or len(self._via) >= self.limits.via_max:
            self._lost(peer)
            return
        self._via[peer] = next_hop
        self._closing.pop(peer, None)
        self.resume(peer)
        self._release(peer)

    def disconnect(self, peer: bytes) -> None:
        """Hang up on a peer that we dialled.  The session stays, for its other connection or the next one."""
        if self._out.hang_up(peer):
            self._out_stirred = True

    def forget(self, peer: bytes) -> None:
        """The peer has ended: drop its connection, session and outbox; refuse what still comes from it."""
        self.disconnect(peer)
        self._closing.pop(peer, None)
        if self._via:
            self._via.pop(peer, None)
            for behind in self.relaying.behind(peer):
                self._lost(behind)
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
        reachable = peer in self._dialled or peer in self._inbound_route or peer in self._held or peer in self._via
        return (reachable or self._by_tcp(peer)) and peer not in self._closing

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
        self._via.pop(peer, None)
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
            self.lasting.discard(peer)  # a session that has lost something lasts no longer
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
        known = (self._sessions, self._dialled, self._inbound_route, self._held, self._outbox, self._via,
                 self._tcp.routes if self._tcp is not None else ())
        for peer in sorted(set().union(*known)):
            if peer[:_TAG] == node_tag:
                self.disconnect(peer)
                self._inbound_route.pop(peer, None)
                self._lost(peer)

    def _new_session(self, peer: bytes) -> Session:
        forgotten = self._departed.pop(peer, 0)  # dialled again: it is no stranger any more, also when we hang up
        self._epoch += 1
        limits = self.limits
        session = Session(self._epoch, limits.session_frames_max, limits.session_bytes_max,
                          limits.resend_s, limits.ack_delay_s, forgotten)
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
                if peer in self._departed and peer not in self._dialled and peer not in self._via:
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
                put, route = self._way(peer)
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
                self._drop_routes(peer)
            self._lost(peer)

    def _put_control(self, peer: bytes, flags: int, ack: int) -> None:
        """A frame without body or number.  Nobody waits for it, so an unreachable peer is no news."""
        header = envelope.pack(flags, self.job, self.incarnation, peer, 0, ack, self.trace)
        if not try_send(*self._way(peer), header):
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
        return self._tcp_stirred and self._tcp_readable()

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
        now = self.now = self.clock()
        count = 0
        if self._out_stirred:
            fired, self._out_fired, self._out_stirred = self._out_fired, False, False
            received, self._out_stirred = self._drain_socket(self._outbound, fired, now, on_message, until)
            count += received
        if self._tcp_stirred:  # before the crowd on this machine: heartbeats of other nodes come by it
            count += self._drain_tcp(now, on_message, until)
        if self._in_stirred:
            fired, self._in_fired, self._in_stirred = self._in_fired, False, False
            received, self._in_stirred = self._drain_socket(self._inbound, fired, now, on_message, until)
            count += received
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
            if not self._arrives(peer, source, destination, flags, frame):
                return 0
            peer = source
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
        elif session.forgotten and session.is_forgotten(sequence):
            self.counters["departed"] += 1
            self._put_control(peer, RESET, sequence)
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
        if not frames:
            self.on_early(peer)
        return sum(self._deliver(peer, early, on_message) for early in frames)

    def _arrives(self, hop: bytes, source: bytes, destination: bytes, flags: int, frame: bytes) -> bool:
        """A frame that is not between the ends of the connection that it came by: is it for us?  Else pass it on."""
        if destination == self.incarnation:
            if not self.relaying.accept(hop, source):
                return False
            if source not in self._dialled and source not in self._inbound_route and not self._by_tcp(source):
                self._via[source] = hop
                self._release(source)
            return True
        next_hop = None
        if source[:_TAG] not in self._refused:
            next_hop = self.relaying.next_hop(hop, source, destination)
        if next_hop is None:
            return False
        put, route = self._way(next_hop) if next_hop else (self._send_in, b"")
        if try_send(put, route, frame):
            self.counters["relayed"] += 1
        else:
            self.counters["not_relayed"] += 1
            if not route and not flags:  # controls are not answered: two relays would go on for ever
                try_send(*self._way(hop), envelope.pack(GONE, self.job, destination, source, 0, 0))
        return False

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
        elif flags & GONE and peer in self._via:
            self._lost(peer)

    def _admit(self, peer: bytes, sequence: int) -> Session | None:
        """A session for a peer that has none, unless it is one that has ended."""
        gone = self._departed.get(peer)
        if gone is not None:
            if sequence >> EPOCH_SHIFT <= gone:
                self.counters["departed"] += 1
                self._put_control(peer, RESET, sequence)
                self._drop_routes(peer)
                return None
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
        for peer in self._out.ended():
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
        if (peer not in self._inbound_route and not self._by_tcp(peer)) or peer[:_TAG] in self._refused:
            return False
        session = self._sessions.get(peer)
        ack = session.ack() if session else 0
        return try_send(*self._way_back(peer), envelope.pack(ACK, self.job, self.incarnation, peer, 0, ack))

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
        self._close_links(linger_ms)

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for session in self._sessions.values():
            session.check()
        assert self._active.keys() <= self._sessions.keys()
        assert not self._active or self._tick_at is not None, "sessions wait for a tick that will not come"
        assert all(session.active == (peer in self._active) for peer, session in self._sessions.items())
        self._out.check()
        assert not self._via.keys() & self._dialled.keys(), "reached through another though dialled"
        assert not self._held.keys() & (self._dialled.keys() | self._inbound_route.keys()), "held though reachable"
        assert self._tcp is None or len(self._tcp.routes) == len(self._tcp._principals)
        assert self._stalled.keys() <= self._sessions.keys()
        assert not self._departed.keys() & self._sessions.keys()
