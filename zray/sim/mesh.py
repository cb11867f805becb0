"""The production mesh over a simulated network: real sessions, real frames, no sockets.

Only ZeroMQ is replaced.  A connection is (dialler, listener), and closes when either process ends.  The dialler learns
it after all frames under way have arrived or are lost: frames that a process wrote before it died are still read,
frames that the network dropped are not.

Two core processes of a node send most frames through shared memory: at once, without a loss, and past those that they
have sent by a connection.  The sessions see the same two ways as in zray.transport.shared.

Between machines there is more.  A machine that loses its power sends nothing more, and two machines may be parted.  A
process is dialled at a second endpoint, which exists after a request to bind it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random
from struct import Struct
from typing import Any

import zmq

from zray.base.ids import node_of
from zray.channels.ring import RING_FRAME_BYTES_MAX
from zray.gcs.configuration.membership import BEAT_PART, UNANSWERED_PART
from zray.sim.network import SimNetwork
from zray.sim.plan import SIM_NODE_TIMEOUT_S
from zray.transport.envelope import ACK
from zray.transport.mesh import Limits, Mesh
from zray.transport.outbound import Outbound
from zray.wire import codec

_MORE = int(zmq.SNDMORE)
_WHEN = Struct("<d")
_FLAGS = 2  # offset in a frame
# A second is long for a simulated task, so lost frames are sent again sooner.
LIMITS = Limits(resend_s=0.2, ack_delay_s=0.05, farewell_s=0.02)
SILENCE_S = 10.0  # ZMTP's heartbeats give a silent connection up (Limits.heartbeat_timeout_s)
DAEMON_SILENCE_S = (UNANSWERED_PART + BEAT_PART) * SIM_NODE_TIMEOUT_S  # between two daemons
RESET_S = 0.01
SHARED_FROM_SEED = 20_000  # seeds before it keep the schedules by which their failures are known
SHARED_PART = 0.8  # of the frames between two core processes of a node; the others find the ring full
SHARED_S = (1e-6, 60e-6)
LOCAL, REMOTE = "sim://", "net://"  # endpoints for processes of the same node, and for those of others


class Wire:
    """All connections of one simulated cluster."""

    def __init__(self, net: SimNetwork) -> None:
        self.net = net
        self.meshes: dict[bytes, SimMesh] = {}
        self.listeners: dict[str, bytes] = {}
        self.arrived_by: dict[tuple[bytes, bytes], float] = {}  # (source, target) -> arrival of its last frame
        self.off: set[bytes] = set()  # nodes whose machines have lost their power
        self.parted: set[tuple[bytes, bytes]] = set()  # nodes that cannot hear each other, both ways
        self._mends = 0
        self._lost: dict[tuple[bytes, bytes], int] = {}  # (source, target) -> last frame that a cut may have lost
        self._stopped: dict[bytes, int] = {}  # stopped daemon, with libzmq's thread -> number of the stop
        self._stops = 0
        self._shaking_hands: list[tuple[SimMesh, bytes]] = []  # with those
        self._dialling: list[tuple[SimMesh, bytes, str]] = []  # attempts without an answer
        self.admits: Callable[[bytes, bytes], bool] = lambda dialler, listener: True
        self.shared: Random | None = None  # draws of the ways through shared memory, None without them

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
        for endpoint in (mesh.endpoint, mesh.remote_endpoint):
            self.listeners.pop(endpoint, None)
        self.net.crash(name)
        for other in list(self.meshes.values()):
            if name in other.dialled_peers() and self.audible(name, other.incarnation):
                self.report(other, name)

    # ------------------------------------------------------------ machines and the network between them

    def power_off(self, node: bytes) -> None:
        """The machine falls silent; call it before its processes end."""
        self.off.add(node)
        self.net.call_at(self.net.now + DAEMON_SILENCE_S, self._daemons_hang_up, node)
        self.net.call_at(self.net.now + SILENCE_S, self._hang_up_on_the_dead)

    def _hang_up_on_the_dead(self) -> None:
        """Close the connections to an ended process: by a reset, or by ZeroMQ's heartbeats."""
        for mesh in list(self.meshes.values()):
            for peer in sorted(mesh.dialled_peers()):
                if peer not in self.meshes and (node_of(peer) in self.off or self.audible(mesh.incarnation, peer)):
                    self.report(mesh, peer)

    def part(self, one: bytes, other: bytes) -> None:
        self.parted |= {(one, other), (other, one)}
        self.net.trace("part", one, other)
        self.net.call_at(self.net.now + SILENCE_S, self._silent, one, other, self._mends)
        self.net.call_at(self.net.now + DAEMON_SILENCE_S, self._daemons_part, one, other, self._mends)

    def _silent(self, one: bytes, other: bytes, mends: int) -> None:
        """After a long parting ZeroMQ's heartbeats break the connections, on both sides."""
        if (one, other) not in self.parted or mends != self._mends:
            return
        for mesh in list(self.meshes.values()):
            for peer in sorted(mesh.dialled_peers()):
                if {node_of(mesh.incarnation), node_of(peer)} == {one, other}:
                    self.report(mesh, peer)

    def _daemons_part(self, one: bytes, other: bytes, mends: int) -> None:
        if (one, other) in self.parted and mends == self._mends:
            self._hang_up(one, other)
            self._hang_up(other, one)

    def _hang_up(self, dialler: bytes, peer: bytes) -> None:
        mesh = self.meshes.get(dialler)
        if mesh is not None and peer in mesh.dialled_peers():
            self.report(mesh, peer)

    def _daemons_hang_up(self, node: bytes) -> None:
        """ZMTP's heartbeats on the connections to a silent daemon have not been answered."""
        for name in sorted(self.meshes):
            if name == node_of(name):
                self._hang_up(name, node)

    def stop(self, node: bytes) -> None:
        """SIGSTOP for a daemon: its transport falls silent with it.  (A starved daemon's answers.)"""
        self._stops += 1
        self._stopped[node] = self._stops
        self.net.call_at(self.net.now + DAEMON_SILENCE_S, self._stands_still, node, self._stops)

    def _stands_still(self, node: bytes, stop: int) -> None:
        if self._stopped.get(node) == stop:
            self._daemons_hang_up(node)
            for name in sorted(self.meshes[node].dialled_peers()) if node in self.meshes else ():
                if name == node_of(name):
                    self._hang_up(node, name)  # the daemon learns it when it continues

    def go_on(self, node: bytes) -> None:
        """SIGCONT."""
        self._stopped.pop(node, None)
        waiting, self._shaking_hands = self._shaking_hands, []
        for mesh, peer in waiting:
            self._shake_hands(mesh, peer)

    def _shake_hands(self, mesh: SimMesh, peer: bytes) -> None:
        """The libzmq of both ends has answered; that needs no turn of the peer."""
        if peer in self._stopped:
            self._shaking_hands.append((mesh, peer))
        elif peer == node_of(peer) and mesh.incarnation == node_of(mesh.incarnation):
            self.net.call_at(self.net.now + self.net.random.uniform(0, 0.001), mesh.run, mesh.answered, peer)

    def mend(self, one: bytes, other: bytes) -> None:
        self._mends += 1
        self._note_lost({(one, other), (other, one)} & self.parted)
        self.parted -= {(one, other), (other, one)}
        self.net.trace("mend", one, other)
        self._dial_on()
        self.net.call_at(self.net.now + RESET_S, self._hang_up_on_the_dead)

    def heal(self) -> None:
        self._mends += 1
        self._note_lost(self.parted)
        self.parted.clear()
        self._dial_on()
        self._hang_up_on_the_dead()

    def _note_lost(self, pairs: set[tuple[bytes, bytes]]) -> None:
        for source, target in pairs:
            session = self.meshes[source].session(target) if source in self.meshes else None
            if session is not None:
                self._lost[source, target] = session.next_sequence() - 1

    def caught_up(self, source: bytes, target: bytes) -> bool:
        """Whether a daemon has sent the frames again that a cut had lost: one frame a round trip."""
        lost = self._lost.get((source, target))
        if lost is None:
            return True
        session = self.meshes[source].session(target) if source in self.meshes else None
        if session is not None and session.acked < lost:
            return False
        del self._lost[source, target]
        return True

    def _dial_on(self) -> None:
        """Two parted nodes hear each other again: a kernel's repeated attempt gets an answer now."""
        attempts, self._dialling = self._dialling, []
        for mesh, peer, endpoint in attempts:
            if mesh.dialled_at(peer) == endpoint and not mesh.closed:
                self.dial(mesh, endpoint)

    def audible(self, source: bytes, target: bytes) -> bool:
        """Whether packets between the kernels of the two machines arrive."""
        one, other = node_of(source), node_of(target)
        return one == other or not (one in self.off or other in self.off or (one, other) in self.parted)

    def reset(self, one: bytes, other: bytes) -> None:
        """The connections between two machines break; all processes live."""
        for mesh in list(self.meshes.values()):
            for peer in sorted(mesh.dialled_peers()):
                if {node_of(mesh.incarnation), node_of(peer)} == {one, other}:
                    self.report(mesh, peer)

    # ------------------------------------------------------------ connections

    def report(self, mesh: SimMesh, peer: bytes) -> None:
        """Tell a dialler that its connection is closed, once it is drained."""
        when = max(self.arrived_by.get((peer, mesh.incarnation), 0.0), self.net.now + self.net.random.uniform(0, 0.003))
        self.net.call_at(when, mesh.run, mesh.peer_closed, peer)

    def dial(self, mesh: SimMesh, endpoint: str) -> None:
        """A connection attempt that is refused, or gets no answer."""
        peer = bytes.fromhex(endpoint[len(LOCAL):])
        if not self.audible(mesh.incarnation, peer):
            self._dialling.append((mesh, peer, endpoint))
        elif endpoint not in self.listeners:
            self.report(mesh, peer)
        elif not self.admits(mesh.incarnation, peer):
            self.net.call_at(self.net.now + self.net.random.uniform(0, 0.001), mesh.run, mesh.turned_away, peer)
            self.report(mesh, peer)
        else:
            self._shake_hands(mesh, peer)

    def refused(self, node: bytes, endpoint: str) -> bool:
        """Whether a connection attempt from ``node`` is refused: proof that no process listens there."""
        return endpoint not in self.listeners and self.audible(node, bytes.fromhex(endpoint[len(LOCAL):]))

    def send(self, source: bytes, target: bytes, dialled: bool, frame: bytes) -> None:
        """One frame from ``source``; ``dialled``: by its own connection, so it comes in at the target's ROUTER."""
        if (self.off or self.parted) and not self.audible(source, target):
            self.net.counters["unheard"] += 1
            return
        if target not in self.meshes:
            if self.net.now >= self.arrived_by.get((target, source), 0.0):
                raise zmq.ZMQError(errno.EHOSTUNREACH)
            return  # the kernel took the frame, but no process reads it
        if self.shared is not None and self._shares(source, target, frame):
            when = self.net.now + self.shared.uniform(*SHARED_S)
            self.net.deliver_at(when, source, target, (dialled, frame))
            self.arrived_by[source, target] = max(self.arrived_by.get((source, target), 0.0), when)
            return
        arrival = self.net.send(source, target, (dialled, frame))
        if arrival is not None:
            pair = source, target
            self.arrived_by[pair] = max(self.arrived_by.get(pair, 0.0), arrival)


    def _shares(self, source: bytes, target: bytes, frame: bytes) -> bool:
        assert self.shared is not None
        node = node_of(source)
        return (node == node_of(target) and node not in (source, target) and len(frame) <= RING_FRAME_BYTES_MAX
                and self.shared.random() < SHARED_PART)


class _Socket:
    """A ROUTER socket, as far as the mesh uses it."""

    def __init__(self, mesh: SimMesh, dialling: bool) -> None:
        self._mesh, self._dialling = mesh, dialling
        self._route = b""

    def setsockopt(self, option: int, value: Any) -> None:
        pass

    def get_monitor_socket(self, events: int) -> None:
        """Nothing to do: the wire reports ends."""

    def connect(self, endpoint: str) -> None:
        self._mesh.wire.dial(self._mesh, endpoint)

    def disconnect(self, endpoint: str) -> None:
        pass

    def send(self, data: bytes, flags: int) -> None:
        if flags & _MORE:
            self._route = data
        else:
            self._mesh.wire.send(self._mesh.incarnation, self._route[:8], self._dialling, data)


class SimMesh(Mesh):
    """A mesh whose frames travel through a :class:`Wire`; ``run(action, *args)`` runs an event at its process."""

    def __init__(self, wire: Wire, incarnation: bytes, job: int, on_message: Callable[[bytes, int, Any], None],
                 stirred: Callable[[], None], run: Callable[..., None]) -> None:
        self.wire = wire
        self.on_message = on_message
        self.on_stir = stirred  # after an event: the process takes a turn
        self.run = run
        self.remote_endpoint = ""
        super().__init__(incarnation, job, LOCAL + incarnation.hex(), codec.encode, codec.decode,
                         lambda: wire.net.now, limits=LIMITS)
        wire.open(self)

    def _open(self, bind_endpoint: str | None) -> None:
        self.endpoint = bind_endpoint or ""
        self._inbound = _Socket(self, dialling=False)
        self._out = Outbound(_Socket(self, dialling=True), self.incarnation, self.limits, self.counters)
        self._outbound = self._out.socket
        self._send_in, self._send_out = self._inbound.send, self._outbound.send

    def serve_tcp(self, host: str = "", ports: tuple[int, int] = (0, 0), advertise: str = "") -> str:
        if not self.remote_endpoint:
            self.remote_endpoint = REMOTE + self.incarnation.hex()
            self.wire.listeners[self.remote_endpoint] = self.incarnation
        return self.remote_endpoint

    def dialled_peers(self) -> set[bytes]:
        return set(self._out.at.values())

    def dialled_at(self, peer: bytes) -> str:
        """The endpoint of our own connection to a peer, '' for none."""
        record = self._records.get(peer)
        return record.dialled.endpoint if record is not None and record.dialled is not None else ""

    def arrived(self, source: bytes, item: tuple[bool, bytes]) -> None:
        self.run(self._arrived, source, item)

    def _arrived(self, source: bytes, item: tuple[bool, bytes]) -> None:
        by_dialler, frame = item
        if by_dialler:
            self._comes_by(source, source)
        elif not self.dialled(source):
            return  # closed meanwhile
        self._on_frame(source, frame, self.clock(), self.on_message)
        if frame[_FLAGS] != ACK or self._outbox:  # an acknowledgement alone needs no turn
            self.on_stir()

    def peer_closed(self, peer: bytes) -> None:
        if self.dialled(peer) and not self.closed:
            self._lost(peer)
            self.on_stir()

    def answered(self, peer: bytes) -> None:
        if self.dialled(peer) and not self.closed:
            self.on_answers(peer)

    def turned_away(self, peer: bytes) -> None:
        if self.dialled(peer) and not self.closed:
            self.on_turned_away(peer)
            self.on_stir()

    def unacknowledged(self) -> int:
        return sum(r.session.unacked() for r in self._records.values() if r.session is not None)

    def report_closed(self) -> None:
        if self._closing:
            self._report_closed(self.clock())


class FrameNetwork(SimNetwork):
    """A network of frames: its trace is made of their bytes, which costs a tenth of repr()."""

    def trace_delivery(self, source: bytes, target: bytes, message: Any) -> None:
        self._trace.update(_WHEN.pack(self.now) + source + target + message[1])
