"""A pipeline with asyncio: read, tokenize, count, three stages that run at once and never get far ahead of each other.

The source is a streaming generator: its task pauses while more than a few documents wait for their reader.  The stages
are async actors, each call of which may await another.  The driver is one event loop that awaits references like any
other awaitable, with ``asyncio.gather``, ``wait_for`` and a semaphore.

    python examples/pipeline.py --documents 40 --at-once 8
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from typing import NamedTuple

import zray as ray

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()


class Result(NamedTuple):
    """Documents that came through, their words, the most calls a stage has had at once, and what was refused."""

    documents: int
    words: list[tuple[str, int]]
    most_at_once: int
    refused: list[str]


@ray.remote(num_returns="streaming", _generator_backpressure_num_objects=4)
def read(documents: int):
    """One document after the other; every 13th is empty."""
    for number in range(documents):
        rng = random.Random(number)
        yield number, " ".join(rng.choices(WORDS, k=0 if number % 13 == 12 else 50))


@ray.remote(max_concurrency=64)
class Tokenizer:
    """Splits documents, some milliseconds each; awaiting lets the other documents go on."""

    def __init__(self) -> None:
        self.running = self.most = 0

    async def tokenize(self, number: int, text: str) -> list[str]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.002)
            if not text:
                raise ValueError(f"document {number} is empty")
            return text.split()
        finally:
            self.running -= 1

    async def most_at_once(self) -> int:
        return self.most


@ray.remote
class Counts:
    def __init__(self) -> None:
        self.words: Counter[str] = Counter()

    async def add(self, words: list[str]) -> int:
        self.words.update(words)
        return len(words)

    async def most_common(self) -> list[tuple[str, int]]:
        return sorted(self.words.items(), key=lambda item: (-item[1], item[0]))


async def run(documents: int, at_once: int) -> Result:
    tokenizer, counts = Tokenizer.remote(), Counts.remote()
    room = asyncio.Semaphore(at_once)
    refused: list[str] = []

    async def process(ref) -> int:
        try:
            number, text = await ref
            words = tokenizer.tokenize.remote(number, text)
            return await asyncio.wait_for(counts.add.remote(words), timeout=60)
        except ray.exceptions.RayTaskError:
            try:  # the failed argument of ``add``: ask the stage itself
                await words
            except ValueError as error:
                refused.append(str(error.cause.args[0]))
            return 0
        finally:
            room.release()

    running = []
    async for ref in read.remote(documents):
        await room.acquire()
        running.append(asyncio.ensure_future(process(ref)))
    lengths = await asyncio.gather(*running)
    words = await counts.most_common.remote()
    assert sum(lengths) == sum(count for _, count in words)
    return Result(sum(map(bool, lengths)), words, await tokenizer.most_at_once.remote(), sorted(refused))


def main(documents: int = 40, at_once: int = 8) -> Result:
    """``documents`` documents, at most ``at_once`` of them in the pipeline."""
    if not ray.is_initialized():
        ray.init()
    return asyncio.run(run(documents, at_once))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=8)
    options = parser.parse_args()
    result = main(**vars(options))
    print(f"{result.documents} documents, never more than {options.at_once} at once:",
          result.most_at_once <= options.at_once)
    print(*(f"{word} {count}" for word, count in result.words), sep="\n")
    print("refused:", *result.refused, sep="\n  ")
