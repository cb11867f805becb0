"""Spill: which node each lease that the owners of this node want is asked of.  Pure.

An owner says to its own node (*home*) how many more leases a key could use (``want``, absolute).  Spill divides what is
outstanding of it into *shares*, one a node, and what is *unplaced*:

    unplaced --home first----------------------------------> share of home ------grant--> the owner's
       |  ^                                                       | waits: offered
       |  '--withdrawn: its node is gone, full, drains------.     v
       '---asked of a global scheduler: placed------------> share of another node --grant--> the owner's
                                        queued (busy everywhere, home cannot): the same, and it waits there

Rules.  What home could ever hold, without a wish to be elsewhere, stands in home's queue first; what waits in a queue
is *offered*: a global scheduler says where it is free, and as much moves there.  A wish (SPREAD, affinity, labels,
locality, a placement group, or a demand that home can never hold) is placed by the global scheduler first.  A share
that was placed because the node had it free, and that this node calls busy or leaves without an answer for
``patience_s``, is withdrawn and placed again.  A grant that crosses a withdrawal counts like any other: it uses up a
want, or the owner returns it.  What an owner no longer wants is taken back from the other nodes first.

Keys with one demand and strategy stand in a *Lane*, which asks for all of them at once, and hands out the answer in
turn.  Lanes ask in turn too.  A lane asks when something in it is unplaced, when the view has changed, and every
``offer_s``, but what has a place to wait only if this node's own view shows room (while it shows none, that is looked
at ever more rarely, OFFER_DOUBLINGS times).

To a node a share is what an owner's want is: ``LeaseWant(key, share.want, share.granted)``, granted being the grants of
that node seen here.  A single request (an actor) is the same with a want of one, told by Place and Unplace.

Two rules for what a lane waits for.  Locality: it stands where its bytes lie as long as moving them would take, then
it is offered like any other.  A node that starts a worker for a share (WORKER_STARTING) has granted it: it stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from zray import messages as m
from zray.causes import Cause
from zray.config import DEFAULTS
from zray.sched.claims import group_of
from zray.sched.lanes import LANE_LOOK_S, Entry, Lane, Share
from zray.sched.policies.base import frozen
from zray.sched.spill_effects import Ask, Offers, Place, Tell, TellNode, Unplace, WantLocal
from zray.sched.view import ClusterView

# A share is withdrawn from a node that does not answer for this long: ten times a round trip between daemons, and
# below what a user notices.
SPILL_PATIENCE_S = DEFAULTS.spill_patience_s
# A lane whose wants wait is offered again this often while somebody might have room: the gossip interval.
OFFER_S = 0.1
# What moves between nodes in a second, for how long bytes are worth waiting for: what CURVE over TCP was measured at.
LINK_BYTES_S = 0.5e9
OFFER_DOUBLINGS = 4
# When a scheduler finds no room where this node's view shows some, it has placed something there that no word confirms
# yet.  Together with the time such a placement stands (TENTATIVE_PART of zray.sched.bottom_up) one gossip interval.
DOUBT_PART = 0.2
# A question that no global scheduler answered is asked again after this: Asker has tried them all by then.
ASK_S = 5.0


class Spill:
    """Shares of the wants of one node's owners.  ``out`` is the outbox, filled by every event and by ``step``."""

    def __init__(self, home: bytes, view: ClusterView, offers: Offers, *, patience_s: float = SPILL_PATIENCE_S,
                 offer_s: float = OFFER_S, link_bytes_s: float = LINK_BYTES_S) -> None:
        self.home, self.view, self.offers = home, view, offers
        self.patience_s, self.offer_s, self.link_bytes_s = patience_s, offer_s, link_bytes_s
        self.entries: dict[tuple[bytes, int], Entry] = {}
        self.requests: dict[Any, Entry] = {}
        self.leases: dict[int, tuple[bytes, Entry]] = {}  # of other nodes: lease -> node, entry
        self.lanes: dict[Any, Lane] = {}
        self._of_group: dict[bytes, dict[Lane, None]] = {}  # lanes that name a placement group
        self.waiting: dict[Lane, None] = {}  # those with something to offer, the one that asked last at the end
        self.out: list[Any] = []
        self._keys_of: dict[bytes, dict[int, Entry]] = {}
        self._dirty: dict[tuple[Entry, bytes], None] = {}  # shares that their node has not been told of
        self._asked: dict[int, Lane] = {}
        self._last_ask = 0
        self._patience: deque[tuple[float, Entry, bytes]] = deque()

    # -------------------------------------------------------------- what owners say

    def declare(self, owner: bytes, job: int, key: int, demand: dict[str, int], strategy: dict, name: str = "",
                env: dict | None = None) -> None:
        """Scheduling key ``key`` of an owner of this node; repeats are harmless."""
        if (owner, key) not in self.entries:
            entry = Entry(owner, key, None, job, self._lane(demand, strategy), name, env or {})
            self.entries[owner, key] = entry
            self._keys_of.setdefault(owner, {})[key] = entry

    def want(self, owner: bytes, key: int, want: int, granted: int, now: float) -> None:
        """As LeaseWant says.  KeyError for a key that was not declared."""
        entry = self.entries[owner, key]
        entry.want, entry.seen = max(want, 0), min(max(granted, 0), entry.granted)
        self._balance(entry, now)

    def drop_owner(self, owner: bytes) -> tuple[list[bytes], list[tuple[bytes, int]]]:
        """The owner is gone.  Nodes that know it and must be told; leases of other nodes it held."""
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
        """One placement (an actor): Place effects follow until ``placed`` or ``cancel_request``."""
        if token not in self.requests:
            entry = self.requests[token] = Entry(b"", 0, token, job, self._lane(demand, strategy or {}), "", {})
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
        """A node (also home) granted.  False when nobody here wants to know: give it back."""
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
        entry.told = None
        entry.lane.fruitful_at = now
        self._balance(entry, now)
        return True

    def revoked(self, owner: bytes, key: int, now: float) -> None:
        """A grant of home never reached its owner (LocalScheduler.revoke): home owes it again."""
        entry = self.entries.get((owner, key))
        if entry is not None and entry.granted:
            entry.shares[self.home].granted -= 1
            entry.granted -= 1
            entry.seen = min(entry.seen, entry.granted)
            self._dirty[entry, self.home] = None  # it counts for itself what it owes; now it is told
            self._balance(entry, now)

    def status(self, node: bytes, owner: bytes, key: int, cause: int, detail: str, now: float,
               token: Any = None) -> None:
        """Another node said why it does not grant (yet)."""
        entry = self._find(owner, key, token)
        share = entry.shares.get(node) if entry is not None else None
        if entry is None or share is None:
            return
        if cause in (Cause.WORKER_STARTING, Cause.WORKER_LIMIT):
            share.promised = min(share.promised + 1, share.want)
            self._tell(entry, cause, detail)
            self._file(entry)
        elif not share.want:
            return
        elif cause == Cause.INFEASIBLE:
            entry.lane.barred[node] = None
            entry.lane.said = detail
            self._withdraw(entry, node, now)
        elif share.queued:
            self._tell(entry, cause, detail)
        else:
            self._disappointed(entry, node, now)

    def placed(self, token: Any, node: bytes, now: float) -> bool:
        """The node holds request ``token``.  False when it is not wanted there (any more): give it back."""
        entry = self.requests.get(token)
        share = entry.shares.pop(node, None) if entry is not None else None
        if entry is None or share is None:  # its place crosses with our Unplace
            return False
        del self.requests[token]
        self._dirty.pop((entry, node), None)
        share.want = 0
        self._end(entry, tell=True)
        return True

    def answer(self, request: int, placed: list, queued: list, left: int, cause: int, detail: str, now: float) -> None:
        """A global scheduler's answer; nodes and amounts that make no sense any more are passed over."""
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
            detail = lane.said or detail
            lane.infeasible_at = self.view.generation
        elif moved:
            left = 0  # some of it was: ask for the rest at once
        lane.verdict = (cause, detail) if left else None
        for entry in list(lane.entries):
            if entry.unplaced and lane.home_queues and (left or not moved):  # else it came after the question
                self._give(entry, self.home, entry.unplaced, now, queued=True)
            elif entry.unplaced and left:
                self._tell(entry, cause, detail)
        if lane.entries:
            lane.looked_at = now
            lane.retry_at = now + self.offer_s * DOUBT_PART

    # -------------------------------------------------------------- leases

    def node_of_lease(self, lease: int) -> bytes:
        """Whose lease it is; leases that are not known to be another node's are home's."""
        known = self.leases.get(lease)
        return self.home if known is None else known[0]

    def lease_over(self, lease: int) -> bytes | None:
        """An owner returned the lease, or its worker died: the node to be told, None when it is home's business."""
        known = self.leases.pop(lease, None)
        return None if known is None else known[0]

    # -------------------------------------------------------------- nodes

    def node_gone(self, node: bytes, now: float) -> list[tuple[bytes, int, int]]:
        """The node is dead: its shares are placed elsewhere; the leases lost with it, as (owner, key, lease).

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
        """It grants nothing new: what it owes is placed elsewhere.  Home too.  Call it when the view knows."""
        for entry in self._all():
            self._withdraw(entry, node, now)

    def group_changed(self, group: bytes, now: float) -> None:
        """Its bundles have (other) places, or another reason to have none: offer lanes that wait for some at once.

        A question under way is about the places before: its answer would be taken for one about those of now.
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
        """Withdraw what was left without an answer, offer what waits, tell nodes of their shares.

        Call it again, after LocalScheduler's step, as long as it puts out anything for this node.
        """
        while self._patience and self._patience[0][0] <= now:
            _, entry, node = self._patience.popleft()
            share = entry.shares.get(node)
            if share is not None and share.want > share.promised and not share.queued and share.until <= now:
                self._disappointed(entry, node, now)
        if any(node == self.home for _, node in self._dirty):
            self._flush()
            return  # what home grants of it need not be offered; the next step does that
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
        """When ``step`` has something to do even if nothing happens before."""
        times = [self._patience[0][0]] if self._patience else []
        if not self.waiting:
            return times[0] if times else None
        times += [due for due in (lane.due(self.view) for lane in self.waiting) if due is not None]
        return min(times, default=None)

    def _offer(self, lane: Lane, now: float) -> None:
        """Ask for what waits, if somebody may have room."""
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

    def _wait_for_group(self, lane: Lane) -> None:
        """Its group has no place, so nobody is asked; ``group_changed`` goes on."""
        lane.verdict = cause, detail = self.offers.group_waits(lane.strategy)
        lane.infeasible_at = self.view.generation
        for entry in lane.entries:
            self._tell(entry, cause, detail)

    def _is_feasible(self, lane: Lane, now: float) -> bool:
        """Whether a node of this view may ever hold it: a scheduler that says no may not have heard of that node."""
        return self.offers.feasible(lane.demand, self._strategy(lane, now), list(lane.barred))

    def _forget_question(self, lane: Lane) -> None:
        self._asked.pop(lane.request, None)
        lane.request, lane.ask_until = 0, None

    def _strategy(self, lane: Lane, now: float) -> dict:
        """What the global scheduler is asked with: a group resolved to nodes, the patience of a locality decided."""
        strategy = lane.strategy
        if strategy.get("kind") == "group":
            return {**strategy, "nodes": self.offers.nodes_of(strategy) or []}
        if lane.is_local_to is not None:
            if now < lane.patient_until(self.link_bytes_s, self.offer_s):
                return {**strategy, "patient": True}
            return {name: value for name, value in strategy.items() if name != "locality"}
        return strategy

    def _look_again(self, lane: Lane, now: float) -> None:
        """Members, totals or labels have changed: who may hold this lane's wants?"""
        lane.judge(self.home, self.view, self.offers.obstacle)
        lane.looked, lane.looked_at, lane.retry_s = -1, now - LANE_LOOK_S, self.offer_s
        for entry in list(lane.entries):
            for node in list(entry.shares):
                if not (lane.home_admits if node == self.home else self._is_open(node)):
                    self._withdraw(entry, node, now)
            self._route(entry, now)

    # -------------------------------------------------------------- shares

    def _balance(self, entry: Entry, now: float) -> None:
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

    def _route(self, entry: Entry, now: float) -> None:
        """What is unplaced goes home, if that is where it belongs; else it waits for a global scheduler."""
        lane = entry.lane
        if lane.generation != self.view.generation:
            lane.judge(self.home, self.view, self.offers.obstacle)
        if entry.unplaced and lane.home_first:
            self._give(entry, self.home, entry.unplaced, now, queued=True)
        elif entry.unplaced and lane.verdict is not None:
            if lane.infeasible_at == lane.generation:
                self._tell(entry, *lane.verdict)
            else:
                lane.verdict = None  # there is something new to ask for
        self._file(entry)

    def _give(self, entry: Entry, node: bytes, count: int, now: float, *, queued: bool) -> None:
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

    def _reduce(self, entry: Entry, node: bytes, count: int) -> None:
        share = entry.shares[node]
        share.want -= count
        share.promised = min(share.promised, share.want)
        self._dirty[entry, node] = None

    def _withdraw(self, entry: Entry, node: bytes, now: float) -> None:
        """All that the node owes the entry is unplaced again."""
        share = entry.shares.get(node)
        if share is not None and share.want:
            entry.unplaced += share.want
            self._reduce(entry, node, share.want)
            entry.lane.verdict = None
            self._route(entry, now)

    def _disappointed(self, entry: Entry, node: bytes, now: float) -> None:
        """The node has not got what the view showed: somewhere else, until its next word."""
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

    def _hand_out(self, lane: Lane, node: bytes, count: int, now: float, *, queued: bool) -> int:
        """Move ``count`` wants of the lane's entries, in turn, to a node; how many there were to move."""
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

    def _collect(self, entry: Entry, count: int, target: bytes) -> None:
        """Make ``count`` of what waits unplaced: what is so already, then from queues of other nodes, then of home."""
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
        """Tell nodes of shares that changed."""
        dirty, self._dirty = self._dirty, {}
        for entry, node in dirty:
            share = entry.shares.get(node)
            if share is None or entry.ended:
                continue
            if entry.token is not None:
                if share.want and not share.declared:
                    self.out.append(Place(node, entry.token, entry.lane.strategy_at(node, self.home)))
                elif share.declared and not share.want:
                    self.out.append(Unplace(node, entry.token))
                share.declared = bool(share.want)
                if not share.want:
                    del entry.shares[node]
            elif node == self.home:
                self.out.append(WantLocal(entry.owner, entry.key, share.want, share.granted))
            else:
                if not share.declared:
                    share.declared = True
                    lane = entry.lane
                    self.out.append(TellNode(node, entry.owner, m.LeaseKey(
                        entry.key, lane.demand, entry.env, lane.strategy_at(node, self.home), entry.name, entry.job)))
                self.out.append(TellNode(node, entry.owner, m.LeaseWant(entry.key, share.want, share.granted)))

    # -------------------------------------------------------------- entries and lanes

    def _lane(self, demand: dict[str, int], strategy: dict) -> Lane:
        key = (frozen(demand), frozen(strategy))
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(key, demand, strategy, self.offer_s)
            if (group := group_of(strategy)) is not None:
                self._of_group.setdefault(group, {})[lane] = None
        return lane

    def _file(self, entry: Entry) -> None:
        """Bring the lane's account of the entry up to date."""
        lane = entry.lane
        if lane.account(entry):
            if lane.count:
                self.waiting.setdefault(lane)
            else:
                self.waiting.pop(lane, None)

    def _end(self, entry: Entry, *, tell: bool = False) -> None:
        """Forget an entry; with ``tell``, take its request back from the nodes that have it."""
        for node, share in entry.shares.items():
            if tell and share.declared:
                self.out.append(Unplace(node, entry.token))
        entry.want = entry.seen = entry.granted = entry.unplaced = 0
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

    def _find(self, owner: bytes, key: int, token: Any) -> Entry | None:
        return self.entries.get((owner, key)) if token is None else self.requests.get(token)

    def _all(self) -> Iterator[Entry]:
        yield from list(self.entries.values())
        yield from list(self.requests.values())

    def _is_open(self, node: Any) -> bool:
        row = self.view.row_of.get(node)
        return row is not None and row not in self.view.draining

    def _tell(self, entry: Entry, cause: int, detail: str) -> None:
        if entry.told != (cause, detail):
            entry.told = cause, detail
            self.out.append(Tell(entry.owner, entry.key, cause, detail, entry.token))

    # -------------------------------------------------------------- reports

    def explain(self, owner: bytes, key: int, token: Any = None) -> tuple[int, str]:
        """What the owner was told last about a key that waits elsewhere; READY when nothing is."""
        entry = self._find(owner, key, token)
        return entry.told if entry is not None and entry.told else (Cause.READY, "")

    def report(self) -> list[dict]:
        """Shares by key, for ``zray status`` and tests."""
        return [{"owner": entry.owner, "key": entry.key, "token": entry.token, "outstanding": entry.outstanding,
                 "unplaced": entry.unplaced, "shares": {node: share.want for node, share in entry.shares.items()}}
                for entry in self._all() if entry.outstanding]

    def check(self) -> None:
        members: dict[Lane, int] = {}
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


__all__ = [
    "LINK_BYTES_S", "SPILL_PATIENCE_S", "Ask", "Offers", "Place", "Spill", "Tell", "TellNode", "Unplace", "WantLocal",
]
