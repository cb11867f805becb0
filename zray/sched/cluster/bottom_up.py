"""BottomUpScheduler: all of one node's scheduling, local first.  Pure.

    owners of this node --> Spillback --WantLocal--> LocalScheduler --> Grant, Recall, Status
                             |  ^  '--RelayToNode-> other nodes' LocalSchedulers --granted, status--> Spillback
                            Ask | answer
                             v  |
                            PlacementClient --> GlobalScheduler of this node or, by PlaceAsk, of another
                                           '-- ClusterView <-- Gossip <-- rows of the other nodes

The node's machine reports events, then calls ``step`` and performs its effects.  Owners and requests are of this node
(*home*).  LeaseKey, LeaseWant and PlaceActor of other nodes go to ``local`` directly; the daemon sends its Grants and
Statuses back to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zray.base.causes import Cause
from zray.base.ids import INCARNATION_SIZE, node_of, same_node
from zray.base.named_tuples import NamedTuple
from zray.sched.cluster.asking import PlacementClient, serve
from zray.sched.cluster.gossip import GOSSIP_S, Gossip, NodeReport
from zray.sched.cluster.placing import GlobalScheduler, schedulers
from zray.sched.cluster.spillback import LINK_BYTES_S, SPILL_PATIENCE_S, Spillback
from zray.sched.cluster.spillback_effects import (
    Ask,
    Offers,
    PlaceRequest,
    RelayToNode,
    UnplaceRequest,
    WaitReason,
    WantLocal,
)
from zray.sched.kernels.loading import Kernels
from zray.sched.node.local import ROW, Grant, Recall, Status
from zray.sched.node.protocol import LeaseScheduler
from zray.sched.resources import CPU_COLUMN, NODE_PREFIX, checked_units
from zray.sched.view import ClusterView
from zray.wire import messages as m

# Turns of local, spillback and asker in one step; the next step goes on with the rest.
TURNS_MAX = 32
# A placement stands in the view for so many gossip intervals without a row of its node; see Spillback's DOUBT_PART.
TENTATIVE_PART = 0.8
# Shorter settings, below a few round trips, would leave nodes no time but for messages.
TIMES_S_MIN = 0.01
WANTS_SHOWN, ENTRIES_COUNTED = 4, 64
DECISIONS_SHOWN_MIN = 128  # a second; fewer are no load


class SchedulerMessage(NamedTuple):
    """A message for another node's BottomUpScheduler, for its ``message``."""

    node: bytes
    message: Any


class OwnerGone(NamedTuple):
    """Left behind by an owner: nodes that must hear of its end, leases held here, (node, lease) held elsewhere."""

    nodes: list[bytes]
    leases: list[int]
    elsewhere: list[tuple[bytes, int]]


class NodeLosses(NamedTuple):
    """Left behind by a dead node: leases that our owners held there, leases that its owners hold here."""

    lost: list[tuple[bytes, int, int]]  # owner, key, lease
    orphans: list[int]


Effect = Grant | Recall | Status | RelayToNode | PlaceRequest | UnplaceRequest | SchedulerMessage


class BottomUpScheduler:
    """The scheduler of node ``home`` (an incarnation) over ``local``; its cluster begins with this node alone."""

    def __init__(
        self, local: LeaseScheduler, home: bytes, labels: Mapping[str, str] | None = None, *,
        seed: int = 0, gossip_s: float = GOSSIP_S, patience_s: float = SPILL_PATIENCE_S, kernels: Kernels | None = None,
        nodes_of: Callable[[dict], list[bytes] | None] = lambda strategy: None,
        group_waits: Callable[[dict], tuple[int, str]] = lambda strategy: (int(Cause.GROUP_PENDING), ""),
        link_bytes_s: float = LINK_BYTES_S,
    ) -> None:
        gossip_s, patience_s = max(gossip_s, TIMES_S_MIN), max(patience_s, TIMES_S_MIN)
        self.local, self.home, self.labels = local, home, dict(labels or {})
        self.view = ClusterView(kernels, NODE_PREFIX)
        self.view.add(home, local.total(), self.labels)
        self.placing = GlobalScheduler(self.view, home, tentative_s=TENTATIVE_PART * gossip_s)
        self.gossip = Gossip(home, self.view, gossip_s=gossip_s, seed=seed)
        self.asker = PlacementClient(home, self.placing, self.schedulers, patience_s=patience_s)
        offers = Offers(local.obstacle, self._could, self._feasible, nodes_of, group_waits)
        self.spillback = Spillback(home, self.view, offers, patience_s=patience_s, offer_s=gossip_s,
                                   link_bytes_s=link_bytes_s)
        self.now = 0.0
        self.draining = False
        self._free: list[int] = list(local.view.available[ROW])  # as the view shows it
        self._waiting = False
        self._generation = local.view.generation
        self._load_class = ""  # idle, part or full, when gossip heard of it last
        self._decided = self._rate = 0
        self._jobs_of_requests: dict[Any, tuple[int, dict[str, int], str]] = {}
        self._answers: list[Effect] = []

    # -------------------------------------------------------------- owners of this node

    def declare(self, owner: bytes, job: int, key: int, demand: dict[str, int], strategy: dict | None = None,
                name: str = "", env: dict | None = None) -> None:
        """As LocalScheduler.declare; ValueError for a demand that is not one."""
        self.local.declare(owner, job, key, demand, strategy, name)
        self.spillback.declare(owner, job, key, demand, strategy or {}, name, env)

    def want(self, owner: bytes, key: int, want: int, granted: int, now: float) -> None:
        """As described at LeaseWant.  KeyError for a key that was not declared."""
        self.spillback.want(owner, key, want, granted, now)

    def drop_owner(self, owner: bytes) -> OwnerGone:
        """An owner of this or another node is gone."""
        nodes, elsewhere = self.spillback.drop_owner(owner)
        return OwnerGone(nodes, self.local.drop_owner(owner), elsewhere)

    def request(self, token: Any, job: int, demand: dict[str, int], strategy: dict | None, now: float,
                name: str = "") -> None:
        """One placement; ends in a Grant of this node, or a PlaceRequest on another that answers by ``placed``.

        ValueError for a demand that is not one.
        """
        self._jobs_of_requests[token] = (job, checked_units(demand), name)
        self.spillback.request(token, job, demand, strategy, now)

    def cancel_request(self, token: Any) -> bool:
        """Stop waiting; False when it was not (placed already, or unknown)."""
        self._jobs_of_requests.pop(token, None)
        return self.spillback.cancel_request(token)

    def revoke(self, lease: int, now: float) -> bool:
        """As LocalScheduler.revoke: a grant of this node never reached its owner, who may want it again."""
        held = self.local.leases.get(lease)
        if held is None or not self.local.revoke(lease, now):
            return False
        owner, key = held.entry.owner, held.entry.key
        if held.entry.token is None and (share := self.spillback.revoked(owner, key, now)) is not None:
            self.local.want(owner, key, share.want, share.granted, now)  # before it grants what is not wanted again
        return True

    # -------------------------------------------------------------- other nodes

    def node_joined(self, node: bytes, total: dict[str, int], labels: dict[str, str] | None, now: float) -> None:
        """The nodes table shows a live node.  Repeats, and this node itself, are harmless."""
        self.gossip.add(node[:INCARNATION_SIZE], total, labels or {}, now)

    def node_ended(self, node: bytes, now: float) -> NodeLosses:
        """The nodes table shows a dead node."""
        self.gossip.node_ended(node, now)
        lost = self.spillback.node_ended(node, now)
        self.asker.node_ended(node, now)
        return NodeLosses(lost, self.owners_gone(node))

    def owners_gone(self, node: bytes) -> list[int]:
        """The owners of a node are gone: the leases of this node that they held."""
        return [lease for owner in self.local.owners() if same_node(owner, node)
                for lease in self.local.drop_owner(owner)]

    def drain(self, now: float) -> None:
        """This node grants nothing new from now on; its row says so to the others."""
        self.draining = True
        self.view.drain(self.home)
        self.spillback.node_draining(self.home, now)
        self.gossip.changed(now, big=True)

    def node_draining(self, node: bytes, now: float) -> None:
        """The row of another node says that it drains."""
        if node in self.view.row_of:
            self.view.drain(node)
            self.spillback.node_draining(node, now)

    def granted_elsewhere(self, node: bytes, owner: bytes, key: int, lease: int, now: float) -> bool:
        """LeaseGrant of another node for an owner of ours.  False: no owner wants it, so return it to the node."""
        return self.spillback.granted(node, owner, key, lease, now)

    def status_elsewhere(self, node: bytes, owner: bytes, key: int, cause: int, detail: str, now: float,
                         token: Any = None) -> None:
        """LeaseStatus of another node, or why it does not place request ``token`` yet."""
        self.spillback.status(node, owner, key, cause, detail, now, token)

    def placed_elsewhere(self, token: Any, node: bytes, now: float) -> bool:
        """Another node holds request ``token``.  False: the request is no longer wanted there, so give it back."""
        if not self.spillback.placed(token, node, now):
            return False
        self._jobs_of_requests.pop(token, None)
        return True

    def message(self, node: bytes, message: Any, now: float) -> None:
        """ViewRows, PlaceAsk or PlaceAnswer from another node."""
        if type(message) is m.ViewRows:
            self.gossip.on_rows(message.rows, now)
        elif type(message) is m.PlaceAnswer:
            self.asker.on_answer(node, message)
        elif type(message) is m.PlaceAsk:
            self._refresh(now)
            placed = serve(self.placing, node, message, now)
            self._answers.append(SchedulerMessage(node, m.PlaceAnswer(
                message.request, list(map(list, placed.placed)), list(map(list, placed.queued)), placed.left,
                int(placed.cause), placed.detail)))
            self.gossip.changed(now)

    # -------------------------------------------------------------- the step

    def step(self, now: float, grants_max: int | None = None) -> list[Effect]:
        """The effects that are due now, in order."""
        self.now = now
        effects, self._answers = self._answers, []
        for _ in range(TURNS_MAX):
            wrong: dict[bytes, None] = {}  # homes that took this node for free
            for effect in self.local.step(now, grants_max):
                self._account(effect, now)
                if type(effect) is Status and effect.cause == Cause.RESOURCES_BUSY and effect.token is None \
                        and not same_node(effect.owner, self.home):
                    wrong[node_of(effect.owner)] = None
                effects.append(effect)
            if wrong:
                row = self.gossip.correction(self._row())
                effects[:0] = [SchedulerMessage(node, row) for node in wrong if node in self.view.row_of]
            self._refresh(now)
            self.placing.expire(now)
            self.spillback.step(now)
            self.asker.tick(now)
            if not self._perform(effects, now):
                break
        self.gossip.step(now, self._report_of_home)
        for node, message in self.gossip.out:
            effects.append(SchedulerMessage(node, message))
        self.gossip.out.clear()
        return effects

    def deadline(self) -> float | None:
        """When ``step`` is due even if no event comes before; None: never."""
        times = (self.local.deadline(), self.placing.deadline(), self.spillback.deadline(), self.asker.deadline(),
                 self.gossip.deadline())
        return min([when for when in times if when is not None], default=None)

    def _account(self, effect: Any, now: float) -> None:
        if type(effect) is Grant:
            if effect.token is None:
                self.spillback.granted(self.home, effect.owner, effect.key, effect.lease, now)
            elif self._jobs_of_requests.pop(effect.token, None) is not None:
                self.spillback.placed(effect.token, self.home, now)
        elif type(effect) is Status and effect.cause == Cause.RESOURCES_BUSY:
            self.spillback.busy_at_home(effect.owner, effect.key, now, effect.token)

    def _perform(self, effects: list[Effect], now: float) -> bool:
        """Perform the effects of Spillback and PlacementClient; False when nothing on this node changed."""
        moved = False
        out, self.spillback.out = self.spillback.out, []
        for item in out:
            kind = type(item)
            if kind is WantLocal:
                self.local.want(item.owner, item.key, item.want, item.granted, now)
                moved = True
            elif kind is Ask:
                self.asker.ask(item, now)
            elif kind is WaitReason:
                effects.append(Status(item.owner, item.key, item.cause, item.detail, item.token))
            elif kind is PlaceRequest and item.node == self.home:
                job, demand, name = self._jobs_of_requests[item.token]
                self.local.request(item.token, job, demand, item.strategy, now, name)
                moved = True
            elif kind is UnplaceRequest and item.node == self.home:
                self.local.cancel_request(item.token)
                moved = True
            else:
                effects.append(item)
        for node, message in self.asker.out:
            effects.append(SchedulerMessage(node, message))
        self.asker.out.clear()
        answers, self.asker.answers = self.asker.answers, []
        for request, placed in answers:
            self.spillback.answer(request, *placed, now)
            moved = True
        return moved

    # -------------------------------------------------------------- what others are told

    def _refresh(self, now: float) -> None:
        """Bring this node's own row up to date, in the view and for gossip."""
        if len(self.view.row_of) == 1:
            return
        free, generation = list(self.local.view.available[ROW]), self.local.view.generation
        waiting = bool(self.local.waiting.lanes)
        if free == self._free and waiting == self._waiting and generation == self._generation:
            return
        self._free, self._waiting, self._generation = free, waiting, generation
        self.view.set_row(self.home, self.local.total(), self.local.available(), draining=self.draining)
        state = self._state()
        self.gossip.changed(now, big=state != self._load_class and "part" not in (state, self._load_class))

    def _state(self) -> str:
        free, total = self._free, self.local.view.total[ROW]
        if self._waiting or (total[CPU_COLUMN] and free[CPU_COLUMN] <= 0):
            return "full"
        return "idle" if free == list(total) else "part"

    def _report_of_home(self, elapsed: float) -> NodeReport:
        self._load_class = self._state()
        made, self._decided = self.placing.decisions - self._decided, self.placing.decisions
        # after a silence the rate counts as if all was in the last second
        rate = int(made / min(max(elapsed, 0.1), 1.0))
        self._rate = _rough(rate) if rate >= DECISIONS_SHOWN_MIN else 0
        return self._row()

    def _row(self) -> NodeReport:
        wants = tuple((demand, _rough(leases)) for demand, leases in self.local.wants(WANTS_SHOWN, ENTRIES_COUNTED)
                      if leases)
        return NodeReport(self.local.available(), self.local.total(), self.labels, wants, self._rate, self.draining)

    def schedulers(self) -> list[bytes]:
        """The nodes that act as global schedulers now."""
        return schedulers(self.view, self.gossip.decisions())

    def _could(self, demand: dict, strategy: dict, avoid: list[bytes]) -> bool:
        return self.placing.could(demand, strategy, self.home, self.now, avoid)

    def _feasible(self, demand: dict, strategy: dict, barred: list[bytes]) -> bool:
        return self.placing.feasible(demand, strategy, self.home, barred)

    def check(self) -> None:
        for part in (self.local, self.spillback, self.placing, self.gossip, self.asker):
            part.check()
        for (owner, key), entry in self.spillback.entries.items():
            share, here = entry.shares.get(self.home), self.local.entries[owner, key]
            if entry.lane.strategy.get("kind") == "group":
                continue  # a claim counts for itself, and ends with its group
            assert (share.want if share is not None else 0) == here.outstanding, "home owes another want than its share"


def _rough(number: int) -> int:
    """The next power of two: rough numbers change rarely, so rows do too."""
    return 1 << (number - 1).bit_length() if number > 0 else 0
