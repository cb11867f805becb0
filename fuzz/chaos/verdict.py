"""Which errors the failure model allows, after which faults (docs/failures.md); pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# What a kind of fault is to the failure model.
NODE = frozenset(("kill node", "kill replica", "stop node", "cut", "leave"))  # a node ends, or counts as dead
PROCESS = frozenset(("kill worker", "kill owner", "kill zygote"))
DRIVER = frozenset(("kill driver", "stop driver"))
FULL = frozenset(("starve of shm", "starve of disk"))

# An error is excused this long after the end of a fault: the time to notice it, on a machine that is busy.
LATE_S = 30.0

LOST_NODE = {"LocalRayletDiedError": NODE | {"stop driver"}}
FULL_STORE = {"OutOfDiskError": FULL, "ObjectStoreFullError": FULL}


@dataclass(slots=True)
class Happened:
    """Faults that took place: (kind, start, end), in one clock."""

    faults: list[tuple[str, float, float]] = field(default_factory=list)

    def during(self, since: float, until: float) -> set[str]:
        """Kinds that had an effect between the two moments."""
        return {kind for kind, start, end in self.faults if start <= until and end + LATE_S >= since}


def is_excused(error: str, text: str, allowed: Mapping[str, Iterable[str]], happened: set[str]) -> bool:
    """Whether a fault that has happened excuses that error.

    ``allowed`` has the kinds of faults by the name of the error, or by "name: words" where the text must have these.
    """
    for key, kinds in allowed.items():
        name, _, words = key.partition(": ")
        if name == error and words in text and happened & frozenset(kinds):
            return True
    return False
