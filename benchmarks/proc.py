"""What the kernel knows of processes: who descends from whom, who still runs, how much memory they take."""

from __future__ import annotations

import os


def _stat(pid: int) -> tuple[str, int, int] | None:
    """(state, parent, start time) of a process, None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), int(fields[19])


def name_of(pid: int) -> str:
    """The name a process gave itself; "" when it is gone."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


def live(pid: int, start: int) -> bool:
    """Whether that very process still runs (a zombie does not)."""
    stat = _stat(pid)
    return stat is not None and stat[2] == start and stat[0] != "Z"


def descendants(root: int) -> set[tuple[int, int]]:
    """(pid, start time) of every process below ``root``, itself not included."""
    children: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(int(name))):
            children.setdefault(stat[1], []).append((int(name), stat[2]))
    found: set[tuple[int, int]] = set()
    stack = [root]
    while stack:
        below = children.get(stack.pop(), [])
        found.update(below)
        stack += [pid for pid, _ in below]
    return found


def resident_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pss_bytes(pid: int, kind: str = "Pss") -> int:
    """Proportional set size of a process, or of the part ``kind`` of it; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) * 1024
    except (OSError, StopIteration):
        return 0


def session_memory() -> tuple[int, int]:
    """Proportional set size of this process and all its descendants, and how many they are."""
    sizes = [pss_bytes(pid) for pid in (os.getpid(), *(pid for pid, _ in descendants(os.getpid())))]
    return sum(sizes), sum(size > 0 for size in sizes)
