"""What a session must not leave behind: processes, shared memory, session files, descriptors, threads."""

from __future__ import annotations

import glob
import os
import re
import threading
from collections import Counter

import psutil

from tests.e2e.target import until

LOG_FILE = re.compile(r"node\.log(\.1)?|worker-[0-9a-f]{16}\.(out|err)|environment-\w+\.log|job-driver-.+\.log"
                      r"|spans-\d+\.jsonl|dashboard\.log")


class Footprint:
    """What this process and its descendants hold now; ``watch`` adds what a running session holds."""

    def __init__(self, session_root: str):
        self.session_root = session_root
        self.descriptors = _descriptors()
        self.threads = set(threading.enumerate())
        self.processes: dict[tuple[int, float], psutil.Process] = {}
        self.segments: set[str] = set()

    def watch(self) -> None:
        """Note the processes and shared-memory segments of the session that runs now."""
        for process in psutil.Process().children(recursive=True):
            try:
                self.processes[process.pid, process.create_time()] = process
                self.segments |= _segments(process.pid)
            except psutil.NoSuchProcess:
                pass
        self.segments |= _segments(os.getpid())

    def check(self) -> None:
        """After shutdown: everything that was watched is gone."""
        until(lambda: not self.alive(), lambda: f"processes end, alive: {self.alive()}", 10)
        until(lambda: not self.leftover_segments(), lambda: f"segments go: {self.leftover_segments()}", 5)
        until(lambda: not self.leftover_sessions(), lambda: f"session directories go: {self.leftover_sessions()}", 5)
        until(lambda: not self.new_threads(), lambda: f"threads end: {self.new_threads()}", 5)
        until(lambda: not self.new_descriptors(), lambda: f"descriptors are closed: {self.new_descriptors()}", 5)

    def alive(self) -> list[str]:
        return [repr(p) for p in self.processes.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def leftover_segments(self) -> list[str]:
        return sorted(path for path in self.segments if os.path.exists(path))

    def leftover_sessions(self) -> list[str]:
        pattern = os.path.join(self.session_root, "zray-*", "*")
        return [path for path in glob.glob(pattern)
                if os.path.isdir(path) and not os.path.islink(path) and not only_logs(path)]

    def new_threads(self) -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t not in self.threads and t.is_alive()]

    def new_descriptors(self) -> dict[str, int]:
        return dict(_descriptors() - self.descriptors)


def _descriptors() -> Counter[str]:
    """Targets of the open descriptors, numbers left out (``socket:[123]`` counts as ``socket:``)."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        found[target.split("[")[0] if "[" in target else target] += 1
    return found


def only_logs(session_dir: str) -> bool:
    """What may stay of a session that has ended: log files in which there is something, and its state.

    Or an empty directory: a daemon that is killed while it deletes old logs leaves one, and a later sweep takes it.
    """
    logs = os.path.join(session_dir, "logs")
    try:
        if not os.listdir(session_dir):
            return True
        with os.scandir(logs) as entries:
            return set(os.listdir(session_dir)) <= {"logs", "state"} and all(
                entry.is_file(follow_symlinks=False) and entry.stat().st_size and LOG_FILE.fullmatch(entry.name)
                for entry in entries)
    except FileNotFoundError:
        return not os.path.exists(session_dir)


def _segments(pid: int) -> set[str]:
    try:
        with open(f"/proc/{pid}/maps") as maps:
            paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "/dev/shm/zray-" in line}
    except (OSError, psutil.Error):
        return set()
    return {path.removesuffix(" (deleted)") for path in paths}
