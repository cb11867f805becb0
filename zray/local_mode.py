"""``init(local_mode=True)``: the Runtime's interface in one thread of this process, for debuggers.

A task runs at ``.remote()``, an actor is a plain object, arguments and results are what they are (not copied, except
that a value that cannot be pickled is refused, as it would be on a cluster).  Errors are wrapped as on a cluster.
Coroutine methods run to their end on a loop of their own.  Resources are accepted and not counted.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import itertools
import os
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakValueDictionary

from zray import ids, refs
from zray.errors import (
    ActorDiedError,
    ActorExit,
    AsyncioActorExit,
    RayError,
    from_failure,
    load_error,
)
from zray.handles import ActorClass, ActorHandle, RemoteFunction, is_generator
from zray.options import DYNAMIC, STREAMING, ActorOptions, CallOptions, TaskOptions
from zray.refs import ObjectRef
from zray.serialization import dump_error


class _Record:
    """What an ObjectRef of local mode points to."""

    __slots__ = ("__weakref__", "error", "oid", "owner", "value")

    def __init__(self, oid: bytes, value: Any = None, error: BaseException | None = None):
        self.oid = oid
        self.value = value
        self.error = error
        self.owner = b""

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


_records: WeakValueDictionary[bytes, _Record] = WeakValueDictionary()  # by id, for ObjectRef(id)


def _ref(oid: bytes, value: Any = None, error: BaseException | None = None) -> ObjectRef:
    record = _records[oid] = _Record(oid, value, error)
    return ObjectRef(oid, record)


class _Actor:
    """An instance, or why there is none."""

    __slots__ = ("death", "instance", "meta", "name", "namespace")

    def __init__(self, meta: bytes, options: ActorOptions, namespace: str):
        self.instance: Any = None
        self.death = ""
        self.meta = meta
        self.name = options.name
        self.namespace = options.namespace or namespace


class LocalContext:
    """What runs: the counterpart of the runtime's thread-local context, for one thread."""

    def __init__(self) -> None:
        self.task: bytes | None = None
        self.task_name: str | None = None
        self.actor: bytes | None = None
        self.actor_name: str | None = None
        self.meta: bytes | None = None
        self.attempt = 0
        self.assigned: dict[str, Any] = {}
        self.env: dict[str, str] = {}


class LocalRuntime:
    """A look-alike of zray.core.runtime.Runtime; one a process."""

    kind = "driver"
    job = 1
    endpoint = ""

    def __init__(self, num_cpus: float | None = None, num_gpus: float | None = None,
                 resources: dict[str, float] | None = None, namespace: str | None = None):
        self.incarnation = ids.new_incarnation()
        self.node = self.incarnation
        self.namespace = namespace or "local"
        self.node_info: dict[str, Any] = {"NodeID": self.node.ljust(ids.NODE_SIZE, b"\0").hex()}
        self.context = LocalContext()
        self.resources = {"CPU": float(num_cpus or os.cpu_count() or 1)}
        self.resources |= {name: float(amount) for name, amount in (resources or {}).items()}
        if num_gpus:
            self.resources["GPU"] = float(num_gpus)
        self._counter = itertools.count(1)
        self._prefix = ids.task_prefix(self.job.to_bytes(4, "big"), self.incarnation, 0)
        self._actors: dict[bytes, _Actor] = {}
        self._objects: dict[bytes, _Record] = {}  # references that were pickled
        self.groups = _Groups(self)
        refs._hooks["runtime"] = self

    def shutdown(self) -> None:
        refs._hooks["runtime"] = None
        self._actors.clear()
        self._objects.clear()
        refs.dropped.clear()

    # ------------------------------------------------------------ tasks

    def submit(self, fn: RemoteFunction, args: tuple, kwargs: dict, options: TaskOptions) -> Any:
        task = self._new_task()
        retries = 3 if options.max_retries is None else max(0, options.max_retries)
        return self._run(task, fn.function, args, kwargs, options.num_returns, fn.name, None,
                         1 + retries if options.retry_exceptions else 1, options.retry_exceptions)

    def map(self, fn: RemoteFunction, items: Sequence[Any], options: TaskOptions, star: bool) -> Any:
        return [self.submit(fn, tuple(item) if star else (item,), {}, options) for item in items]

    def _new_task(self) -> bytes:
        refs.dropped.clear()  # nobody else empties it here
        return ids.task_id(self._prefix, next(self._counter))

    def _run(self, task: bytes, function: Callable[..., Any], args: tuple, kwargs: dict, count: int, name: str,
             actor: bytes | None, attempts: int = 1, retry: bool | tuple[type, ...] = False) -> Any:
        """Run now; the references that stand for the returns."""
        streams = count in (STREAMING, DYNAMIC)
        try:
            args = tuple(self._argument(a) for a in args)
            kwargs = {key: self._argument(value) for key, value in kwargs.items()}
        except RayError as error:
            return _LocalStream(iter(()), self, task, name, error) if streams else self._failed(task, count, error)
        if streams and is_generator(inspect.unwrap(getattr(function, "__func__", function))):
            stream = _LocalStream(_iterate(function(*args, **kwargs)), self, task, name)
            return _ref(ids.return_id(task, 1), list(stream)) if count == DYNAMIC else stream
        for attempt in range(attempts):
            try:
                with self._inside(task, name, actor, attempt):
                    value = function(*args, **kwargs)
                    if inspect.iscoroutine(value):
                        value = asyncio.run(value)
                return self._returned(task, count, value, name)
            except (ActorExit, AsyncioActorExit):
                self._bury(actor, "exit_actor() was called")
                return self._failed(task, count, self._died(actor))
            except Exception as error:
                failure = load_error(dump_error(error, name, hide_frames=1))
                again = retry is True or isinstance(retry, tuple) and isinstance(error, retry)
                if not again or attempt == attempts - 1:
                    break
        return self._failed(task, count, failure)

    def _argument(self, value: Any) -> Any:
        return value._record.result() if type(value) is ObjectRef else value

    def _returned(self, task: bytes, count: int, value: Any, name: str) -> Any:
        if count == 0:
            return None
        if count == 1:
            return _ref(ids.return_id(task, 1), value)
        values = list(value)
        if len(values) != count:
            raise ValueError(f"Task {name} returned {len(values)} objects, but num_returns={count}.")
        return [_ref(ids.return_id(task, i), v) for i, v in enumerate(values, 1)]

    def _failed(self, task: bytes, count: int, error: BaseException) -> Any:
        if count == 0:
            return None
        made = [_ref(ids.return_id(task, i), error=error) for i in range(1, max(1, count) + 1)]
        return made[0] if count in (1, STREAMING, DYNAMIC) else made

    @contextlib.contextmanager
    def _inside(self, task: bytes, name: str, actor: bytes | None, attempt: int = 0) -> Iterator[None]:
        outer = dict(self.context.__dict__)
        self.context.__dict__.update(task=task, task_name=name, actor=actor, attempt=attempt)
        if actor is not None:
            self.context.meta = self._actors[actor].meta
            self.context.actor_name = self._actors[actor].name
        try:
            yield
        finally:
            self.context.__dict__.update(outer)

    # ------------------------------------------------------------ actors

    def create_actor(self, cls: ActorClass, args: tuple, kwargs: dict, options: ActorOptions) -> ActorHandle:
        namespace = options.namespace or self.namespace
        if options.name is not None:
            taken = self._named(options.name, namespace)
            if taken is not None and options.get_if_exists:
                return ActorHandle._restore(taken, self._actors[taken].meta)
            if taken is not None:
                raise ValueError(f"Actor with name '{options.name}' already exists in the namespace {namespace}. "
                                 "Use max_restarts, another name, or get_if_exists=True.")
        actor_id = ids.actor_id(self._prefix, next(self._counter))
        actor = self._actors[actor_id] = _Actor(cls.meta(options), options, self.namespace)
        new: Any = cls.cls.__new__
        instance = actor.instance = new(cls.cls) if new is object.__new__ else new(cls.cls, *args, **kwargs)
        made = self._run(self._new_task(), instance.__init__, args, kwargs, 1, f"{cls.name}.__init__", actor_id)
        error = made._record.error
        if error is not None and not actor.death:
            self._bury(actor_id, f"its constructor raised:\n{error}")
        return ActorHandle._restore(actor_id, actor.meta)

    def call(self, handle: ActorHandle, method: str, args: tuple, kwargs: dict, options: CallOptions) -> Any:
        actor = handle._actor
        task = self._new_task()
        found = self._actors.get(actor)
        if found is None or found.death:
            return self._failed(task, options.num_returns, self._died(actor))
        name = f"{type(found.instance).__qualname__}.{method}"
        function = self._bound(actor, found.instance, method)
        return self._run(task, function, args, kwargs, options.num_returns, name, actor)

    def _bound(self, actor: bytes, instance: Any, method: str) -> Callable[..., Any]:
        if method == "__ray_ready__":
            return lambda: True
        if method == "__ray_terminate__":
            return lambda: self._bury(actor, "__ray_terminate__ was called")
        if method == "__ray_call__":
            return lambda fn, *args, **kwargs: fn(instance, *args, **kwargs)
        return getattr(instance, method)

    def _bury(self, actor: bytes | None, reason: str) -> None:
        found = self._actors.get(actor) if actor else None
        if found is not None:
            found.death = reason
            found.instance = None

    def _died(self, actor: bytes | None) -> RayError:
        found = self._actors.get(actor) if actor else None
        name = ActorHandle._restore(actor or b"", found.meta)._about.class_name if found else ""
        reason = found.death if found else "it belongs to a session that has ended"
        error = from_failure("actor_died", {"actor": actor, "class_name": name, "reason": reason})
        assert isinstance(error, ActorDiedError)
        return error

    def kill(self, actor: bytes, no_restart: bool) -> None:
        self._bury(actor, "ray.kill() was called")

    def _named(self, name: str, namespace: str) -> bytes | None:
        for actor_id, actor in self._actors.items():
            if actor.name == name and actor.namespace == namespace and not actor.death:
                return actor_id
        return None

    def lookup_actor(self, name: str, namespace: str | None) -> tuple[bytes, bytes]:
        found = self._named(name, namespace or self.namespace)
        if found is None:
            raise ValueError(f"Failed to look up actor with name '{name}'. It does not exist in the namespace "
                             f"{namespace or self.namespace!r}, or it has died.")
        return found, self._actors[found].meta

    # ------------------------------------------------------------ objects

    def get_map(self, wanted: Any, timeout: float | None) -> list[Any]:
        return self.get(wanted, timeout)

    def get_one(self, wanted: ObjectRef, timeout: float | None) -> Any:
        return wanted._record.result()

    def get(self, wanted: Sequence[ObjectRef], timeout: float | None) -> list[Any]:
        return [ref._record.result() for ref in wanted]

    def put(self, value: Any) -> ObjectRef:
        return _ref(ids.return_id(self._new_task(), ids.PUT_FLAG | 1), value)

    def wait(self, wanted: Sequence[Any], num_returns: int, timeout: float | None,
             fetch_local: bool = True) -> tuple[list, list]:
        return list(wanted[:num_returns]), list(wanted[num_returns:])

    def cancel(self, ref: Any, force: bool, recursive: bool) -> None:
        """Nothing: whatever has a reference has run."""

    def future(self, ref: ObjectRef) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(ref._record.result())
        except Exception as error:
            future.set_exception(error)
        return future

    def awaitable(self, ref: ObjectRef) -> Any:
        async def value() -> Any:
            return ref._record.result()

        return value()

    def address_of(self, record: _Record) -> tuple[bytes, str]:
        self._objects[record.oid] = record  # it is being pickled: it may come back by its id
        return self.incarnation, ""

    def restore_ref(self, oid: bytes, owner: bytes, endpoint: str) -> ObjectRef:
        if owner != self.incarnation or oid not in self._objects:
            raise from_failure("owner_died", {"oid": oid, "reason": "it is not of this local mode session"})
        return ObjectRef(oid, self._objects[oid])

    def knows(self, oid: bytes) -> bool:
        return oid in _records

    def find(self, oid: bytes) -> _Record | None:
        return _records.get(oid)

    # ------------------------------------------------------------ views

    def query(self, what: str, **args: Any) -> dict[str, Any]:
        node = {"NodeID": self.node.ljust(ids.NODE_SIZE, b"\0").hex(), "Alive": True, "NodeManagerAddress": "127.0.0.1",
                "Resources": dict(self.resources), "Labels": {}}
        actors = [{"actor_id": actor_id, "name": a.name or "", "namespace": a.namespace,
                   "state": "DEAD" if a.death else "ALIVE"} for actor_id, a in self._actors.items()]
        if args.get("named"):
            actors = [row for row in actors if row["name"] and row["state"] == "ALIVE"]
        views: dict[str, dict[str, Any]] = {
            "nodes": {"nodes": [node]}, "resources": {"resources": dict(self.resources)},
            "available": {"resources": dict(self.resources)}, "actors": {"actors": actors},
            "timeline": {"events": [], "next": 0, "total": 0}}
        return views.get(what, {"error": f"local mode has no view {what!r}"})

    def explain(self, ref: ObjectRef) -> str:
        return f"{ref!r}: it is ready (local mode runs tasks at .remote())"


class _Groups:
    """Placement groups of local mode: accepted, and ready at once; the counterpart of zray.core.groups.Groups."""

    def __init__(self, runtime: LocalRuntime):
        self._runtime = runtime
        self._rows: dict[bytes, dict[str, Any]] = {}

    def create(self, bundles: list[dict[str, int]], shown: list[dict[str, float]], strategy: str, name: str,
               detached: bool) -> bytes:
        runtime = self._runtime
        if name and self.find(name) is not None:
            raise ValueError(f"Failed to create placement group because name '{name}' already exists.")
        group = ids.group_id(runtime.node, runtime._prefix, next(runtime._counter))
        self._rows[group] = {
            "placement_group_id": group, "name": name, "state": "CREATED", "strategy": strategy, "bundles": shown,
            "node_ids": [runtime.node_info["NodeID"]] * len(shown), "attempts": 1, "cause": 0, "detail": "",
            "created_s": 0.0, "ray_namespace": runtime.namespace}
        return group

    def remove(self, group: bytes) -> None:
        if group in self._rows:
            self._rows[group] = {**self._rows[group], "state": "REMOVED", "name": ""}

    def ready(self, group: bytes, value: Any) -> ObjectRef:
        row = self._rows.get(group)
        if row is None or row["state"] == "REMOVED":
            return _ref(ids.return_id(self._runtime._new_task(), 1), error=from_failure("task_pg_removed", {}))
        return self._runtime.put(value)

    def row(self, group: bytes) -> dict[str, Any] | None:
        return self._rows.get(group)

    def rows(self) -> list[dict[str, Any]]:
        return list(self._rows.values())

    def find(self, name: str, namespace: str | None = None) -> bytes | None:
        return next((group for group, row in self._rows.items() if row["name"] == name), None)

    def specs(self, group: bytes) -> list[dict[str, float]] | None:
        row = self._rows.get(group)
        return row["bundles"] if row else None


def _iterate(generator: Any) -> Iterator[Any]:
    """Items of a generator or an async generator."""
    if not inspect.isasyncgen(generator):
        yield from generator
        return
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(generator.__anext__())
            except StopAsyncIteration:
                return
    finally:
        loop.close()


class _LocalStream(refs.ObjectRefGenerator):
    """References of what a generator yields, made as they are asked for."""

    __slots__ = ("_count", "_error", "_items", "_name", "_runtime", "_task")

    def __init__(self, items: Iterator[Any], runtime: LocalRuntime, task: bytes, name: str,
                 error: BaseException | None = None):
        self._items, self._runtime, self._task, self._name, self._error = items, runtime, task, name, error
        self._count = 0
        super().__init__(types.SimpleNamespace(ended=False, ready=()))

    def __next__(self) -> ObjectRef:
        self._count += 1
        oid = ids.return_id(self._task, self._count)
        if self._error is not None:
            error, self._error = self._error, None
            return _ref(oid, error=error)
        try:
            with self._runtime._inside(self._task, self._name, None):
                return _ref(oid, next(self._items))
        except StopIteration:
            self._stream.ended = True
            raise
        except Exception as error:
            return _ref(oid, error=load_error(dump_error(error, self._name)))

    async def __anext__(self) -> ObjectRef:
        for ref in self:
            return ref
        raise StopAsyncIteration

    def task_id(self) -> ids.TaskID:
        return ids.TaskID(self._task)

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._task.hex()})"
