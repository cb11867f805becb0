"""Writing records: the folder of a recording, and the file of this process in it.

Each record is one ``write``, so that what a killed process did before is in its file.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from typing import Any

from zray.base.named_tuples import NamedTuple
from zray.recording.records import RECORD_SUFFIX, RECORDING_MAGIC, LimitReached, encode

# The file that makes a folder a recording.  It holds the token of the program that began it.
RECORDING_MARK = "zray-recording"
RECORDING_TOKEN = "ZRAY_RECORD_BY"  # the variable by which subprocesses of that program add their own files

logger = logging.getLogger("zray")


class RecordLimits(NamedTuple):
    """Where the processes of a job record, and how much."""

    folder: str
    value_bytes_max: int
    bytes_max: int


class CannotRecord(ValueError):
    """The folder cannot take a recording; the message is one sentence, with what to do."""


def claim(folder: str) -> str:
    """Make ``folder`` the folder of a new recording, for this program; returns its full path.

    CannotRecord when it holds anything else, or cannot be written.
    """
    path = os.path.abspath(os.path.expanduser(folder))
    mark = os.path.join(path, RECORDING_MARK)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.listdir(path)
        if RECORDING_MARK in found:
            with open(mark, encoding="ascii") as file:
                if file.read() == os.environ.get(RECORDING_TOKEN):
                    return path
        if found:
            raise CannotRecord(f"the folder {path} is not empty: a recording needs a new folder, or an empty one")
        os.chmod(path, 0o700)
        token = secrets.token_hex(8)
        descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(token)
    except OSError as error:
        raise CannotRecord(f"cannot record in {path}: {error.strerror}: choose a folder that can be written") from None
    os.environ[RECORDING_TOKEN] = token
    return path


class RecordFile:
    """The file of one process.  Any thread may append; a fork of the process writes nothing."""

    def __init__(self, limits: RecordLimits, name: str):
        self.limits = limits
        self.path = os.path.join(limits.folder, name + RECORD_SUFFIX)
        self.nbytes = 0
        self.stopped = ""  # why nothing more is recorded
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a finaliser of user code may call zray, and so come here, at any point
        self._descriptor = -1
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._stop(f"its record file {self.path} cannot be made: {error.strerror}")
        else:
            self._write(RECORDING_MAGIC)

    def append(self, record: Any) -> bool:
        """Write a record; False when nothing is recorded any more."""
        if self.stopped or os.getpid() != self._pid:
            return False
        try:
            frame = encode(record)
        except (TypeError, ValueError, OverflowError) as error:  # the program must not fail for its record
            with self._lock:
                self._stop(f"{type(record).__name__} cannot be recorded: {error}")
            return False
        with self._lock:
            if self.stopped:
                return False
            bytes_max = self.limits.bytes_max
            if self.nbytes + len(frame) > bytes_max:
                self._write(encode(LimitReached(bytes_max)))
                self._stop(f"the setting record_bytes_max allows {bytes_max} bytes")
                return False
            return self._write(frame)

    def _write(self, frame: bytes) -> bool:
        """Write it whole or not at all."""
        try:
            written = os.write(self._descriptor, frame)
            if written == len(frame):
                self.nbytes += written
                return True
            reason = "the disk is full"
        except OSError as error:
            reason = error.strerror or str(error)
        try:
            os.ftruncate(self._descriptor, self.nbytes)
        except OSError:
            reason += "; its last record is cut off"  # a reader skips that
        self._stop(f"{self.path} cannot be written: {reason}")
        return False

    def _stop(self, why: str) -> None:
        if self.stopped:
            return
        self.stopped = why
        logger.warning("Recording has stopped in process %d, and the program goes on: %s.", self._pid, why)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        with self._lock:
            if not self.stopped:
                self.stopped = "closed"
                os.close(self._descriptor)
