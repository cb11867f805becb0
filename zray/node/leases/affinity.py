"""Work that is bound to one node (hard affinity) fails when that node has ended, or never existed.  Pure.

    the node is this one, or a peer     the work waits there for free resources, like any other
    it has ended                        tasks of the key fail, the actor ends: no other node may run them
    it is not known here                ask the nodes table.  A node has its row before its id is known, so no row
                                        means: it never existed.  A live row: it has just joined, and its join is
                                        about to arrive here

A key or an actor comes to ``key`` or ``actor`` when it is declared or needs a place, and again to ``node_ended``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zray.base.causes import Cause
from zray.base.ids import INCARNATION_SIZE
from zray.base.ports import Ports
from zray.node.actors.table import Actor
from zray.node.context import NodeContext
from zray.node.leases.placements import Declared
from zray.node.names_table import Names
from zray.node.peers.cluster import PeerNodes
from zray.wire import messages as m


class HardAffinityPorts(Ports):
    """Ports of work with a hard affinity."""

    cluster: PeerNodes
    names: Names
    declared: Callable[[], Mapping[tuple[bytes, int], Declared]]  # scheduling keys by (owner, key)
    waiting: Callable[[], Iterable[Actor]]  # actors whose home is here and that wait for a place
    end_actor: Callable[[bytes, str], None]  # the actor waits for a place that it can never get


class HardAffinity:
    """Work of this node's processes that is bound to nodes; see the module's docstring."""

    def __init__(self, context: NodeContext, ports: HardAffinityPorts):
        self._context = context
        self._ports = ports
        self._asked: set[bytes] = set()  # nodes that the nodes table was asked for

    def key(self, owner: bytes, key: int, strategy: dict | None) -> None:
        """A process of ours has declared a scheduling key."""
        node = bound_to(strategy)
        if node is not None and (why := self._why_gone(node)):
            self._fail_key(owner, key, why)

    def actor(self, actor: Actor) -> None:
        """An actor whose home is here needs a place."""
        node = bound_to(actor.spec.get("strategy"))
        if node is not None and (why := self._why_gone(node)):
            self._ports.end_actor(actor.id, why)

    def node_ended(self, incarnation: bytes, reason: str) -> None:
        """A node has ended, known here before or not."""
        self._fail(incarnation, _ended(incarnation, self._ports.cluster.node_id(incarnation), reason))

    def _why_gone(self, node: bytes) -> str:
        """Why nothing can run there any more; '' when it can, or when the nodes table must say."""
        cluster, ended, incarnation = self._ports.cluster, self._context.ends.nodes, node[:INCARNATION_SIZE]
        if incarnation == cluster.me or incarnation in cluster.peers:
            return ""
        if incarnation in ended:
            return _ended(node, cluster.node_id(incarnation), ended[incarnation])
        if len(incarnation) < INCARNATION_SIZE:
            return _never_was(node)
        if incarnation not in self._asked:
            self._asked.add(incarnation)
            self._ports.names.find_node(incarnation, lambda row: self._answered(node, row))
        return ""

    def _answered(self, node: bytes, row: dict[str, Any] | None) -> None:
        incarnation = node[:INCARNATION_SIZE]
        self._asked.discard(incarnation)
        if row is None:
            self._fail(incarnation, _never_was(node))
        elif row["state"] not in ("alive", "draining"):
            self._fail(incarnation, _ended(node, row["node_id"].hex(), row.get("reason") or row["state"]))

    def _fail(self, incarnation: bytes, why: str) -> None:
        for (owner, key), declared in self._ports.declared().items():
            if self._context.is_mine(owner) and is_bound(declared.strategy, incarnation):
                self._fail_key(owner, key, why)
        for actor in [a for a in self._ports.waiting() if is_bound(a.spec.get("strategy"), incarnation)]:
            self._ports.end_actor(actor.id, why)

    def _fail_key(self, owner: bytes, key: int, why: str) -> None:
        self._context.send(owner, m.LeaseStatus(key, Cause.NODE_GONE, why))


def bound_to(strategy: dict | None) -> bytes | None:
    """The node (id or incarnation) that a strategy requires."""
    if not strategy or strategy.get("kind") != "affinity" or strategy.get("soft"):
        return None
    node = strategy.get("node")
    return node if isinstance(node, bytes) else None


def is_bound(strategy: dict | None, incarnation: bytes) -> bool:
    node = bound_to(strategy)
    return node is not None and node[:INCARNATION_SIZE] == incarnation


def _ended(node: bytes, node_id: str, reason: str) -> str:
    return _sentence(node_id or node.hex(), f"doesn't exist any more ({reason})")


def _never_was(node: bytes) -> str:
    return _sentence(node.hex(), "has never been in this cluster")


def _sentence(node_id: str, what: str) -> str:
    return (f"The node specified via NodeAffinitySchedulingStrategy, {node_id}, {what}, and soft=False was specified. "
            "Name a node that nodes() shows alive, or pass soft=True for another node to do")
