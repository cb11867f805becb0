"""Deaths of leased workers: what becomes of the tasks that were with them.  Pure.

A death has two halves: the node's notice (WorkerDied, with the marks that say what ran) and the end of our own
connection, once it is drained; a notice overtakes replies that were sent before.  When both are here the lease
ends: unstarted tasks are pushed again free of charge, the running one is charged a retry, a finished one whose reply
was lost counts as a lost object.  One half without the other is believed after WITHOUT_NOTICE_S.
"""

from __future__ import annotations

from typing import Any, Protocol

from zray.base.causes import Cause
from zray.wire.messages import LeaseKill, WorkerDied
from zray.wire.messages.leases import UNKNOWN
from zray.owner.failures import cancelled, crashed
from zray.owner.maps import MapChunk, MapRuns
from zray.owner.records import Key, Lease, Net, Task, WorkerLink

WITHOUT_NOTICE_S = 2.0  # a worker whose connection closed and of which the node says nothing
OUT_OF_REACH = "its owner could not reach it any more"
EARLY_S = 10.0  # how long a notice waits for the grant of its lease


class _Submitter(Protocol):
    """What a death needs of the leases and tasks of this process."""

    node: bytes
    net: Net
    now: float
    timed: bool
    leases: dict[int, Lease]
    workers: dict[bytes, WorkerLink]
    maps: MapRuns

    def fail(self, task: Task, failure: list[Any]) -> None: ...
    def again(self, task: Any, *, charge: bool) -> None: ...
    def touch(self, key: Key) -> None: ...


class WorkerDeaths:
    """See the module's docstring."""

    def __init__(self, submitter: _Submitter):
        self._submitter = submitter
        self.early: dict[bytes, tuple[float, WorkerDied]] = {}  # worker -> notice that came before its lease's grant
        self.dying: dict[int, float] = {}  # lease -> when to stop waiting for the other half of its death

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
        lease.notice = notice
        if lease in lease.key.idle:
            lease.key.idle.remove(lease)
        if lease.link.closed or not lease.inflight:
            self._end_lease(lease)
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
        elif lease.notice is not None:
            self._end_lease(lease)
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

    def _end_lease(self, lease: Lease) -> None:
        """The worker has ended and all its messages have arrived: charge the running task, free the others."""
        notice = lease.notice
        self.dying.pop(lease.number, None)
        if self._submitter.leases.pop(lease.number, None) is None:
            return
        key = lease.key
        del key.leases[lease.number]
        if lease in key.idle:
            key.idle.remove(lease)
        lease.returned = True
        self._drop_link(lease.link)
        # Without marks whatever was in flight may have run, and is charged.
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
                # Not started: free of charge.  Finished, and the reply lost: a lost object, not a failure.
                if seq <= finished:
                    task.attempt += 1  # it ran: what it submitted then has the ids of that attempt
                self._submitter.again(task, charge=False)
        lease.inflight.clear()
        key.want = 0
        self._submitter.touch(key)

    def _charge(self, task: Task, notice: WorkerDied | None) -> None:
        if task.retries == 0 or (notice is not None and notice.reason == Cause.GROUP_REMOVED.text):
            self._submitter.fail(task, crashed(task.fn.name, task.attempt, notice))
        else:
            self._submitter.again(task, charge=True)

    def deadlines(self) -> list[float]:
        return [*self.dying.values(), *(since + EARLY_S for since, _ in self.early.values())]

    def tick(self, now: float) -> None:
        """Stop waiting for the other half."""
        for number, until in list(self.dying.items()):
            dead = self._submitter.leases.get(number)
            if dead is None:
                del self.dying[number]
            elif until <= now:
                if dead.notice is None:  # its node may have it alive and in use, only out of our reach
                    self._submitter.net.send(self._submitter.node, LeaseKill(number, OUT_OF_REACH))
                self._end_lease(dead)
        for worker, (since, _) in list(self.early.items()):
            if since + EARLY_S <= now:
                del self.early[worker]
