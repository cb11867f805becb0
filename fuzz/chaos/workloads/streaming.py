"""Streaming generators, read while they run: small items, large items, and items that go on to other tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import zray as ray
from fuzz.chaos.workloads.base import SURE, Workload, Wrong, expect

SMALL, LARGE = 100, 30_000
STREAMS, ITEMS = 3, 20


@ray.remote(**SURE, num_returns="streaming", scheduling_strategy="SPREAD", num_cpus=0.5)
def stream(seed: int, items: int, size: int) -> Iterator[Any]:
    rng = np.random.default_rng(seed)
    for _ in range(items):
        yield rng.integers(0, 1 << 40, size)


@ray.remote(**SURE, num_cpus=0.5)
def total(numbers: Any) -> int:
    return int(numbers.sum())


class Streaming(Workload):
    name = "streaming"

    def round(self, number: int) -> None:
        size = LARGE if number % 2 else SMALL
        seeds = [self.rng.randrange(1 << 30) for _ in range(STREAMS)]
        streams = [stream.remote(seed, ITEMS, size) for seed in seeds]
        wanted = [np.random.default_rng(seed) for seed in seeds]
        sums: list[Any] = []
        answers: list[int] = []
        for item in range(ITEMS):
            for which, generator in enumerate(streams):
                answer = wanted[which].integers(0, 1 << 40, size)
                ref = self._next(generator, sums)
                if item % 3 == 0:
                    sums.append(total.remote(ref))
                    answers.append(int(answer.sum()))
                else:
                    found = self.fetch(ref)
                    expect(f"item {item}", (len(found), int(found.sum())), (size, int(answer.sum())))
        expect("sums of items", [self.fetch(ref) for ref in sums], answers)
        for generator in streams:
            expect("the end of a stream", next(generator, None), None)

    def _next(self, generator: Any, sums: list[Any]) -> Any:
        self.await_(generator)
        try:
            return next(generator)
        except StopIteration:
            for ref in sums:  # the error of a stream is its last item, which may have gone to a task
                self.fetch(ref)
            raise Wrong(f"{generator} has ended early") from None
