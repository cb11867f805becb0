"""Generators whose items are the returns of their task: ``num_returns`` is 3, 1 or "dynamic".

    items            the result
    as many as asked      every return has its value
    too few, or an error  the returns so far have their values, the others get the error
    too many              the first ones count; the worker's log says so

    cancelled             its returns get that error; the reply has the items, and the owner frees them

Each item is encoded when it is made, so the task holds one item at a time.  (``num_returns="streaming"``, which sends
each item at once, is in zray.worker.run.streams.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from zray.base.errors import AsyncioActorExit
from zray.base.ids import DYNAMIC_FIRST
from zray.handles.options import DYNAMIC
from zray.worker.ports import CoreProcess
from zray.worker.queue import RETURNS, TASK_ID
from zray.worker.run import invoke

# These end the call or the process; they are no error of an item.
ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit, AsyncioActorExit)


def is_generator(value: Any) -> bool:
    return isinstance(value, (GeneratorType, AsyncGeneratorType))


class Items:
    """The items of one generator so far, encoded."""

    def __init__(self, task: list[Any], encode: Callable[[Any, bytes, int], Any],
                 failure: Callable[[BaseException], list[Any]]):
        """``encode(item, task, index)`` makes the wire value of an item, ``failure`` that of an exception."""
        self.task = task[TASK_ID]
        self._encode, self._failure = encode, failure
        self.count: int = task[RETURNS]
        self.values: list[Any] = []

    def take(self, item: Any) -> bool:
        """Encode an item; False when it is one too many."""
        if self.count != DYNAMIC and len(self.values) == self.count:
            return False
        first = DYNAMIC_FIRST if self.count == DYNAMIC else 1
        self.values.append(self._encode(item, self.task, first + len(self.values)))
        return True

    def ended(self) -> Any:
        """The result of a generator that has ended by itself."""
        if self.count == DYNAMIC:
            return [0, self.values, {"dynamic": True}]
        if len(self.values) < self.count:
            return self.failed(self._failure(invoke.wrong_count(len(self.values), self.count)))
        return self.values[0] if self.count == 1 else [0, self.values, {}]

    def failed(self, failure: list[Any]) -> Any:
        """The result of a generator that has not come to its end."""
        if self.count == DYNAMIC:
            return [0, self.values, {"dynamic": True, "failure": failure}]
        return [0, self.values, {"failure": failure}] if self.values else failure


def run(rt: CoreProcess, value: Any, task: list[Any], name: str, made: dict[bytes, Items]) -> Any:
    """Run a generator to its end on this thread; the task's wire result.

    ``made`` has its items until the caller takes them out: an interrupt may come up to then.
    """
    if hasattr(value, "__aiter__"):
        raise TypeError("async generators run in async actors; a task or a sync actor needs a plain generator")
    items = made[task[TASK_ID]] = Items(task, partial(invoke.encode, rt), partial(invoke.failure, name=name))
    try:
        for item in value:
            if not items.take(item):
                _warn_of_more(items, name)
                break
            del item  # or it would live until the next one is there
    except ENDS:
        raise
    except BaseException as error:
        return items.failed(invoke.failure(error, name))
    finally:
        close = getattr(value, "close", None)
        if close is not None:
            close()
    return items.ended()


def _warn_of_more(items: Items, name: str) -> None:
    print(f"{name}() yielded more than num_returns={items.count} objects: the rest is dropped", file=sys.stderr,
          flush=True)


async def run_async(rt: CoreProcess, value: Any, task: list[Any], name: str, made: dict[bytes, Items],
                    cancelled: type[BaseException]) -> Any:
    """The same on an asyncio loop, for plain and async generators; ``cancelled`` is asyncio's CancelledError."""
    if not hasattr(value, "__aiter__"):
        return run(rt, value, task, name, made)
    items = made[task[TASK_ID]] = Items(task, partial(invoke.encode, rt), partial(invoke.failure, name=name))
    try:
        async for item in value:
            if not items.take(item):
                _warn_of_more(items, name)
                break
            del item
    except (*ENDS, cancelled):
        raise
    except BaseException as error:
        return items.failed(invoke.failure(error, name))
    finally:
        close = getattr(value, "aclose", None)
        if close is not None:
            await close()
    return items.ended()
