"""The rows of the budget table on a cluster, beside a lone node, in one run.

    python -m benchmarks.cluster [--rounds 3] [--nodes 4] [--json benchmarks/results/cluster.json] [part ...]

Three drivers take turns at each part: ``lone`` has a node of its own; ``local`` is on the first of several daemons
(loopback TCP, CURVE) with its work on its own node; ``remote`` is there too with its work on another node, so that
calls go from worker to worker between nodes.  What is shown is the best value of each, and the median over the rounds
of the ratio of values measured within seconds of each other: the machine's noise is in both.

Parts: tasks, wide, map, actors, nn, async, creation, objects, wait; and what only a cluster has: join, fetch,
broadcast.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

import zray
from benchmarks import measure
from benchmarks.budgets import BUDGETS
from benchmarks.command import add_parts
from benchmarks.compare import better
from benchmarks.drivers import Driver
from benchmarks.measure import Row, cost_row, latencies, latency_row, rate_row
from benchmarks.report import number, table, write_json
from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

GROUP = "cluster"
CPUS = 2
ROUND_S = 0.3
STORE_BYTES = 1024**3
LARGE_BYTES = 100_000_000
PARTS = {
    "tasks": ("benchmarks.tasks", "_small"),
    "wide": ("benchmarks.tasks", "_wide"),
    "map": ("benchmarks.tasks", "_map"),
    "actors": ("benchmarks.actors", "_calls"),
    "nn": ("benchmarks.actors", "_many_to_many"),
    "async": ("benchmarks.actors", "_async"),
    "creation": ("benchmarks.actors", "_creation", True),
    "objects": ("benchmarks.objects", "_put_get"),
    "wait": ("benchmarks.objects", "_wait"),
}
OWN_STORE = {"objects"}  # what it measures is on the driver's node whatever the tasks do
PLACES = ("lone", "local", "remote")
ALONE_ONLY = {"join", "fetch", "broadcast"}


class Cluster:
    """Daemons with a resource ``n<i>`` each, and the three drivers."""

    def __init__(self, nodes: int) -> None:
        from zray.cluster_utils import Cluster as Daemons

        self.joins: list[float] = []
        self.daemons = Daemons(initialize_head=True, head_node_args=self._args(0))
        try:
            for index in range(1, nodes):
                start = time.perf_counter()
                self.daemons.add_node(**self._args(index))
                self.joins.append(time.perf_counter() - start)
            self.daemons.wait_for_nodes()
            target = self.daemons.worker_nodes[-1].node_id
            address = self.daemons.address
            self.drivers = {"lone": Driver(None, num_cpus=CPUS, object_store_memory=STORE_BYTES),
                            "local": Driver(address, "local"), "remote": Driver(address, "remote", target)}
            for driver in self.drivers.values():
                driver.do("benchmarks.cluster", "shorten", ROUND_S)
        except BaseException:
            self.daemons.shutdown()
            raise

    @staticmethod
    def _args(index: int) -> dict[str, Any]:
        return {"num_cpus": CPUS, "object_store_memory": STORE_BYTES, "resources": {f"n{index}": 1000}}

    def close(self) -> None:
        for driver in self.drivers.values():
            driver.close()
        self.daemons.shutdown()


def shorten(ray: Any, round_s: float) -> None:
    """In a driver: a short time for each row, because there are many rounds."""
    measure.shorten(1, round_s, 2 * round_s)


def three_ways(cluster: Cluster, parts: list[str], rounds: int) -> dict[str, dict[str, list[Row]]]:
    """row -> place -> one measured row a round."""
    found: dict[str, dict[str, list[Row]]] = {}
    for turn in range(rounds):
        for part in parts:
            module, function, *args = PARTS[part]
            places = [place for place in PLACES if place != "remote" or part not in OWN_STORE]
            for place in places[turn % len(places):] + places[:turn % len(places)]:
                for row in cluster.drivers[place].do(module, function, *args):
                    found.setdefault(row["row"], {}).setdefault(place, []).append(row)
    return found


def ratio(rows: dict[str, list[Row]], place: str, base: str = "lone") -> float | None:
    """Median over the rounds of how much better ``place`` is than ``base``: 0.8 is a fifth worse."""
    pairs = zip(rows.get(place, []), rows.get(base, []), strict=False)
    each = [(mine["value"] / other["value"]) ** (1 if mine["better"] == "higher" else -1)
            for mine, other in pairs if mine["value"] and other["value"]]
    return statistics.median(each) if each else None


def summary(found: dict[str, dict[str, list[Row]]]) -> list[dict[str, Any]]:
    out = []
    for name, places in found.items():
        best: dict[str, Row] = {}
        for place, rows in places.items():
            for row in rows:
                best[place] = better(best.get(place), row)
        out.append({"row": name, "unit": best["lone"]["unit"], **{place: row["value"] for place, row in best.items()},
                    "local/lone": ratio(places, "local"), "remote/lone": ratio(places, "remote"),
                    "budget": BUDGETS.get(name)})
    return out


def show(rows: list[dict[str, Any]]) -> str:
    keys = ("lone", "local", "remote", "local/lone", "remote/lone", "budget")
    return table(["row", "unit", *keys], [[row["row"], row["unit"], *(number(row.get(key)) for key in keys)]
                                          for row in rows])


# ---------------------------------------------------------------- what only a cluster has; run in the remote driver


def fetch(ray: Any) -> list[Row]:
    """Reading what a task on another node has returned: the first time, when it comes over."""
    @ray.remote
    def make(nbytes: int) -> Any:
        return np.ones(nbytes, dtype=np.uint8)

    def first_get(nbytes: int) -> float:
        ref = make.remote(nbytes)
        ray.wait([ref], fetch_local=False)
        start = time.perf_counter()
        assert len(ray.get(ref)) == nbytes
        return time.perf_counter() - start

    small = sorted(first_get(200_000) for _ in range(100))
    large = [first_get(LARGE_BYTES) for _ in range(4)]
    kept = make.remote(200_000)
    ray.get(kept)
    return [latency_row(GROUP, "get of a 200 kB array from another node", small),
            rate_row(GROUP, "get of 100 MB from another node, first", LARGE_BYTES / 1e9 / large[0], "GB/s"),
            rate_row(GROUP, "get of 100 MB from another node, best", LARGE_BYTES / 1e9 / min(large), "GB/s"),
            latency_row(GROUP, "get of the same again", latencies(lambda: ray.get(kept)))]


def broadcast(ray: Any, nodes: list[str]) -> list[Row]:
    """100 MB from the driver's node to tasks on all others at once."""
    @ray.remote
    class Reader:
        def length(self, array: Any) -> int:
            return len(array)

    where = map(NodeAffinitySchedulingStrategy, nodes)
    readers = [Reader.options(num_cpus=0, scheduling_strategy=strategy).remote() for strategy in where]
    ray.get([reader.length.remote(b"") for reader in readers])
    spent = []
    for _ in range(3):
        ref = ray.put(np.ones(LARGE_BYTES, dtype=np.uint8))
        start = time.perf_counter()
        assert ray.get([reader.length.remote(ref) for reader in readers]) == [LARGE_BYTES] * len(readers)
        spent.append(time.perf_counter() - start)
        del ref
    name = f"broadcast of 100 MB to {len(nodes)} nodes"
    return [cost_row(GROUP, name, min(spent)),
            rate_row(GROUP, f"{name}, summed", len(nodes) * LARGE_BYTES / 1e9 / min(spent), "GB/s")]


def joining(cluster: Cluster) -> list[Row]:
    """Time until add_node() returns, and until a driver that connects has its first result."""
    start = time.perf_counter()
    driver = Driver(cluster.daemons.address)
    first = driver.do("benchmarks.cluster", "first_result", cluster.daemons.address)
    driver.close()
    left = []
    node = cluster.daemons.add_node(num_cpus=1)
    start = time.perf_counter()
    cluster.daemons.remove_node(node)
    left.append(time.perf_counter() - start)
    return [cost_row(GROUP, "join of a node", statistics.median(cluster.joins)),
            cost_row(GROUP, "clean leave of a node", min(left)),
            cost_row(GROUP, "init to first task result, on a running cluster", first)]


def first_result(ray: Any, address: str, rounds: int = 3) -> float:
    """In a driver: connect again and again; the best time to a first result."""
    best = float("inf")
    for _ in range(rounds):
        zray.shutdown()
        start = time.perf_counter()
        zray.init(address=address)
        zray.get(zray.remote(_nothing).remote())
        best = min(best, time.perf_counter() - start)
    return best


def _nothing() -> None:
    return None


def rows() -> list[Row]:
    """For ``python -m benchmarks cluster``: a short form, of one round."""
    cluster = Cluster(2)
    try:
        found = three_ways(cluster, ["tasks", "actors"], 1)
        only = joining(cluster) + cluster.drivers["remote"].do("benchmarks.cluster", "fetch")
    finally:
        cluster.close()
    return only + [{**row, "group": GROUP, "row": f"{row['row']} ({place})"}
                   for places in found.values() for place, measured in places.items() for row in measured]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_parts(parser, [*PARTS, *sorted(ALONE_ONLY)])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--json", default="benchmarks/results/cluster.json")
    options = parser.parse_args()
    parts = options.parts
    cluster = Cluster(options.nodes)
    try:
        found = three_ways(cluster, [part for part in parts if part in PARTS], options.rounds)
        only: list[Row] = []
        if "join" in parts:
            only += joining(cluster)
        if "fetch" in parts:
            only += cluster.drivers["remote"].do("benchmarks.cluster", "fetch")
        if "broadcast" in parts:
            others = [node.node_id for node in cluster.daemons.worker_nodes][:3]
            only += cluster.drivers["remote"].do("benchmarks.cluster", "broadcast", others)
    finally:
        cluster.close()
    rows = summary(found)
    if rows:
        print(show(rows), end="\n\n")
    if only:
        print(table(["row", "value", "p99", "unit"], [
            [row["row"], number(row["value"]), number(row.get("p99")), row["unit"]] for row in only]))
    write_json(options.json, {"rows": rows, "only": only, "nodes": options.nodes, "rounds": options.rounds})
    short = [row["row"] for row in rows if row["local/lone"] is not None and row["local/lone"] < 0.8]
    print(f"\n{len(rows)} rows, more than 20 % below a lone node when local: {', '.join(short) or 'none'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
