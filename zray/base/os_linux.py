"""Calls to Linux for shared memory and process identity; no other module has their numbers."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select

SHM_DIR = "/dev/shm"
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_MAP_FIXED = 0x10
_PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

_libc: ctypes.CDLL | None = None


def populate_write(memory: mmap.mmap, start: int, length: int) -> bool:
    """Map the pages of ``[start, start + length)`` writable in one call (25 ms for 100 MB, against 25,600 page faults).

    Through ctypes, because ``mmap.madvise`` keeps the GIL.  False where the kernel is older than 5.14: the pages are
    then mapped one by one as they are written.
    """
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    page = mmap.PAGESIZE
    first = start // page * page
    anchor = ctypes.c_ubyte.from_buffer(memory, first)
    return _libc.madvise(ctypes.addressof(anchor), start + length - first, _MADV_POPULATE_WRITE) == 0


def reserve(fd: int, start: int, length: int) -> None:
    """Back a part of a shared memory file with memory.  OSError (ENOSPC) when the file system or cgroup has no more.

    Without this a write to a sparse part ends in SIGBUS when /dev/shm is full.
    """
    while True:
        try:
            os.posix_fallocate(fd, start, length)
            return
        except InterruptedError:
            continue  # a signal; large reservations take long enough to meet one


def shm_free_bytes() -> int:
    """Free bytes of /dev/shm."""
    stats = os.statvfs(SHM_DIR)
    return stats.f_bavail * stats.f_frsize


def may_spin() -> bool:
    """Whether a thread may wait by looking at memory: there is another core to use, and no battery to save."""
    return len(os.sched_getaffinity(0)) > 1 and not on_battery()


def on_battery(supplies: str = "/sys/class/power_supply") -> bool:
    """Whether the system says that it has no power from the mains."""
    mains = []
    try:
        for name in os.listdir(supplies):
            path = os.path.join(supplies, name, "online")
            if os.path.exists(path):  # of mains and USB, not of batteries
                with open(path, encoding="ascii") as file:
                    mains.append(file.read().strip() != "0")
    except OSError:
        return False  # it does not say
    return bool(mains) and not any(mains)


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def pid_namespace() -> int:
    """Pids are valid only inside their namespace; containers may share /dev/shm without sharing pids."""
    return os.stat("/proc/self/ns/pid").st_ino


def process_start(pid: int) -> int:
    """Clock ticks after boot at which ``pid`` started, 0 when no such process runs.  (pid, start) names one process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return 0
        raise
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def blank_start_area(secrets: set[bytes]) -> None:
    """Overwrite ``secrets`` with asterisks in the arguments and the environment that this process was started with.

    The kernel shows that memory as /proc/PID/cmdline, to every user, and /proc/PID/environ; the children of a fork have
    a copy of it.  Python keeps copies of its own and does not read the memory again.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    arguments, environment = (int(fields[45]), int(fields[46])), (int(fields[47]), int(fields[48]))
    for start, end in (arguments, environment):
        if not 0 < start < end:  # hidden by the kernel: other users do not see it either
            continue
        area = ctypes.string_at(start, end - start)
        for secret in filter(None, secrets):
            at = area.find(secret)
            while at >= 0:
                ctypes.memset(start + at, ord("*"), len(secret))
                at = area.find(secret, at + len(secret))


def readable(fd: int, timeout_s: float | None) -> bool:
    """Wait for a descriptor.  By poll, because select refuses those above 1023, of which a driver may have many."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000))


def process_state(pid: int) -> str:
    """The letter that ps shows: R runs, S sleeps, T is stopped, Z has ended; '' when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""


def address_of(memory: bytearray | mmap.mmap) -> int:
    """Where the bytes of a writable buffer lie."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def map_over(memory: mmap.mmap, start: int, length: int, fd: int) -> None:
    """Replace a part of a mapping by the first ``length`` bytes of another file, shared and writable.

    OSError when that is not possible; the part must begin at a page.  It goes with the mapping.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    anchor = ctypes.c_ubyte.from_buffer(memory, start)
    address = ctypes.addressof(anchor)
    found = libc.mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, fd, 0)
    if found != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def punch_hole(fd: int, length: int, start: int = 0) -> bool:
    """Give back the disk blocks of ``length`` bytes of a file; its size stays.  False where that is not possible on
    this file system."""
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    arguments = ctypes.c_int(fd), ctypes.c_int(_PUNCH_HOLE), ctypes.c_int64(start), ctypes.c_int64(length)
    return bool(_libc.fallocate(*arguments) == 0)


STRIPS_MAX = 5


def strip(directory: str, keep: str, *files: str) -> None:
    """Delete all in a directory except the directory ``keep``, whose empty files are deleted, and ``files``;
    delete all if none is left.  What a process that ends at the same moment puts there goes too."""
    for _ in range(STRIPS_MAX):
        _strip(directory, os.path.join(directory, keep), files)
        if not os.path.isdir(directory) or {entry.name for entry in _entries(directory)} <= {keep, *files}:
            return


def remove_tree(path: str) -> None:
    """Delete a directory with all that is in it, as far as possible."""
    import shutil  # 0.3 MB with its modules, for the end of a session

    shutil.rmtree(path, ignore_errors=True)


def temporary_directory() -> str:
    """As tempfile.gettempdir(), which tries to write files and costs 0.4 MB of modules; it decides when /tmp fails."""
    for path in (os.environ.get("TMPDIR"), os.environ.get("TEMP"), os.environ.get("TMP"), "/tmp"):
        if path and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            return os.path.abspath(path)
    import tempfile

    return tempfile.gettempdir()


def _strip(directory: str, kept: str, files: tuple[str, ...]) -> None:
    for entry in _entries(directory):
        if not entry.is_dir(follow_symlinks=False):
            if entry.name not in files or not entry.is_file(follow_symlinks=False):
                _unlink(entry.path)
        elif entry.path != kept:
            remove_tree(entry.path)
    for entry in _entries(kept):
        if entry.is_symlink() or entry.is_file() and _is_empty(entry.path):
            _unlink(entry.path)
    for path in (kept, directory):
        try:
            os.rmdir(path)
        except OSError:
            continue  # not empty, or gone


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(directory))
    except OSError:
        return []


def _is_empty(path: str) -> bool:
    try:
        return os.stat(path).st_size == 0
    except OSError:
        return False


def _unlink(path: str) -> None:
    """Another process may remove its socket at the same time: the others must be deleted nevertheless."""
    try:
        os.unlink(path)
    except OSError:
        pass


def write_private(path: str, text: str) -> None:
    """Write a 0600 file that readers see either whole or not at all."""
    temporary = f"{path}.{os.getpid()}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
