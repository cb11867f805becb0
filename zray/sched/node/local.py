"""LocalScheduler: which owner gets a worker of this node next, and which resources that worker may use.  Pure.

Owners declare scheduling keys and the number of leases that each could use; actors are single requests.  ``step(now)``
returns Grant, Recall and Status effects:

    declare/want/request -> waiting --Grant--> held --release--> gone        revoke: held -> waiting again
                               |                 |--Recall (once)             block/unblock: lends its CPU meanwhile
                               `--Status         `--resize (an actor's running demand)

Fair: turns go round over jobs, then keys (zray.sched.node.waiting).  Work-conserving: a wanted lease that fits is
granted, with one exception.  Smaller demands may keep taking the resources that a larger one needs.  After PASSED_MAX
grants to others its resources are saved up for a bounded time, doubled whenever that was not enough, so no demand
starves. Holders share: see zray.sched.node.recalls.

A worker that blocks lends its CPU and nothing else.  When it runs on it takes the CPU back at once, even below zero;
then no demand for CPU is granted until that is paid back.

Call ``step`` after every batch of events, and at ``deadline()`` if no event comes before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count, islice
from typing import Any

from zray.base.causes import Cause
from zray.base.named_tuples import NamedTuple
from zray.sched import policies
from zray.sched.node.gpus import GpuPool, Slices
from zray.sched.node.recalls import choose_recalls
from zray.sched.node.waiting import HELD_BACK, OPEN, Door, LeaseEntry, WaitingLane, WaitingLanes
from zray.sched.resources import CPU_COLUMN, GPU, GPU_COLUMN, UNIT, Demand, amount, amounts, checked_units, describe
from zray.sched.view import ClusterView

ROW = 0
# Grants to others after which a demand that is still waiting has its resources saved up.
PASSED_MAX = 64
# Saving up lasts this long at first: 50 times the run time up to which tasks are pushed ahead.
SAVE_S = 0.1
# A key that still has work keeps its last lease at least this long when others take turns with it: about 100 times
# the cost of handing a worker over.
TURN_S = 0.02
# Users of a resource that the text of a cause names.
USERS_SHOWN = 5


class Grant(NamedTuple):
    """A worker may start.  ``owner`` and ``key`` as declared; ``token`` as requested, None for a declared key."""

    owner: bytes
    key: int
    lease: int
    assigned: dict  # {"gpu_ids": [device id, ...], "resources": {name: float}}
    token: Any = None


class Recall(NamedTuple):
    """Ask the owner of this lease to return it as soon as nothing is in flight on it."""

    lease: int
    owner: bytes


class Status(NamedTuple):
    """Why a want is not granted; sent once until the want is satisfied or the cause changes."""

    owner: bytes
    key: int
    cause: int
    detail: str
    token: Any = None


Effect = Grant | Recall | Status


class HeldLease:
    """Resources in use by one worker."""

    __slots__ = ("demand", "entry", "gpus", "lent", "number", "recalled", "since")

    def __init__(self, number: int, entry: LeaseEntry, demand: Demand, gpus: Slices, since: float) -> None:
        self.number, self.entry, self.demand, self.gpus, self.since = number, entry, demand, gpus, since
        self.lent: Demand | None = None  # the CPU given to others while blocked; None when not blocked
        self.recalled = False

    @property
    def using(self) -> Demand:
        """The demand in use right now."""
        return self.demand if self.lent is None else tuple(pair for pair in self.demand if pair[0] != CPU_COLUMN)

    @property
    def pinned(self) -> bool:
        """Whether waiting will not free it: an actor stays; a blocked worker may wait for those that it keeps out."""
        return self.entry.token is not None or self.lent is not None


class LocalScheduler:
    """Grants the resources of one node.  ``total`` is in units (zray.sched.resources); ``node`` is this node's id.

    ``next_lease`` numbers the leases: schedulers that share a node (its bundles', zray.sched.node.bundles) share it.
    """

    def __init__(
        self, total: dict[str, int], labels: dict[str, str] | None = None, *, node: bytes = b"node",
        gpu_ids: Sequence[int | str] | None = None, turn_s: float = TURN_S, passed_max: int = PASSED_MAX,
        next_lease: Callable[[], int] | None = None,
    ) -> None:
        self.next_lease = next_lease or count(1).__next__
        self.view = ClusterView()
        self.view.add(node, total, labels)
        self.node, self.turn_s, self.passed_max = node, turn_s, passed_max
        self.gpus = GpuPool(total.get(GPU, 0), gpu_ids)
        self.entries: dict[tuple[bytes, int], LeaseEntry] = {}
        self.requests: dict[Any, LeaseEntry] = {}
        self.leases: dict[int, HeldLease] = {}
        self.running: Callable[[], dict[int, str]] = dict  # lease -> the task that runs on it, where that is known
        self.waiting = WaitingLanes(SAVE_S)
        self.pinned: dict[int, int] = {}  # column -> units in use by pinned leases
        self.loose: dict[int, HeldLease] = {}  # leases that may be recalled, or were
        self.granted = self.returned = 0
        self._keys_of: dict[bytes, dict[int, LeaseEntry]] = {}
        self._entries_of_job: dict[int, int] = {}
        self._newly_waiting: list[LeaseEntry] = []  # began to wait since the last step
        self._changed = False
        self._saving: WaitingLane | None = None
        self._saving_until = 0.0
        self._turn_at: float | None = None

    # -------------------------------------------------------------- what owners say

    def declare(
        self, owner: bytes, job: int, key: int, demand: dict[str, int], strategy: dict | None = None, name: str = "",
    ) -> None:
        """Scheduling key ``key`` of ``owner``; repeats are harmless.  ValueError for a demand that is not one."""
        demand = checked_units(demand)
        known = self.entries.get((owner, key))
        if known is not None:
            if known.named != demand or known.job != job:
                raise ValueError(f"key {key} was declared with another demand or job")
            return
        entry = self._entry(owner, key, None, job, demand, strategy or {}, name)
        self.entries[owner, key] = entry
        self._keys_of.setdefault(owner, {})[key] = entry

    def want(self, owner: bytes, key: int, want: int, granted: int, now: float) -> None:
        """The key could use ``want`` more leases than the ``granted`` ones its owner has seen in its life.

        KeyError for a key that was not declared.
        """
        entry = self.entries[owner, key]
        entry.want = max(want, 0)
        entry.grants_seen = min(max(granted, 0), entry.granted)
        if entry.obstacle and not entry.held:  # the node's total may have changed since
            demand = self.view.index.demand(entry.named)
            entry.obstacle, entry.demand = self._obstacle(entry.named, demand, entry.strategy), demand or ()
        if entry.outstanding:
            self._wait(entry)
        else:
            entry.reported = False

    def drop_owner(self, owner: bytes) -> list[int]:
        """The owner is gone: forget its keys.  Its leases, which stay held until each is released."""
        held: list[int] = []
        for key, entry in self._keys_of.pop(owner, {}).items():
            del self.entries[owner, key]
            held.extend(entry.held)
            self._forget(entry)
        return held

    def request(
        self, token: Any, job: int, demand: dict[str, int], strategy: dict | None, now: float, name: str = "",
    ) -> None:
        """One placement (an actor).  The lease that is granted is never recalled; see ``resize``."""
        if token in self.requests:
            return
        entry = self._entry(b"", 0, token, job, checked_units(demand), strategy or {}, name)
        entry.want = 1
        self.requests[token] = entry
        self._wait(entry)

    def cancel_request(self, token: Any) -> bool:
        """Stop waiting; False when it was not (granted already, or unknown)."""
        entry = self.requests.pop(token, None)
        if entry is None:
            return False
        self._forget(entry)
        return True

    def reserve(self, token: Any, job: int, demand: dict[str, int], name: str = "") -> int | None:
        """Set ``demand`` aside at once, as a lease that has no worker and is never recalled; its number.

        None when it is not free now, or is being saved up for a waiting lane: then ``request`` it.
        """
        named = checked_units(demand)
        need = self.view.index.demand(named)
        if need is None or self._lacks(need) is not None or self._eats_savings(need):
            return None
        entry = LeaseEntry(b"", 0, token, job, named, {}, name)
        entry.demand = need
        number = self.next_lease()
        self.granted += 1
        gpus = self.gpus.take(named.get(GPU, 0))
        self.view.acquire(ROW, need)
        lease = self.leases[number] = HeldLease(number, entry, need, gpus, 0.0)
        entry.held[number] = lease
        entry.active = entry.granted = 1
        self._count_pinned(need, +1)
        return number

    # -------------------------------------------------------------- what workers do

    def release(self, lease: int, now: float) -> bool:
        """The worker of ``lease`` is done or dead: all its resources are free.  False for an unknown lease."""
        held = self.leases.pop(lease, None)
        if held is None:
            return False
        if held.pinned:
            self._count_pinned(held.using, -1)
        self.loose.pop(lease, None)
        self.view.release(ROW, held.using)
        self.gpus.give(held.gpus)
        del held.entry.held[lease]
        if not held.recalled:
            held.entry.active -= 1
        self.returned += 1
        self._changed = True
        return True

    def revoke(self, lease: int, now: float) -> bool:
        """The grant never reached its owner (no worker came up): it counts as not made, and is wanted again."""
        held = self.leases.get(lease)
        if held is None:
            return False
        self.release(lease, now)
        entry = held.entry
        entry.granted -= 1
        alive = entry.token is not None or self.entries.get((entry.owner, entry.key)) is entry
        if alive and entry.outstanding:
            if entry.token is not None:
                self.requests[entry.token] = entry
                self._entries_of_job[entry.job] = self._entries_of_job.get(entry.job, 0) + 1
            self._wait(entry)
        return True

    def resize(self, lease: int, demand: dict[str, int]) -> bool:
        """From now on the lease uses ``demand`` (an actor's running demand).

        False, and no change, when it does not fit.  A lease keeps its GPUs: ValueError for another amount of those.
        """
        held = self.leases[lease]
        named = checked_units(demand)
        new = self.view.index.demand(named)
        if new is None:
            return False
        if dict(new).get(GPU_COLUMN, 0) != sum(share for _, share in held.gpus):
            raise ValueError("a lease keeps its GPUs as long as it lives")
        blocked, old = held.lent is not None, held.using
        using = tuple(pair for pair in new if pair[0] != CPU_COLUMN) if blocked else new
        self.view.release(ROW, old)
        if not self.view.fits(ROW, _growth(old, using, self.view.index.vector)):
            self.view.acquire(ROW, old, oversubscribe=True)
            return False
        self.view.acquire(ROW, using, oversubscribe=True)
        if held.pinned:
            self._count_pinned(old, -1)
            self._count_pinned(using, +1)
        held.demand = new
        if blocked:
            held.lent = tuple(pair for pair in new if pair[0] == CPU_COLUMN)
        self._changed = True
        return True

    def block(self, lease: int) -> None:
        """The worker waits in get or wait: its CPU is free for others.  No-op for an unknown or blocked lease."""
        held = self.leases.get(lease)
        if held is None or held.lent is not None:
            return
        if held.pinned:
            self._count_pinned(held.using, -1)
        held.lent = tuple(pair for pair in held.demand if pair[0] == CPU_COLUMN)
        self.view.release(ROW, held.lent)
        self._count_pinned(held.using, +1)
        self.loose.pop(lease, None)
        self._changed = True

    def unblock(self, lease: int) -> None:
        """The worker runs on and takes its CPU back, even from others.  No-op for an unknown or running lease."""
        held = self.leases.get(lease)
        if held is None or held.lent is None:
            return
        self._count_pinned(held.using, -1)
        self.view.acquire(ROW, held.lent, oversubscribe=True)
        held.lent = None
        if held.pinned:
            self._count_pinned(held.using, +1)
        else:
            self.loose[lease] = held
        self._changed = True

    # -------------------------------------------------------------- the step

    def step(self, now: float, grants_max: int | None = None) -> list[Effect]:
        """The effects that are due now, in order.  ``grants_max``: how many workers the node can start now."""
        due = self.deadline()
        if not self._changed and (due is None or due > now):
            return []
        self._changed = False
        self._turn_at = None
        effects: list[Effect] = []
        self._save_up(now)
        while self.waiting.lanes:
            if grants_max is not None and len(effects) >= grants_max:
                self._changed = True  # stopped early: look again
                break
            grant = self._grant_next(now)
            if grant is None:
                break
            effects.append(grant)
        if self.waiting.lanes and self.loose:
            numbers, self._turn_at = choose_recalls(self, now)
            effects.extend(self._recall(number) for number in numbers)
        self._report_waits(effects)
        return effects

    def deadline(self) -> float | None:
        """When ``step`` is due even if no event comes before; None: never."""
        turn_at = self._turn_at
        if not self._saving:
            return turn_at
        return self._saving_until if turn_at is None else min(turn_at, self._saving_until)

    def _grant_next(self, now: float) -> Grant | None:
        waiting, fits = self.waiting, self._lacks
        while True:
            turn = waiting.next(self._is_open)
            if turn is None:
                return None
            lane, entry = turn
            door = fits(lane.demand)
            if door is None and lane is not self._saving and self._eats_savings(lane.demand):
                door = HELD_BACK
            if door is not None:
                waiting.file(lane, door)
                continue
            grant = self._grant(entry, now)
            waiting.served(lane, entry)
            waiting.file(lane, lane.door)
            if lane is self._saving:
                self._saving = None
            return grant

    def _grant(self, entry: LeaseEntry, now: float) -> Grant:
        number = self.next_lease()
        self.granted += 1
        gpus = self.gpus.take(entry.named.get(GPU, 0))
        self.view.acquire(ROW, entry.demand)
        lease = self.leases[number] = HeldLease(number, entry, entry.demand, gpus, now)
        entry.held[number] = lease
        entry.active += 1
        entry.granted += 1
        if entry.outstanding == 0:
            entry.reported = False
        if entry.token is not None:
            self._count_pinned(lease.demand, +1)
            del self.requests[entry.token]
            self._count_job(entry.job, -1)
        else:
            self.loose[number] = lease
        assigned = {"gpu_ids": self.gpus.named(gpus), "resources": amounts(entry.named)}
        return Grant(entry.owner, entry.key, number, assigned, entry.token)

    def _recall(self, number: int) -> Recall:
        lease = self.leases[number]
        assert not lease.recalled and lease.entry.token is None
        lease.recalled = True
        lease.entry.active -= 1
        return Recall(number, lease.entry.owner)

    def _report_waits(self, effects: list[Effect]) -> None:
        fresh, self._newly_waiting = self._newly_waiting, []
        details: dict[Demand, str] = {}
        for entry in fresh:
            if entry.reported or not entry.outstanding or not self._known(entry):
                continue
            entry.reported = True
            if entry.obstacle:
                effects.append(Status(entry.owner, entry.key, Cause.INFEASIBLE, entry.obstacle, entry.token))
                continue
            detail = details.get(entry.demand)
            if detail is None:
                detail = details[entry.demand] = self.busy(entry.demand)
            effects.append(Status(entry.owner, entry.key, Cause.RESOURCES_BUSY, detail, entry.token))

    # -------------------------------------------------------------- doors and saving up

    def _lacks(self, demand: Demand) -> Door | None:
        free = self.view.available[ROW]
        for column, value in demand:
            if free[column] < value or (column == GPU_COLUMN and not self.gpus.fits(value)):
                return column, value
        return None

    def _is_open(self, door: Door) -> bool:
        column, value = door
        if column < 0:
            return door == OPEN or self._saving is None
        if column == GPU_COLUMN and not self.gpus.fits(value):
            return False
        return self.view.available[ROW][column] >= value

    def _save_up(self, now: float) -> None:
        """Keep, end or begin saving resources for the lane passed over longest."""
        lane, waiting = self._saving, self.waiting
        if lane is not None and (waiting.lanes.get((lane.job, lane.demand)) is not lane or not self._attainable(lane)):
            lane = self._saving = None
        if lane is not None and now >= self._saving_until:
            lane.passed_at = waiting.grants
            lane.patience_s *= 2
            del waiting.by_age[lane]
            waiting.by_age[lane] = None
            lane = self._saving = None
        if lane is not None:
            return
        for lane in waiting.by_age:
            if waiting.grants - lane.passed_at < self.passed_max:
                return
            if lane.head() is not None and self._lacks(lane.demand) is not None and self._attainable(lane):
                self._saving, self._saving_until = lane, now + lane.patience_s
                return

    def _eats_savings(self, demand: Demand) -> bool:
        saving = self._saving
        if saving is None:
            return False
        free, needs = self.view.available[ROW], dict(saving.demand)
        return any(
            column in needs and (column == GPU_COLUMN or free[column] - value < needs[column])
            for column, value in demand
        )

    def _attainable(self, lane: WaitingLane) -> bool:
        """Whether it would fit once every lease that can come back has.  If not, saving up could wait for ever."""
        total = self.view.total[ROW]
        return all(total[column] - self.pinned.get(column, 0) >= value for column, value in lane.demand)

    # -------------------------------------------------------------- entries

    def _entry(self, owner: bytes, key: int, token: Any, job: int, named: dict[str, int], strategy: dict, name: str):
        entry = LeaseEntry(owner, key, token, job, named, strategy, name)
        demand = self.view.index.demand(named)
        entry.obstacle = self._obstacle(named, demand, strategy)
        entry.demand = demand or ()
        self._count_job(job, +1)
        return entry

    def _obstacle(self, named: dict[str, int], demand: Demand | None, strategy: dict) -> str:
        """Why this node can never grant it; '' when it can."""
        has = self.view.named(ROW, "total")
        for name, value in named.items():
            if has.get(name, 0) < value:
                have = f"has {amount(has[name])}" if has.get(name) else "has none"
                return f"it asks for {name}: {amount(value)}, and the node {have} (it has {describe(has)})"
        if not self.gpus.holds(named.get(GPU, 0)):
            return (f"it asks for GPU: {amount(named[GPU])}; more than one GPU must be a whole number, and a fraction "
                    f"must fit on one device (the node has GPU: {amount(has[GPU])})")
        return policies.obstacle(self.view, strategy)

    def _wait(self, entry: LeaseEntry) -> None:
        if not entry.queued:
            self._newly_waiting.append(entry)
            if not entry.obstacle:
                self.waiting.join(entry)
        self._changed = True

    def _known(self, entry: LeaseEntry) -> bool:
        if entry.token is not None:
            return self.requests.get(entry.token) is entry
        return self.entries.get((entry.owner, entry.key)) is entry

    def _forget(self, entry: LeaseEntry) -> None:
        entry.want = entry.grants_seen = 0
        entry.reported = False
        self._count_job(entry.job, -1)
        self._changed = True

    def _count_job(self, job: int, by: int) -> None:
        left = self._entries_of_job.get(job, 0) + by
        if left > 0:
            self._entries_of_job[job] = left
        else:
            self._entries_of_job.pop(job, None)
            self.waiting.forget_job(job)

    def _count_pinned(self, demand: Demand, sign: int) -> None:
        for column, value in demand:
            self.pinned[column] = self.pinned.get(column, 0) + sign * value

    # -------------------------------------------------------------- reports

    @property
    def held(self) -> int:
        """Leases out now."""
        return len(self.leases)

    def owners(self) -> list[bytes]:
        """Owners that declared keys."""
        return list(self._keys_of)

    def held_by(self, owner: bytes, key: int) -> list[int]:
        entry = self.entries.get((owner, key))
        return list(entry.held) if entry is not None else []

    def total(self) -> dict[str, int]:
        return self.view.named(ROW, "total")

    def available(self) -> dict[str, int]:
        """Free units by name; CPU is below zero while workers that woke up wait to be paid back."""
        return self.view.named(ROW, "available")

    def busy(self, demand: Demand) -> str:
        """The resources that ``demand`` lacks at the moment, and their users."""
        lacking = self._lacks(demand)
        if lacking is None:
            asked = describe(self.view.index.named(demand))
            if self._saving is None:
                return f"it asks for {asked}, which is free"
            return f"it asks for {asked}, being saved up for {describe(self.view.index.named(self._saving.demand))}"
        column, value = lacking
        name, free = self.view.index.names[column], max(0, self.view.available[ROW][column])
        users: dict[str, int] = {}
        running = self.running()
        for number, lease in self.leases.items():
            if any(used == column for used, _ in lease.using):
                entry = lease.entry
                other = "an actor" if entry.token is not None else f"job {entry.job}"
                user = running.get(number) or entry.name or other
                users[user] = users.get(user, 0) + 1
        most = sorted(users.items(), key=lambda use: (-use[1], use[0]))[:USERS_SHOWN]
        shown = ", ".join(f"{user} ({count})" for user, count in most) or "nobody"
        total = amount(self.view.total[ROW][column])
        return f"it asks for {name}: {amount(value)}, and {amount(free)} of {total} is free; in use by {shown}"

    def obstacle(self, demand: dict[str, int], strategy: dict) -> str:
        """Why this node can never grant ``demand`` under ``strategy``; '' when it can."""
        return self._obstacle(demand, self.view.index.demand(demand), strategy)

    def wants(self, lanes_max: int, entries_max: int) -> list[tuple[dict[str, int], int]]:
        """(demand, leases) of the lanes that wait longest; so many entries of them are counted."""
        return [(self.view.index.named(lane.demand), sum(e.outstanding for e in islice(lane.entries, entries_max)))
                for lane in islice(self.waiting.by_age, lanes_max)]

    def explain(self, owner: bytes, key: int, token: Any = None) -> tuple[Cause, str]:
        """Why the key (or the request ``token``) waits, as of now."""
        entry = self.requests.get(token) if token is not None else self.entries.get((owner, key))
        if entry is None or not entry.outstanding:
            return Cause.READY, ""
        if entry.obstacle:
            return Cause.INFEASIBLE, entry.obstacle
        return Cause.RESOURCES_BUSY, self.busy(entry.demand)

    def report(self) -> dict:
        """The queue and the leases, as ``zray status`` shows them; amounts are floats."""
        entries = [entry for entry in (*self.entries.values(), *self.requests.values()) if entry.outstanding]
        return {
            "total": amounts(self.total()),
            "available": amounts(self.available()),
            "waiting": [
                {"job": entry.job, "owner": entry.owner, "key": entry.key, "name": entry.name,
                 "want": entry.outstanding, "demand": amounts(entry.named), "actor": entry.token is not None,
                 "cause": int(Cause.INFEASIBLE if entry.obstacle else Cause.RESOURCES_BUSY),
                 "detail": entry.obstacle or self.busy(entry.demand)}
                for entry in entries
            ],
            "leases": [
                {"lease": lease.number, "job": lease.entry.job, "owner": lease.entry.owner, "key": lease.entry.key,
                 "name": lease.entry.name, "resources": amounts(self.view.index.named(lease.demand)),
                 "gpu_ids": self.gpus.named(lease.gpus), "blocked": lease.lent is not None, "recalled": lease.recalled}
                for lease in self.leases.values()
            ],
            "held": len(self.leases), "granted": self.granted, "returned": self.returned,
        }

    def check(self) -> None:
        self.view.check()
        self.gpus.check()
        self.waiting.check()
        used: dict[int, int] = {}
        pinned: dict[int, int] = {}
        slices: dict[int, int] = {}
        for number, lease in self.leases.items():
            assert lease.number == number and lease.entry.held.get(number) is lease
            for column, value in lease.using:
                used[column] = used.get(column, 0) + value
                if lease.pinned:
                    pinned[column] = pinned.get(column, 0) + value
            for position, share in lease.gpus:
                slices[position] = slices.get(position, 0) + share
            assert sum(share for _, share in lease.gpus) == dict(lease.demand).get(GPU_COLUMN, 0)
        for column, total in enumerate(self.view.total[ROW]):
            assert self.view.available[ROW][column] == total - used.get(column, 0), "resources are not conserved"
            assert column == CPU_COLUMN or used.get(column, 0) <= total, "something other than CPU is oversubscribed"
        assert self.loose == {number: lease for number, lease in self.leases.items() if not lease.pinned}
        assert {c: v for c, v in self.pinned.items() if v} == {c: v for c, v in pinned.items() if v}
        assert all(share <= UNIT for share in slices.values()), "a GPU is shared beyond one"
        assert self.gpus.available == self.view.available[ROW][GPU_COLUMN]
        for entry in (*self.entries.values(), *self.requests.values()):
            assert entry.active == sum(not lease.recalled for lease in entry.held.values())
            assert not entry.outstanding or entry.obstacle or entry.queued, "somebody who wants is not waiting"
            assert entry.lane is None or not entry.queued or entry in entry.lane.entries
        jobs: dict[int, int] = {}
        for entry in (*self.entries.values(), *self.requests.values()):
            jobs[entry.job] = jobs.get(entry.job, 0) + 1
        assert jobs == self._entries_of_job


def _growth(old: Demand, new: Demand, vector: Any) -> Demand:
    """The columns in which ``new`` exceeds ``old``, in full, as they must be free after ``old`` was given back."""
    had = dict(old)
    return tuple((column, value) for column, value in new if value > had.get(column, 0))
