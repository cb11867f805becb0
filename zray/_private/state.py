"""``state``: tables of the cluster, at Ray's names."""

from __future__ import annotations

from typing import Any

from zray.api.calls import available_resources, cluster_resources, nodes, timeline
from zray.handles.connection import connected

__all__ = [
    "GlobalState", "actors", "available_resources", "available_resources_per_node", "cluster_resources", "jobs",
    "nodes", "state", "timeline", "total_resources_per_node",
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


def actors(actor_id: str | None = None) -> dict[str, Any]:
    """Rows of actors by id, or the row of one, {} where it is unknown."""
    args = {} if actor_id is None else {"actor": bytes.fromhex(actor_id)}
    rows = {row["actor_id"]: row for row in connected().query("actors", **args)["actors"]}
    return rows if actor_id is None else rows.get(actor_id, {})


class GlobalState:
    """The same as methods."""

    def node_table(self) -> list[dict[str, Any]]:
        return nodes()

    def job_table(self) -> list[dict[str, Any]]:
        return jobs()

    def actor_table(self, actor_id: str | None = None) -> dict[str, Any]:
        return actors(actor_id)

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
