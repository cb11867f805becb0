"""Which leases to recall so that holders share with waiting entries.  Pure.

A waiting entry E may have a lease of entry V recalled when V holds a resource that E lacks, and
  - V holds at least two more leases than E, or
  - E holds none, and V has no more work waiting, or has had its last lease for a turn (``turn_s``).
The key that holds most gives first, its oldest lease first.  Leases of actors and of blocked workers are never recalled
(an actor stays; a blocked worker has given its CPU away already), and each lease is recalled once.

Recalled leases that have not come back are promised to the entries whose turn is next.  So a lease is recalled only for
the part that neither free nor promised resources cover, and only if recalls can cover all that the entry lacks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING

from zray.sched.resources import GPU_COLUMN

if TYPE_CHECKING:
    from zray.sched.node.local import HeldLease, LocalScheduler
    from zray.sched.node.waiting import LeaseEntry, WaitingLane

# Lanes, and leases for their waiting entries, that one call looks at; the next call goes on.
LOOKED_AT_MAX = 64


def choose_recalls(scheduler: LocalScheduler, now: float) -> tuple[list[int], float | None]:
    """Lease numbers to recall now, and when to ask again (None: not before something happens)."""
    plan = _Plan(scheduler, now)
    if not plan.holders:
        return [], None
    first_round = _in_turn(scheduler)
    more: deque[LeaseEntry] = deque()
    # an entry that holds nothing got nothing here, so those behind it get nothing either
    hopeless: set[WaitingLane | None] = set()
    for _ in range(LOOKED_AT_MAX):
        entry = next(first_round, None) or (more.popleft() if more else None)
        if entry is None:
            break
        if entry.lane in hopeless:
            continue
        if not plan.cover(entry):
            if not entry.active and entry not in plan.gets:
                hopeless.add(entry.lane)
                if len(hopeless) >= len(scheduler.waiting.lanes):
                    break
        elif plan.gets[entry] < entry.outstanding:
            more.append(entry)
    return sorted(plan.chosen), plan.later


def _in_turn(scheduler: LocalScheduler) -> Iterator[LeaseEntry]:
    """Waiting entries, roughly in the order of the next grants; read as far as needed."""
    waiting = scheduler.waiting

    def lane_in_turn(lane: WaitingLane) -> Iterator[tuple[int, int, LeaseEntry]]:
        turn = waiting.turn_of.get(lane.job, 0)
        return ((turn, entry.ticket, entry) for entry in lane.entries if entry.outstanding)

    lanes = [lane_in_turn(lane) for lane in islice(waiting.by_age, LOOKED_AT_MAX)]
    return (entry for _, _, entry in (lanes[0] if len(lanes) == 1 else merge(*lanes)))


class _Plan:
    """Recalls chosen so far in one call."""

    def __init__(self, scheduler: LocalScheduler, now: float) -> None:
        self.now, self.turn_s = now, scheduler.turn_s
        self.later: float | None = None
        self.chosen: dict[int, HeldLease] = {}
        self.gets: dict[LeaseEntry, int] = {}  # leases that free and promised resources will give each waiting entry
        self.holders: dict[LeaseEntry, list[HeldLease]] = {}  # what each can still be asked for, oldest lease first
        self.expected = list(scheduler.view.available[0])  # free, and promised, and not spoken for
        self.gpus = scheduler.gpus.copy()  # the same for devices: enough halves do not make a whole one
        for lease in scheduler.loose.values():
            if lease.recalled:
                self._expect(lease)
            else:
                self.holders.setdefault(lease.entry, []).append(lease)

    def cover(self, entry: LeaseEntry) -> bool:
        """Recall as many leases as one more for ``entry`` takes; False, and none recalled, if all do not suffice."""
        expected, gpus = self.expected.copy(), self.gpus.copy()
        taken: list[HeldLease] = []
        while (lacking := self._lacking(entry)) is not None:
            lease = self._victim(entry, lacking)
            if lease is None:
                self.expected, self.gpus = expected, gpus
                for back in reversed(taken):
                    self.holders[back.entry].insert(0, back)
                    del self.chosen[back.number]
                return False
            self.holders[lease.entry].remove(lease)
            self.chosen[lease.number] = lease
            taken.append(lease)
            self._expect(lease)
        for column, value in entry.demand:
            self.expected[column] -= value
            if column == GPU_COLUMN:
                self.gpus.take(value)
        self.gets[entry] = self.gets.get(entry, 0) + 1
        return True

    def _lacking(self, entry: LeaseEntry) -> int | None:
        for column, value in entry.demand:
            if self.expected[column] < value or (column == GPU_COLUMN and not self.gpus.fits(value)):
                return column
        return None

    def _victim(self, entry: LeaseEntry, lacking: int) -> HeldLease | None:
        mine = entry.active + self.gets.get(entry, 0)
        best: HeldLease | None = None
        most = 0
        for holder, leases in self.holders.items():
            has = len(leases)
            if holder is entry or has <= most or (mine and has < mine + 2):
                continue
            lease = next((lease for lease in leases if any(column == lacking for column, _ in lease.using)), None)
            if lease is None:
                continue
            if has == 1 and holder.outstanding and lease.since + self.turn_s > self.now:
                ready = lease.since + self.turn_s
                self.later = ready if self.later is None else min(self.later, ready)
                continue
            best, most = lease, has
        return best

    def _expect(self, lease: HeldLease) -> None:
        for column, value in lease.using:
            self.expected[column] += value
        self.gpus.give(lease.gpus)
