"""Queries to a running node: for commands, tests and ``Cluster``, which are no drivers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from zray.base import ids, stacks
from zray.node.running import launch
from zray.transport.mesh import Mesh
from zray.wire import codec
from zray.wire.messages import FEATURES, PROTOCOL, Because, Bye, Hello, NodeAnswer, NodeQuery, Why

QUERY_TIMEOUT_S = 10.0
STACK_TIMEOUT_S = 2.0


class NodeClient:
    """A connection to a node that only asks; it is no driver and starts no job."""

    def __init__(self, address: str):
        self.handle = launch.find_session(address, asks=True)
        me = ids.driver_incarnation(self.handle.node)
        self.mesh = Mesh(me, 0, None, codec.encode, codec.decode, time.monotonic)
        self.mesh.connect(self.handle.node, self.handle.endpoint)
        python = ".".join(map(str, sys.version_info[:3]))
        self._numbers = count(1)
        self._send(Hello(PROTOCOL, "tool", "", os.getpid(), 0, python, list(FEATURES)))

    def _send(self, message: Any) -> None:
        self.mesh.send(self.handle.node, message.CODE, message)

    def ask(self, what: str, timeout_s: float = QUERY_TIMEOUT_S, **args: Any) -> dict[str, Any]:
        """The node's answer to a NodeQuery; RuntimeError when it does not come."""
        number = next(self._numbers)
        self._send(NodeQuery(number, what, args))
        found = self._await(lambda _, message: type(message) is NodeAnswer and message.request == number, timeout_s)
        if found is None:
            where = self.handle.session_dir
            raise RuntimeError(f"the node in {where} did not answer within {timeout_s:g} s")
        if "error" in found.answer:
            raise RuntimeError(found.answer["error"])
        return found.answer

    def _await(self, wanted: Callable[[bytes, Any], bool], timeout_s: float) -> Any:
        """The first message that ``wanted`` accepts; None when none comes in time."""
        found: list[Any] = []

        def on_message(peer: bytes, code: int, message: Any) -> None:
            if wanted(peer, message):
                found.append(message)

        self.mesh.flush()
        deadline = time.monotonic() + timeout_s
        while not found and time.monotonic() < deadline:
            self.mesh.poll(0.0 if self.mesh.readable() else deadline - time.monotonic())
            self.mesh.drain(on_message)
            self.mesh.flush()
        return found[0] if found else None

    def tell(self, message: Any) -> None:
        """Send the node a message that has no answer; returns when the node has read it."""
        self._send(message)
        self.ask("received")

    def ask_process(self, socket: str, what: bytes = stacks.ASK, first: Sequence[Any] = ()) -> Because | None:
        """The answer to Why of the driver or worker behind a socket of the session directory; None for no answer.

        ``first``: messages that the process gets before the question, and has read when it answers.
        """
        peer = bytes.fromhex(socket[2:-len(".sock")])
        self.mesh.connect(peer, f"ipc://{self.handle.session_dir}/{socket}")
        python = ".".join(map(str, sys.version_info[:3]))
        number = next(self._numbers)  # a late answer is not taken for the answer to the next question
        for message in (Hello(PROTOCOL, "tool", "", os.getpid(), 0, python, list(FEATURES)), *first, Why(number, what)):
            self.mesh.send(peer, message.CODE, message)
        found = self._await(lambda sender, message: sender == peer and type(message) is Because
                            and message.request == number, STACK_TIMEOUT_S)
        self.mesh.disconnect(peer)
        return found  # type: ignore[no-any-return]

    def ask_why(self, peer: bytes, what: bytes, endpoint: str, deadline: float) -> tuple[str, list[Any]]:
        """The knowledge of a process of this node about a wait, as zray.core.waits.explaining needs it."""
        for socket in (f"w-{peer.hex()}.sock", f"d-{peer.hex()}.sock"):
            if os.path.exists(os.path.join(self.handle.session_dir, socket)):
                answer = self.ask_process(socket, what)
                return (answer.text, answer.found) if answer is not None else ("", [])
        return "", []

    def ask_of_actor(self, actor: bytes, deadline: float) -> int | None:
        return self.ask("explain", actor=actor).get("cause")

    def close(self) -> None:
        self._send(Bye("the command is done"))
        self.mesh.close(100)
