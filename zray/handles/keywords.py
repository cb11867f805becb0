"""The keywords of ``@remote``, ``@method`` and ``.options``, for type checkers and editors alone.

``zray.handles.options`` checks the same names when a program runs.  ``num_returns`` is not here: it changes the type
of what ``.remote`` returns, so the signatures name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from datetime import timedelta
    from os import PathLike

NumReturns = int | Literal["dynamic", "streaming"] | None


class CommonKeywords(TypedDict, total=False):
    """Of tasks and actors: what they need, and where they run."""

    accelerator_type: str | None
    fallback_strategy: Sequence[Mapping[str, Any]] | None
    label_selector: Mapping[str, str] | None
    memory: float | None
    name: str | None
    num_cpus: float | None
    num_gpus: float | None
    placement_group: Any
    placement_group_bundle_index: int
    placement_group_capture_child_tasks: bool | None
    resources: Mapping[str, float] | None
    runtime_env: Mapping[str, Any] | None
    scheduling_strategy: Any
    enable_task_events: bool
    _metadata: dict[str, Any] | None
    _labels: Mapping[str, str] | None


class TaskKeywords(CommonKeywords, total=False):
    """Of remote functions."""

    retry_exceptions: bool | Sequence[type[BaseException]]
    _generator_backpressure_num_objects: int | None
    durability: int | None
    max_calls: int | None
    max_retries: int | None


class ActorKeywords(CommonKeywords, total=False):
    """Of classes of actors."""

    allow_out_of_order_execution: bool | None
    checkpoint_dir: str | PathLike[str] | None
    checkpoint_interval: int | float | str | timedelta | None
    concurrency_groups: Mapping[str, int] | None
    get_if_exists: bool
    lifetime: Literal["detached", "non_detached"] | None
    max_concurrency: int | None
    max_pending_calls: int | None
    max_restarts: int | None
    max_task_retries: int | None
    namespace: str | None
    object_store_memory: float | None


class MethodKeywords(TypedDict, total=False):
    """Of methods of actors."""

    retry_exceptions: bool | Sequence[type[BaseException]]
    _generator_backpressure_num_objects: int | None
    concurrency_group: str | None
    enable_task_events: bool
    max_task_retries: int | None
    name: str | None


class RemoteKeywords(TaskKeywords, ActorKeywords, total=False):
    """Of ``@remote``, which does not know yet whether it decorates a function or a class."""
