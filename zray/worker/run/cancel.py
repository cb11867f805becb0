"""Interrupts the running task, and no other code.

``current`` is the task whose user code the main thread runs now.  The executor sets it just before the call and
clears it just after.  A cancel request names a (task, attempt), and sends the process a signal, which also ends a
blocking call.  Python then runs :meth:`Interrupts._on_signal` on the main thread, and only this method decides:

    ``current`` is the requested task, no transition under way     raise KeyboardInterrupt in the user's code
    the thread is inside a transition (owns the loop's lock)       the loop records it, and raises after the transition
    another task runs by now, or none                              the request is void
    another task runs inside the requested task                    raise when the requested task continues (``resume``)

The alternative was PyThreadState_SetAsyncExc: it does not end a ``time.sleep``, and cannot be checked when it raises.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from typing import Any

from zray.transport.loop import Loop, in_finaliser
from zray.worker.queue import ATTEMPT, TASK_ID

# A real-time signal that neither libraries nor shells use.
SIGNAL = signal.SIGRTMIN + 7
ASK_AGAIN_S = 0.002


class Interrupts:
    """The task that may be interrupted now, and the requests."""

    __slots__ = ("current", "wanted", "hit", "_loop", "_main", "_now", "_timer", "deferred", "_outer", "_later")

    def __init__(self, loop: Loop, now: Callable[[], float]):
        self.current: Any = None  # a task, or the position of an item of a map
        self.wanted: tuple[bytes, int] | None = None
        self.hit: tuple[bytes, int] | None = None  # the interrupt that was raised last
        self._loop = loop
        self._main = threading.main_thread().ident
        self._now = now
        self._timer: Any = None
        self.deferred = False  # the loop has recorded an interrupt, and raises it when its lock is free
        self._outer: list[list[Any] | None] = []  # tasks that wait while another runs on their stack
        self._later: set[tuple[bytes, int]] = set()  # of these, the tasks to interrupt when they continue

    def install(self) -> None:
        """Install the signal handler.  Main thread only."""
        signal.signal(SIGNAL, self._on_signal)

    def uninstall(self) -> None:
        signal.signal(SIGNAL, signal.SIG_IGN)

    def request(self, task: bytes, attempt: int) -> bool:
        """Interrupt the task if it runs; False when it does not (under the lock)."""
        current = self.current
        if current is None or current[TASK_ID] != task or current[ATTEMPT] != attempt:
            if any(outer and outer[TASK_ID] == task and outer[ATTEMPT] == attempt for outer in self._outer):
                self._later.add((task, attempt))
                return True
            return False
        self.wanted = task, attempt
        self._send()
        return True

    def was_hit(self, task: list[Any]) -> bool:
        """Whether we interrupted this attempt (and it did not raise KeyboardInterrupt itself)."""
        return self.hit is not None and self.hit == (task[TASK_ID], task[ATTEMPT])

    def _send(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pthread_kill(self._main, SIGNAL)  # type: ignore[arg-type]
        if self._timer is None:
            self._timer = self._loop.call_at(self._now() + ASK_AGAIN_S, self._again)

    def _again(self) -> None:
        self._timer = None
        wanted, current = self.wanted, self.current
        if wanted is None:
            return
        if current is None or (current[TASK_ID], current[ATTEMPT]) != wanted:
            self.wanted = None  # the task has ended
            return
        self._send()

    def _on_signal(self, signum: int, frame: Any) -> None:
        wanted, current = self.wanted, self.current
        if wanted is None or current is None or (current[TASK_ID], current[ATTEMPT]) != wanted:
            return
        if in_finaliser(frame):
            return  # Python ignores exceptions of finalisers; the timer tries again
        self.wanted = None
        self.hit = wanted
        self.deferred = True
        self._loop.interrupt()

    def enter(self) -> None:
        """Another task begins to run on the stack of the current one."""
        self._outer.append(self.current)

    def leave(self) -> None:
        """The inner task has ended; the outer one is current again."""
        self.current = self._outer.pop()

    def resume(self) -> None:
        """The current task continues; raises KeyboardInterrupt if there was a request meanwhile."""
        current = self.current
        if not self._later or current is None:
            return
        meant = current[TASK_ID], current[ATTEMPT]
        if meant in self._later:
            self._later.discard(meant)
            self.hit = meant
            raise KeyboardInterrupt

    def forget(self) -> None:
        """The task has ended: drop an interrupt that the loop has recorded but not raised."""
        self.deferred = False
        self._loop.forget_interrupt()


class NoInterrupts:
    """The Interrupts of threads that cannot be interrupted."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current: Any = None

    def was_hit(self, task: list[Any]) -> bool:
        return False


NO_INTERRUPTS = NoInterrupts()  # for coroutines, which never set ``current``
