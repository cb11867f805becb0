"""The gate decides about connections by TCP.  One thread for each context with a TCP socket; other contexts have none.

libzmq asks it about each handshake (ZAP, RFC 27) and reports each connection to it (a socket
monitor).  It has a thread of its own because a worker that runs user code must still answer.  While
that code holds the GIL it answers no question, and no connection is admitted.

The cost of a peer before it has proved its key, and the bounds of that cost:

    a descriptor, about 10 kB    HANDSHAKE_IVL closes it; beyond ``connections_max`` a new connection is shut at once
    a message of the handshake   MAXMSGSIZE, and the bytes that it can send within HANDSHAKE_IVL
    a question to this thread    one after the other; the kernel's backlog bounds the connections that wait to be
                                 accepted

A listener's connections die with it in libzmq, so it cannot pause.  Therefore connections beyond
the cap are accepted and shut.
"""

from __future__ import annotations

import os
import resource
import socket as sockets
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import zmq

from zray.transport import curve

ZAP = "inproc://zeromq.zap.01"
DOMAIN = b"zray"
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_MONITOR_STOPPED
_PROBE_MS = 2000


class Gate:
    """Answers ZAP for a context and watches the connections of its TCP socket.

    ``allowed(public_key)`` returns a principal, '' to refuse; it is called in the gate's thread.
    """

    def __init__(self, context: zmq.Context, allowed: Callable[[bytes], str] | None, connections_max: int):
        self.counters: Counter[str] = Counter()  # written by the gate's thread only
        self._allowed = allowed
        self._connections: set[int] = set()
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.connections_max = max(1, min(connections_max, descriptors // 2))
        self._port = 0
        self._context = context
        self._zap: Any = None
        if allowed is not None:
            self._zap = context.socket(zmq.REP)
            self._zap.setsockopt(zmq.LINGER, 0)
            self._zap.bind(ZAP)  # before any bind that asks: libzmq looks for the gate at each handshake
        self._monitor: Any = None
        self._thread: threading.Thread | None = None

    def watch(self, socket: Any) -> None:
        """The socket to bind to TCP; made before its bind."""
        address = f"inproc://zray-gate-{os.urandom(8).hex()}"  # a name stays taken for a while after its socket
        socket.monitor(address, _EVENTS)
        self._monitor = self._context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(address)

    def start(self, port: int) -> None:
        """Serve.  The sockets belong to the thread from here on."""
        self._port = port
        self._thread = threading.Thread(target=self._run, name="zray-gate", daemon=True)
        self._thread.start()

    def abandon(self) -> None:
        """Close a gate that was not started."""
        if self._zap is not None:
            try:
                self._zap.unbind(ZAP)  # at once; close() alone leaves the name taken for a moment
            except zmq.ZMQError:
                pass  # the context is terminated
        for socket in (self._zap, self._monitor):
            if socket is not None:
                socket.close(0)

    def join(self) -> None:
        """Wait for the thread, which ends when its context is terminated."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            poller = zmq.Poller()
            for socket in (self._zap, self._monitor):
                if socket is not None:
                    poller.register(socket, zmq.POLLIN)
            while True:
                for socket, _ in poller.poll():
                    if socket is self._zap:
                        self._answer()
                    else:
                        self._on_event()
        except zmq.ZMQError:
            pass  # the context is terminated, and waits until these are closed
        finally:
            self.abandon()

    def _answer(self) -> None:
        request = self._zap.recv_multipart()
        sequence = request[1] if len(request) > 1 else b""
        principal = self._principal(request)
        self.counters["let_in" if principal else "turned_away"] += 1
        status, text = (b"200", b"OK") if principal else (b"400", b"this key is not listed")
        self._zap.send_multipart([b"1.0", sequence, status, text, principal, b""])

    def _principal(self, request: list[bytes]) -> bytes:
        if len(request) != 7 or request[0] != b"1.0" or request[2] != DOMAIN or request[5] != b"CURVE":
            return b""
        assert self._allowed is not None
        try:
            return self._allowed(request[6]).encode()[:255]
        except Exception:  # an unreadable list admits no peer, and must not end the thread
            self.counters["errors"] += 1
            return b""

    def _on_event(self) -> None:
        head, _ = self._monitor.recv_multipart()
        event, fd = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:6], "little")
        if event == zmq.EVENT_ACCEPTED:
            self.counters["accepted"] += 1
            self._connections.add(fd)
            if len(self._connections) > self.connections_max:
                self.counters["shut"] += 1
                shut(fd, self._port)
        elif event == zmq.EVENT_DISCONNECTED:
            self._connections.discard(fd)

    def connections(self) -> int:
        """How many connections are open, as far as the gate knows."""
        return len(self._connections)


def shut(fd: int, port: int) -> None:
    """Shut the connection with descriptor ``fd``, if it was accepted at ``port``.

    libzmq's I/O thread owns the descriptor and may close it at any time: so look at a duplicate, and only shut it.
    """
    try:
        copy = os.dup(fd)
    except OSError:
        return
    try:
        connection = sockets.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return
    with connection:
        try:
            if connection.family in (sockets.AF_INET, sockets.AF_INET6) and connection.getsockname()[1] == port:
                connection.shutdown(sockets.SHUT_RDWR)
        except OSError:
            pass


def probe(context: zmq.Context, endpoint: str) -> None:
    """RuntimeError when an unlisted key is admitted at ``endpoint``: this libzmq does not ask the gate.

    A CURVE server without ZAP admits every client that knows its public key, without a report.
    """
    address, server_key = curve.parse_endpoint(endpoint)
    unlisted = curve.new_keys()
    socket = context.socket(zmq.DEALER)
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    try:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, int("[" in address))
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, unlisted.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, unlisted.secret)
        socket.connect(address)
        # A missing answer is as good as a refusal: no peer is admitted then.
        if monitor.poll(_PROBE_MS):
            event = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                raise RuntimeError(f"the ZeroMQ here (libzmq {zmq.zmq_version()}) lets strangers in: it does not ask "
                                   "its authentication handler, so zray does not open a TCP port")
    finally:
        socket.disable_monitor()
        monitor.close(0)
        socket.close(0)
