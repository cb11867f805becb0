"""What Spill keeps account of: shares of entries, and lanes of entries with one demand and strategy.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.ids import INCARNATION_SIZE, same_node
from zray.sched.view import ClusterView

# Strategies by which a node that was chosen serves a share: it has been admitted by the global scheduler already.
HERE = {"kind": "local"}
# Changes of the view gather this long before lanes look at it again: a twentieth of the gossip interval.
LANE_LOOK_S = 0.005


class Share:
    """What one node owes an entry."""

    __slots__ = ("declared", "granted", "promised", "queued", "until", "want")

    def __init__(self) -> None:
        self.want = 0  # not granted, as far as we know
        self.granted = 0  # grants of this node seen in its life
        self.promised = 0  # of want: granted there, the worker starts
        self.queued = False  # it waits in the node's queue; else it was free there when it was placed
        self.declared = False  # the node knows the key (of a request: it was asked to place it)
        self.until = 0.0  # a placed share is withdrawn if it is not granted by then


class Entry:
    """One scheduling key of an owner (``token`` None), or one single request (``token`` its name)."""

    __slots__ = ("counted", "ended", "env", "granted", "job", "key", "lane", "lost", "name", "owner", "seen", "shares",
                 "token", "told", "unplaced", "want")

    def __init__(self, owner: bytes, key: int, token: Any, job: int, lane: Lane, name: str, env: dict) -> None:
        self.owner, self.key, self.token, self.job, self.lane, self.name = owner, key, token, job, lane, name
        self.env = env
        self.want = self.seen = self.granted = self.unplaced = 0
        self.counted = 0  # of unplaced, in the lane's sum
        self.lost = 0  # grants of nodes that are dead
        self.shares: dict[bytes, Share] = {}
        self.told: tuple[int, str] | None = None
        self.ended = False
        lane.members += 1

    @property
    def outstanding(self) -> int:
        """Leases wanted and not granted: grants that the owner had not seen when it spoke are on their way."""
        return max(0, self.want - (self.granted - self.seen))

    @property
    def shared(self) -> int:
        return sum(share.want for share in self.shares.values())

    @property
    def waits(self) -> int:
        """What can be moved: unplaced, or in queues."""
        return self.unplaced + sum(s.want - s.promised for s in self.shares.values() if s.queued)

    def waits_at(self, node: bytes) -> int:
        share = self.shares.get(node)
        return share.want - share.promised if share is not None and share.queued else 0


class Lane:
    """Entries of one demand and strategy, and where their wants may go."""

    __slots__ = ("ask_until", "avoid", "barred", "count", "demand", "entries", "fruitful_at", "generation",
                 "home_admits", "home_first", "home_queues", "infeasible_at", "is_local_to", "key", "looked",
                 "looked_at", "members", "prefers", "request", "retry_at", "retry_s", "said", "strategy", "unplaced",
                 "verdict")

    def __init__(self, key: Any, demand: dict[str, int], strategy: dict, retry_s: float) -> None:
        self.key, self.demand, self.strategy = key, demand, strategy
        kind = strategy.get("kind")
        # Whether where it runs matters to the user, though not at any price.
        self.prefers = kind == "spread" or bool(kind in ("affinity", "labels") and strategy.get("soft"))
        self.members = 0
        self.entries: dict[Entry, int] = {}  # those that wait, whose turn is next first -> how many
        self.count = self.unplaced = 0  # sums over entries
        self.avoid: dict[bytes, tuple[int, float]] = {}  # node -> its stamp when it was busy, and for how long
        self.barred: dict[bytes, None] = {}  # nodes that said they never can
        self.said = ""  # and why
        self.request = 0  # the question under way
        self.ask_until: float | None = None
        self.looked, self.looked_at = -1, 0.0  # view.changes that the last offer saw, and when
        self.retry_at, self.retry_s = 0.0, retry_s
        self.verdict: tuple[int, str] | None = None  # of the last answer about what is unplaced
        self.infeasible_at = -1  # view.generation in which nobody could hold it
        self.generation = -1  # view.generation of what ``judge`` found
        self.home_first = self.home_admits = self.home_queues = False
        self.is_local_to: bytes | None = None
        self.fruitful_at = 0.0  # when somebody was last granted something

    def judge(self, home: bytes, view: ClusterView, obstacle: Callable[[dict, dict], str]) -> None:
        """May home hold it, is home to be asked first, and may what is free nowhere wait there?"""
        self.generation = view.generation
        self.verdict = None
        self.said = ""
        self.barred.clear()
        strategy, row = self.strategy, view.row_of.get(home)
        self.is_local_to = None
        if len(view.row_of) <= 1:
            # A lone node answers for itself, also that it never can.
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
            self.home_admits = False  # bundles may be elsewhere; queues of the group's nodes will do
        elif kind == "default" and strategy.get("locality"):
            node = strategy["locality"]
            if isinstance(node, bytes) and node[:INCARNATION_SIZE] in view.row_of:
                self.is_local_to = node[:INCARNATION_SIZE]
                wish = not same_node(node, home)
        self.home_first = self.home_admits and not wish
        self.home_queues = self.home_admits and self.is_local_to in (None, home)

    def due(self, view: ClusterView) -> float | None:
        """When to look whether it can be offered; None: not before something changes."""
        if self.request:
            return self.ask_until
        if self.generation != view.generation:
            return 0.0
        if len(view.row_of) <= 1 or (self.infeasible_at == self.generation and self.count == self.unplaced):
            return None  # nobody else ever can; new members make a new generation
        if self.unplaced and self.verdict is None:
            return 0.0
        if self.looked != view.changes:
            return min(self.looked_at + LANE_LOOK_S, self.retry_at)
        return self.retry_at

    def patient_until(self, link_bytes_s: float, otherwise_s: float) -> float:
        """How long what waits where its bytes lie is offered to nobody else: as long as moving them would take."""
        if self.is_local_to is None:
            return 0.0
        nbytes = self.strategy.get("bytes")
        return self.fruitful_at + (nbytes / link_bytes_s if type(nbytes) is int else otherwise_s)

    def forget_avoided(self, view: ClusterView, now: float) -> None:
        """Nodes that were busy may be asked again when they have spoken, or after a while."""
        for node, (stamp, until) in list(self.avoid.items()):
            row = view.row_of.get(node)
            if now >= until or (row is not None and view.stamps[row] != stamp):
                del self.avoid[node]

    def queues(self) -> list[bytes]:
        """Nodes in whose queues something of this lane waits: they grant it themselves when they can."""
        return list(dict.fromkeys(node for entry in self.entries for node, share in entry.shares.items()
                                  if share.queued and share.want))

    def strategy_at(self, node: bytes, home: bytes) -> dict:
        """What the chosen node's LocalScheduler is told."""
        return self.strategy if node == home or self.strategy.get("kind") == "group" else HERE

    def account(self, entry: Entry) -> bool:
        """Take the entry in, out, or its new numbers; True when anything changed."""
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

    def turn(self, entry: Entry) -> None:
        """It got something: the others first, next time."""
        waits = self.entries.pop(entry, 0)
        if waits:
            self.entries[entry] = waits
