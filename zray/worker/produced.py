"""The results that this worker has just made, as arguments of tasks behind them on the same lease.  Pure.

The owner pushes a task behind its producers before it has their results (zray.owner.followers).  It names each by the
producer's sequence number on the lease.  A later attempt has another number, so a result of an older attempt is never
taken.  Replies that have been sent are kept for a moment: the owner may have pushed the task before it got them.
"""

from __future__ import annotations

from typing import Any

from zray.base.argument_errors import UNPRODUCED
from zray.wire.messages import FAILED, STORED
from zray.worker.queue import EXTRA, ServedLease

NOT_PRODUCED = [FAILED, UNPRODUCED, {}]


def take_arguments(lease: ServedLease, task: list[Any]) -> bool:
    """Put the results of earlier tasks in the place of the arguments that wait for them; False when one lacks."""
    extra = task[EXTRA]
    arguments, places = extra["deps"], iter(extra.pop("behind"))
    for position, sequence, index in zip(places, places, places):  # noqa: B905
        value = _value(_result_of(lease, sequence), index)
        if value is None:
            return False
        arguments[position] = value
    return True


def _result_of(lease: ServedLease, sequence: int) -> Any:
    """The result of a task of this lease; None when it is not known.  A flush may run on another thread meanwhile."""
    last = lease.ends[-2:]
    if last and last[0] == sequence:
        return last[1]
    for ends in (lease.ends[:], *reversed(lease.sent)):  # in this order: what is sent was put into ``sent`` before
        for at in range(len(ends) - 2, -1, -2):
            if ends[at] == sequence:
                return ends[at + 1]
    return None


def _value(result: Any, index: int) -> Any:
    """One value of a result; None for failures, and for values with references, which the owner must pass on."""
    if type(result) is list and result and result[0] == 0:
        values, extra = result[1:]
        if "failure" in extra or "dynamic" in extra or index >= len(values):
            return None
        result = values[index]
    if type(result) is bytes or (type(result) is list and result and result[0] == STORED):
        return result
    return None
