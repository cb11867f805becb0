"""Placement groups: resources reserved together, as bundles, for tasks and actors that name the group."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from zray.base.ids import INCARNATION_SIZE, NODE_SIZE, PlacementGroupID
from zray.base.plain_numbers import plain
from zray.handles.connection import connected
from zray.handles.refs import ObjectRef
from zray.sched.resources import units
from zray.util._callable_module import make_callable

__all__ = [
    "PlacementGroup", "get_current_placement_group", "get_placement_group", "placement_group",
    "placement_group_table", "remove_placement_group",
]

VALID_PLACEMENT_GROUP_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_EXAMPLE = 'For example: `[{"CPU": 1.0}, {"GPU": 1.0}]`.'


class PlacementGroup:
    """A handle of a placement group; it may be passed to tasks and pickled.

    ``id`` is its PlacementGroupID; two handles of one group are equal.
    """

    __slots__ = ("bundle_cache", "id")

    def __init__(self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None):
        self.id = id
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """No group: tasks "in" it run anywhere."""
        return PlacementGroup(PlacementGroupID.nil())

    @property
    def is_empty(self) -> bool:
        """Whether it is the group of nothing."""
        return self.id.is_nil()

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A reference whose value, this group, is there once all bundles are reserved.

        ``get`` of it raises TaskPlacementGroupRemoved when the group is removed first.
        """
        runtime = connected()
        return runtime.put(self) if self.is_empty else runtime.groups.ready(self.id.binary(), self)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Whether all bundles are reserved within so many seconds; False also when the group is removed.

        LocalRayletDiedError when the node of this process is lost: nothing is known of the group then.
        """
        if self.is_empty:
            return True
        ref = self.ready()
        done, _ = connected().wait([ref], 1, timeout_seconds)
        if not done:
            return False
        from zray.base.errors import LocalRayletDiedError, RayError

        try:
            connected().get([ref], None)
        except LocalRayletDiedError:
            raise
        except RayError:
            return False
        return True

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The bundles as requested, as floats."""
        if not self.bundle_cache:
            self.bundle_cache = [] if self.is_empty else connected().groups.specs(self.id.binary()) or []
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self.bundle_specs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"

    def __reduce__(self):
        return PlacementGroup, (self.id, self.bundle_cache)


def placement_group(bundles: list[dict[str, float]], strategy: str | None = None, name: str = "",
                    lifetime: str | None = None, _soft_target_node_id: str | None = None,
                    bundle_label_selector: list[dict[str, str]] | None = None,
                    topology_strategy: Any = None) -> PlacementGroup:
    """Reserve ``bundles`` (resource amounts by name), all of them or none.

    strategy: "PACK" (few nodes, the default), "SPREAD" (many nodes), "STRICT_PACK" (one node), "STRICT_SPREAD" (a node
    each).  ``name`` makes it findable in this namespace.  ``lifetime`` None ends the group with the job, "detached"
    with remove_placement_group.  ``_soft_target_node_id``: the hex id of a node for a STRICT_PACK group, which is
    placed elsewhere when that node is gone or has no room.  Returns at once; see ``ready()`` and ``wait()``.
    ValueError for bundles, strategy, lifetime or target that are not valid, and for a name that is taken.
    """
    bundles = [plain(bundle) for bundle in bundles] if isinstance(bundles, list) else bundles
    wire = checked_bundles(bundles)
    if strategy is not None and strategy not in VALID_PLACEMENT_GROUP_STRATEGIES:
        raise ValueError(f"Invalid placement group strategy {strategy}. Supported strategies are: "
                         f"{', '.join(VALID_PLACEMENT_GROUP_STRATEGIES)}.")
    if lifetime not in (None, "detached"):
        raise ValueError(f"Placement group `lifetime` argument must be either `None` or 'detached'. Got {lifetime}.")
    if not isinstance(name, str):
        raise TypeError(f"The name of a placement group is a str, not {name!r}")
    if bundle_label_selector:
        raise ValueError("`bundle_label_selector` is not supported by this version.")
    target = b"" if _soft_target_node_id is None else _node_of(_soft_target_node_id, strategy)
    shown = [{resource: float(value) for resource, value in bundle.items()} for bundle in bundles]
    group = connected().groups.create(wire, shown, strategy or "PACK", name, lifetime == "detached",
                                      target)
    return PlacementGroup(PlacementGroupID(group), shown)


def _node_of(node_id: Any, strategy: str | None) -> bytes:
    """The node that a STRICT_PACK group prefers."""
    if strategy != "STRICT_PACK":
        raise ValueError(f"_soft_target_node_id currently only works with STRICT_PACK but got {strategy or 'PACK'}")
    if not isinstance(node_id, str):
        raise TypeError(f"_soft_target_node_id is the hex id of a node, not {node_id!r}")
    try:
        found = bytes.fromhex(node_id)
    except ValueError:
        found = b""
    if len(found) != NODE_SIZE:
        raise ValueError(f"Invalid hex ID of _soft_target_node_id, got {node_id}: it has {2 * NODE_SIZE} hex digits")
    return found[:INCARNATION_SIZE]


def checked_bundles(bundles: Any) -> list[dict[str, int]]:
    """Bundles in units of 1/10000; ValueError with the mistake."""
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list, got {type(bundles)}.")
    if not bundles:
        raise ValueError(f"Bundles must be a non-empty list of resource dictionaries. {_EXAMPLE} Got empty list "
                         "instead.")
    return [_checked(bundle, index) for index, bundle in enumerate(bundles)]


def _checked(bundle: Any, index: int) -> dict[str, int]:
    if not isinstance(bundle, Mapping) or not all(
            isinstance(name, str) and isinstance(value, (int, float)) and not isinstance(value, bool)
            for name, value in bundle.items()):
        raise ValueError(f"Bundles must be a non-empty list of resource dictionaries. {_EXAMPLE} Bundle {index} is "
                         f"{bundle!r}.")
    try:
        found = {name: units(value, name) for name, value in bundle.items()}
    except ValueError as error:
        raise ValueError(f"Bundle {index} is not valid: {error}") from None
    if not any(found.values()):
        raise ValueError("Bundles cannot be an empty dictionary or resources with only 0 values. Bundles: "
                         f"{index} is {bundle!r}")
    gpus = bundle.get("GPU", 0)
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"Bundle {index} is not valid: GPU must be a whole number or less than 1, not {gpus!r}")
    if "object_store_memory" in bundle:
        warnings.warn("Setting 'object_store_memory' for bundles is deprecated since it doesn't actually reserve the "
                      "required object store memory.", DeprecationWarning, stacklevel=4)
    return {name: value for name, value in found.items() if value}


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give the bundles back; tasks and actors that run in them are killed, those that wait for them fail.

    Asynchronous.  Harmless for a group that is removed already.
    """
    if not isinstance(placement_group, PlacementGroup):
        raise TypeError(f"remove_placement_group takes a PlacementGroup, not {placement_group!r}")
    if not placement_group.is_empty:
        connected().groups.remove(placement_group.id.binary())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of that name in this namespace; ValueError where there is none."""
    if not placement_group_name:
        raise ValueError("Please supply a non-empty value to get_placement_group")
    group = connected().groups.find(placement_group_name)
    if group is None:
        raise ValueError(f"Failed to look up placement group with name: {placement_group_name}")
    return PlacementGroup(PlacementGroupID(group))


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """The state of one group ({} where it is unknown), or of all by hex id.

    Keys: placement_group_id, name, bundles, bundles_to_node_id, strategy, state (PENDING CREATED RESCHEDULING REMOVED),
    stats; ``stats["scheduling_state"]`` and ``stats["detail"]`` say why a group is not placed.
    """
    groups = connected().groups
    if placement_group is None:
        return {row["placement_group_id"].hex(): _shown(row) for row in groups.rows()}
    row = groups.row(placement_group.id.binary())
    return {} if row is None else _shown(row)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    from zray.base.causes import Cause

    state, cause = row["state"], row["cause"]
    scheduling = {"CREATED": "FINISHED", "REMOVED": "REMOVED"}.get(
        state, "INFEASIBLE" if cause == Cause.GROUP_INFEASIBLE else "PENDING" if state == "RESCHEDULING" else "QUEUED")
    took_ms = (row["created_s"] or 0.0) * 1000
    return {
        "placement_group_id": row["placement_group_id"].hex(), "name": row["name"],
        "bundles": dict(enumerate(row["bundles"])), "bundles_to_node_id": dict(enumerate(row["node_ids"])),
        "strategy": row["strategy"], "state": state,
        "stats": {"end_to_end_creation_latency_ms": took_ms, "scheduling_latency_ms": took_ms,
                  "scheduling_attempt": row["attempts"], "highest_retry_delay_ms": 0.0, "scheduling_state": scheduling,
                  "detail": row["detail"]}}


def get_current_placement_group() -> PlacementGroup | None:
    """The group that this task or actor runs in; None outside of groups, as in a driver."""
    about = (getattr(connected().context, "assigned", None) or {}).get("group")
    return None if about is None else PlacementGroup(PlacementGroupID(about[0]))


make_callable(__name__)
