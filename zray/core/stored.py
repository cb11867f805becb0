"""Objects in the node's store: allocation, reading and freeing.

Waits for space, for spilled objects, and for objects of other nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from zray.base import errors
from zray.base.causes import Cause
from zray.base.ids import short
from zray.core.context import Context
from zray.core.machine import CoreMachine
from zray.core.process import ProcessRecord
from zray.core.waits.countdowns import Countdown
from zray.core.waits.explaining import Reasons
from zray.core.waits.patience import Warned
from zray.owner.reconstruction import same_place
from zray.store import StoreFull
from zray.store.client import Allocation, Pending, StoreClient
from zray.transport.loop import Loop, Waiter
from zray.wire import messages as m

__tracebackhide__ = True  # pytest leaves these frames out of its reports

RELIEVE_BYTES_MIN = 1024  # smaller values cost more in the store than in the table
COPIES_MAX = 4096  # places of copies of other nodes' objects that a process remembers


def why_no_room(pending: Pending) -> Cause:
    """STORE_FULL when the node has reported that it has no space; else its answer is only late."""
    return Cause.STORE_FULL if pending.progress else Cause.STORE_ASKED


def what_room(pending: Pending, nbytes: int) -> str:
    return "; ".join(filter(None, (f"it waits for {nbytes:,} bytes", pending.progress)))


class Stored:
    """The store client of one Runtime, with the waiting: the Store of its machine.

    Until ``attach`` there is no store, and so nothing that is stored.
    """

    client: StoreClient
    machine: CoreMachine  # set after construction: each of the two needs the other

    def __init__(self, process: ProcessRecord, loop: Loop, context: Context, warned: Warned):
        self.process = process
        self.loop = loop
        self.context = context
        self.warned = warned
        self.attached = False
        # (node, generation) -> place here, or the failure of the transfer, for the next reader.  A place is only a
        # hint: reading checks the block's generation, as it does for any block.
        self.copies: dict[tuple[bytes, int], list[Any]] = {}

    def attach(self, client: StoreClient) -> None:
        self.client = client
        self.attached = True

    def allocate(self, nbytes: int, oid: bytes, owner: bytes = b"") -> Allocation:
        """Space in the object store; waits for it if needed (not under the lock).  ObjectStoreFullError."""
        while True:
            with self.loop.lock:
                if self.machine.dropped:
                    self.machine.empty_dropped()
                try:
                    found = self.client.allocate(nbytes, oid, owner)
                except StoreFull as full:
                    kind = "disk_full" if full.report.get("disk_full") else "store_full"
                    raise errors.from_failure(kind, full.report) from None
                if isinstance(found, Allocation):
                    return found
                found.awaited = True
            try:
                self._wait(found.waiter, partial(why_no_room, found), partial(what_room, found, nbytes))
            except BaseException:
                with self.loop.lock:
                    self.client.forsake(found)
                raise
            if found.value is not None:  # no space: the node ended
                raise errors.from_failure(found.value[1], found.value[2])

    def _wait(self, waiter: Waiter, cause: Callable[[], Cause], what: Callable[[], str]) -> None:
        """Wait for the store.  Other processes may ask for the reason; the user gets a warning after a while."""
        task = self.context.task
        outer = self.machine.blocked.get(task)
        warn_s = self.process.config.warn_wait_s

        def why() -> Reasons:
            return Reasons([[task, cause(), {"text": f"{cause().text} ({what()})"}]])

        self.machine.blocked[task] = why
        try:
            if not self.loop.wait(waiter, time.monotonic() + warn_s if warn_s > 0 else None):
                self.warned.say(cause().name, f"zray has waited for {warn_s:g} s: {why()}")
                self.loop.wait(waiter, None)
        finally:
            if outer is None:
                self.machine.blocked.pop(task, None)
            else:
                self.machine.blocked[task] = outer

    def read(self, value: Any, record: Any) -> Any:
        """The buffer of a stored object, pinned while it is used.  Restores or transfers the object first if needed."""
        if value[5] != self.process.node:
            return self._read_copy(value)
        while True:
            place, oid = value[:4], value[4]
            with self.loop.lock:
                buffer = self.client.read(place, oid)
                pending = self.client.restore(oid, place) if buffer is None else None
            if pending is None:
                return buffer
            value = [*self._answer(pending, Cause.RESTORING, oid, "")[:4], oid, self.process.node]
            if record is not None:
                with self.loop.lock:
                    if same_place(record.value, value):  # else it was lost, and made again since
                        self.machine.refs.replace_value(record, value)

    def _read_copy(self, value: Any) -> Any:
        """The buffer of the copy that our node has, or transfers.  The record's value stays the primary copy."""
        oid, node = value[4], value[5]
        while True:
            with self.loop.lock:
                place = self.copies.get((node, value[3]))
                if place is not None:
                    if place[0] == m.FAILED:
                        del self.copies[node, value[3]]
                        raise errors.from_failure(place[1], place[2])
                    buffer = self.client.read(place, oid)
                    if buffer is not None:
                        return buffer
                pending = self.client.pull(value)
            place = self._answer(pending, Cause.TRANSFERRING, oid, f"from node {node.hex()}")
            with self.loop.lock:
                self._remember(value, place)

    def _remember(self, value: Any, place: list[Any]) -> None:
        self.copies[value[5], value[3]] = place
        if len(self.copies) > COPIES_MAX:
            del self.copies[next(iter(self.copies))]

    def value_to_transfer(self, value: Any) -> Any:
        """The stored value in a wire value, if it is on another node and no copy is known here; else None."""
        while type(value) is list and value[0] == m.CARRYING:
            value = value[1]
        if type(value) is not list or value[0] != m.STORED or value[5] == self.process.node:
            return None
        place = self.copies.get((value[5], value[3]))
        if place is None or place[0] == m.STORED and not self.client.there(place, value[4]):
            return value
        return None

    def fetch(self, value: Any, then: Callable[[Any], None] | None = None) -> Pending:
        """Begin the transfer of a :meth:`value_to_transfer`; calls ``then`` with the answer (under the lock)."""
        pending = self.client.pull(value)

        def answered(pending: Pending) -> None:
            if pending.value is not None:
                self._remember(value, pending.value)
            if then is not None:
                then(pending)

        if pending.waiter.done:  # the node ended
            answered(pending)
        else:
            pending.then = answered
        return pending

    def prefetch(self, values: Iterable[Any]) -> None:
        """Begin all transfers of these values together, because a reader waits for one after the other."""
        with self.loop.lock:
            for value in values:
                if (distant := self.value_to_transfer(value)) is not None:
                    self.fetch(distant)

    def _answer(self, pending: Pending, cause: Cause, oid: bytes, where: str) -> list[Any]:
        """Wait for the node's answer: the place of an object.  Raises the error of the answer."""
        try:
            self._wait(pending.waiter, lambda: cause,
                       lambda: " ".join(filter(None, (f"ObjectRef({short(oid)})", pending.progress or where))))
        except BaseException:
            with self.loop.lock:
                self.client.leave(pending)
            raise
        if pending.value is None:
            raise errors.from_failure("object_lost", {"oid": oid, "reason": pending.error})
        if pending.value[0] == m.FAILED:
            raise errors.from_failure(pending.value[1], pending.value[2])
        return pending.value

    def keep(self, values: Sequence[Any], copies: int) -> None:
        """Wait until so many nodes keep each of these objects of this node, or no further node can have one now.

        In that case warn: the node makes the missing copies when nodes join.
        """
        count = Countdown(self.loop, len(values))
        found: list[int] = []

        def kept(answer: m.StoreKept | None) -> None:
            found.append(answer.copies if answer is not None else 0)
            count(None)

        with self.loop.lock:
            machine = self.machine
            for value in values:
                machine.send(self.process.node, m.StoreKeep(machine.ask(kept), value, copies))
        self.loop.turn()
        self._wait(count, lambda: Cause.COPYING, lambda: f"{copies} nodes are to have it")
        if min(found) < copies:
            self.warned.say("durability", f"durability={copies}, and only {max(1, min(found))} of the nodes can have "
                            "a copy now: the others are made when nodes join. Add nodes, or ask for fewer copies.")

    def leave(self, pending: Pending) -> None:
        """Stop waiting for a transfer (under the lock)."""
        self.client.leave(pending)

    def close(self) -> None:
        if self.attached:
            self.client.close()

    # ------------------------------------------------------------ what the machine asks (under the lock)

    def flush(self) -> None:
        if self.attached:
            self.client.flush()

    def node_lost(self, failure: list[Any]) -> None:
        if self.attached:
            self.client.node_lost(failure)

    def pinned(self) -> dict[bytes, int]:
        return self.client.pinned() if self.attached else {}

    def relieve(self, bytes_max: int) -> int:
        """Move inline values of this process to the store until their bytes are below ``bytes_max`` (under the lock).

        Returns the bytes of inline values at which to try again.  It does not wait for space and leaves small
        values, so more than ``bytes_max`` may remain.
        """
        if not self.attached:
            return bytes_max
        refs = self.machine.refs
        for entry in list(refs.owned.values()):
            if refs.inline_bytes <= bytes_max * 0.9:
                break
            value = entry.value
            if type(value) is not bytes or len(value) < RELIEVE_BYTES_MIN:
                continue
            try:
                found = self.client.allocate(len(value), entry.oid)
            except StoreFull:
                break
            if not isinstance(found, Allocation):
                return bytes_max  # the node has been asked for space: try again next turn
            found.view[:] = value
            refs.replace_value(entry, [*found.seal(), entry.oid, self.process.node])
        return max(bytes_max, refs.inline_bytes + bytes_max // 16)

    def free(self, oid: bytes, value: Any, escaped: bool) -> None:
        if not self.attached:
            return
        if value[5] == self.process.node:
            self.client.free(value[4], value[:4], escaped)
        else:
            self.copies.pop((value[5], value[3]), None)
            self.client.free_elsewhere(value[4], value, value[5])
