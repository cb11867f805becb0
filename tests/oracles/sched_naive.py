"""Placement written from the prose of zray/sched/policies and zray/sched/kernels/plain.py, by exact fractions and
exhaustion.

Nothing here is fast, shares code with what it checks, or knows about int64.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from math import floor

NOT_NOW, INFEASIBLE = -1, -2
MILLION = 1_000_000


def has(amounts, demand) -> bool:
    return not any(need > amount for need, amount in zip(demand, amounts, strict=True))


def load(total, free) -> int:
    """Share in use of the most used resource that the node has, in whole parts per million."""
    shares = [Fraction(t - f, t) for t, f in zip(total, free, strict=True) if t > 0]
    return floor(max(shares, default=Fraction(0)) * MILLION)


def hybrid(total, available, allowed, demand, threshold, here, gpu) -> int:
    """1. without GPUs first, if the demand has none; 2. the lower load, zero below the limit; 3. here; 4. lowest."""
    possible = [row for row in range(len(total)) if allowed[row] and has(total[row], demand)]
    if not possible:
        return INFEASIBLE
    free_now = [row for row in possible if has(available[row], demand)]
    if not free_now:
        return NOT_NOW

    def rank(row):
        wasted_gpu = 0 <= gpu < len(demand) and demand[gpu] == 0 and total[row][gpu] > 0
        used = load(total[row], available[row])
        return wasted_gpu, used if used >= threshold else 0, row != here, row

    return min(free_now, key=rank)


def spread(total, available, allowed, demand, cursor) -> int:
    """The first with the demand free, from the cursor on and round again."""
    rows = list(range(len(total)))
    for row in rows[cursor:] + rows[:cursor]:
        if allowed[row] and has(available[row], demand) and has(total[row], demand):
            return row
    return NOT_NOW if any(allowed[row] and has(total[row], demand) for row in rows) else INFEASIBLE


def batch(total, available, allowed, demands, classes, threshold, gpu):
    """One after the other; the answers and what is free afterwards."""
    free, out = [list(row) for row in available], []
    for which in classes:
        row = hybrid(total, free, allowed, demands[which], threshold, -1, gpu)
        out.append(row)
        if row >= 0:
            free[row] = [f - d for f, d in zip(free[row], demands[which], strict=True)]
    return out, free


def bundles_pack(available, allowed, bundles, strict):
    """Again and again the row that holds most of the bundles left, in order; None when some bundle is left over."""
    free, where = [list(row) for row in available], {}
    while len(where) < len(bundles):
        choices = []
        for row in range(len(free)):
            if not allowed[row]:
                continue
            left, fit = list(free[row]), []
            for number, bundle in enumerate(bundles):
                if number not in where and has(left, bundle):
                    left = [f - d for f, d in zip(left, bundle, strict=True)]
                    fit.append(number)
            choices.append((-len(fit), row, fit, left))
        if not choices or not min(choices)[2] or (strict and len(min(choices)[2]) < len(bundles)):
            return None
        _, row, fit, left = min(choices)
        free[row] = left
        where.update(dict.fromkeys(fit, row))
    return [where[number] for number in range(len(bundles))]


def bundles_spread(available, allowed, bundles):
    """Each bundle in order to the row with the fewest of the group; None when one fits nowhere."""
    free, where = [list(row) for row in available], []
    for bundle in bundles:
        rows = [row for row in range(len(free)) if allowed[row] and has(free[row], bundle)]
        if not rows:
            return None
        row = min(rows, key=lambda row: (where.count(row), row))
        free[row] = [f - d for f, d in zip(free[row], bundle, strict=True)]
        where.append(row)
    return where


def bundles_can_be_strictly_spread(available, allowed, bundles) -> bool:
    """Is there any way to give each bundle a row of its own?"""
    rows = [row for row in range(len(available)) if allowed[row]]
    return any(
        all(has(available[row], bundle) for row, bundle in zip(chosen, bundles, strict=True))
        for chosen in permutations(rows, len(bundles))
    )
