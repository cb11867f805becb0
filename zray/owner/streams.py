"""Streaming generators: each item becomes an object of the owner when it arrives.

    open    items wait for the consumer; with back-pressure the producer gets acks of consumed items
    ended   no more items; an error of the generator is the last item

A retried generator starts from its first item.  The consumer drops items that it has, which it knows by index.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from zray.base import ids
from zray.owner.lineage import ITEM, Lineage, is_stored
from zray.owner.ports import Columns
from zray.owner.records import DONE, Entry, Net, Task
from zray.owner.references import References
from zray.owner.results import Results
from zray.wire.messages import StreamAck, StreamItem


class ItemStream:
    """The consumer's side of one generator task.  As a record it is ready when ``next`` would not block."""

    __slots__ = ("task", "ready", "received", "consumed", "ended", "closed", "backpressure", "waiters", "outcome",
                 "completion")

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
        if message.index != stream.received + 1:
            self._ack(stream)  # an item that is here already: the producer may count it as consumed
            return
        self._append(stream, message.value, peer)

    def _append(self, stream: ItemStream, value: Any, sender: bytes) -> None:
        refs = self.refs
        stream.received += 1
        entry = refs.own(ids.return_id(stream.task.tid, stream.received))
        self.submitter.results.deliver(entry, value, sender)
        if type(value) is list and is_stored(entry.value):
            self.submitter.lineage.note(entry, ITEM)
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

    def _ack(self, stream: ItemStream) -> None:
        task = stream.task
        if stream.backpressure > 0 and task.state != DONE and task.lease is not None:
            consumed = max(stream.consumed, 0)
            self.submitter.net.send(task.lease.link.peer, StreamAck(task.tid, task.attempt, consumed))

    def ended(self, task: Task, values: list[Any], extra: dict[str, Any], sender: bytes) -> None:
        self._end(task.stream, self.columns.none)

    def failed(self, task: Task, failure: list[Any]) -> None:
        stream = task.stream
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
