"""How long a thread looks at shared memory before it blocks.  Pure: a rule over hits and misses.

A wake-up by the kernel takes 50 us and more, a look at a word 0.1 us.  But a core that spins is a core less for the
process that it waits for.  So a wait spins only while waits like it have lately been short:

    after a hit                             spin, as long as then
    after a block that was short            spin, for SHORT_BLOCKS times spin_s
    after MISSES_MAX misses                 block at once; one wait in PROBE_EVERY spins, to look again
    after a yield that took long            other processes want the cores: block at once for BUSY_WAITS waits, and for
                                            twice as many each time until a spin is a hit, at most BUSY_WAITS_MAX

A short block counts, because two processes that wake each other from blocks would else never begin to spin: each waits
for the wake-up of the other.  For the same reason that spin lasts longer than a wake-up and the work of one call.
"""

from __future__ import annotations

MISSES_MAX = 3
PROBE_EVERY = 16
BUSY_WAITS, BUSY_WAITS_MAX = 8, 512
LONG_YIELD_S = 200e-6  # a yield to nobody takes half a microsecond
SHORT_BLOCKS = 3  # a block is short within so many spins: two wake-ups, and two processes whose caches are cold


class SpinBudget:
    """``spin_s``: the usual spin; 0 for never."""

    def __init__(self, spin_s: float):
        self.spin_s = spin_s
        self._length_s = spin_s
        self._misses = 0
        self._waits = 0  # since the last spin
        self._busy = 0  # waits that are left without a spin
        self._busy_next = BUSY_WAITS  # after the next long yield

    def allowed_s(self) -> float:
        """How long the wait that begins now may spin."""
        if self._busy:
            self._busy -= 1
            return 0.0
        if self._misses < MISSES_MAX:
            return self._length_s
        self._waits += 1
        if self._waits < PROBE_EVERY:
            return 0.0
        self._waits = 0
        return self._length_s

    def hit(self) -> None:
        """A spin has ended with what was waited for."""
        self._misses = 0
        self._busy_next = BUSY_WAITS

    def missed(self) -> None:
        """A spin has ended without."""
        self._misses = min(MISSES_MAX, self._misses + 1)
        self._length_s = self.spin_s

    def blocked(self, seconds: float) -> None:
        """A block has ended with what was waited for, after so long."""
        if seconds < SHORT_BLOCKS * self.spin_s:
            self._misses = min(self._misses, MISSES_MAX - 1)
            self._length_s = SHORT_BLOCKS * self.spin_s

    def yielded(self, seconds: float) -> bool:
        """A yield in a spin took so long; True when the spin must end."""
        if seconds < LONG_YIELD_S:
            return False
        self._busy = self._busy_next
        self._busy_next = min(BUSY_WAITS_MAX, 2 * self._busy_next)
        return True
