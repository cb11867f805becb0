"""The processes of a Pool, and which of them runs which chunk of calls.

    submitted --> in the line of one process --> in flight in its actor --> ended, result delivered
                        |                                  |
                        +--> another process takes it      +--> its process died: an error, a new process

Chunks that are submitted together are dealt evenly.  A process whose line is empty takes chunks from
the longest line, but not while chunks are short: that would save nothing, and undo the even deal.
A chunk that waits for longer than STEAL_S behind another one is taken in any case.

Results arrive on the thread of futures; users' callbacks run on a thread that lives while there are any.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from zray.api.calls import get, kill, wait
from zray.base.errors import ActorDiedError, RayActorError
from zray.handles.refs import ObjectRef

# A chunk below this is short: the next ones are sent ahead, so that the process never waits for the round trip
# (about 0.3 ms on a laptop).
SHORT_CHUNK_S = 0.002
SENT_AHEAD_MAX = 4
STEAL_S = 0.02
ENDING_S = 30.0

logger = logging.getLogger(__name__)


class CallChunk:
    """Calls that one process makes in one go, and where their results go.

    ``deliver(results, failed, error)`` is called once, under the lock: it must be short and run no user code.
    """

    __slots__ = ("calls", "deliver", "function", "kind", "ref")

    def __init__(self, function: Any, calls: Any, kind: str, deliver: Callable[..., None]):
        self.function = function
        self.calls = calls
        self.kind = kind
        self.deliver = deliver
        self.ref: ObjectRef | None = None  # while it is in flight


class _Member:
    """One process: its actor, the chunks in its line, how many are in flight."""

    __slots__ = ("actor", "gone", "in_flight", "line", "number", "taken")

    def __init__(self, number: int, actor: Any):
        self.number = number
        self.actor = actor
        self.line: deque[CallChunk] = deque()
        self.in_flight = 0
        self.taken = 0  # chunks that it got so far
        self.gone = False  # replaced: it gets no further chunk


class PoolProcesses:
    """``count`` actors; ``create(number)`` makes the next one."""

    def __init__(self, count: int, create: Callable[[int], Any], chunks_max: int | None):
        self.changed = threading.Condition(threading.RLock())
        self._create = create
        self._chunks_max = chunks_max
        self._members = [_Member(number, create(number)) for number in range(count)]
        self._in_flight: dict[ObjectRef, CallChunk] = {}
        self._ending: list[Any] = []  # references of the ends of actors
        self._rotation = 0
        self._short = False
        self._timer: threading.Timer | None = None
        self._callbacks: deque[Callable[[], None]] = deque()
        self._calls_back = False
        self.is_closed = False
        self.is_terminated = False
        try:
            get([member.actor.ready.remote() for member in self._members])
        except BaseException:
            self.terminate()
            raise

    def __len__(self) -> int:
        return len(self._members)

    # ---------------------------------------------------------------- chunks

    def submit(self, chunks: Iterable[CallChunk]) -> None:
        """Deal the chunks to the processes with the shortest lines."""
        with self.changed:
            count = len(self._members)
            loads = [(len(member.line) + member.in_flight, (member.number - self._rotation) % count)
                     for member in self._members]
            heapq.heapify(loads)
            start = self._rotation
            fed = set()
            for chunk in chunks:
                load, offset = loads[0]
                number = (start + offset) % count
                self._members[number].line.append(chunk)
                fed.add(number)
                self._rotation = (number + 1) % count
                heapq.heapreplace(loads, (load + 1, offset))
            for number in sorted(fed, key=lambda number: (number - start) % count):
                self._feed(self._members[number])
            self._watch_lines()

    def _limit(self, member: _Member) -> int:
        limit = SENT_AHEAD_MAX if self._short else 1
        if self._chunks_max is not None:
            limit = min(limit, member.in_flight + self._chunks_max - member.taken)
        return limit

    def _feed(self, member: _Member, may_steal: bool = False) -> None:
        """Send the process what it may have in flight."""
        while not self.is_terminated and not member.gone and member.in_flight < self._limit(member):
            line = member.line
            if not line:
                if not (may_steal or not self._short) or member.in_flight:
                    return
                line = max((other.line for other in self._members), key=len)
                if not line:
                    return
            self._start(member, line.popleft())

    def _start(self, member: _Member, chunk: CallChunk) -> None:
        try:
            ref = member.actor.run.remote(chunk.function, chunk.calls, chunk.kind)
        except Exception as error:  # the arguments cannot be pickled, or the session is over
            chunk.deliver([], (), error)
            self.changed.notify_all()
            return
        chunk.ref = ref
        self._in_flight[ref] = chunk
        member.in_flight += 1
        member.taken += 1
        ref.future().add_done_callback(lambda future: self._ended(member, chunk, ref, future))

    def _ended(self, member: _Member, chunk: CallChunk, ref: ObjectRef, future: Any) -> None:
        error = future.exception()
        with self.changed:
            self._in_flight.pop(ref, None)
            chunk.ref = None
            member.in_flight -= 1
            if error is None:
                seconds, results, failed = future.result()
                self._short = seconds < SHORT_CHUNK_S
                chunk.deliver(results, failed, None)
            else:
                chunk.deliver([], (), error)
            if not self.is_terminated:
                if isinstance(error, RayActorError):
                    self._replace(member)
                elif member.taken == self._chunks_max and not member.in_flight:
                    self._end(member)
                    self._replace(member)
                self._feed(self._members[member.number])
                self._watch_lines()
                self._end_if_drained()
            self.changed.notify_all()

    def _replace(self, member: _Member) -> None:
        """A new process takes the place and the line of this one, which has died or made its share of calls."""
        if member.gone:
            return
        member.gone = True
        if self.is_closed and not any(other.line for other in self._members):
            return
        new = _Member(member.number, self._create(member.number))
        new.line = member.line
        self._members[member.number] = new

    def _watch_lines(self) -> None:
        """A process is idle while chunks wait for others: let it take them, if they still wait in a moment."""
        if self._timer is not None or self.is_terminated:
            return
        if any(member.line for member in self._members) and not all(member.in_flight for member in self._members):
            self._timer = threading.Timer(STEAL_S, self._steal)
            self._timer.daemon = True
            self._timer.start()

    def _steal(self) -> None:
        with self.changed:
            self._timer = None
            for member in list(self._members):
                if not member.in_flight:
                    self._feed(member, may_steal=True)
            self._watch_lines()

    # ---------------------------------------------------------------- waiting

    def wait(self, is_done: Callable[[], bool], chunks: Callable[[], Iterable[CallChunk]],
             left_s: Callable[[], float | None]) -> bool:
        """Block until ``is_done()``, which one of ``chunks()`` will change; False when no time is left.

        It blocks in zray's own ``wait``: a task that waits gives its CPU back, and a wait in vain says why.
        """
        while True:
            with self.changed:
                if is_done():
                    return True
                seconds = left_s()
                if seconds is not None and seconds <= 0:
                    return False
                ref = next((chunk.ref for chunk in chunks() if chunk.ref is not None), None)
                watched = [ref] if ref is not None else list(self._in_flight)
                if not watched:
                    self.changed.wait(seconds)
                    continue
            ready, _ = wait(watched, num_returns=1, timeout=seconds)
            with self.changed:
                while not is_done() and any(ref in self._in_flight for ref in ready):
                    self.changed.wait(1.0)

    def call_back(self, call: Callable[[], None]) -> None:
        """Run a user's callback, after those before it, on a thread of its own (under the lock)."""
        self._callbacks.append(call)
        if not self._calls_back:
            self._calls_back = True
            threading.Thread(target=self._run_callbacks, name="zray-pool-callbacks", daemon=True).start()

    def _run_callbacks(self) -> None:
        while True:
            with self.changed:
                if not self._callbacks:
                    self._calls_back = False
                    self.changed.notify_all()
                    return
                call = self._callbacks.popleft()
            call()
            with self.changed:
                self.changed.notify_all()

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Finish what was submitted, then end the processes."""
        with self.changed:
            self.is_closed = True
            self._end_if_drained()

    def _is_drained(self) -> bool:
        return not self._in_flight and not any(member.line for member in self._members)

    def _end_if_drained(self) -> None:
        if self.is_closed and not self.is_terminated and self._is_drained():
            for member in self._members:
                self._end(member)

    def _end(self, member: _Member) -> None:
        """The process ends after its calls, as the last handle of an actor does; exit handlers run."""
        if not member.gone:
            member.gone = True
            self._ending.append(member.actor.__ray_terminate__.remote())
            self._ending = wait(self._ending, num_returns=len(self._ending), timeout=0)[1]

    def terminate(self) -> None:
        """End the processes now; what runs and what waits raises ActorDiedError."""
        with self.changed:
            if self.is_terminated:
                return
            self.is_closed = self.is_terminated = True
            if self._timer is not None:
                self._timer.cancel()
            waiting = [chunk for member in self._members for chunk in member.line]
            for member in self._members:
                member.line.clear()
                if not member.gone:
                    kill(member.actor)
            for chunk in waiting:
                chunk.deliver([], (), ActorDiedError("The pool was terminated before this call began."))
            self.changed.notify_all()

    def join(self) -> None:
        """Wait until all results and callbacks are there, and the processes have ended."""
        self.wait(lambda: self._is_drained() and not self._calls_back, tuple, lambda: None)
        with self.changed:
            ending, self._ending = self._ending, []
        if ending and not self.is_terminated and len(wait(ending, num_returns=len(ending), timeout=ENDING_S)[1]):
            logger.warning("a process of the pool has not ended %g s after its last call", ENDING_S)
