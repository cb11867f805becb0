"""The connection of a terminal with a task in the debugger: lines of JSON over a unix socket.

    task to terminal    ["text", text]               print it
                        ["ask", prompt]              read a line
                        ["found", [word, ...]]       the answer to "complete"
                        ["end", text]                the debugger has left the task
    terminal to task    ["line", text]               the answer to "ask"
                        ["complete", text, line, begin, end]     words for the Tab key
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

MESSAGE_BYTES_MAX = 16 * 1024 * 1024  # a longer line is no answer of a person: the connection ends


class Disconnected(Exception):
    """The other side has gone."""


class DebugLine:
    """One side of a connection."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._rest = b""

    def send(self, *message: Any) -> None:
        """Disconnected when the other side has gone."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Disconnected from error

    def receive(self) -> list[Any]:
        """The next message; Disconnected at the end."""
        while b"\n" not in self._rest:
            try:
                piece = self._socket.recv(1 << 16)
            except OSError as error:
                raise Disconnected from error
            if not piece or len(self._rest) > MESSAGE_BYTES_MAX:
                raise Disconnected
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise Disconnected from error
        if not isinstance(message, list) or not message:
            raise Disconnected
        return message

    def close(self) -> None:
        self._socket.close()


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process on the other side of a unix socket, as the kernel knows them."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
