"""A replica on disk: a snapshot, and a log of the updates since.

    shard-N.snapshot    magic, checksum, state            replaced as a whole
    shard-N.log         magic, then records               appended; a record is length, checksum, payload

The payload of a record is one update with its sequence number.  Updates are written and synced before they are
acknowledged (``sync``, once for all updates of a turn), so no acknowledged one is lost when all replicas are killed. A
record that was torn by a crash is the last one and fails its checksum: it was not acknowledged, and is cut off.
When the log has grown, a new snapshot replaces both; updates that the snapshot contains are skipped on reading, so a
crash between the two renames does no harm.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack

from zray.gcs.replica.state import CorruptSnapshot, ReplicatedState, Update

# A restart reads the log at some 100 MB/s; a snapshot stalls the node for as long as it takes to write the tables.
UPDATES_BYTES_MAX = 32 * 1024 * 1024
_MAGIC = b"zraygcs1"
_LOG_MAGIC = b"zraylog1"
_DIGEST = 8


def snapshot_name(shard: int) -> str:
    return f"shard-{shard}.snapshot"


def log_name(shard: int) -> str:
    return f"shard-{shard}.log"


class Disk:
    """Where one replica persists.  Every method may raise OSError: the disk is full, gone, or not ours."""

    def __init__(self, directory: str | os.PathLike[str], shard: int = 0) -> None:
        self.directory = Path(directory)
        self.snapshot = self.directory / snapshot_name(shard)
        self.log = self.directory / log_name(shard)
        self.log_bytes = 0
        self._log = -1  # file descriptor
        self._buffer = bytearray()
        self.unsynced = False  # something was appended since the last sync

    def load(self) -> ReplicatedState | None:
        """The stored state, None if nothing is stored.  CorruptSnapshot when the files cannot be trusted."""
        state = read_snapshot(self.snapshot)
        try:
            blob = self.log.read_bytes()
        except FileNotFoundError:
            return state
        if blob[:len(_LOG_MAGIC)] != _LOG_MAGIC[:len(blob)]:
            raise CorruptSnapshot(f"{self.log} is not a log of the control store; move it away")
        state = state or ReplicatedState()
        for sequence, update in _records(blob):
            if sequence == state.sequence + 1:
                state.apply(update)
            elif sequence > state.sequence:
                raise CorruptSnapshot(f"{self.log} begins after the snapshot ends: update "
                                      f"{state.sequence + 1} is missing")
        return state

    def begin(self, state: ReplicatedState) -> None:
        """Write a snapshot of ``state``; later appends follow it."""
        self.close()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_snapshot(self.snapshot, state)
        self._log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        self._buffer += _LOG_MAGIC
        self.log_bytes = len(_LOG_MAGIC)
        self.unsynced = True
        self.sync()

    def append(self, sequence: int, update: Update) -> None:
        """Add an update to the log; it is safe after the next :meth:`sync`."""
        payload = msgpack.packb([sequence, *update], use_bin_type=True)
        record = len(payload).to_bytes(4, "big") + blake2b(payload, digest_size=_DIGEST).digest() + payload
        self._buffer += record
        self.log_bytes += len(record)
        self.unsynced = True

    def sync(self) -> None:
        if self.unsynced:
            while self._buffer:
                del self._buffer[:os.write(self._log, self._buffer)]
            os.fdatasync(self._log)
            self.unsynced = False

    def remove(self) -> None:
        """This node holds no replica any more: its files must not come back as the newest state."""
        self.close()
        for path in (self.log, self.snapshot):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Appends that were not synced are lost."""
        if self._log >= 0:
            os.close(self._log)
        self._log = -1
        self._buffer.clear()
        self.unsynced = False


def _records(blob: bytes) -> Any:
    """(sequence, update) of every whole record."""
    place = len(_LOG_MAGIC)
    while place + 4 + _DIGEST <= len(blob):
        size = int.from_bytes(blob[place:place + 4], "big")
        digest = blob[place + 4:place + 4 + _DIGEST]
        payload = blob[place + 4 + _DIGEST:place + 4 + _DIGEST + size]
        if len(payload) < size or blake2b(payload, digest_size=_DIGEST).digest() != digest:
            return  # torn by a crash, so never acknowledged
        sequence, client, number, acked, op = msgpack.unpackb(payload, raw=False, strict_map_key=False)
        yield sequence, Update(client, number, acked, op)
        place += 4 + _DIGEST + size


def write_snapshot(path: Path, state: ReplicatedState) -> None:
    """Magic, checksum, snapshot."""
    raw = state.snapshot()
    replace(path, _MAGIC + blake2b(raw, digest_size=16).digest(), raw)


def replace(path: Path, *parts: bytes) -> None:
    """Write a file as a whole: a reader sees the old one or the new one, never a part, also after a power cut."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # else a power cut may forget the rename
    finally:
        os.close(directory)


def read_snapshot(path: Path) -> ReplicatedState | None:
    """The state in ``path``, None when there is no such file; CorruptSnapshot when it does not read."""
    try:
        blob = path.read_bytes()
    except FileNotFoundError:
        return None
    head, digest, raw = blob[:8], blob[8:24], blob[24:]
    if head != _MAGIC or blake2b(raw, digest_size=16).digest() != digest:
        raise CorruptSnapshot(f"{path} is damaged or not a snapshot of the control store; move it away to start empty")
    state = ReplicatedState()
    state.restore(raw)
    return state
