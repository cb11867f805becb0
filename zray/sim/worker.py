"""A simulated worker process: a core process with the production WorkerMachine, and runs of simulated time.

It is the machine's Runner: tasks and calls are generators (zray.sim.programs) that yield requests which take time.
Calls of a threaded or async actor run side by side; the machine starts them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack

from zray.base import ids
from zray.base.causes import Cause
from zray.base.checkpoint_names import file_name
from zray.core.ports import Work
from zray.environments.spec import variables
from zray.handles.options import STREAMING
from zray.owner.remaking import LIFE_SHIFT
from zray.sim import programs
from zray.sim.core import Core, CoreSurroundings, Ref
from zray.sim.failure import Failure, Lost
from zray.sim.map_runs import MapRun
from zray.sim.node import SimNode
from zray.wire import messages as m
from zray.worker.actors.life import CallGroup, sizes_of
from zray.worker.actors.logged import CheckpointMark, Replayed, Taken
from zray.worker.machine import RUN, STOP, WorkerMachine
from zray.worker.produced import NOT_PRODUCED, take_arguments
from zray.worker.queue import EXTRA, RETURNS, TASK_ATTEMPT, TASK_ID, Entry, QueuedChunk, ServedLease
from zray.worker.run.generators import Items
from zray.worker.run.nesting import NestedTasks
from zray.worker.run.production import Production
from zray.worker.run.results import with_extra

START_S = 0.00002  # what a task costs that does nothing


class Run:
    """One task or call that has started."""

    def __init__(self, entry: Entry, group: CallGroup | None, began: float) -> None:
        self.entry, self.group, self.began = entry, group, began
        self.lease, self.sequence, self.task = entry
        self.nested: list[Ref] = []
        self.body: Any = None
        self.cancelled = False
        self.items = 0
        self.production: Production | None = None  # of a generator whose items are sent
        self.made: Items | None = None  # of a generator whose items are returns
        self.outer: Run | None = None  # the run that waits for this one, which runs on its stack
        self.waits_for: list[Any] | None = None  # set while another run is on its stack
        self.owned: Any = None  # the Task, if this process owns it
        self.wake: Callable[[], None] | None = None  # set during a wait that a cancel ends
        self.replayed: Replayed | None = None  # it is a call of an earlier life of the actor


class SimWorker(Core):
    """One worker process."""

    kind = "worker"

    def __init__(self, around: CoreSurroundings, host: SimNode, incarnation: bytes, pid: int) -> None:
        self.marks = [0, 0, 0]
        self.runs: dict[tuple[bytes, int], Run] = {}
        self.functions: set[bytes] = set()
        self.actor: m.ActorInit | None = None
        self.up = False
        self.saving = False  # the state is being written
        self.state: list[int] = []  # of an actor with checkpoints: see zray.sim.applied
        self.heard = False  # the node knows the end of this actor
        self.started_under: dict[str, str] = {}
        self.map_run: MapRun | None = None  # the running chunk
        self._awake = False
        super().__init__(around, host, incarnation, pid)
        self.work = WorkerMachine(self.node, self.marks, self.send, self)
        self.inside = NestedTasks(self.work, self.submitter)
        self.machine.attach_executor(
            Work(self.work.queue.forget_owners, self.place_of, self._cancel_inside, lambda state, most: []),
            self.work.handlers)
        self.send(self.node, m.WorkerReady(pid))

    @property
    def running(self) -> Run | None:
        return next(iter(self.runs.values()), None)

    @property
    def blocked(self) -> int:
        return self.work.blocked

    # ------------------------------------------------------------ the machine's Runner

    def wake(self) -> None:
        if not self._awake:
            self._awake = True
            self.later(0.0, self._next)

    def start_calls(self, started: list[tuple[CallGroup, Entry]]) -> None:
        for group, entry in started:
            self._start(Run(entry, group, self.net.now))

    def kick(self) -> None:
        self.stir()

    def interrupt(self, task: bytes, attempt: int) -> bool:
        """Interrupt a task; of an actor only coroutines can be cancelled."""
        if self.map_run is not None and self.map_run.interrupt(task, attempt):
            return True
        run = self.runs.get((task, attempt))
        if run is None or (self.actor is not None and not self.actor.spec.get("is_async")):
            return False
        run.cancelled = True
        if run.wake is not None:
            run.wake()
        return True

    def define(self, key: bytes, blob: bytes, name: str) -> None:
        self.functions.add(key)

    def take_on_job(self, message: m.JobSettings) -> None:
        self.machine.set_job(message.job)

    def cancel_children(self, task: bytes) -> None:
        self.machine.cancel_children(task)

    def owner_busy(self) -> bool:
        return self.machine.is_owner

    def answered(self, count: int) -> None:
        pass  # events are not simulated

    def runs_long(self, task: list[Any]) -> None:
        if self.runs.get((task[TASK_ID], task[TASK_ATTEMPT])) is None:
            raise AssertionError("a task is reported as running that does not run")

    def report(self) -> None:
        self.send(self.node, m.EventReport([], 0))

    def released(self) -> None:
        self.heard = self.work.announced

    # ------------------------------------------------------------ ends of others

    def node_lost(self) -> dict[str, Any]:
        """PDEATHSIG."""
        self.around.crash(self, "its node ended")
        return super().node_lost()

    # ------------------------------------------------------------ the core machine's Work

    def place_of(self, task: bytes) -> tuple[Any, dict[str, Any]] | None:
        """The task or call, when it runs."""
        if any(tid == task for tid, _ in self.runs):
            return Cause.RUNNING, {"name": "", "task": task.hex()}
        return None

    def _next(self) -> None:
        """Go on with the queue, as zray.worker.executor.run_forever does."""
        self._awake = False
        if self.work.queue.running is not None or (self.actor is not None and not self.up):
            return
        if self.work.has_job:
            if self.work.actor_to_start is not None:
                self._become()
                return
            if (entry := self.work.start()) is not None:
                if self.actor is None:
                    assert variables(entry[0].env) == self.started_under, "it serves only what it was started under"
                if type(entry[2]) is QueuedChunk:
                    self.work.flush()
                    self.map_run = MapRun(self, entry, self._map_is_over)
                    self.map_run.next()
                    return
                if type(entry[2]) is CheckpointMark:
                    self._checkpoint()
                elif type(entry[2]) is Replayed:
                    self._replay(entry[2])
                elif "behind" in (entry[2][EXTRA] or {}) and not take_arguments(entry[0], entry[2]):
                    self.work.finish(NOT_PRODUCED, 0)
                    self.wake()
                    self.stir()
                else:
                    self._start(Run(entry, None, self.net.now))
                return
        following = self.work.pause()
        if following == RUN:
            self.wake()
        elif following == STOP and self._calls_are_over():
            self._leave()

    def _map_is_over(self) -> None:
        self.map_run = None
        self.work.queue.finish()
        self.wake()
        self.stir()

    def place_column(self, wire: bytes, oid: bytes, owner: bytes) -> Any:
        return self.place(wire, len(wire), oid, owner)

    def item_started(self, owner: bytes, sequence: int, task: list[Any]) -> None:
        self.around.oracle.started(self, owner, sequence, task)

    def item_ended(self, task: list[Any], result: Any) -> None:
        self.around.oracle.ended(self, b"", task, result)

    def item_crashed(self) -> None:
        self.around.crash(self, "an item of a map ended it")

    def now(self) -> float:
        return self.net.now

    def _become(self) -> None:
        self.actor = self.work.actor_to_start
        life = self.work.become_actor()
        assert self.actor is not None
        sizes = sizes_of(self.actor.spec)
        if sizes:
            life.run_side_by_side(sizes, programs.group_of)
        self.later(self.net.random.uniform(0, 0.01), self._constructed)

    def _constructed(self) -> None:
        logged = self.work.logged
        if logged is not None:
            taken = None
            if logged.checkpoint is not None:
                file = self.host.files.files.get(logged.checkpoint["file"])
                if file is None:  # the actor has ended meanwhile, and with it its files
                    logged.lose("its checkpoint is gone")
                    return
                start, callers, self.state = msgpack.unpackb(file)
                taken = Taken(start, callers)
                self.around.oracle.applied.restored += 1
            logged.restore(taken)
        self.up = True
        self.work.actor_up()
        self.wake()

    def _calls_are_over(self) -> bool:
        """Coroutines end with their actor; the end waits for threads."""
        life = self.work.actor
        if life is None or not life.groups:
            return True
        assert self.actor is not None
        if not self.actor.spec.get("is_async"):
            return not self.runs
        if not self.work.calls_are_over():
            return False
        for run in list(self.runs.values()):
            if run.body is not None:
                run.body.close()
            self._end(run, None)
        return True

    def _leave(self) -> None:
        """End the process; an actor announces it first, and waits for the node's answer."""
        if self.actor is None or self.heard:
            self.around.leave(self)
        elif not self.work.announced:
            self.work.announce_end()

    # ------------------------------------------------------------ checkpoints: zray.worker.actors.saving

    def _checkpoint(self) -> None:
        logged = self.work.logged
        assert logged is not None and self.actor is not None
        self.work.flush()
        taken = logged.begin()
        if taken is None:
            self._checkpointed(None, b"")
            return
        self.saving = True
        name = file_name(self.actor.actor, self.actor.life, taken.start)
        packed = msgpack.packb([taken.start, taken.callers, self.state])
        self.later(self.net.random.uniform(0, 0.002), self._checkpointed, name, packed)

    def _checkpointed(self, name: str | None, packed: bytes) -> None:
        logged = self.work.logged
        assert logged is not None
        self.saving = False
        if name is not None:
            if self.host.alive:
                self.host.files.write(name, 0, packed, True)
            logged.saved({"file": name, "bytes": len(packed)})
        self.work.queue.finish()
        self.wake()
        self.stir()

    def _replay(self, replayed: Replayed) -> None:
        assert self.actor is not None
        self.around.oracle.applied.replayed += 1
        run = Run((ServedLease(replayed.caller, self.actor.life), 0, replayed.task), None, self.net.now)
        run.replayed = replayed
        self._start(run)

    def apply(self, x: int) -> int:
        """A call changes the state of this actor."""
        assert self.actor is not None
        return self.around.oracle.applied.ran(self, self.actor.actor, self.state, x)

    # ------------------------------------------------------------ runs

    def _start(self, run: Run) -> None:
        self.runs[run.task[TASK_ID], run.task[TASK_ATTEMPT]] = run
        group = run.group.name if run.group is not None else ""
        if run.replayed is None:
            self.around.oracle.started(self, run.lease.owner, run.sequence, run.task, group)
        self.later(START_S, self._begin, run)

    def _begin(self, run: Run) -> None:
        if self.runs.get((run.task[TASK_ID], run.task[TASK_ATTEMPT])) is not run:
            return
        task = run.task
        if seconds := max(map(self.fetch, (task[EXTRA] or {}).get("deps", ())), default=0.0):
            self.later(seconds, self._begin, run)
            return
        adopted = task[TASK_ATTEMPT] >= 1 << LIFE_SHIFT  # its function is read from the control store
        assert self.actor is not None or task[2] in self.functions or adopted, "a task came before its function"
        if self.work.cancels.pop((task[TASK_ID], task[TASK_ATTEMPT]), False):
            run.cancelled = True
        self.task, self.attempt = task[TASK_ID], task[TASK_ATTEMPT]
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
        except Lost as lost:  # no failure of the task, which has not started
            about = [lost.value[4], lost.value, "its node died"]
            self._end(run, [m.FAILED, "dependency_lost", {"oid": about[0], "reason": about[2], "lost": [about]}])
            return
        if task[RETURNS] == STREAMING:
            run.production = self.work.open_stream(task)
        elif program[0] in ("fixed", "dynamic"):
            run.made = Items(task, partial(self._encode_item, run.lease.owner), _raised)
        run.body = programs.run(program, deps, run.nested[:len(triples)], self, task[TASK_ATTEMPT])
        self._resume(run)

    def _resume(self, run: Run) -> None:
        """Continue until the program yields a request that takes time."""
        if self.runs.get((run.task[TASK_ID], run.task[TASK_ATTEMPT])) is not run:
            return
        run.wake = None
        waits_for, run.waits_for = run.waits_for, None
        if waits_for is not None and not run.cancelled and not self._wait(run, waits_for):
            return
        self.task, self.attempt = run.task[TASK_ID], run.task[TASK_ATTEMPT]
        try:
            while True:
                if run.cancelled:
                    run.body.close()
                    failure = [m.FAILED, "cancelled", {"task": run.task[TASK_ID]}]
                    self._end(run, failure if run.made is None else run.made.failed(failure))
                    return
                request = next(run.body)
                if request[0] == "sleep":
                    self.later(request[1], self._resume, run)
                    return
                if request[0] == "crash":
                    self.around.crash(self, "it ended itself")
                    return
                if request[0] == "exit":
                    run.body.close()
                    self.work.leave("exit_actor() was called", may_restart=request[1])
                    self._end(run, None)
                    return
                if request[0] == "item" and not self._item(run, request[1]):
                    return
                if request[0] == "return" and not run.made.take(request[1]):  # type: ignore[union-attr]
                    for ref in getattr(request[1], "refs", ()):  # one item too many: user code drops it
                        ref.drop()
                    run.body.close()
                    self._end(run, run.made.ended())  # type: ignore[union-attr]
                    return
                if request[0] == "wait" and not self._wait(run, request[1]):
                    return
        except StopIteration as stop:
            self._end(run, self._returned(run, stop.value))
        except Failure as failure:
            failed = [m.FAILED, "task_error", {"root": failure.root}]
            self._end(run, failed if run.made is None else run.made.failed(failed))

    def _encode_item(self, owner: bytes, value: Any, task: bytes, index: int) -> Any:
        return self.result(value, owner, ids.return_id(task, index))

    def _returned(self, run: Run, value: Any) -> Any:
        if run.replayed is not None and not run.replayed.wanted:
            return None
        if run.made is not None:
            return run.made.ended()
        if run.task[RETURNS] == STREAMING:
            return [0, [self.encode(0, [])], {"stream_len": run.items}]
        if type(value) is list and run.task[RETURNS] != 1:
            return [0, [self.result(part, run.lease.owner, ids.return_id(run.task[TASK_ID], index))
                        for index, part in enumerate(value, 1)], {}]
        return self.result(value[0] if type(value) is list else value, run.lease.owner,
                           ids.return_id(run.task[TASK_ID], 1))

    def _item(self, run: Run, number: int) -> bool:
        """Send an item; False when the program must wait for its consumer."""
        production = run.production
        assert production is not None
        run.items += 1
        task, attempt = run.task[TASK_ID], run.task[TASK_ATTEMPT]
        self.send(run.lease.owner, m.StreamItem(task, attempt, run.items, self.encode(number, [])))
        if not production.is_ahead(run.items):
            return True
        self._block(run)

        def wake() -> None:
            if run.cancelled or not production.is_ahead(run.items):
                self._unblock(run)
            else:
                production.wake = wake

        run.wake = production.wake = wake
        return False

    def _run_inside(self, run: Run, records: list[Any]) -> bool:
        """Whether a value that a task waits for is made on its stack: zray.worker.run.inline.

        Half of the calls of ``get`` are in a ``with`` or ``try`` block.
        """
        if run.group is not None or not self.inside.is_possible() or self.net.random.random() < 0.5:
            return False
        for record in records:
            task = self.inside.task_of(record)
            if task is not None and (wire := self.inside.take(task)) is not None:
                self.functions.add(task.fn.key)
                inner = Run((ServedLease(self.incarnation, 0), 0, wire), None, self.net.now)
                inner.outer, inner.owned = run, task
                self._start(inner)
                return True
        return False

    def _cancel_inside(self, task: Any, recursive: bool) -> None:
        if recursive:
            self.cancel_children(task.tid)
        self.interrupt(task.tid, task.attempt)

    def _wait(self, run: Run, records: list[Any]) -> bool:
        if self._run_inside(run, records):
            run.waits_for = records
            return False
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
        self._block(run)
        for record in pending:
            self.refs.when_ready(record, arrived)
        return False

    def _block(self, run: Run) -> None:
        """The main thread blocks; other threads and coroutines continue."""
        if run.group is None:
            self.work.block()
        else:
            self.work.flush()

    def _unblock(self, run: Run) -> None:
        if run.wake is None:
            return
        run.wake = None
        if run.group is None:
            self.work.unblock()
        self.later(0.0, self._resume, run)

    def _end(self, run: Run, result: Any) -> None:
        """The run has ended; without a result there is no reply."""
        task, work = run.task, self.work
        self.task, self.attempt = b"", 0
        del self.runs[task[TASK_ID], task[TASK_ATTEMPT]]
        if run.production is not None:
            work.close_stream(task)
        records = [ref.record for ref in run.nested]
        for record in records:
            self.refs.unpin(record)
        held = self.machine.still_held(records)
        if held and result is not None:
            result = with_extra(result, held=held)
        if (task[EXTRA] or {}).get("max_calls") and result is not None:
            result = work.count_run(task, result)
        if run.replayed is not None:
            assert work.logged is not None
            work.queue.finish()
            work.logged.replay_ended(run.replayed, result)
            self.wake()
            self.stir()
            return
        self.around.oracle.ended(self, run.lease.owner, task, result)
        took_ns = int((self.net.now - run.began) * 1e9)
        if run.outer is not None:
            self.inside.finish(run.owned, result)
            self.later(0.0, self._resume, run.outer)
        elif run.group is None:
            work.finish(result, took_ns)
            self.wake()
        else:
            following = work.end_call(run.group, run.entry, result)
            work.flush_after(run.lease, took_ns, following is None)
            if following is not None:
                self.start_calls([(run.group, following)])
            if work.stopping is not None:
                self.wake()
        self.stir()

    def check(self) -> None:
        super().check()
        self.work.check()
        main = sum(run.group is None and run.outer is None for run in self.runs.values()) + (
            self.map_run is not None) + self.saving
        assert main == (self.work.queue.running is not None), "the queue does not know what runs"


def _raised(error: BaseException) -> list[Any]:
    return [m.FAILED, "task_error", {"root": "raised"}]
