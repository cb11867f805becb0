"""What each row must reach on a 2-core machine, and whether a measured row does.

The numbers are the project's own targets, argued in docs/benchmarks.md; rows without one are for information.
"""

from __future__ import annotations

from benchmarks.measure import Row

BUDGETS: dict[str, float] = {
    "init to first task result": 0.4,
    "shutdown": 0.3,
    "task, synchronous": 0.2,
    "tasks, 1000 at a time": 60_000,
    "actor call, synchronous": 0.15,
    "actor calls, 1000 at a time": 80_000,
    "n:n actor calls (n = 2)": 50_000,
    "async actor, synchronous": 5_000,
    "async actor, 1000 at a time": 40_000,
    "actor call, one at a time": 0.03,
    "actor call, after pauses of 1 ms": 0.11,
    "actor call, two pairs at once": 0.08,
    "task, one at a time": 0.035,
    "call of an async actor, one at a time": 0.08,
    "chain of 100 dependent tasks": 60_000,
    "actors created and answering": 150,
    "put of 100 B": 100_000,
    "put of 200 kB": 20_000,
    "get of a local 200 kB array": 100_000,
    "put of 100 MB": 8,
    "put of 100 MB, fresh memory": 5,
    "wait draining 1000 references": 100,
    "f.map of no-op tasks": 2_000_000,
    "one scheduling decision, 1000 nodes x 8 resources, batched": 1_000_000,
    "idle memory (PSS), driver included": 120,
    "processes of an idle session": 6,
    "memory of one more worker": 5,
    "1,000,000 queued tasks": 40,
    "driver memory of a queued task": 1000,
    "10,000 references as arguments": 1,
    "3,000 returns of one task": 1,
    "get of 10,000 objects": 1,
}


def reached(row: Row) -> bool | None:
    """Whether the row meets its budget; None when it has none."""
    budget = BUDGETS.get(row["row"])
    if budget is None:
        return None
    return row["value"] >= budget if row["better"] == "higher" else row["value"] <= budget
