"""Whether the tasks of an ended owner may still run anywhere in the cluster.  Pure.

A process that adopts an unfinished object runs its task again (zray.owner.remaking).  The first attempt may still
run: each node kills the workers that served the ended owner, and a process takes some milliseconds to end.

    FenceOwner, of a process here    pass it on to all other nodes, and look here
    FenceOwner, of another node      learn the end of the owner, if that is news; look here
    no worker here serves the owner, OwnerFenced to those that asked; a process gets it when all other nodes have
    and none will                    answered, or have ended

A node that joins later never heard the owner, and so has no lease of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from zray.base.ports import Ports
from zray.node.context import NodeContext
from zray.node.leases.placements import Placements
from zray.wire import messages as m


class FencePorts(Ports):
    """Ports of Fences.

    nodes()            the other nodes that live
    is_process(p)      whether that is a core process of this node
    learn(owner)       that process of another node has ended
    """

    placements: Placements
    nodes: Callable[[], Collection[bytes]]
    is_process: Callable[[bytes], bool]
    learn: Callable[[bytes], None]


class Fences:
    """See the module's docstring."""

    def __init__(self, context: NodeContext, ports: FencePorts) -> None:
        self._context = context
        self._ports = ports
        self.waiting: dict[bytes, set[bytes]] = {}  # owner -> nodes without answer; for processes of this node
        self.clients: dict[bytes, list[tuple[bytes, int]]] = {}  # the same -> (process, request)
        self.asked: dict[bytes, set[bytes]] = {}  # owner -> nodes that have asked
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.FenceOwner.CODE: self._on_fence, m.OwnerFenced.CODE: self._on_fenced}

    def _on_fence(self, peer: bytes, message: m.FenceOwner) -> None:
        owner, context, ports = message.owner, self._context, self._ports
        if ports.is_process(peer):
            self.clients.setdefault(owner, []).append((peer, message.request))
            if owner not in self.waiting:
                self.waiting[owner] = set(ports.nodes())
                for node in sorted(self.waiting[owner]):
                    context.send(node, m.FenceOwner(0, owner))
        elif peer in ports.nodes():
            self.asked.setdefault(owner, set()).add(peer)
        else:
            context.refuse(peer, "FenceOwner from a process that is neither of this node nor a node")
            return
        if not context.is_mine(owner) and not context.ends.has_ended(owner):
            ports.learn(owner)

    def _on_fenced(self, peer: bytes, message: m.OwnerFenced) -> None:
        if message.owner in self.waiting:
            self.waiting[message.owner].discard(peer)

    def node_ended(self, node: bytes) -> None:
        for nodes in (*self.waiting.values(), *self.asked.values()):
            nodes.discard(node)

    def settle(self) -> None:
        """After each event: answer those whose owner has no worker left."""
        if not self.waiting and not self.asked:
            return
        served = {placement.owner for placement in self._ports.placements.values() if not placement.actor}
        for owner in [owner for owner in self.asked if not self._may_run(owner, served)]:
            for node in sorted(self.asked.pop(owner)):
                self._context.send(node, m.OwnerFenced(0, owner))
        for owner in [owner for owner, nodes in self.waiting.items() if not nodes and not self._may_run(owner, served)]:
            del self.waiting[owner]
            for process, request in self.clients.pop(owner):
                self._context.send(process, m.OwnerFenced(request, owner))

    def _may_run(self, owner: bytes, served: set[bytes]) -> bool:
        return owner in served or self._ports.is_process(owner)

    def check(self) -> None:
        assert self.waiting.keys() == self.clients.keys() and all(self.clients.values())
