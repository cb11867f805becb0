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

from zray.api import job_config as jobs
from zray.base import env_vars, ray_names, ray_settings
from zray.base.config import STORE_BYTES_MIN, Config, refuse_slips
from zray.base.errors import did_you_mean
from zray.base.hooks import check_hook
from zray.base.plain_numbers import plain
from zray.base.version import __version__
from zray.environments import spec
from zray.handles.connection import current
from zray.handles.options import TASK_OPTIONS, check_namespace

if TYPE_CHECKING:
    import socket

    from zray.node.running.dashboard import DashboardProcess
    from zray.node.running.launch import NodeHandle
    from zray.recording.files import RecordLimits

# Ray's keywords that have no counterpart: accepted, so that programs run, and ignored.
_IGNORED = frozenset((
    "_enable_object_reconstruction", "_plasma_directory",
    "_driver_object_store_memory", "_redis_username", "_redis_password", "_temp_dir",
    "_metrics_export_port", "_node_name", "_cluster_id", "enable_resource_isolation",
    "system_reserved_cpu", "system_reserved_memory", "_cgroup_path", "cgroup_path", "log_to_driver_enabled",
    "logging_format", "local_mode_warning", "allow_multiple", "storage", "proxy_server_url", "_skip_env_hook",
))
_KNOWN = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory", "local_mode", "ignore_reinit_error",
          "configure_logging", "logging_level", "logging_config", "log_to_driver", "namespace", "runtime_env",
          "_system_config", "_memory", "_node_ip_address", "_object_spilling_directory", "job_config", "job_name",
          "resume", "resume_dir", "include_dashboard", "dashboard_host",
          "dashboard_port", "_tracing_startup_hook")
_OF_A_NAMED_JOB = ("job_name", "resume", "resume_dir")
# Of the driver: they count for its tasks (zray.worker.debugging).
DEBUG_VARIABLES = ("ZRAY_DEBUG", "RAY_DEBUG", "ZRAY_DEBUG_POST_MORTEM", "RAY_DEBUG_POST_MORTEM")
DASHBOARD_END_S = 5.0  # it ends within a second of its node
RECORD_SETTINGS = ("record", "record_value_bytes_max", "record_bytes_max")
_OF_A_NODE = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")


class ClusterContext(Mapping[str, Any]):
    """The result of ``init``: ``address_info``, ``dashboard_url``, ``disconnect()``; a context
    manager that shuts down.

    Also a mapping of its address_info, as in Ray.
    """

    def __init__(self, address_info: dict[str, Any]):
        self.address_info = address_info
        self.dashboard_url: str = address_info.get("webui_url", "")  # host:port, as in Ray; "" where there is none
        self.python_version = ".".join(map(str, sys.version_info[:3]))

    @property
    def ray_version(self) -> str:
        """Of Ray, in a program for which ``ray`` is zray."""
        return ray_names.installed_version() or __version__

    @property
    def ray_commit(self) -> str:
        return ""

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
    address = address or None  # {} too
    options = _with_runtime_env(jobs.merged({name: plain(value) for name, value in options.items()}))
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
    ray_settings.translated(options.get("_system_config"), {})
    check_hook(options.get("_tracing_startup_hook") or "")
    where = options.get("_node_ip_address")
    if where is not None and not isinstance(where, str):
        raise TypeError(f"_node_ip_address must be a str, not {where!r}")
    if any(options.get(name) is not None for name in _OF_A_NAMED_JOB):
        from zray.api import resume as kept

        kept.check(options)
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
    """The value of ``ZRAY_X``, or of Ray's ``RAY_X``."""
    return os.environ.get(_variable(name))


def _variable(name: str) -> str:
    """Which of both counts."""
    return f"ZRAY_{name}" if os.environ.get(f"ZRAY_{name}") else f"RAY_{name}"


def _with_runtime_env(options: dict[str, Any]) -> dict[str, Any]:
    """Programs that start drivers set RAY_RUNTIME_ENV: the runtime environment under the one that init gets."""
    text = _environment("RUNTIME_ENV")
    if not text:
        return options
    where = f"the environment variable {_variable('RUNTIME_ENV')}"
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    try:
        TASK_OPTIONS["runtime_env"].validate("runtime_env", given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} has no valid runtime environment: {error}") from None
    own = options.get("runtime_env")
    if own is not None:
        TASK_OPTIONS["runtime_env"].validate("runtime_env", own)
    together = spec.merged({name: value for name, value in given.items() if value is not None},
                           {name: value for name, value in (own or {}).items() if value is not None})
    return {**options, "runtime_env": together}


def _init_local(options: dict[str, Any]) -> ClusterContext:
    from zray.api.local_mode import LocalRuntime

    if os.environ.get("ZRAY_RECORD"):
        logging.getLogger("zray").warning("ZRAY_RECORD is set, and local mode is not recorded: debug it as it runs.")
    given = ("num_cpus", "num_gpus", "resources", "namespace", "runtime_env")
    return _context(LocalRuntime(*(options.get(name) for name in given)))


def _init_cluster(address: str | None, options: dict[str, Any]) -> ClusterContext:
    if address in (None, "", "auto"):  # a submitted job, or a shell, may say which cluster is meant
        address = _environment("ADDRESS") or address
    if not options.get("resume"):
        return _connected(address, options)
    from zray.api import resume as kept

    folder = kept.opened(options)  # before a node starts: another driver may have the job
    try:
        context = _connected(address, options)
        kept.begin(current(), folder, options["job_name"])
    except BaseException:
        folder.close()
        raise
    return context


def _connected(address: str | None, options: dict[str, Any]) -> ClusterContext:
    from zray.node.running import launch

    limits = _recording(options)
    node = page = listener = None
    if address != "local":
        node = launch.find_session(address) if address else launch.running_cluster()
    own = node is None
    if node is None:
        listener = _dashboard_socket(options)
        starting = launch.spawn_node(launch.NodeOptions(**_node_options(options)))
        from zray.core.joining import for_driver  # imports while the daemon starts

        try:
            node = starting.wait()
        except BaseException:
            if listener is not None:
                listener.close()
            raise
        if listener is not None:
            from zray.node.running.dashboard import spawn

            page = spawn(listener, session_dir=node.session_dir)
    else:
        _refuse_node_options(options)
        from zray.core.joining import for_driver
    config = job_config(options)
    if limits is not None:
        config["record"] = list(limits)
    try:
        runtime = for_driver(session_dir=node.session_dir, node=node.node, node_endpoint=node.endpoint, config=config,
                             overrides=node.session.settings)
        _take_on(runtime, options.get("runtime_env"))
        if limits is not None:
            from zray.core.recording import begin

            begin(runtime, limits)
        _trace(runtime, config["tracing"])
    except BaseException:
        if own:
            node.stop()
        if page is not None:
            page.collect(DASHBOARD_END_S)
        raise
    if config["log_to_driver"]:
        from zray.api.worker_output import begin as show_output

        show_output(runtime)
    global _own_node, _own_dashboard
    _own_node, _own_dashboard = node if own else None, page
    return _context(runtime, page.address if page is not None else "")


def _dashboard_socket(options: dict[str, Any]) -> socket.socket | None:
    """The socket of the dashboard of a node that ``init`` starts, if the program asks for one.

    With ``include_dashboard=True`` what stands against it is an error, as in Ray; a port alone is a wish.
    """
    include, port = options.get("include_dashboard"), options.get("dashboard_port")
    if include is None and port is None or include is not None and not include:
        return None
    from zray.base.addresses import is_loopback
    from zray.node.running import dashboard

    host = options.get("dashboard_host") or dashboard.HOST
    if host != "localhost" and not is_loopback(host):
        logging.getLogger("zray").warning("The dashboard serves this machine only, not %s: reach it from another one "
                                          "through ssh -L.", host)
    try:
        return dashboard.asked(include, port)
    except dashboard.NoDashboard as error:
        if include:
            raise RuntimeError(f"{error} (include_dashboard=True asks for it)") from None
        logging.getLogger("zray").warning("No dashboard: %s", error)
        return None


def _trace(runtime: Any, hook: str) -> None:
    """Trace this driver, if this program or its node has a tracing startup hook.  The session ends when that fails."""
    hook = hook or runtime.process.config.tracing_startup_hook
    if hook:
        from zray.core import tracing

        try:
            tracing.begin(runtime, hook)
        except BaseException:
            runtime.shutdown()
            raise


def _recording(options: dict[str, Any]) -> RecordLimits | None:
    """Where this job is to be recorded, and how much; None for not.  ValueError when the folder cannot take it."""
    given = ray_settings.translated(options.get("_system_config"), os.environ)
    if not (given.get("record") or os.environ.get("ZRAY_RECORD")):
        return None
    from zray.recording.files import RecordLimits, claim

    settings = Config.load({name: given[name] for name in given if name in RECORD_SETTINGS})
    return RecordLimits(claim(settings.record), settings.record_value_bytes_max, settings.record_bytes_max)


def _take_on(runtime: Any, runtime_env: Mapping[str, Any] | None) -> None:
    """The runtime environment of the job: store its local parts.  The session ends when that fails."""
    try:
        runtime.env = runtime.travelling_env(spec.normal(runtime_env))
    except BaseException:
        runtime.shutdown()
        raise


def _node_options(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of NodeOptions of a node that ``init`` starts."""
    given = {name: options[name] for name in _OF_A_NODE if options.get(name) is not None}
    if options.get("_memory") is not None:
        given["memory"] = float(options["_memory"])
    if options.get("_node_ip_address"):
        given["node_ip_address"] = options["_node_ip_address"]
    given["config"] = ray_settings.translated(options.get("_system_config"), os.environ)
    if options.get("_object_spilling_directory"):
        given["config"]["spill_dir"] = os.fspath(options["_object_spilling_directory"])
    return given


def _refuse_node_options(options: dict[str, Any]) -> None:
    """ValueError for what only a node that starts can take."""
    wrong = [name for name in _OF_A_NODE if options.get(name) is not None]
    wrong += ["_system_config"] if options.get("_system_config") else []
    if wrong:
        raise ValueError(f"When connecting to an existing cluster, {' and '.join(wrong)} must not be provided. "
                         "init('local', ...) starts a node of this program's own.")


_own_node: NodeHandle | None = None  # started by init, ended by shutdown
_own_dashboard: DashboardProcess | None = None  # the same; it ends with the node


def shutdown(succeeded: bool) -> None:
    """See :func:`zray.api.calls.shutdown`; ``succeeded``: the program calls it, and no exception is under way."""
    global _own_node, _own_dashboard
    runtime = current()
    node, _own_node = _own_node, None
    page, _own_dashboard = _own_dashboard, None
    try:
        if runtime is not None and runtime.kind == "driver":
            try:
                if (tasks := getattr(runtime, "tasks", None)) is not None:
                    tasks.end(succeeded)
            finally:
                runtime.shutdown()
                if (screen := getattr(runtime, "screen", None)) is not None:
                    screen.end()
    finally:
        if node is not None:
            node.stop()
        if page is not None:
            page.collect(DASHBOARD_END_S)


def job_config(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that workers of this driver need: import paths, and its environment (RegisterDriver.config)."""
    from zray.node.running.join_secret import hide

    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    log = options.get("log_to_driver")
    job = options.get("job_config") or jobs.JobConfig()
    search = [os.path.abspath(path) for path in job.code_search_path + job._py_driver_sys_path]
    here = os.getcwd()
    is_module = getattr(main, "__spec__", None) is not None  # `python -m`: not the folder of the module, but this one
    return {
        "sys_path": [*(os.path.abspath(entry) if entry else here for entry in sys.path), *search, here],
        "cwd": here,
        "script": os.path.abspath(script) if script else "",
        "script_dir": os.path.dirname(os.path.abspath(script)) if script and not is_module else "",
        "threads": env_vars.thread_names(os.environ),
        "namespace": options.get("namespace") or _environment("NAMESPACE") or "",
        "name": os.path.basename(script) if script else "interactive",
        "job_name": options.get("job_name") or "",
        "log_to_driver": (_environment("LOG_TO_DRIVER") or "1") not in ("0", "false") if log is None else bool(log),
        "logging": logs.to_map() if (logs := options.get("logging_config")) is not None else {},
        "tracing": options.get("_tracing_startup_hook") or "",
        "detached": job.default_actor_lifetime == "detached",
        "metadata": {str(name): str(value) for name, value in job.metadata.items()},
        "ray_version": ray_names.installed_version(),
        "entrypoint": hide(" ".join(sys.argv)) or "interactive",
        "debug": {name: value for name, value in os.environ.items() if name in DEBUG_VARIABLES},
        "submission_id": os.environ.get("ZRAY_JOB_SUBMISSION_ID", ""),
    }


def _context(runtime: Any, dashboard_address: str = "") -> ClusterContext:
    session_dir = os.path.dirname(runtime.endpoint.removeprefix("ipc://"))
    if not dashboard_address and session_dir and os.path.exists(os.path.join(session_dir, "dashboard.json")):
        from zray.node.running.dashboard import of_session

        page = of_session(session_dir)
        dashboard_address = page.address if page is not None else ""
    return ClusterContext({
        "node_ip_address": runtime.node_info["NodeManagerAddress"], "session_dir": session_dir,
        "address": session_dir, "gcs_address": session_dir, "redis_address": None, "metrics_export_port": 0,
        "raylet_socket_name": runtime.node_info.get("RayletSocketName", ""), "dashboard_agent_listen_port": -1,
        "object_store_address": runtime.node_info.get("ObjectStoreSocketName", ""),
        "node_id": runtime.node_info.get("NodeID") or runtime.node.hex(), "webui_url": dashboard_address})
