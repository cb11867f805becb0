"""Connections to peers: made, waited for, lost, reported.  The records and their states are in zray.transport.peers."""

from __future__ import annotations

from collections.abc import Callable

import zmq

from zray.transport import envelope
from zray.transport.envelope import ACK
from zray.transport.links import ProcessLinks, try_send
from zray.transport.peers import Flat, PeerRecord, messages_in
from zray.transport.session import Session
from zray.transport.sockets import Limits

_TAG = 4  # bytes of an incarnation that name the node
_LOOK_AGAIN_S = 0.001  # interval of looks at the second connection of a peer that closes


class PeerConnections(ProcessLinks):
    """Making and ending connections: each method does the I/O, and updates the peer's record."""

    def __init__(self, incarnation: bytes, job: int, bind_endpoint: str | None, clock: Callable[[], float],
                 limits: Limits):
        super().__init__(incarnation, bind_endpoint, limits)
        self.job = job
        self.clock = clock
        self.on_closed: Callable[[bytes], None] = lambda peer: None
        self._outbox: dict[bytes, Flat] = {}  # messages queued since the last flush
        self._active: dict[bytes, Session] = {}  # sessions that tick() must visit
        self._tick_at: float | None = None
        self._closing = self._peers.closing
        self._ended = self._peers.ended
        self.lasting = self._peers.lasting  # peers whose sessions outlast their connections

    def connect(self, peer: bytes, endpoint: str) -> None:
        """Dial ``peer``; no effect when that connection exists.  A failure is reported by on_closed, and counted.

        ``endpoint`` is one of ZeroMQ's for ipc, else as in zray.transport.curve, with a number for the host.
        """
        record = self._records.get(peer)
        if record is not None and record.dialled is not None:
            if record.dialled.endpoint == endpoint:
                return
            self.disconnect(peer)
        if self._peers.is_refused(peer):
            self._lost(peer)
            return
        self._out_dirty = True
        try:
            address = self._out.prepare(endpoint, self.keys, self.insecure)
            replaced = self._out.at.get(address)
            if replaced is not None:  # another process listens now at the endpoint of one that ended
                self.disconnect(replaced)
                self._lost(replaced)
            connection = self._out.dial(peer, endpoint, address)
        except (ValueError, zmq.ZMQError) as error:  # the endpoint came from another process: its peer is lost
            self.counters["failed_dials"] += 1
            self.on_error(ConnectionError(f"cannot dial {endpoint!r}: {error}"))
            self._lost(peer)
            return
        record = self._peers.dialled(peer, connection)
        self.resume(peer)
        self._release(peer, record)

    def resume(self, peer: bytes) -> None:
        """There is a connection to a lasting peer again: frames that the last one lost go first."""
        session = self._peers.session(peer)
        if session is not None and session.unacked():
            session.resend_at = now = self.clock()
            self._tick_at = now if self._tick_at is None else min(self._tick_at, now)

    def via(self, peer: bytes, next_hop: bytes) -> None:
        """Reach ``peer`` through the connection to ``next_hop``, from now on, unless it has a connection of its own.

        It is reported closed together with the next hop.
        """
        peers = self._peers
        if peers.is_dialled(peer):
            if peer not in self._closing:
                return
            self.disconnect(peer)
        if peers.is_refused(peer) or not peers.is_connected(next_hop) or peers.hops >= self.limits.via_max:
            self._lost(peer)
            return
        record = peers.routed(peer, next_hop)
        self.resume(peer)
        self._release(peer, record)

    def disconnect(self, peer: bytes) -> None:
        """Hang up on a peer that we dialled.  The session stays, for its other connection or the next one."""
        record = self._records.get(peer)
        if record is not None and record.dialled is not None:
            self._drop_shared(peer)
            self._out.hang_up(record.dialled)
            self._peers.hung_up(peer)
            self._out_dirty = True

    def forget(self, peer: bytes) -> None:
        """The peer has ended: drop its connection, session and outbox; refuse further frames from it."""
        self.disconnect(peer)
        self._drop_shared(peer)
        if self._tcp is not None:
            self._tcp.drop(peer)
        for behind in self._peers.behind(peer):
            self._lost(behind)
        record = self._peers.forget(peer)
        self._active.pop(peer, None)
        dropped = messages_in(self._outbox.pop(peer, []))
        if record is not None:
            dropped += messages_in(record.stalled or []) + messages_in(record.held or [])
            if record.session is not None:
                self.counters["dropped_frames"] += record.session.unacked()
        self.counters["dropped_messages"] += dropped

    def connected(self, peer: bytes) -> bool:
        """Whether there is a connection to send to the peer by, as far as known, or its endpoint is
        looked up (hold)."""
        return self._peers.is_connected(peer)

    def dialled(self, peer: bytes) -> bool:
        """Whether we have a connection of our own to the peer.  Then on_closed reports its end, once it is drained."""
        return self._peers.is_dialled(peer)

    def peers(self) -> list[bytes]:
        """Peers with a session."""
        return self._peers.with_session()

    def session(self, peer: bytes) -> Session | None:
        """The session with a peer, if there is one, for inspection."""
        return self._peers.session(peer)

    def _hang_up(self, peer: bytes) -> None:
        """No connection to a peer in CLOSING is left; its session waits for the next."""
        self.disconnect(peer)
        self._drop_shared(peer)
        if self._tcp is not None:
            self._tcp.drop(peer)
        self._peers.keep(peer)

    def hold(self, peer: bytes) -> None:
        """Keep messages for the peer until connect() or give_up(), while its endpoint is looked up.

        The peer is given up with more than ``held_messages_max`` of them.  No effect when it is connected.
        """
        if not self.connected(peer) and not self._peers.is_refused(peer):
            if peer in self._closing:
                self._hang_up(peer)  # a rest of the lost connection would hide the next one
            self._peers.hold(peer, self._outbox.pop(peer, []))

    def give_up(self, peer: bytes) -> None:
        """There is no way to a peer on hold: drop its messages, with a count, and report it closed."""
        record = self._records.get(peer)
        if record is not None and record.held is not None:
            self.counters["dropped_messages"] += messages_in(record.held)
            record.held = None
            self.lasting.discard(peer)  # a session that has lost a frame does not outlast its connections
            self._lost(peer)

    def _release(self, peer: bytes, record: PeerRecord) -> None:
        """There is a connection now: held messages go out before those queued since."""
        held, record.held = record.held, None
        if held:
            self._outbox[peer] = held + self._outbox.pop(peer, [])

    def _keep(self, peer: bytes, held: Flat, flat: Flat) -> None:
        held += flat
        if messages_in(held) > self.limits.held_messages_max:
            self.counters["held_too_many"] += 1
            self.give_up(peer)

    def refuse(self, node_tag: bytes) -> None:
        """Cut off the processes of a node: drop their frames, hang up, report them closed.

        ``allowed`` must refuse their key as well: that keeps new connections out.
        """
        self._peers.refused.add(node_tag)
        for peer in sorted({*self._records, *self._outbox}):
            if peer[:_TAG] == node_tag:
                self.disconnect(peer)
                self._peers.drop_ipc(peer)
                self._lost(peer)

    # ---------------------------------------------------------------- ends

    def _read_monitor(self) -> None:
        self._monitored = False
        for peer in self._out.ended():
            self._lost(peer)

    def _lost(self, peer: bytes) -> None:
        """The connection to ``peer`` is gone: report that once all frames that have arrived are handled."""
        if peer not in self._closing:
            self._peers.lose(peer, self.clock() + self.limits.farewell_s)

    def _report_closed(self, now: float) -> None:
        for peer, record in list(self._closing.items()):
            if now < record.close_at and self._inbound_alive(peer, record):
                if self._tick_at is None or self._tick_at > now + _LOOK_AGAIN_S:
                    self._tick_at = now + _LOOK_AGAIN_S
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

    def _inbound_alive(self, peer: bytes, record: PeerRecord) -> bool:
        """Whether the second connection, of a peer that had dialled us too, is still open: it may carry replies."""
        if not (record.inbound or record.tcp) or self._peers.is_refused(peer):
            return False
        ack = record.session.ack() if record.session is not None else 0
        return try_send(*self._way_back(record), envelope.pack(ACK, self.job, self.incarnation, peer, 0, ack))
