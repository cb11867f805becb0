"""``get``, ``wait`` and the next item of a generator: how a thread blocks, and what it says meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zray import errors, messages as m
from zray.causes import Cause
from zray.core.explaining import EXPLAINED_MAX, StreamRecord, explain_records
from zray.owner.streams import Stream
from zray.refs import MapRefs, ObjectRef, ObjectRefGenerator, RefList
from zray.serialization import NONE, loads
from zray.transport.loop import Waiter
from zray.core.values import NotReady
from zray.core.waiting import Countdown, WaitGroup

if TYPE_CHECKING:
    from zray.core.runtime import Runtime

__tracebackhide__ = True  # pytest leaves these frames out of its reports

logger = logging.getLogger("zray")

STORE_TROUBLE_S = 1.0  # whether the control store answers is asked after a wait that failovers do not explain
WHY_S = 0.05  # other processes are asked so long why something waits, before an error or a warning says so


class Waits:
    """Blocking reads of one Runtime."""

    def __init__(self, runtime: Runtime):
        self.rt = runtime
        self.loop = runtime.loop
        self.refs = runtime.refs
        self.submitter = runtime.submitter
        self.values = runtime.values
        self.context = runtime.context
        self.futures = runtime.futures

    def get_one(self, ref: ObjectRef, timeout: float | None = None) -> Any:
        """The value of one reference: what a synchronous call does, with as few steps as it takes."""
        record = ref._record
        deadline = None if timeout is None else time.monotonic() + timeout
        if record.value is None:
            if timeout is None and self.rt.executor is None:
                self._wait_one(record)
            else:
                self.wait_all((record,), timeout)
        value = record.value
        if type(value) is bytes and record.owner is None:
            return None if value == NONE else loads(value)
        if type(value) is list and value[0] == m.STORED and value[5] != self.rt.node:
            self.bring((record,), deadline)
        return self._load(record, deadline)

    def _wait_one(self, record: Any) -> None:
        """A driver waits for one object without a time-out; the first seconds without the machinery of ``block``."""
        loop = self.loop
        count = Countdown(loop, 1)
        with loop.lock:
            if self.refs.when_ready(record, count):
                return
        try:
            warn_s = self.rt.config.warn_wait_s
            if not loop.wait(count, loop.clock() + warn_s):
                self.block(count, None, lambda budget: explain_records(self.rt, (record,), budget), waited_s=warn_s)
        except BaseException:
            with loop.lock:
                self.refs.forget_waiter(record, count)
            raise

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
        """One error of several that were asked for together is raised: nobody misses the others."""
        for value in values:
            if type(value) is list and value[0] == m.FAILED:
                self.refs.unhandled.seen(value)

    def _load(self, record: Any, deadline: float | None) -> Any:
        """The value of a record that was ready; when it proves to be lost, that which it is to have instead."""
        while True:
            try:
                return self.values.load(record)
            except NotReady:
                self.wait_all((record,), None if deadline is None else max(0.0, deadline - time.monotonic()))
                self.bring((record,), deadline)

    def get_map(self, refs: MapRefs, timeout: float | None = None) -> list[Any]:
        """All values of a map, column by column."""
        batch = refs._batch
        with self.loop.lock:
            count = Countdown(self.loop, 1 if batch.remaining else 0)
            if batch.remaining:
                if batch.waiters is None:
                    batch.waiters = []
                batch.waiters.append(count)
        if not count.done:
            self.block(count, timeout, lambda budget: f"{batch.fn.name}.map: {batch.count - batch.remaining} of "
                                                       f"{batch.count} done")
        if batch.failures:
            self._seen(batch.failures.values())
            raise self.values.error(batch.failures[min(batch.failures)])
        out: list[Any] = []
        order = sorted(batch.results, key=lambda column: column[0])
        self.values.prefetch([value for _, _, value in order])
        for first, n, value in order:
            column = loads(self.values.payload(value))
            if first == len(out):
                out += column
            else:
                out[first:first + n] = column  # an item that was retried: its later result counts
        return out

    def wait_all(self, records: Sequence[Any], timeout: float | None) -> None:
        if timeout is None and self.rt.executor is not None and self.context.task:
            self.rt.executor.inline.run_missing(records)
        with self.loop.lock:
            pending = [record for record in records if record.value is None]
            count = Countdown(self.loop, len(pending))
            for record in pending:
                self.refs.when_ready(record, count)
        if not pending:
            return
        try:
            self.block(count, timeout, lambda budget: explain_records(self.rt, pending, budget))
        except BaseException:
            with self.loop.lock:
                for record in pending:
                    self.refs.forget_waiter(record, count)
            raise

    def bring(self, records: Sequence[Any], deadline: float | None) -> None:
        """Bring what other nodes hold of these, all together.  What cannot be had, its reader will hear."""
        stored = self.rt.stored
        with self.loop.lock:
            wanted = [(record, value) for record in records if (value := stored.elsewhere(record.value)) is not None]
            count = Countdown(self.loop, len(wanted))
            pending = [(value, stored.fetch(value, count)) for _, value in wanted]
        if not pending:
            return

        def why(budget: float) -> str:
            missing = [(value, each) for value, each in pending if each.value is None]
            lines = [f"ObjectRef({value[4].hex()}): {Cause.TRANSFERRING.text} "
                     f"({each.progress or 'from node ' + value[5].hex()})" for value, each in missing[:EXPLAINED_MAX]]
            if missing[EXPLAINED_MAX:]:
                lines.append(f"and {len(missing) - EXPLAINED_MAX} more")
            return "\n".join(lines)

        self.block(count, None if deadline is None else max(0.0, deadline - time.monotonic()), why)
        with self.loop.lock:  # what is lost is made again together, too; why it cannot be, its reader will hear
            for (record, value), (_, each) in zip(wanted, pending, strict=True):
                if each.value is not None and each.value[0] == m.FAILED and each.value[1] == "object_lost":
                    self.submitter.reconstruction.lost(record, value, str(each.value[2].get("reason", "")))

    def block(self, waiter: Waiter, timeout: float | None, why: Callable[[float], str],
              waited_s: float = 0.0) -> None:
        """Wait for ``waiter``; says why after a while, and in the error when the time is over.

        ``why`` takes the seconds that it may spend on asking other processes; ``waited_s`` are those that
        the caller has waited already.
        """
        start = time.monotonic()
        warn_at = start + self.rt.config.warn_wait_s - waited_s
        deadline = None if timeout is None else start + timeout
        executor = self.rt.executor
        task = self.context.task
        blocked = executor is not None and task != b""
        if blocked:
            self.rt.blocked[task] = lambda budget: f"it waits in get or wait:\n{why(budget)}"
            executor.on_blocked()
        try:
            if self.loop.wait(waiter, _earlier(deadline, warn_at)):
                return
            if deadline is None or time.monotonic() < deadline:
                waited = time.monotonic() - start + waited_s
                logger.warning("zray.get has waited for %.0f s:\n%s", waited, self._reasons(why, waited))
                if self.loop.wait(waiter, deadline):
                    return
        finally:
            if blocked:
                self.rt.blocked.pop(task, None)
                executor.on_unblocked()
        reasons = self._reasons(why, time.monotonic() - start + waited_s)
        raise errors.GetTimeoutError(f"Get timed out: some object(s) not ready.\n{reasons}")

    def _reasons(self, why: Callable[[float], str], waited_s: float) -> str:
        """Of the wait, and after a while of the control store, on which many things wait."""
        trouble = self.rt.store_trouble(WHY_S) if waited_s >= STORE_TROUBLE_S else ""
        return why(WHY_S) + (f"\n{trouble}" if trouble else "")

    def wait(self, refs: Sequence[ObjectRef], num_returns: int, timeout: float | None, fetch_local: bool = True
             ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """``(ready, rest)``, each in the order of ``refs``; at most ``num_returns`` are ready.

        With ``fetch_local`` those on other nodes are on their way here when it returns.
        """
        if timeout == 0:
            return self._wait_now(refs, num_returns)
        group = self._wait_group(refs)
        if num_returns == 1 and group.arrivals.ready:
            return self._first_ready(refs, group, fetch_local)
        arrivals, pending = group.arrivals, group.pending
        if len(arrivals.ready) < num_returns:
            with self.loop.lock:
                missing = num_returns - len(arrivals.ready)
                count = Countdown(self.loop, missing)
                arrivals.waiter = count if missing > 0 else None
            if missing > 0:
                try:
                    self.block(count, timeout, lambda budget: explain_records(
                        self.rt, [r._record for r in pending.values()], budget))
                except errors.GetTimeoutError:
                    pass
                finally:
                    arrivals.waiter = None
        ready = arrivals.ready
        if num_returns == 1 and ready:
            return self._first_ready(refs, group, fetch_local)
        taken = {ready.popleft() for _ in range(min(num_returns, len(ready)))}
        done = [ref for oid, ref in pending.items() if oid in taken]
        for oid in taken:
            del pending[oid]
        rest = RefList(pending.values())
        rest.group = group
        if fetch_local:
            self.values.prefetch([ref._record.value for ref in done])
        self.loop.raise_pending()
        return done, rest

    def _first_ready(self, refs: Sequence[ObjectRef], group: WaitGroup, fetch_local: bool
                     ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """What ``wait`` for one returns when one is ready; programs call it in a loop, with thousands of references."""
        ref = group.pending.pop(group.arrivals.ready.popleft())
        if refs[0] is ref:  # mostly: a copy costs a fifth of going through the dictionary
            rest = RefList(refs)
            list.__delitem__(rest, 0)
        else:
            rest = RefList(group.pending.values())
        rest.group = group
        if fetch_local and type(ref._record.value) is list:
            self.values.prefetch([ref._record.value])
        self.loop.raise_pending()
        return [ref], rest

    def _wait_now(self, refs: Sequence[ObjectRef], num_returns: int) -> tuple[list[ObjectRef], list[ObjectRef]]:
        with self.loop.lock:
            for ref in refs:
                if ref._record.value is None:
                    self.refs.ask(ref._record)
        self.loop.turn()
        done: list[ObjectRef] = []
        rest: list[ObjectRef] = []
        for ref in refs:
            (done if ref._record.value is not None and len(done) < num_returns else rest).append(ref)
        return done, rest

    def _wait_group(self, refs: Sequence[ObjectRef]) -> WaitGroup:
        if type(refs) is RefList and refs.group is not None:
            with self.loop.lock:
                known, refs.group = refs.group, None  # one wait has it at a time: two threads may share the list
            if known is not None:
                return known
        group = WaitGroup(refs)
        if len(group.pending) != len(refs):
            raise ValueError("Wait requires a list of unique object refs.")
        arrivals = group.arrivals
        with self.loop.lock:
            for ref in refs:
                if self.refs.when_ready(ref._record, arrivals):
                    arrivals.ready.append(ref._oid)
        return group

    def next_of_stream(self, stream: Stream, timeout: float | None) -> ObjectRef | None:
        """The next reference of a generator, waiting for it; None at its end."""
        while True:
            with self.loop.lock:
                entry = self.submitter.streams.take(stream)
                if entry is not None:
                    return ObjectRef(entry.oid, entry)
                if stream.ended:
                    return None
                count = Countdown(self.loop, 1)
                stream.waiters = [*(stream.waiters or ()), count]
            self.block(count, timeout, lambda budget: explain_records(self.rt, [StreamRecord(stream)], budget))

    def get_dynamic(self, generator: ObjectRefGenerator, timeout: float | None) -> ObjectRefGenerator:
        """What a task with ``num_returns="dynamic"`` returned, when it has ended; raises its error."""
        stream = generator._stream
        while True:
            with self.loop.lock:
                if stream.ended:
                    last = stream.ready[-1].value if stream.ready else None
                    break
                count = Countdown(self.loop, 1)
                stream.waiters = [*(stream.waiters or ()), count]
            self.block(count, timeout, lambda budget: explain_records(self.rt, [StreamRecord(stream)], budget))
        if type(last) is list and last[0] == m.FAILED:
            self._seen([last])
            raise self.values.error(last)
        return generator

    async def next_of_stream_async(self, stream: Stream) -> ObjectRef | None:
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


def _earlier(deadline: float | None, other: float) -> float:
    return other if deadline is None else min(deadline, other)
