"""Where the bundles of a placement group go: rows of a ClusterView for those that have no place.  Pure.

The kernels decide (``view.kernels.pack_bundles``); this file says which rows they may use, given where the group's
other bundles are, and explains why there is no place.

    STRICT_PACK    all on one node; exact
    STRICT_SPREAD  every bundle on a node of its own; exact (bipartite matching)
    PACK           few nodes: greedy, nodes that have some of the group first
    SPREAD         many nodes: greedy, nodes that have fewest of the group first

PACK and SPREAD ask an NP-hard question and are answered greedily; tests/unit/test_sched_packing.py measures the gap
against brute force on small instances.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from zray.sched.plain import PACK, SPREAD, STRICT_PACK, STRICT_SPREAD
from zray.sched.resources import CPU, GPU, UNIT, amount, describe
from zray.sched.view import ClusterView

STRATEGIES = {"PACK": PACK, "SPREAD": SPREAD, "STRICT_PACK": STRICT_PACK, "STRICT_SPREAD": STRICT_SPREAD}
Resources = dict[str, int]


def choose(
    view: ClusterView, bundles: Sequence[Resources], strategy: str, others: Sequence[bytes] = (),
    avoid: Collection[bytes] = (), by: str = "available",
) -> list[bytes] | None:
    """A node for each of ``bundles``, or None when there is no place for all.

    ``others``: nodes of the group's bundles that stay where they are, one entry a bundle.  ``avoid``: nodes not to use.
    ``by`` "total" asks what would fit if every node were empty.
    """
    dense = _dense(view, bundles)
    if dense is None:
        return None
    for allowed in _masks(view, strategy, others, avoid):
        out = view.kernels.vector([-1] * len(bundles))
        free = view.kernels.matrix(_copy(view.total if by == "total" else view.available), len(view.index))
        if view.kernels.pack_bundles(view.total, free, view.kernels.vector(allowed), view.kernels.matrix(
                dense, len(view.index)), STRATEGIES[strategy], out):
            nodes = [view.nodes[int(row)] for row in out]
            assert all(node is not None for node in nodes)
            return nodes  # type: ignore[return-value]
    return None


def _masks(view: ClusterView, strategy: str, others: Sequence[bytes], avoid: Collection[bytes]) -> list[list[int]]:
    """Rows that may be used, the better choice first."""
    alive = [1 if view.alive[row] and node not in avoid else 0 for row, node in enumerate(view.nodes)]
    has = [sum(node == other for other in others) for node in view.nodes]
    if not others:
        return [alive]
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
    """What stands in the way now, of bundles that would fit on empty nodes."""
    for index, bundle in enumerate(bundles):
        if not any(view.alive[row] and _fits(view, row, bundle, "available") for row in range(len(view))):
            free = [f"{describe(view.named(row))}" for row in range(len(view)) if view.alive[row]]
            shown = f"{free[0]} is free" if len(free) == 1 else f"no node of {len(free)} has that free"
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
    dense = []
    for bundle in bundles:
        demand = view.index.demand(bundle)
        if demand is None:
            return None
        dense.append(view.index.vector(demand))
    return dense


def _copy(rows: Any) -> list[list[int]]:
    return [[int(value) for value in row] for row in rows]
