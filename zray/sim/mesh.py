"""The production mesh over a simulated network: real sessions, real frames, sockets that are not there.

Only what ZeroMQ does is replaced.  A connection is (dialler, listener); it closes when either process ends, and the
dialler learns so after everything that was under way has arrived or is lost: what a process wrote before it died is
still read, frames that the network dropped are not.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import zmq

from zray import codec
from zray.sim.network import SimNetwork
from zray.transport.mesh import Limits, Mesh

_MORE = int(zmq.SNDMORE)
# A second is an age for a simulated task; what is lost is sent again sooner.
LIMITS = Limits(resend_s=0.2, ack_delay_s=0.05, farewell_s=0.02)


class Wire:
    """All connections of one simulated cluster."""

    def __init__(self, net: SimNetwork) -> None:
        self.net = net
        self.meshes: dict[bytes, SimMesh] = {}
        self.listeners: dict[str, bytes] = {}
        self.arrived_by: dict[tuple[bytes, bytes], float] = {}  # (source, target) -> when its last frame is there

    def open(self, mesh: SimMesh) -> None:
        self.meshes[mesh.incarnation] = mesh
        self.listeners[mesh.endpoint] = mesh.incarnation
        self.net.register(mesh.incarnation, mesh.arrived)

    def close(self, name: bytes) -> None:
        """The process has ended."""
        mesh = self.meshes.pop(name, None)
        if mesh is None:
            return
        mesh.closed = True
        del self.listeners[mesh.endpoint]
        self.net.crash(name)
        for other in list(self.meshes.values()):
            if name in other.dialled_peers():
                self.report(other, name)

    def report(self, mesh: SimMesh, peer: bytes) -> None:
        """Tell a dialler that its connection is closed, once it is drained."""
        when = max(self.arrived_by.get((peer, mesh.incarnation), 0.0), self.net.now + self.net.random.uniform(0, 0.003))
        self.net.call_at(when, mesh.peer_closed, peer)

    def send(self, source: bytes, target: bytes, dialled: bool, frame: bytes) -> None:
        """One frame from ``source``; ``dialled``: by its own connection, so it comes in at the target's ROUTER."""
        if target not in self.meshes:
            if self.net.now >= self.arrived_by.get((target, source), 0.0):
                raise zmq.ZMQError(errno.EHOSTUNREACH)
            return  # the kernel took it, and nobody reads it
        arrival = self.net.send(source, target, (dialled, frame))
        if arrival is not None:
            pair = source, target
            self.arrived_by[pair] = max(self.arrived_by.get(pair, 0.0), arrival)


class _Socket:
    """What the mesh uses of a ROUTER."""

    def __init__(self, mesh: SimMesh, dialling: bool) -> None:
        self._mesh, self._dialling = mesh, dialling
        self._route = b""

    def setsockopt(self, option: int, value: Any) -> None:
        pass

    def connect(self, endpoint: str) -> None:
        self._mesh.dialled_now(endpoint)

    def disconnect(self, endpoint: str) -> None:
        pass

    def send(self, data: bytes, flags: int) -> None:
        if flags & _MORE:
            self._route = data
        else:
            self._mesh.wire.send(self._mesh.incarnation, self._route[:8], self._dialling, data)


class SimMesh(Mesh):
    """A mesh whose frames travel through a :class:`Wire`."""

    def __init__(self, wire: Wire, incarnation: bytes, job: int, on_message: Callable[[bytes, int, Any], None],
                 stirred: Callable[[], None]) -> None:
        self.wire = wire
        self.on_message = on_message
        self.on_stir = stirred  # something happened: the process takes a turn
        super().__init__(incarnation, job, f"sim://{incarnation.hex()}", codec.encode, codec.decode,
                         lambda: wire.net.now, limits=LIMITS)
        wire.open(self)

    def _open(self, bind_endpoint: str | None) -> None:
        self.endpoint = bind_endpoint or ""
        self._inbound = _Socket(self, dialling=False)
        self._outbound = _Socket(self, dialling=True)
        self._send_in, self._send_out = self._inbound.send, self._outbound.send

    def dialled_peers(self) -> set[bytes]:
        return set(self._dialled)

    def dialled_now(self, endpoint: str) -> None:
        if endpoint not in self.wire.listeners:
            peer = bytes.fromhex(endpoint.removeprefix("sim://"))
            self.wire.report(self, peer)

    def arrived(self, source: bytes, item: tuple[bool, bytes]) -> None:
        by_dialler, frame = item
        if by_dialler:
            self._inbound_route[source] = source
        elif source not in self._dialled:
            return  # hung up meanwhile
        self._on_frame(source, frame, self.clock(), self.on_message)
        self.on_stir()

    def peer_closed(self, peer: bytes) -> None:
        if peer in self._dialled and not self.closed:
            self._lost(peer)
            self.on_stir()

    def unacknowledged(self) -> int:
        return sum(session.unacked() for session in self._sessions.values())

    def report_closed(self) -> None:
        if self._closing:
            self._report_closed(self.clock())
