"""Spillback: asks the nodes of a cluster for the leases that the owners of this node want.  Pure.

An owner sends its own node (*home*) the number of further leases that a key could use (``want``, absolute).  Spillback
divides the outstanding ones into *shares*, one a node, and an *unplaced* rest:

    unplaced --home first----------------------------------> share of home ------grant--> the owner's
       |  ^                                                       | waits: offered
       |  '--withdrawn: its node is gone, full, drains------.     v
       '---asked of a global scheduler: placed------------> share of another node --grant--> the owner's
                                        queued (busy everywhere, home cannot): the same, and it waits there

Rules:

- A demand that home could ever hold, and that has no wish to be elsewhere, first stands in home's queue.
- Leases that wait in a queue are *offered*: a global scheduler says where they are free, and so many move there.
- A wish (SPREAD, affinity, labels, locality, a placement group, or a demand that home can never hold) is placed by the
  global scheduler first.
- A placed share was free on its node.  It is withdrawn and placed again when the node calls it busy, or does not answer
  for ``patience_s``.
- A grant that crosses a withdrawal counts like any other: it uses up a want, or the owner returns it.
- Leases that an owner no longer wants are taken back from the other nodes first.

Keys with one demand and strategy stand in one *lane*.  It asks for all of them at once, and hands out the answer in
turn; lanes ask in turn too.  A lane asks when something in it is unplaced, when the view has changed, and every
``offer_s``.  Leases that already wait in a queue are asked for only if this node's own view shows room; while it shows
none, the lane looks ever more rarely (OFFER_DOUBLINGS times).

A share is to a node what a want is to home: ``LeaseWant(key, share.want, share.granted)``, where ``granted`` counts the
grants of that node seen here.  A single request (an actor) is a share with a want of one, sent as PlaceRequest and
UnplaceRequest.

Two rules for the waiting leases of a lane.  Locality: they stand where their bytes lie as long as moving the bytes
would take, then they are offered like any other.  Granted: a node that starts a worker for a share, or installs its
runtime environment, has granted it (causes in GRANTED), so the share stays.  An installation that nobody waits for is
stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from zray.base.causes import Cause
from zray.base.config import DEFAULTS
from zray.sched.cluster.spillback_effects import (
    Ask,
    Offers,
    PlaceRequest,
    RelayToNode,
    UnplaceRequest,
    WaitReason,
    WantLocal,
)
from zray.sched.cluster.spillback_lanes import LANE_LOOK_S, Share, SpillbackEntry, SpillbackLane
from zray.sched.node.claims import group_of
from zray.sched.policies.base import frozen
from zray.sched.view import ClusterView
from zray.wire import messages as m

# The node has granted the lease, which waits for a process.
GRANTED = (Cause.WORKER_STARTING, Cause.WORKER_LIMIT, Cause.ENVIRONMENT)
# A share is withdrawn from a node that does not answer for this long: ten times a round trip between daemons, and
# below what a user notices.
SPILL_PATIENCE_S = DEFAULTS.spill_patience_s
# A lane whose wants wait is offered again this often while a node might have room: the gossip interval.
OFFER_S = 0.1
# Bytes that move between nodes in a second, as measured for CURVE over TCP: how long bytes are worth waiting for.
LINK_BYTES_S = 0.5e9
OFFER_DOUBLINGS = 4
# A scheduler found no room where this node's view shows some: it has placed something there that no row confirms yet.
# Together with the time such a placement stands (TENTATIVE_PART of zray.sched.cluster.bottom_up) this is one gossip
# interval.
DOUBT_PART = 0.2
# A question that no global scheduler answered is asked again after this: PlacementClient has tried them all by then.
ASK_S = 5.0


class Spillback:
    """Shares of the wants of one node's owners.  ``out`` is the outbox, filled by every event and by ``step``."""

    def __init__(self, home: bytes, view: ClusterView, offers: Offers, *, patience_s: float = SPILL_PATIENCE_S,
                 offer_s: float = OFFER_S, link_bytes_s: float = LINK_BYTES_S) -> None:
        self.home, self.view, self.offers = home, view, offers
        self.patience_s, self.offer_s, self.link_bytes_s = patience_s, offer_s, link_bytes_s
        self.entries: dict[tuple[bytes, int], SpillbackEntry] = {}
        self.requests: dict[Any, SpillbackEntry] = {}
        self.leases: dict[int, tuple[bytes, SpillbackEntry]] = {}  # of other nodes: lease -> node, entry
        self.lanes: dict[Any, SpillbackLane] = {}
        self._of_group: dict[bytes, dict[SpillbackLane, None]] = {}  # lanes that name a placement group
        self.waiting: dict[SpillbackLane, None] = {}  # those with something to offer; the last one asked last
        self.out: list[Any] = []
        self._keys_of: dict[bytes, dict[int, SpillbackEntry]] = {}
        self._dirty: dict[tuple[SpillbackEntry, bytes], None] = {}  # shares that their node does not know yet
        self._asked: dict[int, SpillbackLane] = {}
        self._last_ask = 0
        self._patience: deque[tuple[float, SpillbackEntry, bytes]] = deque()

    # -------------------------------------------------------------- what owners say

    def declare(self, owner: bytes, job: int, key: int, demand: dict[str, int], strategy: dict, name: str = "",
                env: dict | None = None) -> None:
        """Scheduling key ``key`` of an owner of this node; repeats are harmless."""
        if (owner, key) not in self.entries:
            entry = SpillbackEntry(owner, key, None, job, self._lane(demand, strategy), name, env or {})
            self.entries[owner, key] = entry
            self._keys_of.setdefault(owner, {})[key] = entry

    def want(self, owner: bytes, key: int, want: int, granted: int, now: float) -> None:
        """As described at LeaseWant.  KeyError for a key that was not declared."""
        entry = self.entries[owner, key]
        entry.want, entry.grants_seen = max(want, 0), min(max(granted, 0), entry.granted)
        self._balance(entry, now)

    def drop_owner(self, owner: bytes) -> tuple[list[bytes], list[tuple[bytes, int]]]:
        """The owner is gone.  The nodes that know it and must hear of its end; its leases of other nodes."""
        nodes: dict[bytes, None] = {}
        for key, entry in self._keys_of.pop(owner, {}).items():
            del self.entries[owner, key]
            nodes.update(dict.fromkeys(node for node, share in entry.shares.items() if share.declared))
            self._end(entry)
        nodes.pop(self.home, None)
        held = [(node, lease) for lease, (node, entry) in self.leases.items() if entry.owner == owner]
        for _, lease in held:
            del self.leases[lease]
        return list(nodes), held

    def request(self, token: Any, job: int, demand: dict[str, int], strategy: dict | None, now: float) -> None:
        """One placement (an actor): PlaceRequest effects follow until ``placed`` or ``cancel_request``."""
        if token not in self.requests:
            lane = self._lane(demand, strategy or {})
            entry = self.requests[token] = SpillbackEntry(b"", 0, token, job, lane, "", {})
            entry.want = 1
            self._balance(entry, now)

    def cancel_request(self, token: Any) -> bool:
        """Stop waiting; False when it was not (placed already, or unknown)."""
        entry = self.requests.pop(token, None)
        if entry is None:
            return False
        self._end(entry, tell=True)
        return True

    # -------------------------------------------------------------- what nodes answer

    def granted(self, node: bytes, owner: bytes, key: int, lease: int, now: float) -> bool:
        """A node (also home) granted.  False when no owner here wants it: give it back."""
        entry = self.entries.get((owner, key))
        if entry is None:
            return False
        if node != self.home:
            if lease in self.leases:
                return True
            self.leases[lease] = node, entry
        share = entry.shares.get(node)
        if share is None:
            share = entry.shares[node] = Share()
        share.granted += 1
        share.want, share.promised = max(share.want - 1, 0), max(share.promised - 1, 0)
        entry.granted += 1
        entry.reported = None
        entry.lane.fruitful_at = now
        self._balance(entry, now)
        return True

    def revoked(self, owner: bytes, key: int, now: float) -> Share | None:
        """A grant of home never reached its owner (LocalScheduler.revoke): home owes it again, if it is wanted.

        Home has its own count of what it owes: it gets ours, the share that is returned.
        """
        entry = self.entries.get((owner, key))
        if entry is None or not entry.granted:
            return None
        share = entry.shares[self.home]
        share.granted -= 1
        entry.granted -= 1
        entry.grants_seen = min(entry.grants_seen, entry.granted)
        self._balance(entry, now)
        return share

    def status(self, node: bytes, owner: bytes, key: int, cause: int, detail: str, now: float,
               token: Any = None) -> None:
        """Another node reported why it does not grant (yet)."""
        entry = self._find(owner, key, token)
        share = entry.shares.get(node) if entry is not None else None
        if entry is None or share is None:
            return
        if cause in GRANTED:
            share.promised = min(share.promised + 1, share.want)
            self._report(entry, cause, detail)
            self._file(entry)
        elif not share.want:
            return
        elif cause == Cause.INFEASIBLE:
            entry.lane.barred[node] = None
            entry.lane.barred_detail = detail
            self._withdraw(entry, node, now)
        elif share.queued:
            self._report(entry, cause, detail)
        else:
            self._withdraw_and_avoid(entry, node, now)

    def busy_at_home(self, owner: bytes, key: int, now: float, token: Any = None) -> None:
        """Home cannot grant now.  Its share of a global scheduler, which took home for free, is placed again."""
        entry = self._find(owner, key, token)
        share = entry.shares.get(self.home) if entry is not None else None
        if entry is not None and share is not None and share.want and not share.queued:
            self._withdraw_and_avoid(entry, self.home, now)

    def placed(self, token: Any, node: bytes, now: float) -> bool:
        """The node holds request ``token``.  False when the request is no longer wanted there: give it back."""
        entry = self.requests.get(token)
        share = entry.shares.pop(node, None) if entry is not None else None
        if entry is None or share is None:  # the grant crosses with our UnplaceRequest
            return False
        del self.requests[token]
        self._dirty.pop((entry, node), None)
        share.want = 0
        self._end(entry, tell=True)
        return True

    def answer(self, request: int, placed: list, queued: list, left: int, cause: int, detail: str, now: float) -> None:
        """A global scheduler's answer; nodes and amounts that no longer make sense are passed over."""
        lane = self._asked.pop(request, None)
        if lane is None:
            return
        lane.request = 0
        lane.ask_until = None
        moved = 0
        for node, count in placed:
            if self._is_open(node) and node not in lane.barred:
                moved += self._hand_out(lane, node, count, now, queued=False)
        for node, count in queued:
            if self._is_open(node):
                moved += self._hand_out(lane, node, count, now, queued=True)
        if left and cause == Cause.INFEASIBLE and not self._is_feasible(lane, now):
            detail = lane.barred_detail or detail
            lane.infeasible_at = self.view.generation
        elif moved:
            left = 0  # some were placed: ask for the rest at once
        lane.verdict = (cause, detail) if left else None
        for entry in list(lane.entries):
            if entry.unplaced and lane.home_queues and (left or not moved):  # else the entry came after the question
                self._give(entry, self.home, entry.unplaced, now, queued=True)
            elif entry.unplaced and left:
                self._report(entry, cause, detail)
        if lane.entries:
            lane.looked_at = now
            lane.retry_at = now + self.offer_s * DOUBT_PART

    # -------------------------------------------------------------- leases

    def node_of_lease(self, lease: int) -> bytes:
        """The node of a lease; leases that are not known to be another node's are home's."""
        known = self.leases.get(lease)
        return self.home if known is None else known[0]

    def lease_over(self, lease: int) -> bytes | None:
        """An owner returned the lease, or its worker died: the node that must hear it, None for a lease of home."""
        known = self.leases.pop(lease, None)
        return None if known is None else known[0]

    # -------------------------------------------------------------- nodes

    def node_ended(self, node: bytes, now: float) -> list[tuple[bytes, int, int]]:
        """The node is dead: place its shares elsewhere.  The leases lost with it, as (owner, key, lease).

        Call it when the view has forgotten the node.
        """
        for entry in self._all():
            self._withdraw(entry, node, now)
            share = entry.shares.pop(node, None)
            if share is not None:
                entry.lost += share.granted
                self._dirty.pop((entry, node), None)
        for lane in self.lanes.values():
            lane.avoid.pop(node, None)
            lane.barred.pop(node, None)
        lost = [(entry.owner, entry.key, lease) for lease, (at, entry) in self.leases.items() if at == node]
        for _, _, lease in lost:
            del self.leases[lease]
        return lost

    def node_draining(self, node: bytes, now: float) -> None:
        """The node, perhaps home, grants nothing new: place its shares elsewhere.  Call it when the view knows."""
        for entry in self._all():
            self._withdraw(entry, node, now)

    def group_changed(self, group: bytes, now: float) -> None:
        """The bundles of a group have (other) places, or another reason to have none: offer the waiting lanes at once.

        A question in flight is about the places before; its answer would be taken for one about the new ones.
        """
        for lane in self._of_group.get(group, ()):
            self._forget_question(lane)
            lane.barred.clear()
            lane.avoid.clear()
            lane.verdict, lane.infeasible_at = None, -1
            lane.looked, lane.looked_at, lane.retry_s, lane.retry_at = -1, now - LANE_LOOK_S, self.offer_s, now
            nodes = self.offers.nodes_of(lane.strategy) or ()
            for entry in list(lane.entries):
                for node in [node for node in entry.shares if node not in nodes]:
                    self._withdraw(entry, node, now)

    # -------------------------------------------------------------- the step

    def step(self, now: float) -> None:
        """Withdraw shares without an answer, offer what waits, send nodes their changed shares.

        Call it again, after LocalScheduler's step, as long as it puts out anything for this node.
        """
        while self._patience and self._patience[0][0] <= now:
            _, entry, node = self._patience.popleft()
            share = entry.shares.get(node)
            if share is not None and share.want > share.promised and not share.queued and share.until <= now:
                self._withdraw_and_avoid(entry, node, now)
        if any(node == self.home for _, node in self._dirty):
            self._flush()
            return  # wants that home grants need not be offered; the next step looks
        for lane in list(self.waiting):
            if lane.generation != self.view.generation:
                self._look_again(lane, now)
            if lane.ask_until is not None and lane.ask_until <= now:
                self._forget_question(lane)
            due = lane.due(self.view) if lane in self.waiting else None
            if due is not None and due <= now and not lane.request:
                self._offer(lane, now)
        self._flush()

    def deadline(self) -> float | None:
        """When ``step`` is due even if no event comes before; None: never."""
        times = [self._patience[0][0]] if self._patience else []
        if not self.waiting:
            return times[0] if times else None
        times += [due for due in (lane.due(self.view) for lane in self.waiting) if due is not None]
        return min(times, default=None)

    def _offer(self, lane: SpillbackLane, now: float) -> None:
        """Ask for the wants that wait, if any node may have room."""
        fresh = lane.unplaced and lane.verdict is None
        if lane.looked != self.view.changes:
            lane.looked, lane.retry_s = self.view.changes, self.offer_s
        lane.looked_at = now
        lane.forget_avoided(self.view, now)
        strategy = self._strategy(lane, now)
        if strategy.get("nodes") == []:
            self._wait_for_group(lane)
            return
        avoid = [*lane.avoid, *(() if fresh else lane.queues())]
        if not lane.unplaced and not self.offers.could(lane.demand, strategy, avoid + list(lane.barred)):
            lane.retry_at = now + lane.retry_s
            lane.retry_s = min(lane.retry_s * 2, self.offer_s * 2**OFFER_DOUBLINGS)
            if now < (until := lane.patient_until(self.link_bytes_s, self.offer_s)):
                lane.retry_at = min(lane.retry_at, until)
            return
        self._last_ask += 1
        lane.request, lane.ask_until = self._last_ask, now + ASK_S
        self._asked[lane.request] = lane
        queue = bool(lane.unplaced) and not lane.home_queues
        self.out.append(Ask(lane.request, lane.demand, strategy, lane.count, queue, avoid, list(lane.barred)))
        del self.waiting[lane]
        self.waiting[lane] = None  # the others first, next time

    def _wait_for_group(self, lane: SpillbackLane) -> None:
        """The group of this lane has no place, so no scheduler is asked until ``group_changed``."""
        lane.verdict = cause, detail = self.offers.group_waits(lane.strategy)
        lane.infeasible_at = self.view.generation
        for entry in lane.entries:
            self._report(entry, cause, detail)

    def _is_feasible(self, lane: SpillbackLane, now: float) -> bool:
        """Whether a node of this view may ever hold it: a scheduler that denies it may not know that node yet."""
        return self.offers.feasible(lane.demand, self._strategy(lane, now), list(lane.barred))

    def _forget_question(self, lane: SpillbackLane) -> None:
        self._asked.pop(lane.request, None)
        lane.request, lane.ask_until = 0, None

    def _strategy(self, lane: SpillbackLane, now: float) -> dict:
        """The strategy of a question: a group resolved to nodes, the patience of a locality decided."""
        strategy = lane.strategy
        if strategy.get("kind") == "group":
            return {**strategy, "nodes": self.offers.nodes_of(strategy) or []}
        if lane.is_local_to is not None:
            if now < lane.patient_until(self.link_bytes_s, self.offer_s):
                return {**strategy, "patient": True}
            return {name: value for name, value in strategy.items() if name != "locality"}
        return strategy

    def _look_again(self, lane: SpillbackLane, now: float) -> None:
        """Members, totals or labels have changed: find out which nodes may hold this lane's wants."""
        lane.judge(self.home, self.view, self.offers.obstacle)
        lane.looked, lane.looked_at, lane.retry_s = -1, now - LANE_LOOK_S, self.offer_s
        for entry in list(lane.entries):
            for node in list(entry.shares):
                if not (lane.home_admits if node == self.home else self._is_open(node)):
                    self._withdraw(entry, node, now)
            self._route(entry, now)

    # -------------------------------------------------------------- shares

    def _balance(self, entry: SpillbackEntry, now: float) -> None:
        """Make shares and unplaced add up to what is outstanding."""
        difference = entry.outstanding - entry.shared - entry.unplaced
        if difference > 0:
            if not entry.lane.count:
                entry.lane.fruitful_at = now
            entry.unplaced += difference
            self._route(entry, now)
        elif difference < 0:
            excess = -difference
            cut = min(entry.unplaced, excess)
            entry.unplaced -= cut
            excess -= cut
            others = [node for node in entry.shares if node != self.home]
            others.sort(key=lambda node: not entry.shares[node].queued)
            for node in (*others, self.home):
                share = entry.shares.get(node)
                cut = min(share.want, excess) if share is not None else 0
                if cut:
                    excess -= cut
                    self._reduce(entry, node, cut)
        self._file(entry)

    def _route(self, entry: SpillbackEntry, now: float) -> None:
        """Move unplaced wants home, if home is to hold them; else they wait for a global scheduler."""
        lane = entry.lane
        if lane.generation != self.view.generation:
            lane.judge(self.home, self.view, self.offers.obstacle)
        if entry.unplaced and lane.home_first:
            self._give(entry, self.home, entry.unplaced, now, queued=True)
        elif entry.unplaced and lane.verdict is not None:
            if lane.infeasible_at == lane.generation:
                self._report(entry, *lane.verdict)
            else:
                lane.verdict = None  # there is something new to ask for
        self._file(entry)

    def _give(self, entry: SpillbackEntry, node: bytes, count: int, now: float, *, queued: bool) -> None:
        """Move ``count`` from unplaced to a node's share."""
        share = entry.shares.get(node)
        if share is None:
            share = entry.shares[node] = Share()
        entry.unplaced -= count
        share.queued = queued if not share.want else share.queued or queued
        share.want += count
        if not queued and not entry.lane.prefers:
            share.until = now + self.patience_s
            self._patience.append((share.until, entry, node))
        self._dirty[entry, node] = None
        self._file(entry)

    def _reduce(self, entry: SpillbackEntry, node: bytes, count: int) -> None:
        share = entry.shares[node]
        share.want -= count
        share.promised = min(share.promised, share.want)
        self._dirty[entry, node] = None

    def _withdraw(self, entry: SpillbackEntry, node: bytes, now: float) -> None:
        """All wants of the share are unplaced again."""
        share = entry.shares.get(node)
        if share is not None and share.want:
            entry.unplaced += share.want
            self._reduce(entry, node, share.want)
            entry.lane.verdict = None
            self._route(entry, now)

    def _withdraw_and_avoid(self, entry: SpillbackEntry, node: bytes, now: float) -> None:
        """The node lacks what the view showed: place the share elsewhere; avoid the node until its next row."""
        lane, share, row = entry.lane, entry.shares[node], self.view.row_of.get(node)
        lane.avoid[node] = (self.view.stamps[row] if row is not None else -1, now + self.offer_s)
        count = share.want - share.promised
        entry.unplaced += count
        self._reduce(entry, node, count)
        lane.verdict = None
        if lane.home_queues:
            self._give(entry, self.home, count, now, queued=True)
            lane.looked, lane.looked_at = -1, now - LANE_LOOK_S
        self._file(entry)

    def _hand_out(self, lane: SpillbackLane, node: bytes, count: int, now: float, *, queued: bool) -> int:
        """Move ``count`` wants of the lane's entries, in turn, to a node; the number that there were to move."""
        total = count
        while count > 0 and lane.entries:
            each = max(1, count // len(lane.entries))
            moved = 0
            for entry in list(lane.entries):
                take = min(each, count, entry.unplaced if queued else entry.waits - entry.waits_at(node))
                if take <= 0:
                    continue
                self._collect(entry, take, node)
                self._give(entry, node, take, now, queued=queued)
                lane.turn(entry)
                moved += take
                count -= take
                if not count:
                    break
            if not moved:
                break
        return total - max(count, 0)

    def _collect(self, entry: SpillbackEntry, count: int, target: bytes) -> None:
        """Make ``count`` waiting wants unplaced, at first from queues of other nodes, then from home's.

        Wants that are unplaced already count first.
        """
        need = count - min(count, entry.unplaced)
        for node, share in sorted(entry.shares.items(), key=lambda item: item[0] == self.home):
            if not need:
                break
            if share.queued and node != target:
                cut = min(share.want - share.promised, need)
                if cut:
                    entry.unplaced += cut
                    need -= cut
                    self._reduce(entry, node, cut)

    def _flush(self) -> None:
        """Send nodes their shares that changed."""
        dirty, self._dirty = self._dirty, {}
        for entry, node in dirty:
            share = entry.shares.get(node)
            if share is None or entry.ended:
                continue
            if entry.token is not None:
                if share.want and not share.declared:
                    self.out.append(PlaceRequest(node, entry.token, entry.lane.strategy_at(node, self.home)))
                elif share.declared and not share.want:
                    self.out.append(UnplaceRequest(node, entry.token))
                share.declared = bool(share.want)
                if not share.want:
                    del entry.shares[node]
            elif node == self.home:
                self.out.append(WantLocal(entry.owner, entry.key, share.want, share.granted))
            else:
                if not share.declared:
                    share.declared = True
                    lane = entry.lane
                    self.out.append(RelayToNode(node, entry.owner, m.LeaseKey(
                        entry.key, lane.demand, entry.env, lane.strategy_at(node, self.home), entry.name, entry.job)))
                self.out.append(RelayToNode(node, entry.owner, m.LeaseWant(entry.key, share.want, share.granted)))

    # -------------------------------------------------------------- entries and lanes

    def _lane(self, demand: dict[str, int], strategy: dict) -> SpillbackLane:
        key = (frozen(demand), frozen(strategy))
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = SpillbackLane(key, demand, strategy, self.offer_s)
            if (group := group_of(strategy)) is not None:
                self._of_group.setdefault(group, {})[lane] = None
        return lane

    def _file(self, entry: SpillbackEntry) -> None:
        """Bring the lane's account of the entry up to date."""
        lane = entry.lane
        if lane.account(entry):
            if lane.count:
                self.waiting.setdefault(lane)
            else:
                self.waiting.pop(lane, None)

    def _end(self, entry: SpillbackEntry, *, tell: bool = False) -> None:
        """Forget an entry; with ``tell``, take its request back from the nodes that have it."""
        for node, share in entry.shares.items():
            if tell and share.declared:
                self.out.append(UnplaceRequest(node, entry.token))
        entry.want = entry.grants_seen = entry.granted = entry.unplaced = 0
        entry.shares.clear()
        entry.ended = True
        self._file(entry)
        lane = entry.lane
        lane.members -= 1
        if not lane.members:
            del self.lanes[lane.key]
            self._asked.pop(lane.request, None)
            if (group := group_of(lane.strategy)) is not None:
                del self._of_group[group][lane]
                if not self._of_group[group]:
                    del self._of_group[group]

    def _find(self, owner: bytes, key: int, token: Any) -> SpillbackEntry | None:
        return self.entries.get((owner, key)) if token is None else self.requests.get(token)

    def _all(self) -> Iterator[SpillbackEntry]:
        yield from list(self.entries.values())
        yield from list(self.requests.values())

    def _is_open(self, node: Any) -> bool:
        row = self.view.row_of.get(node)
        return row is not None and row not in self.view.draining

    def _report(self, entry: SpillbackEntry, cause: int, detail: str) -> None:
        if entry.reported != (cause, detail):
            entry.reported = cause, detail
            self.out.append(WaitReason(entry.owner, entry.key, cause, detail, entry.token))

    # -------------------------------------------------------------- reports

    def explain(self, owner: bytes, key: int, token: Any = None) -> tuple[int, str]:
        """The reason that the owner was sent last for a key that waits elsewhere; READY when nothing waits."""
        entry = self._find(owner, key, token)
        return entry.reported if entry is not None and entry.reported else (Cause.READY, "")

    def report(self) -> list[dict]:
        """Shares by key, for ``zray status`` and tests."""
        return [{"owner": entry.owner, "key": entry.key, "token": entry.token, "outstanding": entry.outstanding,
                 "unplaced": entry.unplaced, "shares": {node: share.want for node, share in entry.shares.items()}}
                for entry in self._all() if entry.outstanding]

    def check(self) -> None:
        members: dict[SpillbackLane, int] = {}
        for entry in self._all():
            assert not entry.ended
            assert entry.unplaced >= 0 and all(0 <= share.promised <= share.want for share in entry.shares.values())
            assert entry.shared + entry.unplaced == entry.outstanding, "a want is lost or doubled"
            assert entry.token is not None or entry.granted == sum(
                share.granted for share in entry.shares.values()) + entry.lost, "a grant is not accounted for"
            assert (entry in entry.lane.entries) == (entry.waits > 0), "somebody who waits is not offered"
            assert entry.lane.entries.get(entry, 0) == entry.waits
            members[entry.lane] = members.get(entry.lane, 0) + 1
        for lane in self.lanes.values():
            assert lane.members == members.get(lane, 0)
            assert lane.count == sum(lane.entries.values()) and (lane in self.waiting) == (lane.count > 0)
            assert not lane.request or self._asked.get(lane.request) is lane
        assert set(self._asked.values()) <= set(self.lanes.values())
        named = {lane for lane in self.lanes.values() if group_of(lane.strategy) is not None}
        assert named == {lane for lanes in self._of_group.values() for lane in lanes} and all(self._of_group.values())
