"""``global_worker``: this process in the form that Ray's programs expect.  All values are looked up at each access."""

from __future__ import annotations

import os
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
from zray.api.context import ClusterContext
from zray.base.ids import ActorID, JobID, NodeID, PlacementGroupID, TaskID, UniqueID
from zray.core.runtime_context import RuntimeContext
from zray.handles.connection import LOCAL_MODE, SCRIPT_MODE, WORKER_MODE, current
from zray.handles.refs import ObjectRef
from zray.node.running.dashboard import of_session

RayContext = BaseContext = ClusterContext

__all__ = [
    "BaseContext", "LOCAL_MODE", "RayContext", "SCRIPT_MODE", "WORKER_MODE", "Worker", "get_dashboard_url",
    "get_resource_ids", "cancel", "get", "get_actor", "get_gpu_ids", "global_worker",
    "init", "is_initialized", "kill", "nodes", "put", "remote", "shutdown", "wait",
]

class Node:
    """The node of this process, as the ``node`` of a Worker."""

    def __init__(self, context: RuntimeContext, info: dict[str, Any]):
        self.unique_id = self.node_id = context.get_node_id()
        self.node_labels = context.get_node_labels()
        self.address = self.gcs_address = context.gcs_address
        self.node_ip_address: str = info["NodeManagerAddress"]
        self.session_name = context.get_session_name()
        self.address_info = {
            "node_id": self.unique_id, "node_ip_address": self.node_ip_address, "session_dir": context.gcs_address,
            "address": context.gcs_address, "gcs_address": context.gcs_address}

    def get_session_dir_path(self) -> str:
        return self.address_info["session_dir"]

    def get_temp_dir_path(self) -> str:
        return os.path.dirname(self.get_session_dir_path())

    def get_logs_dir_path(self) -> str:
        return os.path.join(self.get_session_dir_path(), "logs")


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

    @property
    def actor_name(self) -> str | None:
        context = self._context()
        return context.get_actor_name() if context else None

    @property
    def current_task_name(self) -> str | None:
        context = self._context()
        return context.get_task_name() if context else None

    @property
    def current_task_function_name(self) -> str | None:
        context = self._context()
        return context.get_task_function_name() if context else None

    @property
    def current_node_labels(self) -> dict[str, str]:
        context = self._context()
        return context.get_node_labels() if context else {}

    @property
    def current_temp_dir(self) -> str:
        context = self._context()
        return context.get_temp_dir() if context else ""

    @property
    def placement_group_id(self) -> PlacementGroupID:
        context = self._context()
        group = context.get_placement_group_id() if context else None
        return PlacementGroupID.from_hex(group) if group else PlacementGroupID.nil()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        context = self._context()
        return context.should_capture_child_tasks_in_placement_group if context else False

    @property
    def is_canceled(self) -> bool:
        context = self._context()
        return context.is_canceled() if context else False

    def get_accelerator_ids_for_accelerator_resource(self, resource_name: str, resource_regex: str) -> list[str]:
        """The ids of these devices that this task or actor was granted."""
        context = self._context()
        return context.get_accelerator_ids().get(resource_name, []) if context else []

    def put_object(self, value: Any, owner_address: Any = None, _is_experimental_channel: bool = False,
                   _tensor_transport: str = "object_store") -> ObjectRef:
        """``zray.put``."""
        return put(value)

    def get_objects(self, object_refs: list[ObjectRef], timeout: float | None = None, return_exceptions: bool = False,
                    skip_deserialization: bool = False, use_object_store: bool = False) -> tuple[list[Any], bytes]:
        """The values, and the id of a breakpoint, which is always b""."""
        return get(object_refs, timeout=timeout), b""

    def check_connected(self) -> None:
        """RuntimeError without a session."""
        if not self.connected:
            raise RuntimeError("Ray has not been started yet. You can start Ray with 'ray.init()'.")

    def _context(self) -> RuntimeContext | None:
        runtime = current()
        return None if runtime is None else RuntimeContext(runtime)


def get_dashboard_url() -> str:
    """Where the dashboard of the session is, host:port; '' without one."""
    runtime = current()
    session_dir = os.path.dirname(runtime.endpoint.removeprefix("ipc://")) if runtime is not None else ""
    page = of_session(session_dir) if session_dir else None
    return page.address if page is not None else ""


def get_resource_ids() -> dict[str, list[str]]:
    """The devices of this task or actor, by kind."""
    context = global_worker._context()
    return context.get_resource_ids() if context else {}


global_worker = Worker()


def __getattr__(name: str) -> Any:
    if name == "_global_node":  # of the session that runs now
        return global_worker.node
    raise AttributeError(f"module 'zray._private.worker' has no attribute {name!r}")
