"""Lists, single rows, summaries and logs of what runs and ran in a cluster: Ray's functions of these names.

All take ``address`` (None: this process's own cluster, else the running one of this user) and ``timeout`` in seconds.
``filters`` are ``(column, "=" or "!=", value)``, joined by and; they come before ``limit``.  ``detail`` fills the
columns that are None without it.  With ``raise_on_missing_output`` a list that is not complete, because a node or a
process does not answer, raises RayStateApiException; else it is a warning.  ServerUnavailable when no node answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from glob import escape
from typing import Any

from zray.base.formats import job_log
from zray.base.ids import OBJECT_SIZE, TASK_SIZE
from zray.state.client import (
    DEFAULT_LIMIT,
    DEFAULT_TIMEOUT_S,
    LIMIT_MAX,
    LOG_LOOK_S,
    StateClient,
    list_rows,
)
from zray.state.common import (
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    TaskState,
    WorkerState,
)
from zray.state.errors import RayStateApiException
from zray.state.kinds import KINDS
from zray.state.summaries import summary_of_actors, summary_of_objects, summary_of_tasks

__all__ = [
    "get_actor", "get_job", "get_log", "get_node", "get_objects", "get_placement_group", "get_task", "get_worker",
    "list_actors", "list_cluster_events", "list_jobs", "list_logs", "list_nodes", "list_objects",
    "list_placement_groups", "list_runtime_envs", "list_tasks", "list_workers", "summarize_actors",
    "summarize_objects", "summarize_tasks",
]

Filters = Sequence[Any] | None
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
HEX = re.compile(r"[0-9a-fA-F]*")


def list_actors(address: str | None = None, filters: Filters = None, limit: int = DEFAULT_LIMIT,
                timeout: float = DEFAULT_TIMEOUT_S, detail: bool = False, raise_on_missing_output: bool = True,
                _explain: bool = False) -> list[ActorState]:
    """Actors that live or have ended, by id."""
    return list_rows("actors", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_placement_groups(address: str | None = None, filters: Filters = None, limit: int = DEFAULT_LIMIT,
                          timeout: float = DEFAULT_TIMEOUT_S, detail: bool = False,
                          raise_on_missing_output: bool = True, _explain: bool = False) -> list[PlacementGroupState]:
    """Placement groups, removed ones too, by id."""
    return list_rows("placement_groups", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_nodes(address: str | None = None, filters: Filters = None, limit: int = DEFAULT_LIMIT,
               timeout: float = DEFAULT_TIMEOUT_S, detail: bool = False, raise_on_missing_output: bool = True,
               _explain: bool = False) -> list[NodeState]:
    """Nodes that live or have ended, by id."""
    return list_rows("nodes", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_jobs(address: str | None = None, filters: Filters = None, limit: int = DEFAULT_LIMIT,
              timeout: float = DEFAULT_TIMEOUT_S, detail: bool = False, raise_on_missing_output: bool = True,
              _explain: bool = False) -> list[JobState]:
    """Jobs that run or are over, by id."""
    return list_rows("jobs", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_workers(address: str | None = None, filters: Filters = None, limit: int = DEFAULT_LIMIT,
                 timeout: float = DEFAULT_TIMEOUT_S, detail: bool = False, raise_on_missing_output: bool = True,
                 _explain: bool = False) -> list[WorkerState]:
    """Worker processes and drivers that run or have ended, by id."""
    return list_rows("workers", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_tasks(address: str | None = None, filters: Filters = None, limit: int = DEFAULT_LIMIT,
               timeout: float = DEFAULT_TIMEOUT_S, detail: bool = False, raise_on_missing_output: bool = True,
               _explain: bool = False) -> list[TaskState]:
    """Attempts of tasks: unfinished ones first, then those that ended last; of one task the latest attempt first."""
    return list_rows("tasks", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_objects(address: str | None = None, filters: Filters = None, limit: int = DEFAULT_LIMIT,
                 timeout: float = DEFAULT_TIMEOUT_S, detail: bool = False, raise_on_missing_output: bool = True,
                 _explain: bool = False) -> list[ObjectState]:
    """References: one row for each process that holds one, by id of the object."""
    return list_rows("objects", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_runtime_envs(address: str | None = None, filters: Filters = None, limit: int = DEFAULT_LIMIT,
                      timeout: float = DEFAULT_TIMEOUT_S, detail: bool = False, raise_on_missing_output: bool = True,
                      _explain: bool = False) -> list[RuntimeEnvState]:
    """Runtime environments in which workers run, or could not start, by node."""
    return list_rows("runtime_envs", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_cluster_events(address: str | None = None, filters: Filters = None, limit: int = DEFAULT_LIMIT,
                        timeout: float = DEFAULT_TIMEOUT_S, detail: bool = False,
                        raise_on_missing_output: bool = True, _explain: bool = False) -> list[ClusterEventState]:
    """What the live nodes have logged, in order of time."""
    return list_rows("cluster_events", address, filters, limit, timeout, detail, raise_on_missing_output)


# ---------------------------------------------------------------- one row


def _get(kind: str, identifier: Any, address: str | None, timeout: float, narrow: dict[str, Any] | None = None
         ) -> list[Any]:
    """The rows with that id, with every column."""
    if not isinstance(identifier, str):
        raise TypeError(f"an id is a string of hex digits, not {identifier!r}")
    filters = [(KINDS[kind].identifier, "=", identifier)]
    return list_rows(kind, address, filters, LIMIT_MAX, timeout, True, False, narrow)


def _narrow(name: str, identifier: Any, size: int) -> dict[str, Any]:
    """The arguments with which nodes and processes send what has that id only, if it is one."""
    is_id = isinstance(identifier, str) and len(identifier) == 2 * size and HEX.fullmatch(identifier)
    return {name: bytes.fromhex(identifier)} if is_id else {}


def get_actor(id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
              ) -> ActorState | None:
    """The actor with that id (hex), or None."""
    found = _get("actors", id, address, timeout)
    return found[0] if found else None


def get_job(id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
            ) -> JobState | None:
    """The job with that id (hex), or None."""
    found = _get("jobs", id, address, timeout)
    return found[0] if found else None


def get_placement_group(id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S,
                        _explain: bool = False) -> PlacementGroupState | None:
    """The placement group with that id (hex), or None."""
    found = _get("placement_groups", id, address, timeout)
    return found[0] if found else None


def get_node(id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
             ) -> NodeState | None:
    """The node with that id (hex), or None."""
    found = _get("nodes", id, address, timeout)
    return found[0] if found else None


def get_worker(id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
               ) -> WorkerState | None:
    """The worker or driver with that id (hex), or None."""
    found = _get("workers", id, address, timeout)
    return found[0] if found else None


def get_task(id: Any, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
             ) -> TaskState | list[TaskState] | None:
    """The task with that id (hex) or that makes that ObjectRef; a list if it had several attempts; None if unknown."""
    from zray.handles.refs import ObjectRef

    task = id.task_id().hex() if isinstance(id, ObjectRef) else id
    if not isinstance(task, str):
        raise TypeError(f"get_task takes an id of hex digits or an ObjectRef, not {id!r}")
    found = _get("tasks", task, address, timeout, {"tasks": _narrow("task", task, TASK_SIZE)})
    return None if not found else found[0] if len(found) == 1 else found


def get_objects(id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
                ) -> list[ObjectState]:
    """The references to the object with that id (hex): one row for each process that holds one."""
    return _get("objects", id, address, timeout, {"objects": _narrow("object", id, OBJECT_SIZE)})


# ---------------------------------------------------------------- summaries


def summarize_tasks(address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S,
                    raise_on_missing_output: bool = True, _explain: bool = False) -> dict[str, Any]:
    """Attempts by name and state."""
    return {"cluster": summary_of_tasks(list_rows("tasks", address, None, LIMIT_MAX, timeout, True,
                                                  raise_on_missing_output))}


def summarize_actors(address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S,
                     raise_on_missing_output: bool = True, _explain: bool = False) -> dict[str, Any]:
    """Actors by class and state."""
    return {"cluster": summary_of_actors(list_rows("actors", address, None, LIMIT_MAX, timeout, False,
                                                   raise_on_missing_output))}


def summarize_objects(address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S,
                      raise_on_missing_output: bool = True, _explain: bool = False) -> dict[str, Any]:
    """References by call site, state and type."""
    return {"cluster": summary_of_objects(list_rows("objects", address, None, LIMIT_MAX, timeout, False,
                                                    raise_on_missing_output))}


# ---------------------------------------------------------------- logs


def list_logs(address: str | None = None, node_id: str | None = None, node_ip: str | None = None,
              glob_filter: str | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> dict[str, list[str]]:
    """Names of the log files of a node whose names match ``glob_filter``: ``worker_out``, ``worker_err``, ``raylet``
    (of the node's daemon)."""
    if node_id is None and node_ip is None:
        raise ValueError("At least one of node ip and node id is required")
    found: dict[str, list[str]] = {}
    with StateClient(address, timeout) as client:
        for name in client.logs_on(client.node_of(node_id, node_ip), glob_filter or "*"):
            stem, _, suffix = name.rpartition(".")
            found.setdefault(f"worker_{suffix}" if stem.startswith("worker-") else "raylet", []).append(name)
    return found


def get_log(address: str | None = None, node_id: str | None = None, node_ip: str | None = None,
            filename: str | None = None, actor_id: str | None = None, task_id: str | None = None,
            pid: int | None = None, follow: bool = False, tail: int = -1, timeout: float = DEFAULT_TIMEOUT_S,
            suffix: str = "out", encoding: str | None = "utf-8", errors: str | None = "strict",
            submission_id: str | None = None, attempt_number: int = 0, _interval: float | None = None,
            filter_ansi_code: bool = False) -> Iterator[Any]:
    """Pieces of the log of a file, an actor, a task, a process or a submitted job, as text (as bytes with
    ``encoding=None``).

    ``tail``: its last lines only, -1 for all.  ``follow``: also what is written later; the iterator does not end then.
    ``suffix``: "out" or "err", the standard output or error of a process.  RayStateApiException when there is no such
    log.
    """
    if suffix not in ("out", "err"):
        raise ValueError(f'suffix is "out" or "err", not {suffix!r}')
    if not any((filename, actor_id, task_id, pid, submission_id)):
        raise ValueError("get_log needs one of filename, actor_id, task_id, pid, submission_id: whose log?")
    with StateClient(address, timeout) as client:
        if submission_id and not any((filename, actor_id, task_id, pid)):
            name, node = _log_of_job(client, submission_id, node_id, node_ip)
        else:
            name, node = _log_of(client, node_id, node_ip, filename, actor_id, task_id, attempt_number, pid, suffix)
        for piece in client.log(node, name, tail, follow, LOG_LOOK_S if _interval is None else _interval):
            if encoding is None:
                yield piece
                continue
            text = piece.decode(encoding, errors or "strict")
            yield _ANSI.sub("", text) if filter_ansi_code else text


def _log_of_job(client: StateClient, submission_id: str, node_id: str | None, node_ip: str | None
                ) -> tuple[str, dict[str, Any]]:
    """``(name of the file, its node)`` of the output of a submitted job, which is on the node that started it."""
    name = job_log(submission_id)
    named = node_id is not None or node_ip is not None
    nodes = [client.node_of(node_id, node_ip)] if named else [row for row in client.ask("nodes")["nodes"]
                                                              if row["Alive"]]
    for node in nodes:
        if name in client.logs_on(node, escape(name)):
            return name, node
    raise RayStateApiException(
        f"no live node{' of those named' if named else ''} has a log of the job {submission_id}: the submission id is "
        "wrong, the job has not started, it was deleted, or its node has ended (`zray job list` has its status)")


def _log_of(client: StateClient, node_id: str | None, node_ip: str | None, filename: str | None,
            actor_id: str | None, task_id: str | None, attempt: int, pid: int | None, suffix: str
            ) -> tuple[str, dict[str, Any]]:
    """``(name of the file, its node)``."""
    if filename:
        return filename, client.node_of(node_id, node_ip)
    worker: str | None = None
    if pid is not None:
        wanted = [row for row in client.rows(KINDS["workers"], {}) if row["pid"] == pid and (
            node_id is None or row["node_id"] == node_id)]
        worker = wanted[-1]["worker_id"] if wanted else None
    elif task_id is not None:
        tasks = client.rows(KINDS["tasks"], {})
        worker = next((row["worker_id"] for row in tasks if row["task_id"] == task_id and
                       row["attempt_number"] == attempt), None)
    else:
        raw = client.ask("actors")["actors"]
        worker = next((row["worker"] for row in raw if row["actor_id"] == actor_id), None)
    what = f"pid {pid}" if pid is not None else f"task {task_id}" if task_id is not None else f"actor {actor_id}"
    if not worker:
        raise RayStateApiException(f"no worker is known of {what}, so there is no log of it")
    node = next((row for row in client.ask("nodes")["nodes"]
                 if row["Alive"] and row["NodeID"][:8] == worker[:8]), None)
    if node is None:
        raise RayStateApiException(f"the node on which {what} ran has ended; its logs are on its machine")
    names = client.logs_on(node, f"worker-{worker[:16]}.{suffix}")
    if not names:
        raise RayStateApiException(f"{what} has written nothing that is still kept on node {node['NodeID']}")
    return names[0], node
