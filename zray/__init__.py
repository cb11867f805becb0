"""zray: Ray's programming model as a brokerless runtime in pure Python.  ``import zray as ray``."""

import atexit as _atexit
from typing import TYPE_CHECKING, Any

from zray import exceptions
from zray.api.calls import (
    available_resources,
    cancel,
    cluster_resources,
    explain,
    forget_job,
    get,
    get_actor,
    get_gpu_ids,
    init,
    is_initialized,
    kill,
    nodes,
    put,
    remote,
    resume,
    shutdown,
    timeline,
    wait,
)
from zray.base.ids import (
    ActorClassID,
    ActorID,
    FunctionID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)
from zray.base.version import __version__
from zray.core.runtime_context import get_runtime_context
from zray.handles.connection import LOCAL_MODE, SCRIPT_MODE, WORKER_MODE
from zray.handles.refs import DynamicObjectRefGenerator, MapRefs, ObjectRef, ObjectRefGenerator
from zray.handles.remote import method

if TYPE_CHECKING:
    import logging

    from zray.core.logging_config import LoggingConfig

    logger: logging.Logger

ObjectID = ObjectRef  # as in Ray
__commit__ = ""  # of the source; releases have none

# At import, not at init: handlers that a program registers between the two run before it and find the session.
_atexit.register(shutdown, _exiting_interpreter=True)

__all__ = [
    "ActorClassID",
    "ActorID",
    "ClientBuilder",
    "FunctionID",
    "DynamicObjectRefGenerator",
    "JobID",
    "LOCAL_MODE",
    "LoggingConfig",
    "MapRefs",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "SCRIPT_MODE",
    "TaskID",
    "UniqueID",
    "WORKER_MODE",
    "WorkerID",
    "__commit__",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "client",
    "cloudpickle",
    "cluster_resources",
    "dag",
    "exceptions",
    "experimental",
    "explain",
    "forget_job",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "job_submission",
    "kill",
    "logger",
    "method",
    "nodes",
    "put",
    "remote",
    "resume",
    "runtime_env",
    "shutdown",
    "timeline",
    "types",
    "util",
    "wait",
]

# Modules that `import zray` makes reachable, as in Ray, and loads when first used.
_LAZY = ("_common", "_private", "_raylet", "_version", "actor", "autoscaler", "client_builder", "cloudpickle", "dag",
         "experimental", "job_config", "job_submission", "remote_function", "runtime_context", "runtime_env", "types",
         "util")


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
    if name in ("ClientBuilder", "client"):
        from zray import client_builder

        return getattr(client_builder, name)
    from zray.base.ray_missing import no_attribute

    raise no_attribute(__name__, name)
