"""The functions of ``import zray as ray``: they check arguments and call the runtime; no logic of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from zray.base.plain_numbers import plain
from zray.handles.connection import connected, current, start_by
from zray.handles.options import check_namespace, copies_asked
from zray.handles.refs import MapRefs, ObjectRef, ObjectRefGenerator, RefList
from zray.handles.remote import ActorClass, ActorHandle, RemoteFunction, make_remote

if TYPE_CHECKING:
    from typing import Unpack

    from zray.api.context import ClusterContext
    from zray.api.job_config import JobConfig
    from zray.core.logging_config import LoggingConfig
    from zray.handles.keywords import NumReturns, RemoteKeywords
    from zray.handles.remote import ActorProxy
    from zray.handles.typed import RemoteDecorator, SeveralReturnsDecorator

__tracebackhide__ = True  # pytest leaves these frames out of its reports

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


# ---------------------------------------------------------------- start and end


def init(address: str | None = None, *, num_cpus: float | None = None, num_gpus: float | None = None,
         resources: dict[str, float] | None = None, labels: dict[str, str] | None = None,
         object_store_memory: float | None = None, local_mode: bool = False, ignore_reinit_error: bool = False,
         include_dashboard: bool | None = None, dashboard_host: str = "127.0.0.1", dashboard_port: int | None = None,
         job_config: JobConfig | None = None, configure_logging: bool = True, logging_level: int | str = "info",
         logging_format: str | None = None, logging_config: LoggingConfig | None = None,
         log_to_driver: bool | None = None, namespace: str | None = None, runtime_env: dict[str, Any] | None = None,
         enable_resource_isolation: bool = False, cgroup_path: str | None = None,
         system_reserved_cpu: float | None = None, system_reserved_memory: int | None = None,
         proxy_server_url: str | None = None, job_name: str | None = None, resume: bool = False,
         resume_dir: str | os.PathLike[str] | None = None, **kwargs: Any) -> ClusterContext:
    """Connect to a running node, or start one and connect to it.

    ``address``: None takes ``ZRAY_ADDRESS`` or ``RAY_ADDRESS``, else the cluster of this user that runs here (that of
    ``zray start``, or a ``Cluster`` of this program), else starts a node that ends with this process.  "local" always
    starts one; "auto" insists on a cluster.  A session directory, a join string, @FILE or HOST:PORT names a node here.
    Resources are for a node that starts: ValueError where one runs already.  Keywords are Ray's; those of
    control groups are accepted and ignored.  ``include_dashboard`` (or ``dashboard_port``) also serves the dashboard of
    the node that starts, at ``dashboard_url`` of the result; None starts none, and ``zray dashboard`` does at any time.
     Private ones: ``_system_config``, ``_memory`` (bytes),
    ``_node_ip_address``, ``_object_spilling_directory``.

    ``job_name`` names the job in the state API.  With ``resume`` the results of its finished tasks are kept in a
    directory, and a later run with the same name and ``resume`` finds them; see docs/resume.md.  ``resume_dir`` is that
    directory, which must outlive the program and be reachable for its next run.

    RuntimeError when called twice without ``ignore_reinit_error``, for an unknown keyword, and when another driver
    resumes the job of that name; ConnectionError when nothing is at the address.
    """
    from zray.api import context as cluster_context

    given = {
        "num_cpus": num_cpus, "num_gpus": num_gpus, "resources": resources, "labels": labels,
        "object_store_memory": object_store_memory, "job_config": job_config, "logging_config": logging_config,
        "logging_level": None if logging_level == "info" else logging_level, "log_to_driver": log_to_driver,
        "include_dashboard": include_dashboard, "dashboard_port": dashboard_port,
        "dashboard_host": None if dashboard_host == "127.0.0.1" else dashboard_host,
        "namespace": namespace, "runtime_env": runtime_env, "job_name": job_name, "resume": resume or None,
        "resume_dir": resume_dir, **kwargs}
    return cluster_context.init(
        address, local_mode=local_mode, ignore_reinit_error=ignore_reinit_error, configure_logging=configure_logging,
        **{name: value for name, value in given.items() if value is not None})


def shutdown(wait_for_processes: bool = True, _exiting_interpreter: bool = False) -> None:
    """Disconnect, and end the node that ``init`` started.  Harmless without a runtime; ``init`` may follow.

    The processes of the session have ended when it returns, also without ``wait_for_processes``.  A job with
    ``resume`` that calls it while no exception is handled has succeeded: its kept results are removed.
    """
    import sys

    module = sys.modules.get("zray.api.context")
    if module is not None:
        module.shutdown(not _exiting_interpreter and sys.exc_info()[0] is None)


def resume(job_name: str, **options: Any) -> ClusterContext:
    """``init(job_name=job_name, resume=True, **options)`` for a job of which results must be kept.

    ValueError when no results of that name are in the directory; it lists the names that are.
    """
    from zray.api import resume as kept

    kept.require(job_name, options.get("resume_dir"))
    return init(job_name=job_name, resume=True, **options)


def forget_job(job_name: str, *, resume_dir: str | os.PathLike[str] | None = None) -> bool:
    """Remove the kept results of a job; whether there were any.

    RuntimeError while a driver runs the job.
    """
    from zray.api import resume as kept

    return kept.forget(job_name, resume_dir)


start_by(init)


def is_initialized() -> bool:
    """Whether this process is connected."""
    return current() is not None


# ---------------------------------------------------------------- remote


@overload
def remote(target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(*, num_returns: NumReturns, **options: Unpack[RemoteKeywords]) -> SeveralReturnsDecorator: ...
@overload
def remote(**options: Unpack[RemoteKeywords]) -> RemoteDecorator: ...
def remote(*args: Any, **options: Any) -> Any:
    """Make a function a RemoteFunction or a class an ActorClass: ``@remote`` or ``@remote(num_cpus=2)``."""
    if len(args) == 1 and not options:
        return make_remote(args[0], {})
    if args or not options:
        raise TypeError("The @remote decorator must be applied either with no arguments and no parentheses, for "
                        "example '@ray.remote', or with keywords alone, for example '@ray.remote(num_returns=2)'.")
    return lambda target: make_remote(target, options)


# ---------------------------------------------------------------- objects


@overload
def get(object_refs: ObjectRef[R], *, timeout: float | None = None) -> R: ...
@overload
def get(object_refs: Sequence[ObjectRef[R]], *, timeout: float | None = None) -> list[R]: ...
@overload
def get(object_refs: MapRefs[R], *, timeout: float | None = None) -> list[R]: ...
def get(object_refs: Any, *, timeout: float | None = None, _use_object_store: bool = False) -> Any:
    """The value of a reference, or of each in a list; waits.  Raises the task's error, or GetTimeoutError."""
    refs = object_refs
    if timeout is not None:
        timeout = _check_timeout(timeout)
    if type(refs) is ObjectRef:
        return connected().get_one(refs, timeout)
    if isinstance(refs, MapRefs):
        return connected().get_map(refs, timeout)
    if isinstance(refs, ObjectRefGenerator):
        return refs  # so that ``for ref in get(f.remote())`` works with either kind of generator
    if isinstance(refs, ObjectRef):
        return connected().get([refs], timeout)[0]
    if not isinstance(refs, (list, tuple)):
        if (fetch := getattr(type(refs), "_zray_fetch", None)) is not None:  # of a compiled graph
            return fetch(refs, timeout)
        raise ValueError(f"Invalid type of object refs, {type(refs)}, is given. 'object_refs' must either be an "
                         "ObjectRef or a list of ObjectRefs. ")
    for ref in refs:
        if not isinstance(ref, ObjectRef):
            if all(hasattr(type(one), "_zray_fetch") for one in refs):
                return [type(one)._zray_fetch(one, timeout) for one in refs]
            raise TypeError(f"Attempting to call `get` on the value {_shown(ref)}, which is not an ray.ObjectRef "
                            f"but a {type(ref).__name__}.")
    return connected().get(list(refs), timeout)


def put(value: T, *, durability: int = 1, _owner: Any = None, _tensor_transport: str = "object_store"
        ) -> ObjectRef[T]:
    """Store a value; returns its reference.  The private keywords are Ray's and have no effect.

    ``durability``: the number of nodes that keep a copy, 1 or more.  With 2 the loss of one node loses nothing, and a
    new second copy is made after it.  ``put`` returns when the copies are there.  With too few nodes it
    warns, and the missing copies are made when nodes join.  ValueError for less than 1, TypeError for what is no int.
    """
    if isinstance(value, ObjectRef):
        raise TypeError("Calling 'put' on an ray.ObjectRef is not allowed. If you really want to do this, you can wrap "
                        "the ray.ObjectRef in a list and call 'put' on it.")
    if durability != 1 or durability is True:
        return connected().put(value, copies_asked(durability))
    return connected().put(value)


def wait(ray_waitables: Sequence[ObjectRef[R]] | ObjectRef[R], num_returns: int = 1, timeout: float | None = None,
         fetch_local: bool = True) -> tuple[list[ObjectRef[R]], list[ObjectRef[R]]]:
    """``(ready, rest)``: returns when ``num_returns`` are ready or the time is up; both keep the order given."""
    refs, timeout, num_returns = ray_waitables, _check_timeout(timeout), plain(num_returns)
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError(f"num_returns must be an int, not {type(num_returns).__name__}")
    if num_returns <= 0:
        raise ValueError(f"Invalid number of objects to return {num_returns}.")
    if type(refs) is not RefList:  # a list from wait itself is checked already
        refs = _waitables(refs)
    if not refs:
        return [], []
    if num_returns > len(refs):
        raise ValueError("num_returns cannot be greater than the number of ray_waitables provided to ray.wait.")
    ready, rest = connected().wait(refs, num_returns, timeout, fetch_local)
    return ready, rest


def _waitables(refs: Any) -> list[Any]:
    """A list of distinct references, from a user's argument of ``wait``."""
    if isinstance(refs, (ObjectRef, ObjectRefGenerator)):
        refs = [refs]
    if isinstance(refs, (MapRefs, tuple)):
        refs = list(refs)
    if not isinstance(refs, list):
        raise TypeError(f"wait() expected a list of ray.ObjectRef or ray.ObjectRefGenerator, got {type(refs)}")
    for ref in refs:
        if not isinstance(ref, (ObjectRef, ObjectRefGenerator)):
            raise TypeError("wait() expected a list of ray.ObjectRef or ray.ObjectRefGenerator, got list containing "
                            f"{type(ref)}")
        ref._record  # noqa: B018  (ValueError, if it was made from an id that is not known here)
    if len(set(refs)) != len(refs):
        raise ValueError("Wait requires a list of unique ray_waitables.")
    return refs


def _check_timeout(timeout: float | None) -> float | None:
    if timeout is None or timeout == -1:
        return None
    timeout = plain(timeout)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
    if not timeout >= 0:
        raise ValueError(f"The 'timeout' argument must be nonnegative. Received {timeout}")
    return timeout


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


# ---------------------------------------------------------------- tasks and actors


def cancel(ray_waitable: ObjectRef | ObjectRefGenerator, *, force: bool = False, recursive: bool = True) -> None:
    """Cancel the task that makes the reference: not started, it never runs; running, it gets a KeyboardInterrupt, or
    with ``force`` its worker is killed.  ``get`` then raises TaskCancelledError."""
    if not isinstance(ray_waitable, (ObjectRef, ObjectRefGenerator)):
        raise TypeError("ray.cancel() only supported for object refs. For actors, try ray.kill(). Got: "
                        f"{type(ray_waitable)}.")
    connected().cancel(ray_waitable, force, recursive)


def kill(actor: ActorHandle[Any] | ActorProxy[Any], *, no_restart: bool = True) -> None:
    """End an actor at once, also in the middle of a call; with ``no_restart=False`` max_restarts
    decides on a restart."""
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"ray.kill() only supported for actors. For tasks, try ray.cancel(). Got: {type(actor)}.")
    connected().kill(actor._actor, no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of a named actor; ValueError when there is none.  It does not keep the actor alive."""
    if name is None or name == "":
        raise ValueError("Please supply a non-empty value to get_actor")
    if not isinstance(name, str):
        raise TypeError(f"an actor name is a str, not {type(name).__name__}")
    check_namespace(namespace)
    actor, meta = connected().lookup_actor(name, namespace)
    return ActorHandle._restore(actor, meta, None)


def get_gpu_ids() -> list[int | str]:
    """The GPUs assigned to this worker; [] in the driver."""
    return list((getattr(connected().context, "assigned", None) or {}).get("gpu_ids") or [])


# ---------------------------------------------------------------- the cluster


def nodes() -> list[dict[str, Any]]:
    """A map for each node: NodeID, Alive, NodeManagerAddress, Resources, Labels ..."""
    return connected().query("nodes")["nodes"]


def cluster_resources() -> dict[str, float]:
    """The resources of all nodes, by resource."""
    return connected().query("resources")["resources"]


def available_resources() -> dict[str, float]:
    """Free resources now, by resource."""
    return connected().query("available")["resources"]


def timeline(filename: str | os.PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """Tasks over time, on all live nodes, as Chrome trace events (chrome://tracing, Perfetto), or written to
    ``filename`` as JSON.

    Workers report every 0.1 s, tasks shorter than a millisecond at most ``task_events_per_s_max`` of them a second.
    """
    from zray.state.timeline import timeline_events

    events = timeline_events(connected().query)
    if filename is None:
        return events
    import json

    with open(filename, "w", encoding="utf-8") as file:
        json.dump(events, file)
    return None


def explain(ref: ObjectRef | ObjectRefGenerator | MapRefs | Iterable[ObjectRef]) -> str:
    """Why this reference is not ready (or that it is), in words; of a generator, its next one."""
    if isinstance(ref, (ObjectRef, ObjectRefGenerator, MapRefs)):
        return connected().explain(ref)
    if isinstance(ref, Iterable):
        return "\n".join(explain(one) for one in ref)
    raise TypeError(f"explain() takes an ObjectRef, not a {type(ref).__name__}")


