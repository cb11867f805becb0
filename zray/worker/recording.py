"""Records the runs of a worker: tasks, items of maps, constructors and calls of actors.

Only in a job that is recorded: then :func:`record_runs` puts itself around what the executor runs.  The executor's hot
loop finds an empty table, so each run goes the general way.  A run is recorded as it starts, with its arguments, so a
task that ends its process can be run again too.
"""

from __future__ import annotations

import ctypes
import itertools
import pickle
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from zray.core import recording
from zray.core.recording import RecordedCalls, running
from zray.core.runtime import Runtime
from zray.recording.files import RecordLimits
from zray.recording.records import (
    ACTOR_CALL,
    CONSTRUCTOR,
    ITEM_OF_MAP,
    PLAIN_TASK,
    Item,
    Piece,
    Randomness,
    RunEnded,
    RunStarted,
)
from zray.values import serialization
from zray.wire.messages import FAILED
from zray.worker.actors.life import ActorLife, sizes_of
from zray.worker.execution import Generators
from zray.worker.queue import ARGS, EXTRA, FUNCTION, RETURNS, TASK_ATTEMPT, TASK_ID, QueuedChunk
from zray.worker.run import streams
from zray.worker.run.results import failure_in

MT_BYTES = 624 * 4 + 4  # the words and the position of numpy's MT19937
MT_WORDS_COMPARED = 8  # of ``random``: any number of draws, and any other seed, change these or the position


class RandomStates:
    """The states of ``random`` and ``numpy.random``, each recorded when it differs from the one before.

    Reading both takes 50 us.  So numpy's is compared in its memory (1 us), and of the other only a part is compared.
    """

    def __init__(self, append: Callable[[Any], object]):
        self._append = append
        self._numbers = itertools.count(1)
        self._plain: tuple[Any, int] = None, 0  # what is compared, the number of the state
        self._numpy: tuple[Any, int] = None, 0
        self._lock = threading.Lock()  # calls of a threaded actor

    def numbers(self) -> list[int]:
        """The numbers of the present states; 0 for numpy where it is not loaded."""
        numpy = sys.modules.get("numpy.random")
        with self._lock:
            state = random.getstate()
            words = state[1]
            compared = words[:MT_WORDS_COMPARED], words[-1], state[2]
            if self._plain[0] != compared:
                self._plain = compared, self._record("random", state)
            return [self._plain[1], 0 if numpy is None else self._of_numpy(numpy)]

    def _of_numpy(self, numpy: Any) -> int:
        generator: Any = numpy.get_bit_generator()
        memory = None
        if type(generator) is numpy.MT19937:
            memory = ctypes.string_at(generator.ctypes.state_address, MT_BYTES)
        if memory is None or self._numpy[0] != memory:
            state = numpy.get_state()
            # A second Gaussian that is kept is no part of the memory: while there is one, compare nothing.
            self._numpy = None if state[3:4] == (1,) else memory, self._record("numpy", state)
        return self._numpy[1]

    def _record(self, source: str, state: Any) -> int:
        number = next(self._numbers)
        self._append(Randomness(number, source, pickle.dumps(state, 5)))
        return number


class RunRecorder:
    """The runs of one process."""

    def __init__(self, calls: RecordedCalls, executor: Any):
        self.calls = calls
        self.executor = executor
        self.append = calls.file.append
        self._random = RandomStates(calls.file.append)
        self._numbers = itertools.count(1)

    def install(self) -> None:
        """Put it around what the executor runs.  Under the lock, before the first function comes."""
        executor = self.executor
        executor.recorder = self
        executor.run_one = self._around_run(executor.run_one)
        executor.streams = _RecordedStreams(executor.streams, self)
        functions = executor.functions
        define, fetch = functions.define, functions._fetch

        def defining(key: bytes, blob: bytes, name: str = "") -> None:
            self.calls.define(key, name, lambda: blob)
            define(key, blob, name)

        def fetching(key: bytes) -> Any:
            blob = fetch(key)
            if blob is not None:
                self.calls.define(key, functions.names.get(key, ""), lambda: blob)
            return blob

        functions.define, functions._fetch = defining, fetching

    # ------------------------------------------------------------ around runs

    def _around_run(self, run_one: Callable[..., Any]) -> Callable[..., Any]:
        def run(task: list[Any], lease: Any, interrupts: Any) -> Any:
            outer = running.get()
            number, before = self._start_task(task), time.perf_counter_ns()
            try:
                result = run_one(task, lease, interrupts)
            except BaseException:
                self._end(number, before, [FAILED, "cancelled", {}])
                raise
            finally:
                running.set(outer)
            self._end(number, before, result)
            return result

        return run

    def around_coroutine(self, result_of: Callable[..., Any]) -> Callable[..., Any]:
        """Around the calls of an async actor."""
        async def run(lease: Any, task: list[Any], name: str) -> Any:
            number, before = self._start_task(task), time.perf_counter_ns()
            result = None
            try:
                result = await result_of(lease, task, name)
            finally:
                self._end(number, before, result)
            return result

        return run

    def around_constructor(self, construct: Callable[..., Any], spec: dict[str, Any], life: ActorLife
                           ) -> Callable[..., Any]:
        def run(cls: Any, task: list[Any]) -> Any:
            sizes = sizes_of(spec)
            number = self._start(CONSTRUCTOR, task, f"{life.class_name}.__init__", self.calls.piece_of(task[ARGS]), {
                "mode": "coroutines" if spec.get("is_async") else "threads" if sizes else "sync",
                "restored": bool(spec.get("checkpoints")) and life.number > 0, "class_name": life.class_name,
                "name": spec.get("name") or "", "meta": spec.get("meta") or b""}, life)
            before = time.perf_counter_ns()
            try:
                instance = construct(cls, task)
            except BaseException as error:
                self._end(number, before, _failure(error, f"{life.class_name}.__init__"))
                raise
            finally:
                running.set(0)
            self._end(number, before, [0, [], {}])
            return instance

        return run

    def around_item(self, function: Callable[..., Any], name: str, chunk: QueuedChunk, task_now: Callable[[], bytes]
                    ) -> Callable[..., Any]:
        """Around the function of a chunk; ``task_now()`` is the id of the running item."""
        context = self.executor.rt.context

        def run(*args: Any) -> Any:
            task = [task_now(), chunk.attempt, chunk.function, b"", 1, None]
            context.task, context.attempt = task[TASK_ID], chunk.attempt
            packed = serialization.to_bytes(serialization.dump_args(args, {})[0])
            number = self._start(ITEM_OF_MAP, task, name, self.calls.piece(packed), {})
            before = time.perf_counter_ns()
            try:
                value = function(*args)
            except BaseException as error:
                self._end(number, before, _failure(error, name))
                raise
            finally:
                running.set(0)
            self.append(RunEnded(number, [self.calls.value(value)], None, -1, time.perf_counter_ns() - before))
            return value

        return run

    # ------------------------------------------------------------ the records

    def _start_task(self, task: list[Any]) -> int:
        executor = self.executor
        context = executor.rt.context
        context.task, context.attempt = task[TASK_ID], task[TASK_ATTEMPT]  # a stored argument may have to come here
        actor = executor.actor
        extra = task[EXTRA] or {}
        listed = [task[ARGS], *(extra.get("deps") or ())]
        stored = [value for value in listed if type(value) is list and value[0] != FAILED]
        if stored:
            executor.rt.values.prefetch(stored)
        return self._start(PLAIN_TASK if actor is None else ACTOR_CALL, task, executor.name_of(task),
                           self.calls.piece_of(task[ARGS]), {}, actor.life if actor is not None else None)

    def _start(self, kind: str, task: list[Any], name: str, args: Piece, options: dict[str, Any],
               life: ActorLife | None = None) -> int:
        number = next(self._numbers)
        extra = task[EXTRA] or {}
        deps = [self.calls.piece_of(value) for value in extra.get("deps") or ()]
        running.set(number)
        self.append(RunStarted(
            number, kind, task[TASK_ID], task[TASK_ATTEMPT], name, task[FUNCTION], task[RETURNS], args,
            list(extra.get("slots") or ()), deps, life.id if life is not None else b"",
            life.number if life is not None else 0, self._random.numbers(), time.time_ns(), options))
        return number

    def _end(self, number: int, before: int, result: Any) -> None:
        took = time.perf_counter_ns() - before
        if result is None:
            ended = RunEnded(number, [], None, -1, took)
        elif type(result) is list and result[0] == 0:
            _, values, more = result
            ended = RunEnded(number, [self.calls.piece_of(value) for value in values], failure_in(result),
                             more.get("stream_len", -1), took)
        elif type(result) is list and result[0] == FAILED:
            ended = RunEnded(number, [], result, -1, took)
        else:
            ended = RunEnded(number, [self.calls.piece_of(result)], None, -1, took)
        self.append(ended)

    def item(self, index: int, value: Any) -> None:
        """The streaming generator of this thread or coroutine has made an item."""
        self.append(Item(running.get(), index, self.calls.value(value)))




def _failure(error: BaseException, name: str) -> list[Any]:
    return [FAILED, "task_error", serialization.dump_error(error, name)]


class _RecordedStreams:
    """Streaming generators whose items are recorded as they are made."""

    def __init__(self, plain: Generators, recorder: RunRecorder):
        self._plain = plain
        self._recorder = recorder

    def run(self, task: list[Any], value: Any, lease: Any) -> Any:
        return self._plain.run(task, _Items(streams.iterate(value, task), self._recorder.item), lease)

    async def run_async(self, task: list[Any], value: Any, lease: Any) -> Any:
        items = _AsyncItems(streams.aiterate(value, task), self._recorder.item)
        return await self._plain.run_async(task, items, lease)


class _Items:
    """The items of a generator, recorded.  It holds no item, as a generator around it would while it waits."""

    def __init__(self, items: Any, note: Callable[[int, Any], None]):
        self._items, self._note = items, note
        self._count = 0

    def __iter__(self) -> _Items:
        return self

    def __next__(self) -> Any:
        return self._noted(next(self._items))

    def _noted(self, item: Any) -> Any:
        self._count += 1
        self._note(self._count, item)
        return item

    def close(self) -> None:
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


class _AsyncItems(_Items):
    """The same for an async generator."""

    def __aiter__(self) -> _AsyncItems:
        return self

    async def __anext__(self) -> Any:
        return self._noted(await anext(self._items))

    async def aclose(self) -> None:
        await self._items.aclose()


def record_runs(runtime: Runtime, executor: Any, limits: list[Any]) -> None:
    """Record this worker from now on.  Under the lock, as it takes on its job; ``limits`` as in the job's settings."""
    RunRecorder(recording.begin(runtime, RecordLimits(*limits)), executor).install()
