"""The turns and the timer of a core process's machine, and when finalisers may wake its loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from zray.core.machine import CoreMachine
from zray.handles import refs as refs_module
from zray.transport.loop import Loop

DROP_EVERY_S = 0.005  # a sleeping process looks at dropped references this often at most


class Turns:
    """The turns of one Runtime."""

    def __init__(self, machine: CoreMachine, loop: Loop):
        self._machine = machine
        self._loop = loop
        self._tick_handle: Any = None
        self._rearm: Any = None  # the timer after which finalisers may wake a sleeping process again
        loop.on_turn = self.turn

    def turn(self) -> None:
        """Once a turn, before the flush: release dropped references, push tasks."""
        loop, machine = self._loop, self._machine
        now = time.monotonic()
        if loop.service_leads:
            # The service thread is about to sleep: finalisers may wake it, at most every few milliseconds.
            if self._rearm is None and not refs_module.wake.armed:
                self._rearm = loop.call_at(now + DROP_EVERY_S, self._arm_wake)
        else:
            refs_module.wake.armed = False
        machine.turn(now)
        if self._tick_handle is None and machine.is_timed:
            self._arm_tick()

    def _arm_wake(self) -> None:
        self._rearm = None
        if self._loop.service_leads:
            if self._machine.dropped:
                self._machine.empty_dropped()
            refs_module.wake.armed = True

    def _arm_tick(self) -> None:
        deadline = self._machine.next_deadline()
        if deadline is not None:
            self._tick_handle = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._tick_handle = None
        self._machine.tick(time.monotonic())
        self._arm_tick()

    def kick(self) -> None:
        """Send the queued messages now, no matter which thread polls."""
        with self._loop.lock:
            self.turn()
            self._loop.kick()

    def later(self, seconds: float, action: Callable[[], None]) -> Any:
        """Call ``action()`` after ``seconds``, under the lock."""
        return self._loop.call_at(time.monotonic() + seconds, action)
