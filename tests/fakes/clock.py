"""A clock that a test sets."""

from __future__ import annotations


class FakeClock:
    """``now`` is the time; the test changes it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
