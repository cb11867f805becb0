"""Worker processes of a node: starting, idle, in use, leaving.  Pure.

    STARTING --ready--> IDLE --take--> LEASED | ACTOR --release--> IDLE
        any of them --retire/kill--> EXITING ;  any of them --died--> (removed)

A worker starts *fresh*.  Its first use fixes its :class:`Kind` (job, environment variables, GPU
ids), and from then on it serves only that kind.  So jobs never share a process, a process keeps the
environment in which it imported its libraries, and a process that initialised CUDA on some GPUs
never sees others.  A kind whose variables count only at the start of a process (``fresh``) is
served only by workers that were started for it.

A caller asks for a worker by :meth:`WorkerPool.take` with a token.  It gets an idle worker at once, or
waits in order and is served by :meth:`WorkerPool.ready` or :meth:`WorkerPool.release` through the returned
``(token, worker)`` pairs.  The pool starts as many processes as tokens wait, within ``workers_max``,
the start window (zray.node.processes.starts) and the memory (zray.node.processes.room).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import IntEnum
from itertools import islice
from typing import Any

from zray.base import env_vars
from zray.base.named_tuples import NamedTuple
from zray.environments import setup as setups
from zray.node.effects import Kill, Send, Spawn
from zray.node.processes.room import StartRoom
from zray.node.processes.starts import Starts
from zray.wire.messages import JobOver, WorkerExit

# Deaths of processes that never became ready, in a row, before starts are spaced out (a broken environment must not
# become a fork bomb), and the longest such pause.
START_FAILURES_FREE = 3
START_PAUSE_S_MAX = 5.0
# Workers started ahead for actors that still wait for resources.  Actors are placed one CPU at a
# time, and a fork takes as long as the rest of a creation: forking in the meantime made creation
# several times as fast.
AHEAD_MAX = 8
# At most this many workers that hang while they start are replaced.  Where all hang (a file system
# that does not answer), more starts help nobody.
HANGING_MAX = 64
# How long a worker whose job is over may take to report its last task events.  An idle worker takes
# a tenth of a millisecond, on a busy machine up to a tenth of a second, and what it reports is what the
# session keeps; the pool does not wait for one that holds the interpreter in native code.
REPORT_S = 0.2
# Environments under which no worker could start are remembered, so that their tasks fail instead of waiting for ever.
BROKEN_KEPT_MAX = 100
# After this pause such an environment is tried again when a task asks for it.
BROKEN_RETRY_S = 10.0


class State(IntEnum):
    STARTING = 0
    IDLE = 1
    LEASED = 2
    ACTOR = 3
    EXITING = 4


class Kind(NamedTuple):
    """The use to which a worker is bound: job, environment, GPUs."""

    job: int
    env: tuple  # sorted (name, value) pairs; as written where one may refer to another
    gpus: tuple  # GPU ids, () for none
    threads: int = 1  # of numeric libraries, which read the number when they are loaded
    fresh: bool = False  # the process must have been started under ``env``, or by a Python of its own
    setup: str = ""  # what the node installed for it: see zray.environments.setup
    hook: str = ""  # the setup hook that it has run

    @classmethod
    def of(cls, job: int, env: Mapping[str, str], gpus: list | tuple = (), threads: int = 1,
           environ: Mapping[str, str] | None = None, setup: str = "", hook: str = "") -> Kind:
        """``env``: variables; ``environ``: the environment of forked workers."""
        ordered: Iterable[tuple[str, str]] = env.items()
        if not any("$" in value for value in env.values()):
            ordered = sorted(ordered)
        return cls(job, tuple(ordered), tuple(gpus), threads, bool(env) and env_vars.needs_exec(env, environ or {}),
                   setup, hook)


def why_not_started(kind: Kind, last_words: str, equipping: bool) -> str:
    """For users: Python could not start for that kind, or its setup hook ended the process, again and again."""
    if equipping:
        name = kind.hook.rpartition(":")[2]
        return (f"The process ended while it ran the setup hook method {name}. It said: {last_words}\n"
                f"zray runs the hook again when a task asks for it after a pause of {BROKEN_RETRY_S:g} s.")
    names = env_vars.at_exec(dict(kind.env))
    causes = [f"its env_vars {', '.join(names)}"] if names else []
    if kind.setup:
        causes.append(setups.title(kind.setup))
    return (f"Python could not start under {' and '.join(causes)}. The last process said: {last_words}\n"
            f"zray tries again when a task asks for it after a pause of {BROKEN_RETRY_S:g} s.")


class WorkerRecord:
    """One worker process."""

    __slots__ = ("actor", "ask", "asked", "blocked", "broken", "endpoint", "hangs", "id", "incarnation", "kind",
                 "launched_s", "lease", "pid", "raised", "ready_s", "reason", "since", "state")

    def __init__(self, worker_id: bytes, now: float):
        self.id = worker_id
        self.incarnation = worker_id[:8]
        self.pid = 0
        self.endpoint = ""
        self.state = State.STARTING
        self.kind: Kind | None = None
        self.since = now  # start of the present state
        self.lease = 0  # scheduler's lease id while LEASED or ACTOR
        self.actor = b""
        self.blocked = False
        self.broken = False  # it only raises why its environment could not be set up, and serves one lease
        self.hangs = False  # it is STARTING, and the pool does not count on it any more
        self.reason = ""  # why the node ended it, for WorkerDied
        self.ask: dict[str, int] = {}  # resources that its task should ask for when it runs again, see WorkerDied
        self.asked = ""  # why the node asked it to end
        self.raised = ""  # the text of the exception that the constructor of its actor raised
        self.launched_s, self.ready_s = now, 0.0

    @property
    def job(self) -> int:
        return self.kind.job if self.kind else 0

    def __repr__(self) -> str:
        return f"<Worker {self.incarnation.hex()} pid={self.pid} {self.state.name}>"


Served = list[tuple[Hashable, WorkerRecord]]


class WorkerPool:
    """The worker processes of one node."""

    def __init__(self, new_id: Callable[[], bytes], emit: Callable[[Any], None], *, keep: int, workers_max: int,
                 idle_s: float, room: StartRoom, may_retire: Callable[[WorkerRecord], bool],
                 is_over: Callable[[int], bool]):
        self._new_id = new_id
        self._emit = emit
        self.keep = keep  # idle workers that are never retired for being idle, and the number of workers started ahead
        self.workers_max = workers_max
        self.idle_s = idle_s
        self.workers: dict[bytes, WorkerRecord] = {}
        self._idle: dict[Kind | None, dict[bytes, WorkerRecord]] = {}  # each oldest first
        self._idle_count = 0
        self._starting = 0
        self._starting_of: dict[Kind, int] = {}  # those of them that are started for a fresh kind
        self.starts = Starts()
        self._room = room
        self._prestarts = 0  # of them still to come
        self._waiting: dict[Hashable, Kind] = {}  # in order of arrival
        self._plain: dict[Hashable, None] = {}  # tokens among them that any forked worker can serve
        self._waiting_of: dict[Kind, dict[Hashable, None]] = {}
        self._start_failures = 0
        self._start_after = 0.0
        # kind -> (failures to start, or to survive its hook, in a row; the last error; when it is tried again)
        self._broken: dict[Kind, tuple[int, str, float]] = {}
        self.dismissed: dict[bytes, float] = {}  # workers that may report before they are killed -> deadline
        self.may_retire = may_retire  # for being idle
        self._is_over = is_over  # whether the driver of that job has ended: its idle workers serve few others, or none

    # ------------------------------------------------------------ wants

    def prestart(self, now: float) -> None:
        """Have ``keep`` workers idle or starting."""
        self._prestarts = self.keep
        self._go_on_prestarting(now)

    def start_ahead(self, soon: int, now: float) -> None:
        """``soon`` more workers will be needed once resources are free: start some of them now."""
        wanted = min(soon, AHEAD_MAX)
        spare = self._starting_plain() - len(self._plain) + len(self._idle.get(None, ()))
        if spare > wanted // 2:
            return  # a batch of forks costs the zygote little more than one
        while spare < wanted and self._can_start(now):
            self._start(now)
            spare += 1

    def take(self, kind: Kind, token: Hashable, now: float) -> WorkerRecord | None:
        """An idle worker for ``kind``, or None: then ``token`` waits."""
        if kind in self._broken and self.why_broken(kind) and self._broken[kind][2] <= now:
            del self._broken[kind]
        for candidate in (kind,) if kind.fresh else (kind, None):
            idle = self._idle.get(candidate)
            if idle:
                worker = self._pop_idle(candidate)  # last in first out: the warmest caches
                worker.kind = kind
                return worker
        self._waiting[token] = kind
        if not kind.fresh:
            self._plain[token] = None
        self._waiting_of.setdefault(kind, {})[token] = None
        self._start_needed(now)
        return None

    def cancel(self, token: Hashable) -> bool:
        """``token`` no longer waits; False when it was not waiting."""
        kind = self._waiting.pop(token, None)
        if kind is None:
            return False
        self._plain.pop(token, None)
        tokens = self._waiting_of[kind]
        del tokens[token]
        if not tokens:
            del self._waiting_of[kind]
        return True

    def waits(self, token: Hashable) -> bool:
        return token in self._waiting

    def limit(self) -> str:
        """For users: why no further process may be started now; '' when one may."""
        if len(self.workers) >= self.workers_max:
            return f"{self.workers_max} workers, the setting workers_max"
        return self._room.why_short

    # ------------------------------------------------------------ life of a worker

    def ready(self, incarnation: bytes, endpoint: str, now: float) -> Served:
        """The process has bound, attached and waits for work."""
        worker = self.workers.get(incarnation)
        if worker is None or worker.state is not State.STARTING:
            return []
        self.starts.ready(incarnation, now)
        worker.ready_s = now
        self._no_longer_starting(worker)
        if worker.kind is None:
            self._start_failures = 0
        elif not worker.kind.hook and not self.why_broken(worker.kind):
            self._broken.pop(worker.kind, None)
        worker.endpoint = endpoint
        served = self._offer(worker, now)
        self._start_needed(now)
        self._go_on_prestarting(now)
        return served

    def release(self, worker: WorkerRecord, now: float) -> Served:
        """Its lease or actor is over and the process can serve again."""
        if worker.state not in (State.LEASED, State.ACTOR):
            return []
        if worker.broken:  # its environment may be there the next time
            self.retire(worker, "its runtime environment could not be set up", now)
            self._start_needed(now)
            return []
        if worker.kind is not None and worker.kind.hook:  # it has survived its hook
            self._broken.pop(worker.kind, None)
        return self._offer(worker, now)

    def use(self, worker: WorkerRecord, state: State, lease: int, now: float, actor: bytes = b"") -> None:
        """The caller that was served starts to use the worker."""
        worker.state = state
        worker.lease = lease
        worker.actor = actor
        worker.since = now

    def retire(self, worker: WorkerRecord, reason: str, now: float) -> None:
        """Ask it to finish its work and end.  It may take its time: others may still need objects that it owns."""
        if self._leave(worker, now):
            worker.asked = reason
            self._emit(Send(worker.incarnation, WorkerExit(reason)))

    def kill(self, worker: WorkerRecord, reason: str, now: float) -> None:
        """End it at once."""
        self._leave(worker, now)
        if not worker.reason:  # else it has been killed already
            worker.reason = reason or "killed by zray"
            self._emit(Kill(worker.incarnation))

    def dismiss(self, worker: WorkerRecord, reason: str, now: float) -> None:
        """End it as soon as it has reported its tasks."""
        if worker.reason or not worker.endpoint:
            self.kill(worker, reason, now)
            return
        self._leave(worker, now)
        worker.reason = reason
        self.dismissed[worker.incarnation] = now + REPORT_S
        self._emit(Send(worker.incarnation, JobOver(worker.job)))

    def reported(self, incarnation: bytes) -> None:
        """The worker has reported; no effect when it was not dismissed."""
        if self.dismissed.pop(incarnation, None) is not None:
            self._emit(Kill(incarnation))

    def leaving(self, worker: WorkerRecord, now: float) -> None:
        """The worker announced that it ends by itself (max_calls reached, exit)."""
        self._leave(worker, now)

    def died(self, incarnation: bytes, now: float, last_words: str = "", equipping: bool = False
             ) -> WorkerRecord | None:
        """Its process is gone (``equipping``: in its setup hook).  Returns its last record, or None when unknown."""
        worker = self.workers.pop(incarnation, None)
        self.dismissed.pop(incarnation, None)
        if worker is None:
            return None
        self.starts.over(incarnation)
        if worker.state is State.STARTING:
            self._no_longer_starting(worker)
            if worker.kind is not None and worker.pid:  # else the fork failed, for whatever kind
                self._could_not_start(worker.kind, last_words, now)
            elif not worker.reason:
                self._start_failures += 1
                if self._start_failures > START_FAILURES_FREE:
                    self._start_after = now + min(START_PAUSE_S_MAX, 0.1 * 2 ** (self._start_failures - 4))
        elif worker.state is State.IDLE:
            self._drop_idle(worker)
        elif equipping and worker.kind is not None and not worker.reason:
            self._could_not_start(worker.kind, last_words, now, equipping=True)
        self._start_needed(now)
        return worker

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Retire workers that were idle too long; start those that had to wait."""
        for incarnation in [worker for worker, until in self.dismissed.items() if until <= now]:
            self.reported(incarnation)
        if self._start_after <= now:
            self._start_after = 0.0
        for incarnation in self.starts.tick(now):
            self._give_up(self.workers[incarnation])
        self._start_needed(now)
        for worker in self._idle_too_many():
            if worker.since + self.idle_s > now:
                break
            if self.may_retire(worker):
                self.retire(worker, "idle", now)
            else:
                self._drop_idle(worker)  # asked again a full time-out later
                worker.since = now
                self._push_idle(worker)

    def _idle_too_many(self) -> list[WorkerRecord]:
        """Idle workers that are not kept, those that are idle for longest first."""
        over = {kind for kind in self._idle if kind is not None and self._is_over(kind.job)}
        excess = self._idle_count - self.keep
        if not over and excess <= 0:
            return []
        idle = sorted((w for idle in self._idle.values() for w in idle.values()), key=lambda w: w.since)
        return [w for place, w in enumerate(idle) if place < excess or w.kind in over]

    def next_deadline(self) -> float | None:
        """When tick has something to do, or None."""
        due = min(self.dismissed.values(), default=None)
        is_excess = self._idle_count > self.keep
        first = min([next(iter(idle.values())).since for kind, idle in self._idle.items()
                     if is_excess or kind is not None and self._is_over(kind.job)], default=None)
        if first is not None:
            due = first + self.idle_s if due is None else min(due, first + self.idle_s)
        if self._waiting:
            is_short = self._starting_plain() < len(self._plain) or len(self._plain) < len(self._waiting)
            late = (self._start_after if is_short else 0.0) or self.starts.next_deadline()
            for when in (late, self._room.next_deadline() if is_short else None):
                if when is not None:
                    due = when if due is None else min(due, when)
        return due

    # ------------------------------------------------------------ inside

    def _offer(self, worker: WorkerRecord, now: float) -> Served:
        worker.lease = 0
        worker.actor = b""
        worker.blocked = False
        token: Hashable
        if worker.kind is None:
            token = next(iter(self._plain), None)
        else:
            token = next(iter(self._waiting_of.get(worker.kind, ())), None)
        if token is None:
            worker.state = State.IDLE
            worker.since = now
            self._push_idle(worker)
            self._start_needed(now)  # another kind may need its place
            return []
        worker.kind = self._waiting[token]
        worker.state = State.LEASED  # use() sets the precise state
        worker.since = now
        self.cancel(token)
        return [(token, worker)]

    def _start_needed(self, now: float) -> None:
        missing = len(self._plain) - self._starting_plain()
        if len(self._plain) < len(self._waiting):
            missing = self._start_in_turn(now)
        while missing > 0 and self._can_start(now):
            self._start(now)
            missing -= 1
        if missing > 0 and self.limit():
            leaving = sum(1 for w in self.workers.values() if w.state is State.EXITING)
            while missing > leaving and self._idle_count:  # idle ones of other kinds give up their places
                oldest = min((next(iter(idle.values())) for idle in self._idle.values()), key=lambda w: w.since)
                self.retire(oldest, "another kind of worker is needed", now)
                leaving += 1

    def _start_in_turn(self, now: float) -> int:
        """Start a worker for each token that waits, in order; returns how many tokens get none now."""
        coming: dict[Kind | None, int] = {None: self._starting_plain()}
        for fresh, count in self._starting_of.items():
            coming[fresh] = count
        missing = 0
        for kind in self._waiting.values():
            wanted = kind if kind.fresh else None
            if coming.get(wanted, 0) > 0:
                coming[wanted] -= 1
            elif not missing and self._can_start(now):
                self._start(now, wanted)
            else:
                missing += 1
        return missing

    def _starting_plain(self) -> int:
        return self._starting - sum(self._starting_of.values())

    def _go_on_prestarting(self, now: float) -> None:
        while self._prestarts and self._can_start(now):
            self._start(now)

    def _can_start(self, now: float) -> bool:
        return (self._room.may_start(self._starting, self._lacks_workers, now) and self.starts.may_start(now)
                and len(self.workers) < self.workers_max and now >= self._start_after)

    def _lacks_workers(self) -> bool:
        """Whether fewer than ``keep`` workers, or no worker, can go on: others may wait for work that needs one."""
        at_work = (worker for worker in self.workers.values()
                   if worker.state is not State.EXITING and not (worker.blocked or worker.hangs))
        return sum(1 for _ in islice(at_work, max(self.keep, 1))) < max(self.keep, 1)

    def _start(self, now: float, kind: Kind | None = None) -> None:
        """A worker for any kind, or for the fresh ``kind`` alone."""
        worker = WorkerRecord(self._new_id(), now)
        self.workers[worker.incarnation] = worker
        self._starting += 1
        self.starts.begun(worker.incarnation, now)
        self._room.started(now)
        if kind is None:
            self._prestarts = max(0, self._prestarts - 1)
        else:
            worker.kind = kind
            self._starting_of[kind] = self._starting_of.get(kind, 0) + 1
        broken = self.why_broken(kind) if kind is not None else ""
        worker.broken = bool(broken)
        self._emit(Spawn(worker.id, kind, broken))

    def _give_up(self, worker: WorkerRecord) -> None:
        """It hangs while it starts: another may start for the waiting token.  It is not killed,
        since it may still come."""
        if sum(other.hangs for other in self.workers.values()) < HANGING_MAX:
            self._no_longer_starting(worker)
            worker.hangs = True

    def _no_longer_starting(self, worker: WorkerRecord) -> None:
        if worker.hangs:
            worker.hangs = False
            return
        self._starting -= 1
        if worker.kind is not None:
            self._starting_of[worker.kind] -= 1
            if not self._starting_of[worker.kind]:
                del self._starting_of[worker.kind]

    def _could_not_start(self, kind: Kind, last_words: str, now: float, equipping: bool = False) -> None:
        """A process under that environment ended before it was ready, or in its setup hook: count it against the
        environment, not the node."""
        failures = self._broken.pop(kind, (0, "", 0.0))[0]
        why = why_not_started(kind, last_words or "nothing; it ended at once", equipping)
        self._broken[kind] = failures + 1, why, now + BROKEN_RETRY_S
        if len(self._broken) > BROKEN_KEPT_MAX:
            del self._broken[next(iter(self._broken))]

    def _leave(self, worker: WorkerRecord, now: float) -> bool:
        if worker.state is State.EXITING or worker.incarnation not in self.workers:
            return False
        if worker.state is State.IDLE:
            self._drop_idle(worker)
        elif worker.state is State.STARTING:
            self._no_longer_starting(worker)
            self.starts.over(worker.incarnation)
        worker.state = State.EXITING
        worker.since = now
        return True

    def _push_idle(self, worker: WorkerRecord) -> None:
        self._idle.setdefault(worker.kind, {})[worker.incarnation] = worker
        self._idle_count += 1

    def _drop_idle(self, worker: WorkerRecord) -> None:
        idle = self._idle[worker.kind]
        del idle[worker.incarnation]
        self._idle_count -= 1
        if not idle:
            del self._idle[worker.kind]

    def _pop_idle(self, kind: Kind | None) -> WorkerRecord:
        worker = self._idle[kind][next(reversed(self._idle[kind]))]
        self._drop_idle(worker)
        worker.state = State.LEASED
        return worker

    # ------------------------------------------------------------ views

    def why_broken(self, kind: Kind) -> str:
        """For users: why no process could start under that environment; '' while another try may help."""
        failures, why, _ = self._broken.get(kind, (0, "", 0.0))
        return why if failures >= START_FAILURES_FREE else ""

    def broken_environments(self) -> dict[Kind, str]:
        """Environments under which no process could start, and why."""
        return {kind: why for kind in self._broken if (why := self.why_broken(kind))}

    def of_job(self, job: int) -> list[WorkerRecord]:
        return [worker for worker in self.workers.values() if worker.kind and worker.kind.job == job]

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        by_state = {state: [w for w in self.workers.values() if w.state is state] for state in State}
        assert len(self.workers) <= self.workers_max
        coming = [worker for worker in by_state[State.STARTING] if not worker.hangs]
        assert self._starting == len(coming)
        listed = [w for kind, idle in self._idle.items() for w in idle.values() if w.kind == kind]
        assert len(listed) == self._idle_count == len(by_state[State.IDLE])
        assert all(w.state is State.IDLE and self.workers[w.incarnation] is w for w in listed)
        assert all(self._idle.values()) and all(self._waiting_of.values())
        assert sum(map(len, self._waiting_of.values())) == len(self._waiting)
        for token, kind in self._waiting.items():
            assert token in self._waiting_of[kind]
            assert kind not in self._idle, "a token waits beside a worker that fits"
            assert kind.fresh or None not in self._idle, "a token waits beside a worker that fits"
        assert list(self._plain) == [token for token, kind in self._waiting.items() if not kind.fresh]
        for worker in by_state[State.LEASED] + by_state[State.ACTOR]:
            assert worker.kind is not None
        for worker in by_state[State.STARTING]:
            assert worker.kind is None or worker.kind.fresh
        for kind, count in self._starting_of.items():
            assert count == sum(worker.kind == kind for worker in coming)
        assert sum(self._starting_of.values()) == sum(w.kind is not None for w in coming)
        assert all(self.workers[incarnation].state is State.EXITING for incarnation in self.dismissed)
