"""Replicas of the control store killed under load: nothing acknowledged is lost, every history is linearizable.

Two drivers on nodes that survive issue random requests (put, put if absent, get, delete) on the same keys while the
head, the middle or the tail of the chain is killed (SIGKILL), or stopped for good (SIGSTOP).  What they saw, with a
read of every key afterwards, must be linearizable (zray/sim/linearizability.py): an acknowledged write that got lost,
or was applied twice, or a stale read have no order.  At the end all keys are read once more: they are as they were.
After each event a new node takes the place of the one that died.

    python -m fuzz.kill_gcs --events 100 --how kill stop --seed 1
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections.abc import Hashable
from typing import Any

from benchmarks.drivers import Driver
from benchmarks.gcs import PLACES, Store
from benchmarks.measure import quantile
from zray.cluster_utils import ClusterNode
from zray.sim.chain import register_step
from zray.sim.linearizability import Operation, check

NODES = 5
KEYS = 6
BEFORE_S, AFTER_S = 0.15, {"kill": 0.35, "stop": 0.8}
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def step(state: Hashable, action: Any) -> tuple[Hashable, Any]:
    """A key of the store: its value or None.  ``add`` puts if absent, and tells whether it was there."""
    if action[0] != "add":
        return register_step(state, action)
    after, (absent, _) = register_step(state, ("cas", None, action[1]))
    return after, not absent


class Clients:
    """Two drivers on live nodes, kept as long as their nodes are."""

    def __init__(self) -> None:
        self._by_node: dict[str, Driver] = {}

    def on(self, nodes: list[ClusterNode]) -> list[Driver]:
        """Two drivers on two of ``nodes``; those that are there already are preferred."""
        names = {node.node_id: node for node in nodes}
        for gone in [name for name in self._by_node if name not in names]:
            self._by_node.pop(gone).close()
        for name in list(names):
            if len(self._by_node) >= 2:
                break
            if name not in self._by_node:
                self._by_node[name] = Driver(names[name].session_dir)
        return list(self._by_node.values())

    def close(self) -> None:
        for driver in self._by_node.values():
            driver.close()


def event(store: Store, clients: Clients, how: str, place: str, number: int, rng: random.Random) -> tuple[int, float]:
    """One event; (operations, longest seconds of one under way then).  AssertionError when there is no order."""
    victim = store.settled()[PLACES.index(place)]
    drivers = clients.on([node for node in reversed(store.cluster.list_all_nodes()) if node is not victim])
    prefix = f"{number:05d}"
    for driver in drivers:
        driver.begin("benchmarks.kv", "history", BEFORE_S + AFTER_S[how], prefix, KEYS, rng.getrandbits(32))
    time.sleep(BEFORE_S + rng.uniform(0, 0.1))
    at = time.monotonic()
    os.kill(victim.pid, SIGNALS[how])
    operations = [Operation(key, action, result, called, returned, client)
                  for client, driver in enumerate(drivers) for key, action, result, called, returned in driver.end()]
    errors = [op.result for op in operations if isinstance(op.result, str)]
    assert not errors, f"{how} {place}: {errors[:3]}"
    store.remove(victim)
    names = [f"{prefix}/{key}" for key in range(KEYS)]
    operations += [Operation(*found) for found in drivers[0].do("benchmarks.kv", "read", names)]
    verdict = check(operations, step)
    assert verdict, f"{how} {place}: no order for {verdict.key}: {verdict.history}"
    stall = max(op.returned - op.called for op in operations if op.returned >= at)
    return len(operations), stall


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=100, help="in total, over the places in turn")
    parser.add_argument("--how", nargs="+", default=["kill"], choices=list(SIGNALS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    stalls: dict[tuple[str, str], list[float]] = {}
    done = operations = 0
    final: dict[str, Any] = {}
    end = time.monotonic() + options.seconds
    store, clients = Store(NODES), Clients()
    try:
        for number in range(options.events):
            if time.monotonic() > end:
                break
            how, place = options.how[number // 3 % len(options.how)], PLACES[number % 3]
            count, stall = event(store, clients, how, place, number, rng)
            stalls.setdefault((how, place), []).append(stall)
            done, operations = done + 1, operations + count
            store.cluster.add_node(num_cpus=0)
            driver = clients.on(store.cluster.list_all_nodes())[0]
            final |= {row[0]: row[2] for row in driver.do(
                "benchmarks.kv", "read", [f"{number:05d}/{key}" for key in range(KEYS)])}
            if done % 10 == 0:
                print(f"{done} events, {operations:,} operations", flush=True)
        survivors = clients.on(store.cluster.list_all_nodes())
        now = {row[0]: row[2] for row in survivors[0].do("benchmarks.kv", "read", list(final))}
        assert now == final, "keys that nobody touches have changed"
    finally:
        clients.close()
        store.close()
    for (how, place), each in sorted(stalls.items()):
        ordered = sorted(each)
        print(f"{how} {place}: {len(each)} events, longest request of each: median {1e3 * quantile(ordered, 0.5):.0f}, "
              f"p90 {1e3 * quantile(ordered, 0.9):.0f}, worst {1e3 * ordered[-1]:.0f} ms")
    print(f"{done} events, {operations:,} operations, all linearizable; {len(final)} keys as they were at the end")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
