"""Objects on disk: written and read by a few threads, so that the node's loop never waits for a disk.

A file is a 24-byte head (magic, CRC-32 of the payload, its size, the object's key), then the payload.  No fsync: with
the node its spilled objects are lost anyway.  Directory 0700, files 0600.  A spill directory that is a URL (``s3://...``)
goes through fsspec; local files do not need it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from zray.base.os_linux import remove_tree

_HEAD = struct.Struct("<4sIQQ")
_MAGIC = b"ZSP1"
_CHUNK = 16 * 1024 * 1024
THREADS = 2


class LocalFiles:
    """Files of one session in a directory of its own."""

    def __init__(self, directory: str):
        self.directory = directory

    def write(self, key: int, payload: memoryview) -> None:
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        path = self._path(key)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb", buffering=0) as file:
                _write_all(file, _head(key, payload))
                _write_all(file, payload)
        except OSError:
            self.remove(key)
            raise

    def read(self, key: int, target: memoryview) -> None:
        with open(self._path(key), "rb", buffering=0) as file:
            _read_object(file, key, target)

    def remove(self, key: int) -> None:
        try:
            os.unlink(self._path(key))
        except FileNotFoundError:
            pass

    def close(self) -> None:
        remove_tree(self.directory)

    def _path(self, key: int) -> str:
        return os.path.join(self.directory, f"{key}.obj")


class RemoteFiles:
    """The same behind fsspec."""

    def __init__(self, url: str):
        import fsspec  # type: ignore[import-untyped,import-not-found,unused-ignore]

        self.fs, self.root = fsspec.core.url_to_fs(url)

    def write(self, key: int, payload: memoryview) -> None:
        self.fs.makedirs(self.root, exist_ok=True)
        with self.fs.open(self._path(key), "wb") as file:
            file.write(_head(key, payload))
            for start in range(0, payload.nbytes, _CHUNK):
                file.write(payload[start : start + _CHUNK])

    def read(self, key: int, target: memoryview) -> None:
        with self.fs.open(self._path(key), "rb") as file:
            _read_object(file, key, target)

    def remove(self, key: int) -> None:
        if self.fs.exists(self._path(key)):
            self.fs.rm(self._path(key))

    def close(self) -> None:
        if self.fs.exists(self.root):
            self.fs.rm(self.root, recursive=True)

    def _path(self, key: int) -> str:
        return f"{self.root}/{key}.obj"


class Spiller:
    """Runs file operations (and other slow calls of the store) in its threads; ``done`` is called there."""

    def __init__(self, files: LocalFiles | RemoteFiles):
        self.files = files
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def at(cls, spill_dir: str, session: str) -> Spiller:
        """``spill_dir`` is a directory or a URL; the session gets its own directory inside."""
        place = f"{spill_dir.rstrip('/')}/zray-{session}"
        return cls(RemoteFiles(place) if "://" in spill_dir else LocalFiles(place))

    def write(self, key: int, payload: memoryview, done: Callable[[str], None]) -> None:
        self.run(lambda: self.files.write(key, payload), done)

    def read(self, key: int, target: memoryview, done: Callable[[str], None]) -> None:
        self.run(lambda: self.files.read(key, target), done)

    def remove(self, key: int) -> None:
        self.run(lambda: self.files.remove(key), lambda error: None)

    def run(self, call: Callable[[], Any], done: Callable[[str], None]) -> Future[None]:
        """``done('')`` or ``done(error)``, in the thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="zray-store")
        return self._pool.submit(_run, call, done)

    def close(self) -> None:
        """Finish the running calls, drop the waiting ones, remove the files."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self.files.close()


def _run(call: Callable[[], Any], done: Callable[[str], None]) -> None:
    try:
        call()
    except Exception as error:  # any error of a file system must reach the table
        done(f"{type(error).__name__}: {error}")
    else:
        done("")


def _head(key: int, payload: memoryview) -> bytes:
    return _HEAD.pack(_MAGIC, zlib.crc32(payload), payload.nbytes, key)


def _write_all(file: Any, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view.nbytes:
        view = view[file.write(view[:_CHUNK]) :]


def _read_object(file: Any, key: int, target: memoryview) -> None:
    head = file.read(_HEAD.size)
    if len(head) != _HEAD.size:
        raise OSError(f"spilled object {key} is cut off")
    magic, crc, nbytes, found = _HEAD.unpack(head)
    if magic != _MAGIC or found != key or nbytes != target.nbytes:
        raise OSError(f"spilled object {key} is not what was written: {nbytes} bytes of object {found}")
    rest = target
    while rest.nbytes:
        count = file.readinto(rest[:_CHUNK])
        if not count:
            raise OSError(f"spilled object {key} is cut off")
        rest = rest[count:]
    if zlib.crc32(target) != crc:
        raise OSError(f"spilled object {key} is damaged: its checksum does not match")
