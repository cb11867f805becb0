"""Calls to actors, from the caller's side.

    actor state    calls
    PENDING        wait in a queue here until the node says where the actor lives
    ALIVE          are pushed in order, numbered per (caller, life); CallsDone answers them
    RESTARTING     wait if they have retries left (max_task_retries), those in flight first; the others fail
    DEAD           fail with the cause

A call whose arguments are not ready holds back the later calls of this caller, unless the actor allows any order.
When an actor's process dies, its calls in flight end only when our own connection to it is closed and drained.

Calls to an actor with checkpoints have numbers as well, and are kept until a checkpoint covers them
(zray.owner.call_log).  A new life gets an offer of what is kept before it gets calls, and not while replies of the
earlier life may still come.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from zray.base.argument_errors import argument_failed
from zray.base.causes import Cause
from zray.base.named_tuples import NamedTuple
from zray.owner.arrivals import Arrival
from zray.owner.failures import cancelled, failure_in, first_failure, held_in, parts_of
from zray.owner.reconstruction import waits_again
from zray.owner.records import DONE, PUSHED, QUEUED, WAITING, Function, Net, Task, WorkerLink
from zray.owner.references import References
from zray.owner.stories import STORY_S
from zray.owner.submitter import Submitter
from zray.wire.messages import (
    FAILED,
    ActorState,
    AskCheckpoint,
    CallsCovered,
    CallsDone,
    CancelTask,
    LoggedDone,
    PushCalls,
    PushLogged,
    WatchActor,
)
from zray.wire.messages.actors import ALIVE, DEAD, PENDING, RESTARTING

if TYPE_CHECKING:
    from zray.owner.call_log import CallLog

WINDOW_CALLS = 4096  # calls in flight to one actor, at most
BATCH_CALLS = 512
DEAD_LINKS_MAX = 1000  # links of dead actors
HANDLE_DRAIN_S = 2.0

_STAGES = {ALIVE: 1, DEAD: 2}  # of a life; it begins as PENDING or RESTARTING
NOT_WAITED_FOR = frozenset((RESTARTING, DEAD))  # as in Ray, a call without retries does not wait for a restart
# Kind of death (zray.node.actors.table) -> failure of the calls; for all other kinds actor_died.
FAILURES = {"pg_removed": "actor_pg_removed", "unschedulable": "actor_unschedulable"}


class ActorLink:
    """One actor that this process calls.  References to the object ``life_record`` keep the actor alive."""

    __slots__ = ("actor", "name", "state", "life", "link", "queue", "inflight", "next_seq", "cause", "unfinished",
                 "life_record", "any_order", "dirty", "watched", "pid", "methods", "max_task_retries",
                 "max_pending", "killed", "created", "log", "told")

    def __init__(self, actor: bytes, name: str, any_order: bool):
        self.actor = actor
        self.name = name
        self.state = PENDING
        self.life = -1
        self.told = -1, 0  # (life, stage) of the last state
        self.link: WorkerLink | None = None
        self.queue: deque[Task] = deque()
        self.inflight: dict[int, Task] = {}
        self.next_seq = 1
        self.cause: dict[str, Any] = {}
        self.unfinished = 0
        self.life_record: Any = None
        self.any_order = any_order
        self.dirty = False
        self.watched = False
        self.pid = 0
        self.methods: dict[str, Function] = {}
        self.max_task_retries = 0
        self.max_pending: int | None = None  # None until a handle gives the number
        self.created = False  # by this process
        self.killed = False  # by this process; no more calls to this life while the node has not reported its end
        self.log: CallLog | None = None  # of an actor with checkpoints


class DrainingLife(NamedTuple):
    """Calls of an ended life, until our connection to its process is drained; ``cause`` says how the life ended."""

    link: ActorLink
    inflight: dict[int, Task]
    until: float
    cause: dict[str, Any]


class ActorCalls:
    """All calls of this process to actors."""

    def __init__(self, node: bytes, net: Net, refs: References, submitter: Submitter, log_bytes_max: int = 1 << 26):
        self.node = node
        self.log_bytes_max = log_bytes_max  # of the calls to one actor with checkpoints
        self.net = net
        self.refs = refs
        self.submitter = submitter
        self.links: dict[bytes, ActorLink] = {}
        self.by_worker: dict[bytes, ActorLink] = {}
        self.draining: dict[bytes, DrainingLife] = {}  # worker -> calls that it may still answer
        self.dirty: list[ActorLink] = []
        self.ended: dict[bytes, None] = {}  # actors that are DEAD, oldest first
        self.finished = 0
        submitter.reconstruction.calls = self

    def link_for(self, actor: bytes, name: str, any_order: bool = False, watch: bool = True) -> ActorLink:
        """The link to an actor.  Without ``watch`` its creator asks for the states later, when our node knows it."""
        link = self.links.get(actor)
        if link is None:
            link = self.links[actor] = ActorLink(actor, name, any_order)
        if watch and not link.watched:
            link.watched = True
            self.net.send(self.node, WatchActor(actor))
        return link

    # ------------------------------------------------------------ submission

    def submit(self, link: ActorLink, task: Task) -> None:
        """Take a call; the next turn's ``pump`` sends it."""
        if task.pins is not None:
            for record in task.pins:
                record.refs += 1
        self._take(link, task)

    def may_run_again(self, task: Task) -> bool:
        """Whether the actor of this ended call will take calls."""
        link = task.lease
        return link.state != DEAD and (link.life_record is None or link.life_record.refs > 0)

    def run_again(self, task: Task) -> None:
        """Make a lost result again: an ended call, whose pins are counted, follows the calls that wait."""
        task.missing = 0
        task.state = WAITING
        self._take(task.lease, task)

    def _take(self, link: ActorLink, task: Task) -> None:
        if link.unfinished == 0 and link.life_record is not None:
            link.life_record.refs += 1
        link.unfinished += 1
        task.lease = link
        if task.pins is not None:
            for record in task.deps or ():
                if not self.refs.when_ready(record, Arrival(self, task)):
                    task.missing += 1
            if task.missing and link.any_order:
                return
        if not task.missing:
            task.state = QUEUED
        if link.state in NOT_WAITED_FOR and self._refuse(link, task):
            return
        link.queue.append(task)
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    def arrived(self, task: Task) -> None:
        task.missing -= 1
        if task.missing or task.state != WAITING:
            return
        task.state = QUEUED
        link = task.lease
        if link.state in NOT_WAITED_FOR and self._refuse(link, task):
            return  # in a queue with order the call stays as a tombstone
        if link.any_order:
            link.queue.append(task)
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    def pump(self) -> None:
        dirty, self.dirty = self.dirty, []
        try:
            while dirty:
                link = dirty.pop()
                link.dirty = False
                if self.submitter.lost is not None:
                    self._fail_queue(link)
                elif link.state == ALIVE and not link.killed:
                    self._push(link)
        finally:
            self.dirty += dirty  # as in Submitter.pump

    def _push(self, link: ActorLink) -> None:
        assert link.link is not None
        if link.log is not None and not self._may_push(link, link.log):
            return
        queue, inflight = link.queue, link.inflight
        room = WINDOW_CALLS - len(inflight)
        while queue and room > 0:
            first = seq = link.next_seq
            wire: list[tuple[Any, ...]] = []
            while queue and len(wire) < BATCH_CALLS and room > 0:
                task = queue[0]
                if task.state == DONE:
                    queue.popleft()
                    continue
                if self.refs.unsettled and task.state == QUEUED and waits_again(task):
                    self._await(task)
                if task.missing:
                    if not link.any_order:
                        break
                    queue.popleft()
                    continue
                queue.popleft()
                extra = task.extra
                if task.deps:
                    failed = first_failure(task.deps)
                    if failed is not None:
                        self._fail(link, task, argument_failed(
                            f"{link.name}.{task.fn.name}", failed, link.actor, link.pid))
                        continue
                    extra = dict(extra) if extra else {}
                    extra["deps"] = [record.value for record in task.deps]
                    for record in task.deps:
                        record.escaped = True
                wire.append((task.tid, task.attempt, task.fn.name, task.args, task.nret, extra))
                task.state = PUSHED
                task.seq = seq
                inflight[seq] = task
                seq += 1
                room -= 1
            link.next_seq = seq
            if not wire:
                return
            if link.log is None:
                self.net.send(link.link.peer, PushCalls(link.actor, link.life, first, wire))
            elif not self._push_logged(link, link.log, first, wire):
                return

    # ------------------------------------------------------------ actors with checkpoints

    def _may_push(self, link: ActorLink, log: CallLog) -> bool:
        """Whether the actor may get calls now: this life has our offer, and our log has room."""
        assert link.link is not None
        if log.offered < link.life:
            if any(left.link is link for left in self.draining.values()):
                return False
            for offer in log.offer(link.actor, link.life):
                self.net.send(link.link.peer, offer)
        self._ask_checkpoint(link, log)
        return not log.is_full

    def _push_logged(self, link: ActorLink, log: CallLog, first: int, wire: list[tuple[Any, ...]]) -> bool:
        """Send a batch; whether more calls may follow."""
        assert link.link is not None
        numbers = [log.pushed(link.inflight[sequence], link.life, sequence, call)
                   for sequence, call in enumerate(wire, first)]
        self.net.send(link.link.peer, PushLogged(link.actor, link.life, first, wire, numbers, log.ended))
        return not log.is_full

    def _ask_checkpoint(self, link: ActorLink, log: CallLog) -> None:
        if log.wants_checkpoint and link.link is not None and not link.killed:
            log.asked = True
            self.net.send(link.link.peer, AskCheckpoint(link.actor, link.life, log.ended))

    def on_logged_done(self, peer: bytes, message: LoggedDone) -> None:
        link = self.links.get(message.actor)
        if link is None or link.log is None:
            return
        if self.by_worker.get(peer) is link and link.life == message.life:
            inflight = link.inflight
        elif peer in self.draining and self.draining[peer].link is link:
            inflight = self.draining[peer].inflight
        else:
            return
        log = link.log
        for sequence, start in zip(message.ends[::2], message.starts, strict=True):
            if sequence in inflight:
                log.answered(message.life, sequence, start, inflight[sequence])
        log.told(message.order)
        self.on_calls_done(peer, message)  # type: ignore[arg-type]  # it has the same fields
        self._ask_checkpoint(link, log)

    def on_covered(self, peer: bytes, message: CallsCovered) -> None:
        link = self.links.get(message.actor)
        if link is None or link.log is None:
            return
        link.log.cover(message.start, message.life)
        self._ask_checkpoint(link, link.log)
        self._touch(link)

    def _touch(self, link: ActorLink) -> None:
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    # ------------------------------------------------------------ answers

    def on_calls_done(self, peer: bytes, message: CallsDone) -> None:
        link = self.by_worker.get(peer)
        if link is not None and link.actor == message.actor and link.life == message.life:
            inflight = link.inflight
        elif peer in self.draining and self.draining[peer][0].actor == message.actor:
            link, inflight = self.draining[peer][:2]
        else:
            return
        full = len(inflight) >= WINDOW_CALLS
        refs = self.refs
        done = 0
        task = None
        it = iter(message.ends)
        for seq, result in zip(it, it):  # noqa: B905
            task = inflight.pop(seq, None)
            if task is None:
                continue
            if type(result) is bytes and task.nret == 1 and task.pins is None:
                task.state = DONE
                done += 1
                entry = task.entry
                if entry.refs == 0 and not entry.holders:
                    continue
                entry.task = None
                entry.value = result
                refs.inline_bytes += len(result)
                waiters = entry.waiters
                if waiters is not None:
                    entry.waiters = None
                    for waiter in waiters:
                        waiter(entry)
            else:
                self._general_end(link, task, result, peer)
        if task is not None and self.submitter.now - task.created > STORY_S:
            self.submitter.stories.ended(task)
        self.finished += done
        link.unfinished -= done
        if done and link.unfinished == 0:  # _general_end has unpinned already if its call was the last
            self._unpin_actor(link)
        if link.queue and (full or not inflight) and link.state == ALIVE and not link.killed:
            self._push(link)

    def _general_end(self, link: ActorLink, task: Task, result: Any, peer: bytes) -> None:
        """End a call through ``Submitter.finish``, unless it is to run again."""
        failure = failure_in(result)
        if failure is not None and not task.cancelling:
            if failure[1] == "dependency_lost":
                self.refs.announce(peer, held_in(result))
                self._dependency_lost(link, task, failure)
                return
            if failure[1] == "task_error" and task.retry_errors and task.retries != 0 and (
                    task.retry_errors is True or self.submitter.retry_matches(task.retry_errors, failure)):
                self.refs.announce(peer, held_in(result))
                if type(result) is list and result[0] == 0:
                    self.submitter.results.discard(parts_of(result)[0], peer)
                self._requeue(link, [task])
                return
        self._end_call(link)
        self.submitter.finish(task, result, _AnsweringPeer(peer))  # type: ignore[arg-type]

    def _dependency_lost(self, link: ActorLink, task: Task, said: list[Any]) -> None:
        """The actor could not read an argument, and has not started the call: push it again, free of charge.

        The call waits until the argument is there.  Later calls that were pushed already run before it, as they
        do when a call is retried.
        """
        failed = self.submitter.reconstruction.dependency_lost(task, said)
        if failed is not None:
            self._fail(link, task, failed)
            return
        task.attempt += 1
        task.state = QUEUED
        if link.state == DEAD:
            self._refuse(link, task)
            return
        if waits_again(task):
            self._await(task)
        if not (task.missing and link.any_order):
            link.queue.appendleft(task)
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    def _await(self, task: Task) -> None:
        """Arguments that were ready are pending again: ``arrived`` is called for each."""
        task.state = WAITING
        task.missing = 0
        for record in task.deps or ():
            if not self.refs.when_ready(record, Arrival(self, task)):
                task.missing += 1

    def _fail(self, link: ActorLink, task: Task, failure: list[Any]) -> None:
        if link.log is not None:
            link.log.gave_up(task)
        self._end_call(link)
        self.submitter.fail(task, failure)

    def _end_call(self, link: ActorLink) -> None:
        self.finished += 1
        link.unfinished -= 1
        if link.unfinished == 0:
            self._unpin_actor(link)

    def _unpin_actor(self, link: ActorLink) -> None:
        """No call is unfinished, so the calls stop keeping the actor alive."""
        if link.life_record is not None:
            self.refs.unpin(link.life_record)

    def kill(self, actor: bytes) -> None:
        """The node is asked to kill the actor: later calls must not reach the life that ends."""
        link = self.links.get(actor)
        if link is not None and link.state == ALIVE:
            link.killed = True

    def _requeue(self, link: ActorLink, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            task.attempt += 1
            if task.retries > 0:
                task.retries -= 1
            task.state = QUEUED
            if link.state != DEAD:
                link.queue.appendleft(task)
            else:  # its reply was read after the news of the end
                self._refuse(link, task)
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    # ------------------------------------------------------------ the actor's life

    def on_actor_state(self, peer: bytes, message: ActorState) -> None:
        link = self.links.get(message.actor)
        # Rows of the control store may come late, after what the home has said: within a life a state never goes back.
        # Sequence numbers would begin again with the same process, and calls would get answers to earlier ones.
        at = message.life, _STAGES.get(message.state, 0)
        if link is None or at < link.told or link.state == DEAD:
            return
        link.cause = message.cause
        if message.state == ALIVE:
            if link.link is not None and link.link.peer == message.worker and link.life == message.life:
                return
            link.told = at  # another process in the same life: a new home did not know of the first one
            self._leave_life(link)
            link.killed = False
            link.state = ALIVE
            link.life = message.life
            link.link = WorkerLink(message.worker, message.endpoint)
            link.pid = message.cause.get("pid", 0)
            if link.log is None and message.cause.get("checkpoints"):
                from zray.owner.call_log import CallLog

                link.log = CallLog(self.log_bytes_max, self.refs.unpin_all)
            link.next_seq = 1
            self.by_worker[message.worker] = link
            self.net.connect(message.worker, message.endpoint)
            self._push(link)
            return
        link.told = at
        link.state = message.state
        link.killed = False
        if message.state == RESTARTING:
            self._leave_life(link)
            self._fail_queue(link)
        elif message.state == DEAD:
            self._leave_life(link)
            self._fail_queue(link)
            if link.log is not None:
                link.log.clear()
            self._forget_dead_links(link)

    def _forget_dead_links(self, link: ActorLink) -> None:
        """Bound the links of dead actors; the node tells a caller of a forgotten actor again that it is dead."""
        self.ended[link.actor] = None
        while len(self.ended) > DEAD_LINKS_MAX:
            oldest = next(iter(self.ended))
            del self.ended[oldest]
            if self.links[oldest].unfinished == 0:
                del self.links[oldest]

    def _leave_life(self, link: ActorLink) -> None:
        """The process of this life has ended, or ends: end its calls when the connection is drained."""
        worker = link.link
        if worker is None:
            return
        self.by_worker.pop(worker.peer, None)
        inflight, link.inflight = link.inflight, {}
        link.link = None
        left = DrainingLife(link, inflight, self.submitter.now + HANDLE_DRAIN_S, link.cause)
        if worker.closed or not inflight:
            self._end_drained_calls(left)
            self.net.disconnect(worker.peer)
        else:
            self.draining[worker.peer] = left

    def on_peer_closed(self, peer: bytes) -> None:
        link = self.by_worker.get(peer)
        if link is not None and link.link is not None:
            link.link.closed = True  # the node will report the actor's next state
        kept = self.draining.pop(peer, None)
        if kept is not None:
            self._end_drained_calls(kept)

    def _end_drained_calls(self, left: DrainingLife) -> None:
        link, inflight = left.link, left.inflight
        retry = []
        for seq in sorted(inflight):
            task = inflight[seq]
            if task.cancelling:
                self._fail(link, task, cancelled(task))
            elif link.state != DEAD and task.retries != 0:
                self.submitter.failed.attempt(task, [FAILED, "actor_died", self._detail(link) | left.cause],
                                              self.submitter.now)
                retry.append(task)
            else:
                detail = self._detail(link) | left.cause
                self._fail(link, task, self.death_of(link) or [FAILED, "actor_unavailable", detail])
        if retry:
            self._requeue(link, retry)
        if link.log is not None:
            self._touch(link)  # the next life may have our offer now

    def node_lost(self, failure: list[Any]) -> None:
        """Our node is gone: fail the calls in flight and in queues."""
        draining = list(self.draining.values())
        self.draining.clear()
        for link, inflight in (*((link, link.inflight) for link in self.links.values()), *(d[:2] for d in draining)):
            calls = list(inflight.values())
            inflight.clear()
            for task in calls:
                self._fail(link, task, failure)
        for link in list(self.links.values()):
            self._fail_queue(link)

    def _fail_queue(self, link: ActorLink) -> None:
        """Fail queued calls that the actor will not take: all, or while it restarts those without retries."""
        queue, link.queue = link.queue, deque()
        failure = self._refusal(link)
        if failure[1] == "actor_unavailable":
            link.queue.extend(task for task in queue if _waits_for_restart(task))
            queue = deque(task for task in queue if not _waits_for_restart(task))
        for task in queue:
            if task.state != DONE:
                self._fail(link, task, failure)

    def _refuse(self, link: ActorLink, task: Task) -> bool:
        """As ``_fail_queue``, for one new call: the queued calls, maybe many, need no second look."""
        failure = self._refusal(link)
        if failure[1] == "actor_unavailable" and _waits_for_restart(task):
            return False
        self._fail(link, task, failure)
        return True

    def _refusal(self, link: ActorLink) -> list[Any]:
        """The failure of calls to an actor that is DEAD, or that restarts and is not waited for."""
        known = self.submitter.lost or self.death_of(link)
        if known is not None:
            return known
        return [FAILED, "actor_unavailable", self._detail(link) | {"restarting": True}]

    def death_of(self, link: ActorLink) -> list[Any] | None:
        """The failure of all calls to an actor that is DEAD."""
        return self._death(link) if link.state == DEAD else None

    def _death(self, link: ActorLink) -> list[Any]:
        return [FAILED, FAILURES.get(link.cause.get("kind", ""), "actor_died"), self._detail(link)]

    def _detail(self, link: ActorLink) -> dict[str, Any]:
        return {"actor": link.actor, "class_name": link.name} | link.cause

    # ------------------------------------------------------------ cancellation, time, why

    def cancel(self, task: Task, recursive: bool) -> None:
        link = task.lease
        if task.state == DONE:
            return
        task.cancelling = "asked"
        if task.state == PUSHED and link.link is not None:
            self.net.send(link.link.peer, CancelTask(task.tid, task.attempt, recursive))
        elif task.state != PUSHED:
            self._fail(link, task, cancelled(task))
            if task in link.queue:
                link.queue.remove(task)
            if not link.dirty:
                link.dirty = True
                self.dirty.append(link)

    def children_of(self, parent: bytes) -> list[Task]:
        """Unfinished calls that task ``parent`` of this process has made."""
        return [task for link in self.links.values() if link.unfinished
                for task in (*link.queue, *link.inflight.values()) if task.parent == parent and task.state != DONE]

    def tick(self, now: float) -> None:
        for worker, left in list(self.draining.items()):
            if left.until <= now:
                del self.draining[worker]
                self.net.disconnect(worker)
                self._end_drained_calls(left)

    def next_deadline(self) -> float | None:
        if not self.draining:
            return None
        return min((left.until for left in self.draining.values()), default=None)

    def explain(self, task: Task) -> tuple[Cause, dict[str, Any]]:
        link = task.lease
        about: dict[str, Any] = {"task": task.tid.hex(), "name": f"{link.name}.{task.fn.name}",
                                 "actor": link.actor.hex(), "attempt": task.attempt}
        if task.cancelling:
            return Cause.CANCELLING, about
        if link.state == PENDING:
            about |= link.cause
            about["ask_node"] = link.actor
            return Cause.ACTOR_PENDING, about
        if link.state == RESTARTING:
            return Cause.ACTOR_RESTARTING, about
        if task.missing:
            about["missing"] = [record.oid for record in task.deps or () if record.value is None]
            return Cause.DEPENDENCY, about
        if task.state == PUSHED:
            ahead = sum(1 for seq in link.inflight if seq < task.seq)
            about["ahead"] = ahead
            about["pid"] = link.pid
            if link.link is not None:
                about["ask"] = [link.link.peer, task.tid, link.link.endpoint]
            # Only the actor knows whether our first call runs: calls of other callers may be ahead of it.
            return (Cause.ACTOR_BUSY if ahead else Cause.ACTOR_HAS), about
        if link.queue and link.queue[0].missing and link.queue[0] is not task:
            return Cause.ACTOR_ORDER, about
        return Cause.ACTOR_BUSY, about

    def check(self) -> None:
        for link in self.links.values():
            assert link.unfinished >= 0
            assert not (link.inflight and link.link is None)
            if link.log is not None:
                link.log.check()
            for seq, task in link.inflight.items():
                assert task.state == PUSHED and task.seq == seq < link.next_seq
            queued = [task for task in link.queue if task.state != DONE]
            draining = sum(len(left.inflight) for left in self.draining.values() if left.link is link)
            if not link.any_order:
                assert link.unfinished == len(queued) + len(link.inflight) + draining, "a call is counted wrongly"


def _waits_for_restart(task: Task) -> bool:
    """Whether the call has retries, is on its last one, or waits for an argument anyway."""
    return task.retries != 0 or task.attempt > 0 or task.missing > 0


class _AnsweringPeer:
    """The part of a Lease that Submitter.finish needs of a call: the link to the process that answered."""

    __slots__ = ("link",)

    def __init__(self, peer: bytes):
        self.link = WorkerLink(peer, "")
