"""Making ROUTER sockets, and the security of each of their connections.

libzmq copies a socket's options when it binds or connects.  So one outbound ROUTER dials ipc
without CURVE and each TCP peer with that peer's key.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import zmq

from zray.base.config import DEFAULTS, Config
from zray.base.named_tuples import NamedTuple

if TYPE_CHECKING:
    from zray.transport.curve import Endpoint, Keys


class Limits(NamedTuple):
    """Bounds of a mesh.  Those that are settings have their numbers, and the reasons for them, in zray.base.config."""

    session_frames_max: int = DEFAULTS.session_frames_max
    session_bytes_max: int = DEFAULTS.session_bytes_max
    frame_bytes_max: int = DEFAULTS.frame_bytes_max
    message_bytes_max: int = 1024 * 1024 * 1024  # a larger frame closes the connection it comes from
    drain_frames_max: int = 256  # frames that are handled in one turn of the loop, per socket
    resend_s: float = 1.0
    ack_delay_s: float = 0.2
    departed_max: int = 8192  # incarnations remembered as gone
    farewell_s: float = 0.1  # how long to wait for the second connection of a peer whose first has closed
    held_messages_max: int = DEFAULTS.held_messages_max
    via_max: int = 65536  # peers that are reached through another
    ipc_backlog: int = 4096  # as many workers as a node may start at once dial it before it accepts the first
    # of TCP connections
    tcp_message_bytes_max: int = 256 * 1024 * 1024  # a peer before its proof, too, can make libzmq allocate as much
    handshake_s: float = DEFAULTS.tcp_handshake_s
    dial_s: float = 5.0  # for the part of the kernel in a connection
    heartbeat_s: float = 2.0
    heartbeat_timeout_s: float = 10.0  # a host that is silent for this long is cut off; nodes that die show sooner
    connections_max: int = DEFAULTS.tcp_connections_max
    backlog: int = 1024
    # of ways through shared memory, which only core processes have (zray.transport.shared)
    channels_max: int = 0
    spin_s: float = 0.0
    reports_answers: bool = False  # on_answers for each dial whose handshake succeeds: node daemons judge by it

    @classmethod
    def of(cls, config: Config, **others: Any) -> Limits:
        """The bounds from a session's settings; ``others`` are no settings."""
        return cls(config.session_frames_max, config.session_bytes_max, config.frame_bytes_max,
                   held_messages_max=config.held_messages_max, handshake_s=config.tcp_handshake_s,
                   connections_max=config.tcp_connections_max, **others)


def make_router(context: zmq.Context, limits: Limits) -> Any:  # pyzmq's stubs say int | bytes for every option
    socket: Any = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.BACKLOG, limits.ipc_backlog)  # a full one refuses a local dial at once (EAGAIN)
    for_ipc(socket, limits)
    return socket


def for_tcp(socket: Any, limits: Limits) -> None:
    """Options of the TCP connections made or accepted from now on."""
    socket.setsockopt(zmq.HANDSHAKE_IVL, int(limits.handshake_s * 1000))
    socket.setsockopt(zmq.CONNECT_TIMEOUT, int(limits.dial_s * 1000))
    socket.setsockopt(zmq.HEARTBEAT_IVL, int(limits.heartbeat_s * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(limits.heartbeat_timeout_s * 1000))
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.tcp_message_bytes_max)
    socket.setsockopt(zmq.RCVHWM, _high_water(limits))


def for_ipc(socket: Any, limits: Limits) -> None:
    """Undo for_tcp() and as_client() for the connections made from now on."""
    socket.setsockopt(zmq.CURVE_SERVER, 0)  # libzmq: this sets the mechanism back to NULL
    socket.setsockopt(zmq.HANDSHAKE_IVL, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.message_bytes_max)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, _high_water(limits))


def _high_water(limits: Limits) -> int:
    """The credit of sessions stays below it; it bounds relayed frames, and peers that read nothing or flood."""
    return max(1024, 4 * limits.session_frames_max)


def as_client(socket: Any, endpoint: Endpoint, keys: Keys | None) -> None:
    """The next connect goes to ``endpoint``: with its key, or plain where it has none."""
    socket.setsockopt(zmq.IPV6, int("[" in endpoint.address))
    socket.setsockopt(zmq.CURVE_SERVER, 0)
    if endpoint.key:
        assert keys is not None
        socket.setsockopt(zmq.CURVE_SERVERKEY, endpoint.key)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def as_server(socket: Any, keys: Keys, domain: bytes) -> None:
    """Later binds prove ``keys`` and ask the gate about every client."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, domain)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def bind_first_free(socket: Any, host: str, ports: tuple[int, int]) -> int:
    """Bind to the first free port of the range, (0, 0) for any; returns it.  The OSError names the ports in use."""
    first, last = ports
    if not 0 <= first <= last <= 65535 or (first == 0 and last != 0):
        raise ValueError(f"a range of ports is two numbers from 1 to 65535, the smaller first, not {first}-{last}")
    place = f"[{host}]" if ":" in host else host
    for port in range(first, last + 1):
        try:
            socket.bind(f"tcp://{place}:{port}")
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise OSError(error.errno, f"cannot listen at {place}:{port}: {error.strerror}") from None
        return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    which = f"port {first} is" if first == last else f"all ports from {first} to {last} are"
    raise OSError(errno.EADDRINUSE, f"{which} in use at {place}")
