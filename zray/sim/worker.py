"""A simulated worker process: a core process with the production TaskQueue and an executor of simulated time.

The executor follows zray.worker.executor: replies gather and are flushed when the queue is empty, after a long task and
before it blocks; what has not started is handed back when the running task is long or blocks; progress marks are
set as each task starts and ends, and survive the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgpack

from zray import messages as m
from zray.causes import Cause
from zray.core.ports import Work
from zray.sim import programs
from zray.sim.core import Core, Ref
from zray.sim.failure import Failure
from zray.worker.queue import ATTEMPT, EXTRA, RETURNS, TASK_ID, Lease, TaskQueue

if TYPE_CHECKING:
    from zray.sim.cluster import SimCluster
    from zray.sim.node import SimNode

FLUSH_AFTER_S = 0.001
HAND_BACK_AFTER_S = 0.005
FLUSH_ENDS = 128
START_S = 0.00002  # what a task costs that does nothing


class Run:
    """One task that has started."""

    def __init__(self, lease: Lease, sequence: int, task: list[Any], began: float) -> None:
        self.lease, self.sequence, self.task, self.began = lease, sequence, task, began
        self.nested: list[Ref] = []
        self.body: Any = None
        self.cancelled = False
        self.items = 0
        self.consumed = 0
        self.wake: Callable[[], None] | None = None  # set while it waits for something that a cancel ends


class SimWorker(Core):
    """One worker process."""

    kind = "worker"

    def __init__(self, cluster: SimCluster, host: SimNode, incarnation: bytes, pid: int) -> None:
        self.queue = TaskQueue()
        self.marks = [0, 0, 0]
        self.running: Run | None = None
        self.blocked = False
        self.lease: Lease | None = None
        self.unsent: dict[int, Lease] = {}
        self.calls_of: dict[str, int] = {}
        self.functions: set[bytes] = set()
        self.cancels: set[tuple[bytes, int]] = set()
        self.actor: m.ActorInit | None = None
        self.up = False
        self.stopping = False
        self.exiting = False
        self.said = False  # ActorExit
        self.started_under: dict[str, str] = {}
        self._busy = False
        self._watching = False
        self._watched: Any = None
        super().__init__(cluster, host, incarnation, pid)
        self.machine.work = Work(self.queue.forget_owners, self.place_of, self.cancel_inline)
        self.machine.take({
            m.LeaseOpen.CODE: self.on_lease_open, m.FunctionDef.CODE: self.on_function,
            m.PushTasks.CODE: self.on_push, m.CancelTask.CODE: self.on_cancel, m.StreamAck.CODE: self.on_stream_ack,
            m.ActorInit.CODE: self.on_actor_init, m.PushCalls.CODE: self.on_calls, m.WorkerExit.CODE: self.on_exit,
            m.JobConfig.CODE: self.on_job,
            m.JobOver.CODE: lambda peer, message: self.send(self.node, m.EventReport([], 0))})
        self.send(self.node, m.WorkerReady(pid))

    # ------------------------------------------------------------ messages

    def on_job(self, peer: bytes, message: m.JobConfig) -> None:
        self.machine.set_job(message.job)

    def on_lease_open(self, peer: bytes, message: m.LeaseOpen) -> None:
        assert message.env == self.started_under, "a worker serves only the variables that it was started under"
        self.queue.open(peer, message.lease, message.assigned, message.env)

    def on_function(self, peer: bytes, message: m.FunctionDef) -> None:
        self.functions.add(message.key)

    def on_push(self, peer: bytes, message: m.PushTasks) -> None:
        self.queue.push(peer, message.lease, message.first, message.tasks)
        self.go()

    def on_actor_init(self, peer: bytes, message: m.ActorInit) -> None:
        if self.actor is None:
            self.actor = message
            self.queue.forget_leases()
            self.later(self.net.random.uniform(0, 0.01), self._constructed)

    def _constructed(self) -> None:
        assert self.actor is not None
        self.up = True
        self.send(self.node, m.ActorUp(self.actor.actor, self.actor.life, b""))
        self.go()

    def on_calls(self, peer: bytes, message: m.PushCalls) -> None:
        actor = self.actor
        if actor is None or (message.actor, message.life) != (actor.actor, actor.life):
            return
        lease = self.queue.open(peer, message.life)
        first, calls = message.first, message.calls
        if first < lease.next:
            calls = calls[lease.next - first:]
            first = lease.next
        if calls:
            self.queue.push(peer, message.life, first, calls)
            self.go()

    def node_lost(self) -> dict[str, Any]:
        """PDEATHSIG."""
        self.cluster.crash(self, "its node ended")
        return super().node_lost()

    def place_of(self, task: bytes) -> tuple[Any, dict[str, Any]] | None:
        """The task that runs, and those behind it."""
        if self.running is not None and self.running.task[TASK_ID] == task:
            return Cause.RUNNING, {"name": "", "task": task.hex()}
        return None

    def cancel_inline(self, task: Any, recursive: bool) -> None:
        raise AssertionError("no task runs inline here")

    def on_cancel(self, peer: bytes, message: m.CancelTask) -> None:
        if message.recursive:
            self.machine.cancel_children(message.task)
        place = self.queue.cancel(message.task, message.attempt)
        if place is not None:
            lease, sequence = place
            self.answer(lease, sequence, [m.FAILED, "cancelled", {"task": message.task}])
            self.flush()
            return
        run = self.running
        if run is not None and self.actor is None and run.task[TASK_ID] == message.task \
                and run.task[ATTEMPT] == message.attempt:
            run.cancelled = True
            if run.wake is not None:
                run.wake()
        elif run is None or run.task[TASK_ID] != message.task:
            self.cancels.add((message.task, message.attempt))

    def on_stream_ack(self, peer: bytes, message: m.StreamAck) -> None:
        run = self.running
        if run is not None and (run.task[TASK_ID], run.task[ATTEMPT]) == (message.task, message.attempt):
            run.consumed = max(run.consumed, message.consumed)
            if run.wake is not None:
                run.wake()

    def on_exit(self, peer: bytes, message: m.WorkerExit) -> None:
        if self.actor is None and self.machine.is_owner:
            return
        self.stopping = True
        self.go()

    # ------------------------------------------------------------ the executor

    def go(self) -> None:
        if not self._busy:
            self._busy = True
            self.later(0.0, self._next)
        if not self._watching:
            self._watching = True
            self.later(HAND_BACK_AFTER_S, self._watchdog)

    def _next(self) -> None:
        if self.running is not None or (self.actor is not None and not self.up):
            self._busy = False
            return
        entry = self.queue.start()
        if entry is None:
            self._busy = False
            self.cancels.clear()
            self.flush()
            if self.stopping or self.exiting:
                self._leave()
            return
        lease, sequence, task = entry
        self.unsent[id(lease)] = lease
        if self.actor is None and lease is not self.lease:
            self.marks[:] = lease.number, 0, 0
        self.lease = lease
        self.marks[1] = sequence
        run = self.running = Run(lease, sequence, task, self.net.now)
        self.cluster.oracle.started(self, lease.owner, sequence, task)
        self.later(START_S, self._begin, run)

    def _leave(self) -> None:
        """An actor says so first, and stays until the node has answered."""
        if self.actor is None or self.said:
            self.cluster.planned_exit(self)
        else:
            self.said = True
            self.send(self.node, m.ActorExit(self.actor.actor, self.actor.life, "asked to exit"))
            self.stir()

    def _begin(self, run: Run) -> None:
        task = run.task
        assert self.actor is not None or task[2] in self.functions, "a task came before its function"
        if (task[TASK_ID], task[ATTEMPT]) in self.cancels:
            self.cancels.discard((task[TASK_ID], task[ATTEMPT]))
            run.cancelled = True
        self.task, self.attempt = task[TASK_ID], task[ATTEMPT]
        program, triples = msgpack.unpackb(task[3])
        run.nested = [self.restore(*triple, lent=True) for triple in triples]
        try:
            deps = []
            for value in (task[EXTRA] or {}).get("deps", ()):
                number, inner = self.decode(value)
                deps.append(number)
                run.nested += inner
        except Failure as failure:
            self._end(run, [m.FAILED, failure.kind, {"root": failure.root}])
            return
        run.body = programs.run(program, deps, run.nested[:len(triples)], self, task[ATTEMPT])
        self._resume(run)

    def _resume(self, run: Run) -> None:
        """Go on until the program asks for something that takes time."""
        if self.running is not run:
            return
        run.wake = None
        try:
            while True:
                if run.cancelled:
                    run.body.close()
                    self._end(run, [m.FAILED, "cancelled", {"task": run.task[TASK_ID]}])
                    return
                request = next(run.body)
                if request[0] == "sleep":
                    self.later(request[1], self._resume, run)
                    return
                if request[0] == "crash":
                    self.cluster.crash(self, "it ended itself")
                    return
                if request[0] == "item" and not self._item(run, request[1]):
                    return
                if request[0] == "wait" and not self._wait(run, request[1]):
                    return
        except StopIteration as stop:
            self._end(run, self._returned(run, stop.value))
        except Failure as failure:
            self._end(run, [m.FAILED, "task_error", {"root": failure.root}])

    def _returned(self, run: Run, value: Any) -> Any:
        if run.task[RETURNS] < 0:
            return [0, [self.encode(0, [])], {"stream_len": run.items}]
        if type(value) is list and run.task[RETURNS] != 1:
            return [0, [self.result(part, run.lease.owner) for part in value], {}]
        return self.result(value[0] if type(value) is list else value, run.lease.owner)

    def _item(self, run: Run, number: int) -> bool:
        """Send an item; False when the program must wait for its consumer."""
        run.items += 1
        task, attempt = run.task[TASK_ID], run.task[ATTEMPT]
        self.send(run.lease.owner, m.StreamItem(task, attempt, run.items, self.encode(number, [])))
        limit = (run.task[EXTRA] or {}).get("backpressure") or 0
        if not limit or run.items - run.consumed < limit:
            return True
        self._block()

        def wake() -> None:
            if run.cancelled or run.items - run.consumed < limit:
                self._unblock(run)
        run.wake = wake
        return False

    def _wait(self, run: Run, records: list[Any]) -> bool:
        pending = [record for record in records if record.value is None]
        if not pending:
            return True
        left = len(pending)

        def arrived(record: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0 and self.alive and run.wake is wake:
                self._unblock(run)

        def wake() -> None:  # cancelled
            for record in pending:
                self.refs.forget_waiter(record, arrived)
            self._unblock(run)

        run.wake = wake
        self._block()
        for record in pending:
            self.refs.when_ready(record, arrived)
        return False

    def _block(self) -> None:
        self.blocked = True
        self.hand_back()
        self.send(self.node, m.Blocked(True))

    def _unblock(self, run: Run) -> None:
        run.wake = None
        if self.blocked:
            self.blocked = False
            self.send(self.node, m.Blocked(False))
            self.later(0.0, self._resume, run)

    def _end(self, run: Run, result: Any) -> None:
        task, lease = run.task, run.lease
        self.task, self.attempt = b"", 0
        records = [ref.record for ref in run.nested]
        for record in records:
            self.refs.unpin(record)
        held = self.machine.still_held(records)
        if held:
            result = _with(result, held=held)
        limit = (task[EXTRA] or {}).get("max_calls")
        if limit:
            self.calls_of[task[2]] = count = self.calls_of.get(task[2], 0) + 1
            if count >= limit:
                result = _with(result, exiting=True)
                self.exiting = True
                self.hand_back()
        self.cluster.oracle.ended(self, lease.owner, task, result)
        self.marks[2] = run.sequence
        took = self.net.now - run.began
        lease.spent_ns += int(took * 1e9)
        self.answer(lease, run.sequence, result)
        self.running = None
        self.queue.finish()
        if took > FLUSH_AFTER_S or len(lease.ends) >= FLUSH_ENDS:
            self.flush()
        self.stir()
        self.later(0.0, self._next)

    # ------------------------------------------------------------ replies

    def answer(self, lease: Lease, sequence: int, result: Any) -> None:
        lease.ends.extend((sequence, result))
        self.unsent[id(lease)] = lease

    def flush(self) -> None:
        for lease in list(self.unsent.values()):
            if lease.ends:
                taken, lease.ends = lease.ends, []
                spent, lease.spent_ns = lease.spent_ns, 0
                if self.actor is not None:
                    self.send(lease.owner, m.CallsDone(self.actor.actor, lease.number, taken))
                else:
                    self.send(lease.owner, m.TasksDone(lease.number, taken, spent * 2 // len(taken)))
            if lease is not self.lease:
                self.unsent.pop(id(lease), None)

    def hand_back(self) -> None:
        if self.actor is None:
            for lease, sequences in self.queue.hand_back().items():
                self.send(lease.owner, m.HandBack(lease.number, sequences))
        self.flush()

    def _watchdog(self) -> None:
        """One task seen twice in a row has run for long."""
        if self.running is not None and self.running is self._watched:
            self.hand_back()
        self._watched = self.running
        self._watching = self.running is not None or bool(self.queue.entries)
        if self._watching:
            self.later(HAND_BACK_AFTER_S, self._watchdog)

    def check(self) -> None:
        super().check()
        self.queue.check()


def _with(result: Any, **extra: Any) -> Any:
    if type(result) is list and result and result[0] == 0:
        result[2].update(extra)
        return result
    return [0, [result], extra]
