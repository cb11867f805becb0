"""``get``, ``wait`` and the next item of a generator: how a thread blocks, and how it warns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from zray.base import errors
from zray.base.causes import Cause
from zray.core.context import Context
from zray.core.machine import CoreMachine
from zray.core.stored import Stored
from zray.core.values import NotReady, Values
from zray.core.waits.asking import Whys
from zray.core.waits.countdowns import Countdown, TakenBackOnError, WaitGroup
from zray.core.waits.explaining import Asking, Reasons, reasons_of, stream_state
from zray.core.waits.futures import Futures
from zray.core.waits.patience import Patience, Warned
from zray.core.waits.replies import Questions
from zray.core.waits.why import EXPLAINED_MAX, StreamRecord, batch_reason
from zray.handles.refs import MapRefs, ObjectRef, ObjectRefGenerator, RefList
from zray.owner.maps import MapBatch
from zray.owner.streams import ItemStream
from zray.transport.loop import Loop, Waiter
from zray.values.serialization import NONE, loads
from zray.wire import messages as m

__tracebackhide__ = True  # pytest leaves these frames out of its reports

STORE_TROUBLE_S = 1.0  # after a wait longer than any failover, ask whether the control store answers
WHY_S = 0.05  # time for questions to other processes, before an error or a warning with their answers
EXPLAIN_S = 1.0  # the same for ``zray.explain``


class Lender(Protocol):
    """The executor of a worker: a blocked task lends its resources, or runs the tasks that it waits for."""

    @property
    def inline(self) -> Any: ...
    def on_blocked(self) -> bool: ...
    def on_unblocked(self) -> None: ...


class Waits:
    """Blocking reads of one Runtime."""

    def __init__(self, machine: CoreMachine, loop: Loop, context: Context, values: Values, stored: Stored,
                 futures: Futures, questions: Questions, whys: Whys, warned: Warned):
        self.machine = machine
        self.process = machine.process
        self.loop = loop
        self.refs = machine.refs
        self.submitter = machine.submitter
        self.values = values
        self.stored = stored
        self.context = context
        self.futures = futures
        self.questions = questions
        self.whys = whys
        self.warned = warned
        self.executor: Lender | None = None  # of a worker

    def get_one(self, ref: ObjectRef, timeout: float | None = None) -> Any:
        """The value of one reference.  Each synchronous call runs this, so it has as few steps as possible."""
        record = ref._record
        deadline = None if timeout is None else time.monotonic() + timeout
        if record.value is None:
            if timeout is None and self.executor is None:
                self._wait_one(record)
            else:
                self.wait_all((record,), timeout)
        value = record.value
        if type(value) is bytes and record.owner is None:
            return None if value == NONE else loads(value)
        if type(value) is list and value[0] == m.STORED and value[5] != self.process.node:
            self.bring((record,), deadline)
        return self._load(record, deadline)

    def _wait_one(self, record: Any) -> None:
        """A driver waits for one object without a time-out; for the first seconds it needs no ``block``."""
        loop = self.loop
        count = Countdown(loop, 1)
        with TakenBackOnError(self.refs, (record,), count):
            with loop.lock:
                if self.refs.when_ready(record, count):
                    return
            warn_s = self.process.config.warn_wait_s
            started = loop.clock()
            if not loop.wait(count, started + warn_s / 2 if warn_s > 0 else None):
                self.block(count, None, lambda: self.reasons((record,)), started)

    def get(self, refs: Sequence[ObjectRef], timeout: float | None = None) -> list[Any]:
        """Values in order; the first error in order is raised."""
        records = [ref._record for ref in refs]
        deadline = None if timeout is None else time.monotonic() + timeout
        for record in records:
            if record.value is None:
                self.wait_all(records, timeout)
                break
        out = []
        for record in records:
            if type(record.value) is list:
                self.bring(records, deadline)
                break
        try:
            for record in records:
                value = record.value
                if type(value) is bytes and record.owner is None:
                    out.append(None if value == NONE else loads(value))
                else:
                    out.append(self._load(record, deadline))
        except BaseException:
            self._seen(record.value for record in records)
            raise
        return out

    def _seen(self, values: Iterable[Any]) -> None:
        """One error is raised for several values that were read together: the others count as seen too."""
        for value in values:
            if type(value) is list and value[0] == m.FAILED:
                self.refs.unhandled.seen(value)

    def _load(self, record: Any, deadline: float | None) -> Any:
        """The value of a ready record; if it proves to be lost, wait for the value that replaces it."""
        while True:
            try:
                return self.values.load(record)
            except NotReady:
                self.wait_all((record,), None if deadline is None else max(0.0, deadline - time.monotonic()))
                self.bring((record,), deadline)

    def get_map(self, refs: MapRefs, timeout: float | None = None) -> list[Any]:
        """All values of a map, column by column."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._wait_map(refs._batch, None if deadline is None else max(0.0, deadline - time.monotonic()))
            columns = self._columns(refs._batch)
            if columns is not None:
                break
        out: list[Any] = []
        for first, n, column in columns:
            if first == len(out):
                out += column
            else:
                out[first:first + n] = column  # a retried item: its later result counts
        return out

    def _wait_map(self, batch: MapBatch, timeout: float | None) -> None:
        count = Countdown(self.loop, 1)
        with TakenBackOnError(self.refs, (batch,), count):
            with self.loop.lock:
                waits = batch.remaining > 0
                if waits:
                    batch.waiters = [*(batch.waiters or ()), count]
            if waits:
                self.block(count, timeout, lambda: Reasons([batch_reason(batch)]))
        if batch.failures:
            self._seen(batch.failures.values())
            raise self.values.error(batch.failures[min(batch.failures)])

    def _columns(self, batch: MapBatch) -> list[tuple[int, int, list[Any]]] | None:
        """The columns of an ended map, in order; None if some were lost, and are made again."""
        order = sorted(batch.results, key=lambda column: column.first)
        self.values.prefetch([column.value for column in order])
        found = []
        for first, n, value, _ in order:
            try:
                found.append((first, n, loads(self.values.payload(value))))
            except errors.ObjectLostError as lost:
                if type(value) is not list:
                    raise  # an error of the user's objects
                with self.loop.lock:
                    failed = self.submitter.maps.column_lost(batch, value, str(getattr(lost, "reason", "")))
                if failed is not None:
                    raise self.values.error(failed) from None
        return found if len(found) == len(order) and batch.remaining == 0 else None

    def wait_all(self, records: Sequence[Any], timeout: float | None) -> None:
        if timeout is None and self.executor is not None and self.context.task:
            self.executor.inline.run_missing(records)
        count = Countdown(self.loop, 0)
        with TakenBackOnError(self.refs, records, count):
            with self.loop.lock:
                pending = [record for record in records if record.value is None]
                count.expect(len(pending))
                for record in pending:
                    self.refs.when_ready(record, count)
            if pending:
                self.block(count, timeout, lambda: self.reasons(pending))

    def bring(self, records: Sequence[Any], deadline: float | None) -> None:
        """Transfer the values that are on other nodes, all together.  A failure is raised to the reader later."""
        stored = self.stored
        with self.loop.lock:
            wanted = [(record, value) for record in records
                      if (value := stored.value_to_transfer(record.value)) is not None]
            count = Countdown(self.loop, len(wanted))
            pending = [(value, stored.fetch(value, count)) for _, value in wanted]
        if not pending:
            return

        def why() -> Reasons:
            missing = [(value, each) for value, each in pending if each.value is None]
            return Reasons([[value[4], Cause.TRANSFERRING, {"detail": each.progress or f"from node {value[5].hex()}"}]
                            for value, each in missing[:EXPLAINED_MAX]], max(0, len(missing) - EXPLAINED_MAX))

        try:
            self.block(count, None if deadline is None else max(0.0, deadline - time.monotonic()), why)
        except BaseException:
            with self.loop.lock:
                for _, each in pending:
                    stored.leave(each)
            raise
        with self.loop.lock:  # reconstruct lost values together too; a failure is raised to the reader later
            for (record, value), (_, each) in zip(wanted, pending, strict=True):
                if each.value is not None and each.value[0] == m.FAILED and each.value[1] == "object_lost":
                    self.submitter.reconstruction.lost(record, value, str(each.value[2].get("reason", "")))

    def block(self, waiter: Waiter, timeout: float | None, why: Callable[[], Reasons],
              started: float | None = None, explained: bool = True, in_wait: bool = False) -> None:
        """Wait for ``waiter``; warn with the reasons when there is no progress.  GetTimeoutError has the reasons too.

        ``started``: the time when the caller began to wait, if that was earlier.  ``explained``: whether the caller
        needs the text of the error.
        """
        now = time.monotonic()
        deadline = None if timeout is None else now + timeout
        started = now if started is None else started
        patience = Patience(self.process.config.warn_wait_s, started)
        executor = self.executor if self.context.task else None
        task = self.context.task
        if executor is not None:
            self.machine.blocked[task] = why
            if in_wait:
                self.machine.in_wait.add(task)
            executor.on_blocked()
        else:
            self.machine.waiting[id(waiter)] = why
        try:
            while not self.loop.wait(waiter, patience.until(deadline)):
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    if not explained:
                        raise errors.GetTimeoutError("Get timed out.")
                    reasons = why()
                    Asking(self.whys, WHY_S).follow(reasons.found)
                    raise errors.GetTimeoutError(
                        f"Get timed out: some object(s) not ready.\n{reasons}{self._trouble(now - started)}")
                reasons = why()
                if patience.look(now, waiter.need, reasons, Asking(self.whys, WHY_S)) and not waiter.done:
                    self.warned.wait(now - started, reasons, self._trouble(now - started))
        finally:
            if executor is not None:
                self.machine.blocked.pop(task, None)
                self.machine.in_wait.discard(task)
                executor.on_unblocked()
            else:
                self.machine.waiting.pop(id(waiter), None)

    def _trouble(self, waited_s: float) -> str:
        """After a long wait, the reason why the control store does not answer: many waits depend on it."""
        trouble = self.questions.store_trouble(WHY_S) if waited_s >= STORE_TROUBLE_S else ""
        return f"\n{trouble}" if trouble else ""

    def wait(self, refs: Sequence[ObjectRef], num_returns: int, timeout: float | None, fetch_local: bool = True
             ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """``(ready, rest)``, each in the order of ``refs``; at most ``num_returns`` are ready.

        With ``fetch_local`` an object is ready when its value is on this node, and it is brought here; without, when
        it is anywhere.
        """
        if timeout == 0:
            return self._wait_now(refs, num_returns, fetch_local)
        group = self._wait_group(refs)
        arrivals, pending = group.arrivals, group.pending
        if fetch_local and arrivals.ready:
            self._bring(group, num_returns)
        if num_returns == 1 and arrivals.ready:
            return self._first_ready(refs, group)
        deadline = None if timeout is None else time.monotonic() + timeout
        while len(arrivals.ready) < num_returns:
            with self.loop.lock:
                missing = num_returns - len(arrivals.ready)
                count = Countdown(self.loop, missing)
                arrivals.waiter = count if missing > 0 else None
            if missing > 0:
                try:
                    self.block(count, None if deadline is None else max(0.0, deadline - time.monotonic()),
                               lambda: self.reasons([ref._record for ref in list(pending.values())]),
                               explained=False, in_wait=True)
                except errors.GetTimeoutError:
                    break
                finally:
                    arrivals.waiter = None
            if fetch_local:
                self._bring(group, num_returns)
        ready = arrivals.ready
        if num_returns == 1 and ready:
            return self._first_ready(refs, group)
        taken = {ready.popleft() for _ in range(min(num_returns, len(ready)))}
        done = [ref for oid, ref in pending.items() if oid in taken]
        for oid in taken:
            del pending[oid]
        rest = RefList(pending.values())
        rest.group = group
        self.loop.raise_pending()
        return done, rest

    def _bring(self, group: WaitGroup, wanted: int) -> None:
        """Begin the transfers of ready objects that are on other nodes: these count again when they have arrived.

        Looks at as many as it takes to find ``wanted`` that are here.
        """
        arrivals = group.arrivals
        ready = arrivals.ready
        if wanted == 1 and ready and type(group.pending[ready[0]]._record.value) is not list:
            return  # the usual case: it came with its value
        here: list[bytes] = []
        fetching = False
        with self.loop.lock:
            while ready and len(here) < wanted:
                oid = ready.popleft()
                record = group.pending[oid]._record
                distant = self.stored.value_to_transfer(record.value) if type(record.value) is list else None
                if distant is None:
                    here.append(oid)
                else:
                    fetching = True
                    self.stored.fetch(distant, partial(_arrived, arrivals, record))
            ready.extendleft(reversed(here))
        if fetching:
            self.loop.turn()

    def _first_ready(self, refs: Sequence[ObjectRef], group: WaitGroup) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """The result of ``wait`` for one.  Programs call it in a loop with thousands of references."""
        ref = group.pending.pop(group.arrivals.ready.popleft())
        if refs[0] is ref:  # mostly true; a copy costs a fifth of a walk through the dictionary
            rest = RefList(refs)
            list.__delitem__(rest, 0)
        else:
            rest = RefList(group.pending.values())
        rest.group = group
        self.loop.raise_pending()
        return [ref], rest

    def _wait_now(self, refs: Sequence[ObjectRef], num_returns: int, fetch_local: bool
                  ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        with self.loop.lock:
            for ref in refs:
                if ref._record.value is None:
                    self.refs.ask(ref._record)
        self.loop.turn()
        done: list[ObjectRef] = []
        rest: list[ObjectRef] = []
        for ref in refs:
            ready = len(done) < num_returns and ref._record.value is not None and not (
                fetch_local and self._is_distant(ref._record.value))
            (done if ready else rest).append(ref)
        return done, rest

    def _is_distant(self, value: Any) -> bool:
        """Whether the value is on another node; its transfer begins."""
        if type(value) is not list:
            return False
        with self.loop.lock:
            distant = self.stored.value_to_transfer(value)
            if distant is not None:
                self.stored.fetch(distant)
        return distant is not None

    def _wait_group(self, refs: Sequence[ObjectRef]) -> WaitGroup:
        if type(refs) is RefList and refs.group is not None:
            with self.loop.lock:
                known, refs.group = refs.group, None  # only one wait may use it: two threads may share the list
            if known is not None:
                return known
        group = WaitGroup(refs)
        if len(group.pending) != len(refs):
            raise ValueError("Wait requires a list of unique ray_waitables.")
        arrivals = group.arrivals
        with self.loop.lock:
            for ref in refs:
                if self.refs.when_ready(ref._record, arrivals):
                    arrivals.ready.append(ref._oid)
        return group

    def next_of_stream(self, stream: ItemStream, timeout: float | None) -> ObjectRef | None:
        """Wait for the next reference of a generator; None at its end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self.loop.lock:
                entry = self.submitter.streams.take(stream)
                if entry is not None:
                    return ObjectRef(entry.oid, entry)
                if stream.ended:
                    return None
                received = stream.received
            self._wait_stream(stream, received, deadline)

    def _wait_stream(self, stream: ItemStream, received: int, deadline: float | None) -> None:
        """Wait until more than ``received`` items have arrived, or the generator has ended."""
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        count = Countdown(self.loop, 1)
        with TakenBackOnError(self.refs, (stream,), count):
            with self.loop.lock:
                if stream.received != received or stream.ended:
                    return
                stream.waiters = [*(stream.waiters or ()), count]
            self.block(count, timeout, lambda: self.reasons([StreamRecord(stream)]))

    async def next_of_stream_async(self, stream: ItemStream) -> ObjectRef | None:
        while True:
            with self.loop.lock:
                entry = self.submitter.streams.take(stream)
                if entry is not None:
                    return ObjectRef(entry.oid, entry)
                if stream.ended:
                    return None
            await self.futures.stream_arrival(stream)

    async def awaitable(self, ref: ObjectRef) -> Any:
        record = ref._record
        if record.value is None:
            await self.futures.arrival(record)
        while True:
            if type(record.value) is list:
                await self.futures.brought(record.value)
            try:
                return self.values.load(record)
            except NotReady:
                await self.futures.arrival(record)

    # ------------------------------------------------------------ why

    def reasons(self, records: Iterable[Any]) -> Reasons:
        """The reasons of pending records, as far as this process knows them."""
        return reasons_of(self.machine, self.loop.lock, records)

    def explain(self, ref: Any) -> str:
        """A text: why this reference (or the next one of a generator, or a map) is not ready."""
        if isinstance(ref, MapRefs):
            batch = ref._batch
            return str(Reasons([batch_reason(batch)])) if batch.remaining else f"{ref!r}: it is ready"
        if isinstance(ref, ObjectRefGenerator):
            stream = ref._stream
            return stream_state(stream) or self._explain_record(StreamRecord(stream))
        record = ref._record
        if record.value is not None:
            return f"{ref!r}: it is ready"
        trouble = self.questions.store_trouble()
        return self._explain_record(record) + (f"\n{trouble}" if trouble else "")

    def _explain_record(self, record: Any) -> str:
        """The reasons of one record, with the answers of other processes."""
        reasons = self.reasons((record,))
        Asking(self.whys, EXPLAIN_S).follow(reasons.found)
        return str(reasons)


def _arrived(arrivals: Any, record: Any, pending: Any) -> None:
    """The transfer of a ready object has ended."""
    arrivals(record)
