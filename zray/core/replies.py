"""Waiting for the answer to one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray import errors
from zray.transport.loop import Waiter

if TYPE_CHECKING:
    from zray.core.runtime import Runtime

REQUEST_TIMEOUT_S = 30.0


class Reply(Waiter):
    """``message`` is the answer, None until it is there."""

    __slots__ = ("message",)

    def __init__(self) -> None:
        super().__init__()
        self.message: Any = None


def ask_control_store(rt: Runtime, what: str, call: Callable[[Callable[[Any], None]], Any]) -> Any:
    """``call(then)`` starts a request of ``rt.gcs``; its value, or RaySystemError that says what could not be done."""
    reply = Reply()

    def arrived(answer: Any) -> None:
        reply.message = answer
        rt.loop.notify(reply)

    with rt.loop.lock:
        call(arrived)
    rt.loop.wait(reply, time.monotonic() + REQUEST_TIMEOUT_S)
    answer = reply.message
    if answer is None or answer.error:
        why = (rt.store_trouble() or "did not answer") if answer is None else answer.error
        raise errors.RaySystemError(f"{what}: the control store {why}")
    return answer.value
