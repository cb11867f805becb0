"""Where a task or an actor may run, as values of ``scheduling_strategy=``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zray.base.plain_numbers import plain

__all__ = ["DoesNotExist", "Exists", "In", "NodeAffinitySchedulingStrategy", "NodeLabelSchedulingStrategy", "NotIn",
           "PlacementGroupSchedulingStrategy"]


class PlacementGroupSchedulingStrategy:
    """In bundle ``placement_group_bundle_index`` of a placement group, in any of its bundles for -1.

    With ``placement_group_capture_child_tasks`` the tasks and actors that it submits go into the group as well, unless
    they name a strategy themselves.  Without a group (None or ``PlacementGroup.empty()``) it is the default strategy.
    """

    __slots__ = ("placement_group", "placement_group_bundle_index", "placement_group_capture_child_tasks")

    def __init__(self, placement_group: Any, placement_group_bundle_index: int = -1,
                 placement_group_capture_child_tasks: bool | None = None):
        group_id: Any = getattr(placement_group, "id", None)
        if placement_group is not None and not hasattr(group_id, "is_nil"):
            raise ValueError(f"placement_group must be a PlacementGroup or None, not {placement_group!r}")
        placement_group_bundle_index = plain(placement_group_bundle_index)
        if not isinstance(placement_group_bundle_index, int) or isinstance(placement_group_bundle_index, bool):
            raise ValueError("placement_group_bundle_index must be an int, not "
                             f"{placement_group_bundle_index!r}")
        if (placement_group is None or group_id.is_nil()) and placement_group_bundle_index != -1:
            raise ValueError("If placement group is not set, the value of bundle index must be -1.")
        if placement_group_bundle_index < -1:
            raise ValueError(f"placement group bundle index {placement_group_bundle_index} is invalid. It must be -1, "
                             "for any bundle, or the index of one.")
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def to_map(self) -> dict[str, Any]:
        """As nodes read it."""
        if self.placement_group is None or self.placement_group.id.is_nil():
            return {}
        return {"kind": "group", "group": self.placement_group.id.binary(), "bundle": self.placement_group_bundle_index,
                "capture": bool(self.placement_group_capture_child_tasks)}


@dataclass(frozen=True)
class NodeAffinitySchedulingStrategy:
    """On the node with this id (hex); with ``soft`` elsewhere when that node cannot.

    Without ``soft``, tasks raise TaskUnschedulableError and actors ActorUnschedulableError when the node is gone.
    """

    node_id: str
    soft: bool = False
    _spill_on_unavailable: bool = False
    _fail_on_unavailable: bool = False

    def __post_init__(self) -> None:
        node_id = self.node_id if isinstance(self.node_id, str) else self.node_id.hex()
        object.__setattr__(self, "node_id", node_id)
        try:
            bytes.fromhex(node_id)
        except ValueError:
            raise ValueError(f"node_id must be hex, as nodes() shows it, not {node_id!r}") from None

    def to_map(self) -> dict[str, Any]:
        """As nodes read it."""
        return {"kind": "affinity", "node": bytes.fromhex(self.node_id), "soft": bool(self.soft)}


class _LabelMatch:
    """A condition on one label."""

    op = ""

    def __init__(self, *values: str):
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"label values are strings, not {values!r}")
        self.values = values

    def to_list(self) -> list[Any]:
        return [self.op, *self.values]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _LabelMatch) and self.to_list() == other.to_list()

    def __hash__(self) -> int:
        return hash((self.op, self.values))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class In(_LabelMatch):
    """The label has one of these values."""

    op = "in"


class NotIn(_LabelMatch):
    """The label has none of these values."""

    op = "not_in"


class Exists(_LabelMatch):
    """The node has the label."""

    op = "exists"

    def __init__(self) -> None:
        super().__init__()


class DoesNotExist(_LabelMatch):
    """The node has no such label."""

    op = "does_not_exist"

    def __init__(self) -> None:
        super().__init__()


@dataclass(frozen=True)
class NodeLabelSchedulingStrategy:
    """On a node whose labels meet all ``hard`` conditions, rather one that meets the ``soft`` ones too."""

    hard: dict[str, _LabelMatch]
    soft: dict[str, _LabelMatch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, conditions in (("hard", self.hard), ("soft", self.soft)):
            if not isinstance(conditions, dict) or not all(isinstance(c, _LabelMatch) for c in conditions.values()):
                raise ValueError(f"{name} maps label names to In, NotIn, Exists or DoesNotExist, not {conditions!r}")

    def to_map(self) -> dict[str, Any]:
        """As nodes read it."""
        return {"kind": "labels", "hard": {name: match.to_list() for name, match in self.hard.items()},
                "soft": {name: match.to_list() for name, match in self.soft.items()}}
