"""The object stores of a simulated cluster: the first owner and the node of each object.

Bytes do not travel here: a value is read where it lies.  The objects of a dead node lie on another node from then on,
as copies whose owner is not known there, or they are lost (Plan.loses).  An object that is freed too early is found at
once.  The processes of a node that is declared dead may live on with its own store: they read objects that the others
have freed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.wire import messages as m
from zray.sim.failure import Lost
from zray.sim.oracle import Violation
from zray.store.header import OWNER_UNKNOWN
from zray.store.node.ownerless import OwnerlessObject

if TYPE_CHECKING:
    from zray.sim.cluster import SimCluster
    from zray.sim.core import Core


class CoreStore:
    """The Store of one simulated core process."""

    def __init__(self, stores: SimStores, core: Core) -> None:
        self.stores, self.core = stores, core

    def free(self, oid: bytes, value: Any, escaped: bool) -> None:
        self.core.send(self.core.node, m.StoreFree([[oid, value[1], value[3]]], value[5]))

    def flush(self) -> None:
        """Nothing to send: no messages are gathered."""

    def relieve(self, bytes_max: int) -> int:
        """Move values to the store until the rest is small."""
        refs = self.core.refs
        for entry in list(refs.owned.values()):
            if refs.inline_bytes <= bytes_max:
                break
            if type(entry.value) is bytes:
                refs.replace_value(entry, self.stores.put(self.core, entry.oid, entry.value))
        return max(bytes_max, refs.inline_bytes)

    def node_lost(self, failure: list[Any]) -> None:
        """Nothing to end: no requests are open."""


class SimStores:
    """See the module's docstring."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.contents: dict[int, bytes] = {}  # by generation
        self._freed: dict[int, bytes] = {}
        self.lost: set[int] = set()  # generations without a copy
        self._writers: dict[int, bytes] = {}  # generation of a result -> the process that wrote it for its owner
        self.blocks: dict[bytes, dict[int, OwnerlessObject]] = {}  # node -> generation -> object
        self._generation = 0

    def put(self, core: Core, oid: bytes, wire: bytes, owner: bytes = b"") -> list[Any]:
        """The stored value of an object that this process, or ``owner``, owns."""
        self._generation += 1
        generation = self._generation
        self.contents[generation] = wire
        self.blocks.setdefault(core.node, {})[generation] = OwnerlessObject(
            oid, 0, generation, owner or core.incarnation)
        if owner:
            self._writers[generation] = core.incarnation
        return [m.STORED, 0, len(wire), generation, oid, core.node]

    def read(self, core: Core, value: list[Any]) -> bytes:
        wire = self.contents.get(value[3])
        if wire is None and value[3] in self.lost and core.home not in self.cluster.oracle.condemned:
            raise Lost(value)
        if wire is None and core.home in self.cluster.oracle.condemned:
            wire = self._freed.get(value[3])
        if wire is None:
            raise Violation(f"object {value[4].hex()} is read after it was freed")
        return wire

    def locate(self, value: list[Any]) -> list[bytes]:
        """The nodes that have a copy."""
        return [node for node, blocks in self.blocks.items() if value[3] in blocks]

    def sweep(self) -> None:
        """Results whose writer ended before its reply arrived: the node frees them with the process's objects."""
        cores = self.cluster.cores
        unheard = {generation for generation, writer in self._writers.items()
                   if writer not in cores and generation in self.contents}
        for core in cores.values() if unheard else ():
            records: list[Any] = [*core.refs.owned.values(), *core.refs.borrowed.values()]
            for record in records:
                if type(record.value) is list and record.value[0] == m.STORED:
                    unheard.discard(record.value[3])
        for generation in unheard:
            self._drop(b"", generation)

    def has(self, value: list[Any]) -> bool:
        return value[3] in self.contents

    def free(self, node: bytes, objects: list[list[Any]]) -> None:
        """Free objects at their owner's request."""
        for _, _, generation in objects:
            self._drop(node, generation)

    def free_unheld(self, node: bytes, objects: list[OwnerlessObject]) -> None:
        """Free objects by a node's own decision: no process may hold them."""
        for one in objects:
            self._drop(node, one.generation)
            for core in () if node in self.cluster.oracle.condemned else self.cluster.cores.values():
                if not self.cluster.oracle.is_lost(core) and (
                        one.oid in core.refs.borrowed or one.oid in core.refs.owned):
                    raise Violation(f"object {one.oid.hex()} of {one.owner!r} is freed, and {core.incarnation!r} "
                                    "holds it")

    def _drop(self, node: bytes, generation: int) -> None:
        if node in self.cluster.oracle.condemned:
            return  # its objects are no copies for the other nodes
        if (wire := self.contents.pop(generation, None)) is not None:
            self._freed[generation] = wire
        for blocks in self.blocks.values():
            blocks.pop(generation, None)

    def drop_job(self, node: bytes, job: bytes) -> None:
        for generation, one in list(self.blocks.get(node, {}).items()):
            if one.oid.startswith(job):
                self._drop(node, generation)

    def node_gone(self, node: bytes, heir: bytes) -> None:
        """``heir`` learns that the node is dead: the copies at the heir count now, and the rest is lost."""
        for generation, one in self.blocks.pop(node, {}).items():
            if self.cluster.plan.loses and self.cluster.net.random.random() < 0.8:
                self.cluster.oracle.happened["lost"] += 1
                self.lost.add(generation)
                self._freed[generation] = self.contents.pop(generation)
            else:
                self.blocks.setdefault(heir, {})[generation] = one._replace(owner=OWNER_UNKNOWN)

    def node_ended(self, node: bytes) -> None:
        """The node ends; if it was declared dead before, later puts of its processes end with it."""
        if node in self.cluster.oracle.condemned:
            self.blocks.pop(node, None)

    def ownerless(self, node: bytes, has_ended: Callable[[bytes], bool]) -> list[OwnerlessObject]:
        return [one for one in self.blocks.get(node, {}).values() if one.owner == OWNER_UNKNOWN or has_ended(one.owner)]
