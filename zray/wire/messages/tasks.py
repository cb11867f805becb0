"""Tasks and their ends: between owners and workers.  Codes 50-69."""

from __future__ import annotations

from typing import Any

from zray.wire.messages.base import Message, message


@message(50)
class FunctionDef(Message):
    """Owner -> worker: a pickled function or class, sent before its first use on this worker."""

    key: bytes
    blob: bytes
    name: str = ""  # for the error of one that cannot be loaded


@message(51)
class PushTasks(Message):
    """Owner -> worker: run these in order.  Task i has sequence number ``first + i`` on this lease.

    A task is ``[task id, attempt, function key, args value, number of returns, extra | None]``; number of returns is
    -1 for a streaming generator; extra is a map: ``slots`` (list of int | str: which arguments are references),
    ``deps`` (their values), ``behind`` (places in ``deps`` whose values are results of earlier tasks of this lease:
    place, sequence number, index of the return, ...; see zray.owner.followers), ``name``, ``retry_exceptions``,
    ``backpressure``, ``max_calls``, ``last_attempt`` (no retries left), ``trace``.
    """

    lease: int
    first: int
    tasks: list


@message(52)
class TasksDone(Message):
    """Worker -> owner: ends of tasks, as ``[sequence, result, sequence, result, ...]``.

    A result is a wire value (task with one return) or ``[0, [value, ...], extra]``: several returns, and in extra
    ``held`` (borrowed references that this worker still holds, [oid, n], or one that ran its tasks, [oid, n, worker]),
    ``ns`` (run time), ``exiting``.
    ``ns_each`` is the mean run time in nanoseconds of the tasks in this batch.
    """

    lease: int
    ends: list
    ns_each: int


@message(53)
class HandBack(Message):
    """Worker -> owner: these sequence numbers were not started and will not be; push them elsewhere."""

    lease: int
    sequences: list[int]


@message(54)
class CancelTask(Message):
    """Owner -> worker: cancel the attempt if it is queued or running here; acts on no other attempt."""

    task: bytes
    attempt: int
    recursive: bool


@message(55)
class StreamItem(Message):
    """Worker -> owner: item ``index`` (from 1) of a streaming generator task."""

    task: bytes
    attempt: int
    index: int
    value: Any


@message(56)
class StreamAck(Message):
    """Owner -> worker: the consumer has taken this many items (back-pressure)."""

    task: bytes
    attempt: int
    consumed: int


@message(57)
class PushMap(Message):
    """Owner -> worker: one chunk of ``f.map``: ``count`` tasks with consecutive ids, arguments as one pickled list.

    ``star``: each item is a tuple of positional arguments.  Sequence numbers ``first .. first + count - 1``.
    """

    lease: int
    first: int
    task: bytes  # id of the first
    attempt: int
    function: bytes
    count: int
    items: Any  # wire value: bytes or [STORED, ...]
    star: bool


@message(58)
class MapDone(Message):
    """Worker -> owner: results ``first .. first + count - 1`` of a chunk, as one pickled list (wire value).

    ``failures``: [[position, wire value], ...] for items that raised; their place in the list is None.
    """

    lease: int
    first: int
    count: int
    results: Any
    failures: list
    ns_each: int
