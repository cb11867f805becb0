"""``init(local_mode=True)``: the Runtime's interface in this process, for debuggers.

A task runs at ``.remote()``, on the calling thread, and so does a call of an actor.  Calls of async
actors run on a loop of the actor's, where they interleave.  Arguments, results and puts are copies,
and errors are wrapped, as in a session; environment variables hold while the task or method runs.
The differences: functions and classes are the program's own, so globals are shared; resources are
accepted and not counted; ``.remote()`` waits for arguments that are not ready; actors do not
restart, and live until they are killed or exit.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import itertools
import os
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from zray.api.local_actors import LocalActor, LocalContext, environment, steps_in
from zray.api.local_objects import Arguments, Record, failed, first_ready, records, stored
from zray.base import ids
from zray.base.addresses import machine_address
from zray.base.errors import (
    ActorDiedError,
    AsyncioActorExit,
    ExitActor,
    RayError,
    argument_error,
    from_failure,
    load_error,
    name_is_taken,
)
from zray.base.plain_text import representation
from zray.base.stepping import stepping
from zray.environments import spec
from zray.handles import refs
from zray.handles.options import DYNAMIC, STREAMING, ActorOptions, CallOptions, TaskOptions
from zray.handles.refs import ObjectRef
from zray.handles.remote import METHOD_OPTIONS_ATTRIBUTE, ActorHandle, ActorTemplate, RemoteFunction, is_generator
from zray.values import serialization
from zray.values.serialization import dump_error

KILLED = "it was killed by `ray.kill`"


class LocalRuntime:
    """The counterpart of zray.core.runtime.Runtime; one a process."""

    kind = "driver"
    job = 1
    endpoint = ""
    closed = False  # its shutdown takes no time: see has_ended() in zray.handles.connection

    def __init__(self, num_cpus: float | None = None, num_gpus: float | None = None,
                 resources: dict[str, float] | None = None, namespace: str | None = None,
                 runtime_env: dict[str, Any] | None = None):
        self.incarnation = ids.new_incarnation()
        self.node = self.incarnation
        self.namespace = namespace or "local"
        self.node_info: dict[str, Any] = {"NodeID": self.node.ljust(ids.NODE_SIZE, b"\0").hex(),
                                          "NodeManagerAddress": machine_address()}
        self.context = LocalContext()
        self.variables = dict(spec.variables(runtime_env or {}))
        if others := sorted(set(runtime_env or {}) - {"env_vars", "config"}):
            warnings.warn(f"local_mode runs in this process and uses only env_vars of runtime_env; it ignores {others}",
                          stacklevel=6)
        self.resources = {"CPU": float(num_cpus or os.cpu_count() or 1)}
        self.resources |= {name: float(amount) for name, amount in (resources or {}).items()}
        if num_gpus:
            self.resources["GPU"] = float(num_gpus)
        self._counter = itertools.count(1)
        self._prefix = ids.task_prefix(self.job.to_bytes(4, "big"), self.incarnation, 0)
        self._actors: dict[bytes, LocalActor] = {}
        self._pinned: list[Record] = []  # of references that the program pickled itself
        self.groups = _Groups(self)
        self.gcs = _Keys()
        serialization.set_out_of_band_hook(lambda ref: self._pinned.append(ref._record))
        refs._hooks["runtime"] = self

    @property
    def env(self) -> dict[str, Any]:
        together = {**self.variables, **self.context.env}
        return {"env_vars": together} if together else {}

    def travelling_env(self, env: dict[str, Any]) -> dict[str, Any]:
        return env  # nothing leaves this process

    def shutdown(self) -> None:
        for actor in self._actors.values():
            actor.end("the session has ended")
        refs._hooks["runtime"] = None
        serialization.set_out_of_band_hook(None)
        self._actors.clear()
        self._pinned.clear()
        refs.dropped.clear()

    def ask_control_store(self, what: str, call: Callable[[Callable[[Any], None]], Any]) -> Any:
        found: list[Any] = []
        call(found.append)
        return found[0]

    # ------------------------------------------------------------ tasks

    def submit(self, fn: RemoteFunction, args: tuple, kwargs: dict, options: TaskOptions) -> Any:
        retries = 3 if options.max_retries is None else options.max_retries
        call = _Call(self._new_task(), fn.name, fn.function, args, kwargs, options.num_returns,
                     {**self.variables, **spec.variables(options.env)}, retries, options.retry_exceptions)
        return self._run(call)

    def map(self, fn: RemoteFunction, items: Sequence[Any], options: TaskOptions, star: bool) -> Any:
        return [self.submit(fn, tuple(item) if star else (item,), {}, options) for item in items]

    def _new_task(self) -> bytes:
        refs.dropped.clear()  # no runtime empties it here
        return ids.task_id(self._prefix, next(self._counter))

    def _run(self, call: _Call) -> Any:
        """Run now; the references that stand for the returns."""
        try:
            args, kwargs = call.arguments.load()
        except RayError as error:
            return self._failed(call, _input_failed(call, error))
        if call.streams and is_generator(inspect.unwrap(getattr(call.function, "__func__", call.function))):
            return self._streamed(call, args, kwargs)
        while True:
            try:
                with self._inside(call):
                    return self._returned(call, call.function(*args, **kwargs))
            except (SystemExit, AsyncioActorExit) as error:
                failure: BaseException = self._exited(call, error)
                again = call.actor is None
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):  # Ctrl-C: no other process can be meant
                    raise
                failure = self._raised(call, error)
                again = call.retries_on(error)
            if not again or call.retries == 0:
                return self._failed(call, failure)
            call.retries -= call.retries > 0
            call.attempt += 1
            args, kwargs = call.arguments.load()

    def _exited(self, call: _Call, error: BaseException) -> RayError:
        """The error for a caller when user code ended its process, which here is the program itself."""
        if call.actor is None:
            code = error.code if isinstance(error, SystemExit) else 0
            return from_failure("worker_crashed", {"name": call.name, "exit_code": code if type(code) is int else 1,
                                                   "pid": os.getpid()})
        planned = isinstance(error, (ExitActor, AsyncioActorExit))
        self._end_actor(call.actor, "exit_actor() was called" if planned else f"{error!r} was raised in {call.name}()")
        return self._died(call.actor)

    def _raised(self, call: _Call, error: BaseException) -> BaseException:
        if call.actor is None:
            return load_error(dump_error(error, call.name))
        instance = self._actors[call.actor].instance
        return load_error(dump_error(error, call.name, actor=call.actor.hex(), instance=representation(instance)))

    def _streamed(self, call: _Call, args: tuple, kwargs: dict) -> Any:
        actor = self._actors.get(call.actor) if call.actor else None
        items = call.function(*args, **kwargs)
        stream = _LocalStream(_Items(items, actor.loop if actor else None), self, call)
        if call.count == STREAMING:
            return stream
        if call.count == DYNAMIC:
            return stored(ids.return_id(call.task, 1), refs.DynamicObjectRefGenerator(stream))

    def _start(self, call: _Call, actor: LocalActor, group: str) -> Any:
        """A call of an async actor: the references of its returns, which are ready when its coroutine has ended."""
        assert actor.loop is not None
        records = [Record(ids.return_id(call.task, i)) for i in range(1, call.count + 1)]

        def gone(_: Any = None) -> None:
            _fail_all(records, self._died(call.actor) if actor.death else from_failure(
                "cancelled", {"task": call.task, "name": call.name}))

        async def body() -> None:
            try:
                for ref in call.arguments.refs:
                    with contextlib.suppress(RayError):  # load() raises it
                        await asyncio.wrap_future(ref._record.future)
                args, kwargs = call.arguments.load()
            except RayError as error:
                _fail_all(records, _input_failed(call, error))
                return
            try:
                with self._inside(call, steps=True) as env:
                    value = await stepping(self._awaited(call.function, args, kwargs), steps_in(env))
                _copy_all(records, self._returned(call, value))
            except asyncio.CancelledError:
                gone()
            except (SystemExit, AsyncioActorExit) as error:
                _fail_all(records, self._exited(call, error))
            except BaseException as error:
                _fail_all(records, self._raised(call, error))

        started = actor.loop.call(body, group)
        started.add_done_callback(gone)  # only a call that was cancelled before it started is left to fail
        for record in records:
            record.call = started
        made: list[ObjectRef[Any]] = [ObjectRef(record.oid, record) for record in records]
        return None if call.count == 0 else made[0] if call.count == 1 else made

    @staticmethod
    async def _awaited(function: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        value = function(*args, **kwargs)
        return await value if inspect.isawaitable(value) else value

    def _returned(self, call: _Call, value: Any) -> Any:
        if call.count == 0:
            return None
        if inspect.isgenerator(value) or inspect.isasyncgen(value):
            return self._taken(call, value)
        if call.count == 1:
            return stored(ids.return_id(call.task, 1), value)
        try:
            values = list(value)
        except TypeError:
            raise TypeError(f"object of type '{type(value).__name__}' has no len(), so it cannot be split into "
                            f"num_returns={call.count} objects") from None
        if len(values) != call.count:
            raise ValueError(f"Task {call.name} returned {len(values)} objects, but num_returns={call.count}.")
        return [stored(ids.return_id(call.task, i), v) for i, v in enumerate(values, 1)]

    def _taken(self, call: _Call, value: Any) -> Any:
        """The first items of a generator, one for each return; an error goes to the returns that are left."""
        actor = self._actors.get(call.actor) if call.actor else None
        items = _Items(value, actor.loop if actor else None)
        made: list[ObjectRef[Any]] = []
        try:
            while len(made) < call.count:
                made.append(stored(ids.return_id(call.task, len(made) + 1), next(items)))
        except (StopIteration, _End):
            error: BaseException = ValueError(f"Task returned {len(made)} objects, but num_returns={call.count}.")
        except (KeyboardInterrupt, SystemExit, AsyncioActorExit):
            raise
        except BaseException as raised:
            error = raised
        if not made or len(made) < call.count and call.retries and call.retries_on(error):
            raise error
        made += [failed(ids.return_id(call.task, index), self._raised(call, error))
                 for index in range(len(made) + 1, call.count + 1)]
        return made[0] if call.count == 1 else made

    def _failed(self, call: _Call, error: BaseException) -> Any:
        if call.count == STREAMING:
            return _LocalStream(iter(()), self, call, error)
        if call.count == 0:
            return None
        made = [failed(ids.return_id(call.task, i), error) for i in range(1, max(1, call.count) + 1)]
        return made[0] if call.count in (1, DYNAMIC) else made

    @contextlib.contextmanager
    def _inside(self, call: _Call, steps: bool = False) -> Iterator[dict[str, str]]:
        """The context of the call, and its environment, unless ``steps`` of a coroutine set that."""
        fields: dict[str, Any] = {"task": call.task, "task_name": call.name, "function": (call.task, call.function),
                                  "actor": call.actor, "attempt": call.attempt, "env": call.env}
        actor = self._actors.get(call.actor) if call.actor else None
        if actor is not None:
            fields |= {"meta": actor.meta, "actor_name": actor.name}
        with self.context.inside(**fields) as env:
            if steps:
                yield env
                return
            with actor.lock if actor else contextlib.nullcontext(), environment(env):
                yield env

    # ------------------------------------------------------------ actors

    def create_actor(self, cls: ActorTemplate, args: tuple, kwargs: dict, options: ActorOptions) -> ActorHandle:
        namespace = options.namespace or self.namespace
        if options.name is not None:
            taken = self._named(options.name, namespace)
            if taken is not None and options.get_if_exists:
                return ActorHandle._restore(taken, self._actors[taken].meta)
            if taken is not None:
                raise name_is_taken(options.name, namespace)
        actor_id = ids.actor_id(self._prefix, next(self._counter))
        actor = self._actors[actor_id] = LocalActor(cls.meta(options), options, self.namespace, cls.is_async)
        new: Any = cls.cls.__new__

        def construct(*args: Any, **kwargs: Any) -> None:
            actor.instance = new(cls.cls) if new is object.__new__ else new(cls.cls, *args, **kwargs)
            actor.instance.__init__(*args, **kwargs)

        made = self._run(_Call(self._new_task(), f"{cls.name}.__init__", construct, args, kwargs, 1,
                               {**self.variables, **spec.variables(options.env)}, 0, False, actor_id, called=cls.cls))
        error = made._record.error()
        if error is not None:
            actor.end("its constructor raised", error)
        return ActorHandle._restore(actor_id, actor.meta)

    def call(self, handle: ActorHandle, method: str, args: tuple, kwargs: dict, options: CallOptions) -> Any:
        actor = self._actors.get(handle._actor)
        name = f"{handle._about.class_name}.{method}"
        if actor is not None and not actor.death:
            name = f"{type(actor.instance).__name__}.{method}"
        retries = options.max_task_retries
        call = _Call(self._new_task(), options.name or name, None, args, kwargs, options.num_returns,
                     {**self.variables, **actor.env} if actor else {},
                     handle._about.max_task_retries if retries is None else retries,
                     options.retry_exceptions, handle._actor)
        if actor is None or actor.death:
            return self._failed(call, self._died(handle._actor))
        call.function = self._bound(handle._actor, actor.instance, method)
        if actor.loop is not None and not call.streams and not method.startswith("__ray_"):
            return self._start(call, actor, options.group or _group_of(actor.instance, method))
        return self._run(call)

    def _bound(self, actor: bytes, instance: Any, method: str) -> Callable[..., Any]:
        if method == "__ray_ready__":
            return lambda: True
        if method == "__ray_terminate__":
            return lambda: self._end_actor(actor, "__ray_terminate__ was called")
        if method == "__ray_call__":
            return lambda fn, *args, **kwargs: fn(instance, *args, **kwargs)
        found = inspect.getattr_static(type(instance), method)
        return found.__get__(instance, type(instance)) if hasattr(found, "__get__") else found

    def _end_actor(self, actor: bytes | None, reason: str) -> None:
        found = self._actors.get(actor) if actor else None
        if found is not None:
            shutdown = getattr(found.instance, "__ray_shutdown__", None)
            if callable(shutdown) and reason != KILLED:
                shutdown()
            found.end(reason)

    def _died(self, actor: bytes | None) -> RayError:
        found = self._actors.get(actor) if actor else None
        name = ActorHandle._restore(actor or b"", found.meta)._about.class_name if found else ""
        reason = found.death if found else "it belongs to a session that has ended"
        detail = {"actor": actor, "class_name": name, "reason": reason}
        if found is not None and found.raised is not None:
            detail["error"] = dump_error(found.raised, f"{name}.__init__")
        error = from_failure("actor_died", detail)
        assert isinstance(error, ActorDiedError)
        return error

    def death_of(self, actor: bytes) -> RayError | None:
        found = self._actors.get(actor)
        return None if found is not None and not found.death else self._died(actor)

    def kill(self, actor: bytes, no_restart: bool) -> None:
        self._end_actor(actor, KILLED)

    def _named(self, name: str, namespace: str) -> bytes | None:
        for actor_id, actor in self._actors.items():
            if actor.name == name and actor.namespace == namespace and not actor.death:
                return actor_id
        return None

    def _elsewhere(self, name: str) -> str:
        spaces = sorted({actor.namespace for actor in self._actors.values() if actor.name == name and not actor.death})
        return f"; it is in the namespace {' and in '.join(map(repr, spaces))}" if spaces else ""

    def lookup_actor(self, name: str, namespace: str | None) -> tuple[bytes, bytes]:
        found = self._named(name, namespace or self.namespace)
        if found is None:
            raise ValueError(f"Failed to look up actor with name '{name}'. It does not exist in the namespace "
                             f"{namespace or self.namespace!r}, or it has died{self._elsewhere(name)}.")
        return found, self._actors[found].meta

    # ------------------------------------------------------------ objects

    def get_map(self, wanted: Any, timeout: float | None) -> list[Any]:
        return self.get(wanted, timeout)

    def get_one(self, wanted: ObjectRef, timeout: float | None) -> Any:
        return self.get([wanted], timeout)[0]

    def get(self, wanted: Sequence[ObjectRef], timeout: float | None) -> list[Any]:
        until = None if timeout is None else time.monotonic() + timeout
        return [ref._record.result(until) for ref in wanted]

    def put(self, value: Any, copies: int = 1) -> ObjectRef:
        return stored(ids.return_id(self._new_task(), ids.PUT_FLAG | 1), value, "put value")

    def wait(self, wanted: Sequence[Any], num_returns: int, timeout: float | None,
             fetch_local: bool = True) -> tuple[list, list]:
        return first_ready(wanted, num_returns, None if timeout is None else time.monotonic() + timeout)

    def cancel(self, ref: Any, force: bool, recursive: bool) -> None:
        """For a call of an async actor; all other work is done once there is a reference."""
        call = ref._record.call if isinstance(ref, ObjectRef) else None
        if call is not None:
            call.cancel()

    def future(self, ref: ObjectRef) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        self.fulfil(future, ref)
        return future

    def fulfil(self, future: concurrent.futures.Future, ref: ObjectRef) -> None:
        def done(_: Any) -> None:
            try:
                value = ref._record.result()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(value)

        ref._record.future.add_done_callback(done)

    def awaitable(self, ref: ObjectRef) -> Any:
        async def value() -> Any:
            if not ref._record.future.done():
                with contextlib.suppress(RayError):  # the next line raises it
                    await asyncio.wrap_future(ref._record.future)
            return ref._record.result()

        return value()

    def address_of(self, record: Record) -> tuple[bytes, str]:
        return self.incarnation, ""

    def restore_ref(self, oid: bytes, owner: bytes, endpoint: str) -> ObjectRef:
        record = records.get(oid) if owner == self.incarnation else None
        if record is None:
            raise from_failure("owner_died", {"oid": oid, "reason": "it is not of this local mode session"})
        return ObjectRef(oid, record)

    def knows(self, oid: bytes) -> bool:
        return oid in records

    def find(self, oid: bytes) -> Record | None:
        return records.get(oid)

    # ------------------------------------------------------------ views

    def query(self, what: str, **args: Any) -> dict[str, Any]:
        node = {"NodeID": self.node.ljust(ids.NODE_SIZE, b"\0").hex(), "Alive": True,
                "NodeManagerAddress": self.node_info["NodeManagerAddress"],
                "Resources": dict(self.resources), "Labels": {}}
        actors = [{"actor_id": actor_id, "name": a.name or "", "namespace": a.namespace,
                   "state": "DEAD" if a.death else "ALIVE", "class_name": type(a.instance).__name__}
                  for actor_id, a in self._actors.items()]
        if args.get("named"):
            actors = [row for row in actors if row["name"] and row["state"] == "ALIVE"]
        views: dict[str, dict[str, Any]] = {
            "nodes": {"nodes": [node]}, "resources": {"resources": dict(self.resources)},
            "available": {"resources": dict(self.resources)}, "actors": {"actors": actors},
            "timeline": {"events": [], "next": 0, "total": 0}, "spans": {"spans": [], "next": 0, "total": 0},
            # a task has ended when .remote() returns, and nothing is kept of it; the one process is this one
            **{view: {view: []} for view in ("workers", "tasks", "parents", "jobs", "objects", "leases", "metrics",
                                             "placement-groups", "runtime-envs")}}
        return views.get(what, {"error": f"local mode has no view {what!r}"})

    def explain(self, ref: ObjectRef) -> str:
        return f"{ref!r}: it is ready (local mode runs tasks at .remote())"


class _Keys:
    """User keys and values of local mode; the counterpart of zray.gcs.client.typed.TypedTables."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, bytes], bytes] = {}

    def kv_put(self, key: bytes, value: bytes, space: str, overwrite: bool, then: Callable[[Any], None]) -> None:
        existed = (space, key) in self._values
        if overwrite or not existed:
            self._values[space, key] = value
        then(existed)

    def kv_swap(self, key: bytes, expected: bytes, new: bytes, space: str, then: Callable[[Any], None]) -> None:
        swapped = self._values.get((space, key)) == expected
        if swapped:
            self._values[space, key] = new
        then(swapped)

    def kv_get(self, key: bytes, space: str, then: Callable[[Any], None]) -> None:
        then(self._values.get((space, key)))

    def kv_exists(self, key: bytes, space: str, then: Callable[[Any], None]) -> None:
        then((space, key) in self._values)

    def kv_del(self, key: bytes, space: str, then: Callable[[Any], None]) -> None:
        then(self._values.pop((space, key), None) is not None)

    def kv_list(self, prefix: bytes, space: str, then: Callable[[Any], None]) -> None:
        then(sorted(key for other, key in self._values if other == space and key.startswith(prefix)))


class _Groups:
    """Placement groups of local mode: accepted, and ready at once; the counterpart of zray.core.groups.Groups."""

    def __init__(self, runtime: LocalRuntime):
        self._runtime = runtime
        self._rows: dict[bytes, dict[str, Any]] = {}

    def create(self, bundles: list[dict[str, int]], shown: list[dict[str, float]], strategy: str, name: str,
               detached: bool, soft_target: bytes = b"") -> bytes:
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
            return failed(ids.return_id(self._runtime._new_task(), 1), from_failure("task_pg_removed", {}))
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


class _Call:
    """One task or call of an actor."""

    __slots__ = ("actor", "arguments", "attempt", "count", "env", "function", "name", "retries", "retry", "task")

    def __init__(self, task: bytes, name: str, function: Any, args: tuple, kwargs: dict, count: int,
                 env: dict[str, str], retries: int, retry: bool | tuple[type, ...], actor: bytes | None = None,
                 called: Any = None):
        self.task, self.name, self.function, self.count = task, name, function, count
        self.arguments = Arguments(args, kwargs, called or function)
        self.env, self.retries, self.retry, self.actor = env, retries, retry, actor
        self.attempt = 0

    @property
    def streams(self) -> bool:
        return self.count in (STREAMING, DYNAMIC)

    def retries_on(self, error: BaseException) -> bool:
        return self.retry is True or isinstance(self.retry, tuple) and isinstance(error, self.retry)


def _group_of(instance: Any, method: str) -> str:
    options = getattr(getattr(type(instance), method, None), METHOD_OPTIONS_ATTRIBUTE, None)
    return (options or {}).get("concurrency_group") or ""


def _input_failed(call: _Call, error: RayError) -> RayError:
    return argument_error(call.name, error, call.actor or b"", os.getpid()).as_instanceof_cause()


def _fail_all(records: Sequence[Record], error: BaseException) -> None:
    for record in records:
        if not record.future.done():
            record.fail(error)


def _copy_all(records: Sequence[Record], outcome: Any) -> None:
    for record, ref in zip(records, outcome if type(outcome) is list else [outcome], strict=bool(records)):
        record.inner = ref._record.inner
        record.future.set_result(ref._record.future.result())


class _Items:
    """Items of a generator, or of an async generator of an actor with a loop."""

    def __init__(self, generator: Any, loop: Any):
        self.generator, self.loop = generator, loop
        self.ahead: concurrent.futures.Future | None = None  # the next item of an async generator, already requested

    def __iter__(self) -> _Items:
        return self

    def __next__(self) -> Any:
        if not inspect.isasyncgen(self.generator):
            return next(self.generator)
        future, self.ahead = self.ahead or self.future(), None
        return future.result()

    def future(self) -> concurrent.futures.Future:
        """Of the next item of an async generator; StopIteration at its end."""
        if self.loop is None:
            raise TypeError("async generators run in async actors; a task or a sync actor needs a plain generator")
        return self.loop.run(self._next())

    async def _next(self) -> Any:
        try:
            return await self.generator.__anext__()
        except StopAsyncIteration:
            raise _End from None


class _End(Exception):
    """An async generator has ended: StopIteration cannot leave a future."""


class _LocalStream(refs.ObjectRefGenerator):
    """References of a generator's items, made on demand."""

    __slots__ = ("_call", "_count", "_error", "_items", "_runtime")

    def __init__(self, items: Iterator[Any], runtime: LocalRuntime, call: _Call, error: BaseException | None = None):
        self._items, self._runtime, self._call, self._error = items, runtime, call, error
        self._count = 0
        super().__init__(types.SimpleNamespace(ended=False, ready=()))

    def __next__(self) -> ObjectRef:
        self._count += 1
        oid = ids.return_id(self._call.task, self._count)
        if self._error is not None:
            error, self._error = self._error, None
            return failed(oid, error)
        try:
            with self._runtime._inside(self._call):
                return stored(oid, next(self._items))
        except (StopIteration, _End):
            self._stream.ended = True
            raise StopIteration from None
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self._items = iter(())
            return failed(oid, self._runtime._raised(self._call, error))

    async def __anext__(self) -> ObjectRef:
        if isinstance(self._items, _Items) and inspect.isasyncgen(self._items.generator):
            self._items.ahead = future = self._items.future()
            with contextlib.suppress(Exception):  # the next line finds it
                await asyncio.wrap_future(future)  # its actor may need this loop in the meantime
        for ref in self:
            return ref
        raise StopAsyncIteration

    def task_id(self) -> ids.TaskID:
        return ids.TaskID(self._call.task)

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._call.task.hex()})"
