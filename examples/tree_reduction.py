"""Tree against linear reduction: the product of many matrices, exact, in two shapes of task graph.

A linear reduction is a chain, each product waits for the one before it, so it runs on one core whatever the machine
has.  A tree has the same number of products but only log2(n) levels, and each level runs in parallel.  The entries are
integers modulo a prime, so the product is associative to the last bit and both shapes must agree exactly.

    python examples/tree_reduction.py --matrices 32 --size 192
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import numpy as np

import zray as ray

PRIME = 2_097_143  # below 2**21: a row of products stays far below 2**63


class Reduction(NamedTuple):
    """Checksums of both results, and how long each took in seconds."""

    equal: bool
    checksum: int
    linear_s: float
    tree_s: float


@ray.remote
def random_matrix(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, PRIME, (size, size), dtype=np.int64)


@ray.remote
def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b) % PRIME


def linear(refs: list) -> ray.ObjectRef:
    """((a b) c) d ...: a chain."""
    total = refs[0]
    for ref in refs[1:]:
        total = multiply.remote(total, ref)
    return total


def tree(refs: list) -> ray.ObjectRef:
    """(a b) (c d) ...: neighbours are multiplied, level by level, so the order of the factors is kept."""
    while len(refs) > 1:
        pairs = [multiply.remote(refs[i], refs[i + 1]) for i in range(0, len(refs) - 1, 2)]
        refs = pairs + refs[len(refs) & ~1:]
    return refs[0]


def main(matrices: int = 32, size: int = 192) -> Reduction:
    """Multiply ``matrices`` random matrices of ``size`` x ``size`` in both shapes."""
    refs = [random_matrix.remote(size, seed) for seed in range(matrices)]
    ray.wait(refs, num_returns=len(refs))
    results, times = [], []
    for shape in (linear, tree):
        start = time.perf_counter()
        results.append(ray.get(shape(refs)))
        times.append(time.perf_counter() - start)
    return Reduction(bool(np.array_equal(*results)), int(results[1].sum()), *times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matrices", type=int, default=32)
    parser.add_argument("--size", type=int, default=192)
    result = main(**vars(parser.parse_args()))
    print(f"equal: {result.equal}, checksum {result.checksum}")
    ratio = result.linear_s / result.tree_s
    print(f"linear {result.linear_s:.3f} s, tree {result.tree_s:.3f} s: {ratio:.2f} times faster")
