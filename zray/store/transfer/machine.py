"""Objects between nodes: the machine in each node's daemon.

    pulls      objects that come in             serving    objects that go out     directory   nodes with copies
    handover   objects that a leaving node gives to others
    durable    objects that several nodes keep                 copies     the table's memory, by object, for these

An object is brought to a node once, however many processes there ask for it, in chunks with a checksum each, and stays
there as a secondary copy until the store needs the room or the owner frees the object.  A broadcast becomes a tree
(zray.store.transfer.serving).  While nothing moves there is no deadline and no state.

Pure: messages of nodes and clients, events of the table and answers of the control store come in with ``now``; effects
go out through ``take``: SendToNode, SendToClient, RecordCopies and Find (the control store).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from zray.base.ends import Ends
from zray.base.ids import INCARNATION_SIZE, OBJECT_SIZE, node_of
from zray.store.header import Headers
from zray.store.node.records import Arriving, Dropped, Freed, SendToClient
from zray.store.node.table import StoreTable
from zray.store.transfer.copies import Copies
from zray.store.transfer.directory import Directory
from zray.store.transfer.durable import Durable
from zray.store.transfer.exchange import (
    ABSENT,
    CHUNK_BYTES,
    FREED,
    Find,
    Finder,
    HandoverProgress,
    ObjectKey,
    RecordCopies,
    SendToNode,
)
from zray.store.transfer.handover import HandOver
from zray.store.transfer.pulls import FREED_WHY, Pulls
from zray.store.transfer.serving import Serving
from zray.wire.messages import (
    STORED,
    Chunk,
    CopyGone,
    CopyMade,
    DropCopies,
    KeepCopies,
    PullChunk,
    PullElsewhere,
    PullEnd,
    PullObject,
    PullRefused,
    PullWait,
    StoreKeep,
    StoreKept,
    StoreLocate,
    StoreLocated,
    StorePull,
    StoreRestore,
    StoreRestored,
)

Out = SendToNode | SendToClient | RecordCopies | Find
LOCATE_MAX = 10_000
_KEPT_TYPES = [bytes, bytes, int, int, int], [bytes, bytes, int, int, int, int]
_VALUE_TYPES = [int, int, int, int, bytes, bytes]


def key_of(value: Any) -> ObjectKey | None:
    """The ObjectKey in a stored value; None when it is no stored value."""
    if (type(value) is not list or [type(field) for field in value] != _VALUE_TYPES or value[0] != STORED
            or value[2] < 0 or len(value[4]) != OBJECT_SIZE or len(value[5]) != INCARNATION_SIZE):
        return None
    return ObjectKey(value[4], value[5], value[3])


class TransferMachine:
    """See the module's docstring."""

    def __init__(self, table: StoreTable, headers: Headers, me: bytes, ends: Ends,
                 chunk_bytes: int = CHUNK_BYTES):
        self.me = me
        self.table = table
        self._ended_nodes = ends.nodes
        self.ignored = 0
        self._out: list[Any] = []
        self._now = 0.0
        self.copies = Copies(table, headers, me)
        self.finder = Finder(self._out)
        self.serving = Serving(me, self.copies, self._out, chunk_bytes)
        self.directory = Directory(me, self.copies, self.finder, self._ended_nodes, self._out, self._end_here)
        self.pulls = Pulls(me, self.copies, self.serving, self.finder, self._ended_nodes, self._out, self._orphaned,
                           chunk_bytes)
        self.durable = Durable(me, table, self.copies, self.directory, self.finder, self._ended_nodes,
                               self._out)
        self.handover = HandOver(me, self.copies, self.directory, table, self._out, self.durable.copies_wanted)
        self.pulls.durable = self.durable.keep
        self.serving.complete = self.directory.complete
        pulls, serving = self.pulls, self.serving
        handlers: dict[Any, Callable[[bytes, Any, float], None]] = {
            PullObject: serving.on_pull, PullChunk: serving.on_chunk_wanted, PullEnd: self._on_end,
            Chunk: pulls.on_chunk, PullElsewhere: pulls.on_elsewhere, PullRefused: pulls.on_refused,
            PullWait: pulls.on_wait, CopyMade: self._on_copy_made, CopyGone: self._on_copy_gone,
            DropCopies: self._on_drop, KeepCopies: self._on_keep,
        }
        self.handlers = {cls.CODE: partial(self._from_node, handler) for cls, handler in handlers.items()}

    # ------------------------------------------------------------ clients

    def on_pull(self, client: bytes, message: StorePull, now: float) -> None:
        """A process here wants an object that is not in its store's memory, as far as it knows."""
        key = key_of(message.value)
        if key is None:
            self._out.append(SendToClient(client, StoreRestored(message.request, [], "this is no stored value")))
            return
        _, offset, nbytes, generation, _, _ = message.value
        local = generation if key.node == self.me else self.copies.complete(key)
        if local is None:
            self.pulls.want(client, message.request, key, offset, nbytes, now)
            return
        if key.node != self.me:
            self.copies.touch(local)
            offset = self.table.names[local].offset
        self.table.on_restore(client, StoreRestore(message.request, key.oid, offset, local), now)

    def on_keep(self, client: bytes, message: StoreKeep, now: float) -> None:
        """A process here has made an object of which several nodes are to keep a copy."""
        key = key_of(message.value)
        if key is None or key.node != self.me or message.copies < 1:
            self.ignored += 1
            self._out.append(SendToClient(client, StoreKept(message.request, 0)))
            return
        self.durable.want(client, message.request, key, message.value[1], message.value[2], message.copies, now)

    def on_locate(self, client: bytes, message: StoreLocate, now: float) -> None:
        """Which nodes have copies."""
        keys = [key_of(value) for value in message.values[:LOCATE_MAX]]
        nodes: list[list[bytes]] = [[] for _ in keys]
        spilled = [key is not None and self.copies.spilled(key) for key in keys]
        open_questions = 1

        def answered(at: int, key: ObjectKey, found: list[bytes]) -> None:
            nonlocal open_questions
            here = [self.me] if self.copies.complete(key) is not None else []
            known = dict.fromkeys([key.node, *found, *here])
            nodes[at] = [node for node in known if node not in self._ended_nodes]
            done()

        def answered_by_store(at: int, key: ObjectKey, found: list[bytes], now: float) -> None:
            answered(at, key, found)

        def done() -> None:
            nonlocal open_questions
            open_questions -= 1
            if open_questions == 0:
                self._out.append(SendToClient(client, StoreLocated(message.request, nodes, spilled)))

        for at, key in enumerate(keys):
            if key is None:
                continue
            open_questions += 1
            if key.node == self.me:
                answered(at, key, list(self.directory.complete.get(key, ())))
            else:
                self.finder.find(key.oid, partial(answered_by_store, at, key))
        done()

    def free(self, node: bytes, objects: list, now: float) -> None:
        """Owners here freed objects whose primaries are on another node."""
        if len(node) != INCARNATION_SIZE or node_of(node) != node:
            self.ignored += 1
            return
        self.directory.free(node, objects, now)

    def forget_client(self, client: bytes, now: float) -> None:
        self.pulls.forget_client(client, now)
        self.durable.forget_client(client)

    def drop_job(self, job: bytes, now: float) -> None:
        """Before the table's own end of the job: cancel pulls of its objects."""
        self.pulls.drop_job(job, now)

    # ------------------------------------------------------------ nodes

    def _from_node(self, handler: Callable[[bytes, Any, float], None], peer: bytes, message: Any, now: float) -> None:
        if node_of(peer) != peer or peer == self.me or peer in self._ended_nodes:
            self.ignored += 1
            return
        self._now = now
        self.handover.heard(peer, now)
        handler(peer, message, now)

    def _on_end(self, peer: bytes, message: PullEnd, now: float) -> None:
        self.serving.on_end(peer, message.pull)

    def _on_copy_made(self, peer: bytes, message: CopyMade, now: float) -> None:
        key = ObjectKey(*message)
        if key.node == self.me:
            self.directory.copy_made(peer, key, now)
        self.handover.copy_made(peer, key)
        self.durable.copy_made(peer, key, now)

    def _on_copy_gone(self, peer: bytes, message: CopyGone, now: float) -> None:
        key = ObjectKey(*message)
        if key.node == self.me:
            self.directory.copy_gone(peer, key, now)
        self.handover.copy_gone(peer, key)
        self.durable.copy_gone(peer, key, now)

    def _on_drop(self, peer: bytes, message: DropCopies, now: float) -> None:
        for entry in message.objects:
            if type(entry) is not list or [type(field) for field in entry] != [bytes, bytes, int]:
                self.ignored += 1
                continue
            self._end_here(ObjectKey(*entry), now)

    def _on_keep(self, peer: bytes, message: KeepCopies, now: float) -> None:
        for entry in message.objects:
            if (type(entry) is not list or [type(field) for field in entry] not in _KEPT_TYPES
                    or len(entry[0]) != OBJECT_SIZE or len(entry[1]) != INCARNATION_SIZE or entry[4] < 0):
                self.ignored += 1
                continue
            key = ObjectKey(*entry[:3])
            if self.handover.begun:  # we leave as well
                self._out.append(SendToNode(peer, CopyGone(*key)))
                continue
            wanted = entry[5] if len(entry) > 5 else 0
            if key.node == self.me or self.copies.complete(key) is not None:
                if key.node != self.me:
                    self.copies.keep(key)
                    self.durable.keep(key, wanted, entry[4], now)
                self._out.append(SendToNode(peer, CopyMade(*key)))
            else:
                self.pulls.keep(peer, key, entry[3], entry[4], wanted, now)

    def hand_over(self, heirs: Iterable[bytes], needed: Callable[[bytes], bool], now: float) -> HandoverProgress:
        """This node leaves: other nodes are to get the objects that only it has; call it again until that is done."""
        self._now = now
        return self.handover.step(heirs, needed, now)._replace(moved=self.serving.chunks)

    def _end_here(self, key: ObjectKey, now: float) -> None:
        """An object of another node was freed."""
        self.pulls.freed(key, now)
        self.copies.drop(key, now)
        self.durable.forget(key)
        self.serving.ended(key, FREED, FREED_WHY)

    def node_ended(self, node: bytes, now: float) -> None:
        """Another node has ended: the register says so by now."""
        self._now = now
        self.serving.node_ended(node)
        self.handover.node_ended(node)
        self.directory.node_ended(node, now)
        self.pulls.node_ended(node, now)
        self.durable.node_ended(node, now)

    def _orphaned(self, key: ObjectKey) -> None:
        self.directory.orphaned(key, self._now)

    # ------------------------------------------------------------ the table and the control store

    def arriving(self, effect: Arriving, now: float) -> None:
        key = self.copies.keys.get(effect.generation)
        if key is not None:
            self.pulls.room(key, now)

    def dropped(self, effect: Dropped, now: float) -> None:
        key = self.copies.left(effect.generation)
        self.durable.forget(key)
        if key is None:
            return
        if key in self.pulls.pulls:
            self.pulls.lost(key, effect.why, now)
            return
        self.serving.ended(key, ABSENT, effect.why)
        if key.node not in self._ended_nodes:
            self._out.append(SendToNode(key.node, CopyGone(*key)))

    def freed(self, effect: Freed, now: float) -> None:
        """An object that other nodes know of was freed here: a primary by its owner, or anything with its job."""
        key = self.copies.left(effect.generation)
        if key is None:
            key = ObjectKey(effect.oid, self.me, effect.generation)
            self.table.exported.discard(effect.generation)
            self.directory.freed(key)
        elif key.node in self._ended_nodes:
            self._out.append(RecordCopies(key.oid, []))
        self.durable.forget(key)
        self.serving.ended(key, FREED, FREED_WHY)

    def restored(self, message: StoreRestored, now: float) -> None:
        found = self.copies.restored(message)
        if found is not None:
            self.serving.restored(*found)

    def located(self, token: int, nodes: list[bytes], now: float) -> None:
        self._now = now
        self.finder.located(token, nodes, now)

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        self._now = now
        self.pulls.tick(now)
        self.serving.tick(now)
        self.directory.tick(now)
        self.durable.tick(now)

    def next_deadline(self) -> float | None:
        return min((when for when in (self.pulls.next_deadline(), self.serving.sweep_at, self.directory.next_deadline(),
                                  self.durable.next_deadline())
                    if when is not None), default=None)

    def take(self) -> list[Out]:
        """Effects since the last call."""
        self.directory.flush()
        if not self._out:
            return []
        out = self._out[:]
        self._out.clear()
        return out

    def usage(self) -> dict[str, int]:
        return {"pulls": len(self.pulls.pulls), "serving": len(self.serving.sessions),
                "copies": len(self.copies.local), "served": self.serving.opened,
                "redirected": self.serving.redirected,
                **{f"pulls_{name}": count for name, count in self.pulls.counts.items()}}

    def check(self) -> None:
        for part in (self.copies, self.serving, self.directory, self.pulls, self.handover, self.durable):
            part.check()
