"""Measures of the machine and of the processes of a node, read from /proc when somebody asks.  Linux.

Names and units are those of Ray's reporter, which needs psutil and measures every few seconds.  Rates (CPU, network)
are means since the last question; the first answer has those since the start of the machine or process.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from typing import Any

from zray.base import memory_linux

PROCESSES_MAX = 1000  # 20 us each: a node with more workers must not stop for longer
Family = tuple[str, str, list[tuple[dict[str, str], float]]]  # name, description, series


class HostMetrics:
    """``read(processes)``: the families of this machine; ``root`` is where /proc is."""

    def __init__(self, session_dir: str, root: str = "/"):
        self.session_name = os.path.basename(session_dir)
        self._session_dir, self._root = session_dir, root
        self._page, self._tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
        self._cpu = 0, 0  # busy and all ticks at the last question
        self._network: tuple[float, int, int] | None = None  # time, bytes received, sent
        self._ticks: dict[int, tuple[float, int]] = {}  # pid -> time and CPU ticks at the last question

    def read(self, processes: Iterable[tuple[int, str]]) -> list[Family]:
        """``processes``: (pid, component) of the workers."""
        now = time.monotonic()
        return [*self._processors(), *self._memory(), *self._disk(), *self._interfaces(now),
                *self._components([(os.getpid(), "raylet"), *processes][:PROCESSES_MAX], now)]

    def _path(self, name: str) -> str:
        return os.path.join(self._root, "proc", name)

    def _processors(self) -> list[Family]:
        with open(self._path("stat"), encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
        whole, idle = sum(ticks), ticks[3] + ticks[4]
        busy = whole - idle
        before_busy, before_whole = self._cpu
        self._cpu = busy, whole
        share = (busy - before_busy) / (whole - before_whole) if whole > before_whole else 0.0
        return [_one("ray_node_cpu_utilization", "Percent of the CPUs in use", max(0.0, 100 * share)),
                _one("ray_node_cpu_count", "CPUs of the machine", os.cpu_count() or 1)]

    def _memory(self) -> list[Family]:
        used, total = memory_linux.machine(self._root)
        return [_one("ray_node_mem_used", "Bytes of memory in use", used),
                _one("ray_node_mem_available", "Bytes of memory that are available", total - used),
                _one("ray_node_mem_total", "Bytes of memory of the machine", total)]

    def _disk(self) -> list[Family]:
        try:
            found = os.statvfs(self._session_dir)
        except OSError:
            return []
        free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        used = total - found.f_bfree * found.f_frsize
        percent = 100 * used / (used + free) if used + free else 0.0
        return [_one("ray_node_disk_usage", "Bytes in use on the disk of the session", used),
                _one("ray_node_disk_free", "Bytes that are free on the disk of the session", free),
                _one("ray_node_disk_utilization_percentage", "Percent of the disk of the session in use", percent)]

    def _interfaces(self, now: float) -> list[Family]:
        received = sent = 0
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(self._path("net/dev"), encoding="ascii") as file:
                for line in file.readlines()[2:]:
                    name, _, numbers = line.partition(":")
                    if name.strip() != "lo":
                        fields = numbers.split()
                        received, sent = received + int(fields[0]), sent + int(fields[8])
        before, self._network = self._network, (now, received, sent)
        seconds = max(1e-3, now - before[0]) if before is not None else 0.0
        speeds = ((received - before[1]) / seconds, (sent - before[2]) / seconds) if before is not None else (0.0, 0.0)
        return [_one("ray_node_network_received", "Bytes received from the network", received),
                _one("ray_node_network_sent", "Bytes sent to the network", sent),
                _one("ray_node_network_receive_speed", "Bytes received a second", max(0.0, speeds[0])),
                _one("ray_node_network_send_speed", "Bytes sent a second", max(0.0, speeds[1]))]

    def _components(self, processes: list[tuple[int, str]], now: float) -> list[Family]:
        rss: dict[str, float] = {}
        percent: dict[str, float] = {}
        ticks: dict[int, tuple[float, int]] = {}
        for pid, component in processes:
            try:
                with open(self._path(f"{pid}/stat"), "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()  # a name may have blanks and brackets
            except OSError:
                continue  # it has ended
            used, started = int(fields[11]) + int(fields[12]), int(fields[19]) / self._tick
            ticks[pid] = now, used
            then, before = self._ticks.get(pid, (started, 0))
            rss[component] = rss.get(component, 0.0) + int(fields[21]) * self._page / 1e6
            percent[component] = percent.get(component, 0.0) + max(
                0.0, 100 * (used - before) / self._tick / max(0.01, now - then))
        self._ticks = ticks
        return [("ray_component_rss_mb", "Resident megabytes of processes, shared pages counted in each",
                 [({"Component": name}, value) for name, value in rss.items()]),
                ("ray_component_cpu_percentage", "Percent of a CPU that processes use",
                 [({"Component": name}, value) for name, value in percent.items()])]


def _one(name: str, description: str, value: Any) -> Family:
    return name, description, [({}, value)]
