"""Messages of daemons that came before the daemon's row of the nodes table: kept until the row comes.  Pure.

A node sends to all others as soon as it has joined, and they learn of it from the nodes table, each
in its own time. Their sessions have acknowledged its messages, so it never sends them again.
Without this a ProcessGone that came early was lost, and the objects of that process were never
freed.  A node that joins here sends nothing before its NodeJoin: earlier messages are refused.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

# Of all unknown daemons together.  More are refused: a process with a ticket that is no node may send them.
EARLY_MESSAGES_MAX = 1000
# The control store admits a node, and writes its row, within less, or not at all (member.ADMIT_S).
EARLY_KEPT_S = 15.0


class EarlyMessages:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._of: dict[bytes, list[tuple[int, Any]]] = {}
        self._until: dict[bytes, float] = {}  # oldest first
        self._count = 0

    def keep(self, peer: bytes, code: int, message: Any, now: float) -> bool:
        """False when there are too many."""
        if self._count >= EARLY_MESSAGES_MAX:
            return False
        self._of.setdefault(peer, []).append((code, message))
        self._until.setdefault(peer, now + EARLY_KEPT_S)
        self._count += 1
        return True

    def take(self, peer: bytes) -> list[tuple[int, Any]]:
        """The messages of that daemon, in order; they are removed here."""
        kept = self._of.pop(peer, [])
        self._until.pop(peer, None)
        self._count -= len(kept)
        return kept

    def of(self, known: Container[bytes]) -> list[bytes]:
        """Daemons among ``known`` that have sent messages."""
        return [peer for peer in self._of if peer in known]

    def overdue(self, now: float) -> list[bytes]:
        """Daemons that did not become known in time."""
        return [peer for peer, until in self._until.items() if until <= now]

    def next_deadline(self) -> float | None:
        return next(iter(self._until.values()), None)

    def check(self) -> None:
        assert self._of.keys() == self._until.keys() and self._count == sum(map(len, self._of.values()))
