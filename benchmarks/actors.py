"""Actors: synchronous calls, a thousand at a time, n callers on n actors, async actors, creation, 2,000 at once."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.measure import Row, cost_row, latencies, latency_row, rate, rate_row

GROUP = "actors"
CPUS = 2
CREATED = 40
CREATED_MANY = 2000


def rows(ray: Any, quick: bool = False) -> list[Row]:
    """With ``quick`` the 2,000 actors are left out."""
    ray.init(num_cpus=CPUS)
    try:
        return _calls(ray) + _many_to_many(ray) + _async(ray) + _creation(ray, quick)
    finally:
        ray.shutdown()


def _actor(ray: Any) -> Any:
    @ray.remote(num_cpus=0)
    class Actor:
        def nothing(self):
            return None

        def call(self, others, n):
            ray.get([other.nothing.remote() for other in others for _ in range(n // len(others))])

    return Actor


def _calls(ray: Any) -> list[Row]:
    actor = _actor(ray).remote()
    return [
        latency_row(GROUP, "actor call, synchronous", latencies(lambda: ray.get(actor.nothing.remote()))),
        rate_row(GROUP, "actor calls, 1000 at a time",
                 rate(lambda: ray.get([actor.nothing.remote() for _ in range(1000)]), 1000)),
    ]


def _many_to_many(ray: Any, n: int = 2, calls: int = 1000) -> list[Row]:
    Actor = _actor(ray)
    callers, called = [Actor.remote() for _ in range(n)], [Actor.remote() for _ in range(n)]
    return [rate_row(GROUP, f"n:n actor calls (n = {n})",
                     rate(lambda: ray.get([c.call.remote(called, calls) for c in callers]), n * calls))]


def _async(ray: Any) -> list[Row]:
    @ray.remote(num_cpus=0)
    class Async:
        async def nothing(self):
            return None

    actor = Async.remote()
    return [
        rate_row(GROUP, "async actor, synchronous", rate(lambda: ray.get(actor.nothing.remote()))),
        rate_row(GROUP, "async actor, 1000 at a time",
                 rate(lambda: ray.get([actor.nothing.remote() for _ in range(1000)]), 1000)),
    ]


def _creation(ray: Any, quick: bool) -> list[Row]:
    Actor = _actor(ray)

    def create(count: int) -> float:
        start = time.perf_counter()
        actors = [Actor.remote() for _ in range(count)]
        ray.get([actor.nothing.remote() for actor in actors])
        spent = time.perf_counter() - start
        for actor in actors:
            ray.kill(actor)
        return spent

    create(4)
    found = [rate_row(GROUP, "actors created and answering", CREATED / create(CREATED))]
    if not quick and ray.__name__ == "zray":  # Ray needs some 48 MB and 0.2 s for each: hours and more than the memory
        found.append(cost_row(GROUP, "2,000 actors created and answering", create(CREATED_MANY)))
    return found
