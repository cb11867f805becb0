"""What a worker process decides: the WorkerMachine (pure).  Runs of user code stay outside, behind :class:`Runner`.

    free --PushTasks--> runs tasks of leases --max_calls reached, WorkerExit--> ends
    free --ActorInit--> becomes an actor (zray.worker.actors.life) --leave, WorkerExit--> ActorExit --WorkerExit--> ends

    replies     gather per lease.  They go out when the queue is empty, after a task over FLUSH_AFTER_NS, when
                FLUSH_ENDS have piled up, before the running task blocks, and when it is long
    hand-back   what has not started goes back to its owner when the running task blocks, has run for
                HAND_BACK_AFTER_S, or ends the process
    cancel      the first row of CANCEL that finds the task deals with it

All methods are called under the loop's lock, except the two that the thread of the queue uses: ``start``, ``finish``.
The executor's hot loop does what they do in place: a call a task would cost as much as the rest of the queue.
``tests/model/test_worker_machine_model.py`` compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zray.wire.messages import (
    FAILED,
    ActorExit,
    ActorInit,
    ActorUp,
    Blocked,
    CallsDone,
    CancelTask,
    FunctionDef,
    HandBack,
    JobConfig,
    JobOver,
    LeaseOpen,
    PushCalls,
    PushMap,
    PushTasks,
    StreamAck,
    TasksDone,
    WorkerExit,
)
from zray.worker.actors.life import ActorLife, CallGroup
from zray.worker.run.production import Production
from zray.worker.queue import EXTRA, FUNCTION, Chunk, Entry, Lease, TaskQueue
from zray.worker.run.results import cancelled, identity, with_extra

# Replies gathered before they are sent while more tasks wait: a quarter of the default run-ahead, so that the owner
# pushes the next batch while this one runs.  Each is two items of a list.
FLUSH_ENDS = 64 * 2
# A task this long is followed by a flush: its reply must not wait for the next one.
FLUSH_AFTER_NS = 1_000_000
# A task that has run this long gives away what waits behind it.
HAND_BACK_AFTER_S = 0.005
# A chunk of a map is cut to run for some milliseconds; one that turns out much longer gives its rest away.
CHUNK_TICKS = 5
# Calls that run side by side are looked at this often, and so many are reported as long at once: a thousand coroutines
# in flight must not cost more than the rest of their lives.
CALLS_LOOK_S = 0.1
CALLS_TOLD_MAX = 100
CANCELS_KEPT = 1024

# What follows when nothing is left to run now.
RUN, WAIT, END = "run", "wait", "end"


class Runner(Protocol):
    """The side that runs user code, as the machine sees it.  Called under the loop's lock."""

    def wake(self) -> None:
        """Something came in, or the process is to stop: the thread of the queue goes on."""

    def start_calls(self, started: list[tuple[CallGroup, Entry]]) -> None:
        """Calls of an actor with concurrency groups start now."""

    def later(self, seconds: float, action: Callable[[], None]) -> object:
        """Call ``action`` then, under the lock."""

    def kick(self) -> None:
        """Send what is in the outbox soon: no turn of this thread follows."""

    def interrupt(self, task: bytes, attempt: int) -> bool:
        """End the running task or coroutine; False when it does not run, or cannot be interrupted."""

    def define(self, key: bytes, blob: bytes, name: str) -> None:
        """An owner's function."""

    def take_on_job(self, message: JobConfig) -> None:
        """The process belongs to this job from now on."""

    def cancel_children(self, task: bytes) -> None:
        """Cancel what the task has submitted."""

    def owner_busy(self) -> bool:
        """Whether other processes need what this one owns."""

    def answered(self, count: int) -> None:
        """So many replies go out."""

    def runs_long(self, task: list[Any]) -> None:
        """It has run for HAND_BACK_AFTER_S, a call that runs beside others for CALLS_LOOK_S."""

    def report(self) -> None:
        """The job is over, and the node collects what ran."""

    def released(self) -> None:
        """The node has heard that this process ends, or asks it to."""


class WorkerMachine:
    """Queue, replies, hand-back, cancellation and end of one worker process."""

    def __init__(self, node: bytes, marks: Any, send: Callable[[bytes, Any], None], runner: Runner):
        self.node = node
        self.marks = marks  # [lease, sequence started, sequence finished]: the node reads them when the process dies
        self.send = send
        self.queue = TaskQueue()
        self.lease: Lease | None = None  # of the task that runs, or ran last
        self.unsent: dict[int, Lease] = {}  # leases that may have replies to send, by id()
        self.cancels: dict[tuple[bytes, int], bool] = {}  # asked for before their task was seen here
        self.starts: dict[bytes, int] = {}  # of functions with max_calls
        self.productions: dict[tuple[bytes, int], Production] = {}  # generators that run
        self.becoming: ActorInit | None = None
        self.actor: ActorLife | None = None
        self.employed = False  # its job is known; nothing may run before
        self.stopping: str | None = None
        self.exiting = False  # announced to the owner: max_calls is used up
        self.announced = False  # ActorExit was sent
        self.blocked = 0
        self._watching = self._watching_calls = False
        self._watched: tuple[Any, int] = (None, 0)
        self._ticks = 0
        self._long: tuple[bytes, int] | None = None  # the task of the queue that was reported last
        self._seen: set[tuple[bytes, int]] = set()  # calls that ran side by side at the last tick
        self._told: set[tuple[bytes, int]] = set()  # those that were reported as long
        # Bound here, so that a runner that lacks a verb fails now.
        self._wake, self._start_calls, self._later, self._kick = (
            runner.wake, runner.start_calls, runner.later, runner.kick)
        self._interrupt, self._define, self._take_on_job = runner.interrupt, runner.define, runner.take_on_job
        self._cancel_children, self._owner_busy = runner.cancel_children, runner.owner_busy
        self._answered, self._runs_long = runner.answered, runner.runs_long
        self._report, self._released = runner.report, runner.released
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            LeaseOpen.CODE: self.on_lease_open, FunctionDef.CODE: self.on_function, PushTasks.CODE: self.on_push,
            PushMap.CODE: self.on_push_map, CancelTask.CODE: self.on_cancel, StreamAck.CODE: self.on_stream_ack,
            ActorInit.CODE: self.on_actor_init, PushCalls.CODE: self.on_calls, WorkerExit.CODE: self.on_exit,
            JobConfig.CODE: self.on_job, JobOver.CODE: self.on_job_over}

    # ------------------------------------------------------------ messages

    def on_job(self, peer: bytes, message: JobConfig) -> None:
        self._take_on_job(message)
        self.employed = True
        self._go()

    def on_job_over(self, peer: bytes, message: JobOver) -> None:
        self._report()

    def on_lease_open(self, peer: bytes, message: LeaseOpen) -> None:
        self.queue.open(peer, message.lease, message.assigned, message.env)

    def on_function(self, peer: bytes, message: FunctionDef) -> None:
        self._define(message.key, message.blob, message.name)

    def on_push(self, peer: bytes, message: PushTasks) -> None:
        self.queue.push(peer, message.lease, message.first, message.tasks)
        self._go()

    def on_push_map(self, peer: bytes, message: PushMap) -> None:
        chunk = Chunk(message.task, message.attempt, message.function, message.first, message.count, message.items,
                      message.star)
        self.queue.push_chunk(peer, message.lease, chunk)
        self._go()

    def on_stream_ack(self, peer: bytes, message: StreamAck) -> None:
        production = self.productions.get((message.task, message.attempt))
        if production is not None:
            production.acknowledge(message.consumed)

    def on_actor_init(self, peer: bytes, message: ActorInit) -> None:
        if self.actor is None and self.becoming is None:
            self.becoming = message
            self._go()

    def on_calls(self, peer: bytes, message: PushCalls) -> None:
        life = self.actor
        if life is None:
            return
        if message.actor != life.id or message.life != life.number or life.leaving is not None or life.draining:
            life.refused += 1  # for a life that is over: its caller learns so from the node
            return
        lease = self.queue.open(peer, message.life)
        first, calls = message.first, message.calls
        if first < lease.next:
            again = life.kept(lease, range(first, min(lease.next, first + len(calls))))
            if again:
                self.send(lease.owner, CallsDone(life.id, life.number, again))
            calls = calls[lease.next - first:]
            first = lease.next
            if not calls:
                return
        self.unsent[id(lease)] = lease
        self._answered(0)  # what waits here is told, too
        if not life.groups:
            self.queue.push(peer, message.life, first, calls)
            self._go()
            return
        lease.next = first + len(calls)
        started = life.put([(lease, sequence, call) for sequence, call in enumerate(calls, first)])
        if started:
            self._start_calls(started)
            self._watch_calls()

    # ------------------------------------------------------------ cancel

    def on_cancel(self, peer: bytes, message: CancelTask) -> None:
        if message.recursive:
            self._cancel_children(message.task)
        for found in CANCEL:
            if found(self, message.task, message.attempt):
                return

    def _cancel_waiting_call(self, task: bytes, attempt: int) -> bool:
        entry = self.actor.take_waiting((task, attempt)) if self.actor is not None else None
        if entry is None:
            return False
        lease, sequence, call = entry
        assert self.actor is not None
        self.answer(lease, sequence, cancelled(call, f"{self.actor.class_name}.{call[FUNCTION]}"))
        self.flush()
        return True

    def _cancel_queued(self, task: bytes, attempt: int) -> bool:
        place = self.queue.cancel(task, attempt)
        if place is None:
            return False
        self.answer(*place, [FAILED, "cancelled", {"task": task}])
        self.flush()
        return True

    def _cancel_running(self, task: bytes, attempt: int) -> bool:
        return self._interrupt(task, attempt)

    def _cancel_in_chunk(self, task: bytes, attempt: int) -> bool:
        """The search of the queue has marked the item; it is skipped when it is claimed."""
        running = self.queue.running
        return running is not None and type(running[2]) is Chunk

    def _remember_cancel(self, task: bytes, attempt: int) -> bool:
        self.cancels[task, attempt] = True
        while len(self.cancels) > CANCELS_KEPT:
            del self.cancels[next(iter(self.cancels))]
        return True

    # ------------------------------------------------------------ the queue runs

    def enter(self, lease: Lease) -> bool:
        """The next task is this lease's; True when the last one was another's."""
        self.unsent[id(lease)] = lease
        if lease is self.lease:
            return False
        if self.actor is None:
            self.marks[1] = self.marks[2] = 0
            self.marks[0] = lease.number
        self.lease = lease
        return True

    def start(self) -> Entry | None:
        """The next entry, which runs from now on."""
        entry = self.queue.start()
        if entry is not None:
            self.enter(entry[0])
            self.marks[1] = entry[1]
        return entry

    def finish(self, result: Any, took_ns: int) -> None:
        """The running task has ended; no result: nobody is answered."""
        assert self.queue.running is not None
        lease, sequence, _ = self.queue.running
        self.marks[2] = sequence
        if result is not None:
            lease.ends.extend((sequence, result))
        self.queue.finish()
        lease.spent_ns += took_ns
        if took_ns > FLUSH_AFTER_NS or len(lease.ends) >= FLUSH_ENDS:
            self.flush()
            self._kick()

    def count_run(self, task: list[Any], result: Any) -> Any:
        """The result of a task whose function has max_calls: the last one says that the process ends."""
        key = task[FUNCTION]
        self.starts[key] = count = self.starts.get(key, 0) + 1
        if count < task[EXTRA]["max_calls"]:
            return result
        self.exiting = True
        self.hand_back()
        return with_extra(result, exiting=True)

    def pause(self) -> str:
        """Nothing is left to run now.  Replies go out; what follows: RUN (something came in), WAIT or END."""
        self.flush()
        if self.employed:
            if self.queue.entries or (self.becoming is not None and self.actor is None):
                return RUN
            self.cancels.clear()
        return WAIT if self.stopping is None and not self.exiting else END

    def _go(self) -> None:
        """There is something in the queue: get it going, and watch that it does not get stuck."""
        self._wake()
        self._watch()

    # ------------------------------------------------------------ calls that run side by side

    def end_call(self, group: CallGroup, entry: Entry, result: Any) -> Entry | None:
        """A call has ended; the one that starts in its place."""
        lease, sequence, task = entry
        following = group.end(task)
        if result is not None:
            lease.ends.extend((sequence, result))
            self.unsent[id(lease)] = lease
        if following is not None and not self._watching_calls:
            self._watch_calls()
        return following

    def flush_after(self, lease: Lease, took_ns: int, idle: bool) -> None:
        """After a call on a thread of its own, which is ``idle`` from now on."""
        if idle or took_ns > FLUSH_AFTER_NS or len(lease.ends) >= FLUSH_ENDS:
            self.flush()
            self._kick()

    # ------------------------------------------------------------ generators

    def open_stream(self, task: list[Any]) -> Production:
        limit = (task[EXTRA] or {}).get("backpressure") or 0
        production = self.productions[identity(task)] = Production(max(0, limit))
        return production

    def close_stream(self, task: list[Any]) -> None:
        self.productions.pop(identity(task), None)

    # ------------------------------------------------------------ replies and hand-back

    def answer(self, lease: Lease, sequence: int, result: Any) -> None:
        lease.ends.extend((sequence, result))
        self.unsent[id(lease)] = lease

    def flush(self) -> None:
        """All replies gathered so far; the thread that runs tasks may be adding to the lists."""
        if not self.unsent:
            return
        for lease in list(self.unsent.values()):
            ends = lease.ends
            count = len(ends)
            if count:
                self._answered(count // 2)
                taken = ends[:count]
                del ends[:count]
                spent, lease.spent_ns = lease.spent_ns, 0
                if self.actor is not None:
                    self.actor.keep(lease, taken)
                    self.send(lease.owner, CallsDone(self.actor.id, lease.number, taken))
                else:
                    self.send(lease.owner, TasksDone(lease.number, taken, spent * 2 // count))
            if lease is not self.lease:
                self.unsent.pop(id(lease), None)

    def hand_back(self) -> None:
        """Send what is finished, give back what has not started."""
        if self.actor is None:
            for lease, sequences in self.queue.hand_back().items():
                self.send(lease.owner, HandBack(lease.number, sequences))
        self.flush()
        self._kick()

    def block(self) -> None:
        """The running task waits: nothing queued here may wait with it, and the node may lend its CPU."""
        self.blocked += 1
        if self.blocked == 1:
            self.hand_back()
            self.send(self.node, Blocked(True))

    def unblock(self) -> None:
        if self.blocked == 0:
            return
        self.blocked -= 1
        if self.blocked == 0:
            self.send(self.node, Blocked(False))
            self._kick()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._watched = (None, 0)
            self._ticks = 0
            self._later(HAND_BACK_AFTER_S, self._tick)

    def _tick(self) -> None:
        """A task seen twice in a row has run for HAND_BACK_AFTER_S.

        In a chunk of a map the item counts, and the chunk as a whole after CHUNK_TICKS.
        """
        running = self.queue.running
        seen = (running, self.marks[1])
        self._ticks = self._ticks + 1 if running is not None and running is self._watched[0] else 0
        if running is not None and (seen == self._watched or self._ticks >= CHUNK_TICKS):
            self.hand_back()
            if type(running[2]) is list and identity(running[2]) != self._long:
                self._long = identity(running[2])
                self._runs_long(running[2])
        self._watched = seen
        self._watching = running is not None or bool(self.queue.entries)
        if self._watching:
            self._later(HAND_BACK_AFTER_S, self._tick)

    def _watch_calls(self) -> None:
        if not self._watching_calls:
            self._watching_calls = True
            self._later(CALLS_LOOK_S, self._tick_calls)

    def _tick_calls(self) -> None:
        """A call that is seen twice runs long, and is reported once."""
        assert self.actor is not None
        room = CALLS_TOLD_MAX
        young: set[tuple[bytes, int]] = set()
        told: set[tuple[bytes, int]] = set()
        for task in self.actor.running():
            call = identity(task)
            if call in self._told:
                told.add(call)
            elif call in self._seen and room:
                room -= 1
                told.add(call)
                self._runs_long(task)
            else:
                young.add(call)
        self._seen, self._told = young, told
        self._watching_calls = bool(young)
        if young:
            self._later(CALLS_LOOK_S, self._tick_calls)

    # ------------------------------------------------------------ an actor, and the end

    def become_actor(self) -> ActorLife:
        """The process turns into the actor that its node asked for; the constructor runs next."""
        message, self.becoming = self.becoming, None
        assert message is not None
        self.queue.forget_leases()
        life = self.actor = ActorLife(message)
        return life

    def actor_up(self, error: bytes = b"") -> None:
        """The constructor has run (``error``: what it raised)."""
        assert self.actor is not None
        self.send(self.node, ActorUp(self.actor.id, self.actor.number, error))
        self._kick()

    def leave(self, reason: str, code: int = 0, may_restart: bool = False) -> None:
        """The actor ends by its own wish: nothing more starts, replies so far go out, the node is told."""
        life = self.actor
        assert life is not None
        if life.leaving is not None:
            return
        life.leaving, life.code, life.may_restart = reason, code, may_restart
        self._drop_queued(life)
        self.stop(reason)

    def drain(self, code: int, reason: str) -> None:
        """A signal asks for the end: calls that run may end, nothing more starts."""
        life = self.actor
        assert life is not None
        life.draining = life.may_restart = True
        life.code = code
        self._drop_queued(life)
        self.stop(reason)

    def _drop_queued(self, life: ActorLife) -> None:
        self.queue.entries.clear()
        life.drop_waiting()

    def stop(self, reason: str) -> None:
        """End when what is queued has run."""
        if self.stopping is None:
            self.stopping = reason
        self._go()

    def calls_are_over(self) -> bool:
        """An actor with groups stops, and waits for none of its calls."""
        life = self.actor
        return self.stopping is not None and life is not None and (
            life.leaving is not None or not any(group.running for group in life.groups.values()))

    def announce_end(self) -> None:
        """Everything has run.  An actor says so, after its replies, and stays until the node has heard it: its death,
        which the kernel tells the node, must not overtake its word."""
        self.flush()
        life = self.actor
        if life is not None:
            self.announced = True
            reason = life.leaving or self.stopping or ""
            self.send(self.node, ActorExit(life.id, life.number, reason, life.may_restart))
        self._kick()

    def on_exit(self, peer: bytes, message: WorkerExit) -> None:
        if self.actor is None and self._owner_busy():
            return  # others hold what this process owns; the node asks again
        self._released()
        self.stop(message.reason or "asked to exit")

    # ------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        self.queue.check()
        if self.actor is not None:
            self.actor.check()
            assert not (self.actor.groups and self.queue.entries), "calls of groups are in the queue"
        for lease in self.queue.leases.values():
            assert not lease.ends or id(lease) in self.unsent, "replies that nobody will send"


# What becomes of a cancellation: the first row that finds the task.
#
#     where the task is                             what happens
CANCEL: tuple[Callable[[WorkerMachine, bytes, int], bool], ...] = (
    WorkerMachine._cancel_waiting_call,    # waits for room in its group: taken out and answered
    WorkerMachine._cancel_queued,          # queued: taken out and answered; in a chunk of a map: marked
    WorkerMachine._cancel_running,         # runs: interrupted
    WorkerMachine._cancel_in_chunk,        # a chunk runs: it is in there, or not here
    WorkerMachine._remember_cancel,        # just before or behind its call, or not here yet: looked at before the call
)
