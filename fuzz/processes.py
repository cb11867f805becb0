"""Processes of a session, told apart from strangers that got the same pid later."""

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
