"""A scheduler of dask: it submits every task of a graph, with references in place of what the task depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask._task_spec import Alias, DataNode, GraphNode, convert_legacy_graph, cull
from dask.callbacks import local_callbacks, unpack_callbacks
from dask.core import flatten
from dask.order import order
from dask.typing import Key

from zray.api.calls import get, put, remote, wait
from zray.handles.refs import ObjectRef
from zray.util._causes import raised_by_function

__all__ = ["ray_dask_get", "ray_dask_get_sync"]

# What a progress bar shows is brought up to date after this, in seconds.
PROGRESS_LOOK_S = 0.1


def _run_node(node: GraphNode, keys: list[Key], *values: Any) -> Any:
    """A task of the graph; ``values`` are those of the keys that it depends on."""
    return node(dict(zip(keys, values)))


def ray_dask_get(dsk: Any, keys: Any, *, ray_remote_args: dict[str, Any] | None = None, callbacks: Any = None,
                 **_: Any) -> Any:
    """Compute ``keys`` (a key, or nested lists of keys) of a graph, each task of it as a task of zray.

    ray_remote_args: options of the tasks.  ``with dask.annotate(ray_remote_args={...})`` gives them for a part of the
    graph.  Callbacks of dask, as its ProgressBar, are called.  An exception is that of the failed task.
    """
    return _compute(dsk, keys, ray_remote_args or {}, callbacks, one_at_a_time=False)


def ray_dask_get_sync(dsk: Any, keys: Any, *, ray_remote_args: dict[str, Any] | None = None, callbacks: Any = None,
                      **_: Any) -> Any:
    """:func:`ray_dask_get`, one task after the other: to find out which one fails."""
    return _compute(dsk, keys, ray_remote_args or {}, callbacks, one_at_a_time=True)


def _compute(dsk: Any, keys: Any, options: dict[str, Any], callbacks: Any, one_at_a_time: bool) -> Any:
    annotated = _annotations(dsk)
    graph = convert_legacy_graph(dsk if isinstance(dsk, Mapping) else dsk.__dask_graph__())
    wanted = set(flatten([keys]))
    graph = cull(dict(graph), wanted)
    missing = [key for key in wanted if key not in graph]
    if missing:
        raise KeyError(f"{missing[0]!r} is not in the dask graph")
    with local_callbacks(callbacks) as called:
        watch = _Watch(list(called), graph) if called else None
        failed = True
        try:
            refs = _submit(graph, wanted, options, annotated, watch, one_at_a_time)
            if watch is not None:
                watch.until_done()
            result = _packed(keys, dict(zip(wanted, get([refs[key] for key in wanted]))))
            failed = False
            return result
        except Exception as error:
            raise raised_by_function(error) from error.__cause__
        finally:
            if watch is not None:
                watch.finish(failed)


def _submit(graph: dict[Key, GraphNode], wanted: set[Key], options: dict[str, Any],
            annotated: dict[Key, dict[str, Any]], watch: _Watch | None,
            one_at_a_time: bool) -> dict[Key, ObjectRef]:
    """Submit every task; the references of the wanted keys.  Others are dropped when their last user is submitted."""
    run: Any = remote(_run_node)
    if options:
        run = run.options(**options)
    priorities = order(graph)
    uses: dict[Key, int] = dict.fromkeys(graph, 0)
    for node in graph.values():
        for key in node.dependencies:
            uses[key] += 1
    refs: dict[Key, ObjectRef] = {}
    named: dict[str, Any] = {}  # a function with other options costs more to make than to submit
    for key in sorted(graph, key=lambda key: priorities[key]):
        node = graph[key]
        if isinstance(node, DataNode):
            refs[key] = put(node.value)
        elif isinstance(node, Alias):
            refs[key] = refs[node.target]
        else:
            needed = list(node.dependencies)
            name = _name(key)
            if key in annotated:
                task = run.options(**{**options, **annotated[key], "name": name})
            else:
                task = named.get(name) or named.setdefault(name, run.options(name=name))
            ref = task.remote(node, needed, *(refs[other] for other in needed))
            refs[key] = ref
            if watch is not None:
                watch.submitted(key, ref)
            if one_at_a_time:
                get(ref)
        for other in node.dependencies:
            uses[other] -= 1
            if not uses[other] and other not in wanted:
                del refs[other]
    return refs


def _name(key: Key) -> str:
    """The name of a task in logs and errors: the key without its digest."""
    text = str(key[0] if isinstance(key, tuple) and key else key)
    head, _, tail = text.rpartition("-")
    return f"dask:{head if head and len(tail) >= 16 else text}"


def _annotations(dsk: Any) -> dict[Key, dict[str, Any]]:
    """The options of the tasks in layers that ``dask.annotate(ray_remote_args=...)`` marked."""
    if hasattr(dsk, "__dask_annotations__"):
        return dsk.__dask_annotations__().get("ray_remote_args", {})
    found: dict[Key, dict[str, Any]] = {}
    for layer in getattr(dsk, "layers", {}).values():
        options = (layer.annotations or {}).get("ray_remote_args")
        if options:
            found.update(dict.fromkeys(layer, options))
    return found


def _packed(keys: Any, values: dict[Key, Any]) -> Any:
    return [_packed(key, values) for key in keys] if isinstance(keys, list) else values[keys]


class _Watch:
    """Calls the callbacks of dask as tasks end."""

    def __init__(self, callbacks: list[Any], graph: dict[Key, GraphNode]):
        start, start_state, self._before, self._after, self._finish = unpack_callbacks(callbacks)
        self._graph = graph
        tasks = {key for key, node in graph.items() if not isinstance(node, (DataNode, Alias))}
        self._running: dict[ObjectRef, Key] = {}
        self._state: dict[str, Any] = {"waiting": {}, "ready": list(tasks), "running": set(), "finished": set(),
                                       "released": set(), "cache": {}, "dependencies":
                                       {key: set(node.dependencies) for key, node in graph.items()}}
        for call in start:
            call(graph)
        for call in start_state:
            call(graph, self._state)

    def submitted(self, key: Key, ref: ObjectRef) -> None:
        self._state["ready"].remove(key)
        self._state["running"].add(key)
        self._running[ref] = key
        for call in self._before:
            call(key, self._graph, self._state)

    def until_done(self) -> None:
        """Wait for every task, and report each; raises what a task raised."""
        while self._running:
            ready, _ = wait(list(self._running), num_returns=1, timeout=PROGRESS_LOOK_S)
            for ref in ready:
                key = self._running.pop(ref)
                value = get(ref)
                self._state["running"].discard(key)
                self._state["finished"].add(key)
                for call in self._after:
                    call(key, value, self._graph, self._state, "zray")

    def finish(self, failed: bool) -> None:
        for call in self._finish:
            call(self._graph, self._state, failed)
