"""Which wants for resources wait on a node, and whose turn it is.  Pure.

A *LeaseEntry* is one scheduling key of one owner, or one single placement (an actor).  Entries of one job with the same
demand stand in one *WaitingLane*, first come first served.  An entry that was served and wants more goes to the lane's
end.  The next turn is the lane of the job served longest ago, and of its lanes the one whose head waits longest.

A step cannot look at ten thousand keys.  So a lane that does not fit is filed under one thing it lacks, a (column,
units) pair, its *door*, and looked at again only when that much of the column is free.  Ten thousand keys that all wait
for a CPU are one lane under ("CPU", 1): a closed door costs one comparison.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Any

from zray.sched.resources import Demand

Door = tuple[int, int]
OPEN: Door = (-1, 0)  # lanes not tried since they came, or that fitted when last tried
HELD_BACK: Door = (-2, 0)  # lanes whose grant would use resources that are being saved up for another


class LeaseEntry:
    """One scheduling key of one owner (``token`` None), or one single placement (``token`` its name)."""

    __slots__ = ("active", "demand", "granted", "grants_seen", "held", "job", "key", "lane", "name", "named",
                 "obstacle", "owner", "queued", "reported", "strategy", "ticket", "token", "want")

    def __init__(self, owner: bytes, key: int, token: Any, job: int, named: dict[str, int], strategy: dict, name: str):
        self.owner, self.key, self.token, self.job, self.name = owner, key, token, job, name
        self.named, self.strategy = named, strategy
        self.demand: Demand = ()
        self.obstacle = ""  # why no grant will ever come, '' if one may
        self.want = self.grants_seen = self.granted = 0
        self.held: dict[int, Any] = {}  # lease number -> HeldLease
        self.active = 0  # leases held and not recalled
        self.queued = self.reported = False
        self.ticket = 0
        self.lane: WaitingLane | None = None

    @property
    def outstanding(self) -> int:
        """Leases wanted and not granted.  Grants that the owner had not seen when it sent its want are on their way."""
        left = self.want - (self.granted - self.grants_seen)
        return left if left > 0 else 0


class WaitingLane:
    """Entries of one job with one demand, in the order of their tickets."""

    __slots__ = ("demand", "door", "entries", "job", "passed_at", "patience_s")

    def __init__(self, job: int, demand: Demand, patience_s: float) -> None:
        self.job, self.demand, self.patience_s = job, demand, patience_s
        self.entries: deque[LeaseEntry] = deque()
        self.door: Door = OPEN
        self.passed_at = 0  # grants that the node had made when this lane was last served

    def head(self) -> LeaseEntry | None:
        """The first entry that still wants something; entries before it leave the lane."""
        entries = self.entries
        while entries:
            if entries[0].outstanding:
                return entries[0]
            entries.popleft().queued = False
        return None


class WaitingLanes:
    """All lanes with entries, by door, job and ticket."""

    def __init__(self, patience_s: float) -> None:
        self.lanes: dict[tuple[int, Demand], WaitingLane] = {}
        self.by_age: dict[WaitingLane, None] = {}  # served longest ago first
        self.turn_of: dict[int, int] = {}  # job -> number of the grant it was last served by
        self.grants = 0
        self._tickets = 0
        self._patience_s = patience_s
        self._doors: dict[Door, dict[int, list[tuple[int, WaitingLane]]]] = {}

    def join(self, entry: LeaseEntry) -> None:
        """The entry wants something and stands in its lane from now on; no change if it stands there already."""
        if entry.queued:
            return
        self._tickets += 1
        entry.ticket, entry.queued = self._tickets, True
        lane = self.lanes.get((entry.job, entry.demand))
        if lane is None:
            lane = self.lanes[entry.job, entry.demand] = WaitingLane(entry.job, entry.demand, self._patience_s)
            lane.passed_at = self.grants
            self.by_age[lane] = None
            lane.entries.append(entry)
            self.file(lane, OPEN)
        else:
            lane.entries.append(entry)
        entry.lane = lane

    def next(self, is_open: Callable[[Door], bool]) -> tuple[WaitingLane, LeaseEntry] | None:
        """Take out the lane whose turn it is; the caller files it again, whether it served the head or not."""
        best, best_heap, best_turn = None, None, (0, 0)
        for door, jobs in list(self._doors.items()):
            if not is_open(door):
                continue
            for job in list(jobs):
                heap = jobs[job]
                top = self._clean(heap)
                if top is None:
                    del jobs[job]
                    continue
                turn = (self.turn_of.get(job, 0), top)
                if best is None or turn < best_turn:
                    best, best_heap, best_turn = heap[0][1], heap, turn
            if not jobs:
                del self._doors[door]
        if best is None or best_heap is None:
            return None
        heappop(best_heap)
        entry = best.head()
        assert entry is not None
        return best, entry

    def _clean(self, heap: list[tuple[int, WaitingLane]]) -> int | None:
        """Drop entries that want nothing any more from the heap's top; the top's ticket, None when all left."""
        while heap:
            ticket, lane = heap[0]
            entry = lane.head()
            if entry is not None and entry.ticket == ticket:
                return ticket
            heappop(heap)
            if entry is None:
                self._drop(lane)
            else:
                heappush(heap, (entry.ticket, lane))
        return None

    def file(self, lane: WaitingLane, door: Door) -> None:
        """Put a lane (back) behind ``door``; an empty one ends."""
        entry = lane.head()
        if entry is None:
            self._drop(lane)
            return
        lane.door = door
        heappush(self._doors.setdefault(door, {}).setdefault(lane.job, []), (entry.ticket, lane))

    def served(self, lane: WaitingLane, entry: LeaseEntry) -> None:
        """The head got a grant: the job and the lane had their turn, the entry goes to the end if it wants more."""
        self.grants += 1
        self.turn_of[lane.job] = lane.passed_at = self.grants
        lane.patience_s = self._patience_s
        del self.by_age[lane]
        self.by_age[lane] = None
        lane.entries.popleft()
        entry.queued = False
        if entry.outstanding:
            self.join(entry)

    def _drop(self, lane: WaitingLane) -> None:
        del self.lanes[lane.job, lane.demand]
        del self.by_age[lane]

    def forget_job(self, job: int) -> None:
        self.turn_of.pop(job, None)

    def waiting(self) -> Iterator[LeaseEntry]:
        """All waiting entries, lane by lane."""
        for lane in self.by_age:
            for entry in lane.entries:
                if entry.outstanding:
                    yield entry

    def check(self) -> None:
        assert set(self.by_age) == set(self.lanes.values())
        filed = [(lane, door, job) for door, jobs in self._doors.items()
                 for job, heap in jobs.items() for _, lane in heap]
        assert len({lane for lane, _, _ in filed}) == len(filed), "a lane is filed twice"
        assert {lane for lane, _, _ in filed} == set(self.lanes.values()), "a lane is lost"
        for lane, door, job in filed:
            assert lane.door == door and lane.job == job
            tickets = [entry.ticket for entry in lane.entries]
            assert tickets == sorted(set(tickets)), "a lane is out of order"
            assert all(entry.queued and entry.lane is lane for entry in lane.entries)
            assert all((entry.job, entry.demand) == (lane.job, lane.demand) for entry in lane.entries)
