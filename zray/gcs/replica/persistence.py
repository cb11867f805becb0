"""All replicas of a node on disk, a file pair each (zray.gcs.replica.disk), and the end of writing when the disk
refuses.

    replicas = Replicas(directory, shards, failed)
    replicas.demand_all()                  the first node of a cluster: is everything here?
    state = replicas.load(shard)           then this for every shard
    replicas.keep(replica)                 whenever something about a replica may have changed
    replicas.sync()                        before any message that depends on an update is sent
    replicas.drop(shard)                   no replica of that shard here any more

The first error is the last: nothing is written any more, and the node takes no updates.

In a cluster of more nodes than a chain has replicas no node holds every shard.  A file lists the shards that lie
elsewhere, so that such a directory is not taken for the whole store: a silently absent key is worse than a refused
start.  A shard is on that list until its files are written, and again before they are removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from zray.gcs.replica.chain import ChainReplica
from zray.gcs.replica.disk import UPDATES_BYTES_MAX, Disk, replace
from zray.gcs.replica.state import CorruptSnapshot, ReplicatedState, Update
from zray.gcs.replica.tables import DISK

LAYOUT_NAME = "shards.json"


class Replicas:
    """``failed(error)`` is called once, when the disk has refused; ``error`` is the reason, for people."""

    def __init__(self, directory: str | os.PathLike[str], shards: int, failed: Callable[[str], None]) -> None:
        self.directory = Path(directory)
        self._shards = shards
        self._here: set[int] = set()
        self._noted = False
        self.error = ""
        self._failed = failed
        self._disks: dict[int, Disk] = {}
        self._unsynced: set[int] = set()

    @property
    def unsynced(self) -> bool:
        """Whether an applied update is not on disk yet, or was refused by the disk: see :meth:`sync`."""
        return bool(self._unsynced)

    def demand_all(self) -> None:
        """CorruptSnapshot when the files here are known to be no whole store of this version."""
        self._here.update(range(self._shards))
        path = self.directory / LAYOUT_NAME
        try:
            layout = json.loads(path.read_bytes())
            shards, elsewhere = layout["shards"], layout["elsewhere"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            raise CorruptSnapshot(f"{path} is damaged; remove it if all shards of the control store are "
                                  "there") from None
        if shards != self._shards:
            raise CorruptSnapshot(f"{self.directory} holds a control store of {shards} shards, this version reads "
                                  f"{self._shards}")
        if elsewhere:
            names = ", ".join(map(str, elsewhere))
            raise CorruptSnapshot(
                f"{self.directory} holds a part of the control store: shards {names} lay on other nodes. Copy their "
                f"files (shard-N.snapshot, shard-N.log) here from the directories of nodes that held them to the end, "
                f"then remove {path}")

    def load(self, shard: int) -> ReplicatedState | None:
        """The stored state, None if nothing is stored.  CorruptSnapshot when the files cannot be trusted."""
        return self.disk(shard).load()

    def keep(self, replica: ChainReplica, *, fresh: bool = False) -> None:
        """Keep a replica's state on disk, as long as it counts.

        ``fresh``: the cluster begins.  An empty shard then gets its files with its first update, because a start
        should not wait for the disk once a shard.
        """
        if self.error:
            return
        try:
            if not replica.established:
                if replica.journal is not None:
                    replica.journal = None
                    self._remove(replica.shard)
            elif fresh and not replica.applied:
                if not self._noted:
                    self._note()
                replica.journal = lambda sequence, update: self._append(replica, sequence, update)
            elif replica.journal is None or self.disk(replica.shard).log_bytes > UPDATES_BYTES_MAX:
                self._begin(replica)
                replica.journal = lambda sequence, update: self._append(replica, sequence, update)
        except OSError as error:
            self._refuse(error)

    def drop(self, shard: int) -> None:
        """Drop a shard: its files must not be taken for the newest state later."""
        if not self.error:
            try:
                self._remove(shard)
            except OSError:
                pass  # its age gives it away in the end

    def sync(self) -> None:
        """Put everything on disk; after an ``error`` no message that depends on it may be sent."""
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
        if not self._noted:
            self._note()  # other files in this directory are of an earlier cluster
        self.disk(replica.shard).begin(replica.state)
        self._unsynced.discard(replica.shard)
        if replica.shard not in self._here:
            self._here.add(replica.shard)
            self._note()

    def _remove(self, shard: int) -> None:
        self._unsynced.discard(shard)
        self._here.discard(shard)
        self._note()
        self.disk(shard).remove()

    def _note(self) -> None:
        self._noted = True
        elsewhere = [shard for shard in range(self._shards) if shard not in self._here]
        replace(self.directory / LAYOUT_NAME, json.dumps({"shards": self._shards, "elsewhere": elsewhere}).encode())

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
