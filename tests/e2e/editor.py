"""An editor, as debugpy sees it: the few requests of the Debug Adapter Protocol that a stop needs."""

from __future__ import annotations

import json
import socket
from typing import Any


class Editor:
    """Attached to a port; :meth:`stopped` and :meth:`run_on` serve one stop."""

    def __init__(self, port: int):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._file = self._socket.makefile("rb")
        self._number = 0
        self._ask("initialize", adapterID="zray", pathFormat="path")
        self._send("attach", justMyCode=False)
        self._await("event", "initialized")
        self._ask("configurationDone")

    def stopped(self) -> tuple[str, int]:
        """(function, line) of the innermost frame of the thread that has stopped."""
        self._thread = self._await("event", "stopped")["body"]["threadId"]
        frame = self._ask("stackTrace", threadId=self._thread)["body"]["stackFrames"][0]
        return frame["name"], frame["line"]

    def run_on(self) -> None:
        self._ask("continue", threadId=self._thread)
        self._ask("disconnect", terminateDebuggee=False)
        self._file.close()
        self._socket.close()

    def _send(self, command: str, **arguments: Any) -> None:
        self._number += 1
        body = json.dumps({"seq": self._number, "type": "request", "command": command, "arguments": arguments}).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        self._send(command, **arguments)
        found = self._await("response", command)
        assert found["success"], found
        return found

    def _await(self, kind: str, name: str) -> dict[str, Any]:
        while True:
            length = 0
            while (header := self._file.readline().strip()):
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            assert length, f"the connection ended before {name}"
            message = json.loads(self._file.read(length))
            if message["type"] == kind and message.get(kind if kind == "event" else "command") == name:
                return message
