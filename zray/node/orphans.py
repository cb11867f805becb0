"""Actors whose home node has died: who takes care of them now.  Pure.

The lowest live node reads the rows of the dead one's actors and writes each anew by compare-and-set, so two nodes that
both think they are the lowest do no harm:

    detached       this node is the home from now on.  Where it lives on another node, AdoptActor to that one; where it
                   lived on the dead node or was not up yet, as when its worker dies: it restarts if it may.
    not detached   DEAD: the process that created it was on the node that died.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zray.ids import node_of
from zray.messages import AdoptActor
from zray.node.effects import Send

if TYPE_CHECKING:
    from zray.node.machine import NodeMachine

DEAD = "DEAD"


class Orphans:
    """See the module's docstring."""

    def __init__(self, host: NodeMachine):
        self._host = host

    def home_gone(self, node: bytes, death: dict[str, Any]) -> None:
        """``node`` is dead; ``death`` is what its workers died of."""
        host = self._host
        if host.incarnation != min([host.incarnation, *host.cluster.peers]):
            return
        # Of all that have died: the one that was to adopt the actors of an earlier one may have died before it had.
        host.names.actors_of(host.cluster.gone, lambda rows: self._found(rows, death))

    def _found(self, rows: list[tuple[bytes, dict[str, Any], bytes]], death: dict[str, Any]) -> None:
        for actor, row, packed in rows:
            if row["state"] == DEAD:
                continue
            if row["is_detached"] and row.get("spec"):
                self._take_over(actor, row, packed, death)
            else:
                self._end(actor, row, packed, death)

    def _take_over(self, actor: bytes, row: dict[str, Any], packed: bytes, death: dict[str, Any]) -> None:
        host = self._host

        def swapped(mine: bool) -> None:
            if not mine or actor in host.actors.actors:
                return
            adopted = host.actors.adopt(actor, row, host.now)
            lives_on = node_of(adopted.worker) if adopted.worker else b""
            if lives_on in host.cluster.peers:
                host.effects.append(Send(lives_on, AdoptActor(actor, adopted.worker)))
            elif lives_on == host.incarnation:
                host.guests.come_home(actor)
            elif adopted.worker:
                host.actors.worker_died(actor, adopted.worker, death)
            else:
                host.places.place(adopted)
            host.elsewhere.homes_changed()

        host.names.swap_actor(actor, packed, {**row, "home": host.incarnation}, swapped)

    def _end(self, actor: bytes, row: dict[str, Any], packed: bytes, death: dict[str, Any]) -> None:
        host = self._host
        cause = {"kind": "owner_died", "reason": f"the process that created it was on a node that is gone "
                                                 f"({death['reason']})"}
        ended = {**row, "state": DEAD, "death_cause": cause, "worker": b"", "endpoint": "", "pid": 0, "spec": None}

        def swapped(mine: bool) -> None:
            if mine and row["name"]:
                host.names.release(row["ray_namespace"], row["name"], actor)

        host.names.swap_actor(actor, packed, ended, swapped)
