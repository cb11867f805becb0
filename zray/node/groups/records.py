"""The record of a placement group at its home, and one round of its placement.

Data only: zray.node.groups.table owns the transitions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.causes import Cause
from zray.sched.cluster import packing
from zray.sched.resources import GPU, amounts, checked_units
from zray.wire.messages import GroupState

GROUP_PENDING, GROUP_CREATED, GROUP_RESCHEDULING, GROUP_REMOVED = "PENDING", "CREATED", "RESCHEDULING", "REMOVED"
# Removed groups that are remembered without a watcher: their last tasks' keys may come late.
REMOVED_KEPT_MAX = 1000
PAUSE_S_MIN = 0.05  # between the first two rounds of a group


class Round:
    """One attempt: its nodes with their bundles, the nodes that were asked, and the nodes that agreed.

    A round that waits asks its nodes one after the other, in one order for all homes.  A round that
    waits for a node holds only nodes before it, so no two groups wait for each other.
    """

    __slots__ = ("asked", "deadline", "nodes", "patience_s", "waits", "yes")

    def __init__(self, nodes: dict[bytes, list[int]], waits: bool, patience_s: float, now: float) -> None:
        self.nodes, self.waits, self.patience_s = nodes, waits, patience_s
        self.deadline = now + patience_s
        self.asked: set[bytes] = set()
        self.yes: set[bytes] = set()

    def to_ask(self) -> list[bytes]:
        """The nodes to ask next; call it at the beginning, and after each node that agrees."""
        if not self.waits:
            return [] if self.asked else list(self.nodes)
        if self.asked != self.yes:
            return []
        return sorted(self.nodes.keys() - self.asked)[:1]


class Group:
    """One placement group."""

    __slots__ = ("attempt", "avoid", "bundles", "cause", "contended", "created_s", "detached", "id", "job", "name",
                 "namespace", "nodes", "pause_s", "retry_at", "round", "rounds", "shape", "since", "soft_target",
                 "state", "steady_s", "steady_until", "strategy", "used", "version", "view_changed")

    def __init__(self, group: bytes, job: int, spec: dict, now: float) -> None:
        self.id, self.job, self.since = group, job, now
        self.bundles: list[dict[str, int]] = [checked_units(bundle) for bundle in spec["bundles"]]
        self.strategy: str = spec["strategy"]
        self.name: str = spec.get("name") or ""
        self.namespace: str = spec.get("namespace") or ""
        self.detached = bool(spec.get("detached"))
        self.soft_target: bytes = spec.get("soft_target") or b""  # the node that a STRICT_PACK group prefers
        if not self.bundles or not all(self.bundles) or self.strategy not in packing.STRATEGIES:
            raise ValueError("a group needs bundles that are not empty, and a strategy")
        bad = next((b[GPU] for b in self.bundles if not packing.gpus_valid(b.get(GPU, 0))), None)
        if bad is not None:
            raise ValueError("a bundle of more than one GPU must have a whole number of them")
        self.state = GROUP_PENDING
        self.version = 1
        self.nodes: list[bytes] = [b""] * len(self.bundles)
        self.rounds: list[int] = [0] * len(self.bundles)  # by bundle: the attempt that placed it
        self.cause: dict[str, Any] = {"cause": int(Cause.GROUP_PENDING), "detail": "it was just created"}
        self.attempt = 0
        self.round: Round | None = None
        self.used: set[bytes] = set()  # nodes that hold or may hold bundles of it
        self.avoid: set[bytes] = set()
        self.contended = False  # a node refused resources that were free in the view: from now on it queues
        self.pause_s = PAUSE_S_MIN
        self.retry_at = now
        self.view_changed = False  # the view has changed since the waiting round began
        self.steady_s = PAUSE_S_MIN
        self.steady_until = now  # a waiting round does not give way before this time
        self.shape: Any = None
        self.created_s: float | None = None  # the duration of the first placement

    def place(self, places: dict[int, bytes]) -> None:
        """Put bundles on nodes (b'' for none)."""
        for index, node in places.items():
            self.nodes[index] = node
        self.shape = None

    def request_shape(self) -> Any:
        """Equal for groups with the same request: when one finds no place, the other finds none."""
        if self.shape is None:
            self.shape = (self.strategy, repr([self.bundles[i] for i in self.missing]), tuple(sorted(self.nodes)))
        return self.shape

    @property
    def missing(self) -> list[int]:
        """Bundles without a place."""
        return [index for index, node in enumerate(self.nodes) if not node]

    def state_message(self) -> GroupState:
        return GroupState(self.id, self.version, self.state, list(self.nodes), dict(self.cause))

    def row(self, node_id: Callable[[bytes], str], home: bytes) -> dict[str, Any]:
        """The row in the control store: ``placement_group_table`` reads it, and another home adopts
        the group from it."""
        return {"home": home, "version": self.version, "units": self.bundles, "rounds": list(self.rounds),
                "placement_group_id": self.id, "name": self.name, "ray_namespace": self.namespace, "state": self.state,
                "strategy": self.strategy, "bundles": [amounts(bundle) for bundle in self.bundles],
                "nodes": list(self.nodes), "node_ids": [node_id(node) if node else "" for node in self.nodes],
                "creator_job_id": self.job, "is_detached": self.detached, "attempts": self.attempt,
                "cause": int(self.cause.get("cause", 0)), "detail": self.cause.get("detail", ""),
                "created_s": self.created_s, "soft_target": self.soft_target}
