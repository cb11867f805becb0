"""Tasks and objects of one owner as rows of the state API, on demand: nothing here costs a task anything.  Pure.

The rows are maps of wire types.  Ids are bytes, times are seconds of the process's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from zray.base.causes import Cause
from zray.base.ids import PUT_FLAG, TASK_SIZE
from zray.owner.maps import MapBatch, MapChunk
from zray.owner.records import DONE, PUSHED, QUEUED, WAITING, Entry, Task
from zray.wire.messages import CARRYING, FAILED, STORED
from zray.wire.messages.actors import ALIVE

NORMAL_TASK, ACTOR_TASK = "NORMAL_TASK", "ACTOR_TASK"
ARGS_FETCH = "PENDING_ARGS_FETCH"
HEADS = 20  # tasks of each queue that a list surely has


def bare(name: str) -> str:
    """The name of a function or class without the scope that it was defined in."""
    return name.rpartition("<locals>.")[2]


def about(task: Task) -> dict[str, Any]:
    """What its owner knows of an attempt, whatever its state."""
    row: dict[str, Any] = {"task_id": task.tid, "attempt": task.attempt, "parent": task.parent,
                           "created_s": task.created}
    key = task.key
    if key is None:  # a call
        link = task.lease
        name = f"{bare(link.name)}.{task.fn.name}"
        return row | {"name": name, "function": name, "type": ACTOR_TASK, "actor": link.actor}
    function = bare(task.fn.name)
    strategy = key.strategy
    return row | {
        "name": (task.extra or {}).get("name") or function, "function": function, "type": NORMAL_TASK, "actor": b"",
        "resources": key.demand, "labels": strategy.get("labels") or {}, "env": key.env,
        "group": strategy.get("group", b"") if strategy.get("kind") == "group" else b""}


def state_of(task: Task) -> str:
    """The state of an unfinished task, as far as its owner knows."""
    if task.state == WAITING or (task.missing and task.state == PUSHED):
        return "PENDING_ARGS_AVAIL"
    if task.state == PUSHED:
        return "SUBMITTED_TO_WORKER"
    if task.key is None and task.lease.state == ALIVE:
        return "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"
    return "PENDING_NODE_ASSIGNMENT"


def _waits_for(task: Task) -> str:
    """What the task waits for, in words; '' when its owner does not know."""
    if task.state != QUEUED or task.key is None or task.key.status is None:
        return ""
    cause, detail = task.key.status
    return f"{Cause(cause).text} ({detail})" if detail else Cause(cause).text


def unfinished(owned: Iterable[Entry], submitter: Any, calls: Any) -> Iterator[Any]:
    """Every Task and MapChunk that has not ended, once."""
    seen: set[int] = set()
    for work in _everything(owned, submitter, calls):
        if (type(work) is MapChunk or type(work) is Task and work.state != DONE) and id(work) not in seen:
            seen.add(id(work))
            yield work


def _everything(owned: Iterable[Entry], submitter: Any, calls: Any) -> Iterator[Any]:
    """What runs and the first of each queue come first, because a list has a limit; something may come twice."""
    for lease in submitter.leases.values():
        yield from lease.inflight.values()
    for key in submitter.by_number.values():
        yield from islice(key.queue, HEADS)
    for link in calls.links.values():
        yield from islice(link.inflight.values(), HEADS)
        yield from islice(link.queue, HEADS)
    for key in submitter.by_number.values():
        yield from key.queue
    yield from submitter.tasks.values()
    yield from submitter.inline
    for link in calls.links.values():
        yield from link.inflight.values()
        yield from link.queue
    for left in calls.draining.values():
        yield from left.inflight.values()
    for entry in owned:
        yield entry.task


def task_rows(owned: Iterable[Entry], submitter: Any, calls: Any, limit: int, of: bytes = b""
              ) -> tuple[list[dict[str, Any]], int]:
    """``(rows of unfinished tasks, their number)``; with ``of`` of that task, and of maps, which may contain it.

    Then, as far as there is room, finished tasks that lineage knows: the node where they ran may have died since.
    """
    rows: list[dict[str, Any]] = []
    total = 0
    for work in unfinished(owned, submitter, calls):
        if of and type(work) is Task and work.tid != of:
            continue
        total += work.count - work.done if type(work) is MapChunk else 1
        if len(rows) < limit:
            rows.append(_chunk_row(work) if type(work) is MapChunk else {
                **about(work), "state": state_of(work), "waits_for": _waits_for(work),
                "key": work.key.number if work.key is not None else 0})
    finished = (recipe.task for recipe in submitter.lineage.recipes.values()
                if recipe.task.state == DONE and (not of or recipe.task.tid == of))
    known = [{**about(task), "state": "FINISHED"} for task in islice(finished, max(0, limit - len(rows)))]
    return rows + known, total + len(known)


def _chunk_row(chunk: MapChunk) -> dict[str, Any]:
    """The rest of a chunk of a map, as one row with a count."""
    batch, first = chunk.batch, chunk.first + chunk.done
    function, strategy = bare(batch.fn.name), batch.key.strategy
    return {"task_id": batch.task_id(first), "attempt": chunk.attempt, "parent": b"", "created_s": 0.0,
            "name": function, "function": function, "type": NORMAL_TASK, "actor": b"", "resources": batch.key.demand,
            "labels": strategy.get("labels") or {}, "env": batch.key.env, "count": chunk.count - chunk.done,
            "group": strategy.get("group", b"") if strategy.get("kind") == "group" else b"", "waits_for": "",
            "state": "PENDING_NODE_ASSIGNMENT" if chunk.lease is None else "SUBMITTED_TO_WORKER"}


# ---------------------------------------------------------------- objects

LOCAL_REFERENCE, PINNED_IN_MEMORY, USED_BY_PENDING_TASK = "LOCAL_REFERENCE", "PINNED_IN_MEMORY", "USED_BY_PENDING_TASK"
CAPTURED_IN_OBJECT, ACTOR_HANDLE = "CAPTURED_IN_OBJECT", "ACTOR_HANDLE"


def object_rows(refs: Any, submitter: Any, calls: Any, pinned: dict[bytes, int], limit: int, of: bytes = b""
                ) -> tuple[list[dict[str, Any]], int]:
    """``(rows of the objects that this process refers to or reads, their number)``; with ``of`` of that object only.

    ``pinned``: the sizes of the objects in the store that values of this process lie in.
    """
    records = [record for table in (refs.owned, refs.borrowed) for record in table.values()
               if record.refs > 0 and (not of or record.oid == of)]
    used = {id(pin) for work in unfinished(refs.owned.values(), submitter, calls) for pin in work.pins or ()}
    captured = {id(inner) for record in records for inner in record.contained or ()}
    actors = {id(link.life_record) for link in calls.links.values() if link.life_record is not None}
    rows = []
    for record in records[:limit]:
        kind = (ACTOR_HANDLE if id(record) in actors else PINNED_IN_MEMORY if record.oid in pinned
                else CAPTURED_IN_OBJECT if id(record) in captured
                else USED_BY_PENDING_TASK if id(record) in used else LOCAL_REFERENCE)
        rows.append({"object_id": record.oid, "nbytes": _nbytes(record.value), "reference_type": kind,
                     "task_status": _status(record), "attempt": getattr(record.task, "attempt", 0) or 0})
    referred = {record.oid for record in records}
    read = [oid for oid in pinned if oid not in referred and (not of or oid == of)]
    rows += [{"object_id": oid, "nbytes": pinned[oid], "reference_type": PINNED_IN_MEMORY, "task_status":
              "NIL" if _is_put(oid) else "FINISHED", "attempt": 0} for oid in read[:max(0, limit - len(rows))]]
    return rows, len(records) + len(read)


def _is_put(oid: bytes) -> bool:
    return bool(int.from_bytes(oid[TASK_SIZE:], "little") & PUT_FLAG)


def _nbytes(value: Any) -> int:
    """The size of a wire value; -1 while it is pending."""
    if value is None:
        return -1
    if type(value) is bytes:
        return len(value)
    if type(value) is list and value and value[0] == STORED:
        return int(value[2])
    if type(value) is list and value and value[0] == FAILED:
        return len(value[2]) if isinstance(value[2], bytes) else 0
    if type(value) is list and len(value) > 1 and value[0] == CARRYING:
        return _nbytes(value[1])
    return 0


def _status(record: Any) -> str:
    if _is_put(record.oid):
        return "NIL"
    task = record.task
    if record.value is not None:
        return "FAILED" if type(record.value) is list and record.value[0] == FAILED else "FINISHED"
    if type(task) is MapBatch:
        return "PENDING_NODE_ASSIGNMENT"
    return state_of(task) if type(task) is Task and task.state != DONE else "NIL"
