"""Objects of which several nodes keep a copy, because their makers asked for it (``durability=``).  Pure.

    the primary's node       a process there asks (StoreKeep).  This node is the object's guardian
    the guardian             asks other nodes to keep copies (KeepCopies), until as many have one as were asked for.
                             Another node is asked when one refuses, loses its copy or ends, and when nodes join
    a node with a copy       learns how many are wanted.  When the guardian has ended, it becomes the guardian; of
                             several, each asks the nodes in the same order, so that they choose the same ones
    the owner frees it       as any object: its copies end with it

StoreKept answers the process: once the copies are there, or no further node can have one now.  A copy that another
node has for a reader does not count: that node may evict it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from hashlib import blake2b
from typing import Any

from zray.store.node.records import SendToClient
from zray.store.node.table import StoreTable
from zray.store.transfer.copies import Copies
from zray.store.transfer.directory import Directory
from zray.store.transfer.exchange import RECORDED_S, Finder, ObjectKey, SendToNode
from zray.wire.messages import KeepCopies, StoreKept

NODES_LOOK_S = 1.0  # period of the look for further nodes while copies are missing


class Kept:
    """A durable object at a node that has it.  ``copies``: wanted in all, with the one here."""

    __slots__ = ("asked", "copies", "guarded", "have", "known", "look_at", "nbytes", "offset", "refused", "waiters")

    def __init__(self, copies: int, nbytes: int, offset: int, guarded: bool):
        self.copies = copies
        self.nbytes = nbytes
        self.offset = offset
        self.guarded = guarded  # by this node
        self.have: set[bytes] = set()  # other nodes that keep a copy
        self.known: Iterable[bytes] = ()  # nodes that had copies when the guardian ended
        self.asked: set[bytes] = set()
        self.refused: set[bytes] = set()  # since the last look
        self.look_at: float | None = None
        self.waiters: list[tuple[bytes, int]] = []  # (client, request)


class Durable:
    """See the module's docstring.

    nodes()             the other nodes that live
    announce(oid, n)    tell that node of the object's job, so that it drops the copy with the job
    """

    def __init__(self, me: bytes, table: StoreTable, copies: Copies, directory: Directory, finder: Finder,
                 ended_nodes: Container[bytes], out: list[Any]):
        self.me = me
        self.table = table
        self.copies = copies
        self.directory = directory
        self.finder = finder
        self.ended_nodes = ended_nodes
        self.out = out
        self.objects: dict[ObjectKey, Kept] = {}
        self.nodes: Callable[[], Iterable[bytes]] = tuple
        self.announce: Callable[[bytes, bytes], None] = _tell_nobody

    # ------------------------------------------------------------ what is wanted

    def want(self, client: bytes, request: int, key: ObjectKey, offset: int, nbytes: int, copies: int,
             now: float) -> None:
        """A process here has made the object, and asks for so many copies of it."""
        kept = self.objects.get(key)
        if kept is None:
            kept = self.objects[key] = Kept(copies, nbytes, offset, True)
            self.table.exported.add(key.generation)  # its end is reported from now on
        kept.copies = max(kept.copies, copies)
        kept.waiters.append((client, request))
        self._ensure(key, kept, now)

    def copies_wanted(self, key: ObjectKey) -> int:
        kept = self.objects.get(key)
        return kept.copies if kept is not None else 0

    def keep(self, key: ObjectKey, copies: int, nbytes: int, now: float) -> None:
        """A copy that another node has asked for is here.  ``copies``: so many are wanted, 0 of an undurable object."""
        if copies and key not in self.objects:
            kept = self.objects[key] = Kept(copies, nbytes, 0, False)
            if key.node in self.ended_nodes:  # and perhaps the guardian too, meanwhile
                kept.look_at = now + RECORDED_S

    # ------------------------------------------------------------ copies

    def _ensure(self, key: ObjectKey, kept: Kept, now: float) -> None:
        missing = kept.copies - 1 - len(kept.have) - len(kept.asked)
        if missing > 0:
            chosen = self._choose(key, kept)[:missing]
            for node in chosen:
                kept.asked.add(node)
                self.announce(key.oid, node)
                self.out.append(SendToNode(node, KeepCopies([[*key, kept.offset, kept.nbytes, kept.copies]])))
            kept.look_at = now + NODES_LOOK_S if len(chosen) < missing else None
        else:
            kept.look_at = None
        if not kept.asked and kept.waiters:
            for client, request in kept.waiters:
                self.out.append(SendToClient(client, StoreKept(request, 1 + len(kept.have))))
            kept.waiters.clear()

    def _choose(self, key: ObjectKey, kept: Kept) -> list[bytes]:
        """Nodes to ask, the best first: those that have a copy already, then in an order that all nodes agree on."""
        known = {*self.directory.complete.get(key, ()), *kept.known}
        possible = [node for node in self.nodes() if node != self.me and node not in kept.have
                    and node not in kept.asked and node not in kept.refused]
        return sorted(possible, key=lambda node: (node not in known, blake2b(key.oid + node, digest_size=8).digest()))

    def copy_made(self, node: bytes, key: ObjectKey, now: float) -> None:
        kept = self.objects.get(key)
        if kept is not None and node in kept.asked:
            kept.asked.discard(node)
            kept.have.add(node)
            self._ensure(key, kept, now)

    def copy_gone(self, node: bytes, key: ObjectKey, now: float) -> None:
        kept = self.objects.get(key)
        if kept is not None and (node in kept.asked or node in kept.have):
            kept.asked.discard(node)
            kept.have.discard(node)
            kept.refused.add(node)
            self._ensure(key, kept, now)

    def forget(self, key: ObjectKey | None) -> None:
        """The object has left this node: its owner freed it, its job ended, or the disk failed."""
        kept = self.objects.pop(key, None) if key is not None else None
        for client, request in kept.waiters if kept is not None else ():
            self.out.append(SendToClient(client, StoreKept(request, 0)))

    def forget_client(self, client: bytes) -> None:
        for kept in self.objects.values():
            if kept.waiters:
                kept.waiters = [waiter for waiter in kept.waiters if waiter[0] != client]

    # ------------------------------------------------------------ ends of nodes, and time

    def node_ended(self, node: bytes, now: float) -> None:
        for key, kept in self.objects.items():
            kept.refused.discard(node)
            was_involved = node in kept.have or node in kept.asked
            kept.have.discard(node)
            kept.asked.discard(node)
            if not kept.guarded and key.node in self.ended_nodes:
                kept.look_at = now + RECORDED_S  # other nodes with copies write that into the row until then
            elif was_involved:
                self._ensure(key, kept, now)

    def tick(self, now: float) -> None:
        for key, kept in list(self.objects.items()):
            if kept.look_at is None or kept.look_at > now:
                continue
            kept.refused.clear()
            if kept.guarded:
                self._ensure(key, kept, now)
            else:
                kept.look_at = None
                self._take_over(key, kept)

    def _take_over(self, key: ObjectKey, kept: Kept) -> None:
        """The guardian has ended, and this node has a copy."""
        def found(nodes: list[bytes], now: float) -> None:
            if self.objects.get(key) is not kept or kept.guarded:
                return
            if self.copies.complete(key) is None:
                del self.objects[key]
                return
            kept.guarded = True
            kept.known = nodes  # maybe copies for readers: they are asked to keep them too
            self._ensure(key, kept, now)

        self.finder.find(key.oid, found)

    def next_deadline(self) -> float | None:
        return min((kept.look_at for kept in self.objects.values() if kept.look_at is not None), default=None)

    def check(self) -> None:
        for key, kept in self.objects.items():
            assert not kept.have & kept.asked and self.me not in kept.have | kept.asked
            assert kept.guarded or not (kept.have or kept.asked or kept.waiters)
            assert not kept.guarded or len(kept.have) + len(kept.asked) >= kept.copies - 1 or kept.look_at is not None
            assert not kept.waiters or kept.asked
            assert key.node != self.me or kept.guarded


def _tell_nobody(oid: bytes, node: bytes) -> None:
    """The port of a node without a cluster."""
