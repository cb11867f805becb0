"""A simulated driver whose program is the test itself."""

from __future__ import annotations

from zray.sim.driver import SimDriver


class Quiet(SimDriver):
    """A driver that does what the test tells it to."""

    def _main(self):
        self.finished = True
        yield from ()
