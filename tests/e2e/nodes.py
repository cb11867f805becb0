"""Clusters of real daemons on this machine, and what tests ask about their nodes and processes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.e2e.leaks import Footprint
from tests.e2e.target import ray


@contextlib.contextmanager
def clusters(session_root: str) -> Iterator[Callable[..., Any]]:
    """``start(args, args, ...)`` starts a cluster of such nodes and connects to node number ``connect`` (None: to
    none); at the end of the context nothing of any of them may be left."""
    from zray.cluster_utils import Cluster

    started = []
    footprint = Footprint(session_root)

    def start(*nodes: dict[str, Any], connect: int | None = 0) -> Any:
        cluster = Cluster()
        started.append(cluster)
        cluster.add_nodes(list(nodes))
        cluster.wait_for_nodes()
        footprint.watch()
        if connect is not None:
            ray.init(address=cluster.list_all_nodes()[connect].session_dir, namespace="test")
        return cluster

    try:
        yield start
        footprint.watch()
    finally:
        ray.shutdown()
        for cluster in started:
            cluster.shutdown()
    footprint.check()


def ask(node: Any, what: str, **args: Any) -> dict[str, Any]:
    """What a daemon says of itself, without a driver."""
    from zray.node.running.ask import NodeClient

    asker = NodeClient(node.session_dir)
    try:
        return asker.ask(what, **args)
    finally:
        asker.close()


def states(node: Any) -> dict[str, str]:
    """What ``node`` thinks of each node, by node id."""
    return {row["NodeID"]: row["State"] for row in ask(node, "nodes")["nodes"]}


def replicated(node: Any, replicas: int, voters: int) -> bool:
    """Whether every shard of the control store has so many replicas, and it so many voters."""
    found = ask(node, "gcs")
    return len(found["voters"]) == voters and all(
        len(chain["members"]) == replicas and not chain["joining"] for chain in found["chains"])


def ended(pid: int) -> bool:
    """No such process runs; a zombie does not."""
    from zray.node.processes import linux

    return linux.start_time(pid) == 0


def listening(pid: int) -> list[int]:
    """TCP ports at which a process listens."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}")))
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return [int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in inodes]
