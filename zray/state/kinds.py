"""The table of the kinds of rows: their classes, the views of nodes that they are made of, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zray.state import common, rows
from zray.state.common import StateSchema
from zray.state.places import Places

Answers = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RowKind:
    """``views``: the views of a node to ask, each with its arguments.  ``build`` makes all rows, in order."""

    name: str
    row: type[StateSchema]
    identifier: str
    views: dict[str, dict[str, Any]]
    build: Callable[[Answers, Places], list[dict[str, Any]]]
    is_gettable: bool = True  # by its id


def _not_here(answers: Answers, places: Places) -> list[dict[str, Any]]:
    raise AssertionError("the client makes these rows, because it asks further questions")


_ENDED = {"ended": True}
_LIVE = {"live": True}
KINDS: dict[str, RowKind] = {kind.name: kind for kind in (
    RowKind("actors", common.ActorState, "actor_id", {"nodes": {}, "workers": _ENDED, "actors": _LIVE},
         lambda a, places: rows.actors(a["actors"]["actors"], a["actors"].get("live", []), places)),
    RowKind("tasks", common.TaskState, "task_id",
         {"nodes": {}, "workers": _ENDED, "actors": _LIVE, "tasks": _LIVE}, _not_here),
    RowKind("nodes", common.NodeState, "node_id", {"nodes": {}}, lambda a, places: rows.nodes(a["nodes"]["nodes"])),
    RowKind("workers", common.WorkerState, "worker_id", {"nodes": {}, "workers": _ENDED, "jobs": {}},
         lambda a, places: rows.workers(a["workers"]["workers"], a["jobs"]["jobs"], places)),
    RowKind("jobs", common.JobState, "job_id", {"nodes": {}, "jobs": {}},
         lambda a, places: rows.jobs(a["jobs"]["jobs"], places)),
    RowKind("placement_groups", common.PlacementGroupState, "placement_group_id", {"nodes": {}, "placement-groups": {}},
         lambda a, places: rows.groups(a["placement-groups"]["placement-groups"])),
    RowKind("objects", common.ObjectState, "object_id", {"nodes": {}, "objects": _LIVE},
         lambda a, places: rows.objects(a["objects"].get("live", []), places)),
    RowKind("runtime_envs", common.RuntimeEnvState, "node_id", {"nodes": {}, "runtime-envs": {}},
         lambda a, places: rows.runtime_envs(a["runtime-envs"]["runtime-envs"]), is_gettable=False),
    RowKind("cluster_events", common.ClusterEventState, "event_id", {"nodes": {}}, _not_here, is_gettable=False),
    RowKind("leases", common.LeaseState, "lease", {"nodes": {}, "leases": {}},
            lambda a, places: sorted(a["leases"]["leases"], key=lambda row: row["lease"]), is_gettable=False),
)}
