"""Sessions started and ended over and over leave no process, segment, file, thread or descriptor behind.

    python -m fuzz.cycles --count 1000
"""

from __future__ import annotations

import glob
import os
import sys
import tempfile
import threading
import time

import zray as ray
from benchmarks.proc import descendants, live, resident_bytes
from fuzz.command import with_options
from tests.e2e.leaks import only_logs


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def session(work: bool) -> tuple[str, set[tuple[int, int]]]:
    """One session; returns its name, and the processes it had as (pid, start time)."""
    name = os.path.basename(ray.init(num_cpus=2).address_info["session_dir"])
    try:
        if work:
            assert ray.get([square.remote(i) for i in range(10)]) == [i * i for i in range(10)]
            assert ray.get(Actor.remote().hello.remote()) == "hello"
        return name, descendants(os.getpid())
    finally:
        ray.shutdown()


@ray.remote
def square(x: int) -> int:
    return x * x


@ray.remote
class Actor:
    def hello(self) -> str:
        return "hello"


def leftovers(root: str, name: str, processes: set[tuple[int, int]]) -> dict[str, list[str]]:
    """What is still there of session ``name``, by kind; empty when all is well."""
    found = {
        "processes": [str(pid) for pid, start in processes if live(pid, start)],
        "segments": sorted(glob.glob(f"/dev/shm/zray-{name}-*")),
        "files": [path for path in glob.glob(os.path.join(root, "zray-*", "*"))
                  if not os.path.islink(path) and not only_logs(path)],
        "threads": [t.name for t in threading.enumerate() if t is not threading.main_thread()],
    }
    return {kind: names for kind, names in found.items() if names}


def check(root: str, name: str, processes: set[tuple[int, int]], deadline_s: float = 10) -> None:
    end = time.monotonic() + deadline_s
    while found := leftovers(root, name, processes):
        if time.monotonic() > end:
            raise AssertionError(f"left behind: {found}")
        time.sleep(0.01)


def main(count: int = 1000, every: int = 10) -> int:
    """``count`` sessions; every ``every``-th does some work.  AssertionError when anything stays."""
    with tempfile.TemporaryDirectory(prefix="zc-", dir="/tmp") as root:
        os.environ["ZRAY_TMPDIR"] = root
        check(root, *session(work=True))  # imports and caches open what they open once
        descriptors, memory, start = open_descriptors(), resident_bytes(), time.monotonic()
        for number in range(1, count + 1):
            check(root, *session(work=number % every == 0))
            if open_descriptors() > descriptors:
                raise AssertionError(f"descriptors: {descriptors} before, {open_descriptors()} after {number} sessions")
            if sys.stdout.isatty():
                print(f"\r{number}/{count}", end="", flush=True)
        grown = (resident_bytes() - memory) / count
    spent = time.monotonic() - start
    print(f"\n{count} sessions in {spent:.1f} s, nothing left; the driver grew by {grown:.0f} bytes a session")
    return 0


if __name__ == "__main__":
    raise SystemExit(with_options(main, __doc__))
