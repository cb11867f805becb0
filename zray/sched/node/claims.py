"""Claims on placement groups: the scheduling keys and actors whose strategy names a group.  Pure.

A claim on bundle i stands in that bundle's scheduler.  A claim on any bundle (-1) stands in every bundle of the group
on this node where it could fit.  Each of these has the number of leases that are outstanding.  When one grants, the
others get one less before they are stepped, so together they never grant more than was wanted.
"""

from __future__ import annotations

from typing import Any

from zray.sched.node.bundles import CommittedBundle
from zray.sched.resources import checked_units

GROUP_BYTES = 18


def group_of(strategy: dict | None) -> bytes | None:
    """The placement group that a strategy names, None when it names none."""
    return strategy.get("group") if strategy and strategy.get("kind") == "group" else None


class Claim:
    """One scheduling key of one owner, or one actor (``token`` not None), in a group."""

    __slots__ = ("capture", "granted", "grants_seen", "group", "index", "job", "key", "name", "named", "owner",
                 "places", "removed", "reported", "selector", "token", "want")

    def __init__(self, owner: bytes, key: int, token: Any, job: int, named: dict[str, int], strategy: dict,
                 name: str) -> None:
        group, index = strategy.get("group"), strategy.get("bundle", -1)
        if type(group) is not bytes or len(group) != GROUP_BYTES or type(index) is not int or index < -1:
            raise ValueError(f"a placement group strategy names a group of {GROUP_BYTES} bytes and a bundle from -1 on,"
                             f" not {group!r} and {index!r}")
        self.owner, self.key, self.token, self.job, self.name = owner, key, token, job, name
        self.named = checked_units(named)
        self.group, self.index, self.capture = group, index, bool(strategy.get("capture"))
        self.selector = {"labels": strategy["labels"]} if strategy.get("labels") else {}
        self.want = self.grants_seen = self.granted = 0
        self.places: dict[CommittedBundle, None] = {}  # bundles in whose schedulers it stands
        self.reported: tuple[int, str] | None = None  # the cause of waiting that its owner was sent last
        self.removed = False  # the group is gone

    @property
    def outstanding(self) -> int:
        """Leases wanted and not granted, as in zray.sched.node.waiting.LeaseEntry."""
        if self.removed:
            return 0
        return max(0, self.want - (self.granted - self.grants_seen))

    def may_use(self, bundle: CommittedBundle) -> bool:
        return self.index in (-1, bundle.index) and not self.removed

    def join(self, bundle: CommittedBundle, now: float) -> None:
        """Stand in the bundle's scheduler from now on."""
        assert bundle not in self.places
        scheduler = bundle.scheduler
        self.places[bundle] = None
        if self.token is not None:
            scheduler.request(self.token, self.job, self.named, self.selector, now, self.name)
        else:
            scheduler.declare(self.owner, self.job, self.key, self.named, self.selector, self.name)
            self.update_want(bundle, now)

    def update_want(self, bundle: CommittedBundle, now: float) -> None:
        """Give the bundle's scheduler the number of outstanding leases, whatever it has granted so far."""
        scheduler = bundle.scheduler
        granted = scheduler.entries[self.owner, self.key].granted
        scheduler.want(self.owner, self.key, self.outstanding, granted, now)

    def leave(self, bundle: CommittedBundle, now: float) -> None:
        """Want nothing more of the bundle; the claim keeps the leases it holds there."""
        if self.places.pop(bundle, self) is self:
            return
        scheduler = bundle.scheduler
        if self.token is not None:
            scheduler.cancel_request(self.token)
        elif (self.owner, self.key) in scheduler.entries:
            granted = scheduler.entries[self.owner, self.key].granted
            scheduler.want(self.owner, self.key, 0, granted, now)

    def about(self, bundle: CommittedBundle) -> list[Any]:
        """``assigned["group"]`` of a worker: the group, the bundle, and whether its children run there too."""
        return [self.group, bundle.index, self.capture]
