"""The object stores of a simulated cluster: the first owner and the node of each object.

A reader first fetches a value, with ``fetch``.  With Plan.transfers it waits for a copy from a node that can serve it,
which may end in the middle, or for one that is on disk.  Without, a value is read wherever it lies.
What a dead node had lies from then on where it has been copied to, or on another node, as a copy whose owner is not
known there, or is lost (Plan.loses).  What is freed too early shows at once.
A result whose writer ended before its reply was heard stays until its owner or job ends, as in the product.
The processes of a node that is declared dead may live on, with its own store: they read what the others have freed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.sim.failure import Lost, Violation
from zray.sim.network import SimNetwork
from zray.sim.oracle import Oracle
from zray.sim.plan import Plan
from zray.sim.views import CoreView, CoreViews
from zray.store.header import OWNER_UNKNOWN
from zray.store.node.ownerless import OwnerlessObject
from zray.wire import messages as m

COPY_S_MAX = 0.03  # from another node
DISK_S_MAX = 0.05  # from a file
ON_DISK_PART = 0.2  # of what is put
SERVER_AGAIN_S = 0.02  # for a node that can serve a value


class CoreStore:
    """The Store of one simulated core process."""

    def __init__(self, stores: SimStores, core: CoreView) -> None:
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

    def pinned(self) -> dict[bytes, int]:
        """Simulated tasks keep no values."""
        return {}


class SimStores:
    """See the module's docstring.

    can_serve     whether a node sends copies to another one now: ``can_serve(source, reader)``
    """

    def __init__(self, net: SimNetwork, plan: Plan, oracle: Oracle, cores: CoreViews,
                 can_serve: Callable[[bytes, bytes], bool]) -> None:
        self._can_serve = can_serve
        self._net, self._plan, self._oracle, self._cores = net, plan, oracle, cores
        self.contents: dict[int, bytes] = {}  # by generation
        self._freed: dict[int, bytes] = {}
        self.lost: set[int] = set()  # generations without a copy
        self._writers: dict[int, bytes] = {}  # generation of a result -> the process that wrote it for its owner
        self.blocks: dict[bytes, dict[int, OwnerlessObject]] = {}  # node -> generation -> object
        self._generation = 0
        self._on_disk: set[int] = set()  # generations
        self._copies: dict[int, set[bytes]] = {}  # generation -> nodes with a further copy
        self._fetches: dict[tuple[bytes, int], tuple[bytes, float]] = {}  # (reader, generation) -> (source, until)

    def put(self, core: CoreView, oid: bytes, wire: bytes, owner: bytes = b"") -> list[Any]:
        """The stored value of an object that this process, or ``owner``, owns."""
        self._generation += 1
        generation = self._generation
        self.contents[generation] = wire
        self.blocks.setdefault(core.node, {})[generation] = OwnerlessObject(
            oid, 0, generation, owner or core.incarnation)
        if self._plan.transfers and self._net.random.random() < ON_DISK_PART:
            self._on_disk.add(generation)
        if owner:
            self._writers[generation] = core.incarnation
        return [m.STORED, 0, len(wire), generation, oid, core.node]

    def fetch(self, core: CoreView, value: Any) -> float:
        """Bring a value to the node of this process: 0.0 when it can be read, else seconds."""
        if type(value) is list and value[0] == m.CARRYING:
            value = value[1]
        if not self._plan.transfers or type(value) is not list or value[0] != m.STORED:
            return 0.0
        generation, reader, now = value[3], core.node, self._net.now
        if generation not in self.contents or not core.host.alive or core.home in self._oracle.condemned:
            return 0.0  # reading shows what that means
        source, until = self._fetches.get((reader, generation), (b"", 0.0))
        if until > now:
            return until - now
        self._fetches.pop((reader, generation), None)
        sources = [reader] if self._has(reader, generation) else [
            node for node in self.locate(value) if self._can_serve(node, reader)]
        if source and source in sources:
            self._on_disk.discard(generation)
            if source != reader:
                self._copies.setdefault(generation, set()).add(reader)
            return 0.0
        if not sources:
            return SERVER_AGAIN_S
        random = self._net.random
        source = random.choice(sources)
        seconds = 0.0 if source == reader else random.uniform(0.0, COPY_S_MAX)
        seconds += random.uniform(0.0, DISK_S_MAX) if generation in self._on_disk else 0.0
        if seconds:
            self._fetches[reader, generation] = source, now + seconds
        return seconds

    def _has(self, node: bytes, generation: int) -> bool:
        return generation in self.blocks.get(node, ()) or node in self._copies.get(generation, ())

    def read(self, core: CoreView, value: list[Any]) -> bytes:
        wire = self.contents.get(value[3])
        if wire is None and value[3] in self.lost and core.home not in self._oracle.condemned:
            raise Lost(value)
        if wire is None and core.home in self._oracle.condemned:
            wire = self._freed.get(value[3])
        if wire is None:
            raise Violation(f"object {value[4].hex()} is read after it was freed")
        return wire

    def locate(self, value: list[Any]) -> list[bytes]:
        """The nodes that have a copy."""
        primary = [node for node, blocks in self.blocks.items() if value[3] in blocks]
        return [*primary, *sorted(self._copies.get(value[3], set()) - {*primary})]

    def unheard(self) -> set[int]:
        """Generations of results whose writer ended before its reply was heard: they stay while the job runs."""
        cores = self._cores
        unheard = {generation for generation, writer in self._writers.items()
                   if writer not in cores and generation in self.contents}
        for core in cores.values() if unheard else ():
            records: list[Any] = [*core.refs.owned.values(), *core.refs.borrowed.values()]
            for record in records:
                if type(record.value) is list and record.value[0] == m.STORED:
                    unheard.discard(record.value[3])
        return unheard

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
            for core in () if node in self._oracle.condemned else self._cores.values():
                if not self._oracle.is_lost(core) and (
                        one.oid in core.refs.borrowed or one.oid in core.refs.owned):
                    raise Violation(f"object {one.oid.hex()} of {one.owner!r} is freed, and {core.incarnation!r} "
                                    "holds it")

    def _drop(self, node: bytes, generation: int) -> None:
        if node in self._oracle.condemned:
            return  # what it has is no copy of the others
        if (wire := self.contents.pop(generation, None)) is not None:
            self._freed[generation] = wire
        for blocks in self.blocks.values():
            blocks.pop(generation, None)
        self._copies.pop(generation, None)
        self._on_disk.discard(generation)

    def drop_job(self, node: bytes, job: bytes) -> None:
        for generation, one in list(self.blocks.get(node, {}).items()):
            if one.oid.startswith(job):
                self._drop(node, generation)

    def declared_dead(self, node: bytes, heir: bytes) -> None:
        """``heir`` hears that the node is dead: what had been copied to it now counts, and the rest is lost."""
        for copies in self._copies.values():
            copies.discard(node)
        for generation, one in self.blocks.pop(node, {}).items():
            if copied := sorted(self._copies.get(generation, set()) - self._oracle.condemned):
                self._copies[generation].discard(copied[0])
                self.blocks.setdefault(copied[0], {})[generation] = one._replace(owner=OWNER_UNKNOWN)
            elif self._plan.loses and self._net.random.random() < 0.8:
                self._oracle.happened["lost"] += 1
                self.lost.add(generation)
                self._freed[generation] = self.contents.pop(generation)
            else:
                self.blocks.setdefault(heir, {})[generation] = one._replace(owner=OWNER_UNKNOWN)

    def node_ended(self, node: bytes) -> None:
        """It ends; after it was declared dead, what its processes have put since ends with it."""
        if node in self._oracle.condemned:
            self.blocks.pop(node, None)

    def ownerless(self, node: bytes, has_ended: Callable[[bytes], bool]) -> list[OwnerlessObject]:
        return [one for one in self.blocks.get(node, {}).values() if one.owner == OWNER_UNKNOWN or has_ended(one.owner)]
