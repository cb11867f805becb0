"""Where the bundles of a placement group go: rows of a ClusterView for those that have no place.  Pure.

The kernels decide (``view.kernels.pack_bundles``).  This file gives them the rows that they may use, which follow from
the places of the group's other bundles, and explains why there is no place.

    STRICT_PACK    all on one node; exact
    STRICT_SPREAD  every bundle on a node of its own; exact (bipartite matching)
    PACK           few nodes: greedy, nodes that have some of the group first
    SPREAD         many nodes: greedy, nodes that have fewest of the group first

PACK and SPREAD ask an NP-hard question.  The greedy kernel answers twice, for the bundles as given and largest first,
and the better answer counts; when both fail, a search of at most SEARCH_STEPS_MAX steps looks for any placing.
Against brute force on 1,500 instances (2 to 5 bundles, 2 to 4 nodes; tests/unit/test_sched_packing.py): no placing that
exists is missed, PACK uses more nodes than needed in 0.8 % of them, SPREAD fewer than possible in 0.1 %.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from zray.sched.kernels.plain import PACK, SPREAD, STRICT_PACK, STRICT_SPREAD
from zray.sched.resources import CPU, GPU, UNIT, amount, describe
from zray.sched.view import ClusterView

STRATEGIES = {"PACK": PACK, "SPREAD": SPREAD, "STRICT_PACK": STRICT_PACK, "STRICT_SPREAD": STRICT_SPREAD}
Resources = dict[str, int]
# The search tries so many places in all: some milliseconds, spent only where greedy found none.
SEARCH_STEPS_MAX = 2000
SEARCH_BUNDLES_MAX = 200  # the search recurses


def choose(
    view: ClusterView, bundles: Sequence[Resources], strategy: str, others: Sequence[bytes] = (),
    avoid: Collection[bytes] = (), by: str = "available", held: Sequence[tuple[bytes, Resources]] = (),
    prefer: bytes = b"",
) -> list[bytes] | None:
    """A node for each of ``bundles``, or None when there is no place for all.

    ``others``: nodes of the group's bundles that stay where they are, one entry a bundle.  ``avoid``: nodes not to use.
    ``by`` "total" asks what would fit if every node were empty.  ``held``: what nodes have set aside for these bundles
    already, which counts as free.  ``prefer``: the node for a STRICT_PACK group, if it is there and has room.
    """
    dense = _dense(view, bundles)
    if dense is None:
        return None
    free = _copy(view.total if by == "total" else view.available)
    for node, bundle in held if by == "available" else ():
        row = view.row_of.get(node, -1)
        for column, value in (view.index.demand(bundle) or ()) if row >= 0 else ():
            free[row][column] = min(free[row][column] + value, int(view.total[row][column]))
    orders = [list(range(len(dense)))]
    if strategy in ("PACK", "SPREAD"):
        orders.append(sorted(orders[0], key=lambda i: (-_size(view, dense[i]), i)))
        if orders[1] == orders[0]:
            del orders[1]
    for allowed in _masks(view, strategy, others, avoid, prefer):
        found = [rows for order in orders if (rows := _pack(view, free, allowed, dense, strategy, order)) is not None]
        if not found and strategy in ("PACK", "SPREAD"):
            searched = _search(free, allowed, dense, orders[-1], strategy == "SPREAD")
            found = [searched] if searched is not None else []
        if found:
            best = min(found, key=lambda rows: len(set(rows)) * (1 if strategy == "PACK" else -1))
            return [view.nodes[row] or b"" for row in best]
    return None


def _pack(view: ClusterView, free: list[list[int]], allowed: list[int], dense: list[list[int]], strategy: str,
          order: list[int]) -> list[int] | None:
    """The kernel's rows for the bundles taken in ``order``; None when it finds no place for all."""
    kernels, width = view.kernels, len(view.index)
    out = kernels.vector([-1] * len(dense))
    if not kernels.pack_bundles(view.total, kernels.matrix(_copy(free), width), kernels.vector(allowed),
                                kernels.matrix([dense[i] for i in order], width), STRATEGIES[strategy], out):
        return None
    rows = [-1] * len(dense)
    for position, index in enumerate(order):
        rows[index] = int(out[position])
    return rows


def _search(free: list[list[int]], allowed: list[int], dense: list[list[int]], order: list[int],
            spread: bool) -> list[int] | None:
    """Any placing, by trying one place after the other and going back; None after SEARCH_STEPS_MAX steps.

    Nodes in use come first, or last to ``spread``.
    """
    rows, left, steps = [-1] * len(dense), _copy(free), SEARCH_STEPS_MAX
    held = [0] * len(left)

    def place(position: int) -> bool:
        nonlocal steps
        if position == len(order):
            return True
        demand = dense[order[position]]
        for row in sorted(range(len(left)), key=lambda row: (held[row] if spread else -held[row], row)):
            if not allowed[row] or steps <= 0 or any(h < d for h, d in zip(left[row], demand, strict=True)):
                continue
            steps -= 1
            left[row] = [h - d for h, d in zip(left[row], demand, strict=True)]
            held[row] += 1
            rows[order[position]] = row
            if place(position + 1):
                return True
            left[row] = [h + d for h, d in zip(left[row], demand, strict=True)]
            held[row] -= 1
        return False

    return rows if len(order) <= SEARCH_BUNDLES_MAX and place(0) else None


def _size(view: ClusterView, demand: list[int]) -> int:
    """How large a bundle is: its largest share of the sum of all nodes in one resource, in ppm."""
    size = 0
    for column, value in enumerate(demand):
        if value:
            has = sum(int(row[column]) for row in view.total)
            size = max(size, value * 1_000_000 // max(1, has))
    return size


def _masks(view: ClusterView, strategy: str, others: Sequence[bytes], avoid: Collection[bytes],
           prefer: bytes) -> list[list[int]]:
    """Rows that may be used, the better choice first."""
    alive = [1 if view.alive[row] and row not in view.draining and node not in avoid else 0
             for row, node in enumerate(view.nodes)]
    has = [sum(node == other for other in others) for node in view.nodes]
    if not others:
        row = view.row_of.get(prefer, -1) if prefer else -1
        wanted = [ok if at == row else 0 for at, ok in enumerate(alive)]
        return [wanted, alive] if any(wanted) else [alive]
    if strategy == "STRICT_PACK":
        return [[ok if count else 0 for ok, count in zip(alive, has, strict=True)]]
    if strategy == "STRICT_SPREAD":
        return [[0 if count else ok for ok, count in zip(alive, has, strict=True)]]
    if strategy == "PACK":
        return [[ok if count else 0 for ok, count in zip(alive, has, strict=True)], alive]
    levels = sorted({count for ok, count in zip(alive, has, strict=True) if ok})
    return [[ok if count <= level else 0 for ok, count in zip(alive, has, strict=True)] for level in levels]


def obstacle(view: ClusterView, bundles: Sequence[Resources], strategy: str, others: Sequence[bytes] = ()) -> str:
    """Why the bundles could not be placed even if every node were empty; '' when they could."""
    nodes = [row for row in range(len(view)) if view.alive[row]]
    many = "the cluster has no node" if not nodes else (
        f"the node has {describe(view.named(nodes[0], 'total'))}" if len(nodes) == 1
        else f"none of the {len(nodes)} nodes has that much")
    for index, bundle in enumerate(bundles):
        if GPU in bundle and not gpus_valid(bundle[GPU]):
            return f"bundle {index} asks for GPU: {amount(bundle[GPU])}; more than one GPU must be a whole number"
        if not any(_fits(view, row, bundle) for row in nodes):
            return f"bundle {index} ({describe(bundle)}) fits on no node: {many}"
    if choose(view, bundles, strategy, others, by="total") is not None:
        return ""
    if strategy == "STRICT_SPREAD":
        taken = f", {len(set(others))} of which have other bundles of the group" if others else ""
        return (f"STRICT_SPREAD needs a node of its own for each of {len(bundles) + len(others)} bundles, and the "
                f"cluster has {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}{taken}")
    together: Resources = {}
    for bundle in bundles:
        for name, value in bundle.items():
            together[name] = together.get(name, 0) + value
    if strategy == "STRICT_PACK":
        return f"STRICT_PACK needs one node for all bundles, together {describe(together)}, and {many}"
    return f"its bundles ask for {describe(together)} together, and {many}"


def busy(view: ClusterView, bundles: Sequence[Resources], strategy: str) -> str:
    """The obstacle of now, for bundles that would fit on empty nodes."""
    for index, bundle in enumerate(bundles):
        if not any(view.alive[row] and _fits(view, row, bundle, "available") for row in range(len(view))):
            rows = [row for row in range(len(view)) if view.alive[row]]
            free = {name: max(0, view.named(rows[0]).get(name, 0)) for name in bundle}
            shown = f"no node of {len(rows)} has that free" if len(rows) > 1 else ", ".join(
                f"{name}: {amount(value)}" for name, value in free.items()) + " is free"
            return f"bundle {index} asks for {describe(bundle)}, and {shown}"
    free_cpus = sum(view.named(row).get(CPU, 0) for row in range(len(view)) if view.alive[row])
    return f"its {len(bundles)} bundles do not fit together now ({strategy}; CPU: {amount(max(0, free_cpus))} is free)"


def gpus_valid(need: int) -> bool:
    """Fractions of a GPU only below one, as for tasks."""
    return need < UNIT or need % UNIT == 0


def _fits(view: ClusterView, row: int, bundle: Resources, what: str = "total") -> bool:
    has = view.named(row, what)
    return all(has.get(name, 0) >= value for name, value in bundle.items())


def _dense(view: ClusterView, bundles: Sequence[Resources]) -> list[list[int]] | None:
    demands = [view.demand(bundle) for bundle in bundles]  # all first: one may open a column
    return None if None in demands else [view.index.vector(demand) for demand in demands if demand is not None]


def _copy(rows: Any) -> list[list[int]]:
    return [[int(value) for value in row] for row in rows]
