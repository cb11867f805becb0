"""The rows of the state API: one class for each kind, with Ray's names of columns.

A column is shown without ``detail`` unless it says so; a filter may name it if it says so.  Times that end in _ms are
milliseconds since 1970, 0 for not yet.  Ids are hex digits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

TaskStatuses = (
    "NIL", "PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT", "PENDING_OBJ_STORE_MEM_AVAIL", "PENDING_ARGS_FETCH",
    "SUBMITTED_TO_WORKER", "PENDING_ACTOR_TASK_ARGS_FETCH", "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY", "RUNNING",
    "RUNNING_IN_RAY_GET", "RUNNING_IN_RAY_WAIT", "FINISHED", "FAILED", "GETTING_AND_PINNING_ARGS")


def state_column(*, filterable: bool, detail: bool = False, default: Any = None) -> Any:
    """A column of a row."""
    return field(default=default, metadata={"filterable": filterable, "detail": detail})


class StateSchema:
    """A row: attributes, which ``row["name"]`` reads too."""

    @classmethod
    def columns(cls) -> set[str]:
        return {each.name for each in fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def list_columns(cls, detail: bool = True) -> list[str]:
        """The columns in order."""
        return [each.name for each in fields(cls) if detail or not each.metadata["detail"]]  # type: ignore[arg-type]

    @classmethod
    def detail_columns(cls) -> set[str]:
        return set(cls.list_columns()) - set(cls.list_columns(detail=False))

    @classmethod
    def base_columns(cls) -> set[str]:
        return set(cls.list_columns(detail=False))

    @classmethod
    def filterable_columns(cls) -> set[str]:
        return {each.name for each in fields(cls) if each.metadata["filterable"]}  # type: ignore[arg-type]

    @classmethod
    def of(cls, row: dict[str, Any], detail: bool) -> Self:
        """A row from its columns; without ``detail`` the others stay None."""
        return cls(**{name: row.get(name) for name in cls.list_columns(detail)})

    def asdict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)

    def __getitem__(self, key: str) -> Any:
        if key not in self.columns():
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: str) -> bool:
        return key in self.columns()


@dataclass(kw_only=True)
class ActorRow(StateSchema):
    """An actor.  Its name is Ray's, ActorState, which a message of zray has too."""

    actor_id: str = state_column(filterable=True)
    class_name: str = state_column(filterable=True)
    state: str = state_column(filterable=True)
    job_id: str = state_column(filterable=True)
    name: str | None = state_column(filterable=True)
    node_id: str | None = state_column(filterable=True)
    pid: int | None = state_column(filterable=True)
    ray_namespace: str | None = state_column(filterable=True)
    serialized_runtime_env: str | None = state_column(filterable=False, detail=True)
    required_resources: dict | None = state_column(filterable=False, detail=True)
    death_cause: dict | None = state_column(filterable=False, detail=True)
    is_detached: bool | None = state_column(filterable=False, detail=True)
    placement_group_id: str | None = state_column(filterable=True, detail=True)
    repr_name: str | None = state_column(filterable=True, detail=True)
    num_restarts: int = state_column(filterable=False, detail=True)
    num_restarts_due_to_lineage_reconstruction: int = state_column(filterable=False, detail=True)
    num_restarts_due_to_node_preemption: int = state_column(filterable=False, detail=True)
    call_site: str | None = state_column(filterable=False, detail=True)
    label_selector: dict | None = state_column(filterable=False, detail=True)
    fallback_strategy: dict | None = state_column(filterable=False, detail=True)


ActorState = ActorRow
ActorRow.__name__ = ActorRow.__qualname__ = "ActorState"  # in its repr, and in pickles


@dataclass(kw_only=True)
class TaskState(StateSchema):
    """One attempt of a task.  ``count`` and ``pending_reason`` are zray's own: the items of a chunk of ``f.map``, and
    what the task waits for, in words."""

    task_id: str = state_column(filterable=True)
    attempt_number: int = state_column(filterable=True)
    name: str = state_column(filterable=True)
    state: str = state_column(filterable=True)
    job_id: str = state_column(filterable=True)
    actor_id: str | None = state_column(filterable=True)
    type: str = state_column(filterable=True)
    func_or_class_name: str = state_column(filterable=True)
    parent_task_id: str = state_column(filterable=True)
    node_id: str | None = state_column(filterable=True)
    worker_id: str | None = state_column(filterable=True)
    worker_pid: int | None = state_column(filterable=True)
    error_type: str | None = state_column(filterable=True)
    language: str | None = state_column(filterable=True, detail=True)
    required_resources: dict | None = state_column(filterable=False, detail=True)
    runtime_env_info: dict | None = state_column(filterable=False, detail=True)
    placement_group_id: str | None = state_column(filterable=True, detail=True)
    events: list[dict] | None = state_column(filterable=False, detail=True)
    profiling_data: dict | None = state_column(filterable=False, detail=True)
    creation_time_ms: int | None = state_column(filterable=False, detail=True)
    start_time_ms: int | None = state_column(filterable=False, detail=True)
    end_time_ms: int | None = state_column(filterable=False, detail=True)
    task_log_info: dict | None = state_column(filterable=False, detail=True)
    error_message: str | None = state_column(filterable=False, detail=True)
    is_debugger_paused: bool | None = state_column(filterable=True, detail=True)
    call_site: str | None = state_column(filterable=False, detail=True)
    label_selector: dict | None = state_column(filterable=False, detail=True)
    fallback_strategy: dict | None = state_column(filterable=False, detail=True)
    count: int | None = state_column(filterable=True, detail=True)
    pending_reason: str | None = state_column(filterable=False, detail=True)


@dataclass(kw_only=True)
class NodeState(StateSchema):
    """A node of the cluster."""

    node_id: str = state_column(filterable=True)
    node_ip: str = state_column(filterable=True)
    is_head_node: bool = state_column(filterable=True)
    state: str = state_column(filterable=True)
    state_message: str | None = state_column(filterable=False)
    node_name: str = state_column(filterable=True)
    resources_total: dict = state_column(filterable=False)
    labels: dict = state_column(filterable=False)
    start_time_ms: int | None = state_column(filterable=False, detail=True)
    end_time_ms: int | None = state_column(filterable=False, detail=True)


@dataclass(kw_only=True)
class WorkerState(StateSchema):
    """A worker process or a driver."""

    worker_id: str = state_column(filterable=True)
    is_alive: bool = state_column(filterable=True)
    worker_type: str = state_column(filterable=True)
    exit_type: str | None = state_column(filterable=True)
    node_id: str = state_column(filterable=True)
    ip: str = state_column(filterable=True)
    pid: int = state_column(filterable=True)
    exit_detail: str | None = state_column(filterable=False, detail=True)
    worker_launch_time_ms: int | None = state_column(filterable=False, detail=True)
    worker_launched_time_ms: int | None = state_column(filterable=False, detail=True)
    start_time_ms: int | None = state_column(filterable=False, detail=True)
    end_time_ms: int | None = state_column(filterable=False, detail=True)
    debugger_port: int | None = state_column(filterable=True, detail=True)
    num_paused_threads: int | None = state_column(filterable=True, detail=True)


@dataclass(kw_only=True)
class PlacementGroupState(StateSchema):
    """A placement group."""

    placement_group_id: str = state_column(filterable=True)
    name: str = state_column(filterable=True)
    creator_job_id: str = state_column(filterable=True)
    state: str = state_column(filterable=True)
    bundles: list[dict] | None = state_column(filterable=False, detail=True)
    is_detached: bool | None = state_column(filterable=True, detail=True)
    stats: dict | None = state_column(filterable=False, detail=True)


@dataclass(kw_only=True)
class ObjectState(StateSchema):
    """A reference that a process holds."""

    object_id: str = state_column(filterable=True)
    object_size: int = state_column(filterable=True)
    task_status: str = state_column(filterable=True)
    attempt_number: int = state_column(filterable=True)
    reference_type: str = state_column(filterable=True)
    call_site: str = state_column(filterable=True)
    type: str = state_column(filterable=True)
    pid: int = state_column(filterable=True)
    ip: str = state_column(filterable=True)


@dataclass(kw_only=True)
class JobState(StateSchema):
    """A job: one driver and what it started."""

    job_id: str = state_column(filterable=True)
    submission_id: str | None = state_column(filterable=True)
    job_name: str = state_column(filterable=True)
    entrypoint: str = state_column(filterable=False)
    type: str = state_column(filterable=True)
    status: str = state_column(filterable=True)
    message: str | None = state_column(filterable=False)
    error_type: str | None = state_column(filterable=False)
    driver_info: dict | None = state_column(filterable=False)
    start_time: int | None = state_column(filterable=False, detail=True)
    end_time: int | None = state_column(filterable=False, detail=True)
    metadata: dict | None = state_column(filterable=False, detail=True)
    runtime_env: dict | None = state_column(filterable=False, detail=True)
    driver_agent_http_address: str | None = state_column(filterable=False, detail=True)
    driver_node_id: str | None = state_column(filterable=False, detail=True)
    driver_exit_code: int | None = state_column(filterable=False, detail=True)
    resume: dict | None = state_column(filterable=False, detail=True)


@dataclass(kw_only=True)
class RuntimeEnvState(StateSchema):
    """A runtime environment on one node."""

    runtime_env: dict = state_column(filterable=False)
    success: bool = state_column(filterable=True)
    creation_time_ms: float | None = state_column(filterable=False)
    node_id: str = state_column(filterable=True)
    ref_cnt: int | None = state_column(filterable=False, detail=True)
    error: str | None = state_column(filterable=True, detail=True)


@dataclass(kw_only=True)
class ClusterEventState(StateSchema):
    """A line of the log of a node."""

    severity: str = state_column(filterable=True)
    time: str = state_column(filterable=False)
    source_type: str = state_column(filterable=True)
    message: str = state_column(filterable=False)
    event_id: str = state_column(filterable=True)
    custom_fields: dict | None = state_column(filterable=False, detail=True)


@dataclass(kw_only=True)
class LeaseState(StateSchema):
    """A lease of a worker, or the place of an actor; zray's own kind."""

    lease: int = state_column(filterable=True)
    job: int = state_column(filterable=True)
    name: str = state_column(filterable=True)
    owner: str = state_column(filterable=True)
    key: int = state_column(filterable=True)
    resources: dict = state_column(filterable=False)
    gpu_ids: list = state_column(filterable=False)
    blocked: bool = state_column(filterable=True)
    recalled: bool = state_column(filterable=True)
    pid: int = state_column(filterable=True)
    worker: str = state_column(filterable=True)
    actor: str = state_column(filterable=True)
