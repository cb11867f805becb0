"""Placement groups as this process creates, awaits and removes them.

Who has what: the group's home node decides (zray.node.groups); its row in the control store answers questions about
it; GroupState messages say when it changes.  ``ready()`` is an object of this process that gets its value then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray import errors, ids, messages as m, serialization
from zray.causes import Cause
from zray.owner.records import Entry
from zray.refs import ObjectRef
from zray.sched.resources import UNIT


if TYPE_CHECKING:
    from zray.core.runtime import Runtime

SPECS_KEPT_MAX = 1000  # bundles of groups, to check demands against without asking
INHERITED_KEPT_MAX = 256  # options of captured child tasks


class GroupWait:
    """What stands behind a pending ``ready()`` object in the place of a task: it knows why the group waits."""

    __slots__ = ("entry", "groups", "state", "value")

    def __init__(self, groups: Groups, entry: Entry, value: bytes, state: m.GroupState | None):
        self.groups, self.entry, self.value, self.state = groups, entry, value, state

    def why(self) -> tuple[Cause, dict[str, Any]]:
        about: dict[str, Any] = {"what": "placement group"}
        if self.state is None:
            return Cause.GROUP_PENDING, about
        cause = Cause(self.state.cause.get("cause") or Cause.GROUP_PENDING)
        return (Cause.GROUP_PENDING if cause is Cause.READY else cause), about | {
            "detail": self.state.cause.get("detail", "")}


class Groups:
    """The placement groups of one Runtime."""

    def __init__(self, runtime: Runtime):
        self.rt = runtime
        self.loop = runtime.loop
        self.states: dict[bytes, m.GroupState] = {}  # of groups that this process asked about and that live
        self._waits: dict[bytes, list[GroupWait]] = {}
        self._specs: dict[bytes, list[dict[str, float]]] = {}
        self._inherited: dict[tuple[int, bytes], tuple[Any, Any]] = {}

    # ------------------------------------------------------------ creation and removal

    def create(self, bundles: list[dict[str, int]], shown: list[dict[str, float]], strategy: str, name: str,
               detached: bool) -> bytes:
        """A new group's id.  ValueError when the name is taken: only a named group waits for its node's answer."""
        rt = self.rt
        with self.loop.lock:
            tid = rt.ids.next(rt.context)
            group = ids.group_id(rt.node, tid[:ids.PREFIX_SIZE], int.from_bytes(tid[ids.PREFIX_SIZE:], "little"))
        spec = {"bundles": bundles, "strategy": strategy, "name": name, "namespace": rt.namespace, "detached": detached}
        if name:
            answer = rt.request(lambda n: m.CreateGroup(group, spec, n))
            if answer.error == "name_taken":
                raise ValueError(f"Failed to create placement group '{group.hex()}' because name '{name}' already "
                                 f"exists (namespace {rt.namespace}).")
            if answer.error:
                raise errors.RaySystemError(f"Failed to create placement group '{group.hex()}': {answer.detail}")
        else:
            with self.loop.lock:
                rt.send(rt.node, m.CreateGroup(group, spec, 0))
            rt.kick()
        self._remember(group, shown)
        return group

    def remove(self, group: bytes) -> None:
        with self.loop.lock:
            self.rt.send(self.rt.node, m.RemoveGroup(group, "by remove_placement_group()"))
        self.rt.kick()

    # ------------------------------------------------------------ readiness

    def ready(self, group: bytes, value: Any) -> ObjectRef:
        """A reference that gets ``value`` when the group is placed, TaskPlacementGroupRemoved when it is removed."""
        rt = self.rt
        wire = serialization.to_bytes(serialization.dumps(value))
        with self.loop.lock:
            entry = rt.refs.own(rt.ids.next(rt.context) + ids.PUT_INDEX)
            state = self.states.get(group)
            if state is not None and state.state == "CREATED":
                rt.refs.complete(entry, wire)
            else:
                wait = GroupWait(self, entry, wire, state)
                entry.task = wait
                self._waits.setdefault(group, []).append(wait)
                if state is None:
                    rt.send(rt.node, m.WatchGroup(group))
            ref: ObjectRef = ObjectRef(entry.oid, entry)
        rt.kick()
        return ref

    def on_state(self, peer: bytes, message: m.GroupState) -> None:
        """GroupState of our node (under the lock)."""
        known = self.states.get(message.group)
        if known is not None and message.version <= known.version:
            return
        self.states[message.group] = message
        waits = self._waits.get(message.group, [])
        for wait in waits:
            wait.state = message
        if message.state == "CREATED":
            for wait in self._waits.pop(message.group, ()):
                self.rt.refs.complete(wait.entry, wait.value)
        elif message.state == "REMOVED":
            del self.states[message.group]
            self._specs.pop(message.group, None)
            for wait in self._waits.pop(message.group, ()):
                self.rt.refs.complete(wait.entry, removed(message.group, message.cause.get("detail", "")))

    # ------------------------------------------------------------ rows of the control store

    def row(self, group: bytes) -> dict[str, Any] | None:
        return self._ask(lambda then: self.rt.gcs.get_group(group, then))

    def rows(self) -> list[dict[str, Any]]:
        return [row for _, row in self._ask(self.rt.gcs.list_groups)]

    def find(self, name: str, namespace: str | None = None) -> bytes | None:
        """The group of that name in this namespace."""
        space = namespace or self.rt.namespace
        return self._ask(lambda then: self.rt.gcs.lookup_group_name(space, name, then))

    def _ask(self, call: Callable[[Callable[[Any], None]], Any]) -> Any:
        return self.rt.ask_control_store("placement groups could not be read", call)

    def specs(self, group: bytes) -> list[dict[str, float]] | None:
        """The bundles of a group; None when it is not known (any more)."""
        found = self._specs.get(group)
        if found is None:
            row = self.row(group)
            if row is None:
                return None
            found = row["bundles"]
            self._remember(group, found)
        return found

    def _remember(self, group: bytes, specs: list[dict[str, float]]) -> None:
        self._specs[group] = specs
        while len(self._specs) > SPECS_KEPT_MAX:
            del self._specs[next(iter(self._specs))]

    # ------------------------------------------------------------ tasks and actors in groups

    def inherit(self, options: Any) -> Any:
        """The options of a child: in the group of the running task, if that captures and they say nothing else."""
        about = self.rt.context.assigned.get("group")
        if about is None or not about[2]:
            return options
        raw = options.raw
        if raw.get("scheduling_strategy") is not None or raw.get("placement_group", "default") != "default":
            return options
        key = id(options), about[0]
        known = self._inherited.get(key)
        if known is None or known[0] is not options:
            if len(self._inherited) >= INHERITED_KEPT_MAX:
                self._inherited.clear()
            known = self._inherited[key] = options, options.merged(scheduling_strategy=_Captured(about[0]))
        return known[1]

    def check(self, options: Any, what: str) -> None:
        """ValueError for a bundle that the group does not have, or a demand that never fits."""
        strategy = options.strategy
        if strategy.get("kind") != "group":
            return
        specs = self.specs(strategy["group"])
        if specs is None:
            return  # removed, or not created yet: the node says so
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


class _Captured:
    """The strategy of a child task that inherits its parent's group."""

    def __init__(self, group: bytes):
        self.group = group

    def to_map(self) -> dict[str, Any]:
        return {"kind": "group", "group": self.group, "bundle": -1, "capture": True}

    def __reduce__(self):
        return _Captured, (self.group,)


def removed(group: bytes, reason: str) -> list[Any]:
    """The error of what ran, or was to run, in a group that was removed."""
    return [m.FAILED, "task_pg_removed", {"placement_group": group, "reason": reason}]
