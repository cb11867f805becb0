"""The kernels in plain Python, on lists: a lone node uses them, without numpy or Numba.

Same names, arguments and results as zray.sched.kernels.compiled, to the last tie.  ``total`` and ``available`` are
lists of lists ``[row][column]``; ``allowed`` and demands are lists.  Loads are parts per million.
"""

from __future__ import annotations

NOT_NOW = -1  # some allowed node could hold it, none has it free
INFEASIBLE = -2  # no allowed node could hold it, not even when empty
FULL = 1_000_000
GPU_PENALTY = 1 << 40
NEVER = 1 << 62
PACK, SPREAD, STRICT_PACK, STRICT_SPREAD = 0, 1, 2, 3


def fits(free, demand):
    """Whether every column of ``demand`` is within ``free``."""
    return all(have >= need for have, need in zip(free, demand, strict=True))


def load_of(total, free):
    """Share in use of the most used resource, in ppm, rounded down; resources that the node lacks do not count."""
    load = 0
    for has, left in zip(total, free, strict=True):
        if has > 0:
            used = has - left
            if has >= 1 << 40:  # keeps used * FULL within 63 bits; a byte of a TB is below 1 ppm
                has >>= 20
                used >>= 20
            load = max(load, used * FULL // has)
    return load


def cost_of(total, free, demand, threshold, gpu_column):
    """The cost that the hybrid policy minimises, of a node that has ``demand`` free."""
    load = load_of(total, free)
    cost = 0 if load < threshold else load
    if 0 <= gpu_column < len(total) and total[gpu_column] > 0 and demand[gpu_column] == 0:
        cost += GPU_PENALTY
    return cost


def pick_hybrid(total, available, allowed, demand, threshold, here, gpu_column):
    """The row of least cost where ``demand`` is free; at equal cost ``here``, then the lowest row."""
    best, best_cost, feasible = NOT_NOW, NEVER, False
    for row, ok in enumerate(allowed):
        if not ok or not fits(total[row], demand):
            continue
        feasible = True
        if not fits(available[row], demand):
            continue
        cost = cost_of(total[row], available[row], demand, threshold, gpu_column)
        if cost < best_cost or (cost == best_cost and row == here):
            best, best_cost = row, cost
    return best if feasible else INFEASIBLE


def pick_spread(total, available, allowed, demand, cursor):
    """The first row from ``cursor`` on, and round again, where ``demand`` is free."""
    rows, feasible = len(allowed), False
    for step in range(rows):
        row = (cursor + step) % rows
        if not allowed[row] or not fits(total[row], demand):
            continue
        feasible = True
        if fits(available[row], demand):
            return row
    return NOT_NOW if feasible else INFEASIBLE


def place_batch(total, available, allowed, demands, classes, threshold, gpu_column, out):
    """Decide ``demands[classes[i]]`` for i = 0, 1, ... in turn; each sees the resources that those before it left.

    Writes a row, NOT_NOW or INFEASIBLE to ``out[i]``, takes what it placed from ``available``; returns how many it
    placed.
    """
    placed = 0
    for position, which in enumerate(classes):
        demand = demands[which]
        row = pick_hybrid(total, available, allowed, demand, threshold, -1, gpu_column)
        out[position] = row
        if row >= 0:
            placed += 1
            take(available[row], demand)
    return placed


def take(free, demand):
    for column, need in enumerate(demand):
        free[column] -= need


def give(free, demand):
    for column, need in enumerate(demand):
        free[column] += need


def pack_bundles(total, available, allowed, bundles, strategy, out):
    """Rows for all bundles of a placement group, or for none: 1 and taken from ``available``, or 0 and nothing.

    STRICT_PACK: the lowest row where all fit together.  STRICT_SPREAD: different rows, found whenever they exist.
    PACK: again and again the row that holds most of the bundles left, taken in order.  SPREAD: each bundle in order to
    the row with fewest bundles of the group.  Ties go to the lowest row.  PACK and SPREAD are greedy: they may miss a
    packing that exists, as the exact question is NP-hard.
    """
    if strategy == STRICT_SPREAD:
        done = _match(available, allowed, bundles, out)
        if done:
            for bundle, row in enumerate(out):
                take(available[row], bundles[bundle])
        return done
    for bundle in range(len(bundles)):
        out[bundle] = -1
    if strategy == SPREAD:
        done = _spread(available, allowed, bundles, out)
    else:
        done = _pack(available, allowed, bundles, strategy == STRICT_PACK, out)
    if not done:
        for bundle, row in enumerate(out):
            if row >= 0:
                give(available[row], bundles[bundle])
            out[bundle] = -1
    return done


def _pack(available, allowed, bundles, strict, out):
    left = len(bundles)
    while left:
        best, best_count = -1, 0
        for row, ok in enumerate(allowed):
            if ok:
                count = _would_hold(available[row], bundles, out)
                if count > best_count:
                    best, best_count = row, count
        if best < 0 or (strict and best_count < left):
            return 0
        for bundle, demand in enumerate(bundles):
            if out[bundle] < 0 and fits(available[best], demand):
                take(available[best], demand)
                out[bundle] = best
                left -= 1
    return 1


def _would_hold(free, bundles, out):
    """How many of the unplaced bundles, taken in order where they fit, a row holds."""
    trial, count = list(free), 0
    for bundle, demand in enumerate(bundles):
        if out[bundle] < 0 and fits(trial, demand):
            take(trial, demand)
            count += 1
    return count


def _spread(available, allowed, bundles, out):
    held = [0] * len(allowed)
    for bundle, demand in enumerate(bundles):
        best = -1
        for row, ok in enumerate(allowed):
            if ok and fits(available[row], demand) and (best < 0 or held[row] < held[best]):
                best = row
        if best < 0:
            return 0
        take(available[best], demand)
        held[best] += 1
        out[bundle] = best
    return 1


def _match(available, allowed, bundles, out):
    """A bundle a row by augmenting paths (breadth first, rows in order), as Kuhn's algorithm."""
    rows = len(allowed)
    bundle_on = [-1] * rows
    for bundle in range(len(bundles)):
        out[bundle] = -1
    for start in range(len(bundles)):
        reached_by = [-1] * rows  # the bundle that would move to this row
        queue, end = [start], -1
        while queue and end < 0:
            bundle = queue.pop(0)
            for row in range(rows):
                if allowed[row] and reached_by[row] < 0 and fits(available[row], bundles[bundle]):
                    reached_by[row] = bundle
                    if bundle_on[row] < 0:
                        end = row
                        break
                    queue.append(bundle_on[row])
        if end < 0:
            for bundle in range(len(bundles)):
                out[bundle] = -1
            return 0
        while end >= 0:  # walk back, moving each bundle on the path
            bundle = reached_by[end]
            previous = out[bundle]
            out[bundle], bundle_on[end] = end, bundle
            end = previous
    return 1
