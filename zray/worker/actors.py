"""The actor of this process: how its calls become runs.

    sync       one thread, the main one: calls go through the executor's queue and its hot loop
    threaded   max_concurrency > 1 or concurrency groups: a pool of threads a group; the order is of starts
    async      coroutine methods: an asyncio loop on the main thread (zray.worker.coroutines)

Calls are numbered per caller and life.  A number that was seen before is not run again: its reply, where it is still
kept, is sent again.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from zray import errors, serialization
from zray.errors import AsyncioActorExit
from zray.messages import ActorExit, ActorInit, ActorUp, CallsDone, PushCalls
from zray.transport.loop import Waiter
from zray.worker import invoke
from zray.worker.ends import exit_code
from zray.worker.queue import ATTEMPT, EXTRA, FUNCTION, TASK_ID, Entry, Lease

METHOD_OPTIONS = "__zray_method_options__"
# Replies kept per caller for a call that is pushed again, in batches and in bytes.
KEPT_BATCHES = 64
KEPT_BYTES = 1024 * 1024
FLUSH_AFTER_NS = 1_000_000


class ActorHost:
    """An actor and the bookkeeping of its calls."""

    def __init__(self, executor: Any, message: ActorInit):
        self.executor = executor
        self.id = message.actor
        self.life = message.life
        self.spec = message.spec
        self.assigned = message.assigned
        self.class_name: str = message.spec.get("class_name") or ""
        self.instance: Any = None
        self.leaving: str | None = None
        self.may_restart = False  # it leaves by sys.exit or SIGTERM
        self.code = 0
        self.draining = False  # SIGTERM came: what runs may end, nothing more starts
        self.main_loop: Callable[[], None] | None = None  # what the main thread does instead of waiting
        self.groups: dict[str, ThreadGroup] = {}
        self.coroutines: Any = None
        self.refused = 0

    # ------------------------------------------------------------ coming up

    def start(self) -> bool:
        """Run the constructor, on the main thread; whether the actor is up."""
        executor = self.executor
        rt = executor.rt
        self.fill(rt.context)
        key = self.spec.get("class_key")
        extra = {name: self.spec[name] for name in ("slots", "deps") if self.spec.get(name)}
        # The creation task's id: the actor's, padded; its attempt is the life, so that a restart makes fresh ids.
        payload = self.spec.get("args", serialization.EMPTY_ARGS)
        task = [self.id.ljust(24, b"\0"), self.life, key, payload, 1, extra or None]
        name = f"{self.class_name}.__init__"
        context = rt.context
        context.task, context.attempt, context.task_name = task[TASK_ID], task[ATTEMPT], name
        error = b""
        try:
            cls, found = executor.functions.load(key)
            self.class_name = self.class_name or found
            args, kwargs = invoke.arguments(rt, task)
            self.instance = cls(*args, **kwargs)
            del args, kwargs
            self._choose_mode()
        except (SystemExit, AsyncioActorExit) as raised:
            self.end_by(raised, name)
            return False
        except BaseException as raised:
            error = self._constructor_error(raised, name)
        with executor.loop.lock:
            rt.send(rt.node, ActorUp(self.id, self.life, error))
            executor.loop.kick()
        return not error

    def _constructor_error(self, raised: BaseException, name: str) -> bytes:
        if isinstance(raised, invoke.DependencyFailed):
            raised = self.executor.rt.values.error(raised.value)
        return serialization.dump_error(raised, name)

    def _choose_mode(self) -> None:
        spec = self.spec
        sizes = dict(spec.get("concurrency_groups") or {})
        if spec.get("is_async"):
            from zray.worker.coroutines import Coroutines

            sizes[""] = spec.get("max_concurrency") or 1000
            self.coroutines = Coroutines(self, sizes)
            self.main_loop = self.coroutines.run
            self._end_gently()
            return
        sizes[""] = spec.get("max_concurrency") or 1
        if len(sizes) > 1 or sizes[""] > 1:
            self.groups = {name: ThreadGroup(self, name, size) for name, size in sizes.items()}
            self._end_gently()

    def fill(self, context: Any) -> None:
        """What the context says on every thread of an actor."""
        context.actor = self.id
        context.actor_name = self.spec.get("name") or ""
        context.assigned = self.assigned
        context.life = self.life
        context.meta = self.spec.get("meta") or b""

    # ------------------------------------------------------------ methods

    def method(self, name: str) -> tuple[Callable[..., Any], str]:
        """(callable, name to show) of a method; the executor's table remembers it."""
        special: dict[str, Callable[..., Any]] = {"__ray_ready__": _ready, "__ray_terminate__": self._terminate,
                                                 "__ray_call__": self._call}
        function = special.get(name)
        if function is None:
            function = _bound(self.instance, name)
        found = self.executor.table[name] = (function, f"{self.class_name}.{name}")
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
        options = getattr(getattr(type(self.instance), task[FUNCTION], None), METHOD_OPTIONS, None)
        return (options or {}).get("concurrency_group") or ""

    # ------------------------------------------------------------ calls, under the lock

    def on_push(self, peer: bytes, message: PushCalls) -> None:
        executor = self.executor
        if message.actor != self.id or message.life != self.life or self.leaving is not None or self.draining:
            self.refused += 1  # for a life that is over: its caller learns so from the node
            return
        lease = executor.queue.open(peer, message.life)
        first, calls = message.first, message.calls
        if first < lease.next:
            self._answer_again(lease, range(first, min(lease.next, first + len(calls))))
            calls = calls[lease.next - first:]
            first = lease.next
            if not calls:
                return
        executor.unsent[id(lease)] = lease
        executor.events.arm(0)  # what waits here is told, too
        if not self.groups and self.coroutines is None:
            executor.queue.push(peer, message.life, first, calls)
            executor.wake()
            return
        lease.next = first + len(calls)
        entries = [(lease, sequence, call) for sequence, call in enumerate(calls, first)]
        if self.coroutines is not None:
            self.coroutines.incoming.extend(entries)
            self.coroutines.wake()
            return
        for entry in entries:
            group = self.groups.get(self.group_of(entry[2])) or self.groups[""]
            group.put(entry)

    def _answer_again(self, lease: Lease, sequences: range) -> None:
        again: list[Any] = []
        for ends in lease.kept or ():
            pairs = iter(ends)
            for sequence, result in zip(pairs, pairs, strict=True):
                if sequence in sequences:
                    again += (sequence, result)
        if again:
            self.executor.rt.send(lease.owner, CallsDone(self.id, self.life, again))

    def keep(self, lease: Lease, ends: list[Any]) -> None:
        """Replies on their way: kept for a caller that asks again."""
        if sum(len(result) for result in ends[1::2] if type(result) is bytes) > KEPT_BYTES // KEPT_BATCHES:
            return
        if lease.kept is None:
            lease.kept = deque(maxlen=KEPT_BATCHES)
        lease.kept.append(ends)

    def cancel(self, task: bytes, attempt: int) -> bool:
        """Cancel a call that waits in a group, or a coroutine that runs; running threads are not interrupted (as in
        Ray).  False: not ours to find."""
        if self.coroutines is not None:
            return self.coroutines.cancel(task, attempt)
        return any(group.cancel(task, attempt) for group in self.groups.values())

    # ------------------------------------------------------------ the end

    def end_by(self, raised: BaseException, name: str) -> None:
        """exit_actor() ends the actor for good; after any other SystemExit it may restart, as after a crash."""
        if isinstance(raised, (errors.ActorExit, AsyncioActorExit)):
            self.leave("exit_actor() was called")
            return
        assert isinstance(raised, SystemExit)
        code = exit_code(raised)
        self.leave(f"sys.exit({raised.code!r}) was called in {name}()", code, may_restart=True)

    def leave(self, reason: str, code: int = 0, may_restart: bool = False) -> None:
        """The actor ends by its own wish: nothing more starts, replies so far go out, the node is told."""
        executor = self.executor
        with executor.loop.lock:
            if self.leaving is not None:
                return
            self.leaving, self.code, self.may_restart = reason, code, may_restart
            self._drop_queued()
            executor.stop(reason)

    def _end_gently(self) -> None:
        """On SIGTERM calls that run side by side may end; a handler of the user's stays."""
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: Any) -> None:
        """Runs between any two steps of the main thread, which may hold the lock: another thread takes it."""
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        """End as SIGTERM asks, once the calls that run have ended."""
        executor = self.executor
        with executor.loop.lock:
            self.draining = self.may_restart = True
            self.code = -signal.SIGTERM
            self._drop_queued()
            executor.stop("it received SIGTERM")

    def _drop_queued(self) -> None:
        self.executor.queue.entries.clear()
        for group in self.groups.values():
            group.clear()
        if self.coroutines is not None:
            self.coroutines.drop_queued()

    def finish(self) -> None:
        """Main thread, after its last call: wait for the threads, then say goodbye.  Replies go first."""
        for group in self.groups.values():
            group.join()
        executor = self.executor
        with executor.loop.lock:
            executor.flush()
            reason = self.leaving or executor.stopping or ""
            executor.release = Waiter()
            executor.rt.send(executor.rt.node, ActorExit(self.id, self.life, reason, self.may_restart))
            executor.loop.kick()

    def forget_instance(self) -> None:
        """Nothing here keeps the instance alive any more."""
        self.instance = None
        self.executor.table.clear()

    def wake(self) -> None:
        if self.coroutines is not None:
            self.coroutines.wake()


def _bound(instance: Any, name: str) -> Callable[..., Any]:
    """The method of the class: an attribute of that name, which the instance was given, is not what callers mean."""
    cls = type(instance)
    for base in cls.__mro__:
        if name in base.__dict__:
            found = base.__dict__[name]
            return found.__get__(instance, cls) if hasattr(found, "__get__") else found
    return getattr(instance, name)


def _ready() -> bool:
    return True


class NoInterrupts:
    """Stands for Interrupts on threads that cannot be interrupted."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current: Any = None

    def was_hit(self, task: list[Any]) -> bool:
        return False


class ThreadGroup:
    """A concurrency group of a threaded actor: up to ``size`` threads on one inbox, so calls start in order."""

    def __init__(self, host: ActorHost, name: str, size: int):
        self.host = host
        self.name = name
        self.size = size
        self.inbox: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.idle = 0  # threads that wait, less the entries on their way to them
        self.waiting: dict[tuple[bytes, int], Entry] = {}  # not started
        self.running: dict[tuple[bytes, int], list[Any]] = {}

    def put(self, entry: Entry) -> None:
        """Under the lock."""
        self.waiting[invoke.identity(entry[2])] = entry
        if self.idle > 0:
            self.idle -= 1
        elif len(self.threads) < self.size:
            name = f"zray-{self.name or 'actor'}-{len(self.threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self.threads.append(thread)
            self.inbox.put(entry)
            thread.start()
            return
        self.inbox.put(entry)

    def cancel(self, task: bytes, attempt: int) -> bool:
        """Under the lock: answer a call that has not started."""
        entry = self.waiting.pop((task, attempt), None)
        if entry is None:
            return False
        lease, sequence, call = entry
        lease.ends.extend((sequence, invoke.cancelled(call, f"{self.host.class_name}.{call[FUNCTION]}")))
        self.host.executor.unsent[id(lease)] = lease
        self.host.executor.flush()
        return True

    def clear(self) -> None:
        self.waiting.clear()

    def join(self) -> None:
        """No more calls come: let those that run finish."""
        for _ in self.threads:
            self.inbox.put(None)
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self) -> None:
        executor = self.host.executor
        lock, get = executor.loop.lock, self.inbox.get
        self.host.fill(executor.rt.context)
        none = NoInterrupts()
        while True:
            entry = get()
            if entry is None:
                return
            lease, sequence, task = entry
            with lock:
                mine = self.waiting.pop(invoke.identity(task), None) is not None
                if mine:
                    self.running[invoke.identity(task)] = task
            result = None
            took = 0
            if mine:
                before = time.perf_counter_ns()
                result = executor.run_one(task, lease, none)
                took = time.perf_counter_ns() - before
                executor.events.add(task, executor.rt.context.task_name, before, result)
            identity = invoke.identity(task)
            del task, entry
            with lock:
                self.running.pop(identity, None)
                if result is not None:
                    lease.ends.extend((sequence, result))
                    executor.unsent[id(lease)] = lease
                empty = self.inbox.empty()
                if empty:
                    self.idle += 1
                if empty or took > FLUSH_AFTER_NS or len(lease.ends) >= 128:
                    executor.flush()
                    executor.loop.kick()
