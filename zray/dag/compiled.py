"""Compiled graphs: the actors of one node run the same calls over and over, and no task is submitted for them.

    execute   writes the input into a channel and returns; at most max_inflight_executions are not fetched
    get       reads the outputs of executions in their order, and keeps those that others will ask for
    teardown  closes the channels of this process; the actors see it, one after the other, and their threads end

One thread reads at a time, without the lock.  So others submit meanwhile, and wait for their results.
With ``enable_asyncio`` that thread is the graph's own (zray.dag.awaiting), and another one submits.

When an actor dies, its channels close.  The driver then asks all actors, and raises the error of the dead one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import secrets
import threading
import time
import weakref
from typing import Any

import zray as ray
from zray.base.graph_errors import RayCgraphCapacityExceeded, RayChannelError, RayChannelTimeoutError
from zray.channels.channel import ChannelClosed, ChannelTimeout, Listener
from zray.dag import loop
from zray.dag.awaiting import Awaited
from zray.dag.node import DAGNode
from zray.dag.plan import DRIVER, GraphPlan, PlannedCall, make_plan
from zray.dag.references import CompiledDAGFuture, CompiledDAGRef, _Result
from zray.dag.settings import CompileOptions
from zray.handles.connection import connected, has_ended

DEATH_TIMEOUT_S = 10.0  # for the death of an actor to be known after its channels closed
_ABSENT = object()
SESSION_ENDED = ("The session of this compiled graph has ended: zray was shut down since. "
                 "Compile a new graph after init().")
CLOSED = ("The compiled graph was torn down, or one of its processes ended. Compile a new graph to go on.")


def compile_graph(root: DAGNode, options: CompileOptions) -> CompiledDAG:
    """See :meth:`zray.dag.node.DAGNode.experimental_compile`."""
    plan = make_plan(root)
    if not getattr(connected(), "endpoint", ""):
        raise NotImplementedError("graphs cannot be compiled in local mode, which has no processes: use execute()")
    graph = secrets.token_hex(8)
    listener = Listener(ray.get_runtime_context().gcs_address)
    try:
        paths = _listen(plan, graph)
        channels = _connect(plan, graph, listener, paths, options)
    except BaseException:
        listener.close()
        for actor in plan.actors:  # what began is undone; nobody waits for it
            actor.__ray_call__.remote(loop.finish, graph, 0.0)
        raise
    return CompiledDAG(plan, graph, channels, options)


def _listen(plan: GraphPlan, graph: str) -> list[str]:
    """Where each actor listens."""
    asked = [actor.__ray_call__.remote(loop.listen, graph, [operation.method for operation in operations])
             for actor, operations in zip(plan.actors, plan.operations)]
    here = ray.get_runtime_context().get_node_id()
    paths = []
    for actor, (node, path, why_not) in zip(plan.actors, _answers(plan, asked)):
        if why_not:
            raise NotImplementedError(f"{why_not}: a compiled graph runs plain methods, from a thread of its actor")
        if node != here:
            raise NotImplementedError(f"{actor!r} is on node {node}, and this process on {here}: a compiled graph "
                                      "joins actors of one node, in its shared memory. Create them there with "
                                      "NodeAffinitySchedulingStrategy, or use execute()")
        paths.append(path)
    return paths


def _connect(plan: GraphPlan, graph: str, listener: Listener, paths: list[str], options: CompileOptions
             ) -> loop.Channels:
    def readers_of(process: int) -> dict[int, list[str]]:
        return {number: [listener.path if reader == DRIVER else paths[reader] for reader in readers]
                for number, readers in plan.writes(process).items()}

    slots, slot_bytes = options.max_inflight_executions, options.buffer_size_bytes
    asked = [actor.__ray_call__.remote(loop.start, loop.ActorPlan(
        graph, [_with_constants(operation) for operation in plan.operations[place]], plan.reads(place),
        readers_of(place), slots, slot_bytes))
        for place, actor in enumerate(plan.actors)]
    channels = loop.Channels.open(listener, plan.reads(DRIVER), readers_of(DRIVER), slots, slot_bytes)
    try:
        _answers(plan, asked)
    except BaseException:
        channels.close()
        raise
    return channels


def _with_constants(operation: PlannedCall) -> PlannedCall:
    """References among the arguments are their values, as in a call."""
    def value(argument: Any) -> Any:
        return ray.get(argument) if isinstance(argument, ray.ObjectRef) else argument

    return operation._replace(args=tuple(map(value, operation.args)),
                              kwargs={name: value(argument) for name, argument in operation.kwargs.items()})


def _answers(plan: GraphPlan, asked: list[Any]) -> list[Any]:
    try:
        return ray.get(asked, timeout=loop.CONNECT_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError as error:
        raise RayChannelTimeoutError(
            f"the actors {plan.actors} did not begin the compiled graph in {loop.CONNECT_TIMEOUT_S:g} s; are they busy "
            f"with other calls, or is one of them this process? {error}") from None


class CompiledDAG:
    """A graph that is ready to run.  Several threads, and several coroutines, may use it."""

    def __init__(self, plan: GraphPlan, graph: str, channels: loop.Channels, options: CompileOptions):
        self._runtime = connected()  # the graph asks its actors in no other session
        self._plan = plan
        self._graph = graph
        self._channels = channels
        self._options = options
        self._changed = threading.Condition(threading.Lock())  # its lock guards all below
        self._is_reading = False  # a thread reads channels, without the lock
        self._executions = 0
        self._finished = 0  # executions whose results were received
        self._partial: list[Any] = []  # the results of the next one, as far as they were received
        self._buffer: dict[tuple[int, int], Any] = {}  # received results that somebody may ask for
        self._dropped: set[tuple[int, int]] = set()  # results that nobody will ask for
        self._order = list(dict.fromkeys(plan.outputs))
        self.is_teardown = False
        self._closes = weakref.finalize(self, channels.close)
        self._submitting = threading.RLock()  # held while an input is written
        self._awaited = Awaited(self._changed)
        # One thread, so executions begin in the order in which coroutines asked for them.
        self._submits = concurrent.futures.ThreadPoolExecutor(1, "compiled-graph-submit")
        weakref.finalize(self, self._submits.shutdown, wait=False)

    def __repr__(self) -> str:
        return f"CompiledDAG({len(self._plan.actors)} actors, {sum(map(len, self._plan.operations))} operations)"

    # ---- execute

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Start an execution; returns a CompiledDAGRef, or a list of them for a MultiOutputNode.

        RayCgraphCapacityExceeded when too many executions were not fetched; ValueError when the arguments do not fit
        the inputs of the graph; RayChannelError after a teardown or the death of an actor.
        """
        if self._options.enable_asyncio:
            raise ValueError("Use execute_async if enable_asyncio=True")
        return self._references(CompiledDAGRef, self._submit(args, kwargs))

    async def execute_async(self, *args: Any, **kwargs: Any) -> Any:
        """As ``execute``; returns a CompiledDAGFuture, or a list of them: ``await`` gives the value."""
        if not self._options.enable_asyncio:
            raise ValueError("Use execute if enable_asyncio=False")
        try:
            submitting = self._submits.submit(self._submit, args, kwargs)
        except RuntimeError:  # it was shut down
            raise RayChannelError(CLOSED) from None
        index = await asyncio.wrap_future(submitting)
        return self._references(CompiledDAGFuture, index)

    def _references(self, kind: type, index: int) -> Any:
        if self._plan.returns_list:
            return [kind(self, index, place) for place in range(len(self._plan.outputs))]
        return kind(self, index, 0)

    def _submit(self, args: tuple, kwargs: dict[str, Any]) -> int:
        self._check_input(args, kwargs)
        try:
            with self._submitting:
                with self._changed:
                    self._check_open()
                    self._make_room()
                self._channels.write(0, (args, kwargs))
                with self._changed:
                    self._executions += 1
                    return self._executions
        except ChannelClosed:
            raise self._why_closed() from None

    def _check_input(self, args: tuple, kwargs: dict[str, Any]) -> None:
        plan = self._plan
        if len(args) != plan.positional:
            raise ValueError(f"dag.execute() or dag.execute_async() must be called with {plan.positional} positional "
                             f"args, got {len(args)}")
        for name in plan.keywords:
            if name not in kwargs:
                raise ValueError(f"dag.execute() or dag.execute_async() must be called with kwarg `{name}`")
        if unknown := sorted(set(kwargs) - set(plan.keywords)):
            raise ValueError(f"the graph does not use the kwargs {unknown}; it uses {plan.keywords}")

    def _make_room(self) -> None:
        """Drop the results of executions that nobody will fetch; the others count."""
        limit = self._options.max_inflight_executions
        while self._executions - self._finished >= limit:
            if not all((self._finished + 1, place) in self._dropped for place in range(len(self._plan.outputs))):
                raise RayCgraphCapacityExceeded(
                    f"The compiled graph can't have more than {limit} in-flight executions, and you currently have "
                    f"{self._executions - self._finished} in-flight executions. Retrieve an output using ray.get "
                    "before submitting more requests or increase `_max_inflight_executions`. "
                    "`dag.experimental_compile(_max_inflight_executions=...)`")
            self._receive(_deadline(self._options.submit_timeout))

    # ---- results

    def _receive(self, deadline: float | None) -> None:
        """Wait until one more execution is received: by this thread, or by the one that reads already.  With the lock.

        ChannelClosed; RayChannelTimeoutError after ``deadline``.
        """
        if self.is_teardown:
            raise ChannelClosed
        if self._is_reading:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0 or not self._changed.wait(left):
                raise self._too_late()
            return
        self._is_reading = True
        self._changed.release()
        try:
            while len(self._partial) < len(self._order):
                self._partial.append(self._channels.read(self._order[len(self._partial)], deadline))
        except ChannelTimeout:
            raise self._too_late() from None
        finally:
            self._changed.acquire()
            self._is_reading = False
            self._changed.notify_all()
        results = dict(zip(self._order, self._partial))
        self._partial = []
        self._finished += 1
        for place, number in enumerate(self._plan.outputs):
            key = self._finished, place
            if key in self._dropped:
                self._dropped.discard(key)
            else:
                self._buffer[key] = results[number]
                if key in self._dropped:  # just now, by a finaliser
                    self._dropped.discard(key)
                    del self._buffer[key]

    def _too_late(self) -> RayChannelTimeoutError:
        return RayChannelTimeoutError(
            "The compiled graph gave no result in time. If the execution is expected to take a long time, give get "
            "a longer timeout, or increase DAGContext.get_current().get_timeout (RAY_CGRAPH_get_timeout), which is "
            f"now {self._options.get_timeout} seconds. Otherwise, this may indicate that the execution is hanging.")

    def _take(self, result: _Result) -> tuple[Any] | None:
        """The received value of a reference, or its Failed; None when it must be received first.  With the lock.

        ValueError when it was taken; RayChannelError when the graph has ended; RayCgraphCapacityExceeded.
        """
        if result._taken:
            raise ValueError(result._again())
        key = result._index, result._place
        if key in self._buffer:
            result._taken = True
            return (self._buffer.pop(key),)
        self._check_open()
        if len(self._buffer) >= self._options.max_buffered_results:
            raise RayCgraphCapacityExceeded(
                f"The compiled graph can't have more than {self._options.max_buffered_results} buffered "
                f"results, and you currently have {len(self._buffer)} buffered results. Call `ray.get()` on "
                "CompiledDAGRef's (or await on CompiledDAGFuture's) to retrieve results, or increase "
                "`_max_buffered_results`.")
        return None

    def _fetch(self, result: _Result, timeout: float | None) -> Any:
        """The value of a reference; raises the error of its operation.  ValueError when it was taken."""
        deadline = _deadline(self._options.get_timeout if timeout is None else None if timeout == -1 else timeout)
        try:
            with self._changed:
                while (found := self._take(result)) is None:
                    self._receive(deadline)
        except ChannelClosed:
            raise self._why_closed() from None
        return loop.value_of(found[0])

    def _await(self, result: _Result) -> concurrent.futures.Future[Any]:
        """A future with the value of a reference or its Failed; or with an error, as :meth:`_fetch` raises it."""
        return self._awaited.add(result, _deadline(self._options.get_timeout))

    def _withdraw(self, result: _Result) -> bool:
        """Nobody awaits the result just now.  False when it has come, and the future has it."""
        return self._awaited.withdraw(result)

    def _failure(self, error: BaseException) -> BaseException:
        """What the error of a receive is for those who wait; without the lock."""
        return self._why_closed() if isinstance(error, ChannelClosed) else error

    def _drop(self, index: int, place: int) -> None:
        """Nobody will ask for this result.  Called by finalisers, so it takes no lock and does no I/O."""
        if self._buffer.pop((index, place), _ABSENT) is _ABSENT:  # None is a result, too
            self._dropped.add((index, place))

    # ---- the end

    def _check_open(self) -> None:
        if self.is_teardown:
            raise RayChannelError(CLOSED)

    def _why_closed(self) -> Exception:
        """A channel has closed: end the graph; the error of the actor that is dead.  Without the lock."""
        if self.is_teardown:
            return RayChannelError(CLOSED)
        self._close()
        try:
            return self._death_of_actor() or RayChannelError(CLOSED)
        except Exception:
            if not has_ended(self._runtime):
                raise
            return RayChannelError(SESSION_ENDED)

    def _death_of_actor(self) -> Exception | None:
        asked = self._ask("__ray_ready__")
        deadline = time.monotonic() + DEATH_TIMEOUT_S
        while asked:
            done, asked = self._runtime.wait(asked, 1, max(0.0, deadline - time.monotonic()))
            for ref in done:
                try:
                    self._runtime.get_one(ref)
                except ray.exceptions.RayActorError as error:
                    return error
            if not done:
                break
        return None

    def _ask(self, name: str, *args: Any) -> list[Any]:
        """References of a call of each actor; RayChannelError when the session of the graph is over."""
        methods = [getattr(actor, name) for actor in self._plan.actors]
        if has_ended(self._runtime):
            raise RayChannelError(SESSION_ENDED)
        return [self._runtime.call(method._handle, method._name, args, {}, method._options) for method in methods]

    def _close(self) -> None:
        """Close the channels, when no thread uses them any more.  Without the lock."""
        with self._changed:
            self.is_teardown = True
            self._channels.interrupt()
            while self._is_reading:
                self._changed.wait()
        with self._submitting:
            self._closes()
        self._submits.shutdown(wait=False)

    def teardown(self, kill_actors: bool = False) -> None:
        """End the graph, and wait for its actors to finish what they run.  Harmless when it has ended.

        ``kill_actors`` ends the actors, too.  RayChannelTimeoutError when an actor goes on beyond the time-out.
        """
        self._close()
        try:
            self._finish(kill_actors)
        except Exception:
            if not has_ended(self._runtime):  # else the actors have ended, too
                raise

    def _finish(self, kill_actors: bool) -> None:
        timeout = self._options.teardown_timeout
        asked = [] if kill_actors else self._ask("__ray_call__", loop.finish, self._graph, timeout)
        with self._changed:
            actors, self._plan = self._plan.actors, self._plan._replace(actors=[])
        if kill_actors and not has_ended(self._runtime):
            for actor in actors:
                ray.kill(actor)
        for ref in asked:
            try:
                ended = self._runtime.get_one(ref, None if timeout is None else 2 * timeout)
            except ray.exceptions.RayActorError:
                continue  # with its thread
            if not ended:
                raise RayChannelTimeoutError(f"an actor of the compiled graph still runs a method, {timeout:g} s after "
                                             "its teardown; the graph ends when the method does")


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
