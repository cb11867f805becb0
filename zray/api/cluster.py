"""Many nodes on one machine, each a real daemon: for tests, and for trying a program on a cluster.

    from zray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=2, resources={"disk": 1})
    zray.init(address=cluster.address)
    ...
    cluster.remove_node(other)
    cluster.shutdown()
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import time
from typing import Any

from zray.base.errors import did_you_mean
from zray.base.plain_numbers import plain
from zray.node.running import launch
from zray.node.running.launch import NodeHandle, NodeOptions

NODES_WAIT_S = 30.0
_POLL_S = 0.02
_FIELDS = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory", "memory")


class ClusterNode:
    """One node of a :class:`Cluster`: ``node_id`` (hex), ``session_dir``, ``pid``; ``kill()`` ends it like a crash."""

    def __init__(self, handle: NodeHandle):
        self.handle = handle
        self.node_id = handle.node_id
        self.session_dir = handle.session_dir
        self.pid = handle.pid
        self.address_info = {"session_dir": handle.session_dir, "node_id": handle.node_id,
                             "address": handle.session.address}

    @property
    def unique_id(self) -> str:
        return self.node_id

    def alive(self) -> bool:
        return self.handle.session.alive()

    def kill(self) -> None:
        """SIGKILL to the daemon; its workers die with it."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def __repr__(self) -> str:
        return f"<ClusterNode {self.node_id[:8]} pid={self.pid}>"


class Cluster:
    """A cluster of node daemons on this machine, bound to loopback; they end with this process."""

    def __init__(self, initialize_head: bool = False, connect: bool = False,
                 head_node_args: dict[str, Any] | None = None, shutdown_at_exit: bool = True):
        """``head_node_args`` as for :meth:`add_node`; ``connect``: also ``zray.init`` to it."""
        self.head_node: ClusterNode | None = None
        self.worker_nodes: list[ClusterNode] = []
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head or head_node_args:
            self.add_node(**(head_node_args or {}))
        if connect:
            self.connect()

    @property
    def address(self) -> str:
        """The address for ``zray.init(address=...)``."""
        if self.head_node is None:
            raise RuntimeError("the cluster has no node yet: call add_node() first")
        return self.head_node.session_dir

    gcs_address = address

    @property
    def join_string(self) -> str:
        """The join string for ``zray start --address``, of a live node."""
        for node in self.list_all_nodes():
            if node.alive():
                return node.handle.session.join
        raise RuntimeError("no node of the cluster is alive")

    def list_all_nodes(self) -> list[ClusterNode]:
        return [*([self.head_node] if self.head_node else []), *self.worker_nodes]

    def add_node(self, wait: bool = True, **args: Any) -> ClusterNode:
        """Start a node: num_cpus, num_gpus, resources, labels, object_store_memory, memory,
        node_name, gcs_dir, ``_system_config``.  RuntimeError with the daemon's message when it does
        not start."""
        return self.add_nodes([args])[0]

    def add_nodes(self, several: list[dict[str, Any]]) -> list[ClusterNode]:
        """Start several at once; each as for :meth:`add_node`."""
        several = [plain(args) for args in several]
        nodes: list[ClusterNode] = []
        if self.head_node is None and several:
            self.head_node = ClusterNode(launch.start_node(_options(several[0], head=True)))
            nodes.append(self.head_node)
            several = several[1:]
        if several:
            join = self.join_string
            starting = [launch.spawn_node(_options(args, address=join)) for args in several]
            for one in starting:
                nodes.append(ClusterNode(one.wait()))
                self.worker_nodes.append(nodes[-1])
        return nodes

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:
        """End a node: it drains and leaves; without ``allow_graceful`` it is killed."""
        if allow_graceful:
            node.handle.stop()
        else:
            node.kill()
            node.handle.stop()  # the files that a killed daemon leaves
        if node is self.head_node:
            self.head_node = self.worker_nodes.pop(0) if self.worker_nodes else None
        elif node in self.worker_nodes:
            self.worker_nodes.remove(node)

    def connect(self, namespace: str | None = None) -> Any:
        """``zray.init`` to this cluster."""
        from zray.api.calls import init

        return init(address=self.address, namespace=namespace)

    def wait_for_nodes(self, timeout: float = NODES_WAIT_S) -> None:
        """Until every live node of this cluster knows all the others; TimeoutError otherwise."""
        from zray.node.running.ask import NodeClient

        wanted = {node.node_id for node in self.list_all_nodes() if node.alive()}
        deadline = time.monotonic() + timeout
        for node in self.list_all_nodes():
            if not node.alive():
                continue
            asker = NodeClient(node.session_dir)
            try:
                while True:
                    rows = asker.ask("nodes")["nodes"]
                    if {row["NodeID"] for row in rows if row["Alive"]} == wanted:
                        break
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"after {timeout:g} s node {node.node_id[:8]} knows {len(rows)} nodes, not "
                                           f"the {len(wanted)} that live")
                    time.sleep(_POLL_S)
            finally:
                asker.close()

    def shutdown(self) -> None:
        """End every node."""
        atexit.unregister(self.shutdown)
        nodes, self.worker_nodes = self.list_all_nodes(), []
        self.head_node = None
        for node in reversed(nodes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGTERM) if node.alive() else None
        for node in reversed(nodes):
            node.handle.stop()


def _options(args: dict[str, Any], *, head: bool = False, address: str = "") -> NodeOptions:
    known = {name: args[name] for name in _FIELDS if args.get(name) is not None}
    others = set(args) - {*_FIELDS, "node_name", "gcs_dir", "_system_config", "insecure", "dashboard_port",
                          "include_dashboard", "env_vars", "resource_isolation_config", "port_range",
                          "one_port"}
    if others:
        known_names = (*_FIELDS, "node_name", "gcs_dir", "_system_config", "port_range", "one_port", "insecure")
        raise TypeError("add_node() got unexpected arguments: "
                        + ", ".join(f"{name}{did_you_mean(name, known_names)}" for name in sorted(others)))
    return NodeOptions(**known, config=args.get("_system_config") or {}, head=head, address=address,
                       node_name=args.get("node_name", ""), gcs_dir=args.get("gcs_dir", ""),
                       insecure=bool(args.get("insecure")), port_range=args.get("port_range", ""),
                       one_port=bool(args.get("one_port")))
