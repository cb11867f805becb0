"""Runs chunks of ``f.map``: one unpickle, a tight loop, one pickle.

zray.worker.run.chunk_progress keeps the results that are not sent yet.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from zray.values import serialization
from zray.wire.messages import MapDone
from zray.worker.execution import Execution
from zray.worker.queue import TASK_ATTEMPT, TASK_ID, QueuedChunk, ServedLease
from zray.worker.run import invoke
from zray.worker.run.chunk_progress import FLUSH_NS, ChunkProgress
from zray.worker.run.results import cancelled

# Run time between two reads of the clock: the first comes after one item, then the step follows the cost of items.
STEP_NS = 500_000
STEP_MAX = 16_384
# Steps of at least this many items run in the tight loop: such items take under two microseconds.
TIGHT_ITEMS = 256


class MapRunner:
    """Runs chunks for the executor."""

    def __init__(self, executor: Execution):
        self.executor = executor

    def run(self, lease: ServedLease, chunk: QueuedChunk) -> None:
        """Run a chunk to its end, or until the rest was handed back."""
        executor = self.executor
        rt = executor.rt
        # As a task in wire form, for the context, the names in errors and cancellations.
        task: list[Any] = [chunk.task, chunk.attempt, chunk.function, b"", 1, None]
        try:
            executor.interrupts.current = task
            function, name = executor.table.get(chunk.function) or executor.functions.load(chunk.function)
            items = self._items(chunk)
            executor.interrupts.current = None
        except BaseException as error:
            executor.interrupts.current = None
            self._fail_all(lease, chunk, executor.failed(error, task, executor.name_of(task)))
            return
        context = rt.context
        context.task_name = name
        with executor.loop.lock:
            executor.flush()  # replies of earlier tasks must not wait for the chunk
            chunk.items = items
        run = _Run(self, lease, chunk, function, name, items)
        if executor.recorder is not None:
            run.function = executor.recorder.around_item(function, name, chunk,
                                                         lambda: run.progress.task_of(rt.marks[1]))
        run.run()
        chunk.items = None

    def _items(self, chunk: QueuedChunk) -> deque[Any]:
        payload = chunk.payload
        chunk.payload = None
        if type(payload) is bytes:
            values = serialization.loads(payload)
        else:
            values = self.executor.rt.resolve([payload], chunk.task)[0]
        if len(values) != chunk.count:
            raise ValueError(f"a chunk of {chunk.count} items came with {len(values)}")
        return deque(values)

    def _fail_all(self, lease: ServedLease, chunk: QueuedChunk, error: Any) -> None:
        """Fail the whole chunk: the function or the arguments do not load."""
        results = serialization.to_bytes(serialization.dumps([None] * chunk.count))
        failures = [[position, error] for position in range(chunk.count)]
        self.send(lease, MapDone(lease.number, chunk.first, chunk.count, results, failures, 0))

    def send(self, lease: ServedLease, message: MapDone) -> None:
        rt = self.executor.rt
        with self.executor.loop.lock:
            rt.send(lease.owner, message)
            self.executor.events.arm(message.count)
            self.executor.loop.kick()


class _Run:
    """One running chunk."""

    __slots__ = ("runner", "progress", "chunk", "function", "name", "items", "position")

    def __init__(self, runner: MapRunner, lease: ServedLease, chunk: QueuedChunk, function: Any, name: str,
                 items: deque[Any]):
        self.runner = runner
        self.progress = ChunkProgress(lease, chunk)
        self.chunk = chunk
        self.function = function
        self.name = name
        self.items = items
        self.position = _Position(self.progress, runner.executor.rt.marks)

    def run(self) -> None:
        clock = time.perf_counter_ns
        marks = self.runner.executor.rt.marks
        progress = self.progress
        flushed = before = clock()
        step = 1
        while self.items:
            self._some(step)
            marks[2] = self.chunk.first + progress.sent + len(progress.results) - 1
            now = clock()
            took = max(1, now - before)
            before = now
            if now - flushed >= FLUSH_NS and self.items:
                self._flush(now - flushed)
                flushed = before = clock()
            step = max(1, min(STEP_MAX, step * 8, step * STEP_NS // took))
        self._flush(clock() - flushed)

    def _some(self, step: int) -> None:
        """Run up to ``step`` items; one that raises ends the inner loop, not the chunk."""
        progress = self.progress
        first = self.chunk.first
        end = progress.sent + len(progress.results) + step
        interrupts = self.runner.executor.interrupts
        while self.items:
            position = progress.sent + len(progress.results)
            if position >= end:
                return
            try:
                if step >= TIGHT_ITEMS and not self.chunk.cancelled:
                    self._tight(range(first + position, first + end))
                else:
                    self._careful(position)
            except BaseException as error:
                interrupts.current = None
                self._failed(error)

    def _tight(self, sequences: range) -> None:
        """The loop for items of a microsecond or less.

        ``context.task`` stays that of the chunk's first item, and no item is interrupted here: an interrupt between
        two items would have to know which of them it hit.
        """
        popleft = self.items.popleft
        append = self.progress.results.append
        function = self.function
        marks = self.runner.executor.rt.marks
        if self.chunk.star:
            function = _star(function)
        for sequence in sequences:
            try:
                item = popleft()
            except IndexError:
                return
            marks[1] = sequence
            append(function(item))

    def _careful(self, position: int) -> None:
        """Run one item with the context, marks and interrupts of a task."""
        chunk, executor = self.chunk, self.runner.executor
        try:
            item = self.items.popleft()
        except IndexError:
            return
        executor.rt.marks[1] = chunk.first + position
        context = executor.rt.context
        context.task = self.position[TASK_ID]
        context.attempt = chunk.attempt
        if position in chunk.cancelled:
            raise _ItemCancelled
        executor.interrupts.current = self.position
        value = self.function(*item) if chunk.star else self.function(item)
        executor.interrupts.current = None  # before the append: a later interrupt would fail an item in the list
        self.progress.results.append(value)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, SystemExit):  # the process ends with this item: send the results before it
            self._flush(0)
            self.runner.executor.rt.marks[2] = self.chunk.first + self.progress.sent - 1
        task = [self.position[TASK_ID], self.chunk.attempt]
        if isinstance(error, _ItemCancelled):
            failure = cancelled(task, self.name)
        else:
            failure = self.runner.executor.failed(error, task, self.name)
        self.progress.fail(failure)

    def _flush(self, spent_ns: int) -> None:
        """Send the results since the last flush."""
        first, results, failures = self.progress.take()
        count = len(results)
        if not count:
            return
        executor = self.runner.executor
        task = self.progress.task_of(first)
        try:
            value = invoke.encode(executor.rt, results, task, 1)
        except BaseException:
            value = self._one_by_one(results, failures, first)
        self.runner.send(self.progress.lease, self.progress.done(first, count, value, failures, spent_ns))
        ok = len(failures) < count
        executor.events.add([task, self.chunk.attempt], self.name, time.perf_counter_ns() - spent_ns, ok, count,
                            self.progress.lease.number)

    def _one_by_one(self, results: list[Any], failures: list[list[Any]], first: int) -> Any:
        """Some result cannot be pickled: fail its item, not the chunk."""
        executor = self.runner.executor
        for position, result in enumerate(results):
            try:
                serialization.dumps(result)
            except BaseException as error:
                results[position] = None
                task = [self.progress.task_of(first + position), self.chunk.attempt]
                failures.append([position, executor.failed(error, task, self.name)])
        try:
            return invoke.encode(executor.rt, results, self.progress.task_of(first), 1)
        except BaseException as error:  # no space in the store: every item fails
            failure = executor.failed(error, [self.progress.task_of(first), self.chunk.attempt], self.name)
            failed = {position for position, _ in failures}
            failures += [[position, failure] for position in range(len(results)) if position not in failed]
            return serialization.to_bytes(serialization.dumps([None] * len(results)))


class _ItemCancelled(BaseException):
    """Raised in place of the call of an item that was cancelled before it started."""


class _Position:
    """The (task id, attempt) of the running item, computed only when zray.worker.run.cancel reads it."""

    __slots__ = ("progress", "marks")

    def __init__(self, progress: ChunkProgress, marks: Any):
        self.progress = progress
        self.marks = marks

    def __getitem__(self, field: int) -> Any:
        if field == TASK_ATTEMPT:
            return self.progress.chunk.attempt
        return self.progress.task_of(self.marks[1])


def _star(function: Any) -> Any:
    return lambda item: function(*item)
