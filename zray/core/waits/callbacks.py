"""Where users' callbacks of futures run: in their order, on a thread that no value waits for.

A callback that takes long does not stop those behind it: after LATE_S another thread goes on with them.

    put --> in the line --> runs; returns within LATE_S --> the same thread takes the next
                              |
                              +--> LATE_S are over: another thread takes the next
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

__all__ = ["Callbacks", "GuardedFuture", "when_done"]

# After this, in seconds, callbacks no longer wait for the one before them: long for a callback, short for a user.
LATE_S = 0.05
# So many callbacks may block at a time; those behind them wait.
THREADS_MAX = 64
# A thread without callbacks ends after this, in seconds.
IDLE_S = 1.0

_local = threading.local()


class Callbacks:
    """Runs calls on threads that live while there are any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[Callable[[], None]] = deque()
        self._threads = 0
        self._idle = 0  # threads that wait for a call, or for the end of the one that runs
        self._turn = 0  # number of the last call that was started
        self._late_at: float | None = None  # while that call runs: when the next need not wait for it

    def put(self, call: Callable[[], None]) -> None:
        """Run ``call`` after those before it."""
        with self._changed:
            self._line.append(call)
            self._changed.notify_all()
            self._start_thread()

    def hold(self) -> None:
        """Hand over the callbacks of all GuardedFutures that end on this thread."""
        _local.callbacks = self

    def close(self, seconds: float) -> None:
        """Let the calls end, but wait no longer than that; not for itself, where a call closes."""
        with self._changed:
            if getattr(_local, "runs_for", None) is not self:
                self._changed.wait_for(lambda: not self._line and self._late_at is None, seconds)

    def _start_thread(self) -> None:
        if not self._idle and self._threads < THREADS_MAX:
            self._threads += 1
            self._idle += 1
            threading.Thread(target=self._run, name="zray-callbacks", daemon=True).start()

    def _run(self) -> None:
        _local.runs_for = self
        with self._changed:
            while self._next_is_due():
                call = self._line.popleft()
                turn = self._turn = self._turn + 1
                self._late_at = time.monotonic() + LATE_S
                self._idle -= 1
                if self._line:
                    self._start_thread()
                self._changed.release()
                try:
                    call()
                finally:
                    self._changed.acquire()
                    self._idle += 1
                    if turn == self._turn:  # no other thread has gone on
                        self._late_at = None
                        self._changed.notify_all()
            self._idle -= 1
            self._threads -= 1

    def _next_is_due(self) -> bool:
        """Wait until a call may run; False when there was none for a while."""
        while True:
            if not self._line:
                if not self._changed.wait(IDLE_S) and not self._line:
                    return False
            elif self._late_at is not None and (left := self._late_at - time.monotonic()) > 0:
                self._changed.wait(left)
            else:
                return True


class GuardedFuture(Future[Any]):
    """A future whose callbacks do not run on the thread of futures, which would stop all values."""

    def add_done_callback(self, fn: Callable[[Future[Any]], Any]) -> None:
        super().add_done_callback(partial(_apart, fn))


def when_done(future: Future[Any], call: Callable[[Future[Any]], Any]) -> None:
    """Call it where the future ends: it must be short, and run no code of users."""
    Future.add_done_callback(future, call)


def _apart(fn: Callable[[Future[Any]], Any], future: Future[Any]) -> None:
    callbacks: Callbacks | None = getattr(_local, "callbacks", None)
    if callbacks is None:
        fn(future)
    else:
        callbacks.put(partial(_logged, fn, future))


def _logged(fn: Callable[[Future[Any]], Any], future: Future[Any]) -> None:
    try:
        fn(future)
    except BaseException:  # as concurrent.futures does
        logging.getLogger("concurrent.futures").exception("exception calling callback for %r", future)
