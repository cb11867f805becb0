"""GlobalScheduler: on which nodes demands of any node should be granted.  Pure, and without state that matters.

Any node can act as one, over its own ClusterView.  A decision is a proposal: the LocalScheduler of the chosen node
grants it or reports busy.  Placements are taken from the view tentatively, until the node's next row or for
``tentative_s``, so decisions between two rows do not pile up on one node.

The number of acting nodes follows the load (``schedulers``): the rate of decisions that nodes report in their rows,
over the rate that one should handle.  Every node finds the same ones from the same view, by a hash of their names.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from hashlib import blake2b
from math import ceil
from typing import Any

from zray.base.causes import Cause
from zray.base.named_tuples import NamedTuple
from zray.sched import policies
from zray.sched.policies import INFEASIBLE, NOT_NOW, base, spread
from zray.sched.resources import GPU_COLUMN, UNITS_MAX, Demand, amount, checked_units, describe
from zray.sched.view import ClusterView

# Leases that one question may ask for; a home that wants more asks again.
COUNT_MAX = 10_000
# Decisions a second of one node before another one helps: a question over the mesh costs some 50 us of a Python
# daemon's time, and half of that time is for its own node.
DECISIONS_PER_S = 10_000
# Nodes that the text about an infeasible demand shows.
NODES_SHOWN = 4


class Placed(NamedTuple):
    """``placed``: free there now; ``queued``: where to wait; ``left``: neither, because of ``cause``, ``detail``."""

    placed: list[tuple[bytes, int]]
    queued: list[tuple[bytes, int]]
    left: int
    cause: int
    detail: str


class GlobalScheduler:
    """Places demands over ``view``; ``home`` is the node it runs on."""

    def __init__(self, view: ClusterView, home: bytes, *, tentative_s: float = 0.1) -> None:
        self.view, self.home, self.tentative_s = view, home, tentative_s
        self.decisions = 0  # made in its life
        self._cursor = 0
        # Placements laid over the view: (until, row, stamp of the row then, demand, count), the oldest first.
        self._tentative: deque[tuple[float, int, int, Demand, int]] = deque()

    def place(
        self, demand: dict[str, int], strategy: dict, count: int, origin: bytes, now: float, *, queue: bool = False,
        avoid: Iterable[bytes] = (), barred: Iterable[bytes] = (),
    ) -> Placed:
        """Where ``count`` leases go.  Nothing is placed on ``avoid``; nothing is placed or queued on ``barred``."""
        self.expire(now)
        count = min(count, COUNT_MAX)
        self.decisions += 1
        try:
            named = checked_units(demand)
            policy = policies.policy_of(strategy)
            choices = policy.choices(self.view, strategy, self.view.row_of.get(origin, -1))
        except (ValueError, TypeError, KeyError) as error:
            return Placed([], [], count, Cause.INFEASIBLE, f"its demand or strategy is malformed: {error}")
        wanted = self.view.demand(named)
        barred = tuple(barred)
        placed: dict[int, int] = {}
        feasible: Any = None  # the mask to queue on
        left = count
        if wanted is not None:
            for mask, otherwise in choices:
                if otherwise and feasible is not None:
                    continue
                if self._feasible_rows(mask, wanted, barred):
                    feasible = mask
                    left -= self._fill(policy, wanted, self._without(mask, (*avoid, *barred)), left, placed, now)
                if not left:
                    break
        names: list[Any] = self.view.nodes
        answer = [(names[row], n) for row, n in placed.items()]
        if not left:
            return Placed(answer, [], 0, Cause.READY, "")
        if feasible is None or wanted is None:
            return Placed(answer, [], left, Cause.INFEASIBLE, self.obstacle(named, strategy))
        queued: list[tuple[bytes, int]] = []
        if queue:
            rows = self._feasible_rows(feasible, wanted, barred)
            each, more = divmod(left, len(rows))
            for step in range(len(rows) if each else more):
                queued.append((names[rows[(self._cursor + step) % len(rows)]], each + (step < more)))
            self._cursor += more
            left = 0
        return Placed(answer, queued, left, Cause.RESOURCES_BUSY, f"it asks for {describe(named)}, free on no node")

    def could(self, demand: dict[str, int], strategy: dict, origin: bytes, now: float,
              avoid: Iterable[bytes] = ()) -> bool:
        """Whether ``place`` would place one now, as far as this view shows."""
        self.expire(now)
        wanted = self.view.demand(demand)
        if wanted is None:
            return False
        best = INFEASIBLE
        for mask, otherwise in self._choices(strategy, origin):
            if otherwise and best != INFEASIBLE:
                continue
            row = base.pick_hybrid(self.view, wanted, self._without(mask, avoid), -1)
            if row >= 0:
                return True
            best = max(best, NOT_NOW if self._feasible_rows(mask, wanted, ()) else row)
        return False

    def feasible(self, demand: dict[str, int], strategy: dict, origin: bytes, barred: Iterable[bytes] = ()) -> bool:
        """Whether a node of this view could hold one if it were empty, those in ``barred`` excepted."""
        wanted, out = self.view.demand(demand), tuple(barred)
        return wanted is not None and any(
            self._feasible_rows(mask, wanted, out) for mask, _ in self._choices(strategy, origin))

    def _choices(self, strategy: dict, origin: bytes) -> Iterable[tuple[Any, bool]]:
        """The masks of rows that a strategy admits, the best first; none for one that is malformed."""
        try:
            return policies.policy_of(strategy).choices(self.view, strategy, self.view.row_of.get(origin, -1))
        except (ValueError, TypeError, KeyError):
            return ()

    # -------------------------------------------------------------- rows

    def _without(self, mask: Any, nodes: Iterable[bytes]) -> Any:
        rows = [row for row in map(self.view.row_of.get, nodes) if row is not None and mask[row]]
        if rows:
            mask = mask.copy()
            for row in rows:
                mask[row] = 0
        return mask

    def _feasible_rows(self, mask: Any, demand: Demand, barred: tuple[bytes, ...]) -> list[int]:
        """Rows of the mask that could hold the demand when empty; kept until the members or their totals change."""
        view = self.view
        key = ("feasible", id(mask), demand)
        found = view.masks.get(key)
        if found is None or found[0] is not mask:
            if len(view.masks) >= base.MASKS_MAX:
                view.masks.clear()
            rows = [row for row, admitted in enumerate(mask) if admitted and view.covers(row, demand)]
            found = view.masks[key] = (mask, rows)
        rows = found[1]
        if barred:
            out = {view.row_of.get(node) for node in barred}
            rows = [row for row in rows if row not in out]
        return rows

    def _fill(self, policy: Any, demand: Demand, mask: Any, count: int, placed: dict[int, int], now: float) -> int:
        """Place up to ``count`` on rows of the mask: take them from the view, count them in ``placed``."""
        view = self.view
        rows: dict[int, int]
        if policy is spread:
            rows = self._spread(demand, mask, count)
        elif count == 1:
            row = base.pick_hybrid(view, demand, mask, -1)
            rows = {row: 1} if row >= 0 else {}
            for row in rows:
                view.acquire(row, demand)
        else:
            kernels = view.kernels
            out, classes = kernels.vector([0] * count), kernels.vector([0] * count)
            demands = kernels.matrix([view.index.vector(demand)], len(view.index))
            kernels.place_batch(view.total, view.available, mask, demands, classes, base.THRESHOLD_PPM, GPU_COLUMN, out)
            rows = Counter(out.tolist() if kernels.compiled else out)
            rows.pop(NOT_NOW, None)
            rows.pop(INFEASIBLE, None)
            for row, n in rows.items():
                view.taken(row, demand, n)
        until = now + self.tentative_s
        for row, n in rows.items():
            placed[row] = placed.get(row, 0) + n
            self._tentative.append((until, row, view.stamps[row], demand, n))
        self.decisions += sum(rows.values())
        return sum(rows.values())

    def _spread(self, demand: Demand, mask: Any, count: int) -> dict[int, int]:
        rows: dict[int, int] = {}
        for _ in range(count):
            row = spread.pick(self.view, demand, {"cursor": self._cursor}, mask)
            if row < 0:
                break
            self.view.acquire(row, demand)
            rows[row] = rows.get(row, 0) + 1
            self._cursor = row + 1
        return rows

    def expire(self, now: float) -> None:
        """Lift tentative placements that no row of their node has confirmed or denied in time."""
        tentative, view = self._tentative, self.view
        while tentative and tentative[0][0] <= now:
            _, row, stamp, demand, count = tentative.popleft()
            if view.stamps[row] == stamp:
                view.release(row, tuple((column, value * count) for column, value in demand))
                view.changes += 1

    def deadline(self) -> float | None:
        """When to lift the next tentative placement."""
        return self._tentative[0][0] if self._tentative else None

    # -------------------------------------------------------------- words

    def obstacle(self, demand: dict[str, int], strategy: dict) -> str:
        """The part of the demand that no node has."""
        view = self.view
        rows = sorted(view.row_of.values())
        shown = {row: view.named(row, "total") for row in rows}
        for name, value in demand.items():
            most = max((has.get(name, 0) for has in shown.values()), default=0)
            if most < value:
                have = f"no node has more than {amount(most)}" if most else f"none of the {len(rows)} nodes has any"
                return f"it asks for {name}: {amount(value)}, and {have}"
        why = policies.obstacle(view, strategy)
        if why:
            return why
        if strategy.get("kind") == "group" and not strategy.get("nodes"):
            return "its placement group is not placed yet"
        some = "; ".join(f"{_short(view, row)} has {describe(shown[row])}" for row in rows[:NODES_SHOWN])
        more = f"; and {len(rows) - NODES_SHOWN} more" if len(rows) > NODES_SHOWN else ""
        return f"it asks for {describe(demand)}, and no node that it may run on has all of that: {some}{more}"

    def check(self) -> None:
        self.view.check()
        assert all(count > 0 for *_, count in self._tentative)
        assert all(value <= UNITS_MAX for _, _, _, demand, _ in self._tentative for _, value in demand)


def _short(view: ClusterView, row: int) -> str:
    node = view.nodes[row] or b""
    tags = view.labels[row]
    return f"node {node[:4].hex()}{f' {dict(tags)}' if tags else ''}"


def schedulers(view: ClusterView, decisions_per_s: Iterable[int], per_node: int = DECISIONS_PER_S) -> list[bytes]:
    """The nodes that act as global schedulers, by the decisions a second that the nodes of the view report."""
    nodes = sorted((node for node, row in view.row_of.items() if row not in view.draining), key=_order)
    return nodes[: max(1, min(len(nodes), ceil(sum(decisions_per_s) / per_node)))]


def _order(node: bytes) -> bytes:
    return blake2b(node, digest_size=8).digest()


def share_of(asker: bytes, among: list[bytes]) -> list[bytes]:
    """The schedulers in the order that ``asker`` should try them: askers spread over them evenly."""
    first = int.from_bytes(_order(asker), "big") % len(among) if among else 0
    return among[first:] + among[:first]


__all__ = ["COUNT_MAX", "DECISIONS_PER_S", "GlobalScheduler", "Placed", "schedulers", "share_of"]
