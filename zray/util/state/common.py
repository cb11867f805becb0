"""The classes of rows of the state API, at Ray's path."""

from zray.state.client import DEFAULT_LIMIT, DEFAULT_TIMEOUT_S as DEFAULT_RPC_TIMEOUT
from zray.state.common import (
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    StateSchema,
    TaskState,
    WorkerState,
    state_column,
)

__all__ = [
    "DEFAULT_LIMIT", "DEFAULT_RPC_TIMEOUT", "ActorState", "ClusterEventState", "JobState", "NodeState", "ObjectState",
    "PlacementGroupState", "RuntimeEnvState", "StateSchema", "TaskState", "WorkerState", "state_column",
]
