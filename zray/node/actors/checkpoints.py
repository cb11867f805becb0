"""Files of checkpoints in the session's folders of nodes: copies on a second node, fetches, removal.  Pure.

    SaveCheckpoint from a worker here --> CheckpointPart to another node, part after part --CheckpointKept-->
                                          done: the message goes on to the actor's home, with the holders
    its target dies, or its disk is full  another node; without one, this node is the only holder
    FetchCheckpoint from a worker here    ReadCheckpoint to one holder after the other; CheckpointHere to the worker
    DropCheckpoints from the home         older files of the actor are removed, or all of them
    the worker of an actor has ended      files that it had not announced are removed

The name of a file is the actor's id, the life and the start, so that later checkpoints have greater names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from zray.base.ports import Ports
from zray.node.context import NodeContext
from zray.node.peers.cluster import PeerNodes
from zray.wire import messages as m

# Actors that have ended, of which files may still be written here until their processes have ended.
ENDED_MAX = 1024
# A part takes some 0.3 ms to read or write, which the turn of a daemon can spare.
PART_BYTES = 1024 * 1024


class Files(Protocol):
    """The folder of checkpoints of this node."""

    def names(self, prefix: str) -> list[str]:
        """Files whose names begin so, unfinished copies too."""

    def size(self, file: str) -> int:
        """Bytes of a file; -1 when there is none."""

    def read(self, file: str, offset: int, nbytes: int) -> bytes: ...

    def write(self, file: str, offset: int, data: bytes, last: bool) -> bool:
        """Write a part; the file has its name once the last part is there.  False when the disk refuses."""

    def remove(self, file: str) -> None: ...


class CheckpointPorts(Ports):
    """Ports of the files of checkpoints."""

    files: Files
    cluster: PeerNodes
    saved: Callable[[bytes, m.SaveCheckpoint], None]  # (worker, message with its holders): to the actor's home


class _Copy:
    """A checkpoint on its way to a second node."""

    __slots__ = ("message", "target", "tried", "worker")

    def __init__(self, worker: bytes, message: m.SaveCheckpoint):
        self.worker = worker
        self.message = message
        self.target = b""
        self.tried: set[bytes] = set()


class _Fetch:
    """A checkpoint on its way to this node, for workers that wait."""

    __slots__ = ("left", "source", "workers")

    def __init__(self, holders: Iterable[bytes]):
        self.left = list(holders)
        self.source = b""
        self.workers: list[bytes] = []


class CheckpointFiles:
    """See the module's docstring."""

    def __init__(self, context: NodeContext, ports: CheckpointPorts):
        self._context = context
        self._ports = ports
        self.copies: dict[str, _Copy] = {}
        self.fetches: dict[str, _Fetch] = {}
        self._ended: dict[bytes, None] = {}  # actors that have ended for good, oldest first
        self.known: set[str] = set()  # files that a worker has announced, or another node has sent
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.FetchCheckpoint.CODE: self._fetch, m.ReadCheckpoint.CODE: self._read, m.CheckpointPart.CODE: self._part,
            m.CheckpointKept.CODE: self._kept, m.DropCheckpoints.CODE: self._drop}

    # ------------------------------------------------------------ a new checkpoint

    def save(self, worker: bytes, message: m.SaveCheckpoint) -> None:
        """A worker of this node has written a checkpoint."""
        file = message.place.get("file")
        if file is None:
            self._ports.saved(worker, message)
        elif message.actor in self._ended:
            self._forget(file)
        elif file not in self.copies and self._ports.files.size(file) >= 0:
            self.known.add(file)
            copy = self.copies[file] = _Copy(worker, message)
            self._to_next(file, copy)

    def _to_next(self, file: str, copy: _Copy) -> None:
        """Begin a copy on a node that was not tried; else this node is the only one that has the file."""
        others = sorted(self._ports.cluster.peers.keys() - copy.tried)
        if not others:
            self._done(file, copy, [self._context.me])
            return
        copy.target = others[sum(copy.message.actor) % len(others)]  # actors spread over the nodes
        copy.tried.add(copy.target)
        self._send_part(file, copy.target, 0, asked=False)

    def _done(self, file: str, copy: _Copy, holders: list[bytes]) -> None:
        del self.copies[file]
        message = copy.message
        self._ports.saved(copy.worker, message._replace(place={**message.place, "holders": holders}))

    def _send_part(self, file: str, peer: bytes, offset: int, *, asked: bool) -> None:
        total = self._ports.files.size(file)
        data = self._ports.files.read(file, offset, PART_BYTES) if total > 0 else b""
        self._context.send(peer, m.CheckpointPart(file, offset, total, data, asked))

    def _kept(self, peer: bytes, message: m.CheckpointKept) -> None:
        copy = self.copies.get(message.file)
        if copy is None or copy.target != peer:
            return
        if message.offset < 0:
            self._to_next(message.file, copy)
        elif message.offset >= self._ports.files.size(message.file):
            self._done(message.file, copy, [self._context.me, peer])
        else:
            self._send_part(message.file, peer, message.offset, asked=False)

    # ------------------------------------------------------------ parts

    def _write(self, message: m.CheckpointPart) -> bool:
        if message.total < 0:
            return False
        self.known.add(message.file)
        last = message.offset + len(message.data) >= message.total
        return self._ports.files.write(message.file, message.offset, message.data, last)

    def _part(self, peer: bytes, message: m.CheckpointPart) -> None:
        file, end = message.file, message.offset + len(message.data)
        if not message.asked:
            self._context.send(peer, m.CheckpointKept(file, end if self._write(message) else -1))
            return
        fetch = self.fetches.get(file)
        if fetch is None or fetch.source != peer:
            return
        if not self._write(message):
            self._from_next(file, fetch)
        elif end >= message.total:
            self._fetched(file, fetch, True)
        else:
            self._context.send(peer, m.ReadCheckpoint(file, end))

    def _read(self, peer: bytes, message: m.ReadCheckpoint) -> None:
        self._send_part(message.file, peer, message.offset, asked=True)

    # ------------------------------------------------------------ a fetch

    def _fetch(self, peer: bytes, message: m.FetchCheckpoint) -> None:
        if self._ports.files.size(message.file) >= 0:
            self._context.send(peer, m.CheckpointHere(message.file, True))
            return
        fetch = self.fetches.get(message.file)
        if fetch is None:
            fetch = self.fetches[message.file] = _Fetch(message.holders)
            fetch.workers.append(peer)
            self._from_next(message.file, fetch)
        else:
            fetch.workers.append(peer)

    def _from_next(self, file: str, fetch: _Fetch) -> None:
        while fetch.left:
            fetch.source = fetch.left.pop(0)
            if fetch.source in self._ports.cluster.peers:
                self._context.send(fetch.source, m.ReadCheckpoint(file, 0))
                return
        self._fetched(file, fetch, False)

    def _fetched(self, file: str, fetch: _Fetch, found: bool) -> None:
        del self.fetches[file]
        for worker in fetch.workers:
            self._context.send(worker, m.CheckpointHere(file, found))

    # ------------------------------------------------------------ ends

    def drop(self, actor: bytes, nodes: Iterable[bytes], keep: str, only: str = "") -> None:
        """Remove the actor's files on these nodes: those before ``keep``, or all, or ``only`` that one."""
        message = m.DropCheckpoints(actor, keep, only)
        for node in sorted(nodes):
            if node == self._context.me:
                self._drop(node, message)
            elif node in self._ports.cluster.peers:
                self._context.send(node, message)

    def drop_everywhere(self, actor: bytes) -> None:
        """The home is gone, and with it the list of nodes that have files of the actor."""
        self.drop(actor, [self._context.me, *self._ports.cluster.peers], "")

    def _drop(self, peer: bytes, message: m.DropCheckpoints) -> None:
        if not message.keep and not message.only:
            self._ended[message.actor] = None
            if len(self._ended) > ENDED_MAX:
                del self._ended[next(iter(self._ended))]
        for file in self._ports.files.names(message.actor.hex()):
            if file == message.only if message.only else not message.keep or file < message.keep:
                copy = self.copies.pop(file, None)
                if copy is not None:
                    self._context.send(copy.target, m.DropCheckpoints(message.actor, "", file))
                self._forget(file)

    def _forget(self, file: str) -> None:
        self.known.discard(file)
        self._ports.files.remove(file)

    def worker_ended(self, actor: bytes) -> None:
        """The process of an actor on this node has ended."""
        for file in self._ports.files.names(actor.hex()):
            if file not in self.known:
                self._forget(file)

    def node_ended(self, node: bytes) -> None:
        for file, copy in list(self.copies.items()):
            if copy.target == node:
                self._to_next(file, copy)
        for file, fetch in list(self.fetches.items()):
            if fetch.source == node:
                self._from_next(file, fetch)

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for copy in self.copies.values():
            assert copy.target in self._ports.cluster.peers, "a copy goes to a node that is gone"
        for fetch in self.fetches.values():
            assert fetch.source in self._ports.cluster.peers and fetch.workers
        assert self.copies.keys() <= self.known
