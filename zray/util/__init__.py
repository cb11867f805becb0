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
    "Executor",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_instance_id",
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

# Modules that are reachable as attributes, and loaded when first used.
_LAZY = ("accelerators", "annotations", "check_serialize", "collective", "dask", "debugpy", "helpers", "iter", "joblib",
         "metrics", "multiprocessing", "pdb", "queue", "rpdb", "scheduling_strategies", "serialization", "state")


def deregister_serializer(cls: type) -> None:
    """Undo :func:`register_serializer` in this process."""
    from zray.values.custom_serializers import unregister_serializer

    unregister_serializer(cls)


def get_node_ip_address(address: str | None = None) -> str:
    """The address at which other machines reach this node: that of its row in ``zray.nodes()``.

    Before ``init`` that of this machine.  ``address``, which Ray dials to find it, is not needed.
    """
    from zray.base.addresses import machine_address
    from zray.handles.connection import current

    runtime = current()
    return runtime.node_info["NodeManagerAddress"] if runtime is not None else machine_address()


def get_node_instance_id() -> str:
    """The id of this machine in its cloud, '' (zray asks no cloud)."""
    return ""


def __getattr__(name: str):
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"zray.util.{name}")
    if name == "ray_debugpy":
        from zray.util import debugpy

        return debugpy
    if name == "Executor":
        from zray.util.executor import Executor

        return Executor
    from zray.base.ray_missing import no_attribute

    raise no_attribute(__name__, name)
