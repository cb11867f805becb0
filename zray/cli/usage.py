"""Memory and CPU of processes of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

SAMPLE_S = 0.2  # between the two looks at the CPU time: short for a person, ten ticks of the kernel's clock


class Usage(NamedTuple):
    """Resident bytes, and CPU in percent of one core; None before a second look."""

    rss: int
    cpu: float | None


class Usages:
    """Remembers the CPU times of the last look."""

    def __init__(self) -> None:
        self._times: dict[int, tuple[float, float, float]] = {}  # pid -> (birth, CPU seconds, when)

    def look(self, pids: Iterable[int]) -> dict[int, Usage]:
        """The usage of those processes that run here."""
        import psutil

        found: dict[int, Usage] = {}
        times = {}
        for pid in pids:
            try:
                process = psutil.Process(pid)
                with process.oneshot():
                    born, cpu, rss = process.create_time(), process.cpu_times(), process.memory_info().rss
            except psutil.Error:
                continue
            spent, now = cpu.user + cpu.system, time.monotonic()
            times[pid] = born, spent, now
            before = self._times.get(pid)
            percent = None
            if before is not None and before[0] == born and now > before[2]:
                percent = max(0.0, 100 * (spent - before[1]) / (now - before[2]))
            found[pid] = Usage(rss, percent)
        self._times = times
        return found

    def look_twice(self, pids: Iterable[int]) -> dict[int, Usage]:
        """With the CPU of SAMPLE_S."""
        wanted = list(pids)
        self.look(wanted)
        time.sleep(SAMPLE_S)
        return self.look(wanted)
