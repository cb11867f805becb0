"""Every way to put bundles on nodes, tried: the oracle of zray.sched.cluster.packing on small instances."""

from __future__ import annotations

from itertools import product


def placings(free: list[dict[str, int]], bundles: list[dict[str, int]], strategy: str):
    """All valid assignments bundle -> node as tuples."""
    for choice in product(range(len(free)), repeat=len(bundles)):
        if strategy == "STRICT_PACK" and len(set(choice)) > 1 or (
                strategy == "STRICT_SPREAD" and len(set(choice)) < len(bundles)):
            continue
        left = [dict(node) for node in free]
        for bundle, node in zip(bundles, choice, strict=True):
            for name, value in bundle.items():
                left[node][name] = left[node].get(name, 0) - value
        if all(value >= 0 for node in left for value in node.values()):
            yield choice


def best_nodes(found: list[tuple[int, ...]], strategy: str) -> int:
    """Fewest nodes for PACK, most for SPREAD."""
    counts = [len(set(choice)) for choice in found]
    return min(counts) if strategy == "PACK" else max(counts)
