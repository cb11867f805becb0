"""The folder of a job's kept results, and the folders of all jobs below one directory.

    <directory>/<job name, quoted>/     0700
        lock                            locked while a driver runs the job; names that driver
        results-00000001.log ...        see zray.owner.kept_results

A lock of this kind (POSIX) ends with its process, is not inherited by a fork, and works on shared file systems.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

from zray.owner import kept_results
from zray.owner.kept_results import RecordPlace, ResultLog

LOCK = "lock"
NAME_MAX = 200  # characters of a quoted job name: file systems take 255 bytes
JOIN_BYTES_MAX = 64 * 1024  # up to this size one write is cheaper than a write for each piece
_PREFIX, _SUFFIX = "results-", ".log"


class JobIsRunning(RuntimeError):
    """Another driver runs the job of that name."""


def folder_of(directory: str, job_name: str) -> str:
    """The folder of a job.  TypeError and ValueError for what is no name."""
    if not isinstance(job_name, str):
        raise TypeError(f"job_name takes a str, not {job_name!r}")
    if not job_name.strip() or len(quote(job_name, safe="")) > NAME_MAX:
        raise ValueError(f"a job_name has 1 to {NAME_MAX} characters (letters outside ASCII count several times), and "
                         f"{job_name!r} has not")
    name = quote(job_name, safe=" +=@,")
    return os.path.join(directory, "%2E" + name[1:] if name.startswith(".") else name)


def job_names(directory: str) -> list[str]:
    """The names of the jobs with a folder below ``directory``."""
    try:
        found = os.scandir(directory)
    except OSError:
        return []
    with found:
        return sorted(unquote(entry.name) for entry in found
                      if entry.is_dir(follow_symlinks=False) and os.path.exists(os.path.join(entry.path, LOCK)))


def has_results(folder: str) -> bool:
    return bool(_segments(folder))


def forget(folder: str) -> bool:
    """Remove a job's folder; whether there was one.  JobIsRunning while a driver has it."""
    if not os.path.isdir(folder):
        return False
    lock = _Lock(folder)
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.close()
    return True


def sweep(directory: str, kept_s: float) -> list[str]:
    """Remove the folders whose newest result is too old, and that no driver has; the names of these jobs."""
    removed = []
    for name in job_names(directory):
        folder = folder_of(directory, name)
        try:
            newest = max([os.stat(path).st_mtime for _, path in _segments(folder)] or [os.stat(folder).st_mtime])
            if newest < time.time() - kept_s and forget(folder):
                removed.append(name)
        except (OSError, JobIsRunning):  # another driver has removed it, or runs the job
            continue
    return removed


class ResumeFolder:
    """The kept results of the job that this process runs.  Any thread may read, one writes."""

    def __init__(self, folder: str, bytes_max: int, kept_s: float):
        """JobIsRunning when another driver has the job; ValueError for a folder that others may write to."""
        self.folder = folder
        self._guard = threading.Lock()  # of ``log``
        self._file: Any = None  # of the open segment
        self._number = 0
        make_private(folder)
        self._lock = _Lock(folder)
        try:
            self.log = ResultLog(bytes_max, kept_s)
            for number, path in _segments(folder):
                with open(path, "rb", buffering=0) as file:
                    nbytes = os.fstat(file.fileno()).st_size
                    self.log.load(number, list(kept_results.scan(_reader(file), nbytes)), nbytes)
            self._remove([*self.log.expire(time.time()), *self.log.shrink()])
        except BaseException:
            self._lock.close()
            raise

    def read(self, key: bytes) -> tuple[int, list[memoryview]] | None:
        """``(flags, values)`` of a kept result; None when there is none, or it cannot be read (then it is gone)."""
        with self._guard:
            place = self.log.places.get(key)
        if place is None:
            return None
        try:
            with open(self._path(place.segment), "rb", buffering=0) as file:
                found = kept_results.decode(_reader(file)(place.start, place.nbytes), key)
        except OSError:
            found = None
        if found is None:
            self.forget(key)
        return found

    def forget(self, key: bytes) -> None:
        """The result cannot be used."""
        with self._guard:
            self.log.forget(key)

    def write(self, key: bytes, flags: int, values: Sequence[Any]) -> bool:
        """Keep a result; False when it is too large.  OSError when it cannot be written."""
        now_s = time.time()
        nbytes = kept_results.record_bytes([memoryview(value).nbytes for value in values])
        if not self.log.fits(nbytes):
            return False
        with self._guard:
            place, dropped = self.log.add(key, nbytes, now_s)
        self._remove(dropped)
        try:
            self._append(place, kept_results.encode(key, flags, values, now_s))
        except OSError:
            is_clean = self._cut(place)
            with self._guard:
                self.log.failed(key, place, is_clean)
            raise
        return True

    def expire(self) -> None:
        """Remove what is too old."""
        with self._guard:
            old = self.log.expire(time.time())
        self._remove(old)

    def close(self) -> None:
        """Let another driver have the job."""
        self._close_file()
        self._lock.close()

    def drop(self) -> None:
        """The job has ended well: remove its results."""
        self._close_file()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _append(self, place: RecordPlace, pieces: Sequence[Any]) -> None:
        if self._number != place.segment:
            self._close_file()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = open(os.open(self._path(place.segment), flags, 0o600), "wb", buffering=0)  # noqa: SIM115
            self._number = place.segment
        if place.nbytes <= JOIN_BYTES_MAX:
            pieces = [b"".join(pieces)]
        for piece in pieces:
            left = memoryview(piece).cast("B")
            while left:
                left = left[self._file.write(left):]

    def _cut(self, place: RecordPlace) -> bool:
        """A full disk gets the room of an unfinished record back; whether the segment can go on."""
        if self._number != place.segment:
            return False  # there is no file
        try:
            self._file.truncate(place.start)
            self._file.seek(place.start)
        except OSError:
            self._close_file()
            return False
        return True

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._number = None, 0

    def _path(self, segment: int) -> str:
        return os.path.join(self.folder, f"{_PREFIX}{segment:08}{_SUFFIX}")

    def _remove(self, segments: Sequence[int]) -> None:
        for number in segments:
            if number == self._number:
                self._close_file()
            with contextlib.suppress(OSError):
                os.unlink(self._path(number))


_held: set[str] = set()  # folders that this process has locked


class _Lock:
    """The lock of one folder, and the folder itself if it is not there.

    The system would let this process lock it twice, and unlock it with the first that is closed: ``_held`` refuses.
    """

    def __init__(self, folder: str):
        self._folder = os.path.realpath(folder)
        if self._folder in _held:
            raise JobIsRunning(f"this program runs the job {_job_of(folder)!r}: shut it down first")
        path = os.path.join(folder, LOCK)
        while True:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            try:
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:  # its last driver has just removed the folder
                continue
            self._take(folder)
            if _is_at(path, self._descriptor):
                break
            os.close(self._descriptor)
        about = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, about, 0)
        _held.add(self._folder)

    def _take(self, folder: str) -> None:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = _describe(os.pread(self._descriptor, 4096, 0))
            os.close(self._descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise JobIsRunning(f"the job {_job_of(folder)!r} is run by another driver{who}: wait for its end, or end "
                               "it, or give this program another job_name") from None

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            _held.discard(self._folder)


def _job_of(folder: str) -> str:
    return unquote(os.path.basename(folder))


def _is_at(path: str, descriptor: int) -> bool:
    """Whether the file that was opened is still the one with this path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _describe(data: bytes) -> str:
    try:
        about = json.loads(data)
        return f" (pid {int(about['pid'])} on {about['host']})"
    except (ValueError, KeyError, TypeError):
        return ""


def make_private(folder: str) -> None:
    """Make a folder of ours.  ValueError when it cannot be made, or others may write there."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.stat(folder)
    except OSError as error:
        raise ValueError(f"results cannot be kept in {folder!r}: {error.strerror}. Give init() a resume_dir that you "
                         "can write to") from None
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise ValueError(f"results are not kept in {folder!r}: other users may write there, and results are pickles. "
                         "Give init() a resume_dir of your own")


def _segments(folder: str) -> list[tuple[int, str]]:
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(folder):
            number = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
            if name == f"{_PREFIX}{number}{_SUFFIX}" and number.isdigit() and int(number):
                found.append((int(number), os.path.join(folder, name)))
    return sorted(found)


def _reader(file: Any) -> Any:
    def read(start: int, nbytes: int) -> bytes:
        out = os.pread(file.fileno(), nbytes, start)
        while len(out) < nbytes and (more := os.pread(file.fileno(), nbytes - len(out), start + len(out))):
            out += more
        return out

    return read
