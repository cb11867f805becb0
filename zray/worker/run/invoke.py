"""Converts wire values to the arguments of a call, and results and errors back, for tasks and actor calls.

The executor's loop handles the plain case (one return, no references) itself; all other cases are here.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from zray.base.argument_errors import argument_failed
from zray.base.errors import ObjectLostError
from zray.base.ids import return_id
from zray.base.named_tuples import NamedTuple
from zray.values import serialization
from zray.wire.messages import CARRYING, FAILED
from zray.worker.ports import CoreProcess
from zray.worker.queue import ARGS, EXTRA, RETURNS, TASK_ID


class DependencyFailed(Exception):
    """An argument is an error: the task fails with the same error (``value`` is its wire form)."""

    def __init__(self, value: Any):
        super().__init__(value)
        self.value = value


def arguments(rt: CoreProcess, task: list[Any], register: Callable[[Any], None] | None = None
              ) -> tuple[Any, dict[str, Any]]:
    """``(args, kwargs)`` of a call; may read the store, and runs user code (unpickling).

    ``register`` is called with each reference inside the arguments.
    """
    extra = task[EXTRA] or {}
    deps = extra.get("deps") or ()
    for value in deps:
        if type(value) is list and value and value[0] == FAILED:
            raise DependencyFailed(value)
    if deps:
        rt.values.prefetch([*deps, task[ARGS]])
    loads = serialization.loads
    if not deps and type(task[ARGS]) is bytes:
        return serialization.load_args(task[ARGS], (), (), register)
    rt.fetching.add(task[TASK_ID])
    try:
        values = [loads(buffer, register) for buffer in buffers(rt, deps)]
        payload, = buffers(rt, [task[ARGS]])
    finally:
        rt.fetching.discard(task[TASK_ID])
    return serialization.load_args(payload, extra.get("slots", ()) if values else (), values, register)


def inline_arguments(task: list[Any]) -> list[bytes] | None:
    """The values of the arguments that are references, if the task has one return, and all arguments came with it."""
    extra = task[EXTRA]
    values = extra.get("deps")
    if not values or len(extra) != 2 or task[RETURNS] != 1 or type(task[ARGS]) is not bytes:  # "slots" and "deps"
        return None
    for value in values:
        if type(value) is not bytes:
            return None
    return values  # type: ignore[no-any-return]


def buffers(rt: CoreProcess, wire: Sequence[Any]) -> list[Any]:
    """The serialised forms of arguments.

    A lost argument is no failure of the task, which has not started.  The owner gets the list of lost values, has
    them made again, and pushes the task again.
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
    """The wire form of one value: inline if it is small and plain, else the runtime makes it (store, references)."""
    kind = type(value)
    if kind is int or kind is float or kind is bool:
        return pickle.dumps(value, 5)
    if value is None:
        return serialization.NONE
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
        return failure(not_several(value, count), name)
    if len(values) != count:
        return failure(wrong_count(len(values), count), name)
    return [0, [encode(rt, part, task[TASK_ID], index) for index, part in enumerate(values, 1)], {}]


def not_several(value: Any, count: int) -> TypeError:
    return TypeError(f"object of type '{type(value).__name__}' has no len(), so it cannot be split into "
                     f"num_returns={count} objects")


def wrong_count(made: int, count: int) -> ValueError:
    return ValueError(f"Task returned {made} objects, but num_returns={count}.")


class CodePlace(NamedTuple):
    """Where user code ran, for the text of its error: process, node's address, actor's id, repr of its instance."""

    pid: int
    ip: str = "127.0.0.1"
    actor: str = ""
    instance: str = ""


def failure(error: BaseException, name: str, place: CodePlace = CodePlace(0)) -> list[Any]:  # noqa: B008
    """The wire form of an exception of user code.  Never fails."""
    if isinstance(error, DependencyFailed):
        if error.value[1] == "dependency_lost":
            return error.value  # no failure: the owner makes it again
        return argument_failed(name, error.value, bytes.fromhex(place.actor), place.pid)
    detail = serialization.dump_error(error, name, *place[1:])
    # The traceback has the frames, and so the arguments.  Without this line a failed task would pin its arrays until
    # the next garbage collection.
    error.__traceback__ = None
    return [FAILED, "task_error", detail]
