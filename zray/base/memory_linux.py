"""Limits of memory on Linux: /proc/meminfo, and control groups of version 1 and 2.

A process may use what is left in each of its control groups, from its own up to the root, and on the machine.  Pages
of files that were not used lately count as free, as for MemAvailable: the kernel drops them before it ends a process.
``root`` is where the files are; tests have them elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

DESCENDANTS_MAX = 1000  # of one process that are counted
UNLIMITED = 1 << 60  # version 1 says some 2**63 for no limit


class MemoryGroup:
    """A control group with a limit."""

    def __init__(self, directory: str, limit: int, version: int):
        self.directory, self.limit, self.version = directory, limit, version

    def used(self, precisely: bool) -> int:
        """Bytes in use; ``precisely``: without pages of files that can be dropped, which costs a second read."""
        name = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        used = _number(os.path.join(self.directory, name))
        if not precisely:
            return used
        key = "inactive_file" if self.version == 2 else "total_inactive_file"
        return max(0, used - _fields(os.path.join(self.directory, "memory.stat")).get(key, 0))


def limited_groups(root: str = "/") -> list[MemoryGroup]:
    """The control groups of this process that limit its memory."""
    out = []
    for version, base, path in _hierarchies(root):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        for directory in _up(base, path):
            limit = _number(os.path.join(directory, name))
            if 0 < limit < UNLIMITED:
                out.append(MemoryGroup(directory, limit, version))
    return out


def _hierarchies(root: str) -> Iterable[tuple[int, str, str]]:
    """``(version, where it is mounted, path of our group in it)`` of the hierarchies that count memory."""
    mounts = os.path.join(root, "sys/fs/cgroup")
    for line in _lines(os.path.join(root, "proc/self/cgroup")):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            unified = os.path.join(mounts, "unified")
            yield 2, unified if os.path.isdir(unified) else mounts, path
        elif "memory" in controllers.split(","):
            yield 1, os.path.join(mounts, "memory"), path


def _up(base: str, path: str) -> Iterable[str]:
    """The directories from the group up to the root.  In a container the path may be that of the host, and the mount
    shows only our own group, at its root."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    if not os.path.isdir(os.path.join(base, *parts)):
        parts = []
    for count in range(len(parts), -1, -1):
        yield os.path.join(base, *parts[:count])


def machine(root: str = "/") -> tuple[int, int]:
    """``(used, total)`` bytes of the machine."""
    found = _fields(os.path.join(root, "proc/meminfo"))
    total = found.get("MemTotal:", 0) * 1024
    return total - found.get("MemAvailable:", 0) * 1024, total


def memory_bytes(root: str = "/") -> int:
    """Memory of this machine or, where smaller, of a control group of this process."""
    total = machine(root)[1]
    return min([total, *(group.limit for group in limited_groups(root))])


def with_descendants(pid: int, root: str = "/") -> list[int]:
    """That process and those that it and its children have started, as far as they live."""
    found = [pid]
    for one in found:  # which grows meanwhile
        if len(found) >= DESCENDANTS_MAX:
            break
        tasks = os.path.join(root, "proc", str(one), "task")
        with contextlib.suppress(OSError):  # it has ended
            for thread in os.listdir(tasks):
                for line in _lines(os.path.join(tasks, thread, "children")):
                    found += map(int, line.split())
    return found


def anonymous_share(pid: int, root: str = "/") -> int:
    """Bytes of its memory without files and shared memory; a page of several processes is divided among them."""
    return _fields(os.path.join(root, "proc", str(pid), "smaps_rollup")).get("Pss_Anon:", 0) * 1024


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _number(path: str) -> int:
    """The number in a file; 0 where there is none, or no limit ("max")."""
    with contextlib.suppress(ValueError, IndexError):
        return int(_lines(path)[0])
    return 0


def _fields(path: str) -> dict[str, int]:
    """The numbers in a file of lines "name number ..."."""
    out = {}
    for line in _lines(path):
        words = line.split()
        if len(words) > 1 and words[1].isdigit():
            out[words[0]] = int(words[1])
    return out
