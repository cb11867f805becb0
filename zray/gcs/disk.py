"""The snapshot of a replica on disk."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

from zray.gcs.state import CorruptSnapshot, ReplicatedState

SNAPSHOT_NAME = "gcs.snapshot"
_MAGIC = b"zraygcs1"


def write_snapshot(path: Path, state: ReplicatedState) -> None:
    """Magic, checksum, snapshot; a reader sees the old file or the new one, never a part."""
    raw = state.snapshot()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_MAGIC + blake2b(raw, digest_size=16).digest())
        file.write(raw)
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
