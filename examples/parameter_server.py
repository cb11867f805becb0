"""A parameter server: one actor holds the weights, workers compute gradients on their own part of the data.

The model is logistic regression on two overlapping clouds of points.  Synchronous training waits for every worker in
each round and equals plain gradient descent on the whole data set; asynchronous training applies each gradient as it
arrives, computed on weights that may be a little old.

    python examples/parameter_server.py --workers 2 --rounds 60
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

import zray as ray

FEATURES = 20


class Training(NamedTuple):
    """Accuracies on data that no worker saw, and how far synchronous training is from plain gradient descent."""

    synchronous: float
    asynchronous: float
    distance: float


def make_data(seed: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0 and 1, and points around two centres that every seed shares."""
    rng = np.random.default_rng(seed)
    centre = np.random.default_rng(0).normal(size=FEATURES) / 2
    labels = rng.integers(0, 2, points)
    return rng.normal(size=(points, FEATURES)) + np.outer(2 * labels - 1, centre), labels


def gradient(weights: np.ndarray, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the mean cross-entropy."""
    predicted = 1 / (1 + np.exp(-(points @ weights)))
    return points.T @ (predicted - labels) / len(labels)


@ray.remote
class ParameterServer:
    def __init__(self, rate: float):
        self.weights = np.zeros(FEATURES)
        self.rate = rate

    def apply(self, *gradients: np.ndarray) -> np.ndarray:
        self.weights = self.weights - self.rate * np.mean(gradients, axis=0)
        return self.weights

    def read(self) -> np.ndarray:
        return self.weights


@ray.remote
class Worker:
    def __init__(self, seed: int, points: int):
        self.points, self.labels = make_data(seed, points)

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        return gradient(weights, self.points, self.labels)


def train_synchronously(workers: list, rounds: int, rate: float) -> np.ndarray:
    server = ParameterServer.remote(rate)
    weights = server.read.remote()
    for _ in range(rounds):
        weights = server.apply.remote(*[worker.gradient.remote(weights) for worker in workers])
    return ray.get(weights)


def train_asynchronously(workers: list, rounds: int, rate: float) -> np.ndarray:
    server = ParameterServer.remote(rate)
    weights = server.read.remote()
    running = {worker.gradient.remote(weights): worker for worker in workers}
    for _ in range(rounds * len(workers)):
        [ready], _ = ray.wait(list(running))
        worker = running.pop(ready)
        running[worker.gradient.remote(server.apply.remote(ready))] = worker
    return ray.get(server.read.remote())


def main(workers: int = 2, rounds: int = 60, points: int = 2000, rate: float = 0.5) -> Training:
    """Train both ways on ``workers`` parts of ``points`` points each."""
    pool = [Worker.remote(seed, points) for seed in range(1, workers + 1)]
    synchronous = train_synchronously(pool, rounds, rate)
    asynchronous = train_asynchronously(pool, rounds, rate)

    parts = [make_data(seed, points) for seed in range(1, workers + 1)]
    everything = [np.concatenate(column) for column in zip(*parts)]
    plain = np.zeros(FEATURES)
    for _ in range(rounds):
        plain = plain - rate * gradient(plain, *everything)

    test_points, test_labels = make_data(0, 5000)
    accuracy = [float(np.mean((test_points @ weights > 0) == test_labels)) for weights in (synchronous, asynchronous)]
    return Training(*accuracy, float(np.abs(synchronous - plain).max()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    result = main(**vars(parser.parse_args()))
    print(f"accuracy: synchronous {result.synchronous:.3f}, asynchronous {result.asynchronous:.3f}")
    print(f"synchronous training differs from plain gradient descent by at most {result.distance:.1e}")
