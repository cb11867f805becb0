"""The socket that dials: one ROUTER for all peers, over ipc or TCP, each TCP peer with the key it must prove.

Routing ids are the incarnation and a counter of the dialler's.  So a new connection never collides
with an old one that ZeroMQ has not removed yet: libzmq drops such a connection without a report, or
aborts when it dialled itself.  Redialling is put off for ever (24 days) instead of disabled.  With
RECONNECT_IVL = -1 libzmq removes the pipe of a peer that died, and the replies in it.  The mesh
reads them all, reports on_closed, then removes it.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq

from zray.transport import sockets
from zray.transport.peers import Dialled
from zray.transport.sockets import Limits

if TYPE_CHECKING:
    from zray.transport.curve import Keys

_NEVER_MS = 2**31 - 1
_FAILED_EVENTS = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
                  | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_RETRIED_WITHIN_S = 1.0  # after DISCONNECTED; microseconds, unless the I/O thread is preempted just there
_CLOSED_EVENTS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | _FAILED_EVENTS


class Outbound:
    """The outbound socket, its monitor, and the addresses of dialled peers."""

    def __init__(self, router: Any, incarnation: bytes, limits: Limits, counters: Counter[str]):
        self.turned_away: Callable[[bytes], None] = lambda peer: None  # its gate does not list our key
        self.answers: Callable[[bytes], None] = lambda peer: None  # its libzmq has shaken hands
        self.at: dict[str, bytes] = {}  # address -> peer
        self._incarnation, self._limits, self._counters = incarnation, limits, counters
        self._dials = 0
        self._turned_away: set[str] = set()  # addresses: DISCONNECTED follows, and no further event
        self._retried_until: dict[str, float] = {}  # addresses after DISCONNECTED: CONNECT_RETRIED is to follow
        self._for_tcp = False  # whether the socket's options are set for TCP
        self.socket = router
        self.socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
        events = _CLOSED_EVENTS | (zmq.EVENT_HANDSHAKE_SUCCEEDED if limits.reports_answers else 0)
        self.monitor: Any = self.socket.get_monitor_socket(events)

    def prepare(self, endpoint: str, keys: Keys | None, insecure: bool) -> str:
        """Set the socket's options for ``endpoint``; returns its address, for dial().

        ValueError or ZMQError for an endpoint that cannot be dialled.
        """
        if not endpoint.startswith("tcp:"):
            if self._for_tcp:
                sockets.for_ipc(self.socket, self._limits)
                self._for_tcp = False
            return endpoint
        from zray.transport import curve  # noqa: PLC0415  (processes of a lone node do not pay for it)

        parsed = curve.parse_endpoint(endpoint)
        if not curve.is_numeric(parsed.address):
            raise ValueError("its host is not a number")
        if not parsed.key and not insecure:
            raise ValueError("it has no key, and this cluster is not insecure")
        if parsed.key and keys is None:
            raise ValueError("this process has no keys")
        if not self._for_tcp:
            sockets.for_tcp(self.socket, self._limits)
            self._for_tcp = True
        sockets.as_client(self.socket, parsed, keys)
        return parsed.address

    def dial(self, peer: bytes, endpoint: str, address: str) -> Dialled:
        """Dial an address for which the socket is prepared; no other peer is dialled there.
        ZMQError when it fails."""
        self._dials += 1
        suffix = self._dials.to_bytes(4, "big")
        route = peer + suffix
        self.socket.setsockopt(zmq.ROUTING_ID, self._incarnation + suffix)
        self.socket.setsockopt(zmq.CONNECT_ROUTING_ID, route)
        self.socket.connect(address)
        self.at[address] = peer
        return Dialled(endpoint, address, route)

    def hang_up(self, dialled: Dialled) -> None:
        """Close the connection."""
        del self.at[dialled.address]
        try:
            self.socket.disconnect(dialled.address)
        except zmq.ZMQError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise

    def ended(self) -> list[bytes]:
        """Peers whose connection has ended, or could not be made, since the last call.

        Events name an address, not a dial.  A connection that ends shows as DISCONNECTED and, but
        for some errors of the protocol, as CONNECT_RETRIED just after it.  The second event may
        come when the address has been dialled anew, and is ignored then.  A connection that could
        not be made shows as CONNECT_RETRIED alone.
        """
        peers = []
        while self.monitor.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            # event number and value, then the endpoint; zmq.utils.monitor reads them too, but imports asyncio (17 ms)
            event, where = self.monitor.recv_multipart(zmq.NOBLOCK)
            number, address = int.from_bytes(event[:2], "little"), where.decode()
            peer = self.at.get(address)
            if number & zmq.EVENT_HANDSHAKE_SUCCEEDED:
                if peer is not None:
                    self.answers(peer)
                continue
            if number & _FAILED_EVENTS:
                self._counters["failed_handshakes"] += 1  # a wrong key on either side; DISCONNECTED follows
                if number & zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    self._turned_away.add(address)
                    if peer is not None:
                        self.turned_away(peer)
                continue
            if number & zmq.EVENT_DISCONNECTED:
                self._disconnected(address)
            elif self._retried_until.pop(address, 0.0) > time.monotonic():
                continue
            if peer is not None:
                peers.append(peer)
        return peers

    def _disconnected(self, address: str) -> None:
        if address in self._turned_away:
            self._turned_away.discard(address)
            return
        now = time.monotonic()
        while self._retried_until and self._retried_until[oldest := next(iter(self._retried_until))] < now:
            del self._retried_until[oldest]
        self._retried_until.pop(address, None)
        self._retried_until[address] = now + _RETRIED_WITHIN_S

    def close_monitor(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(0)
