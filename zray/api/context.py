"""``init``: join a node, or start one where there is none; and the context object that it returns.

zray.node.running.launch starts and finds daemons, zray.core.joining.for_driver makes this process the driver of one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zray.base import env_vars
from zray.base.config import STORE_BYTES_MIN, refuse_slips, refuse_unknown
from zray.base.errors import did_you_mean
from zray.base.plain_numbers import plain
from zray.base.version import __version__
from zray.handles.connection import current
from zray.handles.options import TASK_OPTIONS, check_namespace

if TYPE_CHECKING:
    from zray.node.running.launch import NodeHandle

# Ray's keywords that have no counterpart: accepted, so that programs run, and ignored.
_IGNORED = frozenset((
    "include_dashboard", "dashboard_host", "dashboard_port", "_enable_object_reconstruction", "_plasma_directory",
    "_node_ip_address", "_driver_object_store_memory", "_redis_username", "_redis_password", "_temp_dir",
    "_metrics_export_port", "_tracing_startup_hook", "_node_name", "_cluster_id", "enable_resource_isolation",
    "system_reserved_cpu", "system_reserved_memory", "_cgroup_path", "job_config", "log_to_driver_enabled",
    "logging_format", "local_mode_warning", "allow_multiple", "storage",
))
_KNOWN = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory", "local_mode", "ignore_reinit_error",
          "configure_logging", "logging_level", "logging_config", "log_to_driver", "namespace", "runtime_env",
          "_system_config", "_memory")
_OF_A_NODE = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory", "_system_config")


class ClusterContext(Mapping[str, Any]):
    """The result of ``init``: ``address_info``, ``dashboard_url``, ``disconnect()``; a context
    manager that shuts down.

    Also a mapping of its address_info, as in Ray.
    """

    def __init__(self, address_info: dict[str, Any]):
        self.address_info = address_info
        self.dashboard_url: str = ""
        self.python_version = ".".join(map(str, sys.version_info[:3]))

    @property
    def ray_version(self) -> str:
        return __version__

    def disconnect(self) -> None:
        """The same as ``zray.shutdown()``."""
        from zray.api.calls import shutdown

        shutdown()

    def __enter__(self) -> ClusterContext:
        return self

    def __exit__(self, *exc: object) -> None:
        self.disconnect()

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Any:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __repr__(self) -> str:
        return f"RayContext(session={self.get('session_dir')!r}, node_id={self.get('node_id')!r})"

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in self.items())
        return f"<table>{rows}</table>"


def init(address: str | None = None, **options: Any) -> ClusterContext:
    """See :func:`zray.api.calls.init`."""
    options = _with_runtime_env({name: plain(value) for name, value in options.items()})
    _check(address, options)
    if current() is not None:
        if options.get("ignore_reinit_error"):
            logging.getLogger("zray").info("Calling ray.init() again after it has already been called.")
            return _context(current())
        raise RuntimeError("Maybe you called ray.init twice by accident? This error can be suppressed by passing in "
                           "'ignore_reinit_error=True' or by calling 'ray.shutdown()' prior to 'ray.init()'.")
    if options.get("configure_logging", True) and options.get("logging_level") is not None:
        logging.getLogger("zray").setLevel(options["logging_level"])
    if options.get("logging_config") is not None:
        options["logging_config"].apply()
    if options.get("local_mode"):
        return _init_local(options)
    return _init_cluster(address, options)


def _check(address: str | None, options: dict[str, Any]) -> None:
    unknown = sorted(name for name in options if name not in (*_KNOWN, *_IGNORED) and (
        not name.startswith("_") or did_you_mean(name, _KNOWN)))  # Ray's private ones come and go
    if unknown:
        known = ("address", *_KNOWN)
        raise RuntimeError("Unknown keyword argument(s): "
                           + ", ".join(f"{name}{did_you_mean(name, known)}" for name in unknown))
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address must be a str or None, not {type(address).__name__}")
    for name in ("num_cpus", "num_gpus", "resources", "runtime_env"):
        TASK_OPTIONS[name].validate(name, options.get(name))
    check_namespace(options.get("namespace"))
    for name in ("labels", "_system_config"):
        value = options.get(name)
        if value is not None and not isinstance(value, dict):
            raise TypeError(f"The {name} must be a dict, not {value!r}")
    logs = options.get("logging_config")
    if logs is not None and not callable(getattr(logs, "to_map", None)):
        raise TypeError(f"logging_config takes a LoggingConfig, not {logs!r}")
    refuse_unknown(options.get("_system_config") or ())
    refuse_slips(os.environ)
    for name, least in (("object_store_memory", STORE_BYTES_MIN), ("_memory", 0)):
        nbytes = options.get(name)  # may be a float: 0.3 * total
        if nbytes is None:
            continue
        if isinstance(nbytes, (bool, str, bytes)) or not hasattr(nbytes, "__float__"):
            raise TypeError(f"The {name} must be a number of bytes, not {nbytes!r}")
        if not least <= float(nbytes) < math.inf:
            raise ValueError(f"{name} takes at least {least} bytes, not {nbytes}")


def _environment(name: str) -> str | None:
    """``ZRAY_X``, or Ray's ``RAY_X``."""
    return os.environ.get(f"ZRAY_{name}") or os.environ.get(f"RAY_{name}")


def _with_runtime_env(options: dict[str, Any]) -> dict[str, Any]:
    """Programs that start drivers set RAY_RUNTIME_ENV: the runtime environment under the one that init gets."""
    text = _environment("RUNTIME_ENV")
    if not text:
        return options
    try:
        given = json.loads(text)
        TASK_OPTIONS["runtime_env"].validate("runtime_env", given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the environment variable RAY_RUNTIME_ENV is no runtime environment, in JSON: {error}"
                         ) from None
    own = options.get("runtime_env")
    if own is not None:
        TASK_OPTIONS["runtime_env"].validate("runtime_env", own)
    variables = env_vars.merged(given.get("env_vars") or {}, (own or {}).get("env_vars") or {})
    return {**options, "runtime_env": {**given, **(own or {}), "env_vars": variables}}


def _init_local(options: dict[str, Any]) -> ClusterContext:
    from zray.api.local_mode import LocalRuntime

    given = ("num_cpus", "num_gpus", "resources", "namespace", "runtime_env")
    return _context(LocalRuntime(*(options.get(name) for name in given)))


def _init_cluster(address: str | None, options: dict[str, Any]) -> ClusterContext:
    from zray.node.running import launch

    address = address or _environment("ADDRESS")
    own = address is None or address == "local"
    if own:
        given = {name: options[name] for name in _OF_A_NODE if options.get(name) is not None}
        if options.get("_memory") is not None:
            given["memory"] = float(options["_memory"])
        given["config"] = given.pop("_system_config", {})
        starting = launch.spawn_node(launch.NodeOptions(**given))
        from zray.core.joining import for_driver  # imports while the daemon starts

        node = starting.wait()
    else:
        for name in _OF_A_NODE:
            if options.get(name):
                raise ValueError(f"When connecting to an existing cluster, {name} must not be provided.")
        node = launch.find_session(address or "auto")
        from zray.core.joining import for_driver
    config = job_config(options)
    try:
        runtime = for_driver(session_dir=node.session_dir, node=node.node, node_endpoint=node.endpoint, config=config,
                             overrides=options.get("_system_config") or {})
    except BaseException:
        if own:
            node.stop()
        raise
    if config["log_to_driver"]:
        from zray.api.driver_log import Screen

        runtime.driver_log = Screen().show
    global _own_node
    _own_node = node if own else None
    return _context(runtime)


_own_node: NodeHandle | None = None  # started by init, ended by shutdown


def shutdown() -> None:
    """See :func:`zray.api.calls.shutdown`."""
    global _own_node
    runtime = current()
    node, _own_node = _own_node, None
    try:
        if runtime is not None and runtime.kind == "driver":
            runtime.shutdown()
    finally:
        if node is not None:
            node.stop()


def job_config(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that workers of this driver need: import paths, and its environment (RegisterDriver.config)."""
    from zray.node.running.join_secret import hide

    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    env = (options.get("runtime_env") or {}).get("env_vars") or {}
    log = options.get("log_to_driver")
    return {
        "sys_path": [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path],
        "cwd": os.getcwd(),
        "script": os.path.abspath(script) if script else "",
        "script_dir": os.path.dirname(os.path.abspath(script)) if script else "",
        "env": dict(env),
        "threads": env_vars.thread_names(os.environ),
        "namespace": options.get("namespace") or _environment("NAMESPACE") or "",
        "name": os.path.basename(script) if script else "interactive",
        "log_to_driver": (_environment("LOG_TO_DRIVER") or "1") not in ("0", "false") if log is None else bool(log),
        "logging": logs.to_map() if (logs := options.get("logging_config")) is not None else {},
        "entrypoint": hide(" ".join(sys.argv)) or "interactive",
    }


def _context(runtime: Any) -> ClusterContext:
    session_dir = os.path.dirname(runtime.endpoint.removeprefix("ipc://"))
    return ClusterContext({
        "node_ip_address": "127.0.0.1", "session_dir": session_dir, "address": session_dir, "gcs_address": session_dir,
        "node_id": runtime.node_info.get("NodeID") or runtime.node.hex(), "webui_url": ""})
