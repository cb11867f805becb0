"""The control store inside a node daemon: a chain replica, its snapshot on disk, and a client without a socket.

    service = GcsService(time.monotonic, send, persist_dir=session_dir / "gcs")
    handlers.update(service.handlers)              # code -> fn(peer, message), from the mesh
    service.tick(now)                              # every few tens of milliseconds
    service.client.claim_name(...)                 # the daemon's own requests; complete on return in a chain of one
    service.forget(incarnation)                    # a process is gone
    service.close()                                # last snapshot

``send(peer, message)`` queues a message for another process.  What the replica sends to this service's own
incarnation goes to ``client``, and back, without leaving the process.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from zray.gcs.chain import ChainReplica, Out
from zray.gcs.client import GcsClient
from zray.gcs.config import ChainConfig
from zray.gcs.state import CorruptSnapshot, ReplicatedState
from zray.ids import new_incarnation
from zray.messages import (
    ChainAck,
    ChainFetch,
    ChainSnapshot,
    ChainUpdates,
    GcsEvents,
    GcsRedirect,
    GcsReply,
    GcsRequest,
    GcsUnwatch,
    GcsWatch,
)

# A snapshot is written this long after the first change it lacks.
SNAPSHOT_S = 5.0
SNAPSHOT_NAME = "gcs.snapshot"
_MAGIC = b"zraygcs1"
_TO_REPLICA: tuple[Any, ...] = (GcsRequest, GcsWatch, GcsUnwatch, ChainUpdates, ChainAck, ChainSnapshot, ChainFetch)
_TO_CLIENT: tuple[Any, ...] = (GcsReply, GcsRedirect, GcsEvents)


class GcsService:
    """One replica and the daemon's own client.  Not thread-safe: call it under the daemon's loop lock."""

    def __init__(self, now: Callable[[], float], send: Callable[[bytes, Any], None],
                 persist_dir: str | os.PathLike[str] | None = None, *, incarnation: bytes | None = None,
                 config: ChainConfig | None = None) -> None:
        """``incarnation``: this daemon's; ``config``: the chain to take part in, by default a chain of one.

        Raises CorruptSnapshot when ``persist_dir`` holds a snapshot that does not read: losing the tables of a
        cluster silently would be worse than not starting.
        """
        self.incarnation = incarnation or new_incarnation()
        self._now = now
        self._send_out = send
        self._path = Path(persist_dir) / SNAPSHOT_NAME if persist_dir is not None else None
        state = read_snapshot(self._path) if self._path is not None else None
        self.replica = ChainReplica(self.incarnation, config or ChainConfig.first(self.incarnation), state)
        self._saved_sequence = self.replica.applied
        self._dirty_since: float | None = None
        self._local: deque[tuple[bytes, Any]] = deque()  # messages from this process to itself
        self._pumping = False
        self.client = GcsClient(self.incarnation, self.route, self.replica.config.members, self.replica.config.epoch)
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            cls.CODE: self._receive for cls in (*_TO_REPLICA, *_TO_CLIENT)}

    # ------------------------------------------------------------ messages

    def route(self, peer: bytes, message: Any) -> None:
        """Queue a message, to another process or to this one."""
        if peer != self.incarnation:
            self._send_out(peer, message)
            return
        self._local.append((peer, message))
        self._pump()

    def reconfigure(self, config: ChainConfig) -> None:
        """Adopt a configuration that the decider made; raises UnsafeConfig."""
        self._emit(self.replica.reconfigure(config, self._now()))
        self.client.configured(config)

    def tick(self, now: float) -> None:
        """Resend what is due; write the snapshot when it is."""
        self._emit(self.replica.tick(now))
        self.client.tick(now)
        if self._path is not None and self.replica.applied != self._saved_sequence:
            if self._dirty_since is None:
                self._dirty_since = now
            elif now - self._dirty_since >= SNAPSHOT_S:
                self.save()

    def forget(self, incarnation: bytes) -> None:
        """A client process is gone: drop its watches, and from the chain its answered requests."""
        self.replica.forget_client(incarnation)
        if incarnation in self.replica.state.clients.sessions:
            self.client.forget_client(incarnation)

    def _receive(self, peer: bytes, message: Any) -> None:
        if isinstance(message, _TO_CLIENT):
            self.client.on_message(peer, message)
        else:
            self._emit(self.replica.on_message(peer, message, self._now()))

    def _emit(self, out: Out) -> None:
        for peer, message in out:
            self.route(peer, message)

    def _pump(self) -> None:
        """Deliver local messages in order, one at a time: a callback that sends only appends."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._local:
                self._receive(*self._local.popleft())
        finally:
            self._pumping = False

    # ------------------------------------------------------------ snapshot on disk

    def save(self) -> None:
        """Write the tables to disk, atomically and durably (OSError when the disk refuses)."""
        if self._path is None:
            return
        write_snapshot(self._path, self.replica.state)
        self._saved_sequence = self.replica.applied
        self._dirty_since = None

    def close(self) -> None:
        """Write what is not yet on disk."""
        if self.replica.applied != self._saved_sequence:
            self.save()

    def check(self) -> None:
        self.replica.check()
        self.client.check()
        assert not self._local or self._pumping


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
