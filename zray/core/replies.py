"""Waiting for the answer to one request."""

from __future__ import annotations

from typing import Any

from zray.transport.loop import Waiter

REQUEST_TIMEOUT_S = 30.0


class Reply(Waiter):
    """``message`` is the answer, None until it is there."""

    __slots__ = ("message",)

    def __init__(self) -> None:
        super().__init__()
        self.message: Any = None
