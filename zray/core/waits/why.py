"""Why an object of a core process is pending, from its records.  Pure; zray.core.waits.explaining defines reasons."""

from __future__ import annotations

from typing import Any, Protocol

from zray.base import ids
from zray.base.causes import Cause
from zray.core.waits.groups import GroupWait
from zray.owner.adoption import Adoption
from zray.owner.calls import ActorCalls
from zray.owner.maps import MapBatch
from zray.owner.references import References
from zray.owner.submitter import Submitter

WAITS = b"waits"  # in place of an id: what the threads of a driver wait for
EXPLAINED_MAX = 3  # objects that a message explains one by one
EXPLAINED_DEPTH_MAX = 4  # of arguments that wait for arguments

Reason = list[Any]


class Explained(Protocol):
    """A CoreMachine."""

    @property
    def refs(self) -> References: ...
    @property
    def submitter(self) -> Submitter: ...
    @property
    def calls(self) -> ActorCalls: ...
    @property
    def adoption(self) -> Adoption: ...


def explain_record(owner: Explained, record: Any, depth: int = 0) -> tuple[Cause, dict[str, Any]]:
    """Why a record is pending (under the lock)."""
    if record.value is not None:
        return Cause.READY, {}
    task = record.task
    if record.oid in owner.adoption.ownerless:
        return Cause.ADOPTION, {"owner": record.owner.hex()}
    if task is None:
        if not record.owner:
            return Cause.OWNER, {}
        return Cause.OWNER, {"owner": record.owner.hex(), "ask": [record.owner, record.oid, record.endpoint]}
    if type(task) is GroupWait:
        return task.why()
    if type(task) is MapBatch:
        return explain_batch(task)
    cause, about = (owner.submitter if task.key is not None else owner.calls).explain(task)
    if "missing" in about and depth < EXPLAINED_DEPTH_MAX:
        for oid in about.pop("missing")[:EXPLAINED_MAX]:
            inner = owner.refs.owned.get(oid) or owner.refs.borrowed.get(oid)
            if inner is not None:
                about.setdefault("because", []).append([oid, *explain_record(owner, inner, depth + 1)])
    return cause, about


def explain_batch(batch: MapBatch) -> tuple[Cause, dict[str, Any]]:
    """Why a map, or one item of it, is pending."""
    done = batch.count - batch.remaining
    about: dict[str, Any] = {"name": batch.fn.name, "done": done, "count": batch.count,
                             "detail": f"{done} of {batch.count} done", "leases": len(batch.key.leases)}
    if batch.key.leases:
        return Cause.RUNNING, about
    if batch.key.status is not None:
        cause, why = batch.key.status
        return Cause(cause), about | {"detail": f"{about['detail']}; {why}"}
    return Cause.LEASE_REQUESTED, about


def batch_reason(batch: MapBatch) -> Reason:
    """The reason of a whole map."""
    return [batch.task_id(0) + ids.RETURN_1, *explain_batch(batch)]


class StreamRecord:
    """The next item of a generator, as a pending record."""

    __slots__ = ("oid", "value", "task", "owner")

    def __init__(self, stream: Any):
        self.oid = ids.return_id(stream.task.tid, stream.received + 1)
        self.value = None
        self.task = stream.task
        self.owner = None
