"""A tree of actors: every inner node starts its children, adds up what they answer, and replaces those that die.

The driver knows the root only.  Handles of children live in their parents, so when the driver drops the root, the
whole tree ends.  A leaf can be told to exit in the middle of a sum: its parent gets ActorDiedError, starts the leaf
again, and asks once more.  Nobody above notices.

    python examples/actor_tree.py --depth 3 --branches 2 --crash 5
"""

from __future__ import annotations

import argparse
import os
from typing import NamedTuple

import zray as ray


class Sums(NamedTuple):
    """The sum before a crash, the sum with it, the actors of the tree, and the leaves that were replaced."""

    before: int
    after: int
    actors: int
    replaced: list[int]


@ray.remote(num_cpus=0)
class Leaf:
    def __init__(self, number: int):
        self.number = number

    def total(self, crash: int) -> int:
        """The square of its number; leaf ``crash`` dies instead."""
        if self.number == crash:
            os._exit(1)
        return self.number ** 2

    def actors(self) -> int:
        return 1

    def replaced(self) -> list[int]:
        return []


@ray.remote(num_cpus=0)
class Branch:
    def __init__(self, first: int, depth: int, branches: int):
        """``branches ** depth`` leaves below this node, numbered from ``first``."""
        self.first, self.depth, self.branches = first, depth, branches
        self.children = [self.start(child) for child in range(branches)]
        self.deaths: list[int] = []

    def start(self, child: int):
        below = self.branches ** (self.depth - 1)
        number = self.first + child * below
        return Leaf.remote(number) if self.depth == 1 else Branch.remote(number, self.depth - 1, self.branches)

    def total(self, crash: int) -> int:
        answers = [child.total.remote(crash) for child in self.children]
        total = 0
        for child, answer in enumerate(answers):
            try:
                total += ray.get(answer)
            except ray.exceptions.ActorDiedError:
                self.deaths.append(self.first + child)
                self.children[child] = self.start(child)
                total += ray.get(self.children[child].total.remote(-1))
        return total

    def actors(self) -> int:
        return 1 + sum(ray.get([child.actors.remote() for child in self.children]))

    def replaced(self) -> list[int]:
        return self.deaths + sum(ray.get([child.replaced.remote() for child in self.children]), start=[])


def main(depth: int = 2, branches: int = 2, crash: int = 1) -> Sums:
    """A tree of ``depth`` levels below the root; leaf ``crash`` dies once."""
    root = Branch.remote(0, depth, branches)
    before = ray.get(root.total.remote(-1))
    after = ray.get(root.total.remote(crash))
    return Sums(before, after, ray.get(root.actors.remote()), ray.get(root.replaced.remote()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--branches", type=int, default=2)
    parser.add_argument("--crash", type=int, default=1, help="the number of a leaf")
    result = main(**vars(parser.parse_args()))
    print(f"{result.actors} actors, sum {result.before}, and {result.after} while a leaf dies")
    print("leaves that were replaced:", *result.replaced)
