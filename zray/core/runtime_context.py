"""Where am I: the job, node, worker, task and actor of the code that asks."""

from __future__ import annotations

import inspect
import os
import warnings
from typing import Any

from zray.base.ids import ActorID, JobID, NodeID, PlacementGroupID, TaskID, WorkerID
from zray.base.plain_text import module_of
from zray.handles.connection import connected
from zray.sched.resources import UNIT

# The kinds that Ray knows.  Nodes of zray find and hand out GPUs; the others are resources that a user declares.
ACCELERATORS = ("GPU", "TPU", "NPU", "HPU", "neuron_cores", "RBLN", "FURIOSA", "MBLT", "TTNPU")

__all__ = ["RuntimeContext", "get_runtime_context"]

DRIVER_TASK = b"\xff" * 20  # then the job: the id of a driver's own task, as in Ray


class RuntimeContext:
    """A view of the running code's place; ids are hex strings, None where there is no such thing."""

    __slots__ = ("_runtime",)

    def __init__(self, runtime: Any):
        self._runtime = runtime

    def _of_task(self, name: str, default: Any = None) -> Any:
        return getattr(self._runtime.context, name, default)

    def get_job_id(self) -> str:
        """The job of this driver, task or actor, in hex digits."""
        return JobID.from_int(self._runtime.job).hex()

    def get_node_id(self) -> str:
        """The node that this process runs on, in hex digits."""
        return self._runtime.node_info.get("NodeID") or _padded(NodeID, self._runtime.node).hex()

    def get_worker_id(self) -> str:
        """This process, in hex digits."""
        process = getattr(self._runtime, "process", None)  # local mode has none
        return (WorkerID(process.worker_id) if process else _padded(WorkerID, self._runtime.incarnation)).hex()

    def get_task_id(self) -> str | None:
        """The task that this thread runs; None in the driver."""
        task = self._of_task("task")
        return TaskID(task).hex() if task else None

    def get_task_name(self) -> str | None:
        """The name of the task: "f", "Class.method", or that of ``options(name=)``; None in the driver."""
        name = self._of_task("task_name")
        if not self.get_task_id() or name is None:
            return None
        executor = getattr(self._runtime, "executor", None)
        return name.removeprefix(executor.events.scope) if executor is not None else name

    def get_task_function_name(self) -> str | None:
        """The function of this task with its module, ``module.f`` or ``module.Class.method``; None in the driver."""
        task = self.get_task_id()
        if task is None:
            return None
        executor = getattr(self._runtime, "executor", None)  # none in local mode
        function = executor.function_of(self._of_task("task")) if executor else self._of_task("function")[1]
        return self.get_task_name() if function is None else _full_name(function)

    def get_attempt_number(self) -> int:
        """How often this task was tried before."""
        return self._of_task("attempt", 0) or 0

    def get_actor_id(self) -> str | None:
        """The actor that this thread runs, in hex digits; None outside of actors."""
        actor = self._of_task("actor")
        return ActorID(actor).hex() if actor else None

    def get_actor_name(self) -> str | None:
        """The actor's name, '' for an actor without one, None outside actors."""
        return (self._of_task("actor_name") or "") if self.get_actor_id() else None

    def get_placement_group_id(self) -> str | None:
        """The placement group that this task or actor runs in; None outside of groups."""
        about = (self._of_task("assigned") or {}).get("group")
        return about[0].hex() if about else None

    def get_assigned_resources(self) -> dict[str, float]:
        """What this task or actor was granted."""
        assigned = (self._of_task("assigned") or {}).get("resources") or {}
        return {name: value / UNIT if isinstance(value, int) else value for name, value in assigned.items()}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The ids of the devices that this task or actor was granted, by kind; [] for kinds that it has none of."""
        gpus = (self._of_task("assigned") or {}).get("gpu_ids") or []
        return {**{kind: [] for kind in ACCELERATORS}, "GPU": [str(gpu) for gpu in gpus]}

    def get_runtime_env_string(self) -> str:
        """The runtime environment as JSON."""
        import json

        return json.dumps(self.runtime_env)

    def get_session_name(self) -> str:
        """The name of the session: that of its directory."""
        return os.path.basename(self.gcs_address)

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The runtime environment of this driver, task or actor."""
        return dict(self._runtime.env)

    @property
    def namespace(self) -> str:
        """The namespace of named actors that belong to this job."""
        return getattr(self._runtime, "namespace", "") or ""

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor's process replaces one that died."""
        return bool(self._of_task("life", 0))

    @property
    def current_actor(self) -> Any:
        """A handle of the actor that asks."""
        actor = self._of_task("actor")
        if not actor:
            raise RuntimeError("This method is only available in an actor.")
        from zray.handles.remote import ActorHandle

        return ActorHandle._restore(actor, self._of_task("meta"), None)

    @property
    def gcs_address(self) -> str:
        """Where others can join: the session directory."""
        return os.path.dirname(self._runtime.endpoint.removeprefix("ipc://"))

    @property
    def job_id(self) -> JobID:
        """Deprecated, as in Ray: use ``get_job_id()``."""
        _deprecated("get_job_id")
        return JobID.from_int(self._runtime.job)

    @property
    def node_id(self) -> NodeID:
        """Deprecated, as in Ray: use ``get_node_id()``."""
        _deprecated("get_node_id")
        return NodeID.from_hex(self.get_node_id())

    @property
    def worker_mode(self) -> str:
        """"driver" or "worker"."""
        return self._runtime.kind

    @property
    def task_id(self) -> TaskID:
        """Deprecated, as in Ray: use ``get_task_id()``.  In the driver the id of its own task."""
        _deprecated("get_task_id")
        task = self.get_task_id()
        return TaskID.from_hex(task) if task else TaskID(DRIVER_TASK + JobID.from_int(self._runtime.job).binary())

    @property
    def actor_id(self) -> ActorID | None:
        """Deprecated, as in Ray: use ``get_actor_id()``."""
        _deprecated("get_actor_id")
        actor = self.get_actor_id()
        return ActorID.from_hex(actor) if actor else None

    @property
    def current_placement_group_id(self) -> PlacementGroupID:
        """Deprecated, as in Ray: use ``get_placement_group_id()``.  A nil id outside of groups."""
        _deprecated("get_placement_group_id")
        group = self.get_placement_group_id()
        return PlacementGroupID.from_hex(group) if group else PlacementGroupID.nil()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what this task or actor submits goes into its placement group."""
        about = (self._of_task("assigned") or {}).get("group")
        return bool(about and about[2])

    def get_node_labels(self) -> dict[str, str]:
        """The labels of this node."""
        return dict(self._runtime.node_info.get("Labels") or {})

    def get_resource_ids(self) -> dict[str, list[str]]:
        """As :meth:`get_accelerator_ids`."""
        return self.get_accelerator_ids()

    def get_temp_dir(self) -> str:
        """Where this session keeps its files."""
        return self.gcs_address

    def is_canceled(self) -> bool:
        """Whether this call was cancelled: for calls that cannot be interrupted (sync and threaded actors)."""
        executor = getattr(self._runtime, "executor", None)
        context = self._runtime.context
        return executor is not None and (context.task, context.attempt) in executor.cancels

    def get(self) -> dict[str, Any]:
        """Ids as objects: ``job_id node_id``, the ``namespace``, ``task_id`` in tasks, ``actor_id`` in actors.

        Deprecated, as in Ray: use the ``get_..._id()`` methods.
        """
        _deprecated("get_xxx_id", "methods to get relevant ids ")
        found: dict[str, Any] = {"job_id": JobID.from_int(self._runtime.job),
                                 "node_id": NodeID.from_hex(self.get_node_id()), "namespace": self.namespace}
        if task := self.get_task_id():
            found["task_id"] = TaskID.from_hex(task)
        if actor := self.get_actor_id():
            found["actor_id"] = ActorID.from_hex(actor)
        return found

    def __repr__(self) -> str:
        found = {"job_id": self.get_job_id(), "node_id": self.get_node_id(), "namespace": self.namespace,
                 "task_id": self.get_task_id(), "actor_id": self.get_actor_id()}
        return f"RuntimeContext({', '.join(f'{name}={value}' for name, value in found.items() if value)})"


def _deprecated(better: str, what: str = "") -> None:
    warnings.warn(f"This property is deprecated by Ray. Use {better}() {what}instead", DeprecationWarning, stacklevel=3)


def _full_name(function: Any) -> str:
    """``module.f`` or ``module.Class.method``; the name of a script's module is that of its file.

    As in Ray, the class of a coroutine method has its qualified name.
    """
    plain = inspect.unwrap(getattr(function, "__func__", function))
    owner = getattr(function, "__self__", None)
    cls = owner if isinstance(owner, type) else type(owner)
    module = module_of(plain) if owner is None or cls.__module__ == "__main__" else cls.__module__
    name = getattr(plain, "__name__", type(plain).__name__)
    if owner is None:
        return f"{module}.{name}"
    qualified = getattr(plain, "__qualname__", "")  # a class that travelled by value has lost its own
    if (inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)) and qualified.endswith(
            f"{cls.__name__}.{name}"):
        return f"{module}.{qualified}"
    return f"{module}.{cls.__name__}.{name}"


def _padded(cls: Any, raw: bytes) -> Any:
    """An id class's width from an incarnation, which is its first 8 bytes."""
    return cls(raw[: cls.SIZE].ljust(cls.SIZE, b"\0"))


def get_runtime_context() -> RuntimeContext:
    """The RuntimeContext of this process and thread."""
    return RuntimeContext(connected())
