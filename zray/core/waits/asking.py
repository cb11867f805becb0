"""Asks other processes why something waits (zray.core.waits.explaining); zray.core.machine answers."""

from __future__ import annotations

import time

from zray.core.machine import CoreMachine
from zray.core.waits.replies import Questions
from zray.core.waits.why import Reason
from zray.transport.loop import Loop
from zray.wire import messages as m


class Whys:
    """The questions of one Runtime: a ReasonSource."""

    def __init__(self, machine: CoreMachine, loop: Loop, questions: Questions):
        self._machine = machine
        self._loop = loop
        self._questions = questions

    def ask_why(self, peer: bytes, what: bytes, endpoint: str, deadline: float) -> tuple[str, list[Reason]]:
        """Text and reasons of another process (or this one) about a wait; both empty when it does not answer."""
        machine = self._machine
        if peer == machine.process.incarnation:
            with self._loop.lock:
                return "", machine.reasons_for(what)

        def send(number: int) -> None:
            machine.connect(peer, endpoint)
            machine.send(peer, m.Why(number, what))

        message, _ = self._questions.exchange(send, deadline)
        return (message.text, message.found) if message is not None else ("", [])

    def ask_of_actor(self, actor: bytes, deadline: float) -> int | None:
        """The Cause, from the node, why an actor is not alive yet."""
        answer = self._questions.ask_node(lambda n: m.NodeQuery(n, "explain", {"actor": actor}),
                                          deadline - time.monotonic())
        return answer.answer.get("cause") if answer is not None else None
