"""Is a history of concurrent operations linearizable?  The checker of Wing and Gong with the memory of Lowe.

A history is linearizable (Herlihy and Wing, 1990) if every operation can be given one instant between its call and its
return such that, run one at a time in that order, each returns what it returned.  Operations on different keys do not
interact, so keys are checked one by one (locality, same paper).  The search tries every operation that may come next
(called before the first return among the rest), takes it back on failure, and remembers each pair (set of operations
done, state) so that it is tried once (Lowe, "Testing for linearizability", 2017).

An operation without an answer (its client may have died) returns at infinity: it may take effect at any time after its
call, or never.  The search places one only where no answered operation fits: most had no effect that anybody saw, and
to try each of many first, at each place, takes exponential time.

A model is a function ``step(state, operation) -> (state, result)`` over hashable states.  The cost grows with the
number of operations that are open at once: use many keys and at most about eight clients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from zray.base.named_tuples import NamedTuple

Step = Callable[[Hashable, Any], tuple[Hashable, Any]]

UNANSWERED = math.inf


class Operation(NamedTuple):
    """One call by one client; ``returned`` is UNANSWERED (and ``result`` ignored) when no answer came."""

    key: Hashable
    action: Any
    result: Any
    called: float
    returned: float
    client: Hashable = None


class Verdict(NamedTuple):
    """``ok``; else the key that has no linearization, its history, and the longest legal order that was found."""

    ok: bool
    key: Hashable = None
    history: tuple[Operation, ...] = ()
    longest: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        return self.ok


def check(history: Iterable[Operation], step: Step, initial: Hashable = None) -> Verdict:
    """Verdict on a history; every key starts in state ``initial``."""
    by_key: dict[Hashable, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    for key, operations in by_key.items():
        longest = _longest_order(operations, step, initial)
        if longest is not None:
            return Verdict(False, key, tuple(operations), longest)
    return Verdict(True)


class _Entry:
    """A call or a return in the list of events in order of time; a call knows its return."""

    __slots__ = ("after", "before", "index", "returns")

    def __init__(self, index: int) -> None:
        self.index = index
        self.returns: _Entry | None = None  # None: this is a return
        self.before: _Entry | None = None
        self.after: _Entry | None = None


def _longest_order(operations: list[Operation], step: Step, initial: Hashable) -> tuple[Operation, ...] | None:
    """None when there is a linearization, else the longest order that was legal."""
    head = _events(operations)
    # Only operations that returned must be placed; unknown ones may be left out.
    wanted = sum(1 << i for i, operation in enumerate(operations) if operation.returned != UNANSWERED)
    done, state = 0, initial
    seen = {(done, state)}
    undo: list[tuple[_Entry, Hashable, bool]] = []
    longest: list[int] = []
    entry, unknown = head.after, False  # whether those without an answer are tried at this place
    while done & wanted != wanted:
        if entry is not None and entry.returns is not None:
            operation = operations[entry.index]
            if (operation.returned == UNANSWERED) is unknown:
                after, result = step(state, operation.action)
                attempt = (done | 1 << entry.index, after)
                if (unknown or result == operation.result) and attempt not in seen:
                    seen.add(attempt)
                    undo.append((entry, state, unknown))
                    done, state = attempt
                    _lift(entry)
                    if len(undo) > len(longest):
                        longest = [lifted.index for lifted, *_ in undo]
                    entry, unknown = head.after, False
                    continue
            entry = entry.after
            continue
        # The first return of an operation not yet placed, or the end: nothing may be placed after it.
        if not unknown:
            entry, unknown = head.after, True
            continue
        if not undo:
            return tuple(operations[i] for i in longest)
        entry, state, unknown = undo.pop()
        done &= ~(1 << entry.index)
        _unlift(entry)
        entry = entry.after
    return None


def _events(operations: list[Operation]) -> _Entry:
    """Calls and returns in order of time as a linked list behind a sentinel; at equal times calls come first.

    Calls first means that operations which touch count as concurrent, the weaker demand.
    """
    timed: list[tuple[float, int, int, _Entry]] = []
    for index, operation in enumerate(operations):
        if operation.returned < operation.called:
            raise ValueError(f"an operation returned before it was called: {operation}")
        call, back = _Entry(index), _Entry(index)
        call.returns = back
        timed.append((operation.called, 0, index, call))
        timed.append((operation.returned, 1, index, back))
    timed.sort(key=lambda event: event[:3])
    head = last = _Entry(-1)
    for *_, entry in timed:
        last.after, entry.before = entry, last
        last = entry
    return head


def _lift(call: _Entry) -> None:
    """Take a call and its return out of the list."""
    for entry in (call, call.returns):
        assert entry is not None and entry.before is not None
        entry.before.after = entry.after
        if entry.after is not None:
            entry.after.before = entry.before


def _unlift(call: _Entry) -> None:
    """Put them back, in the opposite order."""
    for entry in (call.returns, call):
        assert entry is not None and entry.before is not None
        entry.before.after = entry
        if entry.after is not None:
            entry.after.before = entry
