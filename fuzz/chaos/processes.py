"""Processes of a run: they end with their parent, and are found by what the kernel knows of them."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Container

from benchmarks.proc import descendants, name_of

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """SIGKILL to this process when the thread that started it ends; stays over an exec."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def named(root: int, name: str) -> list[int]:
    """Pids below ``root`` with that name, in order."""
    return sorted(pid for pid, _ in descendants(root) if name_of(pid) == name)


def send(pid: int, number: int) -> bool:
    """Whether that process still existed."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _stat(pid: int) -> tuple[str, int] | None:
    """State and parent."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def reap(ours: Container[int]) -> None:
    """Collect processes that lost their parents and came to this process, as the first of its process namespace."""
    if os.getpid() != 1:
        return
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in ours and (stat := _stat(int(name))) and stat == ("Z", 1):
            try:
                os.waitpid(int(name), os.WNOHANG)
            except ChildProcessError:
                pass


def running() -> list[str]:
    """All processes below this one, with their names, except those that keep machines; zombies are none."""
    found = []
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit()) if os.getpid() == 1 else (
        pid for pid, _ in descendants(os.getpid()))
    for pid in pids:
        if pid != os.getpid() and (stat := _stat(pid)) and stat[0] != "Z" and name_of(pid) != "sleep":
            found.append(f"process {pid} ({name_of(pid)}, {_command(pid)})")
    return found


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().replace("\0", " ")[:120]
    except OSError:
        return ""
