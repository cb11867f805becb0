"""``state``: tables of the cluster, at Ray's names."""

from __future__ import annotations

from typing import Any

from zray.api.calls import available_resources, cluster_resources, nodes, timeline
from zray.base.ids import ActorID, JobID
from zray.handles.connection import connected

__all__ = [
    "GlobalState", "actors", "available_resources", "available_resources_per_node", "cluster_resources",
    "current_node_id", "jobs", "node_ids", "nodes", "object_transfer_timeline", "state", "timeline",
    "total_resources_per_node", "workers",
]


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """Free resources of each live node, by node id, as far as this node knows."""
    return connected().query("available")["nodes"]


def total_resources_per_node() -> dict[str, dict[str, float]]:
    """All resources of each live node, by node id."""
    return {row["NodeID"]: row["Resources"] for row in nodes() if row["Alive"]}


def jobs() -> list[dict[str, Any]]:
    """Every job of the cluster."""
    return connected().query("jobs")["jobs"]


def actors(actor_id: str | None = None, job_id: JobID | None = None, actor_state_name: str | None = None
           ) -> dict[str, Any]:
    """Rows of actors by id, or the row of one, {} where it is unknown; of one job, and in one state such as "ALIVE"."""
    args = {} if actor_id is None else {"actor": bytes.fromhex(actor_id)}
    rows = {row["actor_id"]: row for row in connected().query("actors", **args)["actors"]}
    if actor_id is not None:
        return rows.get(actor_id, {})
    return {name: row for name, row in rows.items()
            if (job_id is None or ActorID.from_hex(name).job_id == job_id)
            and (actor_state_name is None or row["state"] == actor_state_name)}


def workers() -> dict[str, Any]:
    """Rows of the workers of this node, by worker id."""
    return {row["worker_id"]: row for row in connected().query("workers")["workers"]}


def node_ids() -> list[str]:
    """The names of the nodes as resources: ``node:<address>``."""
    return [name for row in nodes() if row["Alive"] for name in row["Resources"]
            if name.startswith("node:") and not name.startswith("node:__")]


def current_node_id() -> str:
    """This node's name as a resource."""
    return f"node:{connected().node_info['NodeManagerAddress']}"


def object_transfer_timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """[], or that in a file: zray records no transfers."""
    if filename is None:
        return []
    with open(filename, "w", encoding="utf-8") as file:
        file.write("[]")
    return None


class GlobalState:
    """The same as methods."""

    def node_table(self) -> list[dict[str, Any]]:
        return nodes()

    def job_table(self) -> list[dict[str, Any]]:
        return jobs()

    def actor_table(self, actor_id: str | None = None, job_id: JobID | None = None,
                    actor_state_name: str | None = None) -> dict[str, Any]:
        return actors(actor_id, job_id, actor_state_name)

    def workers(self) -> dict[str, Any]:
        return workers()

    def chrome_tracing_dump(self, filename: str | None = None) -> Any:
        return timeline(filename)

    def chrome_tracing_object_transfer_dump(self, filename: str | None = None) -> Any:
        return object_transfer_timeline(filename)

    def get_placement_group_by_name(self, placement_group_name: str, ray_namespace: str | None = None
                                    ) -> dict[str, Any] | None:
        """The row of a group, None where there is none."""
        groups = self.placement_group_table()
        return next((row for row in groups.values() if row["name"] == placement_group_name
                     and ray_namespace in (None, row.get("namespace", ray_namespace))), None)

    def get_system_config(self) -> dict[str, Any]:
        """The settings of this session."""
        return connected().config.as_dict()

    def disconnect(self) -> None:
        """Nothing: the tables are asked for at each call."""

    def placement_group_table(self, placement_group_id: Any = None) -> dict[str, Any]:
        from zray.util import placement_group_table
        from zray.util.placement_group import PlacementGroup

        return placement_group_table(None if placement_group_id is None else PlacementGroup(placement_group_id))

    def cluster_resources(self) -> dict[str, float]:
        return cluster_resources()

    def available_resources(self) -> dict[str, float]:
        return available_resources()

    def available_resources_per_node(self) -> dict[str, dict[str, float]]:
        return available_resources_per_node()

    def total_resources_per_node(self) -> dict[str, dict[str, float]]:
        return total_resources_per_node()


state = GlobalState()
