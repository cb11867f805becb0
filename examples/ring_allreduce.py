"""Ring all-reduce: the sum of one array of every rank, on every rank, with no rank in the middle.

Each array is cut into as many chunks as there are ranks.  First the chunks travel round the ring and grow
(reduce-scatter): after n - 1 steps each rank has the whole sum of one chunk.  Then the sums travel round
(all-gather).  A rank sends 2 (n - 1) / n of its array, however many ranks there are (Patarasuk and Yuan, 2009).

The ranks are async actors: a rank awaits the chunk of a step while its neighbour puts that chunk into its mailbox.

    python examples/ring_allreduce.py --ranks 4 --size 1000000
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from typing import NamedTuple

import numpy as np

import zray as ray


class Reduced(NamedTuple):
    """Whether all ranks have the right sum, its first entries, and the chunks that each rank has sent."""

    right: bool
    first: list[int]
    sent: list[int]


def make_array(rank: int, size: int) -> np.ndarray:
    return np.random.default_rng(rank).integers(0, 1000, size)


@ray.remote
class Rank:
    def __init__(self, rank: int, ranks: int, size: int):
        self.rank, self.ranks = rank, ranks
        self.chunks = [chunk.copy() for chunk in np.array_split(make_array(rank, size), ranks)]
        self.mail: dict[int, asyncio.Queue] = defaultdict(asyncio.Queue)
        self.sent = 0

    async def join(self, neighbour) -> int:
        """``neighbour`` is the next rank of the ring."""
        self.neighbour = neighbour
        return self.rank

    async def deliver(self, step: int, chunk: np.ndarray) -> None:
        await self.mail[step].put(chunk)

    async def exchange(self, step: int, number: int) -> np.ndarray:
        """Send chunk ``number`` to the neighbour; the chunk of this step that the other neighbour sends."""
        sending = self.neighbour.deliver.remote(step, self.chunks[number])
        self.sent += 1
        chunk = await self.mail[step].get()
        await sending
        return chunk

    async def all_reduce(self) -> np.ndarray:
        last = self.ranks - 1
        for step in range(last):
            chunk = await self.exchange(step, (self.rank - step) % self.ranks)
            number = (self.rank - step - 1) % self.ranks
            self.chunks[number] = self.chunks[number] + chunk
        for step in range(last):
            chunk = await self.exchange(last + step, (self.rank - step + 1) % self.ranks)
            self.chunks[(self.rank - step) % self.ranks] = chunk
        return np.concatenate(self.chunks)

    async def messages(self) -> int:
        return self.sent


def main(ranks: int = 4, size: int = 100_000) -> Reduced:
    """All-reduce arrays of ``size`` integers over ``ranks`` actors."""
    ring = [Rank.remote(rank, ranks, size) for rank in range(ranks)]
    ray.get([rank.join.remote(ring[(i + 1) % ranks]) for i, rank in enumerate(ring)])
    sums = ray.get([rank.all_reduce.remote() for rank in ring])
    expected = sum(make_array(rank, size) for rank in range(ranks))
    sent = ray.get([rank.messages.remote() for rank in ring])
    return Reduced(all(np.array_equal(each, expected) for each in sums), sums[0][:4].tolist(), sent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--size", type=int, default=100_000)
    result = main(**vars(parser.parse_args()))
    print(f"all ranks have the sum: {result.right}, it begins with", *result.first)
    print("chunks sent by each rank:", *result.sent)
