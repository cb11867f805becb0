"""Connection attempts to other daemons' ports.  A refusal proves that the process has ended."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from zray.node.processes.children import Watcher
from zray.transport.curve import parse_endpoint, split_host_port


class Probes:
    """The attempts under way; ``answered(node, error)`` gets the result of each."""

    def __init__(self, watcher: Watcher, answered: Callable[[bytes, int], None]):
        self._watcher = watcher
        self._answered = answered
        self._sockets: dict[bytes, socket.socket] = {}

    def begin(self, node: bytes, endpoint: str) -> int | None:
        """The error (0: none) when the kernel knows it at once."""
        host, port = split_host_port(parse_endpoint(endpoint).address.removeprefix("tcp://"))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            probe = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:  # out of descriptors: the time-out of the link decides
            return error.errno or errno.EMFILE
        result = probe.connect_ex((host, port))
        if result != errno.EINPROGRESS:
            probe.close()
            return result
        self._sockets[node] = probe
        self._watcher.add(probe.fileno(), lambda: self._connected(node))
        self._watcher.want_write(probe.fileno(), True)
        return None

    def _connected(self, node: bytes) -> None:
        error = self._sockets[node].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.end(node)
        self._answered(node, error)

    def end(self, node: bytes) -> None:
        probe = self._sockets.pop(node, None)
        if probe is not None:
            self._watcher.remove(probe.fileno())
            probe.close()

    def close(self) -> None:
        for node in list(self._sockets):
            self.end(node)
