"""What a thread does with its rings before it blocks elsewhere: looks, spins if that pays, and says that it sleeps."""

from __future__ import annotations

import os
import time
from typing import Protocol

from zray.channels.ring import PUBLISHED, RingReader
from zray.channels.spinning import SpinBudget

LOOKS = 20  # between two yields


class Woken(Protocol):
    """What else may end a spin."""

    woken: bool


class RingWait:
    """The waits of one process for frames in any of its rings.  ``owner.woken`` ends a spin as well."""

    def __init__(self, spin_s: float, owner: Woken):
        self.budget = SpinBudget(spin_s)
        self._owner = owner
        self._blocked_at = 0.0

    def must_not_block(self, rings: tuple[RingReader, ...], may_spin: bool) -> bool:
        """Whether there is a frame now.  If not, the writers know that they must wake this process."""
        try:
            if may_spin and (spin_s := self.budget.allowed_s()) and self._spin(rings, spin_s):
                return True
            if not all([ring.may_block() for ring in rings]):  # noqa: C419  (all of them must know)
                return True
        except ValueError:
            return True  # one of them was closed meanwhile: look again
        self._blocked_at = time.perf_counter()
        return False

    def rung(self) -> None:
        """A writer has ended the block."""
        self.budget.blocked(time.perf_counter() - self._blocked_at)

    def _spin(self, rings: tuple[RingReader, ...], spin_s: float) -> bool:
        budget, clock, owner = self.budget, time.perf_counter, self._owner
        rounds = range(max(1, LOOKS // len(rings)))
        now = clock()
        end = now + spin_s
        while now < end:
            for _ in rounds:
                for ring in rings:
                    if ring.words[PUBLISHED] != ring.count:
                        budget.hit()
                        return True
            if owner.woken:
                return True
            before = clock()
            os.sched_yield()
            now = clock()
            if budget.yielded(now - before):
                return False
        budget.missed()
        return False
