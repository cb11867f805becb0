"""The machines of a run: a network namespace each, with a small /dev/shm and a small disk; or just this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from typing import Protocol

from fuzz.chaos.processes import die_with_parent
from tests.e2e.hosts import Hosts
from tests.e2e.target import until

SHM_MB = 192  # of each machine: three times the growth step of a store
BALLAST_LEAVES = 1 << 20  # bytes that a full disk still has: the log of a node is no subject here


class Machines(Protocol):
    """``count`` machines by number; all paths are as the supervisor sees them."""

    count: int

    def within(self, number: int) -> list[str]:
        """The beginning of a command line that runs there."""

    def address(self, number: int) -> str: ...

    def tmp(self, number: int) -> str:
        """The directory for sessions of that machine."""

    def shm(self, number: int) -> str:
        """Its /dev/shm."""

    def pull(self, number: int) -> None: ...

    def plug(self, number: int) -> None: ...

    def close(self) -> None: ...


class Here:
    """All machines are this one: nothing can be cut off, and memory and disk are not ours to fill."""

    without = frozenset(("cut", "cut briefly", "starve of shm", "starve of disk"))

    def __init__(self, count: int):
        self.count = count
        self._root = tempfile.TemporaryDirectory(prefix="zc-", dir="/tmp", ignore_cleanup_errors=True)

    def within(self, number: int) -> list[str]:
        return []

    def address(self, number: int) -> str:
        return "127.0.0.1"

    def tmp(self, number: int) -> str:
        path = os.path.join(self._root.name, str(number))
        os.makedirs(path, exist_ok=True)
        return path

    def shm(self, number: int) -> str:
        return "/dev/shm"

    def pull(self, number: int) -> None:
        raise RuntimeError("no cable to pull")

    plug = pull

    def close(self) -> None:
        self._root.cleanup()


class Apart(Hosts):
    """Namespaces.  The process must be in mount and process namespaces of its own: :func:`enter` has begun it."""

    without: frozenset[str] = frozenset()

    def __init__(self, count: int, disk_mb: int):
        self.count = count
        self._root = tempfile.mkdtemp(prefix="zc-", dir="/tmp")
        _mount(self._root, 1)
        for number in range(count):
            os.mkdir(self.tmp(number))
            _mount(self.tmp(number), disk_mb)
        super().__init__(count)
        for keeper in self._keepers[1:]:
            _run("nsenter", "--target", str(keeper.pid), "--mount", "mount", "-t", "tmpfs", "-o", f"size={SHM_MB}m",
                 "tmpfs", "/dev/shm")

    def within(self, number: int) -> list[str]:
        return [*super().within(number), "--mount"]

    def tmp(self, number: int) -> str:
        return os.path.join(self._root, str(number))

    def shm(self, number: int) -> str:
        return f"/proc/{self._hosts[number]}/root/dev/shm"

    def close(self) -> None:
        super().close()
        for number in range(self.count):
            _run("umount", "--lazy", self.tmp(number))
        _run("umount", "--lazy", self._root)
        with contextlib.suppress(OSError):
            os.rmdir(self._root)

    def _namespace(self) -> int:
        keeper = subprocess.Popen(["unshare", "--net", "--mount", "sleep", "infinity"], preexec_fn=die_with_parent)
        self._keepers.append(keeper)
        ours = os.readlink("/proc/self/ns/mnt")
        until(lambda: os.readlink(f"/proc/{keeper.pid}/ns/mnt") != ours and
              os.readlink(f"/proc/{keeper.pid}/exe") != os.readlink("/proc/self/exe"), "the namespace exists")
        until(lambda: "sleep" in open(f"/proc/{keeper.pid}/comm").read(), "unshare is done")
        return keeper.pid


def enter(arguments: list[str]) -> list[str]:
    """The command line that runs ``arguments`` in namespaces of its own, all of which end with it.

    In a process namespace nothing survives the supervisor, and all that is left of a run can be seen.
    """
    return ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", *arguments]


class Ballast:
    """A file that fills a directory's file system, for a while."""

    def __init__(self, directory: str):
        self._path = os.path.join(directory, "ballast")
        found = os.statvfs(directory)
        size = found.f_bavail * found.f_frsize - BALLAST_LEAVES
        self.bytes = max(0, size)
        with open(self._path, "wb") as file:
            while size > 0:  # in pieces: others take room meanwhile
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, min(size, 1 << 22))
                except OSError:
                    break
                size -= 1 << 22

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _mount(path: str, megabytes: int) -> None:
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "tmpfs", path)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
