"""The output of workers: from their log files to their driver.

Workers write to files, not pipes, so a worker never waits for a reader and its last output survives
its death.  The kernel reports which files were written to (inotify on the log directory), so
nothing is polled: 2,000 silent actors cost nothing.  A file is opened only to read its new bytes,
so they cost no descriptors either.

A worker writes a marker line ``\\x01zray-task:<name>`` before the output of the next function; it
is stripped here, and names the lines that follow.  A line without an end, mostly of a progress bar,
is shown as far as it goes.  The files are the queue: a slow driver slows this reader down, in turns
of ``lines_max``, and only a backlog above ``bytes_max`` is skipped, with a count.

The files are bounded while workers write to them.  The front of a file that grew beyond
``bytes_max`` becomes a hole in the file system.  A truncation would lose lines that are written
meanwhile; a hole loses none.  When its worker has ended, the file is written anew without the hole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from zray.base import os_linux
from zray.base.config import DEFAULTS
from zray.base.formats import LOG_TAIL_BYTES, TASK_MARKER
from zray.node.processes import linux
from zray.node.processes.zygote import log_paths

MARKER_BYTES = TASK_MARKER.encode()
READ_BYTES_MAX = 1 << 20  # of one file in one turn
LINE_BYTES_MAX = 1 << 16  # a longer line is cut, so that a worker that never ends its line is still shown
UNFINISHED_BYTES_MAX = 1024  # a longer line is not shown before its end: each look would repeat it
TAIL_LINES = 20  # shown when a worker dies
LINES_GATHER_S = 0.05  # from the first write to its reading: collects lines into one message
# Without inotify (its instances are limited per user) the files in use are read this often.  With
# many workers they are read more rarely, so that this stays a small part of the node's time.
RESCAN_S = 0.1
RESCAN_WORKERS = 100

Line = list  # [name, pid, is_stderr, text]


class OutputFile:
    """One log file and how far it was read."""

    __slots__ = ("dropped", "is_stderr", "job", "name", "offset", "partial", "path", "pid", "worker")

    def __init__(self, path: str, worker: bytes, is_stderr: bool):
        self.path = path
        self.worker = worker
        self.is_stderr = is_stderr
        self.job = 0
        self.pid = 0
        self.name = ""
        self.offset = 0
        self.dropped = 0  # bytes at the front that are a hole
        self.partial = b""

    def lines(self, data: bytes, final: bool) -> list[Line]:
        """Lines completed by ``data``; with ``final`` also the unfinished last one."""
        pieces = (self.partial + data).split(b"\n")
        self.partial = pieces.pop()
        kept = b""  # text before a marker that was printed in the middle of a line
        out: list[Line] = []
        for piece in pieces:
            before, marker, name = piece.partition(MARKER_BYTES)
            if marker:
                kept += before
                self.name = name.decode(errors="replace")
            else:
                out.append(self._line(kept + piece))
                kept = b""
        self.partial = kept + self.partial
        # The file keeps text that a carriage return has overwritten, but the driver does not show it.
        self.partial = self.partial[max(0, self.partial.rfind(b"\r", 0, len(self.partial.rstrip(b"\r")))):]
        if self.partial and (final or len(self.partial) > LINE_BYTES_MAX):
            before, marker, _ = self.partial.partition(MARKER_BYTES)
            if before:
                out.append(self._line(before))
            self.partial = b""
        return out

    def unfinished(self) -> Line | None:
        """The line without an end so far, as a terminal shows it."""
        text = self.partial.partition(MARKER_BYTES[:1])[0].rstrip(b"\r").rpartition(b"\r")[2]
        if not text or len(text) > UNFINISHED_BYTES_MAX:
            return None
        return [self.name, self.pid, self.is_stderr, text.decode(errors="ignore")]

    def _line(self, raw: bytes) -> Line:
        raw = raw.rstrip(b"\r").rpartition(b"\r")[2]  # the visible part on a terminal
        return [self.name, self.pid, self.is_stderr, raw[:LINE_BYTES_MAX].decode(errors="replace")]


class Output:
    """Reads the output of a node's workers."""

    def __init__(self, session_dir: str, lines_max: int, bytes_max: int = DEFAULTS.log_bytes_max):
        self.session_dir = session_dir
        self.lines_max = lines_max
        self.bytes_max = bytes_max  # of a file, and of what is unread of it
        self._streams: dict[bytes, tuple[OutputFile, OutputFile]] = {}
        self._by_name: dict[str, OutputFile] = {}
        self._dirty: dict[str, OutputFile] = {}  # written to and not yet read to the end
        self._skipped = 0  # unread lines that went with the front of a file
        try:
            self.fd = linux.watch_directory(os.path.join(session_dir, "logs"))
        except OSError:
            self.fd = -1

    def add(self, worker_id: bytes) -> None:
        """A worker is about to start."""
        out, err = (OutputFile(path, worker_id[:8], is_stderr)
                    for path, is_stderr in zip(log_paths(self.session_dir, worker_id), (False, True), strict=True))
        self._streams[worker_id[:8]] = (out, err)
        for stream in (out, err):
            self._by_name[os.path.basename(stream.path)] = stream

    def assign(self, incarnation: bytes, job: int, pid: int) -> None:
        """Its output belongs to ``job`` from now on."""
        for stream in self._streams.get(incarnation, ()):
            stream.job = job
            stream.pid = pid

    def note_writes(self) -> bool:
        """Ask the kernel which files have new bytes; True when any has."""
        names, lost = linux.written_files(self.fd) if self.fd >= 0 else (set(), True)
        if lost:
            names = set(self._by_name)
        for name in names:
            stream = self._by_name.get(name)
            if stream is not None:
                self._dirty[name] = stream
        return bool(self._dirty)

    def read(self) -> tuple[dict[int, list[Line]], dict[int, list[Line]]]:
        """New lines by job, about ``lines_max`` at most, and lines without an end; files with
        unread lines stay dirty."""
        out: dict[int, list[Line]] = {}
        unfinished: dict[int, list[Line]] = {}
        count = 0
        for name, stream in list(self._dirty.items()):
            if count >= self.lines_max:
                break
            data = _read(stream.path, stream.offset, READ_BYTES_MAX)
            stream.offset += len(data)
            if len(data) < READ_BYTES_MAX:
                del self._dirty[name]
            else:
                self._skipped += _skip_backlog(stream, self.bytes_max)
            if stream.offset - stream.dropped > self.bytes_max:
                _drop_front(stream, self.bytes_max)
            lines = stream.lines(data, False)
            count += len(lines)
            if lines and stream.job:
                out.setdefault(stream.job, []).extend(lines)
            if data and stream.partial and stream.job and (line := stream.unfinished()) is not None:
                unfinished.setdefault(stream.job, []).append(line)
        return out, unfinished

    def take_skipped(self) -> int:
        """Lines that were skipped since the last call."""
        skipped, self._skipped = self._skipped, 0
        return skipped

    def file_of(self, incarnation: bytes) -> str:
        """The log file of a worker that has output, stderr first; '' when it printed nothing."""
        files = [stream.path for stream in reversed(self._streams.get(incarnation, ()))]
        return next((path for path in files if _size(path)), "")

    def note_death(self, incarnation: bytes, signal: int, exit_code: int) -> str:
        """Write into the log of a worker that printed nothing how it ended, and return the path: an error names it.

        The line is not shown to the driver: the error says the same.
        """
        for stream in self._streams.get(incarnation, ())[1:]:
            how = f"was ended by signal {signal}" if signal else f"exited with code {exit_code}"
            line = f"(zray: worker {stream.pid} printed nothing and {how})\n".encode()
            try:
                with open(os.open(stream.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as file:
                    file.write(line)
            except OSError:  # a full disk
                return ""
            stream.offset += len(line)
            return stream.path
        return ""

    @property
    def rescan_s(self) -> float:
        """How long until the next look at the files when the kernel does not report writes."""
        return RESCAN_S * (1 + len(self._streams) / RESCAN_WORKERS)

    @property
    def pending(self) -> bool:
        return bool(self._dirty)

    def flush(self, workers: Iterable[bytes]) -> tuple[dict[int, list[Line]], int]:
        """All output of these workers so far, unfinished lines too, and the number of skipped lines."""
        out: dict[int, list[Line]] = {}
        dropped = 0
        for worker in workers:
            for stream in self._streams.get(worker, ()):
                self._dirty.pop(os.path.basename(stream.path), None)
                dropped += _skip_backlog(stream, self.bytes_max)
                while data := _read(stream.path, stream.offset, READ_BYTES_MAX):
                    stream.offset += len(data)
                    out.setdefault(stream.job, []).extend(stream.lines(data, False))
                out.setdefault(stream.job, []).extend(stream.lines(b"", True))
        return {job: lines for job, lines in out.items() if job and lines}, dropped

    def tail(self, incarnation: bytes) -> str:
        """The last lines a worker printed, errors last."""
        lines: list[str] = []
        for stream in self._streams.get(incarnation, ()):
            size = _size(stream.path)
            data = _read(stream.path, max(0, size - LOG_TAIL_BYTES), LOG_TAIL_BYTES)
            text = [line for line in data.decode(errors="replace").splitlines() if TASK_MARKER not in line]
            lines += text[-TAIL_LINES:]
        return "\n".join(lines[-TAIL_LINES:])

    def remove(self, incarnation: bytes) -> None:
        """The worker is gone and its output read: forget it; delete its empty files."""
        for stream in self._streams.pop(incarnation, ()):
            name = os.path.basename(stream.path)
            self._by_name.pop(name, None)
            self._dirty.pop(name, None)
            _close_hole(stream)
            if _size(stream.path) == 0:
                try:
                    os.unlink(stream.path)
                except FileNotFoundError:
                    pass

    def workers_of(self, job: int) -> list[bytes]:
        return [worker for worker, (out, _) in self._streams.items() if out.job == job]

    def close(self) -> None:
        """All workers have ended."""
        for out, err in self._streams.values():
            _close_hole(out)
            _close_hole(err)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _read(path: str, offset: int, size: int) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # the file is gone, or the node is out of descriptors: a later look finds more
        return b""
    try:
        return os.pread(handle, size, offset)
    except OSError:  # a disk that fails, or a user replaced the file
        return b""
    finally:
        os.close(handle)


def _drop_front(stream: OutputFile, bytes_max: int) -> None:
    """Keep the last half of the bytes that are allowed."""
    length = stream.offset - bytes_max // 2
    try:
        handle = os.open(stream.path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # another process deleted it
    try:
        if os_linux.punch_hole(handle, length):
            stream.dropped = length
        elif os.fstat(handle).st_size == stream.offset:  # bytes that are written between these two calls are lost
            os.ftruncate(handle, 0)
            stream.offset = stream.dropped = 0
    except OSError:
        return  # a disk that fails: the file grows further
    finally:
        os.close(handle)


def _close_hole(stream: OutputFile) -> None:
    """Write the file anew without its hole: no process appends to it any more."""
    if not stream.dropped:
        return
    temporary = stream.path + ".new"
    try:
        with open(stream.path, "rb") as source, open(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as to:
            source.seek(stream.dropped)
            to.write(b"(the first %d bytes were dropped)\n" % stream.dropped)
            while piece := source.read(READ_BYTES_MAX):
                to.write(piece)
        os.replace(temporary, stream.path)
    except OSError:  # a full disk: the file stays as it is
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        return
    stream.dropped = 0


def _skip_backlog(stream: OutputFile, bytes_max: int) -> int:
    """Jump over all but the last ``bytes_max`` unread bytes; returns the number of skipped lines."""
    target = _size(stream.path) - bytes_max
    skipped = 0
    while stream.offset < target:
        data = _read(stream.path, stream.offset, min(READ_BYTES_MAX, target - stream.offset))
        if not data:
            break
        stream.offset += len(data)
        skipped += data.count(b"\n")
    return skipped
