"""How much memory is in use, for the memory monitor (zray.node.processes.memory)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from zray.base import memory_linux
from zray.node.processes.memory import Reading


class MemoryGauge:
    """``read()`` for the memory monitor.  ``limit``: bytes that the workers of this node may hold together, 0 for what
    there is; ``workers()``: their pids."""

    def __init__(self, workers: Callable[[], Iterable[int]], limit: int = 0, root: str = "/"):
        self._workers, self._limit, self._root = workers, limit, root
        self._groups = memory_linux.limited_groups(root)
        self._page = os.sysconf("SC_PAGE_SIZE")

    def read(self) -> list[Reading]:
        """One for each limit: of the machine, of each control group, of the workers."""
        readings = [Reading(*memory_linux.machine(self._root), "memory of the machine")]
        readings += map(self._group, self._groups)
        if self._limit:
            held = sum(map(self.held, self._workers()))
            readings.append(Reading(held, self._limit, "memory_limit_bytes of the workers of this node"))
        return readings

    def _group(self, group: memory_linux.MemoryGroup) -> Reading:
        used = group.used(precisely=False)
        if used > group.limit // 2:
            used = group.used(precisely=True)
        return Reading(used, group.limit, f"limit of the control group {group.directory}")

    def held(self, pid: int) -> int:
        """Bytes that only this process and its descendants hold, without files and shared memory; 0 when it is gone.

        Pages that they share since a fork count once.  The kernel needs more time to say that, so a process without
        children is asked for less.
        """
        family = memory_linux.with_descendants(pid, self._root)
        if len(family) > 1:
            return sum(memory_linux.anonymous_share(one, self._root) for one in family)
        try:
            with open(os.path.join(self._root, "proc", str(pid), "statm"), "rb") as file:
                _, resident, shared, *_ = map(int, file.read().split())
        except (OSError, ValueError):
            return 0
        return (resident - shared) * self._page
