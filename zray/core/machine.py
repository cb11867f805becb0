"""A core process, composed once: the owner's machines, the client of the control store, one table of messages.  Pure.

The product wraps it in a loop, a lock and pickling (zray.core.runtime), the simulator in programs (zray.sim.core).

    handle(peer, code, message, now)   a message; one without a handler is of a later version, and is ignored
    closed(peer, now)                  the connection to a peer has closed, and is drained
    turn(now)                          once after events that came together: drops, pushes, questions, holds
    tick(now), next_deadline()         ``tick`` is due at ``next_deadline()``.  The shell reads it after a turn
                                       while ``is_timed``, if no tick is due yet
    check()                            the invariants of all machines

Messages go into the outbox of the transport, as tuples that the shell's next flush packs.  A second outbox here would
copy each of them.  The shell holds its lock around all calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from zray.base import ids, stacks
from zray.base.causes import Cause
from zray.base.ends import Ends
from zray.core.connections import Connections
from zray.core.creation import Creations
from zray.core.ports import Dialling, Shell, Sites, Store, Transport, Work
from zray.core.process import ProcessRecord
from zray.core.waits.groups import GroupWaits
from zray.core.waits.why import WAITS, Reason, explain_record
from zray.gcs.client.client import RETRY_S, GcsClient
from zray.owner.adoption import Adoption
from zray.owner.attempt_rows import ARGS_FETCH, object_rows, task_rows
from zray.owner.calls import ActorCalls
from zray.owner.eager_values import EagerValues
from zray.owner.holding import Holding
from zray.owner.maps import MapBatch
from zray.owner.node_loss import fail_all
from zray.owner.ports import Columns, SubmitterPorts
from zray.owner.recipes import Recipes
from zray.owner.records import Abandoned, Borrowed, Entry, Task
from zray.owner.references import References
from zray.owner.remaking import Remaking
from zray.owner.streams import ItemStream
from zray.owner.submitter import Submitter
from zray.wire import messages as m

Handlers = dict[int, Callable[[bytes, Any], None]]
LAST_ROWS_MAX = 1000  # of a kind that a driver sends at its end
LAST_REFERENCES_MAX = 100_000  # with more of them it sends none: to look at these takes some 50 ms


class CoreMachine:
    """See the module's docstring.

    refs submitter calls        objects, tasks and actor calls that this process owns
    adoption holding            objects of owners that have died
    gcs                         the client of the control store
    connections groups creations
    ends                        nodes and processes that have certainly ended
    dropped                     what finalisers appended since the last turn
    blocked                     task that runs here -> why it waits
    waiting                     the same of threads that run no task, by a number of the wait
    work                        of a worker: the part that executes tasks
    """

    def __init__(self, process: ProcessRecord, transport: Transport, dialling: Dialling, store: Store, columns: Columns,
                 shell: Shell, dropped: deque[Any]):
        node, config = process.node, process.config
        self.process = process
        self.store = store
        self.shell = shell
        self.transport = transport
        self.dropped = dropped
        self.work: Work | None = None
        self.sites: Sites | None = None  # with the setting record_ref_creation_sites
        self.blocked: dict[bytes, Callable[[], Any]] = {}
        self.waiting: dict[int, Callable[[], Any]] = {}
        self.fetching: set[bytes] = set()  # tasks that run here, but still read their arguments
        self.unsent = 0  # submissions since the last turn
        self.submitted_s = 0.0  # the time of the first of them: each submission of a turn has it
        self.paused: dict[bytes, str] = {}  # task that waits in the debugger -> the id of its stop
        self.in_wait: set[bytes] = set()  # those of ``blocked`` that wait in wait(), not in get()
        self.connections = Connections(process, transport, dialling, shell, self)
        self.send, self.connect = self.connections.send, self.connections.connect
        self.ends = Ends()
        self.refs = References(process.incarnation, self.connections, store.free, self.ends, config.kept_bytes_max)
        if process.kind == "worker":
            self.refs.eager = EagerValues(self.refs, process.incarnation, process.endpoint, config.kept_bytes_max)
        self.submitter = Submitter(
            process.incarnation, node, process.job, self.connections, self.refs, config,
            SubmitterPorts(columns, shell.retry_matches, self.locate, self._cancel_inline))
        self.calls = ActorCalls(node, self.connections, self.refs, self.submitter, config.call_log_bytes_max)
        self.gcs = GcsClient(process.incarnation, self.send, [node])
        self.adoption = Adoption(self.refs, self.gcs, process.endpoint, shell.clock)
        self.remaking = Remaking(self.submitter, self.refs, self._fence)
        self.adoption.make = self.remaking.make
        if self.refs.eager is not None:
            self.refs.eager.recipe_of = Recipes(process.incarnation, columns, self.remaking.before).of
        self.holding = Holding(self.refs, self.adoption, self.submitter.maps.stored, self.send,
                               self._may_hear_the_dead)
        self.groups = GroupWaits(node, self.refs, self.send)
        self.creations = Creations(node, self.refs, self.calls, self.send)
        self._requests: dict[int, Callable[[Any], None]] = {}
        self._request_count = 0
        self._after_bye: Callable[[], None] | None = None
        self._inline_bytes_next = config.inline_table_bytes_max  # beyond this, inline values move to the store
        self.handlers: Handlers = {}
        self.take(self._table())

    def _table(self) -> Handlers:
        refs, submitter = self.refs, self.submitter
        return {
            **self.connections.handlers,
            m.Bye.CODE: self._on_bye,
            m.LeaseGrant.CODE: submitter.on_lease_grant,
            m.LeaseRecall.CODE: submitter.on_lease_recall,
            m.LeaseStatus.CODE: submitter.on_lease_status,
            m.WorkerDied.CODE: submitter.on_worker_died,
            m.TasksDone.CODE: submitter.on_tasks_done,
            m.HandBack.CODE: submitter.on_hand_back,
            m.MapDone.CODE: submitter.maps.on_map_done,
            m.StreamItem.CODE: submitter.streams.on_item,
            m.HoldAdd.CODE: refs.on_hold_add,
            m.HoldAck.CODE: refs.on_hold_ack,
            m.HoldDrop.CODE: refs.on_hold_drop,
            m.Locate.CODE: refs.on_locate,
            m.Resolved.CODE: refs.on_resolved,
            m.TransitDone.CODE: refs.transits.on_transit_done,
            m.ObjectLost.CODE: submitter.reconstruction.on_object_lost,
            m.AskHeld.CODE: self._on_ask_held,
            m.CancelObject.CODE: self._on_cancel_object,
            m.ActorState.CODE: self._on_actor_state,
            m.CallsDone.CODE: self.calls.on_calls_done,
            m.LoggedDone.CODE: self.calls.on_logged_done,
            m.CallsCovered.CODE: self.calls.on_covered,
            m.GroupState.CODE: self.groups.on_state,
            m.Why.CODE: self._on_why,
            m.ProcessQuery.CODE: self._on_process_query,
            m.LogLines.CODE: self._on_log_lines,
            m.NodeStanding.CODE: self._on_standing,
            m.GcsReply.CODE: self.gcs.on_message,
            m.GcsRedirect.CODE: self.gcs.on_message,
            m.GcsEvents.CODE: self.gcs.on_message,
            m.Because.CODE: self._on_reply,
            m.ActorReply.CODE: self._on_reply,
            m.GroupReply.CODE: self._on_reply,
            m.NodeAnswer.CODE: self._on_reply,
            m.StoreLocated.CODE: self._on_reply,
            m.StoreKept.CODE: self._on_reply,
            m.OwnerFenced.CODE: self._on_reply,
        }

    def take(self, handlers: Handlers) -> None:
        """Add handlers of messages; each message has one handler."""
        taken = self.handlers.keys() & handlers.keys()
        assert not taken, f"messages {sorted(taken)} have two handlers"
        self.handlers.update(handlers)

    def attach_executor(self, work: Work, handlers: Handlers) -> None:
        """This process is a worker: it runs tasks that other processes push."""
        self.work = work
        self.take(handlers)

    # ------------------------------------------------------------ events and turns

    def handle(self, peer: bytes, code: int, message: Any, now: float) -> None:
        self.submitter.now = now
        handler = self.handlers.get(code)
        if handler is not None:
            handler(peer, message)

    def closed(self, peer: bytes, now: float) -> None:
        self.submitter.now = now
        self.connections.closed(peer)

    def turn(self, now: float) -> None:
        self.unsent = 0
        if self.dropped:
            self.empty_dropped()
        submitter = self.submitter
        submitter.now = now
        if submitter.dirty:
            submitter.pump()
        if submitter.reconstruction.questions:
            submitter.reconstruction.ask()
        if self.calls.dirty:
            self.calls.pump()
        if self.adoption.busy:
            self.adoption.pump()
        if submitter.failed.rows or submitter.failed.dropped:
            submitter.failed.flush()
        if submitter.stories.rows and now >= submitter.stories.due:
            submitter.stories.flush(now)
        refs = self.refs
        if refs.unhandled.reports:
            self.shell.show_unhandled()
        refs.flush()
        self.store.flush()
        if refs.inline_bytes > self._inline_bytes_next:
            self._inline_bytes_next = self.store.relieve(self.process.config.inline_table_bytes_max)

    @property
    def is_timed(self) -> bool:
        """Whether there may be a next deadline."""
        submitter = self.submitter
        return (submitter.timed or bool(self.calls.draining) or self.gcs.busy or self.adoption.busy
                or bool(submitter.stories.rows))

    def next_deadline(self) -> float | None:
        """One timer for all machines; a deadline that becomes earlier is late by at most ``lease_idle_s``."""
        submitter = self.submitter
        soon = submitter.now + submitter.lease_idle_s
        times = [submitter.next_deadline(), self.calls.next_deadline(), self.adoption.next_deadline(),
                 submitter.now + RETRY_S if self.gcs.busy else None,
                 soon if submitter.timed or self.adoption.busy else None]
        submitter.timed = False
        deadline = min((at for at in times if at is not None), default=None)
        return None if deadline is None else min(deadline, soon)

    def tick(self, now: float) -> None:
        self.submitter.tick(now)
        self.calls.tick(now)
        if self.gcs.busy:
            self.gcs.tick(now)
        if self.adoption.busy:
            self.adoption.pump()

    def empty_dropped(self) -> None:
        dropped, unpin = self.dropped, self.refs.unpin
        while dropped:
            record = dropped.popleft()
            kind = type(record)
            if kind is Entry or kind is Borrowed:
                unpin(record)
            elif kind is MapBatch:
                self.submitter.maps.release(record)
            elif kind is ItemStream:
                self.submitter.streams.close(record)
            elif kind is Abandoned:
                for waited in record.records:
                    self.refs.forget_waiter(waited, record.waiter)

    # ------------------------------------------------------------ EndHandlers of zray.core.connections

    def peer_closed(self, peer: bytes) -> None:
        """No more message will come from that process."""
        self.submitter.on_peer_closed(peer)
        self.calls.on_peer_closed(peer)

    def process_closed(self, peer: bytes) -> None:
        self.refs.process_closed(peer)

    def process_ended(self, process: bytes) -> None:
        self.refs.process_ended(process)
        if self.work is not None:
            self.work.forget_owners(lambda owner: owner == process)

    def node_ended(self, node: bytes) -> None:
        self.refs.node_ended(node)
        self.holding.node_ended(node)
        if self.work is not None:
            self.work.forget_owners(lambda owner: ids.node_of(owner) == node)

    def _on_standing(self, peer: bytes, message: m.NodeStanding) -> None:
        """Our node was declared dead, and ends."""
        if peer == message.node == self.process.node:
            self.node_lost(f"the cluster declared the node dead ({message.reason})")

    def node_lost(self, reason: str = "") -> None:
        """Our node is gone: fail everything that is pending here.  ``reason``: that the node gave before its end."""
        if self.process.closed:
            return
        failure = self.submitter.lost or [m.FAILED, "raylet_died", {
            "node": self.process.node.hex(), "log_file": self.process.node_log, **self.shell.node_lost(),
            **({"reason": reason} if reason else {})}]
        self.submitter.lost = failure
        self.store.node_lost(failure)
        self._complete_pending(failure)
        fail_all(self.submitter, self.calls, failure)
        requests, self._requests = self._requests, {}
        for then in requests.values():
            then(None)

    def _complete_pending(self, failure: list[Any]) -> None:
        records: list[Any] = [*self.refs.owned.values(), *self.refs.borrowed.values()]
        for record in records:
            if record.value is None:
                self.refs.complete(record, failure)

    def _may_hear_the_dead(self) -> bool:
        """Whether our connection to some ended process is not drained yet."""
        transport = self.transport
        return any(transport.dialled(peer) and self.ends.has_ended(peer) for peer in transport.peers())

    # ------------------------------------------------------------ questions and answers

    def ask(self, then: Callable[[Any], None]) -> int:
        """A number for a request; calls ``then(answer)``, or ``then(None)`` when our node is lost, before or after."""
        self._request_count = number = self._request_count + 1
        if self.submitter.lost is not None:
            then(None)
        else:
            self._requests[number] = then
        return number

    def forget_request(self, number: int) -> None:
        """Drop the answer of that request when it comes."""
        self._requests.pop(number, None)

    @property
    def is_asking(self) -> bool:
        """Whether some request has no answer yet."""
        return bool(self._requests)

    def _on_reply(self, peer: bytes, message: Any) -> None:
        then = self._requests.pop(message.request, None)
        if then is not None:
            then(message)

    def locate(self, values: list[Any], then: Callable[[list[list[bytes]]], None]) -> None:
        """``then(nodes)``: for each stored value, the live nodes that have it."""
        def located(answer: m.StoreLocated | None) -> None:
            if answer is not None:
                then(answer.nodes)

        self.send(self.process.node, m.StoreLocate(self.ask(located), values))

    def _fence(self, owner: bytes, then: Callable[[], None]) -> None:
        """``then()`` when no attempt of a task of that ended owner runs, or will run."""
        def fenced(answer: m.OwnerFenced | None) -> None:
            if answer is not None:
                then()

        self.send(self.process.node, m.FenceOwner(self.ask(fenced), owner))

    def goodbye(self, then: Callable[[], None]) -> None:
        """Tell the node that this driver leaves; ``then()`` when it has flushed the output of the job."""
        self._after_bye = then
        if self.submitter.stories.rows:
            self.submitter.stories.flush(self.submitter.now)
        rows: dict[str, list[Any]] = {}
        if self.process.config.session_state_bytes_max:
            count = len(self.refs.owned)
            rows = {what: list(self._rows(what, LAST_ROWS_MAX)) if count <= LAST_REFERENCES_MAX else [[], count]
                    for what in ("tasks", "objects")}
        self.send(self.process.node, m.Goodbye("shutdown", rows))

    def _on_bye(self, peer: bytes, message: m.Bye) -> None:
        if peer == self.process.node and self._after_bye is not None:
            self._after_bye()

    def _on_ask_held(self, peer: bytes, message: m.AskHeld) -> None:
        self.empty_dropped()
        self.holding.on_ask(peer, message)

    def _on_actor_state(self, peer: bytes, message: m.ActorState) -> None:
        self.calls.on_actor_state(peer, message)
        if message.state == "DEAD":
            failure = self.creations.ended(message.actor)
            if failure is not None:
                self.shell.actor_failed(message.actor, failure)

    def _on_log_lines(self, peer: bytes, message: m.LogLines) -> None:
        self.shell.log_lines(message)

    def _on_why(self, peer: bytes, message: m.Why) -> None:
        """A question of a process that waits for our object or for a task that is here; or of `zray stack`."""
        if message.what == stacks.ASK:
            self.send(peer, m.Because(message.request, self.shell.stacks()))
        elif message.what.startswith(stacks.PROFILE):
            self.shell.profile(message.what, lambda text: self.send(peer, m.Because(message.request, text)))
        else:
            self.send(peer, m.Because(message.request, "", self.reasons_for(message.what)))

    def _on_process_query(self, peer: bytes, message: m.ProcessQuery) -> None:
        rows, total = self._rows(message.what, message.limit, message.of)
        self.send(peer, m.ProcessAnswer(message.request, rows, total))

    def _rows(self, what: str, limit: int, of: bytes = b"") -> tuple[list[dict[str, Any]], int]:
        """Rows for the state API: the unfinished tasks of this process and what runs in it, or its references; and
        their number."""
        self.empty_dropped()
        if what == "objects":
            rows, total = object_rows(self.refs, self.submitter, self.calls, self.store.pinned(), limit, of)
        elif what == "actors":
            rows = self.creations.rows()
            total = len(rows)
            del rows[limit:]
        else:
            rows, total = task_rows(self.refs.owned.values(), self.submitter, self.calls, limit, of)
            if self.work is not None:
                running = self.work.rows(self._state_of_running, limit)
                rows += running
                total += len(running)
        if self.sites is not None:
            self.sites.add_to(what, rows, limit, of)
        epoch_s = self.process.epoch_s
        for row in rows:
            if row.get("created_s"):
                row["created_s"] += epoch_s
        return rows, total

    def _state_of_running(self, task: bytes) -> str:
        if task not in self.blocked:
            return "RUNNING"
        if task in self.fetching:
            return ARGS_FETCH
        return "RUNNING_IN_RAY_WAIT" if task in self.in_wait else "RUNNING_IN_RAY_GET"

    def reasons_for(self, what: bytes) -> list[Reason]:
        """Why an object of ours is pending, why a task that was pushed here has not ended, or what we wait for."""
        if what == WAITS:
            return [reason for why in list(self.waiting.values()) for reason in why().found]
        entry = self.refs.owned.get(what)
        if entry is not None:
            return [[what, *explain_record(self, entry)]] if entry.value is None else []
        found = self.work.place_of(what) if self.work is not None else None
        if found is None:
            return []
        cause, about = found
        ahead: list[Reason] = [self._doing(*each) for each in about.pop("behind", ())]
        if ahead:
            return [[what, cause, about | {"because": ahead}]]
        return [self._doing(what, about["name"])]

    def _doing(self, task: bytes, name: str) -> Reason:
        """Whether a task that runs here is blocked, and why."""
        about: dict[str, Any] = {"name": name, "task": task.hex()}
        blocked = self.blocked.get(task)
        if task in self.paused:
            return [task, Cause.DEBUGGER, about | {"detail": f"attach with: zray debug {self.paused[task]}"}]
        if blocked is None:
            return [task, Cause.RUNNING, about]
        return [task, Cause.BLOCKED, about | {"because": blocked().found}]

    # ------------------------------------------------------------ references that leave this process

    def address_of(self, record: Any) -> tuple[bytes, str]:
        """``(owner, its endpoint)`` of a record, for a reference that leaves this process."""
        if record.owner is None:
            record.escaped = True
            return self.process.incarnation, self.process.endpoint
        return record.owner, record.endpoint

    def carrying(self, wire: Any, records: list[Any], receiver: bytes) -> list[Any]:
        """The wire value of a result with references inside; these are pinned until the receiver holds them."""
        token = self.refs.transits.send(receiver, records)
        triples = [[record.oid, *self.address_of(record)] for record in records]
        if self.refs.eager is not None:
            self.refs.eager.attach_values(triples, records, receiver)
        return [m.CARRYING, wire, triples, token]

    def still_held(self, records: Iterable[Any]) -> list[list[Any]]:
        """The holds on ``records`` that the reply of an ended task lists."""
        self.empty_dropped()
        return self.refs.still_held(records)

    # ------------------------------------------------------------ cancellation

    def cancel(self, record: Any, force: bool, recursive: bool) -> None:
        """Cancel the task that makes this object; if another process owns the object, ask that process."""
        if type(record) is not Borrowed:
            self.cancel_entry(record, force, recursive)
        elif record.value is None:
            self.send(record.owner, m.CancelObject(record.oid, force, recursive))

    def _on_cancel_object(self, peer: bytes, message: m.CancelObject) -> None:
        entry = self.refs.owned.get(message.oid)
        if entry is not None:
            # A borrower does not know that the object comes from a call.  Force is for tasks alone: cancel without it.
            is_call = type(entry.task) is Task and entry.task.key is None
            self.cancel_entry(entry, message.force and not is_call, message.recursive)

    def cancel_entry(self, entry: Entry, force: bool, recursive: bool) -> None:
        """Cancel the task of an object.  An object that is ready, or a group's ``ready()``, has none."""
        task = entry.task
        if type(task) is MapBatch:
            index = int.from_bytes(entry.oid[ids.PREFIX_SIZE:ids.TASK_SIZE], "little") - task.start
            self.submitter.maps.cancel(task, index, recursive)
        elif type(task) is Task:
            self.cancel_task(task, force, recursive)

    def cancel_task(self, task: Task, force: bool, recursive: bool) -> None:
        if task.key is None:
            if force:
                raise ValueError("force=True is not supported for actor tasks.")
            self.calls.cancel(task, recursive)
        else:
            self.submitter.cancel(task, force, recursive)

    def cancel_children(self, parent: bytes) -> None:
        """Cancel the tasks and calls that task ``parent`` submitted from this process (recursive cancellation)."""
        for task in self.submitter.children_of(parent):
            self.submitter.cancel(task, False, True)
        for call in self.calls.children_of(parent):
            self.calls.cancel(call, True)

    def _cancel_inline(self, task: Task, recursive: bool) -> None:
        assert self.work is not None, "a process without an executor runs a task of its own"
        self.work.cancel_inline(task, recursive)

    # ------------------------------------------------------------ this process

    def set_job(self, job: int) -> None:
        """Join a job."""
        self.process.job = self.submitter.job = self.transport.job = job

    @property
    def is_owner(self) -> bool:
        """Whether other processes depend on objects of this one, or it has unfinished tasks."""
        submitter = self.submitter
        return bool(self.refs.exported() or submitter.waiting
                    or any(key.queue or key.leases for key in submitter.by_number.values())
                    or any(link.unfinished for link in self.calls.links.values()))

    def end(self) -> None:
        """The session is over.  References outlive it: reading one, even in the next session, raises this error."""
        ended = [m.FAILED, "session_ended", {}]
        records: list[Any] = [*self.refs.owned.values(), *self.refs.borrowed.values()]
        for record in records:
            record.value = ended
            waiters, record.waiters = record.waiters, None
            for waiter in waiters or ():
                waiter(record)
        for task in list(self.submitter.tasks.values()):
            if task.stream is not None:
                self.submitter.streams.failed(task, ended)
        self.submitter.maps.end_all(ended)

    def check(self) -> None:
        self.ends.check()
        self.refs.check()
        self.submitter.check()
        self.calls.check()
        self.adoption.check()
        self.remaking.check()
