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

from zray.base import ray_settings
from zray.base.errors import did_you_mean
from zray.base.plain_numbers import plain
from zray.node.processes import linux
from zray.node.running import launch
from zray.node.running.launch import NodeHandle, NodeOptions

NODES_WAIT_S = 30.0
_POLL_S = 0.02
_FIELDS = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory", "memory", "node_name", "gcs_dir",
           "port_range", "one_port", "insecure", "node_ip_address", "env_vars")
_OTHERS = ("wait", "_system_config", "object_spilling_directory", "min_worker_port", "max_worker_port")
# Keywords of Ray's nodes without a counterpart: accepted and ignored.
_IGNORED = frozenset((
    "autoscaling_config", "cluster_id", "dashboard_agent_grpc_port", "dashboard_agent_listen_port",
    "dashboard_grpc_port", "dashboard_host", "dashboard_port", "enable_object_reconstruction", "external_addresses",
    "gcs_address",
    "gcs_server_port", "huge_pages", "include_dashboard", "include_log_monitor", "log_to_stderr", "metrics_agent_port",
    "metrics_export_port", "no_monitor", "node_id", "node_manager_port", "num_redis_shards", "object_manager_port",
    "object_ref_seed", "plasma_directory", "plasma_store_socket_name", "proxy_server_url", "ray_client_server_port",
    "ray_debugger_external", "raylet_socket_name", "redirect_output", "redis_address", "redis_max_clients",
    "redis_password", "redis_port", "redis_shard_ports", "redis_username", "resource_isolation_config",
    "runtime_env_agent_port", "runtime_env_dir_name", "session_name", "setup_worker_path", "temp_dir",
    "tracing_startup_hook", "webui", "worker_path", "worker_port_list"))


class ClusterNode:
    """One node of a :class:`Cluster`: ``node_id`` (hex), ``address`` for ``init``, ``session_dir``, ``pid``.

    ``kill()`` ends it like a crash.
    """

    def __init__(self, handle: NodeHandle):
        self.handle = handle
        self.node_id = handle.node_id
        self.session_dir = handle.session_dir
        self.pid = handle.pid
        self.address = handle.session.address  # host:port
        self._seen: dict[int, int] = {}  # processes of the node, with their start times
        self.address_info = {"session_dir": handle.session_dir, "node_id": handle.node_id,
                             "address": handle.session.address}

    @property
    def unique_id(self) -> str:
        """The id of the node in hex digits."""
        return self.node_id

    def alive(self) -> bool:
        """Whether its daemon runs."""
        return self.handle.session.alive()

    def remaining_processes_alive(self) -> bool:
        """Whether the node is whole: its daemon runs, and the process that its workers are forked from."""
        return self.alive() and any(linux.name_of(pid) == "zray-zygote" for pid in self._look())

    def any_processes_alive(self) -> bool:
        """Whether a process of the node runs: the daemon, or one that it had when somebody asked before."""
        self._look()
        return self.alive() or any(linux.start_time(pid) == start for pid, start in self._seen.items())

    def _look(self) -> list[int]:
        """The processes that the daemon has now: the zygote and the workers."""
        found = linux.children(self.pid) if self.alive() else []
        self._seen = {pid: start for pid, start in self._seen.items() if linux.start_time(pid) == start}
        self._seen.update((pid, linux.start_time(pid)) for pid in found)
        return found

    def kill(self) -> None:
        """SIGKILL to the daemon; its workers die with it."""
        self._look()
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
        self._settings: dict[str, Any] = {}  # of the first node: they hold for all
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head or head_node_args:
            self.add_node(**(head_node_args or {}))
        if connect:
            self.connect()

    @property
    def address(self) -> str:
        """The address for ``zray.init(address=...)``: host:port of the first node."""
        if self.head_node is None:
            raise RuntimeError("the cluster has no node yet: call add_node() first")
        return self.head_node.address

    gcs_address = address

    @property
    def join_string(self) -> str:
        """The join string for ``zray start --address``, of a live node."""
        for node in self.list_all_nodes():
            if node.alive():
                return node.handle.session.join
        raise RuntimeError("no node of the cluster is alive")

    def list_all_nodes(self) -> list[ClusterNode]:
        """The head node first."""
        return [*([self.head_node] if self.head_node else []), *self.worker_nodes]

    def add_node(self, wait: bool = True, **args: Any) -> ClusterNode:
        """Start a node: num_cpus, num_gpus, resources, labels, object_store_memory and memory (bytes), node_name,
        node_ip_address, env_vars, gcs_dir, object_spilling_directory, ``_system_config``.

        Ray's other keywords are accepted and ignored.  The ``_system_config`` of the first node holds for all.
        RuntimeError with the daemon's message when it does not start.  ``wait``: it serves when this returns, always.
        """
        return self.add_nodes([args])[0]

    def add_nodes(self, several: list[dict[str, Any]]) -> list[ClusterNode]:
        """Start several at once; each as for :meth:`add_node`."""
        several = [plain(args) for args in several]
        nodes: list[ClusterNode] = []
        if self.head_node is None and several:
            first = _options(several[0], {}, head=True)
            self._settings = first.config
            self.head_node = ClusterNode(launch.start_node(first))
            nodes.append(self.head_node)
            several = several[1:]
        if several:
            join = self.join_string
            starting = [launch.spawn_node(_options(args, self._settings, address=join)) for args in several]
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

    def remaining_processes_alive(self) -> bool:
        """Whether every node is whole, see :meth:`ClusterNode.remaining_processes_alive`."""
        return all(node.remaining_processes_alive() for node in self.list_all_nodes())

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


def _options(args: dict[str, Any], settings: dict[str, Any], *, head: bool = False, address: str = "") -> NodeOptions:
    """From keywords of a user; ``settings`` are those of the cluster."""
    known_names = (*_FIELDS, *_OTHERS)
    wrong = [(name, did_you_mean(name, known_names)) for name in sorted(args) if name not in (*known_names, *_IGNORED)]
    if any(meant for _, meant in wrong):  # what resembles nothing may be of another version of Ray
        raise TypeError("add_node() got unexpected arguments: " + ", ".join(name + meant for name, meant in wrong))
    known = {name: args[name] for name in _FIELDS if args.get(name) is not None}
    config = ray_settings.translated({**settings, **(args.get("_system_config") or {})}, os.environ)
    if args.get("object_spilling_directory"):
        config["spill_dir"] = os.fspath(args["object_spilling_directory"])
    if args.get("min_worker_port") and args.get("max_worker_port"):
        known.setdefault("port_range", f"{args['min_worker_port']}-{args['max_worker_port']}")
    return NodeOptions(**known, config=config, head=head, address=address)
