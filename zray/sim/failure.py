"""Exceptions of simulated tasks and reads, and the one that a check of the simulator raises."""

from __future__ import annotations

from typing import Any


class Lost(Exception):
    """No copy is left of a stored value."""

    def __init__(self, value: list[Any]) -> None:
        super().__init__(value)
        self.value = value


class ValueLost(Exception):
    """The value of a record was lost, and is made again: wait for it as for any object."""


class Failure(Exception):
    """``kind`` as in a FAILED value; ``root`` is the first cause."""

    def __init__(self, kind: str, root: str) -> None:
        super().__init__(kind, root)
        self.kind, self.root = kind, root


class Violation(AssertionError):
    """The cluster did something that it must never do."""
