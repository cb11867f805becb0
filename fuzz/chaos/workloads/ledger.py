"""Checkpointed actors that note each call: one that is lost, doubled or out of order shows."""

from __future__ import annotations

from typing import Any

import zray as ray
from fuzz.chaos.verdict import NODE
from fuzz.chaos.workloads.base import Workload, expect

ACTORS, CALLS, PAYLOAD = 2, 25, 2_000
LIFE = 400  # entries, then a new actor takes its place


class Notes:
    def __init__(self) -> None:
        self.entries: list[Any] = []

    def add(self, entry: int, payload: bytes) -> int:
        self.entries.append(entry)
        return len(self.entries)

    def all(self) -> list[Any]:
        return self.entries


class Ledger(Workload):
    name = "ledger"
    # Both nodes with the last checkpoint may die: two faults of nodes in a row do.
    errors = {"ActorDiedError: its state is lost": NODE}

    def start(self) -> None:
        self.actors = [self._new(number) for number in range(ACTORS)]
        self.wanted: list[list[int]] = [[] for _ in self.actors]

    def _new(self, number: int) -> Any:
        interval = 10 if number % 2 else 0.2
        return ray.remote(num_cpus=0, max_restarts=-1, checkpoint_interval=interval,
                          scheduling_strategy="SPREAD")(Notes).remote()

    def round(self, number: int) -> None:
        for which, actor in enumerate(self.actors):
            wanted = self.wanted[which]
            entries = [self.rng.randrange(1_000_000) for _ in range(CALLS)]
            refs = [actor.add.remote(entry, bytes(PAYLOAD)) for entry in entries]
            counts = [self.fetch(ref) for ref in refs]
            expect("counts of a ledger", counts, list(range(len(wanted) + 1, len(wanted) + CALLS + 1)))
            wanted += entries
            expect("entries of a ledger", self.fetch(actor.all.remote()), wanted)
            if len(wanted) >= LIFE:
                ray.kill(actor)
                self.actors[which], self.wanted[which] = self._new(which), []
