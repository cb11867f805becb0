"""Which nodes have copies of which objects, and how copies end.

The node of a primary knows every node with a complete copy (CopyMade, CopyGone).  For objects that have left the node
it writes the list to the control store a little later.  It tells those nodes when the owner frees the object.

When the node of a primary dies, each node with a copy keeps it from eviction and adds itself to the list; the owner's
node then ends the copies by that list.  Writers of one row may overwrite each other, so a writer checks later whether
it is in the row.  Nodes learn of a death at different times, so the node that frees checks later for late copies.  The
row is a hint: readers ask the nodes that it names.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Container
from heapq import heappop, heappush
from typing import Any

from zray.store.transfer.copies import Copies
from zray.store.transfer.exchange import (
    ANNOUNCE_TRIES,
    ANNOUNCED_AT_ONCE,
    FREE_AGAIN_S,
    FREED_MAX,
    LOCATIONS_DELAY_S,
    Finder,
    ObjectKey,
    RecordCopies,
    SendToNode,
)
from zray.wire.messages import DropCopies, StoreFree


class Directory:
    """See the module's docstring."""

    def __init__(self, me: bytes, copies: Copies, finder: Finder, ended_nodes: Container[bytes], out: list[Any],
                 end_here: Callable[[ObjectKey, float], None]):
        self.me = me
        self.end_here = end_here  # drops what this node has of an object
        self.copies = copies
        self.finder = finder
        self.ended_nodes = ended_nodes
        self.out = out
        self.complete: dict[ObjectKey, dict[bytes, None]] = {}  # our primaries -> other nodes with whole copies
        self._recorded: set[ObjectKey] = set()  # with a row in the control store
        self._changed: dict[ObjectKey, None] = {}  # rows to write
        # Copies here whose primary's node is dead, to be added to their rows; and how often they were.
        self._orphans: deque[tuple[ObjectKey, int]] = deque()
        # heap: copies of lost primaries that were freed here, to be looked for again
        self._again: list[tuple[float, ObjectKey, int]] = []
        self._write_at: float | None = None
        self._drops: dict[bytes, list[list[Any]]] = {}  # node -> copies that it is to drop
        self._freed: OrderedDict[ObjectKey, None] = OrderedDict()  # of other nodes, by owners here

    # ------------------------------------------------------------ copies of our primaries

    def copy_made(self, node: bytes, key: ObjectKey, now: float) -> None:
        if key.generation not in self.copies.table.exported:  # freed meanwhile
            self._drops.setdefault(node, []).append(list(key))
            return
        self.complete.setdefault(key, {})[node] = None
        self._change(key, now)

    def copy_gone(self, node: bytes, key: ObjectKey, now: float) -> None:
        nodes = self.complete.get(key)
        if nodes is not None and node in nodes:
            del nodes[node]
            if not nodes:
                del self.complete[key]
            self._change(key, now)

    def freed(self, key: ObjectKey) -> None:
        """The owner has freed a primary of ours."""
        for node in self.complete.pop(key, ()):
            self._drops.setdefault(node, []).append(list(key))
        self._changed.pop(key, None)
        if key in self._recorded:
            self._recorded.discard(key)
            self.out.append(RecordCopies(key.oid, []))

    # ------------------------------------------------------------ objects of other nodes

    def free(self, node: bytes, objects: list, now: float) -> None:
        """An owner here has freed primaries of that node."""
        keys = [ObjectKey(entry[0], node, entry[2]) for entry in objects
                if type(entry) is list and [type(field) for field in entry] == [bytes, int, int]]
        if node in self.ended_nodes:
            for key in keys:
                self._free_orphan(key, 0, now)
            return
        self.out.append(SendToNode(node, StoreFree(objects, node)))
        for key in keys:
            self._freed[key] = None
        while len(self._freed) > FREED_MAX:
            self._freed.popitem(last=False)

    def _free_orphan(self, key: ObjectKey, tries: int, now: float) -> None:
        self.end_here(key, now)
        if tries < len(FREE_AGAIN_S) and len(self._again) < FREED_MAX:
            heappush(self._again, (now + FREE_AGAIN_S[tries], key, tries + 1))

        def found(nodes: list[bytes], now: float) -> None:
            for node in nodes:
                if node != self.me and node not in self.ended_nodes:
                    self._drops.setdefault(node, []).append(list(key))
            if nodes:
                self.out.append(RecordCopies(key.oid, []))

        self.finder.find(key.oid, found)

    def orphaned(self, key: ObjectKey, now: float) -> None:
        """The primary of a copy here is lost."""
        self.copies.keep(key)
        self._orphans.append((key, ANNOUNCE_TRIES))
        self._write_soon(now)

    def node_ended(self, node: bytes, now: float) -> None:
        for key in [key for key, nodes in self.complete.items() if node in nodes]:
            self.copy_gone(node, key, now)
        self._drops.pop(node, None)
        for key in self.copies.of_node(node):
            self.orphaned(key, now)
        for key in [key for key in self._freed if key.node == node]:
            del self._freed[key]
            self._free_orphan(key, 0, now)

    # ------------------------------------------------------------ write-behind

    def _change(self, key: ObjectKey, now: float) -> None:
        self._changed[key] = None
        self._write_soon(now)

    def _write_soon(self, now: float) -> None:
        if self._write_at is None:
            self._write_at = now + LOCATIONS_DELAY_S

    def tick(self, now: float) -> None:
        while self._again and self._again[0][0] <= now:
            _, key, tries = heappop(self._again)
            self._free_orphan(key, tries, now)
        if self._write_at is None or now < self._write_at:
            return
        for key in list(self._changed)[:ANNOUNCED_AT_ONCE]:
            del self._changed[key]
            self._write(key)
        for _ in range(min(len(self._orphans), ANNOUNCED_AT_ONCE)):
            self._announce(*self._orphans.popleft())
        self._write_at = now + LOCATIONS_DELAY_S if self._changed or self._orphans else None

    def next_deadline(self) -> float | None:
        if self._again:
            return self._again[0][0] if self._write_at is None else min(self._again[0][0], self._write_at)
        return self._write_at

    def _write(self, key: ObjectKey) -> None:
        nodes = self.complete.get(key)
        if nodes:
            self._recorded.add(key)
            self.out.append(RecordCopies(key.oid, [self.me, *nodes]))
        elif key in self._recorded:
            self._recorded.discard(key)
            self.out.append(RecordCopies(key.oid, []))

    def _announce(self, key: ObjectKey, tries: int) -> None:
        def found(nodes: list[bytes], now: float) -> None:
            if self.copies.complete(key) is None:
                return
            others = [node for node in nodes if node != self.me and node not in self.ended_nodes]
            left = tries - 1
            if set(nodes) != {*others, self.me}:
                self.out.append(RecordCopies(key.oid, [*others, self.me]))
            else:
                left = min(left, 1)  # a node that read the row before us may write it yet
            if left > 0:
                self._orphans.append((key, left))
                self._write_soon(now)

        self.finder.find(key.oid, found)

    def flush(self) -> None:
        """Once a turn: the copies that other nodes are to drop."""
        if self._drops:
            for node, objects in self._drops.items():
                self.out.append(SendToNode(node, DropCopies(objects)))
            self._drops = {}

    @property
    def written(self) -> bool:
        """Whether nothing waits to be written to the control store."""
        return not self._changed and not self._orphans

    def check(self) -> None:
        for key, nodes in self.complete.items():
            assert key.node == self.me and nodes and self.me not in nodes
            assert key.generation in self.copies.table.exported
            assert not any(node in self.ended_nodes for node in nodes)
        assert (self._write_at is not None) or not (self._changed or self._orphans)
        assert len(self._freed) <= FREED_MAX
