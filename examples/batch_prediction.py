"""Batch prediction: one model, many shards of data, by tasks and by a pool of actors.

Tasks get the model as a reference: it is put into the object store once, and every task reads the same memory.
Actors load the model once and keep it, which pays when loading is slow; ``ActorPool`` gives the next shard to whichever
actor is free.  A shard that cannot be read fails alone: its error has the type that the reader raised.

    python examples/batch_prediction.py --shards 12 --rows 20000 --broken 5
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

import zray as ray
from zray.util import ActorPool

FEATURES, CLASSES = 32, 10


class Predictions(NamedTuple):
    """Rows of each class, which both ways agree on, and the error of each shard that failed."""

    classes: list[int]
    agree: bool
    failed: dict[int, str]


class Model:
    """A linear classifier."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.weights, self.bias = rng.normal(size=(FEATURES, CLASSES)), rng.normal(size=CLASSES)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return (rows @ self.weights + self.bias).argmax(axis=1)


def read_shard(number: int, rows: int, broken: int) -> np.ndarray:
    """Rows of one shard; ValueError for the shard that is broken."""
    if number == broken:
        raise ValueError(f"shard {number} has no header")
    return np.random.default_rng(1000 + number).normal(size=(rows, FEATURES))


@ray.remote
def predict(model: Model, number: int, rows: int, broken: int) -> np.ndarray:
    return np.bincount(model.predict(read_shard(number, rows, broken)), minlength=CLASSES)


@ray.remote
class Predictor:
    def __init__(self, model: Model):
        self.model = model

    def predict(self, number: int, rows: int, broken: int) -> np.ndarray:
        return np.bincount(self.model.predict(read_shard(number, rows, broken)), minlength=CLASSES)


def main(shards: int = 12, rows: int = 20_000, actors: int = 2, broken: int = -1) -> Predictions:
    """Predict ``shards`` shards of ``rows`` rows; shard ``broken`` cannot be read."""
    model = ray.put(Model())
    failed = {}
    by_tasks = np.zeros(CLASSES, dtype=int)
    for number, ref in enumerate([predict.remote(model, number, rows, broken) for number in range(shards)]):
        try:
            by_tasks += ray.get(ref)
        except ValueError as error:
            failed[number] = f"{type(error).__name__} is a RayTaskError: " + str(
                isinstance(error, ray.exceptions.RayTaskError))

    pool = ActorPool([Predictor.remote(model) for _ in range(actors)])
    good = [number for number in range(shards) if number not in failed]
    counts = pool.map_unordered(lambda actor, number: actor.predict.remote(number, rows, broken), good)
    by_actors = sum(counts, start=np.zeros(CLASSES, dtype=int))
    return Predictions(by_tasks.tolist(), bool((by_tasks == by_actors).all()), failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--broken", type=int, default=-1, help="a shard that cannot be read")
    result = main(**vars(parser.parse_args()))
    print(f"{sum(result.classes):,} rows, tasks and actors agree: {result.agree}")
    print("rows of each class:", *result.classes)
    for shard, words in result.failed.items():
        print(f"shard {shard} failed: {words}")
