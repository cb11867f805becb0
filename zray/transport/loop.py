"""The loop: the thread that waits for messages polls the sockets itself.

At any moment at most one thread leads.  The part of each kind of thread:

    caller in wait(), no leader         leads: turns and polls until its waiter is done, then hands the lead on
    caller in wait(), a caller leads    follows: sleeps on its waiter's gate; notified when done, or promoted to lead
    caller in wait(), service leads     takes the lead; the service thread notices that when it wakes
    service thread                      TICK: checks every 5 ms whether callers still come; none since: SERVE
                                        SERVE: leads, without time-outs of its own
                                        PARK: sleeps while one caller sits in a long poll; the last
                                        caller that leaves ends it

``lock`` guards all state of the process and is never held while blocked.  Polling touches no socket (see
zray.transport.mesh), so other threads send and receive under the lock while the leader is blocked in its poll.
A turn: flush, drain, timers, flush.  An idle process wakes up for nothing.

Ctrl-C: outside of wait() and of sections where the main thread owns ``lock``, KeyboardInterrupt is
raised as usual. In them the handler only records; wait() raises at its end, code under ``lock``
calls raise_pending() after it. In a finaliser of ours it sends the signal again a moment later,
because Python swallows exceptions there.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from _thread import LockType, allocate_lock, get_ident, start_new_thread
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

from zray.transport.mesh import Mesh

_PARK_TICKS = 4  # a poll that has lasted this many ticks is a long one (20 ms)
_LAST_POLL_S = 5.0  # until the polling caller leaves: a wake-up, unless the machine is starved
_FINALISER_S = 0.001  # ours take microseconds
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_IN_TRANSITION = ("zray cannot wait here: this code was called in the middle of a change of zray's state, as a "
                  "finaliser, a signal handler or the pickling of a map's items may be")
_FORKED = "this process was forked from one that uses zray, whose connections stay with the parent"


class LoopStopped(RuntimeError):
    """The runtime was shut down while a thread waited."""


class Waiter:
    """The wait of one thread: for ``need`` completions.  A transition counts them down by Loop.notify_one."""

    __slots__ = ("done", "gate", "need")

    def __init__(self, need: int = 1):
        self.need = need
        self.done = need <= 0
        self.gate: LockType | None = None  # held while its thread sleeps as a follower


class Timer:
    """A function that runs, under the lock, once its time has come."""

    __slots__ = ("fn", "when")

    def __init__(self, when: float, fn: Callable[[], None]):
        self.when = when
        self.fn: Callable[[], None] | None = fn

    def cancel(self) -> None:
        """It will not run.  No effect after it ran."""
        self.fn = None


class Loop:
    """Runs a mesh for all threads of a process.  ``dispatch(peer, code, message)`` is called under the lock."""

    def __init__(self, mesh: Mesh, dispatch: Callable[[bytes, int, Any], None], *,
                 on_error: Callable[[Exception], None] | None = None, service_after_s: float = 0.005):
        self.mesh = mesh
        self.dispatch = dispatch
        self.on_error = on_error or mesh.on_error
        self.on_turn: Callable[[], None] | None = None  # called under the lock as each turn begins
        self.lock = threading.RLock()
        self.clock = mesh.clock
        self.stopped = False
        self._service_waiter = Waiter()  # the service thread as leader: it is never done
        self._leader: Waiter | None = None
        self._followers: dict[Waiter, None] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_ids = count()
        self._polling = False  # the caller that leads is blocked: only then it must be woken
        self._last_poller: LockType | None = None  # opened by the polling caller when stop() comes
        self._waits = 0  # callers that have taken the lead or followed, ever
        self._service_after_s = service_after_s
        self._service_gate = allocate_lock()
        self._service_gate.acquire()
        self._service_parked = False
        self._service_polling = False
        self._service: threading.Thread | None = None
        self._forked = False
        self._main_ident = threading.main_thread().ident
        self._main_waiter: Waiter | None = None
        self._interrupted = False
        self._old_handler: Any = None
        _LOOPS.add(self)

    @property
    def service_leads(self) -> bool:
        return self._leader is self._service_waiter

    @property
    def has_leader(self) -> bool:
        """Whether a thread polls, so that it must be woken for messages queued meanwhile."""
        return self._leader is not None

    def waiter(self, need: int = 1) -> Waiter:
        return Waiter(need)

    # ---------------------------------------------------------------- callers

    def start(self) -> None:
        """Start the service thread."""
        self._service = threading.Thread(target=self._serve, name="zray-service", daemon=True)
        self._service.start()

    def wait(self, waiter: Waiter, deadline: float | None = None) -> bool:
        """Block until the waiter is done (True) or the clock passes ``deadline`` (False).  Call without the lock."""
        if self._forked:
            raise RuntimeError(_FORKED)
        if self.lock._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError(_IN_TRANSITION)
        if get_ident() != self._main_ident:
            return self._wait(waiter, deadline)
        outer, self._main_waiter = self._main_waiter, waiter  # from here on SIGINT is recorded
        try:
            done = self._wait(waiter, deadline)
        finally:
            self._main_waiter = outer
        if self._interrupted:
            self.raise_pending()
        return done

    def _wait(self, waiter: Waiter, deadline: float | None) -> bool:
        lock = self.lock
        with lock:
            if waiter.done:
                return True
            self._waits += 1
            if self._leader is None or self._leader is self._service_waiter:
                self._leader = waiter
                return self._lead(waiter, deadline)
            assert waiter.gate is None and self._leader is not waiter, "two threads wait with one waiter"
            waiter.gate = allocate_lock()
            waiter.gate.acquire()
            self._followers[waiter] = None
            if self.on_turn is not None:
                self._guarded(self.on_turn)  # the leader may sleep for long: send the messages that we wait for now
            self._flush_while_others_poll()
        if not self._follow(waiter, deadline):
            return waiter.done
        with lock:
            return self._lead(waiter, deadline)

    def _follow(self, waiter: Waiter, deadline: float | None) -> bool:
        """Sleep until promoted (True), or until done, out of time or interrupted (False)."""
        assert waiter.gate is not None
        timeout = -1.0 if deadline is None else max(0.0, deadline - self.clock())
        waiter.gate.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))
        with self.lock:
            waiter.gate = None
            self._followers.pop(waiter, None)
            if self._leader is waiter:
                return True
            if self.stopped and not waiter.done:
                raise LoopStopped("zray was shut down")
            return False

    def _lead(self, waiter: Waiter, deadline: float | None) -> bool:
        """Turn and poll.  Under the lock, which is free while it polls."""
        mesh, lock = self.mesh, self.lock
        try:
            while True:
                if self.stopped:  # first: the mesh may be closed by now
                    if waiter.done:
                        return True
                    raise LoopStopped("zray was shut down")
                mesh.clear_wake()
                busy = self._turn(waiter)
                if waiter.done:
                    return True
                if self._interrupted and waiter is self._main_waiter:
                    return False
                timeout = self._timeout(deadline)
                if timeout is not None and timeout <= 0 and deadline is not None and self.clock() >= deadline:
                    return False
                self._polling = True
                lock.release()
                try:
                    mesh.poll(0 if busy else timeout)
                finally:
                    lock.acquire()
                    self._polling = False
                if not mesh.woken and mesh.dirty and not self.stopped:
                    # Other threads have queued nothing meanwhile: mostly this is the answer, and
                    # half a turn is enough.
                    if mesh.drain(self.dispatch, waiter) and waiter.done:
                        mesh.flush()
                        return True
        finally:
            self._resign()

    def _resign(self) -> None:
        """Hand the lead to a follower; without one, make sure that the service thread takes it."""
        self._leader = None
        if self.stopped:
            _open(self._last_poller)
            return  # stop() has woken all threads
        if self._followers:
            waiter = next(iter(self._followers))
            del self._followers[waiter]
            self._leader = waiter
            _open(waiter.gate)
        elif self._service_parked:
            self._service_parked = False
            self._service_gate.release()
        elif self._service_polling:
            self.mesh.wake()  # a caller overtook it while it was blocked in a poll: it must start to tick again

    def notify(self, waiter: Waiter) -> None:
        """The waiter is done: wake its thread.  Under the lock."""
        waiter.done = True
        if waiter in self._followers:
            del self._followers[waiter]
            _open(waiter.gate)
        elif self._leader is waiter and self._polling:
            self.mesh.wake()

    def notify_one(self, waiter: Waiter) -> None:
        """One completion of those the waiter needs.  Under the lock."""
        waiter.need -= 1
        if waiter.need <= 0 and not waiter.done:
            self.notify(waiter)

    def turn(self) -> None:
        """Flush, and handle what has arrived, without blocking: for threads that send a lot."""
        if self._forked:
            raise RuntimeError(_FORKED)
        with self.lock:
            if self._leader is None:
                self._waits += 1  # callers that come often need no service thread
                self._turn()
            else:
                before = self.mesh.deadline()
                if (self._turn() and self.mesh.readable()) or self._nearer(before):
                    self.mesh.wake()
        if self._interrupted:
            self.raise_pending()

    def kick(self) -> None:
        """State was changed outside a turn: send the queued messages now."""
        if self._forked:
            raise RuntimeError(_FORKED)
        with self.lock:
            self._flush_while_others_poll()
        if self._interrupted:
            self.raise_pending()

    def wake(self) -> None:
        """Make the polling thread take a turn.  Takes no lock: callable from anywhere, also from __del__."""
        self.mesh.wake()

    def _flush_while_others_poll(self) -> None:
        mesh = self.mesh
        before = mesh.deadline()
        mesh.flush()
        if self._somebody_polls() and (self._nearer(before) or mesh.readable()):
            mesh.wake()  # sending may have cleared the edge that the poller waits for, or set a nearer deadline

    def _somebody_polls(self) -> bool:
        return self._polling or (self._service_polling and self.service_leads)

    def _nearer(self, before: float | None) -> bool:
        due = self.mesh.deadline()
        return due is not None and (before is None or due < before)

    # ---------------------------------------------------------------- one turn

    def _turn(self, until: Waiter | None = None) -> bool:
        """Under the lock: flush, drain, timers, flush.  True when there was work: look again before blocking."""
        mesh = self.mesh
        if self.on_turn is not None:
            self._guarded(self.on_turn)
        mesh.flush()
        busy = mesh.dirty and mesh.drain(self.dispatch, until) > 0
        if busy:
            mesh.flush()
            if until is not None and until.done:
                return True
        due = mesh.deadline()
        if due is not None or self._timers:
            now = self.clock()
            if due is not None and due <= now:
                mesh.tick(now)
                busy = True
            if self._timers and self._timers[0][0] <= now:
                self._run_timers(now)
                mesh.flush()
                busy = True
        return busy

    def _run_timers(self, now: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now:
            timer = heappop(timers)[2]
            fn, timer.fn = timer.fn, None
            if fn is not None:
                self._guarded(fn)

    def _guarded(self, fn: Callable[[], None]) -> None:
        try:
            fn()
        except Exception as error:  # a bug in one callback must not end the loop
            self.on_error(error)

    def call_at(self, when: float, fn: Callable[[], None]) -> Timer:
        """Run ``fn`` under the lock once the clock reaches ``when``.  Under the lock."""
        timer = Timer(when, fn)
        timers = self._timers
        while timers and timers[0][2].fn is None:
            heappop(timers)
        if (not timers or when < timers[0][0]) and self._somebody_polls():
            self.mesh.wake()
        heappush(timers, (when, next(self._timer_ids), timer))
        return timer

    def _timeout(self, deadline: float | None) -> float | None:
        due = self.mesh.deadline()
        if due is not None and (deadline is None or due < deadline):
            deadline = due
        timers = self._timers
        while timers and timers[0][2].fn is None:
            heappop(timers)
        if timers and (deadline is None or timers[0][0] < deadline):
            deadline = timers[0][0]
        return None if deadline is None else max(0.0, deadline - self.clock())

    # ---------------------------------------------------------------- the service thread

    def _serve(self) -> None:
        seen_waits, seen_leader, ticks = -1, None, 0
        while not self.stopped:
            self._service_gate.acquire(timeout=-1 if self._service_parked else self._service_after_s)
            with self.lock:
                if self.stopped:
                    return
                quiet = seen_waits == self._waits and seen_leader is self._leader
                seen_waits, seen_leader = self._waits, self._leader
                ticks = ticks + 1 if quiet else 0
                self._service_parked = quiet and self._leader is not None and ticks >= _PARK_TICKS
                if not quiet or self._leader is not None:
                    continue
                self._leader = self._service_waiter
            self._serve_as_leader()
            ticks = 0

    def _serve_as_leader(self) -> None:
        while True:
            with self.lock:
                self._service_polling = False
                if not self.service_leads:
                    return
                if self.stopped:
                    self._leader = None
                    return
                self.mesh.clear_wake()
                if self._turn():
                    continue
                timeout = self._timeout(None)
                self._service_polling = True
            self.mesh.poll(timeout, service=True)

    def stop(self) -> None:
        """End the service thread and every wait (LoopStopped); puts the SIGINT handler back.  Idempotent.

        When it returns no thread polls any more, so the sockets may be closed.
        """
        self._restore_sigint()
        _LOOPS.discard(self)
        if self._forked:
            return
        with self.lock:
            self.stopped = True
            inside = self._main_waiter is not None and get_ident() == self._main_ident  # in a signal handler
            if self._polling and not inside and self._last_poller is None:
                self._last_poller = allocate_lock()
                self._last_poller.acquire()
            for waiter in list(self._followers):
                _open(waiter.gate)
            self._followers.clear()
            self.mesh.wake()
            if self._service_gate.locked():
                self._service_gate.release()
        if self._service is not None and self._service is not threading.current_thread():
            self._service.join()
        if self._last_poller is not None:
            self._last_poller.acquire(timeout=_LAST_POLL_S)
            _open(self._last_poller)

    # ---------------------------------------------------------------- SIGINT and fork

    def install_sigint(self) -> None:
        """Shield transitions from Ctrl-C: only in the main thread, and only in place of Python's own handler.

        A loop that another thread stopped could not put that back, so its handler stands for Python's own.
        """
        if get_ident() != self._main_ident:
            return
        found = signal.getsignal(signal.SIGINT)
        left = getattr(found, "__self__", None)
        if found is signal.default_int_handler or (isinstance(left, Loop) and left.stopped):
            signal.signal(signal.SIGINT, self._on_sigint)
            self._old_handler = signal.default_int_handler

    def _restore_sigint(self) -> None:
        if self._old_handler is not None and get_ident() == self._main_ident:
            if signal.getsignal(signal.SIGINT) == self._on_sigint:
                signal.signal(signal.SIGINT, self._old_handler)
            self._old_handler = None

    def _on_sigint(self, signum: int, frame: Any) -> None:
        waiter = self._main_waiter
        if self._forked or (waiter is None and not self.lock._is_owned()):  # type: ignore[attr-defined]
            if not in_finaliser(frame):
                raise KeyboardInterrupt
            start_new_thread(self._interrupt_again, ())
            return
        self._interrupted = True
        if waiter is not None:
            _open(waiter.gate)
            self.mesh.wake()

    def _interrupt_again(self) -> None:
        """Python swallows exceptions of a finaliser: the signal comes again when it is over."""
        time.sleep(_FINALISER_S)
        signal.pthread_kill(self._main_ident, signal.SIGINT)  # type: ignore[arg-type]

    def interrupt(self) -> None:
        """The action of SIGINT, for a signal handler of user code: raise KeyboardInterrupt now, or record it."""
        self._on_sigint(signal.SIGINT, None)

    def forget_interrupt(self) -> None:
        """Main thread: drop a recorded interrupt that was not raised yet."""
        self._interrupted = False

    def raise_pending(self) -> None:
        """Raise the KeyboardInterrupt that arrived while the main thread owned the lock, if one did."""
        if self.lock._is_owned() or self._main_waiter is not None:  # type: ignore[attr-defined]
            return  # not yet: an outer block raises it
        if self._interrupted and get_ident() == self._main_ident:
            self._interrupted = False
            raise KeyboardInterrupt


def in_finaliser(frame: Any) -> bool:
    """Whether one of zray's own ``__del__`` runs in ``frame``, or below it."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" and code.co_filename.startswith(_PACKAGE):
            return True
        frame = frame.f_back
    return False


def _open(gate: LockType | None) -> None:
    if gate is not None:
        try:
            gate.release()
        except RuntimeError:
            pass  # another thread has opened it: a notification, a promotion and an interrupt may coincide


_LOOPS: weakref.WeakSet[Loop] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """The parent's loop is useless here: its threads are gone, its sockets are the parent's, its lock may be held."""
    for loop in list(_LOOPS):
        loop._forked = True
        loop.lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
