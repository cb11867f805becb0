"""Small tools on top of tasks and actors, at Ray's names."""

from zray.util.actor_pool import ActorPool
from zray.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
from zray.util.listing import list_named_actors
from zray.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from zray.util.serializability import inspect_serializability
from zray.util.streams import as_completed, map_unordered
from zray.values.custom_serializers import register_serializer

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
    "scheduling_strategies",
]


def deregister_serializer(cls: type) -> None:
    """Undo :func:`register_serializer` in this process."""
    from zray.values.custom_serializers import unregister_serializer

    unregister_serializer(cls)


def get_node_ip_address() -> str:
    """The address of this node."""
    return "127.0.0.1"


def __getattr__(name: str):
    if name in ("accelerators", "annotations", "check_serialize", "metrics", "queue", "scheduling_strategies", "state"):
        import importlib

        return importlib.import_module(f"zray.util.{name}")
    raise AttributeError(f"module 'zray.util' has no attribute {name!r}")
