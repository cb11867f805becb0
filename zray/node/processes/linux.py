"""The Linux calls of the node that Python does not offer: prctl, process start times, the soft descriptor limit."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Collection

from zray.base.named_tuples import NamedTuple

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

_libc: ctypes.CDLL | None = None


def _prctl(option: int, argument: int | bytes) -> None:
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    if _libc.prctl(ctypes.c_int(option), value, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def require() -> None:
    """Refuse, in one sentence, a platform that zray does not run on."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        raise RuntimeError(f"zray runs on Linux 5.3 or later (x86-64, arm64), not on {sys.platform}")


def become_subreaper() -> None:
    """Orphans below this process become its children, so that it can wait for them."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Get a signal when ``parent`` ends; exit at once when it already has.  A fork does not inherit this."""
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def name_process(name: str) -> None:
    """The name that ps and top show (15 bytes)."""
    _prctl(PR_SET_NAME, name.encode()[:15])


def set_niceness(nice: int) -> None:
    """Set the niceness of this process, where the system allows it (only root may lower it), and of a session that it
    leads."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    if os.getsid(0) == os.getpid():
        set_session_niceness(nice)


def set_session_niceness(nice: int) -> None:
    """For the leader of a session: with autogroups the niceness of a session counts, and that of processes only
    within it.  Without privileges ten sessions a second may."""
    with contextlib.suppress(OSError):
        _write("/proc/self/autogroup", nice)


def end_before_others(score: int) -> None:
    """When memory runs out, the kernel ends this process before those with a lower score."""
    with contextlib.suppress(OSError):
        _write("/proc/self/oom_score_adj", score)


def _write(path: str, value: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, b"%d" % value)
    finally:
        os.close(handle)


def start_time(pid: int) -> int:
    """Clock ticks after boot at which ``pid`` started, 0 when no such process runs.  (pid, start time) is unique."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def parent(pid: int) -> int:
    """The parent of ``pid``, 0 when no such process runs."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def ancestors() -> set[int]:
    """This process, its parent, and so on; without the first process of the machine, which adopts orphans."""
    found, pid = {os.getpid()}, os.getppid()
    while pid > 1 and pid not in found:
        found.add(pid)
        pid = parent(pid)
    return found


def name_of(pid: int) -> str:
    """The name that a process has for the kernel, at most 15 characters; '' when no such process runs."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def command_of(pid: int) -> bytes:
    """The command line of a process, its arguments separated by zero bytes; empty when no such process runs."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def children(pid: int) -> list[int]:
    """The processes whose parent is ``pid``, whichever of its threads started them."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (contextlib.suppress(FileNotFoundError, ProcessLookupError),
                  open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file):
                found += map(int, file.read().split())
    return found


def end_descendants(spared: Collection[int] = ()) -> None:
    """SIGKILL the children of this process but ``spared``, and collect them, until none is left.

    In a subreaper that ends all descendants, also in other sessions: orphans become its children.  A process of
    another user, which this one may not end, stays.
    """
    left = set(spared)
    while found := [pid for pid in children(os.getpid()) if pid not in left]:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except PermissionError:
                left.add(pid)
            except ProcessLookupError:
                pass  # another thread has collected it
        for pid in found:
            if pid not in left:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def end_marked(mark: str, rounds: int = 5) -> None:
    """SIGKILL all processes of this user that were started with ``mark``, "NAME=value", in their environment.

    For what a dead parent left: nothing else tells where a process in a session of its own came from.  A process that
    starts others meanwhile is met in the next round.
    """
    entry = b"\0" + mark.encode() + b"\0"
    for _ in range(rounds):
        found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if entry in _environment(pid)]
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return


def _environment(pid: int) -> bytes:
    """What ``pid`` was started with; empty for an ended process, and for one of another user."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return b"\0" + file.read()
    except OSError:
        return b""


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one; returns the old soft limit, for children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def restore_descriptor_limit(soft: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Ended(NamedTuple):
    """How a process ended."""

    signal: int  # 0 when it exited by itself
    exit_code: int


IN_MODIFY = 0x00000002
IN_Q_OVERFLOW = 0x00004000
_EVENT_HEAD = 16  # struct inotify_event: wd, mask, cookie, length of the name that follows


def watch_directory(path: str) -> int:
    """A non-blocking inotify descriptor that reports which files in ``path`` are written to."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if handle < 0 or libc.inotify_add_watch(handle, os.fsencode(path), IN_MODIFY) < 0:
        number = ctypes.get_errno()
        if handle >= 0:
            os.close(handle)
        raise OSError(number, f"inotify on {path}: {os.strerror(number)}")
    return handle


def written_files(handle: int) -> tuple[set[str], bool]:
    """Names of files written to since the last call, and whether some names were lost."""
    names: set[str] = set()
    lost = False
    while True:
        try:
            data = os.read(handle, 1 << 16)
        except BlockingIOError:
            return names, lost
        at = 0
        while at < len(data):
            lost |= bool(int.from_bytes(data[at + 4:at + 8], sys.byteorder) & IN_Q_OVERFLOW)
            end = at + _EVENT_HEAD + int.from_bytes(data[at + 12:at + 16], sys.byteorder)
            names.add(os.fsdecode(data[at + _EVENT_HEAD:end].rstrip(b"\0")))
            at = end
