"""The endpoint that Prometheus scrapes: HTTP, one answer, in the daemon's loop; nothing here blocks.

Only GET /metrics (and /) has an answer.  It shows numbers and the labels that users chose, so it binds this machine
only, unless the setting ``metrics_address`` names another address.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from zray.base.addresses import LOOPBACK
from zray.metrics.exposition import CONTENT_TYPE

CONNECTIONS_MAX = 16  # the oldest gives way: a client that sends nothing holds up nobody
REQUEST_BYTES_MAX = 8192


class Descriptors(Protocol):
    """zray.node.processes.children.Watcher."""

    def add(self, fd: int, callback: Callable[[], None]) -> None: ...
    def want_write(self, fd: int, wanted: bool) -> None: ...
    def remove(self, fd: int) -> None: ...


def parsed(address: str) -> tuple[str, int]:
    """``(host, port)`` of "host:port" or ":port"; ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"setting metrics_address takes host:port or :port, not {address!r}")
    return host.strip("[]") or LOOPBACK, int(port)


class ScrapeEndpoint:
    """See the module's docstring.  OSError when the address cannot be bound."""

    def __init__(self, watcher: Descriptors, address: str, text: Callable[[], str]):
        self._watcher = watcher
        self._text = text
        host, port = parsed(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=CONNECTIONS_MAX)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._open: dict[int, _Connection] = {}
        watcher.add(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # it has gone already, or no descriptor is free
        sock.setblocking(False)
        if len(self._open) >= CONNECTIONS_MAX:
            self._end(next(iter(self._open)))
        fd = sock.fileno()
        connection = self._open[fd] = _Connection(sock, self._text)
        self._watcher.add(fd, lambda: self._step(fd, connection))

    def _step(self, fd: int, connection: _Connection) -> None:
        if connection.step():
            self._watcher.want_write(fd, connection.is_answering)
        else:
            self._end(fd)

    def _end(self, fd: int) -> None:
        self._watcher.remove(fd)
        self._open.pop(fd).sock.close()

    def close(self) -> None:
        for fd in list(self._open):
            self._end(fd)
        self._watcher.remove(self._listener.fileno())
        self._listener.close()


class _Connection:
    """One request and its answer."""

    def __init__(self, sock: socket.socket, text: Callable[[], str]):
        self.sock = sock
        self._text = text
        self._request = b""
        self._answer = b""

    @property
    def is_answering(self) -> bool:
        return bool(self._answer)

    def step(self) -> bool:
        """Read or write what is possible now; False when the connection is over."""
        try:
            if not self._answer:
                piece = self.sock.recv(REQUEST_BYTES_MAX)
                self._request += piece
                if not piece or len(self._request) > REQUEST_BYTES_MAX:
                    return False
                if b"\r\n\r\n" not in self._request:
                    return True
                self._answer = self._respond()
            self._answer = self._answer[self.sock.send(self._answer):]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(self._answer)

    def _respond(self) -> bytes:
        words = self._request.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or words[0] not in (b"GET", b"HEAD"):
            return _http("405 Method Not Allowed", "only GET /metrics is served here\n")
        if words[1].partition(b"?")[0] not in (b"/", b"/metrics"):
            return _http("404 Not Found", "the metrics are at /metrics\n")
        answer = _http("200 OK", self._text())
        return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if words[0] == b"HEAD" else answer


def _http(status: str, body: str) -> bytes:
    data = body.encode()
    return (f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(data)}\r\n"
            "Connection: close\r\n\r\n").encode() + data
