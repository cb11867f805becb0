"""Bundles of placement groups on one node: set aside, put to use, given back.  Pure; all transitions are in this file.

    state       event                       next        what happens
    (none)      reserve, all free           RESERVED    each bundle is a lease of the node's scheduler, without worker
    (none)      reserve, not free, wait     WAITING     a request for their sum stands in the node's queue
    WAITING     the request is granted      RESERVED    given back and taken again bundle by bundle, in one step
    RESERVED    commit                      COMMITTED   each bundle is a LocalScheduler of its own
    WAITING     return                      (none)
    RESERVED    return                      (none)      the bundles' resources are the node's again
    COMMITTED   return                      CLOSING     no more grants; the caller ends the workers in them
    CLOSING     last lease is released      (none)      the bundle's resources are the node's again

A *round* is the unit of change: the bundles of one group that one BundleReserve named, numbered by the home's
``attempt``.  Messages may come twice, late and in any order.  A returned round stays over (``floors``): a later reserve
of it is refused, so nothing stays reserved that its home believes returned.

A round waits for the sum of its bundles, not for one bundle after the other: else two groups could each hold half of a
node.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

from zray.sched.node.local import LocalScheduler
from zray.sched.resources import GPU, UNIT, Demand, checked_units, describe
from zray.wire.messages import BundleAck, BundleReserved

# Rounds remembered as over.  A message of one comes late by seconds at most.
FLOORS_MAX = 10_000
BUNDLES_MAX = 10_000  # of one group


class BundleState(IntEnum):
    WAITING = 0
    RESERVED = 1
    COMMITTED = 2
    CLOSING = 3


class Bundle:
    """One bundle on this node; ``lease`` is the number of the lease that sets it aside, 0 for none."""

    __slots__ = ("group", "index", "job", "lease", "resources")

    def __init__(self, group: bytes, index: int, job: int, resources: dict[str, int]) -> None:
        self.group, self.index, self.job, self.resources = group, index, job, resources
        self.lease = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.group.hex()[:12]}:{self.index} {describe(self.resources)}>"


class CommittedBundle(Bundle):
    """A bundle in use, COMMITTED or CLOSING; ``scheduler`` grants its resources."""

    __slots__ = ("scheduler",)

    def __init__(self, reserved: Bundle, scheduler: LocalScheduler) -> None:
        super().__init__(reserved.group, reserved.index, reserved.job, reserved.resources)
        self.lease = reserved.lease
        self.scheduler = scheduler

    def obstacle(self, named: dict[str, int]) -> str:
        """Why a demand never fits this bundle, '' when it may."""
        for name, value in named.items():
            if self.resources.get(name, 0) < value:
                return (f"it asks for {describe(named)}, and bundle {self.index} of its placement group has "
                        f"{describe(self.resources)}")
        if not self.scheduler.gpus.holds(named.get(GPU, 0)):
            return (f"it asks for {describe(named)}: more than one GPU must be whole, and a fraction must fit on one "
                    f"device (bundle {self.index} of its placement group has {describe(self.resources)})")
        return ""


class BundleRound:
    """The bundles that one BundleReserve named."""

    __slots__ = ("attempt", "bundles", "group", "job", "name", "state")

    def __init__(self, group: bytes, attempt: int, job: int, bundles: list[Bundle], name: str) -> None:
        self.group, self.attempt, self.job, self.bundles, self.name = group, attempt, job, bundles, name
        self.state = BundleState.WAITING

    @property
    def total(self) -> dict[str, int]:
        """The needs of all bundles together, as a demand that a node may grant: GPU fractions rounded up."""
        total: dict[str, int] = {}
        for bundle in self.bundles:
            for name, value in bundle.resources.items():
                total[name] = total.get(name, 0) + value
        if total.get(GPU, 0) > UNIT:
            total[GPU] = -(-total[GPU] // UNIT) * UNIT
        return total


class Bundles:
    """All rounds of one node.  ``answers`` collects (group, message for its home)."""

    def __init__(self, root: LocalScheduler) -> None:
        self.root = root
        self.rounds: dict[tuple[bytes, int], BundleRound] = {}
        self.floors: dict[bytes, int] = {}
        self.answers: list[tuple[bytes, Any]] = []
        self.committed: dict[bytes, dict[int, CommittedBundle]] = {}  # group -> index -> bundle; not those closing
        self.bundle_of: dict[int, CommittedBundle] = {}  # lease in a bundle -> the bundle
        self._groups: dict[bytes, set[int]] = {}  # group -> attempts in ``rounds``

    # -------------------------------------------------------------- what homes say

    def reserve(
        self, group: bytes, attempt: int, job: int, bundles: list, wait: bool, name: str, now: float,
    ) -> None:
        """BundleReserve.  Answers BundleReserved, later when it waits; never twice a different answer."""
        known = self.rounds.get((group, attempt))
        if known is not None:
            if known.state in (BundleState.RESERVED, BundleState.COMMITTED):
                self._answer(known, True)
            return
        if attempt <= self.floors.get(group, 0):
            self._refuse(group, attempt, "that round is over")
            return
        try:
            wanted = _parsed(group, job, bundles)
        except ValueError as error:
            self._refuse(group, attempt, str(error))
            return
        indices = {bundle.index for bundle in wanted}
        for older in self._rounds_of(group):
            if indices.isdisjoint(bundle.index for bundle in older.bundles) or older.state is BundleState.CLOSING:
                continue
            if older.state is BundleState.COMMITTED or older.attempt > attempt:
                self._refuse(group, attempt, f"some of its bundles {sorted(indices)} are here already")
                return
            self._drop(older, now)  # its home has given this round up, else it would not place these bundles anew
        fresh = BundleRound(group, attempt, job, wanted, name)
        if self._take(fresh):
            self._enter(fresh, BundleState.RESERVED)
            self._answer(fresh, True)
        elif wait:
            self._enter(fresh, BundleState.WAITING)
            self.root.request(fresh, job, fresh.total, {}, now, name or "a placement group")
        else:
            need = self.root.view.index.demand(fresh.total)
            self._refuse(group, attempt, self.root.busy(need) if need is not None else self._missing(fresh.total))

    def commit(self, group: bytes, attempt: int) -> list[CommittedBundle]:
        """BundleCommit: the bundles that came into use now.  Answers BundleAck."""
        found = self.rounds.get((group, attempt))
        fresh: list[CommittedBundle] = []
        if found is not None and found.state is BundleState.RESERVED:
            found.state = BundleState.COMMITTED
            fresh = [self._committed(bundle) for bundle in found.bundles]
            found.bundles = list(fresh)
            self.committed.setdefault(group, {}).update((bundle.index, bundle) for bundle in fresh)
        done = found is not None and found.state is BundleState.COMMITTED
        self.answers.append((group, BundleAck(group, attempt, "COMMITTED" if done else "UNKNOWN")))
        return fresh

    def _committed(self, reserved: Bundle) -> CommittedBundle:
        root = self.root
        scheduler = LocalScheduler(
            reserved.resources, dict(root.view.labels[0]), node=root.node,
            gpu_ids=root.gpus.named(root.leases[reserved.lease].gpus), turn_s=root.turn_s,
            passed_max=root.passed_max, next_lease=root.next_lease)
        scheduler.running = root.running
        return CommittedBundle(reserved, scheduler)

    def give_back(self, group: bytes, attempt: int, removed: bool, now: float) -> list[CommittedBundle]:
        """BundleReturn: the bundles that were in use and close from now on; the caller ends the workers in them.

        Answers BundleAck.  ``removed``: all rounds up to ``attempt``, else that one.
        """
        closing: list[CommittedBundle] = []
        for found in self._rounds_of(group):
            if not (found.attempt == attempt or removed and found.attempt <= attempt):
                continue
            if found.state is BundleState.COMMITTED:
                found.state = BundleState.CLOSING
                closing += [self.committed[group].pop(bundle.index) for bundle in found.bundles]
                if not self.committed[group]:
                    del self.committed[group]
            elif found.state is not BundleState.CLOSING:
                self._drop(found, now)
        self._close_floor(group, attempt)
        self.answers.append((group, BundleAck(group, attempt, "REMOVED" if removed else "RETURNED")))
        for bundle in closing:
            self.settled(bundle, now)
        return closing

    def homes(self) -> set[bytes]:
        """Groups that have anything here."""
        return set(self._groups)

    def in_use(self, group: bytes) -> list[tuple[int, list[int]]]:
        """(attempt, bundle indices) of the group's rounds that are committed here."""
        return [(found.attempt, [bundle.index for bundle in found.bundles]) for found in self._rounds_of(group)
                if found.state is BundleState.COMMITTED]

    def not_in_use(self, group: bytes) -> list[int]:
        """Attempts that are waiting or reserved here."""
        return [found.attempt for found in self._rounds_of(group) if found.state < BundleState.COMMITTED]

    # -------------------------------------------------------------- what the node's scheduler says

    def granted(self, waiting: BundleRound, lease: int, now: float) -> None:
        """The request of a waiting round was granted: its resources become the bundles."""
        self.root.release(lease, now)
        if self._take(waiting):
            waiting.state = BundleState.RESERVED
            self._answer(waiting, True)
        else:  # the sum fits, but the GPU fractions do not
            self._drop(waiting, now)
            self._refuse(waiting.group, waiting.attempt, "the free GPU fractions do not fit its bundles")

    def hopeless(self, waiting: BundleRound, why: str, now: float) -> None:
        """The node can never grant that."""
        self._drop(waiting, now)
        self._refuse(waiting.group, waiting.attempt, why)

    def settled(self, bundle: CommittedBundle, now: float) -> None:
        """A lease in the bundle has ended: a closing bundle ends with its last lease."""
        if bundle.scheduler.leases or bundle.lease == 0:
            return
        for key in [(bundle.group, attempt) for attempt in self._groups.get(bundle.group, ())]:
            found = self.rounds[key]
            if found.state is BundleState.CLOSING and bundle in found.bundles:
                self.root.release(bundle.lease, now)
                bundle.lease = 0
                found.bundles.remove(bundle)
                if not found.bundles:
                    self._forget(found)
                return

    # -------------------------------------------------------------- inside

    def _take(self, wanted: BundleRound) -> bool:
        taken: list[Bundle] = []
        for bundle in wanted.bundles:
            lease = self.root.reserve(bundle, wanted.job, bundle.resources, wanted.name or "a placement group")
            if lease is None:
                for other in taken:
                    self.root.release(other.lease, 0.0)
                    other.lease = 0
                return False
            bundle.lease = lease
            taken.append(bundle)
        return True

    def _drop(self, found: BundleRound, now: float) -> None:
        """End a round that is not in use."""
        if found.state is BundleState.WAITING:
            self.root.cancel_request(found)
        for bundle in found.bundles:
            if bundle.lease:
                self.root.release(bundle.lease, now)
                bundle.lease = 0
        self._forget(found)
        self._close_floor(found.group, found.attempt)

    def _enter(self, fresh: BundleRound, state: BundleState) -> None:
        fresh.state = state
        self.rounds[fresh.group, fresh.attempt] = fresh
        self._groups.setdefault(fresh.group, set()).add(fresh.attempt)

    def _forget(self, found: BundleRound) -> None:
        del self.rounds[found.group, found.attempt]
        attempts = self._groups[found.group]
        attempts.discard(found.attempt)
        if not attempts:
            del self._groups[found.group]

    def _rounds_of(self, group: bytes) -> list[BundleRound]:
        return [self.rounds[group, attempt] for attempt in sorted(self._groups.get(group, ()))]

    def _close_floor(self, group: bytes, attempt: int) -> None:
        floor = max(attempt, self.floors.pop(group, 0))
        self.floors[group] = floor  # youngest last
        while len(self.floors) > FLOORS_MAX:
            del self.floors[next(iter(self.floors))]

    def _answer(self, found: BundleRound, ok: bool) -> None:
        self.answers.append((found.group, BundleReserved(found.group, found.attempt, ok, "")))

    def _refuse(self, group: bytes, attempt: int, why: str) -> None:
        self.answers.append((group, BundleReserved(group, attempt, False, why)))

    def _missing(self, total: dict[str, int]) -> str:
        has = self.root.total()
        lacking = {name: value for name, value in total.items() if has.get(name, 0) < value}
        return f"it asks for {describe(lacking)}, and the node has {describe(has)}"

    # -------------------------------------------------------------- reports and invariants

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each bundle here, for ``zray status``."""
        for found in self.rounds.values():
            for bundle in found.bundles:
                scheduler = bundle.scheduler if isinstance(bundle, CommittedBundle) else None
                yield {"group": bundle.group, "bundle": bundle.index, "state": found.state.name,
                       "resources": describe(bundle.resources),
                       "free": describe(scheduler.available() if scheduler is not None else bundle.resources),
                       "leases": len(scheduler.leases) if scheduler is not None else 0}

    def check(self) -> None:
        held: dict[int, Demand | None] = {}
        index_of = self.root.view.index
        for (group, attempt), found in self.rounds.items():
            assert (found.group, found.attempt) == (group, attempt) and attempt in self._groups[group]
            assert found.bundles, "a round without bundles is over"
            assert (found.state is BundleState.WAITING) == (found in self.root.requests)
            for bundle in found.bundles:
                assert (bundle.lease > 0) == (found.state is not BundleState.WAITING)
                in_use = isinstance(bundle, CommittedBundle)
                assert in_use == (found.state in (BundleState.COMMITTED, BundleState.CLOSING))
                committed = self.committed.get(group, {}).get(bundle.index) is bundle
                assert committed == (found.state is BundleState.COMMITTED)
                if bundle.lease:
                    assert bundle.lease not in held, "two bundles share a lease"
                    held[bundle.lease] = index_of.demand(bundle.resources)
                if isinstance(bundle, CommittedBundle):
                    bundle.scheduler.check()
                    assert bundle.scheduler.total() == bundle.resources
                    assert bundle.scheduler.leases or found.state is not BundleState.CLOSING, "an empty bundle closes"
        aside = {number: lease.demand for number, lease in self.root.leases.items()
                 if type(lease.entry.token) is Bundle}
        assert aside == held, "resources are set aside for bundles that are not here, or not for those that are"
        assert sum(map(len, self._groups.values())) == len(self.rounds) and all(self._groups.values())
        inside = {number: bundle for found in self.rounds.values() for bundle in found.bundles
                  if isinstance(bundle, CommittedBundle) for number in bundle.scheduler.leases}
        assert inside == self.bundle_of, "a lease is in no bundle, or in another"
        assert len(self.floors) <= FLOORS_MAX


def _parsed(group: bytes, job: int, bundles: list) -> list[Bundle]:
    """Bundles from the wire; ValueError for malformed ones."""
    found: dict[int, Bundle] = {}
    if not 0 < len(bundles) <= BUNDLES_MAX:
        raise ValueError(f"a round names 1 to {BUNDLES_MAX} bundles, not {len(bundles)}")
    for pair in bundles:
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not int or type(pair[1]) is not dict:
            raise ValueError("a bundle is [index, {resource: units}]")
        index, resources = pair[0], checked_units(pair[1])
        if index < 0 or index in found or not resources:
            raise ValueError(f"bundle {index} is negative, empty or there twice")
        found[index] = Bundle(group, index, job, resources)
    return [found[index] for index in sorted(found)]
