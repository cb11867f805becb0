"""zray: Ray's programming model as a brokerless runtime in pure Python.  ``import zray as ray``."""

import atexit as _atexit

from zray import exceptions
from zray.api import (
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
from zray.handles import method
from zray.ids import ActorID, JobID, NodeID, ObjectID, PlacementGroupID, TaskID, WorkerID
from zray.refs import MapRefs, ObjectRef, ObjectRefGenerator
from zray.runtime_context import get_runtime_context

__version__ = "0.1.0"

# At import, not at init: handlers that a program registers between the two run before it and find the session.
_atexit.register(shutdown)

__all__ = [
    "ActorID",
    "JobID",
    "MapRefs",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
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
    "method",
    "nodes",
    "put",
    "remote",
    "runtime_env",
    "shutdown",
    "timeline",
    "util",
    "wait",
]

# Modules that `import zray` makes reachable, as in Ray, and loads when first used.
_LAZY = ("actor", "cloudpickle", "experimental", "remote_function", "runtime_context", "runtime_env", "util")


def __getattr__(name: str):
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"zray.{name}")
    raise AttributeError(f"module 'zray' has no attribute {name!r}")
