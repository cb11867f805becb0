"""What a thread does with its rings before it blocks elsewhere: looks, spins if that pays, and says that it sleeps."""

from __future__ import annotations

import os
import time
from typing import Protocol

from zray.channels.ring import PUBLISHED, RingReader
from zray.channels.spinning import SpinBudget

LOOKS = 20  # between two yields
CROWD_LOOK_S = 0.02  # between two looks at how many processes want to run
LOAD = "/proc/loadavg"  # its fourth word: runnable/all


class Crowd:
    """Whether more processes want to run than there are cores: then a spin takes the core of another one."""

    def __init__(self) -> None:
        self._cores = len(os.sched_getaffinity(0))
        self._look_at = 0.0
        self._is_there = False
        self._load: int | None = None

    def is_there(self, now: float) -> bool:
        """``now``: of the clock; a look takes some microseconds, and is taken each CROWD_LOOK_S."""
        if now >= self._look_at:
            self._look_at = now + CROWD_LOOK_S
            try:
                if self._load is None:
                    self._load = os.open(LOAD, os.O_RDONLY | os.O_CLOEXEC)
                self._is_there = int(os.pread(self._load, 64, 0).split()[3].split(b"/")[0]) > self._cores
            except (OSError, ValueError, IndexError):
                self._is_there = False  # the system does not say: a yield that takes long will
        return self._is_there

    def close(self) -> None:
        if self._load is not None:
            os.close(self._load)
            self._load = None


class Woken(Protocol):
    """What else may end a spin."""

    woken: bool


class RingWait:
    """The waits of one process for frames in any of its rings.  ``owner.woken`` ends a spin as well."""

    def __init__(self, spin_s: float, owner: Woken):
        self.budget = SpinBudget(spin_s)
        self._crowd = Crowd()
        self._owner = owner
        self._blocked_at = 0.0

    def must_not_block(self, rings: tuple[RingReader, ...], may_spin: bool) -> bool:
        """Whether there is a frame now.  If not, the writers know that they must wake this process."""
        try:
            if may_spin and (spin_s := self.budget.allowed_s()) and not self._crowd.is_there(time.perf_counter()) \
                    and self._spin(rings, spin_s):
                return True
            if not all([ring.may_block() for ring in rings]):  # noqa: C419  (all of them must know)
                return True
        except ValueError:
            return True  # one of them was closed meanwhile: look again
        self._blocked_at = time.perf_counter()
        return False

    def close(self) -> None:
        """Nobody waits any more."""
        self._crowd.close()

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
