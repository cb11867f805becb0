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
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from zray.api.calls import get, kill
from zray.base.errors import ActorDiedError, RayActorError
from zray.core.waits.callbacks import when_done
from zray.handles.connection import connected, has_ended
from zray.handles.refs import ObjectRef

# A chunk below this is short.  As many short chunks as fit into this time travel as one call of the actor; a round
# trip takes about 0.3 ms.  Nothing is sent ahead: it would wait behind a call that turns out to be long.
SHORT_CHUNK_S = 0.002
CHUNKS_A_CALL_MAX = 64
STEAL_S = 0.02
START_LOOK_AGAIN_S = 0.05
ENDING_S = 30.0
NOT_BEGUN = "The pool was terminated before this call began."
POOL_ENDED = "Pool not running: its session has ended, because zray was shut down since. Make a new Pool"

logger = logging.getLogger(__name__)


class Pace:
    """How long a chunk of one map took lately, or of one function that ``apply_async`` repeats."""

    __slots__ = ("chunk_s", "function")

    def __init__(self, function: Any):
        self.function = function
        self.chunk_s = SHORT_CHUNK_S

    @property
    def is_short(self) -> bool:
        """Whether a chunk takes less time than makes it worth a call of its own."""
        return self.chunk_s < SHORT_CHUNK_S


class CallChunk:
    """Calls that one process makes in one go, and where their results go.

    ``deliver(results, failed, error)`` is called once, under the lock: it must be short and run no user code.
    """

    __slots__ = ("calls", "deliver", "kind", "pace", "ref")

    def __init__(self, pace: Pace, calls: Any, kind: str, deliver: Callable[..., None]):
        self.pace = pace
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
        self.in_flight = 0  # calls of the actor
        self.taken = 0  # chunks that it got so far
        self.gone = False  # replaced: it gets no further chunk


class PoolProcesses:
    """``count`` actors; ``create(number)`` makes the next one."""

    def __init__(self, count: int, create: Callable[[int], Any], chunks_max: int | None):
        self.changed = threading.Condition(threading.RLock())
        self._create = create
        self._runtime = connected()
        self._chunks_max = chunks_max
        self._members = [_Member(number, create(number)) for number in range(count)]
        self._in_flight: dict[ObjectRef, tuple[_Member, list[CallChunk]]] = {}
        self._ending: list[Any] = []  # references of the ends of actors
        self._rotation = 0
        self._last_pace = Pace(None)
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

    @property
    def has_lost_session(self) -> bool:
        """Whether the session has ended: nothing starts any more, in no session."""
        return has_ended(self._runtime)

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

    def pace_of(self, function: Any) -> Pace:
        """The pace of a function that is applied again and again."""
        if self._last_pace.function is not function:
            self._last_pace = Pace(function)
        return self._last_pace

    def _may_take(self, member: _Member, pace: Pace) -> int:
        """How many chunks of that pace this process may be sent now, in one call."""
        if self.is_terminated or member.gone or member.in_flight:
            return 0
        count = max(1, min(CHUNKS_A_CALL_MAX, int(SHORT_CHUNK_S / pace.chunk_s)))
        return count if self._chunks_max is None else min(count, self._chunks_max - member.taken)

    def _feed(self, member: _Member, may_steal: bool = False) -> None:
        """Send the process what it may have in flight."""
        while line := member.line or self._line_to_steal_from(member, may_steal):
            pace = line[0].pace
            most = self._may_take(member, pace)
            if most <= 0:
                return
            if line is not member.line:
                most = min(most, -(-len(line) // 2))
            chunks = [line.popleft()]
            while len(chunks) < most and line and line[0].pace is pace:
                chunks.append(line.popleft())
            self._start(member, chunks)

    def _line_to_steal_from(self, member: _Member, may_steal: bool) -> deque[CallChunk] | None:
        if member.in_flight:
            return None
        line = max((other.line for other in self._members), key=len)
        return line if line and (may_steal or not line[0].pace.is_short) else None

    def _start(self, member: _Member, chunks: list[CallChunk]) -> None:
        first = chunks[0]
        try:
            ref = member.actor.run.remote(first.pace.function, [chunk.calls for chunk in chunks], first.kind)
        except Exception as error:  # the arguments cannot be pickled, or the session is over
            self._refuse(member, chunks, error)
            return
        for chunk in chunks:
            chunk.ref = ref
        self._in_flight[ref] = member, chunks
        member.in_flight += 1
        member.taken += len(chunks)
        when_done(ref.future(), _weakly(self, ref))

    def _refuse(self, member: _Member, chunks: list[CallChunk], error: Exception) -> None:
        if len(chunks) > 1:  # find the one with the fault
            for chunk in chunks:
                self._start(member, [chunk])
            return
        chunks[0].deliver([], (), error)
        self.changed.notify_all()

    def ended(self, ref: ObjectRef, future: Any) -> None:
        """A call of an actor has ended."""
        error = future.exception()
        with self.changed:
            member, chunks = self._in_flight.pop(ref)
            member.in_flight -= 1
            for chunk in chunks:
                chunk.ref = None
            if error is None:
                seconds, made = future.result()
                chunks[0].pace.chunk_s = max(seconds / len(made), 1e-6)
                for chunk, (results, failed) in zip(chunks, made, strict=False):
                    chunk.deliver(results, failed, None)
                self._put_back(member, chunks[len(made):])
            else:
                for chunk in chunks:
                    chunk.deliver([], (), error)
            if self.has_lost_session:
                self.terminate()
            if not self.is_terminated:
                if isinstance(error, RayActorError):
                    self._replace(member)
                elif member.taken == self._chunks_max and not member.in_flight and not member.gone:
                    self._end(member)
                    self._replace(member)
                self._feed(self._members[member.number])
                self._watch_lines()
                self._end_if_drained()
            self.changed.notify_all()

    def _put_back(self, member: _Member, chunks: list[CallChunk]) -> None:
        """Chunks that the process did not begin, because one before them took long: another may take them."""
        if self.is_terminated:
            for chunk in chunks:
                chunk.deliver([], (), ActorDiedError(NOT_BEGUN))
        else:
            member.taken -= len(chunks)
            self._members[member.number].line.extendleft(reversed(chunks))

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
            if self.has_lost_session:
                self.terminate()
            for member in list(self._members):
                if not member.in_flight:
                    self._feed(member, may_steal=True)
            self._watch_lines()

    # ---------------------------------------------------------------- waiting

    def wait(self, is_done: Callable[[], bool], chunks: Callable[[], Iterable[CallChunk]],
             left_s: Callable[[], float | None]) -> bool:
        """Block until ``is_done()``, which any of ``chunks()`` may change; False when no time is left.

        It blocks in zray's own ``wait``: a task that waits gives its CPU back, and a wait in vain says why.
        """
        while True:
            with self.changed:
                if is_done():
                    return True
                seconds = left_s()
                if seconds is not None and seconds <= 0:
                    return False
                awaited = list(chunks())
                watched = [chunk.ref for chunk in awaited if chunk.ref is not None]
                if not watched or len(watched) < len(awaited):  # another call may start meanwhile: look again
                    watched = list(self._in_flight)
                    seconds = START_LOOK_AGAIN_S if seconds is None else min(seconds, START_LOOK_AGAIN_S)
                if not watched:
                    self.changed.wait(seconds)
                    continue
            ready, _ = self._runtime.wait(list(dict.fromkeys(watched)), 1, seconds)
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
            if self.has_lost_session:
                self.terminate()
            self._end_if_drained()

    def _is_drained(self) -> bool:
        return not self._in_flight and not any(member.line for member in self._members)

    def _end_if_drained(self) -> None:
        if self.is_closed and not self.is_terminated and self._is_drained():
            for member in self._members:
                if not member.gone:
                    member.gone = True
                    self._end(member)

    def _end(self, member: _Member) -> None:
        """The process ends after its calls; exit handlers run."""
        self._ending.append(member.actor.__ray_terminate__.remote())
        self._ending = self._runtime.wait(self._ending, len(self._ending), 0)[1]

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
                if not member.gone and not self.has_lost_session:
                    kill(member.actor)
            for chunk in waiting:
                chunk.deliver([], (), ActorDiedError(POOL_ENDED if self.has_lost_session else NOT_BEGUN))
            self.changed.notify_all()

    def join(self) -> None:
        """Wait until all results and callbacks are there, and the processes have ended."""
        self.wait(lambda: self._is_drained() and not self._calls_back, tuple, lambda: None)
        with self.changed:
            ending, self._ending = self._ending, []
        if ending and not self.is_terminated and len(self._runtime.wait(ending, len(ending), ENDING_S)[1]):
            logger.warning("a process of the pool has not ended %g s after its last call", ENDING_S)


def _weakly(processes: PoolProcesses, ref: ObjectRef) -> Callable[[Any], None]:
    """What a future calls at its end; it does not keep the processes of a pool that nobody holds."""
    weak = weakref.ref(processes)

    def ended(future: Any) -> None:
        found = weak()
        if found is not None:
            found.ended(ref, future)

    return ended
