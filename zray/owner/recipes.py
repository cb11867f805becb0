"""How to make an unfinished object: what its owner tells the holders, so that the object outlives the owner.  Pure.

    a reference to a pending object leaves       its holder gets the recipe (zray.owner.eager_values sends it)
    the owner dies                               the holder that adopts the object makes it (zray.owner.remaking)

zray.owner.unmade has the form.  Only these have a recipe: tasks that may run once more, and items of maps that may.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base import ids
from zray.owner.lineage import CANCELLED, NO_REASON, why_not
from zray.owner.maps import MapBatch
from zray.owner.ports import Columns
from zray.owner.records import Entry, Key, Record, Task
from zray.owner.unmade import UnmadeTask

LAST_ATTEMPT = "its task must not run a second time (max_retries=0, or all retries are used up)"
CALL = "a call of an actor was to make it, and calls are not run again without their caller"
CANCELLED_TEXT = "its task was cancelled"
PACKING = "its arguments could not be pickled"
ENDED_MAP = "its map has ended, and the value was on its way"


class Recipes:
    """Makes the recipes of this process's pending objects.  ``before(task)``: processes that owned it earlier."""

    def __init__(self, me: bytes, columns: Columns, before: Callable[[bytes], list[bytes]]):
        self.me = me
        self.columns = columns
        self.before = before

    def of(self, entry: Entry) -> tuple[list[Any] | str, list[Record]]:
        """``(recipe, inputs)``; a reason, and no inputs, when there is no recipe."""
        maker = entry.task
        if type(maker) is MapBatch:
            return self._of_item(maker, entry)
        if type(maker) is not Task:
            return "", []
        if maker.key is None or maker.stream is not None:
            return CALL, []
        why = CANCELLED if maker.cancelling else why_not(maker)
        if why is not NO_REASON:
            return CANCELLED_TEXT if why is CANCELLED else LAST_ATTEMPT, []
        deps = maker.deps or []
        others = list(maker.pins or ())
        for record in deps:
            others.remove(record)
        return self._recipe(maker.tid, maker.attempt, maker.retries, maker.nret, maker.fn.key, maker.fn.name,
                            maker.args, maker.extra, maker.key, len(deps), maker.retry_errors is True), deps + others

    def _of_item(self, batch: MapBatch, entry: Entry) -> tuple[list[Any] | str, list[Record]]:
        index = int.from_bytes(entry.oid[ids.PREFIX_SIZE:ids.TASK_SIZE], "little") - batch.start
        attempt = batch.attempts.get(index, 0)
        if batch.retries == 0 or 0 < batch.retries <= attempt:
            return LAST_ATTEMPT, []
        if index in batch.cancelled:
            return CANCELLED_TEXT, []
        if not batch.items:
            return ENDED_MAP, []
        try:
            args, inputs = self.columns.pack_call(batch.items[index], batch.star)
        except Exception:  # the user's objects decide what pickling them raises
            return PACKING, []
        retries = batch.retries if batch.retries < 0 else batch.retries - attempt
        return self._recipe(batch.task_id(index), attempt, retries, 1, batch.fn.key, batch.fn.name, args, None,
                            batch.key, 0, batch.retry_errors is True), inputs

    def _recipe(self, task: bytes, attempt: int, retries: int, returns: int, function: bytes, name: str, args: Any,
                extra: dict[str, Any] | None, key: Key, arguments: int, retry_errors: bool) -> list[Any]:
        strategy = {what: value for what, value in key.strategy.items() if what not in ("locality", "bytes")}
        return list(UnmadeTask(
            task, attempt, retries, returns, function, name, args, extra, [key.demand, key.env, strategy, key.name],
            arguments, retry_errors, [*self.before(task), self.me]))
