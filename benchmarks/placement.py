"""Studies of placement on simulated clusters.

    python -m benchmarks.placement [--quick] [--figures DIR] [--json FILE]

The schedulers are the production machines (zray/sim/scheduling.py); the clock, links and workers are simulated, with
the costs that the output lists.  Random and round-robin are what a scheduler does that knows nothing of the nodes: each
task is sent to a node when it is submitted, and waits there.

    spread      one driver on the first of 21 nodes, 100,000 tasks of 10 ms
    uneven      the same on nodes of 2, 4 and 8 CPUs, tasks of 1 to 100 ms
    thousand    1000 nodes, one driver, 100,000 tasks of 100 ms
    locality    1,000 tasks with one dependency of 100 kB to 100 MB on two nodes whose links are limited
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from random import Random
from typing import Any

from benchmarks.plot import plot
from benchmarks.report import number, table, write_json
from zray.sim.scheduling import Costs, SchedulingCluster, jain

WINDOW_S = 0.1  # running tasks are averaged over this long
SIZES = (100_000, 1_000_000, 10_000_000, 100_000_000)
LINK_BYTES_S = 125e6  # 1 Gbit/s into each node
TASK_S = 0.01
SETTLED_S = 0.1  # until the nodes know each other

Runs = list[tuple[int, float, float]]


def bottom_up(cpus: list[int], tasks: list[float], seed: int = 1, local_only: bool = False) -> tuple[Runs, dict]:
    """What the schedulers of zray make of it; ``local_only``: of the first node alone."""
    begin = time.perf_counter()
    totals = [{"CPU": float(cpu)} for cpu in (cpus[:1] if local_only else cpus)]
    cluster = SchedulingCluster(totals, seed=seed, compiled=len(cpus) > 64)
    cluster.run_until(SETTLED_S)
    owner = cluster.owner(0)
    owner.submit(tasks, {"CPU": 1})
    if not cluster.run_until(10_000.0, cluster.done):
        raise RuntimeError("the tasks did not end")
    runs = [(node, start - SETTLED_S, end - SETTLED_S) for node, start, end in cluster.runs]
    return runs, {"messages between nodes": cluster.messages, "trace": cluster.net.trace_hash(),
                          "simulated in s": round(time.perf_counter() - begin, 1)}


def blind(cpus: list[int], tasks: list[float], choose: Callable[[int], int]) -> tuple[Runs, dict]:
    """Every task to node ``choose(n)`` at once; each node runs what it got, first come first served."""
    costs = Costs()
    slots = [[0.0] * cpu for cpu in cpus]
    runs: Runs = []
    for position, seconds in enumerate(tasks):
        node = choose(position)
        sent = (position + 1) * costs.submit_s + costs.link_s_max
        start = max(heapq.heappop(slots[node]), sent)
        heapq.heappush(slots[node], start + seconds)
        runs.append((node, start, start + seconds))
    return runs, {}


def loads(runs: Runs, nodes: int) -> list[list[float]]:
    """Running tasks on each node, averaged over windows: one list a window."""
    windows = int(max(end for _, _, end in runs) / WINDOW_S) + 1
    sums = [[0.0] * nodes for _ in range(windows)]
    for node, start, end in runs:
        window = int(start / WINDOW_S)
        while start < end:
            until = min(end, (window + 1) * WINDOW_S)
            sums[window][node] += (until - start) / WINDOW_S
            start, window = until, window + 1
    return sums


def verdict(runs: Runs, cpus: list[int], tasks: list[float]) -> dict[str, float]:
    """Makespan against the ideal, and how evenly CPUs are used."""
    ideal = max(sum(tasks) / sum(cpus), max(tasks))
    makespan = max(end for _, _, end in runs)
    used = [[load / cpu for load, cpu in zip(window, cpus, strict=True)] for window in loads(runs, len(cpus))]
    full = used[1:-2] or used  # not the ramp of the first window, nor the tail of the last
    return {"makespan_s": makespan, "ideal_s": ideal, "ratio": makespan / ideal,
            "jain_mean": sum(map(jain, full)) / len(full), "jain_min": min(map(jain, full))}


def compare(cpus: list[int], tasks: list[float], seed: int = 1) -> tuple[dict[str, Any], dict[str, Runs]]:
    random, nodes = Random(seed), len(cpus)
    kinds: dict[str, Callable[[], tuple[Runs, dict]]] = {
        "zray": lambda: bottom_up(cpus, tasks, seed),
        "random": lambda: blind(cpus, tasks, lambda _: random.randrange(nodes)),
        "round-robin": lambda: blind(cpus, tasks, lambda position: position % nodes),
        "local only": lambda: bottom_up(cpus, tasks, seed, local_only=True),
    }
    results, runs_of = {}, {}
    for name, make in kinds.items():
        runs, more = make()
        runs_of[name] = runs
        results[name] = {**verdict(runs, cpus, tasks), **more}
    return results, runs_of


def locality(nbytes: int, count: int, aware: bool, seed: int = 1) -> dict[str, float]:
    """``count`` tasks, each with a dependency of its own on one of two nodes of 4 CPUs: mean time of a task."""
    random = Random(seed)
    cluster = SchedulingCluster([{"CPU": 4}] * 2, seed=seed, costs=Costs(bytes_per_s=LINK_BYTES_S),
                                link_bytes_s=LINK_BYTES_S)
    owner = cluster.owner(0)
    where = [random.randrange(2) for _ in range(count)]
    if aware:
        for node in range(2):
            mine = [(nbytes, at) for at in where if at == node]
            wish = {"locality": cluster.nodes[node].name, "bytes": nbytes}
            owner.submit([TASK_S] * len(mine), {"CPU": 1}, wish, mine)
    else:
        owner.submit([TASK_S] * count, {"CPU": 1}, {}, [(nbytes, at) for at in where])
    if not cluster.run_until(100_000.0, cluster.done):
        raise RuntimeError("the tasks did not end")
    return {"mean_s": sum(cluster.latencies) / count, "makespan_s": max(end for _, _, end in cluster.runs)}


def show(title: str, results: dict[str, Any]) -> str:
    lines = [[name, number(row["makespan_s"]), f"{row['ratio']:.3f}", f"{row['jain_mean']:.4f}",
              f"{row['jain_min']:.4f}", number(row.get("messages between nodes"))] for name, row in results.items()]
    header = [title, "makespan s", "of ideal", "Jain mean", "Jain min", "messages"]
    return table(header, lines)


def curve(runs: Runs, nodes: int) -> list[tuple[float, float]]:
    return [(i * WINDOW_S, sum(window)) for i, window in enumerate(loads(runs, nodes))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks, and no 1000 nodes")
    parser.add_argument("--figures", default="docs/figures", help="where the SVG files go")
    parser.add_argument("--json", default="benchmarks/results/placement.json")
    arguments = parser.parse_args()
    count = 10_000 if arguments.quick else 100_000
    out: dict[str, Any] = {"costs": asdict(Costs()), "window_s": WINDOW_S}

    cpus = [4] * 21
    out["spread"], runs = compare(cpus, [TASK_S] * count)
    print(show(f"{count:,} tasks of 10 ms, 21 nodes of 4 CPUs", out["spread"]), end="\n\n")
    per_node = loads(runs["zray"], 21)
    plot(f"{arguments.figures}/placement-nodes.svg", "Tasks that run on each of 21 nodes (one line a node)",
         "seconds", "running tasks (mean of 0.1 s)",
         [(str(node), [(i * WINDOW_S, window[node]) for i, window in enumerate(per_node)]) for node in range(21)],
         legend=False, thin=True)
    end = 3 * out["spread"]["zray"]["ideal_s"]
    plot(f"{arguments.figures}/placement-policies.svg", "Tasks that run in the cluster, by placement", "seconds",
         "running tasks (mean of 0.1 s)",
         [(name, [point for point in curve(runs[name], 21) if point[0] <= end]) for name in runs])

    random = Random(2)
    cpus = [random.choice((2, 4, 8)) for _ in range(21)]
    tasks = [random.choice((0.001, 0.005, 0.01, 0.1)) for _ in range(count // 2)]
    out["uneven"], _ = compare(cpus, tasks)
    print(show(f"{len(tasks):,} tasks of 1 to 100 ms, 21 nodes of 2 to 8 CPUs", out["uneven"]), end="\n\n")

    if not arguments.quick:
        cpus, tasks = [4] * 1000, [0.1] * 100_000
        runs_1000, more = bottom_up(cpus, tasks)
        out["thousand"] = {"zray": {**verdict(runs_1000, cpus, tasks), **more}}
        print(show("100,000 tasks of 100 ms, 1000 nodes of 4 CPUs", out["thousand"]), end="\n\n")

    tasks_each = 100 if arguments.quick else 1000
    out["locality"] = {str(size): {name: locality(size, tasks_each, name == "aware") for name in ("aware", "unaware")}
                       for size in SIZES}
    lines = [[f"{int(size):,} bytes", *(number(row[name]["mean_s"]) for name in ("aware", "unaware")),
              number(row["unaware"]["mean_s"] / row["aware"]["mean_s"]),
              *(number(row[name]["makespan_s"]) for name in ("aware", "unaware"))]
             for size, row in out["locality"].items()]
    print(table([f"{tasks_each} tasks, a dependency of", "aware, mean s", "unaware", "ratio", "aware, makespan s",
                 "unaware"], lines))
    plot(f"{arguments.figures}/placement-locality.svg", "Mean time of a task, by the size of its dependency",
         "bytes", "seconds", [(name, [(float(size), row[name]["mean_s"]) for size, row in out["locality"].items()])
                              for name in ("aware", "unaware")], log=True)
    write_json(arguments.json, json.loads(json.dumps(out)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
