"""Compiled graphs beside the same calls of actors: how long one execution takes."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.measure import Row, latencies, latency_row

GROUP = "graphs"
CPUS = 2
STAGES = 2
ARRAY_BYTES = 1 << 20


def rows(ray: Any, quick: bool = False) -> list[Row]:
    ray.init(num_cpus=CPUS)
    try:
        return _graphs(ray)
    finally:
        ray.shutdown()


def _graphs(ray: Any) -> list[Row]:
    import numpy as np

    dag = importlib.import_module(f"{ray.__name__}.dag")

    @ray.remote(num_cpus=0)
    class Stage:
        def echo(self, value):
            return value

    actors = [Stage.remote() for _ in range(STAGES)]
    found = []
    for what, value, count in (("", 1, STAGES), ("", 1, 1), (", 1 MiB", np.zeros(ARRAY_BYTES, np.uint8), 1)):
        chain = actors[:count]
        name = f"{count} actor{'s' * (count > 1)}{what}"

        def calls(value=value, chain=chain):
            for actor in chain:
                value = actor.echo.remote(value)
            return ray.get(value)

        with dag.InputNode() as node:
            for actor in chain:
                node = actor.echo.bind(node)
        graph = node.experimental_compile()
        found += [latency_row(GROUP, f"compiled graph of {name}",
                              latencies(lambda graph=graph, value=value: ray.get(graph.execute(value)))),
                  latency_row(GROUP, f"calls of {name}", latencies(calls))]
        graph.teardown()
    return found
