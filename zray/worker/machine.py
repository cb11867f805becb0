"""The decisions of a worker process: the WorkerMachine (pure).  A :class:`Runner` outside it runs user code.

    free --PushTasks--> runs tasks of leases --max_calls reached, WorkerExit--> ends, when no process needs its objects
    free --ActorInit--> becomes an actor (zray.worker.actors.life) --leave, WorkerExit--> ActorExit --WorkerExit--> ends

    replies     are gathered for each lease.  They are sent when the queue is empty, after a task over FLUSH_AFTER_NS,
                when there are FLUSH_ENDS, before the running task blocks, and when it runs long
    hand-back   tasks that have not started go back to their owner when the running task blocks, has run for
                HAND_BACK_AFTER_S, or ends the process
    cancel      the first row of CANCEL that finds the task handles it

All methods are called under the loop's lock, except ``start`` and ``finish``, which the thread of the queue calls.
The executor's hot loop contains the code of these two: a call a task would cost as much as the rest of the queue.
``tests/model/test_worker_machine_model.py`` compares both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from zray.wire.messages import (
    FAILED,
    ActorExit,
    ActorInit,
    ActorUp,
    AskCheckpoint,
    Blocked,
    CallerNews,
    CallsDone,
    CancelTask,
    CheckpointHere,
    CheckpointSaved,
    FetchCheckpoint,
    FunctionDef,
    HandBack,
    JobOver,
    JobSettings,
    LeaseOpen,
    OfferCalls,
    PushCalls,
    PushLogged,
    PushMap,
    PushTasks,
    StreamAck,
    TasksDone,
    WorkerExit,
)
from zray.worker.actors.life import ActorLife, CallGroup
from zray.worker.queue import EXTRA, FUNCTION, Entry, QueuedChunk, ServedLease, TaskQueue
from zray.worker.run.production import Production
from zray.worker.run.results import cancelled, identity, with_extra

if TYPE_CHECKING:
    from zray.worker.actors.logged import LoggedCalls

# So many replies are sent together while more tasks wait: a quarter of the default run-ahead, so that the owner
# pushes the next batch while this one runs.  Each reply is two items of a list.
FLUSH_ENDS = 64 * 2
# A flush follows a task of this length: its reply must not wait for the next task.
FLUSH_AFTER_NS = 1_000_000
# When a task has run for so long, the tasks behind it are handed back.
HAND_BACK_AFTER_S = 0.005
# A chunk of a map is cut to run for some milliseconds.  After so many ticks the rest of a chunk is handed back.
CHUNK_TICKS = 5
# Period of the look at calls that run side by side, and the most that are reported as long at once: the looks at a
# thousand coroutines in flight must cost little against the coroutines.
CALLS_LOOK_S = 0.1
CALLS_REPORTED_MAX = 100
CANCELS_KEPT = 1024
# How often a worker that has reached max_calls looks whether others still need its objects or tasks.
END_LOOK_S = 0.1

# The next step when there is no task to run now.
RUN, WAIT, STOP = "run", "wait", "end"


class Runner(Protocol):
    """The part that runs user code, as the machine uses it.  Called under the loop's lock."""

    def wake(self) -> None:
        """Wake the thread of the queue: a message has come, or the process is to stop."""

    def start_calls(self, started: list[tuple[CallGroup, Entry]]) -> None:
        """Start these calls of an actor with concurrency groups."""

    def later(self, seconds: float, action: Callable[[], None]) -> object:
        """Call ``action`` after ``seconds``, under the lock."""

    def kick(self) -> None:
        """Send the outbox soon: no turn of this thread follows."""

    def interrupt(self, task: bytes, attempt: int) -> bool:
        """Interrupt the running task or coroutine; False when it does not run, or cannot be interrupted."""

    def define(self, key: bytes, blob: bytes, name: str) -> None:
        """Keep a function of an owner."""

    def take_on_job(self, message: JobSettings) -> None:
        """Make the process part of this job."""

    def cancel_children(self, task: bytes) -> None:
        """Cancel the tasks that this task has submitted."""

    def owner_busy(self) -> bool:
        """Whether other processes need objects or tasks of this process."""

    def answered(self, count: int) -> None:
        """Note that ``count`` replies are sent."""

    def runs_long(self, task: list[Any]) -> None:
        """Note a task that has run for HAND_BACK_AFTER_S, or a call beside others for CALLS_LOOK_S."""

    def report(self) -> None:
        """The job is over: send the node the events that are left."""

    def released(self) -> None:
        """The node knows the end of this process, or asks for it: the process may exit."""


class WorkerMachine:
    """Queue, replies, hand-back, cancellation and end of one worker process."""

    def __init__(self, node: bytes, marks: Any, send: Callable[[bytes, Any], None], runner: Runner):
        self.node = node
        self.marks = marks  # [lease, last started sequence, last finished]: read by the node when this process dies
        self.send = send
        self.queue = TaskQueue()
        self.lease: ServedLease | None = None  # of the task that runs, or ran last
        self.unsent: dict[int, ServedLease] = {}  # leases that may have replies to send, by id()
        self.cancels: dict[tuple[bytes, int], bool] = {}  # cancellations that came before their task
        self.starts: dict[bytes, int] = {}  # function with max_calls -> runs
        self.productions: dict[tuple[bytes, int], Production] = {}  # running generators
        self.actor_to_start: ActorInit | None = None
        self.actor: ActorLife | None = None
        self.logged: LoggedCalls | None = None  # the calls of an actor with checkpoints
        self._fetching: ActorInit | None = None  # an actor whose checkpoint is fetched from another node
        self.has_job = False  # no task may run before the job is known
        self.stopping: str | None = None
        self.exiting = False  # max_calls is reached, and the owner knows it
        self._looking_for_end = False
        self.announced = False  # ActorExit was sent
        self.blocked = 0
        self._watching = self._watching_calls = False
        self._watched: tuple[Any, int] = (None, 0)
        self._ticks = 0
        self._long: tuple[bytes, int] | None = None  # the task of the queue that was reported last
        self._seen_running: set[tuple[bytes, int]] = set()  # calls that ran side by side at the last tick
        self._reported: set[tuple[bytes, int]] = set()  # those that were reported as long
        # Bound here, so that a runner without one of the methods fails now.
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
            JobSettings.CODE: self.on_job, JobOver.CODE: self.on_job_over,
            PushLogged.CODE: self.on_logged, OfferCalls.CODE: self.on_logged, AskCheckpoint.CODE: self.on_logged,
            CallerNews.CODE: self.on_logged, CheckpointSaved.CODE: self.on_logged,
            CheckpointHere.CODE: self.on_checkpoint_here}

    # ------------------------------------------------------------ messages

    def on_job(self, peer: bytes, message: JobSettings) -> None:
        self._take_on_job(message)
        self.has_job = True
        self._wake_queue()

    def on_job_over(self, peer: bytes, message: JobOver) -> None:
        self._report()

    def on_lease_open(self, peer: bytes, message: LeaseOpen) -> None:
        self.queue.open(peer, message.lease, message.assigned, message.env)

    def on_function(self, peer: bytes, message: FunctionDef) -> None:
        self._define(message.key, message.blob, message.name)

    def on_push(self, peer: bytes, message: PushTasks) -> None:
        self.queue.push(peer, message.lease, message.first, message.tasks)
        self._wake_queue()

    def on_push_map(self, peer: bytes, message: PushMap) -> None:
        chunk = QueuedChunk(message.task, message.attempt, message.function, message.first, message.count,
                            message.items, message.star)
        self.queue.push_chunk(peer, message.lease, chunk)
        self._wake_queue()

    def on_stream_ack(self, peer: bytes, message: StreamAck) -> None:
        production = self.productions.get((message.task, message.attempt))
        if production is not None:
            production.acknowledge(message.consumed)

    def on_actor_init(self, peer: bytes, message: ActorInit) -> None:
        if self.actor is None and self.actor_to_start is None and self._fetching is None:
            if message.spec.get("checkpoints") and self._fetches(message):
                return
            self.actor_to_start = message
            self._wake_queue()

    def _fetches(self, message: ActorInit) -> bool:
        """An actor with checkpoints begins; whether its checkpoint must be fetched from another node first."""
        from zray.worker.actors.logged import LoggedCalls

        self.logged = LoggedCalls(
            message, self.queue, to_node=self._send_to_node, send=self.send, later=self._later, wake=self._wake_queue)
        place = self.logged.checkpoint
        if place is None or "file" not in place or self.node in place["holders"]:
            return False
        self._fetching = message
        self._send_to_node(FetchCheckpoint(place["file"], place["holders"]))
        return True

    def on_checkpoint_here(self, peer: bytes, message: CheckpointHere) -> None:
        fetched, self._fetching = self._fetching, None
        if fetched is None or self.logged is None:
            return
        if not message.found:
            self.logged.lose("all nodes that had its checkpoint are gone")
            return
        self.actor_to_start = fetched
        self._wake_queue()

    def _send_to_node(self, message: Any) -> None:
        self.send(self.node, message)
        self._kick()

    def on_logged(self, peer: bytes, message: Any) -> None:
        """A message about the numbered calls of an actor with checkpoints."""
        logged, life = self.logged, self.actor
        if logged is None or message.actor != logged.actor or message.life != logged.life:
            return
        kind = type(message)
        if kind is PushLogged:
            if life is not None and (life.leaving is not None or life.draining):
                life.refused += 1
                return
            logged.on_push(peer, message)
            self._answered(0)
        elif kind is OfferCalls:
            logged.on_offer(peer, message)
        elif kind is AskCheckpoint:
            logged.on_ask(peer, message)
        elif kind is CallerNews:
            logged.on_caller_news(peer, message)
        else:
            logged.on_saved(peer, message)

    def on_calls(self, peer: bytes, message: PushCalls) -> None:
        life = self.actor
        if life is None:
            return
        if message.actor != life.id or message.life != life.number or life.leaving is not None or life.draining:
            life.refused += 1  # for an ended life: the node tells the caller
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
        self._answered(0)  # so that the waiting calls are reported too
        if not life.groups:
            self.queue.push(peer, message.life, first, calls)
            self._wake_queue()
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
        """``_cancel_queued`` has marked the item, if the chunk has it; a marked item is skipped."""
        running = self.queue.running
        return running is not None and type(running[2]) is QueuedChunk

    def _remember_cancel(self, task: bytes, attempt: int) -> bool:
        self.cancels[task, attempt] = True
        while len(self.cancels) > CANCELS_KEPT:
            del self.cancels[next(iter(self.cancels))]
        return True

    # ------------------------------------------------------------ the queue runs

    def enter(self, lease: ServedLease) -> bool:
        """The next task belongs to this lease; True when the last one belonged to another."""
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
        """The running task has ended.  Without a result there is no reply."""
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
        """Count a run of a function with max_calls; the result of the last run announces the end of the process."""
        key = task[FUNCTION]
        self.starts[key] = count = self.starts.get(key, 0) + 1
        if count < task[EXTRA]["max_calls"]:
            return result
        self.exiting = True
        self.hand_back()
        return with_extra(result, exiting=True)

    def pause(self) -> str:
        """No task is left: send the replies.  Returns RUN (a task has come since), WAIT or STOP."""
        self.flush()
        if self.has_job:
            if self.queue.entries or (self.actor_to_start is not None and self.actor is None):
                return RUN
            self.cancels.clear()
        if self.exiting and self.stopping is None and self._owner_busy():
            if not self._looking_for_end:
                self._looking_for_end = True
                self._later(END_LOOK_S, self._look_for_end)
            return WAIT
        return WAIT if self.stopping is None and not self.exiting else STOP

    def _look_for_end(self) -> None:
        """The last run of a function with max_calls has ended: has the need for this process ended too?"""
        self._looking_for_end = False
        self._wake()

    def _wake_queue(self) -> None:
        """The queue has a new entry: wake its thread, and watch for long tasks."""
        self._wake()
        self._watch()

    # ------------------------------------------------------------ calls that run side by side

    def end_call(self, group: CallGroup, entry: Entry, result: Any) -> Entry | None:
        """A call has ended; returns the call that starts in its place."""
        lease, sequence, task = entry
        following = group.end(task)
        if result is not None:
            lease.ends.extend((sequence, result))
            self.unsent[id(lease)] = lease
        if following is not None and not self._watching_calls:
            self._watch_calls()
        return following

    def flush_after(self, lease: ServedLease, took_ns: int, idle: bool) -> None:
        """After a call on a thread of its own; ``idle``: the thread has no next call."""
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

    def answer(self, lease: ServedLease, sequence: int, result: Any) -> None:
        lease.ends.extend((sequence, result))
        self.unsent[id(lease)] = lease

    def flush(self) -> None:
        """Send all replies gathered so far; the thread that runs tasks may append to the lists meanwhile."""
        if not self.unsent:
            return
        if self.logged is not None:
            self._flush_logged(self.logged)
            return
        for lease in list(self.unsent.values()):
            ends = lease.ends
            count = len(ends)
            if count:
                self._answered(count // 2)
                taken = ends[:count]
                if self.actor is None:
                    lease.keep_sent(taken)  # before they are taken out: see zray.worker.produced
                del ends[:count]
                spent, lease.spent_ns = lease.spent_ns, 0
                if self.actor is not None:
                    self.actor.keep(lease, taken)
                    self.send(lease.owner, CallsDone(self.actor.id, lease.number, taken))
                else:
                    self.send(lease.owner, TasksDone(lease.number, taken, spent * 2 // count))
            if lease is not self.lease:
                self.unsent.pop(id(lease), None)

    def _flush_logged(self, logged: LoggedCalls) -> None:
        leases = list(self.unsent.values())
        self._answered(sum(len(lease.ends) for lease in leases) // 2)
        logged.flush(leases)
        for lease in leases:
            if lease is not self.lease and not lease.ends:
                self.unsent.pop(id(lease), None)

    def hand_back(self) -> None:
        """Send the replies, and give back the tasks that have not started."""
        if self.actor is None:
            for lease, sequences in self.queue.hand_back().items():
                self.send(lease.owner, HandBack(lease.number, sequences))
        self.flush()
        self._kick()

    def block(self) -> None:
        """The running task blocks: queued tasks must not wait behind it, and the node may lend its CPU."""
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
        """A task that two ticks in a row find running has run for HAND_BACK_AFTER_S.

        In a chunk of a map this applies to each item, and to the whole chunk after CHUNK_TICKS.
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
        """A call that two ticks find running is long, and is reported once."""
        assert self.actor is not None
        room = CALLS_REPORTED_MAX
        young: set[tuple[bytes, int]] = set()
        told: set[tuple[bytes, int]] = set()
        for task in self.actor.running():
            call = identity(task)
            if call in self._reported:
                told.add(call)
            elif call in self._seen_running and room:
                room -= 1
                told.add(call)
                self._runs_long(task)
            else:
                young.add(call)
        self._seen_running, self._reported = young, told
        self._watching_calls = bool(young)
        if young:
            self._later(CALLS_LOOK_S, self._tick_calls)

    # ------------------------------------------------------------ an actor, and the end

    def become_actor(self) -> ActorLife:
        """The process becomes the actor that its node asked for; the constructor runs next."""
        message, self.actor_to_start = self.actor_to_start, None
        assert message is not None
        self.queue.forget_leases()
        life = self.actor = ActorLife(message)
        return life

    def actor_up(self, error: bytes = b"", message: str = "", repr_name: str = "") -> None:
        """The constructor has run; ``error``: the exception that it raised, ``message`` its text."""
        assert self.actor is not None
        self.send(self.node, ActorUp(self.actor.id, self.actor.number, error, message, repr_name))
        self._kick()

    def leave(self, reason: str, code: int = 0, may_restart: bool = False) -> None:
        """The actor itself asks for its end: no further call starts, replies are sent, the node is told."""
        life = self.actor
        assert life is not None
        if life.leaving is not None:
            return
        life.leaving, life.code, life.may_restart = reason, code, may_restart
        self._drop_queued(life)
        self.stop(reason)

    def drain(self, code: int, reason: str) -> None:
        """A signal asks for the end: running calls may end, no further call starts."""
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
        """End the process when the queued tasks have run."""
        if self.stopping is None:
            self.stopping = reason
        self._wake_queue()

    def calls_are_over(self) -> bool:
        """Whether an actor with groups stops, and need not wait for a call."""
        life = self.actor
        return self.stopping is not None and life is not None and (
            life.leaving is not None or not any(group.running for group in life.groups.values()))

    def announce_end(self) -> None:
        """All tasks have run.  An actor sends ActorExit after its replies, and waits until the node has it.

        The kernel reports the process's death to the node, and this must not overtake ActorExit.
        """
        self.flush()
        life = self.actor
        if life is not None:
            self.announced = True
            reason = life.leaving or self.stopping or ""
            self.send(self.node, ActorExit(life.id, life.number, reason, life.may_restart))
        self._kick()

    def on_exit(self, peer: bytes, message: WorkerExit) -> None:
        if self.actor is None and self._owner_busy():
            return  # other processes need its objects or tasks; the node asks again
        self._released()
        self.stop(message.reason or "asked to exit")

    # ------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        self.queue.check()
        if self.actor is not None:
            self.actor.check()
            assert not (self.actor.groups and self.queue.entries), "calls of groups are in the queue"
        if self.logged is not None:
            self.logged.check()
        for lease in self.queue.leases.values():
            assert not lease.ends or id(lease) in self.unsent, "replies that would never be sent"


# A cancellation is handled by the first row that finds the task.
#
#     where the task is                             what happens
CANCEL: tuple[Callable[[WorkerMachine, bytes, int], bool], ...] = (
    WorkerMachine._cancel_waiting_call,    # waits for room in its group: taken out and answered
    WorkerMachine._cancel_queued,          # queued: taken out and answered; in a chunk of a map: marked
    WorkerMachine._cancel_running,         # runs: interrupted
    WorkerMachine._cancel_in_chunk,        # a chunk runs: the task is in it, or is not here
    WorkerMachine._remember_cancel,        # just before or after its call, or not here yet: tested before the call
)
