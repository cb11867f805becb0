"""The values that a task's reply brings: they go to the entries of its returns, or are discarded.

    reply                         entries
    n values for n returns        each gets its value
    k values and a failure        the first k get theirs, the others the failure (a generator raised after k items)
    dynamic                       one more entry for each item; the first gets the references to them
    of an attempt that is retried none: its values are freed

A task that runs again for a lost result brings values for entries that have one, or that were freed: these are freed.
"""

from __future__ import annotations

from typing import Any, Protocol

from zray.base import ids
from zray.owner.lineage import Lineage, is_stored
from zray.owner.ports import Columns
from zray.owner.records import Entry, Task
from zray.owner.references import References
from zray.wire.messages import CARRYING, FAILED

MADE_FEWER = [FAILED, "reconstruction", {"reason": "its generator made fewer items when it ran again"}]


class _Submitter(Protocol):
    lineage: Lineage

    def fail(self, task: Task, failure: list[Any]) -> None: ...
    def end(self, task: Task) -> None:
        """The task is done; its returns get their values next."""


class Results:
    """The results of all tasks of one Submitter (and of its actor calls)."""

    def __init__(self, submitter: _Submitter, refs: References, columns: Columns):
        self.submitter = submitter
        self.refs = refs
        self.columns = columns

    def take(self, task: Task, values: list[Any], extra: dict[str, Any], sender: bytes) -> None:
        """The attempt is the last one: end the task with these values."""
        failure = extra.get("failure")
        if extra.get("dynamic"):
            values = self._of_generator(task, values, failure, sender)
        entries = task.entry if type(task.entry) is list else [task.entry]
        if failure is not None:
            values = [*values, *[failure] * (len(entries) - len(values))]
            # An entry that has a value already keeps it: the task ran again for another one.
            new = (value for entry, value in zip(entries, values, strict=False) if entry.value is None)
            failed = sum(value is failure for value in new)
            if failed and not task.cancelling:
                self.refs.unhandled.failed(failure, failed)
        if len(values) != len(entries):
            self.discard(values, sender)
            self.submitter.fail(task, [FAILED, "system", {
                "reason": f"{len(values)} values for {len(entries)} returns"}])
            return
        pins, task.pins = task.pins, None
        deps = task.deps
        self.submitter.end(task)
        inline = True
        for entry, value in zip(entries, values, strict=True):
            self.deliver(entry, value, sender)
            inline = inline and type(value) is bytes
        lineage = self.submitter.lineage
        if not inline or task.tid in lineage.recipes:
            lineage.keep(task, pins, deps, entries)
        if pins:  # only now: a value may contain an argument, and its sender may be dead and hold nothing
            self.refs.unpin_all(pins)

    def deliver(self, entry: Entry, value: Any, sender: bytes) -> None:
        """Give an entry its value, taking over the references that it carries."""
        contained = None
        if type(value) is list and value[0] == CARRYING:
            contained = self.refs.transits.receive(sender, value[2], value[3] if len(value) > 3 else 0)
            value = value[1]
        if entry.value is None:
            entry.contained = contained
            self.refs.complete(entry, value)
            return
        # The task ran again for another of its results; this result is still there, or was freed long ago.
        if is_stored(value):
            self.refs.free_stored(entry.oid, value, True)
        self.refs.unpin_all(contained or ())

    def discard(self, values: list[Any], sender: bytes) -> None:
        """Free values that no entry gets."""
        for value in values:
            if type(value) is list and value[0] == CARRYING:
                self.refs.unpin_all(self.refs.transits.receive(sender, value[2], value[3] if len(value) > 3 else 0))
                value = value[1]
            if is_stored(value):
                self.refs.free_stored(value[4], value, True)

    # ------------------------------------------------------------ num_returns="dynamic"

    def _of_generator(self, task: Task, values: list[Any], failure: list[Any] | None, sender: bytes) -> list[Any]:
        """A value for each entry of the task: for the object of the references, then for each item.

        The first run makes the entries of the items.  A later run gives the lost ones their values.
        """
        if failure is not None:
            values = [*values, failure]
        if type(task.entry) is not list:
            task.entry = [task.entry, *(Entry(ids.return_id(task.tid, ids.DYNAMIC_FIRST + index), task)
                                        for index in range(len(values)))]
            for entry in task.entry[1:]:
                entry.refs = 0  # the references in the first object are the only ones
                self.refs.owned[entry.oid] = entry
        else:
            self.discard(values[len(task.entry) - 1:], sender)
            values = values[:len(task.entry) - 1]
            values += [failure or MADE_FEWER] * (len(task.entry) - 1 - len(values))
        return [b"" if task.entry[0].value is not None else self._references(task), *values]

    def _references(self, task: Task) -> list[Any]:
        """The value of the first object."""
        items = task.entry[1:]
        for index, entry in enumerate(items, 1):
            if self.refs.owned.get(entry.oid) is not entry:  # freed since an earlier run
                again = task.entry[index] = self.refs.owned[entry.oid] = Entry(entry.oid, task)
                again.refs = 0
        oids = [entry.oid for entry in items]
        return [CARRYING, self.columns.references(oids), [[oid, self.refs.me, ""] for oid in oids]]
