"""Linearizability by trying every order: obviously right, and exponential."""

from __future__ import annotations

import math
from itertools import combinations, permutations


def linearizable(operations, step, initial=None) -> bool:
    """Whether some order of all answered operations and any of the unanswered ones respects time and results."""
    certain = [op for op in operations if op.returned != math.inf]
    unknown = [op for op in operations if op.returned == math.inf]
    for count in range(len(unknown) + 1):
        for chosen in combinations(unknown, count):
            for order in permutations([*certain, *chosen]):
                if _respects_time(order) and _legal(order, step, initial):
                    return True
    return False


def _respects_time(order) -> bool:
    return all(not later.returned < earlier.called for i, earlier in enumerate(order) for later in order[i + 1:])


def _legal(order, step, state) -> bool:
    for op in order:
        state, result = step(state, op.action)
        if op.returned != math.inf and result != op.result:
            return False
    return True
