"""A parameter server with checkpoints: workers on any node read the weights and push changes, which count once each."""

from __future__ import annotations

from typing import Any

import numpy as np

import zray as ray
from fuzz.chaos.verdict import NODE, PROCESS
from fuzz.chaos.workloads.base import SURE, Workload, expect

SIZE, WORKERS, PUSHES = 2_000, 4, 3


class Server:
    """Weights, and which changes are in them: a worker that dies is run again, and pushes again."""

    def __init__(self) -> None:
        self.weights = np.zeros(SIZE, np.int64)
        self.pushed: set[tuple[int, int, int]] = set()

    def push(self, key: tuple[int, int, int], change: Any) -> None:
        if key not in self.pushed:
            self.pushed.add(key)
            self.weights = self.weights + change

    def pull(self) -> Any:
        return self.weights

    def forget(self) -> int:
        """The keys of a round that has ended; how many they were."""
        count = len(self.pushed)
        self.pushed.clear()
        return count


def change(key: tuple[int, int, int]) -> Any:
    return np.random.default_rng(abs(hash(key))).integers(-1000, 1000, SIZE)


@ray.remote(**SURE, scheduling_strategy="SPREAD", num_cpus=0.5)
def train(server: Any, number: int, worker: int, pushes: int) -> int:
    for push in range(pushes):
        assert len(ray.get(server.pull.remote())) == SIZE
        key = (number, worker, push)
        ray.get(server.push.remote(key, change(key)))
    return pushes


class Parameters(Workload):
    name = "parameters"
    # A caller may die together with the server, before a checkpoint has its calls (docs/failures.md).
    errors = {"ActorDiedError: its state is lost": NODE | PROCESS}

    def start(self) -> None:
        self.server = ray.remote(num_cpus=0, max_restarts=-1, checkpoint_interval=20)(Server).remote()
        self.weights = np.zeros(SIZE, np.int64)

    def round(self, number: int) -> None:
        done = [train.remote(self.server, number, worker, PUSHES) for worker in range(WORKERS)]
        expect("pushes", [self.fetch(ref) for ref in done], [PUSHES] * WORKERS)
        for worker in range(WORKERS):
            for push in range(PUSHES):
                self.weights += change((number, worker, push))
        found = self.fetch(self.server.pull.remote())
        expect("weights", np.flatnonzero(found != self.weights).tolist(), [])
        expect("changes of the round", self.fetch(self.server.forget.remote()), WORKERS * PUSHES)
