"""One Runtime a process: the loop, the lock, pickling and the store around a CoreMachine; the API calls it.

The lock of the loop guards all state here.  User code, pickling and copying run outside it.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from zray.base import errors, ids, stacks
from zray.base.config import Config
from zray.base.os_linux import may_spin
from zray.core.actors import Actors
from zray.core.context import Context, TaskIds
from zray.core.groups import Groups
from zray.core.machine import CoreMachine
from zray.core.ports import Work
from zray.core.process import ProcessRecord
from zray.core.reach import Reach
from zray.core.stored import Stored
from zray.core.tasks import Tasks
from zray.core.turns import Turns
from zray.core.unhandled import Reporter
from zray.core.values import Values
from zray.core.waits.asking import Whys
from zray.core.waits.blocking import Waits
from zray.core.waits.futures import Futures
from zray.core.waits.patience import Warned
from zray.core.waits.replies import REQUEST_TIMEOUT_S, Questions, Reply
from zray.core.witness import Witness
from zray.gcs.client.client import GcsClient
from zray.handles import refs as refs_module
from zray.handles.refs import ObjectRef, dropped
from zray.owner.calls import ActorCalls
from zray.owner.records import Borrowed, Entry
from zray.owner.references import References
from zray.owner.submitter import Submitter
from zray.store.client import StoreClient
from zray.transport.loop import Loop
from zray.transport.mesh import Limits, Mesh
from zray.values import serialization
from zray.wire import codec, messages as m

__tracebackhide__ = True  # pytest leaves these frames out of its reports

logger = logging.getLogger("zray")

# Ray's variable: with "0" references may not be pickled outside of zray's own values.
OUT_OF_BAND = "RAY_allow_out_of_band_object_ref_serialization"
LINGER_MS = 200  # for the last frames of a process that leaves
GOODBYE_S = 5.0  # a driver waits so long for its node to flush the output of the job


class Runtime:
    """Everything a core process has; made by zray.core.joining.

    process machine             its identity; its owner's machines (pure), of which this is the Shell
    mesh loop reach turns       connections, threads, time
    tasks actors groups waits   calls of user code: submission, actors, placement groups, blocking reads
    values stored futures       pickling; the object store with its waits; futures and await
    questions whys reporter     questions to the node, and to other processes; unhandled failures
    """

    def __init__(self, kind: str, incarnation: bytes, node: bytes, node_endpoint: str, endpoint: str, job: int,
                 config: Config):
        python = f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}"
        self.process = process = ProcessRecord(kind, incarnation, node, endpoint, os.getpid(), python, job, config)
        process.epoch_s = time.time() - time.monotonic()
        self.ids = TaskIds()
        self.ids.set_job(job)
        self.context = Context()
        self.marks: Any = None  # of a worker: its progress marks
        self.executor: Any = None  # of a worker
        self.witness: Witness | None = None  # of a driver: observes the end of its node
        self.driver_log: Callable[[m.LogLines], None] | None = None
        self.screen: Any = None  # of a driver that shows output (zray.api.worker_output)
        self.accepted: Reply | None = None  # of a driver that waits for its node's answer
        self.warned = Warned(kind == "worker")
        self._when_node_lost: Callable[[], None] | None = None
        self._pinned: set[bytes] = set()  # objects that live as long as this process
        limits = Limits.of(config, channels_max=config.channels_max, spin_s=config.spin_s if may_spin() else 0.0)
        self.mesh = Mesh(incarnation, job, endpoint, codec.encode, codec.decode, time.monotonic, limits=limits)
        self.mesh.on_error = _report_error
        self.loop = Loop(self.mesh, self._dispatch, on_error=_report_error, service_after_s=config.service_after_s)
        self.reach = Reach(self.mesh, node, process.session_dir)
        self.stored = Stored(process, self.loop, self.context, self.warned)
        self.values = Values(process, self.loop, self.context, self.ids, self.stored)
        self.machine = CoreMachine(process, self.mesh, self.reach, self.stored, self.values, self, dropped)
        self.fetching = self.machine.fetching
        self.paused = self.machine.paused
        self.mesh.on_closed = self._closed
        self.turns = Turns(self.machine, self.loop)
        self.futures = Futures(self.machine, self.loop, self.turns, self.values, self.stored)
        self.stored.machine = self.machine
        self.values.bind(self.machine, self.futures.run, self.turns.kick)
        self.reporter = Reporter(self.machine, self.loop, self.turns, self.futures)
        self.questions = Questions(self.machine, self.loop)
        self.whys = Whys(self.machine, self.loop, self.questions)
        self.groups = Groups(self.machine, self.loop, self.turns, self.context, self.ids, self.questions)
        self.tasks = Tasks(self.machine, self.loop, self.turns, self.context, self.ids, self.questions, self.values,
                           self.groups)
        self.waits = Waits(self.machine, self.loop, self.context, self.values, self.stored, self.futures,
                           self.questions, self.whys, self.warned)
        self.actors = Actors(self.machine, self.tasks, self.waits, self.questions)
        with self.loop.lock:
            self.machine.connect(node, node_endpoint)
        self.loop.start()

    def _dispatch(self, peer: bytes, code: int, message: Any) -> None:
        self.machine.handle(peer, code, message, self.mesh.now)

    def _closed(self, peer: bytes) -> None:
        self.machine.closed(peer, self.mesh.now)

    # ------------------------------------------------------------ Shell of the machine, under the lock

    clock = staticmethod(time.monotonic)

    def later(self, seconds: float, action: Callable[[], None]) -> Any:
        return self.turns.later(seconds, action)

    @staticmethod
    def retry_matches(wanted: Any, failure: list[Any]) -> bool:
        cause = getattr(errors.from_failure(failure[1], failure[2]), "cause", None)
        return isinstance(cause, tuple(wanted))

    def refused(self, peer: bytes, why: str) -> None:
        if self.accepted is not None and peer == self.process.node:
            self.accepted.message = why
            self.loop.notify(self.accepted)
        else:
            logger.error("peer %s refuses this process: %s", peer.hex(), why)

    def node_lost(self) -> dict[str, Any]:
        if self._when_node_lost is not None:
            self._when_node_lost()
        return self.witness.account() if self.witness is not None else {}

    def when_node_lost(self, act: Callable[[], None]) -> None:
        """Call ``act()`` when the node is gone or cannot be dialled; at once if that is known already."""
        with self.loop.lock:
            self._when_node_lost = act
            if self.submitter.lost is not None:
                act()

    def show_unhandled(self) -> None:
        self.reporter.pump()

    def actor_failed(self, actor: bytes, failure: list[Any]) -> None:
        self.reporter.actor_failed(actor, failure)

    def log_lines(self, message: m.LogLines) -> None:
        if self.driver_log is not None:
            lines = self.warned.take(message.lines, self.futures.log)
            if lines or message.dropped or message.unfinished:
                self.driver_log(message._replace(lines=lines))

    def stacks(self) -> str:
        return stacks.text()

    def profile(self, question: bytes, answer: Callable[[str], None]) -> None:
        from zray.base import sampling  # few processes are ever profiled

        def done(text: str) -> None:
            with contextlib.suppress(RuntimeError), self.loop.lock:  # the process may end meanwhile
                answer(text)
                self.loop.kick()

        if error := sampling.start(question, done):
            answer(error)

    # ------------------------------------------------------------ calls of user code

    def submit(self, fn: Any, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        return self.tasks.submit(fn, args, kwargs, options)

    def map(self, fn: Any, items: Iterable[Any], options: Any, star: bool) -> Any:
        return self.tasks.map(fn, items, options, star)

    def map_item(self, batch: Any, index: int) -> ObjectRef:
        return self.tasks.map_item(batch, index)

    def cancel(self, ref: Any, force: bool, recursive: bool) -> None:
        self.tasks.cancel(ref, force, recursive)

    def create_actor(self, cls: Any, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        return self.actors.create(cls, args, kwargs, options)

    def call(self, handle: Any, method: str, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        return self.actors.call(handle, method, args, kwargs, options)

    def kill(self, actor: bytes, no_restart: bool) -> None:
        self.actors.kill(actor, no_restart)

    def lookup_actor(self, name: str, namespace: str | None) -> tuple[bytes, bytes]:
        return self.actors.lookup(name, namespace)

    def death_of(self, actor: bytes) -> errors.RayError | None:
        return self.actors.death_of(actor)

    def made_again(self, lost: Sequence[Any], owner: bytes, endpoint: str) -> Any:
        """The present wire value of an object that this process has found lost, as its owner has it or makes it.

        ``lost``: [object id, the lost value, the reason].
        """
        oid, value, reason = lost
        with self.loop.lock:
            record = self.refs.restore(oid, owner, endpoint)
            ref: ObjectRef = ObjectRef(oid, record)
            if record.value is None and not record.waiters and not self.machine.ends.has_ended(owner):
                record.value = value
            failed = None if record.value is None else self.submitter.reconstruction.lost(record, record.value, reason)
        if failed is not None:
            return failed
        self.waits.wait_all((record,), None)
        del ref
        return record.value

    def put(self, value: Any, copies: int = 1) -> ObjectRef:
        return self.values.put(value, copies)

    def get_one(self, ref: ObjectRef, timeout: float | None = None) -> Any:
        return self.waits.get_one(ref, timeout)

    def get(self, refs: Sequence[ObjectRef], timeout: float | None = None) -> list[Any]:
        return self.waits.get(refs, timeout)

    def get_map(self, refs: Any, timeout: float | None = None) -> list[Any]:
        return self.waits.get_map(refs, timeout)

    def wait(self, refs: Sequence[ObjectRef], num_returns: int, timeout: float | None, fetch_local: bool = True
             ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        return self.waits.wait(refs, num_returns, timeout, fetch_local)

    def next_of_stream(self, stream: Any, timeout: float | None) -> ObjectRef | None:
        return self.waits.next_of_stream(stream, timeout)

    def completed_of_stream(self, stream: Any) -> ObjectRef:
        with self.loop.lock:
            entry = self.submitter.streams.completed(stream)
            return ObjectRef(entry.oid, entry)

    async def next_of_stream_async(self, stream: Any) -> ObjectRef | None:
        return await self.waits.next_of_stream_async(stream)

    async def awaitable(self, ref: ObjectRef) -> Any:
        return await self.waits.awaitable(ref)

    def future(self, ref: ObjectRef) -> Future[Any]:
        return self.futures.future(ref)

    def fulfil(self, future: Future[Any], ref: ObjectRef) -> None:
        """End ``future``, a GuardedFuture that runs, with the value or the error of ``ref``."""
        self.futures.fulfil(future, ref)

    def map_future(self, refs: Any) -> Future[None]:
        return self.futures.map_future(refs)

    def explain(self, ref: Any) -> str:
        """A text: why this reference (or the next one of a generator, or a map) is not ready."""
        return self.waits.explain(ref)

    def query(self, what: str, timeout_s: float = REQUEST_TIMEOUT_S, **args: Any) -> dict[str, Any]:
        """A view of the node: see messages.NodeQuery."""
        return self.questions.query(what, timeout_s, **args)

    def request(self, make: Callable[[int], Any], timeout: float = REQUEST_TIMEOUT_S) -> Any:
        """Send ``make(request number)`` to the node and wait for its answer."""
        return self.questions.request(make, timeout)

    def ask_control_store(self, what: str, call: Callable[[Callable[[Any], None]], Any]) -> Any:
        """See zray.core.waits.replies."""
        return self.questions.ask_control_store(what, call)

    # ------------------------------------------------------------ references

    def address_of(self, record: Any) -> tuple[bytes, str]:
        """``(owner, its endpoint)`` of a record, for a reference that leaves this process."""
        return self.machine.address_of(record)

    def pin_for_good(self, ref: ObjectRef) -> None:
        """Pin an object for ever: user code pickled its reference, or a function captured it."""
        if os.environ.get(OUT_OF_BAND, "").lower() in ("0", "false"):
            raise errors.OufOfBandObjectRefSerializationException(
                f"It is not allowed to serialize {ref!r} here, because the object would live as long as this process: "
                f"{OUT_OF_BAND}=0 is set. Pass the reference to a task, actor or put() instead of pickling it or "
                "capturing it in a function.")
        with self.loop.lock:
            if ref._oid not in self._pinned:
                self._pinned.add(ref._oid)
                ref._record.refs += 1

    def knows(self, oid: bytes) -> bool:
        """Whether this process holds a reference to the object, or owns it."""
        return oid in self.refs.owned or oid in self.refs.borrowed

    def find(self, oid: bytes) -> Entry | Borrowed | None:
        """The record of an object that is known here, its count raised by one; None when it is not known."""
        with self.loop.lock:
            record = self.refs.owned.get(oid) or self.refs.borrowed.get(oid)
            if record is not None:
                record.refs += 1
            return record

    def restore_ref(self, oid: bytes, owner: bytes, endpoint: str) -> ObjectRef:
        with self.loop.lock:
            record = self.refs.restore(oid, owner, endpoint, self.context.inside, lent=serialization.registering())
            return ObjectRef(oid, record)

    def empty_dropped(self) -> None:
        """Release now the references that finalisers dropped (under the lock)."""
        self.machine.empty_dropped()

    # ------------------------------------------------------------ for the executor

    def send(self, peer: bytes, message: Any) -> None:
        self.mesh.send(peer, message.CODE, message)

    def attach_executor(self, executor: Any) -> None:
        """This process is a worker: it runs tasks that other processes push."""
        self.executor = self.waits.executor = executor
        self.machine.attach_executor(
            Work(executor.queue.forget_owners, executor.place_of, executor.inline.cancel, executor.rows),
            executor.machine.handlers)

    def report_metrics_after(self, seconds: float) -> None:
        """Send the node the metrics of this process after some time."""
        with self.loop.lock:
            self.loop.call_at(time.monotonic() + seconds, self.flush_metrics)
        self.loop.wake()

    def flush_metrics(self) -> None:
        """Send the node the metrics of this process (under the lock)."""
        module = sys.modules.get("zray.core.metrics")  # loaded by the first metric
        if module is not None and not self.process.closed and (report := module.report()) is not None:
            self.send(self.process.node, report)

    def parents(self) -> list[list[bytes]]:
        """``[prefix, task]`` of the tasks that have submitted others since the last call (under the lock)."""
        found = list(self.ids.parents)
        self.ids.parents.clear()
        return found

    def set_job(self, job: int) -> None:
        """Join a job: ids made from now on carry it."""
        self.machine.set_job(job)
        self.ids.set_job(job)

    def fetch_function(self, key: bytes) -> bytes:
        return self.tasks.fetch_function(key)

    def cancel_children(self, parent: bytes) -> None:
        """Cancel the tasks that task ``parent`` submitted from this process (under the lock)."""
        self.machine.cancel_children(parent)

    def resolve(self, values: Sequence[Any], outer: Any = None) -> list[Any]:
        return self.values.load_many(values)

    def encode_result(self, value: Any, task: bytes, index: int, receiver: bytes | None = None) -> Any:
        return self.values.result(value, ids.return_id(task, index), receiver or self.context.receiver)

    def still_held(self, records: Iterable[Any]) -> list[list[Any]]:
        """The holds on ``records`` that the reply of an ended task lists (under the lock)."""
        return self.machine.still_held(records)

    def owner_busy(self) -> bool:
        """Whether other processes depend on objects of this one, or it has unfinished tasks."""
        return self.machine.is_owner

    # ------------------------------------------------------------ the store, and the end

    def attach_store(self, attach: dict[str, Any]) -> None:
        """Map the node's store; ``attach`` is the node's description of it."""
        with self.loop.lock:
            client = StoreClient(attach, attach["slot"], self.incarnation,
                                 lambda message: self.send(self.node, message), self.config,
                                 make_waiter=self.loop.waiter, notify=self.loop.notify)
            client.collect = self._collect_soon
            self.machine.take(client.handlers)
            self.stored.attach(client)

    def _collect_soon(self) -> None:
        """Collect garbage on the thread of futures: finalisers of the user must not run under the lock."""
        self.futures.run(self._collect)

    def _collect(self) -> None:
        gc.collect()
        self.turns.kick()  # the references that went send their frees

    def drain(self, seconds: float) -> None:
        """Wait until ZeroMQ has every queued message, or the time is over."""
        until = time.monotonic() + seconds
        self.kick()
        while self.mesh.pending() and time.monotonic() < until:
            self.loop.turn()

    def kick(self) -> None:
        """Send the queued messages now, no matter which thread polls."""
        self.turns.kick()

    def shutdown(self, goodbye: bool = True) -> None:
        """Leave: tell the node, wait until it has flushed the output of this job, close everything."""
        process = self.process
        if process.closed:
            return
        with self.loop.lock:
            self.flush_metrics()
        process.closed = True
        self.reporter.end()
        if goodbye and process.kind == "driver" and process.pid == os.getpid() and self.submitter.lost is None:
            parted = self.loop.waiter()
            with self.loop.lock:
                self.machine.goodbye(lambda: self.loop.notify(parted))
            with contextlib.suppress(errors.GetTimeoutError):
                self.loop.wait(parted, time.monotonic() + GOODBYE_S)
        with self.loop.lock:
            self.machine.end()
        self.loop.stop()
        self.futures.close()
        self.mesh.close(LINGER_MS)
        if self.witness is not None:
            self.witness.close()
        self.stored.close()
        if refs_module._hooks["runtime"] is self:
            refs_module._hooks["runtime"] = None
            refs_module.wake.armed = False
            serialization.set_out_of_band_hook(None)

    def check(self) -> None:
        """Every machine's invariants."""
        with self.loop.lock:
            self.machine.empty_dropped()
            self.machine.check()

    # ------------------------------------------------------------ shortcuts

    @property
    def kind(self) -> str:
        return self.process.kind

    @property
    def incarnation(self) -> bytes:
        return self.process.incarnation

    @property
    def node(self) -> bytes:
        return self.process.node

    @property
    def endpoint(self) -> str:
        return self.process.endpoint

    @property
    def job(self) -> int:
        return self.process.job

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def config(self) -> Config:
        return self.process.config

    @property
    def session_dir(self) -> str:
        return self.process.session_dir

    @property
    def node_info(self) -> dict[str, Any]:
        return self.process.node_info

    @property
    def namespace(self) -> str:
        return self.process.namespace

    @namespace.setter
    def namespace(self, name: str) -> None:
        self.process.namespace = name

    @property
    def env(self) -> dict[str, Any]:
        return self.process.env

    @env.setter
    def env(self, env: dict[str, Any]) -> None:
        self.process.env = env

    def travelling_env(self, env: dict[str, Any]) -> dict[str, Any]:
        """See zray.core.environments."""
        return self.tasks.environments.travelling(env)

    @property
    def closed(self) -> bool:
        return self.process.closed

    @property
    def handlers(self) -> dict[int, Callable[[bytes, Any], None]]:
        return self.machine.handlers

    @property
    def store(self) -> StoreClient:
        return self.stored.client

    @property
    def refs(self) -> References:
        return self.machine.refs

    @property
    def submitter(self) -> Submitter:
        return self.machine.submitter

    @property
    def calls(self) -> ActorCalls:
        return self.machine.calls

    @property
    def gcs(self) -> GcsClient:
        return self.machine.gcs


def current() -> Runtime | None:
    """The Runtime of this process, or None; a forked child of user code has none."""
    runtime = refs_module._hooks["runtime"]
    return runtime if runtime is not None and runtime.pid == os.getpid() else None


def _report_error(error: Exception) -> None:
    logger.error("internal error: %s", error, exc_info=error)
