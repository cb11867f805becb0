"""From wire values to a call and back: arguments in, results and errors out, for tasks and actor calls alike.

The executor's loop has its own short cut for the plain case (one return, no references); everything else is here.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from zray.values import serialization
from zray.base.errors import ObjectLostError
from zray.base.ids import return_id
from zray.wire.messages import CARRYING, FAILED
from zray.worker.ports import CoreProcess
from zray.worker.queue import ARGS, EXTRA, RETURNS, TASK_ID

NONE = serialization.NONE


class DependencyFailed(Exception):
    """An argument is an error: the task fails with that error, as it is (``value`` is its wire form)."""

    def __init__(self, value: Any):
        super().__init__(value)
        self.value = value


def arguments(rt: CoreProcess, task: list[Any], register: Callable[[Any], None] | None = None
              ) -> tuple[Any, dict[str, Any]]:
    """``(args, kwargs)`` of a call; may read the store, runs user code (unpickling).

    ``register`` is called with each reference that comes inside them.
    """
    extra = task[EXTRA] or {}
    deps = extra.get("deps") or ()
    for value in deps:
        if type(value) is list and value and value[0] == FAILED:
            raise DependencyFailed(value)
    if deps:
        rt.values.prefetch([*deps, task[ARGS]])
    loads = serialization.loads
    values = [loads(buffer, register) for buffer in buffers(rt, deps)]
    payload, = buffers(rt, [task[ARGS]])
    return serialization.load_args(payload, extra.get("slots", ()) if values else (), values, register)


def buffers(rt: CoreProcess, wire: Sequence[Any]) -> list[Any]:
    """The serialised forms of arguments.

    One that is lost is no fault of the task, which has not started: its owner learns which values are, has them made
    again, and sends the task again.
    """
    payload = rt.values.payload
    found = []
    lost: list[list[Any]] = []
    for value in wire:
        try:
            found.append(payload(value))
        except ObjectLostError as error:
            while value[0] == CARRYING:
                value = value[1]
            lost.append([value[4], value, str(getattr(error, "reason", ""))])
    if lost:
        oid, _, reason = lost[0]
        raise DependencyFailed([FAILED, "dependency_lost", {"oid": oid, "reason": reason, "lost": lost}])
    return found


def encode(rt: CoreProcess, value: Any, task: bytes, index: int) -> Any:
    """One value to its wire form: inline when it is small and plain, else by the runtime (store, references)."""
    kind = type(value)
    if kind is int or kind is float or kind is bool:
        return pickle.dumps(value, 5)
    if value is None:
        return NONE
    serialized = serialization.dumps(value)
    if serialized.refs:
        return rt.encode_result(value, task, index)
    if not serialized.buffers and len(serialized.pickle) <= rt.config.inline_bytes_max:
        return serialized.pickle
    return rt.values.place(serialized, return_id(task, index), rt.context.receiver)


def returns(rt: CoreProcess, value: Any, task: list[Any], name: str) -> Any:
    """The result of a call with n returns: a wire value, or ``[0, values, extra]``."""
    count = task[RETURNS]
    if count == 1:
        return encode(rt, value, task[TASK_ID], 1)
    if count == 0:
        return [0, [], {}]
    try:
        values = tuple(value)
    except TypeError:
        raise ValueError(
            f"Task {name} has num_returns={count} and returned a {type(value).__name__}, which cannot be split"
        ) from None
    if len(values) != count:
        raise ValueError(f"Task returned {len(values)} objects, but num_returns={count}.")
    return [0, [encode(rt, part, task[TASK_ID], index) for index, part in enumerate(values, 1)], {}]


def dynamic(rt: CoreProcess, value: Any, task: list[Any]) -> Any:
    """``num_returns="dynamic"``: all items of the generator, each an object of its own."""
    values = [encode(rt, part, task[TASK_ID], index) for index, part in enumerate(value, 1)]
    return [0, values, {"dynamic": True}]


def failure(error: BaseException, name: str) -> list[Any]:
    """The wire form of what user code raised.  Never fails."""
    if isinstance(error, DependencyFailed):
        return error.value
    detail = serialization.dump_error(error, name)
    # The traceback holds the frames and so the arguments: without this a failed task pins its arrays until the
    # next garbage collection.
    error.__traceback__ = None
    return [FAILED, "task_error", detail]
