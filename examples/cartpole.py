"""Policy search with simulators as actors, the shape of the Ray paper's first figure, on gymnasium's CartPole-v1.

``Simulator`` actors keep an environment each, ``rollout`` tries policies near the present one, and the task
``update_policy`` takes the futures of all rollouts and makes the next policy.  Nothing in the loop has to wait: the
driver submits a whole training run as a graph of futures, and only looks at the policy now and then.

The method is the cross-entropy method (de Boer et al., 2005) on a linear policy of four weights, one per observation:
sample weights, keep the best, move the mean and the spread towards them.  All randomness comes from ``seed``, so a run
repeats exactly.  CartPole-v1 ends at 500 steps and counts as solved at a mean return of 195.

    python examples/cartpole.py --simulators 2 --iterations 8
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import zray as ray

ELITE = 0.25  # the share of candidates that forms the next policy
SPREAD_MIN = 0.05  # the search never stops exploring


class Policy(NamedTuple):
    mean: np.ndarray
    spread: np.ndarray
    iteration: int


class Rollouts(NamedTuple):
    """Candidates tried by one simulator: their weights and returns."""

    weights: np.ndarray
    returns: np.ndarray


class Search(NamedTuple):
    """The mean return of the last policy over fresh episodes, and of the first policy for comparison."""

    before: float
    after: float
    weights: list[float]


@ray.remote
class Simulator:
    """One environment, kept between rollouts."""

    def __init__(self, seed: int):
        import gymnasium

        self.seed = seed
        self.env = gymnasium.make("CartPole-v1")

    def rollout(self, policy: Policy, candidates: int) -> Rollouts:
        """Try ``candidates`` sets of weights around the policy, one episode each."""
        rng = np.random.default_rng((self.seed, policy.iteration))
        weights = policy.mean + policy.spread * rng.normal(size=(candidates, policy.mean.size))
        return Rollouts(weights, np.array([self._episode(w, int(rng.integers(2**31))) for w in weights]))

    def evaluate(self, policy: Policy, episodes: int) -> float:
        """Mean return of the policy itself, over episodes that training never saw."""
        return float(np.mean([self._episode(policy.mean, 2**31 + self.seed * episodes + i) for i in range(episodes)]))

    def _episode(self, weights: np.ndarray, seed: int) -> float:
        observation, _ = self.env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = self.env.step(int(observation @ weights > 0))
            total += float(reward)
            done = terminated or truncated
        return total


@ray.remote
def create_policy(observations: int = 4) -> Policy:
    return Policy(np.zeros(observations), np.ones(observations), 0)


@ray.remote
def update_policy(policy: Policy, *rollouts: Rollouts) -> Policy:
    """The next policy: mean and spread of the best candidates of all simulators."""
    weights = np.concatenate([r.weights for r in rollouts])
    returns = np.concatenate([r.returns for r in rollouts])
    best = weights[np.argsort(-returns, kind="stable")[: max(2, int(ELITE * len(returns)))]]
    return Policy(best.mean(axis=0), np.maximum(best.std(axis=0), SPREAD_MIN), policy.iteration + 1)


def evaluate(simulators: list, policy, episodes: int) -> float:
    """Mean return of ``policy`` (a Policy or a reference to one) over ``episodes`` episodes on each simulator."""
    return float(np.mean(ray.get([s.evaluate.remote(policy, episodes) for s in simulators])))


def main(simulators: int = 2, iterations: int = 8, candidates: int = 16, seed: int = 1, episodes: int = 20,
         progress: Callable[[int, float], None] | None = None) -> Search:
    """Train for ``iterations``; ``progress(iteration, mean return)`` is called after each when given."""
    actors = [Simulator.remote(seed * 1000 + i) for i in range(simulators)]
    policy = create_policy.remote()
    before = evaluate(actors, policy, episodes)
    for iteration in range(1, iterations + 1):
        policy = update_policy.remote(policy, *[s.rollout.remote(policy, candidates) for s in actors])
        if progress is not None:
            progress(iteration, evaluate(actors, policy, 2))
    return Search(before, evaluate(actors, policy, episodes), ray.get(policy).mean.tolist())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulators", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    result = main(progress=lambda i, r: print(f"iteration {i:2}: mean return {r:6.1f}"), **vars(parser.parse_args()))
    print(f"mean return before {result.before:.1f}, after {result.after:.1f} (solved above 195)")
