"""How a node leaves its cluster: told so, it takes nothing new, lets what runs for others finish, hands on, goes.

    begin       it says so to the others (NodeLeave) and in its row ("draining"): nobody places anything here any more;
                leases of other nodes' owners are recalled
    drained     those are back, or DRAIN_S_MAX have passed: its parts of the control store go to others, the row says
                "left", and this process ends.  What still ran is run again elsewhere, as after a death
    deserted    every other node is leaving as well: nobody is left to hand anything to, so it ends at once; the first
                voter only when the others have ended, so that they can still write their rows

Bounded by LEAVE_S_MAX, whatever the others do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

DRAIN_S_MAX = 2.5
LEAVE_S_MAX = 4.0  # below launch.STOP_TIMEOUT_S, after which whoever stops a node kills it


class Leaving:
    """One planned leave.  ``gone()`` is called once, when the process may end."""

    def __init__(self, why: str, machine: Any, gcs: Any, leavers: set[bytes], ended: set[bytes],
                 gone: Callable[[], None], now: float):
        """``leavers``, ``ended``: nodes that said that they leave, or whose endpoints refuse connections (kept by
        the caller)."""
        self.why = why
        self._leavers = leavers
        self._ended = ended
        self._machine = machine
        self._gcs = gcs
        self._gone = gone
        self._drain_until = now + DRAIN_S_MAX
        self._leave_until = now + LEAVE_S_MAX
        self._handing_on = False
        self._over = False
        gcs.drain(why)
        machine.drain(now)

    def step(self, now: float) -> None:
        """Go on as far as possible."""
        if self._over:
            return
        if now >= self._leave_until or self._deserted():
            self._end()
        elif not self._handing_on and (now >= self._drain_until or self._machine.drained()):
            self._handing_on = True
            self._gcs.leave(self.why, self._end)

    def next_deadline(self) -> float | None:
        if self._over:
            return None
        return self._leave_until if self._handing_on else self._drain_until

    def _deserted(self) -> bool:
        others = self._machine.cluster.peers.keys() - self._ended
        if others - self._leavers:
            return False
        return not others or self._gcs.config.voters[0] != self._machine.incarnation

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._gone()
