"""Placement groups: this process creates them, waits for them and removes them.

The group's home node decides (zray.node.groups.table).  GroupState messages report changes (zray.core.waits.groups).

Questions go to the home, because it writes the row in the control store beside its answers: right after ``ready()``
that row may be of an earlier state.  The row answers where the home does not: it is dead and not replaced, or has
forgotten the group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base import errors, ids
from zray.core.context import Context, TaskIds
from zray.core.machine import CoreMachine
from zray.core.turns import Turns
from zray.core.waits.replies import Questions
from zray.handles.options import check_whole
from zray.handles.refs import ObjectRef
from zray.sched.resources import UNIT
from zray.transport.loop import Loop
from zray.values import serialization
from zray.wire import messages as m

INHERITED_KEPT_MAX = 256  # options of captured child tasks


class Groups:
    """The placement groups of one Runtime."""

    def __init__(self, machine: CoreMachine, loop: Loop, turns: Turns, context: Context, ids_: TaskIds,
                 questions: Questions):
        self.process = machine.process
        self.gcs = machine.gcs
        self.waits = machine.groups
        self.send = machine.send
        self.loop = loop
        self.turns = turns
        self.context = context
        self.ids = ids_
        self.questions = questions
        self._inherited: dict[tuple[int, bytes], tuple[Any, Any]] = {}

    # ------------------------------------------------------------ creation and removal

    def create(self, bundles: list[dict[str, int]], shown: list[dict[str, float]], strategy: str, name: str,
               detached: bool, soft_target: bytes = b"") -> bytes:
        """The id of a new group.  Only a named group waits for its node's answer; ValueError when the name is taken."""
        node, namespace = self.process.node, self.process.namespace
        with self.loop.lock:
            tid = self.ids.next(self.context)
            group = ids.group_id(node, tid[:ids.PREFIX_SIZE], int.from_bytes(tid[ids.PREFIX_SIZE:], "little"))
        spec = {"bundles": bundles, "strategy": strategy, "name": name, "namespace": namespace, "detached": detached,
                "soft_target": soft_target}
        if name:
            answer = self.questions.request(lambda n: m.CreateGroup(group, spec, n))
            if answer.error == "name_taken":
                raise ValueError(f"Failed to create placement group '{group.hex()}' because name '{name}' already "
                                 f"exists (namespace {namespace}).")
            if answer.error:
                raise errors.RaySystemError(f"Failed to create placement group '{group.hex()}': {answer.detail}")
        else:
            with self.loop.lock:
                self.send(node, m.CreateGroup(group, spec, 0))
            self.turns.kick()
        self.waits.remember(group, shown)
        return group

    def remove(self, group: bytes) -> None:
        with self.loop.lock:
            self.send(self.process.node, m.RemoveGroup(group, "by remove_placement_group()"))
        self.turns.kick()

    # ------------------------------------------------------------ readiness

    def ready(self, group: bytes, value: Any) -> ObjectRef:
        """A reference that gets ``value`` when the group is placed, TaskPlacementGroupRemoved when it is removed."""
        wire = serialization.to_bytes(serialization.dumps(value))
        with self.loop.lock:
            entry = self.waits.ready(self.ids.next(self.context) + ids.PUT_INDEX, group, wire)
            ref: ObjectRef = ObjectRef(entry.oid, entry)
        self.turns.kick()
        return ref

    # ------------------------------------------------------------ rows

    def row(self, group: bytes) -> dict[str, Any] | None:
        """The row of a group (zray.node.groups.records), None where it is unknown."""
        home = ids.home_of(group)
        found = self._at_home(home, group)
        if found is not None:
            return found
        kept = self._ask(lambda then: self.gcs.get_group(group, then))
        if kept is None or kept["home"] == home:
            return kept
        return self._at_home(kept["home"], group) or kept

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all groups."""
        newest = {row["placement_group_id"]: row for _, row in self._ask(self.gcs.list_groups)}
        for row in map(_as_recorded, self.questions.query("placement-groups")["placement-groups"]):
            group = row["placement_group_id"]
            if group not in newest or newest[group]["version"] < row["version"]:
                newest[group] = row
        return list(newest.values())

    def _at_home(self, home: bytes, group: bytes) -> dict[str, Any] | None:
        answer = self.questions.query("placement-groups", on=home, group=group)
        return next(map(_as_recorded, answer.get("placement-groups", ())), None)

    def find(self, name: str, namespace: str | None = None) -> bytes | None:
        """The group of that name in this namespace."""
        space = namespace or self.process.namespace
        return self._ask(lambda then: self.gcs.lookup_group_name(space, name, then))

    def _ask(self, call: Callable[[Callable[[Any], None]], Any]) -> Any:
        return self.questions.ask_control_store("placement groups could not be read", call)

    def specs(self, group: bytes) -> list[dict[str, float]] | None:
        """The bundles of a group; None when it is not known (any more)."""
        found = self.waits.bundles.get(group)
        if found is None:
            row = self.row(group)
            if row is None:
                return None
            found = row["bundles"]
            self.waits.remember(group, found)
        return found

    # ------------------------------------------------------------ tasks and actors in groups

    def inherit(self, options: Any) -> Any:
        """The options of a child: in the running task's group, if that captures and the options name none."""
        about = self.context.assigned.get("group")
        if about is None or not about[2]:
            return options
        raw = options.raw
        if raw.get("scheduling_strategy") is not None or raw.get("placement_group", "default") != "default":
            return options
        bundle = raw.get("placement_group_bundle_index", -1)
        key = id(options), about[0]
        known = self._inherited.get(key)
        if known is None or known[0] is not options:
            if len(self._inherited) >= INHERITED_KEPT_MAX:
                self._inherited.clear()
            known = self._inherited[key] = options, options.merged(
                scheduling_strategy=_Captured(about[0], bundle))
        return known[1]

    def check(self, options: Any, what: str) -> None:
        """ValueError for a split unit, a bundle that the group does not have, or a demand that never fits."""
        check_whole(options.demand)
        strategy = options.strategy
        if strategy.get("kind") != "group":
            if options.raw.get("placement_group_bundle_index", -1) != -1:
                raise ValueError("If placement group is not set, the value of bundle index must be -1.")
            return
        specs = self.specs(strategy["group"])
        if specs is None:
            return  # removed, or not created yet: the node will answer with the error
        index = strategy["bundle"]
        if not -1 <= index < len(specs):
            raise ValueError(f"placement group bundle index {index} is invalid. Valid placement group indexes: "
                             f"0-{len(specs) - 1}")
        resources = {name: units / UNIT for name, units in options.demand.items()}
        bundles = specs if index == -1 else [specs[index]]
        if any(all(bundle.get(name, 0) >= value for name, value in resources.items()) for bundle in bundles):
            return
        where = f"any bundles for the placement group, {specs}" if index == -1 \
            else f"bundle {index} of the placement group, {specs[index]}"
        hint = ""
        if getattr(options, "running", None) is not None and options.running != options.demand:
            hint = (" The actor requires 1 CPU for creation. Consider creating a placement group with CPU resources, "
                    "or ask for num_cpus=0.")
        raise ValueError(f"Cannot schedule {what} with the placement group because the resource request {resources} "
                         f"cannot fit into {where}.{hint}")


def _as_recorded(shown: dict[str, Any]) -> dict[str, Any]:
    """A row from the answer of a node, with ids as in the control store."""
    return {**shown, "placement_group_id": bytes.fromhex(shown["placement_group_id"]),
            "home": bytes.fromhex(shown["home"]), "nodes": [bytes.fromhex(node) for node in shown["nodes"]],
            "soft_target": bytes.fromhex(shown["soft_target"])}


class _Captured:
    """The strategy of a child task that inherits its parent's group."""

    def __init__(self, group: bytes, bundle: int = -1):
        self.group = group
        self.bundle = bundle

    def to_map(self) -> dict[str, Any]:
        return {"kind": "group", "group": self.group, "bundle": self.bundle, "capture": True}

    def __reduce__(self):
        return _Captured, (self.group, self.bundle)
