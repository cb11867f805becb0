"""Shares, entries and lanes: how Spillback keeps account of wants with one demand and strategy.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.ids import INCARNATION_SIZE, same_node
from zray.sched.view import ClusterView

# Strategy of a share on a node that a global scheduler chose: the node only checks its own room.
HERE = {"kind": "local"}
HERE_ONCE = {**HERE, "once": True}  # of work that may not run again
# Changes of the view gather this long before lanes look at it again: a twentieth of the gossip interval.
LANE_LOOK_S = 0.005


class Share:
    """The wants of an entry that one node is to grant."""

    __slots__ = ("declared", "granted", "promised", "queued", "until", "want")

    def __init__(self) -> None:
        self.want = 0  # not granted, as far as this node knows
        self.granted = 0  # grants of this node seen in its life
        self.promised = 0  # part of want: granted there, the worker starts
        self.queued = False  # the share waits in the node's queue; else the node had room when it was placed
        self.declared = False  # the node knows the key (of a request: it was asked to place it)
        self.until = 0.0  # a placed share is withdrawn if it is not granted by then


class SpillbackEntry:
    """One scheduling key of an owner (``token`` None), or one single request (``token`` its name)."""

    __slots__ = ("counted", "ended", "env", "granted", "grants_seen", "job", "key", "lane", "lost", "name", "owner",
                 "reported", "shares", "token", "unplaced", "want")

    def __init__(self, owner: bytes, key: int, token: Any, job: int, lane: SpillbackLane, name: str, env: dict) -> None:
        self.owner, self.key, self.token, self.job, self.lane, self.name = owner, key, token, job, lane, name
        self.env = env
        self.want = self.grants_seen = self.granted = self.unplaced = 0
        self.counted = 0  # of unplaced, in the lane's sum
        self.lost = 0  # grants of nodes that are dead
        self.shares: dict[bytes, Share] = {}
        self.reported: tuple[int, str] | None = None
        self.ended = False
        lane.members += 1

    @property
    def outstanding(self) -> int:
        """Leases wanted and not granted.  Grants that the owner had not seen when it sent its want are on their way."""
        return max(0, self.want - (self.granted - self.grants_seen))

    @property
    def shared(self) -> int:
        return sum(share.want for share in self.shares.values())

    @property
    def waits(self) -> int:
        """The wants that can be moved: unplaced, or in queues."""
        return self.unplaced + sum(s.want - s.promised for s in self.shares.values() if s.queued)

    def waits_at(self, node: bytes) -> int:
        share = self.shares.get(node)
        return share.want - share.promised if share is not None and share.queued else 0


class SpillbackLane:
    """Entries of one demand and strategy, and where their wants may go.

    The state of a lane follows from its fields, the first line that fits.  ``due`` says when the lane looks whether its
    wants can be offered:

        state       when                                                looks again
        ASKED       ``request`` is set                                  at ``ask_until``; the answer comes before
        UNJUDGED    ``generation`` is not the view's                    at once: ``judge`` has to look at the members
        HOPELESS    alone, or infeasible and nothing in a queue         in the next generation of the view
        UNPLACED    wants are unplaced and have no ``verdict``          at once
        OUTDATED    ``looked`` is not the view's count of changes       LOOK_S after the last look, or at ``retry_at``
        WAITING     else                                                at ``retry_at``
    """

    __slots__ = ("ask_until", "avoid", "barred", "barred_detail", "count", "demand", "entries", "fruitful_at",
                 "generation", "home_admits", "home_first", "home_queues", "infeasible_at", "is_local_to", "key",
                 "looked", "looked_at", "members", "prefers", "request", "retry_at", "retry_s", "strategy", "unplaced",
                 "verdict")

    def __init__(self, key: Any, demand: dict[str, int], strategy: dict, retry_s: float) -> None:
        self.key, self.demand, self.strategy = key, demand, strategy
        kind = strategy.get("kind")
        # Whether the user prefers some nodes, though not at any price.
        self.prefers = kind == "spread" or bool(
            kind in ("affinity", "labels") and (strategy.get("soft") or strategy.get("ladder")))
        self.members = 0
        self.entries: dict[SpillbackEntry, int] = {}  # waiting entries -> how many wants wait; the next turn is first
        self.count = self.unplaced = 0  # sums over entries
        self.avoid: dict[bytes, tuple[int, float]] = {}  # node -> its stamp when it was busy, and for how long
        self.barred: dict[bytes, None] = {}  # nodes that can never hold it
        self.barred_detail = ""  # the reason that the last of them gave
        self.request = 0  # the question in flight
        self.ask_until: float | None = None
        self.looked, self.looked_at = -1, 0.0  # view.changes that the last offer saw, and when
        self.retry_at, self.retry_s = 0.0, retry_s
        self.verdict: tuple[int, str] | None = None  # of the last answer about what is unplaced
        self.infeasible_at = -1  # view.generation in which no node could hold it
        self.generation = -1  # view.generation of what ``judge`` found
        self.home_first = self.home_admits = self.home_queues = False
        self.is_local_to: bytes | None = None
        self.fruitful_at = 0.0  # when an entry of this lane was last granted something

    def judge(self, home: bytes, view: ClusterView, obstacle: Callable[[dict, dict], str]) -> None:
        """Whether home can hold the lane's demand, is to be asked first, and may queue what is free nowhere."""
        self.generation = view.generation
        self.verdict = None
        self.barred_detail = ""
        self.barred.clear()
        strategy, row = self.strategy, view.row_of.get(home)
        self.is_local_to = None
        if len(view.row_of) <= 1:
            # A lone node decides alone, also that it can never hold a demand.
            self.home_first = self.home_admits = self.home_queues = True
            return
        kind = strategy.get("kind") or "default"
        self.home_admits = row is not None and row not in view.draining and not obstacle(self.demand, strategy)
        wish = kind in ("spread", "labels", "group")
        if kind == "affinity":
            node = strategy.get("node")
            wish = isinstance(node, bytes) and not same_node(node, home) and node[:INCARNATION_SIZE] in view.row_of
            self.home_admits = self.home_admits and not wish
        elif kind == "group":
            self.home_admits = False  # bundles may be elsewhere; the queues of the group's nodes serve it
        elif kind == "default" and strategy.get("locality"):
            node = strategy["locality"]
            if isinstance(node, bytes) and node[:INCARNATION_SIZE] in view.row_of:
                self.is_local_to = node[:INCARNATION_SIZE]
                wish = not same_node(node, home)
        self.home_first = self.home_admits and not wish
        self.home_queues = self.home_admits and self.is_local_to in (None, home)

    def due(self, view: ClusterView) -> float | None:
        """When to look whether the lane can be offered; None: not before something changes."""
        if self.request:
            return self.ask_until
        if self.generation != view.generation:
            return 0.0
        if len(view.row_of) <= 1 or (self.infeasible_at == self.generation and self.count == self.unplaced):
            return None  # no other node ever can; new members make a new generation
        if self.unplaced and self.verdict is None:
            return 0.0
        if self.looked != view.changes:
            return min(self.looked_at + LANE_LOOK_S, self.retry_at)
        return self.retry_at

    def patient_until(self, link_bytes_s: float, otherwise_s: float) -> float:
        """Until when wants stay where their bytes lie and are not offered: as long as moving the bytes would take."""
        if self.is_local_to is None:
            return 0.0
        nbytes = self.strategy.get("bytes")
        return self.fruitful_at + (nbytes / link_bytes_s if type(nbytes) is int else otherwise_s)

    def forget_avoided(self, view: ClusterView, now: float) -> None:
        """Forget busy nodes that have sent a row since, or that were avoided long enough."""
        for node, (stamp, until) in list(self.avoid.items()):
            row = view.row_of.get(node)
            if now >= until or (row is not None and view.stamps[row] != stamp):
                del self.avoid[node]

    def queues(self) -> list[bytes]:
        """Nodes in whose queues wants of this lane wait: they grant these themselves when they can."""
        return list(dict.fromkeys(node for entry in self.entries for node, share in entry.shares.items()
                                  if share.queued and share.want))

    def strategy_at(self, node: bytes, home: bytes) -> dict:
        """The strategy for the chosen node's LocalScheduler."""
        if node == home or self.strategy.get("kind") == "group":
            return self.strategy
        return HERE_ONCE if self.strategy.get("once") else HERE

    def account(self, entry: SpillbackEntry) -> bool:
        """Bring the lane's sums up to date with the entry; True when the number that waits has changed."""
        waits, before = entry.waits, self.entries.get(entry, 0)
        self.unplaced += entry.unplaced - entry.counted
        entry.counted = entry.unplaced
        if waits == before:
            return False
        self.count += waits - before
        if waits:
            self.entries[entry] = waits
        else:
            del self.entries[entry]
        return True

    def turn(self, entry: SpillbackEntry) -> None:
        """The entry got something: next time the others come first."""
        waits = self.entries.pop(entry, 0)
        if waits:
            self.entries[entry] = waits
