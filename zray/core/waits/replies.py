"""Questions of a core process, with the wait for the answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from zray.base import errors
from zray.core.machine import CoreMachine
from zray.transport.loop import Loop, Waiter
from zray.wire import messages as m

REQUEST_TIMEOUT_S = 30.0
TROUBLE_S = 1.0  # wait for the node's answer why the control store does not answer


class Reply(Waiter):
    """``message`` is the answer; None before it arrives."""

    __slots__ = ("message",)

    def __init__(self) -> None:
        super().__init__()
        self.message: Any = None


class Questions:
    """The questions of one Runtime to its node, other processes and the control store."""

    def __init__(self, machine: CoreMachine, loop: Loop):
        self._machine = machine
        self._loop = loop

    def request(self, make: Callable[[int], Any], timeout: float = REQUEST_TIMEOUT_S) -> Any:
        """Send ``make(request number)`` to the node and wait for its answer."""
        answer = self.ask_node(make, timeout)
        if answer is None:
            why = self.store_trouble()
            raise errors.GetTimeoutError(f"no answer within {timeout:g} s: {why}" if why else
                                         f"the node daemon did not answer within {timeout:g} s")
        return answer

    def query(self, what: str, timeout_s: float = REQUEST_TIMEOUT_S, **args: Any) -> dict[str, Any]:
        """A view of the node: see messages.NodeQuery."""
        return self.request(lambda n: m.NodeQuery(n, what, args), timeout_s).answer

    def store_trouble(self, timeout: float = TROUBLE_S) -> str:
        """The reason, from the node, why the control store does not answer; '' when the node knows none."""
        try:
            answer = self.ask_node(lambda n: m.NodeQuery(n, "gcs", {}), timeout)
        except errors.LocalRayletDiedError:
            return ""
        return str(answer.answer.get("trouble", "")) if answer is not None else ""

    def ask_node(self, make: Callable[[int], Any], timeout: float) -> Any:
        """The answer of the node; None after the timeout."""
        machine = self._machine
        if machine.submitter.lost is not None:
            raise self._lost_error()
        message, arrived = self.exchange(lambda n: machine.send(machine.process.node, make(n)),
                                         time.monotonic() + timeout)
        if message is None and arrived:
            raise self._lost_error()
        return message

    def exchange(self, send: Callable[[int], None], deadline: float) -> tuple[Any, bool]:
        """Call ``send(number)`` under the lock and wait: (the answer or None, whether the wait ended in time)."""
        reply = Reply()

        def answered(message: Any) -> None:
            reply.message = message
            self._loop.notify(reply)

        with self._loop.lock:
            number = self._machine.ask(answered)
            send(number)
        try:
            arrived = self._loop.wait(reply, deadline)
        finally:
            with self._loop.lock:
                self._machine.forget_request(number)
        return reply.message, arrived

    def _lost_error(self) -> errors.RayError:
        _, name, detail = self._machine.submitter.lost or [
            m.FAILED, "raylet_died", {"log_file": self._machine.process.node_log}]
        return errors.from_failure(name, detail)

    def ask_control_store(self, what: str, call: Callable[[Callable[[Any], None]], Any]) -> Any:
        """The value of a request to the control store; ``call(then)`` starts it.

        RaySystemError, with ``what`` in its text, when it fails; LocalRayletDiedError when our node is lost.
        """
        reply = Reply()

        def arrived(answer: Any) -> None:
            reply.message = answer
            self._loop.notify(reply)

        machine = self._machine
        with self._loop.lock:
            lost = machine.ask(lambda _: self._loop.notify(reply))  # no answer: only the loss of the node ends it
            call(arrived)
        try:
            self._loop.wait(reply, time.monotonic() + REQUEST_TIMEOUT_S)
        finally:
            with self._loop.lock:
                machine.forget_request(lost)
        answer = reply.message
        if answer is None and machine.submitter.lost is not None:
            raise self._lost_error()
        if answer is None or answer.error:
            why = (self.store_trouble() or "did not answer") if answer is None else answer.error
            raise errors.RaySystemError(f"{what}: the control store {why}")
        return answer.value
