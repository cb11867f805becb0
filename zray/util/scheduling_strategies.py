"""Where a task or an actor may run, as values of ``scheduling_strategy=``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["DoesNotExist", "Exists", "In", "NodeAffinitySchedulingStrategy", "NodeLabelSchedulingStrategy", "NotIn"]


@dataclass(frozen=True)
class NodeAffinitySchedulingStrategy:
    """On the node with this id (hex); with ``soft`` elsewhere when that node cannot."""

    node_id: str
    soft: bool = False

    def __post_init__(self) -> None:
        node_id = self.node_id if isinstance(self.node_id, str) else self.node_id.hex()
        object.__setattr__(self, "node_id", node_id)
        try:
            bytes.fromhex(node_id)
        except ValueError:
            raise ValueError(f"node_id must be hex, as nodes() shows it, not {node_id!r}") from None

    def to_map(self) -> dict[str, Any]:
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
        return {"kind": "labels", "hard": {name: match.to_list() for name, match in self.hard.items()},
                "soft": {name: match.to_list() for name, match in self.soft.items()}}
