"""Back-pressure of a running generator: how far it is ahead of its consumer (pure)."""

from __future__ import annotations

from collections.abc import Callable


class Production:
    """One running generator; ``wake`` is called once, when the consumer has taken more items."""

    __slots__ = ("limit", "consumed", "wake")

    def __init__(self, limit: int):
        self.limit = limit  # items that may be unconsumed; 0: any number
        self.consumed = 0
        self.wake: Callable[[], object] | None = None

    def is_ahead(self, made: int) -> bool:
        """Whether the generator must wait for its consumer after ``made`` items."""
        return self.limit > 0 and made - self.consumed >= self.limit

    def acknowledge(self, consumed: int) -> None:
        if consumed <= self.consumed:
            return
        self.consumed = consumed
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()
