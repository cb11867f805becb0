"""Tasks and leases: from ``f.remote()`` to the value, through leased workers.

    state     meaning                                    next state
    WAITING   arguments are not ready                    QUEUED when the last arrives; DONE when one failed or on cancel
                                                         PUSHED behind the tasks that make them (zray.owner.followers)
    QUEUED    in the queue of its scheduling key         PUSHED to a lease; DONE on cancel
    PUSHED    on a worker, as (lease, sequence)          DONE by TasksDone
                                                         QUEUED by HandBack, by the worker's death before it started
                                                         (free of charge), by a charged retry;
                                                         WAITING instead while an argument is not ready
    DONE      every return has a value or an error

A lease gets tasks ahead only while the expected run time of its tasks stays short (``run_ahead_s``).  The reason:
a worker runs user code on its socket thread, and cannot hand back tasks meanwhile.  The owner acts on a death
notice only when its own connection to the worker is closed and drained: the notice may overtake replies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from zray.base.argument_errors import UNPRODUCED, argument_failed
from zray.base.causes import Cause
from zray.base.config import Config
from zray.owner.arrivals import Arrival
from zray.owner.deaths import WorkerDeaths
from zray.owner.failed_attempts import FailedAttempts
from zray.owner.failures import cancelled, failure_in, first_failure, parts_of
from zray.owner.followers import Followers, places
from zray.owner.lineage import Lineage
from zray.owner.locality import key_near_arguments
from zray.owner.maps import MapChunk, MapRuns
from zray.owner.ports import SubmitterPorts
from zray.owner.reconstruction import Reconstruction, waits_again
from zray.owner.records import DONE, PUSHED, QUEUED, WAITING, Function, Key, Lease, Net, Task, WorkerLink
from zray.owner.references import References
from zray.owner.results import Results
from zray.owner.stories import STORY_S, Stories
from zray.owner.streams import StreamRuns
from zray.owner.why import why
from zray.wire.messages import (
    FAILED,
    CancelTask,
    FunctionDef,
    HandBack,
    LeaseGrant,
    LeaseKey,
    LeaseKill,
    LeaseOpen,
    LeaseRecall,
    LeaseReturn,
    LeaseStatus,
    LeaseWant,
    PushTasks,
    TaskFailures,
    TasksDone,
)

LEASE_WANT_MAX = 4096
# Cause that never goes away -> failure of all tasks that are queued under its key.
FATAL: dict[int, str] = {Cause.GROUP_REMOVED: "task_pg_removed", Cause.NODE_GONE: "unschedulable"}


class Submitter:
    """All tasks that this process submitted, and the leases that run them."""

    def __init__(self, me: bytes, node: bytes, job: int, net: Net, refs: References, config: Config,
                 ports: SubmitterPorts):
        self.me = me
        self.node = node
        self.job = job
        self.net = net
        self.refs = refs
        self.now = 0.0
        self.timed = False  # next_deadline() may have changed
        self.run_ahead_ns = int(config.run_ahead_s * 1e9)
        self.run_ahead_max = config.run_ahead_max
        self.lease_idle_s = config.lease_idle_s
        self.keys: dict[Any, Key] = {}
        self.by_number: dict[int, Key] = {}
        self.leases: dict[int, Lease] = {}
        self.workers: dict[bytes, WorkerLink] = {}
        self.dirty: list[Key] = []
        self.tasks: dict[bytes, Task] = {}  # only tasks that must be found by id: streams
        self.waiting = 0
        self.lineage = Lineage(refs, config.lineage_bytes_max)
        self.reconstruction = Reconstruction(self, refs, self.lineage, ports.locate)
        self.failed = FailedAttempts(config.task_events_per_s_max, lambda message: net.send(node, message))
        self.stories = Stories(config.task_events_per_s_max, lambda rows: net.send(node, TaskFailures([], 0, rows)))
        self.deaths = WorkerDeaths(self)
        self.on_worker_died, self.on_peer_closed = self.deaths.on_worker_died, self.deaths.on_peer_closed
        self.results = Results(self, refs, ports.columns)
        self.maps = MapRuns(self, refs, ports.columns, config.lineage_bytes_max)
        self.streams = StreamRuns(self, refs, ports.columns)
        self.followers = Followers(self, refs)
        self.lost: list[Any] | None = None  # the error of all tasks when our node is gone
        self.finished = 0
        self.retried = 0
        self.failing: deque[tuple[Task, list[Any]]] = deque()
        self.inline: list[Task] = []  # taken out of the queue; this process itself runs them
        self.retry_matches, self.cancel_inline = ports.retry_matches, ports.cancel_inline

    # ------------------------------------------------------------ submission

    def key_for(self, key: Any, demand: dict, env: dict, strategy: dict, name: str) -> Key:
        """The scheduling key, declared to the node at its first use."""
        record = self.keys.get(key)
        if record is None:
            record = Key(len(self.by_number) + 1, demand, env, strategy, name)
            self.keys[key] = record
            self.by_number[record.number] = record
        return record

    def key_asking(self, key: Key, more: dict[str, int]) -> Key:
        """A like key that asks for at least ``more``; the same key in a placement group, whose bundles do not grow."""
        demand = {**key.demand, **{name: max(amount, key.demand.get(name, 0)) for name, amount in more.items()}}
        if demand == key.demand or key.strategy.get("kind") == "group":
            return key
        return self.key_for((key.number, *demand.items()), demand, key.env, key.strategy, key.name)

    def submit(self, task: Task) -> None:
        """Take a task whose ``deps`` and ``pins`` are set (and counted by this call)."""
        if task.pins is not None:
            for record in task.pins:
                record.refs += 1
            self.start(task)
        else:
            self.enqueue(task)

    def start(self, task: Task) -> None:
        """Queue the task when its arguments are ready; its pins are counted already."""
        task.missing = 0
        for record in task.deps or ():
            if not self.refs.when_ready(record, Arrival(self, task)):
                task.missing += 1
        if task.missing:
            task.state = WAITING
            self.waiting += 1
            self.followers.offer(task)
        else:
            self.enqueue(task)

    def enqueue(self, task: Task) -> None:
        """The arguments are here: put the task into the queue; the next turn's ``pump`` pushes it."""
        if task.deps is not None and (failed := first_failure(task.deps)) is not None:
            self.fail(task, argument_failed(task.fn.name, failed))
            return
        if task.deps is not None or type(task.args) is list:
            task.key = key_near_arguments(task, self.node, self.refs.ends.has_ended, self.key_for)
        key = task.key
        task.state = QUEUED
        key.queue.append(task)
        if not key.dirty:
            key.dirty = True
            self.dirty.append(key)

    def arrived(self, task: Task) -> None:
        task.missing -= 1
        if task.missing == 0 and task.state == WAITING:
            self.waiting -= 1
            self.enqueue(task)
        elif task.cancelling == "force":
            self.followers.may_run_now(task)

    def ready_or_wait(self, task: Task, record: Any) -> None:
        """The doubt about one argument of a waiting task has ended: the argument is there, or will be."""
        if self.refs.when_ready(record, Arrival(self, task)):
            self.arrived(task)

    # ------------------------------------------------------------ feeding leases

    def push(self, lease: Lease, tasks: Iterable[Task]) -> None:
        link = lease.link
        known = link.functions
        inflight = lease.inflight
        first = seq = lease.next_seq
        wire = []
        for task in tasks:
            fn = task.fn
            if fn.key not in known:
                self.send_function(link, fn)
            extra = task.extra
            if task.deps is not None:
                extra = dict(extra) if extra else {}
                extra["deps"] = [record.value for record in task.deps]
                for record in task.deps:
                    record.escaped = record.escaped or record.value is not None  # see also Arrival
                if task.missing:
                    extra["behind"] = places(task)
            if task.retries == 0:  # its worker must not run other tasks inside it while it waits
                extra = {**(extra or {}), "last_attempt": True}
            wire.append((task.tid, task.attempt, fn.key, task.args, task.nret, extra))
            task.state = PUSHED
            task.lease = lease
            task.seq = seq
            inflight[seq] = task
            seq += 1
        lease.next_seq = seq
        self.net.send(link.peer, PushTasks(lease.number, first, wire))

    def send_function(self, link: WorkerLink, fn: Function) -> None:
        if fn.blob is not None and fn.key not in link.functions:  # without a blob the worker reads the control store
            link.functions.add(fn.key)
            self.net.send(link.peer, FunctionDef(fn.key, fn.blob, fn.name))

    def feed(self, lease: Lease) -> None:
        """Push tasks to an open lease, up to its run-ahead, when at most half of that is in flight."""
        key = lease.key
        queue = key.queue
        if lease.paused or lease.recalled or lease.death_notice is not None or lease.link.closed:
            return
        unsettled = bool(self.refs.unsettled or self.refs.ends.nodes)
        while queue and type(queue[0]) is not MapChunk and (
                queue[0].state != QUEUED or (unsettled and self._leaves_queue(queue[0]))):
            queue.popleft()  # cancelled or taken for an inline run while queued; or an argument was lost
        if not queue:
            if not lease.inflight:
                self.mark_idle(lease)
            return
        if type(queue[0]) is MapChunk:
            self.maps.feed(lease)
            return
        fn = queue[0].fn
        depth = 1 if fn.run_ns is None else min(self.run_ahead_max, max(1, self.run_ahead_ns // fn.run_ns))
        held = len(lease.inflight)
        if held * 2 > depth:
            return  # wait until half is used: few large batches cost less than many small ones
        batch = self._take_batch(queue, fn, min(depth - held, -(-len(queue) // len(key.leases))), unsettled)
        if batch:
            self.push(lease, batch)
            if self.waiting:
                self.followers.pushed(lease, batch)

    def _take_batch(self, queue: deque[Any], fn: Function, room: int, unsettled: bool) -> list[Task]:
        """Up to ``room`` tasks from the front of the queue that run no longer than ``fn``; PUSHED from now on."""
        batch = []
        while room > 0 and queue:
            task = queue[0]
            if task.state == QUEUED and not (unsettled and self._leaves_queue(task)):
                if task.fn is not fn and (task.fn.run_ns is None or task.fn.run_ns > fn.run_ns):
                    break
                task.state = PUSHED  # now: after an inline run was given up, the task may be in the queue twice
                batch.append(task)
                room -= 1
            queue.popleft()
            if queue and type(queue[0]) is MapChunk:
                break
        return batch

    def _leaves_queue(self, task: Any) -> bool:
        """Whether this queued task must leave the queue, because an argument was lost, or may be lost."""
        if type(task) is not Task or task.deps is None:
            return False
        if waits_again(task):
            self.start(task)
            return True
        return self.reconstruction.hold_back(task)

    def mark_idle(self, lease: Lease) -> None:
        """The lease has nothing in flight, and gets nothing now."""
        lease.idle_since = self.now
        self.timed = True
        if lease not in lease.key.idle:
            lease.key.idle.append(lease)

    def pump(self) -> None:
        """Once a turn: feed the leases of keys that got tasks, and send the node how many leases are wanted."""
        dirty, self.dirty = self.dirty, []
        try:
            while dirty:
                key = dirty.pop()
                key.dirty = False
                self._pump_key(key)
        finally:
            self.dirty += dirty  # empty, unless a bug raised in one key's turn: keep the other keys
        if self.followers.due:
            self.followers.push()

    def _pump_key(self, key: Key) -> None:
        if self.lost is not None:
            key.failed = self.lost
        if key.failed is not None:
            self._fail_queue(key)
        if key.idle:
            idle, key.idle = key.idle, []
            for lease in idle:
                self.feed(lease)
        if key.queue:
            for lease in key.leases.values():
                self.feed(lease)
        self._want(key)

    def _want(self, key: Key) -> None:
        wanted = min(len(key.queue), LEASE_WANT_MAX)
        if key.queue and type(key.queue[0]) is MapChunk:
            wanted = min(sum(chunk.count for chunk in key.queue if type(chunk) is MapChunk), LEASE_WANT_MAX)
        if wanted == key.want:
            return
        if wanted and key.want and key.want // 2 <= wanted <= key.want * 2:
            return  # the node grants one lease at a time, so only the order of magnitude matters
        if not key.declared:
            key.declared = True
            self.net.send(self.node, LeaseKey(key.number, key.demand, key.env, key.strategy, key.name))
        key.want = wanted
        self.net.send(self.node, LeaseWant(key.number, wanted, key.granted, key.queue[0].fn.name if wanted else ""))

    def touch(self, key: Key) -> None:
        if not key.dirty:
            key.dirty = True
            self.dirty.append(key)

    # ------------------------------------------------------------ leases

    def on_lease_grant(self, peer: bytes, message: LeaseGrant) -> None:
        key = self.by_number.get(message.key)
        if key is None or message.lease in self.leases:
            return
        key.granted += 1
        key.status = None
        if key.want:
            key.want -= 1
        link = self.workers.get(message.worker)
        if link is None or link.closed:
            link = self.workers[message.worker] = WorkerLink(message.worker, message.endpoint)
        lease = Lease(message.lease, key, link, message.pid, message.assigned)
        link.lease = lease
        self.leases[message.lease] = key.leases[message.lease] = lease
        early = self.deaths.early.pop(message.worker, None)
        if early is not None:
            self.deaths.died(lease, early[1])
            return
        if not key.queue:
            self._return(lease)
            return
        self.net.connect(message.worker, message.endpoint)
        self.net.send(message.worker, LeaseOpen(message.lease, self.job, message.assigned, key.env))
        self.feed(lease)
        if key.queue:
            self.touch(key)  # the want that this grant used up may be smaller than the queue

    def on_lease_status(self, peer: bytes, message: LeaseStatus) -> None:
        key = self.by_number.get(message.key)
        if key is not None:
            key.status = (message.cause, message.detail)
            key.waited = (self.now, *key.status)
            kind = FATAL.get(message.cause)
            if kind is not None and key.failed is None:
                key.failed = [FAILED, kind, {"name": key.name, "reason": message.detail}]
                self.touch(key)

    def _fail_queue(self, key: Key) -> None:
        """The key's placement group, its only node or our node is gone: fail all tasks in its queue."""
        assert key.failed is not None
        queue, key.queue = key.queue, deque()
        for work in queue:
            if type(work) is MapChunk:
                self.maps.fail_rest(work, key.failed)
            elif work.state == QUEUED:
                self.fail(work, key.failed)

    def on_lease_recall(self, peer: bytes, message: LeaseRecall) -> None:
        lease = self.leases.get(message.lease)
        if lease is not None:
            lease.recalled = True
            if not lease.inflight:
                self._return(lease)

    def _return(self, lease: Lease, exiting: bool = False) -> None:
        key = lease.key
        if self.leases.pop(lease.number, None) is None:
            return
        del key.leases[lease.number]
        if lease in key.idle:
            key.idle.remove(lease)
        lease.returned = True
        if lease.link.lease is lease:
            lease.link.lease = None
        self.net.send(self.node, LeaseReturn(lease.number, exiting))
        if key.queue:
            key.want = 0
            self.touch(key)

    # ------------------------------------------------------------ ends of tasks

    def on_tasks_done(self, peer: bytes, message: TasksDone) -> None:
        lease = self.leases.get(message.lease)
        if lease is None or lease.link.peer != peer:
            return
        inflight = lease.inflight
        inline = 0
        task = None
        it = iter(message.ends)
        for seq, result in zip(it, it):  # noqa: B905
            task = inflight.pop(seq, None)
            if task is None:
                continue
            if type(result) is bytes and task.nret == 1 and task.pins is None:
                # The common end, written out for speed: one inline value, nothing pinned.
                task.state = DONE
                self.finished += 1
                entry = task.entry
                if entry.refs == 0 and not entry.holders:
                    continue
                entry.task = None
                entry.value = result
                inline += len(result)
                waiters = entry.waiters
                if waiters is not None:
                    entry.waiters = None
                    for waiter in waiters:
                        waiter(entry)
            elif type(result) is bytes and task.nret == 1 and task.entry.value is None \
                    and task.tid not in self.lineage.recipes:
                # What ``finish`` does for one inline value of a task with arguments.
                pins, task.pins = task.pins, None
                self.end(task)
                self.refs.complete(task.entry, result)
                self.refs.unpin_all(pins)
            else:
                self.finish(task, result, lease)
        self.refs.inline_bytes += inline
        if task is not None:
            self.measure(task.fn, message.ns_each)
            if self.now - task.created > STORY_S:
                self.stories.ended(task)
        self.settle(lease)

    def measure(self, fn: Function, ns: int) -> None:
        ns = max(1, ns)
        fn.run_ns = ns if fn.run_ns is None else (fn.run_ns * 3 + ns) // 4 + 1

    def settle(self, lease: Lease) -> None:
        """After ends of tasks: return the lease, or feed it."""
        if not lease.inflight:
            lease.paused = False
            if lease.recalled:
                self._return(lease, lease.exiting)
                return
        if lease.death_notice is None:
            self.feed(lease)
            if not lease.key.queue and lease.key.want:
                self.touch(lease.key)
            if lease.candidates and len(lease.inflight) <= lease.refill_at:
                self.followers.look(lease)

    def finish(self, task: Task, result: Any, lease: Lease | None) -> None:
        """The end of an attempt in its general form: several returns, errors, references, streams."""
        values, extra = parts_of(result)
        sender = lease.link.peer if lease is not None else self.me
        if extra:
            if type(lease) is Lease and extra.get("exiting"):
                lease.recalled = lease.exiting = True
            held = extra.get("held")
            if held and lease is not None:
                self.refs.announce(lease.link.peer, held)
        failure = failure_in(result)
        if failure is not None:
            if failure[1] == UNPRODUCED:
                self.followers.unproduced(task)
            elif failure[1] == "dependency_lost" and not task.cancelling:
                self._dependency_lost(task, failure)
            elif self._retry_error(task, failure):
                self.results.discard(values, sender)
            elif "failure" in extra and not task.cancelling:
                self.results.take(task, values, extra, sender)
            else:
                self.results.discard(values if "failure" in extra else [], sender)
                self.fail(task, failure)
            return
        if task.stream is not None:
            self.streams.ended(task)
            return
        self.results.take(task, values, extra, sender)

    def fail(self, task: Task, failure: list[Any]) -> None:
        """Every return of the task gets this error; no further attempt.

        A worklist, not recursion: tasks that have the returns as arguments fail too, and chains of them grow long.
        """
        self.failing.append((task, failure))
        if len(self.failing) > 1:
            return
        try:
            while self.failing:
                self._fail(*self.failing[0])
                self.failing.popleft()
        finally:
            self.failing.clear()  # empty, unless a bug raised

    def _fail(self, task: Task, failure: list[Any]) -> None:
        self.failed.ended(task, failure, self.now)
        entries = task.entry if type(task.entry) is list else [task.entry]
        if not task.cancelling:  # before the failed argument is unpinned: it may be the last with this failure
            objects = self.streams.unmade(task) if task.stream is not None else sum(
                entry.value is None for entry in entries)
            if objects or not entries:
                self.refs.unhandled.failed(failure, objects)
        if task.stream is not None:
            self.streams.failed(task, failure)
            return
        self.end(task)
        if self.lineage.recipes:
            self.reconstruction.failed(task)
        for entry in entries:
            if entry.value is None:
                self.refs.complete(entry, failure)

    def end(self, task: Task) -> None:
        """The task is done; its returns get their values next."""
        task.state = DONE
        self.finished += 1
        self.tasks.pop(task.tid, None)
        if self.reconstruction.running or self.reconstruction.restarts:
            self.reconstruction.ended(task)
        pins, task.pins, task.deps = task.pins, None, None
        if pins:
            self.refs.unpin_all(pins)

    # ------------------------------------------------------------ retries, hand-back, death

    def _dependency_lost(self, task: Task, said: list[Any]) -> None:
        """The worker could not read an argument, and has not started the task: start it again, or fail it."""
        failed = self.reconstruction.dependency_lost(task, said)
        if failed is not None:
            self.fail(task, failed)
            return
        task.attempt += 1  # so that later messages about the old attempt do not concern the new one
        task.lease = None
        self.start(task)

    def _retry_error(self, task: Task, failure: list[Any]) -> bool:
        """The task itself raised: run it again if the user asked for it (retry_exceptions)."""
        if failure[1] != "task_error" or not task.retry_errors or task.cancelling or task.retries == 0:
            return False
        if task.retry_errors is not True and not self.retry_matches(task.retry_errors, failure):
            return False
        self.requeue(task, charge=True)
        return True

    def requeue(self, task: Any, *, charge: bool) -> None:
        if charge:
            task.attempt += 1
            self.retried += 1
            if task.retries > 0:
                task.retries -= 1
        task.lease = None
        if task.behind and self.followers.waits_again(task):
            return
        task.state = QUEUED
        task.key.queue.appendleft(task)
        self.touch(task.key)

    def on_hand_back(self, peer: bytes, message: HandBack) -> None:
        lease = self.leases.get(message.lease)
        if lease is None or lease.link.peer != peer:
            return
        lease.paused = True
        back = []
        for seq in message.sequences:
            task = lease.inflight.get(seq)
            if task is None or type(task) is MapChunk:
                continue
            del lease.inflight[seq]
            back.append(task)
        self.maps.on_hand_back(lease, message.sequences)
        for task in reversed(back):
            if task.cancelling:
                self.fail(task, cancelled(task))
            else:
                self.requeue(task, charge=False)
        if not lease.inflight:
            self.settle(lease)

    # ------------------------------------------------------------ cancellation

    def cancel(self, task: Task, force: bool, recursive: bool) -> None:
        """Ask for the end of a task; does nothing when it has ended."""
        if task.state == DONE:
            return
        task.cancelling = "force" if force else "asked"
        if task.state == WAITING:
            self.waiting -= 1
            self.fail(task, cancelled(task))
        elif task.state == QUEUED:
            self.fail(task, cancelled(task))
            self._skip(task.key)
        elif task.lease is None:
            self.cancel_inline(task, recursive)
        elif force and len(task.lease.inflight) == 1:
            self.net.send(self.node, LeaseKill(task.lease.number, "cancelled by force"))
        else:
            self.net.send(task.lease.link.peer, CancelTask(task.tid, task.attempt, recursive))
            if force and not task.missing:  # else its worker runs another task now, as far as we know
                self.net.send(self.node, LeaseKill(task.lease.number, "cancelled by force"))

    def _skip(self, key: Key) -> None:
        """A task in the queue was cancelled: it wants no lease.  The queue is cleared of them when they are half."""
        key.skipped += 1
        if key.skipped * 2 >= len(key.queue):
            kept = [work for work in key.queue if type(work) is MapChunk or work.state == QUEUED]
            key.queue.clear()
            key.queue.extend(kept)
            key.skipped = 0
            self.touch(key)

    def children_of(self, parent: bytes) -> list[Task]:
        """Unfinished tasks submitted by task ``parent`` of this process."""
        found = [t for key in self.keys.values() for t in key.queue if type(t) is Task and t.parent == parent]
        for lease in self.leases.values():
            found += [t for t in lease.inflight.values() if type(t) is Task and t.parent == parent]
        found += [t for t in self.inline if t.parent == parent]
        return [t for t in found if t.state != DONE]

    # ------------------------------------------------------------ inline execution by a blocked worker

    def take_queued(self, task: Task) -> bool:
        """Take a queued task out, so that the caller itself runs it; False when it is not queued any more."""
        if task.state != QUEUED or task.cancelling or (self.refs.unsettled and waits_again(task)):
            return False
        task.state = PUSHED  # the queue skips it
        task.lease = None
        return True

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Return idle leases; stop waiting for the other half of a death."""
        self.now = now
        if self.stories.rows:
            self.stories.flush(now)
        for key in self.by_number.values():
            for lease in [x for x in key.idle if x.idle_since + self.lease_idle_s <= now]:
                self._return(lease)
        self.deaths.tick(now)

    def next_deadline(self) -> float | None:
        times = self.deaths.deadlines() + ([self.stories.due] if self.stories.rows else [])
        if self.leases:
            times += [lease.idle_since + self.lease_idle_s for key in self.by_number.values() for lease in key.idle]
        return min(times, default=None)

    def explain(self, task: Task) -> tuple[Cause, dict[str, Any]]:
        """Why an unfinished task waits."""
        return why(task, task.tid in self.reconstruction.running)

    def check(self) -> None:
        for key in self.by_number.values():
            for number, lease in key.leases.items():
                assert lease.number == number and self.leases.get(number) is lease and not lease.returned
                for seq, task in lease.inflight.items():
                    assert seq < lease.next_seq
                    if type(task) is Task:
                        assert task.state == PUSHED and task.lease is lease and task.seq == seq
                        assert task.behind or not task.missing, "it was pushed without an argument"
            key.check()
        assert self.waiting >= 0
        self.lineage.check()
        self.reconstruction.check()
