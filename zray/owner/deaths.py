"""Deaths of leased workers: which of their tasks run again, and which fail.  Pure.

A death has two halves.  One is the node's notice: WorkerDied, with the marks that name the task that ran.  The
other is the end of our own connection, once it is drained: a notice overtakes replies that were sent before it.
When both halves are here, the lease ends:

    task                                 what happens
    not started                          queued again, free of charge
    was running                          queued again, charged a retry; or fails
    finished, and the reply was lost     queued again, free of charge: a lost object

After WITHOUT_NOTICE_S one half is enough.
"""

from __future__ import annotations

from typing import Any, Protocol

from zray.base.causes import Cause
from zray.owner.failed_attempts import FailedAttempts
from zray.owner.failures import cancelled, crashed
from zray.owner.maps import MapChunk, MapRuns
from zray.owner.records import Key, Lease, Net, Task, WorkerLink
from zray.wire.messages import LeaseKill, WorkerDied
from zray.wire.messages.leases import UNKNOWN

WITHOUT_NOTICE_S = 2.0  # from the end of a worker's connection, without a notice of the node
OUT_OF_REACH = "its owner could not reach it any more"
EARLY_NOTICE_S = 10.0  # a notice waits so long for the grant of its lease


class _Submitter(Protocol):
    """The leases and tasks of this process, as far as a death needs them."""

    node: bytes
    net: Net
    now: float
    timed: bool
    leases: dict[int, Lease]
    workers: dict[bytes, WorkerLink]
    maps: MapRuns
    failed: FailedAttempts

    def fail(self, task: Task, failure: list[Any]) -> None: ...
    def requeue(self, task: Any, *, charge: bool) -> None: ...
    def touch(self, key: Key) -> None: ...
    def key_asking(self, key: Key, more: dict[str, int]) -> Key: ...


class WorkerDeaths:
    """See the module's docstring."""

    def __init__(self, submitter: _Submitter):
        self._submitter = submitter
        self.early: dict[bytes, tuple[float, WorkerDied]] = {}  # worker -> notice that overtook its lease's grant
        self.dying: dict[int, float] = {}  # lease -> time when one half of its death is enough

    def on_worker_died(self, peer: bytes, message: WorkerDied) -> None:
        link = self._submitter.workers.get(message.worker)
        lease = self._submitter.leases.get(message.lease) if message.lease else None
        if lease is None:
            if link is not None:
                self._drop_link(link)
            elif message.lease:
                self.early[message.worker] = (self._submitter.now, message)
                self._submitter.timed = True
            return
        self.died(lease, message)

    def died(self, lease: Lease, notice: WorkerDied) -> None:
        lease.death_notice = notice
        if lease in lease.key.idle:
            lease.key.idle.remove(lease)
        if lease.link.closed or not lease.inflight:
            self.end_lease(lease)
        else:
            self._await_other_half(lease)

    def on_peer_closed(self, peer: bytes) -> None:
        """Our connection to a worker is closed and drained."""
        link = self._submitter.workers.get(peer)
        if link is None:
            return
        link.closed = True
        lease = link.lease
        if lease is None:
            self._drop_link(link)
        elif lease.death_notice is not None:
            self.end_lease(lease)
        else:
            if lease in lease.key.idle:
                lease.key.idle.remove(lease)
            self._await_other_half(lease)

    def _await_other_half(self, lease: Lease) -> None:
        self.dying[lease.number] = self._submitter.now + WITHOUT_NOTICE_S
        self._submitter.timed = True

    def _drop_link(self, link: WorkerLink) -> None:
        if self._submitter.workers.get(link.peer) is link:
            del self._submitter.workers[link.peer]
        link.closed = True
        self._submitter.net.disconnect(link.peer)

    def end_lease(self, lease: Lease) -> None:
        """The worker is dead, and all its replies have been handled: charge the running task, queue the others."""
        notice = lease.death_notice
        self.dying.pop(lease.number, None)
        if self._submitter.leases.pop(lease.number, None) is None:
            return
        key = lease.key
        del key.leases[lease.number]
        if lease in key.idle:
            key.idle.remove(lease)
        lease.returned = True
        self._drop_link(lease.link)
        # Without marks every task in flight may have run, and is charged.
        started, finished = (notice.started, notice.finished) if notice is not None else (UNKNOWN, UNKNOWN)
        for seq in sorted(lease.inflight, reverse=True):  # back to the front of the queue, in order
            task = lease.inflight[seq]
            if type(task) is MapChunk:
                self._submitter.maps.lost(task, seq, started, finished, notice)
                continue
            running = seq == started and finished < started
            if task.cancelling:
                self._submitter.fail(task, cancelled(task))
            elif running or started == UNKNOWN:
                self._charge(task, notice)
            else:
                # Not started: free of charge.  Finished, but the reply is lost: a lost object, not a failure.
                if seq <= finished:
                    task.attempt += 1  # it ran: its child tasks have ids of that attempt
                self._submitter.requeue(task, charge=False)
        lease.inflight.clear()
        key.want = 0
        self._submitter.touch(key)

    def _charge(self, task: Task, notice: WorkerDied | None) -> None:
        if task.retries == 0 or (notice is not None and notice.reason == Cause.GROUP_REMOVED.text):
            self._submitter.fail(task, crashed(task.fn.name, task.attempt, notice))
        else:
            self._submitter.failed.attempt(task, crashed(task.fn.name, task.attempt, notice), self._submitter.now)
            if notice is not None and notice.ask:
                task.key = self._submitter.key_asking(task.key, notice.ask)
            self._submitter.requeue(task, charge=True)

    def deadlines(self) -> list[float]:
        return [*self.dying.values(), *(since + EARLY_NOTICE_S for since, _ in self.early.values())]

    def tick(self, now: float) -> None:
        """Stop waiting for the other half of deaths."""
        for number, until in list(self.dying.items()):
            dead = self._submitter.leases.get(number)
            if dead is None:
                del self.dying[number]
            elif until <= now:
                if dead.death_notice is None:  # the worker may live and be in use, but we cannot reach it
                    self._submitter.net.send(self._submitter.node, LeaseKill(number, OUT_OF_REACH))
                self.end_lease(dead)
        for worker, (since, _) in list(self.early.items()):
            if since + EARLY_NOTICE_S <= now:
                del self.early[worker]
