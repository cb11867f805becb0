"""Which fault happens when, and to whom: a function of the seed alone."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

# How often each kind is drawn, relative to the others of its list.
KILLS = {"kill worker": 6, "kill node": 3, "kill replica": 2, "kill owner": 3, "kill driver": 2, "kill zygote": 1}
OTHERS = {"stop worker": 2, "stop node briefly": 2, "stop node": 1, "stop driver": 1, "cut briefly": 2, "cut": 2,
          "leave": 1, "starve of cpu": 2, "starve of shm": 2, "starve of disk": 2}
ALL_KINDS = (*KILLS, *OTHERS)
# Seconds from the beginning of a fault to its undoing; the others have none.  A brief one ends before a node counts as
# dead (node_timeout_s, 3 s), a long one after.
LASTS_S = {"stop worker": (0.5, 4.0), "stop node briefly": (0.2, 1.5), "stop node": (4.5, 7.0),
           "stop driver": (0.5, 6.0), "cut briefly": (0.2, 1.5), "cut": (4.5, 9.0), "starve of cpu": (1.0, 4.0),
           "starve of shm": (1.0, 5.0), "starve of disk": (1.0, 5.0)}


@dataclass(frozen=True, slots=True)
class Fault:
    """At ``at_s`` after the start.  ``host`` for faults of nodes; ``pick`` in [0, 1) chooses among processes."""

    at_s: float
    kind: str
    host: int
    pick: float
    lasts_s: float

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.at_s:7.1f} s  {self.kind}{lasts}, host {self.host}, pick {self.pick:.3f}"


def plan(seed: int, seconds: float, every_s: float, hosts: int, kinds: Collection[str]) -> list[Fault]:
    """A kill each ``every_s`` seconds, and another fault between two kills, all of ``kinds``."""
    rng = random.Random(f"chaos {seed}")
    tables = [{kind: weight for kind, weight in table.items() if kind in kinds} for table in (KILLS, OTHERS)]
    out, at = [], every_s
    while at < seconds:
        for table, moment in zip(tables, (at, at + every_s * rng.uniform(0.2, 0.8)), strict=True):
            if table and moment < seconds:
                kind = rng.choices(list(table), list(table.values()))[0]
                lasts = round(rng.uniform(*LASTS_S[kind]), 2) if kind in LASTS_S else 0.0
                out.append(Fault(round(moment, 2), kind, rng.randrange(hosts), rng.random(), lasts))
        at += every_s
    return out


def each(seed: int, every_s: float, hosts: int, kinds: Collection[str]) -> list[Fault]:
    """One fault of each kind, ``every_s`` apart."""
    rng = random.Random(f"chaos {seed}")
    return [Fault(round((i + 1) * every_s, 2), kind, rng.randrange(hosts), rng.random(),
                  round(rng.uniform(*LASTS_S[kind]), 2) if kind in LASTS_S else 0.0) for i, kind in enumerate(kinds)]
