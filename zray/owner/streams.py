"""Streaming generators: each item becomes an object of the owner when it arrives.

    open    items wait for the consumer; with back-pressure the producer gets acks of consumed items
    ended   no more items; an error of the generator is the last item

A retried generator starts from its first item.  An item that has arrived before, known by its index, is dropped; but
one that was lost with a node takes the place of the lost one.  When a generator has ended, its task runs again for
items that are lost (zray.owner.reconstruction):

    an item is lost         the task has ended, or its run has passed the item     the task runs again at its end
                            its run has not come so far                            this run makes it
    a run ends or fails     and did not make a lost item                           the item gets the failure
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from zray.base import ids
from zray.owner.lineage import NO_REASON, UNFINISHED, Lineage, Why, is_stored, why_not
from zray.owner.ports import Columns
from zray.owner.reconstruction import Reconstruction
from zray.owner.records import DONE, Entry, Net, Task
from zray.owner.references import References
from zray.owner.results import MADE_FEWER, Results
from zray.wire.messages import StreamAck, StreamItem

STORED_LOOK = 64  # the least number of noted items after which those that were freed are forgotten


class ItemStream:
    """The consumer's side of one generator task.  As a record it is ready when ``next`` would not block."""

    __slots__ = ("task", "ready", "received", "consumed", "ended", "closed", "backpressure", "waiters", "outcome",
                 "completion", "attempt", "made", "missed", "stored", "look_at")

    def __init__(self, task: Task, backpressure: int):
        self.task = task
        self.ready: deque[Entry] = deque()
        self.received = 0
        self.consumed = 0
        self.ended = False
        self.closed = False
        self.backpressure = backpressure
        self.waiters: list[Callable[[Any], None]] | None = None
        self.outcome: Any = None  # once it has ended: the value None, or its failure
        self.completion: Entry | None = None  # the object that is ready when the generator has ended
        self.attempt = 0  # of the last item that arrived
        self.made = 0  # the last item of the present run
        self.missed: dict[int, None] = {}  # lost items that the present run has passed
        self.stored: dict[int, None] = {}  # items that were put into a store; those freed go sometimes
        self.look_at = STORED_LOOK

    owner = None

    @property
    def oid(self) -> bytes:
        return ids.return_id(self.task.tid, 0)

    @property
    def value(self) -> bytes | None:
        return b"" if self.ready or self.ended else None

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            waiter(self)


class _Submitter(Protocol):
    """The tasks of this process, as far as generators need them."""

    me: bytes
    net: Net
    tasks: dict[bytes, Task]
    lineage: Lineage
    results: Results
    reconstruction: Reconstruction

    def end(self, task: Task) -> None:
        """The task is done; its objects get their values next."""


class StreamRuns:
    """All generator tasks of one Submitter (and of its actor calls)."""

    def __init__(self, submitter: _Submitter, refs: References, columns: Columns):
        self.submitter = submitter
        self.refs = refs
        self.columns = columns

    def open(self, task: Task, backpressure: int) -> ItemStream:
        stream = ItemStream(task, backpressure)
        task.stream = stream
        task.entry = []
        self.submitter.tasks[task.tid] = task
        return stream

    def on_item(self, peer: bytes, message: StreamItem) -> None:
        task = self.submitter.tasks.get(message.task)
        if task is None or task.stream is None or task.attempt != message.attempt:
            return
        stream = task.stream
        if stream.attempt != message.attempt:
            stream.attempt, stream.missed = message.attempt, {}
        stream.made = message.index
        if message.index == stream.received + 1 and not stream.ended:
            self._append(stream, message.value, peer)
            return
        self._again(stream, message, peer)
        self._ack(stream, message.index)  # the producer may count it as consumed

    def _again(self, stream: ItemStream, message: StreamItem, sender: bytes) -> None:
        """An item of a further run: it has arrived before, but may be lost since."""
        refs, results = self.refs, self.submitter.results
        entry = refs.owned.get(ids.return_id(message.task, message.index))
        if entry is None or not 0 < message.index <= stream.received:
            results.discard([message.value], sender)
            return
        if is_stored(entry.value) and entry.value[5] in refs.ends.nodes:  # mostly lost, and no reader has noticed
            refs.unpin_all(self.submitter.reconstruction.reset(entry, stream.task))
        if entry.value is None:
            refs.unsettled.discard(entry.oid)
        results.deliver(entry, message.value, sender)
        if is_stored(entry.value):
            self._note(stream, entry, message.index)

    def _append(self, stream: ItemStream, value: Any, sender: bytes) -> None:
        refs = self.refs
        stream.received += 1
        entry = refs.own(ids.return_id(stream.task.tid, stream.received))
        self.submitter.results.deliver(entry, value, sender)
        if type(value) is list and is_stored(entry.value):
            self._note(stream, entry, stream.received)
        if stream.closed:
            refs.unpin(entry)
            stream.consumed = stream.received
            self._ack(stream)
            return
        stream.ready.append(entry)
        stream.wake()

    def take(self, stream: ItemStream) -> Entry | None:
        """The next item, with its reference, for the consumer; None when there is none (yet)."""
        if not stream.ready:
            return None
        entry = stream.ready.popleft()
        stream.consumed += 1
        self._ack(stream)
        return entry

    def _ack(self, stream: ItemStream, index: int = 0) -> None:
        task = stream.task
        if stream.backpressure > 0 and task.state != DONE and task.lease is not None:
            consumed = max(stream.consumed, index)
            self.submitter.net.send(task.lease.link.peer, StreamAck(task.tid, task.attempt, consumed))

    # ------------------------------------------------------------ items in a store, and lost ones

    def _note(self, stream: ItemStream, entry: Entry, index: int) -> None:
        task = stream.task
        why = why_not(task)
        self.submitter.lineage.note(entry, UNFINISHED if why is NO_REASON else why)
        stream.stored[index] = None
        if len(stream.stored) >= stream.look_at:
            owned = self.refs.owned
            stream.stored = {at: None for at in stream.stored if ids.return_id(task.tid, at) in owned}
            stream.look_at = max(STORED_LOOK, 2 * len(stream.stored))

    def lose(self, task: Task, oid: bytes) -> Why | None:
        """An item is lost, and its task is not done.  None: this run or the next makes it.  Else why none will."""
        stream = task.stream
        index = int.from_bytes(oid[ids.TASK_SIZE:], "little")
        if stream.attempt == task.attempt and index <= stream.made:  # the present run has passed it
            why = why_not(task)
            if why is not NO_REASON:
                return why
            stream.missed[index] = None
        stream.stored[index] = None
        return None

    def entries(self, task: Task) -> list[Entry]:
        """The items of a generator that were put into a store, or are pending again."""
        found = (self.refs.owned.get(ids.return_id(task.tid, index)) for index in task.stream.stored)
        return [entry for entry in found if entry is not None]

    def unmade(self, task: Task) -> int:
        """How many objects get the failure if the task fails now."""
        return (not task.stream.ended) + sum(entry.value is None for entry in self.entries(task))

    def _settle(self, task: Task, failure: list[Any]) -> None:
        """A run is over.  Lost items that it did not come to get the failure; those that it had passed are made."""
        stream = task.stream
        missed, stream.missed, stream.made = stream.missed, {}, 0
        entries = self.entries(task)
        for entry in entries:
            if entry.value is None and int.from_bytes(entry.oid[ids.TASK_SIZE:], "little") not in missed:
                self.refs.unsettled.discard(entry.oid)
                self.refs.unhandled.shared(failure)
                self.refs.complete(entry, failure)
        pins, task.pins = task.pins, None
        deps = task.deps
        self.submitter.end(task)
        self.submitter.lineage.keep(task, pins, deps, entries)
        self.refs.unpin_all(pins or ())
        for entry in entries:
            if entry.value is None and task.state == DONE:
                self.submitter.reconstruction.make(entry)

    def ended(self, task: Task) -> None:
        self._settle(task, MADE_FEWER)
        if not task.stream.ended:
            self._end(task.stream, self.columns.none)

    def failed(self, task: Task, failure: list[Any]) -> None:
        """The task fails, maybe in a run for lost items."""
        stream = task.stream
        self._settle(task, failure)
        if not stream.ended:
            self._append(stream, failure, self.submitter.me)
            self._end(stream, failure)

    def _end(self, stream: ItemStream, outcome: Any) -> None:
        stream.ended = True
        stream.outcome = outcome
        if stream.completion is not None:
            self._complete(stream.completion, outcome)
            stream.completion = None
        stream.wake()

    def completed(self, stream: ItemStream) -> Entry:
        """The object that is ready when the generator has ended: None, or its error.  Its count is raised by one."""
        oid = ids.return_id(stream.task.tid, 0)
        entry = self.refs.owned.get(oid)
        if entry is not None:
            entry.refs += 1
            return entry
        entry = self.refs.own(oid, stream.task)
        if stream.ended:
            self._complete(entry, stream.outcome)
        else:
            stream.completion = entry
        return entry

    def _complete(self, entry: Entry, outcome: Any) -> None:
        if type(outcome) is list:
            self.refs.unhandled.shared(outcome)
        self.refs.complete(entry, outcome)

    def close(self, stream: ItemStream) -> None:
        """The consumer dropped its generator: release items that it did not take, also those still to come."""
        stream.closed = True
        while stream.ready:
            self.refs.unpin(stream.ready.popleft())
        stream.consumed = stream.received
        self._ack(stream)
