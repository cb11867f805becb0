"""Throughput against the number of nodes: measured for the daemons that this machine bears, simulated to 100 nodes.

    python -m benchmarks.scaling [--nodes 1 2 4 8] [--tasks 200] [--figures DIR] [--json FILE] [part ...]

    measured     a driver on every node, tasks that sleep for 10 ms, 4 CPUs a node
    simulated    the same, and one driver for all, by the production schedulers (zray/sim/scheduling.py), with this
                 machine's measured time of a task at its owner as a cost
    map          100 million no-op tasks through ``f.map``, on one node

The machine has two cores: what is measured is that more nodes do not get in each other's way while tasks sleep, not
that two cores compute more than two cores do.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

from benchmarks.command import add_parts
from benchmarks.drivers import Driver
from benchmarks.measure import rate
from benchmarks.plot import plot
from benchmarks.report import number, table, write_json
from zray.cluster_utils import Cluster
from zray.sim.scheduling import Costs, SchedulingCluster

CPUS = 4
TASK_S = 0.01
SIMULATED = (1, 2, 4, 8, 16, 32, 64, 100)
MAP_TASKS, MAP_CHUNK = 100_000_000, 1_000_000


def measured(nodes: int, each: int) -> float:
    """Tasks a second, summed over ``nodes`` drivers that run ``each * CPUS`` tasks on their own nodes."""
    cluster = Cluster()
    drivers: list[Driver] = []
    try:
        cluster.add_nodes([{"num_cpus": CPUS}] * nodes)
        cluster.wait_for_nodes()
        drivers = [Driver(node.session_dir, "local") for node in cluster.list_all_nodes()]
        for driver in drivers:
            driver.do("benchmarks.scaling", "sleep", CPUS * 4)
        start = time.perf_counter()
        for driver in drivers:
            driver.begin("benchmarks.scaling", "sleep", each * CPUS)
        for driver in drivers:
            driver.end()
        return nodes * each * CPUS / (time.perf_counter() - start)
    finally:
        for driver in drivers:
            driver.close()
        cluster.shutdown()


def sleep(ray: Any, count: int) -> None:
    nap = ray.remote(_nap)
    ray.get([nap.remote() for _ in range(count)])


def _nap() -> None:
    time.sleep(TASK_S)


def task_cost(ray: Any) -> float:
    """Seconds of a no-op task, a thousand at a time: the owner's part of it is at most this."""
    nothing = ray.remote(_nothing)
    return 1 / rate(lambda: ray.get([nothing.remote() for _ in range(1000)]), 1000)


def _nothing() -> None:
    return None


def simulated(nodes: int, each: int, costs: Costs, one_driver: bool) -> float:
    """Tasks a second of the simulated cluster."""
    cluster = SchedulingCluster([{"CPU": float(CPUS)}] * nodes, seed=1, costs=costs, compiled=nodes > 64)
    owners = [cluster.owner(0)] if one_driver else [cluster.owner(node) for node in range(nodes)]
    count = nodes * each * CPUS // len(owners)
    for owner in owners:
        owner.submit([TASK_S] * count, {"CPU": 1})
    if not cluster.run_until(10_000.0, cluster.done):
        raise RuntimeError("the tasks did not end")
    return count * len(owners) / max(end for _, _, end in cluster.runs)


def map_tasks(ray: Any, count: int = MAP_TASKS) -> dict[str, float]:
    """``count`` no-op tasks by ``f.map``, a million a call; every result is looked at."""
    item = ray.remote(_item)
    ray.get(item.map(range(1000)))
    start = time.perf_counter()
    done = 0
    while done < count:
        values = ray.get(item.map(range(done, done + MAP_CHUNK)))
        assert len(values) == MAP_CHUNK and values[0] == done and values[-1] == done + MAP_CHUNK - 1
        done += MAP_CHUNK
    spent = time.perf_counter() - start
    return {"tasks": done, "seconds": spent, "tasks a second": done / spent}


def _item(x: int) -> int:
    return x


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_parts(parser, ["measured", "simulated", "map"])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--tasks", type=int, default=200, help="a CPU")
    parser.add_argument("--figures", default="docs/figures")
    parser.add_argument("--json", default="benchmarks/results/scaling.json")
    options = parser.parse_args()
    parts = options.parts
    out: dict[str, Any] = {}
    lines: list[tuple[str, list[tuple[float, float]]]] = []
    if "measured" in parts:
        out["measured"] = {nodes: measured(nodes, options.tasks) for nodes in options.nodes}
        lines.append(("measured, a driver a node", [(float(n), rate) for n, rate in out["measured"].items()]))
    if "simulated" in parts:
        with Driver(None, num_cpus=2) as driver:
            cost = driver.do("benchmarks.scaling", "task_cost")
        costs = replace(Costs(), submit_s=cost)
        out["task at its owner us"] = 1e6 * cost
        for name, one in (("simulated, a driver a node", False), ("simulated, one driver", True)):
            out[name] = {nodes: simulated(nodes, options.tasks, costs, one) for nodes in SIMULATED}
            lines.append((name, [(float(n), rate) for n, rate in out[name].items()]))
    if lines:
        lines.append(("ideal", [(float(n), n * CPUS / TASK_S) for n in SIMULATED]))
        nodes_shown = sorted({int(n) for _, points in lines for n, _ in points})
        values = {name: dict(points) for name, points in lines}
        print(table(["nodes", *values], [[str(n), *(number(values[name].get(float(n))) for name in values)]
                                         for n in nodes_shown]))
        plot(f"{options.figures}/throughput-nodes.svg", "Tasks of 10 ms a second, by nodes of 4 CPUs", "nodes",
             "tasks a second", lines, log=True)
    if "map" in parts:
        with Driver(None, num_cpus=2) as driver:
            out["map"] = driver.do("benchmarks.scaling", "map_tasks", timeout_s=600)
        print("f.map:", {key: number(value) for key, value in out["map"].items()})
    write_json(options.json, out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
