"""How many tasks have ended, for metrics: by name, job, end, and whether it was a retry.  Pure, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

NAMES_MAX = 1000  # names and jobs; tasks of further ones count together
OTHER = "(other)"

Counted = tuple[str, int, bool, bool]  # name, job, finished, retry


class TaskCounts:
    """Counts since the start of the node."""

    def __init__(self, names_max: int = NAMES_MAX):
        self._names_max = names_max
        self._names: set[tuple[str, int]] = set()
        self._counts: dict[Counted, int] = {}

    def add(self, name: str, job: int, finished: bool, attempt: int, count: int = 1) -> None:
        """``count`` attempts have ended."""
        if (name, job) not in self._names:
            if len(self._names) >= self._names_max:
                name, job = OTHER, 0
            else:
                self._names.add((name, job))
        key = name, job, finished, attempt > 0
        self._counts[key] = self._counts.get(key, 0) + count

    def __iter__(self) -> Iterator[tuple[Counted, int]]:
        return iter(self._counts.items())
