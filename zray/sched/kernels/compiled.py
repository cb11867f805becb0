"""Numba kernels over the ClusterView: leaves that take int64 C-contiguous arrays and scalars, and release the GIL.

All in this one file, because Numba's cache sees changes of the defining file only.  Do not import it: load it by
``zray.sched.kernels.loading.Kernels.load()``, which decides whether and where compiled code may be cached.
zray.sched.kernels.plain is the same in plain Python, and explains each; the results are equal to the last tie.

``place_batch`` reaches a million decisions a second on 1000 nodes x 8 resources, where a scan takes 9 us each: a
tournament tree per distinct demand holds the cheapest node at its root, and takes in only the nodes that changed
since that demand was last decided.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from zray.sched.kernels import loading

NOT_NOW = -1
INFEASIBLE = -2
FULL = 1_000_000
GPU_PENALTY = 1 << 40
NEVER = 1 << 62
PACK, SPREAD, STRICT_PACK, STRICT_SPREAD = 0, 1, 2, 3

CACHE = loading.caching


@njit(cache=CACHE, nogil=True)
def fits(matrix, row, demand):
    for column in range(demand.size):  # noqa: SIM110  (a loop is what compiles well)
        if matrix[row, column] < demand[column]:
            return False
    return True


@njit(cache=CACHE, nogil=True)
def load_of(total, available, row):
    load = 0
    for column in range(total.shape[1]):
        has = total[row, column]
        if has > 0:
            used = has - available[row, column]
            if has >= 1 << 40:
                has >>= 20
                used >>= 20
            load = max(load, used * FULL // has)
    return load


@njit(cache=CACHE, nogil=True)
def penalty(total, row, demand, gpu_column):
    if 0 <= gpu_column < demand.size and total[row, gpu_column] > 0 and demand[gpu_column] == 0:
        return GPU_PENALTY
    return 0


@njit(cache=CACHE, nogil=True)
def take(available, row, demand):
    for column in range(demand.size):
        available[row, column] -= demand[column]


@njit(cache=CACHE, nogil=True)
def give(available, row, demand):
    for column in range(demand.size):
        available[row, column] += demand[column]


@njit(cache=CACHE, nogil=True)
def pick_hybrid(total, available, allowed, demand, threshold, here, gpu_column):
    best, best_cost, feasible = NOT_NOW, NEVER, False
    for row in range(allowed.size):
        if allowed[row] == 0 or not fits(total, row, demand):
            continue
        feasible = True
        if not fits(available, row, demand):
            continue
        load = load_of(total, available, row)
        cost = (0 if load < threshold else load) + penalty(total, row, demand, gpu_column)
        if cost < best_cost or (cost == best_cost and row == here):
            best, best_cost = row, cost
    return best if feasible else INFEASIBLE


@njit(cache=CACHE, nogil=True)
def pick_spread(total, available, allowed, demand, cursor):
    rows, feasible = allowed.size, False
    for step in range(rows):
        row = (cursor + step) % rows
        if allowed[row] == 0 or not fits(total, row, demand):
            continue
        feasible = True
        if fits(available, row, demand):
            return row
    return NOT_NOW if feasible else INFEASIBLE


@njit(cache=CACHE, nogil=True)
def place_batch(total, available, allowed, demands, classes, threshold, gpu_column, out):
    rows, kinds, count = allowed.size, demands.shape[0], classes.size
    width = 1
    while width < rows:
        width *= 2
    # tree[kind, width + row] is the cost of a row for a demand; each inner node the lesser of its two children.
    tree = np.full((kinds, 2 * width), NEVER, np.int64)
    open_ended = np.zeros((kinds, max(rows, 1)), np.int64)  # total covers the demand, the row is allowed: plus penalty
    answer_none = np.full(kinds, INFEASIBLE, np.int64)
    base = np.zeros(max(rows, 1), np.int64)  # cost of a row by its load alone
    for row in range(rows):
        load = load_of(total, available, row)
        base[row] = 0 if load < threshold else load
    built = np.zeros(kinds, np.int64)
    seen = np.zeros(kinds, np.int64)  # how much of the log of changed rows each tree has taken in
    log = np.empty(count, np.int64)
    logged = 0
    placed = 0
    for position in range(count):
        kind = classes[position]
        demand = demands[kind]
        leaves = tree[kind]
        if built[kind] == 0:
            built[kind] = 1
            for row in range(rows):
                if allowed[row] != 0 and fits(total, row, demand):
                    answer_none[kind] = NOT_NOW
                    open_ended[kind, row] = 1 + penalty(total, row, demand, gpu_column)
            rebuild = True
        else:
            rebuild = logged - seen[kind] > rows // 4  # then one pass over all is cheaper than path by path
        if rebuild:
            for row in range(rows):
                leaves[width + row] = (
                    base[row] + open_ended[kind, row] - 1
                    if open_ended[kind, row] > 0 and fits(available, row, demand) else NEVER
                )
            for node in range(width - 1, 0, -1):
                leaves[node] = min(leaves[2 * node], leaves[2 * node + 1])
        else:
            for entry in range(seen[kind], logged):
                row = log[entry]
                if open_ended[kind, row] == 0:
                    continue
                cost = base[row] + open_ended[kind, row] - 1 if fits(available, row, demand) else NEVER
                node = width + row
                if leaves[node] == cost:
                    continue
                leaves[node] = cost
                node >>= 1
                while node >= 1:
                    least = min(leaves[2 * node], leaves[2 * node + 1])
                    if leaves[node] == least:
                        break
                    leaves[node] = least
                    node >>= 1
        seen[kind] = logged
        least = leaves[1]
        if least == NEVER:
            out[position] = answer_none[kind]
            continue
        node = 1
        while node < width:
            node *= 2
            if leaves[node] != least:  # left first: ties go to the lowest row
                node += 1
        row = node - width
        out[position] = row
        placed += 1
        take(available, row, demand)
        load = load_of(total, available, row)
        base[row] = 0 if load < threshold else load
        log[logged] = row
        logged += 1
    return placed


@njit(cache=CACHE, nogil=True)
def would_hold(available, row, bundles, out):
    trial = available[row : row + 1].copy()
    count = 0
    for bundle in range(bundles.shape[0]):
        if out[bundle] < 0 and fits(trial, 0, bundles[bundle]):
            take(trial, 0, bundles[bundle])
            count += 1
    return count


@njit(cache=CACHE, nogil=True)
def pack(available, allowed, bundles, strict, out):
    left = bundles.shape[0]
    while left > 0:
        best, best_count = -1, 0
        for row in range(allowed.size):
            if allowed[row] != 0:
                count = would_hold(available, row, bundles, out)
                if count > best_count:
                    best, best_count = row, count
        if best < 0 or (strict and best_count < left):
            return 0
        for bundle in range(bundles.shape[0]):
            if out[bundle] < 0 and fits(available, best, bundles[bundle]):
                take(available, best, bundles[bundle])
                out[bundle] = best
                left -= 1
    return 1


@njit(cache=CACHE, nogil=True)
def spread(available, allowed, bundles, out):
    held = np.zeros(allowed.size, np.int64)
    for bundle in range(bundles.shape[0]):
        best = -1
        for row in range(allowed.size):
            if (allowed[row] != 0 and fits(available, row, bundles[bundle])
                    and (best < 0 or held[row] < held[best])):
                best = row
        if best < 0:
            return 0
        take(available, best, bundles[bundle])
        held[best] += 1
        out[bundle] = best
    return 1


@njit(cache=CACHE, nogil=True)
def match(available, allowed, bundles, out):
    rows, count = allowed.size, bundles.shape[0]
    bundle_on = np.full(rows, -1, np.int64)
    queue = np.empty(count + 1, np.int64)
    out[:] = -1
    for start in range(count):
        reached_by = np.full(rows, -1, np.int64)
        queue[0] = start
        first, last, end = 0, 1, -1
        while first < last and end < 0:
            bundle = queue[first]
            first += 1
            for row in range(rows):
                if allowed[row] != 0 and reached_by[row] < 0 and fits(available, row, bundles[bundle]):
                    reached_by[row] = bundle
                    if bundle_on[row] < 0:
                        end = row
                        break
                    queue[last] = bundle_on[row]
                    last += 1
        if end < 0:
            out[:] = -1
            return 0
        while end >= 0:
            bundle = reached_by[end]
            previous = out[bundle]
            out[bundle] = end
            bundle_on[end] = bundle
            end = previous
    return 1


@njit(cache=CACHE, nogil=True)
def pack_bundles(total, available, allowed, bundles, strategy, out):
    count = bundles.shape[0]
    if strategy == STRICT_SPREAD:
        done = match(available, allowed, bundles, out)
        if done:
            for bundle in range(count):
                take(available, out[bundle], bundles[bundle])
        return done
    out[:] = -1
    if strategy == SPREAD:
        done = spread(available, allowed, bundles, out)
    else:
        done = pack(available, allowed, bundles, strategy == STRICT_PACK, out)
    if done == 0:
        for bundle in range(count):
            if out[bundle] >= 0:
                give(available, out[bundle], bundles[bundle])
            out[bundle] = -1
    return done
