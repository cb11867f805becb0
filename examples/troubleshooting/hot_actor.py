"""Eight workers count words no faster than one does."""

from __future__ import annotations

import time

from staging import run

import zray as ray


@ray.remote(num_cpus=0)
class Totals:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, word: str) -> int:
        time.sleep(0.02)  # it writes to a database
        self.counts[word] = self.counts.get(word, 0) + 1
        return self.counts[word]


@ray.remote(num_cpus=0.25)
def count(text: str, totals) -> int:
    return len([ray.get(totals.add.remote(word)) for word in text.split()])


def main() -> None:
    ray.init(num_cpus=2)
    totals = Totals.options(name="totals").remote()
    text = "the quick brown fox jumps over the lazy dog " * 200
    print(sum(ray.get([count.remote(text, totals) for _ in range(8)])), "words")


if __name__ == "__main__":
    run(main, __doc__)
