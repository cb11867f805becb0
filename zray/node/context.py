"""What all parts of a node's machine share: its incarnation, the time, the register of ends, the effects.  Pure."""

from __future__ import annotations

from typing import Any

from zray.base.ends import Ends
from zray.base.ids import same_node
from zray.node.effects import Effect, Note, Send


class NodeContext:
    """``now`` is the time of the event that is being handled; ``effects`` are what follows from it, in order.

    ``ends``: nodes and processes other than this node and its own, and all jobs.
    """

    __slots__ = ("counts", "effects", "emit", "ends", "epoch_s", "me", "now")

    def __init__(self, me: bytes, ends: Ends, epoch_s: float = 0.0) -> None:
        self.epoch_s = epoch_s  # add it to ``now`` for the time of day, in seconds since 1970
        self.me = me  # the incarnation of this node
        self.ends = ends
        self.now = 0.0
        self.effects: list[Effect] = []
        self.emit = self.effects.append
        self.counts = {"grants": 0, "worker_deaths": 0, "refused": 0, "memory_ends": 0}

    def send(self, peer: bytes, message: Any) -> None:
        self.effects.append(Send(peer, message))

    def refuse(self, peer: bytes, why: str) -> None:
        """A peer breaks the protocol: note it; its message has no effect, and never ends the node."""
        self.counts["refused"] += 1
        self.effects.append(Note("refused", {"peer": peer, "why": why}))

    def is_mine(self, process: bytes) -> bool:
        """Whether ``process`` belongs to this node."""
        return same_node(process, self.me)
