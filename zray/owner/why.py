"""Why an unfinished task waits, from the owner's records.  Pure; changes nothing."""

from __future__ import annotations

from typing import Any

from zray.base.causes import Cause
from zray.owner.records import PUSHED, WAITING, Task


def why(task: Task, runs_again: bool) -> tuple[Cause, dict[str, Any]]:
    """Why an unfinished task waits; ``runs_again``: it makes a lost result again."""
    cause, about = _why(task)
    if runs_again:
        about["detail"] = "; ".join(filter(None, (f"now {cause.text}", about.get("detail"))))
        return Cause.RECONSTRUCTING, about
    return cause, about


def _why(task: Task) -> tuple[Cause, dict[str, Any]]:
    about: dict[str, Any] = {"task": task.tid.hex(), "name": task.fn.name, "attempt": task.attempt}
    if task.cancelling and task.state == PUSHED:
        return Cause.CANCELLING, about
    if task.state == WAITING or (task.missing and task.state == PUSHED):  # pushed behind the tasks that it waits for
        about["missing"] = [record.oid for record in task.deps or () if record.value is None]
        return Cause.DEPENDENCY, about
    if task.state == PUSHED and task.lease is not None:
        lease = task.lease
        about["pid"] = lease.pid
        if lease.death_notice is not None or lease.link.closed:
            return Cause.WORKER_LOST, about
        ahead = sum(1 for seq in lease.inflight if seq < task.seq)
        about["ahead"] = ahead
        if ahead:
            return Cause.PUSHED, about
        about["ask"] = [lease.link.peer, task.tid, lease.link.endpoint]
        return Cause.RUNNING, about
    if task.state == PUSHED:
        return Cause.RUNNING, about
    key = task.key
    about["demand"] = key.demand
    about["queued"] = len(key.queue)
    if key.leases:
        about["leases"] = len(key.leases)
    if key.status is not None:
        cause, about["detail"] = key.status
        return Cause(cause), about
    if task.attempt:
        return Cause.RETRY, about
    if key.leases:
        return Cause.RESOURCES_BUSY, about
    return Cause.LEASE_REQUESTED, about
