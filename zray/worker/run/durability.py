"""Results of tasks with ``durability=``: several nodes keep each in their stores, before the owner hears of it.

So an object that is ready is durable.  Errors are no objects of a store, and are not copied.
"""

from __future__ import annotations

from typing import Any

from zray.base.ids import DYNAMIC_FIRST, return_id
from zray.wire.messages import CARRYING, STORED
from zray.worker.ports import CoreProcess
from zray.worker.queue import EXTRA, TASK_ID


def durable_result(rt: CoreProcess, task: list[Any], result: Any) -> Any:
    """The wire result with its values in the store; returns when the nodes have them."""
    if type(result) is not list or result[0] != 0:
        return durable_value(rt, task, result, 1)
    first = DYNAMIC_FIRST if result[2].get("dynamic") else 1
    values = [_in_store(rt, task, value, index) for index, value in enumerate(result[1], first)]
    _keep(rt, task, values)
    return [0, values, *result[2:]]


def durable_value(rt: CoreProcess, task: list[Any], value: Any, index: int) -> Any:
    """The same for the value of one return, or of one item of a generator."""
    stored = _in_store(rt, task, value, index)
    _keep(rt, task, [stored])
    return stored


def _in_store(rt: CoreProcess, task: list[Any], value: Any, index: int) -> Any:
    if type(value) is bytes:
        return rt.values.store_bytes(value, return_id(task[TASK_ID], index), rt.context.receiver)
    if type(value) is list and value[0] == CARRYING:
        return [CARRYING, _in_store(rt, task, value[1], index), *value[2:]]
    return value


def _keep(rt: CoreProcess, task: list[Any], values: list[Any]) -> None:
    stored = []
    for value in values:
        while type(value) is list and value[0] == CARRYING:
            value = value[1]
        if type(value) is list and value[0] == STORED:
            stored.append(value)
    if stored:
        rt.values.stored.keep(stored, task[EXTRA]["durability"])
