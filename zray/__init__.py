"""zray: Ray's programming model as a brokerless runtime in pure Python.  ``import zray as ray``."""

import atexit as _atexit
from typing import TYPE_CHECKING, Any

from zray import exceptions
from zray.api.calls import (
    available_resources,
    cancel,
    cluster_resources,
    explain,
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
    timeline,
    wait,
)
from zray.base.ids import ActorID, JobID, NodeID, ObjectID, PlacementGroupID, TaskID, UniqueID, WorkerID
from zray.base.version import __version__
from zray.core.runtime_context import get_runtime_context
from zray.handles.refs import DynamicObjectRefGenerator, MapRefs, ObjectRef, ObjectRefGenerator
from zray.handles.remote import method

if TYPE_CHECKING:
    import logging

    from zray.core.logging_config import LoggingConfig

    logger: logging.Logger

# At import, not at init: handlers that a program registers between the two run before it and find the session.
_atexit.register(shutdown)

__all__ = [
    "ActorID",
    "DynamicObjectRefGenerator",
    "JobID",
    "LoggingConfig",
    "MapRefs",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "cloudpickle",
    "cluster_resources",
    "exceptions",
    "experimental",
    "explain",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "logger",
    "method",
    "nodes",
    "put",
    "remote",
    "runtime_env",
    "shutdown",
    "timeline",
    "types",
    "util",
    "wait",
]

# Modules that `import zray` makes reachable, as in Ray, and loads when first used.
_LAZY = ("_private", "actor", "cloudpickle", "experimental", "remote_function", "runtime_context", "runtime_env",
         "types", "util")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"zray.{name}")
    if name == "logger":
        import logging

        return logging.getLogger("zray")
    if name == "LoggingConfig":
        from zray.core.logging_config import LoggingConfig

        return LoggingConfig
    raise AttributeError(f"module 'zray' has no attribute {name!r}")
