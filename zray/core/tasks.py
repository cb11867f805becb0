"""Submission of tasks: from a RemoteFunction and its arguments to the records of the owner."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from zray.base import errors, ids
from zray.core.context import Context, TaskIds
from zray.core.environments import Environments
from zray.core.groups import Groups
from zray.core.machine import CoreMachine
from zray.core.turns import Turns
from zray.core.values import Values
from zray.core.waits.replies import REQUEST_TIMEOUT_S, Questions, Reply
from zray.handles.options import DYNAMIC, STREAMING
from zray.handles.refs import MapRefs, ObjectRef, ObjectRefGenerator
from zray.owner.maps import MapBatch
from zray.owner.records import Entry, Function, Key, Task
from zray.transport.loop import Loop
from zray.values import serialization

# A submission sends nothing: get and wait send the queued tasks, or the service thread does within milliseconds.
# A thread that only submits takes a turn once in so many submissions.
TURN_EVERY = 64


class Site:
    """A RemoteFunction with given options, as ``tasks`` submits it."""

    __slots__ = ("tasks", "options", "fn", "key", "retries", "nret", "plain")

    def __init__(self, tasks: Tasks, options: Any, fn: Function, key: Key, retries_default: int):
        self.tasks = tasks
        self.options = options
        self.fn = fn
        self.key = key
        retries = options.max_retries
        self.retries = retries_default if retries is None else retries
        self.nret = options.num_returns
        # plain: one return, and the worker needs nothing but the function
        self.plain = options.num_returns == 1 and not options.max_calls and options.name is None \
            and options.durability == 1


class Tasks:
    """The tasks that one Runtime submits."""

    def __init__(self, machine: CoreMachine, loop: Loop, turns: Turns, context: Context, ids_: TaskIds,
                 questions: Questions, values: Values, groups: Groups):
        self.machine = machine
        self.process = machine.process
        self.loop = loop
        self.turns = turns
        self.questions = questions
        self.groups = groups
        self.refs = machine.refs
        self.submitter = machine.submitter
        self.values = values
        self.context = context
        self.ids = ids_
        self.next_id = ids_.next
        self.environments = Environments(machine, ids_, questions)
        self._exported: set[bytes] = set()  # functions and classes that we have stored in the control store

    def end(self, succeeded: bool) -> None:
        """The job of this driver ends; see zray.core.resuming."""

    def site(self, fn: Any, options: Any) -> Site:
        self.groups.check(options, fn.name)
        key, blob = fn.definition()
        self.register_function(key, blob)
        function = Function(key, blob, fn.name)
        env = self.environments.of(options.env)
        default = self.process.config.task_max_retries
        named, strategy = options.key, strategy_of(options)
        if not (default if options.max_retries is None else options.max_retries):
            named, strategy = (named, "once"), {**strategy, "once": True}  # so that its node knows (MemoryMonitor)
        with self.loop.lock:
            record = self.submitter.key_for(named, options.demand, env, strategy, fn.name)
        site = fn.state = Site(self, options, function, record, default)
        return site

    def register_function(self, key: bytes, blob: bytes) -> None:
        """Store a function or class in the control store, once, without waiting for the answer."""
        if key not in self._exported:
            self._exported.add(key)
            with self.loop.lock:
                self.machine.gcs.register_function(self.ids.job_bytes + key, blob)

    def fetch_function(self, key: bytes) -> bytes:
        """A function from the control store, for a worker that did not get it with the task."""
        reply = Reply()
        name = self.ids.job_bytes + key

        def arrived(call: Any) -> None:
            reply.message = call
            self.loop.notify(reply)

        with self.loop.lock:
            self.machine.gcs.get_function(name, arrived)
        self.loop.wait(reply, time.monotonic() + REQUEST_TIMEOUT_S)
        call = reply.message
        if call is None or call.error:
            why = (self.questions.store_trouble() or "did not answer") if call is None else call.error
            raise errors.RaySystemError(f"function {key.hex()} could not be read: the control store {why}")
        return call.value if call.value is not None else self._await_function(key, name)

    def _await_function(self, key: bytes, name: bytes) -> bytes:
        """Wait until the control store has the function.

        Its owner does not wait for that, so a message that names the function may arrive here earlier.
        """
        reply = Reply()

        def stored(blob: bytes) -> None:
            reply.message = blob
            self.loop.notify(reply)

        with self.loop.lock:
            watch = self.machine.gcs.await_function(name, stored)
        self.loop.wait(reply, time.monotonic() + REQUEST_TIMEOUT_S)
        with self.loop.lock:
            self.machine.gcs.unwatch(watch)
        if reply.message is None:
            raise errors.RaySystemError(f"function {key.hex()} could not be read: the control store did not get it "
                                        f"within {REQUEST_TIMEOUT_S:g} s; its owner has probably died")
        return reply.message

    def submit(self, fn: Any, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        """A task; see zray.handles.remote.RemoteFunction.remote."""
        if self.context.assigned:
            options = self.groups.inherit(options)
        site = fn.state
        if site is None or site.tasks is not self or site.options is not options:
            site = self.site(fn, options)
        if args or kwargs:
            payload, slots, deps, pins = self.pack_args(args, kwargs, fn.function)
        else:
            payload, slots, deps, pins = serialization.EMPTY_ARGS, None, None, None
        context = self.context
        with self.loop.lock:
            tid = self.next_id(context)
            task = Task(tid, site.fn, payload, site.nret, site.key, site.retries)
            task.parent = context.task
            if pins is not None:
                task.deps, task.pins = deps, pins
                if slots:
                    task.extra = {"slots": slots}
            if site.plain:
                oid = tid + ids.RETURN_1
                entry = Entry(oid, task)
                self.refs.owned[oid] = task.entry = entry
                result: Any = ObjectRef(oid, entry)
            else:
                result = self.returns(task, options.num_returns, options.backpressure)
                self._task_extra(task, options)
            if options.retry_exceptions:
                task.retry_errors = options.retry_exceptions
            machine = self.machine
            unsent = machine.unsent = machine.unsent + 1
            if unsent == 1:
                machine.submitted_s = time.monotonic()
            task.created = machine.submitted_s
            self.submitter.submit(task)
        if unsent >= TURN_EVERY:
            self.loop.turn()
        elif unsent == 1 and self.loop.has_leader:
            self.loop.wake()
        self.loop.raise_pending()
        return result

    def _task_extra(self, task: Task, options: Any) -> None:
        extra = task.extra or {}
        if options.max_calls:
            extra["max_calls"] = options.max_calls
        if options.durability > 1:
            extra["durability"] = options.durability
        if options.name is not None:
            extra["name"] = options.name
        if options.num_returns == STREAMING and options.backpressure > 0:
            extra["backpressure"] = options.backpressure
        task.extra = extra or None

    def returns(self, task: Task, wanted: int, backpressure: int) -> Any:
        """Entries for what the task returns, and the references the caller gets (under the lock)."""
        if wanted == STREAMING:
            return ObjectRefGenerator(self.submitter.streams.open(task, backpressure))
        if wanted == DYNAMIC:
            wanted = 1  # the object of the references to its items
        entries = [self.refs.own(ids.return_id(task.tid, i + 1), task) for i in range(wanted)]
        refs: list[ObjectRef] = [ObjectRef(entry.oid, entry) for entry in entries]
        if wanted == 1:
            task.entry = entries[0]
            return refs[0]
        task.entry = entries
        return refs if wanted else None

    def pack_args(self, args: tuple, kwargs: dict[str, Any], function: Any) -> tuple[Any, Any, Any, Any]:
        """``(wire value of the arguments, slots, records of top-level references, records to pin)``."""
        payload: Any
        dumped, slots, deps = serialization.dump_args(args, kwargs, function)
        if dumped.nbytes <= self.process.config.inline_bytes_max:
            payload = dumped.pickle if not dumped.buffers else serialization.to_bytes(dumped)
            if not slots and not dumped.refs:
                return payload, None, None, None
            stored: Entry | None = None
        else:
            with self.loop.lock:
                oid = self.next_id(self.context) + ids.PUT_INDEX
            payload = self.values.store(dumped, oid)
            with self.loop.lock:
                stored = self.refs.own(oid)
                stored.refs = 0  # the task's pin is its only one
                stored.escaped = True
                stored.value = payload
        records = [ref._record for ref in deps]
        pins = records + [ref._record for ref in dumped.refs]
        if stored is not None:
            pins.append(stored)
        return payload, list(slots), records, pins

    def map(self, fn: Any, items: Iterable[Any], options: Any, star: bool) -> Any:
        """``f.map``; submits one task an item if items are references, or the options are not plain."""
        if not isinstance(items, (list, tuple, range)):
            items = list(items)
        if self.context.assigned:
            options = self.groups.inherit(options)
        site = fn.state
        if site is None or site.tasks is not self or site.options is not options:
            site = self.site(fn, options)
        with_refs = not isinstance(items, range) and (
            any(ObjectRef in set(map(type, item)) for item in items) if star else ObjectRef in set(map(type, items)))
        if with_refs or not site.plain:
            several: Any = items if star else [(item,) for item in items]
            return [self.submit(fn, tuple(item), {}, options) for item in several]
        context = self.context
        with self.loop.lock:
            first = self.next_id(context)
            start = context.counter
            context.counter += max(0, len(items) - 1)
            batch = MapBatch(first[:ids.PREFIX_SIZE], start, site.fn, site.key, items, star, site.retries)
            batch.retry_errors = options.retry_exceptions
            self.submitter.maps.submit(batch)
        self.turns.kick()
        return MapRefs(batch)

    def map_item(self, batch: MapBatch, index: int) -> ObjectRef:
        with self.loop.lock:
            entry = self.submitter.maps.entry(batch, index)
        return ObjectRef(entry.oid, entry)

    def cancel(self, ref: ObjectRef | ObjectRefGenerator, force: bool, recursive: bool) -> None:
        with self.loop.lock:
            if isinstance(ref, ObjectRefGenerator):
                self.machine.cancel_task(ref._stream.task, force, recursive)
            else:
                self.machine.cancel(ref._record, force, recursive)
        self.turns.kick()


def strategy_of(options: Any) -> dict[str, Any]:
    strategy = dict(options.strategy)
    if options.fallbacks and not strategy:
        return {"kind": "labels", "ladder": [options.label_selector, *options.fallbacks]}
    if options.label_selector:
        strategy["labels"] = options.label_selector
    return strategy
