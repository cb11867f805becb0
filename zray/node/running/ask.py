"""Queries to a running node: for commands, tests and ``Cluster``, which are no drivers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from zray.base import ids, stacks
from zray.node.running import launch, session as sessions
from zray.transport.mesh import Mesh
from zray.wire import codec
from zray.wire.messages import FEATURES, PROTOCOL, Because, Bye, Hello, NodeAnswer, NodeQuery, Why

QUERY_TIMEOUT_S = 10.0
STACK_TIMEOUT_S = 2.0
ALIVE_LOOK_S = 0.5  # while a question waits, look this often whether the process of the node still runs


class NodeClient:
    """A connection to a node that only asks; it is no driver and starts no job."""

    def __init__(self, address: str):
        self.handle = launch.find_session(address, asks=True)
        me = ids.driver_incarnation(self.handle.node)
        self.mesh = Mesh(me, 0, None, codec.encode, codec.decode, time.monotonic)
        self.mesh.connect(self.handle.node, self.handle.endpoint)
        self._numbers = count(1)
        self._send(self._hello())

    @staticmethod
    def _hello() -> Hello:
        python = ".".join(map(str, sys.version_info[:3]))
        return Hello(PROTOCOL, "tool", "", os.getpid(), 0, python, list(FEATURES))

    def _send(self, message: Any) -> None:
        self.mesh.send(self.handle.node, message.CODE, message)

    def ask(self, what: str, timeout_s: float = QUERY_TIMEOUT_S, **args: Any) -> dict[str, Any]:
        """The node's answer to a NodeQuery; RuntimeError when it does not come."""
        number = next(self._numbers)
        self._send(NodeQuery(number, what, args))
        found = self._await(lambda _, message: type(message) is NodeAnswer and message.request == number, timeout_s)
        if found is None:
            where = self.handle.session_dir
            if not self.handle.session.alive():
                raise RuntimeError(f"the node in {where} has ended")
            raise RuntimeError(f"the node in {where} did not answer within {timeout_s:g} s")
        if "error" in found.answer:
            raise RuntimeError(found.answer["error"])
        return found.answer

    def ask_all(self, questions: Sequence[tuple[str, dict[str, Any]]], timeout_s: float = QUERY_TIMEOUT_S
                ) -> list[dict[str, Any] | None]:
        """The answers to several questions, asked at once: nodes that do not answer delay them all together only once.

        None for an answer that has not come in time.
        """
        numbers = [next(self._numbers) for _ in questions]
        for number, (what, args) in zip(numbers, questions, strict=True):
            self._send(NodeQuery(number, what, args))
        found: dict[int, dict[str, Any]] = {}

        def is_last(peer: bytes, message: Any) -> bool:
            if type(message) is NodeAnswer and message.request in numbers:
                found[message.request] = message.answer
            return len(found) == len(numbers)

        self._await(is_last, timeout_s)
        return [found.get(number) for number in numbers]

    def _await(self, wanted: Callable[[bytes, Any], bool], timeout_s: float) -> Any:
        """The first message that ``wanted`` accepts; None when none comes in time."""
        found: list[Any] = []

        def on_message(peer: bytes, code: int, message: Any) -> None:
            if wanted(peer, message):
                found.append(message)

        self.mesh.flush()
        deadline = time.monotonic() + timeout_s
        while not found and time.monotonic() < deadline:
            self.mesh.poll(0.0 if self.mesh.readable() else min(ALIVE_LOOK_S, deadline - time.monotonic()))
            self.mesh.drain(on_message)
            self.mesh.flush()
            if not found and not self.handle.session.alive():
                return None  # it was killed: no answer comes
        return found[0] if found else None

    def ask_process(self, socket: str, what: bytes = stacks.ASK, timeout_s: float = STACK_TIMEOUT_S,
                    session_dir: str = "") -> Because | None:
        """The answer to Why of the driver or worker behind a socket of a session directory; None for no answer."""
        peer = bytes.fromhex(socket[2:-len(".sock")])
        self.mesh.connect(peer, f"ipc://{session_dir or self.handle.session_dir}/{socket}")
        number = next(self._numbers)  # a late answer is not taken for the answer to the next question
        for message in (self._hello(), Why(number, what)):
            self.mesh.send(peer, message.CODE, message)
        found = self._await(lambda sender, message: sender == peer and type(message) is Because
                            and message.request == number, timeout_s)
        self.mesh.disconnect(peer)
        return found  # type: ignore[no-any-return]

    def tell_process(self, socket: str, message: Any, session_dir: str = "") -> bool:
        """Send a message to a driver or worker; whether it has read it: an answer to a later question says so."""
        peer = bytes.fromhex(socket[2:-len(".sock")])
        self.mesh.connect(peer, f"ipc://{session_dir or self.handle.session_dir}/{socket}")
        number = next(self._numbers)
        for each in (self._hello(), message, Why(number, stacks.ASK)):
            self.mesh.send(peer, each.CODE, each)
        found = self._await(lambda sender, answer: sender == peer and type(answer) is Because
                            and answer.request == number, QUERY_TIMEOUT_S)
        self.mesh.disconnect(peer)
        return found is not None

    def tell_node(self, message: Any) -> None:
        """Send a message to the node, and wait until it has read it."""
        self._send(message)
        self.ask("received")

    def ask_why(self, peer: bytes, what: bytes, endpoint: str, deadline: float) -> tuple[str, list[Any]]:
        """The knowledge of a process of this machine about a wait, as zray.core.waits.explaining needs it."""
        for directory in self.directories():
            for socket in (f"w-{peer.hex()}.sock", f"d-{peer.hex()}.sock"):
                if os.path.exists(os.path.join(directory, socket)):
                    answer = self.ask_process(socket, what, session_dir=directory)
                    return (answer.text, answer.found) if answer is not None else ("", [])
        return "", []

    def directories(self) -> list[str]:
        """The session directories of the nodes of this cluster on this machine; that of the node first."""
        own = self.handle.session
        others = [session.session_dir for session in sessions.live_sessions()
                  if own.cluster and session.cluster == own.cluster and session.session_dir != own.session_dir]
        return [own.session_dir, *others]

    def ask_of_actor(self, actor: bytes, deadline: float) -> int | None:
        return self.ask("explain", actor=actor).get("cause")

    def close(self) -> None:
        self._send(Bye("the command is done"))
        self.mesh.close(100)
