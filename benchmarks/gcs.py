"""The control store as a client sees it: latency and rate, and while replicas are killed, frozen and replaced.

    python -m benchmarks.gcs [--events 3] [--figures DIR] [--json FILE] [part ...]

    steady    puts and gets, one at a time and pipelined, with the processor time of every daemon they pass
    chains    the same with chains of one, two and three replicas, the client on the first node
    kill      kill -9 of head, middle, tail; another node takes the place
    stop      SIGSTOP of head, middle, tail: nobody refuses a connection, so only time tells
    join      a node joins (that alone)
    timeline  the figure: three nodes, one is killed, a second later another joins
    restart   a store of 10,000 keys on one node, killed and started again from its directory
    memory    memory of the node and its store while a million tasks pass

The client is a driver; its node is a daemon that has no replica, except in ``chains`` and ``timeline``.  It writes and
reads without a pause, one request of each kind at a time.  A stall is the longest time that one request took.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from typing import Any

from benchmarks.command import add_parts
from benchmarks.drivers import Driver
from benchmarks.echo import echo_p50
from benchmarks.measure import Row, cost_row, quantile, rate_row
from benchmarks.plot import plot
from benchmarks.proc import pss_bytes
from benchmarks.report import number, table, write_json
from zray.cluster_utils import Cluster, ClusterNode
from zray.node.running.ask import NodeClient

REPLICAS = 3
PLACES = ("head", "middle", "tail")
SETTLE_S = 20.0
BEFORE_S, AFTER_S = 0.7, 1.5
TASKS = 1_000_000
KEYS_RESTART = 10_000
_CLOCK_TICK = os.sysconf("SC_CLK_TCK")


class Store:
    """A cluster whose control store is looked at from outside."""

    def __init__(self, nodes: int, **args: Any) -> None:
        self.cluster = Cluster()
        try:
            self.cluster.add_nodes([{"num_cpus": 0, **args} for _ in range(nodes)])
            self.cluster.wait_for_nodes()
            self.settled()
        except BaseException:
            self.cluster.shutdown()
            raise

    def node(self, incarnation: str) -> ClusterNode:
        return next(node for node in self.cluster.list_all_nodes() if node.node_id.startswith(incarnation))

    def chain(self, ask: ClusterNode | None = None) -> dict[str, Any]:
        """The chain as ``ask`` knows it, by default the newest node."""
        asker = NodeClient((ask or self.cluster.list_all_nodes()[-1]).session_dir)
        try:
            return asker.ask("gcs")["chains"][0]
        finally:
            asker.close()

    def settled(self, ask: ClusterNode | None = None) -> list[ClusterNode]:
        """The replicas of the first shard from head to tail, once every shard has three (or as many as there are nodes)
        and nobody joins any more."""
        alive = sum(node.alive() for node in self.cluster.list_all_nodes())
        deadline = time.monotonic() + SETTLE_S
        asker = NodeClient((ask or self.cluster.list_all_nodes()[-1]).session_dir)
        try:
            while True:
                chains = asker.ask("gcs")["chains"]
                unsettled = [chain for chain in chains
                             if len(chain["members"]) != min(REPLICAS, alive) or chain["joining"]]
                if not unsettled:
                    return [self.node(name) for name in chains[0]["members"]]
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(unsettled)} chains did not settle within {SETTLE_S:g} s: {unsettled[0]}")
                time.sleep(0.02)
        finally:
            asker.close()

    def without_replica(self, replicas: list[ClusterNode]) -> ClusterNode:
        """The newest node that is no replica."""
        return [node for node in self.cluster.list_all_nodes() if node not in replicas][-1]

    def remove(self, node: ClusterNode) -> None:
        self.cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self.cluster.shutdown()


def cpu_s(node: ClusterNode) -> float:
    """Seconds of processor time of a daemon so far."""
    with open(f"/proc/{node.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICK


def quantiles(took: list[float]) -> dict[str, float]:
    ordered = sorted(took)
    return {"count": len(ordered), "p50_ms": 1e3 * quantile(ordered, 0.5), "p99_ms": 1e3 * quantile(ordered, 0.99),
            "max_ms": 1e3 * ordered[-1]} if ordered else {"count": 0}


# ---------------------------------------------------------------- steady


def steady(driver: Driver, roles: dict[str, ClusterNode], seconds: float = 1.5, rounds: int = 3) -> dict[str, Any]:
    """Puts and gets, one at a time and 256 at a time: the round with the best median, and microseconds of each role."""
    out: dict[str, Any] = {"bare echo p50 ms": 1e3 * min(echo_p50() for _ in range(rounds))}
    for name, puts, gets in (("put", 1, 0), ("get", 0, 1), ("put, 256 at a time", 256, 0),
                             ("get, 256 at a time", 0, 256)):
        tried = []
        for _ in range(rounds):
            before = {role: cpu_s(node) for role, node in roles.items()}
            (_, took, errors), = driver.do("benchmarks.kv", "load", seconds, puts, gets).values()
            spent = {role: 1e6 * (cpu_s(node) - before[role]) / len(took) for role, node in roles.items()}
            tried.append({**quantiles(took), "rate": len(took) / seconds, "errors": len(errors), "cpu_us": spent})
        out[name] = min(tried, key=lambda row: row["p50_ms"])
    return out


def show_steady(title: str, rows: dict[str, Any]) -> str:
    roles = list(rows["put"]["cpu_us"])
    lines = [[name, number(row["p50_ms"]), number(row["p99_ms"]), number(row["rate"]),
              *(number(row["cpu_us"][role]) for role in roles)] for name, row in rows.items() if isinstance(row, dict)]
    return table([title, "p50 ms", "p99 ms", "/s", *(f"us of {role}" for role in roles)], lines) + (
        f"\n(a bare ZeroMQ echo over loopback, same minute: p50 {rows['bare echo p50 ms']:.3f} ms)")


def chains() -> dict[str, Any]:
    """Chains of one, two and three replicas; the client is on the first node, the head."""
    out = {}
    for nodes in (1, 2, 3):
        store = Store(nodes)
        try:
            replicas = store.settled()
            roles = {PLACES[i] if nodes == REPLICAS else ("head", "tail")[i] if nodes == 2 else "only": node
                     for i, node in enumerate(replicas)}
            with Driver(replicas[0].session_dir) as driver:
                out[str(nodes)] = steady(driver, roles)
        finally:
            store.close()
    return out


# ---------------------------------------------------------------- events


def event(store: Store, place: str, how: str) -> dict[str, Any]:
    """One replica killed or frozen under load; stalls of the requests under way then, quantiles before and after."""
    replicas = store.settled()
    victim, home = replicas[PLACES.index(place)], store.without_replica(replicas)
    with Driver(home.session_dir) as driver:
        driver.begin("benchmarks.kv", "load", BEFORE_S + AFTER_S)
        time.sleep(BEFORE_S)
        at = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        streams = driver.end()
    store.remove(victim)
    out: dict[str, Any] = {}
    for name, (called, took, errors) in streams.items():
        hit = [t for c, t in zip(called, took, strict=True) if c <= at + 1.0 and c + t >= at]
        calm = [t for c, t in zip(called, took, strict=True) if c + t < at]
        out[name] = {"stall_ms": 1e3 * max(hit), "errors": len(errors), "calm": quantiles(calm),
                     "after": quantiles(hit)}
    return out


def events(how: str, count: int) -> dict[str, Any]:
    """``count`` events at each place; after each a new node joins, so that there are always five."""
    out: dict[str, Any] = {}
    store = Store(5)
    try:
        for _ in range(count):
            for place in PLACES:
                out.setdefault(place, []).append(event(store, place, how))
                store.cluster.add_node(num_cpus=0)
    finally:
        store.close()
    return out


def joins(count: int) -> dict[str, Any]:
    """A node joins under load, and its part in the store is none: three replicas are there already."""
    out = []
    store = Store(4)
    try:
        with Driver(store.without_replica(store.settled()).session_dir) as driver:
            for _ in range(count):
                driver.begin("benchmarks.kv", "load", 2.5)
                time.sleep(BEFORE_S)
                at = time.monotonic()
                node = store.cluster.add_node(num_cpus=0)
                end = time.monotonic()
                row: dict[str, Any] = {"join_s": end - at}
                for name, (called, took, errors) in driver.end().items():
                    hit = [t for c, t in zip(called, took, strict=True) if at <= c + t and c <= end]
                    row[name] = {"stall_ms": 1e3 * max(hit), "errors": len(errors), "after": quantiles(hit),
                                 "calm": quantiles([t for c, t in zip(called, took, strict=True) if c + t < at])}
                out.append(row)
                store.cluster.remove_node(node)
    finally:
        store.close()
    return {"join": out}


def show_events(title: str, found: dict[str, Any]) -> str:
    lines = []
    for place, rows in found.items():
        for kind in ("puts", "gets"):
            stalls = sorted(row[kind]["stall_ms"] for row in rows)
            lines.append([f"{place}, {kind}", str(len(rows)), number(statistics.median(stalls)), number(stalls[-1]),
                          number(statistics.median(row[kind]["after"]["p99_ms"] for row in rows)),
                          number(statistics.median(row[kind]["calm"]["p50_ms"] for row in rows)),
                          number(statistics.median(row[kind]["calm"]["p99_ms"] for row in rows)),
                          number(statistics.median(row[kind]["calm"]["max_ms"] for row in rows)),
                          str(sum(row[kind]["errors"] for row in rows))])
    return table([title, "events", "stall ms, median", "worst", "p99 in that second", "calm p50 ms", "calm p99",
                  "calm max", "errors"], lines)


# ---------------------------------------------------------------- the figure


def timeline(figures: str) -> dict[str, Any]:
    """Three nodes: the middle of the chain is killed, the chain is short for a while, then another node joins."""
    store = Store(REPLICAS)
    try:
        replicas = store.settled()
        with Driver(replicas[0].session_dir) as driver:
            driver.begin("benchmarks.kv", "load", 10.0)
            start = time.monotonic()
            time.sleep(2.0)
            killed = time.monotonic() - start
            replicas[1].kill()
            time.sleep(2.0)
            joining = time.monotonic() - start
            store.cluster.remove_node(replicas[1], allow_graceful=False)
            store.cluster.add_node(num_cpus=0)
            store.settled(replicas[0])
            joined = time.monotonic() - start
            streams = driver.end()
    finally:
        store.close()
    phases = {"three replicas": (0.2, killed), "two replicas": (killed + 0.5, joining),
              "a node starts": (joining, joined), "three again": (joined, 1e9)}
    out: dict[str, Any] = {"killed_s": killed, "joining_s": joining, "joined_s": joined}
    lines = []
    for name, (called, took, _) in streams.items():
        points = [(c - start, 1e3 * t) for c, t in zip(called, took, strict=True)]
        out[name] = {phase: quantiles([t / 1e3 for at, t in points if low <= at < high])
                     for phase, (low, high) in phases.items()}
        window = 0.05
        grouped: dict[int, list[float]] = {}
        for at, t in points:
            grouped.setdefault(int(at / window), []).append(t)
        lines.append((f"{name}, median", [(i * window, statistics.median(ts)) for i, ts in sorted(grouped.items())]))
        lines.append((f"{name}, longest", [(i * window, max(ts)) for i, ts in sorted(grouped.items())]))
    plot(f"{figures}/gcs-timeline.svg",
         f"A replica killed at {killed:.1f} s; a node started at {joining:.1f} s, a replica at {joined:.1f} s",
         "seconds", "milliseconds, by 0.05 s", lines)
    return out


# ---------------------------------------------------------------- restart, memory


def restart() -> dict[str, Any]:
    """Killed with everything on it, and started again from its directory: the time until a client has read a key."""
    with tempfile.TemporaryDirectory(prefix="zray-gcs-") as directory:
        store = Store(1, gcs_dir=directory)
        try:
            with Driver(store.cluster.address) as driver:
                driver.do("benchmarks.kv", "fill", KEYS_RESTART)
            store.cluster.list_all_nodes()[0].kill()
        finally:
            store.close()
        start = time.perf_counter()
        store = Store(1, gcs_dir=directory)
        up = time.perf_counter() - start
        try:
            with Driver(store.cluster.address) as driver:
                missing = driver.do("benchmarks.kv", "missing", KEYS_RESTART)
        finally:
            store.close()
    return {"keys": KEYS_RESTART, "until it serves s": up, "acknowledged and missing": missing}


def memory(tasks: int = TASKS) -> dict[str, Any]:
    """Memory of a node's daemon, the control store in it, while tasks pass.

    The daemon keeps its last ``events_max`` (100,000) task events; here 1000, so that they do not fill up meanwhile.
    """
    settings = {"events_max": 1000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "_system_config": settings})
    try:
        pid = cluster.list_all_nodes()[0].pid
        with Driver(cluster.address) as driver:
            samples = []
            start = time.perf_counter()
            for _ in range(10):
                driver.do("benchmarks.kv", "pass_tasks", tasks // 10)
                samples.append(pss_bytes(pid, "Pss_Anon"))
            spent = time.perf_counter() - start
    finally:
        cluster.shutdown()
    return {"tasks": tasks, "tasks_s": tasks / spent, "daemon_MB": [round(b / 1e6, 2) for b in samples],
            "growth_second_half_MB": (samples[-1] - samples[4]) / 1e6,
            "bytes_a_task": (samples[-1] - samples[4]) / (tasks / 2)}


def steady_alone() -> dict[str, Any]:
    """:func:`steady` on five nodes, three of them replicas, the client on another."""
    store = Store(5)
    try:
        replicas = store.settled()
        home = store.without_replica(replicas)
        with Driver(home.session_dir) as driver:
            return steady(driver, {**dict(zip(PLACES, replicas, strict=True)), "client's node": home})
    finally:
        store.close()


def rows() -> list[Row]:
    """For ``python -m benchmarks gcs``."""
    found = steady_alone()
    out = []
    for kind in ("put", "get"):
        one, many = found[kind], found[f"{kind}, 256 at a time"]
        out += [{**cost_row("gcs", f"GCS {kind}, three replicas", one["p50_ms"], "ms"), "p99": one["p99_ms"]},
                rate_row("gcs", f"GCS {kind}s, three replicas, 256 at a time", many["rate"])]
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_parts(parser, ["steady", "chains", "kill", "stop", "join", "timeline", "restart", "memory"])
    parser.add_argument("--events", type=int, default=3, help="of each kind at each place")
    parser.add_argument("--figures", default="docs/figures")
    parser.add_argument("--json", default="benchmarks/results/gcs.json")
    options = parser.parse_args()
    out: dict[str, Any] = {}
    for part in options.parts:
        if part == "steady":
            out[part] = steady_alone()
            print(show_steady("three replicas, client elsewhere", out[part]))
        elif part == "chains":
            out[part] = chains()
            for nodes, rows in out[part].items():
                print(show_steady(f"chain of {nodes}", rows))
        elif part in ("kill", "stop"):
            out[part] = events(part, options.events)
            print(show_events({"kill": "kill -9", "stop": "SIGSTOP"}[part], out[part]))
        elif part == "join":
            out[part] = joins(options.events)
            print(show_events("a node joins", out[part]))
        else:
            out[part] = timeline(options.figures) if part == "timeline" else globals()[part]()
            print(f"{part}: {out[part]}")
        print(flush=True)
    write_json(options.json, out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
