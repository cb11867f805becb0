"""Actors whose home node has died: another node adopts them.  Pure.

The lowest live node fences the dead node, reads the rows of its actors, and writes each anew by
compare-and-set.  So two nodes that both take themselves for the lowest do no harm.  Without the fence a
row that was on its way could come after the reading, and nobody would look at it.  A row that another
node has changed between the reading and the writing is looked at again.

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


_Adoption = tuple[dict[str, Any], Callable[[], None]]  # the new row, and what to do once it is written


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
        dead, names = self._context.ends.nodes, self._ports.names
        names.fence(list(dead), lambda: names.actors_of(dead, lambda rows: self._found(rows, death)))

    def _found(self, rows: list[tuple[bytes, dict[str, Any], bytes]], death: dict[str, Any]) -> None:
        for actor, row, packed in rows:
            self._found_one(actor, row, packed, death)

    def _found_one(self, actor: bytes, row: dict[str, Any], packed: bytes, death: dict[str, Any]) -> None:
        """Its row as it was read last."""
        if row["state"] == DEAD or row["home"] not in self._context.ends.nodes:
            return
        take = self._take_over if row["is_detached"] and row.get("spec") else self._end
        new, then = take(actor, row, death)

        def swapped(mine: bool, now: tuple[dict[str, Any], bytes] | None) -> None:
            if mine:
                then()
            elif now is not None:
                self._found_one(actor, *now, death)

        self._ports.names.swap_actor(actor, packed, new, swapped)

    def _take_over(self, actor: bytes, row: dict[str, Any], death: dict[str, Any]) -> _Adoption:
        ports = self._ports

        def adopted() -> None:
            if actor in ports.actors.actors:
                return
            known = ports.actors.adopt(actor, row, self._context.now)
            if row.get("job"):  # after the actor is known, for which the job is kept
                ports.learn_job(known.job, *row["job"])
            lives_on = node_of(known.worker) if known.worker else b""
            if lives_on in ports.cluster.peers:
                self._context.send(lives_on, AdoptActor(actor, known.worker))
            elif lives_on == self._context.me:
                ports.lives_here(actor)
            elif known.worker:
                ports.actors.worker_died(actor, known.worker, death)
            else:
                ports.place(known)
            ports.homes_changed()

        return {**row, "home": self._context.me}, adopted

    def _end(self, actor: bytes, row: dict[str, Any], death: dict[str, Any]) -> _Adoption:
        names = self._ports.names
        cause = {"kind": "owner_died", "reason": f"the process that created it was on a node that is gone "
                                                 f"({death['reason']})"}
        ended = {**row, "state": DEAD, "death_cause": cause, "worker": b"", "endpoint": "", "pid": 0, "spec": None}

        def written() -> None:
            if row["name"]:
                names.release(row["ray_namespace"], row["name"], actor)
            if row.get("checkpoints"):
                self._ports.drop_checkpoints(actor)

        return ended, written
