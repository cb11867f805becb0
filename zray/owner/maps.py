"""``f.map``: a range of tasks submitted, pushed and answered as columns.

A MapBatch is the whole map.  The part not yet pushed is one MapChunk in the queue of its key.  The part that runs on
a lease is a MapChunk in ``lease.inflight``, under its first sequence number.  Every item is a task of its own, with
its own id, result, error and retries.  A chunk is cut so that it runs for a few milliseconds.  A lease has two
chunks, so that one is pickled while the other runs.

A column of results that is lost with a node is made again: its items that had values are queued again, each charged a
retry.  For that a map with columns in a store keeps its items, up to ``items_bytes_max`` in all maps.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, Protocol

from zray.base import ids
from zray.base.named_tuples import NamedTuple
from zray.owner.failures import crashed
from zray.owner.lineage import ATTEMPTS, EVICTED, NO_RETRIES
from zray.owner.ports import Columns
from zray.owner.reconstruction import failure as never_made, same_place
from zray.owner.records import PUSHED, QUEUED, Entry, Function, Key, Lease, Net, WorkerLink
from zray.owner.references import References
from zray.wire.messages import CARRYING, FAILED, STORED, CancelTask, MapDone, PushMap, WorkerDied
from zray.wire.messages.leases import UNKNOWN

CHUNK_NS = 8_000_000  # run time of a chunk: long against a message, short against a hand-back
CHUNK_ITEMS_MAX = 65_536
CHUNKS_AHEAD = 2


class MapColumn(NamedTuple):
    """Results of items ``first .. first + size``; those in ``raised`` have none here: they failed, or run again."""

    first: int
    size: int
    value: Any  # wire value of a list
    raised: Container[int]

    def has(self, index: int) -> bool:
        return self.first <= index < self.first + self.size and index not in self.raised


class MapBatch:
    """One call of ``f.map``: items in, columns of results out."""

    __slots__ = ("prefix", "start", "fn", "key", "items", "star", "count", "remaining", "results", "failures",
                 "waiters", "entries", "refs", "retries", "attempts", "retry_errors", "cancelled", "extra", "packed")

    def __init__(self, prefix: bytes, start: int, fn: Function, key: Key, items: Sequence[Any], star: bool,
                 retries: int):
        self.prefix = prefix
        self.start = start
        self.fn = fn
        self.key = key
        self.items = items
        self.star = star
        self.count = self.remaining = len(items)
        self.results: list[MapColumn] = []
        self.failures: dict[int, Any] = {}
        self.waiters: list[Callable[[Any], None]] | None = None
        self.entries: dict[int, Entry] = {}  # index -> Entry of an item with a reference of its own
        self.refs = 1
        self.retries = retries
        self.attempts: dict[int, int] = {}  # index -> charged attempts
        self.retry_errors: Any = False
        self.cancelled: set[int] = set()
        self.extra: dict[str, Any] | None = None
        self.packed = 0  # bytes of the items that were pushed

    def task_id(self, index: int) -> bytes:
        return ids.task_id(self.prefix, self.start + index)


class MapChunk:
    """Items ``first .. first + count`` of a batch; ``done`` of them have been answered."""

    __slots__ = ("batch", "first", "count", "done", "attempt", "state", "pins", "fn", "lease", "cancelling")

    def __init__(self, batch: MapBatch, first: int, count: int, attempt: int = 0):
        self.batch = batch
        self.first = first
        self.count = count
        self.done = 0
        self.attempt = attempt
        self.state = QUEUED
        self.pins: list[Any] | None = None
        self.fn = batch.fn
        self.lease: Lease | None = None
        self.cancelling = None


class _Submitter(Protocol):
    """The leases and queues of this process, as far as maps need them."""

    net: Net
    finished: int
    retried: int
    leases: dict[int, Lease]
    by_number: dict[int, Key]

    def touch(self, key: Key) -> None: ...
    def measure(self, fn: Function, ns: int) -> None: ...
    def settle(self, lease: Lease) -> None: ...
    def mark_idle(self, lease: Lease) -> None: ...
    def send_function(self, link: WorkerLink, fn: Function) -> None: ...
    def retry_matches(self, wanted: Any, failure: list[Any], /) -> bool: ...


class MapRuns:
    """All maps of one Submitter.  The shell does the pickling (zray.owner.ports)."""

    def __init__(self, submitter: _Submitter, refs: References, columns: Columns, items_bytes_max: int):
        self.submitter = submitter
        self.refs = refs
        self.columns = columns
        self.items_bytes_max = items_bytes_max
        self.items_bytes = 0
        self.kept: dict[int, MapBatch] = {}  # by id(): ended maps that keep their items, oldest first
        self.stored: set[bytes] = set()  # objects that are columns of maps: no reference has these ids

    def submit(self, batch: MapBatch) -> None:
        if batch.count:
            batch.key.queue.append(MapChunk(batch, 0, batch.count))
            self.submitter.touch(batch.key)

    # ------------------------------------------------------------ pushing

    def feed(self, lease: Lease) -> None:
        """The front of the queue is a chunk: cut off the part that this lease should run next."""
        key = lease.key
        while key.queue and type(key.queue[0]) is MapChunk and len(lease.inflight) < CHUNKS_AHEAD:
            whole = key.queue[0]
            count = self._cut(whole, len(key.leases))
            if count == 0:
                key.queue.popleft()
                continue
            if lease.inflight and whole.fn.run_ns is None:
                return  # the first chunk of a function runs alone, to measure it
            chunk = MapChunk(whole.batch, whole.first, count, whole.attempt)
            whole.first += count
            whole.count -= count
            if whole.count == 0:
                key.queue.popleft()
            self._push(lease, chunk)
        if not key.queue and not lease.inflight:
            self.submitter.mark_idle(lease)

    def _cut(self, whole: MapChunk, leases: int) -> int:
        batch = whole.batch
        while whole.count and whole.first in batch.cancelled:
            self._item_cancelled(batch, whole.first)
            whole.first += 1
            whole.count -= 1
        if whole.count == 0:
            return 0
        run_ns = batch.fn.run_ns
        count = 1 if run_ns is None else max(1, CHUNK_NS // run_ns)
        share = max(1, -(-whole.count // (2 * max(1, leases))))
        count = min(count, share, CHUNK_ITEMS_MAX, whole.count)
        if batch.cancelled:
            stop = min((i for i in batch.cancelled if whole.first < i < whole.first + count), default=None)
            if stop is not None:
                count = stop - whole.first
        return count

    def _push(self, lease: Lease, chunk: MapChunk) -> None:
        submitter = self.submitter
        batch = chunk.batch
        try:
            items, chunk.pins = self.columns.pack_items(batch.items[chunk.first:chunk.first + chunk.count])
        except Exception as error:  # the user's objects decide what pickling them raises
            self._unpackable(chunk, error)
            return
        batch.packed += len(items)
        chunk.state = PUSHED
        chunk.lease = lease
        first = lease.next_seq
        lease.next_seq += chunk.count
        lease.inflight[first] = chunk
        submitter.send_function(lease.link, batch.fn)
        submitter.net.send(lease.link.peer, PushMap(
            lease.number, first, batch.task_id(chunk.first), chunk.attempt, batch.fn.key, chunk.count, items,
            batch.star))

    def _unpackable(self, chunk: MapChunk, error: Exception) -> None:
        """An item cannot be pickled: halve the chunk until that item is alone, and fail it."""
        batch = chunk.batch
        if chunk.count == 1:
            self._item_failed(batch, chunk.first, self.columns.failure(error, batch.fn.name))
            return
        half = chunk.count // 2
        self._requeue(batch, chunk.first + half, chunk.count - half, chunk.attempt)
        self._requeue(batch, chunk.first, half, chunk.attempt)

    # ------------------------------------------------------------ answers

    def on_map_done(self, peer: bytes, message: MapDone) -> None:
        submitter = self.submitter
        lease = submitter.leases.get(message.lease)
        if lease is None or lease.link.peer != peer:
            return
        for first, chunk in lease.inflight.items():
            if type(chunk) is MapChunk and first + chunk.done == message.first:
                break
        else:
            return
        batch = chunk.batch
        index = chunk.first + chunk.done
        count = min(message.count, chunk.count - chunk.done)
        chunk.done += count
        value = message.results
        if type(value) is list and value[0] == CARRYING:
            batch_pins = self.refs.transits.receive(peer, value[2], value[3] if len(value) > 3 else 0)
            batch.extra = batch.extra or {"pins": []}
            batch.extra["pins"] += batch_pins
            value = value[1]
        failed = {index + position: failure for position, failure in message.failures}
        batch.results.append(MapColumn(index, count, value, frozenset(failed)))
        if type(value) is list and value[0] == STORED:
            self.stored.add(value[4])
        for i, failure in failed.items():
            self._failed_in_user_code(batch, i, failure)
        submitter.finished += count - len(failed)
        submitter.measure(batch.fn, message.ns_each)
        if chunk.done == chunk.count:
            del lease.inflight[first]
            self._release_pins(chunk)
        self._completed(batch, index, count, value, failed)
        self._drop_results(batch)
        submitter.settle(lease)

    def _completed(self, batch: MapBatch, index: int, count: int, value: Any, failed: dict[int, Any]) -> None:
        if batch.entries:
            for i in [i for i in batch.entries if index <= i < index + count and i not in failed]:
                self._give(batch, i, value, i - index)
        self._count_down(batch, count - len(failed))

    def _give(self, batch: MapBatch, index: int, column: Any, position: int) -> None:
        """Give the entry ``batch.entries[index]`` its value, which is in this column."""
        def picked(value: Any, records: list[Any]) -> None:
            if type(value) is list and value[1] == "object_lost":
                failed = self.column_lost(batch, column, value[2]["reason"])
                if failed is None:
                    return  # the entry gets its value from the column that replaces this one
                value = failed
            entry = batch.entries.pop(index, None)
            if entry is None or entry.value is not None:
                self.refs.unpin_all(records)
            else:
                entry.contained = records or None
                self.refs.complete(entry, value)
            self._drop_results(batch)

        if type(column) is list:
            self.columns.pick_later(column, position, batch.fn.name, picked)
        else:
            picked(*self.columns.pick(column, position, batch.fn.name))

    def _count_down(self, batch: MapBatch, count: int) -> None:
        batch.remaining -= count
        if batch.remaining == 0:
            self._keep_items(batch)
            waiters, batch.waiters = batch.waiters, None
            for waiter in waiters or ():
                waiter(batch)

    def _keep_items(self, batch: MapBatch) -> None:
        """A map has ended: keep its items if some of its results may be lost."""
        if not batch.retries or not any(type(column.value) is list for column in batch.results):
            batch.items = ()
            return
        if id(batch) not in self.kept:
            self.kept[id(batch)] = batch
            self.items_bytes += batch.packed
        while self.items_bytes > self.items_bytes_max:
            self._forget_items(next(iter(self.kept.values())))

    def _forget_items(self, batch: MapBatch) -> None:
        if self.kept.pop(id(batch), None) is not None:
            self.items_bytes -= batch.packed
            batch.items = ()

    def column_lost(self, batch: MapBatch, value: Any, reason: str) -> list[Any] | None:
        """A reader found no copy of this column.

        None: its items have run again, or will; wait for the map.  Else the failure for that reader.
        """
        at = next((i for i, column in enumerate(batch.results) if same_place(column.value, value)), None)
        if at is None:
            return None
        column = batch.results[at]
        oid = ids.return_id(batch.task_id(column.first), 1)
        indices = [index for index in range(column.first, column.first + column.size)
                   if column.has(index) and index not in batch.failures]
        attempt = max((batch.attempts.get(index, 0) for index in indices), default=0)
        if indices and batch.retries == 0:
            return never_made(oid, NO_RETRIES, reason)
        if indices and 0 < batch.retries <= attempt:
            return never_made(oid, ATTEMPTS, reason)
        if indices and not batch.items:
            return never_made(oid, EVICTED, reason)
        del batch.results[at]
        self.stored.discard(value[4])
        self.refs.free_stored(oid, value, True)
        if indices and batch.remaining == 0 and self.kept.pop(id(batch), None) is not None:
            self.items_bytes -= batch.packed  # it is unfinished, and needs its items
        batch.remaining += len(indices)
        self.submitter.retried += len(indices)
        for index in indices:
            batch.attempts[index] = attempt + 1
        while indices:
            start = stop = indices.pop()
            while indices and indices[-1] == start - 1:
                start = indices.pop()
            batch.key.queue.appendleft(MapChunk(batch, start, stop + 1 - start, attempt + 1))
        self.submitter.touch(batch.key)
        return None

    def _failed_in_user_code(self, batch: MapBatch, index: int, failure: Any) -> None:
        attempts = batch.attempts.get(index, 0)
        wanted = batch.retry_errors
        if wanted and failure[1] == "task_error" and (batch.retries < 0 or attempts < batch.retries) and (
                wanted is True or self.submitter.retry_matches(wanted, failure)):
            self._requeue(batch, index, 1, attempts + 1)
        else:
            self._item_failed(batch, index, failure)

    def _item_failed(self, batch: MapBatch, index: int, failure: Any) -> None:
        self.submitter.finished += 1
        batch.failures[index] = failure
        self.refs.unhandled.failed(failure, 1)
        entry = batch.entries.pop(index, None)
        if entry is not None:
            self.refs.unhandled.shared(failure)
            self.refs.complete(entry, failure)
        self._count_down(batch, 1)
        self._drop_results(batch)

    def _item_cancelled(self, batch: MapBatch, index: int) -> None:
        self._item_failed(batch, index, [FAILED, "cancelled", {"task": batch.task_id(index), "name": batch.fn.name}])

    def _requeue(self, batch: MapBatch, first: int, count: int, attempt: int) -> None:
        if attempt and count == 1:
            batch.attempts[first] = attempt
            self.submitter.retried += 1
        batch.key.queue.appendleft(MapChunk(batch, first, count, attempt))
        self.submitter.touch(batch.key)

    # ------------------------------------------------------------ hand-back and death

    def on_hand_back(self, lease: Lease, sequences: list[int]) -> None:
        if not sequences:
            return
        back = set(sequences)
        for first, chunk in list(lease.inflight.items()):
            if type(chunk) is not MapChunk:
                continue
            kept = next((i for i in range(chunk.done, chunk.count) if first + i in back), chunk.count)
            if kept == chunk.count:
                continue
            self._requeue(chunk.batch, chunk.first + kept, chunk.count - kept, chunk.attempt)
            chunk.count = kept
            if chunk.done == chunk.count:
                del lease.inflight[first]
                self._release_pins(chunk)

    def lost(self, chunk: MapChunk, first: int, started: int, finished: int, notice: WorkerDied | None) -> None:
        """The worker died: charge the running item, and queue the others again in order, free of charge."""
        batch = chunk.batch
        running = started - first if finished < started else -1
        low, high = chunk.done, chunk.count
        if started == UNKNOWN and batch.retries == 0:  # any of them may have run
            for index in range(chunk.first + low, chunk.first + high):
                self._item_failed(batch, index, crashed(batch.fn.name, 0, notice))
            low = high
        if low <= running < high:
            if running + 1 < high:
                self._requeue(batch, chunk.first + running + 1, high - running - 1, chunk.attempt)
            index = chunk.first + running
            attempts = batch.attempts.get(index, 0)
            if batch.retries < 0 or attempts < batch.retries:
                self._requeue(batch, index, 1, attempts + 1)
            else:
                self._item_failed(batch, index, crashed(batch.fn.name, attempts, notice))
            high = running
        if low < high:
            self._requeue(batch, chunk.first + low, high - low, chunk.attempt)
        self._release_pins(chunk)

    def fail_rest(self, chunk: MapChunk, failure: Any) -> None:
        """Fail the rest of the chunk: its items can never run."""
        for index in range(chunk.first + chunk.done, chunk.first + chunk.count):
            self._item_failed(chunk.batch, index, failure)
        self._release_pins(chunk)

    # ------------------------------------------------------------ items one by one, and the end

    def entry(self, batch: MapBatch, index: int) -> Entry:
        """The Entry of one item, with one reference for the caller; shared while any reference lives."""
        refs = self.refs
        oid = ids.return_id(batch.task_id(index), 1)
        entry = refs.owned.get(oid)
        if entry is not None:
            entry.refs += 1
            return entry
        entry = refs.own(oid)
        if index in batch.failures:
            refs.unhandled.shared(batch.failures[index])
            refs.complete(entry, batch.failures[index])
            return entry
        entry.task = batch
        batch.entries[index] = entry
        if index not in batch.attempts or not self._pending(batch, index):
            column = next((column for column in reversed(batch.results) if column.has(index)), None)
            if column is not None:
                self._give(batch, index, column.value, index - column.first)
        return entry

    def cancel(self, batch: MapBatch, index: int, recursive: bool) -> None:
        """End the item if it is not pushed yet; otherwise ask the worker that has it."""
        queue = batch.key.queue
        for place, chunk in enumerate(queue):
            if type(chunk) is MapChunk and chunk.batch is batch and chunk.first <= index < chunk.first + chunk.count:
                del queue[place]
                end = chunk.first + chunk.count
                for first, count in (index + 1, end - index - 1), (chunk.first, index - chunk.first):
                    if count:
                        queue.insert(place, MapChunk(batch, first, count, chunk.attempt))
                self.submitter.touch(batch.key)  # with its last item, it wants no lease any more
                self._item_cancelled(batch, index)
                return
        batch.cancelled.add(index)
        for lease in batch.key.leases.values():
            for chunk in lease.inflight.values():
                if type(chunk) is MapChunk and chunk.batch is batch and \
                        chunk.first + chunk.done <= index < chunk.first + chunk.count:
                    self.submitter.net.send(lease.link.peer,
                                            CancelTask(batch.task_id(index), chunk.attempt, recursive))

    def end_all(self, failure: list[Any]) -> None:
        """The session ends: fail every item of each unfinished map."""
        works: list[Any] = []
        for key in self.submitter.by_number.values():
            works += key.queue
            for lease in key.leases.values():
                works += lease.inflight.values()
        for batch in {id(work.batch): work.batch for work in works if type(work) is MapChunk}.values():
            batch.failures = dict.fromkeys(range(batch.count), failure)
            batch.remaining = 0
            waiters, batch.waiters = batch.waiters, None
            for waiter in waiters or ():
                waiter(batch)

    def _pending(self, batch: MapBatch, index: int) -> bool:
        chunks = list(batch.key.queue) + [c for x in batch.key.leases.values() for c in x.inflight.values()]
        return any(type(c) is MapChunk and c.batch is batch and c.first + c.done <= index < c.first + c.count
                   for c in chunks)

    def release(self, batch: MapBatch) -> None:
        """The user dropped the sequence of references."""
        batch.refs = 0
        self._drop_results(batch)

    def _drop_results(self, batch: MapBatch) -> None:
        """Free the results once no item can be asked for, and no item that was asked for is pending."""
        if batch.refs or batch.entries:
            return
        self._forget_items(batch)
        for first, _, value, _ in batch.results:
            if type(value) is list and value[0] == STORED:
                self.stored.discard(value[4])
                self.refs.free_stored(batch.task_id(first), value, True)
        batch.results.clear()
        for failure in batch.failures.values():
            self.refs.unhandled.dropped(failure, False)
        batch.failures.clear()
        if batch.extra:
            self.refs.unpin_all(batch.extra.pop("pins", ()))

    def _release_pins(self, chunk: MapChunk) -> None:
        pins, chunk.pins = chunk.pins, None
        if pins:
            self.refs.unpin_all(pins)
