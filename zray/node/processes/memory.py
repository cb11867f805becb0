"""Which worker ends when memory runs out, before the kernel chooses a process.  Pure.

    all readings are below the threshold       nothing; look again after a pause that depends on the least room left
    one is above                               end one worker, look again when that is gone, or after DYING_S
    a worker holds more than its memory=       end it (only with the setting memory_enforced)

The kernel would end the process that holds most: often a driver, or an actor with hours of state.  This monitor
chooses, of the workers that run something, in this order:

    1  one of a job that has another worker here, when there is one: no job loses its last for another's sake
    2  one whose work may run again (max_retries, max_restarts)
    3  the youngest: it loses least

An idle worker that holds much ends before all of these, as nothing is lost with it.  A task that ended so asks for
more memory when it runs again (``MemoryVerdict.ask``), and those that stay are charged for what they hold
(``charge``): so it waits until they have given that back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zray.base.exits import OUT_OF_MEMORY
from zray.base.ports import Ports

# Memory that one process fills in a second, at most: several threads that touch new pages.  The next look comes before
# the room that is left could be filled.
FILL_BYTES_S = 8 << 30
PAUSE_LONGEST_S = 1.0
DYING_S = 2.0  # a killed process gives its memory back within a second; one that waits for a disk is not waited for
IDLE_BYTES_MIN = 64 << 20  # an idle worker with less is not worth its next start
ASK_FACTOR = 1.5  # a task was still growing when it ended
ASK_STEP_BYTES = 64 << 20  # amounts are rounded up to this, so that an owner has few scheduling keys
NAMED_MAX = 3  # the largest workers that a reason names


class Reading(NamedTuple):
    """How much memory is in use, of how much, and what sets that limit."""

    used: int
    limit: int
    source: str

    @property
    def share(self) -> float:
        return self.used / self.limit if self.limit else 0.0


class Candidate(NamedTuple):
    """A worker process that could end."""

    worker: bytes
    pid: int
    job: int
    name: str  # what it runs, for people
    is_idle: bool
    may_run_again: bool
    since: float  # start of its present task or actor
    allowed: int = 0  # bytes that it may hold; 0: no limit of its own


class MemoryVerdict(NamedTuple):
    """A worker that ends, and why.  ``ask``: bytes that its task should ask for when it runs again, 0 for no change."""

    worker: bytes
    reason: str
    ask: int


def choose(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The worker that ends, of several that run something, and why that one in words."""
    workers = Counter(one.job for one in candidates)
    spare = [one for one in candidates if workers[one.job] > 1]
    again = [one for one in spare or candidates if one.may_run_again]
    chosen = max(again or spare or candidates, key=lambda one: (one.since, one.worker))
    why = "the youngest whose work may run again" if again else "the youngest; no work here may run again"
    if len(candidates) == 1:
        why = "the only one that runs anything"
    return chosen, why


class MemoryPorts(Ports):
    """Ports of the memory monitor."""

    read: Callable[[], Sequence[Reading]]  # one for each limit; the first counts when two are equal
    held: Callable[[int], int]  # bytes that only this process holds, 0 when it is gone
    candidates: Callable[[], Sequence[Candidate]]  # workers that are not about to end
    charge: Callable[[dict[bytes, int]], None]  # worker -> bytes that it holds: they are not free for others
    most: Callable[[], int]  # bytes that a task may ask this node for
    end: Callable[[MemoryVerdict], None]


class MemoryMonitor:
    """See the module's docstring.

    ``pause_s``: the shortest time between two looks, 0 for never.  ``threshold``: the share of the limit from which
    workers end.  ``enforced``: each worker is held to what its task asked for.
    """

    def __init__(self, pause_s: float, threshold: float, enforced: bool, ports: MemoryPorts):
        self._pause_s, self._threshold, self._enforced = pause_s, threshold, enforced
        self._ports = ports
        self._look_at: float | None = None
        self._dying = b""  # the worker that was ended last
        self._dying_until = 0.0
        self.ended = 0  # workers, so far

    def next_deadline(self) -> float | None:
        return self._look_at

    def settle(self, is_busy: bool, now: float) -> None:
        """After each event: look only while some worker runs something, so an idle node sleeps."""
        if not is_busy or not self._pause_s:
            self._look_at = None
        elif self._look_at is None:
            self._look_at = now + self._pause_s

    def tick(self, now: float) -> None:
        if self._look_at is None or now < self._look_at:
            return
        candidates = self._ports.candidates()
        readings = self._ports.read()
        self._look_at = now + self._pause(readings)
        if self._enforced:
            candidates = self._hold_to_limits(candidates)
        reading = max(readings, key=lambda reading: reading.share)
        if reading.share < self._threshold:
            return
        if self._dying and now < self._dying_until:
            return
        verdict = self._judge(candidates, reading)
        if verdict is not None:
            self._dying, self._dying_until = verdict.worker, now + DYING_S
            self._look_at = now + self._pause_s
            self._end(verdict)

    def _pause(self, readings: Sequence[Reading]) -> float:
        """A small limit may be full before one that more of is in use."""
        room = max(0.0, min(self._threshold * reading.limit - reading.used for reading in readings))
        return min(max(self._pause_s, PAUSE_LONGEST_S), max(self._pause_s, room / FILL_BYTES_S))

    def gone(self, worker: bytes) -> None:
        """The process of that worker has ended, and its memory is free."""
        if worker == self._dying:
            self._dying = b""

    def _hold_to_limits(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """End those that hold more than they may; returns the others."""
        stay = []
        for one in candidates:
            if not one.allowed or one.is_idle or (held := self._ports.held(one.pid)) <= one.allowed:
                stay.append(one)
            else:
                self._end(MemoryVerdict(one.worker, f"{OUT_OF_MEMORY}: it held {size(held)}, and its memory= allows "
                                  f"{size(one.allowed)} (the setting memory_enforced)", 0))
        return stay

    def _judge(self, candidates: Sequence[Candidate], reading: Reading) -> MemoryVerdict | None:
        held = {one.worker: self._ports.held(one.pid) for one in candidates}
        idle = [one for one in candidates if one.is_idle and held[one.worker] >= IDLE_BYTES_MIN]
        busy = [one for one in candidates if not one.is_idle]
        if idle:
            chosen, why = max(idle, key=lambda one: (held[one.worker], one.worker)), "idle, and the largest of those"
        elif busy:
            chosen, why = choose(busy)
        else:
            return None
        largest = sorted((one for one in candidates if one is not chosen), key=lambda one: -held[one.worker])
        others = ", ".join(f"pid {one.pid} ({one.name or 'idle'}) {size(held[one.worker])}"
                           for one in largest[:NAMED_MAX])
        ask = 0
        if not chosen.is_idle:
            ask = min(self._ports.most(), rounded_up(int(ASK_FACTOR * held[chosen.worker])))
            self._ports.charge({one.worker: held[one.worker] for one in busy if one is not chosen})
        return MemoryVerdict(chosen.worker, (
            f"{OUT_OF_MEMORY}: {size(reading.used)} of {size(reading.limit)} were in use ({reading.source}), more than "
            f"the {self._threshold:.0%} of memory_share_max. This process (pid {chosen.pid}) held "
            f"{size(held[chosen.worker])}; it was {why}" + (f". Others: {others}" if others else "")), ask)

    def _end(self, verdict: MemoryVerdict) -> None:
        self.ended += 1
        self._ports.end(verdict)

    def check(self) -> None:
        assert self._look_at is None or self._pause_s > 0


def size(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def rounded_up(count: int) -> int:
    """An amount of memory to ask for."""
    return -(-count // ASK_STEP_BYTES) * ASK_STEP_BYTES
