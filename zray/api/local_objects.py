"""Objects of local mode: kept as payloads, so that stored and read values are copies, as in a session."""

from __future__ import annotations

import concurrent.futures
import time
import weakref
from collections.abc import Sequence
from typing import Any

from zray.base.errors import GetTimeoutError
from zray.handles.refs import ObjectRef
from zray.values import serialization

records: weakref.WeakValueDictionary[bytes, Record] = weakref.WeakValueDictionary()  # by id, for ObjectRef(id)


class Record:
    """The target of an ObjectRef of local mode: an outcome, or the future of one."""

    __slots__ = ("__weakref__", "call", "future", "inner", "oid", "owner")

    def __init__(self, oid: bytes, call: concurrent.futures.Future | None = None):
        self.oid = oid
        records[oid] = self
        self.owner = b""
        self.future: concurrent.futures.Future[bytes] = concurrent.futures.Future()
        self.inner: Sequence[Any] = ()  # references inside the value, which live as long as it
        self.call = call  # the call that a cancel ends

    def store(self, value: Any, what: str = "value") -> None:
        serialized = serialization.dumps(value, what)
        self.inner = serialized.refs
        self.future.set_result(serialization.to_bytes(serialized))

    def fail(self, error: BaseException) -> None:
        self.future.set_exception(error)

    def error(self) -> BaseException | None:
        """Of one that is done."""
        return self.future.exception()

    def result(self, until: float | None = None) -> Any:
        """A copy of the value; waits until that time of the monotonic clock at most."""
        try:
            return serialization.loads(self.future.result(None if until is None else until - time.monotonic()))
        except concurrent.futures.TimeoutError:
            if self.future.done():
                raise
        raise GetTimeoutError(f"Get timed out: the object {self.oid.hex()} is not ready; a call of an async actor "
                              "makes it.")


def stored(oid: bytes, value: Any, what: str = "value") -> ObjectRef:
    record = Record(oid)
    record.store(value, what)
    return ObjectRef(oid, record)


def failed(oid: bytes, error: BaseException) -> ObjectRef:
    record = Record(oid)
    record.fail(error)
    return ObjectRef(oid, record)


class Arguments:
    """Arguments of a call as they were at the call."""

    def __init__(self, args: tuple, kwargs: dict[str, Any], function: Any):
        serialized, self.slots, self.refs = serialization.dump_args(args, kwargs, function)
        self._payload, self._inner = serialization.to_bytes(serialized), serialized.refs

    def load(self) -> tuple[Any, dict[str, Any]]:
        """Wait for the references among them; raises the first of their errors."""
        values = [ref._record.result() for ref in self.refs]
        args, kwargs = serialization.load_args(self._payload, self.slots, values)
        return tuple(args), kwargs


def first_ready(wanted: Sequence[Any], count: int, until: float | None) -> tuple[list[Any], list[Any]]:
    """``wait`` of local mode: generators count as ready."""
    futures = {ref._record.future for ref in wanted if isinstance(ref, ObjectRef)}
    missing = count - (len(wanted) - len(futures))
    while sum(future.done() for future in futures) < missing:
        pending = [future for future in futures if not future.done()]
        left = None if until is None else until - time.monotonic()
        if not concurrent.futures.wait(pending, left, concurrent.futures.FIRST_COMPLETED).done:
            break
    ready: list[Any] = []
    rest: list[Any] = []
    for ref in wanted:
        done = not isinstance(ref, ObjectRef) or ref._record.future.done()
        (ready if done and len(ready) < count else rest).append(ref)
    return ready, rest
