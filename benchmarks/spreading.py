"""Placement on real daemons, beside the simulated studies of benchmarks/placement.py.

    python -m benchmarks.spreading [--nodes 8] [--tasks 4000] [--figures DIR] [--json FILE] [part ...]

    spread      one driver on the first of N nodes with one CPU each, tasks that sleep for 10 ms
    locality    two nodes; each task reads one object of its own, which lies on one of them: left to the scheduler
                (aware of where the bytes are), or bound to a node at random (unaware)

The link of ``locality`` is the loopback with CURVE; nothing else limits it.  Objects are made anew for every run.
"""

from __future__ import annotations

import argparse
import time
from random import Random
from typing import Any

import numpy as np

from benchmarks.command import add_parts
from benchmarks.drivers import Driver
from benchmarks.placement import WINDOW_S, loads, verdict
from benchmarks.plot import plot
from benchmarks.report import number, table, write_json
from zray.cluster_utils import Cluster
from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

TASK_S = 0.01
# size of the dependency -> tasks
LOCALITY = {100_000: 1000, 1_000_000: 200, 10_000_000: 40, 100_000_000: 6}
STORE_BYTES = 2 * 1024**3


# ---------------------------------------------------------------- in the driver


def spread(ray: Any, count: int, nodes: int) -> list[tuple[str, float, float]]:
    """(node, start, end) of every task, from the submission of the first one on."""
    nap = ray.remote(_nap)
    deadline = time.monotonic() + 30
    while len({node for node, _, _ in ray.get([nap.remote() for _ in range(20 * nodes)])}) < nodes:
        if time.monotonic() > deadline:
            raise TimeoutError("not every node got work within 30 s")
    time.sleep(1.0)  # leases are given back
    begin = time.monotonic()
    return [(node, start - begin, end - begin) for node, start, end in ray.get([nap.remote() for _ in range(count)])]


def _nap() -> tuple[str, float, float]:
    import zray

    start = time.monotonic()
    time.sleep(TASK_S)
    return zray.get_runtime_context().get_node_id(), start, time.monotonic()


def locality(ray: Any, nbytes: int, count: int, aware: bool, nodes: list[str], seed: int) -> dict[str, float]:
    """Mean and largest time from submission to the end of a task, and the share that ran where its bytes were."""
    random = Random(seed)
    make, use = ray.remote(_make), ray.remote(_use)
    bound = [NodeAffinitySchedulingStrategy(node) for node in nodes]
    where = [random.randrange(2) for _ in range(count)]
    refs = [make.options(scheduling_strategy=bound[at]).remote(nbytes) for at in where]
    ray.wait(refs, num_returns=count, fetch_local=False)
    ray.get([use.options(scheduling_strategy=strategy).remote(None) for strategy in bound])
    begin = time.monotonic()
    if aware:
        done = [use.remote(ref) for ref in refs]
    else:
        done = [use.options(scheduling_strategy=bound[random.randrange(2)]).remote(ref) for ref in refs]
    ends = ray.get(done)
    spent = [end - begin for _, end in ends]
    return {"mean_s": sum(spent) / count, "makespan_s": max(spent),
            "at home": sum(node == nodes[at] for (node, _), at in zip(ends, where, strict=True)) / count}


def _make(nbytes: int) -> Any:
    return np.ones(nbytes, dtype=np.uint8)


def _use(array: Any) -> tuple[str, float]:
    import zray

    if array is not None:
        assert array[-1] == 1
    return zray.get_runtime_context().get_node_id(), time.monotonic()


# ---------------------------------------------------------------- around it


def run_spread(nodes: int, count: int, figures: str) -> dict[str, Any]:
    cluster = Cluster()
    try:
        cluster.add_nodes([{"num_cpus": 1, "object_store_memory": 64 * 1024**2}] * nodes)
        cluster.wait_for_nodes()
        index = {node.node_id: i for i, node in enumerate(cluster.list_all_nodes())}
        with Driver(cluster.address) as driver:
            found = driver.do("benchmarks.spreading", "spread", count, nodes)
    finally:
        cluster.shutdown()
    runs = [(index[node], start, end) for node, start, end in found]
    per_node = loads(runs, nodes)
    plot(f"{figures}/spread-measured.svg", f"Measured: tasks that run on each of {nodes} daemons (one line a node)",
         "seconds", f"running tasks (mean of {WINDOW_S:g} s)",
         [(str(node), [(i * WINDOW_S, window[node]) for i, window in enumerate(per_node)]) for node in range(nodes)],
         legend=False, thin=True)
    slept = sum(end - start for _, start, end in runs) / count
    return {"nodes": nodes, "tasks": count, **verdict(runs, [1] * nodes, [TASK_S] * count),
            "a nap of 10 ms took ms": 1e3 * slept,
            "ratio to naps as long as they were": verdict(runs, [1] * nodes, [slept] * count)["ratio"],
            "first task s": min(start for _, start, _ in runs),
            "tasks of a node": sorted(sum(node == i for node, _, _ in runs) for i in range(nodes))}


def run_locality(figures: str) -> dict[str, Any]:
    cluster = Cluster()
    out: dict[str, Any] = {}
    try:
        cluster.add_nodes([{"num_cpus": 1, "object_store_memory": STORE_BYTES}] * 2)
        cluster.wait_for_nodes()
        nodes = [node.node_id for node in cluster.list_all_nodes()]
        with Driver(cluster.address) as driver:
            for nbytes, count in LOCALITY.items():
                out[str(nbytes)] = {"tasks": count, **{
                    name: driver.do("benchmarks.spreading", "locality", nbytes, count, name == "aware", nodes, 1)
                    for name in ("aware", "unaware")}}
    finally:
        cluster.shutdown()
    plot(f"{figures}/locality-measured.svg", "Measured: mean time of a task, by the size of its dependency", "bytes",
         "seconds", [(name, [(float(size), row[name]["mean_s"]) for size, row in out.items()])
                     for name in ("aware", "unaware")], log=True)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_parts(parser, ["spread", "locality"])
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--figures", default="docs/figures")
    parser.add_argument("--json", default="benchmarks/results/spreading.json")
    options = parser.parse_args()
    parts = options.parts
    out: dict[str, Any] = {}
    if "spread" in parts:
        out["spread"] = run_spread(options.nodes, options.tasks, options.figures)
        print("\n".join(f"{key}: {value}" for key, value in out["spread"].items()), end="\n\n")
    if "locality" in parts:
        out["locality"] = run_locality(options.figures)
        lines = [[f"{row['tasks']} x {int(size):,} bytes", *(number(row[n]["mean_s"]) for n in ("aware", "unaware")),
                  number(row["unaware"]["mean_s"] / row["aware"]["mean_s"]),
                  *(number(row[n]["makespan_s"]) for n in ("aware", "unaware")),
                  *(f"{row[n]['at home']:.0%}" for n in ("aware", "unaware"))] for size, row in out["locality"].items()]
        print(table(["tasks x dependency", "aware, mean s", "unaware", "ratio", "aware, makespan s", "unaware",
                     "aware at home", "unaware"], lines))
    write_json(options.json, out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
