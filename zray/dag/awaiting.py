"""Results of a compiled graph that coroutines await: a thread receives them, and each gets its own as it comes.

A coroutine that waits blocks neither its event loop nor a thread of it, and holds no lock.  So executions begin while
results of earlier ones are awaited, in any order.

The thread starts with the first ``await`` and ends when for LINGER_S nobody awaits.  It knows the graph only by the
results that are awaited, so a graph that the program drops is collected at once.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from typing import Any

from zray.base.graph_errors import RayChannelTimeoutError

LINGER_S = 0.2  # a program that awaits one result after the other needs no new thread for each, which costs 0.1 ms


class _Waiting:
    __slots__ = ("deadline", "future", "result")

    def __init__(self, result: Any, deadline: float | None):
        self.result = result  # a CompiledDAGFuture
        self.deadline = deadline
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.future.set_running_or_notify_cancel()  # from here on nothing cancels it


class Awaited:
    """The results of one graph that are awaited.  ``changed``: the condition of the graph, whose lock guards it."""

    def __init__(self, changed: threading.Condition):
        self._changed = changed
        self._waiting: dict[int, _Waiting] = {}  # by the identity of the result
        self._thread: threading.Thread | None = None
        self._is_idle = False  # the thread waits for something to do

    def add(self, result: Any, deadline: float | None) -> concurrent.futures.Future[Any]:
        """A future that gets the value or its Failed, or an error."""
        one = _Waiting(result, deadline)
        with self._changed:
            if not self._try(one):
                self._waiting[id(result)] = one
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, daemon=True, name="compiled-graph-await")
                    self._thread.start()
                elif self._is_idle:
                    self._changed.notify_all()
        return one.future

    def withdraw(self, result: Any) -> bool:
        """Forget who waits for ``result``; False when it does not wait any more."""
        with self._changed:
            return self._waiting.pop(id(result), None) is not None

    def _try(self, one: _Waiting) -> bool:
        """Whether it has its value, or an error.  With the lock."""
        try:
            found = one.result._dag._take(one.result)
        except Exception as error:
            one.future.set_exception(error)
            return True
        if found is not None:
            one.future.set_result(found[0])
        return found is not None

    def _run(self) -> None:
        with self._changed:
            try:
                while self._has_work():
                    self._step()
            finally:
                self._thread = None

    def _has_work(self) -> bool:
        if not self._waiting:
            self._is_idle = True
            end = time.monotonic() + LINGER_S
            while not self._waiting and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            self._is_idle = False
        return bool(self._waiting)

    def _step(self) -> None:
        """Receive once, and give each its value."""
        graph = next(iter(self._waiting.values())).result._dag
        deadline = min((one.deadline for one in self._waiting.values() if one.deadline is not None), default=None)
        try:
            graph._receive(deadline)
        except RayChannelTimeoutError as error:
            now = time.monotonic()
            self._fail(error, [one for one in self._waiting.values() if one.deadline is not None
                               and one.deadline <= now])
        except Exception as error:  # the graph has ended: each of them gets the same reason
            waiting = list(self._waiting.values())
            self._changed.release()
            try:
                reason = graph._failure(error)
            finally:
                self._changed.acquire()
            self._fail(reason, waiting)
        # Those whose values have come are the first of all.  They make room, before others find none.
        for one in sorted(self._waiting.values(), key=lambda one: (one.result._index, one.result._place)):
            if self._try(one):
                del self._waiting[id(one.result)]

    def _fail(self, error: BaseException, waiting: list[_Waiting]) -> None:
        for one in waiting:
            if self._waiting.pop(id(one.result), None) is not None:
                one.future.set_exception(error)
