"""The actor of this process: runs its calls.

    sync       one thread, the main one: calls go through the executor's queue and its hot loop
    threaded   max_concurrency > 1 or concurrency groups: threads for each group; calls start in order
    async      coroutine methods: an asyncio loop on the main thread (zray.worker.actors.coroutines)

zray.worker.actors.life decides when a call starts.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.base import errors
from zray.base.error_types import text_of
from zray.base.errors import AsyncioActorExit
from zray.base.plain_text import representation
from zray.handles.remote import METHOD_OPTIONS_ATTRIBUTE
from zray.values import serialization
from zray.wire.messages import FAILED, STORED, ActorInit
from zray.worker.actors.ends import exit_code
from zray.worker.actors.life import ActorLife, CallGroup, sizes_of
from zray.worker.execution import Execution
from zray.worker.queue import EXTRA, FUNCTION, TASK_ATTEMPT, TASK_ID, Entry
from zray.worker.run import invoke
from zray.worker.run.cancel import NoInterrupts

if TYPE_CHECKING:
    from zray.worker.actors.coroutines import Coroutines
    from zray.worker.actors.saving import Saving


LOST_ROUNDS_MAX = 10  # how often lost arguments of a constructor are asked for
REPR_CHARS_MAX = 200  # of an actor's repr that listings show


class ActorHost:
    """The actor: its instance, and the threads or coroutines that run its calls."""

    def __init__(self, executor: Execution, message: ActorInit, life: ActorLife):
        self.executor = executor
        self.life = life
        self.spec = message.spec
        self.assigned = _kept(message.assigned, message.spec)
        self.cls: Any = None
        self.instance: Any = None
        self.main_loop: Callable[[], None] | None = None  # the main thread runs it instead of waiting
        self.threads: dict[str, ThreadGroup] = {}  # of concurrency groups
        self.coroutines: Coroutines | None = None
        self.saving: Saving | None = None  # of an actor with checkpoints

    # ------------------------------------------------------------ coming up

    def start(self) -> bool:
        """Run the constructor on the main thread; returns whether the actor is up."""
        executor = self.executor
        rt = executor.rt
        self.fill(rt.context)
        key: bytes = self.spec["class_key"]
        extra = {name: self.spec[name] for name in ("slots", "deps") if self.spec.get(name)}
        # The id of the creation task is the actor's, padded.  Its attempt is the life, so that a restart has new ids.
        payload = self.spec.get("args", serialization.EMPTY_ARGS)
        task = [self.life.id.ljust(24, b"\0"), self.life.number, key, payload, 1, extra or None]
        name = f"{self.life.class_name}.__init__"
        context = rt.context
        context.task, context.attempt, context.task_name = task[TASK_ID], task[TASK_ATTEMPT], name
        error, message = b"", ""
        started_ns = time.perf_counter_ns()
        try:
            cls, found = executor.functions.load(key)
            self.cls = cls
            self.life.class_name = self.life.class_name or found
            construct = self._restore if self.spec.get("checkpoints") else self._construct
            if executor.recorder is not None:
                construct = executor.recorder.around_constructor(construct, self.spec, self.life)
            if executor.tracing is not None:
                construct = executor.tracing.around_constructor(construct, self.spec)
            self.instance = construct(cls, task)
            self._choose_mode()
        except (SystemExit, AsyncioActorExit) as raised:
            self.end_by(raised, name)
            return False
        except BaseException as raised:
            if executor.debugger.post_mortem_s:
                raised = executor.debugger.after(raised, task, name, executor.interrupts)
            error = self._constructor_error(raised, name)
            message = text_of(error) or str(raised)
        executor.events.add(task, name, started_ns, [FAILED, "task_error", error] if error else True)
        repr_name = "" if error else self._repr_name()
        with executor.loop.lock:
            if self.saving is not None and not error:
                self.saving.begin()
            executor.machine.actor_up(error, message, repr_name)
            executor.events.arm(1)
        return not error

    def _construct(self, cls: Any, task: list[Any]) -> Any:
        args, kwargs = self._arguments(task)
        return cls(*args, **kwargs)

    def _restore(self, cls: Any, task: list[Any]) -> Any:
        """The instance of an actor with checkpoints."""
        from zray.worker.actors.saving import Saving

        logged = self.executor.machine.logged
        assert logged is not None
        self.saving = Saving(self.life, self.spec["checkpoints"], self.executor, logged, self.executor.rt.session_dir,
                             lambda: self.instance, self.end_by)
        return self.saving.instance(cls, lambda: self._construct(cls, task))

    def _arguments(self, task: list[Any]) -> tuple[Any, dict[str, Any]]:
        """The arguments of the constructor.  Before a restart, those that were lost are made again by their owners."""
        rt = self.executor.rt
        for _ in range(LOST_ROUNDS_MAX):
            try:
                return invoke.arguments(rt, task)
            except invoke.DependencyFailed as failed:
                lost = failed.value[2].get("lost") if failed.value[1] == "dependency_lost" else None
                deps = (task[EXTRA] or {}).get("deps") or []
                addressed = enumerate(zip(deps, self.spec.get("dep_owners") or (), strict=False))
                owners = {value[4]: (at, owner) for at, (value, owner) in addressed
                          if type(value) is list and value[0] == STORED}
                if not lost or any(each[0] not in owners for each in lost):
                    raise
                for each in lost:
                    at, owner = owners[each[0]]
                    deps[at] = rt.made_again(each, *owner)
        return invoke.arguments(rt, task)

    def _repr_name(self) -> str:
        """What the user's ``__repr__`` gives; '' for a class without one, and for one that raises."""
        if type(self.instance).__repr__ is object.__repr__:
            return ""
        try:
            return str(repr(self.instance))[:REPR_CHARS_MAX]
        except Exception:
            return ""

    def _constructor_error(self, raised: BaseException, name: str) -> bytes:
        place = self.executor.where()._replace(instance=_half_built(raised, self.cls))
        if isinstance(raised, invoke.DependencyFailed):
            raised = self.executor.rt.values.error(invoke.failure(raised, name, place))
        return serialization.dump_error(raised, name, *place[1:])

    def _choose_mode(self) -> None:
        sizes = sizes_of(self.spec)
        if not sizes:
            return
        self.life.run_side_by_side(sizes, self.group_of)
        if self.spec.get("is_async"):
            from zray.worker.actors.coroutines import Coroutines

            self.coroutines = Coroutines(self.executor, self.life, self.end_by)
            self.main_loop = self.coroutines.run
        else:
            self.threads = {name: ThreadGroup(self, group) for name, group in self.life.groups.items()}
        self._end_gently()

    def fill(self, context: Any) -> None:
        """Set the context's fields of the actor; for each of its threads."""
        context.actor = self.life.id
        context.actor_name = self.spec.get("name") or ""
        context.assigned = self.assigned
        context.life = self.life.number
        context.meta = self.spec.get("meta") or b""

    # ------------------------------------------------------------ methods

    def method(self, name: str) -> tuple[Callable[..., Any], str]:
        """(callable, name to show) of a method; keeps it in the executor's table."""
        special: dict[str, Callable[..., Any]] = {"__ray_ready__": _ready, "__ray_terminate__": self._terminate,
                                                 "__ray_call__": self._call}
        function = special.get(name)
        if function is None:
            function = _bound(self.instance, name)
        found = self.executor.table[name] = (function, f"{self.life.class_name}.{name}")
        return found

    def _terminate(self) -> None:
        self.leave("__ray_terminate__() was called")

    def _call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return fn(self.instance, *args, **kwargs)

    def group_of(self, task: list[Any]) -> str:
        """The concurrency group of a call: its own, else the method's, else the default one."""
        extra = task[EXTRA]
        if extra and extra.get("group"):
            return extra["group"]
        options = getattr(getattr(type(self.instance), task[FUNCTION], None), METHOD_OPTIONS_ATTRIBUTE, None)
        return (options or {}).get("concurrency_group") or ""

    # ------------------------------------------------------------ calls that run side by side, under the lock

    def start_calls(self, started: list[tuple[CallGroup, Entry]]) -> None:
        if self.coroutines is not None:
            self.coroutines.start_soon(started)
            return
        for group, entry in started:
            self.threads[group.name].put(entry)

    def interrupt(self, task: bytes, attempt: int) -> bool:
        """Cancel a coroutine; a running thread is not interrupted (as in Ray)."""
        return self.coroutines is not None and self.coroutines.cancel((task, attempt))

    # ------------------------------------------------------------ the end

    def end_by(self, raised: BaseException, name: str) -> None:
        """exit_actor() ends the actor for ever; after any other SystemExit it may restart, as after a crash."""
        if isinstance(raised, (errors.ExitActor, AsyncioActorExit)):
            self.leave("exit_actor() was called")
            return
        assert isinstance(raised, SystemExit)
        code = exit_code(raised)
        self.leave(f"sys.exit({raised.code!r}) was called in {name}()", code, may_restart=True)

    def leave(self, reason: str, code: int = 0, may_restart: bool = False) -> None:
        """End the actor at its own request."""
        with self.executor.loop.lock:
            self.executor.machine.leave(reason, code, may_restart)

    def _end_gently(self) -> None:
        """At SIGTERM, let running calls end.  A handler of the user is left in place."""
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: Any) -> None:
        """Runs between any two steps of the main thread, which may hold the lock: so another thread takes the lock."""
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        """End, as SIGTERM asks, when the running calls have ended."""
        with self.executor.loop.lock:
            self.executor.machine.drain(-signal.SIGTERM, "it received SIGTERM")

    def join(self) -> None:
        """Main thread, after its last call: wait for the threads."""
        for group in self.threads.values():
            group.join()

    def forget_instance(self) -> None:
        """Drop all references to the instance."""
        self.instance = None
        self.executor.table.clear()

    def wake(self) -> None:
        if self.coroutines is not None:
            self.coroutines.wake()


def _kept(assigned: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """What the actor holds while it lives: less than the place of its constructor, if it asked for no resources."""
    given = spec.get("demand", {}).keys() - spec.get("running", {}).keys()
    resources = assigned.get("resources") or {}
    if not given & resources.keys():
        return assigned
    return {**assigned, "resources": {name: amount for name, amount in resources.items() if name not in given}}


def _bound(instance: Any, name: str) -> Callable[..., Any]:
    """The method of the class, even if the instance has an attribute of that name."""
    cls = type(instance)
    for base in cls.__mro__:
        if name in base.__dict__:
            found = base.__dict__[name]
            return found.__get__(instance, cls) if hasattr(found, "__get__") else found
    return getattr(instance, name)


def _half_built(raised: BaseException, cls: Any) -> str:
    """The repr of the instance whose constructor raised, found as its ``self``; "" when there is none yet."""
    trace = raised.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_argcount:
            first = trace.tb_frame.f_locals.get(code.co_varnames[0])
            if type(first) is cls:
                return representation(first)
        trace = trace.tb_next
    return ""


def _ready() -> bool:
    return True


class ThreadGroup:
    """The threads of a concurrency group: one for each call that may run at the same time, made when first needed."""

    def __init__(self, host: ActorHost, group: CallGroup):
        self.host = host
        self.group = group
        self.inbox: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.idle = 0  # waiting threads, less the entries in the inbox

    def put(self, entry: Entry) -> None:
        """Start a call (under the lock)."""
        self.inbox.put(entry)
        if self.idle > 0:
            self.idle -= 1
            return
        name = f"zray-{self.group.name or 'actor'}-{len(self.threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()

    def join(self) -> None:
        """No more calls come: wait until the running and the waiting calls have ended."""
        for _ in self.threads:
            self.inbox.put(None)
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self) -> None:
        self.host.fill(self.host.executor.rt.context)
        get, none = self.inbox.get, NoInterrupts()
        while True:
            entry = get()
            if entry is None:
                return
            while entry is not None:
                entry = self._run(entry, none)

    def _run(self, entry: Entry, none: NoInterrupts) -> Entry | None:
        """Run one call; returns the next call of the group, if one waits."""
        executor = self.host.executor
        machine = executor.machine
        lease, _, task = entry
        before = time.perf_counter_ns()
        result = executor.run_one(task, lease, none)
        took = time.perf_counter_ns() - before
        executor.events.add(task, executor.rt.context.task_name, before, result, lease=lease.number)
        with executor.loop.lock:
            following = machine.end_call(self.group, entry, result)
            if following is None:
                self.idle += 1
            machine.flush_after(lease, took, following is None)
        return following
