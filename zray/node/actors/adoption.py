"""Actors whose home node has died: another node adopts them.  Pure.

The lowest live node reads the rows of the dead node's actors and writes each anew by
compare-and-set.  So two nodes that both take themselves for the lowest do no harm:

    detached       this node becomes the home.  An actor that lives on another node: AdoptActor to that
                   node.  One that lived on the dead node, or was not up yet, is handled as if its worker
                   had died: it restarts if it may.
    not detached   DEAD: its creator was on the node that died.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.ids import node_of
from zray.base.ports import Ports
from zray.node.actors.table import DEAD, Actor, ActorTable
from zray.node.context import NodeContext
from zray.node.names_table import Names
from zray.node.peers.cluster import PeerNodes
from zray.wire.messages import AdoptActor


class ActorAdoptionPorts(Ports):
    """Ports of the adoption of actors."""

    cluster: PeerNodes
    names: Names
    actors: ActorTable
    place: Callable[[Actor], None]  # look for a place
    lives_here: Callable[[bytes], None]  # the actor lives on this node, which is its home now
    homes_changed: Callable[[], None]  # requests that wait for a home of an actor try again
    drop_checkpoints: Callable[[bytes], None]  # of that actor, on all nodes
    learn_job: Callable[[int, bytes, dict[str, Any]], None]  # (number, driver, config): a job that may be unknown here


class ActorAdoption:
    """See the module's docstring."""

    def __init__(self, context: NodeContext, ports: ActorAdoptionPorts):
        self._context = context
        self._ports = ports

    def home_gone(self, node: bytes, death: dict[str, Any]) -> None:
        """``node`` is dead; ``death`` is the death record of its workers."""
        cluster = self._ports.cluster
        if cluster.me != min([cluster.me, *cluster.peers]):
            return
        # Of all that have died: the one that was to adopt the actors of an earlier one may have died before it had.
        self._ports.names.actors_of(self._context.ends.nodes, lambda rows: self._found(rows, death))

    def _found(self, rows: list[tuple[bytes, dict[str, Any], bytes]], death: dict[str, Any]) -> None:
        for actor, row, packed in rows:
            if row["state"] == DEAD:
                continue
            if row["is_detached"] and row.get("spec"):
                self._take_over(actor, row, packed, death)
            else:
                self._end(actor, row, packed, death)

    def _take_over(self, actor: bytes, row: dict[str, Any], packed: bytes, death: dict[str, Any]) -> None:
        ports = self._ports

        def swapped(mine: bool) -> None:
            if not mine or actor in ports.actors.actors:
                return
            adopted = ports.actors.adopt(actor, row, self._context.now)
            if row.get("job"):  # after the actor is known, for which the job is kept
                ports.learn_job(adopted.job, *row["job"])
            lives_on = node_of(adopted.worker) if adopted.worker else b""
            if lives_on in ports.cluster.peers:
                self._context.send(lives_on, AdoptActor(actor, adopted.worker))
            elif lives_on == self._context.me:
                ports.lives_here(actor)
            elif adopted.worker:
                ports.actors.worker_died(actor, adopted.worker, death)
            else:
                ports.place(adopted)
            ports.homes_changed()

        ports.names.swap_actor(actor, packed, {**row, "home": self._context.me}, swapped)

    def _end(self, actor: bytes, row: dict[str, Any], packed: bytes, death: dict[str, Any]) -> None:
        names = self._ports.names
        cause = {"kind": "owner_died", "reason": f"the process that created it was on a node that is gone "
                                                 f"({death['reason']})"}
        ended = {**row, "state": DEAD, "death_cause": cause, "worker": b"", "endpoint": "", "pid": 0, "spec": None}

        def swapped(mine: bool) -> None:
            if mine and row["name"]:
                names.release(row["ray_namespace"], row["name"], actor)
            if mine and row.get("checkpoints"):
                self._ports.drop_checkpoints(actor)

        names.swap_actor(actor, packed, ended, swapped)
