"""Sample sort of many blocks of numbers: by tasks, and by actors that send each other their shares.

Samples of all blocks give the splitters, so that the parts of the result are about equally large.  With tasks, each
block returns one object for each part (``num_returns``), and one task a part merges its pieces.  With actors, every
``Sorter`` holds a block, sends each other sorter its share, and sorts what it has received.

    python examples/sorting.py --blocks 8 --rows 500000 --parts 4
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

import zray as ray

SAMPLES = 100  # of each block


class Sorted(NamedTuple):
    """Whether both ways equal a plain sort, and the sizes of the parts."""

    by_tasks: bool
    by_actors: bool
    parts: list[int]


@ray.remote
def make_block(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 40, rows)


@ray.remote
def sample(block: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(block, min(SAMPLES, len(block)), replace=False)


def splitters_of(blocks: list, parts: int) -> np.ndarray:
    """``parts - 1`` values that cut the numbers into about equal parts."""
    samples = np.sort(np.concatenate(ray.get([sample.remote(block, i) for i, block in enumerate(blocks)])))
    return samples[[len(samples) * part // parts for part in range(1, parts)]]


def cut(block: np.ndarray, splitters: np.ndarray) -> list[np.ndarray]:
    """The sorted block as one piece for each part."""
    block = np.sort(block)
    return np.split(block, np.searchsorted(block, splitters))


@ray.remote
def partition(block: np.ndarray, splitters: np.ndarray):
    pieces = cut(block, splitters)
    return pieces if len(pieces) > 1 else pieces[0]


@ray.remote
def merge(*pieces: np.ndarray) -> np.ndarray:
    return np.sort(np.concatenate(pieces))


def sort_by_tasks(blocks: list, splitters: np.ndarray) -> list[np.ndarray]:
    parts = len(splitters) + 1
    rows = [partition.options(num_returns=parts).remote(block, splitters) for block in blocks]
    columns = zip(*rows) if parts > 1 else [rows]
    return ray.get([merge.remote(*pieces) for pieces in columns])


@ray.remote(concurrency_groups={"incoming": 1})
class Sorter:
    """A block at first, a part of the result at the end.

    Two sorters that send to each other must not wait for each other: incoming pieces have a thread of their own.
    """

    def __init__(self, block: np.ndarray):
        self.block = block
        self.received: list[np.ndarray] = []

    def scatter(self, splitters: np.ndarray, sorters: list) -> None:
        """Send sorter i the numbers of part i, and wait until it has them."""
        pieces = cut(self.block, splitters)
        del self.block
        ray.get([sorter.receive.remote(piece) for sorter, piece in zip(sorters, pieces)])

    @ray.method(concurrency_group="incoming")
    def receive(self, piece: np.ndarray) -> None:
        self.received.append(piece)

    def sort(self) -> np.ndarray:
        return np.sort(np.concatenate(self.received))


def sort_by_actors(blocks: list, parts: int) -> list[np.ndarray]:
    splitters = splitters_of(blocks, len(blocks))
    sorters = [Sorter.remote(block) for block in blocks]
    ray.get([sorter.scatter.remote(splitters, sorters) for sorter in sorters])
    return ray.get([sorter.sort.remote() for sorter in sorters])


def main(blocks: int = 8, rows: int = 100_000, parts: int = 4) -> Sorted:
    """Sort ``blocks`` blocks of ``rows`` numbers; the tasks make ``parts`` parts, the actors one each."""
    refs = [make_block.remote(seed, rows) for seed in range(blocks)]
    by_tasks = sort_by_tasks(refs, splitters_of(refs, parts))
    by_actors = sort_by_actors(refs, parts)
    expected = np.sort(np.concatenate(ray.get(refs)))
    return Sorted(bool(np.array_equal(np.concatenate(by_tasks), expected)),
                  bool(np.array_equal(np.concatenate(by_actors), expected)), [len(part) for part in by_tasks])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=4)
    result = main(**vars(parser.parse_args()))
    print(f"sorted by tasks: {result.by_tasks}, by actors: {result.by_actors}")
    print("sizes of the parts:", *result.parts)
