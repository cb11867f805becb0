"""Records the requests of nodes to the control store, and tests the answers.

Every update and read of a row by a node's client is an operation; at the end the rows are read once more.  The history
must be linearizable (zray.sim.linearizability).  Then no acknowledged write was lost, none was done twice, and no read
was stale, through all changes of replicas and configurations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.gcs.client.client import Call, GcsClient
from zray.gcs.replica import tables
from zray.sim.linearizability import UNANSWERED, Operation, check


def step(state: Any, action: Any) -> tuple[Any, Any]:
    """Model of one row."""
    kind, *values = action
    if kind == tables.GET:
        return state, state
    if kind == tables.PUT:
        return values[0], state is not None
    if kind == tables.DELETE:
        return None, state is not None
    expected, new = values
    return (new, True) if state == expected else (state, False)


def _answer(kind: int, result: Any) -> Any:
    """The part of a raw result that the model has too."""
    if kind == tables.DELETE:
        return bool(result)
    return result[0]


class GcsHistory:
    """All operations on rows, with the answers that their callers got."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._operations: list[Operation] = []
        self._open: dict[int, tuple[bytes, tuple[Any, ...], float]] = {}
        self._last = 0

    def follow(self, client: GcsClient) -> None:
        """Record all later requests of this client."""
        start = client._start

        def recorded(call: Call, done: Any) -> Call:
            if call.op[0] in (tables.GET, tables.PUT, tables.DELETE, tables.COMPARE_AND_SET):
                self._record(call)
            return start(call, done)

        client._start = recorded  # type: ignore[method-assign]

    def _record(self, call: Call) -> None:
        kind, key, *values = call.op
        self._last = number = self._last + 1
        self._open[number] = key, (kind, *values), self._clock()
        convert = call._map

        def answered(raw: Any) -> Any:
            _, action, called = self._open.pop(number)
            self._operations.append(Operation(key, action, _answer(kind, raw), called, self._clock()))
            return convert(raw) if convert is not None else raw

        call._map = answered

    def check(self, rows: dict[bytes, bytes]) -> None:
        """``rows``: the present content of the store.  AssertionError when no order of operations explains it."""
        now = self._clock()
        unknown = [Operation(key, action, None, called, UNANSWERED) for key, action, called in self._open.values()]
        keys: dict[Any, None] = dict.fromkeys([*(operation.key for operation in [*self._operations, *unknown]), *rows])
        last = [Operation(key, (tables.GET,), rows.get(key), now, now) for key in keys]
        verdict = check([*self._operations, *unknown, *last], step)
        assert verdict, f"the control store contradicts itself about {verdict.key!r}: {verdict.history}"
