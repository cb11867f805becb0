"""The ports of the owner's machines: the methods that they need of their surroundings.  Pure.

There are no defaults: a composition that forgets a port fails when it is constructed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from zray.base.ports import Ports
from zray.owner.records import Task


class Columns(Protocol):
    """The pickling of maps, and of the references to a generator's items.  ``none`` is the value None."""

    none: bytes

    def pack_items(self, items: Sequence[Any]) -> tuple[Any, list[Any] | None]:
        """``(wire value, records that it pins)``; raises any error of pickling the user's objects."""

    def pack_call(self, item: Any, star: bool) -> tuple[Any, list[Any]]:
        """One item as the arguments of a task, and the records inside; raises any error of pickling them."""

    def pick(self, column: Any, position: int, name: str) -> tuple[Any, list[Any]]:
        """``(wire value of one result, records that it pins)``; the value is an error if the result does not load."""

    def pick_later(self, column: Any, position: int, name: str, then: Callable[[Any, list[Any]], None]) -> None:
        """The same for a stored column, whose reading may block; ``then(value, records)`` under the lock.

        The value is the failure ``object_lost`` with a ``reason`` when no copy of the column is left.
        """

    def references(self, oids: Sequence[bytes]) -> bytes:
        """The value of an object that is the references to these objects of ours; it does not block."""

    def failure(self, error: Exception, name: str) -> list[Any]:
        """The wire value of an exception."""


class SubmitterPorts(Ports):
    """The ports of zray.owner.submitter.

    columns                           the pickling of maps
    retry_matches(wanted, failure)    whether a task_error is one of the exception types in ``wanted``
    locate(values, then)              then(nodes): for each stored value the live nodes that have it, under the lock
    cancel_inline(task, recursive)    the end of a task that this process itself runs
    """

    columns: Columns
    retry_matches: Callable[[Any, list[Any]], bool]
    locate: Callable[[list[Any], Callable[[list[list[bytes]]], None]], None]
    cancel_inline: Callable[[Task, bool], None]
