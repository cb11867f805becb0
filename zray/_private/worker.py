"""``global_worker``: this process in the form that Ray's programs expect.  All values are looked up at each access."""

from __future__ import annotations

from typing import Any

from zray.api.calls import (
    cancel,
    get,
    get_actor,
    get_gpu_ids,
    init,
    is_initialized,
    kill,
    nodes,
    put,
    remote,
    shutdown,
    wait,
)
from zray.base.ids import ActorID, JobID, NodeID, TaskID, UniqueID
from zray.core.runtime_context import RuntimeContext
from zray.handles.connection import current

__all__ = [
    "LOCAL_MODE", "SCRIPT_MODE", "WORKER_MODE", "Worker", "cancel", "get", "get_actor", "get_gpu_ids", "global_worker",
    "init", "is_initialized", "kill", "nodes", "put", "remote", "shutdown", "wait",
]

SCRIPT_MODE, WORKER_MODE, LOCAL_MODE = 0, 1, 2


class Node:
    """The node of this process, as the ``node`` of a Worker."""

    def __init__(self, context: RuntimeContext, info: dict[str, Any]):
        self.unique_id = context.get_node_id()
        self.node_ip_address: str = info.get("NodeManagerAddress") or "127.0.0.1"
        self.session_name = context.get_session_name()
        self.address_info = {
            "node_id": self.unique_id, "node_ip_address": self.node_ip_address, "session_dir": context.gcs_address,
            "address": context.gcs_address, "gcs_address": context.gcs_address}

    def get_session_dir_path(self) -> str:
        return self.address_info["session_dir"]


class Worker:
    """Without a session ids are nil and the rest is None or ''."""

    @property
    def connected(self) -> bool:
        return current() is not None

    @property
    def mode(self) -> int | None:
        """SCRIPT_MODE in a driver, WORKER_MODE in a worker, LOCAL_MODE; None without a session."""
        runtime = current()
        if runtime is None:
            return None
        if not hasattr(runtime, "loop"):
            return LOCAL_MODE
        return WORKER_MODE if runtime.kind == "worker" else SCRIPT_MODE

    @property
    def worker_id(self) -> bytes:
        context = self._context()
        return bytes.fromhex(context.get_worker_id()) if context else UniqueID.nil().binary()

    @property
    def current_job_id(self) -> JobID:
        context = self._context()
        return JobID.from_hex(context.get_job_id()) if context else JobID.nil()

    @property
    def current_node_id(self) -> NodeID:
        context = self._context()
        return NodeID.from_hex(context.get_node_id()) if context else NodeID.nil()

    @property
    def current_task_id(self) -> TaskID:
        context = self._context()
        task = context.get_task_id() if context else None
        return TaskID.from_hex(task) if task else TaskID.nil()

    @property
    def actor_id(self) -> ActorID:
        context = self._context()
        actor = context.get_actor_id() if context else None
        return ActorID.from_hex(actor) if actor else ActorID.nil()

    @property
    def namespace(self) -> str:
        context = self._context()
        return context.namespace if context else ""

    @property
    def node(self) -> Node | None:
        context = self._context()
        return Node(context, current().node_info) if context else None

    @property
    def node_ip_address(self) -> str | None:
        node = self.node
        return node.node_ip_address if node else None

    @property
    def runtime_env(self) -> dict[str, Any]:
        context = self._context()
        return context.runtime_env if context else {}

    def check_connected(self) -> None:
        """RuntimeError without a session."""
        if not self.connected:
            raise RuntimeError("Ray has not been started yet. You can start Ray with 'ray.init()'.")

    def _context(self) -> RuntimeContext | None:
        runtime = current()
        return None if runtime is None else RuntimeContext(runtime)


global_worker = Worker()
