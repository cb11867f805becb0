"""A shuffle: each mapper cuts its part into a piece for each reducer; at full size more than the stores hold."""

from __future__ import annotations

from typing import Any

import numpy as np

import zray as ray
from fuzz.chaos.workloads.base import SURE, Workload, expect

FULL_BYTES = 2 << 30
PARTS = 16  # mappers, and reducers
MASK = (1 << 63) - 1


def part(seed: int, count: int) -> Any:
    return np.random.default_rng(seed).integers(0, 1 << 62, count)


@ray.remote(**SURE, scheduling_strategy="SPREAD")
def cut(seed: int, count: int, parts: int) -> Any:
    numbers = part(seed, count)
    return [numbers[numbers % parts == number] for number in range(parts)]


@ray.remote(**SURE, scheduling_strategy="SPREAD")
def gather(number: int, parts: int, *pieces: Any) -> tuple[int, int, bool]:
    """How many numbers, their sum (modulo 2**63), and whether all belong here."""
    numbers = np.concatenate(pieces)
    return len(numbers), int(numbers.sum()) & MASK, bool((numbers % parts == number).all())


class Shuffle(Workload):
    name = "shuffle"

    def round(self, number: int) -> None:
        count = int(FULL_BYTES * self.scale) // PARTS // 8
        seeds = [self.rng.randrange(1 << 30) for _ in range(PARTS)]
        pieces = [cut.options(num_returns=PARTS).remote(seed, count, PARTS) for seed in seeds]
        reduced = [gather.remote(i, PARTS, *(row[i] for row in pieces)) for i in range(PARTS)]
        del pieces
        found = [self.fetch(ref) for ref in reduced]
        counts, sums = [0] * PARTS, [0] * PARTS
        for seed in seeds:
            numbers = part(seed, count)
            where = numbers % PARTS
            for i in range(PARTS):
                mine = numbers[where == i]
                counts[i] += len(mine)
                sums[i] += int(mine.sum()) & MASK
            self.step()  # this takes long at full size
        for i, result in enumerate(found):
            expect(f"reducer {i}", result, (counts[i], sums[i] & MASK, True))
