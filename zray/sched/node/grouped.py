"""NodeScheduler: the LocalScheduler of a node and those of the bundles on it, behind one interface.  Pure.

A key or an actor whose strategy names a placement group is a Claim (zray.sched.node.claims) on its bundles; all others
go to the node's own scheduler.  Inside a bundle the same rules hold: turns, recalls, saving up, GPU slices.  The CPU
that a blocked worker lends goes to others in the same bundle.  Lease numbers are unique on the node.
"""

from __future__ import annotations

from typing import Any

from zray.base.causes import Cause
from zray.sched.node.bundles import Bundle, BundleRound, Bundles, CommittedBundle
from zray.sched.node.claims import Claim, group_of
from zray.sched.node.gpus import GpuPool
from zray.sched.node.local import Effect, Grant, HeldLease, LocalScheduler, Recall, Status
from zray.sched.node.waiting import WaitingLanes
from zray.sched.resources import amounts
from zray.sched.view import ClusterView


class NodeScheduler:
    """As LocalScheduler, with placement groups; ``bundles`` takes the messages of their homes."""

    def __init__(self, root: LocalScheduler) -> None:
        self.root = root
        self.bundles = Bundles(root)
        self.claims: dict[tuple[bytes, int], Claim] = {}
        self.requests: dict[Any, Claim] = {}
        self._of_group: dict[bytes, dict[Claim, None]] = {}
        self._of_owner: dict[bytes, dict[Claim, None]] = {}
        self._waits: dict[bytes, tuple[int, str]] = {}  # groups that are not placed: why
        self._touched: dict[CommittedBundle, None] = {}  # to be stepped
        self._timed: dict[CommittedBundle, None] = {}  # have a deadline
        self._to_report: dict[Claim, None] = {}

    # -------------------------------------------------------------- what owners say

    def declare(self, owner: bytes, job: int, key: int, demand: dict[str, int], strategy: dict | None = None,
                name: str = "") -> None:
        """Scheduling key ``key`` of ``owner``; repeats are harmless.  ValueError for a demand that is not one."""
        if group_of(strategy) is None:
            self.root.declare(owner, job, key, demand, strategy, name)
            return
        claim = Claim(owner, key, None, job, demand, strategy or {}, name)
        known = self.claims.get((owner, key))
        if known is not None:
            if (known.named, known.job, known.group) != (claim.named, job, claim.group):
                raise ValueError(f"key {key} was declared with another demand, group or job")
            return
        self.claims[owner, key] = claim
        self._of_owner.setdefault(owner, {})[claim] = None
        self._enter(claim, 0.0)

    def want(self, owner: bytes, key: int, want: int, granted: int, now: float) -> None:
        """As LocalScheduler.want."""
        claim = self.claims.get((owner, key))
        if claim is None:
            self.root.want(owner, key, want, granted, now)
            return
        claim.want = max(want, 0)
        claim.grants_seen = min(max(granted, 0), claim.granted)
        if not claim.outstanding and not claim.removed:
            claim.reported = None
        self._spread(claim, now)
        self._to_report[claim] = None

    def drop_owner(self, owner: bytes) -> list[int]:
        """As LocalScheduler.drop_owner."""
        held = self.root.drop_owner(owner)
        claims = self._of_owner.pop(owner, {})
        for claim in claims:
            del self.claims[claim.owner, claim.key]
            self._leave_group(claim)
        if claims:
            for bundle in {id(b): b for b in self.bundles.bundle_of.values()}.values():
                held += bundle.scheduler.drop_owner(owner)
                self._touched[bundle] = None
            for claim in claims:
                for bundle in claim.places:
                    bundle.scheduler.drop_owner(owner)
                    self._touched[bundle] = None
                claim.places.clear()
        return held

    def request(self, token: Any, job: int, demand: dict[str, int], strategy: dict | None, now: float,
                name: str = "") -> None:
        """As LocalScheduler.request."""
        if group_of(strategy) is None:
            self.root.request(token, job, demand, strategy, now, name)
        elif token not in self.requests:
            claim = Claim(b"", 0, token, job, demand, strategy or {}, name)
            claim.want = 1
            self.requests[token] = claim
            self._enter(claim, now)

    def cancel_request(self, token: Any) -> bool:
        claim = self.requests.pop(token, None)
        if claim is None:
            return self.root.cancel_request(token)
        self._leave(claim, 0.0)
        return True

    # -------------------------------------------------------------- what workers do

    def _place(self, lease: int) -> LocalScheduler:
        bundle = self.bundles.bundle_of.get(lease)
        if bundle is None:
            return self.root
        self._touched[bundle] = None
        return bundle.scheduler

    def release(self, lease: int, now: float) -> bool:
        done = self._place(lease).release(lease, now)
        bundle = self.bundles.bundle_of.pop(lease, None)
        if bundle is not None:
            self.bundles.settled(bundle, now)
        return done

    def revoke(self, lease: int, now: float) -> bool:
        """As LocalScheduler.revoke."""
        bundle = self.bundles.bundle_of.get(lease)
        if bundle is None:
            return self.root.revoke(lease, now)
        entry = bundle.scheduler.leases[lease].entry
        self.release(lease, now)
        claim = self.claims.get((entry.owner, entry.key)) if entry.token is None else None
        if claim is not None:
            claim.granted -= 1
            self._spread(claim, now)
        return True

    def resize(self, lease: int, demand: dict[str, int]) -> bool:
        return self._place(lease).resize(lease, demand)

    def block(self, lease: int) -> None:
        self._place(lease).block(lease)

    def unblock(self, lease: int) -> None:
        self._place(lease).unblock(lease)

    # -------------------------------------------------------------- what homes say

    def commit(self, group: bytes, attempt: int, now: float) -> None:
        """BundleCommit: claims that wait for these bundles may use them."""
        for bundle in self.bundles.commit(group, attempt):
            self._waits.pop(group, None)
            for claim in list(self._of_group.get(group, ())):
                self._join(claim, bundle, now)

    def give_back(self, group: bytes, attempt: int, removed: bool, now: float) -> list[int]:
        """BundleReturn: the leases whose workers must be ended before the bundles are free."""
        closing = self.bundles.give_back(group, attempt, removed, now)
        for bundle in closing:
            self._touched.pop(bundle, None)
            self._timed.pop(bundle, None)
            for claim in self._of_group.get(group, ()):
                claim.leave(bundle, now)
        gone = set(closing)
        return [lease for lease, bundle in self.bundles.bundle_of.items() if bundle in gone]

    def group_waits(self, group: bytes, cause: int, detail: str) -> None:
        """The group has no place (yet), for this cause: report it to the claims that wait for it."""
        self._waits[group] = cause, detail
        for claim in self._of_group.get(group, ()):
            self._to_report[claim] = None
        if group not in self._of_group:
            del self._waits[group]

    def group_placed(self, group: bytes) -> None:
        """The group has places, here or elsewhere."""
        self._waits.pop(group, None)

    def group_removed(self, group: bytes, reason: str = "") -> None:
        """Nothing runs in the group any more: report Cause.GROUP_REMOVED to its keys, end its requests."""
        if group in self._of_group:
            self._waits[group] = Cause.GROUP_REMOVED, reason
        for claim in list(self._of_group.get(group, ())):
            if claim.token is not None:
                self.cancel_request(claim.token)
                continue
            for bundle in list(claim.places):
                claim.leave(bundle, 0.0)
                self._touched[bundle] = None
            claim.removed = True
            self._to_report[claim] = None

    def uses(self, group: bytes) -> bool:
        """Whether any claim of this node is on the group."""
        return group in self._of_group

    # -------------------------------------------------------------- the step

    def step(self, now: float, grants_max: int | None = None) -> list[Effect]:
        """As LocalScheduler.step: first the node's own, then the bundles in which something happened."""
        effects: list[Effect] = []
        again = True
        while again:
            again = False
            for effect in self.root.step(now, grants_max):
                token = None if type(effect) is Recall else effect.token  # type: ignore[union-attr]
                if type(token) is not BundleRound:
                    effects.append(effect)
                elif type(effect) is Grant:
                    self.bundles.granted(token, effect.lease, now)
                    again = True  # the round may have left something over
                elif type(effect) is Status and effect.cause == Cause.INFEASIBLE:
                    self.bundles.hopeless(token, effect.detail, now)
        while self._touched or (due := self._due(now)):
            bundle = next(iter(self._touched)) if self._touched else due[0]
            self._touched.pop(bundle, None)
            self._step(bundle, now, effects)
        if self._to_report:
            self._report_waits(effects)
        return effects

    def _due(self, now: float) -> list[CommittedBundle]:
        return [b for b in self._timed if (when := b.scheduler.deadline()) is not None and when <= now]

    def _step(self, bundle: CommittedBundle, now: float, effects: list[Effect]) -> None:
        scheduler = bundle.scheduler
        if self.bundles.committed.get(bundle.group, {}).get(bundle.index) is not bundle:
            return  # closing
        for effect in scheduler.step(now):
            if type(effect) is Grant:
                effects.append(self._granted(bundle, effect, now))
            elif type(effect) is Status:
                claim = self._claim_of(effect)
                if claim is not None and claim.reported is None and claim.outstanding:
                    claim.reported = effect.cause, effect.detail
                    effects.append(effect)
            else:
                effects.append(effect)
        if scheduler.deadline() is not None:
            self._timed[bundle] = None
        else:
            self._timed.pop(bundle, None)

    def _granted(self, bundle: CommittedBundle, grant: Grant, now: float) -> Grant:
        claim = self._claim_of(grant)
        assert claim is not None
        self.bundles.bundle_of[grant.lease] = bundle
        claim.granted += 1
        if claim.token is not None:
            del self.requests[claim.token]
            del claim.places[bundle]
            self._leave(claim, now)
        elif len(claim.places) > 1:
            self._spread(claim, now, but=bundle)
        if not claim.outstanding:
            claim.reported = None
        return grant._replace(assigned={**grant.assigned, "group": claim.about(bundle)})

    def _claim_of(self, effect: Grant | Status) -> Claim | None:
        return self.claims.get((effect.owner, effect.key)) if effect.token is None else self.requests.get(effect.token)

    def _report_waits(self, effects: list[Effect]) -> None:
        """Report to the claims that no bundle here serves why they wait."""
        claims, self._to_report = self._to_report, {}
        for claim in claims:
            cause = self._cause(claim)
            if cause is not None and cause != claim.reported:
                claim.reported = cause
                effects.append(Status(claim.owner, claim.key, *cause, claim.token))

    def _cause(self, claim: Claim) -> tuple[int, str] | None:
        if claim.removed:
            return self._waits.get(claim.group, (Cause.GROUP_REMOVED, ""))
        if not claim.outstanding or claim.places:
            return None
        here = self.bundles.committed.get(claim.group, {})
        obstacles = [bundle.obstacle(claim.named) for bundle in here.values() if claim.may_use(bundle)]
        if obstacles:
            return Cause.INFEASIBLE, obstacles[0]
        return self._waits.get(claim.group)

    def deadline(self) -> float | None:
        """As LocalScheduler.deadline."""
        if not self._timed:
            return self.root.deadline()
        times = [self.root.deadline()]
        times += [bundle.scheduler.deadline() for bundle in self._timed]
        return min((when for when in times if when is not None), default=None)

    # -------------------------------------------------------------- claims

    def _enter(self, claim: Claim, now: float) -> None:
        self._of_group.setdefault(claim.group, {})[claim] = None
        for bundle in self.bundles.committed.get(claim.group, {}).values():
            self._join(claim, bundle, now)
        self._to_report[claim] = None

    def _join(self, claim: Claim, bundle: CommittedBundle, now: float) -> None:
        if claim.may_use(bundle) and not bundle.obstacle(claim.named):
            claim.join(bundle, now)
            claim.reported = None
            self._touched[bundle] = None
        else:
            self._to_report[claim] = None

    def _spread(self, claim: Claim, now: float, but: CommittedBundle | None = None) -> None:
        for bundle in claim.places:
            if bundle is not but:
                claim.update_want(bundle, now)
                self._touched[bundle] = None

    def _leave(self, claim: Claim, now: float) -> None:
        """A request ends: granted, or cancelled."""
        for bundle in list(claim.places):
            claim.leave(bundle, now)
            self._touched[bundle] = None
        self._leave_group(claim)

    def _leave_group(self, claim: Claim) -> None:
        self._to_report.pop(claim, None)
        claims = self._of_group[claim.group]
        del claims[claim]
        if not claims:
            del self._of_group[claim.group]
            self._waits.pop(claim.group, None)

    # -------------------------------------------------------------- reports

    @property
    def leases(self) -> dict[int, HeldLease]:
        """Every lease of a worker; not those that only set a bundle aside."""
        found = {number: lease for number, lease in self.root.leases.items() if type(lease.entry.token) is not Bundle}
        for number, bundle in self.bundles.bundle_of.items():
            found[number] = bundle.scheduler.leases[number]
        return found

    @property
    def view(self) -> ClusterView:
        return self.root.view

    @property
    def gpus(self) -> GpuPool:
        return self.root.gpus

    @property
    def node(self) -> bytes:
        return self.root.node

    @property
    def entries(self) -> dict[tuple[bytes, int], Any]:
        return {**self.root.entries, **self.claims}

    @property
    def waiting(self) -> WaitingLanes:
        return self.root.waiting

    def owners(self) -> list[bytes]:
        return list(dict.fromkeys((*self.root.owners(), *self._of_owner)))

    def obstacle(self, demand: dict[str, int], strategy: dict) -> str:
        return self.root.obstacle(demand, strategy)

    def wants(self, lanes_max: int, entries_max: int) -> list[tuple[dict[str, int], int]]:
        return self.root.wants(lanes_max, entries_max)

    @property
    def held(self) -> int:
        return len(self.leases)

    def total(self) -> dict[str, int]:
        return self.root.total()

    def available(self) -> dict[str, int]:
        """Free units by name, outside of bundles."""
        return self.root.available()

    def explain(self, owner: bytes, key: int, token: Any = None) -> tuple[Cause, str]:
        """As LocalScheduler.explain."""
        claim = self.requests.get(token) if token is not None else self.claims.get((owner, key))
        if claim is None:
            return self.root.explain(owner, key, token)
        cause = self._cause(claim)
        if cause is not None:
            return Cause(cause[0]), cause[1]
        for bundle in claim.places:
            return bundle.scheduler.explain(owner, key, token)
        return Cause.READY if not claim.outstanding else Cause.GROUP_PENDING, ""

    def report(self) -> dict:
        """As LocalScheduler.report, with those in bundles, and ``bundles``."""
        report = self.root.report()
        aside = {number for number, lease in self.root.leases.items() if type(lease.entry.token) is Bundle}
        report["leases"] = [row for row in report["leases"] if row["lease"] not in aside]
        for claim in (*self.claims.values(), *self.requests.values()):
            if claim.outstanding:
                cause, detail = self.explain(claim.owner, claim.key, claim.token)
                report["waiting"].append({
                    "job": claim.job, "owner": claim.owner, "key": claim.key, "name": claim.name,
                    "want": claim.outstanding, "demand": amounts(claim.named), "actor": claim.token is not None,
                    "cause": int(cause), "detail": detail})
        for bundle in {id(b): b for b in self.bundles.bundle_of.values()}.values():
            report["leases"] += bundle.scheduler.report()["leases"]
        report["bundles"] = list(self.bundles.rows())
        report["held"] = len(report["leases"])
        return report

    def check(self) -> None:
        self.root.check()
        self.bundles.check()
        for claim in (*self.claims.values(), *self.requests.values()):
            here = self.bundles.committed.get(claim.group, {})
            fitting = {b for b in here.values() if claim.may_use(b) and not b.obstacle(claim.named)}
            assert set(claim.places) == fitting, "a claim does not stand in the bundles that it may use"
            assert claim in self._of_group[claim.group]
            for bundle in claim.places:
                scheduler = bundle.scheduler
                if claim.token is None:
                    entry = scheduler.entries[claim.owner, claim.key]
                    assert entry.outstanding == claim.outstanding, "a bundle was told of another want"
                else:
                    assert claim.token in scheduler.requests
        known = {claim for claims in self._of_group.values() for claim in claims}
        assert known == set(self.claims.values()) | set(self.requests.values())
        assert set(self._waits) <= set(self._of_group)
