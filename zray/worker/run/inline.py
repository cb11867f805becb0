"""Runs the task that another task waits for on the waiting task's stack, if no code can see the difference.

A worker that blocks in ``get`` lends its CPU, and another process runs the dependency.  So a recursion would fill the
node with blocked workers.  Therefore the waiting thread runs the dependency itself, if this process owns it and it
has not started.  It runs no other task, which could wait for something that the caller holds.  It does so only where
a separate process would behave the same: zray.worker.run.nesting has the conditions.  In addition, ``get`` must have
no time-out, which could not be kept here, and must not be inside ``with`` or ``try``.

A ``threading.Lock`` that the caller holds would block the inner task; in a separate process the task would have its
own lock.  Python does not tell who holds a lock.  But a lock that is held across a call is nearly always released by
a ``with`` or a ``finally``.  So there is no inline run if a frame between the task's first frame and ``get`` is in a
protected block, or uses the name ``acquire``.  This rule also keeps other scoped state (open transactions, decimal
contexts, redirected output) away from the inner task, and a caller that handles errors survives a crash.
"""

from __future__ import annotations

import sys
import threading
from types import CodeType, FrameType
from typing import Any

from zray.owner.records import Task
from zray.worker.execution import Execution
from zray.worker.run.nesting import NestedTasks

OWN_FRAMES = 16
# Names in a code object that uses a lock without a block.
LOCK_NAMES = frozenset(("acquire", "enter_context", "enter_async_context", "__enter__"))
PLACES_MAX = 4096


class Inline:
    """Inline execution for one TaskExecutor."""

    def __init__(self, executor: Execution):
        self.executor = executor
        self.nested = NestedTasks(executor.machine, executor.rt.submitter)
        self._places: dict[tuple[CodeType, int], bool] = {}

    def run_missing(self, records: Any) -> None:
        """``get`` calls this before it waits for these records: run their tasks that have not started."""
        if self.executor.forked or threading.current_thread() is not threading.main_thread() \
                or not self.nested.is_possible():
            return
        frames = 0
        for record in records:
            while (task := self.nested.task_of(record)) is not None:
                if not frames:
                    frames = self._frames_in_use(sys._getframe(1))
                    if not frames:
                        return
                if not self._run(task, frames):
                    break  # another worker got the task first

    def _run(self, task: Task, frames: int) -> bool:
        executor, fn = self.executor, task.fn
        with executor.loop.lock:
            wire = self.nested.take(task)
            if wire is None:
                return False
            if fn.blob is not None:
                executor.functions.define(fn.key, fn.blob, fn.name)
        try:
            result = executor.run_inline(wire, frames=frames + OWN_FRAMES)
        except BaseException:
            self.nested.depth -= 1
            raise
        with executor.loop.lock:
            self.nested.finish(task, result)
        executor.interrupts.resume()
        return True

    def cancel(self, task: Task, recursive: bool) -> None:
        """Interrupt a task that runs inline (under the lock)."""
        if recursive:
            self.executor.rt.cancel_children(task.tid)
        self.executor.interrupts.request(task.tid, task.attempt)

    # ------------------------------------------------------------ whether this stack allows it

    def _frames_in_use(self, frame: FrameType | None) -> int:
        """Frames between the running task's first frame and the call of ``get``; 0 when one of them is protected."""
        count = 0
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module == "zray.worker.executor":
                return count
            count += 1
            if not module.startswith("zray.") and self._is_protected(frame.f_code, frame.f_lasti):
                return 0
            frame = frame.f_back
        return 0

    def _is_protected(self, code: CodeType, at: int) -> bool:
        place = code, at
        known = self._places.get(place)
        if known is None:
            if len(self._places) >= PLACES_MAX:
                self._places.clear()
            known = not LOCK_NAMES.isdisjoint(code.co_names) or in_protected_block(code, at)
            self._places[place] = known
        return known


def in_protected_block(code: CodeType, at: int) -> bool:
    """Whether the instruction at byte offset ``at`` is in a ``with`` or ``try`` block.

    Reads the exception table of CPython 3.11 and newer (Objects/exception_handling_notes.txt): entries of four
    varints, start, length, target and depth, in units of two bytes.  Other blocks with an entry (an inlined
    comprehension, the body of a generator) count too: an unneeded refusal costs a process, not a deadlock.
    """
    data = iter(code.co_exceptiontable)
    unit = at // 2
    for first in data:
        start = _varint(first, data)
        length = _varint(next(data), data)
        _varint(next(data), data)
        _varint(next(data), data)
        if start <= unit < start + length:
            return True
    return False


def _varint(first: int, rest: Any) -> int:
    value = first & 63
    while first & 64:
        first = next(rest)
        value = value << 6 | first & 63
    return value
