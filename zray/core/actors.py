"""Actors as this process creates, calls and ends them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from zray.base import errors, ids
from zray.core.machine import CoreMachine
from zray.core.tasks import TURN_EVERY, Tasks, strategy_of
from zray.core.waits.blocking import Waits
from zray.core.waits.replies import Questions
from zray.handles.options import STREAMING
from zray.handles.refs import ObjectRef
from zray.owner.calls import ActorLink
from zray.owner.records import Entry, Function, Task
from zray.values import serialization
from zray.wire import messages as m


class Actors:
    """Creation, calls and ends of actors by one Runtime."""

    def __init__(self, machine: CoreMachine, tasks: Tasks, waits: Waits, questions: Questions):
        self.machine = machine
        self.process = machine.process
        self.loop = tasks.loop
        self.turns = tasks.turns
        self.groups = tasks.groups
        self.refs = machine.refs
        self.calls = machine.calls
        self.tasks = tasks
        self.waits = waits
        self.questions = questions
        self.context = tasks.context
        self.next_id = tasks.next_id
        self.carried: Callable[[], dict[str, str] | None] | None = None  # the trace context of a creation

    def create(self, cls: Any, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        """See zray.handles.remote.ActorClass.remote; ``cls`` is an ActorTemplate."""
        options = self.groups.inherit(options)
        self.groups.check(options, cls.name)
        key, blob = cls.definition()
        self.tasks.register_function(key, blob)
        payload, slots, deps, pins = self.tasks.pack_args(args, kwargs, cls.cls)
        meta = cls.meta(options)
        namespace = options.namespace or self.process.namespace
        any_order = options.any_order(cls.is_async)
        with self.loop.lock:
            tid = self.next_id(self.context)
            actor = ids.actor_id(tid[:ids.PREFIX_SIZE], int.from_bytes(tid[ids.PREFIX_SIZE:], "little"))
        spec: dict[str, Any] = {
            "class_key": key, "args": payload, "slots": slots or [], "deps": [], "demand": options.placement,
            "running": options.running, "name": options.name or "", "namespace": namespace,
            "detached": self.process.detached if options.lifetime is None else options.lifetime == "detached",
            "max_restarts": options.max_restarts,
            "max_task_retries": options.max_task_retries, "max_concurrency": options.max_concurrency or 0,
            "concurrency_groups": options.concurrency_groups or {}, "is_async": cls.is_async,
            "env": self.tasks.environments.of(options.env),
            "class_name": cls.name, "method_names": cls.method_names, "get_if_exists": options.get_if_exists,
            "out_of_order": any_order, "meta": meta, "job": self.process.job, "strategy": strategy_of(options)}
        checkpoints = self._checkpoints(cls, options)
        if checkpoints is not None:
            spec["checkpoints"] = checkpoints
        if self.carried is not None:
            spec["trace"] = self.carried()
        if deps:  # a restart asks them for arguments that were lost
            with self.loop.lock:
                spec["dep_owners"] = [self.machine.address_of(record) for record in deps]
        if options.name:
            found = self._create_named(cls, actor, spec, deps, options)
            if found is not None:
                return found
        with self.loop.lock:
            entry = self.machine.creations.create(tid, actor, spec, deps or [], pins)
            life: ObjectRef | None = ObjectRef(entry.oid, entry) if entry is not None else None
        self.turns.kick()
        return cls.handle(actor, meta, life)

    @staticmethod
    def _checkpoints(cls: Any, options: Any) -> dict[str, Any] | None:
        """The settings of an actor with checkpoints; ValueError where these are not possible."""
        if options.checkpoint_interval is None and options.checkpoint_dir is None and (
                not hasattr(cls.cls, "should_checkpoint")):
            return None
        from zray.handles.checkpoints import settings_of

        return settings_of(options, cls.cls, cls.name, cls.is_async)

    def _create_named(self, cls: Any, actor: bytes, spec: dict[str, Any], deps: Any, options: Any) -> Any:
        """Claim the name before ``.remote()`` returns: None when we have it, else a handle of the existing actor."""
        if deps:
            self.waits.wait_all(deps, None)
            spec["deps"] = [record.value for record in deps]
        answer = self.questions.request(lambda n: m.CreateActor(actor, spec, n))
        if answer.error == "name_taken":
            raise errors.name_is_taken(options.name, spec["namespace"])
        if answer.error:
            raise errors.RaySystemError(answer.detail or answer.error)
        if answer.actor != actor:
            return cls.handle(answer.actor, answer.meta, None)
        return None

    def call(self, handle: Any, method: str, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        """A call of an actor's method; see zray.handles.remote.ActorMethod.remote."""
        if args or kwargs:
            payload, slots, deps, pins = self.tasks.pack_args(args, kwargs, (handle, method))
        else:
            payload, slots, deps, pins = serialization.EMPTY_ARGS, None, None, None
        link = self.calls.links.get(handle._actor)
        if link is None or not link.watched or link.max_pending is None:
            link = self._link(handle)
        if link.max_pending and 0 < link.max_pending <= link.unfinished:
            raise errors.PendingCallsLimitExceeded(
                f"The task {link.name}.{method} could not be submitted because actor {handle._actor.hex()} already has "
                f"{link.unfinished} calls pending and max_pending_calls={link.max_pending}.")
        context = self.context
        wanted = options.num_returns
        retries = options.max_task_retries
        with self.loop.lock:
            tid = self.next_id(context)
            fn = link.methods.get(method)
            if fn is None:
                fn = link.methods[method] = Function(b"", b"", method)
            task = Task(tid, fn, payload, wanted, None, link.max_task_retries if retries is None else retries)
            task.parent = context.task
            if pins is not None:
                task.deps, task.pins = deps, pins
                if slots:
                    task.extra = {"slots": slots}
            if wanted == 1:
                oid = tid + ids.RETURN_1
                entry = Entry(oid, task)
                self.refs.owned[oid] = task.entry = entry
                result: Any = ObjectRef(oid, entry)
            else:
                result = self.tasks.returns(task, wanted, options.backpressure)
                if wanted == STREAMING and options.backpressure > 0:
                    task.extra = {**(task.extra or {}), "backpressure": options.backpressure}
            if options.group:
                task.extra = {**(task.extra or {}), "group": options.group}
            if options.name:
                task.extra = {**(task.extra or {}), "name": options.name}
            if options.retry_exceptions:
                task.retry_errors = options.retry_exceptions
            machine = self.machine
            unsent = machine.unsent = machine.unsent + 1
            if unsent == 1:
                machine.submitted_s = time.monotonic()
            task.created = machine.submitted_s
            self.calls.submit(link, task)
        if unsent >= TURN_EVERY:
            self.loop.turn()
        elif unsent == 1 and self.loop.has_leader:
            self.loop.wake()
        self.loop.raise_pending()
        return result

    def _link(self, handle: Any) -> ActorLink:
        about = handle._about
        with self.loop.lock:
            link = self.calls.link_for(handle._actor, about.class_name, about.out_of_order)
            link.max_task_retries = about.max_task_retries
            link.max_pending = about.max_pending_calls
            if link.life_record is None and handle._life_ref is not None:
                link.life_record = handle._life_ref._record
        return link

    def kill(self, actor: bytes, no_restart: bool) -> None:
        with self.loop.lock:
            self.calls.kill(actor)
            self.machine.send(self.process.node, m.KillActor(actor, no_restart, False, "it was killed by `ray.kill`"))
        self.turns.kick()

    def death_of(self, actor: bytes) -> errors.RayError | None:
        """The error of calls to an actor that this process knows to be dead; else None."""
        with self.loop.lock:
            link = self.calls.links.get(actor)
            failure = self.calls.death_of(link) if link is not None else None
        return errors.from_failure(failure[1], failure[2]) if failure is not None else None

    def lookup(self, name: str, namespace: str | None) -> tuple[bytes, bytes]:
        """``(actor, meta)`` of a named actor; ValueError when there is none."""
        space = namespace or self.process.namespace
        answer = self.questions.request(lambda n: m.LookupActor(name, space, n))
        if answer.error:
            raise ValueError(f"Failed to look up actor with name '{name}'. This could because 1. You are trying to "
                             "look up a named actor you didn't create. 2. The named actor died. 3. You did not use a "
                             f"namespace matching the namespace of the actor (looked in '{space}'){self._near(name)}.")
        return answer.actor, answer.meta

    def _near(self, name: str) -> str:
        """A hint: the other namespaces of this name, or a similar name."""
        rows = self.questions.query("actors", named=True)["actors"]
        spaces = sorted({row["namespace"] for row in rows if row["name"] == name})
        if spaces:
            return f"; it is in the namespace {' and in '.join(map(repr, spaces))}: get_actor(name, namespace=...)"
        return errors.did_you_mean(name, {row["name"] for row in rows})
