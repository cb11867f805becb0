"""Rates of the scheduling kernels: ``rows()`` for the benchmark runner, JSON when run as a script."""

from __future__ import annotations

import json
import sys
import time
from random import Random

from zray.sched.cluster.placing import GlobalScheduler
from zray.sched.kernels.loading import Kernels
from zray.sched.node.local import Grant, LocalScheduler
from zray.sched.resources import UNIT
from zray.sched.view import ClusterView

NODES, RESOURCES, DECISIONS = 1000, 8, 200_000
ROUNDS = 5
LIMIT_PPM = 500_000


def cluster(kinds: int, *, interleaved: bool, seed: int = 1):
    """1000 nodes x 8 resources, and 200,000 demands of ``kinds`` kinds that fill them well beyond LIMIT_PPM.

    So a run first packs, then spreads, where every decision changes the order of the nodes; all demands fit.
    """
    import numpy as np

    random = Random(seed)
    total = np.array([[random.choice((64, 128, 256)) * UNIT for _ in range(RESOURCES)] for _ in range(NODES)])
    demands = np.array([[random.choice((0, 0, 1, 2)) * UNIT // 4 for _ in range(RESOURCES)] for _ in range(kinds)])
    demands[:, 0] = UNIT // 2
    total[::2, 1] = 0
    demands[:, 1] = 0
    classes = np.array([random.randrange(kinds) for _ in range(DECISIONS)])
    if not interleaved:
        classes.sort()
    return total, np.ones(NODES, np.int64), demands, classes


def batched(kinds: int, *, interleaved: bool, limit: int = LIMIT_PPM) -> float:
    """Decisions a second, the best of ROUNDS."""
    import numpy as np

    kernels = Kernels.load()
    total, allowed, demands, classes = cluster(kinds, interleaved=interleaved)
    best = 0.0
    for _ in range(ROUNDS):
        available, out = total.copy(), np.empty(DECISIONS, np.int64)
        start = time.perf_counter()
        placed = kernels.place_batch(total, available, allowed, demands, classes, limit, 1, out)
        elapsed = time.perf_counter() - start
        if placed != DECISIONS or not (total - available).sum(axis=0)[0] > 0.5 * total.sum(axis=0)[0]:
            raise RuntimeError("the demands are not what this row claims to measure")
        best = max(best, DECISIONS / elapsed)
    return best


def single() -> float:
    """Decisions a second, one call each: a scan."""
    kernels = Kernels.load()
    total, allowed, demands, classes = cluster(8, interleaved=True)
    count = 5_000
    start = time.perf_counter()
    for kind in classes[:count]:
        kernels.pick_hybrid(total, total, allowed, demands[kind], LIMIT_PPM, -1, 1)
    return count / (time.perf_counter() - start)


def local_grants(keys: int) -> float:
    """want, step, release on one node, with ``keys`` keys waiting: grants a second (plain Python)."""
    scheduler = LocalScheduler({"CPU": 4 * UNIT})
    for key in range(keys):
        scheduler.declare(b"owner", 1, key, {"CPU": UNIT}, {})
        scheduler.want(b"owner", key, 1_000_000, 0, 0.0)
    held = [effect.lease for effect in scheduler.step(0.0) if isinstance(effect, Grant)]
    count = 20_000
    start = time.perf_counter()
    for _ in range(count):
        scheduler.release(held.pop(), 0.0)
        held.extend(effect.lease for effect in scheduler.step(0.0) if isinstance(effect, Grant))
    return count / (time.perf_counter() - start)


def global_decisions() -> float:
    """Decisions a second of a GlobalScheduler over 1000 nodes, in batches of 4096, each node speaking once a batch."""
    names = [number.to_bytes(8, "big") for number in range(1, NODES + 1)]
    total = {"CPU": 64 * UNIT, "memory": 64 * UNIT, **{f"r{number}": UNIT for number in range(RESOURCES - 4)}}
    view = ClusterView(Kernels.load())
    for name in names:
        view.add(name, total, {"zone": "a"})
    scheduler = GlobalScheduler(view, names[0])
    best = 0.0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        placed = 0
        for _ in range(4):
            for name in names:
                view.set_row(name, total, total, {"zone": "a"})
            answer = scheduler.place({"CPU": UNIT}, {"labels": {"zone": "a"}}, 4096, names[0], 0.0)
            placed += sum(number for _, number in answer.placed)
        best = max(best, placed / (time.perf_counter() - start))
    return best


def rows() -> list[dict]:
    """One map a row: row, value, unit, and what it was measured on."""
    shape = {"nodes": NODES, "resources": RESOURCES}
    batch = {"unit": "decisions/s", "batch": DECISIONS, **shape}
    return [
        {"row": "one scheduling decision, 1000 nodes x 8 resources, batched", "value": batched(8, interleaved=False),
         "kinds": 8, "order": "by scheduling key", **batch},
        {"row": "... 8 kinds of demands interleaved at random", "value": batched(8, interleaved=True), "kinds": 8,
         "order": "random", **batch},
        {"row": "... 64 kinds of demands interleaved at random", "value": batched(64, interleaved=True), "kinds": 64,
         "order": "random", **batch},
        {"row": "... 8 kinds interleaved, spread by load from the first decision on",
         "value": batched(8, interleaved=True, limit=0), "kinds": 8, "order": "random", **batch},
        {"row": "one scheduling decision, 1000 nodes x 8 resources, single", "value": single(), "unit": "decisions/s",
         **shape},
        {"row": "global scheduler: decisions in batches of 4096, 1000 nodes that all speak in between",
         "value": global_decisions(), "unit": "decisions/s", **shape},
        {"row": "local scheduler: release, step and grant, 1 key", "value": local_grants(1), "unit": "grants/s"},
        {"row": "local scheduler: release, step and grant, 10000 keys", "value": local_grants(10_000),
         "unit": "grants/s"},
    ]


def run() -> dict:
    return {"python": sys.version.split()[0], "rows": rows()}


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
