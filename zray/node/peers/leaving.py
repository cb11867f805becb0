"""How a node leaves its cluster: it accepts no new work, lets work for others finish, hands its data over, and ends.

    begin       it announces the leave to the others (NodeLeave) and in its row ("draining"): no node places anything
                here any more; leases of other nodes' owners are recalled
    drained     those are back, and other nodes have the objects that only this one had: its parts of the control
                store go to others, the row has "left", and this process ends.  Unfinished work is run again
                elsewhere, as after a death
    deserted    every other node is leaving as well: no heir is left, so it ends at once; the first voter only when
                the others have ended, so that they can still write their rows

Bounded: DRAIN_S_MAX without objects moving, HAND_OVER_S_MAX with, and LEAVE_S_MAX for the control
store after that, whatever the others do.  The reason in the row names the objects that are left
behind then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from zray.gcs.configuration.config import ClusterConfig
from zray.node.peers.cluster import PeerNodes
from zray.store.transfer.exchange import HandoverProgress

DRAIN_S_MAX = 2.5
LEAVE_S_MAX = 1.5  # with DRAIN_S_MAX below launch.STOP_TIMEOUT_S, after which ``zray stop`` kills the node
HAND_OVER_S_MAX = 60.0  # 20 to 30 GB over one link
LEAVE_LOOK_S = 0.02  # how often to look at the progress

NOTHING_TO_HAND_OVER = HandoverProgress(done=True)


class LeavingNode(Protocol):
    """The part of a node's machine that this needs."""

    incarnation: bytes
    cluster: PeerNodes

    def drain(self, now: float) -> None: ...

    def drained(self) -> bool: ...


class ControlParts(Protocol):
    """The part of the control store that this needs: see zray.gcs.service."""

    @property
    def config(self) -> ClusterConfig: ...

    def drain(self, reason: str) -> None: ...

    def leave(self, reason: str, then: Callable[[], None]) -> None: ...


class NodeDeparture:
    """One planned leave.  ``gone()`` is called once, when the process may end."""

    def __init__(self, why: str, machine: LeavingNode, gcs: ControlParts, leavers: set[bytes], ended: set[bytes],
                 gone: Callable[[], None], now: float, hand_over: Callable[[set[bytes]], HandoverProgress]):
        """``leavers``, ``ended``: nodes that announced a leave, or whose endpoints refuse
        connections (kept by the caller).  ``hand_over(heirs)``: copy our objects to the heirs;
        returns the progress."""
        self.why = why
        self.handed = NOTHING_TO_HAND_OVER
        self._leavers = leavers
        self._ended = ended
        self._machine = machine
        self._gcs = gcs
        self._gone = gone
        self._hand_over = hand_over
        self._drain_until = now + DRAIN_S_MAX
        self._hand_over_until = now + HAND_OVER_S_MAX
        self._leave_until: float | None = None  # set once the control store is being handed over
        self._look_at: float | None = None
        self._over = False
        gcs.drain(why)
        machine.drain(now)

    def step(self, now: float) -> None:
        """Do the steps that are possible now."""
        if self._over:
            return
        if self._all_others_leave() or self._leave_until is not None and now >= self._leave_until:
            self._end()
        elif self._leave_until is None and (self._handed_over(now) and self._machine.drained()
                                            or now >= self._drain_until):
            self._leave_until = now + LEAVE_S_MAX
            self._gcs.leave(self.why + self._left_behind(), self._end)

    def _handed_over(self, now: float) -> bool:
        before, self.handed = self.handed, self._hand_over(self._stay())
        if self.handed.moved != before.moved or self.handed.kept != before.kept:
            self._drain_until = min(max(self._drain_until, now + DRAIN_S_MAX), self._hand_over_until)
        self._look_at = None if self.handed.done else now + LEAVE_LOOK_S
        return self.handed.done

    def _left_behind(self) -> str:
        handed = self.handed
        if not handed.left:
            return ""
        return (f"; objects left behind: {handed.left} ({handed.left_bytes:,} bytes), "
                f"handed over: {handed.kept} ({handed.kept_bytes:,} bytes)")

    def next_deadline(self) -> float | None:
        if self._over:
            return None
        if self._leave_until is not None:
            return self._leave_until
        return self._drain_until if self._look_at is None else min(self._look_at, self._drain_until)

    def _stay(self) -> set[bytes]:
        return self._machine.cluster.peers.keys() - self._ended - self._leavers

    def _all_others_leave(self) -> bool:
        if self._stay():
            return False
        others = self._machine.cluster.peers.keys() - self._ended
        return not others or self._gcs.config.voters[0] != self._machine.incarnation

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._gone()
