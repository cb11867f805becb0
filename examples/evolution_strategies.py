"""Evolution strategies: a gradient from noise and returns alone (Salimans et al., 2017).

All workers read one table of noise from the object store and do not copy it.  A worker tries the policy with a piece of
the noise added and with the same piece subtracted, and sends back two numbers and the place of the piece.  So a
message has a few bytes, whatever the size of the policy.  The "simulator" is a pole to be balanced, in a few lines.

    python examples/evolution_strategies.py --workers 2 --iterations 30
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

import zray as ray

NOISE, SIGMA, RATE = 100_000, 0.5, 0.3
STEPS = 200  # of an episode, which is its highest return
INPUTS = 4


class Trained(NamedTuple):
    """Mean returns of the first and the last policy, and the weights of the last."""

    before: float
    after: float
    weights: list[float]


def balance(weights: np.ndarray, seed: int) -> int:
    """Steps for which a cart keeps its pole within 12 degrees and itself within 2.4 m (Barto et al., 1983)."""
    state = np.random.default_rng(seed).uniform(-0.05, 0.05, INPUTS)
    for step in range(STEPS):
        x, x_dot, angle, angle_dot = state
        force = 10.0 if state @ weights > 0 else -10.0
        cos, sin = np.cos(angle), np.sin(angle)
        push = (force + 0.05 * angle_dot ** 2 * sin) / 1.1
        angle_acc = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos ** 2 / 1.1))
        x_acc = push - 0.05 * angle_acc * cos / 1.1
        state = state + 0.02 * np.array([x_dot, x_acc, angle_dot, angle_acc])
        if abs(state[0]) > 2.4 or abs(state[2]) > 0.2095:
            return step
    return STEPS


@ray.remote
class Worker:
    def __init__(self, noise: np.ndarray):
        self.noise = noise

    def try_out(self, weights: np.ndarray, places: list[int]) -> list[tuple[int, int, int]]:
        """For each place of the table: the place, the return with its noise added, and subtracted."""
        found = []
        for place in places:
            step = SIGMA * self.noise[place:place + INPUTS]
            found.append((place, balance(weights + step, place), balance(weights - step, place)))
        return found

    def shares_memory(self) -> bool:
        """Whether the table is the object store's memory: read-only, and of no array of this process."""
        return not self.noise.flags.writeable


def mean_return(weights: np.ndarray, episodes: int = 20) -> float:
    return float(np.mean([balance(weights, 10_000_000 + seed) for seed in range(episodes)]))


def main(workers: int = 2, iterations: int = 30, pairs: int = 16, seed: int = 0) -> Trained:
    """Train for ``iterations`` steps of ``pairs`` pairs of episodes; the result does not depend on ``workers``."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=NOISE)
    table = ray.put(noise)
    pool = [Worker.remote(table) for _ in range(workers)]
    assert all(ray.get([worker.shares_memory.remote() for worker in pool]))
    weights = np.zeros(INPUTS)
    before = mean_return(weights)
    for _ in range(iterations):
        places = rng.integers(0, NOISE - INPUTS, pairs).tolist()
        sent = ray.put(weights)
        parts = ray.get([worker.try_out.remote(sent, places[i::workers]) for i, worker in enumerate(pool)])
        found = sorted(each for part in parts for each in part)  # the sum is the same for any number of workers
        returns = np.array([[plus, minus] for _, plus, minus in found], dtype=float)
        spread = returns.std() or 1.0
        pieces = np.array([noise[place:place + INPUTS] for place, _, _ in found])
        weights = weights + RATE * (returns[:, 0] - returns[:, 1]) / spread @ pieces / (2 * pairs * SIGMA)
    return Trained(before, mean_return(weights), weights.tolist())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=30)
    result = main(**vars(parser.parse_args()))
    print(f"mean return {result.before:.1f} before, {result.after:.1f} after, of at most {STEPS}")
    print("weights:", *(f"{weight:.4f}" for weight in result.weights))
