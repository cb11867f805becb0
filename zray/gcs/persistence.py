"""All replicas of a node on disk, a file pair each (zray.gcs.disk), and what to do when the disk refuses.

    replicas = Replicas(directory, failed)
    state = replicas.load(shard)           at the start of the first node of a cluster
    replicas.keep(replica)                 whenever something about a replica may have changed
    replicas.sync()                        before anything that depends on an update is told to anybody
    replicas.drop(shard)                   no replica of that shard here any more

The first error is the last: nothing is written any more, and the node takes no updates.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from zray.gcs.chain import ChainReplica
from zray.gcs.disk import LOG_BYTES_MAX, Disk
from zray.gcs.state import ReplicatedState, Update
from zray.gcs.tables import DISK


class Replicas:
    """``failed(error)`` is called once, when the disk has refused; ``error`` then says why, for people."""

    def __init__(self, directory: str | os.PathLike[str], failed: Callable[[str], None]) -> None:
        self.directory = Path(directory)
        self.error = ""
        self._failed = failed
        self._disks: dict[int, Disk] = {}
        self._unsynced: set[int] = set()

    @property
    def unsynced(self) -> bool:
        """Something was applied that is not on disk yet, or that the disk refused: see :meth:`sync`."""
        return bool(self._unsynced)

    def load(self, shard: int) -> ReplicatedState | None:
        """What is stored, None if nothing is.  CorruptSnapshot when what is there cannot be trusted."""
        return self.disk(shard).load()

    def keep(self, replica: ChainReplica, *, fresh: bool = False) -> None:
        """Keep on disk what a replica holds, as long as it counts.

        ``fresh``: of a cluster that begins, an empty shard gets its files with its first update, for a start should
        not wait for the disk once a shard.
        """
        if self.error:
            return
        try:
            if not replica.established:
                if replica.journal is not None:
                    replica.journal = None
                    self._unsynced.discard(replica.shard)
                    self.disk(replica.shard).remove()
            elif replica.journal is None or self.disk(replica.shard).log_bytes > LOG_BYTES_MAX:
                if not fresh or replica.applied:
                    self._begin(replica)
                replica.journal = lambda sequence, update: self._append(replica, sequence, update)
        except OSError as error:
            self._refuse(error)

    def drop(self, shard: int) -> None:
        """What it stored must not be taken for the newest state later."""
        self._unsynced.discard(shard)
        if not self.error:
            try:
                self.disk(shard).remove()
            except OSError:
                pass  # it is refused by its age in the end

    def sync(self) -> None:
        """Put it there; when there is an ``error`` afterwards, nothing that depends on it may be told."""
        try:
            for shard in sorted(self._unsynced):
                self.disk(shard).sync()
        except OSError as error:
            self._refuse(error)
        self._unsynced.clear()

    def close(self) -> None:
        for disk in self._disks.values():
            disk.close()

    def disk(self, shard: int) -> Disk:
        found = self._disks.get(shard)
        if found is None:
            found = self._disks[shard] = Disk(self.directory, shard)
        return found

    def _begin(self, replica: ChainReplica) -> None:
        self.disk(replica.shard).begin(replica.state)
        self._unsynced.discard(replica.shard)

    def _append(self, replica: ChainReplica, sequence: int, update: Update) -> None:
        if self.error:
            return
        disk = self.disk(replica.shard)
        self._unsynced.add(replica.shard)
        try:
            if disk.log_bytes:
                disk.append(sequence, update)
            else:
                self._begin(replica)  # its first: the state holds the update already
        except OSError as error:
            self._refuse(error)

    def _refuse(self, error: OSError) -> None:
        """Take no more updates, go on answering reads, and let the chains go on without this node."""
        usage = ""
        try:
            room = os.statvfs(self.directory)
            usage = f", {room.f_bavail * room.f_frsize} of {room.f_blocks * room.f_frsize} bytes free there"
        except OSError:
            pass
        self.error = f"{DISK}: the control store cannot write to {self.directory}: {error.strerror}{usage}"
        self.close()
        self._failed(self.error)
