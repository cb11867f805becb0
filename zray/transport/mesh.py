"""The mesh: one session per peer, one outbox per peer, over the links of this process (zray.transport.links).

The mesh knows bytes and peers; ``encode(flat)`` and ``decode(body)`` are injected.
zray.transport.peers has the record and the states of a peer; the mesh does the I/O.  Not
thread-safe: the caller holds the loop's lock, except for ``poll`` and ``wake``, which may be called
without.  ``poll`` waits on the sockets' file descriptors only, so that other threads may send and
receive (under the lock) while one thread is blocked in it.  ZeroMQ's descriptors signal edges, and
sending may clear one.  Therefore a sender calls ``readable()`` afterwards, and drains or wakes the
poller.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import zmq

from zray.channels.ring import NO_ROOM, WRITTEN_FOR_A_SLEEPER, RingBroken
from zray.transport import envelope
from zray.transport.connections import PeerConnections
from zray.transport.envelope import ACK, GONE, OFFER, RESET, SIZE, MalformedFrame
from zray.transport.faults import FrameFaults
from zray.transport.links import try_send
from zray.transport.peers import Flat, PeerRecord, messages_in
from zray.transport.session import EPOCH_SHIFT, Session
from zray.transport.sockets import Limits

__all__ = ["LIBZMQ_MIN", "Limits", "Mesh"]

LIBZMQ_MIN = (4, 3, 3)
_PEER = 8  # bytes of an incarnation
_POLLIN = int(zmq.POLLIN)
_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)
_NOBLOCK = int(zmq.NOBLOCK)
_SEND_FIRST = int(zmq.SNDMORE | zmq.NOBLOCK)


class Mesh(PeerConnections):
    """Send and receive messages by peer incarnation."""

    def __init__(self, incarnation: bytes, job: int, bind_endpoint: str | None,
                 encode: Callable[[Flat], bytes], decode: Callable[[bytes | memoryview], list[tuple[int, Any]]],
                 clock: Callable[[], float], faults: FrameFaults | None = None, limits: Limits | None = None):
        if zmq.zmq_version_info() < LIBZMQ_MIN:
            found, needed = zmq.zmq_version(), ".".join(map(str, LIBZMQ_MIN))
            raise RuntimeError(f"zray needs libzmq {needed} or newer, and pyzmq was built with {found}")
        if len(incarnation) != _PEER or incarnation[0] == 0:
            raise ValueError(f"an incarnation is {_PEER} bytes and does not begin with zero, not {incarnation!r}")
        super().__init__(incarnation, job, bind_endpoint, clock, limits or Limits())
        self.trace = 0  # trace id of frames sent from now on
        self.now = 0.0  # when the last drain began
        self.on_early: Callable[[bytes], None] = lambda peer: None  # a frame is held until those before it have arrived
        self.on_turned_away: Callable[[bytes], None] = lambda peer: None  # its gate does not list our key
        self.on_answers: Callable[[bytes], None] = lambda peer: None  # Limits.reports_answers: until on_closed
        self._out.turned_away = lambda peer: self.on_turned_away(peer)
        self._out.answers = lambda peer: self.on_answers(peer)
        self._encode, self._decode, self._faults = encode, decode, faults
        self._epoch = 0

    def _new_session(self, peer: bytes) -> PeerRecord:
        self._epoch += 1
        limits = self.limits
        session = Session(self._epoch, limits.session_frames_max, limits.session_bytes_max,
                          limits.resend_s, limits.ack_delay_s, self._ended.get(peer, 0))
        return self._peers.begin(peer, session)

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
        outbox, self._outbox, records = self._outbox, {}, self._records
        now = self.clock()
        for peer, flat in outbox.items():
            record = records.get(peer)
            if record is not None:
                if record.stalled is not None:
                    record.stalled += flat
                    continue
                if record.held is not None:
                    self._keep(peer, record.held, flat)
                    continue
            if record is None or record.session is None:
                if self._ended and self._peers.has_ended(peer, record):
                    self.counters["dropped_messages"] += messages_in(flat)  # no sender waits for a report
                    continue
                record = self._new_session(peer)
            self._send_flat(peer, record, flat, now)

    def _send_flat(self, peer: bytes, record: PeerRecord, flat: Flat, now: float) -> None:
        session = record.session
        assert session is not None
        if not session.can_send():
            self.counters["stalls"] += 1
            record.stalled = flat if record.stalled is None else record.stalled + flat
            return
        try:
            body = self._encode(flat)
        except Exception as error:  # any error of the encoder: the other messages must be sent
            if messages_in(flat) == 1:
                self.counters["unencodable"] += 1
                self.on_error(error)
                return
            body = b""
        if not body or len(body) > self.limits.frame_bytes_max:
            self._send_in_parts(peer, record, flat, body, now)
            return
        self._send_body(peer, session, body, now)

    def _send_in_parts(self, peer: bytes, record: PeerRecord, flat: Flat, body: bytes, now: float) -> None:
        if messages_in(flat) > 1:
            parts = max(2, -(-len(body) // self.limits.frame_bytes_max))
            step = max(1, messages_in(flat) // parts) * 2
            for start in range(0, len(flat), step):
                if record.stalled is not None:
                    record.stalled += flat[start:]
                    return
                self._send_flat(peer, record, flat[start:start + step], now)
        elif len(body) + SIZE > self._message_bytes_max(record):  # it would close the connection
            self.counters["too_large"] += 1
            self.on_error(ValueError(f"a message of {len(body)} bytes is larger than a connection carries"))
        elif record.session is not None:
            self._send_body(peer, record.session, body, now)

    def _message_bytes_max(self, record: PeerRecord) -> int:
        dialled = record.dialled
        tcp = dialled.endpoint.startswith("tcp:") if dialled is not None else not record.inbound
        return self.limits.tcp_message_bytes_max if tcp else self.limits.message_bytes_max

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
            return  # an early frame is held: the next frame asks again
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
            if self._peers.session(peer) is not None:
                self._put(peer, frame)

    def _put(self, peer: bytes, frame: bytes) -> None:
        """Hand a frame to a ring or to ZeroMQ.  An unreachable peer is reported closed, later; the session keeps it."""
        if self._rings and self._put_shared(peer, frame):
            return
        record = self._records[peer]
        dialled = record.dialled
        if dialled is not None:
            self._out_dirty = True
            put, route = self._send_out, dialled.route
        else:
            self._in_dirty = True
            put, route = self._send_in, record.inbound
            if not route:
                put, route = self._way_back(record)
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
                self._drop_inbound(peer)
            self._lost(peer)

    def _put_shared(self, peer: bytes, frame: bytes) -> bool:
        """Whether the frame has gone by shared memory."""
        assert self._shared is not None
        way = self._shared.ways.get(peer)
        if way is None or way.ending:
            return False
        try:
            done = way.writer.put(frame)
        except RingBroken:
            self.counters["broken_rings"] += 1
            way.ending = True  # the frames that are in it are read first
            return False
        if done == WRITTEN_FOR_A_SLEEPER and not way.duplex.wake():
            way.ending = True
        return done != NO_ROOM

    def _offer_shared(self, peer: bytes, record: PeerRecord, now: float) -> None:
        """A frame has come from a peer that we have dialled: if that is often, offer it a way through shared memory."""
        assert self._shared is not None
        if peer not in self._shared.ways and record.dialled is not None and record.dialled.endpoint.startswith("ipc:"):
            path = self._shared.offer(peer, record, now)
            if path:
                try_send(*self._way(peer), envelope.pack(OFFER, self.job, self.incarnation, peer, 0, 0) + path)

    def _put_control(self, peer: bytes, flags: int, ack: int) -> None:
        """A frame without body or number.  No sender waits for it, so an unreachable peer is not reported."""
        header = envelope.pack(flags, self.job, self.incarnation, peer, 0, ack, self.trace)
        if not try_send(*self._way(peer), header):
            self.counters["lost_acks"] += 1

    # ---------------------------------------------------------------- receiving

    def readable(self) -> bool:
        """Whether drain() would find messages.  Cheap; also re-arms the edges that poll() waits for."""
        if self._closing or self._monitored or self._ring_fds or (self._rings and self._ring_has_frame()):
            return True
        if self._out_dirty:
            self._out_dirty = False
            if self._outbound.get(_EVENTS) & _POLLIN:
                self._out_dirty = True
                return True
        if self._in_dirty:
            self._in_dirty = False
            if self._inbound.get(_EVENTS) & _POLLIN:
                self._in_dirty = True
                return True
        return self._tcp_dirty and self._tcp_readable()

    @property
    def dirty(self) -> bool:
        """Whether drain() may find messages.  False is sure, True is not."""
        return bool(self._in_dirty or self._out_dirty or self._tcp_dirty or self._monitored or self._closing
                    or self._ring_fds or (self._rings and self._ring_has_frame()))

    def drain(self, on_message: Callable[[bytes, int, Any], None], until: Any = None) -> int:
        """Call ``on_message(peer, code, message)`` for all that has arrived (bounded per turn); returns how many.

        Stops early once ``until.done``: its thread waits for nothing else, and one more look costs 3 us.
        """
        if self._monitored:
            self._read_monitor()
        now = self.now = self.clock()
        count = 0
        if self._shared is not None and (self._rings or self._ring_fds):
            count = self._drain_shared(self._shared, now, on_message, until)
            if until is not None and until.done:
                return count
        if self._out_dirty:
            fired, self._out_fired, self._out_dirty = self._out_fired, False, False
            received, self._out_dirty = self._drain_socket(self._outbound, fired, now, on_message, until)
            count += received
        if self._tcp_dirty:  # before the many peers on this machine: heartbeats of other nodes come by it
            count += self._drain_tcp(now, on_message, until)
        if self._in_dirty:
            fired, self._in_fired, self._in_dirty = self._in_fired, False, False
            received, self._in_dirty = self._drain_socket(self._inbound, fired, now, on_message, until)
            count += received
        if self._closing and not (self._out_dirty or self._in_dirty or self._tcp_dirty or self._ring_has_frame()):
            self._report_closed(now)
        return count

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
        if self._peers.refused and self._peers.is_refused(peer):
            self.counters["refused"] += 1
            return 0
        record = self._records.get(peer)
        if flags:
            if record is not None and record.session is not None:
                self._on_control(peer, record, flags, ack, now)
                if flags & OFFER and self._shared is not None and record.inbound:
                    self._shared.offered(peer, frame[SIZE:], now)
            return 0
        if record is None or record.session is None:
            record = self._admit(peer, sequence)
            if record is None:
                return 0
        session = record.session
        assert session is not None
        if self._shared is not None:
            self._offer_shared(peer, record, now)
        if session.forgotten and session.is_forgotten(sequence):
            self.counters["departed"] += 1
            self._put_control(peer, RESET, sequence)
            return 0
        if ack > session.acked:
            self._on_ack(peer, record, ack, now)
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
        """A frame that is not between the ends of its connection: accept it if it is for us, else pass it on."""
        if destination == self.incarnation:
            if not self.relaying.accept(hop, source):
                return False
            self._release(source, self._peers.relayed(source, hop))
            return True
        next_hop = None
        if not self._peers.is_refused(source):
            next_hop = self.relaying.next_hop(hop, source, destination)
        if next_hop is None:
            return False
        put, route = self._way(next_hop) if next_hop else (self._send_in, b"")
        if try_send(put, route, frame):
            self.counters["relayed"] += 1
        else:
            self.counters["not_relayed"] += 1
            if not route and not flags:  # controls get no answer: two relays would answer each other for ever
                try_send(*self._way(hop), envelope.pack(GONE, self.job, destination, source, 0, 0))
        return False

    def _on_ack(self, peer: bytes, record: PeerRecord, ack: int, now: float) -> None:
        session = record.session
        assert session is not None
        again = session.on_ack(ack, now)
        if again is not None:
            self._transmit(peer, again, now)
        if record.stalled is not None and session.can_send():
            self._outbox[peer] = record.stalled + self._outbox.pop(peer, [])
            record.stalled = None

    def _on_control(self, peer: bytes, record: PeerRecord, flags: int, ack: int, now: float) -> None:
        session = record.session
        assert session is not None
        if flags & ACK:
            self._on_ack(peer, record, ack, now)
        elif flags & RESET and ack >> EPOCH_SHIFT == session.epoch:
            self.counters["restarts"] += 1
            self._epoch += 1
            for frame in session.restart(self._epoch):
                self._send_body(peer, session, frame[SIZE:], now)
        elif flags & GONE and record.hop:
            self._lost(peer)

    def _admit(self, peer: bytes, sequence: int) -> PeerRecord | None:
        """A session for a peer that has none, unless the peer has ended."""
        gone = self._ended.get(peer)
        if gone is not None:
            if sequence >> EPOCH_SHIFT <= gone:
                self.counters["departed"] += 1
                self._put_control(peer, RESET, sequence)
                self._drop_inbound(peer)
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
        # Timers that are due soon run too: with thousands of peers, a tick at each one's own time
        # would visit all of them each time.
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
        waiting = [*self._outbox.values()]
        for record in self._records.values():
            waiting += [record.stalled or [], record.held or []]
        return sum(map(messages_in, waiting))

    def close(self, linger_ms: int = 0) -> None:
        """Flush, give ZeroMQ ``linger_ms`` to write its queues, and close.  Idempotent."""
        if self.closed:
            return
        self.flush()
        self.closed = True
        self._close_links(linger_ms)

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        self._peers.check()
        sessions = {peer: record.session for peer, record in self._records.items() if record.session is not None}
        assert self._active.keys() <= sessions.keys()
        assert not self._active or self._tick_at is not None, "sessions wait for a tick that will not come"
        assert all(session.active == (peer in self._active) for peer, session in sessions.items())
        dialled = {record.dialled.address: peer for peer, record in self._records.items() if record.dialled is not None}
        assert dialled == self._out.at
        if self._tcp is not None:
            self._tcp.check()
